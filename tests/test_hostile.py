"""A hundred hostile captions, titles, options and file names: nothing runs, the layout holds."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hosts import VIEWER, Watched

from videothinker.evaluation.records import Record
from videothinker.schema import Sample, Segment
from videothinker.video.frames import Frames
from videothinker.viewer.browser import write_browser_page
from videothinker.viewer.evaluation_page import PageRun, write_evaluation_page
from videothinker.viewer.page import page_html, script_json, viewer_script
from videothinker.viewer.report import write_report
from videothinker.viewer.rollouts import RolloutBook
from videothinker.viewer.viewer import Lane, View, view_data, view_html

pytestmark = pytest.mark.browser

RUN = "window.hacked=1"
MARKUP = [
    f"<script>{RUN}</script>",
    f"</script><script>{RUN}</script>",
    f"</SCRIPT ><svg onload='{RUN}'>",
    f"<img src=x onerror='{RUN}'>",
    f'"><img src=x onerror="{RUN}">',
    f"'><img src=x onerror={RUN}>",
    f"</title><script>{RUN}</script>",
    f"</textarea><script>{RUN}</script>",
    f"</style><script>{RUN}</script>",
    f"</p></div></section></main><img src=x onerror='{RUN}'>",
    f"--><img src=x onerror='{RUN}'><!--",
    f"<!--<script>{RUN}//--></script>",
    f"]]><script>{RUN}</script><![CDATA[",
    f'<iframe srcdoc="<script>parent.{RUN.split(".")[1]}</script>"></iframe>',
    f"<math><mtext><img src=x onerror='{RUN}'></mtext></math>",
    f"<details open ontoggle='{RUN}'>",
    f"<input autofocus onfocus='{RUN}'>",
    "<base href='https://evil.example/'>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<link rel=stylesheet href='https://evil.example/x.css'>",
    "<style>* { display: none !important }</style>",
    "<form action='https://evil.example'><button>go</button></form>",
    "<video src='https://evil.example/x.mp4' autoplay></video>",
    f"&lt;script&gt;{RUN}&lt;/script&gt;",
    f"&#60;script&#62;{RUN}&#60;/script&#62;",
    f"\\u003cscript\\u003e{RUN}\\u003c/script\\u003e",
]
CODE = [
    f"javascript:{RUN}",
    f"JaVaScRiPt:{RUN}//",
    f"\tjavascript:{RUN}",
    f"data:text/html,<script>{RUN}</script>",
    "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
    "https://evil.example/track.png",
    "//evil.example/x.js",
    "file:///etc/passwd",
    f"${{{RUN}}}",
    f"`;{RUN};`",
    f"';{RUN};//",
    f'";{RUN};//',
    f"\\';{RUN};//",
    f"{{{{constructor.constructor('{RUN}')()}}}}",
    "$title $body $data ${script} $$",
    "%s %(x)s {0} {x}",
    "__proto__",
    "constructor",
    "toString",
    "=HYPERLINK('https://evil.example')",
    "../../../../etc/passwd",
    "C:\\Windows\\..\\con.txt",
]
TEXTS = [
    "\u202egnp.exe \u202d12:00",
    "\u2066\u2067\u2068 never closed",
    "\u200f\u061c12.5 s – 13.5 s\u200e",
    "עברית 12:00–13:00 כתובית",
    "شريط 00:01-00:05 النص",
    "\u200b\u200b\u200b",
    "a\u200bb\u2060c\ufeffd",
    "\u00ad" * 40,
    "\U000e0041\U000e0042 tags",
    "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘",
    "e" + "\u0301" * 400,
    "👩‍👩‍👧‍👦" * 60,
    "﷽" * 40,
    "\u2028line\u2029paragraph\u0085next",
    "\r\n" * 40 + "far below",
    "\t" * 80 + "far right",
    "\x00\x01\x07\x08\x1b[31mred\x7f",
    "\ud83d half a pair",
    "W" * 3000,
    "i" * 3000,
    "-" * 3000,
    "\u00a0" * 3000,
    "漢" * 3000,
    "",
    " ",
    "NaN",
    "null",
    "true 1",
    "predicted 1",
    "1e999",
    "0x7fffffffffffffff",
    "'; DROP TABLE segments; --",
]
HOSTILE = [
    *MARKUP,
    *CODE,
    *TEXTS,
    *(f"{first}{second}" for first, second in zip(TEXTS[:20], MARKUP[:20], strict=True)),
]
MEGABYTE = ["x" * 1_000_000, "word " * 200_000, "\u202e<b>" * 250_000]
FRAMES = Frames(np.full((4, 8, 16, 3), 90, np.uint8), np.arange(4.0), 4.0)


def test_there_are_a_hundred():
    assert len(set(HOSTILE)) == len(HOSTILE) >= 100


def named(texts: list[str]) -> list[str]:
    """Names that differ and are not empty."""
    return [f"{text or '-'} {k}" if text.strip() == "" else text for k, text in enumerate(texts)]


def hostile_view(texts: list[str]) -> View:
    """A view in which every text is one of these, and each of them is somewhere a caption."""
    turn = itertools.cycle(texts)
    times = [(k % 7 / 2, k % 7 / 2 + 1) for k in range(len(texts))]
    segments = [Segment(*ends, text) for ends, text in zip(times, texts, strict=True)]
    trace = "".join(f"<caption>{text}</caption> <think>{text}</think>" for text in texts)
    names = named(texts[:6])
    return View(
        title=next(turn),
        question="".join(texts[:40]),
        options=[f"{letter}. {next(turn)}" for letter in "ABCDEFGH"],
        frames=FRAMES,
        lanes=[
            Lane(names[0], "true", segments),
            *(Lane(name, "predicted", segments[k::3], trace, next(turn), {next(turn): next(turn)})
              for k, name in enumerate(names[1:4])),
        ],
        answer="B",
        meta={text: text for text in texts[-30:]},
        editable=names[0],
    )  # fmt: skip


# What must not be there: an element that only markup makes, a handler, an address of a script.
TRACES = """() => {
    const found = [];
    const look = root => {
        for (const node of root.querySelectorAll('*')) {
            const made = 'iframe, object, embed, base, link, math, form[action], [srcdoc]';
            const isImage = node.localName === 'img' && !node.src.startsWith('data:image');
            if (node.matches(made) || isImage) found.push(node.outerHTML.slice(0, 200));
            for (const { name, value } of node.attributes) {
                if (/^on/i.test(name)) found.push(name);
                if (/^(href|src|action|srcdoc)$/.test(name) && /^\\s*javascript:/i.test(value)) {
                    found.push(value);
                }
            }
            if (node.shadowRoot) look(node.shadowRoot);
        }
    };
    look(document);
    return [window.hacked, found.slice(0, 5)];
}"""
# Elements with text that reach out of the page and stand in nothing that scrolls or cuts.
OUTSIDE = """() => {
    const found = [];
    const isCut = node => {
        for (let up = node; up; up = up.parentElement || up.getRootNode().host) {
            const holds = /auto|scroll|hidden|clip/.test(getComputedStyle(up).overflowX);
            if (holds && !up.matches('html, body, .vt') && up.getBoundingClientRect().right
                <= innerWidth + 1) return true;
        }
        return false;
    };
    const look = root => {
        for (const node of root.querySelectorAll('*')) {
            const { right, width } = node.getBoundingClientRect();
            if (width && right > innerWidth + 1 && !isCut(node)) found.push(
                [node.localName, node.className, Math.round(right),
                    node.textContent.slice(0, 50)].join(' '));
            if (node.shadowRoot) look(node.shadowRoot);
        }
    };
    look(document);
    const { scrollWidth } = document.documentElement;
    if (scrollWidth > innerWidth) found.push('the page is ' + scrollWidth + ' wide');
    return found.slice(0, 8);
}"""
# Numbers and times that stand from right to left, as after an override that nobody has closed.
TURNED = """() => {
    const found = [];
    const look = root => {
        const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
        for (let node = walker.nextNode(); node; node = walker.nextNode()) {
            const text = node.data.trimEnd();
            if (!/^\\d[\\d:.–]+/.test(text)) continue;
            const place = k => {
                const range = document.createRange();
                range.setStart(node, k);
                range.setEnd(node, k + 1);
                return range.getBoundingClientRect();
            };
            const [first, second] = [place(0), place(1)];
            if (first.width && first.top === second.top && second.left < first.left) {
                found.push(text.slice(0, 40));
            }
        }
        root.querySelectorAll('*').forEach(node => node.shadowRoot && look(node.shadowRoot));
    };
    look(document.body);
    return found.slice(0, 8);
}"""


# Drawn again after the window has another size.
SETTLED = "new Promise(go => requestAnimationFrame(() => requestAnimationFrame(() => go())))"


def assert_unharmed(page: Watched) -> None:
    """Nothing has run; on a narrow screen and on a wide one all is where it belongs."""
    for width in (320, 1200):
        page.page.set_viewport_size({"width": width, "height": 900})
        page.page.evaluate(SETTLED)
        assert page.page.evaluate(OUTSIDE) == [], width
        assert page.page.evaluate(TURNED) == [], width
    assert page.page.evaluate(TRACES) == [None, []]
    assert page.errors == [] and page.elsewhere == []


@pytest.fixture
def watched(browser):
    """Open a file as a page in which a dialog counts as an error."""
    pages = []

    def open_file(path: Path, **options) -> Watched:
        page = Watched(browser.new_page(**options))
        page.page.on("dialog", lambda dialog: (page.errors.append("dialog"), dialog.dismiss()))
        page.page.goto(path.resolve().as_uri())
        pages.append(page.page)
        return page

    yield open_file
    for page in pages:
        page.close()


def test_view_of_hostile_texts(watched, tmp_path):
    (tmp_path / "view.html").write_text(view_html(hostile_view(HOSTILE)), encoding="utf-8")
    page = watched(tmp_path / "view.html")
    page.viewer.get_by_role("slider").wait_for()
    assert_unharmed(page)
    page.viewer.get_by_role("slider").focus()
    for key in ("]", "]", "?", "c", "n"):  # everything that can be shown
        page.page.keyboard.press(key)
    assert_unharmed(page)


def test_every_hostile_text_as_title_question_option_lane_and_answer(watched, tmp_path):
    data = view_data(hostile_view(HOSTILE[:4]))
    run = f"window.showAll = mount; window.first = {script_json(data)};"
    body = '<main class="vt-host"></main>'
    (tmp_path / "all.html").write_text(
        page_html("all", "", body, viewer_script(run)), encoding="utf-8"
    )
    page = watched(tmp_path / "all.html", viewport={"width": 320, "height": 900})
    texts = json.loads(json.dumps(HOSTILE))
    bad = page.page.evaluate(
        f"""async texts => {{
            const traces = {TRACES}, outside = {OUTSIDE}, turned = {TURNED}, bad = [];
            const host = document.querySelector('.vt-host');
            for (const text of texts) {{
                const lane = {{ ...first.lanes[0], name: text || '-', facts: {{ [text]: text }} }};
                const other = {{ ...first.lanes[1], name: 'x' + text, answer: text }};
                showAll(host, {{ ...first, title: text, question: text, answer: text,
                    editable: '', lanes: [lane, other], meta: {{ [text]: text }},
                    options: [{{ text, letter: text, right: true }}],
                    video: {{ src: text, start: 0 }} }});
                await new Promise(go => requestAnimationFrame(() => setTimeout(go)));
                const [hacked, made] = traces();
                const wrong = [...made, ...outside(), ...turned()];
                if (hacked || wrong.length) bad.push([text.slice(0, 60), wrong]);
            }}
            return bad;
        }}""",
        texts,
    )
    assert not bad, "\n".join(map(str, bad))
    # as the address of a video such a text names no file, or is refused
    refused = ("Failed to load resource", "Content Security Policy")
    assert [error for error in page.errors if not any(r in error for r in refused)] == []
    assert page.elsewhere == []


def test_a_megabyte_of_text_is_cut(watched, tmp_path):
    view = hostile_view(MEGABYTE)
    (tmp_path / "view.html").write_text(view_html(view), encoding="utf-8")
    page = watched(tmp_path / "view.html")
    page.viewer.get_by_role("slider").wait_for()
    assert_unharmed(page)
    assert page.page.evaluate("document.documentElement.scrollHeight") < 30_000


def test_exported_page_of_hostile_texts(watched, tmp_path):
    (tmp_path / "view.html").write_text(view_html(hostile_view(HOSTILE)), encoding="utf-8")
    page = watched(tmp_path / "view.html", viewport={"width": 1200, "height": 900})
    page.viewer.get_by_text("Export", exact=True).click()
    with page.page.expect_download() as saved:
        page.viewer.get_by_role("button", name="HTML", exact=True).click()
    assert "/" not in saved.value.suggested_filename
    assert not saved.value.suggested_filename.startswith(".")
    saved.value.save_as(tmp_path / "export.html")
    text = (tmp_path / "export.html").read_text(encoding="utf-8")
    policy = text.index("Content-Security-Policy")
    assert "default-src 'none'" in text[policy : policy + 200]
    assert policy < text.index("<title") and policy < text.index("<script")
    scripts = text[policy:].split("script-src ")[1].split(";")[0]
    assert "unsafe" not in scripts and ("nonce-" in scripts or "sha256-" in scripts)
    export = watched(tmp_path / "export.html")
    export.viewer.get_by_role("slider").wait_for()
    assert_unharmed(export)


def test_report_of_hostile_texts(watched, tmp_path):
    views = [hostile_view(HOSTILE[k : k + 12]) for k in range(0, len(HOSTILE), 12)]
    evil = dict(zip(named(HOSTILE), HOSTILE, strict=True))
    summary = {
        "title": HOSTILE[0],
        "story": " ".join(HOSTILE),
        "stages": {text: {text: {"n": 3, "accuracy": 0.5}} for text in named(HOSTILE[:20])},
        "seeds": evil,
        "versions": evil,
    }
    write_report(tmp_path / "report.html", summary, {}, views)
    page = watched(tmp_path / "report.html")
    assert_unharmed(page)


def test_evaluation_page_of_hostile_texts(watched, tmp_path):
    records, samples = [], []
    for k, text in enumerate(named(HOSTILE)):
        name = f"{text} {k}"  # also of the file
        options = [f"A. {text}", "B. b"]
        segments = [Segment(1, 5, text)]
        sample = Sample(text, options, "<answer>B</answer>", f"{text}.mp4", id=name)
        samples.append(replace(sample, duration=12.0, segments=segments))
        record = Record(
            id=name,
            video_id=f"{text}.mp4",
            condition="own",
            text=f"<time>00:01-00:03</time> <caption>{text}</caption> <think>{text}</think> {text}",
            prediction=text,
            answer="B",
            correct=False,
            formatted=True,
            error=text if k % 3 == 0 else "",
            category=[text],
            duration=12.0,
            times=[0.0, 4.0, 8.0],
        )
        records.append(record)
    run = PageRun(records, samples, HOSTILE[0], HOSTILE[1], HOSTILE[2], None, {})
    path = write_evaluation_page(tmp_path / "evaluation.html", [run])
    page = watched(path)
    assert_unharmed_when_opened(page)


def test_rollouts_page_of_hostile_texts(watched, tmp_path):
    folder = tmp_path / "<img src=x onerror='window.hacked=1'>" / "completions"
    folder.mkdir(parents=True)
    with (folder / "step.jsonl").open("w", encoding="utf-8") as log:
        for k, text in enumerate(HOSTILE):
            options = [f"A. {text}", "B. b"]
            sample = Sample(text, options, "<answer>B</answer>", f"{text}.mp4", id=f"{text} {k}")
            sample.segments, sample.duration = [Segment(1, 5, text)], 12.0
            for reward in (0.0, 1.0):
                reply = f"<time>00:01-00:03</time> <caption>{text}</caption> {text}"
                row = {"step": k // 20, "group": k, "id": sample.id, "prompt": text}
                row |= {"completion": reply, "reward": reward, text or "-": reward}
                print(json.dumps({**row, "row": json.dumps(sample.to_row())}), file=log)
    path = write_browser_page(tmp_path / "rollouts.html", RolloutBook(folder), pictures=0)
    assert_unharmed_when_opened(watched(path))


def assert_unharmed_when_opened(page: Watched) -> None:
    """The list of a browser of records, then the viewer of some of them."""
    rows = page.page.locator("[data-record]")
    rows.first.wait_for()
    assert_unharmed(page)
    for k in (0, 7, min(30, rows.count() - 1)):
        rows.nth(k).click()
        page.page.locator(VIEWER).first.wait_for()
        assert_unharmed(page)
        page.page.keyboard.press("Escape")
