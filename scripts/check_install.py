"""An installed copy works: version, typing marker, the command. Usage: check_install.py

Run it with the Python of the environment to check; the package must come from there, not from a source folder.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT = 1.0  # seconds that `videothinker --help` may take


def help_seconds(command: Path, runs: int = 3) -> float:
    """Return the fastest of `runs` starts of `command --help`, away from the source folder."""
    best = float("inf")
    with tempfile.TemporaryDirectory() as elsewhere:
        for _ in range(runs):
            start = time.perf_counter()
            done = subprocess.run(
                [str(command), "--help"], cwd=elsewhere, capture_output=True, text=True, timeout=60
            )
            best = min(best, time.perf_counter() - start)
            if done.returncode:
                sys.exit(f"{command} --help failed:\n{done.stderr}")
    return best


def main() -> int:
    """Print what was found and return the exit status."""
    import videothinker

    where = Path(videothinker.__file__).resolve().parent
    wrong = []
    if not where.is_relative_to(Path(sys.prefix).resolve()):
        wrong.append(f"imported from {where}, not from the environment")
    if not (where / "py.typed").exists():
        wrong.append("py.typed is not installed")
    if importlib.metadata.version("videothinker") != videothinker.__version__:
        wrong.append("the installed metadata and __version__ disagree")
    took = help_seconds(Path(sys.prefix) / "bin" / "videothinker")
    if took > LIMIT:
        wrong.append(f"videothinker --help took {took:.2f} s, more than {LIMIT:.0f} s")
    print(
        "\n".join(wrong)
        or f"videothinker {videothinker.__version__} is installed; --help took {took:.2f} s"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
