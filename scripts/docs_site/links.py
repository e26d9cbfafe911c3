"""The link check: every link within the site, every anchor and every picture leads somewhere."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LINKS = {
    "a": "href",
    "link": "href",
    "img": "src",
    "script": "src",
    "source": "src",
    "video": "src",
}
EMBEDDED = ("img", "script", "link", "source", "video")  # what a browser asks for by itself


@dataclass
class Page(HTMLParser):
    """The anchors of a page, and its links with the line they stand in."""

    anchors: set[str] = field(default_factory=set)
    links: list[tuple[str, str, int]] = field(default_factory=list)  # tag, address, line
    twice: list[str] = field(default_factory=list)  # anchors that are there more than once
    drawing: int = 0  # depth in drawings, whose parts have names of their own

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag links to and what may be linked to."""
        values = dict(attrs)
        self.drawing += tag == "svg"
        if name := values.get("id"):
            if not self.drawing and name in self.anchors:
                self.twice.append(name)
            self.anchors.add(name)
        address = values.get(LINKS.get(tag, ""))
        if address is not None:
            self.links.append((tag, address, self.getpos()[0]))

    def handle_endtag(self, tag: str) -> None:
        """A drawing ends."""
        self.drawing -= tag == "svg" and self.drawing > 0


def problems(site: Path) -> list[str]:
    """What is wrong with the links of a site's pages, one line each."""
    pages = {path.relative_to(site).as_posix(): read(path) for path in site.rglob("*.html")}
    found = []
    for name, page in sorted(pages.items()):
        found += [f"{name}: the anchor #{anchor} is there twice" for anchor in page.twice]
        for tag, address, line in page.links:
            if why := fault(tag, address, name, pages, site):
                found.append(f"{name}:{line}: {address}: {why}")
    return found


def read(path: Path) -> Page:
    """A page's anchors and links."""
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def fault(tag: str, address: str, page: str, pages: dict[str, Page], site: Path) -> str | None:
    """What is wrong with a link, or None."""
    try:
        parts = urlsplit(address)
    except ValueError as error:
        return str(error)
    if parts.scheme in ("http", "https"):
        if tag in EMBEDDED:
            return "asks another server"
        well_formed = parts.hostname and not set(address) & set(" <>\"'`")
        return None if well_formed else "is no address"
    if parts.scheme:
        return None if parts.scheme in ("data", "mailto") else f"has the scheme {parts.scheme}"
    if address.startswith("/"):
        return "begins at the server's root, and the site may be anywhere"
    target = posixpath.normpath(posixpath.join(posixpath.dirname(page), unquote(parts.path)))
    if not parts.path:
        target = page
    if not (site / target).is_file():
        return "leads to nothing"
    anchor = unquote(parts.fragment)
    if anchor and target in pages and anchor not in pages[target].anchors:
        return f"{target} has no such anchor"
    return None
