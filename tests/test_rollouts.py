"""The browser of records: GRPO groups on their clip, a log that grows, fifty thousand records."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hosts import faults, open_notebook
from test_browser import make_clip
from test_evaluation_page import EVIL, ROWS, choose, wait_for

from videothinker.json_files import dumps
from videothinker.model.family import Prompt
from videothinker.model.generate import Completion
from videothinker.schema import Sample, Segment, write_rows
from videothinker.training.rollouts import Rollout, completion_rows, write_completions
from videothinker.video.frames import Frames
from videothinker.viewer.books import open_book
from videothinker.viewer.browser import (
    Book,
    Column,
    Desk,
    _widget_class,
    browser_page,
    page_frame,
    reply_lane,
    row_view,
    write_browser_page,
)
from videothinker.viewer.rollouts import CompletionLog, RolloutBook
from videothinker.viewer.server import BookServer

pytest_plugins = ["hosts"]
VIEWER = "[data-testid=videothinker-viewer]"
TRACES = {
    "B": "<time>00:01-00:05</time> <caption>a square moves left</caption> <think>first</think> "
    "<time>00:06-00:10</time> <caption>a disc moves up</caption> <think>last</think> "
    "so it is the disc <answer>B</answer>",
    "A": "<time>00:02-00:05</time> <caption>a square moves down</caption> <think>last</think> "
    "so it is the square <answer>A</answer>",
}


def make_row(k: int) -> Sample:
    return Sample(
        f"Question {k}: which shape moves last?",
        ["A. the square", "B. the disc"],
        "<answer>B</answer>",
        f"clip-{k % 2}.mp4",
        id=f"toy-{k}",
        problem_type="multiple choice",
        data_source="toyworld",
        duration=12.0,
        segments=[Segment(1, 5, "a square"), Segment(6, 10, "a disc")],
    )


def step_rollouts(step: int, groups: int = 3, letters: str = "ABBA", text: str = "") -> list:
    """The groups of a step as the trainer has them; in the last one all earn the same."""
    rollouts = []
    for k in range(groups):
        drawn = "BBBB" if k == groups - 1 else letters
        right = torch.tensor([float(letter == "B") for letter in drawn])
        prompt = Prompt(torch.zeros(3, dtype=torch.long), None, None, ())
        tokens = [Completion([7] * (20 + 10 * step + g), [], g != 3) for g in range(len(drawn))]
        texts = [text or TRACES[letter] for letter in drawn]
        terms = {"correct": right, "format": torch.ones(len(drawn))}
        advantages = (1.74 * (right - 0.5)) * (k < groups - 1)
        rollouts.append(Rollout(make_row(k), prompt, tokens, texts, 1.0 + right, terms, advantages))
    return rollouts


def step_rows(step: int, **more) -> list[dict]:
    return completion_rows(step_rollouts(step, **more), step)


def write_step(run: Path, step: int, videos: Path | None = None, **more) -> None:
    """Log a step by what training logs it with."""
    folder = run / "checkpoints" / "completions"
    write_completions(step_rollouts(step, **more), folder, step, videos)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for k in range(2):
        make_clip(folder / f"clip-{k}.mp4", 12, k)
    return folder


@pytest.fixture
def run(tmp_path, videos) -> Path:
    """The folder of a run whose first four steps are logged."""
    folder = tmp_path / "grpo"
    for step in range(1, 5):
        write_step(folder, step, videos)
    recipe = {"stage": "grpo", "sampling": {"fps": 1, "max_frames": 16, "size": [56, 56]}}
    train = {"log_completions": True, "num_generations": 4}
    (folder / "run.json").write_text(json.dumps({**recipe, "train": train}))
    return folder


@pytest.fixture
def served(run):
    server = BookServer(RolloutBook(run, cache_dir=None, timeout=None))
    server.start()
    yield server
    server.shutdown()
    server.server_close()


# == Without a browser ==


def test_a_run_needs_nothing_but_its_folder(run):
    book = open_book(run, cache_dir=None)
    assert isinstance(book, RolloutBook) and len(book.entries) == 12
    assert [c.name for c in book.columns if c.curve] == ["correct", "format"]
    frames = book.frames(0)
    assert frames is not None and len(frames.times) == 12  # as the run's recipe samples
    lanes = book.view(0, 1000)["view"]["lanes"]
    assert [lane["name"] for lane in lanes] == ["true", "1", "2", "3", "4"]
    assert lanes[1]["facts"] == {
        "reward": "1.000", "correct": "0.000", "format": "1.000", "advantage": "-0.870",
        "tokens": "30",
    }  # fmt: skip
    assert book.view(0, 1000)["called"] == {2: "best", 0: "worst"}


def test_a_log_of_trl_is_read_without_rows(tmp_path):
    folder = tmp_path / "completions"
    folder.mkdir()
    ours = {"id", "group", "reward", "tokens", "cut_off", "row"}
    rows = [{k: v for k, v in row.items() if k not in ours} for row in step_rows(1)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "completions_00001.parquet")
    book = RolloutBook(tmp_path, cache_dir=None)
    assert [entry["rewards"] for entry in book.entries] == [[1, 2, 2, 1]] * 2 + [[2] * 4]
    assert book.frames(0) is None and book.entries[0]["question"].startswith("Question 0")
    assert book.view(0, 1000)["view"]["guessed"]  # the axis ends with the last segment


@pytest.mark.browser
def test_many_parts_are_told_apart_and_an_unknown_length_has_no_chart(open_page, tmp_path):
    folder = tmp_path / "completions"
    folder.mkdir()
    rows = []
    for step in (1, 2):
        for row in step_rows(step):
            del row["tokens"]
            rows.append(row | {f"part {k}": k / 20 for k in range(18)})  # 20 with the two there
    pq.write_table(pa.Table.from_pylist(rows), folder / "completions_00001.parquet")
    path = write_browser_page(tmp_path / "page.html", RolloutBook(tmp_path, cache_dir=None))
    page = open_page(path)
    wait_for(page, "6 of 6")
    titles = page.locator(".vb-grid figcaption").all_text_contents()
    assert len(titles) == 3 and not any("tokens" in title for title in titles)
    said = page.locator(".vb-legend span").all_text_contents()
    assert all(", last: " in text for text in said), said  # of the curve, and not its mean
    drawn = page.locator(".vb-legend line").evaluate_all(
        "all => all.map(e => [getComputedStyle(e).stroke, getComputedStyle(e).strokeDasharray])"
    )
    assert len(drawn) == len(set(map(tuple, drawn))) == 20


def test_a_step_done_again_starts_the_book_over(run):
    book = RolloutBook(run, cache_dir=None)
    version = book.version
    write_step(run, 5)
    book.refresh()
    assert (book.version, len(book.entries)) == (version, 15)
    write_step(run, 3, groups=2)
    (run / "checkpoints" / "completions" / "completions_00005.parquet").unlink()
    book.refresh()
    assert book.version > version and [e["step"] for e in book.entries][6:8] == [3, 3]
    assert len(book.entries) == 11


def test_lines_that_are_being_written_wait(tmp_path):
    path = tmp_path / "log.jsonl"
    log = CompletionLog(path)
    assert list(log.more()) == []
    whole = [dumps(row) + "\n" for row in step_rows(1)]
    with open(path, "w") as file:
        for line in whole:
            file.write(line[:-7])
            file.flush()
            assert list(log.more()) == []
            file.write(line[-7:])
            file.flush()
            assert [len(rows) for rows in log.more()] == [1]
    assert not log.changed()


class Noise(RolloutBook):
    """Every group has another film of noise, the worst there is for a JPEG."""

    def frames(self, number: int) -> Frames:
        pixels = np.random.default_rng(number).integers(0, 255, (16, 90, 160, 3), np.uint8)
        return Frames(pixels, np.arange(16.0), 16.0)


def test_forty_views_with_pictures_stay_below_30_mb(run):
    for step in range(5, 30):
        write_step(run, step)
    page = browser_page(Noise(run, cache_dir=None), 40)
    count = page.count("data:image/jpeg")
    assert 10 < count <= 40 and len(page) < 30_000_000
    assert f"{count} of 87 groups have pictures" in page


class Many(Book):
    """Fifty thousand records with nothing behind them but a reply."""

    plural, names = "records", "id"
    status = {"mean": ("reward", "mean reward")}

    def __init__(self, count: int) -> None:
        kinds = [f"kind {k}" for k in range(12)]
        super().__init__(
            [
                Column("step", "step", type="number", range=True),
                Column("question", "question", opens=True),
                Column("rewards", "rewards", type="spark"),
                Column("reward", "mean", type="number", digits=2),
                Column("kind", "kind", facet=True),
                Column("tags", "tags", type="tags", facet=True),
                Column("id", "id", list=False),
            ]
        )
        self.entries = [
            {
                "step": n // 50,
                "question": f"Question {n % 997}?",
                "rewards": [n % 3, n % 5 / 2, 1.0],
                "reward": (n * 7919 % 1000) / 500,
                "kind": kinds[n % 12],
                "tags": kinds[n % 5 : n % 5 + 2],
                "id": str(n),
            }
            for n in range(count)
        ]

    def texts(self, number: int) -> list[str]:
        return [TRACES["B"] * 2]

    def view(self, number: int, limit: int) -> dict:
        row = make_row(number)
        return {"view": row_view(row, [reply_lane("1", TRACES["B"], row, {}, limit)], row.id, {})}


def test_records_that_do_not_fit_lose_their_replies_not_their_place(monkeypatch):
    monkeypatch.setattr("videothinker.viewer.browser.MAX_BYTES", 1_500_000)
    page = browser_page(Many(2_000))
    assert len(page) < 1_500_000 + 200_000  # the script comes on top
    told = re.search(r"The replies of ([\d,]+) of 2,000 records are on this page", page)
    assert told and 200 < int(told[1].replace(",", "")) < 2_000
    rows = re.search(r'id="vb-index">(.*?)</script>', page)
    assert rows and len(json.loads(rows[1])["rows"]) == 2_000


def test_one_page_is_the_same_twice(run):
    assert browser_page(RolloutBook(run), 2) == browser_page(RolloutBook(run), 2)


def ask(address: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(address, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_server_answers_its_page_and_nobody_else(served):
    root = served.address.removesuffix(served.token + "/")
    status, page = ask(served.address)
    assert status == 200 and "connect-src 'self'" in page and "Question" not in page
    assert served.server_address[0] == "127.0.0.1"
    refused = [root, root + "x/", f"{root}{served.token}", f"{served.address}run.json",
               f"{served.address}..%2f..%2fetc/passwd"]  # fmt: skip
    assert [ask(address)[0] for address in refused[:2] + refused[3:]] == [404] * 4
    assert ask(served.address, Host="evil.example:80")[0] == 421
    assert {ask(served.address, method)[0] for method in ("POST", "PUT", "DELETE")} == {501}
    assert ask(served.address, "HEAD") == (200, "")
    assert ask(f"{served.address}record?number=99")[0] == 400
    assert json.loads(ask(f"{served.address}record?number=x")[1])["error"]
    options = json.loads(ask(f"{served.address}find?words=B.%20THE%20DISC")[1])
    assert options == list(range(12))


def test_a_log_that_goes_while_it_is_read_is_said(served, monkeypatch):
    def gone() -> None:
        raise FileNotFoundError(2, "no such file", "completions_00001.parquet")

    monkeypatch.setattr(served.desk.book, "refresh", gone)
    status, said = ask(f"{served.address}data?since=3")
    assert status == 400 and "completions_00001.parquet" in said


def test_a_run_that_nobody_writes_is_not_live(run):
    book = RolloutBook(run, cache_dir=None)
    assert book.is_live
    for path in [run, *run.rglob("*")]:
        os.utime(path, (1e9, 1e9))
    assert not book.is_live
    write_step(run, 5)
    book.refresh()
    assert book.is_live


def test_the_command_says_its_address_and_ends_by_ctrl_c(command, run):
    started = subprocess.Popen(
        [command, "view", str(run)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        first, address = started.stdout.readline(), started.stdout.readline().strip()
        assert "12 groups, live" in first and address.startswith("http://127.0.0.1:")
        assert len(json.loads(ask(address + "data?since=0")[1])["rows"]) == 12
        started.send_signal(signal.SIGINT)
        out, said = started.communicate(timeout=60)
    finally:
        started.kill()
    assert (started.returncode, out, said) == (0, "stopped\n", "")


# == In a browser ==


@pytest.fixture
def offline(run, tmp_path) -> Path:
    book = RolloutBook(run, cache_dir=None, timeout=None)
    return write_browser_page(tmp_path / "rollouts.html", book, 4)


@pytest.mark.browser
def test_a_group_is_one_click_from_its_clip(open_page, offline):
    page = open_page(offline, viewport={"width": 1300, "height": 900})
    wait_for(page, "12 of 12 groups, mean reward 1.667")
    assert page.locator(VIEWER).count() == 0
    number = json.loads(re.search(r'id="vb-details">(.*?)</script>', offline.read_text())[1])
    pictured = next(n for n, detail in enumerate(number) if detail["clip"] >= 0)
    page.locator(".vb-row").nth(pictured).click()
    viewer = page.locator(VIEWER)
    viewer.locator('[data-segment="4 1"]').first.wait_for()
    assert viewer.locator('[data-segment="true 2"]').count()  # the annotation, and four lanes
    table = page.locator(".vb-detail table.vb-lanes tbody tr")
    assert table.count() == 4
    assert re.match(r"\d, best", page.locator(".vb-lanes th[scope=row]").nth(2).text_content())
    assert "-0.870" in page.locator(".vb-lanes").text_content()
    two = page.locator(".vb-two")
    assert two.locator("del", has_text="−square").count() or two.locator("ins").count()
    assert "1 of 2 blocks agree in time" in page.locator(".vb-difference").text_content()
    assert "only in" in two.text_content() and "B (right)" in two.text_content()
    page.locator("select[name=compare-with]").select_option(
        page.locator("select[name=compare]").input_value()
    )  # with itself nothing differs
    assert two.locator("ins, del").count() == 0
    assert page.errors == [] and page.requested == []


@pytest.mark.browser
def test_charts_and_filters_lead_to_groups(open_page, offline):
    page = open_page(offline, viewport={"width": 1300, "height": 900})
    wait_for(page, "12 of 12")
    assert page.locator(".vb-grid svg[role=img]").count() == 4
    label = page.locator(".vb-grid svg[role=img]").nth(2).get_attribute("aria-label")
    assert "from 32 to 62 over steps 1 to 4" in label
    page.locator(".vb-grid svg").first.locator(".vb-strip").nth(2).click()
    wait_for(page, "3 of 12")
    assert page.locator("input[name=step-from]").input_value() == "3"
    assert page.locator(".vb-grid svg").first.locator(".vb-chosen").count() == 1
    choose(page, "what", "the same")
    wait_for(page, "1 of 12")
    page.get_by_role("button", name="clear").click()
    wait_for(page, "12 of 12")
    page.locator("input[name=text]").fill("SO IT IS THE SQUARE")
    wait_for(page, "8 of 12")
    page.get_by_role("button", name="clear").click()
    page.locator("th[data-key=tokens] button").click()
    page.locator("th[data-key=tokens] button").click()
    assert page.locator(ROWS).first.locator("td").nth(1).text_content() == "4"
    page.locator(".vb-figures summary").click()
    page.locator(".vb-figures tbody tr").first.wait_for()  # drawn once the box is open
    assert page.locator(".vb-figures tbody tr").count() == 4
    assert page.errors == [] and page.requested == []


@pytest.mark.browser
def test_an_address_opens_its_record_in_the_open_page(open_page, offline):
    page = open_page(offline)
    wait_for(page, "12 of 12")
    for number in (7, 2):
        page.evaluate(f"location.hash = '#record-{number}'")
        page.locator(f'[data-record="{number - 1}"][aria-expanded=true]').wait_for()
    page.locator(VIEWER).wait_for()
    assert page.locator(VIEWER).count() == 1 and page.errors == []


@pytest.mark.browser
def test_the_keyboard_is_enough(open_page, offline):
    page = open_page(offline)
    wait_for(page, "12 of 12")
    page.locator(".vb-row").first.focus()
    focused = "document.activeElement.dataset.record"
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused) == "1"
    page.keyboard.press("Enter")
    page.locator(VIEWER).wait_for()
    assert page.evaluate("location.hash") == "#record-2"
    page.keyboard.press("Escape")
    assert page.locator(VIEWER).count() == 0 and page.evaluate(focused) == "1"
    page.goto(f"{offline.as_uri()}#record-7")
    page.reload()
    page.locator(VIEWER).wait_for()
    assert page.locator('[data-record="6"][aria-expanded=true]').count() == 1


@pytest.mark.browser
def test_a_page_follows_a_training_that_writes(open_page, offline, served, run, videos):
    page = open_page(offline)  # the fixture's listeners; then the served page
    page.set_default_timeout(180_000)  # the writer has to load PyTorch first
    page.goto(served.address)
    wait_for(page, "12 of 12 groups")
    assert "live" in page.locator(".vb-live").text_content()
    page.locator(".vb-row").nth(1).click()
    page.locator(VIEWER).wait_for()
    page.evaluate("document.querySelector('.vb-viewer').mark = 'the same'")
    code = (
        "import sys, pathlib, test_rollouts as t\nrun, videos = map(pathlib.Path, sys.argv[1:])\n"
    )
    code += "for step in range(5, 15): t.write_step(run, step, videos)"
    writer = subprocess.Popen([sys.executable, "-c", code, run, videos], cwd=Path(__file__).parent)
    wait_for(page, "42 of 42 groups")
    assert writer.wait(60) == 0
    assert page.evaluate("document.querySelector('.vb-viewer').mark") == "the same"
    assert page.evaluate("document.activeElement.dataset.record") == "1"
    assert "14" in page.locator(".vb-grid svg").first.locator(".vb-axis").last.text_content()
    (run / "model").mkdir()  # the end of the training
    page.locator(".vb-live:not(:has(button))").wait_for(state="attached")
    assert page.errors == []
    assert all(url.startswith(served.address) for url in page.requested)


@pytest.mark.browser
def test_a_log_whose_past_changes_is_shown_anew(open_page, offline, served, run):
    page = open_page(offline)
    page.goto(served.address)
    page.locator(".vb-row").nth(1).click()
    page.locator(VIEWER).wait_for()
    page.locator("input[name=text]").fill("question 1")
    wait_for(page, "4 of 12 groups")
    assert "A" in page.locator(".vb-lanes tbody tr").first.text_content()
    write_step(run, 1, letters="BAAA")
    page.locator(".vb-lanes tbody tr").first.locator("td", has_text=re.compile("^B$")).wait_for()
    wait_for(page, "4 of 12 groups")  # the words are still looked for
    assert page.locator("input[name=text]").input_value() == "question 1"
    assert page.errors == []


FAKE = """async () => {
    const { default: { render } } = await import(URL.createObjectURL(
        new Blob([await window.script()], { type: 'text/javascript' })));
    const heard = [];
    const model = {
        get: () => 0, set() {}, save_changes() {},
        on: (name, react) => { if (name === 'msg:custom') heard.push(react); },
        off() {},
        send: async content => {
            const reply = JSON.parse(await window.kernel(JSON.stringify(content)));
            heard.forEach(react => react(reply));
        },
    };
    window.tell = message => heard.forEach(react => react(message));
    const el = document.createElement('div');
    document.body.replaceChildren(el);
    window.end = render({ model, el });
}"""


@pytest.mark.browser
def test_the_widget_asks_its_kernel(browser, run):
    widget = _widget_class()(RolloutBook(run, cache_dir=None, timeout=None))
    page, sent = browser.new_page(), []
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    widget.send = sent.append

    def kernel(text: str) -> str:
        widget._answer(widget, json.loads(text), [])
        return json.dumps(sent.pop())

    page.expose_function("kernel", kernel)
    page.expose_function("script", lambda: str(widget._code))
    page.goto("about:blank")
    page.evaluate(FAKE)
    wait_for(page, "12 of 12 groups")
    page.locator(".vb-row").first.click()
    page.locator(VIEWER).wait_for()
    write_step(run, 5)
    assert widget.refresh() == 15
    page.evaluate("window.tell({ refresh: true })")
    wait_for(page, "15 of 15 groups")
    page.evaluate("window.end()")
    assert page.locator(".vb").count() == 0 and errors == []
    page.close()
    widget.close()


@pytest.mark.browser
def test_fifty_thousand_records_stay_fluid(open_page, tmp_path, monkeypatch):
    monkeypatch.setattr("videothinker.viewer.browser.MAX_BYTES", 6_000_000)  # few replies
    page = open_page(write_browser_page(tmp_path / "many.html", Many(50_000), 0))
    wait_for(page, "50,000 of 50,000")
    assert page.locator(ROWS).count() == 100
    choose(page, "kind", "kind 3")
    wait_for(page, "4,167 of 50,000")
    page.locator("input[name=step-from]").fill("900")
    page.locator("input[name=step-from]").press("Enter")
    wait_for(page, "416 of 50,000|417 of 50,000")
    page.locator("th[data-key=reward] button").click()
    page.locator(".vb-pager button", has_text="next").first.click()
    nodes = page.evaluate("document.querySelectorAll('*').length")
    assert nodes < 3_000 and page.locator(ROWS).count() == 100
    assert page.errors == [] and page.requested == []


@pytest.mark.browser
def test_hostile_texts_stay_texts(open_page, tmp_path):
    run = tmp_path / EVIL.replace("/", "∕")
    write_step(run, 1, text=TRACES["B"].replace("a disc", EVIL).replace("so it", EVIL))
    book = RolloutBook(run, cache_dir=None)
    for entry in book.entries:
        entry.update(question=EVIL, kind=EVIL + entry["id"], source=EVIL)
    page = open_page(write_browser_page(tmp_path / "evil.html", book))
    page.locator(".vb-row").first.click()
    page.locator(".vb-two").wait_for()
    assert page.evaluate("window.hacked") is None and page.errors == [] and page.requested == []
    assert "onerror" in page.locator(".vb-two").text_content()
    assert page.locator("img").count() == 0


@pytest.mark.browser
def test_a_curation_shows_its_attempts(open_page, tmp_path):
    rows = [make_row(k) for k in range(4)]
    write_rows(tmp_path / "rows.jsonl", rows)
    journal = [{"journal": "curation", "samples": 4}]
    for k in range(4):
        kept = k != 3
        rejected = [TRACES["A"]] * (k if kept else 4)
        reasons = ["letter: the trace answers A, the solution is B"] * len(rejected)
        journal.append(
            {
                "id": rows[k].id,
                "kept": kept,
                "attempts": len(rejected) + kept,
                "reason": "" if kept else reasons[-1],
                "history": reasons,
                "process": TRACES["B"].removesuffix(" <answer>B</answer>") if kept else None,
                "planted": [],
                "rejected": rejected,
            }
        )
    path = tmp_path / "train.jsonl.journal"
    path.write_text(dumps(journal[0]) + "\n")
    book = open_book(path, tmp_path / "rows.jsonl", follow=True)
    desk = Desk(book)
    assert desk.data()["rows"] == [] and book.is_live
    with path.open("a") as file:
        file.writelines(dumps(line) + "\n" for line in journal[1:])
    more = desk.data(0)  # what a page asks that has none yet
    assert len(more["rows"]) == 4 and more["words"]["outcome"] == ["kept", "dropped"]
    assert not book.is_live
    page = open_page(write_browser_page(tmp_path / "curation.html", book))
    wait_for(page, "4 of 4 samples, 75.0 % kept")
    choose(page, "checks", "letter")
    wait_for(page, "3 of 4 samples")
    choose(page, "outcome", "kept")
    page.locator(".vb-row").nth(1).click()
    page.locator(".vb-two").wait_for()
    names = page.locator(".vb-lanes th[scope=row]").all_text_contents()
    assert names == ["attempt 1", "attempt 2", "kept"]
    assert "the solution is B" in page.locator(".vb-lanes").text_content()
    heads = page.locator(".vb-two thead th").all_text_contents()
    assert heads == ["", "kept", "attempt 2"]
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert faults(page) == []
    assert page.errors == [] and page.requested == []


@pytest.mark.browser
@pytest.mark.parametrize(("scheme", "width"), [("light", 1300), ("dark", 320)])
def test_the_page_is_whole_and_without_faults(open_page, offline, scheme, width):
    page = open_page(offline, color_scheme=scheme, viewport={"width": width, "height": 800})
    page.locator(".vb-row").first.click()
    page.locator(".vb-two").wait_for()
    page.locator(".vb-figures summary").click()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    box = page.locator(".vb-viewer").bounding_box()
    assert box["width"] <= width  # the viewer is as wide as the page, not as the list
    for table in page.locator(".vb-wide").all():
        assert table.get_attribute("role") == "region" and table.get_attribute("aria-label")
        assert table.evaluate("e => getComputedStyle(e).backgroundAttachment") == "local, scroll"
        table.focus()
    table = page.get_by_role("region", name="the list")
    assert width > 500 or table.evaluate("e => e.scrollWidth > e.clientWidth")
    assert faults(page) == []


@pytest.mark.browser
def test_the_output_of_a_cell_saves_what_it_shows(open_page, run, tmp_path):
    frame = tmp_path / "cell.html"
    frame.write_text(page_frame(RolloutBook(run, cache_dir=None), 0))
    page = open_page(frame)
    inside = page.frame_locator("iframe")
    inside.locator(".vb-row").first.click()
    inside.get_by_text("Export", exact=True).click()
    with page.expect_download() as saved:
        inside.get_by_role("button", name="CSV", exact=True).click()
    assert "a square" in Path(saved.value.path()).read_text()


@pytest.mark.browser
def test_jupyterlab_follows_a_run_in_its_theme(browser, jupyter, run):
    cell = (
        f"from videothinker.viewer.rollouts import rollout_browser\nrollout_browser({str(run)!r})"
    )
    name = jupyter.write("rollouts.ipynb", [cell])
    lab = open_notebook(browser, jupyter, name, viewport={"width": 1400, "height": 1300})
    lab.run(0)
    wait_for(lab.page, "12 of 12 groups")
    lab.page.locator(".vb-row").first.click()
    lab.viewer.locator('[data-segment="4 1"]').first.wait_for()
    assert lab.page.locator(".vb-detail .vb-lanes tbody tr").count() == 4
    write_step(run, 5)
    wait_for(lab.page, "15 of 15 groups")  # by itself: the kernel is idle
    lab.page.locator("th[data-key=tokens] button").click()
    lab.viewer.get_by_text("Export", exact=True).click()
    with lab.page.expect_download() as saved:
        lab.viewer.get_by_role("button", name="HTML", exact=True).click()
    assert "a square moves left" in Path(saved.value.path()).read_text()
    lab.set_theme(dark=True)
    lab.page.locator(".vb.vb-dark").wait_for()
    assert faults(lab.page, ".jp-OutputArea-output") == []
    assert lab.errors == [] and lab.elsewhere == []
    lab.page.close()
