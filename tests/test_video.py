"""Damaged videos, processes killed while they write, read or hang; and the measuring scripts."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import load_script

from videothinker.cache import DiskCache
from videothinker.video.backends import decode
from videothinker.video.frames import Frames, MissingVideo, Sampling, VideoError
from videothinker.video.reader import cached_frames, frame_key, read_frames
from videothinker.video.worker import IDLE_WORKERS

bench, files = load_script("bench_video"), load_script("try_files")
CLIP = bench.Clip("libx264", ".mp4", ((2, 25),), options={"preset": "ultrafast"})


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two short videos whose frames say which they are."""
    folder = tmp_path_factory.mktemp("clips")
    made = [
        bench.make(folder, name, CLIP._replace(repeats=n)) for name, n in (("one", 1), ("three", 3))
    ]
    for path in made:
        os.utime(path, (1e9, 1e9))  # so old that its digest is kept
    return [str(path) for path in made]


def until(true: Callable[[], bool], seconds: float, pause: float = 0.02) -> bool:
    """Wait until something is true, or the time is up; return True if it is."""
    end = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < end:
        time.sleep(pause)
    return found


def lives(process: int) -> bool:
    """Return True if a process is there and has not ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# Damaged files


def test_damaged_files_end_in_frames_or_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [
        "--files",
        "120",
        "--timeout",
        "20",
        "--keep",
        tmp_path / "kept",
        "--json",
        tmp_path / "rows.json",
    ]
    failed = files.main([str(option) for option in options])
    said = capsys.readouterr().out
    assert not failed, said
    rows = json.loads((tmp_path / "rows.json").read_text())["pyav"]["rows"]
    assert len(rows) == 120 and {row["kind"] for row in rows} == set(files.KINDS)
    assert {"read", "EmptyVideo", "TruncatedVideo", "UndecodableVideo"} <= {
        row["outcome"] for row in rows
    }
    assert "0 complaints" in said and not (tmp_path / "kept").exists()


def test_a_file_of_a_seed_is_always_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = {name: files.SOURCES[name] for name in ("end.mp4", "wide.mp4", "colour.mp4")}
    monkeypatch.setattr(files, "SOURCES", some)
    sources = files.make_sources(tmp_path)
    many = [files.damaged(3, number, sources) for number in range(60)]
    assert many == [files.damaged(3, number, sources) for number in range(60)]
    assert many[0] != files.damaged(4, 0, sources) and len({file.name for file in many}) == 60


FRAMES = Frames(np.zeros((8, 28, 28, 3), np.uint8), np.arange(8.0), 8.0)


@pytest.mark.parametrize(
    ("result", "complaint"),
    [
        (FRAMES, ""),
        (Frames(FRAMES.pixels[:6], FRAMES.times[:6], 8.0), "frames are"),
        (Frames(FRAMES.pixels[:, :20], FRAMES.times, 8.0), "no multiples"),
        (Frames(FRAMES.pixels, FRAMES.times[::-1], 8.0), "do not ascend"),
        (Frames(FRAMES.pixels, FRAMES.times, 6.0), "outside a clip"),
        (Frames(FRAMES.pixels, FRAMES.times - 1, 8.0), "outside a clip"),
        (MissingVideo("x.mp4", "is not there"), ""),
        (MissingVideo("y.mp4", "is another one"), "no good message"),
        (MissingVideo("x.mp4", "two\nlines"), "no good message"),
        (VideoError("x.mp4", "of no kind"), "no good message"),
        (KeyError("shape"), "KeyError"),
    ],
)
def test_what_breaks_a_rule_is_noticed(result: object, complaint: str) -> None:
    def read() -> object:
        if isinstance(result, Exception):
            raise result
        return result

    found = files.outcome(Path("x.mp4"), read, files.complaints_about_frames, 10)
    assert complaint in found["complaint"] and bool(complaint) == bool(found["complaint"])
    assert (
        "took"
        in files.outcome(Path("x.mp4"), lambda: FRAMES, files.complaints_about_frames, -2)[
            "complaint"
        ]
    )


def test_a_broken_rule_is_printed_and_the_file_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    backwards = Frames(FRAMES.pixels, FRAMES.times[::-1], 1.92)
    monkeypatch.setattr(files, "SOURCES", {"end.mp4": files.Source()})
    monkeypatch.setattr(files, "installed", lambda backend: True)
    monkeypatch.setattr(files, "read_frames", lambda *args: backwards)
    assert files.main(["--only", "0", "--keep", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "pyav 0 nothing of end.mp4: times do not ascend" in said and "1 complaints" in said
    assert [path.name for path in (tmp_path / "pyav").iterdir()] == ["00000-end.mp4"]


# A cache whose writers are killed

KEYS = (60, 400)  # frames of an entry: repeats of few pictures, so that much of the time is writing
FILL = """
import sys
from videothinker.video.frames import Sampling
from videothinker.video.reader import cached_frames
print("ready", flush=True)
for clip in sys.argv[2:]:
    for n in (60, 400):
        cached_frames(clip, Sampling(n_frames=n, size=(112, 168)), sys.argv[1], timeout=None)
"""


def fill(folder: Path, clips: list[str]) -> subprocess.Popen[bytes]:
    """A process that fills a cache, past its imports."""
    command = [sys.executable, "-c", FILL, str(folder), *clips]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    process.stdout.close()
    return process


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a cache that is not a temporary one, by its name."""
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".tmp"}


def temporaries(folder: Path) -> list[Path]:
    """Files that a killed process had not finished."""
    return list(folder.rglob(".*.tmp"))


def wishes() -> list[Sampling]:
    """What the entries are entries of."""
    return [Sampling(n_frames=n, size=(112, 168)) for n in KEYS]


def shoot(process: subprocess.Popen[bytes], folder: Path, delay: float | None) -> None:
    """Kill a process after so many seconds; with None, when it has just begun to write an entry."""
    before = len(temporaries(folder))
    if delay is None:
        until(lambda: len(temporaries(folder)) > before or process.poll() is not None, 60, pause=0)
    else:
        time.sleep(delay)
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def whole(
    clips: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, bytes], float]:
    """The cache of a process that nobody killed, with the right frames, and how long that took."""
    folder = tmp_path_factory.mktemp("whole")
    process, begin = fill(folder, clips), time.monotonic()
    assert process.wait(60) == 0
    seconds, made = time.monotonic() - begin, content(folder)
    assert sum(name.endswith(".frames") for name in made) == len(KEYS) * len(
        clips
    ) and not temporaries(folder)
    for clip, wish in itertools.product(clips, wishes()):
        frames = cached_frames(clip, wish, folder)
        numbers = bench.codes(frames.pixels)
        assert bench.errors(CLIP._replace(repeats=3), frames.times.tolist(), numbers)[0] < 1e-3
    assert content(folder) == made
    return made, seconds


def test_killed_while_writing_no_entry_is_ever_torn(
    clips: list[str], whole: tuple[dict[str, bytes], float], tmp_path: Path
) -> None:
    rng, (expected, seconds) = random.Random(0), whole
    for kill in range(20):
        shoot(fill(tmp_path, clips), tmp_path, rng.uniform(0, seconds) if kill % 2 else None)
        found = content(tmp_path)
        assert all(data == expected[name] for name, data in found.items())  # whole or not there
        for clip, wish in itertools.product(clips, wishes()):
            pixels = cached_frames(clip, wish, tmp_path, timeout=None).pixels
            assert expected[f"{frame_key(clip, wish, '', tmp_path)}.frames"].endswith(
                pixels.tobytes()
            )
        for name in rng.sample(
            sorted(expected), len(expected) // 2
        ):  # so that the next has something to write
            (tmp_path / name[:2] / name).unlink(missing_ok=True)
    left = temporaries(tmp_path)
    assert 1 <= len(left) <= 20  # some were hit in the middle of a write, and leave one file each
    assert fill(tmp_path, clips).wait(60) == 0
    assert content(tmp_path) == expected
    DiskCache(tmp_path, ".frames").shrink()
    assert set(temporaries(tmp_path)) == set(left)  # somebody might still be writing them
    for path in left:
        os.utime(path, (time.time() - 4000,) * 2)
    for suffix in (".frames", ".sha256"):
        DiskCache(tmp_path, suffix).shrink()
    assert not temporaries(tmp_path) and content(tmp_path) == expected


def test_one_of_several_writers_is_killed(
    clips: list[str], whole: tuple[dict[str, bytes], float], tmp_path: Path
) -> None:
    rng, (expected, seconds) = random.Random(1), whole
    for round in range(3):
        folder = tmp_path / str(round)
        first, *others = [fill(folder, clips) for _ in range(3)]
        shoot(first, folder, rng.uniform(0, seconds))
        assert [process.wait(60) for process in others] == [0, 0]
        assert content(folder) == expected and len(temporaries(folder)) <= 1


# No process stays behind

ALONE = """
import os, sys, threading
from videothinker.video import worker
from videothinker.video.frames import Sampling
from videothinker.video.reader import read_frames
os.cpu_count = lambda: 1  # the limit of computing time grows with it
if sys.argv[2] == "hangs":
    worker.START_WORKER = f'''
import os
from videothinker.video import worker
def hang(job):
    open({sys.argv[3]!r}, "w").write(str(os.getpid()))
    while True: pass
os.cpu_count = lambda: 1
worker.run_job = hang
worker.serve()
'''
read_frames(sys.argv[1], Sampling(n_frames=2), timeout=2)
open(sys.argv[3], "w").write(str(worker.IDLE_WORKERS[0].process.pid))
threading.Event().wait()
"""


@pytest.mark.parametrize(("how", "seconds"), [("waits", 5), ("hangs", 40)])
def test_a_decoding_process_ends_after_its_parent_was_killed(
    how: str, seconds: float, clips: list[str], tmp_path: Path
) -> None:
    note = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, "-c", ALONE, clips[0], how, str(note)])
    assert until(lambda: note.exists() and note.read_text() != "", 30)
    parent.kill()
    parent.wait()
    worker = int(note.read_text())
    assert how == "waits" or lives(worker)  # nobody is left to kill it
    assert until(lambda: not lives(worker), seconds), f"process {worker} lives"


def test_killed_decoding_processes_are_replaced(clips: list[str]) -> None:
    expected = read_frames(clips[0], Sampling(n_frames=4))
    for _ in range(3):
        for worker in IDLE_WORKERS:
            os.kill(worker.process.pid, signal.SIGKILL)
        again = read_frames(clips[0], Sampling(n_frames=4))
        assert np.array_equal(again.pixels, expected.pixels)


# The benchmark


def test_bar_codes_tell_frames_at_the_size_of_the_model() -> None:
    made = np.stack([*bench.scenes(90, 360, 640)])
    assert bench.codes(made) == list(range(90))
    torch = pytest.importorskip("torch")
    shrunk = bench.resized(made, lambda part: torch.from_numpy(part).permute(0, 3, 1, 2))
    small = shrunk.permute(0, 2, 3, 1).numpy()
    assert small.shape == (90, 224, 420, 3) and bench.codes(small) == list(range(90))
    small[5, :20, :20] = 255 - small[5, :20, :20]
    assert bench.codes(small)[5] == -1


def test_errors_of_times_are_measured_against_the_frame_that_came(tmp_path: Path) -> None:
    varying = CLIP._replace(parts=((2, 30), (4, 5)))
    frames = read_frames(bench.make(tmp_path, "varying", varying), Sampling(n_frames=16))
    numbers = bench.codes(frames.pixels)
    assert bench.errors(varying, frames.times.tolist(), numbers)[0] < 1e-3
    assert bench.errors(varying, (frames.times + 0.25).tolist(), numbers) == pytest.approx(
        (0.25, 0.25), abs=1e-3
    )
    assert np.isnan(bench.errors(varying, [0.0], [-1])).all()
    repeated = CLIP._replace(repeats=4)
    assert bench.errors(repeated, [2.0, 4.04, 6.5], [0, 1, 10]) == pytest.approx((0.1, 0.1 / 3))
    assert bench.naive(repeated, 16) == pytest.approx((0, 0), abs=1e-9)
    assert bench.naive(varying, 16)[0] > 1.0  # 80 frames in 6 s, 60 of them in the first 2 s


def a_row(**medians: float) -> dict[str, Any]:
    """A row of the benchmark with these seconds."""
    known = {"way": "plain", "peak_mib": 7.0}
    found = {name.replace("_", " "): known | {"median": value} for name, value in medians.items()}
    return {
        "clip": "short",
        "frames": 16,
        "contenders": found,
        "first_runs": {},
        "naive_max": 2.0,
        "naive_mean": 1.0,
    }


def test_table_names_who_is_absent_and_who_failed() -> None:
    row = a_row(decord=0.25, ours=0.5, cache_empty=1.0, cache_filled=0.001)
    row["contenders"]["PyAV"] = {"failed": "hung, killed after 900 s"}
    said = bench.table([row])
    seconds = said.splitlines()[2].split()
    assert seconds == ["short", "16", "0.25", "failed", "absent", "absent", "0.5", "1", "0.001"]
    assert "absent: not installed: torchcodec, qwen-vl-utils" in said
    assert "decord: plain; PyAV: hung, killed after 900 s" in said
    row["first_runs"] = {
        "decord: plain": {"way": "plain", "error_max": 0.5, "error_mean": 0.25},
        "PyAV: seeks": {},
    }
    wrong = [line.split()[-3:] for line in bench.time_errors([row]).splitlines()[2:]]
    assert wrong == [["2000", "/", "1000"], ["500", "/", "250"], ["PyAV:", "seeks", "failed"]]


def test_ratios_are_taken_against_the_fastest_of_the_others() -> None:
    rows = [
        a_row(decord=0.4, PyAV=0.2, ours=0.1, cache_filled=0.002),
        a_row(decord=1.0, ours=2.0, cache_filled=0.1),
    ]
    numbers = bench.ratios(
        [*rows, a_row(ours=1.0, cache_filled=1.0)]
    )  # with nobody to compare there is no ratio
    assert [n["fastest"] for n in numbers] == ["PyAV", "decord"]
    assert [n["ours"] for n in numbers] == pytest.approx([2.0, 0.5])
    assert [n["warm"] for n in numbers] == pytest.approx([100.0, 10.0])
    said = bench.comparison(numbers, {"busy": 0.9, "wall": 3.0}).splitlines()
    assert [line.count("!") for line in said[2:]] == [0, 2, 2, 0, 0] and "90% busy" in said[-1]
    assert "!" in bench.comparison([], {"busy": 0.5, "wall": 3.0})


def test_a_contender_that_hangs_or_dies_has_failed(
    clips: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wish = {"path": clips[0], "n": 4, "fps": None}
    child = bench.Child("ours", "ours", tmp_path)
    try:
        assert "idle" in child.hear(60)
        found = child.ask(wish)
        assert (
            found["shape"] == [4, 224, 420, 3] and len(found["codes"]) == 4 and found["seconds"] > 0
        )
        assert "MissingVideo" in child.ask(wish | {"path": "nowhere.mp4"})["failed"]
        monkeypatch.setattr(bench, "LIMIT", 0.5)
        child.process.send_signal(signal.SIGSTOP)
        assert "hung" in child.ask(wish)["failed"] and "hung" in child.ask(wish)["failed"]
    finally:
        child.close()


def test_benchmark_runs_from_clips_to_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "QUICK", {"tiny": CLIP})
    monkeypatch.setattr(bench, "COUNTS", ("4",))
    monkeypatch.setattr(
        bench, "WAYS", {name: bench.WAYS[name][:1] for name in ("PyAV", *bench.OURS)}
    )
    bench.main(
        ["--quick", "--keep", str(tmp_path / "clips"), "--json", str(tmp_path / "found.json")]
    )
    found = json.loads((tmp_path / "found.json").read_text())
    (row,) = found["rows"]
    assert all(
        what["error_max"] < 1e-3 and what["peak_mib"] > 0 for what in row["contenders"].values()
    )
    assert (
        set(row["contenders"]) == {"PyAV", *bench.OURS} and found["ratios"][0]["fastest"] == "PyAV"
    )
    assert 0 < found["ahead"]["busy"] <= 1.05 and found["conditions"]["cores"] == str(
        os.cpu_count()
    )
    assert "times as fast as the fastest of the others" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "clips").iterdir()] == [
        "tiny.mp4"
    ]  # kept, and nothing else


def test_decord_leaves_torch_alone() -> None:
    """decord2 would load NVBLAS with global symbols, in whose hands torch's products end."""
    pytest.importorskip("decord")
    pytest.importorskip("torch")
    code = """
from videothinker.video.backends import _import_decord
_import_decord()
import torch
print(torch.nn.functional.linear(torch.ones(8, 1176), torch.ones(16, 1176)).sum().item())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == str(8.0 * 16 * 1176), done.stderr


def test_two_threads_find_the_frames_of_a_stream_without_index(tmp_path: Path) -> None:
    """The second walker once began in the middle of a transport stream, and saw no beginning."""
    import av

    path = tmp_path / "long.ts"
    with av.open(str(path), "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "50", "bf": "2"})
        stream.width = stream.height = 64
        for i in range(28 * 25):
            image = np.full((64, 64, 3), i % 251, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    sampling = Sampling(times=(0.0, 1.0, 1.01, 7.7), size=(56, 56))
    expected = decode(path, sampling, threads=1).times
    for _ in range(10):
        np.testing.assert_array_equal(decode(path, sampling, threads=2).times, expected)
