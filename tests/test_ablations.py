"""The toy's ablations: arms and their settings, stages done once, figures over seeds, tables."""

from __future__ import annotations

import importlib
import json
import math
import shutil
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import ROOT

from videothinker.claims import weights_digest
from videothinker.configs import model_path
from videothinker.evaluation.records import Record
from videothinker.files import InputError
from videothinker.json_files import read_json, write_json
from videothinker.schema import Sample, Segment, read_rows
from videothinker.toy.looking import look_at
from videothinker.trace import Block, render_trace
from videothinker.training.recipes import rows_digest

HELD_OUT = ("id", "ood")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`scripts/ablate_toy.py` beside the two modules that it imports."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("ablate_toy")


@pytest.fixture
def stages(script: ModuleType) -> ModuleType:
    return importlib.import_module("ablation_stages")


@pytest.fixture
def tables(script: ModuleType) -> ModuleType:
    return importlib.import_module("ablation_tables")


# Arms


def test_a_setting_is_what_its_words_say(stages: ModuleType) -> None:
    setting = stages.Setting.of(
        "grpo.train.beta=0.0 grpo.rewards=[correct] sft.train.max_steps=9 plan.check_share=0.5 "
        "curated=false frames=8 long=sft"
    )
    assert setting.grpo == ("train.beta=0.0", "rewards=[correct]")
    assert setting.sft == ("train.max_steps=9",)
    assert setting.plan == {"check_share": 0.5}
    assert (setting.curated, setting.frames, setting.long) == (False, 8, "sft")
    assert stages.Setting.of("") == stages.Setting()
    for wrong in ("frame=8", "grpo", "grpo=1", "other.train.beta=0", "curated"):
        with pytest.raises(InputError, match="known keys"):
            stages.Setting.of(wrong)
    for wrong in ("start=grpo", "long=5", "order=up", "curated=maybe", "frames=many", "frames=-1"):
        with pytest.raises(InputError, match=f"^{wrong}: "):
            stages.Setting.of(wrong)
    with pytest.raises(InputError, match="^instead=true: "):
        stages.Setting.of("instead=true start=base")


def test_every_arm_is_a_plan_that_can_be_run_and_differs(
    script: ModuleType, stages: ModuleType
) -> None:
    settings = {name: stages.Setting.of(text) for name, text in script.ARMS.items()}
    plans = {name: stages.plan_of(s, 1, stages.Size()) for name, s in settings.items()}
    main = plans["main"].grpo.train
    steps = main["per_device_train_batch_size"] * main["gradient_accumulation_steps"]
    for name, plan in plans.items():
        train = plan.grpo.train
        assert train["seed"] == train["data_seed"] == plan.sft.train["seed"] == 1
        assert len(train["reward_weights"]) == len(plan.grpo.rewards)
        completions = train["per_device_train_batch_size"] * train["gradient_accumulation_steps"]
        assert completions == steps and completions % train["num_generations"] == 0, name
    changed = [(name, settings[name].start, plans[name]) for name in plans]
    same = [
        (a, b)
        for i, (a, _, plan) in enumerate(changed)
        for b, _, other in changed[:i]
        if plan == other and replace(settings[a], plan={}) == replace(settings[b], plan={})
    ]
    assert same == []
    with pytest.raises(InputError, match="the plan has no 'nothing'"):
        stages.plan_of(stages.Setting.of("plan.nothing=1"), 0, stages.Size())


def test_measures_are_logged_and_weigh_nothing(stages: ModuleType) -> None:
    setting = stages.Setting.of("grpo.rewards=[correct,grounding]")
    recipe = stages.plan_of(setting, 0, stages.Size()).grpo
    assert recipe.rewards[:2] == ("correct", "grounding")
    measures = [name.rpartition(":")[2] for name in recipe.rewards[2:]]
    assert recipe.train["reward_weights"] == [1.0, 2.0] + [0.0] * len(measures)
    assert {f"rewards/{name}/mean" for name in measures} <= set(stages.CURVES.values())


def test_rows_from_short_to_long_are_drawn_so(stages: ModuleType) -> None:
    from videothinker.training.samplers import PromptOrder

    rows = [
        Sample("?", [], "", id=f"{n}-{k}", duration=float(9 - k), segments=[Segment(0, 1)] * n)
        for k in range(6)
        for n in (5, 3, 4)
    ]
    placed = stages.from_short_to_long(rows, 12, seed=3)
    drawn = [placed[i] for i in PromptOrder(12, 3)]
    keys = [(len(row.segments), row.duration) for row in drawn]
    assert keys == sorted(keys) and {n for n, _ in keys} == {3, 4, 5}
    assert placed != drawn and len({row.id for row in placed}) == 12
    assert len(stages.from_short_to_long(rows, 40, seed=0)) == 40


# Stages


def test_a_stage_is_done_once_and_again_after_a_kill(stages: ModuleType, tmp_path: Path) -> None:
    store, calls = stages.Store(tmp_path), []

    def work(folder: Path) -> int:
        (folder / "checkpoints").mkdir(exist_ok=True)
        calls.append(folder.name)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return len(calls)

    with pytest.raises(KeyboardInterrupt):
        store.stage("sft", {"a": 1, "b": 2}, work)
    folder = store.stage("sft", {"a": 1, "b": 2}, work)
    assert store.stage("sft", {"b": 2, "a": 1}, work) == folder and stages.result_of(folder) == 2
    assert not (folder / "checkpoints").exists()
    other = store.stage("sft", {"a": 1, "b": 3}, work)
    assert other != folder and calls == [folder.name, folder.name, other.name]


def test_the_same_weights_asked_in_another_way_are_evaluated_anew(
    stages: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from videothinker.model.loading import Settings

    asked = []

    def stage(store: object, kind: str, decides: dict, work: object) -> Path:
        asked.append(stages.digest(decides))
        return tmp_path

    monkeypatch.setattr(stages.Store, "stage", stage)
    write_json(tmp_path / "done.json", {"result": {}})
    base = ROOT / "data" / "tiny-base"
    for style, frames in (("letter", 0), ("short", 0), ("short", 8), ("letter", 0)):
        own = Settings(style, Settings.of(base).sampling)
        monkeypatch.setattr(Settings, "of", lambda model, own=own: own)
        stages.evaluated(stages.Store(tmp_path), base, tmp_path, frames, stages.Size())
    assert len(set(asked)) == 3 and asked[0] == asked[3]


def test_an_arm_is_run_by_one_process_and_once(
    script: ModuleType, stages: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []

    def run_arm(out: Path, name: str, text: str, seed: int, size: object) -> None:
        ran.append((name, seed))
        if seed == 2:
            raise TimeoutError("of a video")
        write_json(stages.result_path(out, name, seed), {"setting": text})

    monkeypatch.setattr(script, "run_arm", run_arm)
    arguments = (tmp_path, "main", "", 1, stages.Size())
    with stages.locked(tmp_path / "locks" / "main-1.lock", wait=False):
        assert script.run_once(*arguments) == script.BUSY
    assert [script.run_once(*arguments) for _ in range(2)] == [0, 0]
    assert ran == [("main", 1)]
    with pytest.raises(InputError, match="is of 'the main job'; take another name"):
        script.run_once(tmp_path, "main", "frames=8", 1, stages.Size())
    with pytest.raises(TimeoutError, match="of a video"):  # which is no other process
        script.run_once(tmp_path, "main", "", 2, stages.Size())


def test_what_is_missing_is_run_and_what_failed_is_named(
    script: ModuleType,
    stages: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = []

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess:
        asked.append(" ".join(command[4:]))
        status = {"no-sft": 1, "correct": script.BUSY}.get(command[4], 0)
        return subprocess.CompletedProcess(command, status)

    monkeypatch.setattr(script.subprocess, "run", run)
    write_json(stages.result_path(tmp_path, "main", 1), {})
    assert script.run_all(tmp_path, ["main", "no-sft", "correct"], [0, 1], 2, quick=True) == 1
    assert asked[:2] == [
        "main --seed 0 --threads 2 --quick",
        "no-sft --seed 0 --threads 2 --quick",
    ]
    assert len(asked) == 5  # not main with seed 1
    said = capsys.readouterr().out
    assert "another process has correct-0, correct-1" in said
    assert f"failed, see {tmp_path / 'logs'}: no-sft-0, no-sft-1" in said
    assert script.run_all(tmp_path, ["main"], [0, 1], 1, quick=False) == 0


def test_the_command_line_keeps_names_apart(script: ModuleType) -> None:
    args = script.parsed(["try", "o", "mine", "grpo.train.beta=0.1", "--seed", "2"])
    assert (args.name, args.changes, args.seed) == ("mine", ["grpo.train.beta=0.1"], 2)
    assert script.parsed(["run", "o"]).arms == list(script.ARMS)
    for wrong in (["try", "o", "main"], ["run", "o", "--arms", "nothing"], ["collect", "o"]):
        with pytest.raises(SystemExit):
            script.parsed(wrong)


def test_scores_count_what_was_needed_and_how_it_ended(stages: ModuleType) -> None:
    events = ["a red ring moves up", "a blue cross moves left", "a green circle moves down"]
    segments = [Segment(2 * i, 2 * i + 2, caption) for i, caption in enumerate(events)]
    options = ["A. the red ring", "B. the blue cross"]
    row = Sample("Which shape moves second?", options, "<answer>B</answer>", "v.mp4", id="q",
                 video_id="v", duration=6.0, segments=segments)  # fmt: skip
    blocks = [Block(s.start, s.end, s.caption, "so") for s in segments]
    second = "so the answer is the blue cross . A : the red no B : the blue cross yes . so B"
    replies = [
        render_trace(blocks[:1], "so it is A", "A"),  # half of what is needed, direct, wrong
        render_trace(blocks, second, "B"),  # all, and one more; checked, right
    ]
    pairs = [
        (Record.of(row, "own", text, index=i), look_at(row, text)) for i, text in enumerate(replies)
    ]
    found = {name: value[0] for name, value in stages.scores(pairs, [row]).items()}
    assert found["accuracy"] == 0.5 and found["format"] == 1
    assert found["recall"] == pytest.approx(0.75)
    assert found["precision"] == pytest.approx((1 + 2 / 3) / 2)
    assert (found["checked"], found["right_checked"], found["right_direct"]) == (0.5, 1, 0)
    assert found["named"] == pytest.approx(4 / 6)
    assert stages.interval([None, None], ["v", "v"]) == [None, None, None]
    mean, low, high = stages.interval([1, None, 0, 1, 1], list("abcde"))
    assert mean == 0.75 and 0 < low < mean < high < 1


# Tables


def test_intervals_over_seeds_are_students(tables: ModuleType) -> None:
    mean, half, n = tables.over_seeds([1.0, 2.0, 3.0])
    assert (mean, n) == (2, 3) and half == pytest.approx(4.302653 / math.sqrt(3))
    assert tables.over_seeds([0.5]) == [0.5, None, 1]
    assert tables.over_seeds([0.5, 0.5])[1] == 0


def test_the_rise_is_of_the_ends_of_a_curve(tables: ModuleType) -> None:
    assert tables.rise(tables.in_pairs([0.0] * 10 + [0.7] * 20 + [1.0] * 10)) == 1
    assert tables.rise([0.0, None, 1.0, 1.0, 2.0]) == pytest.approx(1.0)
    assert tables.rise([]) is None and tables.rise([None, 0.5]) is None
    assert tables.in_pairs([0.0, 1.0, None, 3.0, None, None, 4.0]) == [0.5, 3.0, None, 4.0]


def test_every_arm_has_a_question_and_a_reference(script: ModuleType, tables: ModuleType) -> None:
    grouped = {name.rstrip("*") for group in tables.GROUPS.values() for name in group.split()}
    assert grouped == set(script.ARMS)
    assert tables.reference_of("main") == "" and tables.reference_of("beta-0") == "main"
    assert tables.reference_of("weak-paper") == "weak-format"
    assert tables.reference_of("weak-format") == tables.reference_of("tried") == "main"


def result(arm: str, seed: int, accuracy: float) -> dict:
    """The result of an arm in which everything but the greedy figures is one number."""
    both = {"accuracy": [accuracy, accuracy - 0.1, accuracy + 0.1], "recall": [accuracy, 0, 1]}
    modes = {"sampled": both, "greedy": {"accuracy": [0.25, None, None]}}
    start = {split: {"sampled": {"accuracy": [0.2, 0.1, 0.3]}} for split in HELD_OUT}
    return {
        "arm": arm, "setting": "", "seed": seed, "seconds": {"sft": 1.0, "grpo": 2.0},
        "versions": {"python": "3"}, "before": start, "after": {s: modes for s in HELD_OUT},
        "curves": {"correct": [0.1, 0.1, accuracy, accuracy], "kl": [None, 0.0, 0.0, 0.0]},
    }  # fmt: skip


def test_a_partial_run_gives_tables_that_say_so(
    script: ModuleType, tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for arm, seed, accuracy in (
        ("main", 0, 0.5), ("main", 1, 0.6), ("main", 2, 0.7),
        ("beta-0", 0, 0.55), ("beta-0", 2, 0.75), ("tried", 4, 0.3),
    ):  # fmt: skip
        write_json(tmp_path / "results" / f"{arm}-{seed}.json", result(arm, seed, accuracy))
    found = tables.collected(tmp_path, script.ARMS)
    tables.write(tmp_path / "found.json", found)
    saved = json.loads((tmp_path / "found.json").read_text())
    assert saved == tables.rounded(found)
    means = saved["arms"]["beta-0"]["means"]
    assert means["id.sampled.accuracy"][0] == 0.65 and means["id.sampled.accuracy"][2] == 2
    assert means["id.sampled.accuracy −"] == [0.05, 0.0, 2]  # seed by seed
    assert saved["arms"]["main"]["means"]["id.gain"][0] == pytest.approx(0.4)
    assert saved["arms"]["main"]["means"]["rise"][0] == pytest.approx(0.5)
    assert set(saved["arms"]["tried"]["runs"]) == {"4"}
    assert not any(name.endswith("−") for name in saved["arms"]["tried"]["means"])  # no such seed
    text = tables.all_tables(saved)
    rows = [line.split() for line in text.splitlines() if line.startswith(("main", "beta-0 "))]
    assert rows[0][:4] == ["main", "3", "60.0", "±24.8"]
    assert "−" not in " ".join(rows[0]) and text.count("not run") > 20
    empty = tables.collected(tmp_path / "nothing", script.ARMS)
    assert "main" in tables.all_tables(empty) and "±" not in tables.all_tables(empty)
    monkeypatch.setattr("sys.argv", ["", "collect", str(tmp_path / "nothing"), str(tmp_path / "f")])
    with pytest.raises(InputError, match="holds no results"):
        script.main()
    assert not (tmp_path / "f").exists()


def test_a_collection_keeps_the_runs_that_a_folder_lacks(
    script: ModuleType, tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, first, second = (tmp_path / name for name in ("found.json", "first", "second"))
    for folder in (first, second):
        write_json(folder / "size.json", {"quick": True})
    for folder, arm, seed, accuracy in (
        (first, "main", 0, 0.5), (first, "main", 1, 0.6), (first, "beta-0", 1, 0.7),
        (second, "main", 0, 0.55), (second, "beta-0", 0, 0.65),
    ):  # fmt: skip
        made = result(arm, seed, accuracy) | {"setting": script.ARMS[arm]}
        write_json(folder / "results" / f"{arm}-{seed}.json", made)

    def collect(folder: Path) -> dict:
        monkeypatch.setattr("sys.argv", ["", "collect", str(folder), str(file)])
        assert script.main() == 0
        return read_json(file)

    before = collect(first)
    assert collect(first) == before
    after = collect(second)
    for name, seed in (("main", "1"), ("beta-0", "1")):
        assert after["arms"][name]["runs"][seed] == before["arms"][name]["runs"][seed]
    means = after["arms"]["beta-0"]["means"]
    assert means["id.sampled.accuracy"][::2] == [0.675, 2]
    assert means["id.sampled.accuracy −"] == [0.1, 0.0, 2]
    assert means["rise"][0] == pytest.approx((0.6 + 0.55) / 2)
    assert list(after["arms"]["main"]["runs"]) == ["0", "1"]
    write_json(second / "size.json", {"quick": False})
    with pytest.raises(InputError, match="earlier runs are of"):
        collect(second)
    monkeypatch.setitem(script.ARMS, "beta-0", "grpo.train.beta=0.5")
    with pytest.raises(InputError, match="earlier runs of beta-0 are of"):
        collect(first)
    assert read_json(file) == after


def test_the_saved_file_is_one_of_collect(script: ModuleType, tables: ModuleType) -> None:
    saved = json.loads((ROOT / "data" / "results" / "ablations.json").read_text("utf-8"))
    assert list(script.ARMS) == list(saved["arms"])[: len(script.ARMS)]
    assert saved["groups"] == {k: v.replace("*", "").split() for k, v in tables.GROUPS.items()}
    assert {name: arm["setting"] for name, arm in saved["arms"].items()} == script.ARMS
    assert tables.all_tables(saved)


# The whole chain


def test_two_arms_share_what_they_have_in_common(
    script: ModuleType,
    stages: ModuleType,
    tables: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A tiny world and trainings of two steps: the code of the real thing, end to end."""
    from videothinker.toy import demo
    from videothinker.toy.world import WorldSize

    few = {"max_steps": 2, "save_steps": 1, "warmup_steps": 0, "gradient_accumulation_steps": 1}
    groups = {"per_device_train_batch_size": 4, "num_generations": 2, "max_completion_length": 16}

    def tiny(seed: int, quick: bool) -> demo.DemoPlan:
        sft, grpo = demo.read_recipe("tiny/sft"), demo.read_recipe("tiny/grpo")
        return demo.DemoPlan(
            seed,
            world=WorldSize(train=6, val=2, test=3, ood=2),
            sft=replace(sft, train=sft.train | few | {"per_device_train_batch_size": 2}),
            grpo=replace(grpo, train=grpo.train | few | groups),
        )

    monkeypatch.setattr(demo, "make_plan", tiny)
    size = stages.Size(quick=True, questions=(3, 2), samples=2)
    texts = {"main": "", "mine": "grpo.train.beta=0.0 long=sft order=length"}
    for name, text in texts.items():
        assert script.run_once(tmp_path, name, text, 0, size) == 0
    made = [path.name.partition("-")[0] for path in (tmp_path / "stages").iterdir()]
    assert {kind: made.count(kind) for kind in ("world", "traces", "sft", "grpo")} == {
        "world": 1, "traces": 1, "sft": 1, "grpo": 2,
    }  # fmt: skip
    found = tables.collected(tmp_path, script.ARMS)
    run = found["arms"]["main"]["runs"]["0"]
    assert run["seconds"]["sft"] > 0 and run["seconds"]["grpo"] > 0
    assert len(run["curves"]["correct"]) == 1 and run["curves"]["checked"] is not None
    assert set(run["after"]["id"]["sampled"]) >= {"accuracy", "pass", "recall", "checked", "named"}
    assert found["arms"]["mine"]["means"]["id.sampled.accuracy −"][2] == 1
    with pytest.raises(InputError, match="other settings"):
        script.run_once(tmp_path, "other", "", 0, replace(size, samples=3))
    of_demo(tmp_path, tmp_path / "second" / "demo-0", tiny(0, True))
    spared = stages.train_arm(stages.Store(tmp_path / "second"), stages.Setting(), 0, size)
    assert spared.seconds == {"sft": 14, "grpo": 14} and spared.log == ["grpo"]
    made = stages.DemoRun.of(tmp_path / "second", 0, size)
    rows, sft = read_rows(made.folder / "train.jsonl"), made.folder / "sft" / "model"
    assert made.has(made.grpo, rows, sft) and not made.has(made.grpo, rows[1:], sft)
    changed = stages.plan_of(stages.Setting.of("grpo.train.beta=0.0"), 0, size).grpo
    assert not made.has(changed, rows, sft)
    assert not made.has(made.grpo, rows, Path(model_path("tiny-base")))
    assert stages.DemoRun.of(tmp_path / "second", 1, size) is None


def test_checked_traces_and_as_many_at_random(stages: ModuleType, tmp_path: Path) -> None:
    """Equal numbers of the teacher's first traces: those that curation accepts, and any."""
    from videothinker.synthesis.synthesize import whole_trace
    from videothinker.toy import demo
    from videothinker.toy.world import WorldSize, make_world

    plan = replace(demo.make_plan(0, quick=True), world=WorldSize(train=20, val=1, test=1, ood=1))
    world = tmp_path / "world"
    make_world(world, plan.world, plan.seed)
    rows = {}
    for kind in (False, "checked", "random"):
        folder = tmp_path / str(kind)
        stages.first_traces(world, plan, folder, kind)
        rows[kind] = {row.id: whole_trace(row) for row in read_rows(folder / "train.jsonl")}
    assert len(rows["checked"]) == len(rows["random"]) < len(rows[False])
    assert rows["checked"].items() <= rows[False].items() >= rows["random"].items()
    assert rows["checked"] != rows["random"]
    curated = demo.make_traces(world, plan, tmp_path / "curated")
    assert len(rows["checked"]) == curated["accepted_after"][0]


def of_demo(out: Path, run: Path, plan: Any) -> None:
    """Make of the main arm's stages below `out` what a demo of two processes would have left."""
    (traces,) = (out / "stages").glob("traces-*")
    models = {"sft": model_path(plan.base)}
    for stage, rows in (("sft", "sft"), ("grpo", "train")):
        (done,) = (
            folder
            for folder in (out / "stages").glob(f"{stage}-*")
            if read_json(folder / "done.json")["decides"]["recipe"]["train"].get("beta") != 0.0
        )
        shutil.copytree(done / "model", run / stage / "model")
        claim = {
            "data": rows_digest(read_rows(traces / f"{rows}.jsonl")),
            "model": weights_digest(models.get(stage, run / "sft" / "model")),
        }
        write_json(run / stage / "run.json", claim)
        write_json(run / "steps" / f"{stage}.json", {"seconds": 7, "result": {"log": [stage]}})
    shutil.copy(traces / "train.jsonl", run / "train.jsonl")
    write_json(run / "plan.json", asdict(plan) | {"weights": "of the base"})
    write_json(run / "summary.json", {})
