#!/usr/bin/env bash
# GRPO from the SFT model, on one GPU or several: `videothinker grpo` under `accelerate launch`.
#
#   bash scripts/run_grpo_video.sh --model runs/sft/model --data data/train/train.jsonl --videos /videos --out runs/grpo
#   ACCELERATE=ddp RECIPE=scripts/recipes/qwen2.5-vl-7b/grpo.yaml bash scripts/run_grpo_video.sh …
#
# ACCELERATE  single (default), ddp or zero2: a file of scripts/accelerate (fsdp2 and zero3 are for SFT)
# LAUNCH      further flags of accelerate, for several machines on each of them:
#             LAUNCH='--num_machines 2 --num_processes 16 --machine_rank 0 --main_process_ip HOST --main_process_port 29500'
# RECIPE      default: scripts/recipes/qwen2.5-vl-7b/grpo.yaml
# Every flag of `videothinker grpo` can be given. Killed and started again, it goes on from the last finished checkpoint.
set -euo pipefail
scripts="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck disable=SC2086
exec accelerate launch --config_file "$scripts/accelerate/${ACCELERATE:-single}.yaml" ${LAUNCH:-} -m videothinker.commands.main grpo \
    --recipe "${RECIPE:-$scripts/recipes/qwen2.5-vl-7b/grpo.yaml}" "$@"
