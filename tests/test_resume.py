"""Trainings that are killed (SIGKILL) and started again end, to the bit, as undisturbed ones do."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from transformers import TrainerCallback
from varied_reward import varied

from videothinker.commands.main import user_message
from videothinker.json_files import read_json
from videothinker.model.encoder import EncoderOptions
from videothinker.schema import read_captions, write_rows
from videothinker.synthesis.synthesize import synthesize
from videothinker.toy.teacher import ScriptedTeacher
from videothinker.toy.world import WorldSize, make_world
from videothinker.training.job import Recipe, TrainingJob
from videothinker.training.recipes import make_job, run_job
from videothinker.video.frames import Sampling

ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(Path(__file__).parent),  # of `varied_reward`
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
BASE = ROOT / "data" / "tiny-base"
TRAIN: dict[str, dict[str, Any]] = {
    "sft": {"per_device_train_batch_size": 2, "train_sampling_strategy": "group_by_length"},
    "grpo": {
        "num_generations": 2,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "num_iterations": 2,
        "max_completion_length": 8,
        "temperature": 2.0,
        "beta": 0.04,
        "update_rows": 1,
    },
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few clips, and rows with traces."""
    folder = tmp_path_factory.mktemp("world")
    make_world(folder, WorldSize(train=8, val=0, test=0, ood=0, questions=1))
    rows = synthesize(
        read_captions(folder / "captions.jsonl"),
        [],
        ScriptedTeacher(0, mistake_rate=0),
        progress=False,
    )
    write_rows(folder / "train.jsonl", rows)
    return folder


def newest(out: Path) -> int:
    """The step of the last checkpoint that has been begun."""
    return max(
        (int(p.name.split("-")[1]) for p in (out / "checkpoints").glob("checkpoint-*")), default=0
    )


def train(stage: str, world: Path, out: Path, kills: int) -> int:
    """Train, killed `kills` times at a random moment after a checkpoint was begun; how many hit."""
    rng, hits = random.Random(stage), 0
    recipe = out.parent / f"{stage}.yaml"
    train = TRAIN[stage] | {
        "max_steps": 12,
        "save_steps": 2,
        "save_total_limit": 3,
        "learning_rate": 1e-3,
    }
    train["logging_steps"] = 1  # a mean over several steps would be cut by the kill
    sampling = {"fps": 2, "max_frames": 48, "size": [56, 56]}
    rewards = ["correct", "format", "varied_reward:varied"]
    style = "short" if stage == "sft" else "letter"
    values = {"stage": stage, "style": style, "sampling": sampling, "train": train}
    recipe.write_text(yaml.safe_dump(values | ({"rewards": rewards} if stage == "grpo" else {})))
    command = [
        sys.executable,
        "-m",
        "videothinker",
        stage,
        "--recipe",
        recipe,
        "--data",
        world / "train.jsonl",
    ]
    command += ["--videos", world, "--out", out, "--model", BASE, "--cache", world / "cache"]
    while True:
        with open(out.parent / f"{out.name}.log", "ab") as log:
            with subprocess.Popen(
                [str(c) for c in command], env=ENVIRONMENT, stdout=log, stderr=log
            ) as process:
                begun = newest(out)
                while process.poll() is None and (hits == kills or newest(out) == begun):
                    time.sleep(0.002)
                if hits < kills and process.poll() is None:
                    time.sleep(rng.uniform(0, 1.0))
                    process.send_signal(signal.SIGKILL)
        if process.returncode != -signal.SIGKILL:
            assert process.returncode == 0, (out.parent / f"{out.name}.log").read_text()[-3000:]
            return hits
        hits += 1


@pytest.mark.parametrize("stage", TRAIN)
def test_killed_and_started_again_it_ends_with_the_same_bits(
    stage: str, world: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(stage, world, whole, 0)
    assert train(stage, world, killed, 2) == 2
    weights = [(out / "model" / "model.safetensors").read_bytes() for out in (whole, killed)]
    assert weights[0] == weights[1] != (BASE / "model.safetensors").read_bytes()
    states = [
        read_json(out / "checkpoints" / "checkpoint-12" / "trainer_state.json")
        for out in (whole, killed)
    ]
    logs = [
        [(r["step"], r.get("loss"), r.get("reward")) for r in s["log_history"] if "loss" in r]
        for s in states
    ]
    assert logs[0] == logs[1] and len(logs[0]) > 1


# In this process: disks that are full, folders of others, runs that end between training and saving


def job(
    stage: str,
    world: Path,
    out: Path,
    callbacks: Sequence[Any] = (),
    steps: int = 4,
    **recipe: Any,
) -> TrainingJob:
    """A training of a few steps with a checkpoint after each."""
    train = TRAIN[stage] | {"max_steps": steps, "save_steps": 1, "save_total_limit": 2}
    train |= {"learning_rate": 1e-3, "logging_steps": 1, "disable_tqdm": True}
    train |= {"num_iterations": 1} if stage == "grpo" else {}
    style = "short" if stage == "sft" else "letter"
    sampling = Sampling(fps=2, max_frames=48, size=(56, 56))
    values = Recipe(stage, style=style, sampling=sampling, train=train)
    options = EncoderOptions(timeout=None)
    rows = world / "train.jsonl"
    made = make_job(replace(values, **recipe), rows, out, world, BASE, (), options, callbacks)
    return replace(made, rewards={"any": varied}) if stage == "grpo" else made


def weights(out: Path) -> bytes:
    return (out / "model" / "model.safetensors").read_bytes()


class FullDisk(TrainerCallback):
    """Lets no file grow above a megabyte from step 3 on, as a full disk or a quota does."""

    def __init__(self) -> None:
        self.limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, self.limits[1]))

    def over(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.limits)


@pytest.mark.filterwarnings("error::FutureWarning:transformers.training_args")
def test_a_full_disk_and_what_others_keep_beside_the_checkpoints(
    world: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    run_job(job("sft", world, whole))
    full = FullDisk()
    try:
        with pytest.raises(Exception) as raised:
            run_job(job("sft", world, out, [full]))
    finally:
        full.over()
    assert "no room on the disk" in str(user_message(raised.value)), raised.value
    checkpoints = out / "checkpoints"
    assert (checkpoints / "checkpoint-2" / "finished").exists()
    assert not (checkpoints / "checkpoint-3" / "finished").exists()

    shutil.copytree(checkpoints / "checkpoint-2", checkpoints / "checkpoint-best")
    shutil.copytree(checkpoints / "checkpoint-2", checkpoints / "checkpoint-2-backup")
    shutil.copytree(checkpoints / "checkpoint-2", checkpoints / "checkpoint-9")
    (checkpoints / "checkpoint-2.zip").write_bytes(b"zip")
    (checkpoints / "checkpoint-4").mkdir()  # where this run will want to write
    (checkpoints / "checkpoint-4" / "notes.txt").write_text("mine")
    capfd.readouterr()
    run_job(job("sft", world, out))
    said = "".join(capfd.readouterr())
    assert weights(out) == weights(whole) != (BASE / "model.safetensors").read_bytes()
    assert "goes on from step 2 of 4" in said
    assert "missing keys" not in said and "unexpected keys" not in said
    left = {path.name for path in checkpoints.glob("*checkpoint-*")}
    ours = {"checkpoint-3", "checkpoint-4"}
    kept = {"checkpoint-best", "checkpoint-2-backup", "checkpoint-2.zip"}
    assert left == ours | kept | {"foreign-checkpoint-4", "damaged-checkpoint-9"}
    assert (checkpoints / "foreign-checkpoint-4" / "notes.txt").read_text() == "mine"
    assert (checkpoints / "checkpoint-best" / "optimizer.pt").exists()


@pytest.mark.parametrize(
    "stage, peft",
    [("sft", {"r": 2}), ("grpo", None), ("grpo", {"r": 2})],
)
def test_a_run_that_was_trained_but_not_saved_is_saved(
    stage: str, peft: dict[str, Any] | None, world: Path, tmp_path: Path
) -> None:
    """Killed between the last checkpoint and the end: nothing is trained again."""
    targets = peft and peft | {"target_modules": ["q_proj", "v_proj"]}
    options: dict[str, Any] = {"peft": targets}
    trained = run_job(job(stage, world, tmp_path / "run", steps=2, **options))
    before = weights(tmp_path / "run")
    assert before != (BASE / "model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "run" / "model")
    again = run_job(job(stage, world, tmp_path / "run", steps=2, **options))
    assert weights(tmp_path / "run") == before
    steps = [entry["step"] for entry in again["log"] if "loss" in entry]
    assert steps == [entry["step"] for entry in trained["log"] if "loss" in entry] == [1, 2]


def test_one_checkpoint_is_enough(world: Path, tmp_path: Path) -> None:
    """The old one is removed when the new one is finished, and not before."""

    class Stop(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            names = sorted(path.name for path in Path(args.output_dir).glob("checkpoint-*"))
            assert names == [f"checkpoint-{state.global_step}"]
            if state.global_step == 2:
                raise KeyboardInterrupt

    stopped = job("sft", world, tmp_path / "run", [Stop()])
    stopped.recipe.train["save_total_limit"] = 1
    with pytest.raises(KeyboardInterrupt):
        run_job(stopped)
    assert (stopped.checkpoints / "checkpoint-2" / "finished").exists()


def test_the_base_goes_on_over_the_step_where_the_optimizer_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from videothinker.toy import base

    class Killed(Exception):
        pass

    phases = (2, "alike", {}, {"recite": 2}), (10**9, "words", {}, {"check": 2})
    monkeypatch.setattr(base, "PHASES", phases)
    plan = base.BaseTrainingPlan(vision_steps=0, steps=2, check_steps=2, save_every=1)
    step = base.base_step

    def trained(folder: Path, steps: int = 4) -> Any:
        """The weights after a training that is killed after some steps and started again."""
        done = []

        def counted(*args: Any) -> Any:
            if len(done) == steps:
                raise Killed
            done.append(1)
            return step(*args)

        with monkeypatch.context() as patch:
            patch.setattr(base, "base_step", counted)
            if steps < 4:
                with pytest.raises(Killed):
                    base.train_base(folder, plan)
        return base.train_base(folder, plan).state_dict()

    whole = trained(tmp_path / "whole")
    for steps in (2, 3):  # the second was the last of the old optimizer
        again = trained(tmp_path / f"killed after {steps}", steps)
        assert all(torch.equal(weights, again[name]) for name, weights in whole.items())
    state = torch.load(tmp_path / "whole" / "state.pt", weights_only=True)
    assert {int(own["step"]) for own in state["optimizer"]["state"].values()} == {2}
