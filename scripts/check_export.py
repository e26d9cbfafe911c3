"""Do notebooks, package and README agree? Usage: check_export.py [--git]

Cleans the notebooks, exports the package and writes the README, then names every file that this changed (exit 1; the
files stay regenerated). With --git it also fails on notebooks, modules or a README that differ from what is committed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WATCHED = ("nbs", "videothinker", "README.md", "pyproject.toml")
SUFFIXES = (".ipynb", ".py", ".md", ".toml")


def snapshot(root: Path = ROOT) -> dict[str, bytes]:
    """Return the bytes of every watched file, by its path below `root`."""
    files = [
        f
        for name in WATCHED
        for f in ([root / name] if (root / name).is_file() else (root / name).rglob("*"))
    ]
    kept = (
        f for f in files if f.is_file() and f.suffix in SUFFIXES and "__pycache__" not in f.parts
    )
    return {
        f.relative_to(root).as_posix(): f.read_bytes()
        for f in kept
        if ".ipynb_checkpoints" not in f.parts
    }


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    """Return the paths whose content differs, that appeared or that went."""
    return sorted(p for p in before.keys() | after.keys() if before.get(p) != after.get(p))


def regenerate() -> None:
    """Clean, export and write the README, in this order: the export quotes the ids of the cells."""
    here = Path(sys.executable).parent
    for command in (
        [sys.executable, "scripts/clean_nbs.py"],
        [str(here / "nbdev_export")],
        [sys.executable, "scripts/readme.py"],
    ):
        subprocess.run(command, cwd=ROOT, check=True)


def uncommitted() -> list[str]:
    """Return what git has to say about the watched files: changed, or not tracked."""
    out = subprocess.run(
        ["git", "status", "--porcelain", "--", *WATCHED],
        cwd=ROOT,
        check=True,
        text=True,
        capture_output=True,
    ).stdout
    return out.splitlines()


def main(args: list[str]) -> int:
    """Regenerate, report, and return the exit status."""
    before = snapshot()
    regenerate()
    stale = changed(before, snapshot())
    for path in stale:
        print(f"was out of date, now regenerated: {path}")
    lines = uncommitted() if "--git" in args else []
    for line in lines:
        print(f"differs from what is committed: {line}")
    return 1 if stale or lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
