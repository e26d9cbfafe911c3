"""The viewer's page part alone in a browser: its two static files with data written here."""

from __future__ import annotations

import base64
import csv
import io
import itertools
import json
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from videothinker.evaluation.temporal_iou import tiou
from videothinker.trace import parse_trace
from videothinker.viewer.page import (
    JS,
    WIDGET_JS,
    script_json,
    static_text,
    trace_data,
    viewer_script,
)

pytestmark = pytest.mark.browser

EVIL = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"


def sprite(n: int, columns: int = 8, width: int = 32, height: int = 24) -> dict:
    """One JPEG of n tiles, each of one grey; picture k is of frame k."""
    from PIL import Image

    rows = -(-n // columns)
    image = Image.new("RGB", (columns * width, rows * height))
    for k in range(n):
        box = (k % columns * width, k // columns * height)
        image.paste((40 + 200 * k // n,) * 3, (*box, box[0] + width, box[1] + height))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    src = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    size = {"columns": columns, "width": width, "height": height}
    return {"src": src, **size, "pictures": list(range(n))}


def lane(name: str, segments: list, kind: str = "predicted", **more) -> dict:
    """A lane of `(start, end, caption)`; its trace says each segment."""
    rows = [{"start": s, "end": e, "caption": c} for s, e, c in segments]
    trace = []
    for i, (start, end, caption) in enumerate(segments if kind == "predicted" else []):
        trace.append({"tag": "time", "text": f"{start} - {end}", "segment": i})
        trace.append({"tag": "caption", "text": caption, "segment": i})
        trace.append({"tag": "think", "text": f"thought {i + 1}", "segment": i})
    base = {"answer": None, "verdict": "", "facts": {}, "trace": trace}
    return {"name": name, "kind": kind, "segments": rows, **base, **more}


def make_data(lanes: list | None = None, duration: float = 12.0, n: int = 12, **more) -> dict:
    """The data of a question with two annotated and two predicted segments."""
    if lanes is None:
        true = [(1.0, 5.0, "a square moves left"), (6.0, 10.0, "a disc moves up")]
        predicted = [(2.0, 5.0, "the square"), (8.0, 10.0, "the disc")]
        lanes = [
            lane("true", true, "true"),
            lane("predicted", predicted, answer="B", verdict="right"),
        ]
    data = {
        "version": 2,
        "title": "toy-001",
        "question": "Which shape moves last?",
        "options": [
            {"text": "A. the square", "letter": "A", "right": False},
            {"text": "B. the disc", "letter": "B", "right": True},
        ],
        "answer": "B",
        "duration": duration,
        "meta": {"stage": "after GRPO"},
        "frames": {
            "times": [duration * i / n for i in range(n)],
            "counts": [1] * n,
            "shape": [24, 32],
            "sprite": sprite(n) if n else None,
        },
        "video": None,
        "lanes": lanes,
        "editable": "true",
    }
    return {**data, **more}


def page_text(data: dict, before: str = "") -> str:
    """A page as `page_script` makes it, with `model` in the window."""
    run = f"""window.told = [];
window.mount = mount;
window.tiou = tiou;
window.data = {script_json(data)};
window.model = mount(document.querySelector(".vt-host"), data);
model.on("event", content => told.push(content));"""
    return f"""<!doctype html><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<body style="margin: 0">{before}<div class="vt-host"></div>
<script>{viewer_script(run)}</script>"""


@pytest.fixture
def open_viewer(open_page, tmp_path):
    def open_data(data: dict, before: str = "", **options):
        path = tmp_path / "view.html"
        path.write_text(page_text(data, before), encoding="utf-8")
        page = open_page(path, **options)
        page.wait_for_selector(".vt-axis span, .vt-axis i", state="attached")
        return page

    return open_data


def state(page, *keys: str) -> list:
    return page.evaluate("keys => keys.map(key => model.get(key))", list(keys))


def focus(page) -> None:
    page.get_by_role("slider").focus()


def test_the_script_is_small_and_whole():
    assert len(JS.encode()) < 60_000  # with the style
    assert "</script" not in JS and "<!--" not in JS
    assert "viewer.css" not in JS and "all:initial" in JS
    if node := shutil.which("node"):
        check = [node, "--input-type=module", "--check", "-"]
        subprocess.run(check, input=JS, text=True, check=True)


def test_packing_changes_no_text():
    source = static_text("viewer.js").encode("ascii", "backslashreplace").decode()
    tokens = re.findall(r"""//[^\n]*|"(?:[^"\\\n]|\\.)*"|`[^`]*`""", source)
    tokens = [re.sub(r"\n\s*", "\n", token) for token in tokens if token[0] != "/"]
    texts = [text for token in tokens for text in re.split(r"(?s)\$\{.*?\}", token)]
    assert len(texts) > 600
    assert [text for text in texts if text not in JS] == ['"viewer.css"']  # the style's place


def test_without_an_annotation_nothing_is_said_of_fits(open_viewer):
    segments = [(1.0, 5.0, "a square"), (6.0, 10.0, "a disc")]
    lanes = [lane("true", [], "true"), lane("SFT", segments), lane("GRPO", segments[:1])]
    page = open_viewer(make_data(lanes, guessed=True))
    page.locator('.vt-seg[data-segment="SFT 1"]').click()
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert "overlaps no" not in page.locator(".vt").text_content()
    assert "length not known" in page.locator(".vt-head").text_content()
    page.get_by_role("button", name="Compare").click()
    heads = page.locator(".vt-compare th").all_text_contents()
    assert heads == ["first", "second", "tIoU", "start", "end"]


def test_a_click_on_a_segment_seeks_and_a_second_one_loops(open_viewer):
    page = open_viewer(make_data())
    page.locator('.vt-seg[data-segment="predicted 2"]').click()
    assert state(page, "time", "selected", "playing") == [8.0, "predicted 2", False]
    assert page.locator(".vt-block.on .vt-caption").all_text_contents() == ["the disc"]
    assert "selected predicted 2" in page.locator(".vt-status").text_content()
    cursor = page.locator(".vt-cursor").bounding_box()
    segment = page.locator('.vt-seg[data-segment="predicted 2"]').bounding_box()
    assert abs(cursor["x"] - segment["x"]) < 3
    page.locator('.vt-seg[data-segment="predicted 2"]').click()
    assert state(page, "playing", "loop") == [True, True]
    page.evaluate("model.set('time', 9.95)")
    page.wait_for_function("model.get('time') < 9.5")  # it came round
    assert 8 <= state(page, "time")[0] < 10
    page.locator(".vt-bar").get_by_role("button", name="Pause").click()
    assert state(page, "playing") == [False]
    kinds = [content["type"] for content in page.evaluate("told")]
    assert {"seek", "select", "loop", "play", "pause"} <= set(kinds)
    assert page.errors == [] and page.requested == []


def test_time_is_said_in_words_and_milliseconds(open_viewer):
    page = open_viewer(make_data())
    slider = page.get_by_role("slider")
    page.evaluate("model.set('time', 6.5)")  # as when Python moves it
    assert slider.get_attribute("aria-valuetext") == "6.5 seconds"
    assert page.locator(".vt-clock").text_content() == "6.500 s / 12.000 s"
    assert "frame 7 of 12" in page.locator(".vt-status").text_content()
    page = open_viewer(make_data(duration=7384.0))
    page.evaluate("model.set('time', 3725.25)")
    words = page.get_by_role("slider").get_attribute("aria-valuetext")
    assert words == "1 hour 2 minutes 5.25 seconds"
    assert page.locator(".vt-clock").text_content() == "1:02:05.250 / 2:03:04.000"


def test_every_key(open_viewer):
    page = open_viewer(make_data())
    focus(page)
    press = page.keyboard.press

    def after(key: str, *keys: str):
        press(key)
        return state(page, *keys)

    assert after("ArrowRight", "time") == [1.0]
    assert after("Shift+ArrowRight", "time") == [2.0]
    assert after("ArrowLeft", "time") == [1.0]
    assert after("End", "time") == [12.0]
    assert after("ArrowLeft", "time") == [11.0]
    assert after("Home", "time") == [0.0]
    assert after("PageUp", "time") == [1.2]
    assert after("PageDown", "time") == [0.0]
    assert after("]", "time", "selected") == [2.0, "predicted 1"]
    assert after("]", "selected") == ["predicted 2"]
    assert after("[", "selected") == ["predicted 1"]
    assert after("Escape", "selected") == [""]
    assert after("l", "playing") == [True]
    press("l")
    assert page.get_by_label("speed").input_value() == "2"
    assert after("k", "playing") == [False]
    page.evaluate("model.set('time', 6)")
    press("j")
    page.wait_for_function("model.get('time') < 5.9")
    assert after("Space", "playing") == [False]
    press("]")
    assert after("Shift+L", "loop", "playing") == [True, True]
    assert after("Shift+L", "loop") == [False]
    press("k")
    press("?")
    assert page.locator(".vt-help").is_visible()
    press("Escape")
    assert not page.locator(".vt-help").is_visible()
    assert page.errors == []


def test_keys_do_nothing_without_focus_and_stay_inside_with_it(open_viewer):
    page = open_viewer(make_data(), before="<input id=other>")
    page.evaluate("window.heard = []; document.addEventListener('keydown', e => heard.push(e.key))")
    page.locator("#other").focus()
    page.keyboard.press("l")
    assert state(page, "playing") == [False]
    focus(page)
    page.keyboard.press("j")
    assert page.evaluate("heard") == ["l"]  # a notebook would move its cells


def test_edit_by_keys_undo_and_redo(open_viewer):
    page = open_viewer(make_data())

    def ranges():
        return [(s["start"], s["end"]) for s in state(page, "segments")[0]]

    page.locator('.vt-row[data-segment="true 1"]').click()
    focus(page)
    page.evaluate("model.set('time', 2.5)")
    page.keyboard.press("i")
    assert ranges() == [(2.5, 5), (6, 10)]
    page.evaluate("model.set('time', 4.25)")
    page.keyboard.press("o")
    assert ranges() == [(2.5, 4.25), (6, 10)]
    page.keyboard.press("Alt+ArrowRight")
    assert ranges()[0] == (2.6, 4.35)
    page.keyboard.press(">")
    page.keyboard.press(",")
    assert ranges()[0] == (2.5, 4.45)
    page.keyboard.press("Delete")
    assert ranges() == [(6, 10)]
    page.evaluate("model.set('time', 7)")
    page.keyboard.press("n")
    assert ranges()[1][0] == 7 and state(page, "selected") == ["true 2"]
    for _ in range(7):
        page.keyboard.press("Control+z")
    assert ranges() == [(1, 5), (6, 10)]
    page.keyboard.press("Control+Shift+z")
    assert ranges() == [(2.5, 5), (6, 10)]
    kinds = [content["type"] for content in page.evaluate("told")]
    assert {"edit", "add", "delete", "undo", "redo"} <= set(kinds)
    assert page.errors == []


def test_edit_by_pointer_and_by_typing(open_viewer):
    page = open_viewer(make_data())
    bar = page.locator('.vt-seg[data-segment="true 2"]')
    box = bar.bounding_box()
    second = box["width"] / 4
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 2, y)
    page.mouse.down()
    page.mouse.move(box["x"] + 2 + second / 2, y)
    page.mouse.move(box["x"] + 2 + second, y)
    page.mouse.up()
    segment = state(page, "segments")[0][1]
    assert segment["start"] == pytest.approx(7, abs=0.05) and segment["end"] == 10
    page.mouse.move(box["x"] + 2 * second, y)
    page.mouse.down()
    page.mouse.move(box["x"] + 3 * second, y)
    page.mouse.up()
    segment = state(page, "segments")[0][1]
    assert segment["start"] == pytest.approx(8, abs=0.1)
    assert segment["end"] - segment["start"] == pytest.approx(3, abs=0.05)
    fields = page.locator(".vt-editor input")
    fields.nth(2).fill("the disc flies")
    fields.nth(2).press("Enter")
    assert state(page, "segments")[0][1]["caption"] == "the disc flies"
    fields.nth(1).fill("11.5")
    fields.nth(1).press("Enter")
    assert state(page, "segments")[0][1]["end"] == 11.5
    predicted = page.locator('.vt-seg[data-segment="predicted 1"]').bounding_box()
    page.mouse.move(predicted["x"] + 20, predicted["y"] + 5)
    page.mouse.down()
    page.mouse.move(predicted["x"] + 60, predicted["y"] + 5)
    page.mouse.up()  # not editable: the window would move, and is the whole clip
    assert page.locator('.vt-seg[data-segment="predicted 1"]').bounding_box() == predicted
    assert page.errors == []


def test_a_click_leaves_nothing_over_the_buttons_and_no_ring(open_viewer):
    page = open_viewer(make_data(), viewport={"width": 320, "height": 900})
    bar = page.locator('.vt-seg[data-segment="predicted 2"]')
    bar.click()
    hover = page.locator(".vt-hover")
    assert not hover.is_visible()
    assert not page.locator(".vt-axis").evaluate("axis => axis.matches(':focus')")
    page.keyboard.press("ArrowRight")  # the keys are the viewer's all the same
    assert state(page, "time") == [9.0]
    box = bar.bounding_box()
    page.mouse.move(box["x"] + 3, box["y"] + 3)
    assert "predicted 2" in hover.text_content() and hover.is_visible()
    inside, board = hover.bounding_box(), page.locator(".vt-board").bounding_box()
    assert inside["y"] >= board["y"] and inside["x"] >= board["x"]
    assert inside["x"] + inside["width"] <= board["x"] + board["width"]
    assert not inside["x"] <= box["x"] + 3 <= inside["x"] + inside["width"]  # beside the pointer


def test_no_line_of_the_trace_is_cut_at_the_top(open_viewer):
    segments = [(k, k + 1, f"event {k}, " + "said at length " * (k % 4)) for k in range(11)]
    lanes = [lane("true", segments[:2], "true"), lane("predicted", segments)]
    page = open_viewer(make_data(lanes), viewport={"width": 800, "height": 900})
    cut = """() => {
        const root = document.querySelector('.vt-shell').shadowRoot;
        const top = root.querySelector('.vt-trace-body').getBoundingClientRect().top;
        const boxes = [...root.querySelectorAll('.vt-block')].map(e => e.getBoundingClientRect());
        return boxes.filter(box => box.top < top - 1 && box.bottom > top + 1).length;
    }"""
    for k in range(11):
        page.evaluate("name => model.set('selected', name)", f"predicted {k + 1}")
        page.evaluate("time => model.set('time', time)", k)
        assert page.locator(".vt-block.on").count() == 1
        assert page.evaluate(cut) == 0


def test_python_sets_segments_while_one_is_dragged(open_viewer):
    page = open_viewer(make_data())
    box = page.locator('.vt-seg[data-segment="true 2"]').bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 40, y)
    page.evaluate("model.set('segments', [{start: 0, end: 3, caption: 'new'}])")
    page.mouse.move(x + 80, y)
    page.mouse.up()
    ends = "model.get('segments').map(({ start, end, caption }) => [start, end, caption])"
    assert page.evaluate(ends) == [[0, 3, "new"]]
    page.get_by_role("button", name="Undo").click()  # the drag is no part of what was before
    assert page.evaluate(ends) == [[1, 5, "a square moves left"], [6, 10, "a disc moves up"]]
    page.evaluate("model.set('segments', [{start: 0, end: 2, caption: 'newer'}])")
    assert page.get_by_role("button", name="Redo").is_disabled()
    assert page.errors == []


def test_a_trace_follows_its_segments_through_edits_and_export(open_viewer, open_page, tmp_path):
    page = open_viewer(make_data(editable="predicted"))
    page.locator('.vt-row[data-segment="predicted 1"]').click()
    page.keyboard.press("Delete")
    download(page, "HTML", tmp_path / "edited.html")
    for opened in (page, open_page(tmp_path / "edited.html")):
        opened.locator('.vt-seg[data-segment="predicted 1"]').click()
        said = opened.locator(".vt-block.on .vt-caption").all_text_contents()
        assert said == ["the disc"]


def test_python_sets_segments_and_undo_brings_the_old_ones_back(open_viewer):
    page = open_viewer(make_data())
    page.evaluate("model.set('segments', [{start: 0, end: 3, caption: 'new'}])")
    assert page.locator('.vt-seg[data-segment^="true"]').count() == 1
    assert "new" in page.locator('.vt-row[data-segment="true 1"]').text_content()
    page.get_by_role("button", name="Undo").click()
    assert [s["start"] for s in state(page, "segments")[0]] == [1, 6]


def test_tiou_is_that_of_the_evaluation(open_viewer):
    rng = random.Random(0)
    pairs = []
    for _ in range(400):
        numbers = [rng.choice([0.0, 1.0, 2.5, rng.uniform(-2, 9)]) for _ in range(4)]
        pairs.append([numbers[:2], numbers[2:]])
    page = open_viewer(make_data())
    call = """pairs => pairs.map(([[a, b], [c, d]]) =>
        tiou({ start: a, end: b }, { start: c, end: d }))"""
    assert page.evaluate(call, pairs) == pytest.approx([tiou(a, b) for a, b in pairs], abs=1e-12)
    row = page.locator('.vt-row[data-segment="predicted 1"]').text_content()
    assert f"tIoU {tiou((2, 5), (1, 5)):.2f} with true 1" in row


def test_sixteen_rollouts_and_whose_trace_is_shown(open_viewer):
    true = [(1.0, 5.0, "first"), (6.0, 10.0, "second")]
    rollouts = [
        lane(
            str(k + 1),
            [(0.25 * k, 4 + 0.25 * k, f"by {k + 1}"), (0.5, 3 + k / 2, "again")],
            answer="AB"[k % 2],
            verdict=["wrong", "right"][k % 2],
            facts={"reward": f"{k / 8:.2f}"},
        )
        for k in range(16)
    ]
    page = open_viewer(make_data([lane("true", true, "true"), *rollouts]))
    assert page.locator(".vt-lane").count() == 17
    assert "8 of 16 right" in page.locator(".vt-head").text_content()
    page.locator(".vt-name", has_text=re.compile(r"^5\b")).click()
    assert "by 5" in page.locator(".vt-trace-body").text_content()
    assert "reward: 0.50" in page.locator(".vt-trace-body").text_content()
    page.locator('.vt-seg[data-segment="5 1"]').click()
    assert "selected rollout 5 segment 1" in page.locator(".vt-status").text_content()
    page.get_by_label("whose trace is shown").select_option("7")
    assert "by 7" in page.locator(".vt-trace-body").text_content()
    overlaps = """() => [...document.querySelector('.vt-shell').shadowRoot
        .querySelectorAll('.vt-lane')].flatMap(lane => {
            const boxes = [...lane.querySelectorAll('.vt-seg')].map(e => e.getBoundingClientRect());
            return boxes.flatMap((a, i) => boxes.slice(i + 1).filter(b => a.left < b.right - 1.5
                && b.left < a.right - 1.5 && a.top < b.bottom - 1 && b.top < a.bottom - 1));
        }).length"""
    assert page.evaluate(overlaps) == 0
    assert page.errors == []


def test_compare_says_what_differs(open_viewer):
    lanes = [
        lane("true", [(1, 5, "a"), (6, 10, "b")], "true"),
        lane("SFT", [(1, 4, "one"), (6, 9, "two"), (11, 12, "more")], answer="A"),
        lane("GRPO", [(1.5, 4.5, "one"), (6, 9, "two")], answer="B"),
    ]
    page = open_viewer(make_data(lanes))
    focus(page)
    page.keyboard.press("c")
    table = page.locator(".vt-compare")
    assert "answers A and B" in table.text_content()
    rows = table.locator("tbody tr")
    assert rows.count() == 3
    cells = rows.nth(0).locator("td").all_text_contents()
    assert cells[2:] == [f"{tiou((1, 4), (1.5, 4.5)):.2f}", "+0.5 s", "+0.5 s", "0.75 → 0.75"]
    assert "only in the first" in rows.nth(2).text_content()
    assert table.locator(".vt-differs").count() == 2
    rows.nth(2).get_by_role("button").click()
    assert state(page, "selected") == ["SFT 3"]
    page.get_by_label("second lane").select_option("true")
    assert rows.count() == 3
    page.get_by_role("button", name="Compare").click()
    assert not table.is_visible()


def download(page, kind: str, path: Path) -> str:
    page.locator(".vt-menu summary").click()
    with page.expect_download() as waiting:
        page.locator(".vt-menu").get_by_role("button", name=kind).click()
    waiting.value.save_as(path)
    return path.read_text(encoding="utf-8")


def test_exports_and_the_page_opens_again(open_viewer, open_page, tmp_path):
    data = make_data(title=EVIL)
    data["lanes"][1]["segments"][0]["caption"] = '=1+1, "quoted" --> <b>'
    page = open_viewer(data)
    page.locator('.vt-row[data-segment="true 1"]').click()
    focus(page)
    page.evaluate("model.set('time', 2)")
    page.keyboard.press("i")
    read = json.loads(download(page, "JSON", tmp_path / "x.json"))
    assert read["lanes"][0]["segments"][0] == {
        "start": 2,
        "end": 5,
        "caption": "a square moves left",
    }
    assert read["options"] == ["A. the square", "B. the disc"]
    text = download(page, "CSV", tmp_path / "x.csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert list(rows[0]) == ["lane", "kind", "number", "start", "end", "caption"] and len(rows) == 4
    assert rows[2]["caption"] == '=1+1, "quoted" --> <b>' and rows[0]["start"] == "2"
    vtt = download(page, "WebVTT", tmp_path / "x.vtt")
    assert vtt.startswith("WEBVTT\n\n") and vtt.count(" --> ") == 4
    assert "00:00:02.000 --> 00:00:05.000" in vtt and "--&gt; &lt;b&gt;" in vtt
    html = download(page, "HTML", tmp_path / "first.html")
    assert "default-src 'none'" in html
    again = open_page(tmp_path / "first.html")
    again.locator('.vt-seg[data-segment="true 1"]').click()
    assert "selected true 1" in again.locator(".vt-status").text_content()
    assert again.locator(".vt-clock").text_content().startswith("2.000 s")
    assert again.evaluate("window.hacked") is None
    second = download(again, "HTML", tmp_path / "second.html")
    nonce = r"nonce(=\"|-)[0-9a-f]+"
    assert re.sub(nonce, "", second) == re.sub(nonce, "", html)
    assert page.errors == [] and again.errors == [] and again.requested == []


def test_zoom_and_pan(open_viewer):
    page = open_viewer(make_data())
    bar = page.locator('.vt-seg[data-segment="true 1"]')
    width = bar.bounding_box()["width"]
    axis = page.locator(".vt-axis").bounding_box()
    page.mouse.move(axis["x"] + axis["width"] / 4, axis["y"] + 5)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -60)
    page.keyboard.up("Control")
    page.wait_for_function(
        """width => document.querySelector('.vt-shell').shadowRoot
        .querySelector('[data-segment="true 1"].vt-seg').offsetWidth > 1.5 * width""",
        arg=width,
    )
    focus(page)
    page.keyboard.press("0")
    assert bar.bounding_box()["width"] == pytest.approx(width, abs=1)
    page.keyboard.press("+")
    page.keyboard.press("+")
    assert page.locator('.vt-seg[data-segment="true 2"]').count() == 0  # outside the window
    page.keyboard.press("End")  # the window follows
    assert page.locator(".vt-cursor").is_visible()
    before = page.locator(".vt-axis span").all_text_contents()
    lane_box = page.locator(".vt-lane").nth(1).bounding_box()
    page.mouse.move(lane_box["x"] + 100, lane_box["y"] + 5)
    page.mouse.down()
    page.mouse.move(lane_box["x"] + 300, lane_box["y"] + 5)
    page.mouse.up()
    assert page.locator(".vt-axis span").all_text_contents() != before
    assert page.errors == []


# Red and opacity of each column of the strip, ten pixels below its top.
STRIP = """() => {
    const canvas = document.querySelector('.vt-shell').shadowRoot.querySelector('.vt-strip');
    const { width } = canvas;
    const { data } = canvas.getContext('2d').getImageData(0, 10, width, 1);
    return [...Array(width).keys()].map(x => [data[4 * x], data[4 * x + 3]]);
}"""


def strip_frames(page, n: int) -> list[int]:
    """The frame that each column of the strip shows, of n that differ in their grey."""
    page.wait_for_function(f"({STRIP})().every(([, opacity]) => opacity > 0)")
    columns = page.evaluate(STRIP)
    assert {opacity for _, opacity in columns} == {255}, "a column is empty or pale"
    return [min(range(n), key=lambda k: abs(40 + 200 * k // n - grey)) for grey, _ in columns]


def test_the_strip_is_even_when_zoomed_out_and_true_to_time_when_zoomed_in(open_viewer):
    n = 30
    page = open_viewer(make_data(n=n))
    shown = strip_frames(page, n)
    tiles = [(k, len(list(run))) for k, run in itertools.groupby(shown)]
    lengths = [length for _, length in tiles]
    assert len(tiles) > 8 and max(lengths) - min(lengths) <= 1
    starts = itertools.accumulate(lengths, initial=0)
    for (k, length), start in zip(tiles, starts, strict=False):
        middle = (start + length / 2) / len(shown) * n  # in frames
        assert -0.1 < middle - k < 1.1
    focus(page)
    for _ in range(3):
        page.keyboard.press("+")
    shown = strip_frames(page, n)
    for x, k in enumerate(shown):  # each frame from its own time on
        at = (x + 0.5) / len(shown) * n / 8
        assert k == int(at) or abs(at - round(at)) < 0.02


def test_segments_that_reach_out_of_what_was_seen_are_flagged(open_viewer):
    ranges = [(1.2, 1.8), (-5, -2), (-1, 3), (13, 15), (11, 14), (5, 4)]
    page = open_viewer(make_data([lane("true", [(*ends, "x") for ends in ranges], "true")]))
    rows = page.locator(".vt-row").all_text_contents()
    words = ["no sampled frame inside", "lies before the start", "clipped at the start"]
    words += ["lies after the end", "clipped at the end", "ends before it starts"]
    assert [word in row for word, row in zip(words, rows, strict=True)] == [True] * 6
    # whatever a key does to one, it is then a range of the clip
    for name in range(1, 7):
        page.evaluate("name => model.set('selected', name)", f"true {name}")
        focus(page)
        for key in (",", "<", ">", ".", "Alt+ArrowLeft"):
            page.keyboard.press(key)
            edited = state(page, "segments")[0][name - 1]
            assert 0 <= edited["start"] < edited["end"] <= 12, (name, key)
            page.keyboard.press("Control+z")
    assert page.errors == []


@pytest.mark.parametrize("width", [240, 320, 800])
def test_no_width_scrolls_sideways(open_viewer, width):
    data = make_data(title="t" * 300, question="q" * 500)
    data["lanes"][1]["segments"][0]["caption"] = "c" * 900
    page = open_viewer(data, viewport={"width": width, "height": 700})
    for key in ("c", "?", "]"):
        focus(page)
        page.keyboard.press(key)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.locator(".vt-menu summary").click()
    menu = page.locator(".vt-menu-list").bounding_box()
    assert menu["x"] >= 0 and menu["x"] + menu["width"] <= width
    inner = """() => { const root = document.querySelector('.vt-shell').shadowRoot;
        const main = root.querySelector('.vt');
        return main.scrollWidth <= main.clientWidth; }"""
    assert page.evaluate(inner)


def test_hostile_texts_stay_texts(open_viewer):
    odd = "\u202eevil\u202c \u200b\ufeff\x00\x1b[31m " + EVIL
    lanes = [
        lane("true", [(1, 5, odd)], "true"),
        lane(odd, [(2, 6, odd), (3, 4, "w" * 1_000_000)], answer=odd, facts={odd: odd}),
    ]
    video = {"src": "javascript:window.hacked = 3", "start": 0}
    data = make_data(lanes, title=odd, question=odd, meta={odd: odd}, video=video)
    data["frames"]["sprite"]["src"] = "javascript:window.hacked = 4"
    data["lanes"][1]["trace"].append({"tag": "", "text": "x" * 1_000_000, "segment": -1})
    page = open_viewer(data)
    page.keyboard.press("]")
    page.locator(".vt-row").first.click()
    text = page.locator(".vt-question").text_content()
    assert "[U+202E]evil[U+202C]" in text and "onerror" in text
    assert page.locator(".vt").evaluate("e => e.textContent.length") < 60_000
    page.locator(".vt-trace-body .vt-more").first.click()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.evaluate("window.hacked") is None
    assert page.errors == [] and page.requested == []


def test_a_video_that_does_not_play_gives_way_to_the_frames(open_viewer):
    src = "data:video/mp4;base64," + base64.b64encode(b"no video at all").decode()
    page = open_viewer(make_data(video={"src": src, "start": 0}))
    page.wait_for_selector(".vt-soft:has-text('the frames stand in')")
    page.locator(".vt-bar").get_by_role("button", name="Play").click()
    page.wait_for_function("model.get('time') > 0.2")
    assert page.locator(".vt-picture").is_visible()


def test_a_video_beside_the_page_is_not_in_the_exported_one(open_viewer, tmp_path):
    page = open_viewer(make_data(video={"src": "clip.mp4", "start": 0}))
    html = download(page, "HTML", tmp_path / "x.html")
    assert '"video":null' in html
    assert "no video" in page.locator(".vt-status").text_content()


def small_video(path: Path) -> str:
    """A VP8 clip of four seconds as a data URI."""
    import av
    import numpy as np

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for k in range(40):
            pixels = np.full((48, 64, 3), 6 * k, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return "data:video/webm;base64," + base64.b64encode(path.read_bytes()).decode()


def test_the_playhead_and_a_video_move_together(open_viewer, open_page, tmp_path):
    video = {"src": small_video(tmp_path / "clip.webm"), "start": 1.0, "type": "video/webm"}
    lanes = [lane("true", [(0.5, 1.5, "first"), (2, 2.5, "second")], "true")]
    page = open_viewer(make_data(lanes, duration=3.0, n=6, video=video))
    at = "() => document.querySelector('.vt-shell').shadowRoot.querySelector('video').currentTime"
    page.wait_for_function(f"({at})() === 1")  # the clip begins a second after the file
    focus(page)
    page.keyboard.press("]")
    assert page.evaluate(at) == 1.5
    page.keyboard.press("Space")
    page.wait_for_function("model.get('time') > 0.7")
    page.keyboard.press("Space")
    assert page.evaluate(at) == pytest.approx(1 + state(page, "time")[0], abs=0.15)
    page.evaluate("model.set('time', 2.25)")  # as when Python moves it
    assert page.evaluate(at) == 3.25
    page.keyboard.press("j")
    page.wait_for_function("model.get('time') < 2.1")
    page.keyboard.press("k")
    download(page, "HTML", tmp_path / "again.html")
    again = open_page(tmp_path / "again.html")
    again.wait_for_function(f"({at})() === 1")
    assert page.errors == [] and again.errors == []


WIDGET = """async source => {
    const file = new Blob([source.esm], { type: 'text/javascript' });
    const module = await import(URL.createObjectURL(file));
    window.made = 0;
    const create = URL.createObjectURL, revoke = URL.revokeObjectURL;
    URL.createObjectURL = blob => { made++; return create.call(URL, blob); };
    URL.revokeObjectURL = url => { if (url) made--; revoke.call(URL, url); };
    window.start = () => {
        const bytes = new DataView(new Uint8Array([1, 2, 3]).buffer);
        const state = { data: source.data, time: 0, selected: '', playing: true, loop: false,
            segments: source.data.lanes[0].segments, video_bytes: bytes, _code: source.esm };
        const listeners = {};
        const model = { state, saved: 0, sent: [], listeners,
            get: k => state[k], save_changes() { this.saved++; },
            send(content) { this.sent.push(content); },
            set(k, v) { state[k] = v; (listeners['change:' + k] || []).forEach(f => f()); },
            on: (name, f) => (listeners[name] = listeners[name] || []).push(f),
            off: (name, f) => { listeners[name] = listeners[name].filter(g => g !== f); } };
        const el = document.body.appendChild(document.createElement('div'));
        return [model, module.default.render({ model, el }), el];
    };
    window.again = model => module.default.render({ model: { ...model }, // as anywidget does it
        el: document.body.appendChild(document.createElement('div')) });
}"""


def test_a_widget_run_fifty_times_leaves_nothing(open_page, tmp_path):
    (tmp_path / "empty.html").write_text("<!doctype html><title>empty</title>", encoding="utf-8")
    page = open_page(tmp_path / "empty.html")
    page.evaluate(WIDGET, {"esm": JS, "data": make_data()})
    left = page.evaluate("""async () => {
        const wait = () => new Promise(requestAnimationFrame);
        let listening = 0;
        for (let i = 0; i < 50; i++) {
            const [model, clean, el] = start();
            if (i % 10 === 0) await wait();
            clean();
            listening += Object.values(model.listeners).flat().length + el.childNodes.length;
            el.remove();
            window.last = model;
        }
        const [saved, time] = [last.saved, last.state.time];
        for (let i = 0; i < 5; i++) await wait();
        return [listening, made, last.saved - saved, last.state.time - time,
            document.body.childElementCount];
    }""")
    assert left == [0, 0, 0, 0, 0]


def test_two_drawings_of_one_widget_play_at_one_speed(open_page, tmp_path):
    (tmp_path / "empty.html").write_text("<!doctype html><title>empty</title>", encoding="utf-8")
    page = open_page(tmp_path / "empty.html")
    page.evaluate(WIDGET, {"esm": JS, "data": make_data()})
    page.evaluate("""() => {
        [window.model] = start();
        again(model);
        window.end = again(model);
        window.began = performance.now();
    }""")
    page.wait_for_function("model.state.time > 0.5")
    rate = "1000 * model.state.time / (performance.now() - began)"
    assert page.evaluate(rate) < 1.4
    page.locator(".vt-bar").nth(1).get_by_role("button", name="Pause").click()
    page.locator(".vt-bar").nth(2).get_by_role("button", name="Play").click()
    page.evaluate("[model.state.time, window.began] = [0, performance.now()]")
    page.wait_for_function("model.state.time > 0.5")
    assert page.evaluate(rate) < 1.4
    page.evaluate("end()")  # of those that are left one goes on
    page.evaluate("model.state.time = 0")
    page.wait_for_function("model.state.time > 0.2")
    page.locator(".vt-bar").nth(0).get_by_role("button", name="Pause").click()
    page.evaluate("model.set('segments', model.state.segments.map(one => ({ ...one })))")
    assert page.get_by_role("button", name="Undo").first.is_disabled()  # nothing is new
    page.evaluate("model.set('time', 0)")
    page.keyboard.press("j")  # nothing is before the clip
    page.wait_for_function("!model.state.playing")
    assert page.evaluate("model.state.time") == 0


def test_a_widget_reports_back(open_page, tmp_path):
    (tmp_path / "empty.html").write_text("<!doctype html><title>empty</title>", encoding="utf-8")
    page = open_page(tmp_path / "empty.html")
    page.evaluate(WIDGET, {"esm": JS, "data": make_data()})
    page.evaluate("[window.model] = start()")
    page.locator('.vt-seg[data-segment="true 2"]').click()
    page.wait_for_function("model.sent.some(content => content.selected === 'true 2')")
    assert page.evaluate("[model.state.selected, model.saved > 0]") == ["true 2", True]
    page.evaluate("model.set('playing', false)")
    page.locator(".vt-bar").get_by_role("button", name="Play").wait_for()
    html = download(page, "HTML", tmp_path / "widget.html")
    assert "mount(document.querySelector" in html and "\nexport default {" not in html


def test_a_thousand_segments_are_a_page_of_a_hundred(open_viewer):
    segments = [(3.6 * k, 3.6 * k + 5, f"event {k}") for k in range(1000)]
    runaway = lane("runaway", [(k / 10, 3000, "all at once") for k in range(1000)])
    lanes = [lane("true", segments, "true"), lane("predicted", segments), runaway]
    page = open_viewer(make_data(lanes, duration=3600.0, n=64))
    assert page.locator(".vt-board").bounding_box()["height"] < 500
    assert page.locator(".vt-list").first.locator(".vt-row").count() == 100
    page.evaluate("model.set('selected', 'predicted 950')")
    row = page.locator('.vt-row[data-segment="predicted 950"]')
    assert row.get_attribute("aria-current") == "true"
    assert page.errors == []


def test_a_page_imports_what_draws_once_and_a_closed_model_is_empty(open_page, tmp_path):
    (tmp_path / "empty.html").write_text("<!doctype html><title>empty</title>", encoding="utf-8")
    page = open_page(tmp_path / "empty.html")
    code = """globalThis.imported = (globalThis.imported || 0) + 1;
        const render = ({ model, el }) => { el.textContent = model.get('data').word; };
        export default { render };"""
    drawn = page.evaluate(
        """async ([text, code]) => {
            const texts = [];
            for (const word of ['first', 'second']) {
                const file = new Blob([text], { type: 'text/javascript' });
                const { initialize, render } = (await import(URL.createObjectURL(file))).default;
                const state = { _code: code, data: { word }, time: 1 };
                const model = { get: key => state[key], set: more => Object.assign(state, more) };
                const end = initialize({ model });
                const el = document.createElement('div');
                await render({ model, el });
                end();
                texts.push(el.textContent, state);
            }
            return [...texts, imported];
        }""",
        [WIDGET_JS, code],
    )
    empty = {"_code": "", "data": None, "segments": None, "video_bytes": None, "time": 1}
    assert drawn == ["first", empty, "second", empty, 1]
    assert page.errors == []


# What a newcomer stumbled over


def test_blocks_that_are_not_counted_are_shown_with_the_reason(open_viewer):
    text = (
        "<time>00:01-00:04</time> <caption>no thought</caption> "
        "<time>soon</time> <caption>a</caption> <think>b</think> <answer>B</answer>"
    )
    broken = lane("GRPO", [], answer="B", trace=trace_data(text, parse_trace(text).segments))
    page = open_viewer(make_data([lane("true", [(1.0, 5.0, "a square")], "true"), broken]))
    board = page.locator(".vt-board")
    assert "none named" not in board.text_content()
    [drop] = board.locator(".vt-seg.vt-off").all()  # the other range cannot be read
    assert drop.get_attribute("title") == "no <think> after its <caption>"
    box, true = drop.bounding_box(), board.locator(".vt-true").bounding_box()
    assert abs(box["x"] - true["x"]) < 2 and 0.7 < box["width"] / true["width"] < 0.8
    reasons = page.locator(".vt-block .vt-soft").all_text_contents()
    assert reasons == [
        "⚠ not counted: no <think> after its <caption>",
        "⚠ not counted: its time range cannot be read",
    ]
    assert "GRPO (hatched): none, 2 blocks not counted" in page.locator(".vt-lists").text_content()
    drop.click()  # goes there, and selects nothing
    assert state(page, "selected") == [""] and abs(state(page, "time")[0] - 2.5) < 0.1
    assert page.errors == []


def test_a_lane_whose_blocks_all_broke_is_not_one_that_named_nothing(open_viewer):
    text = "<time>soon</time> <caption>a</caption> <think>b</think>"
    lanes = [lane("A", [], trace=trace_data(text, [])), lane("B", [])]
    page = open_viewer(make_data(lanes, editable=""))
    said = page.locator(".vt-lane .vt-soft").all_text_contents()
    assert said == ["1 block not counted", "none named"]


def test_the_line_follows_a_playing_video_and_the_live_region_does_not(open_viewer):
    page = open_viewer(make_data())
    line, live = page.locator(".vt-status"), page.locator("[role=status]")
    before = live.text_content()
    assert line.text_content() == before and line.get_attribute("aria-hidden") == "true"
    page.evaluate(
        """() => { window.lines = 0; const one = document.querySelector(
            '[data-testid=videothinker-viewer]').shadowRoot.querySelector('.vt-status');
            new MutationObserver(() => { window.lines += 1; }).observe(
                one, { characterData: true, subtree: true, childList: true }); }"""
    )
    focus(page)
    page.keyboard.press("k")
    page.wait_for_function("model.get('time') > 1.2")
    assert line.text_content() != before and "frame 2 of 12" in line.text_content()
    assert live.text_content() == before  # not read out while it plays
    assert page.evaluate("lines / model.get('time')") < 6  # changes a second
    page.keyboard.press("k")
    assert live.text_content() == line.text_content() != before


def test_frames_that_no_model_saw_are_only_shown(open_viewer):
    page = open_viewer(make_data(seen=False))
    assert "12 frames shown" in page.locator(".vt-head").text_content()
    page = open_viewer(make_data(n=1))
    assert "1 frame seen" in page.locator(".vt-head").text_content()
    page = open_viewer(make_data(n=0, seen=None))  # it saw some, and nobody knows how many
    assert "frames" not in page.locator(".vt-head").text_content()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_table_that_scrolls_shows_it_and_is_reached_by_keys(open_viewer, scheme):
    lanes = [
        lane("true", [(3725.25, 4000.5, "a square")], "true"),
        lane("SFT", [(3725.25, 4000.5, "a square")]),
        lane("GRPO", [(3700.125, 4000.5, "a square")]),
    ]
    data = make_data(lanes, editable="", duration=7384.0)
    page = open_viewer(data, color_scheme=scheme, viewport={"width": 320, "height": 900})
    page.get_by_role("button", name="Compare").click()
    table = page.get_by_role("region", name="differences")
    assert table.evaluate("e => e.scrollWidth > e.clientWidth + 20")
    style = table.evaluate("e => getComputedStyle(e).backgroundAttachment")
    assert style == "local, scroll"  # the cover goes with the content, the shadow stands
    table.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        """() => document.querySelector('[data-testid=videothinker-viewer]').shadowRoot
        .querySelector('.vt-wide').scrollLeft > 0"""
    )
    assert state(page, "time") == [0.0]  # the key scrolled, and moved nothing else
