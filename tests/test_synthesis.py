"""`synthesize` and `curate`: no toy word enters a real row, and what failed is on record."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from videothinker.commands.main import main
from videothinker.evaluation.evidence_controls import mask_letters
from videothinker.schema import Clip, Sample, Segment, write_captions, write_rows
from videothinker.synthesis.engine import Answer, FunctionEngine, Request, chat
from videothinker.synthesis.filters import BlindReader, QuestionFilter, options_reason, scripts_of
from videothinker.synthesis.hindsight_curation import curate
from videothinker.synthesis.openai_engine import OpenAIEngine
from videothinker.synthesis.stored_engine import BatchEngine
from videothinker.synthesis.synthesize import TeacherError, synthesize
from videothinker.synthesis.teacher import Asker, EngineTeacher, read_question, read_trace
from videothinker.toy.teacher import ScriptedTeacher, SymbolicReader, ToyError
from videothinker.toy.world import draw_scene, encode_scene
from videothinker.trace import leak

TRACE = (
    "<time>00:00-00:04</time> <caption>{caption}</caption> <think>that is it</think> so it is A "
    "<answer>A</answer>"
)


def star_rows(n: int = 3, source: str = "STAR") -> list[Sample]:
    """Rows as `prepare STAR` makes them, with captions, so that only a trace is missing."""
    return [
        Sample(
            problem=f"What did the person do with the cup {i}?",
            options=["A. took it", "B. washed it", "C. dropped it"],
            solution="<answer>A</answer>",
            path=f"{i}.mp4",
            data_source=source,
            id=f"star-{i}",
            video_id=f"v{i}",
            duration=9.0,
            segments=[Segment(0.0, 4.0, f"a hand reaches for cup {i}")],
        )
        for i in range(n)
    ]


def toy_clips(n: int) -> list[Clip]:
    """Captioned clips of the toy world; no video is needed."""
    scenes = [draw_scene(f"train-{i:04d}", 0) for i in range(n)]
    return [Clip(s.id, f"{s.id}.mp4", float(s.duration), "train", s.segments) for s in scenes]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run a command in this process: its exit code, and what it printed (stderr if it failed)."""

    def call(*argv: object) -> tuple[int, str]:
        capsys.readouterr()
        try:
            main([str(a) for a in argv])
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, err if code in (1, 2) else out

    return call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_rows(tmp_path / "star.jsonl", star_rows())
    traced = [
        Sample(**{**vars(row), "process": TRACE.format(caption="a hand").rpartition(" ")[0]})
        for row in star_rows()
    ]
    write_rows(tmp_path / "traced.jsonl", traced)
    write_captions(tmp_path / "toy.jsonl", toy_clips(4))
    return tmp_path


def one_line(text: str, command: str, *words: str) -> None:
    lines = [line for line in text.splitlines() if line.startswith("videothinker ")]
    assert len(lines) == 1 and lines[0].startswith(f"videothinker {command}: "), text
    assert "Traceback" not in text and all(word in lines[0] for word in words), text


# The toy stays out


def test_synthesize_refuses_without_a_teacher(folder: Path, run: Any) -> None:
    before = set(folder.iterdir())
    code, text = run("synthesize", "--qa", folder / "star.jsonl", "--out", folder / "out.jsonl")
    assert code == 2
    one_line(text, "synthesize", "--teacher-url", "--teacher-model", "--toy")
    assert set(folder.iterdir()) == before


def test_a_model_that_is_not_named_is_asked_for_without_the_keys_of_its_address(
    folder: Path, run: Any
) -> None:
    argv = ["synthesize", "--qa", folder / "star.jsonl", "--out", folder / "out.jsonl"]
    code, text = run(*argv, "--teacher-url", "https://me:hunter2@a.b/v1?key=canary")
    assert code == 2 and "hunter2" not in text and "canary" not in text
    one_line(text, "synthesize", "https://a.b/v1", "give --teacher-model")


@pytest.mark.parametrize(
    "flags, words",
    [
        ([], ("--reader-url", "--reader-model", "--teacher-url", "--check-only", "--toy")),
        (["--check-only"], ("--reader-url", "--reader-model", "--toy")),
        (["--reader-url", "http://localhost:1/v1"], ("--teacher-url", "--check-only")),
        (["--teacher-url", "http://localhost:1/v1"], ("--reader-url",)),
    ],
)
def test_curate_refuses_without_its_servers(
    folder: Path, run: Any, flags: list[str], words: tuple[str, ...]
) -> None:
    before = set(folder.iterdir())
    data = ["--data", folder / "traced.jsonl", "--out", folder / "out.jsonl"]
    code, text = run("curate", *data, *flags)
    assert code == 2
    one_line(text, "curate", *words)
    assert set(folder.iterdir()) == before


@pytest.mark.parametrize("argv", [["synthesize", "--qa"], ["curate", "--data"]])
@pytest.mark.parametrize("name", ["star.jsonl", "traced.jsonl"])
def test_the_toy_teacher_refuses_rows_of_another_source(
    folder: Path, run: Any, argv: list[str], name: str
) -> None:
    before = set(folder.iterdir())
    code, text = run(*argv, folder / name, "--out", folder / "out.jsonl", "--toy")
    assert code == 2
    one_line(text, argv[0], "star-0", "'STAR'", "--teacher-url")
    assert set(folder.iterdir()) == before


def test_the_toy_teacher_refuses_what_it_does_not_understand(folder: Path, run: Any) -> None:
    write_rows(folder / "unnamed.jsonl", star_rows(source=""))
    write_captions(
        folder / "real.jsonl", [Clip("v", "v.mp4", 9.0, "", [Segment(0, 4, "he cooks")])]
    )
    out = folder / "out.jsonl"
    for argv in (
        ["synthesize", "--qa", folder / "unnamed.jsonl"],
        ["synthesize", "--captions", folder / "real.jsonl"],
        ["curate", "--data", folder / "unnamed.jsonl"],
    ):
        code, text = run(*argv, "--out", out, "--toy")
        assert code == 2
        one_line(text, argv[0], "toy world")
    assert not list(folder.glob("out*"))


@pytest.mark.parametrize(
    "argv",
    [
        ["synthesize", "--qa", "star.jsonl", "--mistake-rate", "0"],
        ["synthesize", "--qa", "star.jsonl", "--check-share", "1"],
        ["synthesize", "--qa", "star.jsonl", "--truth", "toy.jsonl"],
        ["curate", "--data", "traced.jsonl", "--mistake-rate", "0"],
        ["curate", "--data", "traced.jsonl", "--seed", "1"],
    ],
)
def test_flags_of_the_toy_world_need_the_toy_world(folder: Path, run: Any, argv: list[str]) -> None:
    argv = [str(folder / a) if a.endswith(".jsonl") else a for a in argv]
    servers = ["--teacher-url", "http://localhost:1/v1", "--teacher-model", "m"]
    code, text = run(*argv, "--out", folder / "out.jsonl", *servers)
    assert code == 2
    one_line(text, argv[0], argv[3], "--toy")
    code, text = run(*argv, "--out", folder / "out.jsonl", *servers, "--toy")
    assert code == 2
    one_line(text, argv[0], "--teacher-url", "--toy")


@pytest.mark.parametrize(
    "flag", [["--prompts", "mine"], ["--prices", "prices.yaml"], ["--budget-tokens", "9"]]
)
def test_flags_of_servers_are_refused_in_the_toy_world(
    folder: Path, run: Any, flag: list[str]
) -> None:
    out = folder / "out.jsonl"
    for argv in (["synthesize", "--qa", "toy.jsonl"], ["curate", "--data", "traced.jsonl"]):
        code, text = run(*argv[:2], folder / argv[2], "--out", out, *flag, "--toy")
        assert code == 2 and not out.exists()
        one_line(text, argv[0], flag[0], "--toy")


def test_captions_without_any_are_named(folder: Path, run: Any) -> None:
    (folder / "none.jsonl").write_text("")
    argv = ["synthesize", "--captions", folder / "none.jsonl", "--out", folder / "out.jsonl"]
    code, text = run(*argv, "--toy")
    assert code == 2
    one_line(text, "synthesize", "none.jsonl holds no captions")


def test_in_python_too_no_toy_word_enters_a_real_row() -> None:
    teacher, reader = ScriptedTeacher(mistake_rate=1), SymbolicReader()
    for row in [*star_rows(1), *star_rows(1, source="")]:
        for task in (teacher.trace, teacher.mistake):
            with pytest.raises(ToyError):
                task(row, 0)
        with pytest.raises(ToyError):
            teacher.captions(row, Clip("v0"))
        with pytest.raises(ToyError):
            reader.answer(row.problem, row.options, row.segments)
        with pytest.raises(ToyError):
            curate([row], teacher, reader, progress=False)
        with pytest.raises(ToyError):
            synthesize([], [row], teacher, failed=[], progress=False)
    for clip in (Clip("v", data_source="STAR"), Clip("v", segments=[Segment(0, 4, "he cooks")])):
        with pytest.raises(ToyError):
            teacher.question(clip, 0)


def test_the_toy_world_with_toy(folder: Path, run: Any) -> None:
    rows, out = folder / "rows.jsonl", folder / "out.jsonl"
    code, text = run("synthesize", "--captions", folder / "toy.jsonl", "--out", rows, "--toy")
    assert (code, text) == (0, f"4 rows in {rows}\n")
    code, text = run("curate", "--data", rows, "--out", out, "--toy", "--seed", 0)
    assert code == 0 and "of 4 kept" in text and out.exists()
    assert {json.loads(line)["data_source"] for line in out.read_text().splitlines()} == {
        "toyworld"
    }
    assert not list(folder.glob("*.failed.jsonl"))


# What fails is on record


class Server(ThreadingHTTPServer):
    """A chat server: `reply(system, user)` gives a text, or an HTTP status for a failure."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply: Callable[[str, str], str | int] = lambda system, user: "?"
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        self.server.keys.add(self.headers["Authorization"])
        system, user = (message["content"] for message in body["messages"][:2])
        text = self.server.reply(system, user)
        status = text if isinstance(text, int) else 200
        message = {"role": "assistant", "content": text}
        answer: dict[str, Any] = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        }
        if status != 200:
            answer = {"error": {"message": f"cannot do {str(user).partition(chr(10))[0]}"}}
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)  # a server of one's own needs none
    with Server() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def good_trace(system: str, user: str) -> str:
    return TRACE.format(caption="a hand reaches for it")


def failing(*names: str) -> Callable[[str, str], str | int]:
    return lambda system, user: (
        400 if any(name in user for name in names) else good_trace(system, user)
    )


def test_partial_failure_of_synthesize(folder: Path, run: Any, server: Server) -> None:
    out, failures = folder / "out.jsonl", folder / "out.jsonl.failed.jsonl"
    write_rows(folder / "many.jsonl", star_rows(12))
    argv = ["synthesize", "--qa", folder / "many.jsonl", "--out", out, "--teacher-url", server.url]
    argv += ["--teacher-model", "m", "--tries", "1"]
    server.reply = failing("cup 1", "cup 5", "cup 7")
    code, text = run(*argv)
    assert code == 3 and text.splitlines()[:1] == [f"7 rows in {out}"], text
    failed = [json.loads(line) for line in failures.read_text().splitlines()]
    assert [f["id"] for f in failed] == [f"star-{i}" for i in (1, 5, 7, 10, 11)]
    assert all(f["row"] == {**f["row"], "id": f["id"], "data_source": "STAR"} for f in failed)
    assert all("HTTP 400" in f["reason"] for f in failed)
    assert len(text.splitlines()) == 5 and "5 of 12 failed" in text and str(failures) in text
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == [
        f"star-{i}" for i in (0, 2, 3, 4, 6, 8, 9)
    ]
    asked = len(server.bodies)
    server.reply = good_trace
    code, text = run(*argv)  # the same command goes on
    assert (code, text) == (0, f"12 rows in {out}\n") and not failures.exists()
    assert len(server.bodies) == asked + 5  # what was answered is not asked again
    assert server.keys == {"Bearer none"}


def test_reasons_are_those_of_the_own_request(folder: Path, server: Server) -> None:
    server.reply = lambda system, user: 400
    with OpenAIEngine(server.url, "m", api_key_env=None) as engine:
        teacher = EngineTeacher(engine, tries=1)
        failed: list[Any] = []
        assert not synthesize([], star_rows(9), teacher, workers=8, failed=failed, progress=False)
        own = [f"cannot do Question: {f.source.problem}" in f.reason for f in failed]
        assert own == [True] * 9
        assert engine.reason(Request(chat("s", "never asked"))) == ""


def test_nothing_made_overwrites_nothing(folder: Path, run: Any, server: Server) -> None:
    out = folder / "out.jsonl"
    out.write_text("of an earlier run\n")
    argv = ["--out", out, "--teacher-url", server.url, "--teacher-model", "m", "--tries", "1"]
    server.reply = lambda system, user: 400
    code, text = run("synthesize", "--qa", folder / "star.jsonl", *argv)
    assert code == 2
    one_line(text, "synthesize", "not one row could be made", "is not written", "HTTP 400")
    assert len((folder / "out.jsonl.failed.jsonl").read_text().splitlines()) == 3
    argv += ["--reader-url", server.url, "--reader-model", "r", "--request-retries", "0"]
    code, text = run("curate", "--data", folder / "traced.jsonl", *argv)
    assert code == 2
    one_line(text, "curate", "nothing could be judged", "is not written", "HTTP 400")
    server.reply = lambda system, user: "I cannot say. <answer>none</answer>"
    code, text = run("curate", "--data", folder / "traced.jsonl", *argv, "--check-only")
    assert code == 2
    one_line(text, "curate", "not one of 3 rows is kept", "is not written", "star-0")
    assert out.read_text() == "of an earlier run\n"


def test_questions_of_two_sources_with_one_id_are_refused(
    folder: Path, run: Any, server: Server
) -> None:
    """One of them would be lost, and nothing would say so."""
    rows = star_rows(2)
    write_rows(folder / "star.jsonl", [*rows, replace(rows[1], data_source="NExT-QA")])
    argv = ["synthesize", "--qa", folder / "star.jsonl", *teacher_flags(server, folder)]
    code, text = run(*argv)
    assert code == 2 and not server.bodies and not (folder / "out.jsonl").exists()
    one_line(text, "synthesize", "'star-1'", "STAR/v1 and NExT-QA/v1", "an id of its own")
    write_rows(folder / "star.jsonl", [*rows, rows[1]])  # the same row twice is one row
    server.reply = good_trace
    assert run(*argv) == (0, f"2 rows in {folder / 'out.jsonl'}\n")


def test_partial_failure_of_curate(folder: Path, run: Any, server: Server) -> None:
    out, failures = folder / "out.jsonl", folder / "out.jsonl.failed.jsonl"
    argv = ["curate", "--data", folder / "traced.jsonl", "--out", out, "--check-only"]
    argv += ["--reader-url", server.url, "--reader-model", "r", "--rotations", "2"]
    server.reply = lambda system, user: 400 if "cup 1" in user else _first_taken(user)
    code, text = run(*argv)
    assert code == 3 and "1 unfinished" in text and "1 of 3 failed" in text, text
    [failed] = [json.loads(line) for line in failures.read_text().splitlines()]
    assert (
        failed["id"] == "star-1" and "HTTP 400" in failed["reason"] and "process" in failed["row"]
    )
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == ["star-0", "star-2"]
    asked = len(server.bodies)
    server.reply = lambda system, user: _first_taken(user)
    code, text = run(*argv)
    assert code == 0 and not failures.exists() and len(out.read_text().splitlines()) == 3
    assert len(server.bodies) == asked + 2  # one row, in two rotations


@pytest.mark.parametrize(
    "caption, masked",
    [
        ("The right one is B, because he runs", "The right one is …, because he runs"),
        ("option b is shown", "… is shown"),
        ("B - the man runs", "… - the man runs"),
        ("He picks B; then he leaves", "He picks …; then he leaves"),
        ('The sign shows "B"', 'The sign shows "…"'),
        ("A, as he picks A and leaves", "…, as he picks … and leaves"),
        ("A man in a T-shirt, in Washington, D.C.", "A man in a T-shirt, in Washington, D.C."),
    ],
)
def test_no_letter_that_leaks_is_left_in_a_masked_caption(caption: str, masked: str) -> None:
    assert mask_letters(caption, "ABCD") == masked and not leak(masked)


def _first_taken(user: str) -> str:
    letter = next(line[0] for line in user.splitlines() if line.endswith(". took it"))
    return f"<answer>{letter}</answer>"


# Servers


def test_every_flag_reaches_its_server(
    folder: Path, run: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-mine")
    out = folder / "out.jsonl"
    argv = ["--out", out, "--teacher-url", server.url, "--teacher-model", "m", "--temperature", 0.1]
    argv += ["--max-tokens", 99, "--api-key-env", "MY_KEY", "--tries", 2, "--concurrency", 1]
    argv += ["--timeout", 30, "--request-retries", 0, "--workers", 1]
    argv += ["--patience", 60, "--extra", '{"top_p": 0.5}']
    server.reply = lambda system, user: 503
    code, text = run("synthesize", "--qa", folder / "star.jsonl", *argv)
    assert code == 2 and "HTTP 503" in text
    assert len(server.bodies) == 3  # three rows, no retries; another seed is no help
    server.reply = lambda system, user: good_trace(system, user).replace("<think>", "")
    code, text = run("synthesize", "--qa", folder / "star.jsonl", *argv)
    assert code == 2 and "in 2 tries" in text and "reasoning parser" in text
    assert len(server.bodies) == 3 + 6
    sent = {(b["temperature"], b["max_tokens"], b["top_p"]) for b in server.bodies}
    assert sent == {(0.1, 99, 0.5)}
    assert server.keys == {"Bearer sk-mine"}
    server.reply = good_trace
    argv += ["--budget-tokens", 1]
    code, text = run("synthesize", "--qa", folder / "star.jsonl", *argv)
    assert code == 2 and "the budget of 1 tokens" in text


def test_a_key_that_was_named_must_be_set(folder: Path, run: Any, server: Server) -> None:
    argv = ["synthesize", "--qa", folder / "star.jsonl", "--out", folder / "out.jsonl"]
    argv += ["--teacher-model", "m", "--tries", "1", "--teacher-url"]
    for key in ("OPENAI_API_KEY", "NO_SUCH_KEY"):
        code, text = run(*argv, server.url, "--api-key-env", key)
        assert code == 2
        one_line(text, "synthesize", f"{key} is not set")
    code, text = run(*argv, "https://api.openai.com/v1")
    assert code == 2
    one_line(text, "synthesize", "OPENAI_API_KEY is not set", "api.openai.com")
    server.reply = good_trace
    assert run(*argv, server.url, "--api-key-env", "")[0] == 0
    assert server.keys == {"Bearer none"}


def test_images_that_a_server_refuses_name_their_flag(
    folder: Path, run: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def images(path: Path, segment: Segment, n: int) -> list[str]:
        return ["data:image/jpeg;base64,AA=="] * n

    def reply(system: str, user: Any) -> str | int:
        if isinstance(user, str):
            return good_trace(system, user)
        return "a hand reaches for it" if len(user) <= 3 else 400

    rows = star_rows(150)
    for row in rows:
        row.segments = [Segment(0.0, 4.0)]
    write_rows(folder / "uncaptioned.jsonl", rows)
    monkeypatch.setattr("videothinker.synthesis.teacher.segment_images", images)
    server.reply = reply
    argv = ["synthesize", "--qa", folder / "uncaptioned.jsonl", "--videos", folder]
    argv += ["--out", folder / "out.jsonl", "--teacher-url", server.url, "--teacher-model", "m"]
    code, text = run(*argv)
    assert code == 2 and len(server.bodies) < 150  # all are refused: it ends before the last
    one_line(text, "synthesize", "HTTP 400", "image_url", "--frames")
    assert run(*argv, "--frames", 2)[0] == 0


def test_replies_that_break_the_rules_are_asked_for_with_new_seeds(
    folder: Path, run: Any, server: Server
) -> None:
    out = folder / "out.jsonl"
    argv = ["synthesize", "--qa", folder / "star.jsonl", "--out", out, "--tries", 2]
    argv += ["--teacher-url", server.url, "--teacher-model", "m"]
    server.reply = lambda system, user: good_trace(system, user).replace("<think>", "")
    assert run(*argv)[0] == 2 and len(server.bodies) == 6
    server.reply = good_trace
    for _ in range(2):  # the first goes on, the second finds everything in the cache
        assert run(*argv) == (0, f"3 rows in {out}\n")
        assert sorted(body["seed"] for body in server.bodies) == [0] * 3 + [1] * 3 + [2] * 3


def test_thoughts_before_a_reply_are_left_out(folder: Path, run: Any, server: Server) -> None:
    argv = ["curate", "--data", folder / "traced.jsonl", "--out", folder / "out.jsonl"]
    argv += ["--check-only", "--reader-url", server.url, "--reader-model", "r"]
    thought = "<think>is it <answer>C</answer>? no</think>"
    server.reply = lambda system, user: f"{thought} {_first_taken(user)}"
    assert run(*argv)[0] == 0


def test_a_teacher_that_was_stopped_by_its_server_keeps_what_it_made(
    folder: Path, run: Any, server: Server
) -> None:
    """The key expires in the middle: the rows so far are written, the rest is one start away."""
    write_rows(folder / "many.jsonl", star_rows(40))
    out = folder / "out.jsonl"
    argv = ["synthesize", "--qa", folder / "many.jsonl", "--out", out, "--concurrency", 1]
    argv += ["--teacher-url", server.url, "--teacher-model", "m"]
    server.reply = lambda system, user: 401 if len(server.bodies) > 10 else good_trace(system, user)
    code, text = run(*argv)
    assert code == 3 and len(server.bodies) == 11 and "30 of 40 failed" in text
    assert "HTTP 401" in text and "--api-key-env" in text
    assert len(out.read_text().splitlines()) == 10
    server.reply = good_trace
    assert run(*argv) == (0, f"40 rows in {out}\n") and len(server.bodies) == 11 + 30


@pytest.mark.parametrize(
    "flag, value",
    [
        ("--temperature", "nan"),
        ("--request-retries", "-1"),
        ("--extra", "[1]"),
        ("--extra", "no/such/file.json"),
        ("--patience", "inf"),
        ("--frames", "0"),
        ("--teacher-url", "localhost:8000/v1"),
        ("--teacher-url", "http://[::1/v1"),
    ],
)
def test_values_that_cannot_be_are_refused(folder: Path, run: Any, flag: str, value: str) -> None:
    argv = ["synthesize", "--qa", folder / "star.jsonl", "--out", folder / "out.jsonl"]
    argv += ["--teacher-url", "http://localhost:1/v1", "--teacher-model", "m", flag, value]
    code, text = run(*argv)
    assert code == 2 and flag in text and "Traceback" not in text


def test_one_cache_serves_one_command(folder: Path, run: Any, server: Server) -> None:
    cache = folder / "shared.answers"
    argv = ["synthesize", "--qa", folder / "star.jsonl", "--out", folder / "out.jsonl"]
    argv += ["--teacher-url", server.url, "--teacher-model", "m", "--cache", cache]
    with OpenAIEngine(server.url, "m", None, cache):
        code, text = run(*argv)
    assert code == 2 and not server.bodies
    one_line(text, "synthesize", str(cache), "in use by another")


@pytest.mark.parametrize(
    "options",
    [
        ["A. cat", "B. dog", "bird", "D. fish"],
        ["cat", "dog", "bird", "D. fish"],
        ["A) cat", "B) dog", "C) bird", "fish"],
        ["(A)cat", "(B)dog", "(C)bird", "fish"],
        ["A. cat", "B. dog", "D. bird", "C. fish"],
    ],
)
def test_options_of_which_some_have_letters_are_asked_for_again(options: list[str]) -> None:
    reply = {"question": "What comes?", "answer": options[0]}
    with pytest.raises(ValueError, match="begin with a letter"):
        read_question(json.dumps({**reply, "options": options}))


def test_options_with_all_or_no_letters_are_read() -> None:
    for options in (
        ["A. cat", "B. dog", "C. bird", "D. fish"],
        ["cat", "dog", "bird", "fish"],
        ["a) cat", "b) dog", "c) bird", "d) fish"],
    ):
        reply = {"question": "What comes?", "options": options, "answer": "A"}
        assert read_question(json.dumps(reply))[1] == ["A. cat", "B. dog", "C. bird", "D. fish"]
    reply["options"] = ["J. Smith", "an A.M. walk", "A.M. news", "at 5 p.m."]
    assert read_question(json.dumps(reply))[1][2] == "C. A.M. news"


# Replies are repaired


def teacher_flags(server: Server, folder: Path, *more: object) -> list[object]:
    out = folder / "out.jsonl"
    return ["--out", out, "--teacher-url", server.url, "--teacher-model", "m", *more]


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


SLIPS = {
    TRACE.format(caption="a hand").replace("<think>", ""): "reasoning parser",
    TRACE.format(caption="a hand").rpartition(" ")[0]: "0 <answer> tags instead of one",
    "I would say A.": "no block: write <time>",
}


@pytest.mark.parametrize("slip", SLIPS, ids=range(len(SLIPS)))
def test_a_bad_reply_is_shown_with_what_is_wrong(
    folder: Path, run: Any, server: Server, slip: str
) -> None:
    server.reply = lambda system, user: (
        slip if len(server.bodies[-1]["messages"]) == 2 else good_trace(system, user)
    )
    argv = ["synthesize", "--qa", folder / "star.jsonl", "--concurrency", 1, "--workers", 1]
    code, _ = run(*argv, *teacher_flags(server, folder))
    assert code == 0 and len(server.bodies) == 6
    first, second = server.bodies[:2]
    assert second["messages"][:2] == first["messages"] and second["seed"] != first["seed"]
    assert second["messages"][2] == {"role": "assistant", "content": slip}
    assert SLIPS[slip] in second["messages"][3]["content"]
    for row in rows_of(folder / "out.jsonl"):
        names = [tag.partition("@")[0] for tag in row["provenance"]["prompts"]]
        assert names == ["trace", "repair"]


def test_a_trace_that_never_comes_right_is_left_to_curation(
    folder: Path, run: Any, server: Server
) -> None:
    server.reply = lambda system, user: "I would say A."
    argv = ["synthesize", "--qa", folder / "star.jsonl", "--tries", 2]
    code, _ = run(*argv, *teacher_flags(server, folder))
    assert code == 0 and len(server.bodies) == 6
    assert {row["process"] for row in rows_of(folder / "out.jsonl")} == {"I would say A."}
    out = folder / "kept.jsonl"
    argv = ["curate", "--data", folder / "out.jsonl", "--out", out, "--check-only"]
    code, text = run(*argv, "--reader-url", server.url, "--reader-model", "r")
    assert code == 2
    one_line(text, "curate", "not one of 3 rows is kept", "format: no block")


class Model:
    """A backend that counts what it is paid for; a reply of None is one without a text."""

    model = "m"

    def __init__(self, reply: Callable[[Request], str | None]) -> None:
        self.reply = reply
        self.asked: list[int | None] = []

    def answer(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        for place, request in enumerate(requests):
            self.asked.append(request.seed)
            text = self.reply(request)
            yield place, Answer("", text, "" if text else "refused: no reason", 1, 1)

    def close(self) -> None:
        pass


def ask_model(
    cache: Path, reply: Callable[[Request], str | None], tries: int = 3, ask_again: bool = False
) -> tuple[str, list[int | None]]:
    """A trace from a teacher that is started once more, and the seeds that were paid for."""
    model = Model(reply)
    with BatchEngine(model, cache, gather=0, ask_again=ask_again) as engine:
        return Asker(engine, tries=tries).ask(chat("s", "u"), read_trace, "trace"), model.asked


def test_a_finished_run_pays_nothing_again_and_keeps_its_rows(
    folder: Path, run: Any, server: Server
) -> None:
    server.reply = lambda system, user: f"I would say A, and that is {len(server.bodies)}."
    argv = ["synthesize", "--qa", folder / "star.jsonl", *teacher_flags(server, folder)]
    assert run(*argv)[0] == 0 and len(server.bodies) == 9
    rows = (folder / "out.jsonl").read_bytes()
    for again in ([], ["--ask-again"], ["--tries", 2]):
        assert run(*argv, *again)[0] == 0 and len(server.bodies) == 9
        assert (folder / "out.jsonl").read_bytes() == rows


@pytest.mark.parametrize("n", [1, 2])
def test_a_run_that_was_stopped_among_its_tries_ends_as_if_it_was_not(
    tmp_path: Path, n: int
) -> None:
    def reply(request: Request) -> str:
        return f"I would say A ({request.seed})."

    whole = ask_model(tmp_path / "whole", reply)
    assert whole == ("I would say A (2).", [0, 1, 2])
    lines = (tmp_path / "whole").read_text().splitlines(keepends=True)
    (tmp_path / "part").write_text("".join(lines[:n]))
    assert ask_model(tmp_path / "part", reply) == (whole[0], [0, 1, 2][n:])
    assert ask_model(tmp_path / "part", reply) == (whole[0], [])
    assert ask_model(tmp_path / "part", reply, tries=5)[1] == [3, 4]  # more tries are wanted


def test_a_reply_without_a_text_is_asked_for_again_only_when_that_is_wanted(
    tmp_path: Path,
) -> None:
    good = TRACE.format(caption="a hand")

    def silent_at_first(request: Request) -> str | None:
        return None if request.seed == 0 else f"{request.seed} {good}"

    cache = tmp_path / "answers"
    assert ask_model(cache, silent_at_first) == (f"1 {good}", [0, 1])
    mended = lambda request: f"{request.seed} {good}"  # noqa: E731
    assert ask_model(cache, mended) == (f"1 {good}", [])
    assert ask_model(cache, mended, ask_again=True) == (f"0 {good}", [0])
    assert ask_model(cache, mended) == (f"0 {good}", [])


def test_replies_without_a_text_count_as_tries_and_a_row_without_any_gets_new_ones(
    tmp_path: Path,
) -> None:
    def once(request: Request) -> str | None:
        return "I would say A." if request.seed == 0 else None

    cache = tmp_path / "answers"
    assert ask_model(cache, once) == ("I would say A.", [0, 1, 2])
    assert ask_model(cache, once) == ("I would say A.", [])
    assert ask_model(cache, once, ask_again=True) == ("I would say A.", [1, 2])
    with pytest.raises(TeacherError, match="refused"):
        ask_model(tmp_path / "silent", lambda request: None)
    mended = ask_model(tmp_path / "silent", lambda request: f"I would say A ({request.seed}).")
    assert mended == ("I would say A (5).", [3, 4, 5])


GARBAGE = [
    "",
    "?",
    "the the the " * 3000,
    "<answer>A</answer>" * 50,
    "<time>00:00-00:04</time> <caption>a hand",
    "<think>" * 200,
    '{"question": {"question": "?"}, "options": {"A": 1}, "answer": null}',
    '{"question": "?", "options": ["a", "b", "c", "d"], "answer": ["a"]}',
    '{"segments": {"start": 1}}',
    '{"segments": [{"start": [1], "end": {"x": 2}}]}',
    '{"segments": [{"start": 1e308, "end": NaN}]}',
    "[" * 5000,
    "<|im_start|>assistant",
    "\ud83d half a character",
    "\x00\x1b[31m",
]


@pytest.mark.parametrize("reply", GARBAGE, ids=range(len(GARBAGE)))
def test_whatever_is_replied_ends_as_a_failure_with_a_reason(
    folder: Path, run: Any, server: Server, reply: str
) -> None:
    """Questions and segments: a trace of any form is for hindsight to judge."""
    write_rows(folder / "timeless.jsonl", [replace(row, segments=[]) for row in star_rows()])
    notes = [Clip(f"v{i}", f"{i}.mp4", 9.0, "", [Segment(1, 4, "a cup")]) for i in range(3)]
    write_captions(folder / "notes.jsonl", notes)
    server.reply = lambda system, user: reply
    argv = ["synthesize", "--captions", folder / "toy.jsonl", "--qa", folder / "timeless.jsonl"]
    argv += ["--notes", folder / "notes.jsonl", "--request-retries", 0, "--max-error-rate", 1]
    code, text = run(*argv, *teacher_flags(server, folder))
    assert code == 2
    one_line(text, "synthesize", "not one row could be made")
    failed = rows_of(folder / "out.jsonl.failed.jsonl")
    assert len(failed) == 7 and not (folder / "out.jsonl").exists()
    for failure in failed:
        what, _, reason = failure["reason"].partition(": ")
        assert what.startswith(("question for ", "segments for ")) and reason
        assert len(failure["reason"]) < 1000


# Segments are proposed


def test_rows_without_times_get_them_from_notes(folder: Path, run: Any, server: Server) -> None:
    write_rows(folder / "timeless.jsonl", [replace(row, segments=[]) for row in star_rows(2)])
    seen = [Segment(0, 3, "a hand reaches for the cup"), Segment(3, 8, "the cup is gone")]
    write_captions(folder / "notes.jsonl", [Clip("v0", "0.mp4", 9.0, "", seen)])

    def reply(system: str, user: str) -> str:
        if "parts of a video" in system:
            return '{"segments": [{"start": "00:00", "end": "00:03"}]}'
        return good_trace(system, user)

    server.reply = reply
    argv = ["synthesize", "--qa", folder / "timeless.jsonl", "--notes", folder / "notes.jsonl"]
    code, text = run(*argv, *teacher_flags(server, folder))
    assert code == 3 and "star-1: segments for star-1: " in text and "--notes" in text
    [row] = rows_of(folder / "out.jsonl")
    assert row["segments"] == [{"start": 0.0, "end": 3.0, "caption": seen[0].caption}]
    assert row["provenance"]["segments"] == "proposed by engine from 2 captions"
    names = [tag.partition("@")[0] for tag in row["provenance"]["prompts"]]
    assert names == ["segments", "trace"]
    asked = next(b for b in server.bodies if "parts of a video" in b["messages"][0]["content"])
    assert "00:03-00:08: the cup is gone" in asked["messages"][1]["content"]
    assert "Right answer: took it" in asked["messages"][1]["content"]


def test_rows_without_times_get_them_from_frames(folder: Path, run: Any, server: Server) -> None:
    """Only the ranges that were proposed are shown again, to be described."""
    scene = draw_scene("train-0000", 0)
    encode_scene(scene, folder / "0.mp4")
    row = replace(star_rows(1)[0], segments=[], duration=None)
    write_rows(folder / "timeless.jsonl", [row])

    def reply(system: str, user: Any) -> str:
        if "parts of a video" in system:
            return '{"segments": [{"start": 1, "end": 3}, {"start": "00:04", "end": "00:06"}]}'
        return "a shape moves" if "video analysis assistant" in system else TRACE

    server.reply = reply
    argv = ["synthesize", "--qa", folder / "timeless.jsonl", "--videos", folder]
    argv += ["--overview-frames", 5, "--frames", 2, "--min-frames", 8]
    code, text = run(*argv, *teacher_flags(server, folder))
    assert code == 0, text
    [made] = rows_of(folder / "out.jsonl")
    assert made["provenance"]["segments"] == "proposed by engine from 5 frames"
    times = [(s["start"], s["end"], s["caption"]) for s in made["segments"]]
    assert times == [(1.0, 3.0, "a shape moves"), (4.0, 6.0, "a shape moves")]
    assert made["duration"] == pytest.approx(scene.duration, abs=0.5)
    systems = [body["messages"][0]["content"] for body in server.bodies]
    parts = server.bodies[["parts of a video" in s for s in systems].index(True)]["messages"][1]
    kinds = [part["type"] for part in parts["content"]]
    assert kinds == ["text", "image_url"] * 5 + ["text"]
    assert parts["content"][0]["text"] == "00:00"
    assert "Right answer: took it" in parts["content"][-1]["text"]
    asked = [b["messages"][1]["content"] for b in server.bodies]
    described = [content for content in asked if isinstance(content, list)][1:]
    assert [len(content) for content in described] == [3, 3]  # two frames and the words


# Filters


def test_filtered_questions_are_on_record_and_cost_no_trace(
    folder: Path, run: Any, server: Server
) -> None:
    rows = star_rows(4)
    rows[1] = replace(rows[0], id="again")
    rows[2] = replace(rows[2], options=["A. took it", "B. washed it", "C. all of the above"])
    rows[3] = replace(rows[3], problem="那个人用杯子做了什么呢? " * 6)
    write_rows(folder / "mixed.jsonl", rows)
    server.reply = good_trace
    argv = ["synthesize", "--qa", folder / "mixed.jsonl", "--language", "en"]
    argv += teacher_flags(server, folder)
    code, text = run(*argv)
    filtered = folder / "out.jsonl.filtered.jsonl"
    assert code == 0 and len(server.bodies) == 1
    assert f"3 left out by filters, see {filtered}: 1 duplicate, 1 options, 1 language" in text
    left_out = rows_of(filtered)
    assert [(f["id"], f["filter"]) for f in left_out] == [
        ("again", "duplicate"),
        ("star-2", "options"),
        ("star-3", "language"),
    ]
    assert left_out[0]["reason"] == "asks what star-0 asks about this video"
    assert left_out[1]["row"]["options"][2] == "C. all of the above"
    code, text = run(*argv, "--no-filter", "duplicate", "options", "language")
    assert code == 0 and "4 rows" in text and not filtered.exists()
    code, text = run(*argv, "--language", "klingon")
    assert code == 2
    one_line(text, "synthesize", "unknown language 'klingon'")


def left_out(*samples: Sample, languages: str = "") -> list[tuple[str, str]]:
    """What the filters of words leave out: ids and filters."""
    keep = QuestionFilter(scripts=scripts_of(languages) if languages else frozenset())
    kept = [sample.id for sample in keep(samples)]
    assert len(kept) + len(keep.filtered) == len(samples)
    return [(one.source.id, one.filter) for one in keep.filtered if isinstance(one.source, Sample)]


@pytest.mark.parametrize(
    "language, problem, options",
    [
        ("zh", "视频里的人在做什么?", ["A. 跑步", "B. 走路", "C. 睡觉", "D. 吃饭"]),
        ("ko", "사람은 무엇을 합니까?", ["A. 달리기", "B. 걷기", "C. 수면", "D. 식사"]),
        ("ru", "Что делает он?", ["(A) Бег", "(B) Сон", "(C) Еда", "(D) Душ"]),
    ],
)
def test_letters_of_options_are_in_no_language(
    language: str, problem: str, options: list[str]
) -> None:
    question = replace(star_rows(1)[0], problem=problem, options=options)
    assert left_out(question, languages=language) == []
    assert left_out(question, languages="en") == [("star-0", "language")]


@pytest.mark.parametrize(
    "option, about_others",
    [
        ("She puts all of them in the oven", False),
        ("He eats two of them", False),
        ("He puts both of them on the table", False),
        ("He offers a cup to any of the others", False),
        ("Both of them.", True),
        ("None of these are correct", True),
        ("None of these options", True),
        ("It is all of the above", True),
        ("Both A and C", True),
    ],
)
def test_options_about_the_other_options(option: str, about_others: bool) -> None:
    others = ["She throws the tray away", "She hides the tray", "She breaks the tray"]
    question = replace(star_rows(1)[0], problem="What comes next?", options=[option, *others])
    assert ("is about the other options" in options_reason(question)) == about_others


def test_what_another_filter_leaves_out_is_no_earlier_question() -> None:
    question = star_rows(1)[0]
    long = "A. took it out of the cupboard and put it on the table"
    telling = replace(question, id="telling", options=[long, *question.options[1:]])
    fair = replace(telling, id="fair", solution="<answer>B</answer>")
    again = replace(fair, id="again")
    assert left_out(telling, fair, again) == [("telling", "options"), ("again", "duplicate")]


@pytest.mark.parametrize(
    "one, other, alike",
    [
        ("at 0:10", "at 0:50", False),
        ("after the first cut", "after the second cut", False),
        ("two times", "three times", False),
        ("at 0:10 exactly", "at 0:10 precisely", True),
    ],
)
def test_questions_that_differ_in_a_number_are_two(one: str, other: str, alike: bool) -> None:
    question = star_rows(1)[0]
    text = "What does the man in the blue shirt do with the tomato on the wooden board"
    pair = [replace(question, id=when, problem=f"{text} {when}?") for when in (one, other)]
    assert left_out(*pair) == ([(other, "duplicate")] if alike else [])


def test_questions_that_need_no_video_are_left_out(folder: Path, run: Any, server: Server) -> None:
    def reply(system: str, user: str) -> str | int:
        if "cannot see" not in system:
            return good_trace(system, user)
        if "cup 2" in user:
            return 400
        return _first_taken(user) if "cup 1" in user else "<answer>A</answer>"

    server.reply = reply
    argv = ["synthesize", "--qa", folder / "star.jsonl", "--blind-times", 2]
    argv += teacher_flags(server, folder, "--reader-url", server.url, "--reader-model", "r")
    code, text = run(*argv)
    assert code == 3 and "1 blind" in text and "without the video (HTTP 400" in text
    assert [row["id"] for row in rows_of(folder / "out.jsonl")] == ["star-0"]
    [left_out] = rows_of(folder / "out.jsonl.filtered.jsonl")
    assert (left_out["id"], left_out["filter"]) == ("star-1", "blind")
    assert left_out["reason"] == "answered right without the video 2 times of 2"
    blind = [b["messages"][1]["content"] for b in server.bodies if b["model"] == "r"]
    assert blind and not any("hand reaches" in text for text in blind)  # no captions, no times


def test_a_wrong_answer_without_the_video_is_not_paid_for_again(tmp_path: Path) -> None:
    """It decides, whatever another request for the same question came to."""

    def once(request: Request) -> str | None:
        first = "A. took it" in request.messages[1]["content"]
        return "<answer>B</answer>" if first else None

    for paid in (3, 0):
        model = Model(once)
        with BatchEngine(model, tmp_path / "answers", gather=0) as engine:
            assert BlindReader(engine).reason(star_rows(1)[0]) == ""
        assert len(model.asked) == paid


def test_short_videos_are_left_out_before_anything_is_asked(
    folder: Path, run: Any, server: Server
) -> None:
    scene = draw_scene("train-0000", 0)
    encode_scene(scene, folder / "0.mp4")
    server.reply = good_trace
    argv = ["synthesize", "--qa", folder / "star.jsonl", "--videos", folder, "--min-frames"]
    code, text = run(*argv, 10_000, *teacher_flags(server, folder))
    [left_out] = rows_of(folder / "out.jsonl.filtered.jsonl")
    assert code == 0 and (left_out["id"], left_out["filter"]) == ("star-0", "frames")
    assert left_out["reason"].endswith("frames, fewer than 10000")
    assert len(server.bodies) == 2  # the other two videos are not there, and nothing needs them


class Deferring(FunctionEngine):
    """Notes requests, as a batch API does, and answers them when it is flushed."""

    def __init__(self, reply: Callable[[Request], str]) -> None:
        super().__init__(reply)
        self.noted: dict[str, Request] = {}
        self.known: dict[str, str] = {}

    def complete(self, requests: Any) -> list[str | None]:
        for request in requests:
            if request.key() not in self.known:
                self.noted[request.key()] = request
        return [self.known.get(request.key()) for request in requests]

    def replied(self, request: Request) -> bool:
        return request.key() in self.known

    def flush(self) -> int:
        n = len(self.noted)
        self.known |= {key: str(self.reply(request)) for key, request in self.noted.items()}
        self.noted.clear()
        return n


def test_questions_filters_repairs_and_traces_go_through_batches(
    folder: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_captions(
        folder / "real.jsonl",
        [
            Clip(f"v{i}", f"{i}.mp4", 9.0, "", [Segment(0, 4, f"a hand takes {i}")])
            for i in range(3)
        ],
    )
    options = ["a cup", "a pan", "a key", "a lid"]

    def teach(request: Request) -> str:
        system, user = (message["content"] for message in request.messages[:2])
        if "multiple-choice questions" in system:
            if len(request.messages) == 2:
                return "Here is one."
            question = f"What is taken in clip {user.partition('takes ')[2][0]}?"
            return json.dumps({"question": question, "options": options, "answer": options[0]})
        return TRACE.format(caption="a hand takes it")

    def read(request: Request) -> str:
        question, *lines = request.messages[1]["content"].splitlines()
        known = next(line[0] for line in lines if line.endswith("a cup"))
        return f"<answer>{known if 'clip 2' in question else 'B'}</answer>"

    engines = {"teacher": Deferring(teach), "reader": Deferring(read)}
    monkeypatch.setattr(
        "videothinker.commands.synthesis.make_engine", lambda args, role, accounts: engines[role]
    )
    argv = ["synthesize", "--captions", folder / "real.jsonl", "--out", folder / "out.jsonl"]
    argv += ["--teacher-url", "http://localhost:1/v1", "--reader-url", "http://localhost:1/v1"]
    code, text = run(*argv)
    assert code == 0 and "2 rows" in text and "1 blind" in text, text
    assert [row["problem"][-2] for row in rows_of(folder / "out.jsonl")] == ["0", "1"]
    assert len(engines["teacher"].known) == 3 + 3 + 2  # slips, repaired questions, traces
    assert len(engines["reader"].known) == 3 * 3


# Prompts


def test_a_users_prompts_reach_the_server(folder: Path, run: Any, server: Server) -> None:
    prompts = folder / "prompts"
    prompts.mkdir()
    fields = "{problem} {options} {segments} {letter}"
    (prompts / "trace.yaml").write_text(f"version: 7\nsystem: Think.\nuser: 'Mine: {fields}'\n")
    server.reply = good_trace
    argv = ["synthesize", "--qa", folder / "star.jsonl", *teacher_flags(server, folder)]
    assert run(*argv, "--prompts", prompts)[0] == 0
    assert {b["messages"][0]["content"] for b in server.bodies} == {"Think."}
    assert all(b["messages"][1]["content"].startswith("Mine: What") for b in server.bodies)
    [tag] = {t for row in rows_of(folder / "out.jsonl") for t in row["provenance"]["prompts"]}
    assert tag.startswith("trace@7-")
    assert run(*argv)[0] == 0 and len(server.bodies) == 6  # other words, other requests
    (prompts / "trace.yaml").write_text("version: 7\nsystem: Think.\nuser: '{problem}'\n")
    code, text = run(*argv, "--prompts", prompts)
    assert code == 2
    one_line(text, "synthesize", "trace.yaml", "the field {letter} is missing")


def test_packaged_prompts_of_version_1_leave_keys_as_they_were() -> None:
    """Answers that were paid for before prompts had versions are found again."""
    heard: list[Request] = []

    def reply(request: Request) -> str:
        heard.append(request)
        return TRACE.format(caption="a hand")

    EngineTeacher(FunctionEngine(reply)).trace(star_rows(1)[0], 0)
    old = "8eb996dc07f64c8e273059f732813beab1b5b7bc22cdf9f9d4b0441d82b64407"
    assert heard[0].prompt == "" and heard[0].key("m") == old
