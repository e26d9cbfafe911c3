"""A chat endpoint in a process of its own that is scripted: latency, slots, faults, what it says.

    with started(Script(slots=64, latency=0.5, faults=0.1)) as endpoint:
        …                          # ask endpoint.url
        endpoint.counts()

Scripts that measure the engines ask it, and believe its counts. It answers each request after
`latency` seconds, `slots` of them at a time; what is more waits, or gets a 429 with `refuse`. What
it says depends on the request alone, and so does what goes wrong: the same request fails in the
same ways in every run, and never for ever. It has a batch API, too, whose batches have ended when
they are looked at.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from videothinker.synthesis.engine import Request

# What can go wrong with a reply, each as often as the others. `hang`: none comes. `drop`: the
# connection ends before it. `torn`: and in the middle of it. `length`: the answer was cut off.
FAULTS = ("429", "500", "503", "hang", "drop", "torn", "length", "null", "garbage")
MOST_FAULTS = 3  # of one request, one after the other
TEXT = ("It takes the red square and leaves. " * 20).strip()
COLOURS = ("red", "green", "blue", "yellow", "purple", "white", "orange")


@dataclass(frozen=True)
class Script:
    """How an endpoint behaves.

    Parameters
    ----------
    slots : requests that it works on at the same time.
    latency : seconds that one takes it.
    refuse : 429 where no slot is free; else it waits for one.
    faults : fraction of the requests that something goes wrong with.
    """

    slots: int = 64
    latency: float = 0.5
    refuse: bool = False
    faults: float = 0.0


def mark_of(body: dict[str, Any]) -> str:
    """What an answer is made of: a digest of the messages, and of the attempt that the seed is of.

    The seeds of `EngineTeacher` that only differ in their last three digits are tries of one
    attempt: a reply that never arrived is asked for again with the next of them.
    """
    content = [body["messages"], (body.get("seed") or 0) // 1000]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def key_of(body: dict[str, Any]) -> str:
    """The key of a request in a store of ours, if its prompt has no version of its own."""
    fields = ("messages", "temperature", "max_tokens", "seed")
    return Request(**{name: body.get(name) for name in fields}).key(body.get("model", ""))


def say(body: dict[str, Any], mark: str) -> str:
    """The text of an answer: by rule for questions, traces and readings, else always the same."""
    system, user = (message["content"] for message in body["messages"][:2])
    number = int(mark, 16)
    if not isinstance(user, str):
        return TEXT
    if "Notes:\n" in user:
        return reading(user, mark)
    if "Right answer:" in user:
        return trace(user, mark, vague=number % 10 == 0)
    if '"question"' in system:
        return question(user, mark)
    return f"No word about it. ({mark}) <answer>none</answer>" if "Options:" in user else TEXT


def question(user: str, mark: str) -> str:
    """Which of four things is seen: one event of the clip, and the same in other colours."""
    events = re.findall(r"^\d+\. (.+)$", user, re.M)
    number = int(mark, 16)
    right = events[number % len(events)]
    used = [colour for colour in COLOURS if colour in right] or [right.split()[0]]
    others = [right.replace(used[0], colour) for colour in COLOURS]
    options = [other for other in others if other not in events][:3]
    options.insert(number % 4, right)
    asked = {"question": f"Which one is there in {mark}?", "options": options, "answer": right}
    return json.dumps(asked)


def trace(user: str, mark: str, vague: bool) -> str:
    """A block for each key segment; a vague trace says nothing that a reader could use."""
    letter = user.rpartition("Right answer:")[2].split()[0]
    blocks = [
        f"<time>{times}</time> <caption>{'something moves' if vague else caption}</caption> "
        f"<think>let me see what that means ({mark})</think>"
        for times, caption in re.findall(r"^(\d+:\d\d-\d+:\d\d): (.+)$", user, re.M)
    ]
    return f"{' '.join(blocks)} <answer>{letter}</answer>"


def reading(user: str, mark: str) -> str:
    """The letter of the one option that stands in the notes."""
    notes, _, rest = user.partition("Options:")
    seen = re.findall(r"^\d+:\d\d-\d+:\d\d: (.+)$", notes, re.M)
    letters = [x for x, option in re.findall(r"^([A-Z])\. (.+)$", rest, re.M) if option in seen]
    return f"As noted. ({mark}) <answer>{letters[0] if len(letters) == 1 else 'none'}</answer>"


def completion(text: str | None, finish: str = "stop") -> bytes:
    """The body of a chat completion."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": finish, "message": message}
    usage = {"prompt_tokens": 600, "completion_tokens": 180}
    body = {"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage}
    return json.dumps(body).encode()


def http(status: str, content: bytes) -> bytes:
    """A reply with a body of JSON."""
    about = f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    return f"HTTP/1.1 {status}\r\n{about}\r\n".encode() + content


class Endpoint:
    """Answers, fails and counts as a script says."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.slots = asyncio.Semaphore(script.slots)
        self.counts: Counter[str] = Counter()
        self.came: Counter[str] = Counter()  # requests by their marks
        self.answered: dict[str, list[float]] = {}  # when each key was, each time
        self.last: dict[str, float] = {}  # when one came the last time, by its key
        self.files: list[bytes] = []
        self.batches: list[dict[str, Any]] = []
        self.tasks: set[asyncio.Task[None]] = set()

    async def answer(self, transport: asyncio.Transport, body: dict[str, Any]) -> None:
        """One request."""
        mark, fault = self.take(body)
        if self.script.refuse and self.slots.locked():
            self.counts["refused"] += 1
            transport.write(http("429 Too Many Requests", b'{"error": {"message": "slow down"}}'))
            return
        if fault == "hang":
            return
        if fault in ("429", "500", "503"):
            message = b'{"error": {"message": "not now"}}'
            transport.write(http(f"{fault} Not Now", message))
            return
        if fault == "drop":
            transport.close()
            return
        async with self.slots:
            await asyncio.sleep(self.script.latency)
        self.write(transport, fault, say(body, mark))
        if not fault and not transport.is_closing():
            self.note_answer(body)

    def take(self, body: dict[str, Any]) -> tuple[str, str]:
        """Count a request that came; its mark, and what goes wrong with it."""
        mark = mark_of(body)
        fault = self.fault(mark)
        self.came[mark] += 1
        self.last[key_of(body)] = time.time()
        self.counts["came"] += 1
        self.counts[fault] += bool(fault)
        return mark, fault

    def note_answer(self, body: dict[str, Any]) -> None:
        """Count a request whose answer was sent."""
        self.counts["answered"] += 1
        self.answered.setdefault(key_of(body), []).append(time.time())

    def batch_api(self, method: str, path: str, content: bytes) -> Any:
        """What the batch API replies: an object, or the bytes of a file."""
        if (method, path) == ("POST", "/v1/files"):
            lines = content[content.index(b'{"custom_id"') : content.rindex(b"\r\n--")]
            self.files.append(lines)
            return {"id": f"file_{len(self.files) - 1}"}
        if (method, path) == ("POST", "/v1/batches"):
            asked = json.loads(content)
            lines = self.files[int(asked["input_file_id"].removeprefix("file_"))]
            self.files.append(b"".join(map(self.batch_line, lines.splitlines())))
            made = {"id": f"batch_{len(self.batches)}", "status": "completed"}
            made |= {"output_file_id": f"file_{len(self.files) - 1}"}
            self.batches.append({**made, "metadata": asked["metadata"]})
            return made
        if path.startswith("/v1/batches?"):
            return {"data": self.batches, "has_more": False}
        number = int(path.removesuffix("/content").rpartition("_")[2])
        return self.files[number] if path.startswith("/v1/files") else self.batches[number]

    def batch_line(self, line: bytes) -> bytes:
        """The line that answers one of a batch; whatever goes wrong is a 500 here."""
        asked = json.loads(line)
        mark, fault = self.take(asked["body"])
        response = {"status_code": 500, "body": {"error": {"message": "not now"}}}
        if not fault:
            self.note_answer(asked["body"])
            body = json.loads(completion(say(asked["body"], mark)))
            response = {"status_code": 200, "body": body}
        return json.dumps({"custom_id": asked["custom_id"], "response": response}).encode() + b"\n"

    def fault(self, mark: str) -> str:
        """What goes wrong with a request this time; "" for nothing."""
        seen = self.came[mark]
        rng = random.Random(f"{mark} {seen}")
        if seen >= MOST_FAULTS or rng.random() >= self.script.faults:
            return ""
        return rng.choice(FAULTS)

    def write(self, transport: asyncio.Transport, fault: str, text: str) -> None:
        """Send an answer, or what has become of it."""
        if fault == "torn":
            transport.write(http("200 OK", completion(text))[:-40])
            transport.close()
        elif fault == "length":
            transport.write(http("200 OK", completion(text[: len(text) // 2], "length")))
        elif fault == "null":
            transport.write(http("200 OK", completion(None)))
        elif fault == "garbage":
            transport.write(http("200 OK", b"<html><h1>Bad Gateway</h1></html>"))
        else:
            transport.write(http("200 OK", completion(text)))

    def report(self, path: str) -> Any:
        """What is asked for by GET.

        `/counts`; `/last`, when each key came the last time; `/answered`, when each was answered.
        """
        if path in ("/last", "/answered"):
            return getattr(self, path[1:])
        twice = sum(len(moments) - 1 for moments in self.answered.values())
        counts = {"twice": twice, "requests": len(self.came), "under_way": len(self.tasks)}
        return {**self.counts, **counts}


class Connection(asyncio.Protocol):
    """One connection; requests on it come one after the other."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.data = b""

    def connection_made(self, transport: Any) -> None:
        """Count it."""
        self.transport = transport
        self.endpoint.counts["connections"] += 1

    def data_received(self, data: bytes) -> None:
        """Answer as soon as a request is whole."""
        self.data += data
        head, found, rest = self.data.partition(b"\r\n\r\n")
        if not found:
            return
        _, length, number = head.lower().partition(b"content-length:")
        size = int(number.split(b"\r\n")[0]) if length else 0
        if len(rest) < size:
            return
        self.data = rest[size:]
        method, path = head.decode("latin-1").split()[:2]
        if path.endswith("/chat/completions"):
            body = json.loads(rest[:size])
            task = asyncio.ensure_future(self.endpoint.answer(self.transport, body))
            self.endpoint.tasks.add(task)
            task.add_done_callback(self.endpoint.tasks.discard)
        elif path.startswith("/v1/"):
            said = self.endpoint.batch_api(method, path, rest[:size])
            said = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.transport.write(http("200 OK", said))
        else:
            self.endpoint.counts["connections"] -= 1  # whoever asks for the counts is no client
            self.transport.write(http("200 OK", json.dumps(self.endpoint.report(path)).encode()))


async def serve(script: Script) -> None:
    """Serve for ever; the port is the first line that is printed."""
    endpoint = Endpoint(script)
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: Connection(endpoint), "127.0.0.1", 0)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


@dataclass(frozen=True)
class Running:
    """An endpoint that runs, by its port on this machine."""

    port: int

    @property
    def url(self) -> str:
        """Of its API."""
        return f"http://127.0.0.1:{self.port}/v1"

    def get(self, what: str) -> Any:
        """What `Endpoint.report` says."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{what}") as reply:
            return json.load(reply)

    def counts(self) -> Counter[str]:
        """Requests that came, those that were answered, refused, connections, faults by name."""
        return Counter(self.get("counts"))


@contextmanager
def started(script: Script) -> Iterator[Running]:
    """Run an endpoint in a process of its own; it ends with the context."""
    command = [sys.executable, __file__, json.dumps(asdict(script))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Running(int(process.stdout.readline()))
        finally:
            process.kill()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve a script (JSON) until it is killed.")
    parser.add_argument("script", type=json.loads)
    asyncio.run(serve(Script(**parser.parse_args().script)))
