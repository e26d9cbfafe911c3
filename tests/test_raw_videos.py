"""`synthesize --videos FOLDER` alone: from videos that nobody has annotated to rows with traces."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from videothinker.commands.main import main
from videothinker.commands.synthesis import caption_footage
from videothinker.data.prepare import is_held_out
from videothinker.schema import Segment, read_captions, read_rows, write_captions
from videothinker.synthesis.engine import FunctionEngine, Request, chat
from videothinker.synthesis.teacher import Asker, EngineTeacher
from videothinker.synthesis.timed_captions import read_shot
from videothinker.video.shots import BLOCK, SIDE, ShotRule, compared_frames, find_shots

FPS, SIZE = 10, 64
COLOURS = {
    "red": (200, 40, 40),
    "green": (40, 170, 60),
    "blue": (40, 60, 200),
    "yellow": (210, 200, 50),
    "white": (225, 225, 225),
}
FILMS = {  # path → the rooms that are seen, 3 s each
    "one.mp4": ("red", "green", "blue"),
    "sub/two.mp4": ("yellow", "blue"),
    "three.mp4": ("white", "red", "yellow", "green"),
    "four.mp4": ("blue", "white"),
}


def encode(path: Path, pictures: Iterator[np.ndarray], rate: int = FPS) -> None:
    path.parent.mkdir(exist_ok=True)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=rate, options={"preset": "ultrafast"})
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode())


def rooms(colours: tuple[str, ...], seconds: float = 3.0) -> Iterator[np.ndarray]:
    """A room of each colour, with a black square that crosses it."""
    for colour in colours:
        for t in range(round(seconds * FPS)):
            picture = np.full((SIZE, SIZE, 3), COLOURS[colour], np.uint8)
            picture[20:36, t % 48 : t % 48 + 16] = 0
            yield picture


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four films, a film of less than 64 frames, and a file that is no film."""
    folder = tmp_path_factory.mktemp("footage") / "my clips"
    for name, colours in FILMS.items():
        encode(folder / name, rooms(colours, 3 if len(colours) > 2 else 4))
    encode(folder / "short.mp4", rooms(("red", "blue")))
    (folder / "broken.mp4").write_text("this is not a video")
    return folder


# The model


def decoded(part: dict[str, Any]) -> np.ndarray:
    data = base64.b64decode(part["image_url"]["url"].partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)), float)


def colour_of(content: list[dict[str, Any]]) -> str:
    """The one colour of all rooms that the model is shown."""
    means = [decoded(part)[-8:].mean((0, 1)) for part in content if part["type"] == "image_url"]
    near = {min(COLOURS, key=lambda c: np.abs(COLOURS[c] - mean).sum()) for mean in means}
    (colour,) = near  # frames of two shots in one request would be two
    return colour


def caption(content: list[dict[str, Any]]) -> str:
    start, end = re.findall(r"[\d.]+", content[-1]["text"])[:2]
    text = f"A black square crosses a {colour_of(content)} room."
    return json.dumps({"segments": [{"start": float(start), "end": float(end), "caption": text}]})


def answer(body: dict[str, Any]) -> str:
    """What a model that sees colours writes: captions, questions and traces."""
    user = body["messages"][1]["content"]
    if isinstance(user, list):
        return caption(user)
    if "Right answer" not in user:
        seen = re.findall(r"crosses a (\w+) room", user)
        others = [colour for colour in COLOURS if colour != seen[0]]
        options = [f"the {colour} room" for colour in (seen[0], *others)]
        question = {"question": "Which room is crossed first?", "options": options}
        return json.dumps(question | {"answer": options[0]})
    times, text = re.findall(r"(\d\d:\d\d-\d\d:\d\d): (.*)", user)[0]
    return (
        f"<time>{times}</time> <caption>{text}</caption> <think>that is the first room</think> "
        "so it is A <answer>A</answer>"
    )


class Server(ThreadingHTTPServer):
    """A chat server: `reply(body)` gives the text; requests are counted."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply: Callable[[dict[str, Any]], str] = answer
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(json.dumps(body, sort_keys=True))
        message = {"role": "assistant", "content": self.server.reply(body)}
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        choices = [{"index": 0, "finish_reason": "stop", "message": message}]
        reply = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"]}
        data = json.dumps(reply | {"choices": choices, "usage": usage}).encode()
        try:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:  # who asked was killed
            pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)  # a server of one's own needs none
    with Server() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def flags(server: Server, videos: Path, out: Path) -> list[str]:
    model = ["--teacher-url", server.url, "--teacher-model", "seer"]
    return ["synthesize", "--videos", str(videos), "--out", str(out), *model]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run a command in this process: its exit code, and what it printed (stderr if it failed)."""

    def call(*argv: object) -> tuple[int, str]:
        capsys.readouterr()
        try:
            main([str(a) for a in argv])
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, err if code in (1, 2) else out

    return call


def written(out: Path) -> dict[str, bytes]:
    """What a run leaves behind, but for the store."""
    paths = sorted(out.parent.glob(f"{out.name}*"))
    return {p.name: p.read_bytes() for p in paths if p.is_file() and ".answers" not in p.name}


def without_prompts(out: Path) -> list[dict[str, Any]]:
    """The rows of a file, but not by which prompts they were made."""
    rows = [row.to_row() for row in read_rows(out)]
    for row in rows:
        assert row["provenance"].pop("prompts")[0].startswith("timed-captions@1-")
    return rows


def test_a_folder_of_videos_becomes_rows(
    server: Server, videos: Path, tmp_path: Path, run: Any
) -> None:
    out = tmp_path / "rows.jsonl"
    code, text = run(*flags(server, videos, out))
    assert code == 3 and "11 shots in 4 videos; 1 with fewer than 64 frames are left out" in text
    (failure,) = map(json.loads, Path(f"{out}.failed.jsonl").read_text().splitlines())
    assert failure["id"] == "broken" and "UndecodableVideo" not in failure["reason"]
    assert "broken.mp4" in failure["reason"] and "broken" in text

    clips = read_captions(f"{out}.captions.jsonl")
    assert [clip.path for clip in clips] == sorted(FILMS)
    for clip in clips:
        seconds = 3 if len(FILMS[clip.path]) > 2 else 4
        for i, (segment, colour) in enumerate(zip(clip.segments, FILMS[clip.path], strict=True)):
            assert segment.caption == f"A black square crosses a {colour} room."
            assert abs(segment.start - i * seconds) <= 1.5 / FPS
        assert clip.data_source == "my clips" and clip.duration == seconds * len(clip.segments)
        assert clip.provenance["prompts"][0].startswith("timed-captions@1-")
        assert clip.provenance["teacher"] == "seer"

    train, test = read_rows(out), []
    if Path(f"{out}.test.jsonl").exists():
        test = read_rows(f"{out}.test.jsonl")
    assert sorted(row.path for row in [*train, *test]) == sorted(FILMS)
    held_out = {path for path in FILMS if is_held_out(os.path.splitext(path)[0], 0.2)}
    assert {row.path for row in test} == held_out
    for row in [*train, *test]:
        assert row.split == ("test" if row in test else "train")
        assert row.process and row.option_text(row.answer) == f"the {FILMS[row.path][0]} room"


def test_held_out_videos_have_a_file_of_their_own(
    server: Server, videos: Path, tmp_path: Path, run: Any
) -> None:
    share = 0.5
    held_out = {path for path in FILMS if is_held_out(os.path.splitext(path)[0], share)}
    assert 0 < len(held_out) < len(FILMS)
    for name, source in [("a.jsonl", ["--videos", videos]), ("b.jsonl", ["--captions"])]:
        out = tmp_path / name
        if name == "b.jsonl":  # from the captions of the first run
            source = [*source, tmp_path / "a.jsonl.captions.jsonl"]
        model = ["--teacher-url", server.url, "--teacher-model", "seer"]
        run("synthesize", *source, "--out", out, "--held-out", share, *model)
        assert {row.path for row in read_rows(f"{out}.test.jsonl")} == held_out
        assert {row.path for row in read_rows(out)} == FILMS.keys() - held_out
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


@pytest.mark.parametrize("with_captions", [False, True])
def test_no_test_file_stays_whose_videos_are_trained_on(
    server: Server, videos: Path, tmp_path: Path, run: Any, with_captions: bool
) -> None:
    out = tmp_path / "rows.jsonl"
    run(*flags(server, videos, out), "--held-out", 0.5)
    assert Path(f"{out}.test.jsonl").exists()
    argv = flags(server, videos, out)
    if with_captions:  # of another output, whose videos are all to be trained on
        other = tmp_path / "other.jsonl"
        run(*flags(server, videos, other), "--held-out", 0)
        argv += ["--captions", f"{other}.captions.jsonl"]
    run(*argv, "--held-out", 0)
    assert {row.path for row in read_rows(out)} == FILMS.keys()
    assert not Path(f"{out}.test.jsonl").exists()


def test_a_reply_with_wrong_times_is_asked_for_again(
    server: Server, videos: Path, tmp_path: Path, run: Any
) -> None:
    wrong: set[str] = set()

    def from_zero_at_first(body: dict[str, Any]) -> str:
        user = body["messages"][1]["content"]
        text = answer(body)
        if isinstance(user, list) and user[-1]["text"] not in wrong:
            wrong.add(user[-1]["text"])
            return text.replace('"start": ', '"start": 1').replace('"end": ', '"end": 1')
        return text

    whole = tmp_path / "whole.jsonl"
    run(*flags(server, videos, whole))
    n = len(server.asked)
    server.reply = from_zero_at_first
    out = tmp_path / "rows.jsonl"
    code, _ = run(*flags(server, videos, out), "--workers", 1)
    assert code == 3 and len(server.asked) == 2 * n + len(wrong) and len(wrong) > 3
    assert without_prompts(out) == without_prompts(whole)


@pytest.mark.parametrize("time", ["1" + "0" * 400, "1" + "0" * 5000, "1e400", "-Infinity", "NaN"])
def test_a_time_that_is_no_number_of_seconds_is_a_reply_like_others(time: str) -> None:
    wild = f'{{"segments": [{{"start": {time}, "end": 2, "caption": "a room"}}]}}'
    plain = '{"segments": [{"start": 0, "end": 2, "caption": "a room"}]}'
    asker = Asker(FunctionEngine(lambda request: plain if request.seed else wild))
    read = asker.ask(chat("s", "u"), lambda reply: read_shot(reply, Segment(0, 5)), "a shot")
    assert read == [Segment(0, 2, "a room")]


def test_a_shot_that_cannot_be_described_is_on_record(
    server: Server, videos: Path, tmp_path: Path, run: Any
) -> None:
    def blind_to_green(body: dict[str, Any]) -> str:
        text = answer(body)
        return "I see nothing." if "a green room" in text and "segments" in text else text

    server.reply = blind_to_green
    out = tmp_path / "rows.jsonl"
    code, text = run(*flags(server, videos, out))
    assert code == 3
    lines = Path(f"{out}.failed.jsonl").read_text().splitlines()
    failures = {row["clip"]["path"]: row for row in map(json.loads, lines)}
    assert failures.keys() == {"broken.mp4", "one.mp4", "three.mp4"}
    assert "no JSON object" in failures["one.mp4"]["reason"]
    assert len(failures["one.mp4"]["clip"]["timestamps"]) == 1
    clips = {clip.path: clip for clip in read_captions(f"{out}.captions.jsonl")}
    assert [len(clips[p].segments) for p in ("one.mp4", "three.mp4")] == [2, 3]

    server.reply = answer  # the model was mended; the same command ends as if it had been well
    server.asked.clear()
    run(*flags(server, videos, out), "--ask-again", "--tries", 9)
    whole = tmp_path / "whole.jsonl"
    run(*flags(server, videos, whole))
    mended, well = (read_captions(f"{name}.captions.jsonl") for name in (out, whole))
    assert [clip.segments for clip in mended] == [clip.segments for clip in well]
    assert without_prompts(out) == without_prompts(whole)


@pytest.mark.parametrize("n", [4, 14])  # among the captions, among the questions
def test_a_killed_run_asks_nothing_twice_and_ends_the_same(
    server: Server, videos: Path, tmp_path: Path, run: Any, command: str, n: int
) -> None:
    whole = tmp_path / "whole" / "run" / "rows.jsonl"
    run(*flags(server, videos, whole))
    every = Counter(server.asked)
    assert set(every.values()) == {1}

    server.asked.clear()
    reached, release = threading.Event(), threading.Event()

    def until(body: dict[str, Any]) -> str:
        if len(server.asked) == n:
            reached.set()
            release.wait()  # it will be killed while it waits for this
        return answer(body)

    server.reply = until
    out = tmp_path / "killed" / "run" / "rows.jsonl"
    argv = [command, *flags(server, videos, out), "--workers", "1"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(argv, **quiet) as process:  # type: ignore[call-overload]
        reached.wait(600)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and not out.exists()
    release.set()
    before = Counter(server.asked)
    kept = len(Path(f"{out}.answers").read_text("utf-8").splitlines())

    server.reply = answer
    code, _ = run(*flags(server, videos, out))
    assert code == 3
    again = Counter(server.asked) - every  # all that was under way, and nothing that was kept
    assert 1 <= again.total() == before.total() - kept <= 2 and again <= before
    assert set(server.asked) == set(every)
    assert written(out) == written(whole)


def test_corrected_captions_are_used_and_not_lost(
    server: Server, videos: Path, tmp_path: Path, run: Any
) -> None:
    out = tmp_path / "rows.jsonl"
    run(*flags(server, videos, out), "--held-out", 0)
    captions = Path(f"{out}.captions.jsonl")
    clips = read_captions(captions)
    first = clips[0].segments[0]
    clips[0].segments[0] = type(first)(first.start, first.end, "A square crosses a white room.")
    write_captions(captions, clips)
    corrected = captions.read_bytes()

    code, text = run(*flags(server, videos, out), "--held-out", 0)
    assert code == 2 and "--captions" in text and "four" in text and "Traceback" not in text
    assert captions.read_bytes() == corrected
    model = ["--teacher-url", server.url, "--teacher-model", "seer"]
    code, _ = run("synthesize", "--captions", captions, "--out", tmp_path / "mine.jsonl", *model)
    assert code == 0
    rows = {row.path: row for row in read_rows(tmp_path / "mine.jsonl")}
    assert rows["four.mp4"].option_text(rows["four.mp4"].answer) == "the white room"


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--toy"], "--toy sees no videos"),
        ([], "--teacher-url"),
        (["--videos", '{"a": "."}'], "--videos alone takes one folder"),
        (["--videos", "nowhere"], "there is no folder nowhere"),
        (["--held-out", "1.5"], "--held-out"),
    ],
)
def test_what_cannot_go_well_is_refused_before_anything_is_written(
    videos: Path, tmp_path: Path, run: Any, argv: list[str], words: str
) -> None:
    out = tmp_path / "new" / "rows.jsonl"
    code, text = run("synthesize", "--videos", videos, "--out", out, *argv)
    assert code == 2 and words in text and "Traceback" not in text
    assert not list(tmp_path.rglob("rows*"))


def test_a_folder_without_videos_is_named(server: Server, tmp_path: Path, run: Any) -> None:
    (tmp_path / "empty").mkdir()
    code, text = run(*flags(server, tmp_path / "empty", tmp_path / "rows.jsonl"))
    assert code == 2 and "there is no video below this folder" in text


def test_a_dry_run_sends_nothing_and_a_preview_writes_no_rows(
    server: Server, videos: Path, tmp_path: Path, run: Any
) -> None:
    out = tmp_path / "rows.jsonl"
    code, text = run(*flags(server, videos, out), "--dry-run")
    assert code == 0 and "11 to be sent" in text and not server.asked
    assert not out.exists() and not Path(f"{out}.captions.jsonl").exists()
    code, _ = run(*flags(server, videos, out), "--preview", 2)
    assert server.asked and Path(f"{out}.preview.html").exists()
    assert not out.exists() and not Path(f"{out}.captions.jsonl").exists()
    n = len(server.asked)
    run(*flags(server, videos, out))  # what the preview paid for is not asked again
    assert len(set(server.asked)) == len(server.asked) > n


class Batch(FunctionEngine):
    """An engine that only notes what it is asked, until it is flushed."""

    def __init__(self) -> None:
        self.noted: dict[str, Request] = {}
        self.answers: dict[str, str] = {}
        self.flushed: list[int] = []
        super().__init__(self._reply)

    def _reply(self, request: Request) -> str | None:
        if request.key() not in self.answers:
            self.noted[request.key()] = request
        return self.answers.get(request.key())

    def replied(self, request: Request) -> bool:
        return request.key() in self.answers

    def flush(self) -> int:
        self.flushed.append(len(self.noted))
        for key, request in self.noted.items():
            self.answers[key] = answer({"messages": request.messages})
        self.noted.clear()
        return self.flushed[-1]


def test_a_batch_of_shots_is_asked_for_at_once(videos: Path, tmp_path: Path) -> None:
    flags = SimpleNamespace(
        videos=str(videos), out=str(tmp_path / "rows.jsonl"), frames=4, held_out=0.2
    )
    vars(flags).update(no_filter=[], min_frames=64, preview=None, dry_run=False)
    engine, failed = Batch(), []
    clips = caption_footage(flags, EngineTeacher(engine), 4, failed)  # type: ignore[arg-type]
    assert engine.flushed == [11, 0] and [clip.path for clip in clips] == sorted(FILMS)
    assert [failure.name for failure in failed] == ["broken"]


def test_captions_are_shown_over_their_videos(
    server: Server, videos: Path, tmp_path: Path, run: Any
) -> None:
    out = tmp_path / "rows.jsonl"
    run(*flags(server, videos, out))
    page = tmp_path / "captions.html"
    code, text = run("view", f"{out}.captions.jsonl", "--videos", videos, "--out", page)
    assert code == 0 and "4 videos" in text
    assert "A black square crosses a yellow room." in page.read_text()


# Shots


def test_a_long_video_is_read_in_blocks(tmp_path: Path) -> None:
    def slow() -> Iterator[np.ndarray]:
        for t in range(600):
            colour = "red" if t < 301 else "blue"
            yield np.full((SIZE, SIZE, 3), COLOURS[colour], np.uint8)

    path = tmp_path / "long.mp4"
    encode(path, slow(), rate=1)
    blocks = list(compared_frames(path, 600.0, 4.0, 60.0))
    assert len(blocks) == 10 and max(len(pixels) for pixels, _ in blocks) <= 4 * BLOCK
    assert all(pixels.shape[1:] == (SIDE, SIDE, 3) for pixels, _ in blocks)
    times = np.concatenate([shown for _, shown in blocks])
    assert len(times) == 2400 and (np.diff(times) >= 0).all()
    shots = find_shots(path, ShotRule(fps=4, longest=400))
    assert [shot.start for shot in shots] == [0, pytest.approx(300.5)]
    assert shots[-1].end == 600
    parts = find_shots(path, ShotRule(fps=4, longest=100))
    assert max(part.end - part.start for part in parts) <= 100 and len(parts) == 7


def test_a_still_video_is_one_shot(tmp_path: Path) -> None:
    path = tmp_path / "still.mp4"
    encode(path, (np.full((SIZE, SIZE, 3), 90, np.uint8) for _ in range(2 * FPS)))
    assert [(s.start, s.end) for s in find_shots(path)] == [(0.0, 2.0)]
