"""Benchmark of video readers: seconds, memory and errors of times, ours and those that others use.

    python scripts/bench_video.py [--quick] [--repeat 3] [--clips NAME ...] [--keep FOLDER]
                                  [--json FILE]

The clips are made first: a textured scene that is panned over, with cuts, and at the top of each
frame a bar code that says which frame it is. One part is encoded and its packets are repeated up to
the length. From each clip 16, 64 and 256 frames spread over it are read, and 2 frames a second, at
most 768. Everyone ends with RGB of the size that Qwen2.5-VL would ask for with `max_pixels = 128 *
28 * 28`. The contenders, each as its users call it:

    decord          VideoReader(path).get_batch(indices).asnumpy(), by the package decord2
    PyAV            one pass with thread_type AUTO, or a seek to each frame, and to_ndarray("rgb24")
    torchcodec      VideoDecoder(path).get_frames_at(indices), exact or approximate seeking,
                    one or two threads
    qwen-vl-utils   fetch_video({"video": path, "nframes" or "fps", "max_pixels"}), by decord or
                    by torchcodec
    ours            read_frames(path, Sampling(...)) by a killable process that has been used before
    cache empty     cached_frames into an empty folder: digest of the file, reading, writing
    cache filled    cached_frames from a filled folder; the process remembers no digest; every byte
                    is touched

The first three resize as qwen-vl-utils does (torchvision, bicubic, antialias), but 32 frames at a
time, which takes a tenth of the memory. All but ours take the indices `linspace(0, n - 1)`, ours
are the frames shown at even steps of time. Each way of each contender has a process of its own,
made anew for each clip (with --quick once), which may take three quarters of the memory that is
free. All ways run once, which also warms the page cache; the fastest way of a contender is then
timed `--repeat` times, contenders by turns. Opening the file is part of the time, starting Python
is not; the time shown is the median.

Peak memory is that of the process while it reads, above what its imports take; for ours it includes
the whole of the decoding processes. The error of a time is |time that a user would assign to a
frame - time at which that very frame is shown|, where the bar code tells the frame; users assign
index / mean rate with decord, PyAV and qwen-vl-utils, `pts_seconds` with torchcodec, and `times`
here.

"Reading ahead" reads 24 clips with `ordered_map` and two workers: the processor seconds of all
processes by two times the clock's. Needs Linux. Contenders that are not installed are absent;
torchcodec also needs FFmpeg's libraries.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import itertools
import json
import os
import platform
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MAX_PIXELS = 128 * 28 * 28
COUNTS = ("16", "64", "256", "2 fps")
MOST = 768  # frames at 2 fps
PART = 32  # frames that are resized at a time
BITS = 13  # of the bar code
CLOCK = 600  # ticks a second: 25, 30 and 5 frames a second are whole numbers of ticks
AIMS = {"ours": 0.95, "warm": 20.0, "busy": 0.85}
LIMIT = 900.0  # seconds after which a reading counts as hung
PACKAGES = {
    "decord": "decord",
    "PyAV": "av",
    "torchcodec": "torchcodec",
    "qwen-vl-utils": "qwen_vl_utils",
}
OTHERS, OURS = tuple(PACKAGES), ("ours", "cache empty", "cache filled")
WAYS: dict[str, tuple[str, ...]] = {
    "decord": ("get_batch",),
    "PyAV": ("one pass", "seeks"),
    "torchcodec": (
        "exact, 1 thread",
        "exact, 2 threads",
        "approximate, 1 thread",
        "approximate, 2 threads",
    ),
    "qwen-vl-utils": ("decord", "torchcodec"),
} | {name: (name,) for name in OURS}

# Clips


class Clip(NamedTuple):
    """A clip to make: `parts` (seconds, frames per second) in a row, encoded once and repeated."""

    codec: str
    suffix: str
    parts: tuple[tuple[int, int], ...] = ((60, 25),)
    repeats: int = 1
    size: tuple[int, int] = (360, 640)
    options: dict[str, str] = {}

    @property
    def times(self) -> np.ndarray:
        """Times at which the frames of one repeat are shown, seconds."""
        lengths = np.concatenate([np.full(seconds * fps, 1 / fps) for seconds, fps in self.parts])
        return np.cumsum(lengths) - lengths

    @property
    def span(self) -> int:
        """Seconds of one repeat."""
        return sum(seconds for seconds, _ in self.parts)

    @property
    def duration(self) -> int:
        """Seconds of the clip."""
        return self.span * self.repeats


X264 = {"preset": "medium", "crf": "26"}
X265 = {"preset": "fast", "crf": "28", "x265-params": "log-level=none:pools=2"}
VP9 = {"deadline": "realtime", "cpu-used": "6", "crf": "36", "b": "0"}
CLIPS = {
    "h264-30s": Clip("libx264", ".mp4", ((30, 25),), options=X264),
    "h264-10min": Clip("libx264", ".mp4", repeats=10, options=X264),
    "h264-1h": Clip("libx264", ".mp4", repeats=60, options=X264),
    "hevc-10min": Clip("libx265", ".mp4", repeats=10, options=X265),
    "vp9-10min": Clip("libvpx-vp9", ".webm", repeats=10, options=VP9),
    "av1-1min": Clip("libsvtav1", ".mp4", options={"preset": "10", "crf": "38"}),
    "h264-1080p-10min": Clip(
        "libx264", ".mp4", ((30, 25),), repeats=20, size=(1080, 1920), options=X264
    ),
    "h264-vfr-6min": Clip("libx264", ".mp4", ((120, 30), (240, 5)), options=X264),
}
QUICK = {
    "h264-30s": CLIPS["h264-30s"],
    "h264-3min": Clip("libx264", ".mp4", ((30, 25),), repeats=6, options=X264),
    "h264-vfr-1min": Clip("libx264", ".mp4", ((20, 30), (40, 5)), options=X264),
}


def picture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A texture [H, W, 3] uint8 with coarse and fine detail."""
    from PIL import Image

    layers = [
        Image.fromarray(
            rng.integers(0, 255, (height // size + 1, width // size + 1, 3)).astype(np.uint8)
        )
        for size in (64, 16, 6)
    ]
    scaled = [
        np.asarray(layer.resize((width, height), Image.Resampling.BICUBIC), np.float32)
        for layer in layers
    ]
    return (0.5 * scaled[0] + 0.3 * scaled[1] + 0.2 * scaled[2]).astype(np.uint8)


def scenes(n: int, height: int, width: int) -> Iterator[np.ndarray]:
    """Frames [H, W, 3]: a pan over a texture, a moving block, cuts, the bar code of the number."""
    rng, margin, cell = np.random.default_rng(0), height // 2, height // 15
    big, cut, phase = picture(rng, height + 2 * margin, width + 2 * margin), 0, 0.0
    for i in range(n):
        if i == cut:
            big, cut, phase = (
                np.roll(big, margin, (0, 1))[::-1],
                i + int(rng.integers(60, 400)),
                rng.uniform(0, 6),
            )
        y, x = (int(margin * (1 + turn(i / 170 + phase))) for turn in (np.sin, np.cos))
        frame = big[y : y + height, x : x + width].copy()
        down, right = (3 * i) % (height - cell), (5 * i) % (width - cell)
        frame[down : down + 2 * cell, right : right + 3 * cell] = (7 * i) % 255
        for bit in range(BITS + 1):  # a parity at the end
            on = (i >> bit) & 1 if bit < BITS else i.bit_count() & 1
            frame[:cell, bit * cell : (bit + 1) * cell] = 235 * on
        yield frame


def codes(pixels: np.ndarray) -> list[int]:
    """Numbers of the frames [T, H, W, 3] by their bar codes; -1 where the parity is wrong."""
    height, width = pixels.shape[1:3]
    cell = width * 24 / 640
    places = ((np.arange(BITS + 1) + 0.5) * cell).astype(int)
    row = slice(height // 30 - height // 90, height // 30 + height // 90 + 1)
    bars = (
        np.stack([pixels[:, row, x - 2 : x + 3].mean(axis=(1, 2, 3)) for x in places], axis=1) > 117
    )
    numbers = (bars[:, :BITS] << np.arange(BITS)).sum(axis=1)
    good = (bars.sum(axis=1) % 2) == 0
    return [int(number) if ok else -1 for number, ok in zip(numbers, good, strict=True)]


def leave_real_time() -> None:
    """Give back the real-time priority that SVT-AV1, run by root, takes for its process and keeps.

    What a process with it starts has it, too, and others get hardly any processor time.
    """
    if hasattr(os, "sched_setscheduler"):  # not on macOS
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def encode(path: Path, clip: Clip) -> None:
    """Encode one repeat of a clip."""
    import av

    os.environ.setdefault("SVT_LOG", "1")  # only errors
    height, width = clip.size
    with av.open(str(path), "w") as container:
        stream = container.add_stream(clip.codec, rate=clip.parts[0][1], options=clip.options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, CLOCK)
        stream.codec_context.thread_count = (
            2  # not as many as there are cores: the result depends on it
        )
        for shown, pixels in zip(clip.times, scenes(len(clip.times), height, width), strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = round(shown * CLOCK), Fraction(1, CLOCK)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    leave_real_time()


def repeat(source: Path, path: Path, times: int, span: int) -> None:
    """Write a file's packets so many times, `span` seconds apart, without decoding them."""
    import av

    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = old.streams.video[0]
        target, base = new.add_stream_from_template(stream), stream.time_base
        packets = [p for p in old.demux(stream) if p.size]
        kept = [(p.pts, p.dts, p.duration, p.is_keyframe, bytes(p)) for p in packets]
        for shift in (round(i * span / base) for i in range(times)):
            for pts, dts, duration, key, data in kept:
                packet = av.Packet(data)
                packet.pts, packet.dts, packet.duration, packet.is_keyframe = (
                    pts + shift,
                    dts + shift,
                    duration,
                    key,
                )
                packet.time_base, packet.stream = base, target
                new.mux(packet)


def make(folder: Path, name: str, clip: Clip) -> Path:
    """The file of a clip, made when it is not there yet."""
    path, once = folder / (name + clip.suffix), clip._replace(repeats=1)
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=folder) as work:
            part, whole = (Path(work) / (stem + clip.suffix) for stem in ("part", "whole"))
            same = [
                folder / (other + c.suffix) for other, c in (CLIPS | QUICK).items() if c == once
            ]
            if clip.repeats > 1 and same and same[0].exists():
                part = same[0]
            else:
                encode(part, clip)
            if clip.repeats > 1:
                repeat(part, whole, clip.repeats, clip.span)
            os.replace(whole if clip.repeats > 1 else part, path)
    return path


def has_encoder(name: str) -> bool:
    """Return True if PyAV's FFmpeg can encode that."""
    import av

    try:
        av.codec.Codec(name, "w")
    except ValueError:
        return False
    return True


# Contenders. Each gives the frames and the times that its user would write beside them.


class Wish(NamedTuple):
    """`n` frames of a clip spread over it, or `fps` a second."""

    path: str
    n: int
    fps: float | None


Read = Callable[
    [Wish], tuple[Any, list[float], float]
]  # → frames, times in seconds, seconds until they were decoded


def spread(n: int, total: int) -> list[int]:
    """Indices as everybody takes them."""
    return np.linspace(0, total - 1, n).round().astype(int).tolist()


def resized(frames: Any, tensor: Callable[[Any], Any] = lambda part: part) -> Any:
    """Frames, which `tensor` makes [T, 3, H, W], resized as qwen-vl-utils does it, in chunks."""
    torch, transforms = (
        importlib.import_module("torch"),
        importlib.import_module("torchvision.transforms"),
    )
    parts = [tensor(frames[i : i + PART]) for i in range(0, len(frames), PART)]
    size, how = list(model_size(*parts[0].shape[-2:])), transforms.InterpolationMode.BICUBIC
    return torch.cat(
        [transforms.functional.resize(part, size, how, antialias=True) for part in parts]
    )


def model_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) of the frames that the model sees; see `video.frames.smart_resize`."""
    from videothinker.video.frames import smart_resize

    return smart_resize(height, width, MAX_PIXELS)


def _arrays(frames: Any, times: list[float], begin: float) -> tuple[Any, list[float], float]:
    """What to give of frames [T, H, W, 3], an array or a list of arrays."""
    import torch

    read = time.perf_counter() - begin
    return (
        resized(frames, lambda part: torch.from_numpy(np.asarray(part)).permute(0, 3, 1, 2)),
        times,
        read,
    )


def decord_reader(way: str) -> Read:
    """decord, all frames in one call."""
    import decord

    def read(wish: Wish) -> tuple[Any, list[float], float]:
        begin = time.perf_counter()
        reader = decord.VideoReader(wish.path)
        places, rate = spread(wish.n, len(reader)), reader.get_avg_fps()
        return _arrays(reader.get_batch(places).asnumpy(), [i / rate for i in places], begin)

    return read


def pyav_reader(way: str) -> Read:
    """PyAV: one pass that keeps the wanted frames, or a seek for each."""
    import av

    def one_pass(container: Any, stream: Any, places: list[int]) -> list[np.ndarray]:
        stream.thread_type, wanted, last = "AUTO", set(places), places[-1]
        found = {}
        for i, frame in enumerate(container.decode(stream)):
            if i in wanted:
                found[i] = frame.to_ndarray(format="rgb24")
            if i == last:
                break
        return [found[i] for i in places]

    def seeks(container: Any, stream: Any, places: list[int]) -> list[np.ndarray]:
        frames, start = [], stream.start_time or 0
        for i in places:
            goal = start + round(i / stream.average_rate / stream.time_base)
            container.seek(goal, stream=stream)
            for frame in container.decode(stream):
                if frame.pts >= goal - 1:
                    break
            frames.append(frame.to_ndarray(format="rgb24"))
        return frames

    def read(wish: Wish) -> tuple[Any, list[float], float]:
        begin = time.perf_counter()
        with av.open(wish.path) as container:
            stream = container.streams.video[0]
            rate = float(stream.average_rate)
            total = stream.frames or int(
                container.duration / 1e6 * rate
            )  # webm does not count its frames
            places = spread(wish.n, total)
            frames = (one_pass if way == "one pass" else seeks)(container, stream, places)
            return _arrays(frames, [i / rate for i in places], begin)

    return read


def torchcodec_reader(way: str) -> Read:
    """torchcodec, all frames in one call."""
    decoders = importlib.import_module("torchcodec.decoders")
    mode, threads = way.split(", ")

    def read(wish: Wish) -> tuple[Any, list[float], float]:
        begin = time.perf_counter()
        decoder = decoders.VideoDecoder(
            wish.path, seek_mode=mode, num_ffmpeg_threads=int(threads[0])
        )
        found = decoder.get_frames_at(spread(wish.n, decoder.metadata.num_frames))
        seconds = time.perf_counter() - begin
        return resized(found.data), found.pts_seconds.tolist(), seconds

    return read


def qwen_reader(way: str) -> Read:
    """qwen-vl-utils with one of its readers."""
    os.environ["FORCE_QWENVL_VIDEO_READER"] = way
    if way == "torchcodec":
        importlib.import_module(
            "torchcodec.decoders"
        )  # otherwise its lack shows only as another error
    utils = importlib.import_module("qwen_vl_utils.vision_process")

    def read(wish: Wish) -> tuple[Any, list[float], float]:
        begin = time.perf_counter()
        count = {"fps": wish.fps, "max_frames": MOST} if wish.fps else {"nframes": wish.n}
        asked = {"video": wish.path, "max_pixels": MAX_PIXELS} | count
        frames, said = utils.fetch_video(asked, return_video_metadata=True)
        return (
            frames,
            [i / said["fps"] for i in said["frames_indices"]],
            time.perf_counter() - begin,
        )

    return read


def our_reader(way: str) -> Read:
    """`read_frames`, or `cached_frames` with a folder that is empty or was filled before."""
    from videothinker.video import reader
    from videothinker.video.frames import Frames, Sampling

    folder = Path(os.environ["BENCH_FOLDER"]) / way.replace(" ", "-")

    def get(wish: Wish) -> Frames:
        sampling = Sampling(fps=wish.fps, n_frames=None if wish.fps else wish.n, max_frames=MOST)
        if way == "ours":
            return reader.read_frames(wish.path, sampling)
        return reader.cached_frames(wish.path, sampling, folder)

    def read(wish: Wish) -> tuple[Any, list[float], float]:
        if way == "cache empty":
            shutil.rmtree(folder, ignore_errors=True)
        if way == "cache filled":
            get(wish)
        reader._digest.cache_clear()
        reader.frame_cache.cache_clear()
        begin = time.perf_counter()
        frames = get(wish)
        frames.pixels.max()  # touches every byte
        return frames.pixels, frames.times.tolist(), time.perf_counter() - begin

    return read


READERS: dict[str, Callable[[str], Read]] = {
    "decord": decord_reader,
    "PyAV": pyav_reader,
    "torchcodec": torchcodec_reader,
    "qwen-vl-utils": qwen_reader,
    **dict.fromkeys(OURS, our_reader),
}

# A process for each way of each contender


def children() -> list[int]:
    """Process ids of this process's children."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(stat.parent.name))
        except OSError:  # it has ended
            continue
    return found


def status_mib(process: int | str, name: str) -> float:
    """A line of /proc/PROCESS/status in MiB: VmRSS, the memory now, VmHWM, the most, or VmSize."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(name)), 0.0)


def forget_peak(process: int | str) -> None:
    """From now on a process's VmHWM counts anew."""
    try:
        Path(f"/proc/{process}/clear_refs").write_text("5")
    except OSError:
        pass


def spare_the_others() -> None:
    """Let this process fail before the machine is out of memory and ends some other one."""
    import resource

    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    used = int(status_mib("self", "VmSize") * 2**20)
    resource.setrlimit(
        resource.RLIMIT_AS, (used + int(0.75 * free), resource.getrlimit(resource.RLIMIT_AS)[1])
    )


def measured(read: Read, wish: Wish, idle: float) -> dict[str, Any]:
    """One reading: its seconds, the peak memory, and which frames came with which times."""
    processes: list[int | str] = ["self", *children()]
    for process in processes:
        forget_peak(process)
    begin = time.perf_counter()
    frames, times, until_read = read(wish)
    seconds = time.perf_counter() - begin
    peak = (
        status_mib("self", "VmHWM") - idle + sum(status_mib(child, "VmHWM") for child in children())
    )
    pixels = frames if isinstance(frames, np.ndarray) else frames.permute(0, 2, 3, 1).numpy()
    return {
        "seconds": seconds,
        "read": until_read,
        "peak": peak,
        "times": times,
        "codes": codes(pixels),
        "shape": list(pixels.shape),
    }


def serve(contender: str, way: str) -> None:
    """Answer jobs, a line of JSON each, as one way of one contender, until the input ends."""
    answer, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr
    os.dup2(2, 1)  # whatever the libraries print

    def say(what: dict[str, Any]) -> None:
        print(json.dumps(what), file=answer, flush=True)

    try:
        read = READERS[contender](way)
        if contender in OTHERS:
            importlib.import_module("torchvision.transforms")
            spare_the_others()
    except Exception as error:
        return say({"failed": " ".join(f"cannot be loaded: {error}".split())[:200]})
    idle = status_mib("self", "VmRSS")
    say({"idle": idle})
    for line in sys.stdin:
        try:
            found = measured(read, Wish(**json.loads(line)), idle)
            if contender == "cache filled":
                found["seconds"] = found[
                    "read"
                ]  # without the call that makes sure that it is filled
            say(found)
        except Exception as error:
            said = f"{type(error).__name__}: {error}".replace(json.loads(line)["path"], "the clip")
            say({"failed": " ".join(said.split())[:160]})


class Child:
    """One way of one contender in a process of its own."""

    def __init__(self, contender: str, way: str, folder: Path) -> None:
        command = [sys.executable, __file__, "--child", contender, "--way", way]
        environment = os.environ | {"BENCH_FOLDER": str(folder)}
        self.contender, self.way = contender, way
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        self.broken = ""

    def hear(self, limit: float) -> dict[str, Any]:
        """The next answer, or {"failed": why}."""
        assert self.process.stdout is not None
        if not self.broken and not select.select([self.process.stdout], [], [], limit)[0]:
            self.broken = f"hung, killed after {limit:.0f} s"
        line = b"" if self.broken else self.process.stdout.readline()
        if not line:
            self.process.kill()
            self.broken = self.broken or f"its process ended with {self.process.wait()}"
            return {"failed": self.broken}
        return json.loads(line)

    def ask(self, wish: dict[str, Any]) -> dict[str, Any]:
        """The answer to a job."""
        assert self.process.stdin is not None
        if not self.broken:
            try:
                self.process.stdin.write(json.dumps(wish).encode() + b"\n")
                self.process.stdin.flush()
            except OSError:
                self.broken = "its process has ended"
        return self.hear(LIMIT)

    def close(self) -> None:
        """End the process; decoding processes of its own end with their input."""
        self.process.kill()
        self.process.communicate()


@contextmanager
def started(folder: Path) -> Iterator[list[Child]]:
    """The ways of all contenders that are installed, ready; the others are left out."""
    with ExitStack() as stack:
        running = []
        for contender, ways in WAYS.items():
            package = PACKAGES.get(contender)
            for way in ways if package is None or importlib.util.find_spec(package) else ():
                running.append(Child(contender, way, folder))
                stack.callback(running[-1].close)
        for child in running:
            child.broken = child.hear(120).get("failed", "")
        yield running


# Measuring


def errors(clip: Clip, times: list[float], numbers: list[int]) -> tuple[float, float]:
    """Largest and mean |assigned time − time of the frame|, seconds; nan for an unreadable code."""
    if min(numbers, default=-1) < 0 or max(numbers) >= len(clip.times):
        return float("nan"), float("nan")
    shown, said = clip.times[numbers], np.array(times)
    shown = shown + clip.span * np.clip(np.round((said - shown) / clip.span), 0, clip.repeats - 1)
    wrong = np.abs(said - shown)
    return float(wrong.max()), float(wrong.mean())


def naive(clip: Clip, n: int) -> tuple[float, float]:
    """Largest and mean |index / mean rate − time| of n frames spread over a clip."""
    total = len(clip.times) * clip.repeats
    places = np.array(spread(n, total))
    shown = clip.times[places % len(clip.times)] + clip.span * (places // len(clip.times))
    wrong = np.abs(places * clip.duration / total - shown)
    return float(wrong.max()), float(wrong.mean())


def wish_for(path: Path, clip: Clip, count: str) -> dict[str, Any]:
    """What a column of the table asks for."""
    if count == "2 fps":
        return {"path": str(path), "n": min(MOST, 2 * clip.duration // 2 * 2), "fps": 2.0}
    return {"path": str(path), "n": int(count), "fps": None}


def summary(clip: Clip, n: int, way: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """One contender's figures in a row."""
    if failed := next((run["failed"] for run in runs if "failed" in run), ""):
        return {"failed": failed}
    seconds = [run["seconds"] for run in runs]
    median, (most, mean) = (
        statistics.median(seconds),
        errors(clip, runs[0]["times"], runs[0]["codes"]),
    )
    return {
        "way": way,
        "min": min(seconds),
        "median": median,
        "frames_per_second": n / median,
        "seconds": seconds,
        "read": statistics.median(run["read"] for run in runs),
        "peak_mib": max(run["peak"] for run in runs),
        "error_max": most,
        "error_mean": mean,
        "shape": runs[0]["shape"],
    }


def row(
    clip: Clip, name: str, count: str, path: Path, running: list[Child], repeats: int
) -> dict[str, Any]:
    """All contenders on one clip and one wish."""
    wish = wish_for(path, clip, count)
    first = {(child.contender, child.way): child.ask(wish) for child in running}
    chosen = []
    for contender in WAYS:
        ways = [child for child in running if child.contender == contender]
        if ways:
            chosen.append(
                min(ways, key=lambda c: first[c.contender, c.way].get("seconds", float("inf")))
            )
    runs: dict[str, list[dict[str, Any]]] = {child.contender: [] for child in chosen}
    for turn in range(repeats):
        for child in chosen[turn % len(chosen) :] + chosen[: turn % len(chosen)]:
            alone = first[child.contender, child.way]
            runs[child.contender].append(alone if "failed" in alone else child.ask(wish))
    found = {c.contender: summary(clip, wish["n"], c.way, runs[c.contender]) for c in chosen}
    once = {": ".join(key): summary(clip, wish["n"], key[1], [run]) for key, run in first.items()}
    most, mean = naive(clip, wish["n"])
    return {
        "clip": name,
        "count": count,
        "frames": wish["n"],
        "contenders": found,
        "first_runs": once,
        "naive_max": most,
        "naive_mean": mean,
    }


def ahead(
    paths: list[str], n_frames: int = 64, clips: int = 24, workers: int = 2
) -> dict[str, float]:
    """Share of `workers` cores that `ordered_map` keeps busy: processor seconds by the clock's."""
    from videothinker.parallel import ordered_map
    from videothinker.video.frames import Sampling
    from videothinker.video.reader import read_frames

    def used() -> float:
        own = os.times()
        ticks = 0
        for child in children():
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return (
            own.user
            + own.system
            + own.children_user
            + own.children_system
            + ticks / os.sysconf("SC_CLK_TCK")
        )

    def run(jobs: list[str]) -> None:
        for _, result in ordered_map(
            lambda path: read_frames(path, Sampling(n_frames=n_frames)), jobs, workers
        ):
            if isinstance(result, Exception):
                raise result

    run((paths * workers)[:workers])  # start the processes
    before, begin = used(), time.perf_counter()
    run((paths * clips)[:clips])
    wall = time.perf_counter() - begin
    return {
        "clips": clips,
        "frames": n_frames,
        "wall": wall,
        "cpu": used() - before,
        "busy": (used() - before) / (workers * wall),
    }


# Printing


def fastest(found: dict[str, dict[str, Any]]) -> tuple[str, float]:
    """The fastest of the others and its seconds; "" and inf when there is none."""
    known = [(found[name]["median"], name) for name in OTHERS if "median" in found.get(name, {})]
    seconds, name = min(known, default=(float("inf"), ""))
    return name, seconds


def cell(found: dict[str, dict[str, Any]], name: str, value: str = "median") -> str:
    """One entry of a table: a number, `failed`, or `absent` for what is not installed."""
    if name not in found:
        return "absent"
    number = found[name].get(value)
    return "failed" if number is None else f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def block(rows: list[dict[str, Any]], value: str) -> list[str]:
    """A line for each row with one value of every contender."""
    return [
        f"{r['clip']:17}{r['frames']:7}"
        + "".join(f"{cell(r['contenders'], name, value):>{max(8, len(name) + 2)}}" for name in WAYS)
        for r in rows
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """Seconds and peak memory of every contender; who is absent or failed; the ways timed."""
    head = f"{'':17}{'frames':>7}" + "".join(f"{name:>{max(8, len(name) + 2)}}" for name in WAYS)
    lines = ["seconds (median)", head, *block(rows, "median")]
    lines += ["", "peak memory, MiB", head, *block(rows, "peak_mib")]
    if absent := [name for name in OTHERS if any(name not in r["contenders"] for r in rows)]:
        lines += ["", "absent: not installed: " + ", ".join(absent)]
    lines += ["", "the way that was timed, and what failed"]
    for r in rows:
        others = {name: what for name, what in r["contenders"].items() if name in OTHERS}
        said = [f"{name}: {what.get('way') or what['failed']}" for name, what in others.items()]
        lines.append(f"{r['clip']:17}{r['frames']:7}  " + "; ".join(said))
    return "\n".join(lines)


def milliseconds(found: dict[str, Any], what: str = "error") -> str:
    """Largest / mean error in milliseconds."""
    known = f"{what}_max" in found
    return (
        f"{1000 * found[what + '_max']:.0f} / {1000 * found[what + '_mean']:.0f}"
        if known
        else "failed"
    )


def time_errors(rows: list[dict[str, Any]]) -> str:
    """Errors of the times of every way, for each clip's last wish."""
    last = {r["clip"]: r for r in rows}
    lines = [
        "error of the times, largest / mean, ms",
        f"{'':36}" + "".join(f"{clip:>18}" for clip in last),
    ]
    lines.append(
        f"{'index / mean rate':36}"
        + "".join(f"{milliseconds(r, 'naive'):>18}" for r in last.values())
    )
    for way in next(iter(last.values()))["first_runs"] if last else ():
        texts = "".join(f"{milliseconds(r['first_runs'].get(way, {})):>18}" for r in last.values())
        lines += [f"{way:36}{texts}"] if not way.startswith("cache") else []
    return "\n".join(lines)


def ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per row with something to compare: how many times as fast as the fastest other we are."""
    numbers = []
    for r in rows:
        found, (name, best) = r["contenders"], fastest(r["contenders"])
        ours, warm = (found.get(who, {}).get("median") for who in ("ours", "cache filled"))
        if name and ours and warm:
            row = {"clip": r["clip"], "frames": r["frames"], "fastest": name}
            numbers.append(row | {"ours": best / ours, "warm": best / warm})
    return numbers


def comparison(numbers: list[dict[str, Any]], busy: dict[str, float] | None) -> str:
    """The ratios as text; `!` marks what misses its aim."""
    lines = [
        "times as fast as the fastest of the others",
        f"{'':17}{'frames':>7}{'ours':>9} {'cache filled':>14}",
    ]

    def line(name: str, frames: object, ours: float, warm: float, who: str) -> str:
        marks = ("!" if ours < AIMS["ours"] else " ", "!" if warm < AIMS["warm"] else " ")
        return f"{name:17}{frames:>7}{ours:8.2f}x{marks[0]}{warm:13.1f}x{marks[1]} {who}"

    lines += [line(n["clip"], n["frames"], n["ours"], n["warm"], n["fastest"]) for n in numbers]
    if numbers:
        lines.append(
            line("worst", "", min(n["ours"] for n in numbers), min(n["warm"] for n in numbers), "")
        )
        lines.append(line("aim", "", AIMS["ours"], AIMS["warm"], ""))
    if busy:
        mark = "!" if busy["busy"] < AIMS["busy"] else " "
        share, aim = f"{busy['busy']:.0%}", f"{AIMS['busy']:.0%}"
        lines.append(
            f"reading ahead: two cores {share} busy for {busy['wall']:.1f} s {mark} aim {aim}"
        )
    return "\n".join(lines)


def conditions() -> dict[str, str]:
    """The machine and the versions that the figures belong to."""
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    found = {"cores": str(os.cpu_count()), "processor": model, "Python": platform.python_version()}
    for name in ("numpy", "av", "decord", "torch", "torchvision", "torchcodec", "qwen-vl-utils"):
        package = "decord2" if name == "decord" else name
        try:
            found[name] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    import av

    found["libavcodec of PyAV"] = ".".join(map(str, av.library_versions["libavcodec"]))
    code = """
import torchcodec._core.ops as ops
print(*ops.get_ffmpeg_library_versions()["libavcodec"], sep=".")
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    found["libavcodec of torchcodec"] = said.stdout.strip() or "not installed"
    return found


def main(argv: list[str] | None = None) -> None:
    """Make the clips, let everyone read them, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="three short clips, 16 and 64 frames, one timed run"
    )
    parser.add_argument("--repeat", type=int, help="timed runs after one to warm up (default 3)")
    parser.add_argument(
        "--clips", nargs="+", metavar="NAME", help="only these: " + ", ".join(CLIPS)
    )
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="for the clips, and to find them again"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there, too")
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--ahead", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.json:
        from videothinker.files import check_writable

        check_writable(args.json, what="--json")
    if args.child:
        return serve(args.child, args.way)
    if args.ahead:
        return print(json.dumps(ahead(args.ahead)))
    clips = QUICK if args.quick else CLIPS
    if unknown := set(args.clips or ()) - set(clips):
        parser.error(f"unknown clips {', '.join(sorted(unknown))}; choose from {', '.join(clips)}")
    clips = {name: clip for name, clip in clips.items() if not args.clips or name in args.clips}
    with ExitStack() as stack:
        folder = args.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder)))
        measure(clips, folder, work, args)


def measure(clips: dict[str, Clip], folder: Path, work: Path, args: argparse.Namespace) -> None:
    """All rows, then the comparisons."""
    found, rows = conditions(), list[dict[str, Any]]()
    print("; ".join(f"{name} {value}" for name, value in found.items()), flush=True)
    if unknown := {clip.codec for clip in clips.values() if not has_encoder(clip.codec)}:
        print("left out for want of an encoder:", ", ".join(sorted(unknown)))
    paths = {
        name: make(folder, name, clip) for name, clip in clips.items() if clip.codec not in unknown
    }
    counts, repeats = (COUNTS[:2], args.repeat or 1) if args.quick else (COUNTS, args.repeat or 3)
    for group in [list(paths)] if args.quick else [[name] for name in paths]:
        with started(work) as running:
            for name, count in itertools.product(group, counts):
                rows.append(row(clips[name], name, count, paths[name], running, repeats))
                print(block(rows[-1:], "median")[0], file=sys.stderr, flush=True)
        shutil.rmtree(work)
        work.mkdir()
    short = [str(path) for name, path in paths.items() if clips[name].duration <= 600]
    command = [sys.executable, __file__, "--ahead", *short]
    busy = (
        json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
        if short
        else None
    )
    numbers = ratios(rows)
    print(table(rows), time_errors(rows), comparison(numbers, busy), sep="\n\n")
    if args.json:
        whole = {"conditions": found, "rows": rows, "ratios": numbers, "ahead": busy}
        args.json.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    from videothinker.commands.main import reader_may_leave

    with reader_may_leave():
        main()
