"""What a page says about exported code, read from its source: nothing is imported or run.

A class shows its own fields and methods. Those that it inherits stand where they are defined.
"""

from __future__ import annotations

import ast
import html
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from .markup import Heading, Markdown, Outline, anchor_link, code_block, parameter_table

SECTION = re.compile(r"^(\w[\w ]*)\n-{3,}\n", re.M)
ENTRY = re.compile(r"^(\*{0,2}\w[\w.*, ]*?) : (.*)", re.S)
NAME = re.compile(r"\b[A-Za-z_]\w*\b")
PLAIN_BASES = {"object", "NamedTuple", "Protocol", "TypedDict", "ABC", "Enum", "StrEnum", "IntEnum"}
MANUALS = {  # of libraries whose classes ours extend
    "trl": "https://huggingface.co/docs/trl",
    "transformers": "https://huggingface.co/docs/transformers",
    "torch": "https://docs.pytorch.org/docs/stable",
    "anywidget": "https://anywidget.dev",
    "argparse": "https://docs.python.org/3/library/argparse.html",
}


@dataclass(frozen=True)
class Row:
    """One parameter, field, result or error: what the tables have in a line."""

    name: str
    type: str = ""
    default: str = ""
    meaning: str = ""


@dataclass(frozen=True)
class Symbol:
    """An exported function, class or constant, or a method of a class."""

    name: str
    kind: str
    signature: str
    text: str = ""  # of the docstring, before its sections
    sections: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    bases: Sequence[str] = ()
    members: Sequence[Symbol] = ()


def docstring_parts(docstring: str) -> tuple[str, dict[str, list[Row]]]:
    """A numpydoc docstring as its text and its sections, one row for each entry.

    `a, b : meaning` is one row; a section of free text is a row without a name.
    """
    text, *parts = SECTION.split(inspect.cleandoc(docstring))
    sections = {}
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        rows = []
        for entry in re.split(r"\n(?=\S)", body.strip()):
            found = ENTRY.match(entry)
            meaning = re.sub(r"\s*\n\s*", " ", found[2] if found else entry)
            if found or not rows or rows[-1].name:
                rows.append(Row(found[1] if found else "", meaning=meaning))
            else:  # free text goes on
                rows[-1] = replace(rows[-1], meaning=f"{rows[-1].meaning} {meaning}")
        sections[name] = rows
    return text.strip(), sections


def exported(source: str) -> list[Symbol]:
    """What a cell of exported code defines for users: names without an underscore."""
    lines = source.splitlines()
    symbols = [symbol for node in ast.parse(source).body for symbol in _symbols(node, lines)]
    return [symbol for symbol in symbols if not symbol.name.startswith("_")]


def _symbols(node: ast.stmt, lines: list[str]) -> list[Symbol]:
    """What a statement defines."""
    if isinstance(node, ast.ClassDef):
        return [_class(node, lines)]
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return [_function(node, lines)]
    code = "\n".join(lines[node.lineno - 1 : node.end_lineno])
    return [Symbol(name, "constant", code) for name in assigned(node)]


def assigned(node: ast.stmt) -> list[str]:
    """The names that a statement gives a value: `A, B = 1, 2`."""
    if not isinstance(node, ast.Assign | ast.AnnAssign):
        return []
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    parts = [part for target in targets for part in getattr(target, "elts", [target])]
    return [part.id for part in parts if isinstance(part, ast.Name)]


def _signature(
    node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]
) -> str:
    """The lines of a definition up to its colon, with its decorators."""
    start = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    first = node.body[0]
    end = min([first.lineno, *(d.lineno for d in getattr(first, "decorator_list", []))])
    if end == node.lineno:  # all on one line
        head = lines[node.lineno - 1][: first.col_offset]
        text = "\n".join([*lines[start - 1 : node.lineno - 1], head])
    else:
        text = "\n".join(lines[start - 1 : end - 1])
    return inspect.cleandoc("\n" + text).rstrip().removesuffix(":")


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> Symbol:
    text, sections = docstring_parts(ast.get_docstring(node, clean=False) or "")
    rows = _parameters(node.args)
    sections["Parameters"] = with_meanings(rows, sections.get("Parameters", []))
    for name in ("Returns", "Yields"):
        if node.returns is not None and name in sections:
            first, *rest = sections[name]
            sections[name] = [replace(first, type=ast.unparse(node.returns)), *rest]
    if node.returns is not None and not {"Returns", "Yields"} & sections.keys():
        result = ast.unparse(node.returns)
        if result not in ("None", "NoReturn"):
            sections["Returns"] = [Row("", result)]
    decorators = {ast.unparse(d).split("(")[0] for d in node.decorator_list}
    kind = "property" if {"property", "cached_property"} & decorators else "function"
    return Symbol(node.name, kind, _signature(node, lines), text, sections)


def _parameters(arguments: ast.arguments) -> list[Row]:
    """The parameters of a function, `self` and `cls` left out."""
    positional = [*arguments.posonlyargs, *arguments.args]
    padding = [None] * (len(positional) - len(arguments.defaults))
    pairs = list(zip(positional, [*padding, *arguments.defaults], strict=True))
    rows = [_parameter(a, default) for a, default in pairs]
    if arguments.vararg:
        rows.append(_parameter(arguments.vararg, None, "*"))
    rows += [_parameter(*p) for p in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    if arguments.kwarg:
        rows.append(_parameter(arguments.kwarg, None, "**"))
    return [row for row in rows if row.name not in ("self", "cls")]


def _parameter(argument: ast.arg, default: ast.expr | None, stars: str = "") -> Row:
    kind = ast.unparse(argument.annotation) if argument.annotation else ""
    return Row(stars + argument.arg, kind, "" if default is None else ast.unparse(default))


def with_meanings(rows: Sequence[Row], told: Sequence[Row]) -> list[Row]:
    """Parameters with what the docstring says of them; what only the docstring names comes last.

    >>> with_meanings([Row("a", "int")], [Row("a, b", meaning="seconds")])
    [Row(name='a', type='int', default='', meaning='seconds'), Row(name='b', …meaning='seconds')]
    """
    meanings = {name.strip(): row.meaning for row in told for name in row.name.split(",")}
    bare = {name.lstrip("*"): meaning for name, meaning in meanings.items()}
    names = [row.name.lstrip("*") for row in rows]  # the docstring may leave the stars out
    found = [
        replace(row, meaning=row.meaning or bare.get(name, ""))
        for name, row in zip(names, rows, strict=True)
    ]
    more = [Row(name, meaning=m) for name, m in meanings.items() if name.lstrip("*") not in names]
    return found + more


def _class(node: ast.ClassDef, lines: list[str]) -> Symbol:
    text, sections = docstring_parts(ast.get_docstring(node, clean=False) or "")
    told = [*sections.pop("Parameters", []), *sections.pop("Attributes", [])]
    fields = [
        _field(item, lines)
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    ]
    methods = [m for m in node.body if isinstance(m, ast.FunctionDef | ast.AsyncFunctionDef)]
    start = next((m for m in methods if m.name == "__init__"), None)
    if start is not None:
        own = docstring_parts(ast.get_docstring(start, clean=False) or "")[1]
        fields = _parameters(start.args) + fields
        told += own.get("Parameters", [])
    fields = [row for row in fields if not row.name.startswith("_")]
    is_data = start is None and bool(fields)
    rows = with_meanings(fields, told)
    sections = {"Fields" if is_data else "Parameters": rows, **sections}
    members = [
        _function(m, lines) for m in methods if m.name == "__call__" or not m.name.startswith("_")
    ]
    signature = _signature(node, lines)
    if start is not None:
        signature += "\n" + _indented(_signature(start, lines))
    bases = [ast.unparse(base) for base in node.bases]
    return Symbol(node.name, "class", signature, text, sections, bases, members)


def _indented(text: str) -> str:
    return "\n".join("    " + line for line in text.splitlines())


def _field(item: ast.AnnAssign, lines: list[str]) -> Row:
    """A field of a class: its default and its help may stand inside `field(…)`."""
    name, kind = ast.unparse(item.target), ast.unparse(item.annotation)
    value, default, meaning = item.value, "", ""
    if isinstance(value, ast.Call) and ast.unparse(value.func) in ("field", "dataclasses.field"):
        given = {k.arg: k.value for k in value.keywords}
        if "default" in given:
            default = ast.unparse(given["default"])
        elif "default_factory" in given:
            default = f"{ast.unparse(given['default_factory'])}()"
        if "metadata" in given:
            try:
                meaning = ast.literal_eval(given["metadata"]).get("help", "")
            except ValueError:  # computed: the docstring has to say it
                meaning = ""
    elif value is not None:
        default = ast.unparse(value)
    line = lines[(item.end_lineno or item.lineno) - 1]
    comment = re.search(r"  # (.*)", line[item.end_col_offset or 0 :])
    return Row(name, kind, default, meaning or (comment[1] if comment else ""))


def in_order(sections: Mapping[str, Sequence[Row]]) -> list[str]:
    """The sections that say more than the signature: what goes in, comes out, and goes wrong."""
    order = ("Parameters", "Fields", "Attributes", "Returns", "Yields", "Raises")
    known = [title for title in order if title in sections]
    titles = [*known, *(title for title in sections if title not in order)]
    return [t for t in titles if any(row.name or row.meaning for row in sections[t])]


@dataclass
class Reference:
    """Draws the entries of one page.

    Parameters
    ----------
    markdown : of the page, with its links.
    source_link : from a name (`Class.method`) to the address of its source, or None.
    imports : where the notebook's imported names come from: `{"GRPOConfig": "trl.GRPOConfig"}`.
    """

    markdown: Markdown
    source_link: Callable[[str], str | None]
    imports: Mapping[str, str]

    def html(self, symbol: Symbol, outline: Outline, owner: str = "", level: int = 0) -> str:
        """The entry of a name: signature, text, tables, and a class's methods."""
        name = f"{owner}.{symbol.name}" if owner else symbol.name
        heading = outline.add(level or outline.section + 1, name, anchor=name, code=True)
        outline.note(symbol.text)
        for rows in symbol.sections.values():
            outline.note(" ".join(f"{row.name} {row.meaning}" for row in rows))
        parts = [
            self._head(heading, symbol),
            code_block(symbol.signature).replace('class="code"', 'class="code signature"'),
            self.markdown.html(symbol.text),  # its words have been noted
            self._inherited(symbol),
            *(self._table(title, symbol.sections[title]) for title in in_order(symbol.sections)),
            *(self.html(m, outline, name, heading.level + 1) for m in symbol.members),
        ]
        kind = "member" if owner else "entry"
        return f'<section class="api {kind}">\n{"".join(parts)}</section>\n'

    def _head(self, heading: Heading, symbol: Symbol) -> str:
        """The heading: the kind of thing, its name, and a link to its source."""
        address = self.source_link(heading.text)
        link = f'<a class="source" href="{address}">source</a>' if address else ""
        name = html.escape(heading.text).replace("_", "_<wbr>").replace(".", ".<wbr>")
        inner = (
            f'<code>{name}</code> <span class="kind">{symbol.kind}</span> {anchor_link(heading)}'
        )
        anchor = html.escape(heading.anchor)
        return f'<h{heading.level} id="{anchor}">{inner} {link}</h{heading.level}>\n'

    def _inherited(self, symbol: Symbol) -> str:
        """Where the rest of a class is described."""
        told = []
        for base in symbol.bases:
            name = base.split("[")[0]
            if name in PLAIN_BASES or name.endswith(("Error", "Exception", "Warning")):
                continue
            origin = self.imports.get(name, name)
            manual = MANUALS.get(origin.split(".")[0])
            address = self.markdown.name_link(name) or manual
            text = f"<code>{html.escape(origin if manual else name)}</code>"
            told.append(f'<a href="{address}">{text}</a>' if address else text)
        if not told:
            return ""
        what = "Fields and methods of its own only; the rest is inherited from"
        return f'<p class="inherited">{what} {" and ".join(told)}.</p>\n'

    def _table(self, title: str, rows: Sequence[Row]) -> str:
        """A section of a docstring as a table, without columns that would be empty."""
        if not any((row.name, row.type) != ("", "") for row in rows):
            text = " ".join(row.meaning for row in rows)
            return f"<p><b>{title}</b> {self.markdown.inline(text)}</p>\n"
        columns = {
            "Name": [f"<code>{html.escape(row.name)}</code>" if row.name else "" for row in rows],
            "Type": [self._code(row.type) for row in rows],
            "Default": [self._code(row.default) for row in rows],
            "Meaning": [self.markdown.inline(row.meaning) for row in rows],
        }
        if title == "Raises":
            columns = {"Error": [self._code(row.name) for row in rows]} | columns
            del columns["Name"]
        return parameter_table(title, columns)

    def _code(self, text: str) -> str:
        """A type or default, with links from the names that this site documents."""
        if not text:
            return ""

        def linked(found: re.Match[str]) -> str:
            address = self.markdown.name_link(found[0]) if found[0][:1].isupper() else None
            return f'<a href="{html.escape(address)}">{found[0]}</a>' if address else found[0]

        return f"<code>{NAME.sub(linked, html.escape(text, quote=False))}</code>"
