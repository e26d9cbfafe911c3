"""Chapters of the book: a notebook's cells, with their saved outputs, as the body of a page."""

from __future__ import annotations

import ast
import base64
import hashlib
import html
import json
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from . import api
from .markup import Markdown, Outline, code_block, output_block, plain

DIRECTIVE = re.compile(r"^#\| *([\w-]+):? *(.*)$")
TITLE = re.compile(r"\s*# (.+)\n*((?:> .+\n?)*)")
PICTURES = {"image/png": "png", "image/jpeg": "jpg", "image/svg+xml": "svg"}
CHECKS = re.compile(r"^(test_\w+|pytest\.raises|raises)$")
ROOMS = {"toy": "Toy world", "tutorials": "Guides", "": "Start"}  # others: their own name


def page_path(path: Path) -> Path:
    """A path without its numbers: `core/schema.ipynb` for `0_core/05_schema.ipynb`."""
    folders = (re.sub(r"^\d+_", "", part) for part in path.parent.parts)
    return Path(*folders) / re.sub(r"^\d+[a-zA-Z0-9]*_", "", path.name.lower())


@dataclass(frozen=True)
class Cell:
    """A cell: its directives (`#| hide`) apart from its source."""

    kind: str
    source: str
    directives: Mapping[str, str]
    outputs: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def read(cls, cell: Mapping[str, Any]) -> Cell:
        """A cell of a notebook file."""
        lines = "".join(cell["source"]).splitlines()
        directives = {}
        if cell["cell_type"] == "code":
            while lines and (found := DIRECTIVE.match(lines[0])):
                directives[found[1]] = found[2]
                lines.pop(0)
        source = "\n".join(lines).strip("\n")
        return cls(cell["cell_type"], source, directives, cell.get("outputs", ()))

    @cached_property
    def body(self) -> list[ast.stmt]:
        """The statements; lines for IPython (`%`, `!`) are left out."""
        lines = (line for line in self.source.splitlines() if line[:1] not in ("%", "!"))
        return ast.parse("\n".join(lines)).body

    @property
    def only_imports(self) -> bool:
        """Are there imports and nothing else?"""
        return all(isinstance(node, ast.Import | ast.ImportFrom) for node in self.body)

    @property
    def only_checks(self) -> bool:
        """Are these assertions, with what they need, in place of an example?"""
        if self.outputs or not self.body:
            return False
        lengths = [(node.end_lineno or node.lineno) - node.lineno + 1 for node in self.body]
        checks = [n for n, node in zip(lengths, self.body, strict=True) if is_check(node)]
        return sum(checks) > 3 and sum(checks) > 0.6 * sum(lengths)


def is_check(node: ast.stmt) -> bool:
    """Is a statement an assertion, a call like `test_eq(…)`, or a block of them?"""
    if isinstance(node, ast.Assert):
        return True
    if isinstance(node, ast.With):
        heads = (item.context_expr for item in node.items)
        return any(CHECKS.match(_called(head)) for head in heads) or all(map(is_check, node.body))
    if isinstance(node, ast.For):
        return all(map(is_check, node.body))
    return isinstance(node, ast.Expr) and bool(CHECKS.match(_called(node.value)))


def _called(node: ast.expr) -> str:
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


@dataclass
class Chapter:
    """A notebook, as a reader sees it.

    Attributes
    ----------
    path : of the notebook, below nbs/, numbers included.
    number : "5.16" in the rooms, "" elsewhere.
    title, subtitle : from its first Markdown cell, as Markdown.
    module : what it exports to ("training.grpo"), or "".
    """

    path: Path
    number: str
    title: str
    subtitle: str
    module: str
    cells: list[Cell] = field(repr=False, default_factory=list)

    @classmethod
    def read(cls, nbs: Path, path: Path) -> Chapter:
        """A notebook below `nbs`."""
        cells = json.loads((nbs / path).read_text(encoding="utf-8"))["cells"]
        cells = [Cell.read(cell) for cell in cells if cell["cell_type"] in ("code", "markdown")]
        number = re.match(r"(\d+)_\w+/0*(\d+)", path.as_posix())
        title, subtitle = path.stem, ""
        for index, cell in enumerate(cells):
            if cell.kind == "markdown" and (found := TITLE.match(cell.source)):
                title = found[1].strip()
                subtitle = re.sub(r"^> ", "", found[2], flags=re.M).strip().replace("\n", " ")
                cells[index] = Cell("markdown", cell.source[found.end() :], {})
                break
        module = next(
            (c.directives["default_exp"] for c in cells if "default_exp" in c.directives), ""
        )
        return cls(
            path, ".".join(number.groups()) if number else "", title, subtitle, module, cells
        )

    @cached_property
    def page(self) -> str:
        """The address of its page on the site."""
        return page_path(self.path).with_suffix(".html").as_posix()

    @property
    def room(self) -> str:
        """The part that it belongs to: `training`."""
        return page_path(self.path).parent.as_posix().removeprefix(".")

    @property
    def name(self) -> str:
        """Number and title, in plain words."""
        return f"{self.number} {plain(self.title)}".strip()

    @cached_property
    def symbols(self) -> dict[int, list[api.Symbol]]:
        """What each cell of exported code defines for users, by the cell's place."""
        return {
            index: api.exported(cell.source)
            for index, cell in enumerate(self.cells)
            if cell.directives.keys() & {"export", "exports"}
        }

    @cached_property
    def names(self) -> list[str]:
        """The exported names, and the methods of the classes among them."""
        symbols = [symbol for found in self.symbols.values() for symbol in found]
        members = [f"{s.name}.{m.name}" for s in symbols for m in s.members]
        return [symbol.name for symbol in symbols] + members

    @cached_property
    def imports(self) -> dict[str, str]:
        """Where imported names come from: `{"GRPOConfig": "trl.GRPOConfig"}`."""
        found = {}
        for cell in self.cells:
            if cell.kind != "code":
                continue
            for node in cell.body:
                if isinstance(node, ast.ImportFrom) and node.module:
                    for name in node.names:
                        found[name.asname or name.name] = f"{node.module}.{name.name}"
        return found


@dataclass
class Drawing:
    """Draws one chapter.

    Parameters
    ----------
    chapter, markdown, reference : the chapter; what draws its prose and its exported names.
    media : folder into which pictures are written; `media_link` is its address from the page.
    """

    chapter: Chapter
    markdown: Markdown
    reference: api.Reference
    media: Path
    media_link: str
    outline: Outline = field(default_factory=Outline)

    def draw(self) -> str:
        """All cells; neighbours that are folded for the same reason share a fold."""
        parts: list[str] = []
        folded: list[tuple[str, str]] = []  # reason, content
        for index, cell in enumerate(self.chapter.cells):
            shown, folds = self._cell(index, cell)
            if shown:
                parts += [*fold(folded), shown]
                folded = []
            folded += folds
        return "".join([*parts, *fold(folded)])

    def _cell(self, index: int, cell: Cell) -> tuple[str, list[tuple[str, str]]]:
        """A cell's part of the page, and what of it is folded."""
        if not cell.source.strip():
            return "", []
        if cell.kind == "markdown":
            return self.markdown.html(cell.source, self.outline), []
        code = code_block(cell.source)
        if cell.directives.keys() & {"export", "exports", "exporti"}:
            return self._exported(index, cell, code)
        if "hide" in cell.directives:
            return "", [(hidden_reason(cell), code)]
        shown = self._outputs(cell)
        if cell.only_imports and not shown:
            return "", [("Imports", code)]
        if cell.only_checks:
            return "", [("Checks", code)]
        if cell.directives.get("echo", "") == "false":
            return shown, []
        if cell.directives.get("code-fold", "") == "true":
            return "".join(fold([("Code", code)])) + shown, []
        return f'<div class="cell">\n{code}{shown}</div>\n', []

    def _exported(self, index: int, cell: Cell, code: str) -> tuple[str, list[tuple[str, str]]]:
        """The entries of exported names; their source is folded."""
        if cell.only_imports:
            return "", [("Imports", code)]
        symbols = self.chapter.symbols.get(index, [])
        entries = [self.reference.html(symbol, self.outline) for symbol in symbols]
        if all(symbol.kind == "constant" for symbol in symbols) and symbols:
            lines = cell.source.count("\n")
            whole = len(symbols) == len(cell.body)
            return "".join(entries), [] if whole or lines < 2 else [("Source", code)]
        return "".join(entries), [("Source" if symbols else "Source of private helpers", code)]

    def _outputs(self, cell: Cell) -> str:
        """The saved outputs, each in its richest form that needs no kernel."""
        parts = [self._output(output, cell) for output in cell.outputs]
        return "".join(f'<div class="result">\n{part}</div>\n' for part in parts if part)

    def _output(self, output: Mapping[str, Any], cell: Cell) -> str:
        if output["output_type"] == "stream":
            return output_block("".join(output["text"]))
        if output["output_type"] == "error":
            return output_block("\n".join(output["traceback"][-1:]))
        data = {name: _text(value) for name, value in output.get("data", {}).items()}
        if "text/html" in data:
            return f'<div class="widget">{data["text/html"]}</div>\n'
        if "text/markdown" in data:
            return self.markdown.html(data["text/markdown"], self.outline)
        for kind, ending in PICTURES.items():
            if kind in data:
                return self._picture(data[kind], ending, cell)
        return output_block(data.get("text/plain", ""))

    def _picture(self, data: str, ending: str, cell: Cell) -> str:
        """A picture as a file, described by `#| fig-alt:`, `#| fig-cap:` or the section."""
        content = data.encode() if ending == "svg" else base64.b64decode(data)
        name = f"{hashlib.sha256(content).hexdigest()[:16]}.{ending}"
        (self.media / name).write_bytes(content)
        caption = unquoted(cell.directives.get("fig-cap", ""))
        alt = unquoted(cell.directives.get("fig-alt", "")) or plain(caption)
        if not alt:
            titles = [h.text for h in self.outline.headings if not h.code]
            alt = f"Picture: {[plain(self.chapter.title), *titles][-1]}"
        source = html.escape(posixpath.join(self.media_link, name))
        picture = f'<img src="{source}" alt="{html.escape(alt)}"{_size(content, ending)}>'
        if not caption:
            return picture + "\n"
        words = self.markdown.inline(caption)
        return f"<figure>{picture}<figcaption>{words}</figcaption></figure>\n"


def _text(value: str | list[str]) -> str:
    return value if isinstance(value, str) else "".join(value)


def _size(content: bytes, ending: str) -> str:
    """Width and height of a PNG, so that the page does not jump when it arrives."""
    if ending != "png":
        return ""
    width, height = (int.from_bytes(content[k : k + 4], "big") for k in (16, 20))
    return f' width="{width}" height="{height}"'


def unquoted(text: str) -> str:
    """A directive's value without the quotes around it."""
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    return text[1:-1] if quoted else text


def hidden_reason(cell: Cell) -> str:
    """Why a cell is folded: what a reader finds inside."""
    if cell.only_imports:
        return "Imports"
    asserts = any(
        is_check(node) for node in ast.walk(ast.Module(cell.body, [])) if isinstance(node, ast.stmt)
    )
    return "Checks" if asserts else "Set-up"


def fold(folded: Sequence[tuple[str, str]]) -> list[str]:
    """Closed folds, one for neighbours of the same kind."""
    merged: list[tuple[str, str]] = []
    for reason, content in folded:
        if merged and merged[-1][0] == reason:
            merged[-1] = (reason, merged[-1][1] + content)
        else:
            merged.append((reason, content))
    return [
        f'<details class="fold {reason.split()[0].lower()}"><summary>{reason}</summary>\n'
        f"{content}</details>\n"
        for reason, content in merged
    ]
