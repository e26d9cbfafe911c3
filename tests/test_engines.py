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
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from chat_server import CANARY, ChatServer, requests_of
from conftest import ray_cluster

from videothinker.files import InputError
from videothinker.journal import read_journal
from videothinker.synthesis.batch_api_engine import BatchAPIEngine, _Call
from videothinker.synthesis.budget import Budget, Prices
from videothinker.synthesis.engine import Answer, EngineError, Request, read_answers
from videothinker.synthesis.openai_engine import OpenAIEngine
from videothinker.synthesis.store import AnswerStore, Spending, total
from videothinker.synthesis.stored_engine import BatchEngine

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


def test_a_password_in_the_address_is_in_no_line(server: ChatServer) -> None:
    server.fail = lambda question, seen: 400
    address = server.url.replace("//", "//me:a-canary-word@")
    with OpenAIEngine(address, "toy", None) as engine:
        assert engine.complete(numbered(1)) == [None]
        assert engine.errors[0][1] == "HTTP 400: no: Basic ***"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    yield from ray_cluster(4)


def served_backend(url: str, name: str = "toy") -> Callable[[], Any]:
    """Makes a backend for a worker elsewhere that asks the same server."""

    def make() -> Any:
        from videothinker.synthesis.openai_engine import OpenAIEngine

        class Backend:
            model = name

            def answer(self, requests: Any) -> Any:
                with OpenAIEngine(url, name, None) as engine:
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


def served_recipe(url: str) -> Callable[[str, str, str], Any]:
    """In place of `BackendRecipe`: workers ask a server, and need no model of their own."""
    return lambda kind, model, path: served_backend(url, model)


def limited(events: Callable[..., Any]) -> Callable[..., Any]:
    """The wait for workers with less patience: who waits for room waits in vain."""

    def wait(workers: Any, running: Any) -> Any:
        workers.patience = 60.0
        return events(workers, running)

    return wait


def two_models_on_ray(server: ChatServer, folder: Path, *flags: str) -> list[str]:
    """`synthesize` with a teacher and a blind reader, both on the cluster."""
    from test_synthesis import star_rows

    from videothinker.schema import write_rows

    write_rows(folder / "rows.jsonl", star_rows(3))
    argv = ["synthesize", "--qa", folder / "rows.jsonl", "--out", folder / "out.jsonl"]
    argv += ["--engine", "ray", "--teacher-model", "teacher", "--reader-model", "reader"]
    return [*map(str, argv), "--blind-times", "1", "--tries", "1", *flags]


@pytest.mark.parametrize("flags", [[], ["--ray-workers", "2"], ["--ray-workers", "3"]])
def test_a_teacher_and_a_reader_share_a_cluster(
    cluster: Any,
    server: ChatServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
) -> None:
    """Neither takes the whole: both answer."""
    from videothinker.commands.main import main
    from videothinker.ray_workers import RayWorkers

    monkeypatch.setattr(
        "videothinker.synthesis.ray_engine.BackendRecipe", served_recipe(server.url)
    )
    monkeypatch.setattr(RayWorkers, "_events", limited(RayWorkers._events))
    main(two_models_on_ray(server, tmp_path, *flags))
    models = {answer.model for answer in on_disk(tmp_path / "out.jsonl.answers").values()}
    assert models == {"teacher", "reader"}


def test_a_model_that_the_cluster_has_no_room_for_is_refused_at_once(
    cluster: Any, server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from videothinker.commands.main import main

    monkeypatch.setattr(
        "videothinker.synthesis.ray_engine.BackendRecipe", served_recipe(server.url)
    )
    began = time.monotonic()
    for flags, words in (
        (["--ray-workers", "4"], "full of workers for another model"),
        (["--ray-gpus", "1"], "no room for a worker with 1 CPUs and 1 GPUs for each of 2 models"),
    ):
        with pytest.raises(SystemExit):
            main(two_models_on_ray(server, tmp_path, *flags))
        said = capsys.readouterr().err
        assert words in said and ("--ray-workers" in said) == ("--ray-workers" in flags), said
    assert time.monotonic() - began < 60 and not server.seen


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
    state: dict[str, Any]

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
        asked = json.loads(data)
        lines = self.files[int(asked["input_file_id"][5:])].splitlines()
        self.files.append(b"".join(map(self.answer, lines)))
        batch = {"id": f"batch_{len(self.batches)}", "metadata": asked["metadata"]}
        output = {"output_file_id": f"file_{len(self.files) - 1}", "n": len(lines)}
        self.batches.append({**batch, **output, **self.state})
        if self.state.pop("silent", False):
            self.close_connection = True  # it is made, and the reply is lost
        else:
            self.say(batch)

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
        if "?limit=" in self.path:
            return self.say({"data": self.batches})
        number = int(self.path.removesuffix("/content").rpartition("_")[2])
        self.say(self.files[number] if "/files/" in self.path else self.batches[number])


class Capitals(Provider):
    """It answers in capitals, says each reply twice, and repeats the key where it refuses."""

    def answer(self, line: bytes) -> bytes:
        asked = json.loads(line)
        word = asked["body"]["messages"][-1]["content"]
        choice = {"message": {"content": word.upper()}, "finish_reason": "stop"}
        body = {"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 5}}
        response: dict[str, Any] = {"status_code": 200, "body": body}
        if word.startswith("refuse"):
            error = {"message": f"{'x' * 170} {self.headers['Authorization']}"}
            response = {"status_code": 401, "body": {"error": error}}
        said = {"custom_id": asked["custom_id"], "response": response}
        return 2 * (json.dumps(said).encode() + b"\n")


@contextmanager
def account(provider: type[Provider], **state: Any) -> Iterator[tuple[str, type[Provider]]]:
    """The address of a provider that runs, and what it was sent; new batches have this state."""
    fields = {"files": [], "batches": [], "state": {"status": "completed", **state}}
    handler = type("Handler", (provider,), fields)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/v1", handler
        running.shutdown()


def batch_engine(url: str, store: Any, **options: Any) -> BatchAPIEngine:
    return BatchAPIEngine(url, "toy", "TOY_KEY", store, poll=0.01, pause=0.01, **options)


@pytest.fixture
def toy_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_KEY", CANARY)


@pytest.mark.usefixtures("toy_key")
def test_a_batch_whose_reply_was_lost_is_found_and_not_paid_twice(tmp_path: Path) -> None:
    with account(Capitals, silent=True) as (url, made), batch_engine(url, tmp_path / "s") as engine:
        assert engine.complete(numbered(2)) == ["Q0", "Q1"]
        assert len(made.batches) == 1


@pytest.mark.usefixtures("toy_key")
def test_what_a_provider_repeats_of_the_key_is_nowhere(tmp_path: Path) -> None:
    """In a reply, in a batch that failed, and in place of an object."""
    requests = requests_of("fine", "refuse me")
    with account(Capitals) as (url, made):
        with batch_engine(url, tmp_path / "s") as engine:
            assert engine.complete(requests) == ["FINE", None]
            assert engine.reason(requests[1]).startswith("HTTP 401: xxx")
            said = repr(engine.errors)
        words = f"{'x' * 170} Bearer {CANARY}"
        made.state |= {"status": "failed", "errors": {"data": [{"message": words}]}}
        made.state["output_file_id"] = None
        with batch_engine(url, tmp_path / "s") as engine:
            assert engine.complete(requests_of("fails")) == [None]
            said += repr(engine.errors)
            made.batches.append([words])  # type: ignore[arg-type]
            with pytest.raises(EngineError, match="no object but") as refused:
                engine._api(_Call("GET", f"/batches/batch_{len(made.batches) - 1}"))
    said += str(refused.value) + "".join(path.read_text() for path in tmp_path.iterdir())
    assert "sk-" not in said and "canary" not in said


@pytest.mark.usefixtures("toy_key")
def test_jobs_of_an_earlier_run_count_in_the_budget(tmp_path: Path) -> None:
    """Three are under way when the second run, which may pay five, asks for ten more, twice."""
    with account(Capitals, status="in_progress") as (url, made), AnswerStore(tmp_path / "s") as s:
        with batch_engine(url, s, budget=Budget(requests=5, seconds=0.05)) as engine:
            assert engine.complete(numbered(3)) == [None] * 3
        made.batches[0]["status"] = made.state["status"] = "completed"
        budget = Budget(requests=5)
        with batch_engine(url, s, budget=budget) as engine:
            texts = engine.complete(numbered(13))
            assert texts == [*(f"Q{i}" for i in range(5)), *[None] * 8]
            assert total(budget._reserved) == Spending()
            assert set(engine.complete(requests_of(*(f"r{i}" for i in range(10))))) == {None}
        assert total(s.spent).replies == 5


@pytest.mark.usefixtures("toy_key")
def test_a_kill_while_a_batch_is_collected_pays_nothing_twice(tmp_path: Path) -> None:
    """Killed after four of six replies were written, one of them empty; each is said twice."""
    store, jobs = tmp_path / "s", tmp_path / "s.jobs"
    requests = requests_of("", *(f"q{i}" for i in range(5)))
    expected = [None, *(f"Q{i}" for i in range(5))]

    def lines(path: Path) -> list[str]:
        return path.read_text().splitlines(keepends=True)

    with account(Capitals) as (url, made):
        with batch_engine(url, store) as engine:
            assert engine.complete(requests) == expected and len(lines(store)) == 6
        for ask_again in (False, True):
            store.write_text("".join(lines(store)[:4]))
            jobs.write_text("".join(lines(jobs)[:-1]))
            with batch_engine(url, store, ask_again=ask_again) as engine:
                assert engine.complete(requests) == expected and len(lines(store)) == 6
                assert engine.reason(requests[0]) == "empty" and engine.budget._lost == 0
        assert len(made.batches) == 1 and len(on_disk(store)) == 6
        with batch_engine(url, store, ask_again=True) as engine:  # the empty one is paid for again
            assert engine.complete(requests) == expected and len(lines(store)) == 7
        with batch_engine(url, store) as engine:
            assert engine.complete(requests) == expected and len(lines(store)) == 7
        assert [batch["n"] for batch in made.batches] == [6, 1]


class HangsUp(BaseHTTPRequestHandler):
    """Counts requests, and ends the connection without a word, but for `patient` of them first."""

    protocol_version = "HTTP/1.1"
    asked: list[int]
    patient = 0

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append(self.client_address[1])
        if self.asked.count(self.client_address[1]) > self.patient:
            self.close_connection = True
            return
        choice = {"message": {"content": "fine"}, "finish_reason": "stop"}
        data = json.dumps({"choices": [choice], "usage": {}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.mark.parametrize("patient", [0, 1, 3])
def test_what_a_server_hangs_up_on_is_counted(patient: int) -> None:
    """One that never replies gets what the budget allows; kept connections may be closed."""
    asked: list[int] = []
    handler = type("Handler", (HangsUp,), {"asked": asked, "patient": patient})
    budget = None if patient else Budget(requests=5)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{running.server_port}/v1"
        with OpenAIEngine(url, "toy", None, pause=0.001, concurrency=2, budget=budget) as engine:
            texts = engine.complete(numbered(12))
            assert texts == ["fine" if patient else None] * 12
            assert engine.usage.sent == len(asked) and (patient or len(asked) == 5)
            assert engine.usage.answered == (12 if patient else 0)
        running.shutdown()


# Budgets and stores that are shared


class Shout:
    """A backend that answers in capitals."""

    model = "toy"

    def answer(self, requests: Any) -> Iterator[tuple[int, Answer | Exception]]:
        for place, request in enumerate(requests):
            yield place, Answer("", request.messages[-1]["content"].upper(), "", 10, 5)

    def close(self) -> None:
        pass


PRICES = Prices(date(2026, 11, 29), {"toy": (1.0, 1.0)})


def test_a_model_without_a_price_is_named_before_anything_is_paid(
    server: ChatServer, tmp_path: Path
) -> None:
    """The store was paid by another model before."""
    path = tmp_path / "s"
    with AnswerStore(path) as store:
        store.put(Answer("k", "t", "", 1_000_000, 0, model="old-teacher")).result()
    ceiling = Budget(money=10, prices=PRICES)
    for _ in range(2):  # the lock is given up each time
        with pytest.raises(InputError, match="no price for the model 'old-teacher'"):
            OpenAIEngine(server.url, "toy", None, path, budget=ceiling)
        with pytest.raises(InputError, match="no price for the model 'old-teacher'"):
            BatchEngine(Shout(), path, budget=ceiling)
    with BatchEngine(Shout(), path, budget=Budget(prices=PRICES), progress=True) as engine:
        assert engine.complete(numbered(1)) == ["Q0"]  # without a ceiling it does not matter
        assert "1.5e-05 USD" in engine.status()


def test_nobody_waits_for_an_engine_whose_thread_has_failed() -> None:
    class Broken(Budget):
        def refusal(self, *_: Any) -> str:
            if broken:
                raise ZeroDivisionError("of the prices")
            return ""

    broken, budget = [True], Broken(requests=4)
    with BatchEngine(Shout(), budget=budget) as engine, ThreadPoolExecutor() as pool:
        for _ in range(2):
            waiting = pool.submit(engine.complete, numbered(3))
            with pytest.raises(ZeroDivisionError):
                waiting.result(timeout=600)
        broken.clear()
        assert pool.submit(engine.complete, numbered(3)).result(timeout=600) == ["Q0", "Q1", "Q2"]
        assert total(budget._reserved) == Spending()


class SlowlyRead(dict[str, Spending]):
    """What is set aside; what is read of it may be out of date when the reader goes on."""

    def values(self) -> Any:
        found = [replace(part) for part in super().values()]
        time.sleep(0.02)
        return found


def test_of_engines_that_share_a_budget_one_gets_the_last_request() -> None:
    together = threading.Barrier(2)

    def ask(engine: BatchEngine, word: str) -> str | None:
        together.wait()
        return engine.complete(requests_of(word))[0]

    for _ in range(5):
        budget = Budget(requests=1)
        budget._reserved = SlowlyRead()
        with (
            AnswerStore() as store,
            BatchEngine(Shout(), store, budget=budget, gather=0) as first,
            BatchEngine(Shout(), store, budget=budget, gather=0) as second,
            ThreadPoolExecutor() as pool,
        ):
            texts = list(pool.map(ask, (first, second), ("a", "b")))
            assert texts in (["A", None], [None, "B"])
            assert total(store.spent).replies == 1


def test_a_new_model_is_paid_while_the_others_are_added_up() -> None:
    spent: dict[str, Spending] = {}

    class Paid(Spending):
        @property  # another thread puts an answer into the store
        def replies(self) -> int:
            spent[f"model {len(spent)}"] = Spending(1)
            return 1

        @replies.setter
        def replies(self, value: int) -> None:
            pass

    spent["toy"] = Paid()
    assert total(spent).replies == 1
    priced = Prices(date(2026, 11, 29), _Growing(spent))
    assert Budget(prices=priced).cost(spent, "toy") == 0


class _Growing(dict[str, tuple[float, float]]):
    """Prices of all models; while one is looked up another is paid."""

    def __init__(self, spent: dict[str, Spending]) -> None:
        self.spent = spent

    def __contains__(self, name: object) -> bool:
        self.spent[f"model {len(self.spent)}"] = Spending()
        return True

    def __getitem__(self, name: str) -> tuple[float, float]:
        return 1.0, 1.0


def test_a_synthesis_by_batches_asks_again_what_broke_the_rules(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One pass notes all traces; the second those that were unusable; then nothing is missing."""
    from test_synthesis import star_rows

    from videothinker.commands.main import main
    from videothinker.schema import write_rows

    write_rows(tmp_path / "rows.jsonl", star_rows(5))
    prices = "date: 2026-11-29\nmodels:\n  m: {prompt: 1, completion: 2}\n"
    (tmp_path / "prices.yaml").write_text(prices)
    with account(Provider) as (url, made):
        argv = ["synthesize", "--engine", "batch", "--qa", tmp_path / "rows.jsonl"]
        argv += ["--out", tmp_path / "out.jsonl", "--teacher-url", url, "--teacher-model", "m"]
        argv += ["--api-key-env", "", "--poll", "0.01", "--prices", tmp_path / "prices.yaml"]
        for _ in range(2):  # the second finds everything in the store
            main([*map(str, argv)])
            said = capsys.readouterr().out
            assert f"5 rows in {tmp_path / 'out.jsonl'}" in said
            assert "6 replies, 9,000 tokens, 0.012 USD by the prices of 2026-11-29" in said
            assert [batch["n"] for batch in made.batches] == [5, 1]


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


# Further fields of requests, for models in this process


def test_further_fields_reach_a_model_of_transformers(tmp_path: Path) -> None:
    """The chat template is told what it is told behind a server; a field comes before the flag."""
    pytest.importorskip("transformers")
    from videothinker.configs import base_model_path
    from videothinker.synthesis.transformers_engine import transformers_engine

    base = str(base_model_path())
    [request] = requests_of("What?")
    thinks = {"chat_template_kwargs": {"enable_thinking": False}}
    mark = "{% if enable_thinking is defined and not enable_thinking %}no thoughts{% endif %}"

    def ask(extra: dict[str, Any]) -> Answer:
        with transformers_engine("tiny", None, base, "cpu", extra=extra) as engine:
            engine.backend._processor.chat_template += mark  # type: ignore[attr-defined]
            return engine.ask(request)

    plain, told = ask({}), ask({**thinks, "max_tokens": 2, "top_p": None, "temperature": 1.5})
    assert told.prompt_tokens > plain.prompt_tokens > 0
    assert plain.completion_tokens > told.completion_tokens == 2, (plain, told)
    with pytest.raises(InputError, match="no field 'stop' here, but chat_template_kwargs, m"):
        ask({"stop": ["."]})


def test_further_fields_reach_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from videothinker.synthesis.vllm_engine import vllm_engine

    calls: list[dict[str, Any]] = []

    class LLM:
        def __init__(self, **_: Any) -> None:
            pass

        def chat(self, messages: Any, params: Any, use_tqdm: bool, **options: Any) -> Any:
            calls.append({"n": len(messages), **vars(params[0]), **options})
            choice = SimpleNamespace(text="fine", token_ids=[1], finish_reason="stop")
            return [SimpleNamespace(prompt_token_ids=[1], outputs=[choice])] * len(messages)

    stand_in = SimpleNamespace(LLM=LLM, SamplingParams=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "vllm", stand_in)
    thinks = {"enable_thinking": False}
    extra = {"temperature": 0.7, "stop": ["."], "min_p": None, "chat_template_kwargs": thinks}
    with vllm_engine("toy", extra=extra) as engine:
        assert engine.complete(numbered(3)) == ["fine"] * 3
    told = {"temperature": 0.7, "max_tokens": 8, "seed": None, "stop": ["."]}
    assert calls == [{"n": 3, **told, "chat_template_kwargs": thinks}]
    with vllm_engine("toy") as engine:  # some requests of a batch with a field, some without
        with_field = [replace(r, fields={"chat_template_kwargs": thinks}) for r in numbered(2)]
        assert engine.complete([*numbered(3), *with_field]) == ["fine"] * 5
    asked = Counter[bool]()
    for call in calls[1:]:
        asked["chat_template_kwargs" in call] += call["n"]
    assert asked == {False: 3, True: 2}
    with pytest.raises(InputError, match="a model without a server takes no field 'top-p'"):
        vllm_engine("toy", extra={"top-p": 0.9})
