"""The viewer where people look at it: JupyterLab, Notebook 7, VS Code, Colab, a page on a site."""

from __future__ import annotations

import json
import sys
import time
import types
from pathlib import Path

import pytest
from hosts import (
    EXAMPLE,
    GROUND,
    VIEWER,
    Notebook,
    Watched,
    example_view,
    faults,
    leaks,
    open_colab,
    open_notebook,
    open_vscode,
)

from videothinker.viewer.viewer import trace_viewer, view_html

pytest_plugins = ["hosts"]
pytestmark = pytest.mark.browser

SHOW = "viewer = trace_viewer(view)\nviewer"
MODE = {"light": False, "dark": True}


@pytest.fixture(scope="module")
def output() -> str:
    """The HTML output of a cell that shows the example."""
    return view_html(example_view(), standalone=False)


@pytest.fixture(scope="module", params=["lab", "notebook"])
def live(request, browser, jupyter):
    """A notebook in which the example was shown by a cell, in each Jupyter host."""
    name = jupyter.write(f"live-{request.param}.ipynb", [EXAMPLE, SHOW])
    opened = open_notebook(
        browser, jupyter, name, app=request.param, viewport={"width": 1400, "height": 1300}
    )
    opened.run(0)
    opened.run(1)
    opened.viewer.get_by_role("slider").wait_for()
    opened.app = request.param
    yield opened
    opened.page.close()


def now(opened: Watched) -> float:
    """Where the page's slider stands, in seconds."""
    return float(opened.viewer.get_by_role("slider").get_attribute("aria-valuenow"))


def eventually(opened: Watched, question, wanted, patience: float = 20.0) -> None:
    """Ask until the answer is as wanted: page and kernel tell each other in their own time."""
    give_up = time.monotonic() + patience
    while (answer := question()) != wanted and time.monotonic() < give_up:
        opened.page.wait_for_timeout(50)
    assert answer == wanted


@pytest.fixture
def notebook(live: Notebook) -> Notebook:
    """The same as on the first day; all that Python has said before has reached the page."""
    live.tell("viewer.playing = viewer.loop = False; viewer.selected = ''; viewer.time = 0.5")
    eventually(live, lambda: now(live), 0.5)
    live.tell(
        "viewer.segments = [dict(start=1.0, end=5.0, caption='a square moves left'),"
        " dict(start=6.0, end=10.0, caption='a disc moves up')]; viewer.time = 0.0"
    )
    eventually(live, lambda: now(live), 0.0)
    live.viewer.scroll_into_view_if_needed()
    return live


# == In a running kernel ==


def test_seek_in_the_page_is_read_in_python_and_the_other_way_round(notebook):
    notebook.viewer.locator('.vt-seg[data-segment="predicted 2"]').click()
    eventually(notebook, lambda: notebook.ask("[viewer.time, viewer.selected]"), [7, "predicted 2"])
    notebook.tell("viewer.selected, viewer.time = '', 4.0")
    eventually(notebook, lambda: now(notebook), 4.0)
    slider = notebook.viewer.get_by_role("slider")
    box = slider.bounding_box()
    slider.click(position={"x": box["width"] / 2, "y": box["height"] / 2})
    middle = now(notebook)
    assert middle == pytest.approx(11.5 / 2, abs=0.1)
    eventually(notebook, lambda: notebook.ask("viewer.time"), middle)


def test_keys_act_on_the_viewer_and_on_nothing_of_the_host(notebook):
    """In a host space scrolls, `I I` interrupts, `D D` deletes a cell, `J` and `K` walk."""
    before = notebook.cells()
    slider = notebook.viewer.get_by_role("slider")
    slider.focus()
    for key, seconds in {"ArrowRight": 1, "End": 11.5, "Home": 0, "Shift+ArrowRight": 1}.items():
        notebook.page.keyboard.press(key)
        assert now(notebook) == seconds, key
    for key in ("]", "[", "?", "?", "i", "i", "o", "d", "d", "x", "a", "b", "m", "y", "0", "0"):
        notebook.page.keyboard.press(key)
    for key in ("l", "j", "k", "Space", "Space", "Delete", "Shift+L", "Shift+L", "n"):
        notebook.page.keyboard.press(key)
    notebook.page.keyboard.press("Control+z")
    inside = "e => e.getRootNode().host?.matches(S) || !!e.closest(S)".replace("S", repr(VIEWER))
    assert slider.evaluate(inside)
    assert slider.evaluate("e => e.getRootNode().activeElement !== null"), "the focus went away"
    assert notebook.cells() == before
    assert notebook.page.locator(".jp-Dialog, .jp-Notebook-cell.jp-mod-editing").count() == 0
    assert notebook.ask("1 + 1") == 2, "the kernel was interrupted or restarted"
    assert notebook.page.locator(".jp-CodeCell").count() == len(before)


def press(opened: Watched, *keys: str) -> None:
    """Press keys in the viewer; a question asked of the kernel has taken the focus away."""
    opened.viewer.get_by_role("slider").focus()
    for key in keys:
        opened.page.keyboard.press(key)


def test_edits_are_read_in_python_and_undone(notebook):
    notebook.tell("heard = []; viewer.on_event(lambda event: heard.append(event['type']))")
    notebook.viewer.locator('.vt-seg[data-segment="true 1"]').click()
    press(notebook, "ArrowRight", "ArrowRight", "i", "ArrowRight", "o")  # faster than the kernel
    ends = "[[s['start'], s['end']] for s in viewer.segments]"
    eventually(notebook, lambda: notebook.ask(ends), [[3, 4], [6, 10]])
    press(notebook, "n")
    eventually(notebook, lambda: notebook.ask("len(viewer.segments)"), 3)
    press(notebook, "Delete", "Control+z", "Control+z")  # it is there again, then not
    eventually(notebook, lambda: notebook.ask(ends), [[3, 4], [6, 10]])
    press(notebook, "Control+z")
    eventually(notebook, lambda: notebook.ask(ends), [[3, 5], [6, 10]])
    press(notebook, "Control+Shift+z")
    eventually(notebook, lambda: notebook.ask(ends), [[3, 4], [6, 10]])
    assert set(notebook.ask("heard")) >= {"select", "edit", "add", "delete", "undo", "redo"}


def test_a_segment_plays_in_a_loop(notebook):
    notebook.viewer.locator('.vt-seg[data-segment="predicted 1"]').click()
    notebook.tell("viewer.loop = True; viewer.playing = True")
    notebook.tell("seen = []; viewer.observe(lambda change: seen.append(change['new']), 'time')")
    slider = notebook.viewer.get_by_role("slider")
    slider.evaluate(
        """slider => new Promise(done => {
            let last = +slider.getAttribute('aria-valuenow'), turns = 0;
            const watch = new MutationObserver(() => {
                const time = +slider.getAttribute('aria-valuenow');
                turns += time < last;
                last = time;
                if (turns > 0) { watch.disconnect(); done(); }
            });
            watch.observe(slider, { attributes: true });
        })"""
    )
    notebook.tell("viewer.playing = False")
    assert notebook.ask("viewer.loop and all(1 <= time <= 4 for time in seen) and len(seen) > 1")


def test_two_lanes_are_compared(notebook):
    notebook.viewer.get_by_role("button", name="Compare").click()
    table = notebook.viewer.locator("table")
    table.wait_for()
    words = table.inner_text()
    assert "a square moves left" in words and "a disc moves" in words
    assert "0.75" in words  # 1–4 s of 1–5 s
    notebook.viewer.get_by_role("button", name="Compare").click()
    table.wait_for(state="hidden")


def test_an_exported_page_is_the_viewer_as_it_was_edited(notebook, browser, tmp_path):
    notebook.tell("viewer.segments = [dict(start=2.5, end=3.5, caption='corrected <here>')]")
    eventually(
        notebook, lambda: notebook.viewer.locator('.vt-seg[data-segment^="true "]').count(), 1
    )
    notebook.viewer.get_by_text("Export", exact=True).click()
    with notebook.page.expect_download() as saved:
        notebook.viewer.get_by_role("button", name="HTML", exact=True).click()
    path = tmp_path / "export.html"
    saved.value.save_as(path)
    text = path.read_text(encoding="utf-8")
    assert "Content-Security-Policy" in text and "default-src 'none'" in text
    page = Watched(browser.new_page(viewport={"width": 1000, "height": 900}))
    page.page.goto(path.as_uri())
    page.viewer.locator('.vt-seg[data-segment="true 1"]').click()
    assert now(page) == 2.5
    assert page.viewer.get_by_text("corrected <here>").count() > 0
    page.page.keyboard.press("Control+z")  # no history travels
    assert page.viewer.locator('.vt-seg[data-segment^="true "]').count() == 1
    assert page.errors == [] and page.elsewhere == []
    with page.page.expect_download() as again:
        page.viewer.get_by_text("Export", exact=True).click()
        page.viewer.get_by_role("button", name="JSON", exact=True).click()
    lanes = json.loads(Path(again.value.path()).read_text(encoding="utf-8"))["lanes"]
    assert lanes[0]["segments"][0]["caption"] == "corrected <here>"
    page.page.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_live_view_follows_the_host_s_theme_without_faults(notebook, theme):
    notebook.set_theme(MODE[theme])
    question = notebook.viewer.get_by_text("Which shape moves last?")
    assert (question.evaluate(GROUND) < 0.2) == MODE[theme]
    assert faults(notebook.page, VIEWER) == []


def test_nothing_went_wrong_and_nothing_was_asked_elsewhere(notebook):
    """Last of the live tests: what the page's console and network have seen in all of them."""
    assert notebook.errors == [] and notebook.elsewhere == []


# == Without a kernel ==


@pytest.mark.parametrize("app", ["lab", "notebook"])
def test_a_saved_notebook_shows_the_page_without_running(browser, jupyter, output, plain, app):
    bundle = {"text/html": output, "text/plain": "View"}
    name = jupyter.write(f"saved-{app}.ipynb", ["view"], {0: bundle})
    saved = open_notebook(browser, jupyter, name, app=app, kernel=False)
    saved.viewer.locator('.vt-seg[data-segment="predicted 2"]').click()
    assert now(saved) == 7
    assert saved.elsewhere == []
    assert leaks(plain(saved), saved.viewer) == []
    saved.page.close()


def test_a_saved_reference_to_a_widget_hides_the_page_beside_it(browser, jupyter, output):
    """JupyterLab never falls back: the chapter of the viewer says what to do."""
    reference = {"model_id": "gone", "version_major": 2, "version_minor": 0}
    bundle = {"text/html": output, "application/vnd.jupyter.widget-view+json": reference}
    name = jupyter.write("reference.ipynb", ["view"], {0: bundle})
    saved = open_notebook(browser, jupyter, name)
    saved.page.get_by_text("model not found").wait_for()
    assert saved.page.locator(VIEWER).count() == 0
    saved.page.close()


@pytest.fixture
def plain(browser, tmp_path):
    """Open the example on a bare page, as wide as it is in another."""
    pages = []

    def open_plain(hosted: Watched, **options):
        width = hosted.viewer.bounding_box()["width"]
        (tmp_path / "plain.html").write_text(view_html(example_view()), encoding="utf-8")
        page = Watched(browser.new_page(viewport={"width": 1600, "height": 900}, **options))
        page.page.goto((tmp_path / "plain.html").as_uri())
        page.viewer.wait_for()
        page.page.evaluate(
            "width => { document.body.style.cssText = `margin: 0; padding: 0; width: ${width}px;"
            " max-width: none` }",
            width,
        )
        page.viewer.locator('.vt-seg[data-segment="predicted 2"]').click()
        pages.append(page.page)
        return page.viewer

    yield open_plain
    for page in pages:
        page.close()


@pytest.mark.parametrize(("theme", "strict"), [("light", True), ("dark", False)])
def test_vscode_shows_an_output_in_its_theme(browser, output, plain, theme, strict):
    """The browser prefers the other theme: VS Code's own is what counts."""
    other = "light" if MODE[theme] else "dark"
    vscode = open_vscode(
        browser, output, output, dark=MODE[theme], strict=strict, color_scheme=other
    )
    vscode.page.locator(VIEWER).nth(1).wait_for()
    vscode.viewer.locator('.vt-seg[data-segment="predicted 2"]').click()
    assert now(vscode) == 7
    question = vscode.viewer.get_by_text("Which shape moves last?")
    assert (question.evaluate(GROUND) < 0.2) == MODE[theme]
    assert leaks(plain(vscode), vscode.viewer) == []
    if strict:
        assert faults(vscode.page, VIEWER) == []
    assert vscode.errors == [] and vscode.elsewhere == []
    vscode.page.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colab_shows_an_output_in_its_frame(browser, output, theme):
    colab, frame = open_colab(browser, {"html": output}, dark=MODE[theme])
    viewer = frame.locator(VIEWER)
    viewer.locator('.vt-seg[data-segment="predicted 2"]').click()
    assert float(viewer.get_by_role("slider").get_attribute("aria-valuenow")) == 7
    question = viewer.get_by_text("Which shape moves last?")
    assert (question.evaluate(GROUND) < 0.2) == MODE[theme]
    assert colab.errors == [] and colab.elsewhere == []
    colab.page.close()


def test_colab_runs_the_widget_s_module_in_its_frame(browser):
    state = trace_viewer(example_view()).get_state()
    traits = {
        name: state[name] for name in ("_esm", "_code", "data", "time", "selected", "segments")
    }
    traits |= {"playing": False, "loop": False}
    colab, frame = open_colab(browser, {"state": traits})
    frame.locator(VIEWER).locator('.vt-seg[data-segment="predicted 2"]').click()
    colab.wait_for("() => sent.some(({ time }) => time === 7)")
    assert colab.errors == [] and colab.elsewhere == []
    colab.page.close()


def test_colab_is_asked_for_its_manager_of_widgets(monkeypatch):
    """Without it Colab draws no widget that is not its own."""
    anywidget = pytest.importorskip("anywidget")
    asked = []
    output = types.ModuleType("google.colab.output")
    output.enable_custom_widget_manager = lambda: asked.append(True)
    output._widgets = types.SimpleNamespace(_installed_url="https://manager.example/x.js")
    for name in ("google", "google.colab"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "google.colab.output", output)
    anywidget._util.enable_custom_widget_manager_once.cache_clear()
    bundle = trace_viewer(example_view())._repr_mimebundle_()
    data, metadata = bundle
    mime = "application/vnd.jupyter.widget-view+json"
    assert mime in data and "text/html" in data and asked
    assert metadata[mime]["colab"]["custom_widget_manager"]["url"].startswith("https://manager.")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_site_shows_viewers_that_answer(browser, site, theme):
    page = Watched(browser.new_page(color_scheme=theme))
    page.page.goto((site / "viewer" / "viewer.html").as_uri())
    viewer = page.page.locator(VIEWER).first
    viewer.locator(".vt-seg.vt-predicted").first.click()
    slider = viewer.get_by_role("slider")
    assert float(slider.get_attribute("aria-valuenow")) > 0
    page.page.keyboard.press("Home")
    assert float(slider.get_attribute("aria-valuenow")) == 0
    assert (slider.evaluate(GROUND) < 0.2) == MODE[theme]
    assert page.errors == [] and page.elsewhere == []
    page.page.close()


# == Whatever the host ==


@pytest.mark.parametrize("width", [320, 800, 1400])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_page_is_whole_and_without_faults(browser, tmp_path, theme, width):
    path = example_view_page(tmp_path)
    page = Watched(browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme))
    page.page.goto(path.as_uri())
    page.viewer.locator('.vt-seg[data-segment="predicted 2"]').click()
    question = page.viewer.get_by_text("Which shape moves last?")
    assert (question.evaluate(GROUND) < 0.2) == MODE[theme]
    assert page.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert faults(page.page) == []
    assert page.errors == [] and page.elsewhere == []
    page.page.close()


def example_view_page(folder: Path) -> Path:
    """The example as a page of its own."""
    path = folder / "view.html"
    path.write_text(view_html(example_view()), encoding="utf-8")
    return path
