"""Servers in all their ways: no reply loses a paid answer, and none breaks the cache."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from yarl import URL

from videothinker.files import InputError, UserError
from videothinker.journal import read_journal
from videothinker.json_files import dumps
from videothinker.schema import Clip, Sample, Segment
from videothinker.synthesis.batch_api_engine import BatchAPIEngine
from videothinker.synthesis.budget import Budget
from videothinker.synthesis.dry_run import DryRunEngine
from videothinker.synthesis.engine import EngineError, FunctionEngine, Request, chat, read_answers
from videothinker.synthesis.openai_engine import OpenAIEngine
from videothinker.synthesis.server_replies import StatusError, error_line, public_address
from videothinker.synthesis.store import total
from videothinker.synthesis.stored_engine import REFUSALS
from videothinker.synthesis.synthesize import TeacherError
from videothinker.synthesis.teacher import EngineTeacher

CANARY = "sk-canary-31415926535"
Reply = tuple[int, dict[str, str], bytes]  # status, headers, body


class Server(ThreadingHTTPServer):
    """A chat server: `reply(n, body)` is what the n-th request (from 0) gets."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply: Callable[[int, dict[str, Any]], Any] = lambda n, body: completion("fine")
        self.bodies: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that has gone


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:  # what a redirected POST becomes
        self.send_error(405)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            n = len(self.server.bodies)
            self.server.bodies.append(body)
        said = self.server.reply(n, body)
        if isinstance(said, dict):
            said = (200, {}, json.dumps(said).encode())
        status, headers, data = said
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def completion(content: Any = "fine", finish: Any = "stop", **message: Any) -> dict[str, Any]:
    """A chat completion; `usage=` is its own field, all others are the message's."""
    usage = message.pop("usage", {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15})
    message = {"role": "assistant", "content": content, **message}
    choice = {"index": 0, "finish_reason": finish, "message": message}
    return {"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage}


def problem(status: int, message: str, headers: dict[str, str] | None = None, **more: Any) -> Reply:
    return status, headers or {}, json.dumps({"error": {"message": message, **more}}).encode()


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch, Server() as server:
        patch.setenv("TOY_KEY", CANARY)
        # certificates, which nothing here needs, are most of what an engine's start takes
        patch.setattr("ssl.SSLContext.load_verify_locations", lambda *_, **__: None)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def server(running: Server) -> Server:
    running.bodies.clear()
    running.reply = lambda n, body: completion("fine")
    return running


def ask(*questions: str, **fields: Any) -> list[Request]:
    return [Request(chat("s", question), max_tokens=8, **fields) for question in questions]


def engine_at(server: Server, cache: Path | None = None, **fields: Any) -> OpenAIEngine:
    return OpenAIEngine(server.url, "toy", "TOY_KEY", cache, **{"pause": 0.001, **fields})


def without_waiting(engine: OpenAIEngine) -> list[float]:
    """Let an engine's pauses pass at once; returns the list that they are noted in."""
    waited: list[float] = []

    async def wait(seconds: float) -> None:
        waited.append(seconds)
        await asyncio.sleep(0)

    engine._wait = wait  # type: ignore[method-assign]
    return waited


# Counts of tokens

USAGES = [
    {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None},
    {},
    None,
    [],
    "free of charge",
    {"prompt_tokens": -5, "completion_tokens": -1},
    {"prompt_tokens": float("nan"), "completion_tokens": float("inf")},
    {"prompt_tokens": "ten", "completion_tokens": {}},
    {"prompt_tokens": 10**400, "completion_tokens": True},
]


@pytest.mark.parametrize("usage", USAGES)
def test_odd_usage_neither_breaks_nor_counts(server: Server, tmp_path: Path, usage: Any) -> None:
    server.reply = lambda n, body: completion("fine", usage=usage)
    for sent in (1, 0):
        with engine_at(server, tmp_path / "c.jsonl", budget_tokens=1000) as engine:
            assert engine.complete(ask("q")) == ["fine"]
            assert engine.usage.sent == sent and 0 < total(engine.store.spent).tokens < 1000
            assert isinstance(total(engine.store.spent).tokens, int)


def test_a_cache_with_nulls_is_read_again(server: Server, tmp_path: Path) -> None:
    """As such lines stand in caches that were written before nulls were looked for."""
    with engine_at(server) as engine:
        key = engine.key(ask("q")[0])
    line = {"key": key, "text": "paid", "reason": "", "prompt_tokens": None}
    (tmp_path / "c.jsonl").write_text(json.dumps(line | {"completion_tokens": None}) + "\n")
    with engine_at(server, tmp_path / "c.jsonl") as engine:
        assert engine.complete(ask("q")) == ["paid"] and not server.bodies


# Replies without an answer

USELESS = {
    "reasoning": completion(None, reasoning_content="the red square, so A"),
    "no answer but reasoning": completion("", reasoning="the red square, so A"),
    "refused: I cannot": completion(None, refusal="I cannot help with that"),
    "cut off before the answer": completion(None, "length", reasoning_content="let me think"),
    "filtered": completion("The", "content_filter"),
    "a call of a tool": completion(None, "tool_calls", tool_calls=[{"id": "1"}]),
    "empty": completion([]),
}


@pytest.mark.parametrize("reason", USELESS)
def test_useless_replies_say_why_and_are_asked_again_when_the_user_says_so(
    server: Server, tmp_path: Path, reason: str
) -> None:
    mended: list[bool] = []
    server.reply = lambda n, body: completion("an answer") if mended else USELESS[reason]
    with engine_at(server, tmp_path / "c.jsonl") as engine:
        assert engine.complete(ask("q", "q")) == [None, None]
        assert engine.complete(ask("q")) == [None]  # within a run it is not paid for twice
        assert reason in engine.reason(ask("q")[0]) and engine.replied(ask("q")[0])
    assert len(server.bodies) == 1
    mended.append(True)
    with engine_at(server, tmp_path / "c.jsonl") as engine:  # nobody has said so
        assert engine.complete(ask("q")) == [None] and reason in engine.reason(ask("q")[0])
    assert len(server.bodies) == 1
    for again in (True, False):
        with engine_at(server, tmp_path / "c.jsonl", ask_again=again) as engine:
            assert engine.complete(ask("q")) == ["an answer"]
            assert total(engine.store.spent).tokens == 30  # both replies were paid for
    assert len(server.bodies) == 2


def test_an_answer_that_does_not_fit_is_remembered(server: Server, tmp_path: Path) -> None:
    server.reply = lambda n, body: completion("it is the", "length")
    for _ in range(2):
        with engine_at(server, tmp_path / "c.jsonl") as engine:
            assert engine.complete(ask("q")) == [None] and total(engine.store.spent).tokens == 15
            assert engine.reason(ask("q")[0]) == "cut off after 8 tokens"
    assert len(server.bodies) == 1


PARTS = [
    [{"type": "text", "text": "fi"}, {"type": "text", "text": "ne"}],
    [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "fine"}],
    ["fine"],
    [{"text": "fine"}, {"type": "image_url", "image_url": {"url": "x"}}, None, 5],
]


@pytest.mark.parametrize("content", PARTS)
def test_parts_of_a_content_are_joined(server: Server, content: Any) -> None:
    server.reply = lambda n, body: completion(content)
    with engine_at(server) as engine:
        assert engine.complete(ask("q")) == ["fine"] and engine.usage.sent == 1


STREAM = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"hi"}}]}\n\ndata: [DONE]\n\n'
STRANGE: dict[str, Any] = {
    "choices": completion() | {"choices": []},
    "null": completion() | {"choices": None},
    "overloaded": {"error": {"message": "the model is overloaded"}},
    "Bad Gateway": (200, {"Content-Type": "text/html"}, b"<html><h1>Bad Gateway</h1>log in</html>"),
    "data:": (200, {"Content-Type": "text/event-stream"}, STREAM),
    "not a chat completion": (200, {}, b"[" * 100_000),
    "content-encoding: gzip": (200, {"Content-Encoding": "gzip"}, b"this is not gzip"),
    "status 200: upstream": {"choices": [{"error": {"message": "upstream is gone"}}]},
}


@pytest.mark.parametrize("words", STRANGE)
def test_what_is_no_completion_costs_two_requests(server: Server, words: str) -> None:
    server.reply = lambda n, body: STRANGE[words]
    with engine_at(server) as engine:
        assert engine.complete(ask("q")) == [None] and len(server.bodies) == 2
        reason = engine.reason(ask("q")[0])
        assert words in reason
        assert not engine.replied(ask("q")[0])


def test_an_error_with_status_200_goes_by_its_code(server: Server) -> None:
    server.reply = lambda n, body: (
        completion("fine") if n >= 4 else {"error": {"message": "busy", "code": (503, 429)[n % 2]}}
    )
    with engine_at(server, retries=2) as engine:
        without_waiting(engine)
        assert engine.complete(ask("q")) == ["fine"] and engine.usage.sent == 5


def test_odd_transport_is_read(server: Server, tmp_path: Path) -> None:
    good = json.dumps(completion("caf\u00e9")).encode()
    latin = json.dumps(completion("caf\u00e9"), ensure_ascii=False).encode("latin-1")
    said = [
        (200, {"Content-Encoding": "gzip"}, gzip.compress(good)),
        (200, {"Content-Type": "text/plain"}, good),
        (200, {}, b"\xef\xbb\xbf" + good),
        (200, {}, b"\n" * 5000 + good),
        (200, {}, latin),  # not UTF-8
        (200, {}, json.dumps(completion("\ud83d half")).encode()),  # half a character
    ]
    server.reply = lambda n, body: said[n]
    with engine_at(server, tmp_path / "c.jsonl") as engine:
        texts = [engine.complete(ask(str(i)))[0] for i in range(len(said))]
    assert texts[:4] == ["caf\u00e9"] * 4 and texts[4:] == ["caf\ufffd", "\ufffd half"]
    assert len(read_answers(read_journal(tmp_path / "c.jsonl"))) == len(said)


def test_half_characters_in_a_question_are_sent(server: Server) -> None:
    with engine_at(server) as engine:
        assert engine.complete(ask("a\ud800b")) == ["fine"]
    assert server.bodies[0]["messages"][1]["content"] == "a\ufffdb"


# Fields that a server does not take

REFUSED = {
    "max_tokens": problem(
        400,
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
        "'max_completion_tokens' instead.",
        param="max_tokens",
        code="unsupported_parameter",
    ),
    "temperature": problem(
        400,
        "Unsupported value: 'temperature' does not support 0.5 with this model. Only the default "
        "(1) value is supported.",
        param="temperature",
        code="unsupported_value",
    ),
    "seed": (
        422,
        {},
        b'{"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}',
    ),
}


def test_fields_that_a_server_does_not_take(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def reply(n: int, body: dict[str, Any]) -> Any:
        return next((REFUSED[name] for name in REFUSED if name in body), completion("fine"))

    server.reply = reply
    questions = ask(*map(str, range(20)), temperature=0.5, seed=1)
    with engine_at(server, tmp_path / "c.jsonl", concurrency=2) as engine:
        assert engine.complete(questions) == ["fine"] * 20
    assert len(server.bodies) <= 20 + 2 * 3
    assert server.bodies[-1].keys() == {"model", "messages", "max_completion_tokens"}
    assert server.bodies[-1]["max_completion_tokens"] == 8
    told = " ".join(caplog.messages)
    assert len(caplog.messages) == 3 and all(name in told for name in REFUSED)
    with engine_at(server, tmp_path / "c.jsonl") as engine:  # they are the same requests
        assert engine.complete(questions) == ["fine"] * 20 and engine.usage.sent == 0


def test_fields_of_the_user_stay(server: Server) -> None:
    server.reply = lambda n, body: REFUSED["temperature"] if n < 50 else completion()
    extra = {"temperature": 0.5, "max_tokens": None, "seed": None, "top_p": 1}
    with engine_at(server, extra=extra) as engine:
        assert engine.complete(ask("q", seed=3)) == [None]
        assert "temperature" in engine.reason(ask("q", seed=3)[0])
    assert [body.keys() for body in server.bodies] == [
        {"model", "messages", "temperature", "top_p"}
    ]


def test_the_newer_name_may_be_given_by_the_user(server: Server) -> None:
    with engine_at(server, extra={"max_completion_tokens": 99}) as engine:
        assert engine.complete(ask("q")) == ["fine"]
    assert server.bodies[0]["max_completion_tokens"] == 99
    assert "max_tokens" not in server.bodies[0]


def test_the_budget_knows_a_length_of_the_user(server: Server, tmp_path: Path) -> None:
    """`max_tokens` in `extra`, by either name, is what an answer may cost."""
    for name in ("max_tokens", "max_completion_tokens"):
        with engine_at(server, extra={name: 9000}, budget_tokens=5000) as engine:
            assert engine.complete(ask("q")) == [None]
            assert "5000 tokens" in engine.reason(ask("q")[0]) and not server.bodies
        with engine_at(server, extra={name: 9}, budget_tokens=500) as engine:
            long = [replace(request, max_tokens=900) for request in ask("q")]
            assert engine.complete(long) == ["fine"] and server.bodies.pop()[name] == 9
        dry = DryRunEngine("toy", extra={name: 9000}, budget_tokens=5000)
        dry.complete(ask("q"))
        assert dry.forecast().most.completion_tokens == 9000


@pytest.mark.parametrize(
    "extra, said",
    [
        ({"n": 2}, "extra may not set 'n'"),
        ({"messages": []}, "extra may not set 'messages'"),
        ({"max_tokens": None}, "extra leaves max_tokens out"),
        ({"max_tokens": None, "max_completion_tokens": None}, "extra leaves max_tokens out"),
        ({"max_tokens": -1}, "max_tokens is -1; it is a whole number above 0"),
        ({"max_completion_tokens": 0}, "max_completion_tokens is 0; it is"),
        ({"max_tokens": True}, "max_tokens is True; it is"),
        ({"max_tokens": 9000.0}, "max_tokens is 9000.0; it is"),
        ({"max_tokens": "9000"}, "max_tokens is '9000'; it is"),
        ({"max_tokens": 9, "max_completion_tokens": 9}, "leave one of them out"),
    ],
)
def test_fields_that_a_ceiling_needs_are_refused(
    server: Server, tmp_path: Path, extra: dict[str, Any], said: str
) -> None:
    engines = (OpenAIEngine, BatchAPIEngine)
    for make, options in itertools.product(engines, ({"budget_tokens": 9}, {"budget": Budget(9)})):
        with pytest.raises(InputError, match=said):
            make(server.url, "toy", None, tmp_path / "c.jsonl", extra=extra, **options)
        with pytest.raises(InputError, match=said):
            DryRunEngine("toy", extra=extra, **options)
    unlimited = {"max_tokens": None, "max_completion_tokens": 8}
    for free, ceiling in ((unlimited, 9), ({"max_tokens": None}, None)):
        engine_at(server, extra=free, budget_tokens=ceiling).close()


# Limits


def opens_after(seconds: float, waited: list[float], headers: Callable[[], dict[str, str]]) -> Any:
    """A server that limits its rate until so many seconds were waited."""
    return lambda n, body: (
        completion("fine")
        if sum(waited) >= seconds
        else problem(429, "slow down", headers(), code="rate_limit_exceeded")
    )


@pytest.mark.parametrize(
    "opens, headers",
    [
        (70, lambda left: {}),
        (1500, lambda left: {}),
        (45, lambda left: {"retry-after-ms": "45000"}),
        (300, lambda left: {"retry-after": "300"}),
        (40, lambda left: {"retry-after": formatdate(time.time() + left + 1, usegmt=True)}),
    ],
)
def test_a_limit_loses_nothing(
    server: Server, opens: float, headers: Callable[[float], dict[str, str]]
) -> None:
    with engine_at(server, pause=1.0, retries=0) as engine:
        waited = without_waiting(engine)
        server.reply = opens_after(opens, waited, lambda: headers(opens - sum(waited)))
        assert engine.complete(ask("q")) == ["fine"]
        assert max(waited) <= opens + 60 and len(server.bodies) < 12 + opens / 15
        if headers(1.0):  # it was told how long, and asked once more after that
            assert len(server.bodies) == 2 and opens - 1 <= waited[0] <= opens + 4


def test_patience_ends(server: Server) -> None:
    server.reply = lambda n, body: problem(429, "come back tomorrow", {"retry-after": "86400"})
    with engine_at(server, concurrency=1) as engine:
        waited = without_waiting(engine)
        assert engine.complete(ask(*map(str, range(30)))) == [None] * 30
        assert len(server.bodies) == 1 and not waited
        assert "come back tomorrow" in engine.reason(ask("29")[0])


def test_a_busy_server_that_says_when_is_no_fault(server: Server) -> None:
    server.reply = lambda n, body: (
        completion("fine") if n >= 9 else problem(503, "loading", {"retry-after": "5"})
    )
    with engine_at(server, retries=0) as engine:
        waited = without_waiting(engine)
        assert engine.complete(ask("q")) == ["fine"] and min(waited) >= 5


# When nothing comes of anything


@pytest.mark.parametrize(
    "reply",
    [
        problem(400, "At most 1 image(s) may be provided in one prompt."),
        problem(403, "this model is not for you"),
        problem(422, "unknown field"),
        completion(None, reasoning_content="hm"),
        completion("it is", "length"),
        (200, {"Content-Type": "text/html"}, b"<html>please log in</html>"),
    ],
)
def test_refusals_of_all_requests_end_the_sending(
    server: Server, tmp_path: Path, reply: Any
) -> None:
    server.reply = lambda n, body: reply
    with engine_at(server, tmp_path / "c.jsonl", concurrency=2) as engine:
        assert engine.complete(ask(*map(str, range(60)))) == [None] * 60
        assert len(server.bodies) <= 2 * (REFUSALS + 2)
        last = engine.reason(ask("59")[0])
        assert "no more is sent" in last and not engine.replied(ask("59")[0])
    server.reply = lambda n, body: completion("fine")
    with engine_at(server, tmp_path / "c.jsonl") as engine:
        assert engine.complete(ask("59")) == ["fine"]


def test_a_wrong_name_or_key_ends_it_at_once(server: Server) -> None:
    for status in (401, 402, 404, 405):
        server.bodies.clear()
        server.reply = lambda n, body, s=status: problem(s, f"no: {CANARY}")
        with engine_at(server, concurrency=1) as engine:
            assert engine.complete(ask(*map(str, range(9)))) == [None] * 9
            assert len(server.bodies) == 1 and engine.errors[-1][1] == f"HTTP {status}: no: ***"


def test_a_key_in_the_address_is_taken_out(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of `?key=…`, `?access_token=…` and of a user's password, as they are and as in an address."""
    monkeypatch.delenv("TOY_KEY", raising=False)
    keys = {"key": f"{CANARY}/+1", "access_token": f"{CANARY}-2", "api-version": "2026-01-01"}
    said = f"{keys['key']} {quote(keys['key'], safe='')} {keys['access_token']} hunter2 2026-01-01"
    server.reply = lambda n, body: problem(400, said)
    url = server.url.replace("//", "//me:hunter2@") + f"?{urlencode(keys)}"
    with OpenAIEngine(url, "toy", None, tmp_path / "c.jsonl") as engine:
        assert engine.complete(ask("q")) == [None]
        assert engine.errors[-1][1] == "HTTP 400: *** *** *** *** 2026-01-01"
    assert CANARY not in (tmp_path / "c.jsonl").read_text()


@pytest.mark.parametrize("written", ["{}", "{quoted}", "{as_sent}", "{json}"])
@pytest.mark.parametrize("sent", ["?sig=ab/cd%2Bef%3Dgh", "?jwt=x&jwt=ab%2fcd%2bef%3dgh&pwd=y"])
def test_a_key_in_the_address_is_taken_out_however_it_is_written(
    server: Server, sent: str, written: str
) -> None:
    """Each program that passes an address on escapes other characters of it."""
    key = "ab/cd+ef=gh"
    forms = {
        "quoted": quote(key, safe="").lower(),
        "as_sent": str(URL("http://a").update_query({"k": key})).partition("k=")[2],
        "json": json.dumps(key).replace("/", "\\/"),
    }
    assert forms["as_sent"] == "ab/cd%2Bef%3Dgh"
    server.reply = lambda n, body: problem(400, f"no: {written.format(key, **forms)} x y")
    with OpenAIEngine(server.url + sent, "toy", None) as engine:
        assert engine.complete(ask("q")) == [None]
        assert engine.errors[-1][1].replace('"', "") == "HTTP 400: no: *** x y"


@pytest.mark.parametrize("user", ["tok-en%2Fword", "me:tok-en%2Fword", "tok-en%2Fword:x"])
def test_a_user_is_a_key_for_some_servers(server: Server, user: str) -> None:
    server.reply = lambda n, body: problem(401, "tok-en/word, tok-en%2Fword, me")
    with OpenAIEngine(server.url.replace("//", f"//{user}@"), "toy", None) as engine:
        assert engine.complete(ask("q")) == [None]
        assert engine.errors[-1][1].startswith("HTTP 401: ***, ***, me")


def test_a_short_value_is_left_in_the_words_of_a_server(server: Server) -> None:
    server.reply = lambda n, body: problem(400, "11 images are too many: use_auth is true")
    with OpenAIEngine(f"{server.url}?code=1&use_auth=true", "toy", None) as engine:
        assert engine.complete(ask("q")) == [None]
        assert engine.errors[-1][1] == "HTTP 400: 11 images are too many: use_auth is true"


@pytest.mark.parametrize(
    "url",
    [
        f"htp://me:{CANARY}@a.b/v1",
        f"https://me:{CANARY}@[::1/v1",
        f"me:{CANARY}@a.b:8000",
        f"https://a.b:x/v1?key={CANARY}",
        f"https://{CANARY}@a.b/v1?x= y",
    ],
)
def test_an_address_that_is_none_is_told_without_keys(url: str) -> None:
    with pytest.raises(InputError, match="is no address of a server") as refused:
        OpenAIEngine(url, "toy", None)
    assert not any(piece in str(refused.value) for piece in pieces(CANARY)), refused.value
    assert CANARY not in public_address(url)


def pieces(key: str, length: int = 6) -> set[str]:
    """All parts of a key that are so long: one of them in a text gives it away."""
    return {key[i : i + length] for i in range(len(key) - length + 1)}


@pytest.mark.parametrize("body", [{"error": {"message": "{}"}}, {"detail": "{}"}, ["{}"], "{}"])
def test_a_key_that_is_cut_in_the_middle_is_taken_out(body: Any) -> None:
    """Words of a server are cut to 200 characters, and a long page before that."""
    for before in (*range(150, 201, 5), *range(3970, 4001, 5)):
        said = json.dumps(body).replace("{}", f"{'x ' * (before // 2)}{CANARY}")
        line = error_line(StatusError(401, {}, json.loads(said)), [CANARY])
        assert not any(piece in line for piece in pieces(CANARY)), line
    spoken = error_line(StatusError(401, {}, {"error": {"message": f"key {CANARY}"}}), [CANARY])
    assert spoken == "HTTP 401: key ***"
    quoted = 'sk-"\\-0123456789'
    assert (
        error_line(StatusError(400, {}, {"error": {"got": [quoted]}}), [quoted]).count("***") == 1
    )


@pytest.mark.parametrize("padding", [0, 150, 165, 175])
def test_no_reply_brings_the_key_into_a_file(server: Server, tmp_path: Path, padding: int) -> None:
    """The key in a refusal, in errors of both kinds, and in a completion that is none."""
    said = f"{'x' * padding} {CANARY} {'x' * 200}"
    location = {"Location": f"http://127.0.0.1:9/{CANARY}"}
    replies = [
        completion(None, refusal=said),
        completion("", refusal={"why": said}),
        problem(401, said),
        {"error": {"message": said}},
        {"choices": [{"message": said}]},
        (307, location, b""),
    ]
    for number, reply in enumerate(replies):
        server.reply = lambda n, body, reply=reply: reply  # type: ignore[misc]
        cache = tmp_path / f"{number}.jsonl"
        with engine_at(server, cache, retries=0) as engine:
            assert engine.complete(ask("q")) == [None]
            written = f"{engine.errors} {cache.read_text()}"
        assert not any(piece in written for piece in pieces(CANARY)), written


def test_nobody_waits_for_a_server_that_has_refused_the_key(server: Server) -> None:
    server.reply = lambda n, body: (
        problem(429, "later", {"retry-after": "3000"}) if n == 0 else problem(401, "key expired")
    )
    start = time.monotonic()
    with engine_at(server, concurrency=2) as engine:
        assert engine.complete(ask("a", "b", "c")) == [None] * 3
    assert time.monotonic() - start < 600


def test_rows_that_are_refused_one_by_one_end_nothing(server: Server, tmp_path: Path) -> None:
    def reply(n: int, body: dict[str, Any]) -> Any:
        question = body["messages"][1]["content"]
        return completion("fine") if question in ("first", "last") else problem(400, "too long")

    server.reply = reply
    questions = ask("first", *map(str, range(50)), "last")
    for _ in range(2):  # in the second run those that are refused come first
        with engine_at(server, tmp_path / "c.jsonl", concurrency=1) as engine:
            assert engine.complete(questions) == ["fine", *[None] * 50, "fine"]


@pytest.mark.parametrize("concurrency", [1, 4])
def test_refusals_of_the_first_rows_do_not_end_it(server: Server, concurrency: int) -> None:
    def reply(n: int, body: dict[str, Any]) -> Any:
        time.sleep(0.01)
        fine = int(body["messages"][1]["content"]) >= 2 * REFUSALS
        return completion("fine") if fine else problem(400, "too long")

    server.reply = reply
    with engine_at(server, concurrency=concurrency) as engine:
        answers = engine.complete(ask(*map(str, range(4 * REFUSALS))))
    assert answers == [None] * (2 * REFUSALS) + ["fine"] * (2 * REFUSALS)
    assert len(server.bodies) == 4 * REFUSALS  # the one that was tried first is asked once
    server.reply = lambda n, body: problem(400, f"the prompt has {n + 900} tokens")
    with engine_at(server) as engine:  # each in other words: it lies in the rows
        engine.complete(ask(*map(str, range(3 * REFUSALS))))
        assert engine.usage.sent == 3 * REFUSALS


# A model whose context is small


@pytest.mark.parametrize(
    "words",
    [
        "'max_tokens' or 'max_completion_tokens' is too large: {sent}. This model's maximum "
        "context length is 4096 tokens and your request has 200 input tokens.",
        "This model's maximum context length is 4096 tokens. However, you requested {sent} tokens.",
        "Requested token count exceeds the model's context length of 4096 tokens: {sent}.",
    ],
)
def test_a_small_context_gets_shorter_answers(
    server: Server, tmp_path: Path, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    def reply(n: int, body: dict[str, Any]) -> Any:
        sent, prompt = body["max_tokens"], body["messages"][1]["content"]
        room = 500 if prompt == "long" else 3800
        return completion() if sent <= room else problem(400, words.format(sent=sent))

    server.reply = reply
    questions = [Request(chat("s", q), max_tokens=8192) for q in ("a", "long", "b", "c")]
    cache = tmp_path / "c.jsonl"
    with engine_at(server, cache, concurrency=1, budget_tokens=10_000) as engine:
        assert engine.complete(questions) == ["fine", None, "fine", "fine"]
        sent = [body["max_tokens"] for body in server.bodies]
        assert sent == [8192, 4096, 2048, 2048, 1024, 512, 2048, 2048]  # long costs only itself
    assert caplog.text.count("has a small context") == 2 and "up to 2048 tokens" in caplog.text
    server.bodies.clear()
    with engine_at(server, cache) as engine:  # under the key of what was asked for
        assert engine.complete([questions[0], questions[3]]) == ["fine", "fine"]
    assert not server.bodies


def test_a_length_of_the_user_is_not_changed(server: Server) -> None:
    server.reply = lambda n, body: problem(400, "maximum context length is 4096 tokens")
    with engine_at(server, extra={"max_tokens": 9000}) as engine:
        assert engine.complete(ask("q")) == [None] and len(server.bodies) == 1


@pytest.mark.parametrize("fields", [{"max_tokens": 9000}, {"max_completion_tokens": 9000}])
def test_a_length_of_one_request_is_the_user_s_too(server: Server, fields: dict[str, Any]) -> None:
    """It is neither halved, for ever, nor cut to what other requests have room for."""
    server.reply = lambda n, body: (
        completion("fine")
        if max(body.get(name, 0) for name in ("max_tokens", "max_completion_tokens")) < 3000
        else problem(400, "maximum context length is 4096 tokens")
    )
    [plain], [own] = ask("plain"), ask("own", fields=fields)
    with engine_at(server) as engine:
        assert engine.complete([replace(plain, max_tokens=8000)]) == ["fine"]
        batch = asyncio.run_coroutine_threadsafe(engine._batch([own]), engine._loop)
        assert batch.result(timeout=20) == [None] and "HTTP 400" in engine.reason(own)
    assert [body.get("max_tokens") for body in server.bodies[:3]] == [8000, 4000, 2000]
    assert {**server.bodies[-1], **fields} == server.bodies[-1] and len(server.bodies) == 4


@pytest.mark.parametrize(
    "fields, refused", [({"temperature": 0.5}, "temperature"), ({"max_tokens": 9}, "max_tokens")]
)
def test_a_field_of_one_request_that_the_server_refuses_is_not_sent_for_ever(
    server: Server, fields: dict[str, Any], refused: str
) -> None:
    server.reply = lambda n, body: problem(400, f"Unsupported parameter: '{refused}'")
    with engine_at(server) as engine:
        batch = asyncio.run_coroutine_threadsafe(
            engine._batch(ask("q", fields=fields)), engine._loop
        )
        assert batch.result(timeout=20) == [None] and len(server.bodies) == 1


@pytest.mark.parametrize("value", [-1, 0, True, 9000.0, "9000"])
def test_a_length_of_one_request_that_is_none_is_refused(server: Server, value: Any) -> None:
    with engine_at(server) as engine, pytest.raises(InputError, match="max_tokens is .* above 0"):
        engine.complete(ask("q", fields={"max_tokens": value}))
    assert not server.bodies and engine.budget.reserved == 0


def test_one_length_is_sent(server: Server, tmp_path: Path) -> None:
    """OpenAI refuses a request that has both."""
    for fields, extra, length in (
        ({}, {"max_completion_tokens": 99}, {"max_completion_tokens": 99}),
        ({"max_tokens": 9000}, {"max_completion_tokens": 99}, {"max_completion_tokens": 99}),
        ({"max_completion_tokens": 99}, {}, {"max_completion_tokens": 99}),
        ({"max_tokens": 9000}, {"max_completion_tokens": None}, {"max_tokens": 9000}),
        ({}, {"max_tokens": None}, {}),
    ):
        [request] = ask("q", fields=fields)
        with engine_at(server, extra=extra) as engine:
            assert engine.complete([request]) == ["fine"]
        cache = tmp_path / "c.jsonl"
        with BatchAPIEngine(server.url, "toy", "TOY_KEY", cache, extra=extra) as engine:
            lines = [server.bodies.pop(), json.loads(engine._line("k", request))["body"]]
        for body in lines:
            assert {name: n for name, n in body.items() if "tokens" in name} == length, body


def test_an_answer_cut_off_in_a_small_context_is_asked_again(
    server: Server, tmp_path: Path
) -> None:
    def reply(n: int, body: dict[str, Any]) -> Any:
        small = problem(400, "maximum context length is 1024 tokens")
        return small if body["max_tokens"] > 512 else completion("it is", "length")

    server.reply = reply
    question = [Request(chat("s", "q"), max_tokens=1024)]
    with engine_at(server, tmp_path / "c.jsonl") as engine:
        assert engine.complete(question) == [None]
        assert engine.reason(question[0]) == "small context: cut off after 512 tokens"
    server.reply = lambda n, body: completion("fine")
    with engine_at(server, tmp_path / "c.jsonl") as engine:
        assert engine.complete(question) == ["fine"]


def test_a_server_that_has_gone_ends_the_sending(server: Server, tmp_path: Path) -> None:
    server.reply = lambda n, body: completion("fine") if n < 3 else problem(500, "out of memory")
    with engine_at(server, tmp_path / "c.jsonl", concurrency=1, retries=1) as engine:
        assert engine.complete(ask(*map(str, range(500)))) == ["fine"] * 3 + [None] * 497
        assert len(server.bodies) == 3 + 2 * REFUSALS and "out of memory" in engine.errors[-1][1]
    with OpenAIEngine("http://127.0.0.1:9/v1", "toy", None, retries=0, pause=0) as engine:
        assert engine.complete(ask(*map(str, range(500)))) == [None] * 500
        assert REFUSALS <= engine.usage.sent <= REFUSALS + 32  # that were under way


def test_a_reply_that_trickles_is_a_timeout(server: Server) -> None:
    """A sign of life now and then, as some servers send under load, is no reply."""
    ended = threading.Event()

    def reply(n: int, body: dict[str, Any]) -> Any:
        ended.wait(20)
        return completion()

    class Trickle:
        def __iter__(self) -> Iterator[bytes]:
            while not ended.is_set():
                yield b"\n"
                time.sleep(0.05)

    server.reply = lambda n, body: (200, {}, Trickle())
    before, Handler.do_POST = Handler.do_POST, trickling(Handler.do_POST)
    try:
        start = time.monotonic()
        with engine_at(server, retries=0, timeout=0.5) as engine:
            assert engine.complete(ask("q")) == [None]
            assert "Timeout" in engine.reason(ask("q")[0])
        assert time.monotonic() - start < 15
    finally:
        ended.set()
        Handler.do_POST = before


def trickling(post: Callable[[Handler], None]) -> Callable[[Handler], None]:
    """`do_POST` whose body is sent piece by piece."""

    def do_post(self: Handler) -> None:
        write = self.wfile.write

        def pieces(data: Any) -> Any:
            if isinstance(data, bytes):
                return write(data)
            for piece in data:
                write(piece)
                self.wfile.flush()
            return None

        self.wfile.write = pieces  # type: ignore[method-assign]
        post(self)

    return do_post


# Addresses and settings


def test_the_address_may_be_written_in_several_ways(server: Server) -> None:
    root = server.url.removesuffix("/v1")
    for url in (root, f"{root}/", f"{root}/v1/", f"{root}/v1/chat/completions", f" {root}/v1 "):
        with OpenAIEngine(url, "toy", None) as engine:
            assert engine.complete(ask(url)) == ["fine"]


def test_a_proxy_is_not_asked_for_this_machine(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with engine_at(server, retries=0) as engine:
        assert engine.complete(ask("q")) == ["fine"]
    monkeypatch.setenv("ALL_PROXY", "no such thing://x")
    monkeypatch.setenv("HTTPS_PROXY", "no such thing://x")
    with pytest.raises(EngineError, match="HTTPS_PROXY"):
        OpenAIEngine("https://example.invalid/v1", "toy", None)


def test_a_redirection_is_named(server: Server) -> None:
    there = server.url.replace("127.0.0.1", "localhost")
    server.reply = lambda n, body: (301, {"Location": f"{there}/chat/completions"}, b"")
    with engine_at(server, retries=0) as engine:
        assert engine.complete(ask("q")) == [None]
        assert "redirected to http://localhost/v1" in engine.reason(ask("q")[0])


@pytest.mark.parametrize(
    "wrong",
    [
        {"concurrency": 0},
        {"retries": -1},
        {"timeout": 0},
        {"timeout": math.nan},
        {"pause": -1},
        {"patience": math.inf},
        {"extra": {"stream": True}},
        {"extra": {"messages": []}},
    ],
)
def test_numbers_that_cannot_be_are_refused(server: Server, wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        engine_at(server, **wrong)


# Ctrl-C

CLIENT = """
import sys
from videothinker.commands.main import main

main(sys.argv[1:])
"""


def test_ctrl_c_keeps_what_is_under_way_and_ends_all_waiting(
    server: Server, tmp_path: Path
) -> None:
    """Two requests are being answered and one waits for a limit when it is pressed."""
    from test_synthesis import star_rows

    from videothinker.schema import write_rows

    write_rows(tmp_path / "rows.jsonl", star_rows(30))
    limited = problem(429, "later", {"retry-after": "3000"})

    def reply(n: int, body: dict[str, Any]) -> Any:
        if n == 2:  # the other two are under way by then
            return limited
        time.sleep(2.0)
        return completion("<time>00:00-00:04</time> so <answer>A</answer>")

    server.reply = reply
    out = tmp_path / "out.jsonl"
    argv = ["synthesize", "--qa", tmp_path / "rows.jsonl", "--out", out, "--concurrency", 3]
    argv += ["--teacher-url", server.url, "--teacher-model", "m", "--api-key-env", ""]
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT, *map(str, argv)], stderr=subprocess.PIPE, text=True
    ) as client:
        deadline = time.monotonic() + 60
        while len(server.bodies) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        client.send_signal(signal.SIGINT)
        _, said = client.communicate(timeout=60)
    assert client.returncode not in (0, 2) and "stopped" in said and "Traceback" not in said
    # two, or three while the client has not read yet that one was put off
    assert re.search(r"stopping: [23] requests under way are awaited \(Ctrl-C again loses", said)
    assert len(server.bodies) == 3
    assert len(read_answers(read_journal(f"{out}.answers"))) == 2


# Whatever a server sends

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["", "stop", "length", "error", "\ud800", "\x00", "<think>", "429", "1e999"])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


def shaped(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """An object with these fields, each of which may be missing, or anything."""
    return st.fixed_dictionaries({}, optional={k: v | values for k, v in fields.items()})


def either(good: Any, *odd: Any) -> st.SearchStrategy[Any]:
    """Mostly what is right, else one of the odd values, seldom anything."""
    return st.one_of(st.just(good), st.just(good), st.sampled_from([good, *odd]), values)


odd_counts = [7, None, -500, "12", "x", True, 1.5, math.nan, math.inf, 10**400, [], {}]
token_counts = st.sampled_from(odd_counts)
usages = st.fixed_dictionaries({"prompt_tokens": token_counts, "completion_tokens": token_counts})
parts = st.lists(
    st.fixed_dictionaries({"type": either("text", "thinking"), "text": either("x", None)}),
    max_size=3,
)
message = st.fixed_dictionaries(
    {"content": either("fine", None, "", "\ud800", "\x00") | st.text(max_size=9) | parts},
    optional={
        "reasoning_content": either("hm", ""),
        "refusal": either("no", {}),
        "tool_calls": either([{}]),
    },
)
choice = st.fixed_dictionaries(
    {"message": message, "finish_reason": either("stop", None, "length", "content_filter")},
    optional={"error": either(None, {"message": "no", "code": 502}), "logprobs": st.none()},
)
completions = st.fixed_dictionaries(
    {"choices": st.lists(choice, min_size=1, max_size=2) | either([], None, [None])},
    optional={"usage": usages | either(None, {}, "free"), "id": values},
)
errors = shaped(
    error=shaped(
        message=st.text(max_size=30)
        | st.sampled_from(["'max_tokens' is not supported", "unknown field seed", CANARY]),
        code=st.sampled_from(["unsupported_parameter", "insufficient_quota", 429, 503, "x"]),
        param=st.sampled_from(["max_tokens", "temperature", "seed", "top_p"]),
    ),
    detail=st.lists(shaped(loc=st.just(["body", "seed"]), msg=st.text(max_size=9)), max_size=2),
)
encoded = st.one_of(
    completions.map(json.dumps).map(str.encode),
    completions.map(lambda v: json.dumps(v, ensure_ascii=False).encode("utf-16", "surrogatepass")),
    errors.map(json.dumps).map(str.encode),
    values.map(json.dumps).map(str.encode),
    st.binary(max_size=60),
    st.sampled_from([STREAM, b"<html><h1>502 Bad Gateway", b"", b"null", b"{", b"\xff" * 9]),
)
statuses = st.sampled_from(
    [200, 201, 204, 300, 304, 400, 401, 402, 403, 404, 408, 413, 422, 429, 451, 500, 502, 503, 599]
)
text = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)
odd_headers = st.fixed_dictionaries(
    {},
    optional={
        "Content-Type": st.sampled_from(
            ["text/html", "application/json; charset=latin-1", "text/event-stream", "x; charset=no"]
        ),
        "Retry-After": st.sampled_from(["1", "-1", "nan", "1e400", "Wed, 21 Oct 2026 07:28:00 GMT"])
        | text,
        "retry-after-ms": st.sampled_from(["5", "inf"]) | text,
        "Date": text,
    },
)
broken_headers = st.fixed_dictionaries(
    {},
    optional={
        "Content-Encoding": st.sampled_from(["gzip", "deflate", "identity", "br"]),
        "Content-Length": st.sampled_from(["0", "5", "99999"]),
    },
)
paid = st.tuples(st.just(200), odd_headers, completions.map(json.dumps).map(str.encode))
replies = st.one_of(
    paid,
    paid,
    st.tuples(statuses, odd_headers, encoded),
    st.tuples(statuses, broken_headers, encoded),
)


@settings(
    max_examples=int(os.environ.get("VT_EXAMPLES", "80")),
    deadline=None,
    derandomize="VT_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
    database=None,
)
@given(said=st.lists(replies, min_size=1, max_size=4))
@example(said=[(200, {}, json.dumps(completion("x", usage=USAGES[0])).encode())])
@example(said=[(200, {}, json.dumps(completion("\ud800")).encode())])
def test_whatever_a_server_sends(
    running: Server, tmp_path_factory: pytest.TempPathFactory, said: list[Any]
) -> None:
    cache = tmp_path_factory.mktemp("any") / "c.jsonl"
    running.bodies.clear()
    running.reply = lambda n, body: completion("paid")
    with engine_at(running, cache, timeout=2.0, retries=2) as engine:
        without_waiting(engine)
        assert engine.complete(ask("first")) == ["paid"]
        running.reply = lambda n, body: said[n - 1] if n <= len(said) else completion("late")
        [text] = engine.complete(ask("q"))
        assert len(running.bodies) <= 1 + len(said) + 1
        assert (text is None) == bool(engine.errors)
        for _, reason in engine.errors:
            assert reason and reason.isprintable() and len(reason) < 600 and CANARY not in reason
        check_counts(engine)
        spent = total(engine.store.spent).tokens
    assert CANARY not in cache.read_text()
    replied = len(read_answers(read_journal(cache))) > 1  # be it without a text
    running.reply = lambda n, body: completion("mended")
    with engine_at(running, cache) as engine:
        assert total(engine.store.spent).tokens == spent
        assert engine.complete(ask("first")) == ["paid"]  # nothing paid for is lost
        [again] = engine.complete(ask("q"))
        assert again == (text if replied else "mended")
        assert (again or "").encode() is not None  # whole characters
        check_counts(engine)


def check_counts(engine: OpenAIEngine) -> None:
    usage = engine.usage
    for number in (total(engine.store.spent).tokens, engine.budget.reserved, *vars(usage).values()):
        assert type(number) is int and number >= 0
    assert engine.budget.reserved == 0


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(line=values | shaped(key=st.text(max_size=5), text=st.text(max_size=5), reason=st.text()))
def test_whatever_stands_in_a_cache(line: Any) -> None:
    with contextlib.suppress(UserError):
        for answer in read_answers([line]).values():
            assert isinstance(answer.tokens, int) and answer.tokens >= 0
            assert answer.text is None or isinstance(answer.text, str)


# Whatever a model writes

words = st.text(max_size=12) | st.sampled_from(
    [
        "A",
        "B. rain",
        "rain",
        "the answer is B",
        "<|im_end|>",
        "\ud800",
        "J. Smith",
        "<caption>",
        "\n",
    ]
)


@st.composite
def question(draw: st.DrawFn) -> str:
    """A question as a model writes it, mostly with an answer that is among the options."""
    options = draw(st.lists(words, min_size=3, max_size=7))
    answer = draw(st.sampled_from([*options, "A", "C", "B. rain"]))
    return json.dumps({"question": draw(words), "options": options, "answer": answer})


questions = question()
written = questions | words | st.builds("<think>{}</think>{}".format, words, questions)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(reply=written)
@example(reply='{"a": ' * 100_000 + "}")
def test_whatever_a_model_writes(reply: str) -> None:
    """Rows that can be read back, or a `TeacherError`: never anything else."""
    clip = Clip("v", "v.mp4", 9.0, "train", [Segment(0.0, 4.0, "a ring")], "STAR")
    teacher = EngineTeacher(FunctionEngine(lambda request: reply), lambda *_: [], tries=1)
    with contextlib.suppress(TeacherError):
        row = teacher.question(clip, 0)
        assert Sample.from_row(json.loads(dumps(row.to_row()))) == row
        assert "".join([row.problem, *row.options]).encode()  # whole characters
        assert row.answer in row.letters and len(set(row.letters)) == len(row.options) >= 4
    row = Sample("?", ["A. x", "B. y"], "<answer>A</answer>", "v.mp4", segments=clip.segments)
    for task in (lambda: teacher.trace(row, 0), lambda: teacher.captions(row, clip)):
        with contextlib.suppress(TeacherError):
            said = task()
            assert "<|im_end|>" not in str(said)
