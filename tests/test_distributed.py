"""Two processes (gloo) learn what one learns from the same prompts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

TRAIN = """
import json
import os
import sys
from pathlib import Path

import torch

from videothinker.model.encoder import EncoderOptions
from videothinker.schema import read_rows
from videothinker.training.grpo import train_grpo
from videothinker.training.job import Recipe, TrainingJob
from videothinker.training.setup import leave_process_group
from videothinker.video.frames import Sampling

torch.set_num_threads(1)
base, world, out, accumulation, loss_type = sys.argv[1:]


def longer(prompts, completions, **columns):
    return [float(len(c)) for c in completions]


train = {
    "max_steps": 2,
    "save_strategy": "no",
    "num_generations": 3,
    "per_device_train_batch_size": 6,
    "gradient_accumulation_steps": int(accumulation),
    "temperature": 2.0,
    "learning_rate": 0.1,
    "optim": "sgd",
    "lr_scheduler_type": "constant",
    "beta": 0.04,
    "max_completion_length": 24,
    "loss_type": loss_type,
    "gradient_checkpointing": False,
    "disable_tqdm": True,
    "seed": 3,
}
sampling = Sampling(fps=2, max_frames=48, size=(56, 56))
job = TrainingJob(
    Recipe("grpo", style="short", sampling=sampling, train=train),
    base,
    read_rows(Path(world) / "val.jsonl"),
    world,
    Path(out),
    EncoderOptions(timeout=None),
    {"longer": longer},
)
result = train_grpo(job)
if int(os.environ.get("RANK", 0)) == 0:
    steps = [[row["loss"], row["grad_norm"]] for row in result["log"] if "loss" in row]
    (job.out / "log.json").write_text(json.dumps(steps))
leave_process_group()
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight clips with a question each, and the training script."""
    from videothinker.toy.world import WorldSize, make_world

    folder = tmp_path_factory.mktemp("world")
    make_world(folder, WorldSize(train=0, val=8, test=0, ood=0, questions=1))
    (folder / "train.py").write_text(TRAIN)
    return folder


def trained(world: Path, processes: int, loss: str) -> tuple[list[list[float]], dict]:
    """Losses and gradient norms of the steps, and the weights at the end."""
    from safetensors.torch import load_file

    out = world / f"{loss}-{processes}"
    launch = (
        []
        if processes == 1
        else ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    )
    command = [
        sys.executable,
        *launch,
        str(world / "train.py"),
        str(ROOT / "data" / "tiny-base"),
        str(world),
        str(out),
    ]
    done = subprocess.run(
        [*command, str(2 // processes), loss],
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((out / "log.json").read_text()), load_file(
        out / "model" / "model.safetensors"
    )


@pytest.mark.parametrize("loss", ["dapo", "grpo"])
def test_two_processes_learn_what_one_learns(world: Path, loss: str) -> None:
    from safetensors.torch import load_file

    (log, weights), (log_two, weights_two) = (trained(world, n, loss) for n in (1, 2))
    assert len(log) == 2 and log[0][1] > 0
    assert log_two == [pytest.approx(row, rel=2e-3, abs=1e-4) for row in log]
    start = load_file(ROOT / "data" / "tiny-base" / "model.safetensors")
    moved = {n: (w - start[n]).abs().max().item() for n, w in weights.items()}
    assert max(moved.values()) > 1e-4
    worst = max((weights_two[n] - w).abs().max().item() for n, w in weights.items())
    assert worst < 1e-3 * max(moved.values())
