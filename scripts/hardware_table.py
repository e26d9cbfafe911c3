"""Print the README's hardware table: what `videothinker plan` expects of the packaged recipes.

    python scripts/hardware_table.py

Videos of two minutes; estimates of `videothinker.training.plan`, no measurements.
"""

from __future__ import annotations

from videothinker.training.plan import CostEstimate, plan_training
from videothinker.training.recipes import read_recipe

ROWS = (  # recipe, GPUs, how accelerate divides the training
    ("qwen2.5-vl-3b/grpo-lora-24g", "1xRTX4090-24G", "ddp"),
    ("qwen2.5-vl-7b/grpo-qlora-24g", "1xRTX4090-24G", "ddp"),
    ("qwen2.5-vl-7b/grpo-lora-80g", "1xA100-80G", "ddp"),
    ("qwen2.5-vl-7b/sft", "8xH100-80G", "zero2"),
    ("qwen2.5-vl-7b/grpo", "8xH100-80G", "zero2"),
    ("qwen2.5-vl-7b/grpo-long-video", "8xH100-80G", "zero2"),
    ("qwen3-vl-4b/grpo-lora-80g", "1xA100-80G", "ddp"),
    ("qwen3-vl-4b/grpo", "8xH100-80G", "zero2"),
    ("qwen3-vl-8b/grpo-lora-80g", "1xA100-80G", "ddp"),
    ("qwen3-vl-8b/sft", "8xH100-80G", "zero2"),
    ("qwen3-vl-8b/grpo", "8xH100-80G", "fsdp2"),
    ("qwen3-vl-8b/grpo-vllm", "8xH100-80G", "fsdp2"),
)
FAMILIES = {"qwen2.5-vl": "Qwen2.5-VL", "qwen3-vl": "Qwen3-VL"}
HEAD = ("recipe", "GPUs", "tokens of a prompt", "memory of each GPU", "Tflop of a step on each")


def model_of(recipe: str) -> str:
    """The hub name of the model that a recipe is for."""
    family, _, size = recipe.partition("/")[0].rpartition("-")
    return f"Qwen/{FAMILIES[family]}-{size.upper()}-Instruct"


def cells(recipe: str, gpus: str, sharding: str, plan: CostEstimate) -> tuple[str, ...]:
    """One line of the table."""
    used, room = plan.peak / 1e9, plan.room / 1e9
    fit = f"{used:.0f} of {room:.0f} GB" + ("" if plan.fits else ", does not fit")
    count, _, kind = gpus.partition("x")
    name = f"{count} × {kind}" + (f" ({sharding})" if sharding != "ddp" else "")
    flops = f"{sum(plan.flops.values()) / 1e12:,.0f}"
    return f"`{recipe}`", name, f"{plan.load.prompt:,}", fit, flops


def hardware_table() -> str:
    """The table as Markdown."""
    lines = [HEAD, ("---",) * len(HEAD)]
    for recipe, gpus, sharding in ROWS:
        model = model_of(recipe)
        plan = plan_training(read_recipe(recipe), gpus, model, sharding=sharding)
        lines.append(cells(recipe, gpus, sharding, plan))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    from videothinker.commands.main import reader_may_leave

    with reader_may_leave():
        print(hardware_table())
