"""Properties of the readers of rows, paths and journals, on inputs that nobody has thought of.

VIDEOTHINKER_EXAMPLES sets how many inputs are tried for each property.
"""

from __future__ import annotations

import copy
import json
import os
import random
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from test_sources import FORMATS, all_accounted, places, write

from videothinker.data.importing import Import
from videothinker.data.prepare import VideoFolder
from videothinker.data.rowfiles import usable_rows
from videothinker.data.sources import import_annotations
from videothinker.data.validate import validate
from videothinker.files import FormatError, InputError
from videothinker.journal import Journal, read_journal
from videothinker.json_files import dumps, read_json_rows
from videothinker.paths import path_problem, path_spellings, resolve_path
from videothinker.schema import Clip, Sample, option_letters, read_captions, read_rows

EXAMPLES = int(os.environ.get("VIDEOTHINKER_EXAMPLES", "0"))
tried = settings(
    max_examples=EXAMPLES or 60,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

texts = st.text(max_size=8) | st.sampled_from(
    [
        "A",
        "b",
        "(B)",
        "<answer>A</answer>",
        "<answer>",
        "00:12",
        "NA",
        "\ud83d",
        "a\0",
        "../x",
        "v_",
    ]
)
numbers = st.integers() | st.floats() | st.sampled_from([10**400, 1e308, -0.0, True])
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
GOOD = {
    "problem": "?",
    "options": ["A. x", "B. y"],
    "solution": "<answer>B</answer>",
    "path": "a.mp4",
}
GOOD_CLIP = {"video_id": "v", "path": "a.mp4", "timestamps": [[0, 1]], "sentences": ["x"]}
SAMPLE_KEYS = [
    *"problem options solution path problem_type data_type data_source process id".split(),
    *"video_id duration segments split provenance video extra".split(),
]
CLIP_KEYS = "video_id path duration split timestamps sentences data_source context".split()


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def written(path: Path, data: str | bytes) -> Path:
    path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))
    return path


# Files of rows


@tried
@given(data=st.binary(max_size=60) | st.text('[]{}",:1aN \n\r\\ué\ufeff\u2028', max_size=40))
def test_any_bytes_are_rows_or_a_format_error(folder: Path, data: str | bytes) -> None:
    path = written(folder / "any.jsonl", data)
    try:
        rows = list(read_json_rows(path))
    except FormatError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
    else:
        assert [row.number for row in rows] == sorted({row.number for row in rows})
        json.dumps([row.value for row in rows if not row.error], allow_nan=False)
    validate([path])  # never raises
    try:
        usable_rows(path, lambda line: None)
    except InputError:
        pass


@tried
@given(
    rows=st.lists(st.dictionaries(texts, values, max_size=3), min_size=2, max_size=5),
    where=st.integers(0, 10**6),
    bad=st.binary(min_size=1, max_size=6) | st.sampled_from([b"NaN", b"1e999", b"[" * 3000, b'"']),
    as_list=st.booleans(),
    pretty=st.booleans(),
)
def test_a_bad_piece_spoils_one_row(
    folder: Path, rows: list[Any], where: int, bad: bytes, as_list: bool, pretty: bool
) -> None:
    try:
        pieces = [dumps(row, 1 if pretty and as_list else None).encode() for row in rows]
    except ValueError:
        assume(False)
    assume(b"\n" not in bad)
    which = where % len(rows)
    at = where % (len(pieces[which]) + 1)
    pieces[which] = pieces[which][:at] + bad + pieces[which][at:]
    data = b"[" + b",\n ".join(pieces) + b"]" if as_list else b"\n".join(pieces) + b"\n"
    path = written(folder / "spoiled.json", data)
    try:
        found = list(read_json_rows(path))
    except FormatError as error:
        assert as_list or which == 0, error  # lines are cut off one by one
        return
    if not as_list and which:
        assert len(found) == len(rows)
        others = [(row.value, row.error) for i, row in enumerate(found) if i != which]
        assert others == [(row, "") for i, row in enumerate(rows) if i != which]
    elif as_list and len(found) == len(rows):
        others = [row.value for i, row in enumerate(found) if i != which and not row.error]
        assert others == [row for i, row in enumerate(rows) if i != which]


@tried
@given(row=st.fixed_dictionaries({}, optional=dict.fromkeys(SAMPLE_KEYS, values)) | values)
def test_any_object_is_a_sample_or_a_format_error(folder: Path, row: Any) -> None:
    try:
        path = written(folder / "rows.jsonl", json.dumps(row) + "\n" + json.dumps(GOOD) + "\n")
    except ValueError:
        assume(False)
    errors: list[FormatError] = []
    samples = read_rows(path, errors)
    assert len(samples) + len(errors) == 2 and samples[-1].to_row() == GOOD
    for sample in samples:
        again = sample.to_row()
        assert Sample.from_row(json.loads(dumps(again))) == sample
        if sample.problem_type == "multiple choice" and sample.options:
            assert sample.answer in sample.letters
            assert len(sample.option_lines) == len(sample.options)
    validate([path])
    try:
        found = import_annotations("rows", path)
    except FormatError:
        return
    all_accounted(found)


@tried
@given(row=st.fixed_dictionaries({}, optional=dict.fromkeys(CLIP_KEYS, values)) | values)
def test_any_object_is_a_clip_or_a_format_error(folder: Path, row: Any) -> None:
    try:
        path = written(folder / "clips.jsonl", json.dumps(row) + "\n" + json.dumps(GOOD_CLIP))
    except ValueError:
        assume(False)
    errors: list[FormatError] = []
    clips = read_captions(path, errors)
    assert len(clips) + len(errors) == 2
    for clip in clips:
        assert Clip.from_row(json.loads(dumps(clip.to_row()))) == clip
    validate([path])


@tried
@given(
    texts=st.lists(st.text("ABCDabc. ():x", max_size=6), min_size=1, max_size=5),
    lettered=st.booleans(),
)
def test_no_option_loses_its_place(texts: list[str], lettered: bool) -> None:
    options = [f"{'ABCDE'[i]}. {text}" for i, text in enumerate(texts)] if lettered else texts
    letters = option_letters(options)
    assert list(letters) == [*"ABCDE"[: len(options)]]
    for text, option in zip(letters.values(), options, strict=True):
        assert option.endswith(text)
    if lettered:
        assert [text.strip() for text in letters.values()] == [text.strip() for text in texts]


# Annotation files


def mutated(content: Any, choice: random.Random, value: Any) -> tuple[Any, Any]:
    """The content with one thing in it replaced, lost, renamed or wrapped; and in which entry."""
    content = copy.deepcopy(content)
    path = choice.choice([path for path in places(content) if len(path) > 1])
    holder = content
    for key in path[:-1]:
        holder = holder[key]
    what = choice.random()
    if what < 0.15:
        del holder[path[-1]]
    elif what < 0.3 and isinstance(holder, dict):
        holder[str(value)[:9]] = holder.pop(path[-1])
    elif what < 0.4:
        holder[path[-1]] = [holder[path[-1]], value]
    else:
        holder[path[-1]] = value
    return content, path[1] if path[0] == "database" else path[0]


def by_place(imported: Import) -> dict[tuple[str, str], Any]:
    """The clips and samples by file and row."""
    samples = zip(imported.sample_places, imported.samples, strict=True)
    return dict(zip(imported.clip_places, imported.clips, strict=True)) | dict(samples)


@pytest.mark.parametrize("name", FORMATS)
@settings(tried, max_examples=(EXAMPLES or 40))
@given(seed=st.integers(0, 10**6), value=values)
def test_a_mutated_row_is_accounted_for_and_changes_no_other(
    folder: Path, name: str, seed: int, value: Any
) -> None:
    choice = random.Random(seed)
    files = FORMATS[name](random.Random(name), 3)
    before = by_place(import_annotations(name, write(folder / name, files)))
    which = choice.randrange(len(files))
    file, content, lines = files[which]
    changed, entry = mutated(content, choice, value)
    files[which] = (file, changed, lines)
    try:
        found = import_annotations(name, write(folder / name, files))
    except (FormatError, InputError) as error:
        assert "\n" not in str(error) and (len(content) < 2 or "UTF" in str(error))
        return
    all_accounted(found)
    after = by_place(found)
    rows = {f"row {entry + 1}", f"line {entry + 1}"} if isinstance(entry, int) else {entry}
    taken = {(p.file, p.row) for p in found.problems if "is there already" in p.reason}
    for place, item in before.items():
        if place[0] == file and place[1].split(",")[0] not in rows and place not in taken:
            assert after[place] == item


# Paths

parts = st.sampled_from(
    [
        *"a b.mp4 .. . é e\u0301 한 %2e%2e ..%2f C: \\ / ~ con".split(),
        "",
        " ",
        "..\\",
        "\0",
        "\ud83d",
    ]
)


@tried
@given(pieces=st.lists(parts | st.text(max_size=3), max_size=5), joint=st.sampled_from("/\\"))
def test_no_path_leaves_its_root(folder: Path, pieces: list[str], joint: str) -> None:
    root = folder / "root"
    (root / "a" / "e\u0301").mkdir(parents=True, exist_ok=True)
    (root / "a" / "b.mp4").touch()
    (folder / "b.mp4").touch()
    path = joint.join(pieces)
    index = VideoFolder(root)
    assert set(index.find(path)) <= set(index.paths)
    assert not any(path_problem(spelling) for spelling in path_spellings(path))
    try:
        found = resolve_path(Sample("?", [], "s", path=path), root)
    except FormatError as error:
        assert str(error).startswith("field 'path': ")
        return
    real = Path(os.path.realpath(root))
    assert ".." not in found.parts and found.is_relative_to(real) and found != real
    assert Path(os.path.normpath(found)).is_relative_to(real)


@tried
@given(name=st.text("aé\u0301한ガÅ\u212b\u1100\u1161", min_size=1, max_size=4))
def test_every_form_of_a_name_leads_to_its_file(folder: Path, name: str) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as inner:
        root = Path(inner)
        on_disk = unicodedata.normalize("NFD", name)
        (root / f"{on_disk}.mp4").touch()
        for form in ("NFC", "NFD"):
            path = f"{unicodedata.normalize(form, name)}.mp4"
            assert resolve_path(Sample("?", [], "s", path=path), root).exists()
            assert VideoFolder(root).find(path) == [f"{on_disk}.mp4"]


# Journals


@tried
@given(
    entries=st.lists(values, min_size=1, max_size=5),
    cut=st.integers(0, 10**6),
    header=st.none() | st.just({"a": 1, "b": "é"}),
)
def test_a_journal_cut_anywhere_keeps_its_whole_lines(
    folder: Path, entries: list[Any], cut: int, header: dict[str, Any] | None
) -> None:
    path = folder / "journal.jsonl"
    path.unlink(missing_ok=True)
    kept = []
    with Journal(path, header) as journal:
        for entry in entries:
            before = path.read_bytes()
            try:
                journal.append(entry)
            except ValueError:  # NaN, infinity, an integer of thousands of digits
                assert path.read_bytes() == before
            else:
                kept.append(json.loads(json.dumps(entry)))
        assert [json.loads(json.dumps(entry)) for entry in journal] == kept
    data = path.read_bytes()
    path.write_bytes(data[: cut % (len(data) + 1)])
    lines = read_journal(path)
    with Journal(path, header) as journal:
        assert lines[1 if header else 0 :] == journal.entries == kept[: len(journal.entries)]
        journal.append({"new": "\u2028\ud83d"})
    assert read_journal(path)[-1] == {"new": "\u2028\ud83d"}


@tried
@given(line=st.binary(min_size=1, max_size=30), place=st.integers(0, 3))
def test_a_foreign_line_in_a_journal_is_read_or_named(
    folder: Path, line: bytes, place: int
) -> None:
    assume(b"\n" not in line)
    path = folder / "foreign.jsonl"
    lines = [b'{"header": 1}', b'{"n": 1}', b'{"n": 2}']
    lines.insert(place, line)
    path.write_bytes(b"\n".join(lines) + b"\n")
    for _ in range(2):  # the lock is given up
        try:
            with Journal(path, {"header": 1}) as journal:
                assert len(journal.entries) == 3 and place
        except FormatError as error:
            assert str(error).startswith(f"{path}:{place + 1}: ")
        except InputError as error:
            assert place == 0 and "belongs to another run" in str(error)
    assert path.read_bytes().count(b"\n") == 4  # and nothing is lost
