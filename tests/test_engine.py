"""The engine against a real server: killed, it goes on, and nothing answered is asked again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from chat_server import CANARY, ChatServer, requests_of

from videothinker.files import InputError
from videothinker.journal import Journal, read_journal
from videothinker.synthesis.engine import Answer, EngineError, Request, chat, read_answers
from videothinker.synthesis.openai_engine import OpenAIEngine
from videothinker.synthesis.store import AnswerStore

N, CONCURRENCY = 60, 4
CLIENT = """
import sys
from videothinker.synthesis.engine import Request, chat
from videothinker.synthesis.openai_engine import OpenAIEngine

url, cache, n, concurrency = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
with OpenAIEngine(url, "toy", "TOY_KEY", cache, concurrency=concurrency, pause=0.01) as engine:
    answers = engine.complete([Request(chat("s", f"question {i}"), max_tokens=8) for i in range(n)])
    print("\\n".join(map(str, answers)))
    print("sent", engine.usage.sent, file=sys.stderr)
"""


def start(server: ChatServer, cache: Path) -> subprocess.Popen[str]:
    """The client in a process of its own, that can be killed."""
    args = [sys.executable, "-c", CLIENT, server.url, str(cache), str(N), str(CONCURRENCY)]
    env = {**os.environ, "TOY_KEY": CANARY}
    return subprocess.Popen(
        args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )


def recorded(cache: Path) -> int:
    """Whole answers on disk."""
    return cache.read_bytes().count(b"\n") if cache.exists() else 0


def test_a_killed_run_goes_on_and_pays_nothing_twice(server: ChatServer, tmp_path: Path) -> None:
    cache = tmp_path / "cache.jsonl"
    server.delay = 0.02
    for wanted in (7, 25, 40):  # killed three times, each time a bit further
        client = start(server, cache)
        deadline = time.monotonic() + 60
        while recorded(cache) < wanted and client.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        client.send_signal(signal.SIGKILL)
        client.communicate()
        assert client.returncode == -signal.SIGKILL, (
            "it finished before it could be killed: make the server slower"
        )
        answers = read_answers(read_journal(cache))
        paid = {answer.text for answer in answers.values()}
        before = Counter(server.seen)
    with cache.open("ab") as file:
        file.write(b'{"key": "torn li')  # and once in the middle of a line
    client = start(server, cache)
    out, err = client.communicate(timeout=60)
    assert client.returncode == 0, err
    assert out.splitlines() == [f"QUESTION {i}" for i in range(N)]
    assert f"sent {N - len(paid)}" in err
    for question, seen in server.seen.items():  # what was on disk has not been asked again
        assert question.upper() not in paid or seen == before[question]
    # twice only what was under way at a kill, or waited for the disk
    assert sum(server.seen.values()) <= N + 3 * 4 * CONCURRENCY
    assert recorded(cache) == N and CANARY not in cache.read_text()


def test_a_finished_run_costs_nothing_and_changes_nothing(
    server: ChatServer, tmp_path: Path
) -> None:
    cache = tmp_path / "cache.jsonl"
    first, _ = start(server, cache).communicate(timeout=60)
    data, seen = cache.read_bytes(), Counter(server.seen)
    second, _ = start(server, cache).communicate(timeout=60)
    assert second == first and cache.read_bytes() == data and server.seen == seen


def test_concurrency_is_used_and_limited(server: ChatServer) -> None:
    server.delay = 0.05
    with OpenAIEngine(server.url, "toy", "TOY_KEY", concurrency=3) as engine:
        assert None not in engine.complete(requests_of(*map(str, range(12))))
    assert server.busiest == 3


def test_storms_of_failures_are_waited_out(server: ChatServer) -> None:
    server.fail = lambda question, seen: (200, 503, 408, 500)[(seen + int(question)) % 4]
    with OpenAIEngine(server.url, "toy", "TOY_KEY", retries=5, pause=0.01) as engine:
        assert engine.complete(requests_of(*map(str, range(20)))) == [str(i) for i in range(20)]
        assert engine.errors == [] and engine.usage.sent > 20


def test_a_slow_server_is_a_passing_failure(server: ChatServer) -> None:
    server.delay = 1.0
    with OpenAIEngine(server.url, "toy", "TOY_KEY", retries=1, timeout=0.1, pause=0.01) as engine:
        assert engine.complete(requests_of("slow")) == [None]
        assert engine.usage.sent == 2 and "Timeout" in engine.errors[0][1]


def test_an_empty_account_stops_the_run(server: ChatServer, tmp_path: Path) -> None:
    server.fail = lambda question, seen: "no money"
    with OpenAIEngine(
        server.url, "toy", "TOY_KEY", tmp_path / "c.jsonl", concurrency=1, pause=0.01
    ) as engine:
        assert engine.complete(requests_of(*map(str, range(50)))) == [None] * 50
        assert engine.usage.sent == 1 and len(engine.errors) == 50
        assert CANARY not in repr(engine) + repr(engine.errors) + repr(vars(engine)["errors"])
    assert recorded(tmp_path / "c.jsonl") == 0  # failures are asked again another day


def test_the_budget_outlives_a_restart(server: ChatServer, tmp_path: Path) -> None:
    cache, room = tmp_path / "c.jsonl", 200
    for _ in range(3):
        with OpenAIEngine(server.url, "toy", "TOY_KEY", cache, budget_tokens=room) as engine:
            engine.complete(requests_of(*map(str, range(100))))
            assert any("budget" in reason for _, reason in engine.errors)
    answers = read_answers(read_journal(cache))
    assert 0 < 15 * len(answers) <= room and sum(server.seen.values()) == len(answers)


def test_what_is_set_aside_for_requests_under_way_is_waited_for(server: ChatServer) -> None:
    """Each of 30 costs 15 tokens, may cost 8,200, and eight of them at once have no room."""
    server.delay = 0.02
    requests = [Request(chat("s", f"{i}"), max_tokens=8192) for i in range(30)]
    with OpenAIEngine(server.url, "toy", "TOY_KEY", budget_tokens=50_000, concurrency=8) as engine:
        assert engine.complete(requests) == [str(i) for i in range(30)]
        assert engine.errors == [] and server.busiest > 1
    with OpenAIEngine(server.url, "toy", "TOY_KEY", budget_tokens=8000, concurrency=8) as engine:
        assert engine.complete(requests) == [None] * 30 and engine.usage.sent == 0


def test_closing_ends_who_waits_in_another_thread(server: ChatServer) -> None:
    server.delay = 1.0
    engine = OpenAIEngine(server.url, "toy", "TOY_KEY")
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(engine.complete, requests_of("q"))
        while not server.seen:
            time.sleep(0.005)
        engine.close()
        engine.close()
        with pytest.raises(EngineError, match="closed before it had all answers"):
            waiting.result(timeout=60)
    with pytest.raises(EngineError, match="closed"):
        engine.complete(requests_of("q"))


def test_of_two_who_want_an_answer_one_may_give_up(server: ChatServer) -> None:
    server.delay = 0.5
    with OpenAIEngine(server.url, "toy", "TOY_KEY") as engine:
        first, second = (
            asyncio.run_coroutine_threadsafe(engine._batch(requests_of("q")), engine._loop)
            for _ in range(2)
        )
        while not server.seen:
            time.sleep(0.005)
        first.cancel()
        assert second.result(timeout=60) == ["Q"] and server.seen["q"] == 1


def test_a_broken_or_busy_cache_is_refused(server: ChatServer, tmp_path: Path) -> None:
    cache = tmp_path / "c.jsonl"
    cache.write_text('{"key": "k", "text": "t"}\n[]\n')
    for _ in range(2):  # the lock is given up each time
        with pytest.raises(EngineError, match=r"c\.jsonl:2: not an answer"):
            OpenAIEngine(server.url, "toy", "TOY_KEY", cache)
    cache.write_text('{"key": "k", "text": "t", "reason": "", "prompt_tokens": 1}\n')  # as before
    with OpenAIEngine(server.url, "toy", "TOY_KEY", cache) as engine:
        assert "1 answers" in repr(engine)
        with pytest.raises(InputError, match="in use by another engine"):
            OpenAIEngine(server.url, "toy", "TOY_KEY", cache)


def test_requests_go_out_in_their_order(server: ChatServer, tmp_path: Path) -> None:
    questions = [f"question {i}" for i in range(20)]
    with OpenAIEngine(
        server.url, "toy", "TOY_KEY", tmp_path / "a.jsonl", concurrency=1, progress=True
    ) as engine:
        engine.complete([Request(chat("s", q), max_tokens=8) for q in questions])
    assert list(server.seen) == questions  # so a budget buys the first answers, not any


def test_interrupted_batch_sends_nothing_more(server: ChatServer, tmp_path: Path) -> None:
    server.delay = 0.05
    requests = [Request(chat("s", f"question {i}"), max_tokens=8) for i in range(40)]
    with OpenAIEngine(server.url, "toy", "TOY_KEY", tmp_path / "a.jsonl", concurrency=2) as engine:
        batch = asyncio.run_coroutine_threadsafe(engine._batch(requests), engine._loop)
        while not server.seen:
            time.sleep(0.005)
        batch.cancel()  # what `complete` does when Ctrl-C interrupts it
        sent = len(server.seen)
        time.sleep(0.5)
        assert len(server.seen) <= sent + 2 < 40  # those under way


class HeldJournal(Journal):
    """A journal whose disk writes nothing until it is let."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.writes, self.may_write = threading.Event(), threading.Event()

    def append(self, *entries: Any, synced: bool = True) -> None:
        self.writes.set()
        assert self.may_write.wait(60)
        super().append(*entries, synced=synced)


def held_store(path: Path) -> tuple[AnswerStore, HeldJournal]:
    """A store, and its journal."""
    store = AnswerStore(path)
    assert store._journal is not None
    store._journal.close()
    journal = store._journal = HeldJournal(path)
    return store, journal


def test_an_answer_nobody_waits_for_is_written_down_and_so_are_those_after_it(
    tmp_path: Path,
) -> None:
    store, journal = held_store(tmp_path / "a.jsonl")
    with store:
        given_up = store.put(Answer("k1", "yes"))
        assert journal.writes.wait(60) and given_up.cancel()
        beside_it = store.put(Answer("k2", "yes"))
        journal.may_write.set()
        beside_it.result(timeout=20)
        store.put(Answer("k3", "yes")).result(timeout=60)
        assert store.get("k1") == Answer("k1", "yes")
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 3


def test_a_cancelled_promise_does_not_hide_what_the_disk_did(tmp_path: Path) -> None:
    store, journal = held_store(tmp_path / "a.jsonl")
    with store:
        given_up = store.put(Answer("k1", "yes"))
        assert journal.writes.wait(60) and given_up.cancel()
        journal.append = full_disk  # type: ignore[method-assign]
        others = [store.put(Answer(key, "yes")) for key in ("k2", "k3")]
        assert others[0].cancel()
        journal.may_write.set()
        with pytest.raises(OSError, match="No space left"):
            others[1].result(timeout=20)


def full_disk(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def test_an_engine_goes_on_after_a_batch_that_was_interrupted_while_the_disk_wrote(
    server: ChatServer, tmp_path: Path
) -> None:
    store, journal = held_store(tmp_path / "a.jsonl")
    with store, OpenAIEngine(server.url, "toy", "TOY_KEY", store) as engine:
        batch = asyncio.run_coroutine_threadsafe(engine._batch(requests_of("q")), engine._loop)
        assert journal.writes.wait(60)  # the answer has come
        batch.cancel()  # what `complete` does when Ctrl-C interrupts it
        deadline = time.monotonic() + 60
        while engine._under_way and time.monotonic() < deadline:
            time.sleep(0.005)
        journal.may_write.set()
        while not len(store) and time.monotonic() < deadline:
            time.sleep(0.005)
        more = engine._batch(requests_of("r", "q"))
        again = asyncio.run_coroutine_threadsafe(more, engine._loop)
        assert again.result(timeout=20) == ["R", "Q"]
    assert server.seen == {"q": 1, "r": 1}
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 2
