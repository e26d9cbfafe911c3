"""Synthesis and curation with a real language model of 135 M parameters, behind a real server.

`python scripts/language_model.py FOLDER` makes the model (98 MB are downloaded), and
VT_LANGUAGE_MODEL=FOLDER runs these tests with `transformers serve`; without it they are skipped.
With VT_LANGUAGE_MODEL_URL they ask another server of this model, such as llama.cpp's:

    llama-server -m SmolLM2-135M-Instruct.Q4_1.gguf --port 8080
    VT_LANGUAGE_MODEL_URL=http://127.0.0.1:8080/v1 VT_LANGUAGE_MODEL=FOLDER pytest …
"""

from __future__ import annotations

import json
import os
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from videothinker.commands.main import main
from videothinker.schema import Clip, Sample, read_rows, write_captions, write_rows
from videothinker.synthesis.engine import Request, chat
from videothinker.synthesis.judging import EngineReader, judge
from videothinker.synthesis.openai_engine import OpenAIEngine
from videothinker.synthesis.synthesize import split_trace
from videothinker.synthesis.transformers_engine import transformers_engine
from videothinker.toy.hindsight_trial import make_trials
from videothinker.toy.teacher import SymbolicReader
from videothinker.toy.world import draw_scene

MODEL = os.environ.get("VT_LANGUAGE_MODEL", "")
URL = os.environ.get("VT_LANGUAGE_MODEL_URL", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MODEL, reason="VT_LANGUAGE_MODEL names no folder of a language model"),
]
KEY = "sk-canary-1f0e7"


@pytest.fixture
def run(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str]]:
    """Run a command in this process, with a key in the environment: exit code, and its words."""
    monkeypatch.setenv("CANARY_KEY", KEY)

    def call(*argv: object) -> tuple[int, str]:
        try:
            main([str(a) for a in argv])
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capfd.readouterr()
        assert KEY not in out + err
        return code, out + err

    return call


@pytest.fixture
def server_url(request: pytest.FixtureRequest) -> str:
    """Of the server that is named, or of one that is started."""
    return URL or str(request.getfixturevalue("transformers_server"))


class CountingProxy(ThreadingHTTPServer):
    """Hands requests on to a server, one after the other, and counts them."""

    def __init__(self, server: str) -> None:
        super().__init__(("127.0.0.1", 0), _HandOn)
        self.server_url = server
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.asked = 0


class _HandOn(BaseHTTPRequestHandler):
    server: CountingProxy

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        self.server.asked += 1
        content = self.rfile.read(int(self.headers["Content-Length"]))
        place = self.server.server_url.removesuffix("/v1") + self.path
        headers = {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(place, content, headers)) as reply:
            body = reply.read()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def counted(server_url: str) -> Iterator[CountingProxy]:
    """The server of a language model, behind a proxy that counts."""
    with CountingProxy(server_url) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield proxy
        proxy.shutdown()


def traced(n: int) -> list[Sample]:
    """Toy rows with a correct trace."""
    trials = [trial for trial in make_trials(10 * n) if not trial.kind]
    return [
        Sample(**{**vars(t.sample), "process": split_trace(t.text, t.sample.solution)})
        for t in trials[:n]
    ]


@pytest.mark.skipif(bool(URL), reason="another server computes in another way")
def test_a_server_and_this_process_say_the_same(server_url: str) -> None:
    """Greedy replies of one model are the same words through HTTP and without."""
    requests = [
        Request(chat("Answer in one short sentence.", text), 0.0, 64)
        for text in ("What is a triangle?", "Name a colour.", "Is 3 more than 2?")
    ]
    with OpenAIEngine(server_url, MODEL, api_key_env=None, concurrency=1) as served:
        there = served.complete(requests)
    here = transformers_engine(MODEL, batch_size=1)
    try:
        assert here.complete(requests) == there
    finally:
        here.close()
    assert any(there)  # what is longer is cut off, and no answer


def test_a_reader_behind_a_server_judges(
    counted: CountingProxy, tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    """Every row gets a verdict with a reason, and a second run asks the server nothing."""
    write_rows(tmp_path / "rows.jsonl", traced(6))
    command: list[Any] = [
        "curate",
        "--data",
        tmp_path / "rows.jsonl",
        "--out",
        tmp_path / "out.jsonl",
    ]
    command += ["--check-only", "--reader-url", counted.url, "--reader-model", MODEL]
    command += ["--reader-max-tokens", 64, "--concurrency", 1, "--api-key-env", "CANARY_KEY"]
    code, words = run(*command)
    assert code in (0, 2, 3), words
    answers = tmp_path / "out.jsonl.answers"
    paid = answers.read_text().splitlines()
    assert 1 <= len(paid) <= 6 and counted.asked == len(paid)
    (tmp_path / "out.jsonl.journal").unlink()  # the verdicts are lost, what was paid for is not
    run(*command)
    assert counted.asked == len(paid) and answers.read_text().splitlines() == paid
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or KEY not in path.read_text(errors="replace"), path


def test_replies_that_break_the_rules_end_in_reasons(
    server_url: str, tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    """A model of 135 M parameters writes hardly a usable question: what fails says why."""
    scenes = [draw_scene(f"train-{i:04d}", 0) for i in range(2)]
    clips = [Clip(s.id, f"{s.id}.mp4", float(s.duration), "train", s.segments) for s in scenes]
    write_captions(tmp_path / "clips.jsonl", clips)
    out = tmp_path / "out.jsonl"
    code, words = run(
        *("synthesize", "--captions", tmp_path / "clips.jsonl", "--out", out, "--concurrency", 1),
        *("--teacher-url", server_url, "--teacher-model", MODEL, "--max-tokens", 96),
        *("--tries", 2, "--temperature", 0.3, "--api-key-env", "CANARY_KEY"),
        *("--no-filter", "options"),
    )
    failed = Path(f"{out}.failed.jsonl")
    failures = [json.loads(line) for line in failed.read_text().splitlines()]
    made = read_rows(out) if out.exists() else []
    assert len(failures) + len(made) == 2 and code == ((3 if failures else 0) if made else 2), words
    for failure in failures:
        assert "in 2 tries; the last time" in failure["reason"], failure["reason"]
    for row in made:  # whatever is a row is one
        assert 4 <= len(row.options) <= 6 and row.answer in row.letters


def test_it_reads_badly_and_says_so(server_url: str) -> None:
    """Of correct traces, which the symbolic reader follows one and all, it rejects most."""
    rows = traced(8)
    texts = [f"{row.process} {row.solution}" for row in rows]
    with OpenAIEngine(server_url, MODEL, api_key_env=None, concurrency=1, take_all=True) as engine:
        reader = EngineReader(engine, max_tokens=64)
        reasons = [judge(row, text, reader).reason for row, text in zip(rows, texts, strict=True)]
    symbolic = SymbolicReader()
    assert not any(judge(r, t, symbolic).reason for r, t in zip(rows, texts, strict=True))
    rejected = [reason for reason in reasons if reason]
    assert len(rejected) > len(rows) / 2, reasons
    assert all(reason.startswith("reader:") for reason in rejected), reasons
