"""What the site cannot say: pictures without words, parameters that no docstring names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .api import NAME, Symbol
from .chapters import PICTURES, Cell, Chapter


def gaps(chapters: Sequence[Chapter]) -> list[str]:
    """One line for each chapter with such pictures and each name with such parameters."""
    lines = []
    for chapter in chapters:
        pictures = sum(map(undescribed, chapter.cells))
        if pictures:
            lines.append(f"{chapter.path}: {pictures} pictures without fig-alt or fig-cap")
        for symbol in (symbol for found in chapter.symbols.values() for symbol in found):
            for name, missing in unexplained(symbol):
                lines.append(f"{chapter.path}: {name}: {', '.join(missing)}")
    return lines


def undescribed(cell: Cell) -> int:
    """How many pictures of a cell are described by the section's title alone."""
    if "hide" in cell.directives or cell.directives.keys() & {"fig-alt", "fig-cap"}:
        return 0
    kinds = (output.get("data", {}).keys() for output in cell.outputs)
    return sum("text/html" not in kind and bool(kind & PICTURES.keys()) for kind in kinds)


def unexplained(symbol: Symbol, owner: str = "") -> Iterator[tuple[str, list[str]]]:
    """The names whose docstrings neither explain nor mention some parameters, with those."""
    name = f"{owner}.{symbol.name}" if owner else symbol.name
    rows = [*symbol.sections.get("Parameters", []), *symbol.sections.get("Fields", [])]
    told = [symbol.text, *(row.meaning for rows in symbol.sections.values() for row in rows)]
    words = set(NAME.findall(" ".join(told)))
    missing = [r.name for r in rows if not r.meaning and r.name.lstrip("*") not in words]
    if missing:
        yield name, missing
    for member in symbol.members:
        yield from unexplained(member, name)
