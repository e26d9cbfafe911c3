"""Evaluations: rows that cannot be asked or judged, replies that are no answers, few videos."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, patch

import pytest
from chat_server import running
from hypothesis import example, given, settings
from hypothesis import strategies as st

from videothinker.commands.main import main
from videothinker.evaluation.comparison import compare_records
from videothinker.evaluation.evaluate import Column, evaluate, evaluate_column, rows_alone
from videothinker.evaluation.questions import FrameSource, Question, make_questions
from videothinker.evaluation.records import (
    STRICT,
    Record,
    read_records,
    records_by_id,
    summarise,
    summary_line,
)
from videothinker.evaluation.statistics import clustered_mean, paired_difference
from videothinker.evaluation.video_engine import ASKING_ERRORS, Reply, failure_reason
from videothinker.files import FormatError, InputError
from videothinker.json_files import read_json
from videothinker.schema import Sample, write_rows
from videothinker.video.frames import Sampling, VideoError

EXAMPLES = int(os.environ.get("VIDEOTHINKER_EXAMPLES", "0"))
tried = settings(
    max_examples=EXAMPLES or 100, deadline=None, derandomize=not EXAMPLES, database=None
)
OPTIONS = ["A. the red ring", "B. the dog", "C. a cat"]


def row(name: str, **changes: Any) -> Sample:
    """A question about its own video."""
    sample = Sample("Which is first?", OPTIONS, "<answer>B</answer>", f"{name}.mp4", id=name)
    return replace(sample, **changes)


# intervals

ANSWERS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 4)), min_size=1, max_size=30)


@tried
@given(ANSWERS)
@example([(1.0, 0), (0.0, 1), (0.0, 2)])
@example([(1.0, 0), (0.0, 0), (1.0, 1), (0.0, 1)])
@example([(1.0, 0)] * 9)
def test_an_interval_lies_inside_its_bounds(answers: list[tuple[float, int]]) -> None:
    values, videos = [a for a, _ in answers], [v for _, v in answers]
    estimate = clustered_mean(values, videos)
    if len(set(videos)) == 1:
        assert math.isnan(estimate.low) and estimate.bounds == (None, None)
        return
    assert 0 <= estimate.low <= estimate.mean + 1e-9 and estimate.mean - 1e-9 <= estimate.high <= 1
    mirrored = clustered_mean([1 - v for v in values], videos)
    assert mirrored.low == pytest.approx(1 - estimate.high, abs=1e-6)
    if set(values) <= {0.0, 1.0}:
        assert estimate.high - estimate.low > 0.01, "answers of at most 30 questions leave doubt"


@tried
@given(ANSWERS, st.lists(st.sampled_from([0.0, 0.3, 1.0]), min_size=30, max_size=30))
@example([(1.0, 0), (1.0, 1)], [0.0] * 30)
@example([(1.0, 0), (0.0, 1)], [1.0, 0.0] * 15)
def test_a_paired_interval_lies_inside_its_bounds(
    answers: list[tuple[float, int]], others: Sequence[float]
) -> None:
    a, videos = [a for a, _ in answers], [v for _, v in answers]
    b = list(others[: len(a)])
    estimate = paired_difference(a, b, videos)
    if len(set(videos)) == 1:
        assert estimate.bounds == (None, None)
        return
    assert -1 <= estimate.low <= estimate.mean + 1e-9
    assert estimate.mean - 1e-9 <= estimate.high <= 1
    assert estimate.high - estimate.low > 1e-9
    swapped = paired_difference(b, a, videos)
    assert swapped.low == pytest.approx(-estimate.high, abs=1e-6)


def test_an_interval_has_a_width_where_all_or_none_are_right() -> None:
    none, all_right = clustered_mean([0] * 30, range(30)), clustered_mean([1] * 30, range(30))
    assert none.low == 0 and 0.08 < none.high < 0.15
    assert all_right.high == 1 and all_right.low == pytest.approx(1 - none.high)
    few = clustered_mean([1] * 30, [i // 10 for i in range(30)])  # thirty answers, three videos
    assert few.low < all_right.low
    same = paired_difference([1] * 30, [1] * 30, range(30))
    assert same.mean == 0 and -0.2 < same.low < -0.08 and same.high == pytest.approx(-same.low)


def test_nearly_equal_fractions_are_judged_like_equal_ones() -> None:
    for last in (0.6, 0.6 + 2e-9, 0.6 + 1e-7):
        difference = paired_difference([0.6] * 9 + [last], [0.5] * 10, range(10))
        assert difference.low < difference.mean < difference.high
        assert difference.high - difference.low == pytest.approx(0.0435, abs=0.002)
        mean = clustered_mean([1 / 3] * 19 + [last - 0.6 + 1 / 3], range(20))
        assert mean.high - mean.low == pytest.approx(0.044, abs=0.002)


# records


def records_of(replies: Sequence[str], **more: Any) -> list[Record]:
    return [Record.of(row(f"q{i}"), "own", Reply(t, **more)) for i, t in enumerate(replies)]


def test_a_reply_that_was_cut_off_says_so_everywhere() -> None:
    whole = records_of(["<answer>B</answer>"] * 3)
    cut = [replace(r, id=f"c{r.id}") for r in records_of(["I see a ring"], cut_off=True)]
    assert [r.cut_off for r in whole + cut] == [False, False, False, True]
    summary = summarise(whole + cut)
    assert summary["cut_off"] == 0.25
    assert "1 cut off" in summary_line("own", summary)
    assert "cut off" not in summary_line("own", summarise(whole))


def test_letters_in_another_dress_are_read_by_the_reader_and_not_by_the_reward() -> None:
    dressed = records_of(["<answer>B.</answer>", "(B)", "Answer: B", "<answer>A or B</answer>"])
    assert not any(r.correct for r in dressed)
    assert [r.readings["reader"] for r in dressed] == ["B", "B", "B", None]
    summary = summarise(dressed)
    assert (summary["answered"], summary["outcomes"]["unread"]) == (0, 4)
    assert summary["readings"]["reader"] == {"accuracy": 0.75, "read": 0.75}
    assert "4 unread, read by strict 0.0, reader 75.0 %" in summary_line("own", summary)


def test_a_control_that_is_made_to_choose_keeps_what_it_said() -> None:
    """Its plain accuracy counts a reply without an answer as wrong; choices are a second figure."""
    said = [replace(r, condition="no_video") for r in records_of(["(B)", "I see", "B", "A"])]
    unknown = summarise(said)
    assert (unknown["accuracy"], unknown["forced_accuracy"]) == (0.25, None)
    assert unknown["forced_accuracy_ci"] == [None, None]
    forced = [replace(said[0], forced_letter="B"), replace(said[1], forced_letter="A"), *said[2:]]
    summary = summarise(forced)
    assert (summary["accuracy"], summary["answered"]) == (0.25, 0.5)
    assert summary["forced_accuracy"] == 0.5
    assert summary["readings"]["reader"]["read"] == 0.75
    assert "accuracy 25.0 % [" in summary_line("no_video", summary)
    assert ", made to choose 50.0 %, " in summary_line("no_video", summary)
    assert summarise(said[2:])["forced_accuracy"] == 0.5  # nothing to make a choice of
    assert "forced_accuracy" not in summarise(records_of(["B"]))


def test_an_earlier_journal_of_forced_letters_is_refused(tmp_path: Path) -> None:
    entry = asdict(records_of(["B"])[0]) | {"forced": True}
    del entry["forced_letter"]
    (tmp_path / "r.jsonl").write_text(json.dumps(entry) + "\n")
    with pytest.raises(FormatError, match="an earlier version wrote it, which counted letters"):
        read_records(tmp_path / "r.jsonl")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"correct": None}, "field 'correct' cannot be None"),
        ({"id": 3}, "field 'id' cannot be 3"),
        ({"segments": []}, r"field 'segments' cannot be \[\]"),
        ({"segments": {"miou": "x"}}, "field 'segments' holds something that is no fraction"),
        ({"segments": {"miou": 2}}, "field 'segments' holds something that is no fraction"),
        ({"more": 1}, "unexpected keyword argument 'more'"),
        (5, "it is int, not an object"),
        ("readings", "it is str, not an object"),
        (None, "it is NoneType, not an object"),
    ],
)
def test_what_is_no_record_is_named_by_file_line_and_field(change: Any, says: str) -> None:
    good = asdict(records_of(["<answer>B</answer>"])[0])
    entry = good | change if isinstance(change, dict) else change
    with pytest.raises(FormatError, match=f"^r.jsonl:2: not a record of an evaluation: .*{says}"):
        records_by_id([good, entry], "r.jsonl")


def test_the_clip_bounds_times_where_the_row_does_not() -> None:
    text = "<time>00:05-00:12</time> <caption>a</caption> <think>b</think> <answer>B</answer>"
    assert Record.of(row("a"), "own", text).formatted  # nobody knows how long the clip is
    nine = Reply(text, duration=9.0)
    assert not Record.of(row("a"), "own", nine).formatted
    assert not Record.of(row("a", duration=9.0), "own", Reply(text, duration=60.0)).formatted
    assert not Record.of(row("a"), "other_video", nine).times_valid


def test_a_comparison_of_one_video_has_no_interval() -> None:
    records = [replace(r, video_id="v") for r in records_of(["<answer>B</answer>", "A"])]
    difference = compare_records(records, records)
    assert (difference["ci_low"], difference["ci_high"]) == (None, None)


# the command


class Script:
    """An engine in place of the model's: what is read and said is scripted."""

    name = "script"

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # what is imported for the first time while `load_model` is patched would keep the patch
        import videothinker.training.grpo  # noqa: F401
        from videothinker.evaluation import video_engine
        from videothinker.model import loading

        self.loaded = 0
        self.faults: dict[str, Exception] = {}
        self.reply: Callable[[int], Reply] = lambda i: Reply("<answer>B</answer>", 4)
        monkeypatch.setattr(loading, "load_model", self.load)
        monkeypatch.setattr(video_engine, "HFEngine", lambda *_: self)

    def load(self, *_: Any, **__: Any) -> tuple[str, str]:
        self.loaded += 1
        return "model", "processor"

    def answer(self, questions: Sequence[Question]) -> Iterator[tuple[int, Reply]]:
        """Scripted replies, and the faults as an engine reports them."""
        for i, question in enumerate(questions):
            fault = self.faults.get(question.sample.id)
            if fault is None:
                yield i, self.reply(i)
            elif isinstance(fault, ASKING_ERRORS):
                yield i, Reply("", error=failure_reason(fault))
            else:
                raise fault

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    return Script(monkeypatch)


def run_eval(folder: Path, rows: Sequence[Sample], *flags: str) -> int:
    """Run `videothinker eval` on these rows; its exit code."""
    (folder / "videos").mkdir(exist_ok=True)
    write_rows(folder / "rows.jsonl", rows)
    where = ["--data", str(folder / "rows.jsonl"), "--videos", str(folder / "videos")]
    try:
        main(["eval", "--model", "data/tiny-base", *where, "--out", str(folder / "out"), *flags])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def column(folder: Path, name: str = "house") -> Path:
    """Where `run_eval` leaves what came out."""
    return folder / "out" / "tiny-base" / "rows" / name


def test_one_bad_row_never_ends_an_evaluation(
    script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script.faults = {
        "unreadable": VideoError("unreadable.mp4", "cut off"),
        "forbidden": PermissionError(13, "Permission denied"),
        "tokens": FormatError("holds the control token '<|video_pad|>'"),
        "placeholder": ValueError("The total number of <|video_pad|> tokens"),
    }
    rows = [row(name) for name in (*script.faults, "good", "fine")]
    assert run_eval(tmp_path, rows) == 0
    printed = capsys.readouterr().out
    assert "6 questions about 6 videos, accuracy 33.3 %" in printed
    assert "own: 4 questions count as wrong that could not be asked; first unreadable:" in printed
    results = read_json(column(tmp_path) / "Stats-tiny-base.json")
    assert (results["unreadable_videos"], results["correct_answers"]) == (4, 2)
    lines = (column(tmp_path) / "own.jsonl").read_text().splitlines()
    reasons = {r["id"]: r["error"] for r in map(json.loads, lines)}
    assert reasons["tokens"] == "holds the control token '<|video_pad|>'"
    assert reasons["placeholder"].startswith("ValueError: The total number") and not reasons["good"]


@pytest.mark.parametrize("fault", [MemoryError(), TypeError("a bug"), RuntimeError("CUDA")])
def test_what_no_row_is_at_fault_for_ends_an_evaluation(
    script: Script, tmp_path: Path, fault: Exception
) -> None:
    script.faults = {"a": fault}
    with pytest.raises(type(fault)):
        run_eval(tmp_path, [row("a"), row("b")])


def test_an_evaluation_in_which_nothing_could_be_asked_is_an_error(
    script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script.faults = {"a": VideoError("a.mp4", "gone"), "b": VideoError("b.mp4", "gone")}
    assert run_eval(tmp_path, [row("a"), row("b")]) == 2
    printed = capsys.readouterr()
    error = printed.err
    assert "count as wrong that" not in printed.out  # the error says it
    assert "none of the 2 questions could be asked; first reason: a.mp4: gone" in error


def test_cut_off_replies_are_in_every_file(
    script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script.reply = lambda i: Reply("(B)" if i else "I see", 8, not i)
    assert run_eval(tmp_path, [row("a"), row("b"), row("c")], "--reading", "strict") == 0
    line = capsys.readouterr().out
    assert "2 unread, 1 cut off, read by strict 0.0, reader 66.7" in line
    out = column(tmp_path, "house,strict")
    assert read_json(out / "summary.json")["own"]["cut_off"] == pytest.approx(1 / 3)
    stats = read_json(out / "Stats-tiny-base.json")
    assert (stats["cut_off_replies"], stats["unanswered_questions"]) == (1, 3)
    assert [r["Cut Off"] for r in read_json(out / "Results-tiny-base.json")].count(True) == 1
    lines = (out / "own.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["cut_off"] for line in lines) == 1


def test_a_row_that_is_there_twice_is_asked_once(
    script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nameless = row("a", id="")
    twins = row("t", options=["A. x", "B. x", "C. y"])
    assert run_eval(tmp_path, [nameless, row("b"), nameless, twins]) == 0
    printed = capsys.readouterr().out
    assert "1 row left out: copies of others" in printed
    assert "1 row with the same option twice, first t: the other letter counts as wrong" in printed
    assert "3 questions about 3 videos" in printed


def test_rows_about_pictures_are_left_out(
    script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = [row(f"p{i}", data_type="image", path=f"p{i}.jpg") for i in range(3)]
    assert run_eval(tmp_path, [row("a"), *pictures, row("b")]) == 0
    printed = capsys.readouterr().out
    assert "3 of 5 rows are about" in printed
    assert "2 questions about 2 videos, accuracy 100.0 %" in printed


@pytest.mark.parametrize(
    ("rows", "flags", "message"),
    [
        ([row("a"), row("a", path="b.mp4")], [], "two different rows have the id 'a'"),
        (
            [row("a", id=""), row("a", id="", solution="<answer>C</answer>")],
            [],
            "the question 'Which is first?' about 'a.mp4' is there twice",
        ),
        ([row("a"), row("b", path="a.mp4")], ["--controls"], "needs at least two videos"),
        ([row("a")], ["--style", "poem"], "unknown --style 'poem'"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_the_model_is_loaded(
    script: Script,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rows: list[Sample],
    flags: list[str],
    message: str,
) -> None:
    assert run_eval(tmp_path, rows, *flags) == 2
    assert message in capsys.readouterr().err
    assert script.loaded == 0


@pytest.mark.parametrize("as_map", [False, True])
def test_videos_that_are_not_there_are_refused_before_the_model_is_loaded(
    script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str], as_map: bool
) -> None:
    away = str(tmp_path / "away")
    videos = json.dumps({"STAR": away, "other": away}) if as_map else away
    rows = [row("a", data_source="STAR"), row("b", data_source="STAR")]
    assert run_eval(tmp_path, rows, "--videos", videos) == 2
    assert f"there is no folder {away}" in capsys.readouterr().err
    assert script.loaded == 0 and not list(tmp_path.rglob("tiny-base"))
    argv = ["sft", "--recipe", "tiny/sft", "--data", str(tmp_path / "rows.jsonl")]
    with pytest.raises(SystemExit):
        main([*argv, "--videos", videos, "--out", str(tmp_path / "run")])
    assert f"there is no folder {away}" in capsys.readouterr().err
    if as_map:  # of the sources that no row is of, nothing is asked
        videos = json.dumps({"STAR": str(tmp_path), "other": away})
        assert run_eval(tmp_path, rows, "--videos", videos) == 0


def test_a_folder_of_another_model_is_refused_before_the_model_is_loaded(
    script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_eval(tmp_path, [row("a"), row("b")]) == 0
    assert run_eval(tmp_path, [row("a"), row("b")], "--max-new-tokens", "7") == 2
    assert "max_new_tokens" in capsys.readouterr().err
    assert script.loaded == 1


def test_a_verdict_of_no_use_is_paid_for_again_when_the_user_says_so(
    script: Script, tmp_path: Path
) -> None:
    red = {"options": [], "problem_type": "free-form", "solution": "<answer>red</answer>"}
    rows = [row(name, **red) for name in "ab"]
    flags = ["--judge-model", "judge", "--judge-api-key-env", ""]
    with running() as server:
        server.say = lambda question: None
        flags += ["--judge-url", server.url]
        asked = []
        for again in ([], [], ["--judge-ask-again"]):
            server.seen.clear()
            assert run_eval(tmp_path, rows, *flags, *again) == 0
            asked.append(server.seen.total())
    assert asked[0] > 2 and asked[1:] == [0, asked[0]]  # canaries among them


def test_a_model_that_cannot_be_loaded_leaves_the_folder_free(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from videothinker.model import loading

    def broken(*_: Any, **__: Any) -> None:
        raise InputError("no such model")

    with monkeypatch.context() as patched:
        patched.setattr(loading, "load_model", broken)
        assert run_eval(tmp_path, [row("a"), row("b")]) == 2
    assert not list((tmp_path / "out").rglob("manifest.json"))
    assert run_eval(tmp_path, [row("a"), row("b")], "--max-new-tokens", "7") == 0


def test_a_start_that_fails_removes_nothing(script: Script, tmp_path: Path) -> None:
    trained = tmp_path / "out" / "tiny-base" / "model"
    trained.mkdir(parents=True)
    (trained / "model.safetensors").write_bytes(b"hours of work")
    assert run_eval(tmp_path, [row("a"), row("b")]) == 2  # the name is a training run's
    assert (trained / "model.safetensors").read_bytes() == b"hours of work"
    assert run_eval(tmp_path, [row("a")], "--name", "fresh", "--engine", "openai") == 2  # no --url
    assert not (tmp_path / "out" / "fresh").exists()
    assert run_eval(tmp_path, [row("a"), row("b")], "--name", "fresh") == 0


def test_what_flags_change_in_a_protocol_stands_in_the_column(
    script: Script, tmp_path: Path
) -> None:
    flags = ["--temperature", "1", "--reading", "strict", "--style", "short"]
    assert run_eval(tmp_path, [row("a"), row("b")], *flags) == 0
    names = [p.parent.name for p in (tmp_path / "out").rglob("summary.json")]
    assert names == ["house,T=1,strict,short"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--samples", "2"], "give --temperature"),
        (["--temperature", "nan"], "must be 0 or more"),
        (["--temperature", "-1"], "must be 0 or more"),
        (["--judge-url", "http://localhost:1/v1"], "--judge-url needs --judge-model"),
        (["--frames", "8", "8"], "two columns are called rows/house-8"),
        (["--protocol", "official"], "has no protocol 'official'; it has house"),
    ],
)
def test_wrong_flags_leave_no_folder(
    script: Script,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    says: str,
) -> None:
    assert run_eval(tmp_path, [row("a"), row("b")], *flags) == 2
    assert says in capsys.readouterr().err and script.loaded == 0
    assert not list((tmp_path / "out").rglob("manifest.json"))


def test_the_answers_of_two_served_models_are_not_mixed(
    script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    from videothinker.evaluation import served_engine

    monkeypatch.setattr(served_engine, "ServedEngine", lambda *_, **__: script)
    served = ["--engine", "openai", "--url", "http://localhost:1/v1"]
    assert run_eval(tmp_path, [row("a"), row("b")], *served, "--served-model", "A") == 0
    assert run_eval(tmp_path, [row("a"), row("b")], *served, "--served-model", "B") == 2
    assert "holds answers with served_model 'A', not 'B'" in capsys.readouterr().err
    assert run_eval(tmp_path, [row("a"), row("b")]) == 0  # here: the same model, another engine
    starts = read_json(tmp_path / "out" / "tiny-base" / "manifest.json")["starts"]
    assert [start["engine"] for start in starts] == ["openai", "hf"]


def test_two_columns_of_other_protocols_are_not_compared(
    script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, frames in (("A", "4"), ("B", "8")):
        assert run_eval(tmp_path, [row("a"), row("b")], "--name", name, "--frames", frames) == 0
    with pytest.raises(SystemExit):
        main(["compare", str(tmp_path / "out" / "A"), str(tmp_path / "out" / "B")])
    assert "have no benchmark and column in common" in capsys.readouterr().err
    results = next((tmp_path / "out" / "B").rglob("Results-B.json"))
    main(["compare", str(tmp_path / "out" / "A"), str(results)])
    assert "results: +0.0" in capsys.readouterr().out


def test_a_clip_that_vanishes_before_a_control_is_forced_is_left_as_it_is(
    script: Script, tmp_path: Path
) -> None:
    script.reply = lambda i: Reply("no idea", 2)
    script.likeliest_letters = lambda questions: [  # type: ignore[attr-defined]
        None if q.sample.id == "a" else q.sample.answer for q in questions
    ]
    questions = make_questions([row("a"), row("b")], STRICT, "no_video")
    records = evaluate(script, questions, tmp_path / "r.jsonl")
    assert [(r.id, r.forced_letter, r.prediction, r.correct) for r in records] == [
        ("a", None, None, False),
        ("b", "B", None, False),
    ]
    script.likeliest_letters = lambda questions: [  # type: ignore[attr-defined]
        q.sample.answer for q in questions if q.sample.id == "a"
    ]
    again = evaluate(script, questions, tmp_path / "r.jsonl")  # asks for the missing letter only
    assert [r.forced_letter for r in again] == ["B", "B"]


def test_two_rows_of_one_id_are_refused_by_evaluate_too(script: Script, tmp_path: Path) -> None:
    questions = make_questions([row("a"), row("a")], STRICT)
    with pytest.raises(InputError, match="1 ids are used by several rows"):
        evaluate(script, questions, tmp_path / "r.jsonl")


@pytest.mark.parametrize("finished", [True, False])
def test_an_answer_that_was_cut_off_is_told(
    finished: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    from videothinker.commands.models import answer_view
    from videothinker.model.generate import Completion

    encoder = MagicMock(processor=None)
    with (
        patch("videothinker.model.family.family_of"),
        patch("videothinker.model.generate.texts", return_value=["I see"]),
        patch("videothinker.model.generate.generate") as generate,
        patch("videothinker.viewer.viewer.View.of", return_value="view"),
    ):
        generate.return_value = [[Completion([1], [0.0], finished)]]
        assert answer_view("model", encoder, row("a"), 7) == "view"
    told = "cut off by the length limit of 7 tokens" in capsys.readouterr().err
    assert told != finished


class Reading:
    """An engine that really reads its frames, and always says B."""

    name = "reading"

    def __init__(self, frames: FrameSource) -> None:
        self.frames = frames

    def answer(self, questions: Sequence[Question]) -> Iterator[tuple[int, Reply]]:
        """B to every question whose video can be read."""
        for i, question in enumerate(questions):
            try:
                yield i, Reply.to(self.frames.frames(question), "<answer>B</answer>")
            except ASKING_ERRORS as error:
                yield i, Reply("", error=failure_reason(error))

    def close(self) -> None:
        """Nothing is held."""


def test_a_fifth_of_the_videos_removed_changes_no_denominator(tmp_path: Path) -> None:
    from videothinker.toy.world import draw_scene, encode_scene

    names = [f"clip{i}" for i in range(5)]
    for name in names:
        encode_scene(draw_scene(name, 0), tmp_path / "videos" / f"{name}.mp4")
    rows = [
        row(f"{name}-{k}", path=f"{name}.mp4", video_id=name) for name in names for k in range(4)
    ]
    sampling = Sampling(n_frames=4, size=(56, 56))
    column = Column(rows_alone("toy"), "house", rows, replace(STRICT, sampling=sampling))
    engine = Reading(FrameSource(tmp_path / "videos", timeout=None))
    whole = evaluate_column(engine, column, tmp_path / "whole", "m", str)
    (tmp_path / "videos" / "clip3.mp4").unlink()
    fifth = evaluate_column(engine, column, tmp_path / "fifth", "m", str)

    assert (whole["own"]["n"], whole["own"]["coverage"], whole["own"]["accuracy"]) == (20, 1, 1)
    assert (fifth["own"]["n"], fifth["own"]["coverage"], fifth["own"]["accuracy"]) == (20, 0.8, 0.8)
    assert [entry["id"] for entry in fifth["unasked"]["unasked"]] == [
        f"clip3-{k}" for k in range(4)
    ]
    assert all("clip3.mp4" in entry["reason"] for entry in fifth["unasked"]["unasked"])
    stats = read_json(tmp_path / "fifth" / "Stats-m.json")
    assert (stats["total_questions"], stats["correct_answers"]) == (20, 16)
    encode_scene(draw_scene("clip3", 0), tmp_path / "videos" / "clip3.mp4")  # it turns up again
    assert evaluate_column(engine, column, tmp_path / "fifth", "m", str)["own"] == whole["own"]
    for name in ("own.jsonl", "Results-m.json", "Stats-m.json", "summary.json"):
        assert (tmp_path / "fifth" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
