"""The documentation site. Usage: build_docs.py [OUT] [--check]

nbdev processes the notebooks; Quarto renders them if it is on the PATH, smalldocs if not. Both read nbs/_quarto.yml.
--check also fails on broken links.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbdev.processors
from nbdev.config import get_config
from nbdev.quarto import nbdev_sidebar, refresh_quarto_yml
from nbdev.serve import proc_nbs

ROOT = Path(__file__).resolve().parent.parent
NOTICES = ("commonmark", "keep-md", "output-file")  # Quarto keys that smalldocs has no use for


def page(path: Path) -> Path:
    """Return the page's file name as nbdev links to it: `schema.ipynb`, not `00_schema.ipynb`."""
    return path.with_name(re.sub(r"^\d+[a-zA-Z0-9]*_", "", path.name.lower()))


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


def relink(text: str, renamed: dict[str, str], source: str) -> str:
    """Return a page's text with its links to notebooks and to files outside nbs/ made good for the site."""
    for old, new in renamed.items():
        text = re.sub(rf"(\]\((?:\.\./)?){re.escape(old)}(?=[#)])", rf"\g<1>{new}", text)
    return re.sub(r"\]\(\.\./(?![\w/]*\.ipynb)(?!\.\.)", rf"]({source}/", text)


def process() -> Path:
    """Run nbdev's processing and return its folder, with the numbers taken off the names of the pages."""
    cfg = get_config()
    refresh_quarto_yml()
    nbdev_sidebar.__wrapped__()
    shutil.rmtree("_proc", ignore_errors=True)
    nbdev.processors._do_eval = needed
    cache = Path(proc_nbs(cfg.nbs_path, n_workers=0))  # in this process, where the line above holds
    pages = sorted(cache.rglob("*.ipynb"))
    renamed = {
        p.relative_to(cache).as_posix(): page(p).relative_to(cache).as_posix()
        for p in pages
        if page(p) != p
    }
    for nb in pages:
        text = relink(nb.read_text(encoding="utf-8"), renamed, f"{cfg.git_url}/blob/{cfg.branch}")
        nb.unlink()
        page(nb).write_text(text, encoding="utf-8")
    sidebar = cache / "sidebar.yml"
    text = sidebar.read_text(encoding="utf-8")
    for old, new in renamed.items():
        text = text.replace(old, new)
    sidebar.write_text(text, encoding="utf-8")
    return cache


def problems(cache: Path) -> list[str]:
    """Return what smalldocs finds wrong with the pages, its notices about Quarto's keys left out."""
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
    found = problems(cache) if "--check" in args else []
    print("\n".join(found) if found else f"{len(list(out.rglob('*.html')))} pages in {out}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
