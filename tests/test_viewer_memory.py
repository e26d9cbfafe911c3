"""What a cell that is run again and again leaves in the page of JupyterLab."""

from __future__ import annotations

import json

import pytest
from conftest import load_script
from hosts import EXAMPLE, VIEWER, Notebook, example_view, open_notebook

from videothinker.viewer.viewer import view_data

pytest_plugins = ["hosts"]
pytestmark = pytest.mark.browser

RUNS = 50
MARGIN = 4_000  # bytes of a run; 50 runs of one cell, measured twice, differ by less
bench = load_script("bench_viewer")

# JupyterLab itself keeps something of each run, and more of each widget, also of a closed one.
TRIVIAL = """
import anywidget

class Trivial(anywidget.AnyWidget):
    _esm = "export default { render: ({ el }) => { el.dataset.testid = 'trivial'; } };"

trivial = Trivial()"""
CONTROL = """trivial.layout.close()
trivial.close()
trivial = Trivial()
trivial"""
SHOW = "viewer = trace_viewer(view)\nviewer"
# Run a cell n times, each time until its widget is drawn.
AGAIN = """async ({ index, n, drawn }) => {
    const { commands, shell } = window.jupyterapp;
    const panel = [...shell.widgets('main')].find(widget => widget.sessionContext);
    const cell = panel.content.widgets[index];
    const pause = () => new Promise(go => requestAnimationFrame(() => setTimeout(go, 20)));
    shell.activateById(panel.id);
    panel.content.activeCellIndex = index;
    for (let k = 0; k < n; k++) {
        await commands.execute('notebook:run-cell');
        do await pause(); while (!cell.node.querySelector(drawn));
    }
    await pause();
}"""


def growth(notebook: Notebook, cell: int, drawn: str) -> dict[str, float]:
    """What a run of a cell leaves in the page, on average; `drawn` finds its widget."""
    again = {"index": cell, "drawn": drawn}
    notebook.page.evaluate(AGAIN, {**again, "n": 10})
    before = bench.counters(notebook.page, collect=True)
    notebook.page.evaluate(AGAIN, {**again, "n": RUNS})
    after = bench.counters(notebook.page, collect=True)
    names = {"bytes": "JSHeapUsedSize", "nodes": "Nodes", "listeners": "JSEventListeners"}
    return {name: (after[key] - before[key]) / RUNS for name, key in names.items()}


def test_a_cell_run_fifty_times_leaves_less_than_it_shows(browser, jupyter):
    """Beside a widget that shows one word: neither script, pictures nor drawings stay."""
    name = jupyter.write("memory.ipynb", [EXAMPLE + TRIVIAL, CONTROL, SHOW])
    lab = open_notebook(browser, jupyter, name)
    lab.run(0)
    control = growth(lab, 1, "[data-testid=trivial]")
    ours = growth(lab, 2, VIEWER)
    shown = len(json.dumps(view_data(example_view())))
    print(f"left by a run: {control=} {ours=} {shown=}")
    more = {name: ours[name] - control[name] for name in ours}
    assert more["bytes"] < shown + MARGIN, f"{control=} {ours=} {shown=}"
    # JupyterLab's own counts waver by some; one drawing of a viewer has dozens of listeners
    assert more["nodes"] < 10 and more["listeners"] < 5, f"{control=} {ours=}"
    widgets = "len(__import__('ipywidgets').widgets.widget._instances)"
    assert lab.ask(widgets) == 4, "closed widgets stay in the kernel"
    assert lab.errors == [] and lab.elsewhere == []
    lab.page.close()
