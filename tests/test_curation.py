"""Hindsight by command: what the teacher is told, what is kept on record, what a trial leaves."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import load_script
from test_synthesis import TRACE, Server, folder, good_trace, one_line, run, server, toy_clips

from videothinker.commands.push import data_files, push_folder
from videothinker.data.rowfiles import load_rows
from videothinker.evaluation.records import Record
from videothinker.json_files import read_json
from videothinker.schema import Segment, write_rows
from videothinker.synthesis.data_summary import summarise_history
from videothinker.synthesis.engine import FunctionEngine, Request
from videothinker.synthesis.hindsight_curation import Verdict, curate, read_verdicts
from videothinker.synthesis.history import History, read_history
from videothinker.synthesis.judging import EngineReader, ReaderError
from videothinker.synthesis.synthesize import synthesize, whole_trace
from videothinker.toy.teacher import ScriptedTeacher, SymbolicReader

assert folder and run and server  # fixtures

READS = "You answer a multiple-choice question"  # how the prompt of a reader begins


def letter_of(user: str, words: str) -> str:
    """The letter that an option has in a prompt; its words where it has none."""
    found = (line[0] for line in user.splitlines() if line.endswith(f". {words}"))
    return next(found, words)


def careful(system: str, user: str) -> str:
    """A teacher whose first trace says too little, and a reader that needs the water."""
    if not system.startswith(READS):
        return good_trace(system, user)
    if "water" in user:
        return f"<answer>{letter_of(user, 'took it')}</answer>"
    if "a hand" in user:  # not enough: it is led to another option
        return f"<answer>{letter_of(user, 'dropped it')}</answer>"
    return "<answer>none</answer>"


class Mends:
    """A server whose teacher mends the trace once it is told."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def __call__(self, system: str, user: str) -> str:
        is_told = len(self.server.bodies[-1]["messages"]) > 2
        if is_told:
            return TRACE.format(caption="a hand holds a cup under water")
        return careful(system, user)


def both(server: Server) -> list[Any]:
    """The flags of a teacher and a reader, one request after the other."""
    return [
        *("--teacher-url", server.url, "--teacher-model", "t", "--concurrency", 1, "--workers", 1),
        *("--reader-url", server.url, "--reader-model", "r", "--tries", 1),
    ]


def check_only(data: Path, out: Path, server: Server) -> list[Any]:
    """A curation without a teacher."""
    return ["curate", "--data", data, "--out", out, "--check-only", *both(server)]


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# The next attempt


def test_the_teacher_is_told_what_was_wrong_and_not_where_it_led(
    folder: Path, run: Any, server: Server
) -> None:
    server.reply = Mends(server)
    out = folder / "out.jsonl"
    code, text = run("curate", "--data", folder / "traced.jsonl", "--out", out, *both(server))
    assert code == 0 and "3 of 3 kept" in text and "0 after 0, 3 after 1" in text, text
    told = [b["messages"] for b in server.bodies if len(b["messages"]) > 2]
    assert len(told) == 3
    for messages in told:
        assert [m["role"] for m in messages] == ["system", "user", "assistant", "user"]
        assert messages[2]["content"].endswith("<answer>A</answer>")  # what was rejected
        assert "did not come to the right answer" in messages[3]["content"]
        assert "C" not in messages[3]["content"] and "dropped" not in messages[3]["content"]
    verdicts = read_verdicts(lines(Path(f"{out}.journal"))[1:])
    for verdict in verdicts.values():
        assert verdict.history == ["reader: times and captions lead to C, not A"]
        assert verdict.letters == ["C", "A"] and "a hand</caption>" in verdict.rejected[0]
        assert [tag.partition("@")[0] for tag in verdict.prompts[1]] == ["trace", "retry", "reader"]
    [row, *_] = load_rows(out)
    assert row.provenance["attempt"] == 1
    assert [tag.partition("@")[0] for tag in row.provenance["prompts"]][:2] == ["trace", "retry"]


def test_a_row_that_never_passes_is_dropped_kept_or_put_aside(
    folder: Path, run: Any, server: Server
) -> None:
    server.reply = lambda system, user: (
        "<answer>none</answer>"
        if system.startswith(READS) and "cup 1" in user
        else f"<answer>{letter_of(user, 'took it')}</answer>"
    )
    out, aside = folder / "out.jsonl", folder / "out.jsonl.rejected.jsonl"
    argv = [
        "curate",
        "--data",
        folder / "traced.jsonl",
        "--out",
        out,
        "--check-only",
        *both(server),
    ]
    assert run(*argv)[0] == 0
    assert [row.id for row in load_rows(out)] == ["star-0", "star-2"] and not aside.exists()
    asked = len(server.bodies)
    assert run(*argv, "--rejected", "separate")[0] == 0
    assert [row.id for row in load_rows(out)] == ["star-0", "star-2"]
    [lost] = load_rows(aside)
    assert lost.id == "star-1" and "no answer follows" in lost.provenance["rejected"]
    assert run(*argv, "--rejected", "keep")[0] == 0
    assert [row.id for row in load_rows(out)] == ["star-0", "star-1", "star-2"]
    assert "rejected" in load_rows(out)[1].provenance and not aside.exists()
    assert len(server.bodies) == asked  # the journal decides; nobody is asked again


def test_times_are_checked_against_the_frames(folder: Path, run: Any, server: Server) -> None:
    server.reply = lambda system, user: f"<answer>{letter_of(user, 'took it')}</answer>"
    rows = load_rows(folder / "traced.jsonl")
    rows[1].process = (rows[1].process or "").replace("00:00-00:04", "00:05-00:06")
    write_rows(folder / "late.jsonl", rows)
    argv = ["curate", "--data", folder / "late.jsonl", "--check-only", *both(server), "--out"]
    code, text = run(*argv, folder / "a.jsonl", "--sampled", 4)  # of 9 s: 0, 2.25, 4.5, 6.75
    assert code == 0 and "frames 1" in text and "2 of 3 kept" in text, text
    reasons = read_json(folder / "a.jsonl.report.json")["dropped"]
    assert reasons == {"star-1": "frames: no sampled frame lies in 00:05-00:06"}
    assert run(*argv, folder / "b.jsonl", "--sampled", "2fps")[0] == 0
    assert len(load_rows(folder / "b.jsonl")) == 3
    code, text = run(*argv, folder / "a.jsonl", "--sampled", 8)
    assert code == 2
    one_line(text, "curate", "belongs to another run", "sampled")
    code, text = run(*argv, folder / "c.jsonl", "--sampled", "often")
    assert code == 2 and "--sampled" in text and "2fps" in text


def test_journals_of_earlier_versions_go_on(folder: Path, run: Any, server: Server) -> None:
    server.reply = lambda system, user: f"<answer>{letter_of(user, 'took it')}</answer>"
    out = folder / "out.jsonl"
    argv = [
        "curate",
        "--data",
        folder / "traced.jsonl",
        "--out",
        out,
        "--check-only",
        *both(server),
    ]
    assert run(*argv)[0] == 0
    journal = Path(f"{out}.journal")
    new = ("letters", "prompts", "rejected")
    old = [{k: v for k, v in line.items() if k not in new} for line in lines(journal)]
    journal.write_text("".join(json.dumps(line) + "\n" for line in old))
    asked = len(server.bodies)
    out.unlink()
    assert run(*argv)[0] == 0 and len(load_rows(out)) == 3 and len(server.bodies) == asked
    assert read_verdicts([old[1]])["star-0"] == Verdict(**old[1])


@pytest.mark.parametrize(
    "change, flags",
    [
        ({"problem": "What did the man do?"}, ()),
        ({"options": ["A. hid it", "B. washed it", "C. took it"]}, ()),
        ({"duration": 5.0}, ()),
        ({"segments": [Segment(0.0, 4.0, "a hand washes a cup")]}, ()),
        ({}, ("--reader-extra", '{"top_p": 0.5}')),
        ({}, ("--extra", '{"top_p": 0.5}')),
        ({}, ("--max-tokens", "99")),
        ({}, ("--reader-max-tokens", "99")),
        ({}, ("--tries", "2")),
        ({}, ("--temperature", "0.1")),
        ({}, ("--sampled", "2fps,2")),
    ],
)
def test_a_journal_is_of_all_that_a_verdict_depends_on(
    folder: Path, run: Any, server: Server, change: dict[str, Any], flags: tuple[str, ...]
) -> None:
    server.reply = lambda system, user: f"<answer>{letter_of(user, 'took it')}</answer>"
    rows = load_rows(folder / "traced.jsonl")
    data, out = folder / "rows.jsonl", folder / "out.jsonl"
    write_rows(data, rows)
    argv = ["curate", "--data", data, "--out", out, *both(server), "--sampled", "2fps"]
    assert run(*argv)[0] == 0
    rows[0] = replace(rows[0], **change)
    write_rows(data, rows)
    asked = len(server.bodies)
    code, text = run(*argv, *flags)
    assert code == 2 and len(server.bodies) == asked
    one_line(text, "curate", "belongs to another run", "remove it")
    assert run(*argv, *flags, "--dry-run")[0] == 2  # which says the same


# Controls and filters


def test_controls_tell_a_reader_that_knows_the_answer(
    folder: Path, run: Any, server: Server
) -> None:
    server.reply = lambda system, user: (
        "<answer>took it</answer>"
        if "- took it" in user
        else f"<answer>{letter_of(user, 'took it')}</answer>"
    )
    out = folder / "out.jsonl"
    argv = [
        "curate",
        "--data",
        folder / "traced.jsonl",
        "--out",
        out,
        "--check-only",
        *both(server),
    ]
    code, text = run(*argv, "--controls", 2)
    assert code == 0 and "| without a trace | 1.000 |" in text and "2 samples" in text, text
    controls = read_json(f"{out}.report.json")["controls"]
    assert list(controls["rates"]) == ["own", "rotated", "masked", "words", "shuffled", "blind"]
    assert controls["contribution"]["mean"] == 0.0 and controls["chance"] == pytest.approx(1 / 3)
    events = read_history(f"{out}.history.jsonl")
    [controlled] = [event for event in events if event["event"] == "controlled"]
    assert controlled["rates"]["blind"]["mean"] == 1.0
    asked = len(server.bodies)
    assert run(*argv, "--controls", 2)[0] == 0
    assert len(server.bodies) == asked and read_history(f"{out}.history.jsonl") == events


def records(path: Path, text: str, right: dict[str, int], n: int = 4) -> Path:
    """Records of an evaluation, as `videothinker eval --samples 4` writes them."""
    answered = [
        Record(name, name, "own", text, "A", "A", k < count, True, index=k)
        for name, count in right.items()
        for k in range(n)
    ]
    path.write_text("".join(json.dumps(vars(record)) + "\n" for record in answered))
    return path


def test_rows_of_the_right_difficulty_with_times_that_another_model_names(
    folder: Path, run: Any, server: Server
) -> None:
    server.reply = lambda system, user: f"<answer>{letter_of(user, 'took it')}</answer>"
    out = folder / "out.jsonl"
    argv = [
        "curate",
        "--data",
        folder / "traced.jsonl",
        "--out",
        out,
        "--check-only",
        *both(server),
    ]
    rates = records(folder / "own.jsonl", "", {"star-0": 4, "star-1": 1, "star-2": 2})
    code, text = run(*argv, "--pass-rates", rates)
    assert code == 0 and "filter difficulty: 1" in text, text
    assert [row.id for row in load_rows(out)] == ["star-1", "star-2"]
    assert load_rows(out)[0].provenance["pass_rate"] == [1, 4]
    assert not any("cup 0" in json.dumps(body) for body in server.bodies)  # not paid for
    Path(f"{out}.journal").unlink()
    named = records(folder / "named.jsonl", TRACE.format(caption="a cup"), {"star-0": 1})
    with named.open("a") as file:
        far = TRACE.format(caption="a cup").replace("00:00-00:04", "00:05-00:09")
        file.write(records(folder / "far.jsonl", far, {"star-1": 1}).read_text())
    code, text = run(*argv, "--agreement", named)
    assert code == 0 and "filter agreement: 2" in text, text
    [row] = load_rows(out)
    assert row.id == "star-0" and row.provenance["agreement"] == 1.0
    filtered = [e for e in read_history(f"{out}.history.jsonl") if e["event"] == "filtered"]
    assert Counter(e["filter"] for e in filtered) == {"difficulty": 1, "agreement": 2}
    code, text = run(*argv, "--pass-rates", folder / "no.jsonl")
    assert code == 2
    one_line(text, "curate", "--pass-rates", "no such file", "own.jsonl")
    other = records(folder / "other.jsonl", "", {"star-9": 1})
    code, text = run(*argv, "--pass-rates", other)
    assert code == 2
    one_line(text, "curate", "about other rows", "star-0")


# History and card


@pytest.mark.parametrize("journal_share, log_share", [(0, 0), (0.3, 1), (1, 0.5), (0.6, 0.61)])
def test_a_history_that_was_cut_is_filled_again(
    tmp_path: Path, journal_share: float, log_share: float
) -> None:
    """A kill leaves less of one file or of the other; the next run says the rest, and once."""
    written = synthesize(toy_clips(30), [], ScriptedTeacher(mistake_rate=0.6), progress=False)
    journal, log = tmp_path / "out.journal", tmp_path / "out.history.jsonl"

    def go_on() -> tuple[Any, bytes]:
        teacher, reader = ScriptedTeacher(mistake_rate=0.6), SymbolicReader()
        with History(log) as history:
            result = curate(
                written, teacher, reader, progress=False, out=journal, workers=3, history=history
            )
        return result, log.read_bytes()

    whole = go_on()
    assert go_on() == whole
    for path, share in ((journal, journal_share), (log, log_share)):
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
    assert go_on() == whole
    counts = summarise_history(read_history(log)).sources["toyworld"]
    report = whole[0][1]
    assert counts.kept == report.kept and sum(counts.accepted_after) == report.kept
    assert counts.accepted_after == report.accepted_after[: len(counts.accepted_after)]


@pytest.fixture
def made(folder: Path, run: Any, server: Server, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows that went all the way, with a key that must stay secret."""
    monkeypatch.setenv("MY_KEY", "sk-canary-7f3a")
    prices = folder / "prices.yaml"
    model = "{prompt: 1.0, completion: 2.0}"
    prices.write_text(f"date: 2026-11-29\nmodels:\n  t: {model}\n  r: {model}\n")
    server.reply = Mends(server)
    flags = [*both(server), "--api-key-env", "MY_KEY", "--prices", prices]
    rows, kept = folder / "rows.jsonl", folder / "kept.jsonl"
    synthesize = ["synthesize", "--qa", folder / "star.jsonl", "--out", rows, *flags]
    synthesize += ["--no-filter", "blind", "duplicate"]
    curate = ["curate", "--data", rows, "--out", kept, *flags, "--controls", 3]
    for _ in range(2):  # the second time everything is there already
        assert run(*synthesize)[0] == 0
        assert run(*curate)[0] == 0
        log = Path(f"{kept}.history.jsonl").read_bytes()
    assert Path(f"{kept}.history.jsonl").read_bytes() == log
    return kept


def test_one_samples_history_is_whole(made: Path) -> None:
    events = read_history(f"{made}.history.jsonl")
    own = [event for event in events if event["id"] == "star-1"]
    assert [event["event"] for event in own] == ["made", "judged", "judged", "kept"]
    assert own[0]["teacher"] == "t" and own[0]["source"] == "STAR"
    assert own[0]["prompts"][0].startswith("trace@1-")
    assert [event["letter"] for event in own[1:3]] == ["C", "A"]
    assert [event["verdict"] for event in own[1:3]] == ["rejected", "accepted"]
    paid = [event for event in events if event["event"] == "paid"]
    assert {(event["id"], event["store"].rpartition("/")[2]) for event in paid} == {
        ("t", "rows.jsonl.answers"),
        ("t", "kept.jsonl.answers"),
        ("r", "kept.jsonl.answers"),
    }
    assert paid[0]["replies"] == 3 and paid[0]["cost"] == pytest.approx(3 * 20e-6)
    assert len({json.dumps(event, sort_keys=True) for event in events}) == len(events)


def test_a_card_is_counted_and_a_folder_can_be_pushed(made: Path, run: Any) -> None:
    out = made.parent / "published"
    code, text = run("card", made, "--out", out, "--name", "my-traces")
    assert code == 0 and "3 rows" in text
    card = (out / "README.md").read_text()
    assert "| STAR | 3 | 0 | 0 | 3 | 3 | 100.0 % |" in card and "| STAR | 0 | 3 |" in card
    assert "the reader is right without a trace: 0.0 %" in card
    assert "judged in hindsight by r" in card and "(prices of 2026-11-29)" in card
    assert load_rows(out / "train/my-traces.parquet") == load_rows(made)
    files = {path.relative_to(out).as_posix() for path in data_files(out)}
    assert files == {
        "README.md",
        "images/my-traces-acceptance.svg",
        "images/my-traces-controls.svg",
        "images/my-traces-reasons.svg",
        "manifest/my-traces.json",
        "train/my-traces.jsonl",
        "train/my-traces.parquet",
    }
    assert all(name in card for name in files if name.endswith(".svg"))

    class Hub:
        made: dict[str, Any] = {}

        def repo_exists(self, repo: str, repo_type: str) -> bool:
            return False

        def create_repo(self, repo: str, repo_type: str, private: bool) -> None:
            self.made = {"type": repo_type, "private": private}

        def create_commit(self, repo: str, additions: list[Any], **_: Any) -> Any:
            self.made["files"] = {addition.path_in_repo for addition in additions}
            return type("Commit", (), {"repo_url": f"https://hub/{repo}"})

    hub = Hub()
    push_folder(out, "me/my-traces", dataset=True, api=hub)
    assert hub.made == {"type": "dataset", "private": True, "files": files}


def test_figures_are_of_the_rows_and_of_the_last_run(
    folder: Path, run: Any, server: Server
) -> None:
    """Another reader judges the same rows; what the first one said is not counted."""
    out = folder / "kept.jsonl"
    data = ["curate", "--data", folder / "traced.jsonl", "--out", out, "--check-only"]
    argv = [*data, *both(server)]
    server.reply = lambda system, user: (
        "<answer>none</answer>"
        if "cup 1" in user
        else f"<answer>{letter_of(user, 'took it')}</answer>"
    )
    other = [*argv, "--reader-model", "other"]
    dropped = []
    for command in (argv, other, argv):  # the first reader once more
        Path(f"{out}.journal").unlink(missing_ok=True)
        for _ in range(2):  # the same command adds nothing
            assert run(*command)[0] == 0
            log = Path(f"{out}.history.jsonl").read_bytes()
            dropped.append(log.count(b'"dropped"'))
    assert dropped == [1, 1, 2, 2, 3, 3]
    summary = summarise_history(read_history(f"{out}.history.jsonl"), {"star-0", "star-2"})
    assert (summary.readers, summary.attempts, summary.reasons) == ({"r": 3}, 3, {"reader": 1})


def test_rows_that_are_kept_without_a_verdict_are_told_apart(
    folder: Path, run: Any, server: Server
) -> None:
    server.reply = lambda system, user: (
        "<answer>none</answer>"
        if "cup 1" in user
        else f"<answer>{letter_of(user, 'took it')}</answer>"
    )
    out, published = folder / "kept.jsonl", folder / "published"
    assert run(*check_only(folder / "traced.jsonl", out, server), "--rejected", "keep")[0] == 0
    code, text = run("card", out, "--out", published, "--name", "all")
    assert code == 0 and "3 rows" in text
    manifest = read_json(published / "manifest/all.json")
    assert manifest["left_out"] == 0 and manifest["files"][0]["count"] == 3
    [counts] = manifest["synthesis"]["sources"].values()
    assert (counts["kept"], counts["dropped"], counts["rejected"]) == (2, 1, 1)
    assert "of the dropped, among the rows all the same: 1" in (published / "README.md").read_text()


def test_rows_that_another_teacher_wrote_anew_count_once(
    folder: Path, run: Any, server: Server
) -> None:
    rows, out = folder / "rows.jsonl", folder / "kept.jsonl"
    argv = ["synthesize", "--qa", folder / "star.jsonl", "--out", rows, *both(server)]
    argv += ["--no-filter", "blind", "duplicate"]
    server.reply = Mends(server)
    for flags in ([], ["--teacher-model", "new"], ["--no-filter", "duplicate", "blind"]):
        Path(f"{out}.journal").unlink(missing_ok=True)
        assert run(*argv, *flags)[0] == 0
        curate = ["curate", "--data", rows, "--out", out, *both(server)]
        for _ in range(2):
            assert run(*curate)[0] == 0
            log = Path(f"{out}.history.jsonl").read_bytes()
        assert run(*curate)[0] == 0 and Path(f"{out}.history.jsonl").read_bytes() == log
        summary = summarise_history(read_history(f"{out}.history.jsonl"), {"star-0"})
        assert summary.teachers == {flags[1] if flags[:1] == ["--teacher-model"] else "t": 1}
        assert (summary.total().made, summary.total().kept, summary.attempts) == (1, 1, 2)


def test_rows_that_change_sides_are_on_one_of_them(made: Path, run: Any) -> None:
    out = made.parent / "published"
    for side, other in [("train", "eval/id"), ("eval/id", "train")]:
        assert run("card", made, "--out", out, "--name", "mine", "--side", side)[0] == 0
        assert {path.name for path in (out / side).iterdir()} == {"mine.jsonl", "mine.parquet"}
        assert not list((out / other).glob("*"))


def test_rows_without_a_history_have_no_card(folder: Path, run: Any) -> None:
    code, text = run("card", folder / "traced.jsonl", "--out", folder / "published")
    assert code == 2
    one_line(text, "card", "no history there", "traced.jsonl.history.jsonl")
    assert not (folder / "published" / "README.md").exists()


def test_the_key_is_in_no_file(made: Path, run: Any) -> None:
    run("card", made, "--out", made.parent / "published")
    files = [path for path in made.parent.rglob("*") if path.is_file()]
    assert len(files) > 15
    assert not [path for path in files if b"canary" in path.read_bytes()]


# Trials


def test_a_dry_run_sends_and_writes_nothing(folder: Path, run: Any, server: Server) -> None:
    server.reply = Mends(server)
    flags = [*both(server), "--dry-run"]
    before = set(folder.iterdir())
    rows = folder / "rows.jsonl"
    synthesize = ["synthesize", "--qa", folder / "star.jsonl", "--out", rows]
    synthesize += ["--no-filter", "blind", "duplicate"]
    code, text = run(*synthesize, *flags)
    assert code == 0 and "t: 0 requests in the store, 3 to be sent, at most" in text, text
    assert "nothing was sent" in text
    curate = ["curate", "--data", folder / "traced.jsonl", "--out", folder / "kept.jsonl"]
    code, text = run(*curate, *flags)
    assert code == 0 and "0 of 3 rows are judged" in text and "r: 0 requests" in text, text
    assert set(folder.iterdir()) == before and not server.bodies
    assert run(*synthesize, *both(server))[0] == 0
    sent, there = len(server.bodies), {p: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    code, text = run(*synthesize, *flags)
    assert code == 0 and "t: 3 requests in the store, 0 to be sent" in text, text
    assert len(server.bodies) == sent
    assert {p: p.read_bytes() for p in folder.iterdir() if p.is_file()} == there
    code, text = run(*synthesize, "--toy", "--dry-run")
    assert code == 2
    one_line(text, "synthesize", "--dry-run")


def test_a_dry_run_says_what_the_controls_would_ask(folder: Path, run: Any, server: Server) -> None:
    server.reply = lambda system, user: f"<answer>{letter_of(user, 'took it')}</answer>"
    out = folder / "kept.jsonl"
    argv = check_only(folder / "traced.jsonl", out, server)
    controls = ["--controls", 2]
    code, text = run(*argv, *controls, "--dry-run")
    assert code == 0 and "0 of 3 rows are judged" in text and "9 to be sent" in text, text
    assert not server.bodies
    assert run(*argv)[0] == 0
    code, text = run(*argv, *controls, "--dry-run")
    assert code == 0 and "3 of 3 rows are judged" in text and "all answers" not in text, text
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    forecast = int(re.search(r"(\d+) to be sent", text)[1])  # type: ignore[index]
    asked = len(server.bodies)
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert run(*argv, *controls)[0] == 0 and len(server.bodies) == asked + forecast
    assert "all answers are in the store" in run(*argv, *controls, "--dry-run")[1]


def test_a_dry_run_refuses_the_journal_of_another_run(
    folder: Path, run: Any, server: Server
) -> None:
    server.reply = lambda system, user: f"<answer>{letter_of(user, 'took it')}</answer>"
    out = folder / "kept.jsonl"
    argv = check_only(folder / "traced.jsonl", out, server)
    assert run(*argv)[0] == 0
    asked = len(server.bodies)
    other = [*argv, "--reader-model", "other"]
    real, dry = run(*other), run(*other, "--dry-run")
    assert dry == real and real[0] == 2 and len(server.bodies) == asked
    one_line(dry[1], "curate", f"{out}.journal: belongs to another run")
    assert run(*other, "--dry-run", "--preview", 1)[0] == 0  # a preview has a journal of its own


def test_a_preview_is_a_page_and_its_answers_are_not_paid_again(
    folder: Path, run: Any, server: Server
) -> None:
    server.reply = Mends(server)
    rows, kept = folder / "rows.jsonl", folder / "kept.jsonl"
    synthesize = ["synthesize", "--qa", folder / "star.jsonl", "--out", rows, *both(server)]
    synthesize += ["--no-filter", "blind", "duplicate"]
    code, text = run(*synthesize, "--preview", 2)
    assert code == 0 and f"{rows}.preview.html" in text and "2 rows" in text, text
    page = Path(f"{rows}.preview.html").read_text()
    assert "the cup 1?" in page and "the cup 2?" not in page
    assert not rows.exists() and len(server.bodies) == 2
    assert run(*synthesize)[0] == 0 and len(server.bodies) == 3
    curate = ["curate", "--data", rows, "--out", kept, *both(server)]
    code, text = run(*curate, "--preview", 1)
    assert code == 0 and "1 of 1 kept" in text and f"{kept}.preview.html" in text, text
    page = Path(f"{kept}.preview.html").read_text()
    assert "under water" in page and "lead to C, not A" in page
    assert not kept.exists() and not Path(f"{kept}.journal").exists()
    asked = len(server.bodies)
    assert run(*curate)[0] == 0 and len(load_rows(kept)) == 3
    assert len(server.bodies) == asked + 2 * 3  # two rows: reader, teacher, reader


def test_rows_come_as_parquet_if_the_name_says_so(folder: Path, run: Any, server: Server) -> None:
    server.reply = lambda system, user: f"<answer>{letter_of(user, 'took it')}</answer>"
    out = folder / "out.parquet"
    argv = [
        "curate",
        "--data",
        folder / "traced.jsonl",
        "--out",
        out,
        "--check-only",
        *both(server),
    ]
    assert run(*argv)[0] == 0 and out.read_bytes()[:4] == b"PAR1"
    assert [row.id for row in load_rows(out)] == ["star-0", "star-1", "star-2"]
    assert all(whole_trace(row) for row in load_rows(out))


def test_the_trial_of_hindsight_prints_its_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a model the reader is the symbolic one, which is never wrong."""
    script = load_script("hindsight_toy")
    argv = ["hindsight_toy.py", str(tmp_path), "--traces", "40", "--controls", "4"]
    monkeypatch.setattr("sys.argv", argv)
    assert script.main() == 0
    assert "| none | 4 | 0 | 0 |" in capsys.readouterr().out
    found = json.loads((tmp_path / "symbolic.json").read_text("utf-8"))
    assert sum(kind["n"] for kind in found["kinds"]) == 44
    assert found["controls"]["rates"]["own"]["mean"] == 1


def test_a_reader_that_cannot_be_asked_detects_nothing() -> None:
    """A reply that was cut off says that nothing followed; a server that is away says nothing."""
    script = load_script("hindsight_toy")
    trials = script.make_trials(4, 0)

    def judged(reason: str) -> list[str]:
        def refuse(engine: FunctionEngine, request: Request) -> str:
            return reason

        class Engine(FunctionEngine):
            reason = refuse

        return list(script.judge_all(trials, EngineReader(Engine(lambda _: None)), 1))

    for reason in ("cut off after 64 tokens", "small context: cut off after 9 tokens", "empty"):
        assert any("reader: no answer from the engine" in verdict for verdict in judged(reason))
    for reason in ("ConnectionError: no connection", "HTTP 401: wrong key", ""):
        with pytest.raises(ReaderError, match=reason or "no answer"):
            judged(reason)
