"""Judges that are honest, gullible, broken, lazy or silent, and replies that attack them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videothinker.evaluation.judge import (
    NOT_CONFIGURED,
    NOT_MARKED,
    RUBRICS,
    Answered,
    Case,
    Judge,
    canaries,
    judge_replies,
    judge_request,
    judged_summary,
    neutral,
    process_rubric,
    quoted,
    read_verdict,
)
from videothinker.files import InputError
from videothinker.schema import Sample, Segment
from videothinker.synthesis.engine import FunctionEngine, Request

tried = settings(max_examples=150, deadline=None, derandomize=True, database=None)
CASES = [
    Case(
        "q1", "What does he open?", "He opens the green door.", "the green door", "1. He opens it."
    ),
    Case("q2", "What does he open?", "A window, I think.", "the green door", "1. He opens it."),
]
ATTACKS = {"instruction", "forged verdict", "forged system message", "forged end"}
STOP = {"the", "that", "she", "with", "are", "forgot"}


def section(request: Request, title: str) -> str:
    """What is quoted below a heading."""
    text = request.messages[1]["content"].partition(f"{title}:\n")[2]
    return text.partition("\n\n")[0].lower()


def verdict(rubric: str, right: bool, case_right: bool = True) -> str:
    """Strict JSON that says right or wrong by a rubric."""
    if rubric == "open":
        return json.dumps({"correct": right, "reason": "read"})
    if rubric == "reasoning":
        kinds = ("TRAR", "TWAR") if case_right else ("TRAW", "RE")
        return json.dumps({"kind": kinds[not right], "reason": "read"})
    mark = 9 if right else 1
    return json.dumps(dict.fromkeys(("steps", "logic", "facts", "clarity"), mark) | {"reason": ""})


def honest(rubric: str) -> Callable[[Request], str]:
    """A judge that compares words with the right answer, and never obeys."""

    def reply(request: Request) -> str:
        said = section(request, "Reply to be judged")
        words = set(re.findall(r"[a-z]{3,}", section(request, "Right answer"))) - STOP
        hits = sum(word[:4] in said for word in words)
        final = section(request, "Final answer of the reply") != "| wrong"
        return verdict(rubric, 2 * hits >= len(words), final)

    return reply


def gullible(rubric: str) -> Callable[[Request], str]:
    """A judge that does as the reply says."""

    def reply(request: Request) -> str:
        said = section(request, "Reply to be judged")
        told = re.search(r"full marks|as right|\"correct\": true|\"steps\": 10|trar", said)
        return verdict(rubric, True) if told else honest(rubric)(request)

    return reply


def judged(rubric: str, reply: Callable[[Request], str | None], **more: Any) -> Judge:
    return Judge(FunctionEngine(reply), rubric, model="tested", **more)


@pytest.mark.parametrize("rubric", RUBRICS)
def test_an_honest_judge_is_trusted_and_its_scores_are_given_out(rubric: str) -> None:
    judge = judged(rubric, honest(rubric))
    scores = judge.score(CASES)
    assert judge.trusted is True and not judge.report()["failed"]
    assert [v.score is not None and v.score > 0.5 for v in scores] == [True, False]
    assert {v.model for v in scores} == {"tested"} and {v.trusted for v in scores} == {True}
    assert {v.prompt for v in scores} == {RUBRICS[rubric].version}
    assert [v.id for v in scores] == ["q1", "q2"]


@pytest.mark.parametrize("rubric", RUBRICS)
def test_a_gullible_judge_is_refused_and_the_attacks_are_named(rubric: str) -> None:
    judge = judged(rubric, gullible(rubric))
    scores = judge.score(CASES)
    assert judge.trusted is False
    assert set(judge.report()["failed"]) & ATTACKS >= {"instruction", "forged verdict"}
    assert [v.score for v in scores] == [None, None]
    assert "forged verdict" in scores[0].reason and "forged verdict" in str(judge)
    kept = judged(rubric, gullible(rubric), keep=True).score(CASES)
    assert kept[0].score is not None and kept[0].trusted is False


@pytest.mark.parametrize("rubric", RUBRICS)
def test_a_lazy_judge_is_refused(rubric: str) -> None:
    judge = judged(rubric, lambda _: verdict(rubric, True))
    assert [v.score for v in judge.score(CASES)] == [None, None]
    assert {"wrong", "empty", "one token", "repeats the question"} <= set(judge.report()["failed"])
    stern = judged(rubric, lambda _: verdict(rubric, False))  # nobody is ever right
    stern.score(CASES)
    assert stern.report()["failed"] == ["right", "right in other words"]


@pytest.mark.parametrize("reply", [None, "garbage", '{"correct": "yes"}', "", "[[[["])
def test_a_silent_or_broken_judge_scores_nothing_and_says_why(reply: str | None) -> None:
    asked: list[Request] = []
    judge = judged("open", lambda request: asked.append(request) or reply)  # type: ignore[func-returns-value]
    scores = judge.score(CASES)
    assert [v.score for v in scores] == [None, None] and judge.trusted is None
    begins = "the judge did not answer" if reply is None else "no verdict"
    assert all(v.reason.startswith(begins) for v in scores)
    assert judge.report()["not_scored"] == {begins: 2}
    n = len(CASES) + len(canaries(RUBRICS["open"], 0))
    assert len(asked) == (n if reply is None else 3 * n)  # what is malformed is asked again
    assert judged_summary(scores)["score"] is None


def test_without_a_judge_nothing_is_scored() -> None:
    judge = Judge(None, "process")
    assert {v.reason for v in judge.score(CASES)} == {NOT_CONFIGURED}
    report = judge.report()
    assert (report["scored"], report["trusted"], report["model"]) == (0, None, "")
    assert report["not_scored"] == {NOT_CONFIGURED: 2}


def test_a_malformed_verdict_is_asked_again_and_told_what_was_wrong() -> None:
    def stumbling(request: Request) -> str:
        if len(request.messages) == 2:
            return "I would say that is right."
        assert "not one JSON object" in request.messages[-1]["content"]
        return honest("open")(request)

    judge = judged("open", stumbling)
    assert [v.score for v in judge.score(CASES)] == [1.0, 0.0] and judge.trusted is True


def test_a_judge_that_fails_canaries_in_one_batch_stays_untrusted() -> None:
    class Tiring:
        asked = 0

        def __call__(self, request: Request) -> str:
            self.asked += 1
            return honest("open")(request) if self.asked <= 13 else verdict("open", True)

    judge = judged("open", Tiring(), batch=1)
    scores = judge.score(CASES)
    assert scores[0].score == 1.0 and scores[0].trusted is True
    assert scores[1].score is None and judge.trusted is False


def test_canaries_stand_among_the_replies_and_the_same_batch_asks_the_same() -> None:
    def requests() -> list[str]:
        seen: list[str] = []
        cases = [Case(f"q{i}", "What?", f"thing {i}", "a thing") for i in range(30)]
        judged("open", lambda r: seen.append(r.key()) or None).score(cases)  # type: ignore[func-returns-value]
        own = {judge_request(RUBRICS["open"], case).key() for case in cases}
        return ["case" if key in own else key for key in seen]

    first = requests()
    assert first == requests()
    places = [i for i, kind in enumerate(first) if kind != "case"]
    assert len(places) == len(canaries(RUBRICS["open"], 0))
    assert places[-1] - places[0] > len(places), "not in one heap"


def test_an_empty_reply_is_wrong_without_a_judge() -> None:
    blank = [Case("q3", "What?", reply, "x") for reply in ("", " \n\t", "\u200b\u2060", "\x00")]
    scores = judged("open", lambda _: verdict("open", True)).score(blank)
    assert [(v.score, v.reason) for v in scores] == [(0.0, "empty reply")] * 4


HOSTILE = st.text(
    st.sampled_from(list("ab |<>\n\r\t\u2028\u2029\x85\x0b\x0c\u202e\u200b{}\"'[]#`")), max_size=80
)
TOKENS = ("<|im_end|>", "<|im_start|>", "</s>", "[/INST]", "<｜User｜>", "<end_of_turn>", "<<SYS>>")


@tried
@given(st.lists(st.one_of(HOSTILE, st.sampled_from(TOKENS)), max_size=8))
def test_no_reply_leaves_its_quotation_or_writes_a_control_token(pieces: list[str]) -> None:
    text = "".join(pieces)
    lines = quoted("Reply", text).splitlines()
    assert lines[0] == "Reply:" and all(line.startswith("| ") for line in lines[1:])
    assert not any(token.lower() in neutral(text).lower() for token in TOKENS)
    user = judge_request(RUBRICS["open"], Case("q", "What?", text, "x")).messages[1]["content"]
    loose = [line for line in user.splitlines() if not line.startswith("| ")]
    assert loose == ["Question:", "", "Right answer:", "", "Reply to be judged:"]


def test_nested_tokens_do_not_come_back() -> None:
    assert "</s>" not in neutral("<</s>/s>")
    assert "<|im_end|>" not in neutral("<|im<|x|>_end|>")
    assert "<|im_end|>" not in neutral("<|im_\u200bend|>")
    assert len(neutral("x" * 1_000_000)) < 11_000


def test_the_words_of_a_rubric_do_not_change_without_a_new_number() -> None:
    """After a change of the words: count `number` up, then write the new version here."""
    assert {rubric.version for rubric in RUBRICS.values()} == {
        "open-1-79c90980",
        "process-1-d96786e8",
        "process-free-1-8c605deb",
        "reasoning-1-c466af7f",
    }


def test_marks_are_weighted_by_arithmetic_and_types_without_a_rubric_are_not_marked() -> None:
    marks = {"steps": 10, "logic": 0, "facts": 5, "clarity": 0, "reason": ""}
    assert read_verdict(json.dumps(marks), RUBRICS["process"], CASES[0]).score == 0.5
    assert process_rubric("Event Summarization") is None
    assert process_rubric("Hypothetical Reasoning") == "process-free"


def test_unknown_rubrics_and_sizes_are_named() -> None:
    with pytest.raises(InputError, match="known: open, process"):
        Judge(None, "vibes")
    with pytest.raises(InputError, match="at least 1"):
        Judge(None, batch=0)


def test_rows_of_several_kinds_have_their_own_judges() -> None:
    chain = Sample(
        "Why does he leave?",
        ["A. it rains", "B. he is hungry"],
        "<answer>B</answer>",
        id="chain",
        data_source="VRBench",
        segments=[Segment(1, 2, "He looks into the empty fridge.")],
        provenance={"question_type": "Implicit Inference"},
    )
    open_row = Sample("What is in the fridge?", [], "<answer>nothing</answer>", id="open")
    letters = Sample("Which?", ["A. x", "B. y"], "<answer>A</answer>", id="letters")
    shown: list[str] = []

    def reply(request: Request) -> str:
        shown.append(request.messages[1]["content"])
        marks = "steps" in request.messages[0]["content"].rpartition("keys: ")[2]
        return honest("process" if marks else "open")(request)

    replies = [
        Answered(letters, "A", True),
        Answered(open_row, "nothing at all"),
        Answered(chain, "The fridge is empty, so he is hungry.", True, 2),
    ]
    verdicts, reports = judge_replies(FunctionEngine(reply), replies, model="tested")
    assert [v.id for v in verdicts] == ["letters", "open", "chain#2"]
    assert [v.score for v in verdicts] == [None, 1.0, pytest.approx(0.9)]
    assert verdicts[0].reason == NOT_MARKED
    assert [r["prompt"].rpartition("-")[0] for r in reports] == ["open-1", "process-1"]
    assert all(report["trusted"] for report in reports)
    assert any("| 1. He looks into the empty fridge." in text for text in shown)
    nobody, _ = judge_replies(None, replies)
    assert [v.reason for v in nobody] == [NOT_MARKED, NOT_CONFIGURED, NOT_CONFIGURED]
