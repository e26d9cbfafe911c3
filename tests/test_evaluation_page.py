"""The page of an evaluation's records: one file, thousands of rows, any text stays text."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hosts import faults
from test_viewer import Page

from videothinker.evaluation.records import Record, summarise
from videothinker.evaluation.results import write_results
from videothinker.evaluation.tables import (
    Cell,
    Row,
    Table,
    all_tables,
    collect_runs,
    write_tables,
)
from videothinker.journal import Journal
from videothinker.json_files import write_json
from videothinker.schema import Sample, Segment
from videothinker.video.frames import Frames
from videothinker.viewer.books import open_book
from videothinker.viewer.browser import MAX_BYTES
from videothinker.viewer.evaluation_page import (
    EvaluationBook,
    PageRun,
    evaluation_page,
    outcome,
    page_runs,
    write_evaluation_page,
)

EVIL = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"
TRACE = (
    "<time>00:01-00:05</time> <caption>a square moves</caption> <think>first</think> "
    "<time>00:06-00:10</time> <caption>a disc moves</caption> <think>last</think> "
)


def make_sample(k: int, **more) -> Sample:
    sample = Sample(
        f"Question {k}: which shape moves last?",
        ["A. the square", "B. the disc", "C. the ring"],
        "<answer>B</answer>",
        f"clips/{k // 3}.mp4",
        id=f"toy-{k}",
        duration=12.0 + 40 * (k % 5),
        segments=[Segment(1, 5, "a square"), Segment(6, 10, "a disc")],
    )
    return replace(sample, **more)


def make_record(k: int, **more) -> Record:
    """Every sixth is right, wrong, unread, cut off, refused, failed."""
    kind = k % 6
    letter = {0: "B", 1: "C"}.get(kind)
    record = Record(
        id=f"toy-{k}",
        video_id=f"clips/{k // 3}.mp4",
        condition="own",
        text=TRACE + (f"<answer>{letter}</answer>" if letter else "I wonder"),
        prediction=letter,
        answer="B",
        correct=letter == "B",
        formatted=True,
        segments={"miou": k % 10 / 10},
        cut_off=kind == 3,
        refused=kind == 4,
        error=f"clips/{k // 3}.mp4: no such file" if kind == 5 else "",
        category=[f"kind {k % 4}"],
        duration=12.0 + 40 * (k % 5),
        times=[0.0, 4.0, 8.0],
        readings={"strict": letter, "reader": letter, "official": "B" if kind == 2 else letter},
        official_correct=kind in (0, 2),
        rule="tag" if letter else "",
        n_tokens=50 + k,
    )
    return replace(record, **more)


def make_frames(record: Record, sample: Sample) -> Frames:
    pixels = np.zeros((len(record.times), 36, 64, 3), np.uint8)
    pixels[:, :, : 10 + len(record.id)] = 200
    return Frames(pixels, np.array(record.times), 12.0)


def make_runs(n: int = 240) -> list[PageRun]:
    samples = [make_sample(k) for k in range(n)]
    own = [make_record(k) for k in range(n)]
    blind = [make_record(k, condition="no_video", times=[]) for k in range(0, n, 6)]
    known = {"toy-3": {"in the training set": "the same video"}}
    return [
        PageRun([*own, *blind], samples, "toy-sft", "toyworld", "house-16", make_frames, known),
        PageRun(own[:12], samples, "toy-grpo", "toyworld", "official"),
    ]


def page_of(folder: Path, *args, **more) -> Path:
    return write_evaluation_page(folder / "report.html", *args, **more)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    table = Table("t", "Accuracy", ("model",), ("VH",))
    table.rows = [Row(("toy-sft",), (Cell(16.7, 12.5, 21.9, "*"),), "ours")]
    folder = tmp_path_factory.mktemp("page")
    return page_of(folder, make_runs(), pictures=12, tables=[table])


# == Without a browser ==


def test_page_is_one_file_that_asks_for_nothing(page_file):
    text = page_file.read_text()
    assert "default-src 'none'" in text
    assert not re.search(r"\b(?:src|href)=\"(?!data:|\")|https?:|@import|\burl\(", text)
    assert text.count("16.7*") == 1 and "[12.5, 21.9]" in text
    inert = Page(text)
    assert inert.tags.count("script") == 4  # three blocks of data, one script


def test_same_records_same_bytes(page_file, tmp_path):
    assert evaluation_page(make_runs()) == evaluation_page(make_runs())


def blocks(text: str) -> dict:
    pattern = r'<script type="application/json" id="([\w-]+)">(.*?)</script>'
    return {name: json.loads(data) for name, data in re.findall(pattern, text, re.S)}


def test_pictures_for_some_and_one_clip_once():
    runs = make_runs(30)
    data = blocks(evaluation_page(runs, pictures=8))
    clips = [detail["clip"] for detail in data["vb-details"]]
    assert [clip >= 0 for clip in clips[:6]] == [True] * 5 + [False]  # the sixth failed
    assert sum(clip >= 0 for clip in clips) == 8
    chosen = {"toy-7", "toy-9", "toy-11"}  # the last failed
    data = blocks(evaluation_page(runs, pictures=chosen))
    with_pictures = {d["view"]["title"] for d in data["vb-details"] if d["clip"] >= 0}
    assert with_pictures == {"toy-7", "toy-9"} and len(data["vb-clips"]) == 1
    [questions] = [c for c in data["vb-index"]["columns"] if c["key"] == "question"]
    assert len(questions["words"]) == 30  # a question that two runs asked stands once


def test_thousands_of_long_replies_stay_below_30_mb():
    samples = [make_sample(k) for k in range(2500)]
    wordy = "word " * 2000 + "<answer>B</answer>"
    records = [make_record(k, text=wordy) for k in range(2500)]
    page = evaluation_page([PageRun(records, samples)])
    assert len(page) < MAX_BYTES + 1_000_000 < 30_000_000
    assert re.search(r"2500 replies are cut after [24],000 characters", page)
    assert len(blocks(page)["vb-index"]["rows"]) == 2500


def test_outcomes_by_every_judge():
    kinds = [outcome(make_record(k)) for k in range(6)]
    assert kinds == ["right", "wrong", "unread", "cut off", "refused", "failed"]
    assert outcome(make_record(2), "official") == "right"
    assert outcome(make_record(2), "reader") == "unread"
    assert outcome(make_record(5, official_correct=True), "official") == "failed"


def test_an_answer_that_nobody_judged_is_no_missing_answer():
    record = make_record(1, open_ended=True, prediction="the ring", correct=False, score=None)
    assert record.outcome == "not scored"
    run = PageRun([record, make_record(2)], [make_sample(1), make_sample(2)])
    views = [EvaluationBook([run]).view(k, 1000)["view"] for k in (0, 1)]
    assert [view["lanes"][-1]["verdict"] for view in views] == ["", "no answer"]
    assert views[0]["lanes"][-1]["answer"] == "the ring"
    assert [view["meta"].get("not scored") for view in views] == ["yes", None]


@pytest.mark.parametrize("up", ["", "eval", "eval/base", "eval/base/id", "eval/base/id/own.jsonl"])
def test_the_folders_of_the_demo_are_stages_and_clips(tmp_path, up):
    records = [make_record(k) for k in range(6)]
    for clips in ("id", "ood"):
        place = tmp_path / "eval" / "base" / clips
        write_results(records, [make_sample(k) for k in range(6)], place, "base")
        with Journal(place / "own.jsonl") as journal:
            journal.append(*map(asdict, records))
        write_json(place / "summary.json", {"own": summarise(records)})
    book = open_book(tmp_path / up)
    assert book.entries[0]["model"] == "base" and book.entries[0]["benchmark"] == "id clips"
    assert book.view(0, 1000)["view"]["meta"]["protocol"] == "unnamed"
    assert "unnamed" in book.tables and ">eval<" not in book.tables


def test_a_folder_gives_the_same_files_whatever_order_replies_came_in(tmp_path):
    samples = [make_sample(k) for k in range(30)]
    records = [make_record(k) for k in range(30)]
    for name, order in (("a", records), ("b", records[::-1])):
        place = tmp_path / name / "toy" / "toyworld" / "house-16"
        write_results(records, samples, place, "toy")
        with Journal(place / "own.jsonl") as journal:
            failed = replace(order[0], error="gone", prediction=None, correct=False)
            journal.append(asdict(failed), *map(asdict, order))  # asked again: the last counts
        write_json(place / "summary.json", {"own": summarise(records)})
        runs = collect_runs(tmp_path / name)
        tables = all_tables(runs)
        write_tables(tmp_path / name, tables)
        page_of(tmp_path / name, page_runs(runs), tables=tables)
    for file in ("tables.md", "tables.tex", "report.html"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert [r.id for r in page_runs(collect_runs(tmp_path / "b"))[0].records] == [
        r.id for r in records
    ]


# == In a browser ==


def choose(page, name: str, words: str) -> None:
    """Choose a value of a filter by its name; the number in brackets changes."""
    labels = page.locator(f"select[name={name}] option").all_text_contents()
    label = next(label for label in labels if re.fullmatch(rf"{words}( \([\d,]+\))?", label))
    page.locator(f"select[name={name}]").select_option(label=label)


STATUS, ROWS = ".vb-status", ".vb-list > tbody > tr:not(.vb-detail)"


def wait_for(page, start: str) -> None:
    """Wait until the line above the list begins so (a search waits for the next key)."""
    page.locator(STATUS, has_text=re.compile(f"^{start}")).wait_for()


@pytest.mark.browser
def test_filters_search_and_sorting(open_page, page_file):
    page = open_page(page_file)
    assert page.errors == [] and page.requested == []
    status = page.locator(STATUS)
    assert status.text_content().startswith("292 of 292 records")
    assert page.locator(ROWS).count() == 100
    choose(page, "outcome", "cut off")
    assert status.text_content().startswith("42 of 292 records, 0.0 %")
    choose(page, "model", "toy-grpo")
    assert status.text_content().startswith("2 of 292")
    counts = page.locator("select[name=model] option").all_text_contents()
    assert counts == ["all", "toy-grpo (2)", "toy-sft (40)"]
    page.get_by_role("button", name="clear").click()
    choose(page, "known", "in the training set")
    assert status.text_content().startswith("1 of 292")
    page.get_by_role("button", name="clear").click()
    choose(page, "outcome", "unread")
    before = status.text_content()
    choose(page, "variant", "official")
    choose(page, "outcome", "right")
    assert status.text_content() != before and "100.0 % right" in status.text_content()
    page.get_by_role("button", name="clear").click()
    page.locator("input[name=text]").fill("QUESTION 17:")
    wait_for(page, "1 of")
    page.locator("input[name=text]").fill("i wonder")  # of the reply
    wait_for(page, "168 of")
    page.get_by_role("button", name="clear").click()
    page.locator("th[data-key=tokens] button").click()
    page.locator("th[data-key=tokens] button").click()
    assert page.locator("th[data-key=tokens]").get_attribute("aria-sort") == "descending"
    assert page.locator(ROWS).first.locator("td").nth(6).text_content() == "289"
    page.locator(".vb-pager button", has_text="next").first.click()
    assert "page 2 of 3" in page.locator(".vb-pager").first.text_content()
    assert page.errors == []


@pytest.mark.browser
def test_a_trace_is_one_click_away(open_page, page_file):
    page = open_page(page_file)
    viewer = page.locator("[data-testid=videothinker-viewer]")
    page.locator(".vb-row").nth(1).click()
    viewer.wait_for()
    assert viewer.count() == 1 and "wrong answer" in viewer.locator(".vt-head").text_content()
    assert viewer.locator("canvas.vt-picture").is_visible()
    assert viewer.locator(".vt-chosen").count() == 1
    assert viewer.locator(".vt-seg.vt-true").count() == 2
    viewer.locator('.vt-seg[data-segment="predicted 2"]').click()
    page.locator(".vb-row").nth(20).click()  # without pictures
    page.locator('[data-record="20"][aria-expanded=true]').wait_for()
    viewer.wait_for()
    assert viewer.count() == 1 and not viewer.locator("canvas.vt-picture").is_visible()
    assert "3 frames seen" in viewer.locator(".vt-head").text_content()
    choose(page, "condition", "no_video")
    page.locator(".vb-row").first.click()
    viewer.locator(".vt-head", has_text="no_video").wait_for()
    assert "0 frames seen" in viewer.locator(".vt-head").text_content()
    assert viewer.locator(".vt-seg.vt-true").count() == 0
    assert page.errors == [] and page.requested == []


@pytest.mark.browser
def test_the_keyboard_is_enough(open_page, page_file):
    page = open_page(page_file)
    page.locator(".vb-row").first.focus()
    focused = "document.activeElement.dataset.record"
    for key, record in (("ArrowDown", "1"), ("PageDown", "101"), ("ArrowUp", "100")):
        page.keyboard.press(key)
        assert page.evaluate(focused) == record
    page.keyboard.press("Enter")
    page.locator("[data-testid=videothinker-viewer]").wait_for()
    assert page.evaluate("location.hash") == "#record-101"
    page.keyboard.press("Escape")
    assert page.locator("[data-testid=videothinker-viewer]").count() == 0
    assert page.evaluate(focused) == "100"
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "101"
    page.goto(f"{page_file.as_uri()}#record-205")
    page.reload()
    assert page.locator('[data-record="204"][aria-expanded=true]').count() == 1


@pytest.mark.browser
def test_hostile_texts_stay_texts(open_page, tmp_path):
    sample = make_sample(0, id=EVIL, problem=EVIL, options=[f"A. {EVIL}", "B. b"], video_id=EVIL)
    record = make_record(0, id=EVIL, text=TRACE + EVIL, prediction=EVIL, category=[EVIL],
                         rule=EVIL, error=EVIL, condition=EVIL)  # fmt: skip
    other = replace(record, rule="b", category=["b"], condition="own", error="")
    run = PageRun([record, other], [sample], EVIL, EVIL, EVIL)
    table = Table(EVIL, EVIL, (EVIL,), (EVIL,), rows=[Row((EVIL,), (Cell(text=EVIL),), EVIL)])
    table.notes = [EVIL]
    page = open_page(page_of(tmp_path, [run], tables=[table], title=EVIL))
    page.locator(".vb-row").first.click()
    page.locator("[data-testid=videothinker-viewer]").wait_for()
    assert page.evaluate("window.hacked") is None and page.errors == [] and page.requested == []
    assert page.locator("img").count() == 0
    assert "onerror" in page.locator(".vt-question").text_content()


@pytest.mark.browser
@pytest.mark.parametrize(("scheme", "width"), [("light", 1300), ("dark", 390)])
def test_page_is_whole_and_without_faults(open_page, page_file, scheme, width):
    page = open_page(page_file, color_scheme=scheme, viewport={"width": width, "height": 800})
    page.locator(".vb-row").first.click()
    page.locator("[data-testid=videothinker-viewer]").wait_for()
    assert faults(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@pytest.mark.browser
def test_five_thousand_records_draw_a_hundred_rows(open_page, tmp_path):
    samples = [make_sample(k) for k in range(5000)]
    page = open_page(page_of(tmp_path, [PageRun([make_record(k) for k in range(5000)], samples)]))
    assert page.locator(STATUS).text_content().startswith("5,000 of 5,000")
    assert page.locator(ROWS).count() == 100
    parsed = "Object.keys(performance.getEntriesByType('resource')).length"
    assert page.evaluate(parsed) == 0
    choose(page, "outcome", "right")
    assert page.locator(STATUS).text_content().startswith("834 of 5,000 records, 100.0 % right")
    page.locator("input[name=text]").fill("question 4998:")
    wait_for(page, "1 of")
    page.locator(".vb-row").click()
    page.locator("[data-testid=videothinker-viewer]").wait_for()
    assert page.errors == []
