#!/usr/bin/env bash
# The whole test suite: every notebook, then tests/. Ends with a line "N passed, M failed".
#
#   VT_TEST_TIMEOUT   seconds after which the notebooks count as hung (default 3600)
#   VT_TEST_WORKERS   notebooks run at the same time (default 2)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash scripts/setup.sh
venv="${VT_VENV:-.venv}"
export PATH="$(cd "$venv" && pwd)/bin:$PATH"
export TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

# Without a browser its tests are skipped with a reason on a desk, and fail where CI=true.
if chromium=$(bash scripts/chromium.sh); then export CHROMIUM="$chromium"; fi

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
limit=""
if command -v timeout >/dev/null; then limit="timeout ${VT_TEST_TIMEOUT:-3600}"; fi

echo "== notebooks"
nb_rc=0
$limit nbdev_test --n_workers "${VT_TEST_WORKERS:-2}" --timing --do_print > "$logs/nb" 2>&1 || nb_rc=$?
cat "$logs/nb"
[ "$nb_rc" = 124 ] && echo "the notebooks did not finish in ${VT_TEST_TIMEOUT:-3600} s"

echo "== tests"
py_rc=0
python -m pytest -q --junitxml="$logs/pytest.xml" || py_rc=$?

echo
python scripts/count_tests.py "$logs/nb" "$nb_rc" "$logs/pytest.xml" "$py_rc"
