#!/usr/bin/env bash
# From a fresh clone to a trained model and its report: set up, then run the demo. Options go to the demo.
#
#   bash scripts/quickstart.sh            the whole path
#   bash scripts/quickstart.sh --quick    the same path, shortened, in runs/demo-quick
#   bash scripts/quickstart.sh --family qwen3-vl    with the tiny Qwen3-VL, in runs/demo-qwen3-vl
#   further options: --out FOLDER, --seed NUMBER, --debug
#
# Run again after an interruption: it goes on where it stopped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
for option in "$@"; do
    case $option in
        -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' scripts/quickstart.sh && exit ;;
        --quick | --debug | --out | --out=* | --seed | --seed=* | --family | --family=* | -[0-9]* | [!-]*) ;;
        *) echo "unknown option $option; see --help" >&2 && exit 2 ;;
    esac
done
bash scripts/setup.sh --runtime
out=runs/demo
case " $* " in *" --quick "*) out=runs/demo-quick ;; esac
case " $* " in *qwen3-vl*) out=$out-qwen3-vl ;; esac
exec "${VT_VENV:-.venv}/bin/videothinker" demo --out "$out" "$@"
