"""Evaluate several models on several files of questions: `videothinker eval` for each pair.

    python scripts/run_eval_batch.py --models runs/sft/model runs/grpo/model --data data/eval/*/*.jsonl \\
        --videos /videos --out runs/eval [--controls and other flags of `videothinker eval`]

The results of a file of questions are in OUT/NAME-OF-THE-FILE. A pair that fails (a missing file, say) is reported, the
others still run, and the exit code is 1. Killed and started again, it goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from videothinker.commands.main import main as videothinker


def run_one(argv: Sequence[str]) -> bool:
    """Run one `videothinker eval`; False when it ended with an error that has been printed."""
    try:
        videothinker(["eval", *argv])
    except SystemExit as e:
        if e.code not in (0, 2):
            raise
        return e.code == 0
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate every pair; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", required=True, help="folders or hub names")
    parser.add_argument(
        "--data",
        nargs="+",
        required=True,
        help="files of questions (JSONL); their names must differ",
    )
    parser.add_argument(
        "--videos", required=True, help="folder of the videos, or a JSON map data_source → folder"
    )
    parser.add_argument("--out", required=True, help="folder")
    args, more = parser.parse_known_args(argv)
    if len({Path(d).stem for d in args.data}) < len(args.data):
        parser.error("two files of questions have the same name")
    failed = []
    for data in args.data:
        for model in args.models:
            print(f"== {model} on {data}", flush=True)
            where = ["--videos", args.videos, "--out", str(Path(args.out) / Path(data).stem)]
            if not run_one(["--model", model, "--data", data, *where, *more]):
                failed.append(f"{model} on {data}")
    print(*(f"failed: {name}" for name in failed), sep="\n", end="\n" if failed else "")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
