#!/usr/bin/env bash
# GRPO from the SFT model, on one GPU or several: `videothinker grpo` under `accelerate launch`.
#
#   bash scripts/run_grpo_video.sh --model runs/sft/model --data data/train/train.jsonl --videos /videos --out runs/grpo
#   ACCELERATE=ddp RECIPE=scripts/recipes/qwen2.5-vl-7b/grpo.yaml bash scripts/run_grpo_video.sh …
#
# ACCELERATE  single (default) or ddp: a file of scripts/accelerate (fsdp2 and zero3 are for SFT)
# RECIPE      default: scripts/recipes/qwen2.5-vl-7b/grpo.yaml
# Every flag of `videothinker grpo` can be given. Killed and started again, it goes on from the last finished checkpoint.
set -euo pipefail
scripts="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
exec accelerate launch --config_file "$scripts/accelerate/${ACCELERATE:-single}.yaml" -m videothinker.cli grpo \
    --recipe "${RECIPE:-$scripts/recipes/qwen2.5-vl-7b/grpo.yaml}" "$@"
