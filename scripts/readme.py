"""Write README.md from nbs/index.ipynb, without Quarto or pandoc. Usage: readme.py"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent
HIDDEN = re.compile(r"^#\| *(hide|default_exp|export|exporti)\b", re.M)
DIRECTIVE = re.compile(r"^#\| *\w[\w_-]*:?.*\n", re.M)


def visible(notebook: dict) -> dict:
    """Return the notebook without its hidden cells and without the directives of the others."""
    cells = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            if HIDDEN.search(source):
                continue
            source = DIRECTIVE.sub("", source)
        cells.append({**cell, "source": source})
    return {**notebook, "cells": cells}


def relink(link: re.Match[str]) -> str:
    """Return the beginning of a link from nbs/ as it is from the top of the repository."""
    return f"]({posixpath.normpath(posixpath.join('nbs', link[1]))}"


def readme(notebook: dict) -> str:
    """Return the README: the notebook as Markdown, its links as from the top of the repository."""
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
    body = re.sub(r"\]\((?!\w+:|#)([^)\s#]+)", relink, body)
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
