#!/usr/bin/env bash
# GRPO from the SFT model, on one GPU or several: `videothinker grpo` under `accelerate launch`.
#
#   bash scripts/run_grpo_video.sh --model runs/sft/model --data data/train/train.jsonl --videos /videos --out runs/grpo
#   ACCELERATE=ddp RECIPE=qwen2.5-vl-7b/grpo-lora-80g bash scripts/run_grpo_video.sh …
#
# ACCELERATE  single (default), ddp, fsdp2, zero2 or zero3; or the path of a file that `accelerate config`
#             wrote, or of DeepSpeed's own JSON (then say how many processes: LAUNCH='--num_processes 8')
# LAUNCH      further flags of accelerate, for several machines on each of them:
#             LAUNCH='--num_machines 2 --num_processes 16 --machine_rank 0 --main_process_ip HOST --main_process_port 29500'
#             without GPUs, to try a launch: LAUNCH='--num_processes 2 --mixed_precision no' (ddp, zero2, zero3)
# RECIPE      a packaged recipe or the path of one (default: qwen2.5-vl-7b/grpo)
# Every flag of `videothinker grpo` can be given. Killed and started again, it goes on from the last finished checkpoint.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/launch.sh" grpo "$@"
