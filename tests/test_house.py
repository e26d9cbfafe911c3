"""The rooms: arrows run one way, the toy stays in its room, notebooks and modules match."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, notebooks

PACKAGE = ROOT / "videothinker"
HAND_WRITTEN = ("__init__.py", "__main__.py", "_modidx.py")  # no notebook exports them
# a room imports from itself and from rooms before it
ROOMS = (
    "core",
    "video",
    "data",
    "synthesis",
    "model",
    "evaluation",
    "training",
    "viewer",
    "toy",
    "commands",
)


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name below `videothinker`."""
    files = (p for p in PACKAGE.rglob("*.py") if p.name not in HAND_WRITTEN)
    return {".".join(p.relative_to(PACKAGE).with_suffix("").parts): p for p in sorted(files)}


def room(module: str) -> str:
    """The room of a module; those at the root are the core."""
    return module.split(".")[0] if "." in module else "core"


def imported(module: str, path: Path) -> Iterator[str]:
    """The modules of the package that a module imports, anywhere in it."""
    package = ["videothinker", *module.split(".")[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (n.removeprefix("videothinker.") for n in names if n.startswith("videothinker."))


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    """Module → modules that it imports."""
    known = modules()
    return {name: {m for m in imported(name, path) if m in known} for name, path in known.items()}


def test_every_module_is_in_a_room(graph: dict[str, set[str]]) -> None:
    assert {room(m) for m in graph} == set(ROOMS)
    assert len(graph) > 50


def test_arrows_run_one_way(graph: dict[str, set[str]]) -> None:
    up = [
        f"{module} imports {other}"
        for module, others in graph.items()
        for other in others
        if ROOMS.index(room(other)) > ROOMS.index(room(module))
    ]
    assert not up


def test_there_are_no_circles(graph: dict[str, set[str]]) -> None:
    left = {module: set(others) for module, others in graph.items()}
    while free := {m for m, others in left.items() if not others}:
        left = {m: others - free for m, others in left.items() if m not in free}
    assert not left, f"these import each other: {sorted(left)}"


def test_the_toy_stays_in_its_room(graph: dict[str, set[str]]) -> None:
    users = {m for m, others in graph.items() if any(room(o) == "toy" for o in others)}
    assert {room(m) for m in users} <= {"toy", "commands"}


def exports(notebook: Path) -> str | None:
    """The module that a notebook exports, None for a guide."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    found = re.match(r"#\| default_exp (\S+)", "".join(cells[0]["source"]))
    return found[1] if found else None


def test_notebooks_stand_in_the_room_of_their_module() -> None:
    for notebook in notebooks():
        module = exports(notebook)
        if module is None:
            assert notebook.parent.name in ("nbs", "tutorials"), notebook
            continue
        assert notebook.parent.name.split("_", 1)[1] == room(module), notebook
        assert notebook.stem.split("_", 1)[1] == module.split(".")[-1], notebook


def test_every_module_has_a_notebook() -> None:
    assert {exports(n) for n in notebooks()} - {None} == set(modules())


def test_numbers_of_notebooks_are_an_order_of_dependency(graph: dict[str, set[str]]) -> None:
    place = {m: n.relative_to(ROOT / "nbs").as_posix() for n in notebooks() if (m := exports(n))}
    later = [
        f"{module} imports {other}, whose notebook comes later"
        for module, others in graph.items()
        for other in others
        if room(module) == room(other) and place[other] > place[module]
    ]
    assert not later


def test_lines_have_at_most_100_columns() -> None:
    """ruff checks the notebooks; nbdev itself writes `__all__` wider."""
    for path in modules().values():
        text = path.read_text(encoding="utf-8")
        text = re.sub(r"^__all__ = \[.*?\]$", "", text, flags=re.M | re.S)
        assert not [line for line in text.splitlines() if len(line) > 100], path


def test_saved_outputs_hold_no_warnings_and_no_places() -> None:
    for notebook in notebooks():
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                text = "".join(output.get("text", []))
                assert output.get("name") != "stderr", (notebook, cell["id"], text[:200])
                assert "site-packages" not in text, (notebook, cell["id"])
