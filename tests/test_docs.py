"""The documentation site: every notebook has a page, links hold, and the pages need no network."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, load_script, notebooks


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built once."""
    out = tmp_path_factory.mktemp("site") / "docs"
    args = [sys.executable, "scripts/build_docs.py", str(out), "--check"]
    done = subprocess.run(args, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_every_notebook_has_a_page(site: Path) -> None:
    pages = {p.relative_to(site).as_posix() for p in site.rglob("*.html")}
    wanted = (p.relative_to(ROOT / "nbs").with_suffix(".html") for p in notebooks())
    assert {load_script("build_docs").page(p).as_posix() for p in wanted} <= pages


def test_no_page_names_what_is_not_there(site: Path) -> None:
    for path in site.rglob("*.html"):
        for link in re.findall(r'href="([^"#:]+\.html)', path.read_text(encoding="utf-8")):
            assert (path.parent / link).exists(), f"{path.name} links to {link}"


@pytest.mark.browser
def test_pages_open_without_network_or_errors(site: Path, open_page) -> None:
    for name in ("index.html", "trace.html"):
        page = open_page(site / name)
        assert page.locator("h1").first.inner_text()
        assert page.requested == []
        # a page opened as a file may not fetch the search index beside it; everything else has to be quiet
        assert [e for e in page.errors if "search.json" not in e and "file://" not in e] == []
