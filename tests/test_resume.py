"""Trainings that are killed (SIGKILL) and started again end, to the bit, as undisturbed ones do."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT

from videothinker.files import read_json
from videothinker.schema import read_captions, write_rows
from videothinker.synthesis.synthesize import synthesize
from videothinker.toy.teacher import ScriptedTeacher
from videothinker.toy.world import WorldSize, make_world

ENVIRONMENT = os.environ | {
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
    rewards = ["correct", "format", "soft_length"]  # the last differs between the base's answers
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
