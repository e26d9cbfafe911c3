"""Trainings for `test_distributed`: one process, or one of several, does a list of jobs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from videothinker.files import UserError
from videothinker.model.encoder import Encoder, EncoderOptions
from videothinker.schema import Sample, read_rows
from videothinker.training import setup
from videothinker.training.job import Recipe, TrainingJob
from videothinker.training.ranks import ranks
from videothinker.training.recipes import run_job
from videothinker.training.setup import leave_process_group
from videothinker.video.frames import Frames, Sampling, VideoError

RANK = int(os.environ.get("RANK", 0))
WORLD = int(os.environ.get("WORLD_SIZE", 1))
COMMON = {
    "learning_rate": 0.02,
    "lr_scheduler_type": "constant",
    "optim": "sgd",
    "save_strategy": "no",
    "logging_steps": 1,
    "gradient_checkpointing": False,
    "disable_tqdm": True,
    "seed": 3,
}
GRPO = COMMON | {
    "num_generations": 3,
    "temperature": 2.0,
    "beta": 0.04,
    "max_completion_length": 12,
    "log_completions": True,
}
unreadable: set[str] = set()  # paths of videos that this process cannot read


def longer(completions: list[str], **columns: Any) -> list[float]:
    """Reward: the number of characters."""
    return [float(len(c)) for c in completions]


def uneven(completions: list[str], path: list[str], **columns: Any) -> list[float]:
    """Reward: of every third video all completions earn the same."""
    dead = [int(Path(p).stem.split("-")[-1]) % 3 == 0 for p in path]
    return [1.0 if d else float(len(c)) for c, d in zip(completions, dead, strict=True)]


class Vanish(transformers.TrainerCallback):
    """After the start some videos cannot be read."""

    def __init__(self, paths: list[str], ranks: list[int]) -> None:
        self.paths = paths if RANK in ranks else []

    def on_train_begin(self, *args: Any, **options: Any) -> None:
        unreadable.update(self.paths)


class Killed(transformers.TrainerCallback):
    """The last process is killed after a step, the first time."""

    def __init__(self, step: int, mark: Path) -> None:
        self.step = step
        self.mark = mark

    def on_step_end(self, args: Any, state: Any, control: Any, **options: Any) -> None:
        if state.global_step == self.step and RANK == WORLD - 1 and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def refuse_unreadable(frames: Callable[..., Frames]) -> Callable[..., Frames]:
    """`Encoder.frames` that cannot read some videos."""

    def refused(encoder: Encoder, sample: Sample) -> Frames:
        if sample.path in unreadable:
            raise VideoError(sample.path, "stale file handle")
        return frames(encoder, sample)

    return refused


def train(name: str, job: dict[str, Any], plan: dict[str, Any]) -> dict[str, Any]:
    """Do one job; its batch is that of the step, over all processes."""
    stage, world = job["stage"], Path(plan["world"])
    out = Path(plan["out"]) / job.get("folder", name)
    if RANK == 0:
        for part in job.get("remove", ()):
            shutil.rmtree(out / part)
    ranks().barrier("removed")
    if job.get("own_folders"):
        out = out / str(RANK)
    batch = job.get("rows", 2) // WORLD * (3 if stage == "grpo" else 1)
    fields = (GRPO if stage == "grpo" else COMMON) | {"per_device_train_batch_size": batch}
    fields |= job.get("train", {})
    for key in ("per_device_train_batch_size", "gradient_accumulation_steps"):
        if isinstance(fields.get(key), list):  # for one process, for two
            fields[key] = fields[key][WORLD - 1]
    sampling = Sampling(fps=2, max_frames=48, size=(job.get("side", 56),) * 2)
    style = "short" if stage == "grpo" else "letter"
    rows = read_rows(world / "train.jsonl")
    callbacks: list[Any] = []
    if "vanish" in job:
        paths = [rows[i].path for i in job["vanish"]]
        callbacks.append(Vanish(paths, [WORLD - 1] if job.get("on_last") else list(range(WORLD))))
    if "kill" in job:
        callbacks.append(Killed(job["kill"], out.with_suffix(".killed")))
    if job.get("other_rows") and RANK:
        rows = rows[1:]
    unreadable.clear()
    rewards = {"longer": longer} if job.get("reward") != "uneven" else {"uneven": uneven}
    training = TrainingJob(
        Recipe(stage, style=style, sampling=sampling, train=fields, **job.get("recipe", {})),
        str(world / job["base"]) if "base" in job else plan["base"],
        rows,
        world,
        out,
        EncoderOptions(timeout=None, keep=0),
        rewards,
        callbacks,
    )
    try:
        result = run_job(training)
    except UserError as error:
        if not job.get("fails"):
            raise
        result = {"error": str(error)}
    weights = out / "model" / "model.safetensors"
    if RANK == 0 and weights.exists():
        result["weights"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    return result


def main() -> None:
    """Do the jobs of a plan (a JSON file), and write what each returned."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    setup.FOLDER_LAG = 0.5
    setup.AGAIN_AFTER = 0.01
    Encoder.frames = refuse_unreadable(Encoder.frames)  # type: ignore[method-assign]
    plan = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if RANK:
        time.sleep(plan.get("slow", 0))
    try:
        for name, job in plan["jobs"].items():
            result = train(name, job, plan)
            file = Path(plan["out"]) / f"{name}.{RANK}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(result), encoding="utf-8")
    except UserError as error:
        print(f"rank {RANK} says: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
    leave_process_group()


if __name__ == "__main__":
    main()
