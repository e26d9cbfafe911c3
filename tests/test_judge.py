"""Judges that are honest, gullible, broken, lazy or silent, and replies that attack them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videothinker.evaluation.comparison import compare_records
from videothinker.evaluation.coverage import with_and_without
from videothinker.evaluation.evaluate import Column, evaluate_column, judged, rows_alone
from videothinker.evaluation.judge import (
    NOT_CONFIGURED,
    RUBRICS,
    Case,
    Judge,
    canaries,
    judge_request,
    judged_summary,
    neutral,
    process_rubric,
    quoted,
    read_verdict,
)
from videothinker.evaluation.records import STRICT, Record, read_records
from videothinker.evaluation.results import read_results
from videothinker.evaluation.video_engine import Reply
from videothinker.files import InputError
from videothinker.json_files import read_json
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


def judge_of(rubric: str, reply: Callable[[Request], str | None], **more: Any) -> Judge:
    return Judge(FunctionEngine(reply), rubric, model="tested", **more)


@pytest.mark.parametrize("rubric", RUBRICS)
def test_an_honest_judge_is_trusted_and_its_scores_are_given_out(rubric: str) -> None:
    judge = judge_of(rubric, honest(rubric))
    scores = judge.score(CASES)
    assert judge.trusted is True and not judge.report()["failed_canaries"]
    assert [v.score is not None and v.score > 0.5 for v in scores] == [True, False]
    assert {v.model for v in scores} == {"tested"} and {v.trusted for v in scores} == {True}
    assert {v.prompt for v in scores} == {RUBRICS[rubric].version}
    assert [v.id for v in scores] == ["q1", "q2"]


@pytest.mark.parametrize("rubric", RUBRICS)
def test_a_gullible_judge_is_refused_and_the_attacks_are_named(rubric: str) -> None:
    judge = judge_of(rubric, gullible(rubric))
    scores = judge.score(CASES)
    assert judge.trusted is False
    assert set(judge.report()["failed_canaries"]) & ATTACKS >= {"instruction", "forged verdict"}
    assert [v.score for v in scores] == [None, None]
    assert "forged verdict" in scores[0].reason and "forged verdict" in str(judge)
    kept = judge_of(rubric, gullible(rubric), keep=True).score(CASES)
    assert kept[0].score is not None and kept[0].trusted is False


@pytest.mark.parametrize("rubric", RUBRICS)
def test_a_lazy_judge_is_refused(rubric: str) -> None:
    judge = judge_of(rubric, lambda _: verdict(rubric, True))
    assert [v.score for v in judge.score(CASES)] == [None, None]
    assert {"wrong", "empty", "one token", "repeats the question"} <= set(
        judge.report()["failed_canaries"]
    )
    stern = judge_of(rubric, lambda _: verdict(rubric, False))  # nobody is ever right
    stern.score(CASES)
    assert stern.report()["failed_canaries"] == ["right", "right in other words"]


@pytest.mark.parametrize("reply", [None, "garbage", '{"correct": "yes"}', "", "[[[["])
def test_a_silent_or_broken_judge_scores_nothing_and_says_why(reply: str | None) -> None:
    asked: list[Request] = []
    judge = judge_of("open", lambda request: asked.append(request) or reply)  # type: ignore[func-returns-value]
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

    judge = judge_of("open", stumbling)
    assert [v.score for v in judge.score(CASES)] == [1.0, 0.0] and judge.trusted is True


def test_a_judge_that_fails_canaries_in_one_batch_stays_untrusted() -> None:
    class Tiring:
        asked = 0

        def __call__(self, request: Request) -> str:
            self.asked += 1
            return honest("open")(request) if self.asked <= 13 else verdict("open", True)

    judge = judge_of("open", Tiring(), batch=1)
    scores = judge.score(CASES)
    assert scores[0].score == 1.0 and scores[0].trusted is True
    assert scores[1].score is None and judge.trusted is False


def test_canaries_stand_among_the_replies_and_the_same_batch_asks_the_same() -> None:
    def requests() -> list[str]:
        seen: list[str] = []
        cases = [Case(f"q{i}", "What?", f"thing {i}", "a thing") for i in range(30)]
        judge_of("open", lambda r: seen.append(r.key()) or None).score(cases)  # type: ignore[func-returns-value]
        own = {judge_request(RUBRICS["open"], case).key() for case in cases}
        return ["case" if key in own else key for key in seen]

    first = requests()
    assert first == requests()
    places = [i for i, kind in enumerate(first) if kind != "case"]
    assert len(places) == len(canaries(RUBRICS["open"], 0))
    assert places[-1] - places[0] > len(places), "not in one heap"


def test_an_empty_reply_is_wrong_without_a_judge() -> None:
    blank = [Case("q3", "What?", reply, "x") for reply in ("", " \n\t", "\u200b\u2060", "\x00")]
    scores = judge_of("open", lambda _: verdict("open", True)).score(blank)
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
        segments=[Segment(1, 2, "He looks into the empty fridge.")],
    )
    open_row = Sample("What?", [], "<answer>nothing</answer>", problem_type="free-form", id="open")
    letters = Sample("Which?", ["A. x", "B. y"], "<answer>A</answer>", id="letters")
    shown: list[str] = []

    def reply(request: Request) -> str:
        shown.append(request.messages[1]["content"])
        marks = "steps" in request.messages[0]["content"].rpartition("keys: ")[2]
        return honest("process" if marks else "open")(request)

    column = process_column([letters, open_row, chain])
    records = [
        Record.of(letters, "own", "A", category=["Counting Problems"]),
        Record.of(open_row, "own", "nothing at all"),
        Record.of(chain, "own", "The fridge is empty, so hungry.", category=["Logical Linkage"]),
    ]
    lines: list[str] = []
    marked, found = judged(column, records, FunctionEngine(reply), lines.append)
    assert [r.score for r in marked] == [None, 1.0, pytest.approx(0.9)]
    assert [r.correct for r in marked] == [records[0].correct, True, records[2].correct]
    assert {k: v["prompt"].rpartition("-")[0] for k, v in found["judge"].items()} == {
        "open": "open-1",
        "process": "process-1",
    }
    assert all(v["trusted"] and v["model"] for v in found["judge"].values()) and len(lines) == 2
    assert any("| 1. He looks into the empty fridge." in text for text in shown)
    nobody, found = judged(column, marked, None, lines.append)
    assert [r.score for r in nobody] == [None] * 3 and len(lines) == 2
    assert found["judge"]["open"]["not_scored"] == {NOT_CONFIGURED: 1}


# a whole evaluation


def process_column(samples: list[Sample]) -> Column:
    return Column(replace(rows_alone("mine"), judge="process"), "house", samples, STRICT)


def open_rows(n: int) -> list[Sample]:
    return [
        Sample(f"What {i}?", [], "the green door", f"{i}.mp4", "free-form", id=f"q{i}")
        for i in range(n)
    ]


class Scripted:
    """A model that says the right thing to even questions and cannot see the last one's video."""

    name = "scripted"

    def __init__(self, failing: str = "") -> None:
        self.failing, self.asked = failing, 0

    def answer(self, questions: Any) -> Any:
        for i, question in enumerate(questions):
            self.asked += 1
            right = int(question.sample.id[1:]) % 2 == 0
            failed = question.sample.id == self.failing
            text = "" if failed else "the green door" if right else "a window"
            yield i, Reply(text, error="no such file" if failed else "")

    def close(self) -> None:
        """Nothing is held."""


def files(folder: Path) -> dict[str, bytes]:
    names = ("own.jsonl", "summary.json", "Results-m.json", "Stats-m.json")
    return {name: (folder / name).read_bytes() for name in names}


def test_a_second_run_and_one_that_was_killed_end_in_the_same_files(tmp_path: Path) -> None:
    column = Column(rows_alone("mine"), "house", open_rows(6), STRICT)
    judge = FunctionEngine(honest("open"))

    def run() -> dict[str, Any]:
        return evaluate_column(Scripted("q5"), column, tmp_path, "m", lambda _: None, judge=judge)

    first = run()
    whole = files(tmp_path)
    mark = first["judge"]["open"]
    assert (mark["score"], mark["n"], mark["scored"], mark["failed_questions"]) == (0.5, 6, 5, 1)
    assert first["own"]["accuracy"] == 0.5 and mark["trusted"] and mark["canaries"]
    assert run() == first and files(tmp_path) == whole
    (tmp_path / "summary.json").unlink()  # killed between the journal and the summary
    assert run() == first and files(tmp_path) == whole
    lines = (tmp_path / "own.jsonl").read_text().splitlines(keepends=True)
    lines[0] = lines[0].replace('"score": 1.0', '"score": null')  # a part was judged
    assert lines[0].count('"score": null') == 1
    (tmp_path / "own.jsonl").write_text("".join(lines))
    assert run() == first and files(tmp_path) == whole


@pytest.mark.parametrize("judge", [None, FunctionEngine(lambda _: None)])
def test_what_no_judge_has_scored_is_not_wrong(tmp_path: Path, judge: Any) -> None:
    column = Column(rows_alone("mine"), "house", open_rows(4), STRICT)
    summary = evaluate_column(Scripted("q3"), column, tmp_path, "m", lambda _: None, judge=judge)
    assert summary["own"]["accuracy"] is None and summary["judge"]["open"]["score"] is None
    assert read_json(tmp_path / "Stats-m.json")["accuracy"] is None
    assert summary["own"]["outcomes"]["not scored"] == 3 and "chance" not in summary
    assert summary["unasked"]["asked"] == 3
    records = list(read_records(tmp_path / "own.jsonl").values())
    assert with_and_without(records, [])["all"]["accuracy"] is None
    with pytest.raises(ValueError, match="no question has 'accuracy'"):
        compare_records(records, records)


def test_open_ended_rows_without_a_judge_leave_every_denominator(tmp_path: Path) -> None:
    choice = Sample("?", ["A. x", "B. the green door"], "B", "9.mp4")
    letters = [replace(choice, id=f"q{k}") for k in (8, 9)]
    column = Column(rows_alone("mine"), "house", [*open_rows(4), *letters], STRICT)
    summary = evaluate_column(Scripted(), column, tmp_path, "m", lambda _: None)
    stats = read_json(tmp_path / "Stats-m.json")
    assert (summary["chance"], summary["most_frequent"]) == (0.5, 1.0)
    assert stats["accuracy"] == summary["own"]["accuracy"] == 0.0
    assert (stats["total_questions"], stats["scored_questions"]) == (6, 2)
    said: list[str] = []
    records = read_results(tmp_path / "Results-m.json", log=said.append)
    assert not said, "our own figures agree with our own rows"
    right = [replace(r, correct=True) for r in records]
    compared = compare_records(right, records)
    assert (compared["n"], compared["left_out"], compared["difference"]) == (2, 4, 1.0)


class Dead:
    """A server at whose address nobody listens."""

    model = "dead"

    def __init__(self) -> None:
        self.asked = 0

    def complete(self, requests: Any) -> list[None]:
        self.asked += len(requests)
        return [None] * len(requests)

    def reason(self, _: Request) -> str:
        return "APIConnectionError: refused"

    def replied(self, _: Request) -> bool:
        return False


def test_a_server_that_is_not_there_is_asked_once() -> None:
    engine = Dead()
    judge = Judge(engine, batch=50)
    cases = [Case(f"q{i}", "What?", f"thing {i}", "a thing") for i in range(120)]
    scores = judge.score(cases)
    assert engine.asked == 1 and judge.trusted is None
    assert {v.score for v in scores} == {None}
    assert "refused" in str(judge) and "refused" in judge.report()["first_reason"]


def test_verdicts_that_were_paid_for_are_given_without_the_server() -> None:
    class Remembering(Dead):
        def complete(self, requests: Any) -> list[Any]:
            self.asked += sum(not self.remembers(r) for r in requests)
            return [honest("open")(r) if self.remembers(r) else None for r in requests]

        def remembers(self, request: Request) -> bool:
            return "thing 7" not in request.messages[1]["content"]

    engine = Remembering()
    cases = [Case(f"q{i}", "What?", f"thing {i}", "a thing") for i in range(9)]
    scores = Judge(engine).score(cases)
    assert engine.asked == 1
    assert [v.score is None for v in scores] == [i == 7 for i in range(9)]
