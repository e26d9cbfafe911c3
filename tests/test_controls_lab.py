"""Controls in JupyterLab itself: typed and turned there, read in Python, and set from it."""

from __future__ import annotations

import pytest
from hosts import faults, open_notebook

pytest_plugins = ["hosts"]
pytestmark = pytest.mark.browser

SETUP = """
import numpy as np
from videothinker.schema import Sample, Segment
from videothinker.video.frames import Frames
from videothinker.viewer.controls import iou_explorer, trace_editor

REPLY = (
    "<time>00:01-00:05</time> <caption>a square</caption> <think>first</think> "
    "The square, so A. <answer>A</answer>"
)
sample = Sample("What moves?", ["A. the square", "B. the ring"], "<answer>A</answer>",
                duration=12.0, segments=[Segment(1, 5, "a square")])
frames = Frames(np.zeros((4, 28, 28, 3), np.uint8), np.arange(4) * 3.0, 12.0)


def right(completions, solution, **columns):
    return [float(s in c) for c, s in zip(completions, solution)]
"""
EDITOR = "editor = trace_editor(sample, REPLY, {'right': right}, frames)\neditor"
EXPLORER = "explorer = iou_explorer(20.0, (6.0, 10.0))\nexplorer"


def test_controls_in_jupyterlab(browser, jupyter) -> None:
    """One notebook, in order: a typed text, lanes that follow, a list, an error, the end."""
    name = jupyter.write("controls.ipynb", [SETUP, EDITOR, EXPLORER])
    lab = open_notebook(browser, jupyter, name, viewport={"width": 1200, "height": 1400})
    for cell in range(3):
        bundle = lab.run(cell)
    assert "A still picture" in bundle[0]["data"]["text/html"]  # what is saved beside the widget
    area = lab.page.locator("textarea").first
    editor, explorer = (lab.page.locator(".vtc").nth(k) for k in (0, 1))
    explorer_page = lab.page.locator(".vt-control").last
    editor.get_by_text("no reward changes").wait_for()

    # typed: the rewards change, Python has the text, the viewer's lanes follow
    area.fill(lab.ask("REPLY").replace("<answer>A", "<answer>B").replace("00:05", "00:08"))
    editor.get_by_text("changes: right").wait_for()
    assert "<answer>B" in lab.ask("editor.inputs['text'].value")
    assert lab.ask("editor.viewer.segments[0]['end']") == 8
    area.fill("<b>no trace</b>")
    editor.get_by_text("Not a trace:").wait_for()

    # edited in the lane (as a drag does it): the text follows, with the thought
    lab.tell("editor.set(text=REPLY)")
    lab.tell("editor.viewer.segments = [dict(start=2.5, end=6.0, caption='a square')]")
    lab.wait_for("() => document.querySelector('textarea').value.includes('00:02.5-00:06')")
    assert "first" in area.input_value()

    # chosen from the list: text and rewards follow
    lab.page.locator(".widget-dropdown select").first.select_option(label="another answer")
    editor.get_by_text("changes: right").wait_for()
    assert "<answer>B" in area.input_value()

    # set from Python in a moving kernel: drawn again
    explorer.get_by_text("tIoU 0.60").wait_for()
    lab.tell("explorer.inputs['predicted'].value = (6.0, 10.0)")
    explorer.get_by_text("tIoU 1.00").wait_for()

    # by keyboard: the arrows move what has the focus, and are no command of the notebook
    start = explorer_page.get_by_role("slider").last
    start.focus()
    for _ in range(4):
        start.press("ArrowLeft")
    explorer.get_by_text("tIoU 0.90").wait_for()
    assert lab.ask("explorer.values['predicted']") == [6, pytest.approx(9.6)]

    # an error is a sentence, and passes
    lab.tell("explorer.draw = lambda **values: [][0]\nexplorer.redraw()")
    explorer.get_by_text("⚠ IndexError").wait_for()
    assert faults(lab.page, ".vtc") == []
    lab.tell("editor.close(); explorer.close()")
    lab.wait_for("() => document.querySelectorAll('.vtc').length === 0")
    assert lab.errors == [] and lab.elsewhere == []
    lab.page.close()
