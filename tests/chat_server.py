"""A chat server for tests, in a thread: it answers in capitals, counts, and fails when told to."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from videothinker.synthesis.engine import Request, chat

CANARY = "sk-canary-31415926535"


class ChatServer(ThreadingHTTPServer):
    """Speaks /v1/chat/completions.

    Attributes
    ----------
    fail : gives a status for a question that came so many times: 200, another, or "no money".
    say : gives the text of the reply to a question; None for an empty one.
    delay : seconds until it replies.
    seen, asked_at : requests by their question: how many, and when.
    busy, busiest : requests that it works on now, and the most of them that there were.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.fail: Callable[[str, int], int | str] = lambda question, seen: 200
        self.say: Callable[[str], str | None] = str.upper
        self.delay = 0.0
        self.seen: Counter[str] = Counter()
        self.asked_at: dict[str, list[float]] = {}
        self.busy = self.busiest = 0
        self.lock = threading.Lock()

    def handle_error(self, *_: Any) -> None:
        """Say nothing of a client that was killed."""

    def status_of(self, question: str) -> int | str:
        """Count a request that comes, and decide how it goes."""
        with self.lock:
            self.seen[question] += 1
            self.asked_at.setdefault(question, []).append(time.time())
            self.busy += 1
            self.busiest = max(self.busiest, self.busy)
            return self.fail(question, self.seen[question])


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ChatServer

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = body["messages"][-1]["content"]
        status = self.server.status_of(question)
        time.sleep(self.server.delay)
        with self.server.lock:
            self.server.busy -= 1
        choice = {"message": {"content": self.server.say(question)}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 10, "completion_tokens": 5}
        reply: Any = {"choices": [choice], "usage": usage}
        if status != 200:  # rude: it repeats the key
            code = "insufficient_quota" if status == "no money" else "other"
            reply = {"error": {"message": f"no: {self.headers['Authorization']}", "code": code}}
        data = json.dumps(reply).encode()
        self.send_response(429 if isinstance(status, str) else status)
        self.send_header("Content-Length", str(len(data)))
        if status == 429:
            self.send_header("Retry-After", "0.01")
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def running() -> Iterator[ChatServer]:
    """A server that runs."""
    with ChatServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def requests_of(*questions: str) -> list[Request]:
    """Requests with room for eight tokens."""
    return [Request(chat("s", question), max_tokens=8) for question in questions]
