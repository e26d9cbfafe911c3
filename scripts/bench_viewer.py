#!/usr/bin/env python3
"""Measure the viewer in headless Chromium and print a table: an hour of video, 1,000 segments.

    python scripts/bench_viewer.py [--segments 1000] [--steps 120] [--runs 50] [--chromium PATH]

First paint, time per frame while scrubbing, zooming and panning, memory of a view drawn again,
and sizes of pages. On a busy machine only the processor's times mean something.
Needs playwright (the dev extra) and a Chromium.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from videothinker.schema import Sample, Segment
from videothinker.video.frames import Frames
from videothinker.viewer.viewer import View, trace_viewer, view_html

HOUR = 3600.0  # seconds


def hour_view(n_segments: int = 1000, n_frames: int = 768) -> View:
    """A view of an hour with half of the segments true, half of them predicted."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:72, :128]
    base = np.stack([x * 2, y * 3, (x + y)], -1).astype(np.uint8)
    pixels = np.stack([np.roll(base, 3 * k, 1) for k in range(32)])[np.arange(n_frames) % 32]
    frames = Frames(pixels, np.arange(n_frames) * HOUR / n_frames, HOUR)  # [T, H, W, 3]
    starts = np.sort(rng.uniform(0, HOUR - 60, n_segments // 2))
    ends = starts + rng.uniform(2, 50, n_segments // 2)
    true = [
        Segment(float(a), float(b), f"event {k} of the hour")
        for k, (a, b) in enumerate(zip(starts, ends, strict=True))
    ]
    reply = "".join(
        f"<time>{_clock(a + 1)}-{_clock(b + 2)}</time> <caption>what I see, {k}</caption> "
        f"<think>event {k}</think> "
        for k, (a, b) in enumerate(zip(starts, ends, strict=True))
    )
    sample = Sample("What happens?", ["A. x", "B. y"], "<answer>B</answer>", id="hour")
    sample.segments = true
    return View.of(sample, frames, f"{reply}<answer>B</answer>", editable="true")


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"


# == Counting ==


def counters(page: Any, collect: bool = False) -> dict[str, float]:
    """Chromium's own counters of a page: nodes, listeners, layouts, bytes of the heap.

    Parameters
    ----------
    page : Playwright's.
    collect : collect garbage first.
    """
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    if collect:
        for _ in range(2):
            session.send("HeapProfiler.collectGarbage")
    metrics = session.send("Performance.getMetrics")["metrics"]
    session.detach()
    return {metric["name"]: metric["value"] for metric in metrics}


# Move the pointer, or turn the wheel, once a frame; what changed and how long the frame took.
STEPS = """async ({ what, n }) => {
    const shell = document.querySelector('[data-testid=videothinker-viewer]');
    const root = shell.shadowRoot || shell, slider = root.querySelector('[role=slider]');
    const box = slider.getBoundingClientRect(), y = box.top + box.height / 2;
    let changes = 0;
    const watch = new MutationObserver(records => { changes += records.length; });
    watch.observe(root, { subtree: true, childList: true, attributes: true, characterData: true });
    const frame = () => new Promise(go => requestAnimationFrame(go));
    const pointer = (type, x) => slider.dispatchEvent(new PointerEvent(type, { clientX: x,
        clientY: y, pointerId: 1, buttons: 1, button: 0, bubbles: true, composed: true }));
    const middle = { clientX: box.left + box.width / 2, clientY: y };
    const wheel = options => slider.dispatchEvent(new WheelEvent('wheel',
        { ...middle, bubbles: true, composed: true, cancelable: true, ...options }));
    const capture = Element.prototype.setPointerCapture;
    Element.prototype.setPointerCapture = () => {};
    if (what === 'scrub') pointer('pointerdown', box.left + 5);
    if (what === 'pan') for (let k = 0; k < 4; k++) wheel({ ctrlKey: true, deltaY: -60 });
    await frame();
    const steps = [];
    for (let k = 0, last = performance.now(); k < n; k++) {
        changes = 0;
        const start = performance.now(), part = (k + 1) / (n + 1);
        if (what === 'scrub') pointer('pointermove', box.left + 5 + part * (box.width - 10));
        if (what === 'zoom') wheel({ ctrlKey: true, deltaY: k < n / 2 ? -12 : 12 });
        if (what === 'pan') wheel({ deltaX: k < n / 2 ? 40 : -40, deltaY: 0 });
        root.host?.getBoundingClientRect();
        slider.getBoundingClientRect();
        const work = performance.now() - start;
        await frame();
        const now = performance.now();
        steps.push({ changes, work, frame: now - last });
        last = now;
    }
    if (what === 'scrub') pointer('pointerup', box.right - 5);
    Element.prototype.setPointerCapture = capture;
    watch.disconnect();
    return steps;
}"""


def steps(page: Any, what: str, n: int) -> list[dict[str, float]]:
    """`scrub`, `zoom` or `pan` a view n times, once a frame.

    Returns
    -------
    For each step the `changes` of the tree, and in milliseconds the `work` (script and layout)
    and the time of the whole `frame`.
    """
    return list(page.evaluate(STEPS, {"what": what, "n": n}))


LOAD = """async state => {
    const file = new Blob([state._esm], { type: 'text/javascript' });
    window.module = await import(URL.createObjectURL(file));
    window.heard = {};
    window.state = state;
    window.model = {
        get: key => state[key], save_changes() {}, send() {},
        set(key, value) { state[key] = value; (heard['change:' + key] || []).forEach(f => f()); },
        on: (name, react) => { (heard[name] ||= []).push(react); },
        off: (name, react) => { heard[name] = (heard[name] || []).filter(one => one !== react); },
    };
}"""
DRAW_AGAIN = """async n => {
    const frame = () => new Promise(go => requestAnimationFrame(() => setTimeout(go)));
    for (let k = 0; k < n; k++) {
        const el = document.body.appendChild(document.createElement('div'));
        const end = await module.default.render({ model, el });
        await frame();
        end();
        el.remove();
    }
    await frame();
}"""


def load_module(page: Any, state: dict[str, Any]) -> int:
    """Load a widget's module into a page, with a model that holds its state.

    Returns
    -------
    Bytes of the data shown.
    """
    plain = {name: value for name, value in state.items() if _is_plain(value)}
    page.evaluate(LOAD, plain)
    return len(json.dumps(plain["data"]))


def _is_plain(value: Any) -> bool:
    return isinstance(value, (str, int, float, bool, list, dict))


def draw_again(page: Any, n: int) -> None:
    """Draw the loaded view n times, each in a new element, and take it away."""
    page.evaluate(DRAW_AGAIN, n)


# == The table ==

PAINTED = """() => new Promise(done => {
    const paint = performance.getEntriesByName('first-contentful-paint')[0];
    const drawn = () => document.querySelector('[data-testid=videothinker-viewer]');
    const wait = () => drawn() ? requestAnimationFrame(() => done([paint?.startTime,
        performance.now()])) : setTimeout(wait, 5);
    wait();
})"""


def measure(browser: Any, segments: int, n_steps: int, runs: int, folder: Path) -> list[list[str]]:
    """Rows of the table: what, figure, unit."""
    view = hour_view(segments)
    html = view_html(view)
    path = folder / "hour.html"
    path.write_text(html, encoding="utf-8")
    rows = [["size of the page", f"{len(html) / 1e6:.2f}", "MB"]]
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.context.new_cdp_session(page).send("Performance.enable")
    before = counters(page)["ProcessTime"]
    page.goto(path.as_uri())
    paint, drawn = page.evaluate(PAINTED)
    counts = counters(page)
    rows += [
        ["first paint", f"{paint or drawn:.0f}", "ms"],
        ["processor time until drawn", f"{1000 * (counts['ProcessTime'] - before):.0f}", "ms"],
        ["nodes of the page", f"{counts['Nodes']:.0f}", ""],
        ["listeners", f"{counts['JSEventListeners']:.0f}", ""],
    ]
    for what in ("scrub", "zoom", "pan"):
        before = counters(page)["ProcessTime"]
        done = steps(page, what, n_steps)
        spent = 1000 * (counters(page)["ProcessTime"] - before) / n_steps
        frame = statistics.median(step["frame"] for step in done)
        worst = np.percentile([step["frame"] for step in done], 95)
        work = statistics.median(step["work"] for step in done)
        changes = statistics.median(step["changes"] for step in done)
        rows += [
            [f"{what}: median frame (95 %)", f"{frame:.1f} ({worst:.1f})", "ms"],
            [f"{what}: frames a second", f"{1000 / frame:.0f}", ""],
            [f"{what}: median work of a step", f"{work:.1f}", "ms"],
            [f"{what}: processor time of a frame", f"{spent:.1f}", "ms"],
            [f"{what}: changes of a step", f"{changes:.0f}", ""],
        ]
    page.close()
    page = browser.new_page()
    shown = load_module(page, trace_viewer(view).get_state())
    draw_again(page, 5)
    before = counters(page, collect=True)
    draw_again(page, runs)
    after = counters(page, collect=True)
    grown = (after["JSHeapUsedSize"] - before["JSHeapUsedSize"]) / 1e6
    rows += [
        ["data of the view", f"{shown / 1e6:.2f}", "MB"],
        [f"heap after {runs} drawings more", f"{grown:+.2f}", "MB"],
        ["nodes after them", f"{after['Nodes'] - before['Nodes']:+.0f}", ""],
        [
            "listeners after them",
            f"{after['JSEventListeners'] - before['JSEventListeners']:+.0f}",
            "",
        ],
    ]
    page.close()
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--segments", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=120, help="of a scrub, a zoom and a pan")
    parser.add_argument("--runs", type=int, default=50, help="how often a view is drawn again")
    parser.add_argument("--chromium", default=os.environ.get("CHROMIUM") or "chromium")
    args = parser.parse_args()
    path = shutil.which(args.chromium)
    if path is None:
        print(f"bench_viewer: no {args.chromium}: install it, or say --chromium", file=sys.stderr)
        return 1
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-dev-shm-usage"]
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as folder:
        browser = driver.chromium.launch(executable_path=path, args=flags)
        rows = measure(browser, args.segments, args.steps, args.runs, Path(folder))
        browser.close()
    width = max(len(row[0]) for row in rows)
    for name, figure, unit in rows:
        print(f"{name:<{width}}  {figure:>14} {unit}")
    return 0


if __name__ == "__main__":
    from videothinker.commands.main import reader_may_leave

    with reader_may_leave():
        sys.exit(main())
