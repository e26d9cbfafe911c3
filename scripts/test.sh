#!/usr/bin/env bash
# The test suite: every notebook, then tests/. Ends with a line "N passed, M failed".
#
#   bash scripts/test.sh           everything
#   bash scripts/test.sh --light   what an installation without torch has: reading, viewing, checking, curating, metrics
#
#   VT_TEST_TIMEOUT   seconds after which the notebooks count as hung (default 3600)
#   VT_TEST_WORKERS   notebooks, or files of tests, that run at the same time (default 2)
# VT_VENV, VT_PYTHON, VT_CONSTRAINTS, …: see scripts/setup.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

skip=""    # notebooks and folders that are left out, a regular expression
tests=()   # files of tests, none for all
case "${1:-}" in
    "") bash scripts/setup.sh ;;
    --light)
        skip='4_model|5_training|8_toy|9_commands|tutorials|index|06_rowfiles|13_video_engine|15_vllm_engine|21_evaluate'
        for name in video video_files rows row_properties validate sources engine replies synthesis viewer durable \
            reply_reading grounding trace_statistics caption_metrics statistics judge results; do
            tests+=("tests/test_$name.py")
        done
        tests+=(-k "not benchmark")
        VT_EXTRAS=test bash scripts/setup.sh --light ;;
    *) echo "test: unknown option '$1'; known: --light" >&2; exit 2 ;;
esac
venv="${VT_VENV:-.venv}"
export PATH="$(cd "$venv" && pwd)/bin:$PATH"
export TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

# Without a browser its tests are skipped with a reason on a desk, and fail where CI=true.
if [ -z "$skip" ] && chromium=$(bash scripts/chromium.sh); then export CHROMIUM="$chromium"; fi

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
limit=""
if command -v timeout >/dev/null; then limit="timeout ${VT_TEST_TIMEOUT:-3600}"; fi
leave_out=()
if [ -n "$skip" ]; then leave_out=(--skip_folder_re "^([_.]|$skip)" --skip_file_re "^([_.]|$skip)"); fi

echo "== notebooks"
nb_rc=0
$limit nbdev_test --n_workers "${VT_TEST_WORKERS:-2}" --timing --do_print ${leave_out[@]+"${leave_out[@]}"} > "$logs/nb" 2>&1 || nb_rc=$?
cat "$logs/nb"
[ "$nb_rc" = 124 ] && echo "the notebooks did not finish in ${VT_TEST_TIMEOUT:-3600} s"

echo "== tests"
py_rc=0
python -m pytest -q -n "${VT_TEST_WORKERS:-2}" --dist loadfile --durations=15 --junitxml="$logs/pytest.xml" ${tests[@]+"${tests[@]}"} || py_rc=$?

echo
python scripts/count_tests.py "$logs/nb" "$nb_rc" "$logs/pytest.xml" "$py_rc" "$skip"
