"""`scripts/check_gpu.py`: all of its rows on a CPU, and what becomes of a row that fails."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from conftest import ROOT, load_script
from gpu_like import gpu_like

SCRIPT = ROOT / "scripts" / "check_gpu.py"


def run(*args: object, cwd: Path, script: Path = SCRIPT) -> subprocess.CompletedProcess[str]:
    """Run the script as one does with a checkout in which nothing was installed."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    env.pop("PYTHONPATH", None)
    return subprocess.run(
        [sys.executable, str(script), *map(str, args)],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def check() -> ModuleType:
    return load_script("check_gpu")


def place_of(check: ModuleType, minutes: float = 60) -> Any:
    return check.Place(True, time.time() + 60 * minutes)


def test_every_row_runs_on_a_cpu(check: ModuleType, tmp_path: Path) -> None:
    done = run("--tiny", "--minutes", 600, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    names = [c.name for c in check.all_checks()]
    first, second, head, *lines, last = done.stdout.splitlines()
    assert "device CPU" in first and "prompt of 192 tokens, 4 completions of 8" in second
    assert head.split()[:3] == ["row", "result", "s"]
    assert [line[: check.NAME].strip() for line in lines] == names
    assert last == f"{len(names)} of {len(names)} rows passed"

    report = json.loads((tmp_path / "check_gpu.json").read_text())
    assert report["tiny"] and report["size"] == [192, 8, 4]
    assert report["machine"]["torch"] == torch.__version__
    rows = {row["name"]: row for row in report["rows"]}
    assert list(rows) == names and {row["result"] for row in rows.values()} == {"passed"}
    for title in check.FAMILIES.values():
        assert rows[f"card: patches of {title}"]["figures"]["difference"] < 1e-5
        for way in ("shared", "in parts"):
            exact = rows[f"exact: {title}, 32 bits, {way}"]["figures"]
            assert 0 < exact["logps"] < 1e-5 and 0 < exact["gradient"] < 1e-4
            assert exact["kernels"].keys() == {"flash"}
            narrow = rows[f"exact: {title}, 16 bits, {way}"]["figures"]
            assert exact["gradient"] < narrow["gradient"] < 2 * narrow["repeated_gradient"]
            step = rows[f"step: {title}, {way}"]["figures"]
            assert step["ratio"] > 0 and 1.5 < step["predicted_ratio"] < 4
            assert step["planned_gb"] > 0 and step["planned_tflop"] > 0
            assert step["of_matmul"] > 0 and step["gb"] is None and "mfu" not in step
        assert rows[f"step: {title}, repeated"]["figures"]["ratio"] == 1
        assert rows[f"train: {title}, GRPO"]["figures"]["kl"] == 0


# As on a GPU: in `gpu_like` tensors of the host meet none of the device, and attention is a GPU's


@pytest.fixture(scope="module")
def watched(check: ModuleType) -> ModuleType:
    """The script under a name by which `gpu_like` watches what it makes."""
    modules = {}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("grpo_ways", "check_gpu"):
            path = ROOT / "scripts" / f"{name}.py"
            spec = importlib.util.spec_from_file_location(f"videothinker_{name}", path)
            assert spec is not None and spec.loader is not None
            modules[name] = importlib.util.module_from_spec(spec)
            patch.setitem(sys.modules, spec.name, modules[name])
            patch.setitem(sys.modules, name, modules[name])
            spec.loader.exec_module(modules[name])
        yield modules["check_gpu"]


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_rows_run_as_on_a_gpu(watched: ModuleType, family: str) -> None:
    place = place_of(watched)
    for bits in (32, 16):
        watched.exact_of(place, family, bits)  # 64 bits have no other kernel than math
        with gpu_like() as seen:
            for way in ("shared", "in parts"):
                assert not watched.exactness(place, family, bits, way)["problem"]
            assert not watched.rollout(place, family, bits)["problem"]
        assert seen.attentions
    with gpu_like() as seen:
        for way in watched.WAYS:
            assert not watched.step(place, family, way)["problem"]
    assert seen.sixteen_bits == seen.attentions > 0


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_models_of_true_size_fit_into_80_gb(check: ModuleType, family: str) -> None:
    """On torch's `meta` device, where weights have a size and no memory."""
    config = check.large_config(family)
    P, C, G = check.SIZE
    prompt = check.video_prompt(config, P)
    constants = check.family_of_config(config)
    assert len(prompt) == P and constants.positions(prompt.input_ids, prompt).shape == (3, P)
    assert int((prompt.input_ids == constants.video_token).sum()) > 0.8 * P
    head_dim = 128
    assert sum(config.text_config.rope_parameters["mrope_section"]) == head_dim // 2
    with torch.device("meta"):
        model = constants.model_class()(config)
    group = check.Group(model, prompt, check.random_completions(config, C, G), constants)
    billions = sum(check.count_parameters(model).values()) / 1e9
    assert billions == pytest.approx({"qwen2_5_vl": 8.29, "qwen3_vl": 8.77}[family], abs=0.01)
    whole, parts = (check.planned(group, way) for way in ("ours", "in parts"))
    assert 30 < parts["planned_gb"] < whole["planned_gb"] < 72
    # nine tenths of 2 · parameters · tokens · (reference, forward, two of backward, again)
    tokens = P + G * C
    least = 5 * 2 * (billions - 0.7 - config.text_config.hidden_size * 152e3 / 1e9) * tokens * 1e-3
    assert least < whole["planned_tflop"] < 2 * least


# What becomes of a row that fails


def failing(place: Any) -> dict[str, Any]:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.\nGPU 0 has …")


def caused(place: Any) -> dict[str, Any]:
    raise ModuleNotFoundError("no tower") from RuntimeError("no operator")


def test_a_row_says_what_became_of_it(check: ModuleType) -> None:
    place = place_of(check)

    def row_of(run: Any, **options: Any) -> Any:
        return check.guarded(check.Check("name", run, **options), place)

    row = row_of(failing)
    assert (row.result, row.detail) == (
        "failed",
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 20 GiB.",
    )
    row = row_of(caused)
    assert row.detail == "ModuleNotFoundError: no tower (from RuntimeError: no operator)"
    row = row_of(lambda place: {"detail": "saw", "seconds": 1.0})
    assert row == check.Row("name", "passed", "saw", {"seconds": 1.0})
    row = row_of(lambda place: {"detail": "saw", "problem": "off by 3"})
    assert (row.result, row.detail) == ("failed", "off by 3")
    row = row_of(failing, needs=("json", "no_such_module"))
    assert (row.result, row.detail) == ("not run", "needs no_such_module")
    row = check.guarded(check.Check("name", failing, seconds=120), place_of(check, minutes=1))
    assert (row.result, row.detail) == ("not run", "no time left")


def test_trainings_are_not_run_without_their_libraries(
    check: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name in ("trl", "peft") else find(name)
    )
    place = place_of(check)
    rows = [check.guarded(c, place) for c in check.all_checks() if c.name.startswith("train:")]
    assert {row.detail for row in rows} == {"needs trl", "needs trl, peft"}
    assert {row.result for row in rows} == {"not run"}
    assert not any(c.needs for c in check.all_checks() if not c.name.startswith("train:"))


BREAKING = f"""
import importlib.util, os, sys, time
sys.path.insert(0, {str(ROOT / "scripts")!r})
import check_gpu

def end(place):
    print("the driver has gone", file=sys.stderr, flush=True)
    os._exit(3)

def hang(place):
    time.sleep(10**6)

def poison(place):
    raise RuntimeError("CUDA error: an illegal memory access was encountered")

def pid(place):
    return {{"detail": str(os.getpid())}}

rows = {{"ends": end, "after": pid, "poisons": poison, "fresh": pid, "same": pid, "hangs": hang}}
check_gpu.all_checks = lambda: [
    check_gpu.Check(name, run, seconds=-(10**9)) for name, run in rows.items()
]
sys.exit(check_gpu.main())
"""


def test_other_rows_run_after_one_that_breaks_its_process(tmp_path: Path) -> None:
    script = tmp_path / "breaking.py"
    script.write_text(BREAKING)
    done = run("--tiny", "--minutes", 0, cwd=tmp_path, script=script)
    assert done.returncode == 1, done.stderr
    rows = {r["name"]: r for r in json.loads((tmp_path / "check_gpu.json").read_text())["rows"]}
    assert rows["ends"]["detail"] == "its process ended with status 3: the driver has gone"
    assert rows["poisons"]["result"] == "failed"
    assert rows["after"]["detail"] != rows["fresh"]["detail"] == rows["same"]["detail"]
    assert rows["hangs"]["result"] == "not run" and "no time left" in rows["hangs"]["detail"]
    last = done.stdout.splitlines()[-1]
    assert last.startswith("3 of 6 rows passed; FAILED: ends (its process ended with status 3")
    assert "not run: hangs (stopped after" in last


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_to_do(tmp_path: Path) -> None:
    done = run(cwd=tmp_path)
    assert done.returncode == 2 and "sees no GPU here; --tiny runs the same rows" in done.stderr
    assert not (tmp_path / "check_gpu.json").exists()


def test_what_cannot_be_run_or_written_is_said_at_once(tmp_path: Path) -> None:
    done = run("--tiny", "--only", "nothing", cwd=tmp_path)
    assert done.returncode == 2 and "no row has that in its name" in done.stderr
    done = run("--tiny", "--json", "nowhere/a.json", cwd=tmp_path)
    assert done.returncode == 2 and "there is no folder nowhere" in done.stderr


# Kernels and cards


def test_kernels_of_attention_are_named(check: ModuleType) -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention as attend

    q = torch.randn(1, 2, 4, 8, requires_grad=True)
    with check.attention_kernels() as seen:
        attend(q, q, q)
        attend(q, q, q)
        with sdpa_kernel(SDPBackend.MATH):
            attend(q, q, q, is_causal=True)
    assert seen == {"flash": 2, "math": 1}
    assert check.kernel_text(seen) == "attention: 2 × flash, 1 × math"


def test_cards_are_known_by_their_names(check: ModuleType) -> None:
    assert check.peak_of("NVIDIA H100 80GB HBM3") == 989
    assert check.peak_of("NVIDIA H100 PCIe") == 756
    assert check.peak_of("NVIDIA A100-SXM4-80GB") == 312
    assert check.peak_of("NVIDIA GeForce RTX 4090") == 165
    assert check.peak_of("a card of tomorrow") is None
