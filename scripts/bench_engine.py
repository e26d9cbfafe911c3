"""Requests per second of the engine beside what a server can serve, and what a request costs.

    python scripts/bench_engine.py [--slots 64] [--latency 0.5] [--requests 4000] [--refuse]
        [--faults 0] [--room 2] [--words 500] [--threads 0] [--folder FOLDER] [--json FILE]

The server (`chat_endpoint.py`) is a process of its own that answers each request after `latency`
seconds, `slots` of them at a time, so that it can serve slots / latency per second. What is more
waits there, or, with `--refuse`, gets a 429 at once. It counts requests and connections. The
clients, one after the other, each with a new server:

    floor       bytes that were prepared, over `slots` connections: what can be had on this machine
    memory      `OpenAIEngine` without a file
    store       `OpenAIEngine` with one: every answer written and synced before it counts
    threads     the same, asked by many threads with one request each, as synthesis does

With `--faults 0.1` something goes wrong with a tenth of the requests: 429, 5xx, no reply in time,
connections that end, and answers that are cut off, null or garbage. The engine is then started
again on its store, without the floor and the client without a file, until all is answered; all
answers must be those of a server without faults, and none may have been asked for twice.

The engines may have `room` times as many requests under way as there are slots, and find out how
many are good. The table says answers per second, the share of what the server can serve, the
client's own processor time per request, connections, and requests that came in for each that was
answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chat_endpoint import TEXT, Script, completion, started


@dataclass
class Result:
    """How a client did."""

    client: str
    per_second: float
    share: float
    cpu_ms: float
    connections: int
    came_per_answer: float
    starts: int
    twice: int


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
            await reader.readexactly(len(completion(TEXT)))
        writer.close()

    await asyncio.gather(*[one() for _ in range(args.slots)])


CLIENTS = ("floor", "memory", "store", "threads")


def run_client(name: str, port: int, args: argparse.Namespace, folder: Path) -> int:
    """Let one client ask all requests; the number of its starts. Complain about a wrong answer."""
    from videothinker.synthesis.engine import Request, chat
    from videothinker.synthesis.openai_engine import OpenAIEngine

    words = "word " * args.words
    requests = [Request(chat("You see.", f"{words}{i}"), seed=i) for i in range(args.requests)]
    if name == "floor":
        body = {"messages": list(requests[0].messages)}
        asyncio.run(floor(port, args, json.dumps(body).encode()))
        return 1
    file = None if name == "memory" else folder / f"{name}.jsonl"
    url, most = f"http://127.0.0.1:{port}/v1", int(args.room * args.slots)
    options: dict[str, Any] = {"concurrency": most, "pause": 0.1, "timeout": args.timeout}
    for start in range(1, 10 if args.faults else 2):
        with OpenAIEngine(url, "bench", None, file, **options, ask_again=start > 1) as engine:
            if name == "threads":
                with ThreadPoolExecutor(args.threads or most) as pool:
                    texts = list(pool.map(lambda request: engine.complete([request])[0], requests))
            else:
                texts = engine.complete(requests)
        if set(texts) == {TEXT}:
            return start
    wrong = [text for text in texts if text != TEXT]
    sys.exit(f"{name}: {len(wrong)} requests have no answer, or a wrong one: {engine.errors[:1]}")


def measure(name: str, args: argparse.Namespace) -> Result:
    """Start a server, let a client ask it, and read the counts."""
    import videothinker.synthesis.openai_engine  # noqa: F401 (its import is not what is measured)

    starts = 0

    def run() -> None:
        nonlocal starts
        starts = run_client(name, endpoint.port, args, Path(folder))

    script = Script(args.slots, args.latency, args.refuse, args.faults)
    with started(script) as endpoint, tempfile.TemporaryDirectory(dir=args.folder) as folder:
        seconds, worked = timed(run)
        counts = endpoint.counts()
    rate = counts["answered"] / seconds
    return Result(
        name,
        rate,
        rate / (args.slots / args.latency),
        1000 * worked / args.requests,
        counts["connections"],
        counts["came"] / max(counts["answered"], 1),
        starts,
        0 if name == "floor" else counts["twice"],  # which sends one request over and over
    )


def timed(function: Callable[[], None]) -> tuple[float, float]:
    """Seconds that a call takes, and those that processors worked for it in this process."""
    start, worked = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - start, time.process_time() - worked


def main() -> None:
    """Measure all clients and print the table."""
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
    parser.add_argument("--faults", type=float, default=0.0, help="fraction of requests that fail")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds for one attempt")
    parser.add_argument("--clients", nargs="+", choices=CLIENTS, help="default: all that can")
    parser.add_argument("--folder", type=Path, help="where stores are written (default: temporary)")
    parser.add_argument("--json", help="file for the figures")
    args = parser.parse_args()
    if args.folder and not args.folder.is_dir():
        parser.error(f"--folder {args.folder}: there is no such folder")
    can = CLIENTS[2:] if args.faults else CLIENTS
    if unable := set(args.clients or ()) - set(can):
        parser.error(f"--clients {' '.join(unable)}: not with --faults, which need a store")
    serves = args.slots / args.latency
    print(f"{args.slots} slots, {args.latency:g} s each: {serves:.0f} per second can be served")
    print(
        "| client | answers/s | of what is served | CPU ms/request | connections | came/answer | "
        "starts | asked twice |"
    )
    print("|---|---|---|---|---|---|---|---|")
    results = []
    for name in args.clients or can:
        results.append(result := measure(name, args))
        print(
            f"| {name} | {result.per_second:.1f} | {result.share:.1%} | {result.cpu_ms:.2f} | "
            f"{result.connections} | {result.came_per_answer:.3f} | {result.starts} | "
            f"{result.twice} |",
            flush=True,
        )
    if args.json:
        Path(args.json).write_text(json.dumps([asdict(result) for result in results], indent=1))


if __name__ == "__main__":
    from videothinker.commands.main import reader_may_leave

    with reader_may_leave():
        main()
