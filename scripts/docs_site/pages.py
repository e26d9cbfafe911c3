"""Pages: chapters in a frame of sidebar, contents and search, with the index of names."""

from __future__ import annotations

import argparse
import ast
import html
import json
import posixpath
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from . import api
from .chapters import ROOMS, Chapter, Drawing, page_path
from .commands import commands_page
from .markup import Heading, Markdown, Outline, plain, slug

HERE = Path(__file__).parent
GUIDES = ("house", "training", "evaluation_guide", "own_video", "data")  # the others follow
LOOKUPS = (("commands.html", "Commands"), ("names.html", "All names"))  # behind the chapters
SCHEME = re.compile(r"^[a-zA-Z][\w+.-]*:")
PICTURE = re.compile(r"\.(png|jpe?g|gif|svg|webp|mp4|webm|avif)$")


def site_link(target: str, folder: Path, source: str) -> str:
    """A link of a notebook as it has to be on the site.

    Parameters
    ----------
    target : as written in a notebook of `folder` (below nbs/, numbers included).
    source : address of the repository's files; links that leave nbs/ go there.

    >>> site_link("../0_core/02_a.ipynb#x", Path("7_viewer"), "https://e.org/r")
    '../core/a.html#x'
    """
    if SCHEME.match(target) or target.startswith(("#", "//")):
        return target
    path, mark, anchor = target.partition("#")
    path = path[1:] if path.startswith("/") else posixpath.join(folder.as_posix(), path)
    path = posixpath.normpath(path)
    if path.startswith("../"):
        return f"{source}/{path[3:]}{mark}{anchor}"
    if path.endswith((".ipynb", ".html")):
        path = page_path(Path(path)).with_suffix(".html").as_posix()
    return posixpath.relpath(path, page_path(folder / "x").parent.as_posix()) + mark + anchor


def reading_order(chapter: Chapter) -> tuple:
    """Sorts chapters: the first page, the rooms by number, the guides."""
    room, *_ = [*chapter.path.parts[:-1], ""]
    numbered = re.match(r"\d+", room)
    place = -1 if not room else int(numbered[0]) if numbered else 99
    stem = chapter.path.stem
    guide = GUIDES.index(stem) if stem in GUIDES else len(GUIDES)
    return place, room, 0 if numbered else guide, stem


def source_lines(module: Path) -> dict[str, int]:
    """The line of each class, function, method and constant of a module, by name."""
    lines: dict[str, int] = {}
    if not module.exists():
        return lines
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            lines[node.name] = node.lineno
        if isinstance(node, ast.ClassDef):
            methods = [n for n in node.body if isinstance(n, ast.FunctionDef)]
            lines |= {f"{node.name}.{method.name}": method.lineno for method in methods}
        lines |= dict.fromkeys(api.assigned(node), node.lineno)
    return lines


@dataclass
class Site:
    """The whole site.

    Attributes
    ----------
    root : of the repository.
    out : folder of the pages.
    title, description, version : of the project.
    source : address of the repository's files, to which links that leave the site go.
    package : name of the package, the folder of the exported modules.
    parser : of the package's commands.
    """

    root: Path
    out: Path
    title: str
    description: str
    version: str
    source: str
    package: str
    parser: argparse.ArgumentParser
    index: list[list] = field(default_factory=list)  # what the search knows
    entries: list[tuple[str, str, str, str]] = field(default_factory=list)  # of the names' page

    @cached_property
    def chapters(self) -> list[Chapter]:
        """All notebooks in reading order."""
        nbs = self.root / "nbs"
        paths = (path.relative_to(nbs) for path in nbs.rglob("*.ipynb"))
        paths = (path for path in paths if not any(part[0] in "._" for part in path.parts))
        return sorted((Chapter.read(nbs, path) for path in paths), key=reading_order)

    @cached_property
    def rooms(self) -> dict[str, list[Chapter]]:
        """The parts of the book and their chapters; the first page is in none."""
        rooms: dict[str, list[Chapter]] = {}
        for chapter in self.chapters:
            if chapter.room:
                rooms.setdefault(chapter.room, []).append(chapter)
        return rooms

    @cached_property
    def names(self) -> dict[str, list[tuple[str, str]]]:
        """Where exported names and modules are documented: page and anchor."""
        found: dict[str, list[tuple[str, str]]] = {}
        for chapter in self.chapters:
            for name in chapter.names:
                places = [name]
                if chapter.module:
                    places += [
                        f"{chapter.module}.{name}",
                        f"{self.package}.{chapter.module}.{name}",
                    ]
                for place in places:
                    found.setdefault(place, []).append((chapter.page, name))
            if "." in chapter.module:
                found.setdefault(chapter.module, []).append((chapter.page, ""))
            if chapter.module:
                module = f"{self.package}.{chapter.module}"
                found.setdefault(module, []).append((chapter.page, ""))
        return found

    def name_link(self, text: str, page: str) -> str | None:
        """The address, from `page`, of the documentation of a name in inline code.

        A plain word is linked only if it is written as a call, `score()`: `data` is seldom a name.
        """
        name = text.split("(")[0]
        places = self.names.get(name, [])
        own = [place for place in places if place[0] == page]
        telling = "_" in name or "." in name or name[:1].isupper() or text != name
        if not (telling and places) or (len(places) > 1 and len(own) != 1):
            return None
        target, anchor = own[0] if len(own) == 1 else places[0]
        address = "" if target == page else relative(target, page)
        return f"{address}#{anchor}" if anchor else address or None

    def part_title(self, room: str) -> str:
        """The title of a part, with the number of its room: `5 Training`."""
        number = self.rooms[room][0].number.partition(".")[0]
        return f"{number} {ROOMS.get(room, room.capitalize())}".strip()

    def build(self) -> None:
        """Write every page, the search's index and the files that all pages share."""
        shutil.rmtree(self.out, ignore_errors=True)
        (self.out / "media").mkdir(parents=True)
        for name in ("site.css", "site.js"):
            shutil.copy(HERE / name, self.out / name)
        for position, chapter in enumerate(self.chapters):
            self._chapter(position, chapter)
        self._commands_page()
        self._names_page()
        self._lost_page()
        text = json.dumps(self.index, ensure_ascii=False, separators=(",", ":"))
        (self.out / "search.js").write_text(f"window.searchIndex={text}", encoding="utf-8")
        (self.out / ".nojekyll").touch()

    def _chapter(self, position: int, chapter: Chapter) -> None:
        """The page of a notebook."""
        folder = chapter.path.parent
        markdown = Markdown(
            name_link=lambda name: self.name_link(name, chapter.page),
            link=lambda target: self._local(site_link(target, folder, self.source), chapter),
        )
        module = f"{self.package}/{chapter.module.replace('.', '/')}.py"
        lines = source_lines(self.root / module) if chapter.module else {}

        def source_link(name: str) -> str | None:
            return f"{self.source}/{module}#L{lines[name]}" if name in lines else None

        reference = api.Reference(markdown, source_link, chapter.imports)
        media_link = relative("media", chapter.page)
        drawing = Drawing(chapter, markdown, reference, self.out / "media", media_link)
        body = drawing.draw()
        if not chapter.room:
            body += self._contents(chapter.page, drawing.outline)
        about = plain(chapter.subtitle)
        self._learn(chapter.page, chapter.name, about, drawing.outline)
        self._note_names(chapter, drawing.outline)
        head = self._head(chapter, markdown)
        around = self._neighbours(position, chapter.page)
        self._write(chapter.page, chapter.name, head + body + around, drawing.outline, chapter)

    def _local(self, target: str, chapter: Chapter) -> str:
        """The same link; a picture that it leads to is copied to the site."""
        path, mark, anchor = target.partition("#")
        if anchor and not SCHEME.match(target) and not self._documents(path, anchor, chapter):
            target = path + mark + slug(anchor)  # notebooks keep capitals in their anchors
        if path and not SCHEME.match(path) and PICTURE.search(path):
            file = posixpath.normpath(posixpath.join(posixpath.dirname(chapter.page), path))
            original = self.root / "nbs" / file
            if original.exists():
                (self.out / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(original, self.out / file)
        return target

    def _documents(self, path: str, name: str, chapter: Chapter) -> bool:
        """Is a name among those that the page at `path`, seen from a chapter, documents?"""
        folder = posixpath.dirname(chapter.page)
        page = posixpath.normpath(posixpath.join(folder, path)) if path else chapter.page
        return any(place == page for place, _ in self.names.get(name, []))

    def _head(self, chapter: Chapter, markdown: Markdown) -> str:
        """Title, subtitle, and where the chapter's notebook and module are."""
        number = f'<span class="number">{chapter.number}</span> ' if chapter.number else ""
        title = f"<h1>{number}{markdown.inline(chapter.title)}</h1>\n"
        subtitle = f'<p class="subtitle">{markdown.inline(chapter.subtitle)}</p>\n'
        links = [f'<a href="{self.source}/nbs/{chapter.path.as_posix()}">notebook</a>']
        if chapter.module:
            module = chapter.module.replace(".", "/")
            name = f"{self.package}.{chapter.module}"
            link = f"{self.source}/{self.package}/{module}.py"
            links.insert(0, f'<a href="{link}"><code>{name}</code></a>')
        where = f'<p class="where">{" · ".join(links)}</p>\n'
        return f"<header>{title}{subtitle if chapter.subtitle else ''}{where}</header>\n"

    def _contents(self, page: str, outline: Outline) -> str:
        """The table of contents of the whole book, at the end of the first page."""
        heading = outline.add(2, "All chapters", anchor="chapters")
        parts = [f'<h2 id="{heading.anchor}">All chapters</h2>\n']
        for room, chapters in self.rooms.items():
            anchor = outline.add(3, self.part_title(room), anchor=f"part-{room}").anchor
            items = "".join(
                f'<li><a href="{relative(c.page, page)}">{html.escape(c.name)}</a>'
                f'<span class="about">{html.escape(plain(c.subtitle))}</span></li>\n'
                for c in chapters
            )
            title = html.escape(self.part_title(room))
            parts.append(f'<h3 id="{anchor}">{title}</h3>\n<ul class="chapters">{items}</ul>\n')
        links = " · ".join(f'<a href="{address}">{name}</a>' for address, name in LOOKUPS)
        return "".join([*parts, f"<p>To look up: {links}</p>\n"])

    def _learn(self, page: str, name: str, about: str, outline: Outline) -> None:
        """What the search has to know of a page."""
        sections = [["", "", 0, words_once(" ".join([about, *outline.opening.words]))]]
        for heading in outline.headings:
            words = words_once(" ".join(filter(None, heading.words)))
            sections.append([heading.anchor, heading.text, int(heading.code), words])
        self.index.append([page, name, sections])

    def _note_names(self, chapter: Chapter, outline: Outline) -> None:
        """What the page of names has to know of a chapter: each name and its first sentence."""
        for heading in outline.headings:
            if heading.code and "." not in heading.text:
                docstring = heading.words[0]  # prose may follow, and need not be about the name
                summary = re.split(r"(?<=[.!?]) ", docstring, maxsplit=1)[0]
                link = f"{chapter.page}#{heading.anchor}"
                module = chapter.module or chapter.name
                self.entries.append((heading.text, module, link, summary))

    def _neighbours(self, position: int, page: str) -> str:
        """Links to the chapter before and the chapter after."""
        links = []
        for step, word in ((-1, "Previous"), (1, "Next")):
            if 0 <= position + step < len(self.chapters):
                other = self.chapters[position + step]
                rel = "prev" if step < 0 else "next"
                links.append(
                    f'<a rel="{rel}" href="{relative(other.page, page)}"><span>{word}</span> '
                    f"{html.escape(other.name)}</a>"
                )
        return (
            f'<nav class="around" aria-label="Previous and next chapter">{"".join(links)}</nav>\n'
        )

    def _sidebar(self, page: str, room: str | None) -> str:
        """The parts and their chapters; the part of this page is open."""

        def item(address: str, name: str) -> str:
            current = ' aria-current="page"' if address == page else ""
            return (
                f'<li><a href="{relative(address, page)}"{current}>{html.escape(name)}</a></li>\n'
            )

        first = next(c for c in self.chapters if not c.room)
        parts = [f"<ul>{item(first.page, 'Start')}</ul>\n"]
        for name, chapters in self.rooms.items():
            opened = " open" if name == room else ""
            items = "".join(item(c.page, c.name) for c in chapters)
            title = html.escape(self.part_title(name))
            parts.append(
                f"<details{opened}><summary>{title}</summary>\n<ul>{items}</ul></details>\n"
            )
        parts.append(f"<ul>{''.join(item(*lookup) for lookup in LOOKUPS)}</ul>\n")
        return "".join(parts)

    def _commands_page(self) -> None:
        """Every command with its flags."""
        outline, page = Outline(), "commands.html"
        markdown = Markdown(name_link=lambda name: self.name_link(name, page))
        body = commands_page(self.parser, markdown, outline)
        self._learn(page, "Commands", "Every command with its flags", outline)
        self._write(page, "Commands", body, outline, None)

    def _names_page(self) -> None:
        """Every exported name, by module and alphabet, with the first sentence about it."""
        outline, page = Outline(), "names.html"
        parts = [
            "<header><h1>All names</h1>\n<p class=subtitle>What the package exports</p></header>"
        ]
        letters: dict[str, list[tuple[str, str, str, str]]] = {}
        for entry in sorted(self.entries, key=lambda entry: entry[0].lower()):
            letters.setdefault(entry[0][0].upper(), []).append(entry)
        for letter, entries in sorted(letters.items()):
            anchor = outline.add(2, letter, anchor=f"letter-{letter}").anchor
            items = "".join(
                f'<li><a href="{link}"><code>{name}</code></a> <span class="module">{module}</span>'
                f'<span class="about">{html.escape(summary)}</span></li>\n'
                for name, module, link, summary in entries
            )
            parts.append(f'<h2 id="{anchor}">{letter}</h2>\n<ul class="chapters">{items}</ul>\n')
        self._write(page, "All names", "".join(parts), outline, None)

    def _lost_page(self) -> None:
        """What GitHub Pages shows for an address that does not exist; it may be at any depth."""
        text = "<h1>Not here</h1><p>This page does not exist. Search above, or begin at the "
        text += '<a href="index.html">start</a>.</p>'
        self._write("404.html", "Not here", text, Outline(), None)

    def _write(
        self, page: str, name: str, body: str, outline: Outline, chapter: Chapter | None
    ) -> None:
        """Put a body into the frame."""
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
        text = re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], frame)
        path = self.out / page
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


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


def relative(target: str, page: str) -> str:
    """The address of a page or folder, seen from a page."""
    return posixpath.relpath(target, posixpath.dirname(page) or ".")


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
