"""The viewer's work is bounded: per step of a scrub, and per view drawn again.

What is counted here does not depend on how busy the machine is; `scripts/bench_viewer.py` prints
the times.
"""

from __future__ import annotations

import numpy as np
import pytest
from conftest import load_script
from hosts import Watched

from videothinker.viewer.viewer import trace_viewer, view_html

pytestmark = pytest.mark.browser

STEPS = 40
RUNS = 50
bench = load_script("bench_viewer")


@pytest.fixture(scope="module")
def hour(browser, tmp_path_factory):
    """A page with an hour of video and a thousand segments."""
    path = tmp_path_factory.mktemp("speed") / "hour.html"
    path.write_text(view_html(bench.hour_view()), encoding="utf-8")
    page = Watched(browser.new_page(viewport={"width": 1400, "height": 1000}))
    page.page.goto(path.as_uri())
    page.viewer.get_by_role("slider").wait_for()
    yield page
    page.page.close()


def test_an_hour_with_a_thousand_segments_is_a_page_of_few_elements(hour):
    assert sum(len(lane.segments) for lane in bench.hour_view().lanes) == 1000
    counts = bench.counters(hour.page)
    assert counts["Nodes"] < 12_000 and counts["JSEventListeners"] < 2_000
    assert hour.errors == [] and hour.elsewhere == []


@pytest.mark.parametrize("what", ["scrub", "zoom", "pan"])
def test_a_step_does_little(hour, what):
    """One layout a step, some tens of changes, and nothing that stays."""
    before = bench.counters(hour.page)
    steps = bench.steps(hour.page, what, STEPS)
    after = bench.counters(hour.page)
    assert len(steps) == STEPS
    changes = np.array([step["changes"] for step in steps])
    assert changes.max() > 0, "nothing moved"
    most = {"scrub": 60, "zoom": 6_000, "pan": 6_000}[what]
    assert np.median(changes) <= most, sorted(changes)
    assert after["LayoutCount"] - before["LayoutCount"] <= 4 * STEPS
    assert after["JSEventListeners"] - before["JSEventListeners"] < 400
    hour.page.keyboard.press("0")


def test_a_view_drawn_fifty_times_leaves_nothing_behind(browser, tmp_path):
    """As when a cell is run again: the old drawing's clean-up is called, and then a new one is."""
    (tmp_path / "empty.html").write_text("<!doctype html><title>empty</title><body></body>")
    page = Watched(browser.new_page())
    page.page.goto((tmp_path / "empty.html").as_uri())
    viewer = trace_viewer(bench.hour_view(n_segments=100))
    shown = bench.load_module(page.page, viewer.get_state())
    bench.draw_again(page.page, 5)
    before = bench.counters(page.page, collect=True)
    bench.draw_again(page.page, RUNS)
    after = bench.counters(page.page, collect=True)
    assert after["JSHeapUsedSize"] - before["JSHeapUsedSize"] < shown
    assert after["Nodes"] - before["Nodes"] < RUNS
    assert after["JSEventListeners"] <= before["JSEventListeners"] + 5
    assert page.page.evaluate("Object.values(heard).every(one => one.length === 0)")
    assert page.errors == []
    page.page.close()
