"""Clean notebooks: nbdev_clean, and no widget state. Usage: clean_nbs.py [--check] [NOTEBOOK ...]

A live widget's state changes with every run and is dead in a saved notebook; the HTML beside it is
what readers see. With --check nothing is written; the exit status is 1 if a notebook is not clean.
"""

from __future__ import annotations

import sys
from pathlib import Path

from execnb.nbio import dict2nb, nb2str
from fastcore.xtras import loads
from nbdev.clean import clean_nb
from nbdev.config import get_config

ROOT = Path(__file__).resolve().parent.parent
WIDGET_TYPES = (
    "application/vnd.jupyter.widget-view+json",
    "application/vnd.jupyter.widget-state+json",
)


def strip_widgets(nb: dict) -> None:
    """Remove widget state and widget views from `nb`, in place."""
    nb["metadata"].pop("widgets", None)
    for cell in nb["cells"]:
        for output in cell.get("outputs", []):
            for kind in WIDGET_TYPES:
                output.get("data", {}).pop(kind, None)


def cleaned(text: str) -> str:
    """Return the clean form of a notebook's JSON."""
    cfg = get_config(path=ROOT)
    nb = dict2nb(loads(text))
    clean_nb(nb, clear_all=cfg.clear_all, clean_ids=cfg.clean_ids)
    strip_widgets(nb)
    return nb2str(nb)


def main(args: list[str]) -> int:
    """Clean the notebooks named, or all of nbs/, and return the exit status."""
    check = "--check" in args
    nbs = sorted((ROOT / "nbs").rglob("*.ipynb"))
    ours = [p for p in nbs if not any(part[0] in "._" for part in p.relative_to(ROOT).parts)]
    dirty = []
    for path in [Path(a) for a in args if a != "--check"] or ours:
        before = path.read_text(encoding="utf-8")
        after = cleaned(before)
        if before != after:
            dirty.append(path)
            if not check:
                path.write_text(after, encoding="utf-8")
    for path in dirty:
        print(f"{'not clean' if check else 'cleaned'}: {path}")
    return 1 if check and dirty else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
