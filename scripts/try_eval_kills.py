"""Kill an evaluation at random moments, change its engine each time, and compare the files.

    python scripts/try_eval_kills.py OUT [--kills 30] [--questions 48] [--random 0] [--model PATH]

First an evaluation runs undisturbed. Then another one of the same questions is killed (SIGKILL) at
a random moment after its first reply and started again with the next engine of hf, openai, ray,
hf …, until it was killed so often and ends. `openai` asks a server in this process, which answers
as the other engines do from the pictures and times that it was sent; `ray` has two workers on a
cluster that this process starts. By default replies are a function of what was shown, and every
reply takes a moment; with `--model` a model gives them (data/tiny-base, say), in all three.

At the end the files of both have to be equal byte for byte, and the server must not have been asked
for a reply that was on disk when it was asked. The last line says what was found; exit 1 if
anything is wrong.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ENGINES = ("hf", "openai", "ray")
SERVED = "served"  # the model's name at the server
PAUSE = 0.05  # seconds that a reply takes which no model gives


def said(text: str, times: Sequence[float], pixels: Any) -> str:
    """A reply that is a function of all that was shown, to the pixel."""
    shown = f"{text} {[f'{t:.1f}' for t in times]} ".encode() + pixels.tobytes()
    digest = hashlib.sha256(shown).hexdigest()
    return f"seen {digest[:12]}\n<answer>{'ABC'[int(digest, 16) % 3]}</answer>"


class FunctionVideoEngine:
    """Answers by `said`, one after the other, in this process."""

    name = "hf"

    def __init__(self, source: Any, log: Path | None = None) -> None:
        self.source = source
        self.log = log

    def answer(self, questions: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Yield (place, reply)."""
        from videothinker.evaluation.questions import user_text
        from videothinker.evaluation.video_engine import Reply

        for place, question in enumerate(questions):
            frames = self.source.frames(question)
            time.sleep(PAUSE)
            text = said(user_text(question, frames), frames.times.tolist(), frames.pixels)
            yield place, Reply.to(frames, text, len(text.split()))

    def close(self) -> None:
        """Nothing is held."""


def questions_of(folder: Path, n: int, style: str) -> list[Any]:
    """Questions about the toy clips in a folder, each shown a few frames."""
    from videothinker.evaluation.benchmarks import Protocol
    from videothinker.evaluation.questions import make_questions
    from videothinker.schema import read_rows
    from videothinker.video.frames import Sampling

    sampling = Sampling(fps=2, max_frames=48, size=(56, 56))
    protocol = Protocol(name="house", style=style, sampling=sampling, max_new_tokens=16)
    rows = read_rows(folder / "val.jsonl")
    rows = [replace(rows[k % len(rows)], id=f"q{k:03d}") for k in range(n)]
    rows = [replace(r, problem=f"{r.problem} ({k})") for k, r in enumerate(rows)]
    return make_questions(rows, protocol)


def engine_of(
    name: str, folder: Path, model: str, url: str, cache: Path, cluster: str = "local"
) -> Any:
    """One of the three engines."""
    from videothinker.evaluation.questions import FrameSource

    source = FrameSource(folder, timeout=None)
    if name == "openai":
        from videothinker.evaluation.served_engine import ServedEngine

        return ServedEngine(url, SERVED, source, api_key_env=None, cache=cache, concurrency=2)
    if name == "ray":
        from videothinker.evaluation.ray_engine import EngineRecipe, RayEngine

        make: Any = EngineRecipe("hf", model, str(folder), timeout=None, device="cpu", batch_size=4)
        if not model:

            def make() -> Any:
                return FunctionVideoEngine(FrameSource(folder, timeout=None))

        return RayEngine(make, 2, cluster, batch_size=4)
    if not model:
        return FunctionVideoEngine(source)
    from videothinker.evaluation.video_engine import HFEngine
    from videothinker.model.loading import load_model

    return HFEngine(*load_model(model, device="cpu"), source, batch_size=4)


def evaluate_once(args: argparse.Namespace) -> None:
    """What is started and killed: one evaluation of all questions."""
    from videothinker.evaluation.evaluate import Column, evaluate_column, rows_alone

    engine = engine_of(args.engine, args.world, args.model, args.url, args.cache, args.cluster)
    questions = questions_of(
        args.world, args.questions, "letter" if args.model else "video-thinker"
    )
    samples = [question.sample for question in questions]
    column = Column(rows_alone("toy"), "house", samples, questions[0].protocol)
    try:
        evaluate_column(engine, column, args.out, "model", roots=args.world)
    finally:
        engine.close()


# The server that the engine `openai` asks


class Server(ThreadingHTTPServer):
    """Replies to chats that show pictures behind their times, and remembers what was asked."""

    daemon_threads = True

    def __init__(self, model: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.asked: list[tuple[float, str]] = []  # when, and the key of the request
        self.lock = threading.Lock()
        self.model = None
        if model:
            from videothinker.model.loading import load_model

            self.model = load_model(model, device="cpu")
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_: Any) -> None:
        """A client that was killed is no news."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        """Answer from the pictures and times in the request."""
        from videothinker.synthesis.engine import Request

        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        request = Request(body["messages"], body["temperature"], body["max_tokens"])
        with self.server.lock:
            self.server.asked.append((time.time(), request.key(SERVED)))
        text, n_tokens, finish = reply_to(body, self.server)
        usage = {"prompt_tokens": 1, "completion_tokens": n_tokens}
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
        reply = json.dumps({"choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def shown_in(body: dict[str, Any]) -> tuple[str, Any, Any]:
    """User's text, pixels [T, H, W, 3] and times [T] in a request."""
    import numpy as np
    from PIL import Image

    *parts, text = body["messages"][-1]["content"]
    times = [float(p["text"].strip("<>").split()[0]) for p in parts if p["type"] == "text"]
    urls = [p["image_url"]["url"] for p in parts if p["type"] == "image_url"]
    files = [io.BytesIO(base64.b64decode(url.partition(",")[2])) for url in urls]
    return text["text"], np.stack([np.asarray(Image.open(f)) for f in files]), np.array(times)


def reply_to(body: dict[str, Any], server: Server) -> tuple[str, int, str]:
    """Text, number of tokens, and why it ended."""
    text, pixels, times = shown_in(body)
    if server.model is None:
        time.sleep(PAUSE)
        reply = said(text, times.tolist(), pixels)
        return reply, len(reply.split()), "stop"
    from videothinker.model.encoder import encode_messages
    from videothinker.model.family import family_of
    from videothinker.model.generate import Decoding, generate, texts
    from videothinker.video.frames import Frames, even_rate

    model, processor = server.model
    frames = Frames(pixels, times, float(times[-1]), rate=even_rate(times))
    content = [{"type": "video"}, {"type": "text", "text": text}]
    messages = [*body["messages"][:-1], {"role": "user", "content": content}]
    prompt = encode_messages(processor, messages, frames)
    decoding = Decoding(0.0, max_new_tokens=body["max_tokens"])
    with server.lock:
        [[done]] = generate(model, [prompt], family_of(model, processor), 1, decoding)
    return texts([done], processor)[0], len(done.ids), "stop" if done.finished else "length"


def start_cluster() -> str:
    """Start a Ray cluster that lives as long as this process; its address."""
    import ray

    from videothinker.ray_workers import connect

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if not ray.is_initialized():
        connect(ray, "local", 8)
    return str(ray.get_runtime_context().gcs_address)


# Killing


def lines_of(journal: Path) -> int:
    """Whole lines of a journal."""
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def command(args: argparse.Namespace, engine: str, out: Path, url: str, cache: Path) -> list[str]:
    """One start of the evaluation."""
    options = {"engine": engine, "world": args.world, "url": url, "cache": cache}
    options |= {"questions": args.questions, "model": args.model, "cluster": args.cluster}
    flags = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, __file__, str(out), "--once", *flags]


def files_of(out: Path) -> dict[str, bytes]:
    """Every file of an evaluation by its name, without locks; what a table can be made of."""
    files = (p for p in sorted(out.rglob("*")) if p.is_file() and p.suffix != ".lock")
    return {str(p.relative_to(out)): p.read_bytes() for p in files}


def kept_keys(cache: Path) -> set[str]:
    """Keys of the replies that are on disk."""
    from videothinker.journal import read_journal

    return {entry["key"] for entry in read_journal(cache)}


def killed_run(args: argparse.Namespace, server: Server) -> list[str]:
    """Run, kill, change the engine, until it ends; what went wrong."""
    draw = random.Random(args.random)
    out, cache = args.out / "killed", args.out / "replies.jsonl"
    journal = out / "own.jsonl"
    faults: list[str] = []
    known: set[str] = set()
    since, hits, start = time.time(), 0, 0
    while True:
        engine = ENGINES[start % len(ENGINES)]
        start += 1
        done = lines_of(journal)
        with (args.out / f"start-{start:02d}.log").open("w") as log:
            process = subprocess.Popen(
                command(args, engine, out, server.url, cache),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            share = (args.questions - done) // (args.kills - hits + 1)
            wanted = done + draw.randint(1, max(1, share)) if hits < args.kills else sys.maxsize
            while process.poll() is None and lines_of(journal) < wanted:
                time.sleep(0.002)
            time.sleep(draw.uniform(0, 2 * PAUSE))
            if process.poll() is None:
                hits += 1
                os.killpg(process.pid, signal.SIGKILL)  # with all that it started
            process.wait()
        asked = [key for moment, key in server.asked if moment >= since]
        faults += [f"start {start}: asked again for a reply on disk" for k in asked if k in known]
        known, since = kept_keys(cache), time.time()
        print(f"start {start} ({engine}): {lines_of(journal)} replies, ended with "
              f"{process.returncode}", flush=True)  # fmt: skip
        if process.returncode != -signal.SIGKILL:
            break
    if process.returncode:
        faults.append(f"the last start ended with {process.returncode}")
    if hits < args.kills:
        faults.append(f"only {hits} kills: give it more questions")
    return faults


def main(argv: list[str] | None = None) -> int:
    """Compare a killed evaluation with an undisturbed one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--questions", type=int, default=48)
    parser.add_argument("--random", type=int, default=0, help="seed of the moments")
    parser.add_argument("--model", default="", help="folder of a model; default: a function")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--engine", choices=ENGINES, default="hf", help=argparse.SUPPRESS)
    parser.add_argument("--world", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--url", default="", help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cluster", default="local", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.once:
        evaluate_once(args)
        return 0
    from videothinker.toy.world import WorldSize, make_world

    args.world = args.out / "world"
    make_world(args.world, WorldSize(train=0, val=8, test=0, ood=0, questions=2))
    server = Server(args.model)
    args.cluster = start_cluster()
    whole = command(args, "hf", args.out / "whole", server.url, args.out / "whole.jsonl")
    with (args.out / "whole.log").open("w") as log:
        subprocess.run(whole, stdout=log, stderr=log, check=True)
    faults = killed_run(args, server)
    expected, found = (files_of(args.out / name) for name in ("whole", "killed"))
    faults += [
        f"{name} differs"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]
    repeated = len(server.asked) - len({key for _, key in server.asked})
    print("\n".join(faults) or f"{args.kills} kills: {len(found)} files equal byte for byte, "
          f"{len(server.asked)} requests, {repeated} of them a second time, as a kill came before "
          "the reply; none for a reply that was on disk")  # fmt: skip
    return bool(faults)


if __name__ == "__main__":
    from videothinker.commands.main import reader_may_leave

    with reader_may_leave():
        sys.exit(main())
