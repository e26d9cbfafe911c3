"""Check that notebooks, package and README agree. Usage: check_export.py [--git]

Cleans the notebooks, exports the package and writes the README, then names every file that this
changed (exit 1; the files stay regenerated), and every module that no notebook exports any more.
With --git it also fails on notebooks, modules or a README that differ from what is committed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WATCHED = ("nbs", "videothinker", "README.md", "pyproject.toml")
SUFFIXES = (".ipynb", ".py", ".md", ".toml")


def snapshot(root: Path = ROOT) -> dict[str, bytes]:
    """Return the bytes of every watched file, by its path below `root`."""
    files: list[Path] = []
    for name in WATCHED:
        path = root / name
        files += [path] if path.is_file() else path.rglob("*")
    return {
        f.relative_to(root).as_posix(): f.read_bytes()
        for f in files
        if f.is_file()
        and f.suffix in SUFFIXES
        and not {"__pycache__", ".ipynb_checkpoints"} & set(f.parts)
    }


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    """Return the paths whose content differs, that appeared or that went."""
    return sorted(p for p in before.keys() | after.keys() if before.get(p) != after.get(p))


def leftovers(root: Path = ROOT) -> list[str]:
    """Return the modules, in the package or a sub-package, that no notebook exports."""
    exported = {"__init__", "__main__", "_modidx"}  # the first two are written by hand
    for path in (root / "nbs").rglob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        source = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
        directives = r"^#\|\s*(?:default_exp|exports?|exporti)[ \t]+([\w.]+)"
        exported |= {name.replace(".", "/") for name in re.findall(directives, source, re.M)}
    package = root / "videothinker"
    modules = (path.relative_to(package).with_suffix("") for path in package.rglob("*.py"))
    names = sorted(m.as_posix() for m in modules if m.name != "__init__")
    return [f"videothinker/{name}.py" for name in names if name not in exported]


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
    left_over = leftovers()
    for path in left_over:
        print(f"no notebook exports this any more, delete it: {path}")
    lines = uncommitted() if "--git" in args else []
    for line in lines:
        print(f"differs from what is committed: {line}")
    return 1 if stale or left_over or lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
