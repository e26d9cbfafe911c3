"""Rows as they are found: letters, pictures, control tokens, bad rows among good ones, names."""

from __future__ import annotations

import json
import os
import stat
import unicodedata
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from videothinker.data.row_checks import option_faults
from videothinker.data.rowfiles import load_rows, usable_rows, write_parquet
from videothinker.data.validate import validate
from videothinker.files import FormatError, InputError, atomic_write
from videothinker.json_files import read_json_rows
from videothinker.paths import resolve_path
from videothinker.schema import Clip, Sample, option_letters, read_rows

GOOD = {
    "problem": "What is it?",
    "options": ["A. a cat", "B. a dog"],
    "solution": "<answer>B</answer>",
    "path": "a.mp4",
}


def rows_file(folder: Path, rows: list[Any], name: str = "rows.jsonl") -> Path:
    """JSON lines, or one list for `.json`."""
    text = json.dumps(rows) if name.endswith(".json") else "\n".join(map(json.dumps, rows)) + "\n"
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


# Letters


@pytest.mark.parametrize(
    ("options", "answer", "text"),
    [
        (["J. Smith", "K. Brown", "L. Davis"], "A", "J. Smith"),
        (["A.M.", "P.M."], "B", "P.M."),
        (["J. Bowie", "A. Franklin", "B. Dylan"], "A", "J. Bowie"),
        (["C. S. Lewis", "J. R. R. Tolkien"], "B", "J. R. R. Tolkien"),
        (["A. Franklin", "C. Darwin", "D. Bowie"], "A", "A. Franklin"),
        (["a) cat", "b) dog"], "A", "cat"),
        (["a) cat", "b) dog"], "a", "cat"),
        (["(A) cat", "(B) dog"], "(B)", "dog"),
        (["A: cat", "B: dog"], "b.", "dog"),
        (["cat", "dog"], "B", "dog"),
    ],
)
def test_letters_count_only_where_they_are_in_order(
    options: list[str], answer: str, text: str
) -> None:
    sample = Sample.from_row(GOOD | {"options": options, "solution": f"<answer>{answer}</answer>"})
    assert sample.answer in sample.letters and sample.option_text(sample.answer) == text
    # a model is asked for a capital letter, so it is shown one, and is trained on one
    assert [line[:1] if line[0] != "(" else line[1] for line in sample.option_lines] == [
        *"ABC"[: len(options)]
    ]
    assert sample.solution == f"<answer>{sample.answer}</answer>"


@pytest.mark.parametrize(
    "options",
    [
        ["A、a cat", "B、a dog"],
        ["（A）a cat", "（B）a dog"],
        ["A．a cat", "B．a dog"],
        ["A：a cat", "B：a dog"],
        ["A. a cat", "b) a dog"],
        ["A a cat", "B a dog"],
        ["A", "B"],
    ],
)
def test_no_letter_is_shown_twice(options: list[str]) -> None:
    lines = Sample.from_row(GOOD | {"options": options}).option_lines
    assert [line.strip("（")[:1] for line in lines] == ["A", "B"]
    assert [len([c for c in line if c in "AB"]) for line in lines] == [1, 1]


def test_a_blank_makes_a_letter_only_where_all_are_in_order() -> None:
    for options in (["A cat", "A dog"], ["A cat", "B dog", "birds"], ["A cat"]):
        assert [*option_letters(options).values()] == options


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        (["B. x", "C. y", "D. z"], "B"),
        (["A. x", "C. y", "D. z"], "C"),
        (["a) x", "c) y", "d) z"], "c"),
        (["A. Franklin", "C. Darwin", "D. Bowie"], "C"),
        (["D. Bowie", "A. Franklin", "B. Dylan"], "A"),
        (["A. x", "A. y", "B. z"], "B"),
    ],
)
def test_letters_with_a_gap_are_refused_where_two_options_could_be_meant(
    options: list[str], answer: str, tmp_path: Path
) -> None:
    row = GOOD | {"options": options, "solution": f"<answer>{answer}</answer>"}
    with pytest.raises(FormatError, match="'options': .*the answer can be read in two ways"):
        Sample.from_row(row)
    report = validate([rows_file(tmp_path, [GOOD, row])])
    assert [(f.level, f.row) for f in report.findings if f.level == "error"] == [("error", 2)]
    made = Sample("?", options, row["solution"].upper().replace("ANSWER", "answer"))
    assert ("option-letters", "error") in [(f.check, f.level) for f in option_faults(made)]


def test_letters_in_another_order_are_refused_and_not_guessed() -> None:
    assert option_letters(["B. two", "A. one"]) == {"A": "B. two", "B": "A. one"}
    for options in (["B. two", "A. one"], ["b) x", "a) y"], ["(C) x", "(A) y", "(B) z"]):
        with pytest.raises(FormatError, match="'options': begin with the letters A, B, C"):
            Sample.from_row(GOOD | {"options": options, "solution": "<answer>A</answer>"})


def test_a_class_of_durations_is_kept_and_no_duration() -> None:
    row = GOOD | {"duration": "short"}
    sample = Sample.from_row(row)
    assert sample.duration is None and sample.to_row() == row
    sample.duration = 61.5
    assert sample.to_row() == row | {"duration": 61.5, "duration_class": "short"}
    with pytest.raises(FormatError, match='write 12.5, not "00:12"'):
        Sample.from_row(GOOD | {"duration": "00:12"})


# Bad rows among good ones


BAD_ROWS = {
    "NaN": '{"problem": "q", "solution": "s", "score": NaN}',
    "Infinity": '{"problem": "q", "solution": "s", "score": -Infinity}',
    "too large": '{"problem": "q", "solution": "s", "score": 1e999}',
    "huge integer": '{"problem": "q", "solution": "s", "score": ' + "9" * 5000 + "}",
    "deep": '{"problem": "q", "solution": "s", "x": ' + "[" * 9**5 + "]" * 9**5 + "}",
    "a bracket too few": '{"problem": ["q", "solution": "s"}',
    "a quote too few": '{"problem": "q, "solution": "s"}',
    "no last quote": '{"problem": "q", "solution": "s}',
    "no last bracket": '{"problem": "q", "solution": "s"',
    "many escaped quotes": '{"problem": "' + '\\"' * 50_000,
    "a key twice": '{"problem": "q", "solution": "s", "path": "a.mp4", "path": "b.mp4"}',
    "no quotes": "{problem: 'q'}",
    "not an object": "7",
    "a list": "[1, 2]",
    "bytes": '{"problem": "caf\udce9", "solution": "s"}',
}


def spoiled(kind: str) -> tuple[str, str]:
    """A list and JSON lines of twenty rows, the seventh of which is bad."""
    rows = [json.dumps(GOOD | {"id": f"q{i}"}) for i in range(20)]
    rows[6] = BAD_ROWS[kind]
    return "[" + ",\n".join(rows) + "]", "\n".join(rows)


@pytest.mark.parametrize("layout", ["rows.json", "rows.jsonl"])
@pytest.mark.parametrize("kind", BAD_ROWS)
def test_a_bad_row_costs_one_row(kind: str, layout: str, tmp_path: Path) -> None:
    path = tmp_path / layout
    text = spoiled(kind)[layout == "rows.jsonl"]
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    place = f"{path}: row 7" if layout == "rows.json" else f"{path}:7"
    errors: list[FormatError] = []
    assert len(read_rows(path, errors)) == 19 and len(errors) == 1
    assert str(errors[0]).startswith(place) and "\n" not in str(errors[0])
    with pytest.raises(FormatError, match=r"row 7|:7"):
        read_rows(path)
    said: list[str] = []
    assert len(usable_rows(path, said.append)) == 19
    assert len(said) == 1 and place in said[0] and "1 of 20 rows cannot be used" in said[0]
    findings = validate([path]).findings
    assert [(f.check, f.row) for f in findings if f.level == "error"] == [("schema", 7)]


@pytest.mark.parametrize("indent", [None, 1])
def test_a_missing_quote_costs_one_row_of_a_list_on_one_line(
    indent: int | None, tmp_path: Path
) -> None:
    rows = [GOOD | {"id": f"q{i}", "segments": [{"start": 1, "end": 2}]} for i in range(1000)]
    text = json.dumps(rows, indent=indent)
    for missing in ('"q5"', '"q998"'):
        (tmp_path / "rows.json").write_text(text.replace(missing, missing[:-1]))
        errors: list[FormatError] = []
        left = [sample.id for sample in read_rows(tmp_path / "rows.json", errors)]
        assert len(errors) == 1 and f"row {int(missing[2:-1]) + 1}: not JSON" in str(errors[0])
        assert left == [row["id"] for row in rows if f'"{row["id"]}"' != missing]
    # one that nobody can set apart from those behind it is no short list
    (tmp_path / "rows.json").write_text('[{"a": "x}, {"b": "y"}, {"c": "z"}]')
    with pytest.raises(FormatError, match="row 1: not JSON"):
        read_rows(tmp_path / "rows.json", [])


@pytest.mark.parametrize("behind", [",", " x", " // the first"])
def test_a_bad_first_line_costs_one_line(behind: str, tmp_path: Path) -> None:
    path = rows_file(tmp_path, [GOOD | {"id": f"q{i}"} for i in range(50)])
    first, rest = path.read_text().split("\n", 1)
    path.write_text(f"{first}{behind}\n{rest}")
    errors: list[FormatError] = []
    assert [row.id for row in read_rows(path, errors)] == [f"q{i}" for i in range(1, 50)]
    assert [str(error).split(" ")[0] for error in errors] == [f"{path}:1:"]


@pytest.mark.parametrize("cut", ["[{}, {", '[{"a": 1}', '[{"a": 1},', '[{"a": 1},]', "[{}]]"])
def test_a_list_that_is_cut_off_is_no_short_list(cut: str, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(cut)
    with pytest.raises(FormatError, match=r"rows.json: row \d: not JSON: .*was the file cut off"):
        read_rows(tmp_path / "rows.json", [])


def test_rows_printed_over_several_lines_are_read(tmp_path: Path) -> None:
    other = GOOD | {"problem": "Which?"}
    for text in (
        json.dumps(GOOD, indent=1),
        f"{json.dumps(GOOD, indent=4)}\n{json.dumps(other, indent=4)}\n",
        f"\ufeff{json.dumps(GOOD)}\r\n\r\n{json.dumps(other)}\r\n",
        f"{json.dumps(GOOD)}\r{json.dumps(other)}\r",
        f" [{json.dumps(GOOD)},\n\n{json.dumps(other)} ]",
    ):
        (tmp_path / "rows.json").write_bytes(text.encode())
        rows = [sample.to_row() for sample in read_rows(tmp_path / "rows.json")]
        assert rows == [GOOD, other][: len(rows)] and rows


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\x1f\x8b\x08\x00\x00", "is compressed (gzip); unpack it first"),
        (b"PK\x03\x04....", "is a ZIP archive"),
        ("[1]".encode("utf-16"), "is UTF-16 text"),
        ("[1, 2]".encode("utf-16-le"), "is UTF-16 text"),
        (b"\n<!DOCTYPE html>\n<html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a pointer of Git LFS"),
    ],
)
def test_what_is_no_text_is_called_by_its_name(data: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(data)
    with pytest.raises(FormatError) as caught:
        usable_rows(tmp_path / "rows.jsonl")
    assert says in str(caught.value) and "not UTF-8" not in str(caught.value)
    [finding] = validate([tmp_path / "rows.jsonl"]).findings
    assert finding.check == "file" and says in finding.message


# Pictures, control tokens, files of others


def test_rows_about_pictures_are_left_out_in_one_line(tmp_path: Path) -> None:
    pictures = [
        GOOD | {"data_type": "image", "path": f"{i}.jpg", "problem": f"{i}?"} for i in range(3)
    ]
    pictures += [GOOD | {"path": "b.PNG"}, GOOD | {"data_type": "image", "path": ["a.jpg"]}]
    path = rows_file(tmp_path, [*pictures, GOOD])
    said: list[str] = []
    assert [s.path for s in usable_rows(path, said.append)] == ["a.mp4"]
    assert said == [f"{path}: 5 of 6 rows are about images; they are left out"]
    for kind in ("clip", "movie", "mp4", "frames", "temporal", "text", "Video"):
        other = rows_file(tmp_path, [GOOD | {"data_type": kind}], "other.jsonl")
        assert len(usable_rows(other, said.append)) == 1 and len(said) == 1
    report = validate([path], videos=tmp_path)
    notes = [f for f in report.findings if f.check == "image"]
    assert [(f.level, f.message.split(";")[0]) for f in notes] == [
        ("note", "5 rows are about images")
    ]
    assert report.counts["train"]["images"] == 5 and report.counts["train"]["rows"] == 1
    with pytest.raises(FormatError, match="is about an image"):
        usable_rows(rows_file(tmp_path, pictures))


TOKENS = ["<|video_pad|>", "<|image_pad|>", "<|vision_start|>", "<|im_end|>", "<|im_start|>system"]


@pytest.mark.parametrize("field", ["problem", "options", "process", "solution"])
@pytest.mark.parametrize("token", TOKENS)
def test_control_tokens_cost_their_row_and_are_named(
    field: str, token: str, tmp_path: Path
) -> None:
    odd = GOOD | {field: [f"A. {token}", "B. x"] if field == "options" else f"a {token} b"}
    if field == "solution":
        odd |= {"problem_type": "free-form", "options": []}
    path = rows_file(tmp_path, [GOOD, odd, GOOD | {"problem": "What is a <video> tag?"}])
    said: list[str] = []
    assert len(usable_rows(path, said.append)) == 2
    assert len(said) == 1 and f"field '{field}'" in said[0] and token[:8] in said[0]
    found = [(f.check, f.level, f.row) for f in validate([path]).findings if f.level == "error"]
    assert found == [("control-token", "error", 2)]


def test_a_question_of_ones_own_may_not_steer_the_model() -> None:
    from videothinker.commands.models import own_question

    assert own_question(Path("a.mp4"), "What?", ["x", "y"]).options == ["A. x", "B. y"]
    for question, options, flag in (
        ("<|im_end|>", [], "--question"),
        ("?", ["<|a|>"], "--options"),
    ):
        with pytest.raises(InputError, match=f"{flag} holds the control token"):
            own_question(Path("a.mp4"), question, options)


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        (
            {"video ID": "v", "Question ID": 1, "Question": "?", "Options": {}, "Answer": "B"},
            "`videothinker prepare Video-Holmes --annotations FILE`",
        ),
        ({"key": "k", "qa": [{"uid": "1", "question": "?"}]}, "`videothinker prepare LVBench "),
        (
            {"question_id": "1", "video_id": "v", "choices": [], "start": 1, "end": 2},
            "`videothinker prepare STAR ",
        ),
        (
            {"v_abc": {"duration": 9, "timestamps": [[0, 1]], "sentences": ["x"]}},
            "a file of ActivityNet or YouCook2",
        ),
        (
            {"vid": [{"data_id": 1, "question": "?", "options": {}, "answer": "A"}]},
            "`videothinker prepare ScaleLong ",
        ),
        (
            {"video_id": "v", "path": "v.mp4", "timestamps": [[0, 1]], "sentences": ["x"]},
            "these are captions; `videothinker synthesize",
        ),
    ],
)
def test_files_of_others_lead_to_the_command_that_reads_them(
    row: dict[str, Any], hint: str, tmp_path: Path
) -> None:
    for name in ("rows.json", "rows.jsonl"):
        path = rows_file(tmp_path, [row], name)
        with pytest.raises(FormatError) as caught:
            usable_rows(path)
        assert hint in str(caught.value)
        if "captions" not in hint:
            assert hint in validate([], [path]).findings[0].message


def test_parquet_is_known_by_its_content_and_pandas_nulls_are_nulls(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    write_parquet(tmp_path / "ours.parquet", [Sample.from_row(GOOD)])
    (tmp_path / "ours.parquet").rename(tmp_path / "ours")
    assert [s.to_row() for s in load_rows(tmp_path / "ours")] == [GOOD]
    with pytest.raises(FormatError, match="is a Parquet file"):
        read_rows(tmp_path / "ours")
    table = pa.table({name: [value, value] for name, value in GOOD.items()})
    table = table.append_column("duration", pa.array([float("nan"), 4.0]))
    pa.parquet.write_table(table, tmp_path / "theirs.parquet")
    assert [s.duration for s in load_rows(tmp_path / "theirs.parquet")] == [None, 4.0]


# Names of videos


def found(path: str, root: Path) -> Path:
    return resolve_path(Sample("?", [], "s", path=path), root)


def test_links_below_the_root_are_followed(tmp_path: Path) -> None:
    """A snapshot of the Hugging Face cache, and a linked folder."""
    snapshot = tmp_path / "hub" / "snapshots" / "rev"
    (tmp_path / "hub" / "blobs").mkdir(parents=True)
    (tmp_path / "hub" / "blobs" / "aa").write_bytes(b"film")
    (snapshot / "videos").mkdir(parents=True)
    (snapshot / "videos" / "clip.mp4").symlink_to("../../../blobs/aa")
    (snapshot / "STAR").symlink_to(tmp_path / "hub" / "blobs")
    assert found("videos/clip.mp4", snapshot).read_bytes() == b"film"
    assert found("clip.mp4", snapshot / "videos").read_bytes() == b"film"
    assert found("STAR/aa", snapshot).read_bytes() == b"film"
    (tmp_path / "hub" / "secret.mp4").touch()
    for path in ("../../secret.mp4", "STAR/../../secret.mp4", "STAR\\..\\..\\secret.mp4"):
        with pytest.raises(FormatError, match="contains '..'"):
            found(path, snapshot)


@pytest.mark.parametrize("word", ["café", "한국어", "が", "Å"])
@pytest.mark.parametrize(("on_disk", "in_row"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_a_name_is_found_in_either_form(
    word: str, on_disk: str, in_row: str, tmp_path: Path
) -> None:
    from videothinker.data.prepare import VideoFolder, is_held_out
    from videothinker.data.shortcuts import source_video

    disk, row = (unicodedata.normalize(form, word) for form in (on_disk, in_row))
    (tmp_path / disk).mkdir()
    (tmp_path / disk / f"{disk}.mp4").touch()
    assert found(f"{row}/{row}.mp4", tmp_path).exists()
    index = VideoFolder(tmp_path)
    for path in (f"{row}/{row}.mp4", f"{row}.webm", f"x/{tmp_path.name}/{row}/{row}.mp4"):
        assert index.find(path) == [f"{disk}/{disk}.mp4"]
    assert is_held_out(disk) == is_held_out(row)
    videos = {source_video(Sample("?", [], "s", video_id=name)) for name in (disk, row)}
    assert len(videos) == 1
    # both forms side by side: the very name is meant, or else nobody knows which
    (tmp_path / row).mkdir()
    (tmp_path / row / f"{row}.mp4").touch()
    assert found(f"{row}/{row}.mp4", tmp_path).parent.name == row
    assert VideoFolder(tmp_path).find(f"{row}/{row}.mp4") == [f"{row}/{row}.mp4"]


def test_linked_folders_are_entered_once(tmp_path: Path) -> None:
    from videothinker.data.prepare import VideoFolder

    (tmp_path / "disk" / "charades").mkdir(parents=True)
    (tmp_path / "disk" / "charades" / "s.mp4").touch()
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "STAR").symlink_to(tmp_path / "disk" / "charades")
    (tmp_path / "disk" / "charades" / "back").symlink_to(tmp_path / "videos")
    assert VideoFolder(tmp_path / "videos").find("STAR/s.mp4") == ["STAR/s.mp4"]
    assert VideoFolder(tmp_path / "videos").find("s.mp4") == ["STAR/s.mp4"]


def test_paths_as_others_write_them(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "my clip.mp4").touch()
    for path in (
        "./sub/my clip.mp4",
        "sub\\my clip.mp4",
        "sub/my%20clip.mp4",
        " sub/my clip.mp4\n",
    ):
        assert found(path, tmp_path) == tmp_path / "sub" / "my clip.mp4", path
    (tmp_path.parent / "outside.mp4").touch()
    for path in ("%2e%2e/outside.mp4", "%2E%2E%2Foutside.mp4", "..%5coutside.mp4"):
        assert (
            not found(path, tmp_path).exists() and found(path, tmp_path).parent != tmp_path.parent
        )


@pytest.mark.parametrize("path", [".", "./", ".\\.", " . ", "..", "...", "./.."])
def test_the_root_itself_is_no_video(path: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="field 'path'"):
        found(path, tmp_path)


def test_a_row_without_path_says_which_key_has_it(tmp_path: Path) -> None:
    row = {key: value for key, value in GOOD.items() if key != "path"} | {"video": "a.mp4"}
    with pytest.raises(FormatError, match="it has 'video': 'a.mp4'; write it as 'path'"):
        resolve_path(Sample.from_row(row), tmp_path)
    with pytest.raises(FormatError, match="is empty"):
        resolve_path(Clip("v"), tmp_path)


# Files


def test_a_durable_write_waits_for_the_name_too(tmp_path: Path) -> None:
    synced: list[bool] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        real(descriptor)

    with mock.patch("os.fsync", fsync):
        atomic_write(tmp_path / "a.txt", "x")
        assert synced == [False, True]  # the file, then its folder
        atomic_write(tmp_path / "b.txt", "x", durable=False)
        assert synced == [False, True]


def test_rows_have_places(tmp_path: Path) -> None:
    path = rows_file(tmp_path, [1, 2], "rows.json")
    assert [row.where("f") for row in read_json_rows(path)] == ["f: row 1", "f: row 2"]
    path.write_text("\n1\n2")
    assert [row.where("f") for row in read_json_rows(path)] == ["f:2", "f:3"]
