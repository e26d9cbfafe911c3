"""What makes the outcome teach? Train variants of the toy set-up and keep their learning curves.

    python scripts/ablate_toy.py --world runs/demo/world --out runs/ablations NAME [key=value ...]

One variant a call. Keys and defaults are below; the SFT model is shared by variants that differ only in GRPO. The curves go to OUT/NAME.json
(GRPO log, validation probes before and during training); nbs/tutorials/ablations.ipynb shows those that are kept in data/results.
"""
from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

DEFAULTS: dict[str, Any] = {"seed": 0, "check_share": 0.35, "mistake_rate": 0.25, "sft_rows": 400, "sft_steps": 100, "sft_lr": 5e-4, "lr": 1e-4,
                            "steps": 40, "prompts": 24, "generations": 8, "beta": 0.0, "probe": 200, "every": 10, "base": "data/tiny-base"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("name")
    parser.add_argument("options", nargs="*", metavar="key=value", help=", ".join(f"{k}={v}" for k, v in DEFAULTS.items()))
    args = parser.parse_args()
    options = dict(DEFAULTS)
    for text in args.options:
        key, _, value = text.partition("=")
        if key not in DEFAULTS:
            parser.error(f"unknown key {key!r}; known: {', '.join(DEFAULTS)}")
        options[key] = type(DEFAULTS[key])(value)
    run(Path(args.world), Path(args.out), args.name, options)


def run(world: Path, out: Path, name: str, o: dict[str, Any]) -> None:
    from dataclasses import replace

    from videothinker.demo import Plan, curves_of, make_plan, make_traces, probe_of
    from videothinker.recipes import project_file, run_recipe
    from videothinker.sft import probe_callback

    plan: Plan = replace(make_plan(o["seed"]), check_share=o["check_share"], mistake_rate=o["mistake_rate"], probe_questions=o["probe"])
    key = hashlib.sha256(json.dumps([o[k] for k in ("seed", "check_share", "mistake_rate", "sft_rows", "sft_steps", "sft_lr", "base")]).encode()).hexdigest()[:8]
    shared = out / f"sft-{key}"
    shared.mkdir(parents=True, exist_ok=True)
    if not (shared / "train.jsonl").exists():
        make_traces(world, plan, shared)
    options: dict[str, Any] = {"cache_dir": out / "frames", "timeout": None}
    base = project_file(o["base"])
    probe = probe_of(base, plan.sft, world, plan, options)

    def shown(model: Any) -> dict[str, float]:
        values = probe(model)
        print("  validation:", {k: round(v, 3) for k, v in values.items()}, flush=True)
        return values

    if not (shared / "model").exists():
        sft = replace(plan.sft, rows=o["sft_rows"], train=plan.sft.train | {"max_steps": o["sft_steps"], "learning_rate": o["sft_lr"]})
        run_recipe(sft, shared / "train.jsonl", shared, world, base, {"seed": o["seed"]}, (probe_callback(shown, o["every"] * 5),), **options)
    train = {"seed": o["seed"], "data_seed": o["seed"], "max_steps": o["steps"], "learning_rate": o["lr"], "num_generations": o["generations"],
             "per_device_train_batch_size": 2 * o["generations"], "gradient_accumulation_steps": o["prompts"] // 2, "beta": o["beta"]}
    result = run_recipe(plan.grpo, shared / "train.jsonl", out / name, world, shared / "model", train, (probe_callback(shown, o["every"]),), **options)
    curves = curves_of([], result["log"])
    (out / f"{name}.json").write_text(json.dumps({"name": name, "options": o, "grpo": curves["grpo"], "validation": curves["eval"]}))
    print(name, "reward", [round(r["reward"], 2) for r in curves["grpo"]][:: max(1, o["steps"] // 10)])


if __name__ == "__main__":
    main()
