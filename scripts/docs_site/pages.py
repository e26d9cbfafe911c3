"""Pages: each chapter, the commands, all names, in the frame that they share."""

from __future__ import annotations

import argparse
import ast
import html
import posixpath
import re
import shutil
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from . import api
from .book import SCHEME, Book, relative, site_link
from .chapters import Chapter, Drawing
from .commands import commands_page
from .frame import HERE, LOOKUPS, Frame, neighbours
from .index import Index
from .markup import Markdown, Outline, plain, slug

PICTURE = re.compile(r"\.(png|jpe?g|gif|svg|webp|mp4|webm|avif)$")


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
    index: Index = field(default_factory=Index)

    @cached_property
    def book(self) -> Book:
        """The notebooks."""
        return Book(self.root / "nbs", self.package)

    @cached_property
    def frame(self) -> Frame:
        """What stands around every page."""
        return Frame(self.book, self.title, self.description, self.version, self.source)

    def build(self) -> None:
        """Write every page, the search's index and the files that all pages share."""
        shutil.rmtree(self.out, ignore_errors=True)
        (self.out / "media").mkdir(parents=True)
        for name in ("site.css", "site.js"):
            shutil.copy(HERE / name, self.out / name)
        for position, chapter in enumerate(self.book.chapters):
            self._chapter(position, chapter)
        self._commands_page()
        self._names_page()
        self._lost_page()
        (self.out / "search.js").write_text(self.index.script(), encoding="utf-8")
        (self.out / ".nojekyll").touch()

    def _chapter(self, position: int, chapter: Chapter) -> None:
        """The page of a notebook."""
        folder = chapter.path.parent
        markdown = Markdown(
            name_link=lambda name: self.book.name_link(name, chapter.page),
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
        self.index.note_page(chapter.page, chapter.name, about, drawing.outline)
        self.index.note_names(chapter, drawing.outline)
        head = self._head(chapter, markdown)
        around = neighbours(self.book.chapters, position)
        self._write(chapter.page, chapter.name, head + body + around, drawing.outline, chapter)

    def _local(self, target: str, chapter: Chapter) -> str:
        """The same link; a picture that it leads to is copied to the site."""
        path, mark, anchor = target.partition("#")
        if anchor and not SCHEME.match(target) and not self.book.documents(path, anchor, chapter):
            target = path + mark + slug(anchor)  # notebooks keep capitals in their anchors
        if path and not SCHEME.match(path) and PICTURE.search(path):
            file = posixpath.normpath(posixpath.join(posixpath.dirname(chapter.page), path))
            original = self.root / "nbs" / file
            if original.exists():
                (self.out / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(original, self.out / file)
        return target

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
        for room, chapters in self.book.rooms.items():
            anchor = outline.add(3, self.book.part_title(room), anchor=f"part-{room}").anchor
            items = "".join(
                f'<li><a href="{relative(c.page, page)}">{html.escape(c.name)}</a>'
                f'<span class="about">{html.escape(plain(c.subtitle))}</span></li>\n'
                for c in chapters
            )
            title = html.escape(self.book.part_title(room))
            parts.append(f'<h3 id="{anchor}">{title}</h3>\n<ul class="chapters">{items}</ul>\n')
        links = " · ".join(f'<a href="{address}">{name}</a>' for address, name in LOOKUPS)
        return "".join([*parts, f"<p>To look up: {links}</p>\n"])

    def _commands_page(self) -> None:
        """Every command with its flags."""
        outline, page = Outline(), "commands.html"
        markdown = Markdown(name_link=lambda name: self.book.name_link(name, page))
        body = commands_page(self.parser, markdown, outline)
        self.index.note_page(page, "Commands", "Every command with its flags", outline)
        self._write(page, "Commands", body, outline)

    def _names_page(self) -> None:
        outline = Outline()
        self._write("names.html", "All names", self.index.draw_names(outline), outline)

    def _lost_page(self) -> None:
        """What GitHub Pages shows for an address that does not exist; it may be at any depth."""
        text = "<h1>Not here</h1><p>This page does not exist. Search above, or begin at the "
        text += '<a href="index.html">start</a>.</p>'
        self._write("404.html", "Not here", text, Outline())

    def _write(
        self, page: str, name: str, body: str, outline: Outline, chapter: Chapter | None = None
    ) -> None:
        """Put a body into the frame and write the page."""
        path = self.out / page
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.frame.around(page, name, body, outline, chapter), encoding="utf-8")
