"""The validator: one planted fault is found and nothing else, and the report never changes.

Nothing makes it fail.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from videothinker.data import question_duplicates
from videothinker.data.findings import CHECKS, Report
from videothinker.data.validate import find_row_files, validate
from videothinker.schema import Sample, Segment, option_line, read_rows, write_rows
from videothinker.toy.world import WorldSize, draw_scene, encode_scene, make_world, named_rng
from videothinker.video.frames import Sampling
from videothinker.video.reader import read_frames

Rows = list[Sample]
BLOCK = (
    "<time>00:00-00:02</time> <caption>a red square moves left</caption> "
    "<think>The first one.</think>"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small toy world."""
    out = tmp_path_factory.mktemp("world")
    make_world(out, WorldSize(train=12, val=1, test=5, ood=1))
    return out


def sides(world: Path) -> tuple[Rows, Rows]:
    """Training and evaluation rows without a fault.

    Templates, which a small world asks too seldom, are left out.
    """
    train = [
        replace(r, process=f"{BLOCK} The answer is {r.answer}.")
        for r in read_rows(world / "qa.jsonl")
    ]
    held_out = read_rows(world / "eval_id.jsonl")
    return [r for r in train if len(r.options) > 4], [r for r in held_out if len(r.options) > 4]


def checked(folder: Path, train: Rows, held_out: Rows, **options: Any) -> Report:
    """The report on two files."""
    write_rows(folder / "train.jsonl", train)
    write_rows(folder / "eval.jsonl", held_out)
    return validate([folder / "train.jsonl"], [folder / "eval.jsonl"], **options)


def test_clean_set_has_no_finding(world: Path, tmp_path: Path) -> None:
    train, held_out = sides(world)
    assert len(train) >= 4 and len(held_out) >= 4
    report = checked(tmp_path, train, held_out, videos=world, min_frames=8)
    assert report.findings == [] and report.exit_code == 0
    assert set(report.not_run) == {"letter-balance", "blind"}, "the set is too small for these"
    assert report.counts["videos"]["decoded"] == len({r.path for r in [*train, *held_out]})


# One fault each, in a row that is not the first, and on which side and row it has to be found


def with_options(row: Sample, *texts: str) -> Sample:
    """The row with other options, A being right."""
    options = [
        option_line("ABCDEFGH"[i], t) if t else f"{'ABCDEFGH'[i]}." for i, t in enumerate(texts)
    ]
    return replace(row, options=options, solution="<answer>A</answer>", process=None)


def numerical(solution: str, path: str) -> Sample:
    """A question that is answered with a number."""
    return Sample(f"How many are in {path}?", [], solution, path=path, problem_type="numerical")


def on_train(change: Callable[[Sample], Sample]) -> Callable[[Rows, Rows], None]:
    """Change the second training row."""

    def plant(train: Rows, held_out: Rows) -> None:
        train[1] = change(train[1])

    return plant


def on_eval(change: Callable[[Sample, Rows], Sample]) -> Callable[[Rows, Rows], None]:
    """Change the second evaluation row, given the training rows."""

    def plant(train: Rows, held_out: Rows) -> None:
        held_out[1] = change(held_out[1], train)

    return plant


def repeat_first(**changes: Any) -> Callable[[Rows, Rows], None]:
    """The first training row again at the end."""

    def plant(train: Rows, held_out: Rows) -> None:
        train.append(replace(train[0], **{"id": "another", **changes}))

    return plant


def contradict(train: Rows, held_out: Rows) -> None:
    """The first training row again, with another answer."""
    other = next(letter for letter in train[0].letters if letter != train[0].answer)
    train.append(
        replace(train[0], id="another", solution=f"<answer>{other}</answer>", process=None)
    )


def segments(*times: tuple[float, float]) -> Callable[[Sample], Sample]:
    """Other segments."""
    return lambda row: replace(row, segments=[Segment(*t) for t in times])


def traced(text: str) -> Callable[[Sample], Sample]:
    """Another trace."""
    return lambda row: replace(row, process=text)


def ask_training_question(row: Sample, train: Rows) -> Sample:
    """The first training question about the row's video, in capitals."""
    first = train[0]
    return replace(
        row,
        problem=first.problem.upper(),
        options=list(first.options),
        solution=first.solution,
    )


def repeat_id(train: Rows, held_out: Rows) -> None:
    """Another question under the id of the first."""
    train.append(replace(train[0], problem="And what then?"))


# what is done to the second training row
CHANGES: dict[str, tuple[str, Callable[[Sample], Sample]]] = {
    "split": ("warning", lambda r: replace(r, split="test")),
    "option-count": ("error", lambda r: with_options(r, "a dog")),
    "option-blank": ("error", lambda r: with_options(r, "a dog", "", "a cat")),
    "option-duplicate": ("error", lambda r: with_options(r, "a dog", "a cat", "A  dog")),
    "option-duplicate of wrong": ("warning", lambda r: with_options(r, "a dog", "cat", "Cat")),
    "option-letters": ("warning", lambda r: replace(r, options=[*r.options[:-1], "H. a cat"])),
    "answer": ("error", lambda r: replace(r, solution="<answer>Q</answer>")),
    "answer that is blank": ("error", lambda r: numerical("<answer> </answer>", r.path)),
    "solution-tag": ("warning", lambda r: replace(r, solution=r.answer)),
    "answer-in-question": ("note", lambda r: with_options(r, r.problem[6:-1], "a dog", "a cat")),
    "segment-bounds": ("error", segments((0, 2), (3, 900))),
    "segment-empty": ("warning", segments((0, 2), (3, 3))),
    "segment-order": ("warning", segments((3, 4), (0, 2))),
    "segment-overlap": ("note", segments((0, 2), (1, 3))),
    "segment-whole": ("note", lambda r: segments((0, r.duration or 0))(r)),
    "trace-form": ("warning", traced("I think it is the first.")),
    "trace-times": ("error", traced(BLOCK.replace("00:02", "09:59"))),
    "trace-times that are none": ("error", traced(BLOCK.replace("00:02", "soon"))),
    "trace-answer": ("error", traced(f"{BLOCK} So the answer is Q.")),
    "path": ("error", lambda r: replace(r, path="../../etc/passwd")),
    "video-missing": ("error", lambda r: replace(r, path="videos/none.mp4", video_id="no")),
    "video-broken": ("error", lambda r: replace(r, path="seed.json", video_id="none")),
    "duration": ("error", lambda r: replace(r, duration=(r.duration or 0) + 2)),
}
# name → level, side, row and how it is planted
FAULTS: dict[str, tuple[str, str, int, Callable[[Rows, Rows], None]]] = {
    name: (level, "train", 1, on_train(change)) for name, (level, change) in CHANGES.items()
}
FAULTS |= {
    "duplicate-id": ("error", "train", -1, repeat_id),
    "duplicate-question": ("warning", "train", -1, repeat_first()),
    "duplicate-question with another answer": ("error", "train", -1, contradict),
    "leak-question": ("warning", "eval", 1, on_eval(ask_training_question)),
    "leak-video": (
        "error",
        "eval",
        1,
        on_eval(lambda r, train: replace(r, video_id=train[0].video_id)),
    ),
    "leak-video by upload": (
        "warning",
        "eval",
        1,
        on_eval(lambda r, _: replace(r, video_id="v_Cm73ma6Ibcs")),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_one_fault_is_found_and_nothing_else(name: str, world: Path, tmp_path: Path) -> None:
    level, side, place, plant = FAULTS[name]
    train, held_out = sides(world)
    if name == "leak-video by upload":
        train[0] = replace(train[0], video_id="Cm73ma6Ibcs", data_source="LVBench")
    plant(train, held_out)
    roots = {"toyworld": world, "LVBench": world, "": world}
    report = checked(
        tmp_path, train, held_out, videos=roots, min_frames=8, decode=name == "video-broken"
    )
    row = (place if place >= 0 else len(train) - 1) + 1
    found = [(f.check, f.level, Path(f.file).stem, f.row) for f in report.findings]
    assert found == [(name.split()[0], level, side, row)], [f.message for f in report.findings]
    assert report.exit_code == (level == "error")
    assert replace(report, strict=True).exit_code == (level != "note")


def test_short_videos_and_unknown_sources(world: Path, tmp_path: Path) -> None:
    train, held_out = sides(world)
    short = checked(tmp_path, train, held_out, videos=world, min_frames=10_000, decode=False)
    assert {f.check for f in short.findings} == {"video-short"} and short.exit_code == 0
    assert len(short.findings) == len({r.path for r in [*train, *held_out]}), "once a video"
    lost = checked(tmp_path, train, held_out, videos={"STAR": world})
    found = [(f.check, Path(f.file).stem, f.row) for f in lost.findings]
    assert found == [("video-root", "train", 1), ("video-root", "eval", 1)]


def test_files_that_cannot_be_read(world: Path, tmp_path: Path) -> None:
    contents = {
        "empty": b"",
        "bytes": b"\xff\xfe{}",
        "list": b"[{",
        "number": b"7",
        "half": b'{"problem": ',
        "nul": b"\0",
    }
    for name, data in contents.items():
        (tmp_path / f"{name}.jsonl").write_bytes(data)
    report = validate([tmp_path / f"{name}.jsonl" for name in [*contents, "nowhere"]], [tmp_path])
    assert Counter(f.check for f in report.findings) == {"file": 5, "schema": 3}
    assert report.exit_code == 1


def test_bad_rows_keep_the_good_ones(world: Path, tmp_path: Path) -> None:
    train, held_out = sides(world)
    write_rows(tmp_path / "a.jsonl", train)
    lines = (tmp_path / "a.jsonl").read_text().split("\n")
    (tmp_path / "a.jsonl").write_text("\n".join(["", "{", lines[0], "[]", *lines[1:]]))
    report = validate([tmp_path / "a.jsonl"])
    assert [(f.check, f.row) for f in report.findings] == [("schema", 2), ("schema", 4)]
    assert report.counts["train"]["rows"] == len(train) and report.counts["train"]["bad rows"] == 2


def test_rows_of_captions_are_checked_for_their_times(tmp_path: Path) -> None:
    good = {
        "video_id": "v",
        "path": "v.mp4",
        "duration": 9,
        "timestamps": [[0, 4], [4, 9]],
        "sentences": ["x", "y"],
    }
    rows = [good, {**good, "timestamps": [[0, 4]]}, {**good, "timestamps": [[0, 4], [4, 90]]}]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    report = validate([tmp_path / "c.jsonl"])
    assert [(f.check, f.row) for f in report.findings] == [("captions", 2), ("segment-bounds", 3)]
    assert report.counts["train"]["caption rows"] == 3


def test_templates_are_counted_and_not_reported(tmp_path: Path) -> None:
    def many(*answers: int) -> Rows:
        return [
            replace(numerical(f"<answer>{n}</answer>", f"{i}-{n}.mp4"), problem="How many?")
            for i, n in enumerate(answers)
        ]

    report = checked(tmp_path, many(1, 2, 3), [replace(r, path="e" + r.path) for r in many(1, 2)])
    assert [(f.check, f.level, f.row) for f in report.findings] == [("leak-template", "note", None)]
    assert report.findings[0].message.startswith("2 rows") and report.exit_code == 0


# Whole files


def invented(n: int, right: Callable[[int], int], text: Callable[[int, int, str], str]) -> Rows:
    """Questions of four options in an order of chance.

    `right` gives the right place, `text` may change an option.
    """
    words = [f"{a} {b}" for a in ("red", "old", "wet", "big") for b in ("cat", "dog", "hat", "cup")]
    rng, rows = named_rng("invented"), []
    for i in range(n):
        picked = [words[j] for j in rng.permutation(len(words))[:4]]
        options = [option_line("ABCD"[j], text(j, right(i), word)) for j, word in enumerate(picked)]
        answer = f"<answer>{'ABCD'[right(i)]}</answer>"
        rows.append(Sample(f"What is on the table in scene {i}?", options, answer, path=f"{i}.mp4"))
    return rows


def test_uneven_letters_and_telling_words(tmp_path: Path) -> None:
    def found(right: Callable[[int], int], text: Callable[[int, int, str], str]) -> list[str]:
        write_rows(tmp_path / "t.jsonl", invented(300, right, text))
        return [f.check for f in validate([tmp_path / "t.jsonl"]).findings]

    # a fixed order of letters that is no clue by itself
    even = named_rng("letters").permutation(np.arange(300) % 4).tolist()
    assert found(lambda i: even[i], lambda j, right, word: word) == []
    assert found(lambda i: max(0, even[i] - 1), lambda j, right, word: word) == [
        "letter-balance",
        "blind",
    ]
    assert found(
        lambda i: even[i], lambda j, right, word: f"{word} and a lamp" if j == right else word
    ) == ["blind"]


def encode_again(source: Path, path: Path, side: int, rate: int, crf: int) -> None:
    """Another file of the same video."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=rate, options={"crf": str(crf)})
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        frames = read_frames(
            source, Sampling(fps=rate, max_frames=400, size=(side, side)), timeout=None
        )
        for i, pixels in enumerate(frames.pixels):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, rate)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


def test_copies_of_videos_are_found_by_content_and_by_picture(tmp_path: Path) -> None:
    for i in range(8):
        encode_scene(
            draw_scene(f"clip-{i}", 1, min_duration=10, max_duration=10), tmp_path / f"{i}.mp4"
        )
    (tmp_path / "renamed.mp4").write_bytes((tmp_path / "2.mp4").read_bytes())
    encode_again(tmp_path / "3.mp4", tmp_path / "small.mp4", side=56, rate=12, crf=35)
    with (
        av.open(str(tmp_path / "4.mp4")) as source,
        av.open(str(tmp_path / "other.mkv"), "w") as out,
    ):
        stream = out.add_stream_from_template(
            source.streams.video[0]
        )  # the same packets in another container
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    train = [numerical(f"<answer>{i}</answer>", f"{i}.mp4") for i in range(5)]
    names = ("5.mp4", "renamed.mp4", "small.mp4", "other.mkv", "6.mp4")
    held_out = [numerical("<answer>7</answer>", name) for name in names]
    report = checked(tmp_path, train, held_out, videos=tmp_path, min_frames=8)
    assert [(f.check, f.level, f.row) for f in report.findings] == [
        ("leak-file", "error", 2),
        ("leak-looks", "warning", 3),
        ("leak-looks", "warning", 4),
    ]
    assert (
        "train.jsonl:4" in report.findings[1].message
        and "train.jsonl:5" in report.findings[2].message
    )


# Nothing makes it fail

NASTY: list[Any] = [
    None,
    True,
    0,
    -1,
    1e308,
    10**30,
    float("nan"),
    float("inf"),
    "",
    " ",
    "A",
    "\0",
    "\ud800",
    "</answer><answer>",
    "x" * 5000,
    "../x",
    "/",
    "C:\\x",
    "http://x/y.mp4",
    [],
    {},
    [[]],
    ["A. x"] * 2,
    ["A."] * 30,
    [None],
    {"start": 1, "end": 0},
    "é\u202e\x1b[2J",
    [{"start": 0, "end": 1}],
    [{"start": 5, "end": 9, "caption": None}],
    "<time>1-2</time> <caption>x</caption> <think>y</think>",
    "image",
]


def spoiled(row: dict[str, Any], rng: random.Random) -> Any:
    """The row with a few values replaced, removed or added."""
    row = dict(row)
    for _ in range(rng.randint(1, 3)):
        key = rng.choice([*row, "process", "extra", "video_id", "timestamps", "sentences"])
        if rng.random() < 0.15:
            row.pop(key, None)
        else:
            row[key] = rng.choice(NASTY)
    return rng.choice(NASTY) if rng.random() < 0.03 else row


def test_no_row_makes_it_fail(world: Path, tmp_path: Path) -> None:
    rng = random.Random(0)
    train, held_out = sides(world)
    for name, rows in (("train", train), ("eval", held_out)):
        lines = [json.dumps(spoiled(rng.choice(rows).to_row(), rng)) for _ in range(400)]
        lines = [
            line[: rng.randint(0, len(line))] if rng.random() < 0.05 else line for line in lines
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    for videos in (None, world, {"toyworld": world}):
        report = validate(
            [tmp_path / "train.jsonl"], [tmp_path / "eval.jsonl"], videos, decode=False
        )
        assert report.exit_code == 1 and report.counts["train"]["rows"] > 100
        assert all(
            f.check in CHECKS and f.message.isprintable() and f.id.isprintable()
            for f in report.findings
        )
        "\n".join(report.lines()).encode()
        json.dumps(report.to_dict(), allow_nan=False)
        assert report._repr_markdown_()


# The same data, the same bytes

AGAIN = """
import json, sys
from videothinker.data.validate import validate

report = validate(["train.jsonl"], ["eval.jsonl"], sys.argv[1], workers=int(sys.argv[2]))
print(json.dumps(report.to_dict()), *report.lines(), sep="\\n")
sys.exit(report.exit_code)
"""


def test_report_is_the_same_in_every_process(world: Path, tmp_path: Path) -> None:
    rng = random.Random(1)
    train, held_out = sides(world)
    held_out[0] = replace(train[2], id="copy", split="test", path=train[3].path)
    write_rows(tmp_path / "eval.jsonl", held_out)
    lines = [json.dumps(spoiled(rng.choice(train).to_row(), rng)) for _ in range(60)]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    runs = []
    for seed, workers in ((1, 1), (2, 3)):
        env = dict(os.environ, PYTHONHASHSEED=str(seed))
        command = [sys.executable, "-c", AGAIN, str(world), str(workers)]
        runs.append(subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True))
    assert runs[0].returncode == runs[1].returncode == 1, runs[0].stderr
    assert runs[0].stdout == runs[1].stdout and len(runs[0].stdout) > 2000


def test_layout_of_a_project(world: Path, tmp_path: Path) -> None:
    train, held_out = sides(world)
    write_rows(tmp_path / "train" / "a.jsonl", train)
    write_rows(tmp_path / "eval" / "id" / "b.jsonl", held_out)
    write_rows(tmp_path / "eval" / "ood" / "c.json", held_out[:1])
    files = find_row_files(tmp_path)
    assert [p.name for p in files["train"]] == ["a.jsonl"] and [p.name for p in files["eval"]] == [
        "b.jsonl",
        "c.json",
    ]
    assert find_row_files(tmp_path / "eval" / "id" / "b.jsonl")["train"] == []
    found = {f.check for f in validate(files["train"], files["eval"]).findings}
    assert found == {"duplicate-id"}, "the same row in two files of one side"


# Size


def test_twenty_thousand_questions_against_ten_thousand(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    frequency = 1 / np.arange(1, 4001)
    picked = rng.choice(4000, (30_000, 40), p=frequency / frequency.sum())

    def question(numbers: np.ndarray) -> Sample:
        texts = [" ".join(f"w{n}" for n in numbers[k : k + 8]) for k in range(0, 40, 8)]
        options = [option_line("ABCD"[i], t) for i, t in enumerate(texts[1:])]
        return Sample(texts[0] + "?", options, "<answer>B</answer>")

    samples = [question(numbers) for numbers in picked]
    train, held_out = samples[:20_000], samples[20_000:]
    copied = {j: int(rng.integers(20_000)) for j in range(0, 10_000, 50)}
    for j, i in copied.items():  # a word more, and the wrong options in another order
        texts = [o[3:] for o in train[i].options]
        options = [option_line("ABCD"[k], texts[m]) for k, m in enumerate((3, 1, 0, 2))]
        held_out[j] = replace(train[i], problem=train[i].problem + " really", options=options)

    compared = 0
    jaccard = question_duplicates.jaccard

    def counting(a: frozenset[str], b: frozenset[str]) -> float:
        nonlocal compared
        compared += 1
        return jaccard(a, b)

    monkeypatch.setattr(question_duplicates, "jaccard", counting)
    overlaps, _ = question_duplicates.question_overlaps(train, held_out)
    assert {overlap.evaluation: overlap.train for overlap in overlaps} == copied
    assert compared < 0.01 * len(train) * len(held_out), "a hundredth of all pairs is compared"
