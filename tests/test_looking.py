"""Looking where a question needs it: needed segments, and measures that pay nothing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
import torch
from conftest import ROOT, load_script

from videothinker.model.generate import Completion
from videothinker.schema import Sample, Segment, option_line, read_captions, write_rows
from videothinker.synthesis.synthesize import synthesize
from videothinker.toy.demo import DemoPlan, curves_of, make_plan, train_stage, with_measures
from videothinker.toy.looking import MEASURES, is_checked, look_at, looking_summary
from videothinker.toy.questions import (
    FAMILIES,
    MOTIONS,
    SEEN,
    make_question,
    needed_segments,
    question_family,
    solve,
)
from videothinker.toy.teacher import ScriptedTeacher, scripted_conclusion, scripted_thinks
from videothinker.toy.world import WorldSize, make_world
from videothinker.trace import Block, render_trace
from videothinker.training.rewards import rewards_by_name
from videothinker.training.rollouts import Rollout, score


def some_scene(rng: np.random.Generator) -> list[Segment]:
    """Two to six events one after the other, no shape twice, in a random order."""
    n = int(rng.integers(2, 7))
    ticks = np.sort(rng.permutation(40)[: 2 * n])
    names = [SEEN[i] for i in rng.permutation(len(SEEN))[:n]]
    segments = [
        Segment(
            float(ticks[2 * i]), float(ticks[2 * i + 1]), f"a {c} {s} moves {rng.choice(MOTIONS)}"
        )
        for i, (c, s) in enumerate(names)
    ]
    return [segments[i] for i in rng.permutation(n)]


def some_row(rng: np.random.Generator, family: str, segments: Sequence[Segment]) -> Sample | None:
    question = make_question(segments, rng, family)
    if question is None:
        return None
    problem, phrases, index = question
    options = [option_line("ABCDEF"[i], phrase) for i, phrase in enumerate(phrases)]
    solution = f"<answer>{'ABCDEF'[index]}</answer>"
    return Sample(
        problem, options, solution, duration=41.0, data_source="toyworld", segments=list(segments)
    )


def some_rows(seed: int, n: int = 60) -> list[Sample]:
    rng = np.random.default_rng(seed)
    rows = (some_row(rng, FAMILIES[i % len(FAMILIES)], some_scene(rng)) for i in range(3 * n))
    return [row for row in rows if row][:n]


def looking_at(row: Sample, indices: Sequence[int], checked: bool) -> str:
    """A right trace that names these segments, in order of time."""
    named = sorted((row.segments[i] for i in indices), key=lambda s: s.start)
    thoughts = scripted_thinks(row.problem, named)
    blocks = [
        Block(s.start, s.end, s.caption, thought)
        for s, thought in zip(named, thoughts, strict=True)
    ]
    return render_trace(blocks, scripted_conclusion(row, row.answer, checked), row.answer)


def test_the_needed_segments_are_enough_and_none_is_too_many() -> None:
    families = set()
    for row in some_rows(0, 150):
        needed = needed_segments(row.problem, row.segments)
        answer = row.option_text(row.answer)
        assert solve(row.problem, [row.segments[i] for i in needed]) == answer
        starts = [row.segments[i].start for i in needed]
        assert starts == sorted(starts)
        family = question_family(row.problem)
        if family in ("count", "comparison") or "last" in row.problem:
            # an event that is left out may move so, last longer or come later
            assert len(needed) == len(row.segments)
        else:  # what a question names, or counts up to, cannot be left out
            for left_out in needed:
                rest = [row.segments[i] for i in needed if i != left_out]
                assert solve(row.problem, rest) != answer
        families.add(family)
    assert families == set(FAMILIES)


def test_a_reply_finds_what_it_names_and_no_more() -> None:
    rng = random.Random(1)
    for row in some_rows(1):
        needed = set(needed_segments(row.problem, row.segments))
        named = rng.sample(range(len(row.segments)), rng.randint(1, len(row.segments)))
        checked = rng.random() < 0.5
        look = look_at(row, looking_at(row, named, checked))
        assert look.found == look.useful == len(needed & set(named))
        assert (look.needed, look.named) == (len(needed), len(named))
        assert (look.checked, look.correct) == (checked, True)
        moved = replace(
            row, segments=[Segment(s.start + 50, s.end + 50, s.caption) for s in row.segments]
        )
        assert look_at(moved, looking_at(row, named, checked)).recall == 0.0


@pytest.mark.parametrize(
    "checks",
    [
        "A : the red square no B : the blue ring yes C : the red ring no",  # every option whole
        "A : the red no B : the blue ring yes C : the red no",  # word by word
    ],
)
def test_both_wordings_of_the_checks_are_recognised(checks: str) -> None:
    for so in ("so ", ""):
        assert is_checked(f"{so}the answer is the blue ring . {checks} . so B <answer>B</answer>")
        assert not is_checked(f"{so}it is B <answer>B</answer>")


def test_the_teacher_concludes_in_the_two_ways_that_are_told_apart() -> None:
    for share, expected in ((0.0, False), (1.0, True)):
        teacher = ScriptedTeacher(mistake_rate=0, check_share=share)
        for row in some_rows(2, 20):
            look = look_at(row, teacher.trace(row, attempt=0))
            assert (look.checked, look.recall, look.correct) == (expected, 1.0, True)


def test_any_text_can_be_measured() -> None:
    rng = random.Random(3)
    for row in some_rows(3, 20):
        text = looking_at(row, range(len(row.segments)), True)
        for _ in range(20):
            a, b = sorted(rng.choices(range(len(text) + 1), k=2))
            look = look_at(
                row, text[:a] + text[b:] + rng.choice(["", text[a:b], "<time>", " : no"])
            )
            assert 0 <= look.found <= look.needed and 0 <= look.useful <= look.named
            assert look.checked in (True, False) and look.correct in (True, False)


def test_the_sampled_accuracy_is_made_of_its_causes() -> None:
    rng = random.Random(4)
    looks = []
    for row in some_rows(4):
        text = looking_at(row, range(rng.randint(1, len(row.segments))), rng.random() < 0.4)
        wrong = text.replace(f"<answer>{row.answer}", "<answer>Z")
        looks.append(look_at(row, text if rng.random() < 0.6 else wrong))
    s = looking_summary(looks)
    made = s["checked"] * s["right_checked"] + (1 - s["checked"]) * s["right_direct"]
    assert made == pytest.approx(sum(bool(look.correct) for look in looks) / len(looks))
    n = {name: own["n"] for name, own in s["families"].items()}
    assert sum(n.values()) == len(looks)
    parts = [own["recall"] * own["n"] for own in s["families"].values()]
    assert s["recall"] == pytest.approx(sum(parts) / len(looks))


def test_measures_of_weight_0_pay_nothing() -> None:
    rng = random.Random(5)
    recipe = with_measures(make_plan(quick=True).grpo)
    paid = rewards_by_name(["correct", "format"], 240)
    measured = rewards_by_name(recipe.rewards, 240)
    rewards: dict[str, torch.Tensor] = {}
    terms: dict[str, torch.Tensor] = {}
    for name, functions, weights in (
        ("paid", paid, recipe.train["reward_weights"][:2]),
        ("measured", measured, recipe.train["reward_weights"]),
    ):
        rng.seed(5)
        rollouts = []
        for row in some_rows(5, 8):
            texts = [
                looking_at(row, range(rng.randint(1, len(row.segments))), k > 1) for k in range(3)
            ]
            texts.append("no trace")
            prompt: Any = SimpleNamespace(duration=row.duration)
            rollouts.append(Rollout(row, prompt, [Completion([], [], True)] * 4, texts))
        score(rollouts, functions, weights)
        rewards[name] = torch.stack([r.rewards for r in rollouts])
        terms = {key: torch.stack([r.terms[key] for r in rollouts]) for key in rollouts[0].terms}
    assert torch.equal(rewards["paid"], rewards["measured"])
    # a completion is of one of the two kinds, and its answer right or not
    checked = terms["checked"] == 1
    assert torch.equal(terms["right_checked"].isnan(), ~checked)
    assert torch.equal(terms["right_direct"].isnan(), checked)
    assert 0 < terms["needed_recall"].mean() < 1 and terms["needed_recall"][:, 3].sum() == 0


def test_a_grpo_stage_logs_the_measures(tmp_path: Path) -> None:
    make_world(tmp_path / "world", WorldSize(train=2, val=1, test=0, ood=0, questions=1))
    teacher = ScriptedTeacher(mistake_rate=0)
    rows = synthesize(read_captions(tmp_path / "world" / "truth.jsonl"), [], teacher, 2, 0)
    (tmp_path / "traces").mkdir()
    write_rows(tmp_path / "traces" / "train.jsonl", rows)
    grpo = make_plan(quick=True).grpo
    few = {
        "num_generations": 2,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "max_steps": 1,
        "max_completion_length": 8,
        "disable_tqdm": True,
    }
    plan = DemoPlan(grpo=replace(grpo, train=grpo.train | few), probe_questions=1)
    result = train_stage("grpo", ROOT / "data" / "tiny-base", tmp_path, plan)
    [step] = curves_of([], result["log"])["grpo"]
    # the base names no times and checks nothing; right_checked has no value then, and no column
    assert (step["needed_recall"], step["checked"]) == (0.0, 0.0)
    assert step["right_direct"] == step["reward_correct"] and "right_checked" not in step
    assert step["reward"] == pytest.approx(step["reward_correct"] + step["reward_format"])
    [first] = (tmp_path / "grpo").rglob("completions_*.parquet")
    assert {measure.__name__ for measure in MEASURES} <= set(pq.read_schema(first).names)


def test_kills_are_told_from_several_samples_of_a_question(tmp_path: Path) -> None:
    damage = load_script("try_kills").lines_damage
    path = tmp_path / "eval" / "sft" / "id" / "sampled.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text('{"id": "q1", "index": 0}\n{"id": "q1", "index": 1}\n{"id": "q')
    assert damage(path) == ""  # a journal may end in the middle of a line
    path.write_text('{"id": "q1", "index": 1}\n{"id": "q1", "index": 1}\n')
    assert damage(path) == "holds an answer twice"


def summary_of_a_run() -> dict[str, Any]:
    looking = {"recall": 0.887, "checked": 0.7, "right_checked": 0.6, "right_direct": None}
    bounds = {"ci_low": 0.4, "ci_high": 0.6}
    sampled = {"n_samples": 4, "accuracy": 0.502, "pass@4": 0.8, "maj@4": 0.55, "looking": looking}
    scores: dict[str, Any] = {
        "accuracy": 0.7,
        "format_rate": 1.0,
        "miou": 0.95,
        "sampled": sampled | bounds,
    }
    scores["controls"] = {"no_video": {"accuracy": 0.2} | bounds, "chance": 0.212}
    scores["controls"]["other_video"] = scores["controls"]["no_video"]
    return {
        "stages": dict.fromkeys(
            ("base", "sft", "grpo"), dict.fromkeys(("id", "ood"), scores | bounds)
        )
    }


def test_the_readme_takes_its_tables_from_a_summary() -> None:
    script = load_script("readme")
    text = "before\n\n| model | accuracy | format |\n|---|---|---|\n| base | 1 | 2 |\n\nafter\n"
    filled = script.with_results(text, summary_of_a_run())
    before, greedy, sampled, after = filled.split("\n\n")
    assert (before, after) == ("before", "after\n")
    assert greedy.count("\n") == sampled.count("\n") == 7  # head, rule, three stages in two splits
    row = "| after GRPO, in domain | 70.0 [40.0, 60.0] | 100.0 | 95.0 | 20.0 [40.0, 60.0] "
    assert row in greedy
    row = "| after GRPO, in domain | 50.2 [40.0, 60.0] | 80.0 | 55.0 | 88.7 | 70.0 | 60.0 | – |"
    assert row in sampled and "| pass@4 | maj@4 |" in sampled
    assert script.with_results(filled, summary_of_a_run()) == filled  # a second run of the same
    with pytest.raises(ValueError, match="no table"):
        script.with_results("before", summary_of_a_run())
