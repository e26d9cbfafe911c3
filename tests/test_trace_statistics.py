"""Trace statistics: each on traces made for it, on any text, and their means."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videothinker.evaluation.trace_statistics import (
    OF_WINDOWS,
    STATISTICS,
    mean_statistics,
    reflection_markers,
    trace_statistics,
)
from videothinker.trace import Block, render_trace

OPTIONS = ["A. a drum", "B. a bell", "C. a horn"]


def reply_of(
    *windows: tuple[float, float], conclusion: str = "", answer: str = "A", think: str = "So."
) -> str:
    """A trace with these windows."""
    blocks = [Block(start, end, "It moves.", think) for start, end in windows]
    return render_trace(blocks, conclusion, answer)


@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        ([(0, 10), (20, 30)], {"inside": 1, "seen": 1, "covered": 0.5, "chronological": 1}),
        ([(0, 4), (30, 44)], {"inside": 0.5, "seen": 0.5, "observable": 0}),
        ([(0, 4), (41, 44)], {"inside": 0.5, "seen": 0, "covered": 0.1}),
        ([(0, 10), (5, 15)], {"overlaps": 0.5, "revisits": 0, "covered": 0.375}),
        ([(10, 20), (0, 10)], {"revisits": 0, "backward": 0.5, "chronological": 0}),
        ([(5, 15), (20, 30), (10, 12)], {"overlaps": 1 / 3, "revisits": 1 / 3, "backward": 1 / 3}),
        ([(0, 10), (0, 10), (0, 10)], {"overlaps": 2 / 3, "revisits": 2 / 3, "backward": 0}),
        ([(0, 10), (0, 10)], {"revisits": 0.5, "chronological": 0, "covered": 0.25}),
        ([(0, 10), (10, 20), (5, 30)], {"revisits": 1 / 3, "backward": 1 / 3}),
        ([(0, 10), (5, 15), (15, 20)], {"revisits": 0, "backward": 0, "chronological": 1}),
        ([(0, 30), (5, 10), (12, 20)], {"revisits": 1 / 3, "backward": 0, "chronological": 1}),
        ([(0, 40), (0, 40)], {"covered": 1, "seconds_per_window": 40}),
    ],
)
def test_windows_of_a_video_of_forty_seconds(
    windows: list[tuple[float, float]], expected: dict[str, float]
) -> None:
    statistics = trace_statistics(reply_of(*windows), 40.0, [5.0, 15.0, 25.0, 35.0], OPTIONS)
    assert statistics["blocks"] == len(windows)
    assert {name: statistics[name] for name in expected} == pytest.approx(expected)


def test_windows_that_end_before_they_start_are_windows_and_hold_nothing() -> None:
    text = reply_of((5, 9)).replace("00:05-00:09", "00:09-00:05")
    statistics = trace_statistics(text, 40.0, [7.0])
    assert [statistics[k] for k in ("blocks", "inside", "seen", "covered")] == [1, 0, 0, 0]
    assert "seconds_per_window" not in statistics


def test_what_is_not_known_is_left_out() -> None:
    text = reply_of((0, 4), conclusion="So the answer is A.")
    assert {"seen", "observable", "inside", "covered", "stated"}.isdisjoint(trace_statistics(text))
    for duration in (None, math.nan, math.inf, 0.0, -3.0):
        statistics = trace_statistics(text, duration, [1.0])
        assert "seen" in statistics and {"inside", "observable", "covered"}.isdisjoint(statistics)
    assert "observable" not in trace_statistics(text, 40.0)
    bare = trace_statistics("The answer is B.", 40.0, [1.0], OPTIONS)
    assert bare["blocks"] == 0 and "seen" not in bare and "caption_leaks" not in bare


@pytest.mark.parametrize(
    ("conclusion", "answer", "stated", "agreement"),
    [
        ("So the answer is A.", "A", 1, 1),
        ("So the answer is B.", "A", 1, 0),
        ("The answer is B. No: the answer is A.", "A", 1, 1),
        ("The answer is a horn.", "C", 1, 1),
        ("It could be a drum, or not.", "A", 0, None),
        ("Is the answer B?", "B", 0, None),
        ("So the answer is A.", "a drum", 1, None),
    ],
)
def test_agreement_of_reasoning_and_answer(
    conclusion: str, answer: str, stated: float, agreement: float | None
) -> None:
    text = reply_of((0, 4), conclusion=conclusion, answer=answer)
    statistics = trace_statistics(text, options=OPTIONS)
    assert statistics["stated"] == stated and statistics.get("agreement") == agreement


def test_the_last_thought_speaks_where_no_conclusion_does() -> None:
    text = reply_of((0, 4), (5, 9), think="So the answer is C.", answer="B")
    assert trace_statistics(text, options=OPTIONS)["agreement"] == 0


@pytest.mark.parametrize(
    ("text", "markers"),
    [
        ("Wait, that is odd.", 1),
        ("It stops. Wait. It goes on.", 1),
        ("But wait! There is more.", 1),
        ("People wait for the bus. They wait, and wait.", 0),
        ("He waits at the door; the waiter waits too.", 0),
        ("Hmm, let me think. Let's see.", 3),
        ("Let me double-check: I double-checked.", 2),
        ("Oh, I see. Actually no.", 2),
        ("On second thought, hold on.", 2),
        ("Let’s break it down.", 1),
        ("That's not right, I was wrong.", 2),
        ("She actually sees a thinker.", 1),  # which no list of words can tell
        ("He lets me see it.", 0),
        ("<caption>Wait, hmm.</caption><time>00:01-00:02</time><answer>Hmm</answer>", 0),
        ("", 0),
    ],
)
def test_reflection_markers(text: str, markers: int) -> None:
    assert len(reflection_markers(text)) == markers, reflection_markers(text)


def test_reflections_are_per_hundred_words_of_reasoning() -> None:
    text = reply_of((0, 4), think="Wait, " + "word " * 48 + "end.", conclusion="")
    assert trace_statistics(text)["reflections"] == pytest.approx(2)


def test_captions_that_give_the_answer_away() -> None:
    blocks = [
        Block(0, 4, "A bell, so the answer is B.", "So."),
        Block(5, 9, "A bell rings.", "So."),
    ]
    assert trace_statistics(render_trace(blocks, "", "B"))["caption_leaks"] == 0.5


pieces = st.sampled_from(
    ["<time>", "</time>", "<caption>", "</caption>", "<think>", "</think>", "<answer>", "</answer>"]
    + ["00:01-00:04", "9-3", "B", " ", "Wait, ", "so the answer is B. ", "٣", "\n", "x"]
    + ["<time>00:02-00:09</time><caption>c</caption><think>t</think>"] * 4
)
SHARES = [k for k in STATISTICS if k not in ("blocks", "words", "characters", "reflections")]


@settings(deadline=None, max_examples=150)
@given(
    st.one_of(st.text(max_size=80), st.lists(pieces, max_size=30).map("".join)),
    st.one_of(st.none(), st.floats()),
    st.lists(st.floats(0, 20), max_size=5),
)
def test_any_text_has_statistics(text: str, duration: float | None, times: list[float]) -> None:
    statistics = trace_statistics(text, duration, times, OPTIONS)
    assert [name for name in STATISTICS if name in statistics] == list(statistics)
    assert all(math.isfinite(value) and value >= 0 for value in statistics.values())
    shares = [statistics[name] for name in SHARES if name in statistics]
    assert all(s <= 1 + 1e-9 for s in shares if s != statistics.get("seconds_per_window"))
    if "observable" in statistics:
        assert statistics["observable"] <= min(statistics["inside"], statistics["seen"])
    if statistics["blocks"]:
        assert not statistics["chronological"] or statistics["backward"] == 0
        assert statistics["revisits"] <= 1 - 1 / statistics["blocks"]


def test_means_say_over_how_many_they_are() -> None:
    rng = random.Random(3)
    replies = []
    for _ in range(40):
        starts = [rng.uniform(0, 50) for _ in range(rng.randint(0, 5))]
        windows = [(start, start + rng.uniform(1, 20)) for start in starts]
        replies.append(trace_statistics(reply_of(*windows), 40.0, [5.0, 30.0], OPTIONS))
    replies.append({})  # one that never came
    means = mean_statistics(replies)
    assert list(means) == [name for name in STATISTICS if name in means]
    for name, mean in means.items():
        values = [reply[name] for reply in replies if name in reply]
        assert mean["n"] == len(values) and mean["of"] == 41
        assert mean["mean"] == pytest.approx(sum(values) / len(values))
        assert ("pooled" in mean) == (name in OF_WINDOWS)
    windows = sum(reply.get("blocks", 0) for reply in replies)
    inside = sum(reply["inside"] * reply["blocks"] for reply in replies if "inside" in reply)
    assert means["inside"]["pooled"] == pytest.approx(inside / windows)
    assert means["inside"]["n"] < means["blocks"]["n"] == 40
    assert mean_statistics([]) == {}
