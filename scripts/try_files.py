"""Fuzz the video reader: damaged, mislabelled and hostile files must end in frames or in one line.

    python scripts/try_files.py [--files 1000] [--seed 0] [--timeout 10] [--backend pyav]
                                [--json FILE] [--only NUMBER ...] [--keep FOLDER]

Small sound videos are made in the usual containers and codecs, and each file is one of them after
an accident or an attack: cut off, bytes flipped, blocks moved or lost, fields of the header that
lie, a wrong name, no video at all. Others are what cameras and editors write, in their odder forms:
edit lists, display matrices, cover art, timestamps, the shape of a pixel, colour tags. File NUMBER
of a seed is always the same; `--only` reads single ones again.

Every file is read with `read_frames` (8 frames) and `probe`. Each has to end within `--timeout` and
one second, in frames of the right shape whose times ascend and lie inside the clip, or in a
`VideoError` whose message is one line that begins with the path, and never in a Python error inside
the decoding process; a sound file has to be read, whatever its name, its cover, its matrix, its
pixels' shape or its colours. This process may not grow by more than 30 MB from the first fifth of
the files to the end, and no decoding process may keep more than 500 MB (with decord2, whose import
takes 750, 1,000; with torchcodec, which brings all of PyTorch along, 1,500). The table counts the
outcomes of `read_frames` by what was done to the file; a file that breaks a rule is kept, in
`--keep` or the folder that is named. Exit 1 if there is one. Also counted are decoding processes
that crashed: the caller sees an error like any other, but it costs a new process.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import math
import os
import random
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from bench_video import leave_real_time

from videothinker.video.backends import BACKENDS
from videothinker.video.frames import Frames, Sampling, VideoError, VideoInfo
from videothinker.video.reader import probe, read_frames
from videothinker.video.worker import IDLE_WORKERS

WISH = Sampling(n_frames=8, max_pixels=8 * 28 * 28)
GRACE, GROWTH = 1.0, 30.0  # seconds, MB
WORKER = {"pyav": 500.0, "decord": 1000.0, "torchcodec": 1500.0}  # MB

# Sound videos


class Source(NamedTuple):
    """A video to make; the name's suffix chooses the container."""

    codec: str = "libx264"
    options: dict[str, str] = {}
    container: dict[str, str] = {}
    n: int = 48
    start: int = 0  # number of frames before the first
    sound: bool = False
    title: bytes = b""
    aspect: tuple[int, int] = (1, 1)  # width and height of a pixel
    colour: int = 0  # number of the primaries, the transfer and the matrix (ITU-T H.273)
    still: bool = False  # a track of one picture before the film


X265 = {"x265-params": "log-level=none:keyint=12"}
VP9 = {"deadline": "realtime", "cpu-used": "8"}
SOURCES = {
    "end.mp4": Source(),
    "front.mp4": Source(container={"movflags": "faststart"}),
    "fragments.mp4": Source(container={"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
    "long.mp4": Source(n=600),  # long enough to be read by two threads
    "one.mp4": Source(n=1),
    "sound.mp4": Source(sound=True),
    "latin1.mp4": Source(title="Übung".encode("latin1")),  # not UTF-8
    "wide.mp4": Source(aspect=(4, 3)),
    "wide.mkv": Source(aspect=(4, 3)),
    "colour.mp4": Source(colour=9),
    "colour.mkv": Source(colour=1),
    "still.mp4": Source(still=True),
    "still.mkv": Source(still=True),
    "hevc.mp4": Source("libx265", X265),
    "av1.mp4": Source("libsvtav1", {"preset": "12"}),
    "mpeg4.mp4": Source("mpeg4"),
    "h264.mkv": Source(),
    "late.mkv": Source(start=125),
    "sound.mkv": Source("libvpx-vp9", VP9, sound=True),
    "vp9.webm": Source("libvpx-vp9", VP9),
    "live.webm": Source("libvpx-vp9", VP9, {"live": "1"}),
    "mpeg4.avi": Source("mpeg4"),
    "h264.avi": Source(options={"bf": "0"}),
    "latin1.avi": Source("mpeg4", title="Übung".encode("latin1")),
    "h264.ts": Source(),
    "mpeg2.ts": Source("mpeg2video", {"bf": "2"}),
    "mpeg2.mpg": Source("mpeg2video", {"bf": "2"}),
    "h264.flv": Source(),
    "wmv2.wmv": Source("wmv2"),
}
CANNOT = {  # sound files, and kinds of them, that a decoder refuses
    ("torchcodec", "cover art"),
    *(("decord", name) for name in ("live.webm", "still.mp4", "colour.mp4", "colour.mkv")),
}
Sources = dict[str, bytes]


def make_source(path: Path, source: Source, size: tuple[int, int] = (64, 96)) -> None:
    """Write one sound video: noise that moves, 25 frames a second."""
    import av

    noise = np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8)
    with av.open(str(path), "w", options=source.container) as container:
        container.metadata["title"] = "x" * len(source.title)
        still = add_still(container, size) if source.still else None
        stream = container.add_stream(
            source.codec, rate=25, options={"g": "12", "threads": "1", **source.options}
        )
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 25)
        context = stream.codec_context
        if source.aspect != (1, 1):
            context.sample_aspect_ratio = Fraction(*source.aspect)
        if source.colour:
            context.colorspace = context.color_primaries = context.color_trc = source.colour
            context.color_range = 1
        sound = container.add_stream("aac", rate=8000) if source.sound else None
        if still:
            grey = av.VideoFrame.from_ndarray(np.full((*size, 3), 99, np.uint8), format="rgb24")
            grey.pts, grey.time_base = 0, Fraction(1, 25)
            container.mux([*still.encode(grey), *still.encode()])
        for i in range(source.n):
            frame = av.VideoFrame.from_ndarray(
                np.roll(noise, (3 * i, 5 * i), (0, 1)), format="rgb24"
            )
            frame.pts, frame.time_base = source.start + i, Fraction(1, 25)
            container.mux(stream.encode(frame))
            if sound:
                quiet = av.AudioFrame.from_ndarray(
                    np.zeros((1, 320), np.float32), format="fltp", layout="mono"
                )
                quiet.sample_rate, quiet.pts, quiet.time_base = 8000, 320 * i, Fraction(1, 8000)
                container.mux(sound.encode(quiet))
        for ending in filter(None, (stream, sound)):
            container.mux(ending.encode())
    if source.title:
        path.write_bytes(path.read_bytes().replace(b"x" * len(source.title), source.title))


def add_still(container: Any, size: tuple[int, int]) -> Any:
    """A stream for one picture."""
    still = container.add_stream("mjpeg", rate=25)
    still.height, still.width, still.pix_fmt = *size, "yuvj420p"
    still.time_base = still.codec_context.time_base = Fraction(1, 25)
    still.disposition = 0
    return still


def make_sources(folder: Path) -> Sources:
    """All sound videos, by name."""
    os.environ.setdefault("SVT_LOG", "1")  # only errors
    for name, source in SOURCES.items():
        make_source(folder / name, source)
    leave_real_time()
    return {name: (folder / name).read_bytes() for name in SOURCES}


# What is done to them


class File(NamedTuple):
    """A file to read: what was done, to which source, its name and content."""

    kind: str
    source: str
    name: str
    data: bytes


def cut(rng: random.Random, data: bytes) -> bytes:
    """Only the beginning is there."""
    return data[: rng.randrange(1, len(data))]


def cut_end(rng: random.Random, data: bytes) -> bytes:
    """The last few bytes are missing."""
    return data[: -rng.randint(1, len(data) // 10)]


def cut_front(rng: random.Random, data: bytes) -> bytes:
    """The beginning is missing."""
    return data[rng.randrange(1, len(data)) :]


def flip(
    rng: random.Random, data: bytes, count: int, start: int = 0, end: int | None = None
) -> bytes:
    """Some bytes between two places are others."""
    changed = bytearray(data)
    for _ in range(count):
        changed[rng.randrange(start, end or len(data))] ^= rng.randrange(1, 256)
    return bytes(changed)


def blank(rng: random.Random, data: bytes) -> bytes:
    """A stretch is overwritten with zeros, as by a download with holes."""
    start, length = rng.randrange(len(data)), rng.randint(1, len(data) // 3)
    return data[:start] + bytes(min(length, len(data) - start)) + data[start + length :]


def shuffle(rng: random.Random, data: bytes, how: str) -> bytes:
    """Blocks of the file have changed places, are there twice, or are gone."""
    size = rng.choice((188, 512, 1024, 4096))
    blocks = [data[i : i + size] for i in range(0, len(data), size)]
    for _ in range(rng.randint(1, 4)):
        a, b = rng.randrange(len(blocks)), rng.randrange(len(blocks))
        if how == "moved":
            blocks.insert(a, blocks.pop(b))
        elif how == "repeated":
            blocks.insert(a, blocks[b])
        elif len(blocks) > 1:
            del blocks[a]
    return b"".join(blocks)


# Fields of an mp4's boxes: place after the box's name, and bytes.
FIELDS = {
    b"mvhd": ((12, 4), (16, 4)),
    b"mdhd": ((12, 4), (16, 4)),
    b"tkhd": ((12, 4), (20, 4), (40, 36), (76, 4), (80, 4)),
    b"stsz": ((4, 4), (8, 4), (12, 4), (16, 4)),
    b"stts": ((4, 4), (8, 4), (12, 4)),
    b"ctts": ((4, 4), (8, 4), (12, 4)),
    b"stss": ((4, 4), (8, 4), (12, 4)),
    b"stsc": ((4, 4), (8, 4), (12, 4), (16, 4)),
    b"stco": ((4, 4), (8, 4), (12, 4)),
    b"elst": ((4, 4), (8, 4), (12, 4), (16, 4)),
    b"avc1": ((24, 2), (26, 2)),
    b"hev1": ((24, 2), (26, 2)),
    b"mp4v": ((24, 2), (26, 2)),
    b"avcC": ((0, 6), (6, 2)),
    b"trun": ((4, 4), (8, 4), (12, 4)),
    b"tfdt": ((4, 8),),
    b"tfhd": ((4, 4), (8, 4)),
    b"trex": ((4, 4), (12, 4)),
    b"sidx": ((8, 4), (12, 4)),
    b"hdlr": ((8, 4),),
}
# Marks after which the numbers of the other containers stand.
MARKS = {
    ".mkv": (
        "18538067",
        "4489",
        "2ad7b1",
        "1f43b675",
        "a3",
        "b0",
        "ba",
        "63a2",
        "23e383",
        "1c53bb6b",
        "e7",
        "86",
    ),
    ".avi": tuple(
        mark.encode().hex()
        for mark in ("RIFF", "avih", "strh", "strf", "movi", "00dc", "idx1", "LIST")
    ),
    ".ts": ("47", "000001e0", "00000001"),
    ".mpg": ("000001ba", "000001b3", "000001e0", "00000100"),
    ".flv": ("464c56", "6475726174696f6e", "7769647468", "000000", "09"),
    ".wmv": ("3026b275", "a1dcab8c", "9107dcb7", "82", "c0ef19bc", "00"),
}


def value(rng: random.Random, length: int) -> bytes:
    """A number that a program may stumble over."""
    top = 1 << 8 * length
    said = rng.choice(
        (0, 1, 2, top - 1, top // 2 - 1, top // 2, top // 4, rng.randrange(top), rng.randrange(256))
    )
    return said.to_bytes(length, rng.choice(("big", "little")))


def places(data: bytes, mark: bytes) -> list[int]:
    """Where a mark ends in the data."""
    found, at = [], data.find(mark)
    while at >= 0:
        found.append(at + len(mark))
        at = data.find(mark, at + 1)
    return found


def lie(rng: random.Random, data: bytes, suffix: str) -> bytes:
    """One to three fields of the header say something else."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        if suffix == ".mp4":
            mark = rng.choice([name for name in FIELDS if name in data])
            at, length = rng.choice(FIELDS[mark])
        else:
            marks = map(bytes.fromhex, MARKS[".mkv" if suffix == ".webm" else suffix])
            mark = rng.choice([m for m in marks if m in data])
            at, length = rng.randrange(0, 24), rng.choice((1, 2, 4, 8))
        start = rng.choice(places(data, mark)[:40]) + at
        if start + length <= len(data):
            changed[start : start + length] = value(rng, length)
    return bytes(changed)


def lie_size(rng: random.Random, data: bytes, suffix: str) -> bytes:
    """A box, a chunk or an element says that it is longer or shorter than it is."""
    if suffix == ".mp4":
        boxes = (*FIELDS, b"ftyp", b"moov", b"mdat", b"trak", b"stbl", b"moof", b"stsd")
        start = rng.choice(places(data, rng.choice([box for box in boxes if box in data]))) - 8
        return data[:start] + value(rng, 4) + data[start + 4 :]
    marks = map(bytes.fromhex, MARKS[".mkv" if suffix == ".webm" else suffix])
    start = rng.choice(places(data, rng.choice([m for m in marks if m in data]))[:40])
    length = rng.choice((1, 4))
    return data[:start] + value(rng, length) + data[start + length :]


# What cameras and editors write


def put(data: bytes, at: int, values: bytes) -> bytes:
    """The data with other bytes at a place."""
    return data[:at] + values + data[at + len(values) :]


def edit_list(rng: random.Random, data: bytes, suffix: str) -> bytes:
    """An edit list that trims one end, or both, or that makes no sense."""
    found = places(data, b"elst")
    if not found:
        return lie(rng, data, suffix)
    scale = 1 << 10
    for at in found:
        if int.from_bytes(data[at + 4 : at + 8]) and len(data) >= at + 20:
            media = rng.choice((0, rng.randrange(25 * scale), -1, -scale, rng.randrange(1 << 31)))
            length = rng.choice((0, 500, 1000, rng.randrange(2000), rng.randrange(1 << 32)))
            rate = rng.choice((1 << 16, 1 << 16, 1 << 16, 0, 1 << 15, 2 << 16))
            data = put(data, at + 8, struct.pack(">IiI", length, media, rate))
    return data


def display_matrix(rng: random.Random, data: bytes, suffix: str) -> bytes:
    """A matrix that turns, mirrors, stretches, or makes no sense."""
    one = 1 << 16
    turns = [(one, 0, 0, one), (0, one, -one, 0), (-one, 0, 0, -one), (0, -one, one, 0)]
    mirrors = [(-one, 0, 0, one), (one, 0, 0, -one), (0, one, one, 0), (0, -one, -one, 0)]
    odd = [(0, 0, 0, 0), (46341, 46341, -46341, 46341), (one, one, one, one), (3 * one, 0, 0, 1)]
    a, b, c, d = rng.choice([*turns, *mirrors, *odd, tuple(rng.choices(range(-one, one), k=4))])
    x, y, w = rng.choice(((0, 0, 1 << 30), (96 << 16, 0, 1 << 30), (0, 0, 0)))
    matrix = struct.pack(">9i", a, b, 0, c, d, 0, x, y, w)
    return put(data, rng.choice(places(data, b"tkhd")) + 40, matrix)


def cover_art(rng: random.Random, data: bytes, suffix: str) -> bytes:
    """A cover in the tags, in front of the tracks or behind them; also one that is no picture."""
    from PIL import Image

    def box(kind: bytes, *parts: bytes) -> bytes:
        content = b"".join(parts)
        return struct.pack(">I", 8 + len(content)) + kind + content

    picture = io.BytesIO()
    kind = rng.choice(("JPEG", "PNG", "BMP"))
    Image.new("RGB", (rng.randint(1, 600), rng.randint(1, 600))).save(picture, kind)
    number = {"JPEG": 13, "PNG": 14, "BMP": 27}[kind]
    content = rng.choice((picture.getvalue(), rng.randbytes(99), b""))
    art = box(b"covr", box(b"data", struct.pack(">II", number, 0), content))
    handler = box(b"hdlr", bytes(8), b"mdirappl", bytes(9))
    tags = box(b"udta", box(b"meta", bytes(4), handler, box(b"ilst", art)))
    start = data.index(b"moov") - 4
    size = int.from_bytes(data[start : start + 4])
    if start + size < len(data):  # an index in front: what it points at may not move
        return data + tags
    inside = data[start + 8 :]
    first = int.from_bytes(inside[:4]) if rng.random() < 0.5 else len(inside)
    return data[:start] + box(b"moov", inside[:first], tags, inside[first:])


TIMES: dict[
    str, dict[str, tuple[tuple[int, int], ...]]
] = {  # marks before which, or behind which, times stand: place, bytes
    ".mp4": {
        "stts": ((8, 4), (12, 4)),
        "ctts": ((8, 4), (12, 4)),
        "mdhd": ((12, 4), (16, 4)),
        "mvhd": ((12, 4), (16, 4)),
        "tfdt": ((4, 4), (8, 4)),
    },
    ".mkv": {"e7": ((0, 3),), "a3": ((2, 2), (3, 2)), "2ad7b1": ((1, 3),), "4489": ((1, 8),)},
    ".ts": {"000001e0": ((5, 5), (10, 5))},
    ".mpg": {"000001e0": ((5, 5), (10, 5)), "000001ba": ((0, 6),)},
    ".flv": {"09": ((3, 4),), "6475726174696f6e": ((1, 8),)},
    ".avi": {"61766968": ((4, 4),), "73747268": ((24, 4), (28, 4), (32, 4), (36, 4))},
}


def timestamps(rng: random.Random, data: bytes, suffix: str) -> bytes:
    """Times that jump, stand still, run backwards or overflow."""
    kinds = TIMES.get(".mkv" if suffix == ".webm" else suffix, {})
    marks = {
        name.encode() if suffix == ".mp4" else bytes.fromhex(name): p for name, p in kinds.items()
    }
    marks = {mark: where for mark, where in marks.items() if mark in data}
    if not marks:
        return lie(rng, data, suffix)
    for _ in range(rng.randint(1, 6)):
        mark = rng.choice(sorted(marks))
        at, length = rng.choice(marks[mark])
        start = rng.choice(places(data, mark)[:60]) + at
        if start + length <= len(data):
            data = put(data, start, rng.choice((value(rng, length), rng.randbytes(length))))
    return data


def pixel_shape(rng: random.Random, data: bytes, suffix: str) -> bytes:
    """Pixels that are wide, narrow, or of no shape at all."""
    marks = {".mp4": ((b"pasp", 0, 8), (b"tkhd", 76, 8)), ".mkv": ((b"\x54\xb0", 1, 1),)}[suffix]
    mark, at, length = rng.choice([m for m in marks if m[0] in data])
    if mark == b"pasp":
        shape = rng.choice(((1, 1), (2, 1), (1, 2), (64, 45), (0, 1), (1, 0), (1 << 31, 3)))
        return put(data, places(data, mark)[0] + at, struct.pack(">II", *shape))
    return put(
        data,
        rng.choice(places(data, mark)) + at,
        rng.choice((bytes(length), rng.randbytes(length))),
    )


def colour_tags(rng: random.Random, data: bytes, suffix: str) -> bytes:
    """Primaries, transfer, matrix and range of any number."""
    if suffix == ".mp4":
        numbers = [rng.choice((0, 1, 2, 5, 6, 8, 9, 10, 14, 22, 255, 65535)) for _ in range(3)]
        full = rng.choice((0, 128, 255))
        return put(data, places(data, b"nclx")[0], struct.pack(">3HB", *numbers, full))
    for mark in (b"\x55\xb1\x81", b"\x55\xb9\x81", b"\x55\xba\x81", b"\x55\xbb\x81"):
        for at in places(data, mark)[:1]:
            data = put(data, at, bytes([rng.choice((0, 1, 2, 5, 8, 9, 14, 99, 255))]))
    return data


TEXTS = (
    "this is no video\n" * 50,
    "<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "{}",
    "\n",
    "\0" * 5000,
    "https://example.com/video.mp4\n",
    "file:///etc/passwd\n",
    "concat:/etc/passwd|/etc/hostname\n",
    "#EXTM3U\n#EXT-X-TARGETDURATION:16\n#EXTINF:16,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    "#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:1,\nhttps://example.com/a.ts\n",
    "ffconcat version 1.0\nfile end.mp4\n",
    "<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011' type='static'><Period/></MPD>",
    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "[playlist]\nFile1=/etc/passwd\nNumberOfEntries=1\n",
    ";FFMETADATA1\ntitle=x\n",
)
MAGIC = (
    b"\0\0\0\x20ftypisom\0\0\2\0",
    b"\x1a\x45\xdf\xa3",
    b"RIFF\0\0\1\0AVI LIST",
    b"FLV\1\1\0\0\0\x09",
    b"G@\0\x10",
    b"OggS\0\2",
    b"GIF89a",
    b"\0\0\1\xba",
    b"0&\xb2u\x8ef\xcf\x11",
    b"",
)
OTHER_SUFFIXES = (".mp4", ".mkv", ".avi", ".ts", ".webm", ".txt", ".m3u8", "")
NAMES = (
    "a b",
    "ü",
    "%03d",
    "-i",
    "a:b",
    "it's",
    "a|b",
    "x?y=z",
    "#",
    "pipe:0",
    "$(x)",
    "\\",
    "x" * 180,
)

Change = Callable[[random.Random, bytes, str], bytes]
CHANGES: dict[str, Change] = {
    "nothing": lambda rng, data, suffix: data,
    "cut anywhere": lambda rng, data, suffix: cut(rng, data),
    "cut near the end": lambda rng, data, suffix: cut_end(rng, data),
    "beginning lost": lambda rng, data, suffix: cut_front(rng, data),
    "a few flips": lambda rng, data, suffix: flip(rng, data, rng.randint(1, 8)),
    "many flips": lambda rng, data, suffix: flip(
        rng, data, max(1, len(data) // rng.choice((20, 100, 400)))
    ),
    "flips at the front": lambda rng, data, suffix: flip(rng, data, rng.randint(1, 20), 0, 1024),
    "flips at the end": lambda rng, data, suffix: flip(
        rng, data, rng.randint(1, 20), len(data) - 1024
    ),
    "flips in the middle": lambda rng, data, suffix: flip(
        rng, data, 40, len(data) // 3, 2 * len(data) // 3
    ),
    "a hole": lambda rng, data, suffix: blank(rng, data),
    "blocks moved": lambda rng, data, suffix: shuffle(rng, data, "moved"),
    "blocks repeated": lambda rng, data, suffix: shuffle(rng, data, "repeated"),
    "blocks lost": lambda rng, data, suffix: shuffle(rng, data, "lost"),
    "header lies": lie,
    "size lies": lie_size,
    "edit list": edit_list,
    "display matrix": display_matrix,
    "cover art": cover_art,
    "timestamps": timestamps,
    "pixel shape": pixel_shape,
    "colour tags": colour_tags,
}
OF = {  # the sources of some kinds, by how their names end
    "edit list": ("end.mp4", "sound.mp4", "wide.mp4", "long.mp4", "hevc.mp4", "still.mp4"),
    "display matrix": (".mp4",),
    "cover art": ("end.mp4", "sound.mp4", "colour.mp4", "still.mp4"),
    "pixel shape": ("wide.mp4", "wide.mkv"),
    "colour tags": ("colour.mp4", "colour.mkv"),
}
SOUND = (
    "nothing",
    "wrong extension",
    "odd name",
    "display matrix",
    "cover art",
    "pixel shape",
    "colour tags",
)
NO_VIDEO = ("empty", "text or playlist", "random bytes")
KINDS = (
    *CHANGES,
    "header lies",
    "size lies",
    "wrong extension",
    "odd name",
    "two joined",
    *NO_VIDEO,
)  # lies twice


def damaged(seed: int, number: int, sources: Sources) -> File:
    """File NUMBER of a seed."""
    rng = random.Random(f"{seed} {number}")
    kind = KINDS[number % len(KINDS)]
    source = rng.choice([name for name in sorted(sources) if name.endswith(OF.get(kind, ""))])
    data, suffix = sources[source], Path(source).suffix
    name = f"{number:05}-{source}"
    if kind in CHANGES:
        return File(kind, source, name, CHANGES[kind](rng, data, suffix))
    if kind == "wrong extension":
        return File(kind, source, name + rng.choice(OTHER_SUFFIXES), data)
    if kind == "odd name":
        return File(kind, source, f"{rng.choice(NAMES)}-{name}", data)
    if kind == "two joined":
        return File(kind, source, name, data + sources[rng.choice(sorted(sources))])
    if kind == "empty":
        return File(kind, "", name, b"")
    if kind == "text or playlist":
        return File(kind, "", name, rng.choice(TEXTS).encode())
    return File(kind, "", name, rng.choice(MAGIC) + rng.randbytes(rng.randint(1, 20_000)))


# Reading


def complaints_about_frames(frames: Frames) -> str:
    """What is wrong with the frames of a reading, empty if nothing is."""
    pixels, times = frames.pixels, frames.times
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or len(pixels) != 8 or pixels.shape[3] != 3:
        return f"frames are {pixels.dtype} {pixels.shape}"
    if pixels.shape[1] % 28 or pixels.shape[2] % 28:
        return f"sides are no multiples of 28: {pixels.shape}"
    if len(times) != 8 or not np.isfinite(times).all() or (np.diff(times) < 0).any():
        return f"times do not ascend: {times.tolist()}"
    if not math.isfinite(frames.duration) or times[0] < 0 or times[-1] > frames.duration:
        return f"times {times.tolist()} outside a clip of {frames.duration} s"
    return ""


def complaints_about_info(info: VideoInfo) -> str:
    """What is wrong with a description, empty if nothing is."""
    good = (
        0 <= info.duration < math.inf
        and 0 <= info.fps < math.inf
        and math.isfinite(info.start_time)
    )
    return (
        ""
        if good and info.n_frames > 0 and min(info.width, info.height) >= 0
        else f"described as {info}"
    )


def outcome(
    path: Path, read: Callable[[], Any], check: Callable[[Any], str], timeout: float
) -> dict[str, Any]:
    """How a reading ended: a word for it, what the error says, the complaint or "", seconds."""
    begin, reason = time.monotonic(), ""
    try:
        found = read()
        word, complaint = "read", check(found)
    except VideoError as error:
        word, said, reason, complaint = type(error).__name__, str(error), error.reason, ""
        if (
            type(error) is VideoError
            or "\n" in said
            or not said.startswith(f"{path}: ")
            or not reason
        ):
            complaint = f"no good message: {word} {said!r}"
    except Exception as error:
        word, complaint = "raised", f"{type(error).__name__}: {error}"
    seconds = time.monotonic() - begin
    if seconds > timeout + GRACE:
        complaint = complaint or f"took {seconds:.1f} s"
    return {"outcome": word, "reason": reason, "complaint": complaint, "seconds": seconds}


def attempt(path: Path, file: File, backend: str, timeout: float) -> dict[str, Any]:
    """Read and describe one file; a sound one has to be read, with its own duration."""

    def check(frames: Frames) -> str:
        if file.kind in SOUND and abs(frames.duration - SOURCES[file.source].n / 25) > 0.05:
            return f"lasts {SOURCES[file.source].n / 25} s, not {frames.duration} s"
        return complaints_about_frames(frames)

    found = outcome(path, lambda: read_frames(path, WISH, timeout, backend), check, timeout)
    second = outcome(path, lambda: probe(path, timeout), complaints_about_info, timeout)
    complaint = found["complaint"] or second["complaint"]
    if "process ended with 1 " in found["reason"] + second["reason"]:
        complaint = complaint or f"a Python error: {found['reason'] or second['reason']}"
    cannot = CANNOT & {(backend, file.source), (backend, file.kind)}
    if file.kind in SOUND and found["outcome"] != "read" and not cannot:
        complaint = complaint or f"is sound, and {found['outcome']}: {found['reason']}"
    return found | {
        "complaint": complaint,
        "described": second["outcome"],
        "described_reason": second["reason"],
        "seconds": max(found["seconds"], second["seconds"]),
    }


def memory(process: int | str = "self") -> float:
    """Resident memory of a process in MB."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def attempts(
    numbers: list[int], seed: int, backend: str, timeout: float, keep: Path
) -> Iterator[dict[str, Any]]:
    """Read all files; those with a complaint stay in `keep`."""
    with tempfile.TemporaryDirectory() as work:
        sources = make_sources(Path(work))
        for number in numbers:
            file = damaged(seed, number, sources)
            path = Path(work) / file.name
            path.write_bytes(file.data)
            found = attempt(path, file, backend, timeout)
            found |= {
                "number": number,
                "kind": file.kind,
                "source": file.source,
                "bytes": len(file.data),
            }
            found["worker"] = max(
                (memory(worker.process.pid) for worker in IDLE_WORKERS), default=0.0
            )
            if found["worker"] > WORKER[backend]:
                found["complaint"] = (
                    found["complaint"] or f"a decoding process keeps {found['worker']:.0f} MB"
                )
            if found["complaint"]:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / path.name).write_bytes(file.data)
            path.unlink()
            yield found


def table(rows: list[dict[str, Any]]) -> str:
    """How often each kind of file ended how."""
    counts = {
        kind: Counter(r["outcome"] for r in rows if r["kind"] == kind)
        for kind in dict.fromkeys(KINDS)
    }
    words = sorted(
        {word for count in counts.values() for word in count},
        key=lambda word: (word != "read", word),
    )
    lines = [f"{'':20}" + "".join(f"{word:>{len(word) + 2}}" for word in words)]
    for kind, count in {**counts, "all": Counter(r["outcome"] for r in rows)}.items():
        lines.append(
            f"{kind:20}" + "".join(f"{count[word] or '':>{len(word) + 2}}" for word in words)
        )
    return "\n".join(lines)


def installed(backend: str) -> bool:
    """Return True if a backend can read a sound file here."""
    with tempfile.TemporaryDirectory() as work:
        make_source(Path(work) / "end.mp4", SOURCES["end.mp4"])
        with contextlib.suppress(VideoError):
            return len(read_frames(Path(work) / "end.mp4", WISH, 60, backend)) > 0
    return False


def main(argv: list[str] | None = None) -> int:
    """Read all, print the table, name what went wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=1000, help="default 1000")
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    parser.add_argument(
        "--timeout", type=float, default=10.0, help="seconds for each reading (default 10)"
    )
    parser.add_argument(
        "--backend",
        choices=[*BACKENDS, "all"],
        default="pyav",
        help="default pyav; all that are here",
    )
    parser.add_argument(
        "--only", type=int, nargs="+", metavar="NUMBER", help="read these files only"
    )
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="for the files that break a rule"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, too")
    args = parser.parse_args(argv)
    if args.json:
        from videothinker.files import check_writable

        check_writable(args.json, what="--json")
    keep = args.keep or Path(tempfile.mkdtemp(prefix="try-files-"))
    everything, wrong = {}, 0
    for backend in BACKENDS if args.backend == "all" else [args.backend]:
        if not installed(backend):
            print(f"{backend}: not installed")
            continue
        rows, first = list[dict[str, Any]](), 0.0
        for row in attempts(
            args.only or list(range(args.files)), args.seed, backend, args.timeout, keep / backend
        ):
            rows.append(row)
            if row["complaint"]:
                print(
                    f"{backend} {row['number']} {row['kind']} of {row['source']}: "
                    f"{row['complaint']}",
                    flush=True,
                )
            if len(rows) == max(1, args.files // 5):
                gc.collect()
                first = memory()
        gc.collect()
        growth, largest = memory() - (first or memory()), max(row["worker"] for row in rows)
        print(f"\n{backend}: {len(rows)} files of seed {args.seed}\n{table(rows)}")
        crashed = sum("process ended" in row["reason"] + row["described_reason"] for row in rows)
        print(
            f"slowest {max(row['seconds'] for row in rows):.1f} s; this process grew by "
            f"{growth:.1f} MB; the largest decoding process kept {largest:.0f} MB; decoding "
            f"processes crashed at {crashed} files"
        )
        wrong += sum(bool(row["complaint"]) for row in rows) + (growth > GROWTH)
        everything[backend] = {"rows": rows, "growth_mb": growth, "seed": args.seed}
    print(f"\n{wrong} complaints" + (f"; files in {keep}" if wrong else ""))
    if args.json:
        args.json.write_text(json.dumps(everything, indent=1) + "\n")
    return int(wrong > 0)


if __name__ == "__main__":
    from videothinker.commands.main import reader_may_leave

    with reader_may_leave():
        sys.exit(main())
