"""What the tests share: the repository's root, its scripts as modules, and a browser."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from chat_server import CANARY, ChatServer, running

# A runner in the background may ignore SIGINT, and all that the tests start would inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def load_script(name: str) -> ModuleType:
    """Import `scripts/NAME.py` without making scripts/ a package; it finds its neighbours there."""
    spec = importlib.util.spec_from_file_location(
        f"scripts_{name}", ROOT / "scripts" / f"{name}.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their module
    if str(ROOT / "scripts") not in sys.path:
        sys.path.append(str(ROOT / "scripts"))
    spec.loader.exec_module(module)
    return module


def notebooks() -> list[Path]:
    """Every notebook of the project, in order."""
    found = (p.relative_to(ROOT / "nbs") for p in (ROOT / "nbs").rglob("*.ipynb"))
    return sorted(ROOT / "nbs" / p for p in found if not any(part[0] in "._" for part in p.parts))


@pytest.fixture(autouse=True, scope="module")
def usual_priority() -> Iterator[None]:
    """No test leaves its process with real-time priority, as an encoder has done (SVT-AV1)."""
    yield
    if hasattr(os, "sched_getscheduler"):
        policy = os.sched_getscheduler(0)
        assert policy not in (os.SCHED_FIFO, os.SCHED_RR), "this process has real-time priority"


def find_chromium() -> str | None:
    """The path of a Chromium, from CHROMIUM or the PATH."""
    names = (os.environ.get("CHROMIUM", ""), *BROWSERS)
    return next((found for name in names if name and (found := shutil.which(name))), None)


def without_browser() -> None:
    """Skip on a desk, fail where CI=true: a check that silently does not run is no check."""
    why = "no Chromium: install it (apt-get install chromium) or set CHROMIUM to its path"
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Frames that commands keep do not go into the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIDEOTHINKER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def command() -> str:
    """The installed `videothinker` command of this environment."""
    path = Path(sys.executable).parent / "videothinker"
    assert path.exists(), f"{path} is missing: pip install -e ."
    return str(path)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation site, built once by the command that publishes it."""
    out = tmp_path_factory.mktemp("site") / "docs"
    args = [sys.executable, "scripts/build_docs.py", str(out), "--check"]
    done = subprocess.run(args, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """A headless Chromium, driven by Playwright."""
    path = find_chromium()
    if path is None:
        without_browser()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        running = driver.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield running
        running.close()


@pytest.fixture
def open_page(browser) -> Iterator[Callable]:
    """Open a local file as a page that records its `errors` and what it `requested` elsewhere."""
    pages = []

    def open_file(path: Path, **options):
        page = browser.new_page(**options)
        page.errors, page.requested = [], []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on(
            "console", lambda line: page.errors.append(line.text) if line.type == "error" else None
        )
        page.on(
            "request",
            lambda r: page.requested.append(r.url) if r.url.startswith(("http", "ws")) else None,
        )
        page.goto(Path(path).resolve().as_uri())
        pages.append(page)
        return page

    yield open_file
    for page in pages:
        page.close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    """A chat server whose key is in TOY_KEY."""
    monkeypatch.setenv("TOY_KEY", CANARY)
    with running() as chat_server:
        yield chat_server


def ray_cluster(processors: int) -> Iterator[Any]:
    """For a fixture: a Ray cluster on this machine, that says it has so many processors."""
    ray = pytest.importorskip("ray", reason="Ray is for Linux here")
    from videothinker.ray_workers import connect

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        connect(ray, "local", processors)
    except Exception as error:  # Ray allows itself 15 s to start
        if "timed out" not in str(error) or os.environ.get("CI") == "true":
            raise
        pytest.skip("this machine is too busy for Ray to start in its own time")
    yield ray
    ray.shutdown()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture(scope="module")
def transformers_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`transformers serve`, a real OpenAI-compatible server."""
    pytest.importorskip("fastapi", reason="transformers serve needs FastAPI")
    port = free_port()
    words = tmp_path_factory.mktemp("serve") / "serve.log"
    command = [str(Path(sys.executable).parent / "transformers"), "serve", "--device", "cpu"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with words.open("w") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port)], env=environment, stdout=log, stderr=log
        )
        try:
            while process.poll() is None:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
                    break
                except OSError:
                    time.sleep(0.2)
            assert process.poll() is None, words.read_text()[-2000:]
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()
            process.wait()
