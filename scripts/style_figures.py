"""Figures of style: how our notebooks read, beside the codebases that we look up to.

    python scripts/style_figures.py [ROOT]

A cell's lines are those that hold something, directives (`#| …`) left out. A function's are
those of its code, without its docstring. Prose and code are counted in characters; of the code,
what is exported. An assertion is an `assert` or a call of fastcore's `test_…`, in the notebooks.
Guides and the index are not counted: they export nothing.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ASSERTION = re.compile(r"\bassert\b|\btest_(?:eq|ne|fail|close|eq_type|stdout)\(")
DIRECTIVE = re.compile(r"#\| ?")
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

# Measured once on public snapshots; a blank was not measured.
ANCHORS = {
    "fastcore": {"cell": "4", "function": "5.5", "assertions": "1.6"},
    "claudette": {"prose": "about 1", "assertions": "0.05", "kilobytes": "800"},
    "what we aim at": {
        "cell": "at most 5",
        "function": "at most 12",
        "prose": "at least 0.7",
        "assertions": "at least 1.2",
        "documented": "all",
        "cells": "under about 60",
        "kilobytes": "under 200",
    },
}
MEASURES = {
    "notebooks": "notebooks",
    "cell": "lines of a code cell, median",
    "example": "lines of a cell in sight that exports nothing, median",
    "function": "lines of a function, mean",
    "prose": "prose to exported code",
    "told": "prose and docstrings to code without them",
    "assertions": "assertions per function",
    "documented": "exported names with a docstring",
    "cells": "cells of a notebook, median (largest)",
    "kilobytes": "kB of a notebook with outputs, median (largest)",
}


class Counts:
    """What is counted over notebooks."""

    def __init__(self) -> None:
        self.cells: list[int] = []  # of each notebook
        self.kilobytes: list[float] = []  # of each notebook
        self.cell_lines: list[int] = []  # of each code cell
        self.example_lines: list[int] = []  # of each that is neither exported nor hidden
        self.function_lines: list[int] = []  # of each exported function, methods among them
        self.prose = 0  # characters of Markdown
        self.code = 0  # characters of exported cells
        self.docstrings = 0  # characters of these
        self.assertions = 0
        self.names = 0  # functions, classes and methods without an underscore
        self.documented = 0


def chapters(root: Path = ROOT) -> list[Path]:
    """Return the notebooks that export a module."""
    return sorted((root / "nbs").glob("[0-9]*_*/*.ipynb"))


def own_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return a function's lines without its docstring."""
    assert function.end_lineno is not None
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        first = function.body[0]
        assert first.end_lineno is not None
        lines -= first.end_lineno - first.lineno + 1
    return lines


def definitions(body: list[ast.stmt], in_public: bool = True) -> Iterator[tuple[Definition, bool]]:
    """Yield functions, classes and their methods, and whether a reader is meant to see each."""
    for node in body:
        if isinstance(node, Definition):
            is_public = in_public and not node.name.startswith("_")
            yield node, is_public
            if isinstance(node, ast.ClassDef):
                yield from definitions(node.body, is_public)


def count_code(source: str, counts: Counts) -> None:
    """Add one code cell."""
    lines = [line for line in source.splitlines() if line.strip()]
    said = [line for line in lines if not DIRECTIVE.match(line)]
    if said:
        counts.cell_lines.append(len(said))
    counts.assertions += len(ASSERTION.findall(source))
    if said and not re.match(r"#\| ?(?:export|hide|default_exp)", source):
        counts.example_lines.append(len(said))
    if not re.match(r"#\| ?exporti?\b", source):
        return
    counts.code += len(source)
    for node, is_public in definitions(ast.parse(source).body):
        docstring = ast.get_docstring(node, clean=False)
        counts.docstrings += len(docstring or "")
        if not isinstance(node, ast.ClassDef):
            counts.function_lines.append(own_lines(node))
        if is_public:
            counts.names += 1
            counts.documented += docstring is not None


def count(paths: list[Path]) -> Counts:
    """Count over notebooks."""
    counts = Counts()
    for path in paths:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        counts.cells.append(len(cells))
        counts.kilobytes.append(path.stat().st_size / 1000)
        for cell in cells:
            source = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                counts.prose += len(source)
            else:
                count_code(source, counts)
    return counts


def figures(counts: Counts) -> dict[str, str]:
    """Return the measures as they are printed."""
    middle = statistics.median
    return {
        "notebooks": f"{len(counts.cells)}",
        "cell": f"{middle(counts.cell_lines):g}",
        "example": f"{middle(counts.example_lines):g}",
        "function": f"{statistics.mean(counts.function_lines):.1f}",
        "prose": f"{counts.prose / counts.code:.2f}",
        "told": f"{(counts.prose + counts.docstrings) / (counts.code - counts.docstrings):.2f}",
        "assertions": f"{counts.assertions / len(counts.function_lines):.2f}",
        "documented": f"{counts.documented} of {counts.names}",
        "cells": f"{middle(counts.cells):g} ({max(counts.cells)})",
        "kilobytes": f"{middle(counts.kilobytes):.0f} ({max(counts.kilobytes):.0f})",
    }


def table(ours: dict[str, str]) -> list[str]:
    """Return the lines of a Markdown table: ours, the anchors, and what we aim at."""
    columns = {"here": ours, **ANCHORS}
    rows = ["| | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for key, title in MEASURES.items():
        cells = [column.get(key, "") for column in columns.values()]
        rows.append(f"| {title} | " + " | ".join(cells) + " |")
    return rows


def main() -> None:
    """Print the table of a tree."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", nargs="?", type=Path, default=ROOT, help="of the repository")
    root = parser.parse_args().root
    if not (root / "nbs").is_dir():
        parser.error(f"{root} has no folder nbs; give the root of the repository")
    print("\n".join(table(figures(count(chapters(root))))))


if __name__ == "__main__":
    from videothinker.commands.main import reader_may_leave

    with reader_may_leave():
        main()
