"""`run_in_processes`: results, errors and ends of ranks; the demo's stages on two of them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest
from conftest import ROOT

from videothinker.commands.main import user_message
from videothinker.evaluation import evaluate
from videothinker.files import InputError
from videothinker.json_files import read_json
from videothinker.training.processes import FailedRank, run_in_processes
from videothinker.training.ranks import LostRank, ranks

BASE = ROOT / "data" / "tiny-base"
own_engine_of = evaluate.engine_of


class TwoArguments(InputError):
    """An error that cannot be made again from its message."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")


def describe(word: str) -> dict[str, Any]:
    """What a rank knows of itself, and of the others."""
    import torch

    print(f"{word} from rank {ranks().rank}")
    torch.distributed.init_process_group("gloo")
    total = torch.tensor([1.0 + ranks().rank])
    torch.distributed.all_reduce(total)
    told = ranks().gather("numbers", (os.getpid(), torch.get_num_threads()))
    return {"sum": total.item(), "told": told, "backend": torch.distributed.get_backend()}


def fail(how: str) -> None:
    """One rank fails in some way, while the other waits, or fails as well because of it."""
    if how == "killed":
        import torch

        torch.distributed.init_process_group("gloo")
    if os.environ["RANK"] == "1":
        if how == "killed":
            print("what it had been doing", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "refused":
            raise TwoArguments("clip.mp4", "no such file")
        if how == "system":
            raise FileNotFoundError(2, "No such file", "clip.mp4")
        raise KeyError("clip")
    if how == "killed":
        torch.distributed.barrier()
    time.sleep(600)


def wait_for_ever(folder: Path) -> None:
    """Leave a note of the process, and wait."""
    (folder / f"{os.environ['RANK']}.pid").write_text(str(os.getpid()))
    time.sleep(600)


def test_ranks_find_each_other_and_the_first_one_answers(capfd: pytest.CaptureFixture[str]) -> None:
    told = run_in_processes(describe, ["hello"])
    assert told["sum"] == 3.0 and told["backend"] == "gloo"
    (first, one), (second, also_one) = told["told"]
    assert len({first, second, os.getpid()}) == 3 and one == also_one == 1
    printed = capfd.readouterr().out
    assert "hello from rank 0" in printed and "rank 1" not in printed


def test_one_process_is_this_one() -> None:
    assert run_in_processes(os.getpid, n=1) == os.getpid()


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("killed", LostRank, "rank 1 was ended by SIGKILL (what it had been doing); the same"),
        ("refused", InputError, "clip.mp4: no such file"),
        ("system", FileNotFoundError, "clip.mp4"),
        ("other", FailedRank, "rank 1 failed: KeyError: 'clip'"),
    ],
)
def test_the_cause_is_the_error_not_what_follows(
    how: str, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as caught:
        run_in_processes(fail, [how])
    assert message in str(caught.value)
    assert how != "other" or "in fail" in str(caught.value)  # the line where it happened


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("SafetensorError: No space left on device (os error 28)", True),
        ("RuntimeError: [enforce fail at inline_container.cc:672]", True),
        ("SafetensorError: header too large", False),
        ("KeyError: 'clip'", False),
    ],
)
def test_a_full_disk_is_said_in_a_line_when_a_rank_finds_it(error: str, said: bool) -> None:
    message = user_message(FailedRank(f"rank 1 failed: {error}\n\nTraceback …"))
    assert ("no room on the disk" in message) if said else message is None  # type: ignore[operator]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_rank_outlives_the_program(number: signal.Signals, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from test_processes import run_in_processes, wait_for_ever\n"
        "run_in_processes(wait_for_ever, [Path(sys.argv[2])])"
    )
    arguments = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path)]
    program = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    notes = [tmp_path / "0.pid", tmp_path / "1.pid"]
    while not all(note.exists() and note.read_text() for note in notes):
        assert program.poll() is None, program.communicate()[1]
        time.sleep(0.05)
    launch = [psutil.Process(int(note.read_text())) for note in notes]
    program.send_signal(number)
    _, error = program.communicate()
    assert program.returncode != 0
    assert ("KeyboardInterrupt" in error) == (number == signal.SIGINT)
    _, left = psutil.wait_procs(launch, timeout=60)
    assert not [p for p in left if p.status() != psutil.STATUS_ZOMBIE]  # which nobody waits for


def small_batches(*args: Any, **options: Any) -> Any:
    """An engine that asks two questions at a time, so that there is something to share."""
    engine = own_engine_of(*args, **options)
    engine.batch_size = 2
    return engine


def longer(completions: list[str], **columns: Any) -> list[float]:
    """Reward: the number of characters."""
    return [float(len(text)) for text in completions]


def stages(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Two stages of the demo: GRPO from the base, and the evaluation of the base, killed once."""
    import torch

    from videothinker.toy.demo import evaluate_model, make_plan, train_stage

    torch.set_num_threads(1)
    plan = make_plan(quick=True)
    sizes = {
        "num_generations": 2,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_completion_length": 8,
        "temperature": 2.0,
        "max_steps": 2,
        "save_strategy": "no",
        "optim": "sgd",
        "learning_rate": 0.02,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "disable_tqdm": True,
        "reward_weights": [1.0],
    }
    rewards = (f"{__name__}:longer",)
    grpo = replace(plan.grpo, rewards=rewards, train=plan.grpo.train | sizes)
    plan = replace(plan, grpo=grpo, probe_questions=4, grpo_probe=1)
    journal = folder / "eval" / "base" / "id" / "own.jsonl"
    with mock.patch.object(evaluate, "engine_of", small_batches):
        log = train_stage("grpo", BASE, folder, plan)["log"]
        scores = evaluate_model("base", BASE, folder, 2)
        if ranks().rank == 0:
            lines = journal.read_text().splitlines(keepends=True)
            journal.write_text("".join(lines[:3]))
        assert evaluate_model("base", BASE, folder, 2) == scores
    return log, scores


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two demo runs with a small world and its traces."""
    from videothinker.toy.demo import make_plan, make_traces
    from videothinker.toy.world import WorldSize, make_world

    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    make_world(one / "world", WorldSize(train=8, val=2, test=2, ood=2))
    make_traces(one / "world", make_plan(quick=True), one / "traces")
    shutil.copytree(one, two, dirs_exist_ok=True)
    return one, two


def make_world_with_a_slow_rank(out: Path, size: Any, seed: int) -> dict[str, Any]:
    """`make_world`, in which rank 1 is still encoding when rank 0 has done its share."""
    from videothinker.toy import world

    if ranks().rank == 1:
        own = world.encode_scene

        def slow(*args: Any) -> None:
            time.sleep(0.5)
            own(*args)

        world.encode_scene = slow
    return world.make_world(out, size, seed)


def test_two_ranks_draw_the_same_world(folders: tuple[Path, Path], tmp_path: Path) -> None:
    from videothinker.toy.world import WorldSize, make_world

    one = folders[0] / "world"
    size = WorldSize(train=8, val=2, test=2, ood=2)
    manifest = run_in_processes(make_world_with_a_slow_rank, (tmp_path, size, 0))
    assert manifest == read_json(one / "manifest.json")
    files = {path.relative_to(one) for path in one.rglob("*") if path.is_file()}
    assert {p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file()} == files
    assert all((tmp_path / name).read_bytes() == (one / name).read_bytes() for name in files)
    with pytest.raises(InputError, match="holds the world of another seed"):
        run_in_processes(make_world, (tmp_path, size, 1))


def test_two_ranks_do_what_one_process_does(folders: tuple[Path, Path]) -> None:
    from safetensors.torch import load_file

    one, two = folders
    (log, scores), (log_of_two, scores_of_two) = (
        run_in_processes(stages, [folder], n) for n, folder in enumerate(folders, 1)
    )
    # each question's reply, in order, and what was made of them
    assert scores_of_two == scores and scores["id"]["n"] == 4
    journals = sorted(path.relative_to(one) for path in one.glob("eval/*/*/*.jsonl"))
    assert len(journals) == 8
    for journal in journals:
        assert (two / journal).read_text() == (one / journal).read_text()
    # the same steps from the same rows, and the same points of the learning curve
    for name in ("loss", "reward", "grad_norm"):
        values = [[entry[name] for entry in rows if name in entry] for rows in (log, log_of_two)]
        assert len(values[0]) == 2
        assert values[1] == pytest.approx(values[0], rel=1e-3, abs=1e-6)
    probes = [[entry for entry in rows if "probe_length" in entry] for rows in (log, log_of_two)]
    assert [entry["step"] for entry in probes[0]] == [0, 1, 2]
    assert probes[1] == [pytest.approx(entry) for entry in probes[0]]
    weights = [load_file(run / "grpo" / "model" / "model.safetensors") for run in folders]
    start = load_file(BASE / "model.safetensors")
    moved = max((w - start[name]).abs().max().item() for name, w in weights[0].items())
    apart = max((w - weights[1][name]).abs().max().item() for name, w in weights[0].items())
    assert moved > 1e-4 and apart < 1e-3 * moved
    assert read_json(two / "grpo" / "run.json")["processes"] == 2
