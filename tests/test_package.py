"""The package as a whole: one version, documented and typed names, light imports, one direction of dependency."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import time
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, notebooks

import videothinker

INI = ConfigParser(delimiters=["="])
INI.read(ROOT / "settings.ini", encoding="utf-8")
SETTINGS = INI["DEFAULT"]
MODULES = sorted(
    p for p in (ROOT / "videothinker").rglob("*.py") if p.name not in ("__init__.py", "_modidx.py")
)
LIGHT = ("schema", "trace", "frames", "video", "toyworld", "engine", "synthesis", "hindsight", "rewards", "metrics",
         "canvas", "charts", "viewer", "report", "cli", "clips", "annotations", "values", "survey", "decoding", "ahead",
         "caption_adapters", "question_adapters", "sources", "faults", "findings", "guessing", "leakage", "validate",
         "tables", "card", "prepare", "mix", "prompts", "data_commands", "paths")  # fmt: skip
HEAVY = (
    "torch",
    "transformers",
    "trl",
    "datasets",
    "matplotlib",
    "av",
    "decord",
    "openai",
    "anywidget",
    "ipywidgets",
)
FLAGS = {"notest", "slow", "gpu", "hub", "qlora"}
DIRECTIVES = FLAGS | {"default_exp", "export", "exporti", "exports", "hide", "hide_line", "exec_doc", "eval", "echo",
                      "output", "code-fold", "code-summary", "warning", "label", "fig-cap"}  # fmt: skip
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


# One truth


def test_version_is_said_once() -> None:
    assert (
        importlib.metadata.version("videothinker")
        == SETTINGS["version"]
        == videothinker.__version__
    )


def test_citation_and_changelog_know_the_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == SETTINGS["version"]
    assert citation["references"][0]["identifiers"][0]["value"] == "arXiv:2510.23473"
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert "<!-- do not remove -->" in changelog
    assert f"\n## {SETTINGS['version']}\n" in changelog


def test_tools_are_pinned_to_what_is_installed() -> None:
    for tool in ("nbdev", "smalldocs", "ruff", "mypy"):
        assert f"{tool}=={importlib.metadata.version(tool)}" in SETTINGS["dev_requirements"]


def test_library_users_need_no_notebook_tools() -> None:
    for name in ("nbdev", "fastcore", "execnb"):
        assert name not in SETTINGS["requirements"]
        users = [
            p.name
            for p in MODULES
            if re.search(rf"^\s*(from|import) {name}\b", p.read_text(), re.M)
        ]
        assert not users, f"{users} import {name}"


# Names


def exported(tree: ast.Module) -> list[str]:
    """The names in a module's `__all__`."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and [
            t.id for t in node.targets if isinstance(t, ast.Name)
        ] == ["__all__"]:
            return list(ast.literal_eval(node.value))
    return []


def untyped(node: FunctionNode, method: bool = False) -> list[str]:
    """The parameters of a function that have no annotation, and `return`."""
    args = node.args
    named = [
        *args.posonlyargs,
        *args.args,
        *args.kwonlyargs,
        *(a for a in (args.vararg, args.kwarg) if a),
    ]
    static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)
    named = named[1:] if method and not static else named
    return [a.arg for a in named if a.annotation is None] + ([] if node.returns else ["return"])


def gaps(source: str) -> list[str]:
    """Every exported name of a module that is not documented or not typed."""
    tree = ast.parse(source)
    found = []
    names = exported(tree)
    for node in tree.body:
        if getattr(node, "name", None) not in names:
            continue
        assert isinstance(node, FunctionNode | ast.ClassDef)
        if not ast.get_docstring(node):
            found.append(f"{node.name}: no docstring")
        if isinstance(node, FunctionNode):
            found += [f"{node.name}: {a} has no annotation" for a in untyped(node)]
            continue
        for method in (m for m in node.body if isinstance(m, FunctionNode)):
            found += [
                f"{node.name}.{method.name}: {a} has no annotation" for a in untyped(method, True)
            ]
            if not method.name.startswith("_") and not ast.get_docstring(method):
                found.append(f"{node.name}.{method.name}: no docstring")
    return found


def test_gaps_are_found() -> None:
    source = '__all__ = ["f", "C", "x"]\nx = 1\ndef f(a, *b: int): "doc"\nclass C:\n    def m(self) -> int: ...\n'
    assert gaps(source) == [
        "f: a has no annotation",
        "f: return has no annotation",
        "C: no docstring",
        "C.m: no docstring",
    ]
    assert gaps(source.replace('__all__ = ["f", "C", "x"]', '__all__ = ["x"]')) == []


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_exported_names_are_documented_and_typed(path: Path) -> None:
    assert gaps(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_module_is_exported_and_short(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert "AUTOGENERATED! DO NOT EDIT!" in source
    assert len(source.splitlines()) < 400
    assert exported(ast.parse(source)), "nothing is exported"


# Notebooks


def directives(path: Path) -> set[str]:
    """The directives (`#| name`) a notebook uses."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    return set(re.findall(r"^#\|\s*([\w-]+)", code, re.M))


def test_flags_are_the_ones_the_notebooks_use() -> None:
    assert set(SETTINGS["tst_flags"].split()) == FLAGS


@pytest.mark.parametrize("path", notebooks(), ids=lambda p: p.stem)
def test_notebook_is_in_shape(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    nb = json.loads(text)
    assert directives(path) <= DIRECTIVES, (
        "a directive that is not known would be ignored and its cell would run"
    )
    ids = [c.get("id") for c in nb["cells"]]
    assert all(ids) and len(set(ids)) == len(ids), (
        "cells need ids of their own: the export quotes them"
    )
    assert set(nb["metadata"]) <= {"kernelspec"}
    assert len(nb["cells"]) < 60 or path.parent.name == "tutorials"
    assert len(text) < 200_000
    assert not re.search(r"/(home|root|Users|tmp)/\w", text), "a path of one machine"


def numbers() -> dict[str, str]:
    """The module each numbered notebook exports, and its number."""
    return {
        p.stem.split("_", 1)[1]: p.stem.split("_", 1)[0]
        for p in notebooks()
        if re.match(r"\d\d[a-z]?_", p.stem)
    }


def test_every_module_has_one_notebook_and_a_line_in_the_readme() -> None:
    modules = {p.stem for p in MODULES}
    assert modules == set(numbers())
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not [
        m for m in sorted(modules) if f"[`{m}`](nbs/{numbers()[m]}_{m}.ipynb)" not in readme
    ]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_module_imports_only_from_lower_numbers(path: Path) -> None:
    order = numbers()
    used = {
        name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level
        for name in ([node.module] if node.module else [a.name for a in node.names])
    }
    assert not [name for name in used if order[name] >= order[path.stem]]


# Speed


def best_of(times: int, args: list[str]) -> float:
    """The shortest of some runs, in seconds."""
    best = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        subprocess.run(args, check=True, capture_output=True, timeout=60)
        best = min(best, time.perf_counter() - start)
    return best


def test_import_is_fast() -> None:
    assert best_of(3, [sys.executable, "-c", "import videothinker"]) < 1.0


def test_help_is_fast_and_helpful(command: str) -> None:
    assert best_of(3, [command, "--help"]) < 1.0
    text = subprocess.run([command, "--help"], check=True, capture_output=True, text=True).stdout
    assert "demo" in text and "usage" in text.lower()


@pytest.mark.parametrize("name", [m for m in LIGHT if (ROOT / "videothinker" / f"{m}.py").exists()])
def test_light_modules_load_nothing_heavy(name: str) -> None:
    code = f"import sys, videothinker.{name}; print(*(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []
