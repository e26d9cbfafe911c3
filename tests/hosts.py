"""Where people look at a viewer: JupyterLab, Notebook 7, VS Code's and Colab's way with an output.

The two Jupyter hosts are real: one server has both. VS Code and Colab are pages that do with an
output's HTML what these hosts do with it; what is copied of them is said beside each.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

# The viewer's own element, whatever host it stands in.
VIEWER = "[data-testid=videothinker-viewer]"

# == A view to look at ==


def example_view() -> Any:
    """A view of a clip that ends half a second after its last frame; each frame has one colour."""
    import numpy as np

    from videothinker.schema import Sample, Segment
    from videothinker.video.frames import Frames
    from videothinker.viewer.viewer import View

    colours = np.array([(200, 40, 40), (40, 120, 200)], np.uint8)
    pixels = np.broadcast_to(colours[np.arange(12) % 2, None, None], (12, 56, 100, 3)).copy()
    frames = Frames(pixels, np.arange(12.0), 11.5)  # pixels are [T, H, W, 3]
    sample = Sample(
        problem="Which shape moves last?",
        options=["A. the square", "B. the disc", "C. the cross"],
        solution="<answer>B</answer>",
        id="example",
        segments=[Segment(1, 5, "a square moves left"), Segment(6, 10, "a disc moves up")],
    )
    reply = (
        "<time>00:01-00:04</time> <caption>a square moves</caption> <think>it goes left</think> "
        "<time>00:07-00:10</time> <caption>a disc moves</caption> <think>it comes after</think> "
        "<answer>B</answer>"
    )
    return View.of(sample, frames, reply, stage="example", editable="true")


# The same as the first cell of a notebook.
EXAMPLE = f"""from typing import Any
from videothinker.viewer.viewer import View, trace_viewer

{inspect.getsource(example_view)}
view = example_view()"""


# == Jupyter ==

# Nothing asks, nothing phones home.
QUIET = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "extensionmanager-extension/plugin": {"enabled": False},
    "completer-extension/manager": {"autoCompletion": False},
    "docmanager-extension/plugin": {"autosave": False},
}
STARTED_WITHIN = 180  # seconds; a busy machine


@dataclass
class Jupyter:
    """A running server with JupyterLab and Notebook 7.

    Attributes
    ----------
    url : with the final slash, on 127.0.0.1.
    token : what a page must bring.
    folder : where the notebooks lie.
    process : the server; its kernels are its children.
    """

    url: str
    token: str
    folder: Path
    process: subprocess.Popen[bytes]

    def address(self, notebook: str, app: str) -> str:
        """The page of a notebook in `lab` or `notebook`."""
        path = {"lab": "doc/tree/", "notebook": "notebooks/"}[app] + notebook
        return f"{self.url}{path}?token={self.token}"

    def write(self, name: str, cells: list[str], outputs: dict[int, Any] | None = None) -> str:
        """Write a notebook of code cells; with `outputs` (cell → MIME bundle) a trusted, saved one.

        Returns
        -------
        Its name.
        """
        import nbformat
        from nbformat.sign import NotebookNotary
        from nbformat.v4 import new_code_cell, new_notebook, new_output

        book = new_notebook(cells=[new_code_cell(source) for source in cells])
        book.metadata["kernelspec"] = {
            "name": "python3",
            "display_name": "Python 3",
            "language": "python",
        }
        for k, bundle in (outputs or {}).items():
            output = new_output("execute_result", data=bundle, execution_count=1)
            book.cells[k].outputs, book.cells[k].execution_count = [output], 1
        nbformat.write(book, self.folder / name)
        if outputs:
            NotebookNotary(data_dir=str(self.folder.parent / "data")).sign(book)
        return name


def _environment(home: Path) -> dict[str, str]:
    """Folders of its own for a server: nothing of the user's settings is read or changed."""
    names = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    folders = {name: str(home / folder) for name, folder in names.items()}
    for folder in folders.values():
        Path(folder).mkdir()
    for name, values in QUIET.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values), encoding="utf-8")
    return {**os.environ, **folders, "JUPYTER_PREFER_ENV_PATH": "1", "OMP_NUM_THREADS": "1"}


@contextlib.contextmanager
def run_jupyter(home: Path) -> Iterator[Jupyter]:
    """Run a server with a token of its own on a free port; it is ended with its kernels."""
    folder = home / "notebooks"
    folder.mkdir()
    token = secrets.token_hex(16)
    options = [
        "--allow-root",
        "--no-browser",
        "--ip=127.0.0.1",
        "--port=0",
        f"--ServerApp.root_dir={folder}",
        f"--IdentityProvider.token={token}",
        "--LabApp.expose_app_in_browser=True",
        "--LabApp.extension_manager=readonly",
        "--LabApp.news_url=None",
        "--JupyterNotebookApp.expose_app_in_browser=True",
    ]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            env=_environment(home),
            cwd=home,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        url = _wait_for_url(home, process)
        yield Jupyter(url, token, folder, process)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_url(home: Path, process: subprocess.Popen[bytes]) -> str:
    """The address that a server writes down once it listens."""
    path = home / "runtime" / f"jpserver-{process.pid}.json"
    give_up = time.monotonic() + STARTED_WITHIN
    while process.poll() is None and time.monotonic() < give_up:
        with contextlib.suppress(OSError, json.JSONDecodeError):
            return str(json.loads(path.read_text(encoding="utf-8"))["url"])
        time.sleep(0.1)
    log = (home / "log").read_text(encoding="utf-8", errors="replace")
    raise RuntimeError(f"the Jupyter server did not start:\n{log[-4000:]}")


def _need(*packages: str) -> None:
    """Skip on a desk without these packages, fail where CI=true."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if not missing:
        return
    why = f"not installed: {', '.join(missing)} (pip install -e '.[dev]')"
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


@pytest.fixture(scope="session")
def jupyter(tmp_path_factory: pytest.TempPathFactory, browser: Any) -> Iterator[Jupyter]:
    """The one server of a test run."""
    _need("jupyterlab", "notebook", "anywidget")
    with run_jupyter(tmp_path_factory.mktemp("jupyter")) as running:
        yield running


# == A page and what went wrong on it ==

PATIENCE = 180_000  # milliseconds that a busy machine may take
# anywidget's word about a module that took more than two seconds; it then draws it all the same.
LATE = "[anywidget] Failed to initialize model."


@dataclass
class Watched:
    """A browser page that keeps its errors and the addresses it asked for elsewhere.

    Attributes
    ----------
    page : Playwright's.
    home : what an address may begin with.
    errors : of the console and uncaught ones.
    elsewhere : addresses beyond `home` that the page asked for; none is answered.
    """

    page: Any
    home: tuple[str, ...] = ("data:", "blob:", "about:", "file:")
    errors: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(PATIENCE)
        self.page.on("pageerror", self._uncaught)
        self.page.on("console", self._line)
        self.page.route("**/*", self._request)

    def _uncaught(self, error: Any) -> None:
        if LATE not in str(error):
            self.errors.append(str(error))

    def _line(self, line: Any) -> None:
        if line.type == "error" and LATE not in line.text:
            self.errors.append(f"{line.text} ({line.location.get('url', '')})")

    def _request(self, route: Any) -> None:
        if route.request.url.startswith(self.home):
            route.continue_()
        else:
            self.elsewhere.append(route.request.url)
            route.abort()

    @property
    def viewer(self) -> Any:
        """The last viewer drawn."""
        return self.page.locator(VIEWER).last

    def wait_for(self, script: str, argument: Any = None) -> Any:
        """The value of an expression of the page, once it is true."""
        return self.page.wait_for_function(script, arg=argument).json_value()


# == A notebook that is open in a Jupyter host ==

# `jupyterapp` is the application itself: the server is started so that pages have it.
PANEL = """const app = window.jupyterapp;
    const panel = app && [...app.shell.widgets('main')].find(w => w.sessionContext);"""
# Come back once the notebook is drawn and, where `kernel` says so, its kernel is idle.
READY = f"""async ({{ kernel, patience }}) => {{
    for (const start = Date.now(); Date.now() - start < patience;) {{
        {PANEL}
        const drawn = panel && panel.context.isReady && panel.content.widgets.length;
        if (drawn && !kernel) return true;
        if (drawn && panel.sessionContext.session?.kernel?.status === 'idle') return true;
        await new Promise(go => setTimeout(go, 50));
    }}
    return false;
}}"""
# Run a cell and wait for its reply.
RUN = f"""async index => {{
    {PANEL}
    app.shell.activateById(panel.id);
    panel.content.activeCellIndex = index;
    panel.content.deselectAll();
    await app.commands.execute('notebook:run-cell');
    return panel.content.widgets[index].model.outputs.toJSON();
}}"""
# Run code in a new last cell and take that away again.
ASK = f"""async code => {{
    {PANEL}
    const {{ content }} = panel, {{ commands }} = app;
    app.shell.activateById(panel.id);
    content.activeCellIndex = content.widgets.length - 1;
    await commands.execute('notebook:insert-cell-below');
    const cell = content.activeCell;
    cell.model.sharedModel.setSource(code);
    await commands.execute('notebook:run-cell');
    const outputs = cell.model.outputs.toJSON();
    await commands.execute('notebook:delete-cell');
    return outputs;
}}"""
CELLS = f"""() => {{
    {PANEL}
    return panel.content.widgets.map(cell => cell.model.sharedModel.source);
}}"""


@dataclass
class Notebook(Watched):
    """A notebook that is open in JupyterLab or Notebook 7."""

    def run(self, cell: int) -> list[dict[str, Any]]:
        """Run a cell; return its outputs.

        Raises
        ------
        AssertionError : the cell raised.
        """
        return self._checked(self.page.evaluate(RUN, cell))

    def ask(self, code: str) -> Any:
        """Run `print(json.dumps(code))` in a new cell, which goes again; return the value."""
        outputs = self._checked(self.page.evaluate(ASK, f"import json; print(json.dumps({code}))"))
        return json.loads("".join(output["text"] for output in outputs))

    def tell(self, code: str) -> None:
        """Run code in a new cell, which goes again."""
        self._checked(self.page.evaluate(ASK, code))

    @staticmethod
    def _checked(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for output in outputs:
            assert output["output_type"] != "error", "\n".join(output["traceback"])
        return outputs

    def set_theme(self, dark: bool) -> None:
        """Change the host's theme and wait until it is there."""
        self.page.evaluate(
            "theme => window.jupyterapp.commands.execute('apputils:change-theme', { theme })",
            f"JupyterLab {'Dark' if dark else 'Light'}",
        )
        self.wait_for(
            "light => document.body.dataset.jpThemeLight === light", "false" if dark else "true"
        )

    def cells(self) -> list[str]:
        """The sources of the notebook's cells."""
        return list(self.page.evaluate(CELLS))


def open_notebook(
    browser: Any, server: Jupyter, name: str, app: str = "lab", kernel: bool = True, **options: Any
) -> Notebook:
    """Open a notebook of the server in a new page.

    Parameters
    ----------
    browser, server : running.
    name : of the notebook.
    app : `lab` or `notebook`.
    kernel : wait until one is idle; else only until the cells are drawn.
    options : of the browser's page, as `viewport`.
    """
    opened = Notebook(browser.new_page(**options), home=(server.url, "data:", "blob:", "about:"))
    opened.page.goto(server.address(name, app))
    ready = opened.page.evaluate(READY, {"kernel": kernel, "patience": PATIENCE})
    assert ready, f"{name} did not open in {app}: {opened.errors}"
    opened.errors.clear()  # what the host has said of itself while it started
    return opened


# == VS Code: an output of a notebook ==

# The styles that its webviews begin with, as far as they touch an output.
VSCODE_STYLE = """
@layer vscode-default {
    body { background-color: transparent; color: var(--vscode-editor-foreground);
        font-family: var(--vscode-font-family); font-size: var(--vscode-font-size);
        margin: 0; padding: 0 20px; }
    img, video { max-width: 100%; max-height: 100%; }
    a, a code { color: var(--vscode-textLink-foreground); }
    a:focus, input:focus, select:focus, textarea:focus {
        outline: 1px solid -webkit-focus-ring-color; outline-offset: -1px; }
    code { font-family: monospace; padding: 1px 3px; border-radius: 4px; }
}
html { background-color: var(--vscode-editor-background); }
.output { font-size: 13px; line-height: 22px; padding: 8px 12px; overflow-x: auto; }
table, thead, tr, th, td, tbody { border: none; border-collapse: collapse; }
table { width: 100%; }
table, th, tr { vertical-align: middle; text-align: right; }
th, td { padding: 4px 8px; }
"""
# What `notebook.experimental.enableCsp` adds; it is off unless a reader asks for it.
VSCODE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src https: http: data:; font-src https:; connect-src https:; child-src https: data:"
)
VSCODE_COLOURS = {False: ("#ffffff", "#3b3b3b"), True: ("#1f1f1f", "#cccccc")}
# Its renderer of text/html: the markup, then hooks that it awaits, then the element, and only then
# each script once more, put at the end of the output and taken away again.
VSCODE_RENDER = """async html => {
    const element = document.createElement('div');
    element.innerHTML = html;
    await new Promise(go => setTimeout(go, 20));
    document.querySelector('.output').appendChild(element);
    for (const old of [...element.getElementsByTagName('script')]) {
        const script = document.createElement('script');
        script.text = old.innerText;
        if (old.type) script.setAttribute('type', old.type);
        element.appendChild(script).parentNode.removeChild(script);
    }
}"""


def open_vscode(
    browser: Any, *outputs: str, dark: bool = False, strict: bool = False, **options: Any
) -> Watched:
    """Show HTML outputs as VS Code's renderer of notebooks does.

    Parameters
    ----------
    browser : running.
    outputs : HTML, as of `text/html`.
    dark : the theme of VS Code, whatever the browser prefers.
    strict : with the policy of `notebook.experimental.enableCsp`.
    options : of the browser's page.
    """
    theme = "vscode-dark" if dark else "vscode-light"
    ground, ink = VSCODE_COLOURS[dark]
    policy = f'<meta http-equiv="Content-Security-Policy" content="{VSCODE_POLICY}">'
    opened = Watched(browser.new_page(**options))
    opened.page.set_content(
        f'<html lang="en" style="--vscode-editor-background: {ground};'
        f"--vscode-editor-foreground: {ink}; --vscode-font-family: sans-serif;"
        f'--vscode-font-size: 13px"><head><title>notebook</title>{policy if strict else ""}'
        f"<style>{VSCODE_STYLE}</style></head>"
        f'<body class="{theme}" data-vscode-theme-kind="{theme}"><div id="container">'
        '<div class="cell_container"><div class="output_container"><div class="output">'
        "</div></div></div></div></body></html>"
    )
    for output in outputs:
        opened.page.evaluate(VSCODE_RENDER, output)
    return opened


# == Colab: every output in a frame of its own, of another origin ==

COLAB_FRAME = """<!doctype html><html %s><head><meta charset="utf-8"><style>
    body { margin: 0; font-family: Roboto, sans-serif; font-size: 14px }
    html[theme=dark] { background: #383838; color: #e3e3e3 }
    .output_subarea ul { list-style: square } .output_subarea h4 { font-size: 20px }
</style></head><body><div id="output-body"></div><script>
    addEventListener('message', async ({ data }) => {
        const area = document.getElementById('output-body').appendChild(
            document.createElement('div'));
        area.className = 'output_subarea output_html';
        if (data.html) {
            area.innerHTML = data.html;
            for (const old of [...area.querySelectorAll('script')]) {
                const script = document.createElement('script');
                script.textContent = old.textContent;
                old.replaceWith(script);
            }
        } else {
            const state = data.state, heard = {};
            const file = new Blob([state._esm], { type: 'text/javascript' });
            const module = await import(URL.createObjectURL(file));
            const { on, off, ...model } = {
                get: key => state[key],
                set(key, value) {
                    state[key] = value;
                    (heard['change:' + key] || []).forEach(react => react());
                },
                save_changes: () => parent.postMessage({ time: state.time }, '*'),
                send: content => parent.postMessage({ content }, '*'),
                on: (name, react) => { (heard[name] ||= []).push(react); },
                off: (name, react) => {
                    heard[name] = (heard[name] || []).filter(one => one !== react);
                },
            };
            await module.default.render({ model: { ...model, on, off }, el: area });
        }
    });
</script></body></html>"""


def open_colab(browser: Any, output: dict[str, Any], dark: bool = False, **options: Any) -> Any:
    """Show an output as Colab does, in a frame that may run scripts and nothing else.

    Parameters
    ----------
    browser : running.
    output : `{"html": text}`, or `{"state": traits}` for a widget's module and state.
    dark : Colab's theme.
    options : of the browser's page.

    Returns
    -------
    The watched page and its frame; what a widget sends stands in the page's `sent`.
    """
    opened = Watched(browser.new_page(**options))
    opened.page.set_content(
        "<!doctype html><title>notebook</title><body><script>var sent = [];"
        "addEventListener('message', ({ data }) => sent.push(data));</script>"
        '<iframe sandbox="allow-scripts" title="output" style="width: 100%; height: 900px">'
        "</iframe></body>"
    )
    document = COLAB_FRAME % ("theme=dark" if dark else "")
    opened.page.evaluate(
        """document_ => new Promise(loaded => {
            const frame = document.querySelector('iframe');
            frame.onload = loaded;
            frame.srcdoc = document_;
        }).then(() => 0)""",
        document,
    )
    opened.page.evaluate(
        "output => document.querySelector('iframe').contentWindow.postMessage(output, '*')", output
    )
    return opened, opened.page.frame_locator("iframe")


# == What is asked of every host ==

# What a host's style sheet could change of an element, colours and measures apart.
PROPERTIES = [
    *("display", "position", "float", "box-sizing", "opacity", "visibility", "cursor", "filter"),
    *(f"margin-{side}" for side in ("top", "right", "bottom", "left")),
    *(f"padding-{side}" for side in ("top", "right", "bottom", "left")),
    *(f"border-{side}-width" for side in ("top", "right", "bottom", "left")),
    *(f"border-{side}-style" for side in ("top", "right", "bottom", "left")),
    *("border-top-left-radius", "border-collapse", "list-style-type", "list-style-position"),
    *("font-family", "font-size", "font-weight", "font-style", "font-variant-numeric"),
    *("line-height", "letter-spacing", "word-spacing", "text-transform", "text-align"),
    *("text-indent", "text-shadow", "text-decoration-line", "vertical-align", "white-space"),
    *("overflow-wrap", "word-break", "direction", "unicode-bidi", "max-width", "max-height"),
    *("min-width", "image-rendering", "object-fit", "user-select", "appearance"),
]
STYLES = """(root, properties) => {
    const found = [];
    const walk = (node, path) => {
        const style = getComputedStyle(node);
        found.push([path, properties.map(name => style.getPropertyValue(name))]);
        const tags = {};
        for (const child of [...(node.shadowRoot || node).children]) {
            const name = child.localName + (child.className ? '.' + child.className : '');
            if (child.localName === 'style') continue;
            tags[name] = (tags[name] || 0) + 1;
            walk(child, path + ' > ' + name + ':' + tags[name]);
        }
    };
    if (!root.shadowRoot) walk(root, 'viewer');
    else for (const child of root.shadowRoot.children) {
        if (child.localName !== 'style') walk(child, child.localName);
    }
    return found;
}"""


def leaks(plain: Any, hosted: Any) -> list[str]:
    """Styles of a viewer's elements that differ between a bare page and a host.

    Parameters
    ----------
    plain, hosted : locators of the same viewer, equally wide.
    """
    first = plain.evaluate(STYLES, PROPERTIES)
    second = hosted.evaluate(STYLES, PROPERTIES)
    paths = [path for path, _ in first]
    assert paths == [path for path, _ in second], "the two drawings have different elements"
    return [
        f"{path}: {name} is {there}, not {here}"
        for (path, ours), (_, theirs) in zip(first, second, strict=True)
        for name, here, there in zip(PROPERTIES, ours, theirs, strict=True)
        if here != there
    ]


def faults(page: Any, context: str | None = None) -> list[str]:
    """What axe-core calls serious or critical on a page, or in the elements of a selector."""
    _need("axe_playwright_python")
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, context=context).response["violations"]
    return [
        f"{fault['impact']} {fault['id']}: {node['target']} {node.get('failureSummary', '')}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]


# The relative luminance (WCAG 2) of what is behind an element's text: 0 black, 1 white.
GROUND = """element => {
    let node = element;
    let colour = 'rgba(0, 0, 0, 0)';
    while (node && /, 0\\)$|transparent/.test(colour)) {
        colour = getComputedStyle(node).backgroundColor;
        node = node.parentElement || node.getRootNode().host;
    }
    const canvas = document.createElement('canvas');
    canvas.width = canvas.height = 1;
    const context = canvas.getContext('2d', { willReadFrequently: true });
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    const part = v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    const [r, g, b] = [...context.getImageData(0, 0, 1, 1).data].map(part);
    return .2126 * r + .7152 * g + .0722 * b;
}"""
