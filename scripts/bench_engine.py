"""Requests per second of the engine beside what a server can serve, and what a request costs.

    python scripts/bench_engine.py [--slots 64] [--latency 0.5] [--requests 4000] [--refuse]
        [--room 2] [--words 500] [--threads 0] [--folder FOLDER] [--json FILE]

The server is a process of its own that speaks HTTP and answers each request after `latency`
seconds, `slots` of them at a time, so that it can serve slots / latency per second. What is more
waits there, or, with `--refuse`, gets a 429 at once. It counts requests and connections. The
clients, one after the other, each with a new server:

    floor       bytes that were prepared, over `slots` connections: what can be had on this machine
    memory      `OpenAIEngine` without a file
    store       `OpenAIEngine` with one: every answer written and synced before it counts
    threads     the same, asked by many threads with one request each, as synthesis does

The engines may have `room` times as many requests under way as there are slots, and find out how
many are good. The table says answers per second, the share of what the server can serve, the
client's own processor time per request, connections, and requests that came in for each that was
answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TEXT = "It takes the red square and leaves. " * 20
REPLY = json.dumps(
    {
        "id": "1",
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": TEXT},
            }
        ],
        "usage": {"prompt_tokens": 600, "completion_tokens": 180},
    }
).encode()


def http(status: str, content: bytes) -> bytes:
    """A reply with a body of JSON."""
    about = f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    return f"HTTP/1.1 {status}\r\n{about}\r\n".encode() + content


class Server:
    """Answers after a time, so many requests at once, and counts."""

    def __init__(self, latency: float, slots: int, refuse: bool) -> None:
        self.latency = latency
        self.slots = asyncio.Semaphore(slots)
        self.refuse = refuse
        self.counts = {"came": 0, "answered": 0, "refused": 0, "connections": 0}
        self.fine = http("200 OK", REPLY)
        self.busy = http("429 Too Many Requests", b'{"error": {"message": "slow down"}}')

    async def answer(self, transport: asyncio.Transport) -> None:
        """One request."""
        self.counts["came"] += 1
        if self.refuse and self.slots.locked():
            self.counts["refused"] += 1
            transport.write(self.busy)
            return
        async with self.slots:
            await asyncio.sleep(self.latency)
        self.counts["answered"] += 1
        transport.write(self.fine)


class Connection(asyncio.Protocol):
    """One connection to the server; requests on it come one after the other."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.data = b""

    def connection_made(self, transport: Any) -> None:
        """Count it."""
        self.transport = transport
        self.server.counts["connections"] += 1

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
        if head.startswith(b"GET"):
            self.server.counts["connections"] -= 1  # whoever asks for the counts is no client
            self.transport.write(http("200 OK", json.dumps(self.server.counts).encode()))
        else:
            self.server.task = asyncio.ensure_future(self.server.answer(self.transport))


async def serve(latency: float, slots: int, refuse: bool) -> None:
    """Serve for ever; the port is the first line that is printed."""
    server = Server(latency, slots, refuse)
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: Connection(server), "127.0.0.1", 0)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


@dataclass
class Result:
    """How a client did."""

    client: str
    per_second: float
    share: float
    cpu_ms: float
    connections: int
    came_per_answer: float


async def floor(port: int, args: argparse.Namespace, content: bytes) -> None:
    """Send prepared bytes over `slots` connections, each as soon as it is answered."""
    head = f"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: {len(content)}\r\n\r\n"
    request = head.encode() + content
    left = iter(range(args.requests))

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in left:
            writer.write(request)
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(len(REPLY))
        writer.close()

    await asyncio.gather(*[one() for _ in range(args.slots)])


CLIENTS = ("floor", "memory", "store", "threads")


def run_client(name: str, port: int, args: argparse.Namespace, folder: Path) -> None:
    """Let one client ask all requests; complain if one of them has no answer."""
    from videothinker.synthesis.engine import Request, chat
    from videothinker.synthesis.openai_engine import OpenAIEngine

    words = "word " * args.words
    requests = [Request(chat("You see.", f"{words}{i}"), seed=i) for i in range(args.requests)]
    if name == "floor":
        messages = list(requests[0].messages)
        asyncio.run(floor(port, args, json.dumps({"messages": messages}).encode()))
        return
    file = None if name == "memory" else folder / f"{name}.jsonl"
    url, most = f"http://127.0.0.1:{port}/v1", int(args.room * args.slots)
    with OpenAIEngine(url, "bench", None, file, concurrency=most, pause=0.1) as engine:
        if name == "threads":
            with ThreadPoolExecutor(args.threads or most) as pool:
                texts = list(pool.map(lambda request: engine.complete([request])[0], requests))
        else:
            texts = engine.complete(requests)
    if None in texts:
        sys.exit(f"{name}: {texts.count(None)} requests have no answer: {engine.errors[0]}")


def measure(name: str, args: argparse.Namespace) -> Result:
    """Start a server, let a client ask it, and read the counts."""
    import videothinker.synthesis.openai_engine  # noqa: F401 (its import is not what is measured)

    command = [sys.executable, __file__, "--serve", str(args.latency), str(args.slots)]
    command += ["refuse"] if args.refuse else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        try:
            with tempfile.TemporaryDirectory(dir=args.folder) as folder:
                seconds, worked = timed(lambda: run_client(name, port, args, Path(folder)))
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/counts") as reply:
                counts = json.load(reply)
        finally:
            server.kill()
    rate = counts["answered"] / seconds
    return Result(
        name,
        rate,
        rate / (args.slots / args.latency),
        1000 * worked / args.requests,
        counts["connections"],
        counts["came"] / max(counts["answered"], 1),
    )


def timed(function: Callable[[], None]) -> tuple[float, float]:
    """Seconds that a call takes, and those that processors worked for it in this process."""
    start, worked = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - start, time.process_time() - worked


def main() -> None:
    """Measure all clients and print the table."""
    if sys.argv[1:2] == ["--serve"]:
        latency, slots, *refuse = sys.argv[2:]
        asyncio.run(serve(float(latency), int(slots), bool(refuse)))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--slots", type=int, default=64, help="requests the server works on at once"
    )
    parser.add_argument("--latency", type=float, default=0.5, help="seconds that one takes it")
    parser.add_argument("--requests", type=int, default=4000, help="in all, for each client")
    parser.add_argument("--room", type=float, default=2.0, help="concurrency, in slots")
    parser.add_argument("--words", type=int, default=500, help="of a prompt")
    parser.add_argument("--threads", type=int, default=0, help="that ask; 0 for room × slots")
    parser.add_argument("--refuse", action="store_true", help="429 where no slot is free")
    parser.add_argument("--clients", nargs="+", choices=CLIENTS, default=CLIENTS)
    parser.add_argument("--folder", type=Path, help="where stores are written (default: temporary)")
    parser.add_argument("--json", help="file for the figures")
    args = parser.parse_args()
    if args.folder and not args.folder.is_dir():
        parser.error(f"--folder {args.folder}: there is no such folder")
    serves = args.slots / args.latency
    print(f"{args.slots} slots, {args.latency:g} s each: {serves:.0f} per second can be served")
    print("| client | answers/s | of what is served | CPU ms/request | connections | came/answer |")
    print("|---|---|---|---|---|---|")
    results = []
    for name in args.clients:
        results.append(result := measure(name, args))
        print(
            f"| {name} | {result.per_second:.1f} | {result.share:.1%} | {result.cpu_ms:.2f} | "
            f"{result.connections} | {result.came_per_answer:.3f} |",
            flush=True,
        )
    if args.json:
        Path(args.json).write_text(json.dumps([asdict(result) for result in results], indent=1))


if __name__ == "__main__":
    from videothinker.commands.main import reader_may_leave

    with reader_may_leave():
        main()
