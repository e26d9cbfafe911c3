#!/usr/bin/env bash
# Write constraints.txt, the set of versions that is tested: newest releases, except for those named below. Needs uv.
#
# One file serves Python 3.11 to 3.14 on every platform: a package that has no release for all of them is in it twice, with
# markers. Run it, then the whole test suite, and commit the result as one change.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
command -v uv >/dev/null || { echo "lock: uv was not found: pip install uv" >&2; exit 1; }
tested=$(mktemp)
made=$(mktemp)
trap 'rm -f "$tested" "$made"' EXIT
cat > "$tested" <<'PINS'
torch==2.14.1
torchvision==0.29.1
transformers==5.23.0
PINS
uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header \
    pyproject.toml --extra dev --constraint "$tested" --output-file "$made"
{
    echo "# The versions that are tested, for every Python and platform; scripts/setup.sh installs them. Made by scripts/lock.sh."
    cat "$made"
} > constraints.txt
