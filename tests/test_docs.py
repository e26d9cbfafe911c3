"""The documentation site, and what it is made of: pages, links, no network, lines that fit."""

from __future__ import annotations

import ast
import json
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
    done = subprocess.run(args, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def page_of(notebook: Path, site: Path) -> Path:
    """The page of a notebook."""
    path = notebook.relative_to(ROOT / "nbs").with_suffix(".html")
    return site / load_script("build_docs").page(path)


def test_every_notebook_has_a_page(site: Path) -> None:
    pages = [page_of(path, site) for path in notebooks()]
    assert len(set(pages)) == len(pages)
    assert not [page for page in pages if not page.exists()]
    assert not list(site.glob("[0-9]*"))  # no folder has kept its number


def prose(path: Path) -> str:
    """The markdown of a notebook or a text file, without its code."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def test_links_between_files_lead_somewhere() -> None:
    """The site drops the numbers of notebooks and cannot see a wrong one."""
    for path in [*notebooks(), *ROOT.glob("*.md")]:
        for target in re.findall(r"\]\(([^)\s#]+)", prose(path)):
            if not target.startswith(("http", "mailto")):
                assert (path.parent / target).exists(), f"{path.relative_to(ROOT)}: {target}"


def test_no_page_names_what_is_not_there(site: Path) -> None:
    for path in site.rglob("*.html"):
        for link in re.findall(r'href="([^"#:]+\.html)', path.read_text(encoding="utf-8")):
            assert not link.startswith("/"), f"{path.name} links to {link}: not as a file"
            assert (path.parent / link).exists(), f"{path.name} links to {link}"


def test_pages_keep_introductions_and_docstrings(site: Path) -> None:
    text = (site / "viewer" / "report.html").read_text(encoding="utf-8")
    assert "What a reader wants to know fits on one page" in text  # of the first cell
    assert "<strong>Parameters</strong>" in text


@pytest.mark.browser
def test_pages_open_without_network_or_errors(site: Path, open_page) -> None:
    for name in ("index.html", "core/trace.html", "viewer/report.html"):
        page = open_page(site / name)
        assert page.locator("h1").first.inner_text()
        assert page.requested == []
        # opened as a file, a page may not fetch the search index; everything else has to be quiet
        assert [e for e in page.errors if "search.json" not in e and "file://" not in e] == []


CUT_OFF = """() => [...document.querySelectorAll('pre.sourceCode')]
    .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent)"""


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 1600])
def test_code_is_not_cut_off(site: Path, open_page, width: int) -> None:
    for name in ("index.html", "training/grpo.html", "viewer/charts.html"):
        page = open_page(site / name, viewport={"width": width, "height": 900})
        assert page.evaluate(CUT_OFF) == [], name


# The package as people read it


def long_lines(source: str) -> list[str]:
    """Lines of a module over 100 columns.

    Two kinds are not ours to break: nbdev writes a notebook's subtitle as one line, the first, and
    wraps `__all__` at 120.
    """
    ours = {
        number
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    lines = enumerate(source.splitlines(), 1)
    return [line for number, line in lines if len(line) > 100 and number > 1 and number not in ours]


def test_long_lines_are_found() -> None:
    long = "x" * 101
    source = f'"""{long}"""\n\n__all__ = ["a",\n           "{long}"]\n# {long}\ny = "{long}"\n'
    assert long_lines(source) == [f"# {long}", f'y = "{long}"']


def test_exported_lines_have_at_most_100_columns() -> None:
    modules = [p for p in (ROOT / "videothinker").rglob("*.py") if p.name != "_modidx.py"]
    for path in modules:
        assert long_lines(path.read_text(encoding="utf-8")) == [], path.relative_to(ROOT)
