"""Write README.md from nbs/index.ipynb, without Quarto or pandoc. Usage: readme.py [summary.json]

With the summary of a demo run its figures go into the notebook's two tables first: greedy answers
with the controls, and sampled ones with where they looked.
"""

from __future__ import annotations

import json
import posixpath
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent
HIDDEN = re.compile(r"^#\| *(hide|default_exp|export|exporti)\b", re.M)
GREEDY = ("model", "accuracy", "format", "mIoU", "no video", "other video", "chance")
LOOKING = {  # column of the second table → key of `looking`
    "needed segments found": "recall",
    "checks": "checked",
    "right if it checks": "right_checked",
    "if not": "right_direct",
}
SAMPLED = ("model", "sampled accuracy", "pass@k", "maj@k", *LOOKING)
STAGES = {"base": "base", "sft": "after SFT", "grpo": "after GRPO"}
SPLITS = {"id": "in domain", "ood": "out of domain"}
BADGES = " ".join(  # on the README alone: the site asks no other host for anything
    f"[![{text}](https://{picture})](https://{link})"
    for text, picture, link in (
        (
            "tests",
            "github.com/videothinker/videothinker/actions/workflows/test.yaml/badge.svg",
            "github.com/videothinker/videothinker/actions/workflows/test.yaml",
        ),
        (
            "Python 3.11 to 3.13",
            "img.shields.io/badge/python-3.11_|_3.12_|_3.13-blue",
            "github.com/videothinker/videothinker/blob/main/pyproject.toml",
        ),
        (
            "Apache 2.0",
            "img.shields.io/badge/license-Apache_2.0-blue",
            "github.com/videothinker/videothinker/blob/main/LICENSE",
        ),
        ("arXiv", "img.shields.io/badge/arXiv-2510.23473-b31b1b", "arxiv.org/abs/2510.23473"),
    )
)
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
    """Return the README: the notebook as Markdown, its links as from the top of the repository.

    Badges follow the heading.
    """
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
    heading, _, rest = re.sub(r"\n{3,}", "\n\n", body).strip().partition("\n")
    return f"{heading}\n\n{BADGES}\n{rest}\n"


def percent(scores: dict[str, Any], key: str) -> str:
    """A fraction in per cent; "–" where there is none."""
    return "–" if scores.get(key) is None else f"{100 * scores[key]:.1f}"


def with_interval(scores: dict[str, Any]) -> str:
    """An accuracy with its interval."""
    low, high = percent(scores, "ci_low"), percent(scores, "ci_high")
    return f"{percent(scores, 'accuracy')} [{low}, {high}]"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [" | ".join(row) for row in (head, *rows)]
    return "\n".join(
        [f"| {lines[0]} |", "|---" * len(head) + "|", *(f"| {x} |" for x in lines[1:])]
    )


def result_tables(summary: dict[str, Any]) -> tuple[str, str]:
    """The tables of a demo run: greedy answers, and sampled ones."""
    greedy: list[list[str]] = []
    drawn: list[list[str]] = []
    for stage, name in STAGES.items():
        for split, clips in SPLITS.items():
            scores = summary["stages"][stage][split]
            controls, sampled = scores["controls"], scores["sampled"]
            row = [f"{name}, {clips}", with_interval(scores)]
            row += [percent(scores, "format_rate"), percent(scores, "miou")]
            row += [with_interval(controls[c]) for c in ("no_video", "other_video")]
            greedy.append([*row, percent(controls, "chance")])
            n = sampled["n_samples"]
            row = [f"{name}, {clips}", with_interval(sampled)]
            row += [percent(sampled, f"{score}@{n}") for score in ("pass", "maj")]
            drawn.append([*row, *(percent(sampled["looking"], key) for key in LOOKING.values())])
    heads = (GREEDY, [word.replace("@k", f"@{n}") for word in SAMPLED])
    return table(heads[0], greedy), table(heads[1], drawn)


def with_results(text: str, summary: dict[str, Any]) -> str:
    """A text with the tables of a run in place of those it has; the second follows the first."""
    greedy, sampled = result_tables(summary)
    begin = {
        name: rf"^\| model \| {name} \|.*\n(?:\|.*(?:\n|\Z))*"
        for name in ("accuracy", "sampled accuracy")
    }
    if not re.search(begin["accuracy"], text, re.M):
        raise ValueError("there is no table '| model | accuracy | …' to put the figures in")
    text = re.sub(begin["sampled accuracy"] + r"\n?", "", text, flags=re.M)
    return re.sub(begin["accuracy"], lambda _: f"{greedy}\n\n{sampled}\n", text, flags=re.M)


def fill_in(notebook: dict, summary: dict[str, Any]) -> None:
    """Put the figures of a run into the tables of the notebook."""
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if "| model | accuracy |" in text:
            cell["source"] = with_results(text, summary).splitlines(keepends=True)


def main() -> None:
    """Convert the notebook, and write README.md whole."""
    index = ROOT / "nbs" / "index.ipynb"
    notebook = json.loads(index.read_text(encoding="utf-8"))
    if sys.argv[1:]:
        try:
            summary = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            sys.exit(f"{sys.argv[1]} is no summary.json of a demo run: {error}")
        fill_in(notebook, summary)
        text = json.dumps(notebook, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
        index.write_text(text, encoding="utf-8")
    text = readme(notebook)
    new = ROOT / "README.md.new"
    new.write_text(text, encoding="utf-8")
    new.replace(ROOT / "README.md")


if __name__ == "__main__":
    main()
