"""The figures of style: what is counted, and that ours are told as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import load_script

style = load_script("style_figures")

EXPORTED = '''#| export
def area(width, height):
    """The area of a rectangle."""
    size = width * height
    return size


class Box:
    def _hidden(self):
        return 1
'''


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with one chapter of four cells, and a guide, which is not counted."""

    def cell(source: str, kind: str = "code") -> dict[str, Any]:
        return {"cell_type": kind, "source": source.splitlines(keepends=True)}

    chapter = [
        cell("# Areas\n", "markdown"),
        cell(EXPORTED),
        cell("#| hide\nassert area(2, 3) == 6\ntest_eq(area(1, 1), 1)\n"),
        cell("area(2, 3)\n"),
    ]
    for name, cells in (("1_shapes/01_areas", chapter), ("tutorials/data", chapter[:1])):
        path = tmp_path / "nbs" / f"{name}.ipynb"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    return tmp_path


def test_cells_functions_and_assertions_are_counted(tree: Path) -> None:
    counts = style.count(style.chapters(tree))
    assert counts.cells == [4]
    assert counts.cell_lines == [7, 2, 1]  # without directives and blank lines
    assert counts.example_lines == [1]
    assert counts.function_lines == [3, 2]  # without the docstring
    assert (counts.names, counts.documented) == (2, 1)
    assert counts.assertions == 2
    assert counts.prose == len("# Areas\n")
    assert counts.code == len(EXPORTED)
    assert counts.docstrings == len("The area of a rectangle.")


def test_the_table_has_a_row_for_each_measure_and_the_anchors(tree: Path) -> None:
    ours = style.figures(style.count(style.chapters(tree)))
    assert set(ours) == set(style.MEASURES)
    lines = style.table(ours)
    assert len(lines) == 2 + len(style.MEASURES)
    assert {line.count("|") for line in lines} == {6}
    assert "| assertions per function | 1.00 | 1.6 | 0.05 | at least 1.2 |" in lines


def test_anchors_are_measured_by_what_is_measured_here() -> None:
    for name, column in style.ANCHORS.items():
        assert set(column) <= set(style.MEASURES), name


def test_every_chapter_of_ours_is_below_the_size_that_is_promised() -> None:
    """A diff that nobody can read, and a page that a phone cannot load."""
    counts = style.count(style.chapters())
    assert len(counts.cells) > 100
    assert max(counts.kilobytes) < 200
    assert max(counts.cells) < 90
