"""What a training costs: cases in which "fits" was wrong, with the numbers worked out by hand."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from conftest import ROOT, load_script

from videothinker.training.plan import (
    CostEstimate,
    Shape,
    changes_that_fit,
    config_of,
    parameters_of,
    plan_training,
)
from videothinker.training.recipes import apply_overrides, read_recipe

SIZES = {"3b": "Qwen/Qwen2.5-VL-3B-Instruct", "7b": "Qwen/Qwen2.5-VL-7B-Instruct"}


def plan(name: str, gpus: str, *overrides: str, **options: str) -> CostEstimate:
    """The estimate of a packaged recipe of the 3B or the 7B model."""
    recipe = apply_overrides(read_recipe(name), overrides)
    return plan_training(recipe, gpus, SIZES[name[11:13]], **options)


def gigabytes(estimate: CostEstimate, *parts: str) -> float:
    return sum(estimate.memory[part] for part in parts) / 1e9


def test_the_3b_model_does_not_fit_under_ddp() -> None:
    """Language model and words, 3.086 billion weights: each four bytes, and each gradient twice."""
    ddp = plan("qwen2.5-vl-3b/grpo", "8xH100-80G")
    assert gigabytes(ddp, "buckets") == pytest.approx(4 * 3.086, rel=1e-3)
    assert gigabytes(ddp, "buckets") == gigabytes(ddp, "gradients")
    # weights 15.0, copies 7.5, gradients and buckets 24.7, Adam 24.7, reference 15.0: 86.9
    state = gigabytes(ddp, "weights", "16-bit copies", "gradients", "buckets", "optimizer")
    assert state + gigabytes(ddp, "reference") == pytest.approx(86.9, abs=0.1)
    assert not ddp.fits and "ACCELERATE=zero2" in ddp.changes[-1]
    assert plan("qwen2.5-vl-3b/grpo", "8xH100-80G", sharding="zero2").fits
    alone = plan("qwen2.5-vl-3b/grpo", "H200-141G")
    assert alone.memory["buckets"] == 0 and alone.fits  # one GPU has nobody to send them to


def test_sft_of_the_3b_model_under_ddp() -> None:
    """15.0 + 7.5 + 12.3 + 12.3 + 24.7 = 71.9 GB of state, before the first activation."""
    ddp = plan("qwen2.5-vl-3b/sft", "8xH100-80G")
    state = gigabytes(ddp, "weights", "16-bit copies", "gradients", "buckets", "optimizer")
    assert state == pytest.approx(71.9, abs=0.1)
    assert not ddp.fits and plan("qwen2.5-vl-3b/sft", "8xH100-80G", sharding="fsdp2").fits


def test_adapters_and_deepspeed_have_small_buckets() -> None:
    lora = plan("qwen2.5-vl-7b/grpo-lora-80g", "8xA100-80G")
    # r 64 on all seven projections: 161.5 million numbers in 32 bits
    assert gigabytes(lora, "buckets") == pytest.approx(0.646, abs=0.001) and lora.fits
    zero2 = plan("qwen2.5-vl-7b/grpo", "8xH100-80G", sharding="zero2")
    # one bucket to reduce and one to gather, half a billion 16-bit numbers each
    assert gigabytes(zero2, "buckets") == 2.0
    assert zero2.fits


def test_grpo_on_divided_weights_has_a_whole_copy() -> None:
    """7B: 8.292 billion weights, of which 7.616 are trained, on eight GPUs."""
    fsdp2 = plan("qwen2.5-vl-7b/grpo", "8xH100-80G", sharding="fsdp2")
    zero2 = plan("qwen2.5-vl-7b/grpo", "8xH100-80G", sharding="zero2")
    parts = {
        "whole copy": 2 * 8.292,
        "its gradients": 2 * 7.616,
        "weights": 4 * 8.292 / 8,
        "gradients": 4 * 7.616 / 8,
        "optimizer": 8 * 7.616 / 8,
        "reference": 2 * 7.616 / 8,
        "buckets": 4 * 152064 * 3584 / 1e9,  # the gradient of the words, in 32 bits
        "16-bit copies": 0.0,
    }
    for part, expected in parts.items():
        assert gigabytes(fsdp2, part) == pytest.approx(expected, rel=1e-3), part
    assert fsdp2.memory["activations"] == zero2.memory["activations"]  # a stream of 16 bits
    assert fsdp2.fits and sum(fsdp2.memory.values()) < sum(zero2.memory.values())
    recipe, eight = read_recipe("qwen3-vl-4b/grpo"), "Qwen/Qwen3-VL-8B-Instruct"
    fits = [
        plan_training(recipe, "8xH100-80G", eight, sharding=how).fits for how in ("zero2", "fsdp2")
    ]
    assert fits == [False, True]
    needs = {"ddp": 9.0, "zero2": 5.0, "fsdp2": 3.0}
    [change] = changes_that_fit(recipe, "ddp", 8, 4.0, lambda _, how: needs[how])
    assert change.startswith("ACCELERATE=fsdp2: all state, beside a whole copy in 16 bits")


def test_adapters_on_divided_weights_are_not_smaller() -> None:
    """Frozen weights are whole in the copy, and an eighth of them is in the parts."""
    name, gpus = "qwen2.5-vl-7b/grpo-lora-80g", "8xA100-80G"
    ddp, fsdp2 = (plan(name, gpus, sharding=how) for how in ("ddp", "fsdp2"))
    assert fsdp2.memory["whole copy"] == ddp.memory["weights"] == 8 * fsdp2.memory["weights"]
    assert fsdp2.memory["reference"] == 0


def test_an_engine_that_sleeps_shares_its_gpu_with_the_update() -> None:
    """8B on eight GPUs of 80 GB, of which vLLM has 0.35, 28 GB.

    Beside it while it draws: a whole copy, parts of the weights, gradients, averages and reference,
    and a buffer; in the update also the copy's gradients and the activations.
    """
    name, gpus, model = "qwen3-vl-8b/grpo-vllm", "8xH100-80G", "Qwen/Qwen3-VL-8B-Instruct"
    recipe = read_recipe(name)
    awake = apply_overrides(recipe, ["train.vllm_enable_sleep_mode=false"])
    server = apply_overrides(awake, ["train.vllm_mode=server"])
    asleep, always, elsewhere = (
        plan_training(r, gpus, model, sharding="fsdp2") for r in (recipe, awake, server)
    )
    update = sum(asleep.memory.values())
    staying = "whole copy", "weights", "gradients", "optimizer", "reference", "buckets"
    assert asleep.peak == pytest.approx(28e9 + sum(asleep.memory[part] for part in staying))
    assert update < asleep.peak < asleep.room and asleep.fits
    assert always.peak == update + 28e9 and always.changes == ("vllm_enable_sleep_mode: true",)
    assert elsewhere.peak == update and elsewhere.fits and not elsewhere.sleeps


def test_the_residual_stream_has_the_type_of_the_weights() -> None:
    """3B, P 1483, C 1024, 8 completions, checkpointed, weights in 32 bits below autocast.

    Kept of each of 36 layers: of a prompt token its input (4 · 2048) and keys (4 · 256), values
    (2 · 256) and their gradients; of a completion token its input. One layer of completions is
    computed again: 2 norms of 2048 · (4 + 4 + 2), and 2 bytes of 3 · 2048 + 2 · 2048 + 2 · 256
    + 4 · 11008 numbers for each token, and 2 · 2 · 256 bytes of joined keys and values for each
    of 8 · (1483 + 1024).
    """
    layer = 2 * 2048 * (4 + 4 + 2) + 2 * (3 * 2048 + 2 * 2048 + 2 * 256 + 4 * 11008)
    again = 8 * (1024 * layer + 2 * 2 * 256 * (1483 + 1024))
    kept = 1483 * (4 * 2048 + 2 * (4 + 2) * 256) + 8 * 1024 * 4 * 2048
    wide = plan("qwen2.5-vl-3b/grpo", "H200-141G").memory["activations"]
    assert wide == 36 * kept + again
    # 16-bit weights: a stream of 16 bits
    layer = 2 * 2048 * (4 + 2 + 2) + 2 * (3 * 2048 + 2 * 2048 + 2 * 256 + 4 * 11008)
    again = 8 * (1024 * layer + 2 * 2 * 256 * (1483 + 1024))
    kept = 1483 * (2 * 2048 + 2 * (2 + 2) * 256) + 8 * 1024 * 2 * 2048
    narrow = plan("qwen2.5-vl-3b/grpo", "8xH100-80G", sharding="zero2").memory["activations"]
    assert narrow == 36 * kept + again


def test_attention_keeps_no_scores_but_sft_repeats_keys_and_values() -> None:
    """28 heads · n · (P + n) numbers of each layer would be gigabytes for 8,203 tokens."""
    short = plan("qwen2.5-vl-7b/grpo-long-video", "A100-80G", "sampling.n_frames=128")
    long = plan("qwen2.5-vl-7b/grpo-long-video", "A100-80G")
    tokens = [estimate.load.prompt for estimate in (short, long)]
    growth = (long.memory["activations"] - short.memory["activations"]) / (tokens[1] - tokens[0])
    assert growth < 28 * (3584 * 2 + 2 * 4 * 512) + 300_000  # bytes of a token, however long
    plain = plan("qwen2.5-vl-7b/sft", "H200-141G", "train.gradient_checkpointing=false")
    row = plain.load.prompt + plain.load.longest
    layer = 2 * 3584 * (4 + 4 + 2) + 2 * (3 * 3584 + 2 * 3584 + 2 * 512 + 4 * 18944)
    repeated = 2 * 2 * 3584
    kept_of = 28 * (plain.load.prompt + plain.load.longest) * (layer + repeated)
    assert row and plain.memory["activations"] == kept_of


def test_what_a_recipe_says_about_memory_is_heard() -> None:
    name, gpus = "qwen2.5-vl-3b/sft", "H200-141G"
    usual = plan(name, gpus)
    small = plan(name, gpus, "train.optim=paged_adamw_8bit")
    assert small.memory["optimizer"] == usual.memory["optimizer"] / 4
    both = [
        plan(name, gpus, f"train.{field}=false").memory["activations"]
        for field in ("gradient_checkpointing", "activation_checkpointing")
    ]
    assert both[0] != usual.memory["activations"]
    recipe = read_recipe(name)
    older = {k: v for k, v in recipe.train.items() if k != "gradient_checkpointing"}
    newer = replace(recipe, train=older | {"activation_checkpointing": False})
    assert plan_training(newer, gpus, SIZES["3b"]).memory["activations"] == both[0]
    exact = plan(name, gpus, "train.bf16=false")
    assert exact.memory["16-bit copies"] == 0
    assert exact.memory["activations"] > usual.memory["activations"]


@pytest.mark.parametrize("flags", [["--gpus", "8xV100"], ["--sharding", "zero9"]])
def test_a_place_that_is_not_known_is_said_before_torch_is_loaded(flags: list[str]) -> None:
    code = (
        "import sys\nfrom videothinker.commands.main import main\n"
        f"try: main(['plan', 'qwen2.5-vl-7b/grpo', *{flags}])\n"
        "except SystemExit as stopped: print(stopped.code, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == "2 False\n" and flags[1] in done.stderr and "known" in done.stderr


def test_the_readme_says_what_plan_says() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = load_script("hardware_table").hardware_table()
    assert table in readme, f"scripts/hardware_table.py prints\n{table}"


@pytest.mark.parametrize(("size", "billions"), [("2B", 2.13), ("4B", 4.44), ("8B", 8.77)])
def test_qwen3_vl_by_name_has_the_published_parameters(size: str, billions: float) -> None:
    assert sum(parameters_of(f"Qwen/Qwen3-VL-{size}-Instruct").values()) / 1e9 == pytest.approx(
        billions, abs=0.01
    )


@pytest.mark.parametrize(
    ("name", "gpus", "sharding"),
    [
        ("qwen3-vl-4b/sft", "8xH100-80G", "fsdp2"),
        ("qwen3-vl-4b/sft-lora-80g", "A100-80G", "ddp"),
        ("qwen3-vl-4b/grpo-lora-80g", "A100-80G", "ddp"),
        ("qwen3-vl-4b/grpo", "8xH100-80G", "zero2"),
        ("qwen3-vl-8b/sft", "8xH100-80G", "fsdp2"),
        ("qwen3-vl-8b/sft-lora-80g", "A100-80G", "ddp"),
        ("qwen3-vl-8b/grpo-lora-80g", "A100-80G", "ddp"),
    ],
)
def test_recipes_of_qwen3_vl_fit(name: str, gpus: str, sharding: str) -> None:
    """As many tokens of video as the paper has on Qwen2.5-VL, and nine of text at each pair."""
    model = f"Qwen/Qwen3-VL-{name[9:11].upper()}-Instruct"
    estimate = plan_training(read_recipe(name), gpus, model, sharding=sharding)
    paper = plan("qwen2.5-vl-7b/grpo", "8xH100-80G")
    assert estimate.fits and estimate.load.video == paper.load.video == 960
    assert estimate.load.prompt == paper.load.prompt + 9 * 8


def test_the_operations_of_a_tower_with_deepstack() -> None:
    """Qwen3-VL-4B, 2 temporal patches of 4 x 4, worked out by hand."""
    shape = Shape.of(config_of("Qwen/Qwen3-VL-4B-Instruct"))
    embedding = 3 * 2 * 16 * 16 * 1024
    blocks = 24 * (4 * 1024**2 + 2 * 1024 * 4096 + 2 * 1024 * 16)
    mergers = 4 * (4096**2 + 4096 * 2560) / 4
    assert shape.vision((2, 4, 4)) == 2 * 32 * (embedding + blocks + mergers)
