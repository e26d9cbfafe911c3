"""The documentation site and what it is made of: chapters, entries of names, links, lines."""

from __future__ import annotations

import argparse
import ast
import base64
import html
import json
import re
import subprocess
import sys
from pathlib import Path

import yaml
from conftest import ROOT, load_script, notebooks

build_docs = load_script("build_docs")  # and with it scripts/ is on the path
from docs_site import api, book, chapters, commands, gaps, links, markup, pages  # noqa: E402


def code(source: str, **more) -> dict:
    """A code cell of a notebook file."""
    return {"cell_type": "code", "source": source, "outputs": [], **more}


def text(source: str) -> dict:
    """A Markdown cell of a notebook file."""
    return {"cell_type": "markdown", "source": source}


def draw(tmp_path: Path, cells: list[dict], path: str = "5_training/16_x.ipynb") -> str:
    """The page of a project that has one notebook more than its first page."""
    first = {"cells": [text("# Start\n\n> Begin here")]}
    for name, notebook in {"index.ipynb": first, path: {"cells": cells}}.items():
        file = tmp_path / "nbs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(notebook))
    source, parser = "https://e.org/r/blob/main", argparse.ArgumentParser()
    site = pages.Site(tmp_path, tmp_path / "out", "T", "d", "1", source, "pack", parser)
    site.build()
    assert links.problems(site.out) == []
    page = chapters.page_path(Path(path)).with_suffix(".html")
    return (site.out / page).read_text(encoding="utf-8")


# What the site says


def page_of(notebook: Path, site: Path) -> Path:
    """The page of a notebook."""
    path = notebook.relative_to(ROOT / "nbs").with_suffix(".html")
    return site / chapters.page_path(path)


def test_every_notebook_has_a_page(site: Path) -> None:
    found = [page_of(path, site) for path in notebooks()]
    assert len(set(found)) == len(found)
    assert not [page for page in found if not page.exists()]
    assert not list(site.glob("[0-9]*_*"))  # no folder has kept its number


def test_every_exported_name_has_an_entry(site: Path) -> None:
    """Against the package itself, which is made by another tool."""
    wanted = 0
    for path in notebooks():
        module = re.search(r"#\| default_exp ([\w.]+)", path.read_text(encoding="utf-8"))
        source = ROOT / "videothinker" / f"{module[1].replace('.', '/')}.py" if module else None
        if source is None or not source.exists():
            continue
        page = page_of(path, site).read_text(encoding="utf-8")
        anchors = set(re.findall(r'<h\d id="([^"]+)"', page))
        for node in ast.parse(source.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                names = [name for name in ast.literal_eval(node.value) if name[0] != "_"]
                missing = [name for name in names if name not in anchors]
                assert missing == [], path.name
                wanted += len(names)
    assert wanted > 800


def test_published_is_what_is_tested() -> None:
    """GitHub Pages and continuous integration run the command of the `site` fixture."""
    command = "scripts/build_docs.py _docs --check"
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "docs.yaml").read_text())
    steps = [step.get("run", "") for step in workflow["jobs"]["build"]["steps"]]
    assert [step for step in steps if command in step]
    assert command in (ROOT / ".ci" / "run").read_text()
    source = (ROOT / "scripts" / "build_docs.py").read_text()
    assert not re.search("quarto|subprocess|shutil", source)  # one renderer


def test_pages_keep_introductions_and_tables(site: Path) -> None:
    page = (site / "viewer" / "report.html").read_text(encoding="utf-8")
    assert "What a reader wants to know fits on one page" in page  # of the first cell
    page = (site / "training" / "grpo.html").read_text(encoding="utf-8")
    entry = page[page.index('id="VideoGRPOConfig"') :].partition("</section>")[0]
    assert "rollout_rows" in entry and ">256<" in entry
    assert "per_device_eval_batch_size" not in entry  # what it inherits stays where it is
    assert re.search(
        r'inherited from <a href="https://[^"]+"><code>trl.GRPOConfig</code></a>', entry
    )


def test_the_search_knows_names_and_prose(site: Path) -> None:
    script = (site / "search.js").read_text(encoding="utf-8")
    index = json.loads(script.removeprefix("window.searchIndex="))
    known = {(page, section[0]) for page, _, sections in index for section in sections}
    assert ("core/trace.html", "parse_trace") in known
    assert ("commands.html", "grpo") in known
    assert len(index) == len(notebooks()) + 1  # and the commands
    assert len(script.encode()) < 1_000_000


def test_the_commands_are_the_programs_own(site: Path) -> None:
    page = (site / "commands.html").read_text(encoding="utf-8")
    known = commands.subparsers(build_docs.build_parser())
    assert re.findall(r'<h2 id="([\w-]+)"', page) == list(known)
    parts = dict(zip(known, page.split("<h2 ")[1:], strict=True))
    for name, parser in known.items():
        flags = {flag for a in parser._actions for flag in a.option_strings}
        cells = re.findall(r'<td data-name="Name"><code>(-[^<]+)', parts[name])
        shown = [flag for cell in cells for flag in cell.split(", ")]
        assert sorted(shown) == sorted(flags - {"-h", "--help", "--debug"}), name
    assert '<a href="commands/models.html#run_training">' in parts["grpo"]
    assert "commands.html" in (site / "core" / "trace.html").read_text(encoding="utf-8")


def test_the_site_is_built_without_the_libraries_of_training() -> None:
    code = (
        "import sys; sys.path.insert(0, 'scripts'); import build_docs;"
        "build_docs.project_site(build_docs.ROOT);"
        "print({'torch', 'numpy', 'transformers'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_site_texts_ask_no_other_server() -> None:
    for path in (ROOT / "scripts" / "docs_site").glob("*.[chj][stp]*"):
        source = path.read_text(encoding="utf-8")
        assert not re.search(r"https?:|@import|\burl\(|\bcdn\b", source), path.name
        assert max(map(len, source.splitlines())) <= 100, path.name


# How pages are made


def test_site_links_follow_the_pages() -> None:
    source, room = "https://e.org/r", Path("7_viewer")
    for target, made in {
        "../0_core/02_a.ipynb#x": "../core/a.html#x",
        "03_b.ipynb": "b.html",
        "../../data/README.md": "https://e.org/r/data/README.md",
        "#e": "#e",
        "https://e.org/../x.html": "https://e.org/../x.html",
        "/1_video/f.html#g": "../video/f.html#g",
    }.items():
        assert book.site_link(target, room, source) == made
    for target, made in {
        "0_core/02_a.ipynb": "core/a.html",
        "../LICENSE": "https://e.org/r/LICENSE",
        "images/e.png": "images/e.png",
    }.items():
        assert book.site_link(target, Path(), source) == made


def test_rooms_come_in_their_order_then_the_guides() -> None:
    names = (
        "tutorials/zoo",
        "8_toy/10_b",
        "8_toy/02_a",
        "tutorials/training",
        "index",
        "0_core/01_f",
    )
    made = [chapters.Chapter(Path(f"{name}.ipynb"), "", "", "", "") for name in names]
    assert [c.path.stem for c in sorted(made, key=book.reading_order)] == [
        *("index", "01_f", "02_a", "10_b", "training", "zoo")
    ]


def test_checks_are_folded_and_examples_are_not(tmp_path: Path) -> None:
    page = draw(
        tmp_path,
        [
            text("# X\n\n> About"),
            code("#| hide\nassert first == 1"),
            code("#| hide\ntest_eq(second, 2)"),
            code("example = 1\nassert example"),
            code("assert a\nassert b\nassert c\nwith pytest.raises(E):\n    d()\nassert wall"),
            code("#| hide\nimport hidden_module"),
        ],
    )
    folds = re.findall(
        r"<details class=\"fold \w+\"><summary>(\w+)</summary>(.*?)</details>", page, re.S
    )
    words = [
        (reason, re.findall("first|second|example|wall|hidden_module", body))
        for reason, body in folds
    ]
    assert words == [
        *(("Checks", ["first", "second"]), ("Checks", ["wall"]), ("Imports", ["hidden_module"]))
    ]
    assert "<details" not in page[page.index("example") - 200 : page.index("example")]
    assert 'class="fold checks" open' not in page


def test_headings_never_skip_a_level_and_anchors_are_unique() -> None:
    outline = markup.Outline()
    html = markup.Markdown().html("#### Deep\n\n# Deep\n\n##### Deeper `x`", outline)
    assert [(h.level, h.anchor) for h in outline.headings] == [
        *((2, "deep"), (2, "deep-1"), (3, "deeper-x"))
    ]
    assert '<h2 id="deep">Deep' in html and "</h3>" in html


def test_code_has_spans_where_the_style_sheet_has_colours() -> None:
    html = markup.code_block("@f\nx = g(1, 'a') if None else b  # c < d\n")
    assert html == (
        '<pre class="code"><code><span class="nd">@f</span>\nx = g(<span class="mi">1</span>, '
        '<span class="s1">\'a\'</span>) <span class="k">if</span> '
        '<span class="kc">None</span> <span class="k">else</span> b  '
        '<span class="c1"># c &lt; d</span></code></pre>\n'
    )
    assert "<code>a &lt;b&gt;</code>" in markup.code_block("a <b>", "no-such")
    sheet = (ROOT / "scripts" / "docs_site" / "site.css").read_text(encoding="utf-8")
    lists = re.findall(r"^pre :is\((.*?)\)", sheet, re.M)
    assert set(", ".join(lists).replace(".", "").split(", ")) == markup.COLOURED


def test_formulas_are_drawn_by_the_browser() -> None:
    html = markup.Markdown().html("It costs $5 and $10. But $x_i$ and\n\n$$\\frac{a}{b}$$")
    assert "It costs $5 and $10." in html
    assert html.count("<math") == 2 and "<mfrac>" in html and 'display="block"' in html


DOCUMENTED = '''
@dataclass
class Config(trl.Base):
    """What it is.

    Parameters
    ----------
    a, b : first
        and on
    **rest : of `trl.Base`.

    Raises
    ------
    ValueError : if `a` is wrong.
    """

    a: int
    b: list[str] = field(default_factory=list)
    c: float = 0.5  # a share
    d: int = field(default=3, metadata={"help": "How many."})

    def step(self, size: int = 1, *, fast: bool = True) -> "Config | None":
        """Go on.

        Returns
        -------
        The next one
        or None.
        """
        return None

    def _private(self): ...


def _helper(): ...


FAR, NEAR = 2, 1
_HIDDEN = 0
'''


def test_entries_are_read_from_the_source() -> None:
    config, *constants = api.exported(DOCUMENTED)
    assert [(c.name, c.signature) for c in constants] == [
        *(("FAR", "FAR, NEAR = 2, 1"), ("NEAR", "FAR, NEAR = 2, 1"))
    ]
    assert config.signature == "@dataclass\nclass Config(trl.Base)"
    assert config.text == "What it is."
    rows = [(row.name, row.type, row.default, row.meaning) for row in config.sections["Fields"]]
    assert rows == [
        ("a", "int", "", "first and on"),
        ("b", "list[str]", "list()", "first and on"),
        ("c", "float", "0.5", "a share"),
        ("d", "int", "3", "How many."),
        ("**rest", "", "", "of `trl.Base`."),
    ]
    assert config.sections["Raises"] == [api.Row("ValueError", meaning="if `a` is wrong.")]
    (step,) = config.members
    assert (
        step.signature == 'def step(self, size: int = 1, *, fast: bool = True) -> "Config | None"'
    )
    assert [(row.name, row.default) for row in step.sections["Parameters"]] == [
        *(("size", "1"), ("fast", "True"))
    ]
    assert step.sections["Returns"] == [
        api.Row("", "'Config | None'", meaning="The next one or None.")
    ]


def test_an_entry_on_its_page(tmp_path: Path) -> None:
    page = draw(
        tmp_path,
        [
            code("#| default_exp training.x"),
            text("# X\n\n> About\n\nSee `Config.step` and `Config`."),
            code("#| export\nimport trl"),
            code("#| export\n" + DOCUMENTED),
        ],
    )
    assert '<a href="#Config.step"><code>Config.step</code></a>' in page
    assert "Fields and methods of its own only" in page and "huggingface.co/docs/trl" in page
    assert "<summary>Source</summary>" in page
    assert re.search(
        r'<td data-name="Default"><code>0.5</code></td><td data-name="Meaning">a share', page
    )


def test_outputs_in_their_richest_form(tmp_path: Path) -> None:
    header = b"\x89PNG\r\n\x1a\n" + bytes(8) + (1).to_bytes(4, "big") * 2
    pixel = base64.b64encode(header).decode()
    shown = {"output_type": "display_data", "data": {"text/plain": "<Figure>", "image/png": pixel}}
    widget = {
        "output_type": "execute_result",
        "data": {"text/plain": "W", "text/html": ["<b>", "w</b>"]},
    }
    stream = {"output_type": "stream", "name": "stdout", "text": "a \x1b[31m<b>\x1b[0m"}
    cell = code(
        '#| fig-cap: "Lanes & `tIoU`"\n#| echo: false\nhidden_call()',
        outputs=[shown, widget, stream],
    )
    page = draw(tmp_path, [text("# X\n\n> About"), cell])
    assert 'alt="Lanes &amp; tIoU" width="1" height="1"' in page
    assert "<figcaption>Lanes &amp; <code>tIoU</code></figcaption>" in page
    assert "<b>w</b>" in page and "&lt;Figure" not in page and "hidden_call" not in page
    assert '<pre class="output">a &lt;b&gt;</pre>' in page


def test_arguments_of_a_command() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--version", action="version", version="1")
    sub = parser.add_subparsers().add_parser("cut", description="cut it", epilog="a & b")
    sub.add_argument("clip", nargs="?")
    sub.add_argument("--at", type=int, nargs="+", required=True, help="seconds")
    sub.add_argument("--by", choices=["a", "b"], default="b", help="%(default)s or <a>")
    sub.add_argument_group("more", "of it").add_argument("--fast", action="store_true")
    outline = markup.Outline()
    page = commands.commands_page(parser, markup.Markdown(), outline)
    assert [(h.text, h.anchor) for h in outline.headings] == [("videothinker cut", "cut")]
    lines = html.unescape(re.sub("<[^>]+>", "", page.replace("</td>", " | "))).splitlines()
    assert [line.strip(" |") for line in lines[lines.index("Cut it.") :] if line] == [
        "Cut it.",
        "videothinker cut [CLIP] --at AT … [FLAGS]",
        *("Arguments", "Name", "CLIP"),
        *("Flags", "NameTakesDefaultMeaning"),
        "--at | AT … |  | required: seconds",
        "--by | a|b | b | b or <a>",
        *("More (of it)", "Name", "--fast"),
        "A & b.",
    ]


def test_gaps_are_pictures_and_parameters_without_words() -> None:
    picture = [{"output_type": "display_data", "data": {"image/png": "", "text/plain": ""}}]
    cells = [
        code("#| fig-alt: words\nf()", outputs=picture),
        code("f()", outputs=picture),
        code("#| export\n" + DOCUMENTED),
    ]
    chapter = chapters.Chapter(
        Path("x.ipynb"), "", "X", "", "x", [chapters.Cell.read(cell) for cell in cells]
    )
    assert gaps.gaps([chapter]) == [
        "x.ipynb: 1 pictures without fig-alt or fig-cap",
        "x.ipynb: Config.step: size, fast",
    ]


def test_this_book_has_none(tmp_path: Path) -> None:
    found = build_docs.project_site(tmp_path).book
    assert gaps.gaps(found.chapters) == []


def test_the_link_check_finds_what_is_broken(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        "<p id=x></p><p id=x></p><a href=b.html>1</a><a href=#y>2</a><a href='http://'>3</a>"
        "<a href=/a.html>4</a><img src=https://e.org/p.png><a href='javascript:x'>5</a>"
        "<a href=#x>6</a><a href=https://e.org/x#y>7</a><svg><g id=x></g></svg>"
    )
    found = [line.removeprefix("a.html:") for line in links.problems(tmp_path)]
    assert [re.sub(r"^1: ", "", line).strip() for line in found] == [
        "the anchor #x is there twice",
        "b.html: leads to nothing",
        "#y: a.html has no such anchor",
        "http://: is no address",
        "/a.html: begins at the server's root, and the site may be anywhere",
        "https://e.org/p.png: asks another server",
        "javascript:x: has the scheme javascript",
    ]


# What notebooks say


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
