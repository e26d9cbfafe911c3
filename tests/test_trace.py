"""The trace grammar, its rewards and its figures under whatever a model can write."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from videothinker.evaluation.records import Record
from videothinker.evaluation.reply_reading import read_reply
from videothinker.schema import Sample, Segment, option_letters
from videothinker.trace import (
    TAGS,
    Block,
    answer_problems,
    extract_answer,
    format_range,
    format_score,
    format_time,
    leak,
    parse_range,
    parse_time,
    parse_trace,
    render_trace,
    stated_letters,
    structure_problems,
    time_problems,
    trace_problems,
)
from videothinker.training.rewards import REWARDS, hack_flags, reward_names, rewards_by_name

EXAMPLES = int(os.environ.get("VIDEOTHINKER_EXAMPLES", "0"))  # more cases, by hand
tried = settings(
    max_examples=EXAMPLES or 150, deadline=None, derandomize=not EXAMPLES, database=None
)

OPTIONS = ["A. the red ring", "B. the dog", "C. a cat"]
TAG = re.compile(rf"</?(?:{'|'.join(TAGS)})>")
BLOCK = "<time>00:01-00:03</time> <caption>a ring</caption> <think>it is first</think>"

# what models write, whole and in pieces, with tokens of the chat format between
PIECES = st.sampled_from(
    [
        *(f"<{slash}{tag}>" for slash in ("", "/") for tag in TAGS),
        BLOCK,
        f"{BLOCK} <answer>B</answer>",
        "<answer>B</answer>",
        "00:01-00:03",
        "00:07-00:03",
        "00:05-00:05",
        "9999:00-9999:59",
        "1:59:59-2:00:01",
        "at first",
        "nan-inf",
        "3 - 5 seconds",
        "B",
        "b.",
        " ",
        "\n",
        "<|im_end|>",
        "<|im_start|>assistant\n",
        "<|video_pad|>",
        "<|endoftext|>",
        r"\boxed{B}",
        "the answer is C",
        "<",
        "/>",
        "\ud800",
        "\u202e",
    ]
)
WRITTEN = st.lists(PIECES | st.text(max_size=12), max_size=24).map("".join)
SECONDS = st.floats(0, 36_000, allow_nan=False)
WORDS = st.text(max_size=30).filter(lambda text: not TAG.search(text))
FILLED = WORDS.filter(lambda text: text.strip())
TIMES = st.tuples(st.integers(0, 20_000), st.integers(1, 500))
BLOCKS = st.lists(
    st.builds(
        lambda when, caption, think: Block(when[0], when[0] + when[1], caption, think),
        TIMES,
        FILLED,
        FILLED,
    ),
    max_size=5,
)
DURATIONS = st.none() | st.floats() | st.sampled_from([0.0, -1.0, 8.0, 1e300])


def plain(text: str) -> str:
    """A text as `render_trace` writes it."""
    return " ".join(text.split())


# writing and reading


@tried
@given(BLOCKS, WORDS, FILLED)
def test_what_is_written_is_read(blocks: list[Block], conclusion: str, answer: str) -> None:
    trace = parse_trace(render_trace(blocks, conclusion, answer))
    written = [Block(b.start, b.end, plain(b.caption), plain(b.think)) for b in blocks]
    assert (trace.blocks, trace.answer) == (written, plain(answer))
    assert trace.conclusion == plain(conclusion)
    assert bool(structure_problems(trace.text)) == (not blocks)
    longest = max((block.end for block in blocks), default=0)
    assert time_problems(trace.text, longest) == []
    if blocks:
        assert format_score(trace.text, longest) == 1


@tried
@given(SECONDS, SECONDS, SECONDS)
@example(8.5, 8.6, 8.6)
@example(3599.6, 3599.7, 3599.8)
def test_the_times_of_any_segment_fit_its_clip(a: float, b: float, c: float) -> None:
    start, end, duration = sorted((a, b, c))
    if start < end:
        text = f"<time>{format_range(start, end)}</time> <caption>c</caption> <think>t</think>"
        assert time_problems(text, duration) == []


@tried
@given(SECONDS)
def test_a_time_is_read_to_the_second(seconds: float) -> None:
    read = parse_time(format_time(seconds))
    assert read is not None and abs(read - seconds) <= 0.5


# reading what nobody wrote on purpose


@tried
@given(WRITTEN)
def test_nothing_is_read_that_is_not_there(text: str) -> None:
    trace = parse_trace(text)
    content = rf"<time>((?:(?!{TAG.pattern}).)*)</time>"
    ranges = {parse_range(written) for written in re.findall(content, text, re.DOTALL)}
    assert len(trace.blocks) <= text.count("<time>")
    for block in trace.blocks:
        assert (block.start, block.end) in ranges
        assert math.isfinite(block.start) and block.start >= 0 and block.end >= 0
        assert block.caption in text
        assert block.think in text
    assert trace.answer is None or trace.answer in text
    assert trace.conclusion in text and trace.segments is not None
    assert trace._repr_markdown_()


@tried
@given(WRITTEN, DURATIONS)
@example("", 8.0)
@example("<|im_end|>", None)
@example(f"{BLOCK} <answer>B</answer>", math.nan)
@example(f"{BLOCK} <answer>B</answer>", math.inf)
def test_a_score_of_one_is_a_trace_and_the_other_way_round(
    text: str, duration: float | None
) -> None:
    letters = list(option_letters(OPTIONS))
    score = format_score(text, duration, letters)
    assert 0 <= score <= 1
    assert (score == 1) == (trace_problems(text, duration, letters) == [])
    if score:
        assert extract_answer(text, letters) and parse_trace(text).blocks
    if not structure_problems(text):
        assert parse_trace(text).answer is not None
        assert format_score(text) > 0 or time_problems(text)


@tried
@given(WRITTEN)
def test_what_is_read_is_an_option(text: str) -> None:
    letters = list(option_letters(OPTIONS))
    assert read_reply(text, OPTIONS).letter in (None, *letters)
    assert set(stated_letters(text, OPTIONS)) <= set(letters)
    assert leak(text) in text and isinstance(hack_flags(text, 8.0), list)


# rewards

ROWS = st.fixed_dictionaries(
    {
        "solution": st.sampled_from(["<answer>B</answer>", "B", "3.5", "", None]) | st.text(),
        "options": st.sampled_from([OPTIONS, [], None, ["A. x", "A. x"], ["", ""]]),
        "duration": DURATIONS,
        "segments": st.none()
        | st.lists(st.builds(Segment, SECONDS, SECONDS, st.just("")), max_size=4),
        "problem_type": st.sampled_from(["multiple choice", "numerical", "free-form", None]),
    }
)


@tried
@given(st.lists(st.tuples(WRITTEN, ROWS), min_size=1, max_size=4))
def test_rewards_are_finite_and_in_range(cases: list[tuple[str, dict[str, Any]]]) -> None:
    texts = [text for text, _ in cases]
    columns = {name: [row[name] for _, row in cases] for name in cases[0][1]}
    for name, reward in REWARDS.items():
        for completions in (texts, [[{"role": "assistant", "content": t}] for t in texts]):
            values = reward(None, completions, **columns)
            assert len(values) == len(texts)
            assert all(v is None or 0 <= v <= 1 for v in values), (name, values)


@tried
@given(st.lists(st.integers(0, 200), min_size=1))
def test_the_length_reward_is_in_range(lengths: Sequence[int]) -> None:
    reward = rewards_by_name(["soft_length"], 100)["soft_length"]
    ids = [[7] * n for n in lengths]
    values = reward(prompts=None, completions=["x"] * len(ids), completion_ids=ids)
    assert all(v is not None and -1 <= v <= 0 for v in values)


HOLES = {  # what a good trace becomes → what `format` may pay at most
    "time that cannot be read": (("00:01-00:03", "at first"), 0.5),
    "end before start": (("00:01-00:03", "00:03-00:01"), 0.5),
    "no length": (("00:01-00:03", "00:03-00:03"), 0.5),
    "outside the clip": (("00:01-00:03", "00:08-00:12"), 0.5),
    "far outside": (("00:01-00:03", "00:09-00:10"), 0.5),
    "blank caption": (("<caption>a ring</caption>", "<caption> </caption>"), 0.5),
    "no letter": ((">B<", ">the dog<"), 0),
    "letter with its text": ((">B<", ">B. the dog<"), 0),
    "letter of another row": ((">B<", ">D<"), 0),
    "lower case": ((">B<", ">b<"), 0),
    "empty answer": ((">B<", "><"), 0),
    "no answer": (("<answer>B</answer>", ""), 0),
    "answer twice": (("<answer>B</answer>", "<answer>B</answer> <answer>B</answer>"), 0),
    "text after": (("<answer>B</answer>", "<answer>B</answer> or C"), 0),
    "answer in a tag": (("it is first", "<answer>B</answer>"), 0),
}


@tried
@given(st.sampled_from(sorted(HOLES)), WORDS, WORDS)
def test_no_hole_is_paid(name: str, before: str, between: str) -> None:
    second = "<time>00:04-00:06</time> <caption>a dog</caption> <think>then it</think>"
    good = f"{before} {BLOCK} {between} {second} so B <answer>B</answer>"
    (old, new), most = HOLES[name]
    columns = {"duration": [8.0], "options": [OPTIONS], "solution": ["<answer>B</answer>"]}
    sample = Sample("?", OPTIONS, "<answer>B</answer>", "a.mp4", duration=8.0)
    bad = good.replace(old, new)
    assert REWARDS["format"](None, [good], **columns) == [1.0]
    assert REWARDS["format"](None, [bad], **columns)[0] <= most  # type: ignore[operator]
    assert REWARDS["strict_format"](None, [bad], **columns) == [0.0]
    assert Record.of(sample, "own", good).formatted and not Record.of(sample, "own", bad).formatted


@tried
@given(WRITTEN, DURATIONS)
def test_training_and_evaluation_mean_the_same_by_format(text: str, duration: float | None) -> None:
    sample = Sample("?", OPTIONS, "<answer>B</answer>", "a.mp4", duration=duration)
    columns = {"duration": [duration or None], "options": [OPTIONS], "solution": [sample.solution]}
    formatted = Record.of(sample, "own", text).formatted
    assert (REWARDS["format"](None, [text], **columns) == [1.0]) == formatted
    strict = REWARDS["strict_format"](None, [text], **columns) == [1.0]
    lenient = REWARDS["paper_format"](None, [text], **columns) == [1.0]
    assert strict <= formatted <= lenient


def test_one_block_more_puts_nothing_at_risk() -> None:
    """A broken block costs its own part, in whatever way it is broken."""
    good = " ".join(BLOCK.replace("00:03", f"00:0{end}") for end in (3, 5, 7))
    for broken in (BLOCK.replace("00:01", "00:0"), BLOCK.replace("</think>", ""), "<time>00:04-"):
        text = f"{good} {broken} so B <answer>B</answer>"
        assert format_score(text, 8.0, "ABC") == 0.75, broken
        assert trace_problems(text, 8.0, "ABC")


def test_copies_of_a_sound_block_do_not_outweigh_a_broken_one() -> None:
    broken = BLOCK.replace("00:01-00:03", "later")
    for copies in (1, 2, 9):
        text = f"{BLOCK * copies} {broken} <answer>B</answer>"
        assert format_score(text, 8.0, "ABC") == 0.5
        assert format_score(f"{BLOCK * copies} <answer>B</answer>", 8.0, "ABC") == 1


def test_empty_completions_and_control_tokens_earn_nothing() -> None:
    texts = ["", " \n", "<|im_end|>", "<|im_start|>assistant\n<|im_end|>" * 9, "\0", "\ud800"]
    columns = {
        "solution": ["<answer>B</answer>"] * len(texts),
        "options": [OPTIONS] * len(texts),
        "duration": [8.0] * len(texts),
        "segments": [[Segment(1, 3)]] * len(texts),
    }
    for name in reward_names():
        reward = rewards_by_name([name], 100)[name]
        ids: list[list[int]] = [[] for _ in texts]
        values = reward(prompts=None, completions=texts, completion_ids=ids, **columns)
        assert values == [0.0] * len(texts), name
    assert answer_problems("", "AB") == [] and format_score("") == 0
