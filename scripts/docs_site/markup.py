"""Markdown, code and formulas to HTML that needs no script and no font of its own."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any

from latex2mathml.converter import convert
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.footnote import footnote_plugin
from pygments import token as kinds
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # colours of a terminal
COLUMNS = re.compile(r"^.*\S {2,}\S.*$", re.M)
SHELLS = ("bash", "sh", "console", "shell")
# The kinds of token that site.css colours, under Pygments' short names for them.
COLOURED = set(
    "k kn kd kc kr kt ow s s1 s2 sd sa sh si se sr sx c c1 cm ch cp m mi mf mh il mo"
    " nf fm nc nb bp nd nn ne".split()
)


def slug(text: str) -> str:
    """The anchor of a heading, as GitHub makes it: `What, and why?` → `what-and-why`."""
    text = re.sub(r"[^\w\- ]", "", text.strip().lower())
    return text.replace(" ", "-") or "section"


def plain(text: str) -> str:
    """The words of a piece of HTML or Markdown, without marks."""
    text = re.sub(r"<[^>]+>", "", text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"\s+", " ", text.replace("`", "").replace("**", "")).strip()


def code_block(source: str, language: str = "python") -> str:
    """Highlighted code; commands wrap, code scrolls within its box."""
    try:
        tokens = get_lexer_by_name(language or "text").get_tokens(source)
    except ClassNotFound:
        tokens = [(kinds.Text, source)]
    pieces = ((colour(kind), text) for kind, text in tokens)
    runs = groupby(pieces, key=itemgetter(0))
    body = "".join(coloured(name, "".join(text for _, text in run)) for name, run in runs)
    kind = "shell" if language in SHELLS else "code"
    return f'<pre class="{kind}"><code>{body.rstrip()}</code></pre>\n'


def colour(kind: Any) -> str:
    """Pygments' short name of a kind of token, "" where the style sheet has no colour for it."""
    while kind not in kinds.STANDARD_TYPES:
        kind = kind.parent
    name = kinds.STANDARD_TYPES[kind]
    return name if name in COLOURED else ""


def coloured(name: str, text: str) -> str:
    """A piece of code in a span of that name, or as it is."""
    text = html.escape(text, quote=False)
    return f'<span class="{name}">{text}</span>' if name else text


def output_block(text: str) -> str:
    """What a cell has printed; columns that are aligned by spaces scroll, other lines wrap."""
    text = ESCAPES.sub("", text).rstrip()
    kind = "output aligned" if len(COLUMNS.findall(text)) > 2 else "output"
    return f'<pre class="{kind}">{html.escape(text)}</pre>\n' if text else ""


def parameter_table(caption: str, columns: Mapping[str, Sequence[str]]) -> str:
    """Names with their meanings as a table, from HTML by column; empty columns are left out.

    On a narrow screen a row becomes a paragraph, and the style sheet knows a cell by its column.
    """
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    head = "".join(f'<th scope="col">{name}</th>' for name in columns)
    rows = [
        "".join(
            f'<td data-name="{name}">{cell}</td>' if cell else "<td></td>"
            for name, cell in zip(columns, cells, strict=True)
        )
        for cells in zip(*columns.values(), strict=True)
    ]
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return (
        f'<div class="wide"><table class="parameters"><caption>{html.escape(caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>\n"
    )


def formula(tex: str, display: bool) -> str:
    """A formula as MathML, which browsers draw by themselves."""
    return convert(tex, display="block" if display else "inline")


@dataclass
class Heading:
    """A heading of a page: its level (2 …), anchor and words."""

    level: int
    anchor: str
    text: str
    code: bool = False  # the name of something exported
    words: list[str] = field(default_factory=list)  # of its section, for the search


@dataclass
class Outline:
    """The headings of one page so far, every anchor used once and no level skipped."""

    headings: list[Heading] = field(default_factory=list)
    opening: Heading = field(default_factory=lambda: Heading(1, "", ""))  # before the first
    anchors: set[str] = field(default_factory=set)
    section: int = 1  # level of the last heading of the text

    def add(self, level: int, text: str, anchor: str = "", code: bool = False) -> Heading:
        """Note a heading; its level and anchor may differ from those asked for."""
        last = self.headings[-1].level if self.headings else 1
        level = min(max(level, 2), last + 1, 6)
        name = anchor = anchor or slug(text)
        count = 1
        while name in self.anchors:
            name = f"{anchor}-{count}"
            count += 1
        self.anchors.add(name)
        if not code:
            self.section = level
        heading = Heading(level, name, text, code)
        self.headings.append(heading)
        return heading

    def note(self, text: str) -> None:
        """Words of the section that the page has come to."""
        last = self.headings[-1] if self.headings else self.opening
        last.words.append(plain(text))


def anchor_link(heading: Heading) -> str:
    """The link of a heading to itself."""
    label = html.escape(f"Link to {heading.text}", quote=True)
    return f'<a class="anchor" href="#{html.escape(heading.anchor)}" aria-label="{label}">#</a>'


def _rule(render: Callable) -> Callable:
    """A renderer's rule from a function of one token."""

    def rule(self: RendererHTML, tokens: list[Token], index: int, options: dict, env: dict) -> str:
        return render(tokens[index])

    return rule


def _table_open(token: Token) -> str:
    return '<div class="wide"><table>\n'


def _table_close(token: Token) -> str:
    return "</table></div>\n"


def _fence(token: Token) -> str:
    language = (token.info.split() or [""])[0].strip("{}.")
    return code_block(token.content, language) if language else output_block(token.content)


class Markdown:
    """Markdown to HTML, as GitHub reads it, with formulas between dollars.

    Parameters
    ----------
    name_link : from the text of inline code to the address of its documentation, or None.
    link : from the target of a link or picture, as written, to the one on the site.
    """

    def __init__(
        self,
        name_link: Callable[[str], str | None] = lambda name: None,
        link: Callable[[str], str] = lambda target: target,
    ) -> None:
        self.name_link, self.link = name_link, link
        parser = MarkdownIt("commonmark", {"html": True, "linkify": False})
        parser.enable(["table", "strikethrough"])
        parser.use(dollarmath_plugin, allow_space=False, allow_digits=False)
        parser.use(footnote_plugin)
        rules = {
            "fence": _fence,
            "code_block": lambda token: output_block(token.content),
            "table_open": _table_open,
            "table_close": _table_close,
            "math_inline": lambda token: formula(token.content, display=False),
            "math_block": lambda token: (
                f'<p class="wide">{formula(token.content, display=True)}</p>\n'
            ),
        }
        for name, render in rules.items():
            parser.add_render_rule(name, _rule(render))
        self.parser = parser

    def html(self, text: str, outline: Outline | None = None) -> str:
        """A text as HTML; its headings join `outline`."""
        tokens = self.parser.parse(text)
        for index, token in enumerate(tokens):
            if token.type == "inline":
                self._finish(token.children or [])
                if outline is not None and tokens[index - 1].type != "heading_open":
                    outline.note(token.content)
            elif token.type == "heading_open" and outline is not None:
                self._number(tokens[index : index + 3], outline)
        return self.parser.renderer.render(tokens, self.parser.options, {})

    def inline(self, text: str) -> str:
        """A line as HTML, without a paragraph around it."""
        tokens = self.parser.parseInline(text)
        self._finish(tokens[0].children or [])
        return self.parser.renderer.render(tokens, self.parser.options, {})

    def _number(self, tokens: list[Token], outline: Outline) -> None:
        """Give a heading its level, its anchor and a link to itself."""
        opening, inline, closing = tokens
        heading = outline.add(int(opening.tag[1]), plain(inline.content))
        opening.attrs["id"] = heading.anchor
        opening.tag = closing.tag = f"h{heading.level}"
        mark = Token("html_inline", "", 0, content=f" {anchor_link(heading)}")
        inline.children = [*(inline.children or []), mark]

    def _finish(self, tokens: list[Token]) -> None:
        """Make links good for the site, and give names in inline code theirs."""
        inside = 0  # of a link: links do not nest
        for token in tokens:
            if token.type == "link_open":
                inside += 1
                token.attrs["href"] = self.link(str(token.attrs["href"]))
            elif token.type == "link_close":
                inside -= 1
            elif token.type == "image":
                token.attrs["src"] = self.link(str(token.attrs["src"]))
            elif token.type == "code_inline" and not inside:
                address = self.name_link(token.content)
                if address:
                    token.type, name = "html_inline", html.escape(token.content)
                    token.content = f'<a href="{html.escape(address)}"><code>{name}</code></a>'
