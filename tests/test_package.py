"""The package as a whole: one version, true requirements, documented names, light imports."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import logging
import os
import re
import resource
import shlex
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, notebooks
from packaging.requirements import Requirement

import videothinker

INI = ConfigParser(delimiters=["="])
INI.read(ROOT / "settings.ini", encoding="utf-8")
SETTINGS = INI["DEFAULT"]
HAND_WRITTEN = ("__init__.py", "__main__.py", "_modidx.py")  # no notebook exports them
MODULES = sorted(
    path for path in (ROOT / "videothinker").rglob("*.py") if path.name not in HAND_WRITTEN
)
# modules whose import loads torch; every other one works in an installation without it
NEED_TORCH = {
    "model.attention",
    "model.batch",
    "model.encoder",
    "model.generate",
    "model.prefix_tree",
    "model.family",
    "model.qwen2_5_vl",
    "model.qwen3_vl",
    "model.loading",
    "model.padding_free",
    "model.shared_prefix",
    "model.vision_cache",
    "model.vllm_input",
    "model.whole_copy",
    "toy.base",
    "toy.model",
    "training.checkpoints",
    "training.grpo",
    "training.losses",
    "training.parity",
    "training.rollouts",
    "training.samplers",
    "training.setup",
    "training.sft",
    "training.vllm_rollout",
}
HEAVY = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "pyarrow",
    "matplotlib",
    "scipy",
    "huggingface_hub",
    "av",
    "decord",
    "openai",
    "anywidget",
    "ipywidgets",
)
FLAGS = {"notest", "slow", "gpu", "hub", "qlora"}
DIRECTIVES = FLAGS | set(
    "default_exp export exporti exports hide hide_line exec_doc eval echo output code-fold "
    "code-summary warning label fig-cap fig-alt".split()
)
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


def dotted(path: Path) -> str:
    """A module's name below the package: `data.mix`."""
    return ".".join(path.relative_to(ROOT / "videothinker").with_suffix("").parts)


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
    for tool in ("nbdev", "ruff", "mypy"):
        pins = SETTINGS["dev_requirements"] + SETTINGS["test_requirements"]
        assert f"{tool}=={importlib.metadata.version(tool)}" in pins


def test_library_users_need_no_notebook_tools() -> None:
    for name in ("nbdev", "fastcore", "execnb"):
        assert name not in SETTINGS["requirements"] + SETTINGS["train_requirements"]
        users = [
            p.name
            for p in MODULES
            if re.search(rf"^\s*(from|import) {name}\b", p.read_text(), re.M)
        ]
        assert not users, f"{users} import {name}"


def requirement_names(key: str) -> set[str]:
    """The packages of a `…requirements` key of settings.ini, without versions and extras."""
    specs = shlex.split(SETTINGS[key])
    return {re.split(r"[^\w.-]", spec, maxsplit=1)[0].lower().replace("_", "-") for spec in specs}


def test_the_light_installation_has_no_torch() -> None:
    light = requirement_names("requirements")
    assert not light & {"torch", "transformers", "trl", "peft", "accelerate", "datasets", "pyarrow"}
    extras = {
        key.removesuffix("_requirements") for key in SETTINGS if key.endswith("_requirements")
    }
    assert extras == {"train", "lab", "test", "dev", "vllm", "deepspeed", "qlora", "gguf", "ray"}
    assert "videothinker[train,lab,test]" in SETTINGS["dev_requirements"]


def test_every_library_that_is_imported_is_required() -> None:
    declared = set().union(
        *(requirement_names(key) for key in SETTINGS if key.endswith("requirements"))
    )
    named = {"PIL": "pillow", "yaml": "pyyaml", "decord": "decord2"}
    brought = {"tokenizers", "traitlets", "yarl", "torchcodec"}  # by other libraries; the user
    own = {"videothinker", *sys.stdlib_module_names}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in {n.split(".")[0] for n in names} - own - brought:
                assert named.get(name, name).replace("_", "-") in declared, f"{path}: {name}"


def test_constraints_fit_what_is_declared() -> None:
    """constraints.txt holds a version within the bounds for every declared requirement."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins: dict[str, list[str]] = {}
    for line in lines:
        if match := re.match(r"([\w.-]+)==([^\s;]+)", line):
            pins.setdefault(match[1].lower().replace("_", "-"), []).append(match[2])
    extras = ("train", "lab", "test", "deepspeed", "qlora")
    keys = ("requirements", *(f"{extra}_requirements" for extra in extras))
    for spec in (Requirement(s) for key in keys for s in shlex.split(SETTINGS[key])):
        versions = pins[spec.name.lower().replace("_", "-")]
        assert all(spec.specifier.contains(v) for v in versions), f"{spec}: {versions}"


# Packaged files


def test_recipes_accelerate_files_and_mixes_are_packaged() -> None:
    for kind in ("recipes", "accelerate", "mixes"):
        folder = ROOT / "videothinker" / "presets" / kind
        assert {p.suffix for p in folder.rglob("*") if p.is_file()} == {".yaml"}
    patterns = SETTINGS["package_data"].split()
    files = {p for pattern in patterns for p in (ROOT / "videothinker").glob(pattern)}
    assert {p for p in (ROOT / "videothinker" / "presets").rglob("*.yaml")} <= files
    static = (ROOT / "videothinker" / "viewer").rglob("static/*")
    assert {p for p in static if p.is_file()} <= files


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
    source = (
        '__all__ = ["f", "C", "x"]\nx = 1\ndef f(a, *b: int): "doc"\n'
        "class C:\n    def m(self) -> int: ...\n"
    )
    assert gaps(source) == [
        "f: a has no annotation",
        "f: return has no annotation",
        "C: no docstring",
        "C.m: no docstring",
    ]
    assert gaps(source.replace('__all__ = ["f", "C", "x"]', '__all__ = ["x"]')) == []


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_exported_names_are_documented_and_typed(path: Path) -> None:
    assert gaps(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_module_is_exported(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert "AUTOGENERATED! DO NOT EDIT!" in source
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
    assert len(nb["cells"]) < 90 or path.parent.name == "tutorials"
    assert len(text) < 200_000
    assert not re.search(r"/(home|root|Users|tmp)/\w", text), "a path of one machine"


def test_every_notebook_has_a_line_in_the_house() -> None:
    house = ROOT / "nbs" / "tutorials" / "house.ipynb"
    text = house.read_text(encoding="utf-8")
    others = [path for path in notebooks() if path not in (house, ROOT / "nbs" / "index.ipynb")]
    links = [os.path.relpath(path, house.parent) for path in others]
    assert not [link for link in links if f"]({link})" not in text]


# Speed


def processor_seconds(times: int, args: list[str]) -> float:
    """The least processor time of some runs: unlike the clock, a busy machine cannot change it."""
    least = float("inf")
    for _ in range(times):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(args, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        least = min(least, used)
    return least


def test_import_is_fast() -> None:
    assert processor_seconds(3, [sys.executable, "-c", "import videothinker"]) < 1.0


def test_help_is_fast_and_helpful(command: str) -> None:
    assert processor_seconds(3, [command, "--help"]) < 1.0
    text = subprocess.run([command, "--help"], check=True, capture_output=True, text=True).stdout
    assert "demo" in text and "usage" in text.lower()


@pytest.mark.parametrize("name", [m for p in MODULES if (m := dotted(p)) not in NEED_TORCH])
def test_light_modules_load_nothing_heavy(name: str) -> None:
    code = f"import sys, videothinker.{name}; print(*(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


def test_modules_that_need_torch_exist() -> None:
    assert NEED_TORCH <= {dotted(path) for path in MODULES}


def test_a_library_does_not_complain_of_kernels_that_nobody_asked_for() -> None:
    assert not logging.getLogger("bitsandbytes.backends.cpu.ops").isEnabledFor(logging.WARNING)
