"""README.md from nbs/index.ipynb, without Quarto or pandoc. Usage: python scripts/readme.py"""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent
HIDDEN = re.compile(r"^#\| *(hide|default_exp|export|exporti)\b", re.M)
DIRECTIVE = re.compile(r"^#\| *\w[\w_-]*:?.*\n", re.M)


def visible(notebook: dict) -> dict:
    """Return the notebook without its hidden cells and without the directives of the others."""
    cells = [
        c
        for c in notebook["cells"]
        if not (c["cell_type"] == "code" and HIDDEN.search("".join(c["source"])))
    ]
    kept = []
    for cell in cells:
        source = "".join(cell["source"])
        kept.append(
            {**cell, "source": DIRECTIVE.sub("", source) if cell["cell_type"] == "code" else source}
        )
    return {**notebook, "cells": kept}


def readme(notebook: dict) -> str:
    """Return the README: the notebook as Markdown, with its links made good for the top of the repository."""
    first = "".join(notebook["cells"][0]["source"])
    if not re.match(r"# .+\n+> .+", first):
        raise ValueError(
            "nbs/index.ipynb must open with a markdown cell: a heading, then a line '> subtitle'"
        )
    node = nbformat.reads(json.dumps(visible(notebook)), as_version=4)
    node.metadata["language_info"] = {
        "name": "python"
    }  # nbdev_clean removes it; the fences want it
    body, _ = MarkdownExporter().from_notebook_node(node)
    body = re.sub(r"\]\((?!https?:|#)([\w./-]+\.(?:ipynb(?:#[^)]*)?|png))\)", r"](nbs/\1)", body)
    body = re.sub(r"\]\(\.\./", "](", body)
    body = "\n".join(line.rstrip() for line in body.splitlines())
    return re.sub(r"\n{3,}", "\n\n", body).strip() + "\n"


def main() -> None:
    """Convert the notebook, and write README.md whole."""
    text = readme(json.loads((ROOT / "nbs" / "index.ipynb").read_text(encoding="utf-8")))
    new = ROOT / "README.md.new"
    new.write_text(text, encoding="utf-8")
    new.replace(ROOT / "README.md")


if __name__ == "__main__":
    main()
