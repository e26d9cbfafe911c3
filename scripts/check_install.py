"""An installed copy works: version, packaged files, the command. Usage: check_install.py [--light]

Run it with the Python of the environment to check; the package must come from there, not from a
source folder. With --light nothing is asked of a model, and torch must not be there.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import resource
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

LIMIT = 1.0  # seconds of processor time that a start of `videothinker --help` may take
COMMANDS = "demo toyworld prepare validate synthesize curate sft grpo plan eval answer push".split()


class Command:
    """The installed `videothinker`, run in an empty folder."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.path = Path(sysconfig.get_path("scripts")) / "videothinker"

    def __call__(self, *argv: str, code: int = 0) -> str:
        """Run it and return what it printed; ends the check when the exit code is another."""
        done = subprocess.run(
            [str(self.path), *argv], cwd=self.folder, capture_output=True, text=True, timeout=600
        )
        if done.returncode != code:
            sys.exit(f"videothinker {' '.join(argv)} exited with {done.returncode}:\n{done.stderr}")
        return done.stdout if code == 0 else done.stderr

    def help_seconds(self, runs: int = 3) -> float:
        """Return the least processor time of some starts of `--help`."""
        least = float("inf")
        for _ in range(runs):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            self("--help")
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            least = min(least, used)
        return least


def problems(command: Command, light: bool) -> Iterator[str]:
    """What is wrong with the installation."""
    import videothinker
    from videothinker.configs import base_model_path, config_file, config_names

    where = Path(videothinker.__file__).resolve().parent
    if not where.is_relative_to(Path(sys.prefix).resolve()):
        yield f"imported from {where}, not from the environment"
    if not (where / "py.typed").exists():
        yield "py.typed is not installed"
    if importlib.metadata.version("videothinker") != videothinker.__version__:
        yield "the installed metadata and __version__ disagree"
    for kind in ("recipes", "accelerate", "mixes"):
        names = config_names(kind)
        if not names or not all(config_file(kind, n).is_relative_to(where) for n in names):
            yield f"{kind} are not installed"
    if not base_model_path().is_relative_to(where):
        yield f"the tiny base model is taken from {base_model_path()}, not from the package"
    seconds = command.help_seconds()
    if seconds > LIMIT:
        yield f"videothinker --help took {seconds:.2f} s of processor time, more than {LIMIT:.0f} s"
    for name in COMMANDS:
        command(name, "--help")
    if light and importlib.util.find_spec("torch"):
        yield "torch is installed"


def try_data(command: Command) -> None:
    """Make toy clips, prepare and validate them."""
    command("toyworld", "--out", "world", *"--train 2 --val 2 --test 0 --ood 0".split())
    command(
        *"prepare rows --annotations world/qa.jsonl --videos world --called toy".split(),
        "--min-frames",
        "8",
    )
    command(*"validate data --videos world --min-frames 8".split())
    command("prepare", "--list")


def try_model(command: Command) -> None:
    """Ask the packaged model a question, and read a packaged recipe."""
    video = next(Path(command.folder).glob("world/videos/*/*.mp4"))
    command("answer", "--video", str(video), "--question", "What moves?", "--max-new-tokens", "4")
    command("plan", "tiny/sft")


def main(argv: list[str]) -> int:
    """Print what was found and return the exit status."""
    light = "--light" in argv
    with tempfile.TemporaryDirectory() as folder:
        command = Command(folder)
        wrong = list(problems(command, light))
        try_data(command)
        if light:
            error = command("answer", "--video", "x.mp4", "--question", "?", code=2)
            if "x.mp4" not in error:
                wrong.append(f"answer without a video said {error!r}")
        else:
            try_model(command)
    print("\n".join(wrong) or "the installation is complete and works")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
