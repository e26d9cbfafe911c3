"""What a GRPO update costs when the prompt is computed once a group, and when it is computed for every completion.

    python scripts/bench_update.py [--sizes 1024,256,8 4096,256,8] [--whole] [--threads 2] [--repeats 3] [--json FILE]

A size is P,C,G: tokens of the prompt (nearly all of a video), tokens of a completion, completions. Both ways score the
same completions of a random Qwen2.5-VL (hidden 256, four layers, 2,048 words) in float32, from video features that have
been computed before, and run the backward pass:

    repeated   G rows of prompt and completion through the model of transformers, logits for the completions only
    shared     videothinker.prefix.group_logps
    in parts   the same with one completion's activations in memory at a time (`update_rows: 1`)

With --whole it is a step: the rollout (`generate` of transformers with `num_return_sequences`, and ours), the pass of
the reference, and the update; all ways write exactly C tokens.

Each way runs in a process of its own, so that its peak memory is its own. The table has the median time of the repeats
after one to warm up, the peak memory above that of the loaded model, the ratio of the times, and the ratio of the
floating-point operations that the shapes predict.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

WAYS = ("repeated", "shared", "parts")
SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 2048,
}


def flops(P: int, C: int, G: int, way: str) -> float:
    """Floating-point operations of the language model's forward pass over a group."""
    H, F, L = SHAPE["hidden_size"], SHAPE["intermediate_size"], SHAPE["num_hidden_layers"]
    kv = H * SHAPE["num_key_value_heads"] // SHAPE["num_attention_heads"]
    linear = 2 * L * (2 * H * H + 2 * H * kv + 3 * H * F)  # a token
    head = 2 * G * C * H * SHAPE["vocab_size"]

    def attention(queries: float, keys: float) -> float:
        return 4 * L * H * queries * keys

    if way == "repeated":
        return G * (linear * (P + C) + attention(P + C, (P + C) / 2)) + head
    return linear * (P + G * C) + attention(P, P / 2) + G * attention(C, P + C / 2) + head


def step_flops(P: int, C: int, G: int, way: str) -> float:
    """Operations of prefill, decoding, reference and update (forward, and backward as two)."""
    prefill = flops(P, 0, G if way == "repeated" else 1, way)
    decoding = flops(0, C, G, way) + 4 * SHAPE["num_hidden_layers"] * SHAPE["hidden_size"] * G * C * P
    return prefill + decoding + 4 * flops(P, C, G, way)


def make(P: int, C: int, G: int) -> tuple[Any, Any, list[list[int]], Any]:
    """A random model, a prompt of P tokens with its video's features, G completions of C tokens, the family."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    from videothinker.model import Family, Prompt

    torch.manual_seed(0)
    text = SHAPE | {
        "tie_word_embeddings": True,
        "max_position_embeddings": 65536,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
    }
    vision = {
        "depth": 1,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_heads": 4,
        "out_hidden_size": SHAPE["hidden_size"],
    }
    model = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config=text,
            vision_config=vision,
            tie_word_embeddings=True,
            video_token_id=5,
            image_token_id=6,
            vision_start_token_id=7,
            vision_end_token_id=8,
        )
    )
    model.model.visual.requires_grad_(False)
    frames = (P - 60) // 64  # 64 merged tokens a temporal patch
    ids = torch.randint(10, SHAPE["vocab_size"], (P,))
    ids[15 : 15 + 64 * frames] = 5
    prompt = Prompt(
        ids, torch.empty(0), torch.tensor([[frames, 16, 16]]), (1.0,), torch.randn(64 * frames, SHAPE["hidden_size"])
    )
    return model, prompt, torch.randint(10, SHAPE["vocab_size"], (G, C)).tolist(), Family(5, 0, 1, 2.0, 2, (5, 6, 7, 8))


def logps(way: str, model: Any, prompt: Any, completions: list[list[int]], family: Any) -> Any:
    """Log-probabilities [G·C] of the completions, one way or the other."""
    import torch

    from videothinker.model import collate
    from videothinker.prefix import group_logps

    if way != "repeated":
        return group_logps(model, prompt, completions, family, save_memory=way == "parts", part=int(way == "parts"))[0]
    batch = collate([prompt] * len(completions), completions, family)
    keep = torch.arange(len(prompt) - 1, batch.input_ids.shape[1] - 1)
    logits = model(**batch.model_inputs(), logits_to_keep=keep, use_cache=False).logits.index_fill(
        -1, torch.tensor(family.suppressed), -1e30
    )
    return logits.log_softmax(-1).gather(-1, batch.input_ids[:, len(prompt) :, None]).flatten()


def roll_out(way: str, model: Any, prompt: Any, C: int, G: int, family: Any) -> None:
    """Write G completions of C tokens."""
    import torch
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    from videothinker.rollout import Decoding, generate

    if way != "repeated":
        endless = replace(family, suppressed=(*family.suppressed, family.eos_token))
        said = generate(model, [prompt], endless, G, Decoding(max_new_tokens=C))[0]
        assert all(len(c.ids) == C for c in said)
        return
    ids = prompt.input_ids[None]
    seen = {"video": BaseModelOutputWithPooling(pooler_output=(prompt.features,))}
    exactly = {"min_new_tokens": C, "max_new_tokens": C, "eos_token_id": family.eos_token, "pad_token_id": 0}
    sampled = {"do_sample": True, "top_k": 0, "num_return_sequences": G}
    said = model.generate(
        ids, attention_mask=torch.ones_like(ids), mm_encoder_outputs=seen, **exactly, **sampled
    )
    assert said.shape == (G, len(prompt) + C)


def run_one(way: str, P: int, C: int, G: int, threads: int, repeats: int, whole: bool) -> dict[str, float]:
    """Seconds (median), peak MiB above the loaded model, and the norm of the gradient, of one way in this process."""
    import torch

    torch.set_num_threads(threads)
    model, prompt, completions, family = make(P, C, G)
    before, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for _ in range(repeats + 1):
        model.zero_grad(set_to_none=True)
        begin = time.perf_counter()
        if whole:
            with torch.no_grad():
                roll_out(way, model.eval(), prompt, C, G, family)
                logps(way, model.train(), prompt, completions, family)
        logps(way, model, prompt, completions, family).mean().backward()
        seconds.append(time.perf_counter() - begin)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    return {"seconds": statistics.median(seconds[1:]), "mib": peak, "gradient": float(norm)}


def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, run each way in its own process, print the table."""
    parser = argparse.ArgumentParser(
        description="Time a GRPO update with the prompt once and with the prompt repeated."
    )
    parser.add_argument(
        "--sizes",
        nargs="+",
        default=["1024,256,8", "4096,256,8"],
        metavar="P,C,G",
        help="default 1024,256,8 4096,256,8",
    )
    parser.add_argument("--whole", action="store_true", help="rollout, reference and update; default: the update alone")
    parser.add_argument("--threads", type=int, default=2, help="default 2")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs after one to warm up (default 3)")
    parser.add_argument("--json", type=Path, help="write the rows there too")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    sizes = [tuple(map(int, size.split(","))) for size in args.sizes]
    if any(len(size) != 3 or size[0] < 128 or min(size) < 1 for size in sizes):
        parser.error(f"--sizes takes P,C,G with P at least 128, not {' '.join(args.sizes)}")
    if args.one:
        print(json.dumps(run_one(args.one, *sizes[0], args.threads, args.repeats, args.whole)))
        return
    rows = []
    print(
        "     P     C   G  repeated s  shared s  ratio  predicted  parts s"
        "  repeated MiB  shared MiB  ratio  parts MiB  ratio"
    )
    for P, C, G in sizes:
        found = {}
        for way in WAYS:
            command = [
                sys.executable,
                __file__,
                "--one",
                way,
                "--sizes",
                f"{P},{C},{G}",
                "--threads",
                str(args.threads),
                "--repeats",
                str(args.repeats),
                *(["--whole"] if args.whole else []),
            ]
            found[way] = json.loads(
                subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
            )
        a, b, c = (found[way] for way in WAYS)
        if max(abs(a["gradient"] - x["gradient"]) for x in (b, c)) > 1e-3 * a["gradient"]:
            norms = ", ".join(f"{found[way]['gradient']:.4g}" for way in WAYS)
            raise SystemExit(f"the ways disagree at {P},{C},{G}: gradients of norm {norms}")
        count = step_flops if args.whole else flops
        row = {"P": P, "C": C, "G": G} | {f"{way}_{k}": v for way in WAYS for k, v in found[way].items()}
        row |= {
            "ratio": a["seconds"] / b["seconds"],
            "predicted": count(P, C, G, WAYS[0]) / count(P, C, G, WAYS[1]),
            "memory_ratio": a["mib"] / b["mib"],
            "parts_memory_ratio": a["mib"] / c["mib"],
        }
        print(
            f"{P:6} {C:5} {G:3} {a['seconds']:11.2f} {b['seconds']:9.2f} {row['ratio']:6.1f} {row['predicted']:10.1f} "
            f"{c['seconds']:8.2f} {a['mib']:13.0f} {b['mib']:11.0f} {row['memory_ratio']:6.1f} "
            f"{c['mib']:10.0f} {row['parts_memory_ratio']:6.1f}",
            flush=True,
        )
        rows.append(row)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
