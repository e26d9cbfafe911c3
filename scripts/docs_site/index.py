"""What the search and the page of names know of the other pages."""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass, field

from .chapters import Chapter
from .markup import Outline


@dataclass
class Index:
    """Collected while the pages are drawn.

    Attributes
    ----------
    pages : address, name and sections of each, as `site.js` reads them.
    names : of each exported name the name, its module, its address, a sentence about it.
    """

    pages: list[list] = field(default_factory=list)
    names: list[tuple[str, str, str, str]] = field(default_factory=list)

    def note_page(self, page: str, name: str, about: str, outline: Outline) -> None:
        """Note what the search has to know of a page."""
        sections = [["", "", 0, words_once(" ".join([about, *outline.opening.words]))]]
        for heading in outline.headings:
            words = words_once(" ".join(filter(None, heading.words)))
            sections.append([heading.anchor, heading.text, int(heading.code), words])
        self.pages.append([page, name, sections])

    def note_names(self, chapter: Chapter, outline: Outline) -> None:
        """Note each name of a chapter with the first sentence about it."""
        for heading in outline.headings:
            if heading.code and "." not in heading.text:
                docstring = heading.words[0]  # prose may follow, and need not be about the name
                summary = re.split(r"(?<=[.!?]) ", docstring, maxsplit=1)[0]
                link = f"{chapter.page}#{heading.anchor}"
                module = chapter.module or chapter.name
                self.names.append((heading.text, module, link, summary))

    def script(self) -> str:
        """The script that the search loads."""
        text = json.dumps(self.pages, ensure_ascii=False, separators=(",", ":"))
        return f"window.searchIndex={text}"

    def draw_names(self, outline: Outline) -> str:
        """Every exported name, by alphabet, with its module and the first sentence about it."""
        parts = [
            "<header><h1>All names</h1>\n<p class=subtitle>What the package exports</p></header>"
        ]
        letters: dict[str, list[tuple[str, str, str, str]]] = {}
        for entry in sorted(self.names, key=lambda entry: entry[0].lower()):
            letters.setdefault(entry[0][0].upper(), []).append(entry)
        for letter, entries in sorted(letters.items()):
            anchor = outline.add(2, letter, anchor=f"letter-{letter}").anchor
            items = "".join(
                f'<li><a href="{link}"><code>{name}</code></a> <span class="module">{module}</span>'
                f'<span class="about">{html.escape(summary)}</span></li>\n'
                for name, module, link, summary in entries
            )
            parts.append(f'<h2 id="{anchor}">{letter}</h2>\n<ul class="chapters">{items}</ul>\n')
        return "".join(parts)


def words_once(text: str, whole: int = 240) -> str:
    """A text for the search: its beginning as it is, then each further word once."""
    if len(text) <= whole:
        return text
    cut = text.rfind(" ", 0, whole)
    head, rest = text[:cut], text[cut:].lower()
    seen = set(re.findall(r"[\w.]+", head.lower()))
    more = dict.fromkeys(word.strip(".") for word in re.findall(r"[\w.]+", rest))
    words = (word for word in more if len(word) > 2 and word not in seen)
    return " ".join([head, "…", *words])
