"""Result files read back from any run, tables that mix nothing, and what a score is about."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videothinker.evaluation.coverage import (
    NO_RECORD,
    contamination,
    coverage,
    label_faults,
    with_and_without,
)
from videothinker.evaluation.records import READINGS, Record
from videothinker.evaluation.results import (
    FIELD_NAMES,
    read_record_table,
    read_results,
    row_hash,
    rows_of_results,
    write_record_table,
    write_results,
)
from videothinker.evaluation.run_manifest import run_manifest, start_entry, write_manifest
from videothinker.evaluation.tables import (
    ABSENT,
    Cell,
    Published,
    Row,
    Run,
    Table,
    accuracy_table,
    all_tables,
    caveat_table,
    collect_runs,
    compared_runs,
    escape_latex,
    frames_table,
    intrinsic_table,
    judge_table,
    published_figures,
    write_tables,
)
from videothinker.files import FormatError, InputError
from videothinker.json_files import read_json, write_json
from videothinker.schema import Sample

LETTERS = "ABCD"
ODD = st.text(max_size=12) | st.sampled_from(["a\u2028b", "</script>", "é", "\x00", "<answer>A"])


def make_row(k: int, **more) -> Sample:
    options = [f"{letter}. thing {letter} {k}" for letter in LETTERS]
    row = Sample(f"Question {k}?", options, f"<answer>{LETTERS[k % 4]}</answer>", f"v/{k}.mp4")
    return replace(row, data_source="Toy", **more)


ROWS = [make_row(k, id=f"toy-{k}") for k in range(6)]


@st.composite
def records(draw) -> Record:
    row = ROWS[draw(st.integers(0, len(ROWS) - 1))]
    letter = st.none() | st.sampled_from(LETTERS)
    fraction = st.floats(0, 1)
    prediction = draw(letter | st.sampled_from(["WRONG", "3.5"]))
    return Record(
        id=row.id,
        video_id=row.path,
        condition="own",
        text=draw(ODD),
        prediction=prediction,
        answer=row.answer,
        correct=prediction == row.answer,
        formatted=draw(st.booleans()),
        segments=draw(st.dictionaries(st.sampled_from(["miou", "r@0.5"]), fraction)),
        error=draw(ODD),
        cut_off=draw(st.booleans()),
        index=draw(st.integers(0, 3)),
        category=draw(st.lists(ODD, max_size=2)),
        duration=draw(st.none() | st.floats(1, 1e4)),
        times=draw(st.lists(st.floats(0, 1e4), max_size=3)),
        readings=draw(st.just({}) | st.fixed_dictionaries(dict.fromkeys(READINGS, letter))),
        rule=draw(ODD),
        official_correct=draw(st.none() | st.booleans()),
        n_tokens=draw(st.integers(0, 2000)),
        trace=draw(st.dictionaries(st.sampled_from(["blocks", "words"]), st.floats(0, 9))),
        score=draw(st.none() | fraction),
    )


def unique(several: list[Record]) -> list[Record]:
    return list({r.key: r for r in several}.values())


@settings(derandomize=True, max_examples=25, deadline=None)
@given(st.lists(records(), min_size=1, max_size=4).map(unique))
def test_our_files_read_back_as_they_were(tmp_path_factory, several):
    folder = tmp_path_factory.mktemp("results")
    words: list[str] = []
    write_results(several, ROWS, folder, "m")
    assert read_results(folder / "Results-m.json", ROWS, words.append) == several
    assert all("rows have no entry" in line for line in words)
    entries = read_json(folder / "Results-m.json")
    assert [e["Question Hash"] for e in entries] == [
        row_hash(next(row for row in ROWS if row.id == r.id)) for r in several
    ]


def test_no_field_of_a_record_is_lost():
    assert set(FIELD_NAMES) == {f.name for f in fields(Record)}


def test_files_know_nothing_of_order_within_records_or_rows(tmp_path):
    one = Record("toy-1", "v", "own", "B", "B", "B", True, False, {"miou": 0.5, "a": 1.0})
    one.readings = {"strict": "B", "reader": "B"}
    other = replace(one, segments={"a": 1.0, "miou": 0.5}, readings={"reader": "B", "strict": "B"})
    for name, record, rows in (("a", one, ROWS), ("b", other, ROWS[::-1])):
        write_results([record], rows, tmp_path / name, "m")
        write_record_table(tmp_path / name / "records.parquet", [record], rows, model="m")
    for file in ("Results-m.json", "Stats-m.json", "records.parquet"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_table_of_records_reads_back(tmp_path):
    record = Record("toy-1", "v", "no_video", "x", None, "B", False, False)
    full = replace(
        record, condition="own", readings={"strict": None, "reader": "B", "official": "A"},
        times=[0.0, 1.5], category=["a", "b"], trace={"words": 3.0}, score=0.5, duration=9.0,
    )  # fmt: skip
    write_record_table(tmp_path / "r.parquet", [record, full], ROWS, model="m", benchmark="toy")
    assert read_record_table(tmp_path / "r.parquet") == [record, full]


# == Other people's files ==


def original(row: Sample, text: str, letter: str, **more) -> dict:
    """An object as the original's script writes it."""
    return {
        "Question Index": 0,
        "Question Hash": row_hash(row),
        "Problem": row.problem,
        "Problem Type": row.problem_type,
        "Options": row.options,
        "GT": row.answer,
        "Predicted Answer": letter,
        "Full Response": text,
        "Thinking": "",
        "Correct": letter == row.answer,
        "Video Path": row.path,
        "Data Source": row.data_source,
        "Video Base Path": "/data",
        **more,
    }


def test_the_original_is_read_again_and_its_resumed_figures_are_named(tmp_path):
    entries = [
        original(ROWS[0], "<answer>A</answer>", "A"),
        original(ROWS[1], "A man is seen. The final answer is B.", "A"),  # its rule reads "A man"
        original(ROWS[2], "Both move at once.", "WRONG"),
        original(ROWS[3], "Error: API request failed", "I"),  # its rule reads "API "
    ]
    write_json(tmp_path / "Results-x.json", entries)
    figures = {"total_questions": 1, "correct_answers": 0, "accuracy": 0.0}
    write_json(tmp_path / "Stats-x.json", figures)
    words: list[str] = []
    found = read_results(tmp_path / "Results-x.json", ROWS, words.append)
    assert [r.id for r in found] == ["toy-0", "toy-1", "toy-2", "toy-3"]
    assert [r.prediction for r in found] == ["A", "B", None, None]
    assert [r.readings["official"] for r in found] == ["A", "A", None, "I"]
    assert [r.official_correct for r in found] == [True, False, False, False]
    assert [r.outcome for r in found] == ["right", "right", "unread", "failed"]
    said = "\n".join(words)
    assert "total_questions is 1 there, 4 by the rows" in said and "resumed run" in said
    assert "2 rows have no entry, first toy-4" in said


def test_rows_are_found_without_ids_and_never_guessed(tmp_path):
    moved = replace(ROWS[3], path="/mnt/films/3.mp4")  # another hash; the same file name
    twin_a = make_row(7, id="a", path="x/1.mp4")
    twin_b = replace(twin_a, id="b", path="x/2.mp4")
    elsewhere = replace(twin_a, path="y/9.mp4")
    entries = [
        original(moved, "<answer>D</answer>", "D"),
        original(replace(twin_b, path="./x/2.mp4"), "<answer>A</answer>", "A"),
        original(elsewhere, "<answer>A</answer>", "A"),  # either of two rows
    ]
    write_json(tmp_path / "Results-x.json", entries)
    words: list[str] = []
    rows = [*ROWS, twin_a, twin_b]
    found = read_results(tmp_path / "Results-x.json", rows, words.append)
    assert [r.id for r in found[:2]] == ["toy-3", "b"]
    assert found[2].id == row_hash(elsewhere)
    assert any("1 of 3 entries match none of the rows" in line for line in words)


def test_video_r1_and_json_lines_and_bad_entries(tmp_path):
    row = {"problem": "Which?", "options": {"A": "a", "B": "b"}, "solution": "<answer>B</answer>"}
    good = row | {"output": "<think>t</think><answer>B</answer>", "prediction": "B"}
    failed = row | {"problem": "Why?", "output": "<answer>error</answer>", "prediction": "error"}
    lone = row | {"problem": "When?", "prediction": "<answer>B</answer>", "correct": True}
    (tmp_path / "eval.json").write_text(json.dumps({"results": [good, failed, 7, lone]}))
    words: list[str] = []
    found = read_results(tmp_path / "eval.json", (), words.append)
    assert [r.outcome for r in found] == ["right", "failed", "right"]
    assert found[0].readings["official"] == "B"
    assert any("1 of 3 entries hold no reply" in line for line in words)
    assert any("are no objects" in line for line in words)
    text = "\n".join([json.dumps(good), '{"torn": ', json.dumps(lone)])
    (tmp_path / "lines.jsonl").write_text(text)
    assert len(read_results(tmp_path / "lines.jsonl", (), words.append)) == 2
    (tmp_path / "other.json").write_text('[{"a": 1}]')
    with pytest.raises(FormatError, match="no results of an evaluation"):
        read_results(tmp_path / "other.json")


def test_a_question_that_is_there_twice_counts_once(tmp_path):
    entries = [original(ROWS[0], "<answer>B</answer>", "B"), original(ROWS[0], "A", "A")]
    write_json(tmp_path / "Results-x.json", entries)
    words: list[str] = []
    found = read_results(tmp_path / "Results-x.json", ROWS, words.append)
    assert [r.prediction for r in found] == ["A"]
    assert any("1 of 2 entries repeat a question" in line for line in words)


# == What a score is about ==


def test_a_fifth_of_the_videos_gone_keeps_the_denominator():
    rows = [make_row(k, id=f"q{k}", video_id=f"v{k // 4}") for k in range(40)]
    gone = {"v2", "v7"}
    several = [
        Record(r.id, r.video_id, "own", "", None, r.answer, False, False,
               error="no such file" if r.video_id in gone else "")
        for r in rows
    ]  # fmt: skip
    found = coverage(several, rows)
    assert (found["n"], found["asked"], found["coverage"]) == (40, 32, 0.8)
    assert (found["videos"], found["videos_unread"]) == (10, 2)
    assert [entry["id"] for entry in found["unasked"]] == [r.id for r in rows if r.video_id in gone]
    dropped = coverage([r for r in several if not r.error], rows)  # as a harness that skips them
    assert dropped["coverage"] == 0.8 and dropped["reasons"] == {NO_RECORD: 8}


def test_contamination_by_id_by_video_and_by_question():
    rows = [make_row(k, id=f"q{k}", video_id=f"v{k}") for k in range(8)]
    training = [
        replace(rows[0], video_id="other", path="o.mp4", problem="Something else entirely?"),
        make_row(99, id="t1", video_id="v3", path="t.mp4"),
        replace(rows[5], id="t2", video_id="w", path="w.mp4", data_source="Elsewhere"),
    ]
    found = contamination(rows, training)
    assert (found.by_id, found.by_video, found.by_question) == (["q0"], ["q3"], ["q5"])
    several = [
        Record(r.id, r.video_id, "own", "", "A", "A", r.id in found.rows, False) for r in rows
    ]
    accuracy = found.report(several)["accuracy"]
    assert (accuracy["all"]["n"], accuracy["all"]["accuracy"]) == (8, 3 / 8)
    assert (accuracy["without"]["n"], accuracy["without"]["accuracy"]) == (5, 0.0)
    assert (accuracy["only"]["n"], accuracy["only"]["accuracy"]) == (3, 1.0)
    faults = label_faults(several, {"q1": "wrong", "v2": "cut", "q77": "not asked"})
    assert [row["id"] for row in faults["rows"]] == ["q1", "q2"]


def test_manifest_keeps_every_start_and_refuses_another_run(tmp_path):
    rows = {"toy": ROWS}
    protocols = {"toy/house-16": {"prompt": "{question}"}}
    path = tmp_path / "manifest.json"
    for engine in ("hf", "openai", "ray"):
        write_manifest(path, run_manifest("org/m", protocols, rows), start_entry(engine, "bf16", 8))
    written = read_json(path)
    assert [start["engine"] for start in written["starts"]] == ["hf", "openai", "ray"]
    assert written["starts"][0]["versions"]["python"]
    changed = {"toy/house-16": {"prompt": "{question} "}}  # a blank more
    with pytest.raises(InputError, match=r"protocols\.toy/house-16"):
        write_manifest(path, run_manifest("org/m", changed, rows), start_entry("hf"))
    with pytest.raises(InputError, match="belongs to another run: model"):
        write_manifest(path, run_manifest("org/n", protocols, rows), start_entry("hf"))


# == Tables ==


def scores(accuracy: float, n: int = 100) -> dict:
    return {"n": n, "accuracy": accuracy, "ci_low": accuracy - 0.1, "ci_high": accuracy + 0.1}


RUNS = [
    Run("m", "video-holmes", "house-16", {"own": scores(0.25)}, {"chance": 1 / 6}),
    Run("m", "video-holmes", "official", {"own": scores(0.75)}),
    Run("m", "video-holmes", "house-32", {"own": scores(0.35)}),
    Run("m", "mine", "house-16", {"own": scores(0.5), "no_video": scores(0.3)}),
]


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.text(max_size=20))
def test_any_text_stays_text_in_latex_and_markdown(text):
    bare = re.sub(r"\\text\w+\{\}|\$\\\w+\$|\\[{}$&#_%]", "", escape_latex(text))
    assert not set(bare) & set("\\{}$&#_%^<>") and "\n" not in bare
    table = Table("t", text, (text,), (text,), rows=[Row((text,), (Cell(text=text),), text)])
    lines = [line for line in table.markdown().splitlines() if line.startswith("|")]
    pipes = {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in lines}
    assert pipes == {3}
    assert table.latex().count(r"\begin") == 2


def test_protocols_are_never_mixed():
    paper = published_figures()
    for column in ("house-16", "house-32", "official"):
        table = accuracy_table(RUNS, column, paper)
        allowed = {str(v) for p in paper if p.column == column for v in p.values.values()}
        for row in table.rows:
            if row.section.startswith("Published"):
                assert {str(c.value) for c in row.cells if c.value is not None} <= allowed
        ours = [r for r in table.rows if r.labels == ("m",)]
        expected = {"house-16": "25.0", "house-32": "35.0", "official": "75.0"}[column]
        assert ours[0].cells[0].main == expected
    two = frames_table(RUNS, paper)
    assert "75.0" not in {c.main for row in two.rows for c in row.cells if row.labels[0] == "m"}
    thinker = [row for row in two.rows if row.labels[0] == "Video-Thinker-7B"]
    assert [row.labels[1] for row in thinker] == ["16", "32", "64"]
    assert [row.cells[0].main for row in thinker] == ["43.22", "43.39", "44.15"]


def test_a_control_that_fell_silent_has_a_row_for_what_it_was_made_to_choose():
    said = scores(0.2) | {"answered": 0.5, "coverage": 1.0}
    forced = said | {"forced_accuracy": 0.4, "forced_accuracy_ci": [0.3, 0.5]}
    for control, expected in (
        (forced, ["50.0", "20.0", "40.0"]),
        (forced | {"answered": 1.0}, ["50.0", "20.0"]),  # nothing was made to choose
        (said | {"forced_accuracy": None, "forced_accuracy_ci": [None, None]}, ["50.0", "20.0"]),
    ):
        run = Run("m", "mine", "house-16", {"own": scores(0.5), "no_video": control})
        rows = [r for r in accuracy_table([run], "house-16").rows if r.section.startswith("This")]
        assert [r.cells[-1].main for r in rows] == expected
    assert rows[1].labels == ("· without the video",)


def test_the_papers_tables_stand_in_their_layout():
    one = accuracy_table(RUNS, "house-16", published_figures())
    assert one.columns[:8] == ("VH", "CG", "VR", "AN", "ST", "SL", "YC", "LV")
    assert one.columns[8:] == ("mine",)
    assert one.groups == (("Out-of-Domain", 3), ("In-Domain", 5), ("Other", 1))
    latex = one.latex()
    assert r"\cmidrule(lr){2-4}\cmidrule(lr){5-9}" in latex
    assert latex.count(r"\midrule") == 3  # published, ours, without a model
    thinker = next(row for row in one.rows if row.labels == ("Video-Thinker-7B",))
    assert [c.main for c in thinker.cells] == [
        "43.22", "33.25", "80.69", "78.72", "70.66", "49.53", "73.66", "37.04", ABSENT,
    ]  # fmt: skip
    three = intrinsic_table([], "house-16", published_figures())
    by_model = {row.labels[0]: [c.main for c in row.cells] for row in three.rows}
    assert by_model["Video-Thinker-7B"] == [
        "48.22", "79.29", "51.49", "59.67", "15.87", "20.11", "15.34", "17.11",
    ]  # fmt: skip
    assert by_model["Video-R1-7B"] == [
        ABSENT, ABSENT, ABSENT, ABSENT, "12.72", "11.64", "7.52", "10.63",
    ]  # fmt: skip


def test_nothing_is_averaged_over_what_is_missing():
    partial = Published("3", "p", "house-16", "s", {"miou": 10.0, "r@0.3": 20.0, "meteor": 5.0})
    [row] = intrinsic_table([], "house-16", [partial]).rows
    assert row.cells[3].main == ABSENT and row.cells[7].main == ABSENT
    assert accuracy_table(RUNS[:1], "house-16").rows[0].cells[1].main == ABSENT


def test_a_folder_becomes_its_tables(tmp_path):
    for run in RUNS:
        place = tmp_path / run.model / run.benchmark / run.column
        write_json(place / "summary.json", {**run.summaries, **run.more})
    (tmp_path / "m" / "unfinished" / "house-16").mkdir(parents=True)
    found = collect_runs(tmp_path)
    assert len(found) == len(RUNS) and found[0].frames == 16
    tables = all_tables(found, published_figures())
    names = [table.name for table in tables]
    assert names[:4] == ["accuracy-house-16", "accuracy-house-32", "accuracy-official", "frames"]
    write_tables(tmp_path, tables)
    assert (tmp_path / "tables.tex").read_text().count(r"\toprule") == len(tables)
    markdown = Path(tmp_path / "tables.md").read_text()
    assert "25.0 <small>" in markdown and "guessing" in markdown


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"Question ID": 5}, "'Question ID'"),
        ({"Readings": 3}, "'Readings'"),
        ({"Video ID": None}, "'Video ID'"),
        ({"Segments": {"miou": 2}}, "'Segments'"),
        ({"Annotated Segments": [{"begin": 1}]}, "'Annotated Segments'"),
        ("bare", "'"),
    ],
)
def test_entries_like_ours_that_are_not_are_named(tmp_path, changes, names):
    record = Record("toy-0", "v0", "own", "A", "A", "A", True, False)
    write_results([record], ROWS[:1], tmp_path, "m")
    [entry] = read_json(tmp_path / "Results-m.json")
    bare = {"GT": "A", "Question ID": 5, "Readings": 3}
    write_json(tmp_path / "x.json", [entry, bare if changes == "bare" else entry | changes])
    readers = [rows_of_results] if "Annotated Segments" in changes else [read_results]
    for reader in readers:
        with pytest.raises(FormatError, match=f"x.json: entry 2: .*{names}"):
            reader(tmp_path / "x.json", log=lambda _: None)


def a_run(metric: str, benchmark: str = "mine", **more) -> Run:
    own = scores(0.5) | {"category_mean": 0.25, "miou": 0.125, "miou_ci": [0.1, 0.2]}
    return Run("m", benchmark, "house-16", {"own": own}, {"metric": metric, **more})


@pytest.mark.parametrize(
    ("metric", "shown", "note"),
    [
        ("accuracy", "50.0", ""),
        ("category mean", "25.0", "mine: mean over categories"),
        ("grounding", "12.5", "mine: mIoU"),
        ("judge", "75.0", "mine: a judge's mean score"),
    ],
)
def test_a_users_benchmark_has_its_own_headline(metric, shown, note):
    marks = {"open": {"score": 0.75, "n": 4}}
    table = accuracy_table([a_run(metric, judge=marks)], "house-16")
    assert table.rows[0].cells[0].main == shown and note in table.notes[0]
    partly = marks | {"process": {"score": None, "n": 4}}
    silent = accuracy_table([a_run(metric, judge=partly)], "house-16")
    if metric == "judge":
        assert not any(row.labels == ("m",) for row in silent.rows)


def test_guessing_is_absent_where_nothing_can_be_guessed():
    rows = accuracy_table([a_run("grounding")], "house-16").rows
    levels = {row.labels[0]: row.cells[0].main for row in rows}
    assert (levels["guessing"], levels["most frequent letter"]) == (ABSENT, ABSENT)


def test_grounding_and_judges_are_compared_by_their_own_scores(tmp_path):
    def of(model: str, metric: str, score: float) -> Run:
        run = Run(model, "mine", "house-16", {"own": {"n": 6}}, {"metric": metric})
        run.__dict__["records"] = [
            Record(f"q{k}", f"v{k}", "own", "", "A", "A", True, False,
                   segments={"miou": score}, score=score)
            for k in range(6)
        ]  # fmt: skip
        return run

    for metric in ("grounding", "judge"):
        pair = [of("a", metric, 0.25), of("b", metric, 0.75)]
        assert compared_runs(pair, "house-16", "a")["b", "mine"]["difference"] == 0.5


def test_caveats_say_what_was_looked_for(tmp_path):
    def caveats(**more) -> list[str]:
        [row] = caveat_table([a_run("accuracy", **more)]).rows
        return [cell.main for cell in row.cells]

    records = [Record(f"q{k}", f"v{k}", "own", "", "A", "A", k > 0, False) for k in range(4)]
    clean = caveats(label_faults=label_faults(records, {}))
    assert clean[2:4] == ["0", "75.0"], "looked for, and nothing found"
    every = {"why": {r.id: "seen" for r in records}}
    every["accuracy"] = with_and_without(records, [r.id for r in records])
    assert caveats(contamination=every)[4:] == ["4", "none left"]
    assert caveat_table([a_run("accuracy")]).rows == []


def test_an_untrusted_judge_is_marked_and_the_overall_score_is_a_mean():
    judge = {"model": "j", "first_reason": ""}
    failed = judge | {"score": None, "n": 9, "scored": 0, "trusted": False, "prompt": "open-1"}
    failed["failed_canaries"] = ["forged verdict"]
    process = {"score": 0.7, "n": 3, "scored": 3, "trusted": True, "model": "j", "prompt": "p-1"}
    free = process | {"score": 0.1, "n": 1, "scored": 1}
    table = judge_table(
        [a_run("accuracy", judge={"open": failed, "process": process, "process-free": free})]
    )
    cells = {row.labels[-1]: [cell.main for cell in row.cells] for row in table.rows}
    assert cells["open"] == [ABSENT, "0 of 9", "0", "NO: forged verdict"]
    assert cells["process"] == ["70.0", "3 of 3", "0", "yes"]
    assert cells["mean of accuracy and process"][0] == "52.5"  # of 50 and (3 · 70 + 10) / 4
    assert any("j by open-1" in note for note in table.notes)
    assert "judge" in [t.name for t in all_tables([a_run("accuracy", judge={"open": failed})])]
