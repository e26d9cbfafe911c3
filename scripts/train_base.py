"""Train the tiny base from scratch and put it into data/tiny-base; print what it can do.

    python scripts/train_base.py [OUT] [--processes N] [--to DIR]   train, publish, measure
    python scripts/train_base.py --family qwen3-vl                  the same of a tiny Qwen3-VL
    python scripts/train_base.py --measure [--to DIR]               only measure the model in DIR

OUT (default runs/tiny-base, of Qwen3-VL runs/tiny-qwen3-vl) keeps the checkpoint: killed and
started again, the training goes on. DIR is data/tiny-base or data/tiny-qwen3-vl.
Its recipe and seed are `videothinker.toy.base.BaseTrainingPlan`; nbs/8_toy/05_base.ipynb explains
them. One and a half to two hours on two cores.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FILES = ("*.safetensors", "*.json", "*.jinja", "*_log.csv")
FAMILIES = {"qwen2.5-vl": "qwen2_5_vl", "qwen3-vl": "qwen3_vl"}  # option → `model_type`
FOLDERS = {"qwen2.5-vl": "tiny-base", "qwen3-vl": "tiny-qwen3-vl"}
SIDES = {"qwen2.5-vl": 56, "qwen3-vl": 64}  # pixels of a frame: two by two tokens


def settings(family: str) -> dict[str, Any]:
    """How the tiny model of a family wants to be asked."""
    side = SIDES[family]
    sampling = {"fps": 2, "max_frames": 48, "size": [side, side]}
    if side != SIDES["qwen2.5-vl"]:
        sampling["factor"] = side // 2
    return {"style": "letter", "sampling": sampling}


def publish(out: Path, to: Path, family: str = "qwen2.5-vl") -> list[str]:
    """Copy model, processor and logs, not the checkpoint, with its settings; return the names."""
    to.mkdir(parents=True, exist_ok=True)
    files = sorted(path for pattern in FILES for path in out.glob(pattern))
    for path in files:
        shutil.copyfile(path, to / path.name)
    (to / "videothinker.json").write_text(json.dumps(settings(family)) + "\n")
    return [path.name for path in files] + ["videothinker.json"]


def family_of_question(problem: str) -> str:
    """Which kind of toy question it is."""
    if problem.startswith("How many"):
        return "count"
    if "longest" in problem or "shortest" in problem:
        return "comparison"
    return "neighbour" if " right after " in problem or " right before " in problem else "order"


def test_questions(split: str, clips: int) -> list[tuple[Any, Any]]:
    """(scene, row) of the test questions of the world of seed 0, two per clip."""
    from videothinker.toy.questions import SEEN
    from videothinker.toy.world import (
        SPLITS,
        balanced_questions,
        draw_scene,
        named_rng,
        to_sample,
    )

    name = {"test": "eval_id", "ood": "eval_ood"}[split]
    pairs = SPLITS[split].get("pairs", SEEN)
    tally = dict[Any, int]()
    asked = []
    for i in range(clips):
        scene = draw_scene(f"{split}-{i:04d}", 0, **SPLITS[split])
        questions = balanced_questions(scene, named_rng(0, name, scene.id), 2, pairs, tally)
        asked += [(scene, to_sample(scene, q, k, split)) for k, q in enumerate(questions)]
    return asked


def reply_aloud(model: Any, processor: Any, asked: list[tuple[Any, Any]]) -> list[str]:
    """What the model says, thinking aloud, greedily, one reply per question."""
    from videothinker.model.family import family_of
    from videothinker.model.generate import Decoding, generate, texts
    from videothinker.prompts import STYLES, question_text
    from videothinker.toy.base import Task, encode_task

    family = family_of(model, processor)
    greedy = Decoding(0.0, max_new_tokens=240)
    tasks = [Task(question_text(row) + STYLES["short"].ask, "", scene) for scene, row in asked]
    prompts = [encode_task(task, processor)[0] for task in tasks]
    replies: list[str] = []
    for i in range(0, len(prompts), 50):
        groups = generate(model, prompts[i : i + 50], family, 1, greedy)
        replies += texts([group[0] for group in groups], processor)
    return replies


def measure(
    model: Any, processor: Any, asked: list[tuple[Any, Any]]
) -> dict[str, dict[str, float]]:
    """How often the model is right when it thinks aloud, greedily.

    Returns, for each family of questions and for all: `n`, and the fractions of replies that name
    the right answer in words (`phrase`), that end in its letter (`letter`), and that guessing would
    get (`chance`).
    """
    sums: dict[str, dict[str, float]] = {}
    for (_, row), text in zip(asked, reply_aloud(model, processor, asked), strict=True):
        right = {
            "n": 1,
            "phrase": f"the answer is {row.option_text(row.answer)} ." in text,
            "letter": text.rstrip()[-1:] == row.answer,
            "chance": 1 / len(row.options),
        }
        for kind in (family_of_question(row.problem), "all"):
            total = sums.setdefault(kind, dict.fromkeys(right, 0.0))
            for key, value in right.items():
                total[key] += value
    return {
        kind: {key: value if key == "n" else value / total["n"] for key, value in total.items()}
        for kind, total in sums.items()
    }


def train(out: Path, plan: Any, family: str) -> None:
    """One of the processes that train; the weights are in `out` afterwards."""
    from videothinker.toy.base import train_base

    train_base(out, plan, family=FAMILIES[family])


def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, train, publish."""
    parser = argparse.ArgumentParser(
        description="Train the tiny base from scratch; killed and run again, it goes on."
    )
    parser.add_argument(
        "out",
        nargs="?",
        type=Path,
        help="default runs/tiny-base or runs/tiny-qwen3-vl",
    )
    parser.add_argument(
        "--family", choices=FAMILIES, default="qwen2.5-vl", help="default qwen2.5-vl"
    )
    parser.add_argument(
        "--steps", type=int, help="only so many steps of tower and model, to try it; no publishing"
    )
    parser.add_argument(
        "--processes", type=int, default=2, help="that share out the rows of a step (default 2)"
    )
    parser.add_argument("--to", type=Path, help="default data/tiny-base or data/tiny-qwen3-vl")
    parser.add_argument(
        "--measure", action="store_true", help="train nothing: measure the model that is in --to"
    )
    args = parser.parse_args(argv)
    if args.processes < 1:
        parser.error(f"--processes {args.processes}: at least one has to train")

    from videothinker.model.loading import load_model
    from videothinker.toy.base import BaseTrainingPlan
    from videothinker.training.processes import run_in_processes

    plan = BaseTrainingPlan()
    out = args.out or ROOT / "runs" / FOLDERS[args.family]
    to = args.to or ROOT / "data" / FOLDERS[args.family]
    if args.steps:
        plan = BaseTrainingPlan(vision_steps=args.steps, steps=args.steps, check_steps=0)
    if not args.measure:
        run_in_processes(train, (out, plan, args.family), args.processes)
        if args.steps:
            return
        print("\n".join(publish(out, to, args.family)))
    try:
        model, processor = load_model(to)
    except FileNotFoundError as error:
        parser.error(str(error))
    for split, clips in (("test", 150), ("ood", 60)):
        for kind, row in measure(model, processor, test_questions(split, clips)).items():
            shares = ", ".join(f"{k} {row[k]:.1%}" for k in ("phrase", "letter", "chance"))
            print(f"{split:5} {kind:11} n {row['n']:.0f}, {shares}")


if __name__ == "__main__":
    from videothinker.commands.main import reader_may_leave

    with reader_may_leave():
        main()
