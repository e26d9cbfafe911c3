#!/usr/bin/env bash
# From a fresh clone to a trained model and its report: set up, then run the demo. Options go to the demo.
#
#   bash scripts/quickstart.sh            the whole path
#   bash scripts/quickstart.sh --quick    the same path, shortened, in runs/demo-quick
#
# Run again after an interruption: it goes on where it stopped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh --runtime
out=runs/demo
case " $* " in *" --quick "*) out=runs/demo-quick ;; esac
exec "${VT_VENV:-.venv}/bin/videothinker" demo --out "$out" "$@"
