"""What makes the outcome teach? Train variants of the toy set-up and keep their learning curves.

    python scripts/ablate_toy.py --world runs/demo/world --out runs/ablations NAME [key=value ...]

One variant per call. Keys and defaults (the main job's) are below; variants that differ only in
GRPO share the SFT model. The log and the validation probes of GRPO go to OUT/NAME.json, with what
each step's samples looked like: `formatted` and `paper_formatted` (fractions that earn these two
rewards), `blocks` (per annotated segment) and `found` (fraction of the annotated segments that
a block meets with an IoU of 0.5).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

DEFAULTS: dict[str, Any] = {
    "seed": 0,
    "check_share": 0.35,
    "mistake_rate": 0.25,
    "cut_share": 0.0,
    "sft_rows": 1000,
    "sft_steps": 300,
    "sft_lr": 1e-3,
    "lr": 2.5e-5,
    "steps": 16,
    "prompts": 24,
    "generations": 8,
    "beta": 0.04,
    "rewards": "correct,format",
    "probe": 200,
    "every": 10,
    "base": "tiny-base",
}
SFT_KEYS = (
    "seed",
    "check_share",
    "mistake_rate",
    "cut_share",
    "sft_rows",
    "sft_steps",
    "sft_lr",
    "base",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--world", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("name")
    defaults = ", ".join(f"{k}={v}" for k, v in DEFAULTS.items())
    parser.add_argument("options", nargs="*", metavar="key=value", help=defaults)
    args = parser.parse_args()
    options = dict(DEFAULTS)
    for text in args.options:
        key, _, value = text.partition("=")
        if key not in DEFAULTS:
            parser.error(f"unknown key {key!r}; known: {', '.join(DEFAULTS)}")
        options[key] = type(DEFAULTS[key])(value)
    run(Path(args.world), Path(args.out), args.name, options)


def cut_traces(rows: Sequence[Any], share: float, seed: int) -> list[Any]:
    """The rows, a fraction of them with a trace that stops early: after a random proper prefix of
    its blocks it goes straight to the letter. So a model learns to look, but not always to the end.
    """
    from videothinker.toy.teacher import scripted_conclusion
    from videothinker.toy.world import named_rng
    from videothinker.trace import parse_trace, render_trace

    rng = named_rng(seed, "cut traces")
    cut = []
    for row in rows:
        blocks = parse_trace(row.process).blocks
        is_cut = rng.random() < share
        n_kept = 1 + int(rng.random() * (len(blocks) - 1))
        if is_cut and len(blocks) > 1:
            conclusion = scripted_conclusion(row, row.answer, checked=False)
            text = render_trace(blocks[:n_kept], conclusion, row.answer)
            row = replace(row, process=text.partition("<answer>")[0].strip())
        cut.append(row)
    return cut


def blocks(prompts: Any, completions: Sequence[str], **columns: Any) -> list[float | None]:
    """Number of blocks per annotated segment."""
    from videothinker.trace import parse_trace

    pairs = zip(completions, columns["segments"], strict=True)
    return [len(parse_trace(text).blocks) / len(true) if true else None for text, true in pairs]


def found(prompts: Any, completions: Sequence[str], **columns: Any) -> list[float | None]:
    """Fraction of the annotated segments that a block meets with an IoU of 0.5."""
    from videothinker.evaluation.temporal_iou import grounding
    from videothinker.trace import parse_trace

    pairs = zip(completions, columns["segments"], strict=True)
    return [
        grounding(parse_trace(text).segments, true)["r@0.5"] if true else None
        for text, true in pairs
    ]


def formatted(prompts: Any, completions: Sequence[str], **columns: Any) -> list[float | None]:
    """1 for a whole trace (what the reward `format` pays in full), else 0."""
    from videothinker.training.rewards import REWARDS

    return [float(value == 1) for value in REWARDS["format"](prompts, completions, **columns)]


def paper_formatted(prompts: Any, completions: Sequence[str], **columns: Any) -> list[float | None]:
    """The reward `paper_format`, as a measurement."""
    from videothinker.training.rewards import REWARDS

    return REWARDS["paper_format"](prompts, completions, **columns)


MEASURES = (blocks, found, formatted, paper_formatted)  # rewards of weight 0


def run(world: Path, out: Path, name: str, o: dict[str, Any]) -> None:
    from videothinker.configs import model_path
    from videothinker.schema import read_rows, write_rows
    from videothinker.toy.demo import (
        curves_of,
        frames_of,
        make_plan,
        make_traces,
        validation_probe,
    )
    from videothinker.training.recipes import make_job, run_job
    from videothinker.training.setup import probe_callback

    plan = replace(
        make_plan(o["seed"]),
        check_share=o["check_share"],
        mistake_rate=o["mistake_rate"],
        probe_questions=o["probe"],
    )
    key = hashlib.sha256(json.dumps([o[k] for k in SFT_KEYS]).encode()).hexdigest()[:8]
    shared = out / f"sft-{key}"
    shared.mkdir(parents=True, exist_ok=True)
    rows = shared / "train.jsonl"
    if not rows.exists():
        make_traces(world, plan, shared)
        write_rows(rows, cut_traces(read_rows(rows), o["cut_share"], o["seed"]))
    frames = frames_of(out)
    base = model_path(o["base"])
    probe = validation_probe(base, plan.sft, world, plan.probe_questions, frames)

    def shown(model: Any) -> dict[str, float]:
        values = probe(model)
        print("  validation:", {k: round(v, 3) for k, v in values.items()}, flush=True)
        return values

    if not (shared / "model").exists():
        train = plan.sft.train | {"max_steps": o["sft_steps"], "learning_rate": o["sft_lr"]}
        sft = replace(plan.sft, rows=o["sft_rows"], train=train | {"seed": o["seed"]})
        callbacks = [probe_callback(shown, o["every"] * 5)]
        run_job(make_job(sft, rows, shared, world, base, encoder=frames, callbacks=callbacks))
    rewards = o["rewards"].split(",")
    train = {
        "seed": o["seed"],
        "data_seed": o["seed"],
        "max_steps": o["steps"],
        "learning_rate": o["lr"],
        "num_generations": o["generations"],
        "per_device_train_batch_size": 2 * o["generations"],
        "gradient_accumulation_steps": o["prompts"] // 2,
        "beta": o["beta"],
        "reward_weights": [1.0] * len(rewards) + [0.0] * len(MEASURES),
    }
    sys.path.append(str(Path(__file__).parent))  # so that a spawned or resumed run finds them, too
    measures = [f"{Path(__file__).stem}:{measure.__name__}" for measure in MEASURES]
    grpo = replace(plan.grpo, train=plan.grpo.train | train, rewards=(*rewards, *measures))
    callbacks = [probe_callback(shown, o["every"])]
    start = shared / "model"
    job = make_job(grpo, rows, out / name, world, start, encoder=frames, callbacks=callbacks)
    result = run_job(job)
    curves = curves_of([], result["log"])
    samples = [
        {"step": entry["step"]}
        | {m.__name__: entry[f"rewards/{m.__name__}/mean"] for m in MEASURES}
        for entry in result["log"]
        if "reward" in entry
    ]
    saved = {
        "name": name,
        "options": o,
        "grpo": curves["grpo"],
        "samples": samples,
        "validation": curves["eval"],
    }
    (out / f"{name}.json").write_text(json.dumps(saved))
    print(
        name, "reward", [round(r["reward"], 2) for r in curves["grpo"]][:: max(1, o["steps"] // 10)]
    )


if __name__ == "__main__":
    main()
