"""What hindsight notices: toy traces with planted mistakes of ten kinds, judged by a reader.

    python scripts/hindsight_toy.py OUT [--traces 2000] [--seed 0]
    python scripts/hindsight_toy.py OUT --reader-model NAME --reader-path FOLDER [--any-wording]
    python scripts/hindsight_toy.py OUT --reader-model NAME --reader-url URL

Without a model the reader is the toy world's symbolic one, which is never wrong. Prints a table of
the kinds, and one of the controls on correct traces: the reader with the trace, without it, with
another sample's, and with the letters masked, its options rotated. A reply without a text (cut off,
or empty) counts as a rejection in the table of the kinds; in the controls it leaves its sample out
(`failed`). Writes OUT/NAME.json; answers of a model are kept in OUT/answers.jsonl, so that a killed
run goes on.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from videothinker.evaluation.evidence_controls import evidence_controls
from videothinker.evaluation.reply_reading import read_reply
from videothinker.files import UserError
from videothinker.json_files import write_json
from videothinker.parallel import ordered_map
from videothinker.schema import Sample
from videothinker.synthesis.judging import EngineReader, ReaderError, judge
from videothinker.synthesis.synthesize import split_trace
from videothinker.toy.hindsight_trial import Trial, detection_table, detections, make_trials
from videothinker.toy.teacher import SymbolicReader


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("out", type=Path, help="folder of the results")
    add("--traces", type=int, default=2000, help="traces with a mistake")
    add(
        "--controls", type=int, default=200, help="correct traces that the controls are asked about"
    )
    add("--seed", type=int, default=0)
    add("--reader-model", default="", help="name of the reader (default: the symbolic one)")
    add("--reader-path", default="", help="folder of a model that runs in this process")
    add("--reader-url", default="", help="address of a server, in place of a folder")
    add("--max-tokens", type=int, default=64, help="longest reply of the reader")
    wording = "take the letter from a reply without the tag, too"
    add("--any-wording", action="store_true", help=wording)
    again = "the reader was mended: ask again for replies that were cut off, empty or refused"
    add("--ask-again", action="store_true", help=again)
    return parser.parse_args()


def open_engine(args: argparse.Namespace) -> Any:
    """The engine of the reader; None for the symbolic one."""
    if not args.reader_model:
        return None
    store = args.out / "answers.jsonl"
    if args.reader_url:
        from videothinker.synthesis.openai_engine import OpenAIEngine

        return OpenAIEngine(
            args.reader_url, args.reader_model, cache=store, ask_again=args.ask_again
        )
    from videothinker.synthesis.transformers_engine import transformers_engine

    options = {"max_error_rate": 1.0, "ask_again": args.ask_again}
    return transformers_engine(args.reader_model, store, args.reader_path, **options)


def judge_all(trials: list[Trial], reader: Any, workers: int) -> list[str]:
    """The verdict on every trial; progress goes to stderr. A server that is away ends it."""
    from tqdm import tqdm

    def verdict(trial: Trial) -> str:
        try:
            return judge(trial.sample, trial.text, reader).reason
        except ReaderError as error:
            if not error.is_textless:
                raise
            return f"reader: {error}"  # a reply without an end: nothing followed for this reader

    stop = getattr(reader, "stop", None)
    with closing(ordered_map(verdict, trials, workers, stop=stop)) as outcomes:
        return [outcome for _, outcome in tqdm(outcomes, "judge", len(trials))]


def in_any_wording(reply: str, sample: Sample) -> str | None:
    """The letter that a reply names, with the answer tag or without."""
    return read_reply(reply, sample.option_lines).letter


def correct_rows(trials: list[Trial], n: int) -> list[Sample]:
    """The rows of the first trials whose trace is correct, with the trace."""
    correct = [trial for trial in trials if not trial.kind][:n]
    return [replace(t.sample, process=split_trace(t.text, t.sample.solution)) for t in correct]


def main() -> int:
    args = parsed()
    args.out.mkdir(parents=True, exist_ok=True)
    engine = open_engine(args)
    reader: Any = SymbolicReader()
    if engine:
        read = in_any_wording if args.any_wording else None
        reader = EngineReader(engine, max_tokens=args.max_tokens, read=read)
    workers = getattr(engine, "concurrency", 1)
    trials = make_trials(args.traces, args.seed)
    try:
        found = detections(trials, judge_all(trials, reader, workers))
        controls = evidence_controls(correct_rows(trials, args.controls), reader, workers)
    finally:
        if engine:
            engine.close()
    print(detection_table(found), controls._repr_markdown_(), sep="\n\n")
    name = (args.reader_model or "symbolic") + "-any" * args.any_wording
    result = {"traces": args.traces, "seed": args.seed, "any_wording": args.any_wording}
    result |= {"kinds": [asdict(d) for d in found], "controls": controls.to_dict()}
    write_json(args.out / f"{name}.json", result)
    return 0


if __name__ == "__main__":
    from videothinker.commands.main import reader_may_leave

    with reader_may_leave():
        try:
            sys.exit(main())
        except UserError as error:
            sys.exit(f"hindsight_toy.py: {error}")
