#!/usr/bin/env bash
# GRPO from the SFT model, on one GPU or several: `videothinker grpo` under `accelerate launch`.
#
#   bash scripts/run_grpo_video.sh --model runs/sft/model --data data/train/train.jsonl --videos /videos --out runs/grpo
#   ACCELERATE=ddp RECIPE=qwen2.5-vl-7b/grpo-lora-80g bash scripts/run_grpo_video.sh …
#
# ACCELERATE  single (default), ddp or zero2 (fsdp2 and zero3 are for SFT), or the path of a file of `accelerate config`
# LAUNCH      further flags of accelerate, for several machines on each of them:
#             LAUNCH='--num_machines 2 --num_processes 16 --machine_rank 0 --main_process_ip HOST --main_process_port 29500'
# RECIPE      a packaged recipe or the path of one (default: qwen2.5-vl-7b/grpo)
# Every flag of `videothinker grpo` can be given. Killed and started again, it goes on from the last finished checkpoint.
set -euo pipefail
presets="$(cd "$(dirname "${BASH_SOURCE[0]}")/../videothinker/presets" && pwd)"
config="${ACCELERATE:-single}"
[ -f "$config" ] || config="$presets/accelerate/${config%.yaml}.yaml"
[ -f "$config" ] || { echo "ACCELERATE=$ACCELERATE: no such file, and none of: $(cd "$presets/accelerate" && echo *.yaml)" >&2; exit 2; }
# shellcheck disable=SC2086
exec accelerate launch --config_file "$config" ${LAUNCH:-} -m videothinker grpo --recipe "${RECIPE:-qwen2.5-vl-7b/grpo}" "$@"
