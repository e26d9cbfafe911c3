"""Run lmms-eval on an export of toy questions, and compare with our own evaluation of them.

    python scripts/check_lmms_eval.py --model runs/demo/sft/model
    python scripts/check_lmms_eval.py --python ~/lmms/bin/python --model data/tiny-base --n 24

Makes toy clips, exports their questions (`videothinker.evaluation.lmms_eval`), runs the installed
lmms-eval on the export with its backend `qwen2_5_vl`, asks the same model here, and prints both
accuracies, the number of replies that differ, and the first of them. Ends with an error if the
accuracies differ, or if one reply is scored differently by the two.

lmms-eval 0.7.3 wants `av<16` and `filelock<4`, which this package does not have: it runs in an
environment of its own, named by `--python`. Three differences are shown and are no error: that of
`--dtype bfloat16`, in which lmms-eval loads models (both are told float32 otherwise) and in which
two ways to compute the same thing now and then come to another token; that of `--videos`, which
exports the videos themselves, so that lmms-eval samples frames in its own way; and that of
`--positions transformers`, which leaves the positions of transformers 5 as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from videothinker.evaluation.benchmarks import Benchmark, Protocol
from videothinker.evaluation.lmms_eval import (
    LmmsTask,
    export_lmms_eval,
    read_lmms_replies,
    score_reply,
)
from videothinker.evaluation.questions import FrameSource, make_questions
from videothinker.schema import Sample, read_rows, sample_id

# lmms-eval with another dtype than the bfloat16 that stands in its backend
LAUNCH = """
import sys
from transformers import Qwen2_5_VLForConditionalGeneration as Model
load, dtype = Model.from_pretrained, sys.argv.pop(1)
Model.from_pretrained = lambda path, **options: load(path, **{**options, "torch_dtype": dtype})
from lmms_eval.cli.dispatch import main
main()
"""
DATA = Path(__file__).resolve().parent.parent / "data"
TOY = Benchmark(
    name="toy",
    title="Toy world",
    short="Toy",
    source="toyworld",
    domain="toy",
    licence="Apache-2.0",
    url="videothinker.toy.world",
    citation="",
    protocols={},
)


def main() -> None:
    """Export, run both, compare."""
    args = arguments()
    probe = [args.python, "-c", "import lmms_eval"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        raise SystemExit(f"{args.python} has no lmms-eval; name one that has it by --python")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(args.out or scratch).resolve()
        rows, world = toy_rows(folder, args.world, args.n)
        protocol = protocol_of(args.model, args.max_new_tokens)
        begin = time.perf_counter()
        task = export_lmms_eval(TOY, protocol, rows, world, folder / "export", not args.videos)
        print(f"exported {task.n} questions in {time.perf_counter() - begin:.1f} s: {task.name}")
        begin = time.perf_counter()
        results, theirs = run_lmms_eval(args, task, folder)
        print(f"lmms-eval: {time.perf_counter() - begin:.1f} s")
        begin = time.perf_counter()
        ours = our_replies(args.model, args.dtype, protocol, rows, world)
        print(f"ours ({args.dtype}): {time.perf_counter() - begin:.1f} s")
    exact = not args.videos and args.positions == "report" and args.dtype == "float32"
    report(task, rows, results, theirs, ours, exact)


def arguments() -> argparse.Namespace:
    """The command line."""
    summary = "Run lmms-eval on an export of toy questions, and compare."
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument("--model", default=str(DATA / "tiny-base"), help="folder of a toy model")
    parser.add_argument("--python", default=sys.executable, help="Python that has lmms-eval")
    parser.add_argument("--n", type=int, default=24, help="questions")
    parser.add_argument("--world", default="", help="folder of a toy world; made if not given")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--max-new-tokens", type=int, default=240)
    parser.add_argument("--videos", action="store_true", help="export videos instead of clips")
    parser.add_argument("--positions", default="report", choices=["report", "transformers"])
    parser.add_argument("--out", default="", help="folder to keep everything in")
    return parser.parse_args()


def toy_rows(folder: Path, world: str, n: int) -> tuple[list[Sample], Path]:
    """The first questions of the toy's test split, and the folder of their videos."""
    place = Path(world) if world else folder / "world"
    if not world:
        from videothinker.toy.world import WorldSize, make_world

        make_world(place, WorldSize(train=0, val=0, test=(n + 1) // 2, ood=0))
    return read_rows(place / "eval_id.jsonl")[:n], place


def protocol_of(model: str, max_new_tokens: int) -> Protocol:
    """The house protocol with the style and the frames that the model was saved with."""
    from videothinker.model.loading import Settings

    settings = Settings.of(model)
    return Protocol(
        name="house",
        style=settings.style,
        sampling=settings.sampling,
        max_new_tokens=max_new_tokens,
        rule="video-thinker",
    )


def run_lmms_eval(
    args: argparse.Namespace, task: LmmsTask, folder: Path
) -> tuple[dict[str, Any], dict[str, str]]:
    """Run the installed lmms-eval on an export, on the CPU.

    Returns
    -------
    Its results for the task, and the replies by id of the row.
    """
    out = folder / "results"
    options = task.model_args("qwen2_5_vl", str(Path(args.model).resolve()))
    command = [args.python, "-c", LAUNCH, args.dtype, "--model", "qwen2_5_vl", "--batch_size", "1"]
    command += ["--model_args", f"{options},device=cpu,device_map=cpu", "--tasks", task.name]
    command += ["--include_path", str(task.folder), "--log_samples", "--output_path", str(out)]
    places = {
        "LMMS_EVAL_DATASETS_CACHE": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
        "VIDEOTHINKER_POSITIONS": args.positions,
    }
    done = subprocess.run(
        command, env=os.environ | places, capture_output=True, text=True, check=False
    )
    written = sorted(out.rglob("*_results.json"))
    if done.returncode or not written:
        raise SystemExit(f"lmms-eval failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    results = json.loads(written[-1].read_text(encoding="utf-8"))["results"][task.name]
    [samples] = sorted(out.rglob(f"*_samples_{task.name}.jsonl"))[-1:]
    return results, read_lmms_replies(samples)


def our_replies(
    model: str, dtype: str, protocol: Protocol, rows: Sequence[Sample], world: Path
) -> dict[str, str]:
    """The replies of our own engine, by id of the row."""
    from videothinker.evaluation.video_engine import HFEngine
    from videothinker.model.loading import load_model

    engine = HFEngine(*load_model(model, dtype), FrameSource(world, timeout=None))
    questions = make_questions(rows, protocol)
    return {questions[place].id: reply.text for place, reply in engine.answer(questions)}


def mean_of(metric: str, rule: str, rows: Sequence[Sample], replies: Mapping[str, str]) -> float:
    """A metric's mean over the rows that count for it."""
    scores = [score_reply(row, replies[sample_id(row)], rule) for row in rows]
    counted = [s[metric] for s in scores if metric != "official" or s["counted"]]
    return sum(counted) / len(counted) if counted else 0.0


def report(
    task: LmmsTask,
    rows: Sequence[Sample],
    results: Mapping[str, Any],
    theirs: Mapping[str, str],
    ours: Mapping[str, str],
    exact: bool,
) -> None:
    """Print both sides; SystemExit if they should be equal and are not."""
    print(f"{'metric':10} {'lmms-eval':>9} {'ours':>9}")
    faults = []
    for metric in ("strict", "reader", "official", "unread"):
        said = results[f"{metric},none"]
        mean = mean_of(metric, task.protocol.rule, rows, ours)
        print(f"{metric:10} {said:9.4f} {mean:9.4f}")
        if abs(mean_of(metric, task.protocol.rule, rows, theirs) - said) > 1e-9:
            faults.append(f"{metric}: lmms-eval's replies score differently here")
        if exact and abs(mean - said) > 1e-9:
            faults.append(f"{metric}: the two differ")
    named = ("accuracy_stderr_clt,none", "accuracy_stderr_clustered,none", "coverage,none")
    print(*(f"{name}: {results.get(name)}" for name in named), sep="\n")
    different = [row for row in rows if theirs[sample_id(row)] != ours[sample_id(row)]]
    print(f"{len(different)} of {len(rows)} replies differ")
    for row in different[:3]:
        print(f"  {sample_id(row)}\n    lmms-eval: {theirs[sample_id(row)]!r}")
        print(f"    ours:      {ours[sample_id(row)]!r}")
    if faults:
        raise SystemExit("\n".join(faults))


if __name__ == "__main__":
    from videothinker.commands.main import reader_may_leave

    with reader_may_leave():
        main()
