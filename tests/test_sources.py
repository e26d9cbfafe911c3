"""Annotations of every source: public excerpts, unseen rows, broken rows, and many of them."""

from __future__ import annotations

import copy
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from videothinker.data.importing import Import
from videothinker.data.sources import SOURCES, import_annotations
from videothinker.paths import resolve_path
from videothinker.schema import Sample, read_captions, read_rows, write_captions, write_rows

EXCERPTS = ROOT.parent / "shared" / "samples"
LETTERS = "ABCDEFGH"
WORDS = [
    *"a the dog runs über Straße 你好 🎬 it's 12 (A) B. C: — door, opens;".split(),
    "",
    '"quoted"',
    "<tag>",
    "\\n\u2028",
    "x",
]
Files = list[tuple[str, Any, bool]]  # name, content, whether it is written as JSON lines


# Excerpts of the real files


@pytest.mark.parametrize(
    ("name", "files", "rows", "taken"),
    [
        ("ActivityNet", ["activitynet-captions"], 6, 6),
        ("YouCook2", ["youcook2"], 6, 4),
        ("TutorialVQA", ["tutorialvqa"], 8, 2),
        ("ScaleLong", ["scalelong"], 15, 15),
        ("LVBench", ["lvbench/easyvideor1_lvbench.json"], 2, 2),
        ("Video-Holmes", ["video-holmes"], 4, 4),
        ("Video-Holmes", ["video-holmes/easyvideor1_holmes.json"], 2, 2),
        ("CG-Bench", ["cg-bench"], 2, 2),
        ("CG-Bench-Reasoning", ["cg-bench"], 2, 0),
        ("VRBench", ["vrbench"], 4, 4),
        (
            "rows",
            ["lvbench/easyvideor1_lvbench.json", "video-holmes/easyvideor1_holmes.json"],
            4,
            4,
        ),
    ],
)
def test_excerpts_of_the_real_files_load(
    name: str, files: list[str], rows: int, taken: int
) -> None:
    if not EXCERPTS.is_dir():
        pytest.skip(
            f"{EXCERPTS} is not here: excerpts of the annotations are not part of the repository"
        )
    found = import_annotations(name, [EXCERPTS / file for file in files])
    assert found.rows == rows and len(found.clips) + len(found.samples) == taken, found.problems
    assert all_accounted(found) == rows
    if name == "VRBench":
        assert all(
            len(s.segments) == 3 and all(g.caption for g in s.segments) for s in found.samples
        )
        assert not [g.caption for s in found.samples for g in s.segments if "[" in g.caption]
    if name == "Video-Holmes" and "film" in found.samples[0].provenance:
        assert all(sample.provenance["film"]["segments"] for sample in found.samples)
    if name == "rows":
        texts = [json.loads((EXCERPTS / file).read_text()) for file in files]
        assert json.dumps([s.to_row() for s in found.samples]) == json.dumps(
            [row for text in texts for row in text]
        )


# Rows nobody has seen: a generator for each format


def words(rng: random.Random, low: int = 2, high: int = 9) -> str:
    """Some words, with a mark that makes them unlike any other."""
    return " ".join(rng.choices(WORDS, k=rng.randint(low, high))) + f" {rng.randrange(10**9)}?"


def ident(rng: random.Random) -> str:
    """A name like those of YouTube."""
    return "".join(rng.choices("abcDEF012-_", k=11)).strip("-_") + str(rng.randrange(10**6))


def pairs(rng: random.Random, duration: float, count: int) -> list[list[float]]:
    """Segments of a video, in whole and in broken seconds."""
    starts = [rng.uniform(0, duration - 3) for _ in range(count)]
    broken = [[round(start, 2), round(rng.uniform(start + 1, duration), 2)] for start in starts]
    return [pair if rng.random() < 0.7 else [int(pair[0]), int(pair[0]) + 1] for pair in broken]


def times(rng: random.Random, count: int, hours: bool = True) -> list[tuple[str, str]]:
    """Ranges as clock times."""
    starts = [rng.randrange(5000) for _ in range(count)]
    return [(stamp(s, hours), stamp(s + rng.randint(1, 600), hours)) for s in starts]


def stamp(second: int, hours: bool) -> str:
    """`HH:MM:SS`, or `MM:SS` whose minutes may pass 59."""
    minutes = f"{second // 3600:02}:{second // 60 % 60:02}" if hours else f"{second // 60:02}"
    return f"{minutes}:{second % 60:02}"


def dense(rng: random.Random, count: int) -> dict[str, Any]:
    """ActivityNet Captions, YouCook2."""
    table = {}
    for _ in range(count):
        duration = round(rng.uniform(20, 400), 2)
        found = pairs(rng, duration, rng.randint(1, 6))
        said = [" " * rng.randint(0, 2) + words(rng) for _ in found]
        table[f"v_{ident(rng)}"] = {"duration": duration, "timestamps": found, "sentences": said}
    return table


def activitynet(rng: random.Random, count: int) -> Files:
    """A training file and the two opinions about a validation file."""
    val = dense(rng, count)
    return [
        ("train.json", dense(rng, count), False),
        ("val_1.json", val, False),
        ("val_2.json", val, False),
    ]


def youcook2(rng: random.Random, count: int) -> Files:
    """Both shapes."""
    database = {}
    for key, video in dense(rng, count).items():
        steps = [
            {"id": i, "segment": pair, "sentence": said}
            for i, (pair, said) in enumerate(
                zip(video["timestamps"], video["sentences"], strict=True)
            )
        ]
        database[key[2:]] = {
            "subset": rng.choice(["training", "validation"]),
            "duration": video["duration"],
            "recipe_type": str(rng.randrange(400)),
            "video_url": "https://www.youtube.com/watch?v=x",
            "annotations": steps,
        }
    original = {"database": database}
    return [
        ("yc2_train.json", dense(rng, count), False),
        ("youcookii_annotations_trainval.json", original, False),
    ]


def tutorialvqa(rng: random.Random, count: int) -> Files:
    """Videos and questions about them."""
    videos, asked = [], []
    for _ in range(count):
        transcript = [words(rng) for _ in range(rng.randint(5, 20))]
        firsts = sorted(rng.sample(range(len(transcript)), 3))
        steps = [
            {
                "title": words(rng),
                "timestamps": {"start": str(10.5 * i + 1), "end": f"{10.5 * i + 9:.6f}"},
                "sentence_indexes": {"start": first, "end": first},
            }
            for i, first in enumerate(firsts)
        ]
        name = str(rng.randrange(10**9))
        videos.append(
            {
                "video_id": name,
                "video_title": words(rng),
                "transcript": transcript,
                "segments": steps,
            }
        )
        for _ in range(2):
            start, end = sorted(rng.choices(range(len(transcript)), k=2))
            asked.append(
                {"video_id": name, "question": words(rng), "answer_start": start, "answer_end": end}
            )
    return [("train.json", asked, False), ("videos.json", videos, False)]


def choices(rng: random.Random, low: int, high: int) -> list[str]:
    """Options, no two alike."""
    return [words(rng) for _ in range(rng.randint(low, high))]


STAR_KINDS = ["Interaction", "Sequence", "Prediction", "Feasibility"]


def star(rng: random.Random, count: int) -> Files:
    """Questions with scene graphs."""
    rows = []
    for i in range(count):
        options = choices(rng, 4, 4)
        frame = {
            "rel_pairs": [["o1", "o2"]],
            "rel_labels": [["r1"]],
            "actions": ["a001"],
            "bbox": [[1.5, 2, 3, 4]] * 3,
        }
        start = round(rng.uniform(0, 20), 1)
        rows.append(
            {
                "question_id": f"{rng.choice(STAR_KINDS)}_T{i % 6}_{i}",
                "question": words(rng),
                "answer": rng.choice(options),
                "video_id": ident(rng),
                "start": start,
                "end": start + 7.9,
                "question_program": [{"function": "Query"}],
                "choices": [
                    {"choice_id": n, "choice": c, "choice_program": []}
                    for n, c in enumerate(options)
                ],
                "situations": {f"{f:06}": frame for f in range(rng.randint(1, 5))},
            }
        )
    return [("STAR_train.json", rows, False)]


def lettered(rng: random.Random, low: int, high: int) -> tuple[dict[str, str], str]:
    """Options as an object, and a letter."""
    options = dict(zip(LETTERS, choices(rng, low, high), strict=False))
    return options, rng.choice(list(options))


def scalelong(rng: random.Random, count: int) -> Files:
    """One line per video."""
    lines = []
    for _ in range(count):
        asked = []
        for i in range(rng.randint(2, 8)):
            options, letter = lettered(rng, 4, 4)
            kind = rng.choice(
                [
                    "Counting Problem",
                    "Counting Problems",
                    "Casual Reasoning",
                    "information inference",
                ]
            )
            named = {"data_id": i, "question": words(rng), "question_type": kind}
            asked.append({**named, "options": options, "answer": letter})
        lines.append({ident(rng): asked})
    return [("questions_converted.jsonl", lines, True)]


def lvbench(rng: random.Random, count: int) -> Files:
    """One line per video, options in the question; and a conversion."""
    lines = []
    for n in range(count):
        asked = []
        for i in range(rng.randint(2, 6)):
            options = choices(rng, 4, 4)
            hours = rng.random() < 0.5
            reference = ", ".join(f"{a}-{b}" for a, b in times(rng, rng.randint(1, 3), hours))
            texts = [f"({a}) {option}" for a, option in zip(LETTERS, options, strict=False)]
            asked.append(
                {
                    "uid": str(100 * n + i),
                    "question": "\n".join([words(rng), *texts]),
                    "answer": rng.choice("ABCD"),
                    "question_type": rng.sample(
                        ["reasoning", "summarization", "entity recognition"], 2
                    ),
                    "time_reference": rng.choice([reference, "n/a", "the whole film"]),
                }
            )
        info = {
            "duration_minutes": rng.randint(120, 150),
            "fps": 25.0,
            "resolution": {"width": 1280, "height": 720},
        }
        lines.append({"key": ident(rng), "type": "sport", "video_info": info, "qa": asked})
    return [
        ("video_info.meta.jsonl", lines, True),
        (
            "lvbench.json",
            [r | {"data_source": "LVBench"} for r in official(rng, count)[0][1]],
            False,
        ),
    ]


def holmes(rng: random.Random, count: int) -> Files:
    """Questions about films, and what happens in the films."""
    rows, files = [], []
    for _ in range(count):
        film = ident(rng)
        for i in range(3):
            options, letter = lettered(rng, 6, 6)
            rows.append(
                {
                    "video ID": film,
                    "Question ID": i + 1,
                    "Question Type": rng.choice(["SR", "IMC", "TCI", "TA", "MHR", "PAR", "CTI"]),
                    "Question": words(rng),
                    "Options": options,
                    "Answer": letter,
                    "Explanation": words(rng),
                }
            )
        stretches = [
            {"TimeRange": f"{a}-{b}", "Description": words(rng)} for a, b in times(rng, 3, False)
        ]
        told = {
            "Segment Description": stretches,
            "Key Relationships": [],
            "Inference Shots": [],
            "Core Theme": "x",
        }
        files.append((f"annotations_{film}.json", [told], False))
    return [("test_Video-Holmes.json", rows, False), *files]


def cgbench(rng: random.Random, count: int) -> Files:
    """Questions with clue intervals, and measured durations."""
    rows, measured = [], {}
    for i in range(count):
        options, name, duration = choices(rng, 5, 8), ident(rng), rng.randint(600, 4000)
        letter = rng.choice(LETTERS[: len(options)])
        kind = rng.choice(
            ["Entity Perception", "Event Cognition", "Hallucination", "Text Cognition"]
        )
        rows.append(
            {
                "qid": i,
                "video_uid": name,
                "question": words(rng),
                "answer": options[LETTERS.index(letter)],
                "choices": options,
                "right_answer": letter,
                "clue_intervals": pairs(rng, duration, rng.randint(1, 4)),
                "domain": "Life Record",
                "sub_category": kind,
                "duration": duration,
            }
        )
        measured[name] = {"duration": duration + 0.033, "max_frame": 25 * duration, "fps": 25.0}
    return [("cgbench.json", rows, False), ("video_meta_info.json", measured, False)]


def timelens(rng: random.Random, count: int) -> Files:
    """Queries with their spans, by video."""

    def video() -> dict[str, Any]:
        duration, n = rng.uniform(20, 150), rng.randint(1, 4)
        queries = [words(rng) for _ in range(n)]
        return {"duration": duration, "spans": pairs(rng, duration, n), "queries": queries}

    return [
        ("activitynet-timelens.json", {f"v_{ident(rng)}": video() for _ in range(count)}, False),
        ("charades-timelens.json", {ident(rng): video() for _ in range(count)}, False),
        ("qvhighlights-timelens.json", {f"{ident(rng)}_0.0_150.0": video()}, False),
    ]


def vrbench(rng: random.Random, count: int) -> Files:
    """Questions with chains of reasoning."""
    lines = []
    for _ in range(count):
        name, asked = ident(rng), {}
        for i in range(1, 4):
            options, letter = lettered(rng, 4, 4)
            steps = {
                str(n): f"{words(rng)} [{a}->{b}]" for n, (a, b) in enumerate(times(rng, 3), 1)
            }
            asked[f"qa{i}"] = {
                "question": words(rng),
                "options": options,
                "answer": letter,
                "original_question": words(rng),
                "original_answer": rng.choice([options[letter], words(rng)]),
                "reasoning_process": steps,
                "reasoning_type": rng.choice(["Event Attribution", "Counting Porblems"]),
            }
        path = f"VRBench/videos/v001/{name}.mp4"
        lines.append(
            {"video_id": name, "video_path": path, "video_summary": words(rng), "mcq": asked}
        )
    return [("VRBench_eval.jsonl", lines, True)]


def official(rng: random.Random, count: int) -> Files:
    """Rows of Video-R1 and Video-Thinker."""
    rows = []
    for i in range(count):
        options, letter = lettered(rng, 2, 6)
        row = {
            "problem_id": i,
            "problem": words(rng),
            "data_type": "video",
            "problem_type": "multiple choice",
            "options": [f"{a}. {text}" for a, text in options.items()],
            "solution": f"<answer>{letter}</answer>",
            "path": f"./videos/{ident(rng)}.mp4",
            "data_source": rng.choice(["STAR", "LVBench"]),
        }
        rows.append(row | ({"process": "<time>00:00-00:04</time> …"} if rng.random() < 0.5 else {}))
    return [("rows.jsonl", rows, True)]


FORMATS: dict[str, Callable[[random.Random, int], Files]] = {
    "ActivityNet": activitynet,
    "TutorialVQA": tutorialvqa,
    "YouCook2": youcook2,
    "STAR": star,
    "ScaleLong": scalelong,
    "LVBench": lvbench,
    "Video-Holmes": holmes,
    "CG-Bench": cgbench,
    "CG-Bench-Reasoning": cgbench,
    "VRBench": vrbench,
    "TimeLens-Bench": timelens,
    "rows": official,
}


def disturbed(rng: random.Random, value: Any, top: bool = True) -> Any:
    """The same value: keys of its objects in another order, and unknown keys beside known ones."""
    if isinstance(value, list):
        return [disturbed(rng, v, False) for v in value]
    if not isinstance(value, dict):
        return value
    items = [(key, disturbed(rng, v, False)) for key, v in value.items()]
    if {
        "duration",
        "question",
        "segment",
        "choice",
        "key",
        "mcq",
        "video_id",
        "Question",
    } & value.keys():
        items.append(
            (f"unknown {rng.randrange(99)}", rng.choice([None, 3, "text", [1, {}], {"a": []}]))
        )
    rng.shuffle(items)
    return dict(items)


def write(folder: Path, files: Files) -> list[Path]:
    """Write files, as JSON or JSON lines."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content, lines in files:
        text = (
            "".join(json.dumps(v, ensure_ascii=False) + "\n" for v in content)
            if lines
            else json.dumps(content)
        )
        (folder / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    return [folder / name for name, _, _ in files]


def all_accounted(found: Import) -> int:
    """The rows seen, when each is a clip, sample, problem or passed over, and can be used so."""
    counts = found.counts
    assert (
        sum(n for what, n in counts.items() if what not in ("rows", "parts"))
        == counts["rows"]
        == found.rows
    )
    names = [sample.id for sample in found.samples if sample.id]
    assert len(set(names)) == len(names)
    for item in [*found.clips, *found.samples]:
        assert resolve_path(item, "/videos").is_relative_to("/videos")
        if found.source != "rows":
            assert all(0 <= s.start < s.end <= (item.duration or 1e7) for s in item.segments)
            assert (
                item.video_id
                and item.data_source
                and item.provenance["row"]
                and "/" not in item.provenance["file"]
            )
    for sample in found.samples:
        assert (
            "\0" not in sample.problem + sample.solution
            and Sample.from_row(sample.to_row()) == sample
        )
        assert (
            sample.problem_type != "multiple choice"
            or not sample.options
            or sample.answer in sample.letters
        )
    for problem in found.problems:
        assert (
            problem.reason
            and "\n" not in problem.reason
            and problem.kind in ("row", "unlabelled", "part")
        )
        json.dumps(problem.to_row(), allow_nan=False)
    return found.rows


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("seed", range(3))
def test_rows_nobody_has_seen_load_without_a_problem(name: str, seed: int, tmp_path: Path) -> None:
    rng = random.Random(f"{name} {seed}")
    files = FORMATS[name](rng, 12)
    if name != "rows":  # these come out as they went in, so there is nothing to disturb
        files = [(file, disturbed(rng, content), lines) for file, content, lines in files]
    found = import_annotations(name, write(tmp_path, files))
    assert not found.problems, found.problems[:3]
    assert found.rows >= 12 and all_accounted(found) == found.rows
    assert SOURCES[name].labels != "captions" or len(found.clips) >= 12
    assert SOURCES[name].labels == "captions" or found.samples
    write_captions(tmp_path / "clips.jsonl", found.clips)
    write_rows(tmp_path / "samples.jsonl", found.samples)
    assert read_captions(tmp_path / "clips.jsonl") == found.clips
    assert read_rows(tmp_path / "samples.jsonl") == found.samples


def test_what_a_row_says_is_what_a_sample_says(tmp_path: Path) -> None:
    rng = random.Random(7)
    (_, rows, _), _ = files = cgbench(rng, 20)
    for row, sample in zip(
        rows, import_annotations("CG-Bench", write(tmp_path, files)).samples, strict=True
    ):
        assert (
            sample.option_text(sample.answer) == row["answer"].strip()
            and sample.answer == row["right_answer"]
        )
        assert [[s.start, s.end] for s in sample.segments] == row["clue_intervals"]
    files = star(rng, 20)
    for row, sample in zip(
        files[0][1], import_annotations("STAR", write(tmp_path, files)).samples, strict=True
    ):
        assert (
            sample.option_text(sample.answer) == row["answer"].strip()
            and sample.problem == row["question"].strip()
        )
        assert sample.provenance["question_type"] == row["question_id"].split("_")[0]


# Broken rows


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place inside a JSON value."""
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def nested(depth: int) -> Any:
    """A list in a list in a list …"""
    value: Any = "core"
    for _ in range(depth):
        value = [value]
    return value


NUMBERS = [-1, 0, 3, 2.5, 1e308, float("nan"), float("inf"), 10**40]
TEXTS = [
    "",
    " ",
    "\n\n",
    "x",
    "A",
    "None",
    "12:99",
    "a\0b",
    "\ud83d",
    "y" * 300_000,
    "__import__('os').abort()",
]
PATHS = ["../../etc/passwd", "/etc/passwd", "http://x/y.mp4"]
LISTS = [[], [None], [[]], ["A", "B"], [1, 2], nested(40), nested(700)]
GARBAGE = [
    None,
    True,
    *NUMBERS,
    *TEXTS,
    *PATHS,
    *LISTS,
    {},
    {"A": None},
    {"start": 1},
    {"": {"": []}},
]


def broken(rng: random.Random, content: Any) -> Any:
    """The content with one thing in it lost, replaced by garbage, or there twice."""
    content = copy.deepcopy(content)
    alone = len(content) < 3  # a file whose only row is garbage is another format
    path = rng.choice([path for path in places(content) if len(path) > 1 or not alone])
    holder = content
    for key in path[:-1]:
        holder = holder[key]
    what = rng.random()
    if what < 0.25 and len(holder) > 1:
        del holder[path[-1]]
    elif what < 0.35 and isinstance(holder, list):
        holder.append(copy.deepcopy(holder[path[-1]]))
    elif what < 0.45 and isinstance(holder, dict):
        holder[rng.choice(["", "a\0", "\ud83d", "z" * 5000, "../x", "A"])] = holder.pop(path[-1])
    else:
        holder[path[-1]] = rng.choice(GARBAGE)
    return content


@pytest.mark.parametrize("name", FORMATS)
def test_broken_rows_never_raise_and_never_vanish(name: str, tmp_path: Path) -> None:
    rng = random.Random(f"broken {name}")
    whole = FORMATS[name](rng, 4)
    rows = import_annotations(name, write(tmp_path, whole)).rows
    seen = 0
    for _ in range(300):
        files = list(whole)
        which = rng.randrange(len(files))
        files[which] = (files[which][0], broken(rng, files[which][1]), files[which][2])
        found = import_annotations(name, write(tmp_path, files))
        all_accounted(found)
        assert found.rows >= rows - 8  # one lost entry is at most one video with its questions
        seen += bool(found.problems)
    assert seen >= 20  # the others hit what nobody reads, most of them in STAR's scene graphs


def test_one_bad_line_of_many_is_one_problem(tmp_path: Path) -> None:
    path = write(tmp_path, scalelong(random.Random(1), 5))[0]
    good = path.read_bytes()
    for line in (
        b"{",
        b"\xff\xfe",
        b'{"a": NaN}',
        b"[" * 100_000,
        b"9" * 5000,
        b'{"a": [1]} {}',
        b"{}",
        b"\0",
    ):
        path.write_bytes(good + line + b"\n")
        found = import_annotations("ScaleLong", path)
        assert all_accounted(found) and [p.row for p in found.problems] == ["line 6"], line[:20]


def test_files_that_are_cut_off_or_of_another_source_are_named(tmp_path: Path) -> None:
    written = {
        name: write(tmp_path / name, make(random.Random(2), 3))[0] for name, make in FORMATS.items()
    }
    pairs = "ActivityNet YouCook2, CG-Bench CG-Bench-Reasoning, LVBench rows, Video-Holmes rows"
    alike = [set(pair.split()) for pair in pairs.split(", ")]
    for name, path in written.items():
        for other in written:
            if name == other or {name, other} in alike and name != "rows":
                continue
            with pytest.raises(ValueError, match=str(written[other].name)):
                import_annotations(name, written[other])
                pytest.fail(f"{name} took the file of {other}")
        if path.suffix == ".json":
            path.write_text(path.read_text()[:-20])
            with pytest.raises(ValueError, match="was the file cut off"):
                import_annotations(name, [path])


TRICKS = [
    *PATHS,
    "C:\\a.mp4",
    "\\\\host\\a",
    "https://x/a.mp4",
    "file:///a",
    "a\0.mp4",
    "..",
    "a/../../b",
]


@pytest.mark.parametrize("trick", TRICKS)
def test_paths_that_leave_the_folder_are_problems(trick: str, tmp_path: Path) -> None:
    rng = random.Random(3)
    line = vrbench(rng, 1)[0][1][0] | {"video_path": trick}
    row = star(rng, 1)[0][1][0] | {"video_id": trick + "/../../x"}
    clip = {f"v_{trick}/../../x": next(iter(dense(rng, 1).values()))}
    plain = official(rng, 1)[0][1][0] | {"path": trick}
    for name, files in {
        "VRBench": [("v.jsonl", [line], True)],
        "STAR": [("s.json", [row], False)],
        "ActivityNet": [("train.json", clip, False)],
        "rows": [("r.jsonl", [plain], True)],
    }.items():
        found = import_annotations(name, write(tmp_path, files))
        assert (
            not found.clips
            and not found.samples
            and found.problems
            and all(p.kind == "row" for p in found.problems)
        )


# Folders and files as they are published


def dumped(path: Path, content: Any) -> Path:
    """A JSON file, with the folders that it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def clip_of(**more: Any) -> dict[str, Any]:
    """A video in ActivityNet's shape."""
    return {
        "duration": 9,
        "timestamps": [[0, 4], [4, 9]],
        "sentences": ["It rains.", "Then sun."],
    } | more


def holmes_asked(video: str, number: int = 1) -> dict[str, Any]:
    """A question of Video-Holmes."""
    row: dict[str, Any] = {"video ID": video, "Question ID": number, "Question Type": "SR"}
    row |= {"Question": "Who?", "Options": {"A": "x", "B": "y"}, "Answer": "B"}
    return row


def test_a_folder_says_what_was_read_and_what_was_not_there(tmp_path: Path) -> None:
    from videothinker.data.prepare import prepare, report_lines

    for name in ("val_1.json", "val_2.json", "train_other.json"):
        dumped(tmp_path / "captiondata" / name, {"v_abc": clip_of()})
    manifest = prepare("ActivityNet", tmp_path / "captiondata", tmp_path / "data")
    assert manifest["annotations"] == {
        "rows": {"val_1.json": 1, "val_2.json": 1},
        "missing": ["train.json or train_modified.json"],
        "unread": ["train_other.json"],
    }
    report = "\n".join(report_lines(manifest, tmp_path / "data"))
    assert "read: val_1.json (1 row), val_2.json (1 row)" in report
    assert "NOT THERE: train.json or train_modified.json" in report
    assert "not read: train_other.json" in report
    dumped(tmp_path / "captiondata" / "train_modified.json", {"v_def": clip_of()})
    manifest = prepare("ActivityNet", tmp_path / "captiondata", tmp_path / "data")
    assert manifest["annotations"]["rows"]["train_modified.json"] == 1
    assert not manifest["annotations"]["missing"]
    for names in (["yc2_train.json", "yc2_test.json"], ["youcookii_annotations_trainval.json"]):
        folder = tmp_path / names[0]
        for name in names:
            dumped(folder / name, {"v_abc": clip_of()})
        found = import_annotations("YouCook2", folder)
        assert list(found.files) == names
        assert found.missing == (
            ["yc2_val.json or youcookii_annotations_trainval.json"] if len(names) > 1 else []
        )
    alone = prepare("ActivityNet", tmp_path / "captiondata" / "val_1.json", tmp_path / "one")
    assert not alone["annotations"]["missing"]  # a file was asked for, not a folder


def test_files_in_sub_folders_are_found_unless_two_could_be_meant(tmp_path: Path) -> None:
    asked = {"qid": 1, "video_uid": "v", "question": "?", "answer": "x", "choices": ["x", "y"]}
    asked |= {"right_answer": "A", "sub_category": "Object Perception"}
    dumped(tmp_path / "CG-Bench" / "cgbench_mini.json", [asked])
    meta = {"v": {"duration": 31.5, "max_frame": 3, "fps": 25}}
    dumped(tmp_path / "CG-Bench" / "run" / "video_meta_info.json", meta)
    found = import_annotations("CG-Bench", tmp_path / "CG-Bench")
    assert found.samples[0].duration == 31.5 and not found.missing
    dumped(tmp_path / "CG-Bench" / "old" / "video_meta_info.json", meta)
    with pytest.raises(ValueError, match="several files are named video_meta_info.json"):
        import_annotations("CG-Bench", tmp_path / "CG-Bench")


def film(joined: bool = False, **more: Any) -> list[dict[str, Any]]:
    """An annotation of a film, its keys written apart or together."""
    content = {
        "Segment Description": [
            {"TimeRange": "00:00-00:10", "Description": "A man waits."},
            {"TimeRange": "fill in the range", "Description": "fill in what happens"},
        ],
        "Key Relationships": [{"Combination": "fill in"}],
        "Inference Shots": [],
        "Core Theme": "Patience",
    } | more
    return [{key.replace(" ", "") if joined else key: value for key, value in content.items()}]


@pytest.mark.parametrize("joined", [False, True])
def test_video_holmes_as_it_is_unpacked(joined: bool, tmp_path: Path) -> None:
    from videothinker.data.prepare import prepare

    root = tmp_path / "Video-Holmes"
    dumped(root / "Benchmark" / "test_Video-Holmes.json", [holmes_asked("abc"), holmes_asked("d")])
    dumped(root / "Benchmark" / "train_Video-Holmes.json", [holmes_asked("tra")])
    dumped(root / "Benchmark" / "annotations" / "abc.json", film(joined))
    dumped(root / "Benchmark" / "annotations" / "d.json", {"notes": "something else"})
    (root / "Benchmark" / "annotations" / "e.json").write_text("[{")
    for given in (
        [root],
        [root / "Benchmark"],
        [root / "Benchmark" / "test_Video-Holmes.json", root / "Benchmark" / "annotations"],
    ):
        found = import_annotations("Video-Holmes", given)
        assert [s.video_id for s in found.samples] == ["abc", "d"]
        annotation = found.samples[0].provenance["film"]
        assert [s["caption"] for s in annotation["segments"]] == ["A man waits."]
        assert "fill in" not in json.dumps(annotation)
        assert "film" not in found.samples[1].provenance
        assert [(p.file, p.kind) for p in found.problems] == [
            ("d.json", "part"),
            ("e.json", "part"),
        ]
    train = root / "Benchmark" / "train_Video-Holmes.json"
    with pytest.raises(ValueError, match="1 rows of Video-Holmes are of its training split"):
        prepare("Video-Holmes", train, tmp_path / "data")
    from videothinker.data.prepare import PrepareSettings

    films = dumped(root / "Benchmark" / "annotation_training" / "tra.json", film(joined)).parent
    settings = PrepareSettings("by-split")
    by_split = prepare("Video-Holmes", [train, films], tmp_path / "data", None, settings)
    assert [file["folder"] for file in by_split["files"]] == ["train"]
    [row] = read_rows(tmp_path / "data" / "train" / "Video-Holmes.jsonl")
    assert row.provenance["film"]["segments"][0]["caption"] == "A man waits."


def test_rows_of_another_set_are_refused_by_name(tmp_path: Path) -> None:
    row = {"problem": "?", "options": ["A. x", "B. y"], "solution": "<answer>A</answer>"}
    rows = [
        row | {"path": f"{i}.mp4", "data_source": source}
        for i, source in enumerate(
            ["LVBench", "video_holmes", "", "Video-Holmes (EasyVideoR1)", "Holmes"]
        )
    ]
    found = import_annotations("Video-Holmes", dumped(tmp_path / "rows.json", rows))
    assert len(found.samples) == 4
    assert [p.reason for p in found.problems] == [
        "field 'data_source': is 'LVBench', so this is no row of Video-Holmes"
    ]


@pytest.mark.parametrize("source", ["ActivityNet", "YouCook2"])
def test_the_same_shape_with_other_names_or_units_is_refused(source: str, tmp_path: Path) -> None:
    charades = dumped(tmp_path / "charades.json", {"AO8RW": clip_of(), "Y6R7T": clip_of()})
    named = "videos are named 'v_…', and the first here is 'AO8RW'.*write 'v_' before each"
    with pytest.raises(ValueError, match=named):
        import_annotations(source, charades)
    frames = clip_of(num_frames=7182, fps=29.4)
    del frames["duration"]
    tacos = dumped(tmp_path / "tacos.json", {"v_s13-d21": frames, "v_abc": clip_of(fps=25)})
    found = import_annotations(source, tacos)
    assert [c.video_id for c in found.clips] == ["abc"]
    assert "its times are numbers of frames" in found.problems[0].reason
    fake = {f"v_{i}": clip_of(sentences=["a a", "a a"]) for i in range(3)} | {"v_x": clip_of()}
    found = import_annotations(source, dumped(tmp_path / "fake_test.json", fake))
    assert found.counts["unlabelled"] == 3 and len(found.clips) == 1
    assert "'a a'" in found.problems[0].reason
    (tmp_path / "lines.json").write_text('{"qid": 1}\n{"qid": 2}\n')
    with pytest.raises(ValueError, match="lines.json: is JSON lines; expected one JSON object"):
        import_annotations(source, tmp_path / "lines.json")


def test_a_damaged_object_is_not_called_that_of_another_source(tmp_path: Path) -> None:
    text = json.dumps({f"v_{i}": clip_of() for i in range(100)})
    name = tmp_path / "train.json"
    name.write_text(text.replace('"v_5": {', '"v_5": {"x": "y, ', 1))
    found = import_annotations("ActivityNet", name)
    assert len(found.clips) == 99 and [p.row for p in found.problems] == ["v_5"]
    name.write_text(text.replace('"v_5": {', '"v_5": {"x": }, ', 1))
    with pytest.raises(ValueError, match=r"entry 6, 'v_5': not JSON: .*was the file cut off"):
        import_annotations("ActivityNet", name)


WITHHELD = [None, "", " ", "NA", "N/A", "nan", "None", "?", -1, "hidden"]


@pytest.mark.parametrize("answer", [*WITHHELD, "missing"])
@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("STAR", "answer"),
        ("ScaleLong", "answer"),
        ("LVBench", "answer"),
        ("Video-Holmes", "Answer"),
        ("CG-Bench", "right_answer"),
        ("VRBench", "answer"),
        ("rows", "solution"),
    ],
)
def test_an_answer_kept_back_is_no_malformed_row(
    name: str, field: str, answer: Any, tmp_path: Path
) -> None:
    def withhold(value: Any) -> Any:
        if isinstance(value, list):
            return [withhold(each) for each in value]
        if not isinstance(value, dict):
            return value
        new = {key: withhold(inner) for key, inner in value.items()}
        if field in new and ("question" in str(new.keys()).casefold() or "problem" in new):
            if answer == "missing":
                del new[field]
            else:
                new[field] = answer
        return new

    file, content, lines = FORMATS[name](random.Random(5), 4)[0]
    paths = write(tmp_path, [(file, withhold(content), lines)])
    if name == "rows" and answer == "missing":  # what tells such a file is gone
        with pytest.raises(ValueError, match="is no file of rows"):
            import_annotations(name, paths)
        return
    found = import_annotations(name, paths)
    assert found.rows and found.counts["unlabelled"] == found.rows, found.problems[:1]


@pytest.mark.parametrize("answer", ["", " ", "NA", "None", "-1", "?", "unknown"])
@pytest.mark.parametrize("tagged", [False, True])
def test_an_answer_in_its_tag_is_kept_back_just_the_same(
    answer: str, tagged: bool, tmp_path: Path
) -> None:
    given = f"<answer>{answer}</answer>" if tagged else answer
    row = {"problem": "?", "options": [], "path": "a.mp4", "solution": given}
    choice = row | {"problem_type": "multiple choice", "options": ["A. x", "B. y"]}
    found = import_annotations("rows", dumped(tmp_path / "rows.json", [choice]))
    assert found.counts["unlabelled"] == found.rows == 1
    for kind in ("numerical", "free-form"):  # "None" may be the answer, and so may -1
        rows = [row | {"problem_type": kind}]
        found = import_annotations("rows", dumped(tmp_path / "rows.json", rows))
        assert found.counts["unlabelled" if not answer.strip() else "samples"] == 1


def test_pictures_are_passed_over_and_counted(tmp_path: Path) -> None:
    from videothinker.data.prepare import prepare, report_lines

    row = official(random.Random(6), 1)[0][1][0] | {"data_source": ""}
    rows = [row | {"data_type": "image", "path": "./a/b.jpg", "problem_id": i} for i in range(9)]
    path = dumped(tmp_path / "Video-R1-260k.json", [*rows, row, row | {"path": "c.png"}])
    manifest = prepare("rows", path, tmp_path / "data")
    assert manifest["passed_over"] == {"about images": 10} and manifest["left_out"] == 0
    assert "  passed over: 10 about images" in report_lines(manifest, tmp_path / "data")
    assert manifest["files"][0]["count"] == 1 and not manifest["problems"]
    with pytest.raises(ValueError, match="all 9 are about images"):
        prepare("rows", dumped(tmp_path / "pictures.json", rows), tmp_path / "none")


def test_a_row_with_video_in_place_of_path_says_so(tmp_path: Path) -> None:
    from videothinker.data.prepare import prepare

    row = official(random.Random(6), 1)[0][1][0]
    row["video"] = row.pop("path")
    with pytest.raises(ValueError) as caught:
        prepare("rows", dumped(tmp_path / "rows.json", [row] * 3), tmp_path / "data")
    said = str(caught.value)
    assert "the commonest reason (3 times): field 'path': is missing, but it has 'video'" in said


@pytest.mark.parametrize(
    "reference", ["12:30-12:30", "12:40-12:30", "00:10-99:00:00", "soon", "5-"]
)
def test_a_time_reference_that_cannot_be_used_stays_in_the_row(
    reference: str, tmp_path: Path
) -> None:
    _, (line, *_), _ = lvbench(random.Random(7), 1)[0]
    for asked in line["qa"]:
        asked["time_reference"] = reference
    line["video_info"]["duration_minutes"] = 60
    for sample in import_annotations("LVBench", dumped(tmp_path / "l.json", [line])).samples:
        assert sample.extra == {"time_reference": reference} and not sample.segments


def test_videos_that_a_downloader_has_numbered_are_found(tmp_path: Path) -> None:
    """`video2dataset` names them 00000/00000000.mp4 and notes the address beside each."""
    from videothinker.data.prepare import VideoFolder

    shard = tmp_path / "videos" / "00000"
    for i, url in enumerate(["https://www.youtube.com/watch?v=Cm73ma6Ibcs", "x", None, 5]):
        dumped(shard / f"{i:08}.json", {"url": url, "status": "success"})
        (shard / f"{i:08}.mp4").touch()
    (shard / "00000009.mp4").touch()
    (shard / "00000003.json").write_text("[")
    folder = VideoFolder(tmp_path)
    assert folder.find("videos/Cm73ma6Ibcs.mp4") == ["videos/00000/00000000.mp4"]
    assert folder.find("v_Cm73ma6Ibcs.mp4") == ["videos/00000/00000000.mp4"]
    assert folder.find("videos/abcdefghijk.mp4") == folder.find("videos/x.mp4") == []


def test_what_was_prepared_without_videos_validates(tmp_path: Path) -> None:
    from videothinker.data.prepare import prepare
    from videothinker.data.validate import find_row_files, validate

    prepare(
        "TutorialVQA", write(tmp_path / "t", tutorialvqa(random.Random(8), 6)), tmp_path / "data"
    )
    files = find_row_files(tmp_path / "data")
    report = validate(files["train"], files["eval"])
    assert not [f for f in report.findings if f.check == "captions" and f.level == "error"]
    assert {f.level for f in report.findings if f.check == "captions"} == {"note"}


def test_the_report_counts_parts_and_names_the_commonest_reason(tmp_path: Path) -> None:
    from videothinker.data.prepare import prepare, report_lines

    table = {"v_a": clip_of(timestamps=[[0, 4], [8, 3]]), "v_b": clip_of()}
    manifest = prepare("ActivityNet", dumped(tmp_path / "train.json", table), tmp_path / "data")
    report = "\n".join(report_lines(manifest, tmp_path / "data"))
    assert "2 annotated, 0 left out\n" in report
    assert "  1 part of rows or files that could not be used, each with its reason: " in report
    table = {f"v_{i}": clip_of(sentences=["x"]) for i in range(5)} | {"v_x": clip_of(duration=0)}
    with pytest.raises(ValueError, match="5 times.: 2 timestamps but 1 sentences"):
        prepare("ActivityNet", dumped(tmp_path / "bad.json", table), tmp_path / "none")


# Many rows


@pytest.mark.parametrize("name", ["STAR", "ActivityNet"])
def test_forty_thousand_rows_are_imported_in_seconds(name: str, tmp_path: Path) -> None:
    file, made, _ = FORMATS[name](random.Random(4), 500)[0]
    if name == "STAR":
        graph = {f"{i:06}": made[0]["situations"] for i in range(4)}
        rows = [
            json.dumps(row | {"situations": graph, "question_id": "Sequence_T1_@"}) for row in made
        ]
    else:
        rows = ['"v_@": ' + json.dumps(video) for video in made.values()]
    text = ",\n".join(rows[i % len(rows)].replace("_@", f"_{i}", 1) for i in range(40_000))
    (tmp_path / file).write_text(f"[{text}]" if name == "STAR" else f"{{{text}}}")
    start = time.process_time()
    found = import_annotations(name, tmp_path / file)
    assert time.process_time() - start < 60  # of this process alone; about 4 on one core
    assert len(found.samples) + len(found.clips) == found.rows == 40_000


@pytest.mark.parametrize(
    "name",
    [
        "schema",
        "data.importing",
        "data.fields",
        "data.caption_adapters",
        "data.question_adapters",
        "data.sources",
        "data.rowfiles",
        "data.mix",
        "data.dataset_card",
    ],
)
def test_these_modules_load_nothing_heavy(name: str) -> None:
    heavy = {"torch", "numpy", "av", "pyarrow", "datasets", "huggingface_hub"}
    code = f"import sys, videothinker.{name}; print(*({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not done.stdout.split()
