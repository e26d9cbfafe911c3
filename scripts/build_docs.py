"""Build the documentation site. Usage: build_docs.py [OUT] [--check]

nbdev processes the notebooks; Quarto renders them if it is on the PATH, smalldocs if not. Both read
nbs/_quarto.yml. --check also fails on broken links.
"""

from __future__ import annotations

import ast
import inspect
import os
import posixpath
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import fastcore.docments
import nbdev.processors
import nbdev.showdoc
import yaml
from nbdev.config import get_config
from nbdev.frontmatter import FrontmatterProc
from nbdev.quarto import nbdev_sidebar, refresh_quarto_yml
from nbdev.serve import proc_nbs

ROOT = Path(__file__).resolve().parent.parent
NOTICES = ("commonmark", "keep-md", "output-file")  # Quarto keys that smalldocs has no use for
TITLES = {"toy": "Toy world", "tutorials": "Guides"}  # of the sidebar's sections; others: the name
LINK = re.compile(r"\]\((?!\w+:|#)([^)\s#\"]+)(#[^)\s\"]*)?\)")  # target, anchor


def page(path: Path) -> Path:
    """Return a page's path without numbers: `core/schema.ipynb` for `0_core/05_schema.ipynb`."""
    folders = (re.sub(r"^\d+_", "", part) for part in path.parent.parts)
    return Path(*folders) / re.sub(r"^\d+[a-zA-Z0-9]*_", "", path.name.lower())


def needed(cell: Any) -> bool:
    """Does the page of this cell need it to be run? Imports, exported code, and what asks for it.

    nbdev also runs every other cell in which an import occurs, without the cells that it builds on.
    """
    if cell.cell_type != "code" or not cell.source or "false" in cell.directives_.get("eval:", []):
        return False
    if cell.directives_.keys() & {"export", "exports", "exporti", "exec_doc"}:
        return True
    body = ast.parse(
        "\n".join(line for line in cell.source.splitlines() if line[:1] not in "%!")
    ).body
    return any("show_doc" in ast.unparse(node) for node in body) or (
        bool(body) and all(isinstance(node, ast.Import | ast.ImportFrom) for node in body)
    )


def relink(text: str, folder: Path, source: str) -> str:
    """Return a page's text with its links made good for the site.

    Parameters
    ----------
    text : of a notebook in `folder` (below nbs/, numbers included).
    source : address of the repository's files; links that leave nbs/ go there.
    """

    def better(link: re.Match[str]) -> str:
        target, anchor = link[1], link[2] or ""
        path = target[1:] if target[0] == "/" else posixpath.join(folder.as_posix(), target)
        path = posixpath.normpath(path)
        if path.startswith("../"):
            return f"]({source}/{path[3:]}{anchor})"
        if not path.endswith((".ipynb", ".html")):
            return link[0]
        new = posixpath.relpath(page(Path(path)).as_posix(), page(folder / "x").parent.as_posix())
        return f"]({new}{anchor})"

    return LINK.sub(better, text)


def sidebar(pages: list[Path]) -> str:
    """Return sidebar.yml: one section per folder, in the order of the numbers, titles readable.

    Parameters
    ----------
    pages : of the notebooks, below nbs/, numbers included.
    """
    contents: list[Any] = ["index.ipynb"]
    sections: dict[Path, list[str]] = {}
    for path in sorted(pages):
        if path.parent != Path():
            sections.setdefault(path.parent, []).append(page(path).as_posix())
    for folder, names in sections.items():
        name = page(folder / "x").parent.name
        contents.append({"section": TITLES.get(name, name.capitalize()), "contents": names})
    return yaml.safe_dump({"website": {"sidebar": {"contents": contents}}}, sort_keys=False)


def keep_introduction(self: FrontmatterProc, read: Any, cell: Any) -> None:
    """Take title and subtitle from the first cell, and keep what follows them on the page.

    nbdev drops the whole cell.
    """
    head = re.match(r"\s*# .+\n*(?:> .+\n*)*", cell.source or "")
    text = head[0] if head and cell.cell_type == "markdown" else cell.source
    if text and (fields := read(text)):
        self.fm.update(fields)
        cell.source = cell.source[len(text) :] or None


def sections(docstring: str) -> str:
    """Return the sections of a docstring (Parameters, Returns …) as Markdown, entries as a list."""
    parts = re.split(r"^(\w[\w ]*)\n-{3,}\n", docstring, flags=re.M)
    text = ""
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        entries = re.sub(r"\n[ \t]+", " ", body.strip())  # one line per entry
        entries = re.sub(r"^([\w*][\w*., ]*) : ", r"- `\1`: ", entries, flags=re.M)
        text += f"\n\n**{name}**\n\n{entries}"
    return text


class FullRenderer(nbdev.showdoc.BasicMarkdownRenderer):
    """nbdev's renderer of a symbol, with the sections of its docstring, which nbdev leaves out."""

    def _repr_markdown_(self) -> str:
        return super()._repr_markdown_() + sections(inspect.getdoc(self.sym) or "")


def lenient_signature(symbol: Any, *, eval_str: bool = False, **options: Any) -> inspect.Signature:
    """`inspect.signature`; annotations stay text where a name is there for type checkers only."""
    try:
        return inspect.signature(symbol, eval_str=eval_str, **options)
    except NameError:
        return inspect.signature(symbol, **options)


def process() -> Path:
    """Run nbdev's processing; return its folder, pages without the numbers of folders and files."""
    cfg = get_config()
    refresh_quarto_yml()
    nbdev_sidebar.__wrapped__()
    shutil.rmtree("_proc", ignore_errors=True)
    nbdev.processors._do_eval = needed
    nbdev.showdoc.BasicMarkdownRenderer = FullRenderer
    FrontmatterProc._update = keep_introduction
    fastcore.docments.signature = lenient_signature
    cache = Path(proc_nbs(cfg.nbs_path, n_workers=0))  # in this process, where the lines above hold
    notebooks = [path.relative_to(cache) for path in cache.rglob("*.ipynb")]
    source = f"{cfg.git_url}/blob/{cfg.branch}"
    for path in notebooks:
        text = relink((cache / path).read_text(encoding="utf-8"), path.parent, source)
        (cache / path).unlink()
        new = cache / page(path)
        new.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(text, encoding="utf-8")
    for folder in {path.parent for path in notebooks if path.parent != page(path).parent}:
        shutil.rmtree(cache / folder)
    (cache / "sidebar.yml").write_text(sidebar(notebooks), encoding="utf-8")
    return cache


def problems(cache: Path) -> list[str]:
    """Return what smalldocs finds wrong with the pages, but for notices about Quarto's keys."""
    done = subprocess.run([tool("smalldocs"), "check", str(cache)], text=True, capture_output=True)
    if "page(s);" not in done.stderr:
        raise RuntimeError(f"smalldocs check did not finish:\n{done.stderr}")
    return [line for line in done.stdout.splitlines() if not any(key in line for key in NOTICES)]


def tool(name: str) -> str:
    """Return the command of this environment, whether or not it is activated."""
    return str(Path(sys.executable).parent / name)


def main(args: list[str]) -> int:
    """Build the site into OUT and return the exit status."""
    os.chdir(ROOT)
    out = Path(next((a for a in args if not a.startswith("-")), "_docs"))
    cache = process()
    quarto = shutil.which("quarto")
    subprocess.run([quarto or tool("smalldocs"), "render", str(cache)], check=True)
    shutil.rmtree(out, ignore_errors=True)
    shutil.move(str(cache / get_config().doc_path.name), out)
    faults = problems(cache) if "--check" in args else []
    print("\n".join(faults) if faults else f"{len(list(out.rglob('*.html')))} pages in {out}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
