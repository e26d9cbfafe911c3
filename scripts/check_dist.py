"""What the wheel and the sdist hold. Usage: check_dist.py DIST_FOLDER"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BASES = "data/tiny-*/*"  # in a wheel they lie in the package


def package_files(root: Path) -> set[str]:
    """Return the files of the package: modules, typing marker, presets, static files."""
    package = root / "videothinker"
    files = {*package.rglob("*.py"), package / "py.typed"}
    files |= {p for p in (package / "presets").rglob("*.yaml")}
    files |= {p for p in package.rglob("static/*") if p.is_file()}
    return {p.relative_to(root).as_posix() for p in files}


def missing(dist: Path, root: Path = ROOT) -> list[str]:
    """Return what is missing in the wheel or the sdist of `dist`, and what should not be there."""
    (wheel,) = dist.glob("*.whl")
    (sdist,) = dist.glob("*.tar.gz")
    package = package_files(root)
    base = {p.relative_to(root).as_posix() for p in root.glob(BASES)}
    packaged_base = {name.replace("data/", "videothinker/presets/", 1) for name in base}
    sources = package | base | {"settings.ini", "setup.py", "LICENSE", "README.md"}
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    with tarfile.open(sdist) as tar:
        in_sdist = {name.split("/", 1)[-1] for name in tar.getnames()}
    wrong = [f"wheel: no {m}" for m in sorted((package | packaged_base) - in_wheel)]
    wrong += [f"sdist: no {m}" for m in sorted(sources - in_sdist)]
    stray = {n.split("/")[0] for n in in_wheel} - {"videothinker"}
    wrong += [f"wheel: unexpected {n}" for n in sorted(stray) if not n.endswith(".dist-info")]
    modules = {n for n in in_wheel if n.startswith("videothinker/") and n.endswith(".py")}
    wrong += [f"wheel: old {n}" for n in sorted(modules - package)]
    return wrong


if __name__ == "__main__":
    found = missing(Path(sys.argv[1]))
    print("\n".join(found) or "wheel and sdist are complete")
    sys.exit(1 if found else 0)
