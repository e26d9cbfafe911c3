"""The monitor warns of what is wrong in a log, and leaves healthy runs in peace."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from random import Random
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest

from videothinker.files import InputError
from videothinker.training.monitor import (
    CHECKS,
    CLEAR_AFTER,
    Watch,
    monitor,
    read_log,
    trend,
    warnings_of,
    warnings_of_run,
)

ROOT = Path(__file__).parents[1]
CORRECT = "rewards/correct/mean"
Log = list[dict[str, Any]]


def noisy(start: float, end: float, n: int, noise: float, seed: int = 0) -> list[float]:
    random = Random(seed)
    return [start + (end - start) * i / (n - 1) + random.gauss(0, noise) for i in range(n)]


def grpo_log(changed: Mapping[str, list[float]] = MappingProxyType({}), seed: int = 0) -> Log:
    """The log of a run that learns, but for what is changed; forty steps, or as many as that."""
    n = len(next(iter(changed.values()), range(40)))
    columns = {
        "loss": noisy(0, 0, n, 0.01, seed),
        "grad_norm": noisy(0.1, 0.1, n, 0.01, seed),
        CORRECT: noisy(0.31, 0.54, n, 0.05, seed + 1),
        "rewards/correct/std": [0.49] * n,
        "reward_std": [0.55] * n,
        "reward": noisy(1.2, 1.5, n, 0.06, seed + 2),
        "frac_reward_zero_std": noisy(0.1, 0.15, n, 0.06, seed + 3),
        "hack_rate": noisy(0.05, 0.06, n, 0.02, seed + 4),
        "segments/recall": noisy(0.78, 0.92, n, 0.02, seed + 5),
        "segments/named": noisy(0.79, 0.97, n, 0.02, seed + 6),
        "completions/mean_length": noisy(77, 111, n, 3, seed + 7),
        "completions/clipped_ratio": noisy(0.02, 0.01, n, 0.005, seed + 8),
        "entropy": noisy(0.041, 0.03, n, 0.002, seed + 9),
        "kl": [0.006 * i / n for i in range(n)],
    } | dict(changed)
    rows = zip(*columns.values(), strict=True)
    return [{"step": i, **dict(zip(columns, row, strict=True))} for i, row in enumerate(rows, 1)]


def sft_log(losses: list[float]) -> Log:
    return [{"step": 5 * i, "loss": loss, "grad_norm": 1.0} for i, loss in enumerate(losses, 1)]


def names(log: Log, max_steps: int = 0) -> set[str]:
    return {warning.name for warning in warnings_of(log, max_steps)}


SAME_LENGTH = {"completions/mean_length": [90.0] * 40}
FLAT = noisy(0.26, 0.26, 40, 0.05, 11)
SICK: dict[str, Log] = {
    "flat_reward": grpo_log({CORRECT: FLAT} | SAME_LENGTH),
    "length_without_reward": grpo_log({CORRECT: FLAT}),
    "dying_groups": grpo_log({"frac_reward_zero_std": noisy(0.3, 0.8, 40, 0.05)}),
    "growing_hacks": grpo_log({"hack_rate": noisy(0.05, 0.2, 40, 0.02)}),
    "falling_recall": grpo_log({"segments/recall": noisy(0.81, 0.45, 40, 0.02)}),
    "clipped_completions": grpo_log({"completions/clipped_ratio": noisy(0, 0.3, 40, 0.02)}),
    "collapsed_entropy": grpo_log({"entropy": [0.04 * 0.9**i for i in range(40)]}),
    "runaway_kl": grpo_log({"kl": [0.001 * 1.2**i for i in range(40)]}),
    "not_finite": grpo_log({"loss": [0.0] * 30 + [math.nan] * 10}),
    "flat_loss": sft_log(noisy(2, 2, 60, 0.1)),
}


@pytest.mark.parametrize("name", CHECKS)
def test_each_warning_is_given_where_it_should(name: str) -> None:
    found = [warning for warning in warnings_of(SICK[name]) if warning.name == name]
    assert len(found) == 1
    assert re.search(r"\d|nan", found[0].text) and found[0].advice == CHECKS[name][1]
    assert str(found[0]).startswith(f"{name} (step {found[0].step}): ")


@pytest.mark.parametrize("name", CHECKS)
def test_no_warning_comes_with_another_sickness(name: str) -> None:
    related = {"length_without_reward": {"flat_reward"}}
    assert names(SICK[name]) == {name} | related.get(name, set())


def test_healthy_runs_are_left_in_peace() -> None:
    for seed in range(20):
        assert names(grpo_log(seed=20 * seed)) == set(), seed
    falling = [0.03 + 6.8 * 0.93**i for i in range(120)]
    assert (
        names(sft_log([v + e for v, e in zip(falling, noisy(0, 0, 120, 0.005), strict=True)]))
        == set()
    )


def test_long_slow_runs_are_left_in_peace_and_flat_ones_are_not() -> None:
    """Eight prompts a step: one step says little, and the rise of a few hundred hardly more."""
    for end, expected in ((0.7, set()), (0.5, {"flat_reward"})):
        values = noisy(0.5, end, 800, 0.12)
        log = [
            {"step": i, "reward": v, CORRECT: v, "rewards/correct/std": 0.5, "loss": 0.0}
            for i, v in enumerate(values, 1)
        ]
        assert names(log) == expected


@pytest.mark.parametrize("path", sorted((ROOT / "data" / "results").glob("seed-*.json")), ids=str)
def test_the_published_runs_get_no_warning_but_what_is_true(path: Path) -> None:
    curves = json.loads(path.read_text(encoding="utf-8"))["curves"]
    assert names(curves["sft"]) == set()
    correct = [row["reward_correct"] for row in curves["grpo"]]
    log = [
        {
            "step": row["step"],
            "reward": row["reward"],
            CORRECT: row["reward_correct"],
            "rewards/correct/std": math.sqrt(row["reward_correct"] * (1 - row["reward_correct"])),
            "completions/mean_length": row["completion_length"],
            "frac_reward_zero_std": row["frac_reward_zero_std"],
            "entropy": row["entropy"],
            "kl": row["kl"],
        }
        for row in curves["grpo"]
    ]
    gain = (sum(correct[-10:]) - sum(correct[:10])) / 10
    assert names(log) <= ({"flat_reward"} if gain < 0.12 else set())


def test_a_falling_reward_is_said_at_once_however_long_the_run_is_planned() -> None:
    log = grpo_log({CORRECT: noisy(0.5, 0.2, 40, 0.05)} | SAME_LENGTH)
    [warning] = warnings_of(log, 2500)
    assert warning.name == "flat_reward" and "reward falls" in warning.text
    assert names(grpo_log({CORRECT: FLAT} | SAME_LENGTH), 2500) == set()  # too early to say


def test_right_nearly_always_is_not_flat() -> None:
    log = grpo_log({CORRECT: [0.97] * 40} | SAME_LENGTH)
    assert names(log) == set()


def test_rewards_without_correct_are_judged_by_their_sum() -> None:
    log = grpo_log({"reward": noisy(1.2, 1.2, 40, 0.05, 3)} | SAME_LENGTH)
    for entry in log:
        del entry[CORRECT], entry["rewards/correct/std"]
    assert names(log) == {"flat_reward"}


def test_single_infinite_gradients_are_how_fp16_finds_its_scale() -> None:
    norms = [0.1] * 40
    for i in (0, 1, 9, 20):
        norms[i] = math.inf
    assert names(grpo_log({"grad_norm": norms})) == set()
    norms[21:23] = [math.nan] * 2
    assert names(grpo_log({"grad_norm": norms})) == {"not_finite"}


def test_a_warning_is_said_once_until_it_clears() -> None:
    dead = [0.1] * 10 + [0.9] * 10 + [0.1] * 20 + [0.9] * 10
    log = grpo_log({"frac_reward_zero_std": dead})
    said = [warning for warning in warnings_of(log) if warning.name == "dying_groups"]
    assert len(said) == 2
    watch = Watch()
    held = []
    for entry in log:
        watch.add(entry)
        held.append(watch.held().get("dying_groups", 0))
    begins = [i for i in range(50) if held[i] == 1]
    assert [i + 1 for i in begins] == [warning.step for warning in said]
    means = [sum(dead[i - 9 : i + 1]) / 10 for i in range(9, 50)]
    gone = next(i for i in range(begins[0], 50) if means[i - 9] <= 0.5)
    assert held.index(0, begins[0]) == gone + CLEAR_AFTER - 1
    assert held[begins[0] : gone] == list(range(1, gone - begins[0] + 1))


def test_noise_around_a_limit_does_not_stutter() -> None:
    dead = [0.5 + (0.05 if i // 10 % 2 else -0.05) + 0.3 * (-1) ** i for i in range(60)]
    log = grpo_log({"frac_reward_zero_std": dead})
    watch = Watch()
    met = 0
    for entry in log:
        watch.add(entry)
        met += watch.absent.get("dying_groups") == 0
    assert met > 5
    assert len([w for w in warnings_of(log) if w.name == "dying_groups"]) <= 3


def play(log: Log, history: Log, max_steps: int, main: bool = True) -> Log:
    """The history of a run, as the trainer and the callback write it."""
    state = SimpleNamespace(
        log_history=list(history), is_world_process_zero=main, max_steps=max_steps
    )
    callback = monitor()
    callback.on_train_begin(None, state, None)
    for entry in log:
        logs = {name: value for name, value in entry.items() if name != "step"}
        state.log_history.append({**logs, "step": entry["step"]})
        callback.on_log(None, state, None, logs)
        assert {**logs, "step": entry["step"]} == {
            name: value for name, value in state.log_history[-1].items() if name != "warnings"
        }
    return json.loads(json.dumps(state.log_history))


@pytest.mark.parametrize("stop", [9, 12, 29, 30, 31, 39])
def test_a_resumed_run_goes_on_as_if_nothing_had_been(
    stop: int, capsys: pytest.CaptureFixture[str]
) -> None:
    log = grpo_log({CORRECT: FLAT, "frac_reward_zero_std": [0.9] * 15 + [0.1] * 25})
    whole = play(log, [], 40)
    said = capsys.readouterr().out
    assert play(log[stop:], play(log[:stop], [], 40), 40) == whole
    assert capsys.readouterr().out == said
    assert sum("warnings" in entry for entry in whole) >= 2
    assert "dying_groups has ended" in said and "flat_reward" in said


def test_only_the_first_process_speaks_and_all_know(capsys: pytest.CaptureFixture[str]) -> None:
    log = grpo_log({"frac_reward_zero_std": [0.9] * 40})
    other = play(log, [], 40, main=False)
    assert capsys.readouterr().out == ""
    assert other == play(log, [], 40)
    assert other[-1]["monitor/dying_groups"] == 31.0


def test_probes_and_last_words_of_a_trainer_are_passed_over() -> None:
    log: Log = [{"step": 0, "probe_accuracy": 0.3}, *grpo_log(), {"step": 40, "train_loss": 0.1}]
    assert names(log) == set() and play(log, [], 40)[0] == log[0]


def test_steps_that_draw_nothing_have_no_reward() -> None:
    """`num_iterations: 2`: every other entry has a loss and no reward."""
    log: Log = []
    for entry in grpo_log({"frac_reward_zero_std": [0.9] * 40}):
        step = 2 * entry["step"]
        again = {"step": step, "loss": 0.0, "kl": entry["kl"], "entropy": entry["entropy"]}
        log += [entry | {"step": step - 1}, again]
    assert names(log) == {"dying_groups"}


def test_the_log_of_a_run_is_found(tmp_path: Path) -> None:
    for step in (2, 10):
        folder = tmp_path / "checkpoints" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        state = json.dumps({"log_history": [{"step": step, "loss": math.nan}]})
        (folder / "trainer_state.json").write_text(state, encoding="utf-8")
    assert [entry["step"] for entry in read_log(tmp_path)] == [10]
    assert names(read_log(tmp_path)) == {"not_finite"}
    broken = tmp_path / "trainer_state.json"
    broken.write_text("[]", encoding="utf-8")
    with pytest.raises(InputError, match="not the state of a trainer"):
        read_log(broken)


def test_a_trend_of_a_line_is_its_gain() -> None:
    assert trend([2.0, 4.0, 6.0]) == pytest.approx((4.0, 0.0))


def test_the_guide_says_what_to_do_about_each() -> None:
    guide = (ROOT / "nbs" / "tutorials" / "training.ipynb").read_text(encoding="utf-8")
    for name in CHECKS:
        assert f"| `{name}` |" in guide, name


def test_in_a_real_trainer_dashboards_get_it_and_a_resumed_run_does_not_repeat_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from videothinker.training.checkpoints import finished_checkpoint, run_trainer
    from videothinker.training.monitor import watch_training

    class Endless(torch.nn.Module):
        """Its gradient is no number."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": (x * self.weight * math.nan).mean()}

    class Dashboard(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any, **kwargs: Any) -> None:
            shown.append(logs.get("monitor/not_finite"))

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == killed_at:
                raise KeyboardInterrupt

    class Mark(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            folder = tmp_path / f"checkpoint-{state.global_step}"
            sizes = {"trainer_state.json": (folder / "trainer_state.json").stat().st_size}
            (folder / "finished").write_text(json.dumps(sizes), encoding="utf-8")

    def train() -> Log:
        args = TrainingArguments(
            str(tmp_path),
            max_steps=6,
            save_steps=4,
            logging_steps=1,
            per_device_train_batch_size=1,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            lr_scheduler_type="constant",
        )
        rows = [{"x": torch.ones(1)}] * 8
        trainer = Trainer(Endless(), args, train_dataset=rows)
        trainer.add_callback(Dashboard())
        trainer.add_callback(Mark())
        watch_training(trainer)
        run_trainer(trainer, finished_checkpoint(tmp_path))
        return trainer.state.log_history

    shown: list[float | None] = []
    killed_at = 5
    with pytest.raises(KeyboardInterrupt):
        train()
    assert shown == [None, None, 1, 2]
    assert capsys.readouterr().out.count("warning: not_finite (step 3)") == 1
    killed_at = 0
    history = train()
    assert shown[4:] == [3, 4, None]  # steps 5 and 6, and the end of the training
    assert "warning" not in capsys.readouterr().out
    held = [entry.get("monitor/not_finite") for entry in history if "loss" in entry]
    assert held == [None, None, 1, 2, 3, 4]


def test_a_run_under_way_is_judged_by_all_its_steps(tmp_path: Path) -> None:
    """400 of 2,500 steps: too early to say that nothing will come."""
    values = noisy(0.4, 0.4, 400, 0.12, 1)
    log = [
        {"step": i, "loss": 0.0, "reward": 1 + v, CORRECT: v, "rewards/correct/std": 0.49}
        for i, v in enumerate(values, 1)
    ]
    checkpoint = tmp_path / "checkpoints" / "checkpoint-400"
    checkpoint.mkdir(parents=True)
    for max_steps, expected in ((2500, set()), (400, {"flat_reward"})):
        state = {"log_history": log, "max_steps": max_steps}
        (checkpoint / "trainer_state.json").write_text(json.dumps(state))
        assert {warning.name for warning in warnings_of_run(tmp_path)} == expected
