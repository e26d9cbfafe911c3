"""Engines behind one store: killed, exchanged, in trouble; nothing is paid twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from chat_server import CANARY, ChatServer, requests_of
from conftest import ray_cluster

from videothinker.journal import read_journal
from videothinker.synthesis.engine import Answer, Request, read_answers
from videothinker.synthesis.openai_engine import OpenAIEngine
from videothinker.synthesis.store import AnswerStore

KILLS = int(os.environ.get("VT_KILLS", "6"))
CLIENT = """
import sys
from videothinker.synthesis.engine import Request, chat
from videothinker.synthesis.openai_engine import OpenAIEngine

url, store, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
with OpenAIEngine(url, "toy", "TOY_KEY", store, pause=0.01, timeout=2, retries=9) as engine:
    texts = engine.complete([Request(chat("s", f"q{i}"), max_tokens=8) for i in range(n)])
    print("\\n".join(map(str, texts)))
"""


def numbered(n: int) -> list[Request]:
    """The questions q0, q1 …"""
    return requests_of(*(f"q{i}" for i in range(n)))


def on_disk(store: Path) -> dict[str, Answer]:
    return read_answers(read_journal(store))


def size(store: Path) -> int:
    """Bytes of the store."""
    return store.stat().st_size if store.exists() else 0


def test_killed_at_random_moments_nothing_is_lost_doubled_or_asked_again(
    server: ChatServer, tmp_path: Path
) -> None:
    """The server is in trouble, too; what was on disk at a kill never comes to it again."""
    server.delay = 0.02
    n, store = 150 * KILLS, tmp_path / "store.jsonl"
    server.fail = lambda question, seen: (
        random.choice([429, 500, 503]) if hash(question) % 10 == 0 and seen == 1 else 200
    )
    keys = {request.key("toy"): request.messages[-1]["content"] for request in numbered(n)}
    command = [sys.executable, "-c", CLIENT, server.url, str(store), str(n)]
    rng = random.Random(0)
    kills = []
    while True:
        before = size(store)
        client = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        while client.poll() is None and len(kills) < KILLS and size(store) == before:
            time.sleep(0.002)  # until something was answered
        if len(kills) < KILLS and client.poll() is None:
            time.sleep(rng.uniform(0, 0.15))
            client.send_signal(signal.SIGKILL)
        out, err = client.communicate(timeout=1800)
        if client.returncode != -signal.SIGKILL:
            break
        kills.append((time.time(), set(on_disk(store))))
    assert client.returncode == 0, err
    assert len(kills) == KILLS, "it finished before it could be killed so often: ask it more"
    assert out.splitlines() == [f"Q{i}" for i in range(n)]
    lines = [entry["key"] for entry in read_journal(store)]
    assert sorted(lines) == sorted(keys)  # each once
    for moment, known in kills:
        for key in known:
            assert max(server.asked_at[keys[key]]) <= moment, "asked again after it was on disk"
    assert CANARY not in "".join(p.read_text() for p in tmp_path.iterdir()) + out + err


def test_a_canary_key_is_in_no_file_and_no_line(
    server: ChatServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The server repeats the key in each of its errors; the whole command runs against it."""
    from test_synthesis import star_rows

    from videothinker.commands.main import main
    from videothinker.schema import write_rows

    write_rows(tmp_path / "rows.jsonl", star_rows(6))
    server.fail = lambda question, seen: 400 if "cup 1" in question else 503 if seen < 2 else 200
    argv = ["synthesize", "--qa", tmp_path / "rows.jsonl", "--out", tmp_path / "out.jsonl"]
    argv += ["--teacher-url", server.url, "--teacher-model", "m", "--api-key-env", "TOY_KEY"]
    with pytest.raises(SystemExit):
        main([*map(str, argv), "--debug"])
    said = capfd.readouterr()
    assert (tmp_path / "out.jsonl.failed.jsonl").exists()
    for path in tmp_path.iterdir():
        assert CANARY not in path.read_text(), path
    assert CANARY not in said.out + said.err and "***" in said.out + said.err


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    yield from ray_cluster(4)


def served_backend(url: str) -> Callable[[], Any]:
    """Makes a backend for a worker elsewhere that asks the same server."""

    def make() -> Any:
        from videothinker.synthesis.openai_engine import OpenAIEngine

        class Backend:
            model = "toy"

            def answer(self, requests: Any) -> Any:
                with OpenAIEngine(url, "toy", None) as engine:
                    for place, request in enumerate(requests):
                        yield place, engine.ask(request)

            def close(self) -> None:
                pass

        return Backend()

    return make


def test_the_engine_is_changed_in_the_middle_and_nothing_is_paid_twice(
    cluster: Any, server: ChatServer, tmp_path: Path
) -> None:
    """A server, then Ray on a local cluster, then the server again."""
    from videothinker.synthesis.ray_engine import ray_engine

    requests, path = numbered(60), tmp_path / "store.jsonl"
    options = {"workers": 2, "cpus": 0.5, "batch_size": 5}
    with OpenAIEngine(server.url, "toy", "TOY_KEY", path) as engine:
        assert engine.complete(requests[:20]) == [f"Q{i}" for i in range(20)]
    with ray_engine(served_backend(server.url), "toy", path, options) as spread:
        assert spread.complete(requests[:40]) == [f"Q{i}" for i in range(40)]
        assert (spread.usage.from_cache, spread.usage.sent) == (20, 20)
    with OpenAIEngine(server.url, "toy", "TOY_KEY", path) as engine:
        assert engine.complete(requests) == [f"Q{i}" for i in range(60)]
        assert engine.usage.sent == 20
    assert set(server.seen.values()) == {1} and len(on_disk(path)) == 60


def test_a_request_that_kills_its_worker_costs_itself_alone(cluster: Any, tmp_path: Path) -> None:
    from videothinker.synthesis.ray_engine import ray_engine

    def make() -> Any:
        class Fragile:
            model = "toy"

            def answer(self, requests: Any) -> Any:
                for place, request in enumerate(requests):
                    word = request.messages[-1]["content"]
                    if word == "q7":
                        os.kill(os.getpid(), signal.SIGKILL)
                    yield place, Answer("", word.upper(), "", 1, 1)

            def close(self) -> None:
                pass

        return Fragile()

    options = {"workers": 2, "cpus": 0.5, "batch_size": 4, "max_tries": 2}
    with ray_engine(make, "toy", tmp_path / "s.jsonl", options) as engine:
        texts = engine.complete(numbered(20))
        assert texts == [None if i == 7 else f"Q{i}" for i in range(20)]
        assert "ActorDiedError" in engine.reason(numbered(8)[7])
    assert len(on_disk(tmp_path / "s.jsonl")) == 19


def test_teacher_and_reader_share_a_store_and_old_files_are_read(
    server: ChatServer, tmp_path: Path
) -> None:
    """Files of earlier versions: one per role, lines without the name of a model."""
    [request] = numbered(1)
    line = {"key": request.key("toy"), "text": "OLD", "reason": "", "prompt_tokens": 3}
    (tmp_path / "a.reader").write_text(json.dumps(line) + "\n")
    with AnswerStore(tmp_path / "a", also=[tmp_path / "a.reader"]) as store:
        with OpenAIEngine(server.url, "toy", "TOY_KEY", store) as first:
            assert first.complete([request]) == ["OLD"] and not server.seen
            assert first.complete(numbered(2)) == ["OLD", "Q1"]
        with OpenAIEngine(server.url, "other", "TOY_KEY", store) as second:
            assert second.complete(numbered(2)) == ["Q0", "Q1"]
        assert {model: part.replies for model, part in store.spent.items()} == {
            "": 1,
            "toy": 1,
            "other": 2,
        }
    assert len(read_journal(tmp_path / "a")) == 3


def test_what_a_busy_server_refuses_is_sent_again(server: ChatServer) -> None:
    refused = Counter[int]()
    server.delay = 0.02

    def trouble(question: str, seen: int) -> int:
        status = 429 if server.busy > 12 else 200
        refused[status] += 1
        return status

    server.fail = trouble
    with OpenAIEngine(server.url, "toy", "TOY_KEY", pause=0.01, concurrency=32) as engine:
        assert None not in engine.complete(numbered(300))
        assert engine._limiter.under_way == 0
        assert engine.usage.sent == 300 + refused[429]
        assert engine.usage.answered == 300 and engine.errors == []


def test_a_silly_error_rate_ends_the_sending(server: ChatServer) -> None:
    server.fail = lambda question, seen: 400 if int(question[1:]) % 4 else 200
    with OpenAIEngine(server.url, "toy", "TOY_KEY", concurrency=4) as engine:
        texts = engine.complete(numbered(400))
        assert 20 < sum(text is not None for text in texts) < 40
        assert len(server.seen) <= 100 + 8
        stopped = [reason for _, reason in engine.errors if "of the last 100 requests" in reason]
        assert len(stopped) == 400 - len(server.seen)
    with OpenAIEngine(server.url, "toy", "TOY_KEY", max_error_rate=1.0) as engine:
        assert sum(text is not None for text in engine.complete(numbered(400))) == 100


# The commands


class Provider(BaseHTTPRequestHandler):
    """A batch API: a batch has ended when it is looked at; traces for those who ask for them."""

    protocol_version = "HTTP/1.1"
    files: list[bytes]
    batches: list[dict[str, Any]]

    def log_message(self, *_: Any) -> None:
        pass

    def say(self, content: Any) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/files"):
            self.files.append(data[data.index(b'{"custom_id"') : data.rindex(b"\r\n--")])
            return self.say({"id": f"file_{len(self.files) - 1}"})
        lines = self.files[int(json.loads(data)["input_file_id"][5:])].splitlines()
        self.files.append(b"".join(map(self.answer, lines)))
        output = f"file_{len(self.files) - 1}"
        self.batches.append({"status": "completed", "output_file_id": output, "n": len(lines)})
        return self.say({"id": f"batch_{len(self.batches) - 1}"})

    def answer(self, line: bytes) -> bytes:
        from test_synthesis import good_trace

        asked = json.loads(line)
        unusable = "cup 1" in line.decode() and asked["body"]["seed"] % 1000 == 0
        said = "<caption>x</caption> without a thought" if unusable else good_trace("", "")
        choice = {"message": {"content": said}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1000, "completion_tokens": 500}
        body = {"choices": [choice], "usage": usage}
        response = {"status_code": 200, "body": body}
        return json.dumps({"custom_id": asked["custom_id"], "response": response}).encode() + b"\n"

    def do_GET(self) -> None:
        number = int(self.path.removesuffix("/content").rpartition("_")[2])
        self.say(self.files[number] if "/files/" in self.path else self.batches[number])


def test_a_synthesis_by_batches_asks_again_what_broke_the_rules(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One pass notes all traces; the second those that were unusable; then nothing is missing."""
    from test_synthesis import star_rows

    from videothinker.commands.main import main
    from videothinker.schema import write_rows

    files: list[bytes] = []
    batches: list[dict[str, Any]] = []
    handler = type("Handler", (Provider,), {"files": files, "batches": batches})
    write_rows(tmp_path / "rows.jsonl", star_rows(5))
    prices = "date: 2026-11-29\nmodels:\n  m: {prompt: 1, completion: 2}\n"
    (tmp_path / "prices.yaml").write_text(prices)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as provider:
        threading.Thread(target=provider.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{provider.server_port}/v1"
        argv = ["synthesize", "--engine", "batch", "--qa", tmp_path / "rows.jsonl"]
        argv += ["--out", tmp_path / "out.jsonl", "--teacher-url", url, "--teacher-model", "m"]
        argv += ["--api-key-env", "", "--poll", "0.01", "--prices", tmp_path / "prices.yaml"]
        for _ in range(2):  # the second finds everything in the store
            main([*map(str, argv)])
            said = capsys.readouterr().out
            assert f"5 rows in {tmp_path / 'out.jsonl'}" in said
            assert "6 replies, 9,000 tokens, 0.012 USD by the prices of 2026-11-29" in said
            assert [batch["n"] for batch in batches] == [5, 1]
        provider.shutdown()


def test_a_model_in_this_process_answers_for_a_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tiny model writes no trace; what it wrote is in the store, and it is said."""
    pytest.importorskip("transformers")
    from test_synthesis import star_rows

    from videothinker.commands.main import main
    from videothinker.configs import base_model_path
    from videothinker.schema import write_rows

    write_rows(tmp_path / "rows.jsonl", star_rows(2))
    argv = ["synthesize", "--engine", "transformers", "--qa", tmp_path / "rows.jsonl"]
    argv += ["--out", tmp_path / "out.jsonl", "--teacher-model", "tiny", "--max-tokens", 4]
    argv += ["--teacher-path", base_model_path(), "--tries", 1]
    try:
        main([*map(str, argv)])
    except SystemExit as stop:
        assert stop.code == 2 and "not one row could be made" in capsys.readouterr().err
    answers = on_disk(tmp_path / "out.jsonl.answers")
    assert len(answers) == 2 and {answer.model for answer in answers.values()} == {"tiny"}
    with pytest.raises(SystemExit):
        main(["synthesize", "--engine", "vllm", "--qa", "x", "--out", str(tmp_path / "o")])
    assert "give --teacher-model NAME" in capsys.readouterr().err
