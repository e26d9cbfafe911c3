"""Evaluate several models on several files of questions: `videothinker eval` for each pair.

    python scripts/run_eval_batch.py --models runs/sft/model runs/grpo/model --out runs/eval \\
        --data data/eval/*/*.jsonl --videos /videos [--controls and other flags of `eval`]

Each model is loaded once. The results of a file of questions are in OUT/MODEL/NAME-OF-THE-FILE (or
of the benchmark, with --benchmarks), and the tables over all of them in OUT. A pair that fails (a
missing file, say) is reported, the others still run, and the exit code is 1. Killed and started
again, it goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from videothinker.claims import claim_output
from videothinker.commands.evaluation import run_eval
from videothinker.commands.main import (
    INTERRUPTED,
    STOPPED,
    apply_environment,
    build_parser,
    user_message,
)
from videothinker.files import check_writable


def load_model(path: str, **options: Any) -> tuple[Any, Any]:
    """`model.loading.load_model`, imported when it is needed."""
    from videothinker.model import loading

    return loading.load_model(path, **options)


class LastModel:
    """`load_model` that keeps the last model, and lets go of it before it loads another."""

    def __init__(self) -> None:
        self.key: Any = None
        self.loaded: tuple[Any, Any] | None = None

    def __call__(self, path: str, **options: Any) -> tuple[Any, Any]:
        """Model and processor."""
        key = (path, sorted(options.items()))
        if self.loaded is None or self.key != key:
            self.loaded = None  # there may be room for one only
            self.loaded = load_model(path, **options)
            self.key = key
        return self.loaded


def parse(argv: Sequence[str] | None) -> list[argparse.Namespace]:
    """The flags of `videothinker eval` for every pair, model by model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", required=True, help="folders or hub names")
    parser.add_argument(
        "--data", nargs="+", required=True, help="files of questions; their names must differ"
    )
    parser.add_argument("--out", required=True, help="folder")
    args, more = parser.parse_known_args(argv)
    if len({Path(data).stem for data in args.data}) < len(args.data):
        parser.error("two files of questions have the same name")
    pairs = []
    for model in args.models:
        for data in args.data:
            pair = ["eval", "--model", model, "--data", data, "--out", args.out]
            pairs.append(build_parser().parse_args([*pair, *more]))
    return pairs


def evaluate_pair(args: argparse.Namespace, load: LastModel) -> bool:
    """Run one `videothinker eval`; False when it ended with an error that has been printed."""
    try:
        apply_environment(args)
        check_writable(args.out, folder=True)
        with claim_output(args.out):
            run_eval(args, load)
    except Exception as error:
        message = user_message(error)
        if message is None:
            raise
        print(f"videothinker eval: {message}", file=sys.stderr)
        return False
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate every pair; returns the exit code."""
    load = LastModel()
    failed = []
    try:
        for args in parse(argv):
            print(f"== {args.model} on {args.data}", flush=True)
            if not evaluate_pair(args, load):
                failed.append(f"failed: {args.model} on {args.data}")
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr)
        return INTERRUPTED
    for line in failed:
        print(line)
    return 1 if failed else 0


if __name__ == "__main__":
    from videothinker.commands.main import reader_may_leave

    with reader_may_leave():
        sys.exit(main())
