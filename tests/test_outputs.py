"""Output that cannot be written: every command says so in one line, before it computes or pays."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_synthesis import (
    Server,
    folder,
    good_trace,
    one_line,
    run,
    server,
    star_rows,
)

from videothinker.commands import models
from videothinker.schema import write_rows

assert folder and run and server  # fixtures of the commands that ask servers

COMMANDS = {
    "answer": ["answer", "--video", "v.mp4", "--question", "?", "--out", "OUT"],
    "curate": ["curate", "--data", "traced.jsonl", "--check-only", "--out", "OUT"],
    "demo": ["demo", "--out", "OUT"],
    "eval": ["eval", "--model", "m", "--data", "star.jsonl", "--videos", ".", "--out", "OUT"],
    "prepare": ["prepare", "STAR", "--annotations", "star.jsonl", "--out", "OUT"],
    "mix": ["prepare", "video-thinker-10k", "--out", "OUT"],
    "sft": ["sft", "--recipe", "tiny/sft", "--data", "star.jsonl", "--videos", ".", "--out", "OUT"],
    "synthesize": ["synthesize", "--qa", "star.jsonl", "--out", "OUT"],
    "synthesize --cache": ["synthesize", "--qa", "star.jsonl", "--out", "rows", "--cache", "OUT"],
    "toyworld": ["toyworld", "--out", "OUT"],
    "validate": ["validate", "--eval", "star.jsonl", "--json", "OUT"],
    "view": ["view", "star.jsonl", "--out", "OUT"],
}
FOLDERS = {"demo", "eval", "prepare", "mix", "sft", "toyworld"}  # whose output is a folder


def refuse_work(*args: Any, **options: Any) -> None:
    raise AssertionError("the work began before the output was looked at")


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever takes long in a command fails the test."""
    for name in (
        "videothinker.data.prepare.prepare",
        "videothinker.data.mix.make_mix",
        "videothinker.data.rowfiles.load_rows",
        "videothinker.data.validate.validate",
        "videothinker.toy.demo.run_demo",
        "videothinker.toy.world.make_world",
        "videothinker.training.recipes.run_job",
        "videothinker.video.reader.probe",
    ):
        monkeypatch.setattr(name, refuse_work)


def argv_of(name: str, folder: Path, out: Path, url: str) -> list[str]:
    argv = [str(out) if word == "OUT" else word for word in COMMANDS[name]]
    argv = [str(folder / word) if word.endswith(".jsonl") else word for word in argv]
    role = {"curate": "reader", "synthesize": "teacher"}.get(argv[0])
    return argv + ([f"--{role}-url", url, f"--{role}-model", "m"] if role else [])


@pytest.mark.parametrize("name", COMMANDS)
def test_unwritable_output_is_refused_first(
    name: str, folder: Path, run: Any, server: Server, idle: None
) -> None:
    (folder / "file").write_text("")
    places = [folder / "file" / "deep" / "out"]  # below a file
    places += [folder / "file"] if name in FOLDERS else [folder]  # a file, or a folder, itself
    for out in places:
        before = sorted(folder.rglob("*"))
        code, text = run(*argv_of(name, folder, out, server.url))
        assert code == 2
        one_line(text, COMMANDS[name][0], str(out), "folder")
        assert sorted(folder.rglob("*")) == before and not server.bodies


@pytest.mark.parametrize("problem", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_what_the_disk_refuses_is_said_first(
    problem: int, folder: Path, run: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(problem, os.strerror(problem))

    monkeypatch.setattr("os.fsync", refuse)
    code, text = run(*argv_of("synthesize", folder, folder / "out.jsonl", server.url))
    assert code == 2 and not server.bodies
    one_line(text, "synthesize", "--out", os.strerror(problem))


def test_a_full_disk_in_the_middle_ends_the_sending(
    folder: Path, run: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from videothinker.journal import Journal, read_journal

    write_rows(folder / "many.jsonl", star_rows(40))
    append: Callable[..., None] = Journal.append

    def fill(journal: Journal, *entries: Any, **options: Any) -> None:
        if len(journal.entries) >= 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(journal, *entries, **options)

    monkeypatch.setattr(Journal, "append", fill)
    server.reply = good_trace
    out = folder / "out.jsonl"
    argv = ["synthesize", "--qa", folder / "many.jsonl", "--out", out, "--concurrency", 2]
    argv += ["--teacher-url", server.url, "--teacher-model", "m"]
    code, text = run(*argv)
    written = len(read_journal(f"{out}.answers"))  # several may be written together
    assert code == 2 and 5 <= written <= 8 and len(server.bodies) <= written + 4
    one_line(text, "synthesize", "out.jsonl.answers cannot be written", "No space left")
    monkeypatch.undo()
    asked = len(server.bodies)
    assert run(*argv)[0] == 0
    assert len(server.bodies) == asked + 40 - written  # what was written is not asked again


def test_an_answer_is_printed_even_when_its_page_cannot_be_saved(
    tmp_path: Path, run: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Any, data: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    trace = "<time>00:01-00:02</time> a ring <answer>A</answer>"
    monkeypatch.setattr("videothinker.video.reader.probe", lambda *_: None)
    monkeypatch.setattr("videothinker.model.loading.load_model", lambda *_, **__: (None, None))
    settings = SimpleNamespace(sampling=None, style="paper")
    monkeypatch.setattr("videothinker.model.loading.Settings.of", lambda *_: settings)
    monkeypatch.setattr("videothinker.model.encoder.Encoder", lambda *_: None)
    view = SimpleNamespace(predictions=[SimpleNamespace(trace_text=trace)])
    monkeypatch.setattr(models, "answer_view", lambda *_: view)
    monkeypatch.setattr("videothinker.viewer.page.check_playable", lambda _: "video/mp4")
    monkeypatch.setattr("videothinker.viewer.viewer.view_html", lambda view, path: "page")
    monkeypatch.setattr("videothinker.files.atomic_write", refuse)
    out = tmp_path / "page.html"
    with pytest.raises(SystemExit) as stop:
        models_main(["answer", "--video", "v.mp4", "--question", "?", "--out", str(out)])
    said, error = capsys.readouterr()
    assert stop.value.code == 2 and trace in said and "could not be written" in error


def models_main(argv: list[str]) -> None:
    from videothinker.commands.main import main

    main(argv)


def test_failures_are_kept_as_rows(folder: Path, run: Any, server: Server) -> None:
    server.reply = lambda system, user: 400 if "cup 1" in user else good_trace(system, user)
    code, _ = run(*argv_of("synthesize", folder, folder / "out.jsonl", server.url))
    [failed] = [json.loads(x) for x in (folder / "out.jsonl.failed.jsonl").read_text().splitlines()]
    assert code == 3 and failed["id"] == "star-1"


@pytest.mark.parametrize("n_failed", [0, 1])
def test_a_preview_leaves_the_failures_of_the_real_run(
    n_failed: int, folder: Path, run: Any, server: Server
) -> None:
    server.reply = lambda system, user: (
        400 if n_failed and "cup 1" in user else good_trace(system, user)
    )
    failures = folder / "out.jsonl.failed.jsonl"
    failures.write_text("of the real run\n")
    argv = argv_of("synthesize", folder, folder / "out.jsonl", server.url)
    code, text = run(*argv, "--preview", 2)
    assert failures.read_text() == "of the real run\n"
    assert code == (3 if n_failed else 0) and str(failures) not in text
    assert ("1 of 2 failed" in text) == bool(n_failed)
