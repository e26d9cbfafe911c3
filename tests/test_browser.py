"""Report and viewer in a real browser: they draw, answer clicks and keys, and load nothing."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from videothinker.schema import Sample, Segment
from videothinker.video.frames import Frames, Sampling
from videothinker.video.reader import read_frames
from videothinker.viewer.corrections import read_segments
from videothinker.viewer.report import write_report
from videothinker.viewer.viewer import Lane, View, trace_viewer, view_html

pytestmark = pytest.mark.browser

EVIL = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"
N_VIEWS = 13


def test_static_files_are_complete_and_load_nothing():
    static = ROOT / "videothinker" / "viewer" / "static"
    texts = {path.name: path.read_text(encoding="utf-8") for path in static.iterdir()}
    assert {"viewer.js", "viewer.css", "cell.js", "report.css", "page.html"} <= set(texts)
    for name, text in texts.items():
        text = text.replace("http://www.w3.org/2000/svg", "")  # a name, not an address
        text = text.replace("await import(url)", "")  # of a blob: widget.js
        assert not re.search(r"https?:|//[a-z]+\.|\bcdn\b|@import|\bimport\b|\burl\(", text), name
        assert max(map(len, text.splitlines())) <= 100, name
    if node := shutil.which("node"):
        check = [node, "--input-type=module", "--check", "-"]
        subprocess.run(check, input=texts["viewer.js"], text=True, check=True)


def make_clip(path: Path, seconds: int, seed: int) -> str:
    """A small H.264 clip at 10 frames a second in which a square and then a disc move."""
    import av

    colours = np.array(
        [(220, 40, 40), (70, 120, 240), (40, 190, 90), (235, 200, 40), (180, 80, 220)]
    )
    first, second = np.random.default_rng(seed).permutation(5)[:2]
    y, x = np.mgrid[:56, :56]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "18", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 56, 56, "yuv420p"
        for time in np.arange(10 * seconds) / 10:
            frame = np.zeros((56, 56, 3), np.uint8)
            left, up = 44 - 7 * np.clip(time - 1, 0, 4), 44 - 7 * np.clip(time - 6, 0, 4)
            frame[(abs(x - left) < 6) & (abs(y - 14) < 6)] = colours[first]
            frame[np.hypot(x - 38, y - up) < 6] = colours[second]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return str(path)


def make_frames(folder: Path, seconds: int = 12, seed: int = 0) -> Frames:
    """The frames a model would see of such a clip."""
    clip = make_clip(folder / f"clip-{seed}.mp4", seconds, seed)
    return read_frames(clip, Sampling(fps=1, size=(56, 56)), timeout=None)


def make_view(frames: Frames, k: int) -> View:
    """A view with a right segment, a late one, and now and then one after the end of the clip."""
    late = 6 + k % 4
    blocks = [
        ("00:01-00:05", "a square moves left", "it ends at 5 seconds"),
        (f"00:0{late}-00:10", "a disc moves up", "it starts after the square"),
    ]
    if k % 3 == 0:
        blocks.append((f"00:0{late}-00:11", f"the disc goes on, {'and on ' * 30}", "long"))
    if k % 4 == 1:
        blocks.append(("00:14-00:19", "a cross moves down", "it would be the last"))
    trace = "".join(
        f"<time>{times}</time> <caption>{caption}</caption> <think>{think}</think> "
        for times, caption, think in blocks
    )
    trace += f"The disc is last. <answer>{'AB'[k % 2]}</answer>"
    sample = Sample(
        problem="Which shape moves last?",
        options=["A. the square", "B. the disc", "C. the green cross", "D. the yellow ring"],
        solution="<answer>B</answer>",
        id=f"toy-{k:03d}",
        segments=[Segment(1, 5, "a square moves left"), Segment(6, 10, "a disc moves up")],
    )
    return View.of(sample, frames, trace if k else "no tags at all", stage="after GRPO", sample=k)


def make_summary() -> dict:
    """A summary like that of a real run, with the base not run out of domain."""

    def cell(accuracy: float, n: int, miou: float) -> dict:
        half = 1.96 * math.sqrt(accuracy * (1 - accuracy) / n)
        blind = {"accuracy": 0.26, "ci_low": 0.2, "ci_high": 0.32, "n": n}
        controls = {"no_video": blind, "other_video": {**blind, "accuracy": 0.24}, "chance": 0.257}
        scores = {
            "r@0.3": miou + 0.15,
            "r@0.5": miou,
            "r@0.7": miou - 0.2,
            "precision": miou - 0.05,
        }
        interval = {"ci_low": accuracy - half, "ci_high": accuracy + half}
        return {
            "n": n,
            "accuracy": accuracy,
            **interval,
            "format_rate": 0.97,
            "miou": miou,
            **scores,
            "controls": controls,
        }

    kinds = ("wrong time", "wrong colour", "leaked answer", "broken tags", "wrong event")
    counts = {"planted": 12, "caught": 11, "answer_changing": 9, "answer_changing_caught": 9}
    paired = [
        {
            "a": "sft",
            "b": "base",
            "split": "id",
            "difference": 0.24,
            "ci_low": 0.15,
            "ci_high": 0.33,
        },
        {
            "a": "grpo",
            "b": "sft",
            "split": "id",
            "difference": 0.08,
            "ci_low": 0.01,
            "ci_high": 0.15,
        },
        {
            "a": "grpo",
            "b": "sft",
            "split": "ood",
            "difference": 0.03,
            "ci_low": -0.06,
            "ci_high": 0.12,
        },
    ]
    return {
        "stages": {
            "base": {"id": cell(0.31, 256, 0.21)},
            "sft": {"id": cell(0.55, 256, 0.52), "ood": cell(0.41, 128, 0.36)},
            "grpo": {"id": cell(0.63, 256, 0.55), "ood": cell(0.44, 128, 0.37)},
        },
        "paired": [{**pair, "metric": "accuracy", "n": 256, "clusters": 80} for pair in paired],
        "curation": {
            "n": 400,
            "kept": 371,
            "accepted_after": [301, 48, 15, 7],
            "reasons": {"reader": 88, "format": 31, "time": 12, "leak": 9},
            "planted": dict.fromkeys(kinds, counts),
            "correct": 300,
            "false_rejects": 0,
        },
        "seeds": {"toy world": 0, "SFT": 1, "GRPO": 2},
        "versions": {"videothinker": "0.1.0", "torch": "2.15.0", "transformers": "5.23.0"},
        "seconds": {"toyworld": 21.3, "curate": 4.2, "sft": 312.4, "grpo": 1801.9, "eval": 240.1},
    }  # fmt: skip


def make_curves() -> dict[str, list[dict]]:
    """Noisy logs as training writes them."""
    rng = np.random.default_rng(0)
    sft = [
        {"step": i, "loss": float(0.2 + 2.5 * np.exp(-i / 40) + 0.05 * rng.random())}
        for i in range(1, 301)
    ]
    grpo = []
    for i in range(1, 91):
        noise = rng.standard_normal(4)
        right = float(np.clip(0.5 + 0.2 * (1 - np.exp(-i / 30)) + 0.06 * noise[0], 0, 1))
        form = float(np.clip(0.93 + 0.05 * (1 - np.exp(-i / 10)) + 0.01 * noise[1], 0, 1))
        length = float(88 + 4 * noise[2])
        idle = float(np.clip(0.35 + 0.1 * noise[3], 0, 1))
        grpo.append(
            {
                "step": i,
                "reward": right + form,
                "reward_correct": right,
                "reward_format": form,
                "completion_length": length,
                "frac_reward_zero_std": idle,
                "needed_recall": min(1.0, 0.7 + i / 300 + 0.05 * noise[1]),
                "checked": 0.35 + i / 200,
                "right_checked": right + 0.05,
                "right_direct": None if i % 9 == 0 else right - 0.2,
            }
        )
    steps = range(0, 91, 15)
    return {
        "sft": sft,
        "grpo": grpo,
        "eval": [
            {"step": i, "accuracy": 0.55 + i / 1100, "format_rate": 0.95 + i / 3000} for i in steps
        ],
    }


def make_report(folder: Path, n_views: int = N_VIEWS) -> Path:
    """A report of a synthetic run with real clips."""
    clips = [make_frames(folder, 12, seed) for seed in range(3)]
    views = [make_view(clips[k % 3], k) for k in range(n_views)]
    return write_report(folder / "report.html", make_summary(), make_curves(), views)


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    return make_report(tmp_path_factory.mktemp("report"))


CROSS = """const cross = boxes => boxes.flatMap(([a, p], i) => boxes.slice(i + 1).filter(([b, q]) =>
    p.left < q.right - 1.5 && q.left < p.right - 1.5 && p.top < q.bottom - 2 && q.top < p.bottom - 2
    ).map(([b]) => a + ' over ' + b));
"""
OVERLAPS = f"""() => {{ {CROSS}
    return [...document.querySelectorAll('figure.chart svg')].flatMap(svg => {{
        const texts = [...svg.querySelectorAll('text')];
        const boxes = texts.map(t => [t.textContent, t.getBoundingClientRect()]);
        const frame = svg.getBoundingClientRect();
        const outside = boxes.filter(([text, p]) => p.left < frame.left - 1
            || p.right > frame.right + 1 || p.top < frame.top - 1 || p.bottom > frame.bottom + 1);
        return [...outside.map(([text]) => text + ' leaves its chart'), ...cross(boxes)];
    }});
}}"""
LANE_OVERLAPS = f"""() => {{ {CROSS}
    const shells = [...document.querySelectorAll('[data-testid=videothinker-viewer]')];
    return shells.flatMap(s => [...s.shadowRoot.querySelectorAll('.vt-track')]).flatMap(track => {{
        const all = [...track.querySelectorAll('.vt-seg, .vt-axis > span')];
        const seen = all.filter(e => e.offsetParent);
        return cross(seen.map(e => [e.textContent, e.getBoundingClientRect()]));
    }});
}}"""


CUT = """() => [...document.querySelectorAll('.small .wide')]
    .filter(e => e.scrollWidth > e.clientWidth + 1).length"""


@pytest.mark.parametrize("width", [1400, 800, 390])
def test_report_is_whole_and_nothing_overlaps(open_page, report, width):
    page = open_page(report, viewport={"width": width, "height": 900})
    assert page.errors == [] and page.requested == []
    assert page.locator("figure.chart").count() == 3 + 6
    assert width < 500 or page.evaluate(CUT) == 0  # on a phone wide tables scroll
    for figure in page.locator("figure.chart").all():
        labels = figure.locator(".axis-label").all_text_contents()
        assert labels and all(label.strip() for label in labels)
        assert figure.locator(".tick").count() >= 4
        assert figure.locator("svg").get_attribute("aria-label").strip()
    assert page.evaluate(OVERLAPS) == []
    assert page.locator("[data-testid=videothinker-viewer]").count() == N_VIEWS >= 12
    for table in page.locator(".wide").all():
        assert table.get_attribute("role") == "region" and table.get_attribute("aria-label")
        assert table.get_attribute("tabindex") == "0"
        assert table.evaluate("e => getComputedStyle(e).backgroundAttachment") == "local, scroll"
    sideways = "document.documentElement.scrollWidth > window.innerWidth"
    assert not page.evaluate(sideways), "the page itself scrolls sideways"
    loaded = "images => images.every(i => i.complete && i.naturalWidth > 0)"
    assert page.locator("img").evaluate_all(loaded)


def test_report_units_are_on_the_axes(open_page, report):
    labels = open_page(report).locator(".axis-label").all_text_contents()
    for unit in (
        "nats per token",
        "tokens per completion",
        "mean reward per completion",
        "(%)",
        "GRPO step",
        "SFT step",
    ):
        assert any(unit in label for label in labels), unit


@pytest.mark.parametrize("width", [1400, 800, 390])
def test_labels_of_lanes_and_axes_do_not_overlap(open_page, report, width, tmp_path):
    assert open_page(report, viewport={"width": width, "height": 900}).evaluate(LANE_OVERLAPS) == []
    times = np.array([0.0, 40.0, 900.0, 905.0, 2000.0, 3600.0])
    frames = Frames(np.zeros((6, 224, 392, 3), np.uint8), times, 3723.4)
    ranges = [
        (60, 1200),
        (500, 1700),
        (800, 900),
        (3000, 9000),
        (10, 5),
        (5000, 6000),
        (7000, 7500),
    ]
    segments = [Segment(start, end, "a very long caption " * 9) for start, end in ranges]
    film = View(
        title="film",
        question="What happens?",
        options=["A. long " * 40, "B. b"],
        frames=frames,
        lanes=[
            Lane("true", "true", [Segment(1, 9, "short")]),
            Lane("predicted", "predicted", segments, answer="B"),
        ],
        answer="A",
    )
    (tmp_path / "film.html").write_text(view_html(film), encoding="utf-8")
    page = open_page(tmp_path / "film.html", viewport={"width": width, "height": 900})
    assert page.errors == [] and page.evaluate(LANE_OVERLAPS) == []
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.locator('.vt-seg[data-segment="predicted 6"]').is_visible()


def test_viewers_of_a_report_move_on_their_own(open_page, report):
    page = open_page(report)
    viewer, other = (page.locator("[data-testid=videothinker-viewer]").nth(k) for k in (2, 3))
    assert viewer.locator(".vt-cursor").get_attribute("data-time") == "0"
    viewer.locator('.vt-seg[data-segment="predicted 2"]').click()
    assert float(viewer.locator(".vt-cursor").get_attribute("data-time")) == 8.0
    assert "selected predicted 2" in viewer.locator(".vt-status").text_content()
    assert other.locator(".vt-cursor").get_attribute("data-time") == "0"
    assert page.errors == []


WIDGET = """async source => {
    const file = new Blob([source.esm], { type: 'text/javascript' });
    const module = await import(URL.createObjectURL(file));
    const state = { data: source.data, time: 0, selected: '', segments: source.segments,
        playing: false, loop: false, video_bytes: null }, listeners = {};
    window.model = { state, saved: 0, listeners,
        get: k => state[k], save_changes() { this.saved++; }, send() {},
        set(k, v) { state[k] = v; (listeners['change:' + k] || []).forEach(f => f()); },
        on: (name, f) => (listeners[name] = listeners[name] || []).push(f),
        off: (name, f) => { listeners[name] = listeners[name].filter(g => g !== f); } };
    window.clean = module.default.render({ model: window.model, el: document.body });
}"""


def test_live_widget_follows_python_and_reports_back(open_page, tmp_path):
    """The widget's own module with a model that behaves like anywidget's."""
    view = make_view(make_frames(tmp_path), 2)
    view.editable = "true"
    widget = trace_viewer(view)
    (tmp_path / "empty.html").write_text("<!doctype html><title>empty</title>", encoding="utf-8")
    page = open_page(tmp_path / "empty.html")
    source = {"esm": widget._code, "data": widget.data, "segments": widget.segments}
    page.evaluate(WIDGET, source)
    page.evaluate("model.set('time', 6.5)")  # as when Python moves the cursor
    assert page.locator(".vt-cursor").get_attribute("data-time") == "6.5"
    assert "6.5 s: frame 7" in page.locator(".vt-status").text_content()
    page.locator('.vt-seg[data-segment="true 2"]').click()
    page.wait_for_function("model.saved > 0")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("o")  # the end of the selected segment is now here
    page.wait_for_function("model.state.segments[1].end === 7")
    keys = ("time", "selected", "segments")
    state = page.evaluate("names => Object.fromEntries(names.map(n => [n, model.state[n]]))", keys)
    widget.set_state(state)  # Python takes what the page sends
    assert (widget.time, widget.selected) == (7.0, "true 2")
    assert widget.segments[1] == {"start": 6.0, "end": 7.0, "caption": "a disc moves up"}
    page.evaluate("clean()")
    assert page.evaluate("Object.values(model.listeners).flat().length") == 0
    assert page.errors == []


CONTRAST = """() => {
    const channel = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    const numbers = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
    const weights = [.2126, .7152, .0722];
    const light = colour =>
        numbers(colour).map(channel).reduce((sum, v, i) => sum + v * weights[i], 0);
    const ground = light(getComputedStyle(document.body).backgroundColor);
    const texts = [...document.querySelectorAll('svg text, .note, td, th, p, h2')];
    return Math.min(...texts.map(e => {
        const style = getComputedStyle(e);
        const ink = light(e.namespaceURI.endsWith('svg') ? style.fill : style.color);
        return (Math.max(ink, ground) + .05) / (Math.min(ink, ground) + .05);
    }));
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_are_readable_in_light_and_dark(open_page, report, scheme):
    assert open_page(report, color_scheme=scheme).evaluate(CONTRAST) >= 4.5  # WCAG AA


def test_hostile_texts_stay_texts(open_page, tmp_path):
    frames = make_frames(tmp_path)
    view = View(
        title=EVIL,
        question=EVIL,
        options=[f"A. {EVIL}"],
        frames=frames,
        lanes=[
            Lane("true", "true", [Segment(0, 2, EVIL)]),
            Lane(EVIL, "predicted", [Segment(1, 3, EVIL)], EVIL, EVIL, {EVIL: EVIL}),
        ],
        answer="A",
        meta={EVIL: EVIL},
    )
    (tmp_path / "view.html").write_text(view_html(view), encoding="utf-8")
    worst = {
        "title": EVIL,
        "story": EVIL,
        "stages": {EVIL: {EVIL: {"n": EVIL, "accuracy": 0.5}}},
        "seeds": {EVIL: EVIL},
    }
    write_report(tmp_path / "report.html", worst, {}, [view])
    for name in ("view.html", "report.html"):
        page = open_page(tmp_path / name)
        assert page.evaluate("window.hacked") is None and page.errors == [] and page.requested == []
        assert "onerror" in page.locator(".vt-question").text_content()


def test_a_page_runs_its_own_script_and_no_other(open_page, tmp_path):
    view = View("view", "Which?", [], make_frames(tmp_path), [Lane("true", "true")])
    page = view_html(view)
    planted = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"
    (tmp_path / "view.html").write_text(page.replace("</main>", "</main>" + planted))
    opened = open_page(tmp_path / "view.html")
    opened.wait_for_function("document.images.length > 0")
    assert opened.evaluate("window.hacked") is None and opened.requested == []
    assert len(opened.errors) >= 2  # the browser says that it refused both
    assert opened.locator("[data-testid=videothinker-viewer]").count() == 1


def test_a_video_plays_inside_the_page_or_beside_it(open_page, tmp_path, monkeypatch):
    clip = make_clip(tmp_path / "it's a clip #1.mp4", 3, 0)
    frames = read_frames(clip, Sampling(fps=1, size=(56, 56)), timeout=None)
    view = View("view", "Which?", [], frames, [Lane("true", "true")], video=clip)
    view.save(tmp_path / "inside.html")
    monkeypatch.setattr("videothinker.viewer.viewer.PAGE_VIDEO", 10)
    view.save(tmp_path / "pages" / "beside.html")
    assert "data:video" in (tmp_path / "inside.html").read_text(encoding="utf-8")
    assert "data:video/mp4;" not in (tmp_path / "pages" / "beside.html").read_text(encoding="utf-8")
    for name in ("inside.html", "pages/beside.html"):
        page = open_page(tmp_path / name)
        video = page.locator("video")
        page.wait_for_function(
            "v => v.readyState > 1 && v.videoWidth === 56", arg=video.element_handle()
        )
        assert page.errors == [] and page.requested == []


def test_the_page_exports_what_python_does(open_page, tmp_path):
    view = make_view(make_frames(tmp_path), 1)
    view.lanes[1].segments.append(Segment(2.5, 2.75, '=1 "<b>" & --> \n\nend'))
    view.save(tmp_path / "view.html")
    page = open_page(tmp_path / "view.html")
    saved = {}
    for kind in ("CSV", "WebVTT", "JSON"):
        page.locator(".vt-menu summary").click()
        with page.expect_download() as waiting:
            page.locator(".vt-menu").get_by_role("button", name=kind).click()
        waiting.value.save_as(tmp_path / kind)
        saved[kind] = (tmp_path / kind).read_bytes().decode()
    assert saved["CSV"] == view.to_csv()
    assert saved["WebVTT"] == view.to_webvtt()
    assert json.loads(saved["JSON"]) == json.loads(view.to_json())
    assert read_segments(tmp_path / "JSON", "predicted") == view.predictions[0].segments


IN_PLACE = """html => {  // JupyterLab: each script again where it stands
    const div = document.body.appendChild(document.createElement('div'));
    div.innerHTML = html;
    for (const old of [...div.querySelectorAll('script')]) {
        const script = document.createElement('script');
        script.textContent = old.textContent;
        old.replaceWith(script);
    }
}"""
AT_THE_END = """html => {  // VS Code: each script again at the end of the output
    const div = document.body.appendChild(document.createElement('div'));
    div.innerHTML = html;
    for (const old of [...div.querySelectorAll('script')]) {
        const script = document.createElement('script');
        script.text = old.textContent;
        div.appendChild(script).parentNode.removeChild(script);
    }
}"""
IN_THE_HEAD = AT_THE_END.replace("div.appendChild(script)", "document.head.appendChild(script)")


@pytest.mark.parametrize("host", [IN_PLACE, AT_THE_END, IN_THE_HEAD])
def test_a_view_shows_wherever_a_notebook_runs_its_script(open_page, tmp_path, host):
    views = [make_view(make_frames(tmp_path, seed=k), k) for k in (1, 2)]
    html = "".join(view_html(view, standalone=False) for view in [*views, views[0]])
    (tmp_path / "empty.html").write_text("<!doctype html><body></body>")
    page = open_page(tmp_path / "empty.html")
    page.evaluate(host, html)
    page.wait_for_function(
        "document.querySelectorAll('[data-testid=videothinker-viewer]').length === 3"
    )
    drawn = page.locator(".vt-host > [data-testid=videothinker-viewer]")
    assert drawn.count() == 3 and page.errors == []
    assert all(drawn.nth(k).is_visible() for k in range(3))
    assert page.locator(".vt-host > p").count() == 0  # nothing of the plain text is left


def test_keys_go_through_all_frames_also_those_without_a_picture(open_page, tmp_path):
    times = np.arange(200) / 2
    frames = Frames(np.zeros((200, 8, 8, 3), np.uint8), times, 100.0)
    (tmp_path / "view.html").write_text(view_html(View("long", "Which?", [], frames)))
    page = open_page(tmp_path / "view.html")
    assert page.errors == []
    page.locator("[role=slider]").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert "frame 4 of 200" in page.locator(".vt-status").text_content()


def test_points_say_their_values(open_page, report):
    charts = open_page(report).locator("figure.chart")
    chart = charts.filter(has_text="Validation clips during GRPO")  # seven points per line
    assert chart.locator(".points title").first.text_content() == "accuracy 55 at 0"
    assert chart.locator(".points title").count() == 2 * 7


def test_same_report_has_the_same_bytes(report, tmp_path):
    assert make_report(tmp_path).read_bytes() == report.read_bytes()


def test_report_of_nothing(open_page, tmp_path):
    page = open_page(write_report(tmp_path / "report.html", {}, {}, []))
    assert page.errors == [] and page.evaluate(OVERLAPS) == []
    assert "not run" in page.locator("body").text_content()


def test_one_point_and_crossing_lines(open_page, tmp_path):
    curves = {
        "sft": [{"step": 5, "loss": 1.234567}],
        "grpo": [{"step": 1, "reward": 1, "reward_correct": 0.5, "reward_format": 0.5}],
        "eval": [
            {"step": 0, "accuracy": 1.0, "format_rate": 1.0},
            {"step": 10_000, "accuracy": 0.999, "format_rate": 1.0},
        ],
    }
    page = open_page(write_report(tmp_path / "report.html", make_summary(), curves, []))
    assert page.errors == [] and page.evaluate(OVERLAPS) == []
