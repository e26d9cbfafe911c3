"""What the wheel and the sdist hold. Usage: check_dist.py DIST_FOLDER"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def missing(dist: Path, root: Path = ROOT) -> list[str]:
    """Return what should be in the wheel or the sdist of `dist` and is not, or should not be and is."""
    (wheel,) = dist.glob("*.whl")
    (sdist,) = dist.glob("*.tar.gz")
    modules = {p.relative_to(root).as_posix() for p in (root / "videothinker").rglob("*.py")}
    modules |= {"videothinker/py.typed"}
    sources = modules | {"settings.ini", "setup.py", "LICENSE", "README.md"}
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    with tarfile.open(sdist) as tar:
        in_sdist = {name.split("/", 1)[-1] for name in tar.getnames()}
    wrong = [f"wheel: no {m}" for m in sorted(modules - in_wheel)]
    wrong += [f"sdist: no {m}" for m in sorted(sources - in_sdist)]
    stray = {n.split("/")[0] for n in in_wheel} - {"videothinker"}
    wrong += [f"wheel: unexpected {n}" for n in sorted(stray) if not n.endswith(".dist-info")]
    return wrong


if __name__ == "__main__":
    found = missing(Path(sys.argv[1]))
    print("\n".join(found) or "wheel and sdist are complete")
    sys.exit(1 if found else 0)
