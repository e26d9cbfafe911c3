#!/usr/bin/env bash
# SFT on curated traces, on one GPU or several: `videothinker sft` under `accelerate launch`.
#
#   bash scripts/run_sft_video.sh --data data/train/train.jsonl --videos /videos --out runs/sft
#   ACCELERATE=fsdp2 RECIPE=scripts/recipes/qwen2.5-vl-7b/sft.yaml bash scripts/run_sft_video.sh …
#
# ACCELERATE  single (default), ddp, fsdp2, zero3: a file of scripts/accelerate
# LAUNCH      further flags of accelerate, for several machines on each of them:
#             LAUNCH='--num_machines 2 --num_processes 16 --machine_rank 0 --main_process_ip HOST --main_process_port 29500'
# RECIPE      default: scripts/recipes/qwen2.5-vl-7b/sft.yaml
# Every flag of `videothinker sft` can be given. Killed and started again, it goes on from the last finished checkpoint.
set -euo pipefail
scripts="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck disable=SC2086
exec accelerate launch --config_file "$scripts/accelerate/${ACCELERATE:-single}.yaml" ${LAUNCH:-} -m videothinker.commands.main sft \
    --recipe "${RECIPE:-$scripts/recipes/qwen2.5-vl-7b/sft.yaml}" "$@"
