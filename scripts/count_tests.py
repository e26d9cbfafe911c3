"""Count what ran in the notebooks and in pytest.

    count_tests.py NB_LOG NB_RC PYTEST_XML PYTEST_RC [SKIP]

nbdev_test prints no totals, so its log is read; a notebook that was expected and left no line
counts as failed. SKIP is a regular expression for the folders and notebooks that were left out.
"""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def expected_notebooks(skip: str = "", root: Path = ROOT) -> set[str]:
    """Return the notebooks nbdev_test has to run, as paths below `root/nbs`.

    A folder or notebook whose name matches `skip` (from its beginning) is left out.
    """
    pattern = re.compile(rf"[._]|(?:{skip})" if skip else "[._]")
    found = {p.relative_to(root / "nbs") for p in (root / "nbs").rglob("*.ipynb")}
    return {p.as_posix() for p in found if not any(map(pattern.match, p.parts))}


def notebook_results(log: str, expected: set[str]) -> tuple[set[str], set[str]]:
    """Return the notebooks that passed and those that failed or never finished."""
    lines = log.splitlines()
    done = {
        name
        for name in expected
        for line in lines
        if line.startswith("- Completed") and line.endswith("/" + name)
    }
    fences = [i for i, line in enumerate(lines) if line and set(line) == {"="}]
    named = {line.strip() for line in lines[fences[-1] + 1 :]} if fences else set()
    failed = (expected - done) | {name for name in expected if Path(name).name in named}
    return expected - failed, failed


def pytest_results(path: Path) -> tuple[int, int, int]:
    """Return how many tests passed, failed (errors included) and were skipped."""
    if not path.exists():
        return 0, 1, 0
    suites = ET.parse(path).getroot().iter("testsuite")
    n = {k: 0 for k in ("tests", "failures", "errors", "skipped")}
    for suite in suites:
        for key in n:
            n[key] += int(suite.get(key, 0))
    failed = n["failures"] + n["errors"]
    return n["tests"] - failed - n["skipped"], failed, n["skipped"]


def main(nb_log: str, nb_rc: str, xml: str, py_rc: str, skip: str = "") -> int:
    """Print the totals and return the exit status."""
    good, bad = notebook_results(Path(nb_log).read_text(), expected_notebooks(skip))
    passed, failed, skipped = pytest_results(Path(xml))
    if nb_rc != "0" and not bad:
        bad = {"nbdev_test"}
    if py_rc != "0" and not failed:
        failed = 1
    print(
        f"notebooks: {len(good)} passed, {len(bad)} failed"
        + "".join(f"\n  FAILED {name}" for name in sorted(bad))
    )
    print(f"tests: {passed} passed, {failed} failed, {skipped} skipped")
    print(f"{len(good) + passed} passed, {len(bad) + failed} failed")
    return 1 if bad or failed or not good or not passed else 0


if __name__ == "__main__":
    from videothinker.commands.main import reader_may_leave

    with reader_may_leave():
        sys.exit(main(*sys.argv[1:]))
