"""Video files as people have them: mirrored, trimmed, with covers, with headers that lie."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import shutil
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from videothinker.data.video_checks import inspect_video
from videothinker.data.video_duplicates import same_files
from videothinker.files import InputError
from videothinker.video.backends import BACKENDS
from videothinker.video.frames import (
    Limits,
    Sampling,
    TooLargeVideo,
    TooLongVideo,
    TruncatedVideo,
    UndecodableVideo,
    UnreadableVideo,
    VideoError,
    default_limits,
)
from videothinker.video.reader import cached_frames, frame_cache, probe, read_frames

FOUR = Sampling(n_frames=4, size=(64, 96))
ONE = 0x10000  # 1.0 in a display matrix


def bars(number: int) -> np.ndarray:
    """A picture [64, 96, 3] that says a number of 12 bits in black and white stripes."""
    bits = [235 if number >> k & 1 else 20 for k in range(12)]
    return np.broadcast_to(np.repeat(bits, 8)[None, :, None], (64, 96, 3)).astype(np.uint8)


def numbers(pixels: np.ndarray) -> list[int]:
    """The numbers that `bars` wrote."""
    middles = pixels[:, pixels.shape[1] // 2, 4::8].mean(-1) > 128  # [T, 12]
    return [sum(1 << k for k in range(12) if row[k]) for row in middles]


def corner(number: int) -> np.ndarray:
    """A picture [64, 96, 3] that is like none of its mirror images and turns."""
    picture = np.full((64, 96, 3), 30, np.uint8)
    picture[4:24, 4:34] = (240, 60, 20)  # top left
    picture[40:60, 4:20] = (20, 60, 240)  # bottom left
    return picture


def add_film(
    container: Any, rate: Fraction | int = 25, codec: str = "libx264", **options: str
) -> Any:
    """A stream for pictures of 64 × 96."""
    given = {"g": "25", "threads": "1"}
    if codec == "libx264":
        given |= {"crf": "12", "preset": "ultrafast"}
    stream = container.add_stream(codec, rate=rate, options=given | options)
    stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
    if codec == "mjpeg":
        stream.pix_fmt = "yuvj420p"
    return stream


def put(
    container: Any,
    stream: Any,
    n: int,
    draw: Callable[[int], np.ndarray] = bars,
    rate: Fraction | int = 25,
    start: int = 0,
) -> None:
    """Encode `n` pictures at an even rate."""
    stream.codec_context.time_base = 1 / Fraction(rate)
    for i in range(n):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(draw(i)), format="rgb24")
        frame.pts, frame.time_base = start + i, 1 / Fraction(rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def film(
    path: Path,
    n: int = 100,
    draw: Callable[[int], np.ndarray] = bars,
    rate: Fraction | int = 25,
    start: int = 0,
    container: dict[str, str] | None = None,
    **options: str,
) -> Path:
    """A film of `n` pictures."""
    with av.open(str(path), "w", options=container or {}) as out:
        put(out, add_film(out, rate, **options), n, draw, rate, start)
    return path


def read(path: Path, sampling: Sampling = FOUR, backend: str = "pyav") -> np.ndarray:
    """The frames of a file; the test is skipped where the backend is not installed."""
    try:
        return read_frames(path, sampling, backend=backend).pixels
    except UndecodableVideo as error:
        if "install" in error.reason:
            pytest.skip(f"{backend} is not installed")
        raise


# A display matrix turns and mirrors

MATRICES = {  # a b c d, as a phone, an editor or a front camera writes them
    "plain": (ONE, 0, 0, ONE),
    "mirrored": (-ONE, 0, 0, ONE),
    "upside down and mirrored": (ONE, 0, 0, -ONE),
    "turned": (0, ONE, -ONE, 0),
    "turned back": (0, -ONE, ONE, 0),
    "upside down": (-ONE, 0, 0, -ONE),
    "mirrored, turned": (0, -ONE, -ONE, 0),
    "mirrored, turned back": (0, ONE, ONE, 0),
    "larger": (2 * ONE, 0, 0, 2 * ONE),
    "nothing": (0, 0, 0, 0),
}


def with_matrix(source: Path, path: Path, matrix: tuple[int, ...]) -> Path:
    """A copy of an mp4 with a display matrix in its track header."""
    data = bytearray(source.read_bytes())
    at = data.index(b"tkhd") + 44
    a, b, c, d = matrix
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_display_matrix_is_followed_as_players_do(backend: str, tmp_path: Path) -> None:
    plain = film(tmp_path / "in.mp4", 25, corner)
    stored = read(plain, Sampling(n_frames=2, size=(64, 96)), backend)[0].astype(int)
    assert abs(stored - corner(0)).mean() < 6
    for name, matrix in MATRICES.items():
        a, b, c, d = np.sign(matrix) if any(matrix) else (1, 0, 0, 1)
        y, x = np.mgrid[:64, :96]
        shown_x, shown_y = a * x + c * y, b * x + d * y  # ISO/IEC 14496-12, 8.3.2
        size = (96, 64) if b else (64, 96)
        right = np.zeros((*size, 3), int)
        right[shown_y - shown_y.min(), shown_x - shown_x.min()] = stored
        path = with_matrix(plain, tmp_path / f"{name}.mp4", matrix)
        pixels = read(path, Sampling(n_frames=2, size=size), backend)[0]
        assert abs(pixels - right).mean() < 6, name


@pytest.mark.parametrize("backend", BACKENDS)
def test_pixels_that_are_not_square_are_drawn_square(backend: str, tmp_path: Path) -> None:
    with av.open(str(tmp_path / "in.mp4"), "w") as out:
        stream = add_film(out)
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
        put(out, stream, 10, corner)
    free = Sampling(n_frames=2, max_pixels=10**6, min_pixels=28 * 28)
    assert read(tmp_path / "in.mp4", free, backend).shape[1:3] == (56, 196)
    turned = with_matrix(tmp_path / "in.mp4", tmp_path / "turned.mp4", MATRICES["turned"])
    assert read(turned, free, backend).shape[1:3] == (196, 56)


# The film is not always the first stream


def jpeg() -> bytes:
    """A cover."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(np.full((64, 96, 3), (200, 30, 30), np.uint8)).save(out, "JPEG")
    return out.getvalue()


def add_sound(container: Any) -> Any:
    """A stream of sound."""
    return container.add_stream("aac", rate=8000)


def put_sound(container: Any, stream: Any, seconds: float = 1.0) -> None:
    """Silence."""
    for i in range(int(seconds * 8000) // 1024 + 1):
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate, frame.pts, frame.time_base = 8000, 1024 * i, Fraction(1, 8000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def with_cover(path: Path, in_front: bool, sound_only: bool = False) -> Path:
    """An mp4 with artwork (`covr`), whose list of tags may stand in front of the tracks."""
    with av.open(str(path), "w", format="mp4") as out:
        stream = add_sound(out) if sound_only else add_film(out)
        put_sound(out, stream) if sound_only else put(out, stream, 100)
    data = path.read_bytes()
    moov = data.index(b"moov") - 4
    size = int.from_bytes(data[moov : moov + 4])
    assert moov + size == len(data)  # the index is at the end, so no offset moves

    def box(kind: bytes, *parts: bytes) -> bytes:
        content = b"".join(parts)
        return struct.pack(">I", 8 + len(content)) + kind + content

    cover = box(b"covr", box(b"data", struct.pack(">II", 13, 0), jpeg()))
    handler = box(b"hdlr", bytes(8), b"mdirappl", bytes(9))
    tags = box(b"udta", box(b"meta", bytes(4), handler, box(b"ilst", cover)))
    inside = data[moov + 8 :]
    first = int.from_bytes(inside[:4])  # mvhd
    inside = inside[:first] + tags + inside[first:] if in_front else inside + tags
    path.write_bytes(data[:moov] + box(b"moov", inside))
    return path


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("in_front", [False, True])
def test_a_cover_is_not_the_film(in_front: bool, backend: str, tmp_path: Path) -> None:
    path = with_cover(tmp_path / "film.mp4", in_front)
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 2
    info = probe(path)
    assert (info.codec, info.n_frames) == ("h264", 100)
    try:
        pixels = read(path, FOUR, backend)
    except UndecodableVideo as error:
        assert backend != "pyav" and backend in error.reason  # but never the cover
    else:
        assert numbers(pixels) == [0, 25, 50, 75]


def test_sound_with_artwork_has_no_picture(tmp_path: Path) -> None:
    path = with_cover(tmp_path / "song.mp4", in_front=False, sound_only=True)
    with pytest.raises(UndecodableVideo, match="has no picture .sound only"):
        read_frames(path, FOUR)
    facts = inspect_video(path)
    assert facts.check == "video-broken" and "sound only" in facts.problem


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "mov"])
@pytest.mark.parametrize("still_is_default", [False, True])
def test_a_still_before_the_film_is_not_the_film(
    still_is_default: bool, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"two.{suffix}"
    with av.open(str(path), "w") as out:
        still, moving = add_film(out, codec="mjpeg"), add_film(out)
        default = av.stream.Disposition.default
        still.disposition = default if still_is_default else 0
        moving.disposition = 0 if still_is_default else default
        put(out, still, 1, corner)
        put(out, moving, 100)
    info = probe(path)
    assert (info.codec, info.n_frames, round(info.duration, 2)) == ("h264", 100, 4.0)
    assert numbers(read(path)) == [0, 25, 50, 75]


SOUNDS = {"mp3": "mp3", "wav": "pcm_s16le", "flac": "flac", "ogg": "libopus", "m4a": "aac"}
SOUNDS |= {"mka": "aac", "weba": "libopus", "wma": "wmav2", "aac": "aac", "ac3": "ac3"}
CONTAINERS = {"mka": "matroska", "weba": "webm", "wma": "asf", "aac": "adts", "m4a": "ipod"}


@pytest.mark.parametrize("suffix", SOUNDS)
def test_sound_of_every_kind_has_no_picture(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"sound.{suffix}"
    with av.open(str(path), "w", format=CONTAINERS.get(suffix, suffix)) as out:
        stream = out.add_stream(SOUNDS[suffix], rate=48000, layout="stereo")
        stream.bit_rate = 128_000
        kind = stream.codec_context.format.name
        n = stream.codec_context.frame_size or 1024
        for i in range(20):
            frame = av.AudioFrame(format=kind, layout="stereo", samples=n)
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            frame.sample_rate, frame.pts, frame.time_base = 48000, n * i, Fraction(1, 48000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    with pytest.raises(UndecodableVideo, match="sound only"):
        read_frames(path, FOUR)


# Edit lists


def trimmed(tmp_path: Path, start: float, seconds: float, bf: str = "0") -> Path:
    """A film of 4 s whose edit list shows only `seconds` of it, from `start` on."""
    path = film(tmp_path / f"trimmed-{start}-{seconds}-{bf}.mp4", 100, g="50", bf=bf)
    data = bytearray(path.read_bytes())
    scale = int.from_bytes(data[(at := data.index(b"mvhd") + 16) : at + 4])
    clock = int.from_bytes(data[(at := data.index(b"mdhd") + 16) : at + 4])
    at = data.index(b"elst") + 12
    offset = struct.unpack(">i", data[at + 4 : at + 8])[0]  # what B-frames need
    data[at : at + 8] = struct.pack(">Ii", int(seconds * scale), int(start * clock) + offset)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("backend", ["pyav", "decord"])
@pytest.mark.parametrize(
    ("start", "seconds", "bf"),
    [(1.0, 1.0, "0"), (0.0, 1.0, "0"), (1.0, 3.0, "0"), (2.0, 1.2, "2"), (1.0, 0.4, "2")],
)
def test_an_edit_list_is_followed_at_both_ends(
    start: float, seconds: float, bf: str, backend: str, tmp_path: Path
) -> None:
    path = trimmed(tmp_path, start, seconds, bf)
    first, n = round(25 * start), round(25 * seconds)
    info = probe(path)
    assert (info.n_frames, round(info.duration, 3)) == (n, seconds)
    pixels = read(path, Sampling(n_frames=n, size=(64, 96)), backend)
    assert numbers(pixels)[:n] == list(range(first, first + n))
    frames = read_frames(path, Sampling(n_frames=n, size=(64, 96)), backend=backend)
    assert np.abs(frames.times[:n] - np.arange(n) / 25).max() < 1e-3


# Headers that promise more


def promised(path: Path, seconds: float) -> Path:
    """A film of 4 s whose header says that it lasts longer."""
    codec = "mpeg4" if path.suffix == ".wmv" else "libx264"
    data = bytearray(film(path, 100, codec=codec, bf="0").read_bytes())
    if path.suffix == ".flv":
        at = data.index(b"duration") + 9
        data[at : at + 8] = struct.pack(">d", seconds)
    elif path.suffix == ".avi":
        at = data.index(b"avih") + 8 + 16
        data[at : at + 4] = struct.pack("<I", int(25 * seconds))
        at = data.index(b"strh") + 8 + 32
        data[at : at + 4] = struct.pack("<I", int(25 * seconds))
    elif path.suffix == ".wmv":
        at = data.index(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")) + 64
        data[at : at + 8] = struct.pack("<Q", int(1e7 * seconds))
    else:
        at = data.index(b"\x44\x89")
        assert data[at + 2] == 0x88
        data[at + 3 : at + 11] = struct.pack(">d", 1000 * seconds)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("suffix", [".mkv", ".flv", ".webm", ".avi", ".wmv"])
def test_a_whole_file_is_read_whatever_its_header_promises(suffix: str, tmp_path: Path) -> None:
    if suffix == ".webm":
        path = film(tmp_path / "whole.webm", 100, codec="libvpx-vp9", deadline="realtime")
        header = bytearray(path.read_bytes())
        at = header.index(b"\x44\x89")
        header[at + 3 : at + 11] = struct.pack(">d", 9000.0)
        path.write_bytes(header)
    else:
        path = promised(tmp_path / f"whole{suffix}", 9.0)
    info = probe(path)
    assert (info.n_frames, round(info.duration, 2)) == (100, 4.0)
    assert len(read_frames(path, FOUR)) == 4
    data = path.read_bytes()
    for cut in (0.3, 0.5, 0.8):
        part = tmp_path / f"cut{suffix}"
        part.write_bytes(data[: int(cut * len(data))])
        with pytest.raises(TruncatedVideo, match="cut off"):
            probe(part)
    hole = tmp_path / f"hole{suffix}"  # a download that reserved its place
    hole.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    with pytest.raises(VideoError):
        probe(hole)


@pytest.mark.parametrize("cut", [0.5, 0.7, 0.9])
def test_an_avi_of_long_films_that_is_cut_off_is_not_whole(cut: float, tmp_path: Path) -> None:
    whole = film(tmp_path / "whole.avi", 700, codec="mpeg4", bf="0")
    assert probe(whole).n_frames == 700
    part = tmp_path / "part.avi"
    part.write_bytes(whole.read_bytes()[: int(cut * whole.stat().st_size)])
    with pytest.raises(TruncatedVideo, match="cut off"):
        probe(part)


def test_garbage_behind_a_file_does_not_matter(tmp_path: Path) -> None:
    for suffix in (".mp4", ".mkv", ".avi", ".flv"):
        path = film(tmp_path / f"film{suffix}", 50, bf="0")
        path.write_bytes(path.read_bytes() + b"TAG" + bytes(125))
        assert probe(path).n_frames == 50, suffix
        assert numbers(read(path))[:2] == [0, 12], suffix


def test_files_without_length_and_index_are_read(tmp_path: Path) -> None:
    fragments = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    path = film(tmp_path / "fragments.mp4", 100, container=fragments)
    assert (probe(path).n_frames, probe(path).duration) == (100, 4.0)
    assert numbers(read(path)) == [0, 25, 50, 75]
    live = film(tmp_path / "live.mkv", 100, container={"live": "1"})
    assert probe(live).n_frames == 100
    data = film(tmp_path / "whole.mkv", 100).read_bytes()
    at = data.index(b"\x44\x89")
    (tmp_path / "no.mkv").write_bytes(data[:at] + b"\xec\x89" + data[at + 2 :])  # void
    for path in (live, tmp_path / "no.mkv"):
        assert numbers(read(path)) == [0, 25, 50, 75]
        assert abs(probe(path).duration - 4) < 0.05


@pytest.mark.parametrize("start", [-2, 30, 1000])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi"])
def test_times_begin_at_the_first_frame(suffix: str, start: int, tmp_path: Path) -> None:
    """Clips that begin before zero, or long after it."""
    path = film(tmp_path / f"late.{suffix}", 100, start=start, bf="0")
    frames = read_frames(path, FOUR)
    hidden = 2 if start < 0 and suffix == "mp4" else 0  # its edit list begins at zero
    right = [hidden + int(k * (100 - hidden) / 4) for k in range(4)]
    assert frames.times[0] == 0 and numbers(frames.pixels) == right
    assert abs(frames.duration - (100 - hidden) / 25) < 0.05


# Colours

COLOURS = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128)])
SPACES = {  # pixel format, colorspace, full range
    "bt709": ("yuv420p", "ITU709", False),
    "bt709 full": ("yuv420p", "ITU709", True),
    "bt601": ("yuv420p", "ITU601", False),
    "444 full": ("yuv444p", "ITU709", True),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", SPACES)
def test_colours_are_right(name: str, backend: str, tmp_path: Path) -> None:
    pixels, space, full = SPACES[name]
    path = tmp_path / "patches.mp4"
    matrix = {"ITU709": (0.2126, 0.0722), "ITU601": (0.299, 0.114)}[space]
    tag = {"ITU709": 1, "ITU601": 6}[space]
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=8, options={"crf": "1", "threads": "1"})
        stream.height, stream.width, stream.pix_fmt = 64, 128, pixels
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = tag
        context.color_range = 2 if full else 1
        for i in range(8):
            frame = av.VideoFrame(128, 64, pixels)
            for plane, level in zip(frame.planes, to_yuv(*matrix, full), strict=True):
                block = np.repeat(level, plane.width // 4)  # [width]
                rows = np.zeros((plane.height, plane.line_size), np.uint8)
                rows[:, : plane.width] = block
                plane.update(rows.tobytes())
            frame.pts, frame.time_base = i, Fraction(1, 8)
            frame.colorspace, frame.color_range = tag, 2 if full else 1
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    shown = read(path, Sampling(n_frames=2, size=(64, 128)), backend)[0]
    patches = [shown[20:44, 32 * k + 8 : 32 * k + 24].mean((0, 1)) for k in range(4)]
    assert np.abs(np.array(patches) - COLOURS).max() < 6, np.round(patches)


def to_yuv(red: float, blue: float, full: bool) -> np.ndarray:
    """Levels [3, 4] of the four colours in a colour space with these weights (ITU-R BT.709, 3)."""
    r, g, b = COLOURS.T / 255
    y = red * r + (1 - red - blue) * g + blue * b
    u, v = (b - y) / (2 - 2 * blue), (r - y) / (2 - 2 * red)
    if full:
        return np.stack([255 * y, 255 * u + 128, 255 * v + 128]).round().clip(0, 255)
    return np.stack([219 * y + 16, 224 * u + 128, 224 * v + 128]).round()


@pytest.mark.parametrize(
    ("codec", "pixels", "suffix"),
    [
        ("libx264", "yuv420p10le", "mp4"),
        ("libx264", "yuvj420p", "mp4"),
        ("libx264", "gray", "mp4"),
        ("libx264rgb", "rgb24", "mkv"),
        ("png", "rgba", "mov"),
        ("qtrle", "argb", "mov"),
        ("prores_ks", "yuva444p10le", "mov"),
        ("gif", "rgb8", "gif"),
        ("ffv1", "yuv420p16le", "mkv"),
        ("libvpx-vp9", "yuva420p", "webm"),
    ],
)
def test_odd_pixel_formats_are_read(codec: str, pixels: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"odd.{suffix}"
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = 64, 96, pixels
        for i in range(20):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(bars(i)), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 10)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    assert numbers(read(path)) == [0, 5, 10, 15]


# What the system refuses


def ways_to_read(cache: Path) -> dict[str, Callable[[Path], object]]:
    """Everything that reads a clip."""
    return {
        "read_frames": lambda path: read_frames(path, FOUR, timeout=5),
        "in this process": lambda path: read_frames(path, FOUR, timeout=None),
        "probe": lambda path: probe(path, timeout=5),
        "probe in this process": lambda path: probe(path, timeout=None),
        "cached_frames": lambda path: cached_frames(path, FOUR, cache, timeout=5),
    }


def error_of(way: Callable[[Path], object], path: Path) -> BaseException | None:
    """What reading in a thread raises; None where it does not end within a minute."""
    errors: list[BaseException] = []

    def attempt() -> None:
        try:
            way(path)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(60)
    return errors[0] if errors else None


def no_usual_file(kind: str, path: Path) -> None:
    """Put something at a path that is no clip."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "dangling link":
        path.symlink_to("nowhere.mp4")
    elif kind == "loop of links":
        path.symlink_to(path.name)
    elif kind == "below a file":
        path.parent.touch()
    elif kind == "socket":
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.close()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize(
    "kind", ["pipe", "folder", "device", "dangling link", "loop of links", "socket", "empty"]
)
def test_what_is_no_file_is_refused_at_once(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket has to be short
    path = Path("clip.mp4")
    if kind == "empty":
        path.touch()
    else:
        no_usual_file(kind, path)
    for name, way in ways_to_read(tmp_path / "cache").items():
        error = error_of(way, path)
        assert error is not None, f"{name} waits at a {kind}"
        assert isinstance(error, VideoError), (name, error)
        assert str(error).startswith("clip.mp4: ") and "\n" not in str(error)
    facts = inspect_video(path)
    assert facts.check == "video-missing" and facts.problem
    assert same_files([path], [path]) == {}


def refuse(monkeypatch: pytest.MonkeyPatch, path: Path, error: OSError) -> None:
    """Let the system refuse to open a file, as it does to who may not read it."""
    real = os.open

    def opened(name: Any, *args: Any, **options: Any) -> int:
        if str(name).endswith(path.name):
            raise error
        return real(name, *args, **options)

    monkeypatch.setattr(os, "open", opened)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no such permissions here")
def test_a_file_that_may_not_be_read_is_one_clip_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = film(tmp_path / "clip.mp4", 50)
    refuse(monkeypatch, path, PermissionError(errno.EACCES, "Permission denied"))
    with pytest.raises(UnreadableVideo, match="Permission denied.*permissions"):
        cached_frames(path, FOUR, tmp_path / "cache")
    other = film(tmp_path / "other.mp4", 50)
    assert same_files([path], [other]) == same_files([other], [path]) == {}
    assert len(cached_frames(other, FOUR, tmp_path / "cache")) == 4


@pytest.mark.parametrize("code", ["EIO", "ESTALE", "EACCES"])
def test_a_disk_that_fails_while_it_is_read_costs_one_clip(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = film(tmp_path / "clip.mp4", 50)

    def fails(*args: object) -> None:
        raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))

    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", fails)
        with pytest.raises(UnreadableVideo, match="cannot be read"):
            cached_frames(path, FOUR, tmp_path / "cache")
    assert len(cached_frames(path, FOUR, tmp_path / "cache")) == 4  # nothing was remembered


# Limits that can be moved


@pytest.mark.parametrize(
    ("name", "low", "error"),
    [
        ("max_seconds", 1.0, TooLongVideo),
        ("max_bytes", 1000, TooLargeVideo),
        ("max_frame_pixels", 100, TooLargeVideo),
        ("max_output_bytes", 1000, TooLargeVideo),
    ],
)
def test_a_refusal_names_the_variable_that_moves_the_limit(
    name: str,
    low: float,
    error: type[VideoError],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = film(tmp_path / "clip.mp4", 100)
    variable = f"VIDEOTHINKER_{name.upper()}"
    monkeypatch.setenv(variable, str(low))
    with pytest.raises(error, match=variable):
        read_frames(path, FOUR)
    with pytest.raises(error, match=variable):
        read_frames(path, FOUR, timeout=None)
    monkeypatch.setenv(variable, "1e9")
    assert len(read_frames(path, FOUR)) == 4
    monkeypatch.setenv(variable, "much")
    with pytest.raises(InputError, match=f"{variable} is 'much'"):
        default_limits()
    monkeypatch.delenv(variable)
    assert default_limits() == Limits()


# One clip less, and none decoded twice

REFUSED = """
import sys
from videothinker.video.frames import Sampling, VideoError
from videothinker.video.reader import cached_frames, probe, read_frames
wish = Sampling(n_frames=2)
for read in (
    lambda path: read_frames(path, wish),
    lambda path: read_frames(path, wish, timeout=None),
    lambda path: cached_frames(path, wish, sys.argv[2]),
    lambda path: probe(path),
):
    try:
        read(sys.argv[1])
        print("read")
    except VideoError as error:
        print(type(error).__name__, error.reason)
"""


def test_without_permission_every_reader_says_the_same(tmp_path: Path) -> None:
    path = film(tmp_path / "clip.mp4", 50)
    path.chmod(0)
    command = [sys.executable, "-c", REFUSED, str(path), str(tmp_path / "cache")]
    if os.name == "posix" and os.geteuid() == 0:  # root reads everything: take that away
        if not shutil.which("setpriv"):
            pytest.skip("no setpriv")
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    tmp_path.chmod(0o777)
    done = subprocess.run(command, capture_output=True, text=True)
    said = done.stdout.splitlines()
    if said and set(said) == {"read"}:
        pytest.skip("permissions do not count here")
    assert len(said) == 4 and len(set(said)) == 1, done.stdout + done.stderr
    assert said[0].startswith("UnreadableVideo cannot be read (Permission denied)")


def test_what_is_checked_is_not_decoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands keep decoded frames unless they are told not to."""
    pytest.importorskip("torch")
    from videothinker.commands.main import build_parser
    from videothinker.model.encoder import Encoder, EncoderOptions, readable
    from videothinker.schema import Sample
    from videothinker.video import reader

    monkeypatch.setenv("VIDEOTHINKER_CACHE", str(tmp_path / "home"))
    frame_cache.cache_clear()
    decoded: list[object] = []
    real = reader.read_frames

    def counted(path: Any, *args: Any) -> Any:
        decoded.append(path)
        return real(path, *args)

    monkeypatch.setattr(reader, "read_frames", counted)
    film(tmp_path / "clip.mp4", 50)
    sample = Sample("What?", ["A. a", "B. b"], "<answer>A</answer>", path="clip.mp4")
    flags = ["--data", "rows", "--videos", "videos", "--out", "out", "--model", "m"]
    for command in (["eval"], ["sft", "--recipe", "x"], ["grpo", "--recipe", "x"]):
        args = build_parser().parse_args([*command, *flags])
        encoder = Encoder(None, tmp_path, FOUR, options=EncoderOptions(args.cache, None))
        rows, skipped = readable([sample], encoder)
        assert rows == [sample] and not skipped
        assert numbers(encoder.frames(sample).pixels) == [0, 12, 25, 37]
    assert len(decoded) == 1
    assert build_parser().parse_args(["eval", *flags, "--cache", "none"]).cache is None
    frame_cache.cache_clear()


def test_without_a_home_frames_are_kept_among_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("VIDEOTHINKER_CACHE", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    frame_cache.cache_clear()
    home = frame_cache().folder.parent.name
    assert stat.S_IMODE((tmp_path / home).stat().st_mode) == 0o700
    frame_cache.cache_clear()
    (tmp_path / home).rmdir()
    (tmp_path / home).symlink_to(tmp_path)  # somebody was faster
    with pytest.raises(InputError, match="somebody else's; name a .* in .VIDEOTHINKER_CACHE"):
        frame_cache()
    (tmp_path / home).unlink()
    frame_cache()
    frame_cache.cache_clear()
    monkeypatch.setattr(os, "getuid", lambda: 99)
    (tmp_path / "videothinker-99").mkdir()
    with pytest.raises(InputError, match="videothinker-99 is somebody else's"):
        frame_cache()
    frame_cache.cache_clear()


def test_a_film_from_a_phone_is_read_upright(tmp_path: Path) -> None:
    """HEVC on its side, with sound, under a name as people give them."""
    path = tmp_path / "Söhne & 'Töchter' (2024)" / "IMG 0042 — Café 🎬 #1 100%.MOV"
    path.parent.mkdir()
    with av.open(str(path), "w", format="mov") as out:
        options = {"x265-params": "log-level=none"}
        stream = out.add_stream("libx265", rate=30, options=options)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        sound = add_sound(out)
        put(out, stream, 60, corner, 30)
        put_sound(out, sound, 2.0)
    with_matrix(path, path, MATRICES["turned"])
    frames = read_frames(path, Sampling(n_frames=2, size=(96, 64)))
    assert abs(frames.pixels[0] - np.rot90(corner(0), -1).astype(int)).mean() < 8
    assert probe(path).codec == "hevc" and abs(frames.duration - 2) < 0.01


def test_the_oldest_pyav_that_may_be_installed_can_read_videos() -> None:
    """PyAV before 17 lacks what the survey asks for; 17.0 crashes on FLV files."""
    settings = (Path(__file__).parents[1] / "settings.ini").read_text()
    floor = re.search(r"\bav>=(\d+)\.(\d+)", settings)
    assert floor and (int(floor[1]), int(floor[2])) >= (17, 1)
