"""What a step of SFT costs with padded rows, and with rows one after the other.

    python scripts/bench_sft.py [--rows 8] [--batches 8] [--repeats 3]
                                [--family qwen2.5-vl qwen3-vl]

Traces of the toy world, as its main job has them, in random batches; forward and backward pass of
the tiny model in float32 with one thread, features of the frozen tower computed before. The two
ways take turns, and each begins every other time. Columns: tokens that are computed, seconds
(processor time, median over the repeats of the mean of a batch), and what is apart: loss and
gradients of a batch, the largest difference of all, relative.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from train_base import FAMILIES, SIDES

from videothinker.model.batch import Batch, collate
from videothinker.model.encoder import Encoder, EncoderOptions
from videothinker.model.family import Family, family_of
from videothinker.model.padding_free import attends_row_by_row, without_padding
from videothinker.model.vision_cache import FeatureCache
from videothinker.schema import Sample, read_captions
from videothinker.synthesis.synthesize import synthesize
from videothinker.toy.model import build_model, build_processor
from videothinker.toy.teacher import ScriptedTeacher
from videothinker.toy.world import WorldSize, make_world
from videothinker.training.sft import target_text
from videothinker.video.frames import Sampling


def toy_rows(folder: Path, n: int) -> list[Sample]:
    """`n` rows with traces about the clips of a new world."""
    with contextlib.redirect_stderr(io.StringIO()):  # of every second clip there are captions
        make_world(folder, WorldSize(train=2 * n, val=0, test=0, ood=0, questions=1))
    teacher = ScriptedTeacher(0, mistake_rate=0)
    rows = synthesize(read_captions(folder / "captions.jsonl"), [], teacher, progress=False)
    random.Random(0).shuffle(rows)
    return rows[:n]


def batches_of(
    family_name: str, rows: list[Sample], folder: Path, size: int
) -> tuple[Any, Family, list[Batch]]:
    """A random tiny model, and the rows as its batches, with features in place of pixels."""
    processor = build_processor(FAMILIES[family_name])
    model = build_model(processor, 0)
    model.model.visual.requires_grad_(False)
    sampling = Sampling(fps=2, max_frames=48, size=(SIDES[family_name],) * 2)
    encoder = Encoder(processor, folder, sampling, "short", EncoderOptions(timeout=None))
    family, features = family_of(model, processor), FeatureCache(model)
    batches = []
    for begin in range(0, len(rows) - size + 1, size):
        part = rows[begin : begin + size]
        ids = [processor.tokenizer(target_text(row))["input_ids"] for row in part]
        batches.append(collate(features([encoder(row) for row in part]), ids, family))
    return model, family, batches


def padded(batch: Batch) -> dict[str, Any]:
    """The forward's arguments with padding."""
    return batch.model_inputs() | {"labels": batch.labels}


WAYS = {"padded": padded, "one after the other": without_padding}


def step(model: Any, inputs: dict[str, Any]) -> tuple[float, Tensor]:
    """Forward and backward pass: the loss, and the gradients of the text layers [N]."""
    model.zero_grad()
    loss = model(**inputs, use_cache=False).loss
    loss.backward()
    weights = model.model.language_model.parameters()
    return loss.item(), torch.cat([w.grad.flatten() for w in weights if w.grad is not None])


def measure(model: Any, batches: list[Batch], repeats: int) -> None:
    """Print the rows of the table for one model."""
    if not attends_row_by_row(model):
        raise SystemExit("the model does not take rows without padding")
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    apart = [0.0, 0.0]
    for batch in batches:  # warms up, too
        (loss, gradients), (same, same_gradients) = (step(model, f(batch)) for f in WAYS.values())
        off = (gradients - same_gradients).norm() / gradients.norm()
        apart = [max(apart[0], abs(loss - same) / loss), max(apart[1], off.item())]
    for repeat in range(repeats):
        names = list(WAYS)[:: -1 if repeat % 2 else 1]
        for name in names:
            begin = time.process_time()
            for batch in batches:
                step(model, WAYS[name](batch))
            seconds[name].append((time.process_time() - begin) / len(batches))
    for name, make in WAYS.items():
        tokens = sum(make(batch)["input_ids"].numel() for batch in batches) / len(batches)
        took = statistics.median(seconds[name])
        ratio = took / statistics.median(seconds["padded"])
        print(f"  {name:20}{tokens:8.0f}{took:10.3f}{ratio:8.2f}")
    print(f"  apart: loss {apart[0]:.1e}, gradients {apart[1]:.1e}")


def main() -> None:
    """Measure each family."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=8, help="rows of a batch")
    parser.add_argument("--batches", type=int, default=8, help="batches")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs over all batches")
    parser.add_argument("--family", nargs="+", choices=list(FAMILIES), default=["qwen2.5-vl"])
    args = parser.parse_args()
    if min(args.rows, args.batches, args.repeats) < 1:
        parser.error("--rows, --batches and --repeats are at least 1")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    print(f"  {'':20}{'tokens':>8}{'seconds':>10}{'ratio':>8}")
    with tempfile.TemporaryDirectory() as place:
        rows = toy_rows(Path(place), args.rows * args.batches)
        for name in args.family:
            model, _, batches = batches_of(name, rows, Path(place), args.rows)
            print(f"{name}, {len(batches)} batches of {args.rows} rows")
            measure(model, batches, args.repeats)


if __name__ == "__main__":
    from videothinker.commands.main import reader_may_leave

    with reader_may_leave():
        main()
