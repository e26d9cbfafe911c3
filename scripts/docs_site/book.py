"""The book: its chapters in reading order, its parts, and where each name is documented."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .chapters import ROOMS, Chapter, page_path

# the others follow
GUIDES = ("house", "training", "evaluation_guide", "own_video", "raw_videos", "data")
SCHEME = re.compile(r"^[a-zA-Z][\w+.-]*:")


def relative(target: str, page: str) -> str:
    """The address of a page or folder, seen from a page."""
    return posixpath.relpath(target, posixpath.dirname(page) or ".")


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


@dataclass
class Book:
    """All notebooks below a folder.

    Attributes
    ----------
    nbs : the folder.
    package : name of the package that the notebooks export.
    """

    nbs: Path
    package: str

    @cached_property
    def chapters(self) -> list[Chapter]:
        """All notebooks in reading order."""
        paths = (path.relative_to(self.nbs) for path in self.nbs.rglob("*.ipynb"))
        paths = (path for path in paths if not any(part[0] in "._" for part in path.parts))
        return sorted((Chapter.read(self.nbs, path) for path in paths), key=reading_order)

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

    def documents(self, path: str, name: str, chapter: Chapter) -> bool:
        """Is a name among those that the page at `path`, seen from a chapter, documents?"""
        folder = posixpath.dirname(chapter.page)
        page = posixpath.normpath(posixpath.join(folder, path)) if path else chapter.page
        return any(place == page for place, _ in self.names.get(name, []))
