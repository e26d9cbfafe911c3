"""The reward `format` says nothing about how many blocks a trace has, in whatever group."""

from __future__ import annotations

import os
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videothinker.trace import begun_blocks, format_score, sound_blocks
from videothinker.training.outcome_rewards import (
    among_equals,
    format_reward,
    format_scores,
    strict_format_reward,
)
from videothinker.training.rewards import REWARDS

EXAMPLES = int(os.environ.get("VIDEOTHINKER_EXAMPLES", "0"))  # more cases, by hand
tried = settings(
    max_examples=EXAMPLES or 100, deadline=None, derandomize=not EXAMPLES, database=None
)

SCORED = st.lists(
    st.tuples(
        st.floats(0, 1), st.integers(0, 5), st.sampled_from(["first", "second", ("third", 3)])
    ),
    max_size=24,
)
BLOCK = "<time>00:0{}-00:0{}</time> <caption>a ring</caption> <think>so</think>"
BLOCKS = st.lists(
    st.sampled_from([BLOCK.format(1, 3), BLOCK.format(4, 6), BLOCK.format(7, 2), "<time>00:04-"]),
    max_size=4,
)
ENDS = st.sampled_from(["<answer>B</answer>", "<answer>Z</answer>", "so B", ""])
OPTIONS = ["A. the red ring", "B. the dog", "C. a cat"]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@tried
@given(SCORED)
def test_the_mean_is_the_same_for_every_count_and_the_groups_mean_stays(rows: Any) -> None:
    scores, counts, groups = ([row[i] for row in rows] for i in range(3))
    values = among_equals(scores, counts, groups)
    strata: dict[Any, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for value, score, count, group in zip(values, scores, counts, groups, strict=True):
        if count == 0:
            assert value == score
        strata[group][count].append(value)
    for group, by_count in strata.items():
        means = [mean(by_count[count]) for count in by_count if count]
        assert means == pytest.approx([means[0]] * len(means), abs=1e-9) if means else True
        before = [score for score, g in zip(scores, groups, strict=True) if g == group]
        after = [value for own in by_count.values() for value in own]
        assert mean(after) == pytest.approx(mean(before), abs=1e-9)


@tried
@given(SCORED)
def test_differences_among_equals_stay(rows: Any) -> None:
    scores, counts, groups = ([row[i] for row in rows] for i in range(3))
    values = among_equals(scores, counts, groups)
    for i, own in enumerate(rows):
        for j, other in enumerate(rows[:i]):
            if own[1:] == other[1:]:
                difference = scores[i] - scores[j]
                assert values[i] - values[j] == pytest.approx(difference, abs=1e-9)


@tried
@given(st.lists(st.tuples(BLOCKS, ENDS, st.sampled_from("pq")), max_size=12))
def test_the_reward_of_any_replies_is_free_of_the_number_of_blocks(rows: Any) -> None:
    texts = [" ".join([*blocks, end]) for blocks, end, _ in rows]
    columns = {"duration": [8.0] * len(rows), "options": [OPTIONS] * len(rows)}
    columns["id"] = [row for *_, row in rows]
    rewards = format_reward(["Which?"] * len(rows), texts, **columns)
    reach = dict.fromkeys("pq", 0)
    for (*_, row), text in zip(rows, texts, strict=True):
        reach[row] = max(reach[row], sound_blocks(text, 8.0))
    by_count: dict[Any, list[float]] = defaultdict(list)
    for (*_, row), text, reward in zip(rows, texts, rewards, strict=True):
        assert reward is not None
        by_count[row, min(begun_blocks(text), reach[row])].append(reward)
    for row in "pq":
        means = [mean(own) for (of, count), own in by_count.items() if of == row and count]
        assert means == pytest.approx(means[:1] * len(means), abs=1e-9)
    scores = [format_score(text, 8.0, "ABC") for text in texts]
    assert format_scores(texts, columns) == scores
    assert sum(filter(None, rewards)) == pytest.approx(sum(scores), abs=1e-9)
    messages = [[{"role": "assistant", "content": text}] for text in texts]
    assert format_reward(["Which?"] * len(rows), messages, **columns) == rewards
    alone = format_reward(None, texts, duration=columns["duration"], options=columns["options"])
    assert alone == scores


def test_what_one_more_block_risks_is_not_in_the_advantage() -> None:
    """Each block breaks in one of four cases; the plain score falls with their number."""
    good, bad = BLOCK.format(1, 3), BLOCK.format(7, 2)
    end = "<answer>B</answer>"
    short = [f"{good} {end}"] * 3 + [f"{bad} {end}"]
    long = [f"{good} {BLOCK.format(4, 6)} {end}"] * 2 + [f"{good} <time>00:04- ", f"{good} {bad}"]
    columns = {"duration": [8.0] * 8, "id": ["q7"] * 8}
    scores = format_scores(short + long, columns)
    assert mean(scores[:4]) == 0.75 and mean(scores[4:]) == 0.5
    rewards = format_reward(["q"] * 8, short + long, **columns)
    assert mean(rewards[:4]) == mean(rewards[4:]) == mean(scores)  # type: ignore[arg-type]
    strict = strict_format_reward(["q"] * 8, short + long, **columns)
    assert mean(strict[:4]) > mean(strict[4:])  # type: ignore[arg-type]


def test_a_block_that_no_sibling_could_write_costs() -> None:
    """A made-up segment behind the last event, not a look that broke."""
    two = f"{BLOCK.format(1, 3)} {BLOCK.format(4, 6)}"
    whole, made_up = f"{two} <answer>B</answer>", f"{two} {BLOCK.format(6, 6)} <answer>B</answer>"
    broken = f"{BLOCK.format(1, 3)} {BLOCK.format(6, 6)} <answer>B</answer>"
    columns = {"duration": [8.0] * 4, "id": ["q7"] * 4}
    rewards = format_reward(["q"] * 4, [whole, whole, broken, made_up], **columns)
    assert rewards == pytest.approx([1, 1, 0.5, 2 / 3])
    sound = f"{two} {BLOCK.format(6, 7)} <answer>B</answer>"
    rewards = format_reward(["q"] * 4, [whole, whole, sound, made_up], **columns)
    assert rewards[0] == pytest.approx(mean([1, 1, 1, 2 / 3]))  # type: ignore[arg-type]
    assert mean(rewards[2:]) == pytest.approx(rewards[0])  # type: ignore[arg-type,type-var]


def test_a_broken_or_copied_block_more_never_pays() -> None:
    """Also not where the group's format is poor, and its mean low."""
    good, end = BLOCK.format(1, 3), "<answer>B</answer>"
    two, three = f"{good} {BLOCK.format(4, 6)}", f"{good} {BLOCK.format(4, 6)} {BLOCK.format(6, 7)}"
    others = [f"{good} {end}"] * 2 + [f"{good} {BLOCK.format(7, 2)}"] * 4
    for more in (BLOCK.format(7, 7), BLOCK.format(6, 7), "<time>00:04-"):
        texts = [*others, f"{three} {end}", f"{three} {more} {end}"]
        rewards = format_reward(["q"] * 8, texts, duration=[8.0] * 8)
        assert rewards[6] >= rewards[7]  # type: ignore[operator]
        assert sound_blocks(texts[7], 8.0) == 3 and sound_blocks(two) == 2


def test_groups_are_told_apart_by_prompt_row_and_video() -> None:
    good, bad = (
        f"{BLOCK.format(1, 3)} <answer>B</answer>",
        f"{BLOCK.format(7, 2)} <answer>B</answer>",
    )
    longer = f"{BLOCK.format(4, 6)} {good}"
    texts = [good, bad, longer]
    together: dict[str, Any] = {"duration": [8.0] * 3}
    assert format_reward(["q"] * 3, texts, **together) == pytest.approx([7 / 6, 1 / 6, 2 / 3])
    for apart in ({"id": ["a", "b", "c"]}, {"path": ["a.mp4", "b.mp4", "c.mp4"]}):
        assert format_reward(["q"] * 3, texts, **together, **apart) == [1, 0, 1]
    assert format_reward(["p", "q", "r"], texts, **together) == [1, 0, 1]
    none: dict[str, Any] = {"id": ["", None, ""], "path": [None] * 3}
    assert format_reward(["q"] * 3, texts, **together, **none) == pytest.approx(
        [7 / 6, 1 / 6, 2 / 3]
    )
    assert format_reward(None, texts, **together, **none) == [1, 0, 1]
    talk = [[{"role": "user", "content": "q"}]] * 3
    assert format_reward(talk, texts, **together) == pytest.approx([7 / 6, 1 / 6, 2 / 3])
    assert format_reward(["q"], [bad], duration=[8.0]) == [0]
    assert REWARDS["format"] is format_reward
    with pytest.raises(ValueError, match="each of 3 completions"):
        format_reward(["q"], texts, **together)
