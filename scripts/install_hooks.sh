#!/usr/bin/env bash
# Activate the notebook merge driver and the pre-commit check, for this clone only (nothing outside it changes).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
git rev-parse --git-dir >/dev/null 2>&1 || { echo "install_hooks: this folder is not a git clone" >&2; exit 1; }
git config --local include.path "$PWD/.gitconfig"
git config --local core.hooksPath .githooks
echo "installed: the nbdev merge driver for notebooks, and .githooks/pre-commit"
