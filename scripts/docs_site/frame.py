"""The frame of every page: sidebar, contents, and links to the chapters before and after."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .book import Book, relative
from .chapters import Chapter
from .markup import Heading, Outline, plain

HERE = Path(__file__).parent
LOOKUPS = (("commands.html", "Commands"), ("names.html", "All names"))  # behind the chapters


@dataclass
class Frame:
    """What stands around the body of a page.

    Attributes
    ----------
    book : whose chapters the sidebar lists.
    title, description, version : of the project.
    source : address of the repository's files.
    """

    book: Book
    title: str
    description: str
    version: str
    source: str

    def around(
        self, page: str, name: str, body: str, outline: Outline, chapter: Chapter | None = None
    ) -> str:
        """The whole page around a body."""
        title = self.title if page == "index.html" else f"{name} · {self.title}"
        about = plain(chapter.subtitle) if chapter and chapter.subtitle else self.description
        values = {
            "title": html.escape(title),
            "description": html.escape(about, quote=True),
            "project": html.escape(self.title),
            "version": html.escape(self.version),
            "root": relative(".", page),
            "repository": html.escape(self.source.partition("/blob/")[0]),
            "sidebar": self._sidebar(page, chapter.room if chapter else None),
            "contents": page_contents(outline.headings),
            "body": body,
        }
        frame = (HERE / "page.html").read_text(encoding="utf-8")
        return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], frame)

    def _sidebar(self, page: str, room: str | None) -> str:
        """The parts and their chapters; the part of this page is open."""

        def item(address: str, name: str) -> str:
            current = ' aria-current="page"' if address == page else ""
            return (
                f'<li><a href="{relative(address, page)}"{current}>{html.escape(name)}</a></li>\n'
            )

        first = next(c for c in self.book.chapters if not c.room)
        parts = [f"<ul>{item(first.page, 'Start')}</ul>\n"]
        for name, chapters in self.book.rooms.items():
            opened = " open" if name == room else ""
            items = "".join(item(c.page, c.name) for c in chapters)
            title = html.escape(self.book.part_title(name))
            parts.append(
                f"<details{opened}><summary>{title}</summary>\n<ul>{items}</ul></details>\n"
            )
        parts.append(f"<ul>{''.join(item(*lookup) for lookup in LOOKUPS)}</ul>\n")
        return "".join(parts)


def neighbours(chapters: Sequence[Chapter], position: int) -> str:
    """Links to the chapter before and the chapter after."""
    links = []
    for step, word in ((-1, "Previous"), (1, "Next")):
        if 0 <= position + step < len(chapters):
            other = chapters[position + step]
            address = relative(other.page, chapters[position].page)
            rel = "prev" if step < 0 else "next"
            links.append(
                f'<a rel="{rel}" href="{address}"><span>{word}</span> {html.escape(other.name)}</a>'
            )
    return f'<nav class="around" aria-label="Previous and next chapter">{"".join(links)}</nav>\n'


def page_contents(headings: Sequence[Heading]) -> str:
    """The contents of one page: its sections, and the exported names in them."""
    shown = [h for h in headings if h.level <= 3 or (h.code and "." not in h.text)]
    if len(shown) < 2:
        return ""
    top = min(heading.level for heading in shown)
    items = "".join(
        f'<li class="level-{heading.level - top}"><a href="#{html.escape(heading.anchor)}">'
        + (
            f"<code>{html.escape(heading.text)}</code>"
            if heading.code
            else html.escape(heading.text)
        )
        + "</a></li>\n"
        for heading in shown
    )
    return f"<p>On this page</p>\n<ul>{items}</ul>"
