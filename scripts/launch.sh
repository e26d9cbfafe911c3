#!/usr/bin/env bash
# What run_sft_video.sh and run_grpo_video.sh share: `videothinker STAGE` under `accelerate launch`.
#
#   bash scripts/launch.sh STAGE FLAGS…      (ACCELERATE, LAUNCH, RECIPE: see the two scripts)
set -euo pipefail
stage="$1"
shift
presets="$(cd "$(dirname "${BASH_SOURCE[0]}")/../videothinker/presets" && pwd)"
config="${ACCELERATE:-single}"
[ -f "$config" ] || config="$presets/accelerate/${config%.yaml}.yaml"
[ -f "$config" ] || { echo "ACCELERATE=$ACCELERATE: no such file, and none of: $(cd "$presets/accelerate" && echo *.yaml)" >&2; exit 2; }
how=(--config_file "$config")
if grep -q '"zero_optimization"' "$config"; then  # DeepSpeed's own configuration
    how=(--config_file "$presets/accelerate/single.yaml" --use_deepspeed --deepspeed_config_file "$config")
    how+=(--deepspeed_multinode_launcher standard --mixed_precision no)  # its `bf16` decides
fi
# shellcheck disable=SC2086
exec accelerate launch "${how[@]}" ${LAUNCH:-} -m videothinker "$stage" --recipe "${RECIPE:-qwen2.5-vl-7b/$stage}" "$@"
