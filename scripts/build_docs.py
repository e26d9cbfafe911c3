"""Build the documentation site. Usage: build_docs.py [OUT] [--check] | --gaps

The pages are drawn from the notebooks as they are saved: nothing is run or downloaded, and of the
package only the parser of its commands is imported.
What GitHub Pages shows is what this writes. --check also fails on broken links.
--gaps builds nothing and lists pictures without words and parameters that no docstring names.
"""

from __future__ import annotations

import configparser
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT)]  # also where this file is loaded by its path

from docs_site.gaps import gaps  # noqa: E402
from docs_site.links import problems  # noqa: E402
from docs_site.pages import Site  # noqa: E402

from videothinker.commands.main import build_parser  # noqa: E402


def project_site(out: Path) -> Site:
    """The site of this project, as settings.ini describes it."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    settings = parser["DEFAULT"]
    return Site(
        root=ROOT,
        out=out,
        title=settings["title"],
        description=settings["description"],
        version=settings["version"],
        source=f"{settings['git_url']}/blob/{settings['branch']}",
        package=settings["lib_name"],
        parser=build_parser(),
    )


def main(args: list[str]) -> int:
    """Build the site into OUT and return the exit status."""
    out = Path(next((a for a in args if not a.startswith("-")), ROOT / "_docs"))
    site = project_site(out)
    if "--gaps" in args:
        print("\n".join(gaps(site.book.chapters)))
        return 0
    site.build()
    faults = problems(out) if "--check" in args else []
    print("\n".join(faults) if faults else f"{len(list(out.rglob('*.html')))} pages in {out}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
