"""Engines of an evaluation: a server over HTTP, vLLM's stand-in, workers on a Ray cluster."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, load_script, ray_cluster

from videothinker.evaluation.benchmarks import Protocol
from videothinker.evaluation.questions import FrameSource, Question, make_questions
from videothinker.evaluation.served_engine import ServedEngine, ask_served
from videothinker.files import InputError
from videothinker.json_files import dumps
from videothinker.parallel import cores
from videothinker.schema import Sample
from videothinker.synthesis.engine import EngineError, Request
from videothinker.video.frames import Frames, Sampling

BASE = ROOT / "data" / "tiny-base"
FRAMES = Sampling(fps=2, max_frames=48, size=(56, 56))
ASKING = Protocol(name="house", style="letter", sampling=FRAMES, max_new_tokens=8)


def completion(text: str | None, finish: str = "stop", **message: Any) -> dict[str, Any]:
    """A chat completion."""
    said = {"role": "assistant", "content": text, **message}
    usage = {"prompt_tokens": 20, "completion_tokens": 7}
    return {"choices": [{"message": said, "finish_reason": finish}], "usage": usage}


class Server(ThreadingHTTPServer):
    """A chat server: `reply(body)` is what a request gets, a number for an error's status."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[Any] = []
        self.reply: Callable[[dict[str, Any]], Any] = lambda body: completion("<answer>A</answer>")
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        """Answer a chat."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        self.server.headers.append(self.headers)
        reply = self.server.reply(body)
        status, said = (reply, {"error": {"message": "no"}}) if type(reply) is int else (200, reply)
        data = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that answers A."""
    running = Server()
    yield running
    running.shutdown()
    running.server_close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips with two questions each."""
    from videothinker.toy.world import WorldSize, make_world

    folder = tmp_path_factory.mktemp("world")
    make_world(folder, WorldSize(train=0, val=4, test=0, ood=0, questions=2))
    return folder


class Painted(FrameSource):
    """Frames without files: each row's are of a shade of its own; counts who holds some."""

    def __init__(self, shape: tuple[int, int, int] = (4, 28, 28)) -> None:
        super().__init__(Path(), timeout=None)
        self.shape = shape
        self.lock = threading.Lock()
        self.now = self.most = self.begun = 0

    def frames(self, question: Question) -> Frames | None:
        """Frames at 0, 0.5, 1 … seconds."""
        if question.condition == "no_video":
            return None
        with self.lock:
            self.begun += 1
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.01)
        with self.lock:
            self.now -= 1
        shade = int(question.sample.id.strip("row")) % 256
        pixels = np.full((*self.shape, 3), shade, np.uint8)
        times = np.arange(len(pixels)) / 2
        return Frames(pixels, times, len(pixels) / 2, rate=2.0)


def painted_questions(n: int, **protocol: Any) -> list[Question]:
    """Questions about painted frames."""
    rows = [Sample("Which?", ["one", "two"], "A", path=f"{i}.mp4", id=f"row{i}") for i in range(n)]
    return make_questions(rows, replace(ASKING, **protocol))


def served(server: Server, cache: Path | None = None, **options: Any) -> ServedEngine:
    """An engine of painted frames."""
    return ServedEngine(
        server.url,
        "toy",
        Painted(),
        **{"api_key_env": None, "cache": cache, "pause": 0.001} | options,
    )


# What a server replies


def test_a_reply_that_is_cut_off_filtered_or_refused_is_a_reply(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    replies = [
        completion(" it is the\n", "length"),
        completion(None, "length", reasoning_content="so the square"),
        completion("", "content_filter"),
        completion(None, refusal="I cannot help with that."),
        completion("<answer>B</answer>", reasoning_content="a square\n"),
        completion("", "stop"),
        completion(None, tool_calls=[{"id": "x"}]),
    ]
    server.reply = lambda body: replies[shade_of(body)]
    questions = painted_questions(len(replies))
    for _ in range(2):
        with caplog.at_level(logging.WARNING), served(server, tmp_path / "c.jsonl") as engine:
            got = dict(engine.answer(questions))
        texts = [got[i].text for i in range(len(replies))]
        assert texts == [
            " it is the\n",
            "<think>\nso the square\n",
            "",
            "I cannot help with that.",
            "<think>\na square\n</think>\n<answer>B</answer>",
            "",
            "",
        ]
        assert [i for i, reply in got.items() if reply.cut_off] in ([0, 1], [1, 0])
        assert not any(reply.error for reply in got.values())
        assert all(reply.n_tokens == 7 and len(reply.times) == 4 for reply in got.values())
        assert engine.odd["filtered by the server"] == engine.odd["empty"] == 1
        assert engine.engine.usage.failed == 0
    assert len(server.bodies) == len(replies)  # none is asked again by the second engine
    told = [r.getMessage() for r in caplog.records if "put back" in r.getMessage()]
    assert len(told) == 2  # once per engine


BLOCKS = (
    "<time>00:01-00:02</time> <caption>a ring</caption> <think>it is first</think>\n"
    "<time>00:03-00:04</time> <caption>a square</caption> <think>later</think>\n<answer>B</answer>"
)


@pytest.mark.parametrize("parser", ["vllm", "sglang", "all of it"])
def test_a_trace_that_a_reasoning_parser_took_apart_is_an_error(
    server: Server, tmp_path: Path, parser: str
) -> None:
    """It says what to change, is not a wrong answer, and is asked again when that was done."""
    before, _, rest = BLOCKS.partition("<think>")
    thought, _, after = rest.partition("</think>")
    thoughts, text = {
        "vllm": (thought, after),  # what stands before the first <think> is lost
        "sglang": (before + thought, after),
        "all of it": (BLOCKS, None),
    }[parser]
    server.reply = lambda body: completion(text, reasoning_content=thoughts)
    [question] = painted_questions(1)
    with served(server, tmp_path / "c.jsonl") as engine:
        [(_, reply)] = engine.answer([question])
        assert engine.engine.usage.failed == 1
    assert "reasoning parser" in reply.error and "--reasoning-parser" in reply.error
    assert not reply.text
    server.reply = lambda body: completion(BLOCKS)
    with served(server, tmp_path / "c.jsonl") as engine:
        [(_, reply)] = engine.answer([question])
    assert reply.text == BLOCKS and not reply.error
    assert len(server.bodies) == 2


def test_a_server_with_a_reasoning_parser_is_found_out_at_the_beginning(
    server: Server, tmp_path: Path
) -> None:
    server.reply = lambda body: completion("<time>00:01-00:02</time>", reasoning_content="a ring")
    with served(server, tmp_path / "c.jsonl", concurrency=1) as engine:
        replies = dict(engine.answer(painted_questions(40)))
    assert all("reasoning parser" in reply.error for reply in replies.values())
    assert len(server.bodies) < 20  # no more is sent


def shade_of(body: dict[str, Any]) -> int:
    """The shade of the pictures in a request."""
    parts = body["messages"][-1]["content"]
    url = next(p["image_url"]["url"] for p in parts if p["type"] == "image_url")
    from PIL import Image

    return int(np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))[0, 0, 0])


def test_a_failed_request_is_an_error_and_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.reply = lambda body: 400 if shade_of(body) == 1 else completion("<answer>A</answer>")
    questions = painted_questions(3)
    with served(server, tmp_path / "c.jsonl") as engine:
        got = dict(engine.answer(questions))
    assert [bool(got[i].error) for i in range(3)] == [False, True, False]
    assert "HTTP 400" in got[1].error and not got[1].text
    server.reply = lambda body: completion("<answer>B</answer>")
    before = len(server.bodies)
    with served(server, tmp_path / "c.jsonl") as engine:
        got = dict(engine.answer(questions))
    assert "B" in got[1].text and "A" in got[0].text
    assert len(server.bodies) == before + 1


def test_replies_that_are_all_cut_off_do_not_end_the_run(server: Server, tmp_path: Path) -> None:
    """A synthesis gives up after ten of them; an examined model has answered, badly."""
    server.reply = lambda body: completion("and then and then", "length")
    with served(server, tmp_path / "c.jsonl", concurrency=2) as engine:
        got = dict(engine.answer(painted_questions(25)))
    assert len(got) == 25 and all(r.cut_off and not r.error for r in got.values())


def test_a_server_with_a_small_context_is_an_error_of_the_row(server: Server) -> None:
    """A reply that was allowed less than the protocol says is not the model's."""

    def reply(body: dict[str, Any]) -> Any:
        if body["max_tokens"] > 600:
            return 400
        return completion("it is", "length")

    server.reply = reply
    with served(server) as engine, pytest.MonkeyPatch.context() as patch:
        patch.setattr("videothinker.synthesis.openai_engine.context_is_small", lambda error: True)
        [(_, got)] = engine.answer(painted_questions(1, max_new_tokens=1024))
    assert got.error.startswith("small context: cut off") and not got.text


# What a server is asked


def test_decoding_and_seeds_are_the_protocols(server: Server) -> None:
    questions = make_questions(
        [q.sample for q in painted_questions(2)],
        replace(ASKING, temperature=0.7, top_p=0.9, max_new_tokens=33, style="video-thinker"),
        n=3,
    )
    with served(server) as engine:
        assert len(dict(engine.answer(questions))) == 6
    for body in server.bodies:
        assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.7, 0.9, 33)
        assert [m["role"] for m in body["messages"]] == ["system", "user"]
    assert len({body["seed"] for body in server.bodies}) == 6
    server.bodies.clear()
    with served(server) as engine:
        dict(engine.answer(painted_questions(1)))
    assert "seed" not in server.bodies[0] or server.bodies[0]["seed"] is None
    assert "top_p" not in server.bodies[0]


def test_no_key_in_files_and_none_but_from_the_environment(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EngineError, match="NO_SUCH_KEY is not set"):
        served(server, api_key_env="NO_SUCH_KEY")
    monkeypatch.setenv("TOY_KEY", "sk-of-the-toy")
    with served(server, tmp_path / "c.jsonl", api_key_env="TOY_KEY") as engine:
        dict(engine.answer(painted_questions(2)))
        assert "sk-of-the-toy" not in repr(engine.engine)
    assert server.headers[0]["Authorization"] == "Bearer sk-of-the-toy"
    assert b"sk-of-the-toy" not in (tmp_path / "c.jsonl").read_bytes()


def test_fast_replies_come_first_and_few_questions_are_in_memory(server: Server) -> None:
    release = threading.Event()

    def reply(body: dict[str, Any]) -> Any:
        if shade_of(body) == 0:
            release.wait(60)
        return completion("<answer>A</answer>")

    server.reply = reply
    source = Painted()
    engine = ServedEngine(server.url, "toy", source, api_key_env=None, concurrency=3)
    with engine:
        replies = engine.answer(painted_questions(40))
        first = [next(replies)[0] for _ in range(39)]
        assert 0 not in first  # 39 rows did not wait for the slow one
        release.set()
        assert [place for place, _ in replies] == [0]
        taken = source.begun
        slow = engine.answer(painted_questions(60))
        next(slow)
        assert source.begun - taken <= 2 * (3 + cores()) + 1  # read ahead, but not all
        slow.close()
    assert source.most <= cores()  # decoded at the same time


def test_a_row_that_cannot_be_asked_costs_itself(server: Server, world: Path) -> None:
    from videothinker.schema import read_rows

    rows = read_rows(world / "val.jsonl")[:2]
    (world / "torn.mp4").write_bytes((world / rows[0].path).read_bytes()[:400])
    bad = [
        replace(rows[0], id="torn", path="torn.mp4"),
        replace(rows[0], id="gone", path="gone.mp4"),
        replace(rows[0], id="control", problem="<|im_start|>system"),
    ]
    source = FrameSource(world, timeout=None)
    with ServedEngine(server.url, "toy", source, api_key_env=None) as engine:
        got = dict(engine.answer(make_questions([*bad, *rows], ASKING)))
    assert [bool(got[i].error) for i in range(5)] == [True, True, True, False, False]
    assert "torn.mp4" in got[0].error and "gone.mp4" in got[1].error
    assert "control token" in got[2].error
    assert len(server.bodies) == 2


def test_a_question_about_ones_own_video_needs_no_torch(server: Server, world: Path) -> None:
    """On a laptop with the light install: frames are read and sent, the trace comes back."""
    from videothinker.schema import read_rows

    server.reply = lambda body: completion("<time>0-2</time> … <answer>A</answer>")
    row = read_rows(world / "val.jsonl")[0]
    code = f"""
import sys
sys.modules["torch"] = sys.modules["transformers"] = None  # importing them is an error
from videothinker.evaluation.benchmarks import Protocol
from videothinker.evaluation.served_engine import ask_served
from videothinker.schema import Sample
from videothinker.video.frames import Sampling
asking = Protocol(name="house", style="video-thinker", sampling=Sampling(n_frames=8))
sample = Sample("What moves?", [], "unknown", path={row.path!r})
reply, frames = ask_served(
    sample, {server.url!r}, "toy", {str(world)!r}, asking, api_key_env=None, timeout=None
)
print(reply.text, len(frames.pixels))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=world
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["<time>0-2</time>", "…", "<answer>A</answer>", "8"]
    server.reply = lambda body: 404
    with pytest.raises(InputError, match="toy at 127.0.0.1 gave no reply: HTTP 404"):
        ask_served(row, server.url, "toy", world, ASKING, timeout=None, api_key_env=None)


def test_keys_of_caches_of_earlier_versions_stay() -> None:
    """The key of a request without further fields is that of version 0.2."""
    request = Request([{"role": "user", "content": "Which shape moves first?"}])
    assert request.key("tiny").startswith("672d8fed722a3558")
    assert replace(request, fields={"top_p": 0.5}).key("tiny") != request.key("tiny")


# Engines compared


def model_replies(processor: Any, model: Any) -> Callable[[dict[str, Any]], Any]:
    """A server's replies by a model that is shown the sent pictures as a video."""
    kills = load_script("try_eval_kills")
    stand_in = type("Loaded", (), {"model": (model, processor), "lock": threading.Lock()})()

    def reply(body: dict[str, Any]) -> Any:
        text, _, finish = kills.reply_to(body, stand_in)
        return completion(text, finish)

    return reply


def test_a_server_with_the_same_model_says_the_same(server: Server, world: Path) -> None:
    """What is sent is all that the local engine uses: pictures to the pixel, times, words."""
    import torch

    from videothinker.evaluation.video_engine import HFEngine
    from videothinker.model.loading import load_model
    from videothinker.schema import read_rows

    torch.set_num_threads(1)
    model, processor = load_model(BASE, "float32", "cpu")
    source = FrameSource(world, timeout=None)
    for style, tokens in (("letter", 8), ("short", 24)):
        asking = replace(ASKING, style=style, max_new_tokens=tokens)
        questions = make_questions(read_rows(world / "val.jsonl")[:4], asking)
        local = dict(HFEngine(model, processor, source).answer(questions))
        server.reply = model_replies(processor, model)
        with ServedEngine(server.url, "toy", source, api_key_env=None) as engine:
            remote = dict(engine.answer(questions))
        for place, reply in local.items():
            assert remote[place]._replace(n_tokens=reply.n_tokens) == reply
        assert any(reply.cut_off for reply in local.values()) == (style == "short")


@pytest.mark.slow
def test_transformers_serve_answers_about_frames(transformers_server: str, world: Path) -> None:
    """Its replies are those of transformers itself for the same pictures, sent to the pixel.

    They are not the local engine's: a server is shown pictures in a row, where the engine shows a
    video, whose neighbouring frames share patches and whose time is in the positions.
    """
    import torch
    from PIL import Image

    from videothinker.evaluation.served_engine import served_request
    from videothinker.model.loading import load_model
    from videothinker.schema import read_rows

    torch.set_num_threads(1)
    model, processor = load_model(BASE, "float32", "cpu")
    source = FrameSource(world, timeout=None)
    asking = replace(ASKING, max_new_tokens=16)
    questions = make_questions(read_rows(world / "val.jsonl")[:3], asking)
    with ServedEngine(
        transformers_server, str(BASE), source, api_key_env=None, concurrency=1, retries=0
    ) as engine:
        got = dict(engine.answer(questions))
    for place, question in enumerate(questions):
        frames = source.frames(question)
        assert frames is not None
        [message] = served_request(question, frames).messages
        images = iter([Image.fromarray(pixels) for pixels in frames.pixels])
        content = [
            part if part["type"] == "text" else {"type": "image", "image": next(images)}
            for part in message["content"]
        ]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        ids = model.generate(**inputs, max_new_tokens=16, do_sample=False)
        ids = ids[0, inputs["input_ids"].shape[1] :]
        text = processor.tokenizer.decode(ids, skip_special_tokens=True)
        assert not got[place].error and got[place].text == text
        assert got[place].n_tokens == len(ids)


# Workers on a Ray cluster, which starts once for all of these


def function_engine(folder: Path) -> Callable[[], Any]:
    """Makes an engine that says which row it saw, and dies or fails with some."""

    def make() -> Any:
        from videothinker.evaluation.video_engine import Reply

        class Saying:
            name = "saying"

            def answer(self, questions: Any) -> Iterator[tuple[int, Reply]]:
                for place, question in reversed(list(enumerate(questions))):
                    row = question.sample.id
                    with (folder / "asked").open("a") as log:
                        log.write(f"{row}\n")
                    once = folder / f"once-{row}"
                    if row == "row7" and not once.exists():
                        once.touch()
                        os.kill(os.getpid(), signal.SIGKILL)
                    if row == "row13":
                        os.kill(os.getpid(), signal.SIGKILL)
                    if row == "row15":
                        raise ValueError("no such pixel")
                    yield place, Reply(f"saw {row} <answer>A</answer>")

            def likeliest_letters(self, questions: Any) -> list[str | None]:
                return ["B" for _ in questions]

            def close(self) -> None:
                pass

        return Saying()

    return make


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    yield from ray_cluster(8)


def test_rows_of_a_worker_that_dies_are_asked_again_and_no_row_comes_twice(
    cluster: Any, tmp_path: Path
) -> None:
    from videothinker.evaluation.ray_engine import RayEngine

    questions = painted_questions(20)
    with RayEngine(function_engine(tmp_path), 2, batch_size=6, cpus=0.5) as engine:
        got = list(engine.answer(questions))
        letters = engine.likeliest_letters(questions[:5])
        assert 3 <= engine.deaths <= 4  # row15's error may have been one of row13's tries
        quiet = [q for i, q in enumerate(questions) if i not in (7, 13, 15)]
        replies = engine.answer(quiet)
        next(replies)
        replies.close()  # who stops early gets a whole engine for the next benchmark
        again = dict(engine.answer(quiet))
    assert sorted(place for place, _ in got) == list(range(20))
    errors = {place: reply.error for place, reply in got if reply.error}
    assert set(errors) == {13, 15}
    assert "no reply: ActorDiedError" in errors[13] and "(3 tries)" in errors[13]
    assert "ValueError: no such pixel" in errors[15]
    assert {p: r.text for p, r in got if not r.error} == {
        p: f"saw row{p} <answer>A</answer>" for p in range(20) if p not in (13, 15)
    }
    assert len(again) == len(quiet) and letters == ["B"] * 5
    asked = (tmp_path / "asked").read_text().split()
    assert asked.count("row7") >= 2 and 2 <= asked.count("row13") <= 3


def test_a_worker_that_cannot_be_made_ends_the_run_with_the_reason(
    cluster: Any, tmp_path: Path
) -> None:
    from videothinker.evaluation.ray_engine import EngineRecipe, RayEngine

    recipe = EngineRecipe("hf", str(tmp_path / "no-model"), str(tmp_path))
    with RayEngine(recipe, 1, max_tries=2) as engine:
        with pytest.raises(InputError, match="no worker could be made: .*no-model"):
            list(engine.answer(painted_questions(3)))


def test_a_cluster_without_room_or_none_at_all_is_said(cluster: Any, tmp_path: Path) -> None:
    from videothinker.evaluation.ray_engine import RayEngine

    with pytest.raises(InputError, match="no room for a worker with 1 CPUs and 8 GPUs"):
        RayEngine(function_engine(tmp_path), gpus=8)


@pytest.mark.slow
def test_workers_with_a_model_say_what_the_local_engine_says(cluster: Any, world: Path) -> None:
    from videothinker.evaluation.ray_engine import EngineRecipe, RayEngine
    from videothinker.evaluation.video_engine import HFEngine
    from videothinker.model.loading import load_model
    from videothinker.schema import read_rows

    questions = make_questions(read_rows(world / "val.jsonl"), ASKING)
    recipe = EngineRecipe("hf", str(BASE), str(world), timeout=None, device="cpu", batch_size=2)
    with RayEngine(recipe, 2, batch_size=3) as engine:
        spread = dict(engine.answer(questions))
    source = FrameSource(world, timeout=None)
    assert spread == dict(HFEngine(*load_model(BASE, "auto", "cpu"), source).answer(questions))


# Kills


def test_an_evaluation_killed_under_three_engines_leaves_the_same_files(
    cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The quick form of scripts/try_eval_kills.py: hf, openai and ray, each killed once."""
    kills = load_script("try_eval_kills")
    found = kills.main([str(tmp_path), "--kills", "3", "--questions", "24"])
    said = capsys.readouterr().out
    assert found == 0, said
    assert "3 kills: " in said and dumps("start 3 (ray)")[1:-1] in said
