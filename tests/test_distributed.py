"""Two processes (gloo) learn what one learns, agree on what can be read, and do not wait for ever.

One launch with one process and one with two do the same list of trainings (`rank_jobs.py`); further
ones are killed and started again, or refused. A third launch does GRPO on a policy that FSDP2 has
divided over two processes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from families import save_tiny

BASE = ROOT / "data" / "tiny-base"
LAUNCH = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "PYTHONPATH": os.pathsep.join(
        filter(None, (str(ROOT / "tests/stubs/fsdp_on_cpu"), os.environ.get("PYTHONPATH")))
    ),
}  # as `accelerate launch` says it
EPOCHS = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 3}
JOBS: dict[str, dict[str, Any]] = {
    "grpo": {"stage": "grpo", "train": EPOCHS},
    "dapo": {
        "stage": "grpo",
        "train": {
            "max_steps": 2,
            "loss_type": "dapo",
            "scale_rewards": "batch",
            "per_device_train_batch_size": [6, 3],
            "gradient_accumulation_steps": 2,
        },
    },
    "dynamic": {
        "stage": "grpo",
        "rows": 4,
        "reward": "uneven",
        "train": {"max_steps": 2, "dynamic_sampling": 2},
    },
    "tower_twice": {
        "stage": "grpo",
        "train": {"max_steps": 4, "num_iterations": 2},
        "recipe": {"freeze_vision": False},
    },
    "qwen3": {
        "stage": "grpo",
        "base": "qwen3_vl",
        "side": 64,
        "train": {"max_steps": 2},
        "recipe": {"freeze_vision": False},
    },
    "vanished": {"stage": "grpo", "vanish": [5], "on_last": True, "train": {"max_steps": 4}},
    "sft": {
        "stage": "sft",
        "train": EPOCHS | {"per_device_train_batch_size": 1, "gradient_accumulation_steps": [4, 2]},
    },
    "sft_vanished": {
        "stage": "sft",
        "rows": 4,
        "vanish": [1, 4],
        "train": {"num_train_epochs": 2},
    },
}  # the same rows in each step, whether one process trains or two
ONLY_TWO: dict[str, dict[str, Any]] = {
    "sft_again": JOBS["sft"] | {"folder": "sft", "remove": ["checkpoints/checkpoint-4", "model"]},
    "own_folders": {"stage": "sft", "own_folders": True, "fails": True},
    "other_rows": {"stage": "sft", "other_rows": True, "fails": True},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight clips with a question and a trace each, and an untrained Qwen3-VL."""
    from videothinker.schema import read_captions, write_rows
    from videothinker.synthesis.synthesize import synthesize
    from videothinker.toy.teacher import ScriptedTeacher
    from videothinker.toy.world import WorldSize, make_world

    folder = tmp_path_factory.mktemp("world")
    make_world(folder, WorldSize(train=16, val=0, test=0, ood=0, questions=1))
    captions = read_captions(folder / "captions.jsonl")
    rows = synthesize(captions, [], ScriptedTeacher(0, mistake_rate=0), progress=False)
    assert len(rows) == 8
    write_rows(folder / "train.jsonl", rows)
    save_tiny("qwen3_vl", folder / "qwen3_vl")
    return folder


def start(
    world: Path, out: str, jobs: dict[str, Any], processes: int, divided: bool = False, **plan: Any
) -> Any:
    """Begin with some jobs; `divided` is by FSDP2."""
    file = world / f"{out}.plan.json"
    values = {"world": str(world), "base": str(BASE), "out": str(world / out), "jobs": jobs}
    file.write_text(json.dumps(values | plan), encoding="utf-8")
    launch = LAUNCH if processes > 1 else ()
    return subprocess.Popen(
        [sys.executable, *launch, str(ROOT / "tests" / "rank_jobs.py"), str(file)],
        env=ENVIRONMENT | (FSDP2 if divided else {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def folders(world: Path) -> Iterator[tuple[Path, Path]]:
    """The jobs, done by one process and by two."""
    launches = start(world, "one", JOBS, 1), start(world, "two", JOBS | ONLY_TWO, 2)
    try:
        for process in launches:
            text, _ = process.communicate(timeout=600)
            assert process.returncode == 0, text[-5000:]
    finally:
        for process in launches:
            process.terminate()
    yield world / "one", world / "two"


@pytest.fixture(scope="module")
def divided(world: Path) -> Path:
    """The jobs of GRPO, done by two processes that have divided the policy."""
    jobs = {name: job for name, job in JOBS.items() if job["stage"] == "grpo"}
    process = start(world, "divided", jobs, 2, divided=True)
    text, _ = process.communicate(timeout=600)
    assert process.returncode == 0, text[-5000:]
    return world / "divided"


def result(folder: Path, name: str, rank: int = 0) -> dict[str, Any]:
    """What a job returned on a rank."""
    return json.loads((folder / f"{name}.{rank}.json").read_text(encoding="utf-8"))


def steps(folder: Path, name: str) -> list[dict[str, float]]:
    """The log of a job's steps."""
    return [row for row in result(folder, name)["log"] if "loss" in row]


def weight_distances(base_model: Path, first: Path, second: Path) -> tuple[float, float]:
    """How far a model's weights have moved from the base, and how far a second one is from it."""
    from safetensors.torch import load_file

    base, one, two = (load_file(f / "model.safetensors") for f in (base_model, first, second))
    moved = max((w - base[name]).abs().max().item() for name, w in one.items())
    return moved, max((w - two[name]).abs().max().item() for name, w in one.items())


def check_same_training(first: Path, second: Path, name: str) -> None:
    """Two folders have the same losses, weights and statistics of a job."""
    one, two = steps(first, name), steps(second, name)
    assert len(one) == len(two) >= 2 and one[0]["grad_norm"] > 0
    # means over micro-batches, which have other rows with two processes; tokens of stand-ins
    apart = {"entropy", "kl", "mean_token_accuracy", "num_tokens"}
    apart.add("sampling/sampling_logp_difference/max")  # rounding
    for single, double in zip(one, two, strict=True):
        assert set(single) == set(double)
        same = set(single) - apart
        expected = {key: single[key] for key in same}
        assert {key: double[key] for key in same} == pytest.approx(expected, rel=1e-4, abs=1e-5)
    base = first.parent / JOBS[name]["base"] if "base" in JOBS[name] else BASE
    moved, apart_by = weight_distances(base, first / name / "model", second / name / "model")
    assert moved > 1e-4 and apart_by < 1e-3 * moved
    losses = max(abs(a["loss"] - b["loss"]) for a, b in zip(one, two, strict=True))
    print(f"{name}: {len(one)} steps, losses apart by {losses:.1e}; ", end="")
    print(f"weights moved {moved:.1e}, {second.name} from {first.name} {apart_by:.1e}")


@pytest.mark.parametrize("name", JOBS)
def test_two_processes_learn_what_one_learns(folders: tuple[Path, Path], name: str) -> None:
    check_same_training(*folders, name)


@pytest.mark.parametrize("name", [name for name, job in JOBS.items() if job["stage"] == "grpo"])
def test_a_divided_policy_learns_what_a_whole_one_learns(
    folders: tuple[Path, Path], divided: Path, name: str
) -> None:
    check_same_training(folders[0], divided, name)


@pytest.mark.parametrize("name", ["grpo", "dynamic", "vanished"])
def test_completions_of_all_processes_are_written(folders: tuple[Path, Path], name: str) -> None:
    import pyarrow.parquet as pq

    tables = [
        [pq.read_table(file).to_pylist() for file in sorted(log.iterdir())]
        for log in (folder / name / "checkpoints" / "completions" for folder in folders)
    ]
    assert len(tables[0]) == len(steps(folders[0], name))
    assert [[(r["prompt"], r["completion"]) for r in table] for table in tables[1]] == [
        [(r["prompt"], r["completion"]) for r in table] for table in tables[0]
    ]


def test_dynamic_sampling_takes_each_row_once(folders: tuple[Path, Path]) -> None:
    import pyarrow.parquet as pq

    for step, log in enumerate(steps(folders[1], "dynamic"), 1):
        file = folders[1] / "dynamic" / "checkpoints" / "completions"
        table = pq.read_table(file / f"completions_{step:05d}.parquet").to_pylist()
        groups = [table[i : i + 3] for i in range(0, 12, 3)]
        assert len({str(group) for group in groups}) == 4
        dead = sum(len({row["uneven"] for row in group}) == 1 for group in groups)
        assert log["frac_reward_zero_std"] == dead / 4


def test_one_unreadable_video_is_skipped_on_all_processes(folders: tuple[Path, Path]) -> None:
    for name, videos in {"vanished": ["0005"], "sft_vanished": ["0001", "0004"]}.items():
        said = [result(folders[1], name, rank)["skipped"] for rank in (0, 1)]
        assert said[0] == said[1] == result(folders[0], name)["skipped"]
        assert sorted(said[0]) == [f"toyworld/videos/train/train-{v}.mp4" for v in videos]
        assert all("stale file handle" in reason for reason in said[0].values())
        assert steps(folders[1], name)[-1]["skipped_rows"] == len(videos)


def test_one_unreadable_video_does_not_stop_a_divided_policy(
    folders: tuple[Path, Path], divided: Path
) -> None:
    """One process alone cannot read it; the others would wait for its part of the weights."""
    said = [result(divided, "vanished", rank)["skipped"] for rank in (0, 1)]
    assert said[0] == said[1] == result(folders[0], "vanished")["skipped"]
    assert len(said[0]) == 1


def test_resumed_in_the_second_epoch_it_takes_that_epochs_order(
    folders: tuple[Path, Path],
) -> None:
    assert result(folders[1], "sft_again")["weights"] == result(folders[1], "sft")["weights"]


def test_processes_that_cannot_work_together_say_so(folders: tuple[Path, Path]) -> None:
    for name, message in {
        "own_folders": "all machines of a launch need the same output folder",
        "other_rows": "rank 1 reads other rows than rank 0",
    }.items():
        errors = [result(folders[1], name, rank)["error"] for rank in (0, 1)]
        assert all(message in error for error in errors)


def check_killed(world: Path, out: str, jobs: dict[str, Any], divided: bool = False) -> None:
    """Rank 1 is killed, and rank 0 says so and ends."""
    process = start(world, out, jobs, 2, divided)
    mark = world / out / "grpo.killed"
    killed_at = 0.0
    while process.poll() is None:
        if not killed_at and mark.exists():
            killed_at = time.monotonic()
        time.sleep(0.1)
    text = process.stdout.read()
    assert process.returncode != 0 and killed_at, text[-5000:]
    took = time.monotonic() - killed_at
    print(f"{out}: ended {took:.0f} s after the kill")
    assert took < 120
    [line] = [line for line in text.splitlines() if line.startswith("rank 0 says: ")]
    assert "rank 1 ended" in line and "goes on from the last checkpoint" in line


def test_a_killed_process_ends_the_others_with_a_reason(
    world: Path, folders: tuple[Path, Path]
) -> None:
    """Killed in the second epoch, started again with a slow process: the same bits in the end."""
    jobs = {"grpo": JOBS["grpo"] | {"kill": 7}}
    check_killed(world, "killed", jobs)
    again = start(world, "killed", jobs, 2, slow=6)
    text, _ = again.communicate(timeout=600)
    assert again.returncode == 0, text[-5000:]
    assert "goes on from step 6 of 8" in text
    whole = result(folders[1], "grpo")
    assert result(world / "killed", "grpo")["weights"] == whole["weights"]


def test_a_killed_process_ends_those_that_wait_for_its_part_of_the_weights(world: Path) -> None:
    """`test_strategies` starts such a training again."""
    check_killed(world, "killed_divided", {"grpo": JOBS["grpo"] | {"kill": 2}}, divided=True)


def test_what_rank_0_refuses_is_refused_by_all(world: Path, folders: tuple[Path, Path]) -> None:
    out = world / "taken"
    out.mkdir()
    (out / "model").mkdir()
    (out / "run.json").write_text('{"stage": "sft"}', encoding="utf-8")
    command = ["grpo", "--recipe", "tiny/grpo", "--model", BASE, "--data", world / "train.jsonl"]
    done = subprocess.run(
        [sys.executable, *LAUNCH, "-m", "videothinker", *command, "--videos", world, "--out", out],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    said = {line for line in done.stderr.splitlines() if line.startswith("videothinker grpo: ")}
    assert done.returncode != 0 and len(said) == 1, done.stderr[-3000:]
    assert "holds a run with other settings" in said.pop()
    assert "Loading weights" not in done.stderr + done.stdout
