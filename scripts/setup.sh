#!/usr/bin/env bash
# Make the virtual environment and install the project into it. Run again at any time: it goes on, or says it is done.
#
#   bash scripts/setup.sh             everything, for work on the project (the `dev` extra)
#   bash scripts/setup.sh --runtime   only what the commands need (the `train` extra)
#   bash scripts/setup.sh --light     without torch: reading, viewing, checking and curating data
#
#   VT_VENV         where the environment lives (default: .venv in this folder)
#   VT_PYTHON       the Python to build it with (default: python3)
#   VT_EXTRAS       further extras, such as lab,test
#   VT_CONSTRAINTS  a file of versions to keep to (default: constraints.txt, the tested ones); empty: the newest
#   VT_UV           1: install with uv instead of pip
# pip's own variables hold as usual: PIP_EXTRA_INDEX_URL may name an index with CPU-only torch wheels, which are
# much smaller than the default ones on Linux.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

mode=dev
extras="dev${VT_EXTRAS:+,$VT_EXTRAS}"
for arg in "$@"; do
    case "$arg" in
        --runtime) mode=runtime extras="train${VT_EXTRAS:+,$VT_EXTRAS}" ;;
        --light) mode=light extras="${VT_EXTRAS:-}" ;;
        -h|--help) sed -n '2,15s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
        *) echo "setup: unknown option '$arg'; known: --runtime, --light" >&2; exit 2 ;;
    esac
done

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

python="${VT_PYTHON:-python3}"
venv="${VT_VENV:-.venv}"
constraints="${VT_CONSTRAINTS-constraints.txt}"
[ -z "$constraints" ] || [ -f "$constraints" ] || { echo "setup: VT_CONSTRAINTS=$constraints: no such file" >&2; exit 1; }
need=$(sed -n 's/^min_python *= *//p' settings.ini)

command -v "$python" >/dev/null || die "'$python' was not found. Install Python $need or newer, or name one: VT_PYTHON=/path/to/python bash scripts/setup.sh"
have=$("$python" -c 'import sys; print("%d.%d.%d" % tuple(sys.version_info[:3]))') || die "'$python' does not run."
newer() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -t. -k1,1n -k2,2n -k3,3n | head -n1)" = "$1" ]; }  # is $2 at least $1?
newer "$need.0" "$have" || die "Python $need or newer is needed, but '$python' is $have. Install a newer one, or name it: VT_PYTHON=python$need bash scripts/setup.sh"

# The stamp says what was installed and for whom; it is written last, so an interrupted run leaves none.
fingerprint=$("$python" - "$PWD" "$have" "$constraints" "${VT_EXTRAS:-}" <<'PY'
import hashlib, sys
from pathlib import Path
files = ["settings.ini", "setup.py", *filter(None, sys.argv[3:4])]
parts = [p.encode() for p in sys.argv[1:]] + [Path(f).read_bytes() for f in files]
print(hashlib.sha256(b"\0".join(parts)).hexdigest())
PY
)
stamped() { [ -x "$venv/bin/python" ] && [ "$(cat "$venv/.vt-$1" 2>/dev/null || true)" = "$fingerprint" ]; }
case "$mode" in dev) enough=dev ;; runtime) enough="dev runtime" ;; light) enough="dev runtime light" ;; esac
for done in $enough; do
    stamped "$done" || continue
    say "$venv is up to date ($mode)"
    exit 0
done

# A run that was killed while pip wrote files may have left half a package: begin again rather than guess.
fresh=""
if [ -e "$venv/.vt-installing" ]; then
    say "the last set-up was interrupted; starting $venv afresh"
    fresh="--clear"
elif [ -d "$venv" ] && ! { [ -x "$venv/bin/python" ] && "$venv/bin/python" -m pip --version >/dev/null 2>&1; }; then
    if [ ! -e "$venv/pyvenv.cfg" ] && [ "$venv" != .venv ] && [ -n "$(ls -A "$venv")" ]; then
        die "$venv is not empty and not a virtual environment. Remove it, or choose another place with VT_VENV."
    fi
    fresh="--clear"
fi
if [ -n "$fresh" ] || [ ! -d "$venv" ]; then
    say "making $venv with Python $have"
    "$python" -m venv $fresh "$venv" || die "'$python -m venv' failed. On Debian and Ubuntu: apt-get install python3-venv"
fi

# Megabytes that the environment takes at most (with CUDA wheels), and those that are free where it goes.
case "$mode" in dev) takes=7500 ;; runtime) takes=6500 ;; light) takes=500 ;; esac
free() { df -Pm "$venv" 2>/dev/null | awk 'NR == 2 {print $4}'; }
if [ "$(free)" -lt "$takes" ] 2>/dev/null; then
    say "only $(free) MB are free where $venv lies, and up to $takes MB are needed (less with CPU wheels of torch); another place: VT_VENV"
fi

quiet=""
[ -t 1 ] || quiet="--quiet"
installer=("$venv/bin/python" -m pip install --disable-pip-version-check)
# Python compiles what it imports, and keeps it; pip would compile all that it installs, most of it for nobody.
[ -n "${PYTHONDONTWRITEBYTECODE:-}" ] || installer+=(--no-compile)
if [ "${VT_UV:-0}" = 1 ]; then
    command -v uv >/dev/null || die "VT_UV=1, but uv was not found: pip install uv"
    installer=(uv pip install --python "$venv/bin/python")
fi
pip_install() {
    local rc=0
    "${installer[@]}" $quiet ${constraints:+-c "$constraints"} "$@" || rc=$?
    [ "$rc" = 0 ] && return
    # an installer that fails by itself leaves a sound environment; one that a signal ended may not
    [ "$rc" -ge 128 ] || rm -f "$venv/.vt-installing"
    if [ "$(free)" -lt 500 ] 2>/dev/null; then
        die "the disk is full ($(free) MB left of the up to $takes that $venv takes). Make room, or choose another place with VT_VENV, and run this command again."
    fi
    die "the installation failed; the message above says why. Run this command again to go on."
}
: > "$venv/.vt-installing"
if [ "$mode" != light ]; then
    say "installing torch and torchvision (the long part)"
    pip_install torch torchvision
fi
say "installing videothinker${extras:+[$extras]} and what it needs"
pip_install -e ".${extras:+[$extras]}"

rm -f "$venv/.vt-installing" "$venv"/.vt-light "$venv"/.vt-runtime "$venv"/.vt-dev
printf '%s\n' "$fingerprint" > "$venv/.vt-new"
mv "$venv/.vt-new" "$venv/.vt-$mode"
say "done: source $venv/bin/activate"
