"""What a GRPO step of one video prompt costs, part by part: as trainers do it today, and here.

    python scripts/bench_grpo.py [--sizes 1024,256,8 4096,256,8 8192,256,16 152,90,8,36 …]
                                 [--quick] [--update] [--threads 2] [--repeats 3] [--ways WAY …]
                                 [--family qwen2.5-vl qwen3-vl] [--json FILE]

A size is P,C,G: tokens of the prompt (nearly all of a video), tokens of a completion, completions.
A fourth number has the completions begin alike and part where so many of 100 histories are distinct
(100 without it): a prompt as short as the toy's, whose groups have 36.
The model is a random Qwen2.5-VL or Qwen3-VL (hidden 256, four layers, 2,048 words; a tower of four
blocks of 128, frozen, and three levels of DeepStack in Qwen3-VL) in float32; the same completions
are scored by all. Several families are measured side by side, way by way. The ways:

    trl        TRL as installed: frames as images (one temporal patch each, so twice the tokens),
               G rows, its fused head, which on a CPU scores the prompt as well
    repeated   what trainers with video do: the video's tensors repeated G times, logits for the
               completions only
    seen once  the same, but with the tower's features computed once for all
    ours       videothinker: features once, prompt once, common beginnings of completions once
               (`model.generate`, `model.shared_prefix`, `model.prefix_tree`)
    in parts   the update with one completion's activations in memory at a time (`update_rows: 1`)

Columns, seconds (median after one run to warm up; with one thread of processor time, which other
programs leave alone): decoding of the clip and the processor's work;
the tower in rollout, reference and update; prefill (a rollout of one token); sampling (the rest of
C tokens); the reference's pass; the update, forward and backward. Memory is the peak of the update
above the loaded model, each way in its own process. Ratios are to `repeated`, beside those that the
floating-point operations predict; loss and gradients are compared with `seen once`, which computes
the same thing plainly (trl does not: its prompt is another one). --update leaves out what comes
before the update, --quick takes one small size and one timed run. Needs Linux.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from grpo_ways import (
    BEFORE,
    END,
    IMAGE,
    SIDE,
    START,
    TOKENS,
    VIDEO,
    Group,
    common_beginning,
    family_of_config,
    flops,
    random_completions,
    random_model,
    scorer,
    tiny_config,
    video_prompt,
    vision_flops,
)

WAYS = ("trl", "repeated", "seen once", "ours", "in parts")
SIZES = ("1024,256,8", "4096,256,8", "8192,256,16", "152,90,8", "152,90,8,36")
PARTS = ("decode", "prepare", "vision", "prefill", "sampling", "reference", "update")
FAMILIES = {"qwen2.5-vl": "qwen2_5_vl", "qwen3-vl": "qwen3_vl"}  # as commands say it → model type


# Prediction


@lru_cache(maxsize=2)
def shape(model_type: str) -> Any:
    """The sizes that its operations follow from (`plan.Shape`, held against torch's counter)."""
    from videothinker.training.plan import Shape

    return Shape.of(tiny_config(model_type))


def predicted(
    P: int, C: int, G: int, way: str, percent: int = 100, model_type: str = "qwen2_5_vl"
) -> dict[str, float]:
    """Operations of the update (forward, and backward as two) and of the whole step."""
    model = shape(model_type)
    shared = way in ("ours", "in parts")
    seen = G if way == "repeated" else 0  # runs of the tower in the update
    forward, vision = flops(model, P, C, G, shared, percent=percent), vision_flops(model, P)
    prefill = flops(model, P, 0, 1 if shared else G, shared)
    decoding = model.text(G * C, P + C / 2) + model.head(G * C)
    if way == "in parts":
        forward = flops(model, P, C, G, shared)
    update = flops(model, P, C, G, shared, way == "in parts", percent) + 2 * forward
    update += seen * vision
    return {
        "update": update,
        "step": update + forward + prefill + decoding + (2 * seen or 1) * vision,
    }


# What all ways are given


@dataclass
class Given(Group):
    """A group, with the prompt's clip, and the prompt with the clip's frames as images."""

    clip: Path
    images: dict[str, Any]


def make(
    P: int, C: int, G: int, folder: Path, percent: int = 100, model_type: str = "qwen2_5_vl"
) -> Given:
    """Build them from fixed seeds; the clip has two frames a temporal patch."""
    import torch

    config = tiny_config(model_type)
    model, family = random_model(config), family_of_config(config)
    prompt = video_prompt(config, P)
    t = int(prompt.grid[0, 0])
    one = torch.tensor([START, *[IMAGE] * TOKENS, END])
    words = prompt.input_ids[prompt.input_ids != VIDEO]
    as_images = torch.cat([words[:BEFORE], one.repeat(2 * t), words[BEFORE:]])
    clip = folder / f"{t}.mp4"
    if not clip.exists():
        write_clip(clip, 2 * t, family.patch)
    return Given(
        model,
        prompt,
        random_completions(config, C, G, percent),
        family,
        clip,
        {"ids": as_images, "grid": torch.tensor([[1, SIDE, SIDE]] * (2 * t))},
    )


def write_clip(path: Path, n: int, patch: int) -> None:
    """A clip of n noisy frames of 16 × 16 patches, two a second."""
    import av
    import numpy as np

    noise = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=2)
        stream.height = stream.width = patch * SIDE
        for _ in range(n):
            colours = noise.integers(0, 255, (SIDE, SIDE, 3), np.uint8)
            pixels = colours.repeat(patch, 0).repeat(patch, 1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def read(given: Given) -> Any:
    """Decode all frames of the clip [T, 3, H, W]."""
    import torch

    from videothinker.video.frames import Sampling
    from videothinker.video.reader import read_frames

    size = given.family.patch * SIDE
    frames = read_frames(
        given.clip, Sampling(fps=2, max_frames=10**6, size=(size, size)), timeout=None
    )
    return torch.from_numpy(frames.pixels).permute(0, 3, 1, 2)


def prepare(frames: Any, way: str, G: int, model_type: str = "qwen2_5_vl") -> Any:
    """The processor's work, as often as the way does it.

    Patches of the video, or those of its frames as images.
    """
    import transformers

    of_qwen3 = model_type == "qwen3_vl"
    colours = (
        {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3} if of_qwen3 else {}
    )
    if way == "trl":  # once for the rollout and once for the scoring, for each of G rows
        processor = transformers.Qwen2VLImageProcessor(**colours)
        for _ in range(2 * G):
            patches = processor(list(frames), do_resize=False, return_tensors="pt")["pixel_values"]
        return patches
    name = "Qwen3VLVideoProcessor" if of_qwen3 else "Qwen2VLVideoProcessor"
    processor = getattr(transformers, name)(**colours)
    as_they_are = {"do_resize": False, "do_sample_frames": False}
    if of_qwen3:
        as_they_are["cap_pixels_per_frame"] = False  # or it warns
    return processor([frames], **as_they_are, return_tensors="pt")["pixel_values_videos"]


# The ways


def scoring(way: str, given: Given, patches: Any, features: Any) -> Callable[[], Any]:
    """A function that finds the log-probabilities [G·C] of the completions."""
    import torch

    if way != "trl":
        features = None if way == "repeated" else features
        return scorer(
            way, replace(given, prompt=replace(given.prompt, pixels=patches, features=features))
        )
    from trl import GRPOTrainer
    from trl.trainer.utils import add_fused_lm_head

    model, completions = given.model, given.completions
    add_fused_lm_head(model)
    G, C, n = len(completions), len(completions[0]), len(given.images["grid"])
    ids = torch.cat([given.images["ids"].expand(G, -1), torch.tensor(completions)], 1)
    own = SimpleNamespace(accelerator=SimpleNamespace(autocast=nullcontext))
    seen = {
        "pixel_values": patches.repeat(G, 1),
        "image_grid_thw": given.images["grid"].repeat(G, 1),
    }
    seen |= {"num_images": [n] * G, "mm_token_type_ids": (ids == IMAGE).long()}
    score = GRPOTrainer._get_per_token_logps_and_entropies
    score = getattr(score, "__wrapped__", score)
    return lambda: score(own, model, ids, torch.ones_like(ids), C, **seen)[0].flatten()


def sampler(way: str, given: Given, patches: Any, features: Any) -> Callable[[int], None]:
    """A function that writes G completions of so many tokens."""
    import torch

    from videothinker.model.batch import EncoderOutput
    from videothinker.model.generate import Decoding, generate

    model, family, G = given.model, given.family, len(given.completions)
    if way in ("ours", "in parts"):
        endless = replace(family, suppressed=(*family.suppressed, family.eos_token))
        prompt = replace(given.prompt, pixels=patches, features=features)
        return lambda n: check(
            generate(model, [prompt], endless, G, Decoding(max_new_tokens=n))[0], n
        )
    ids = (given.images["ids"] if way == "trl" else given.prompt.input_ids).expand(G, -1)
    if way == "trl":
        seen = {
            "pixel_values": patches.repeat(G, 1),
            "image_grid_thw": given.images["grid"].repeat(G, 1),
        }
    elif way == "repeated":
        seen = {
            "pixel_values_videos": patches.repeat(G, 1),
            "video_grid_thw": given.prompt.grid.repeat(G, 1),
        }
    else:
        main, *levels = features.chunk(1 + family.levels, -1)  # each [tokens, H]
        output = EncoderOutput(
            pooler_output=(main,) * G, deepstack_features=tuple((x,) * G for x in levels)
        )
        seen = {"mm_encoder_outputs": {"video": output}}
    seen["mm_token_type_ids"] = (ids == IMAGE) + 2 * (ids == VIDEO)
    if way != "trl":
        seen["video_grid_thw"] = given.prompt.grid.repeat(G, 1)
        if family.has_seconds:
            seen["second_per_grid_ts"] = torch.ones(G)
    options = {"do_sample": True, "top_k": 0, "eos_token_id": family.eos_token, "pad_token_id": 0}

    def write(n: int) -> None:
        ids_out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            **seen,
            **options,
            min_new_tokens=n,
            max_new_tokens=n,
        )
        assert ids_out.shape == (G, ids.shape[1] + n)

    return write


def check(completions: list[Any], n: int) -> None:
    """All completions have n tokens."""
    assert all(len(c.ids) == n for c in completions)


def timed(
    act: Callable[[], Any], tower: list[float], clock: Callable[[], float]
) -> tuple[Any, float, float]:
    """(result, seconds without the tower, seconds of the tower)"""
    before, begin = sum(tower), clock()
    result = act()
    spent, vision = clock() - begin, sum(tower) - before
    return result, spent - vision, vision


def run_one(
    way: str, size: tuple[int, ...], args: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    """Seconds by part, peak MiB of the update, the loss; gradients go to a file of the folder."""
    import torch

    from videothinker.model.vision_cache import with_features

    torch.set_num_threads(args.threads)
    memory = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    limit = int(memory["MemAvailable"].split()[0]) * 1000
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))  # what needs more fails alone
    P, C, G, percent = size
    clock = time.process_time if args.threads == 1 else time.perf_counter
    tower: list[float] = []  # seconds of each run of the tower
    starts: list[float] = []
    model_type = FAMILIES[args.family[0]]
    given = make(P, C, G, folder, percent, model_type)
    model, seconds = given.model, defaultdict[str, list[float]](list)
    model.model.visual.register_forward_pre_hook(lambda *_: starts.append(clock()))
    model.model.visual.register_forward_hook(lambda *_: tower.append(clock() - starts[-1]))
    patches = prepare(read(given), way, 1, model_type)

    def look() -> Any:  # the tower's features, once for all
        if way in ("trl", "repeated"):
            return None
        return with_features(model, [replace(given.prompt, pixels=patches)])[0].features

    score = scoring(way, given, patches, look())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def update() -> float:
        model.zero_grad(set_to_none=True)
        loss = score().mean()
        loss.backward()
        return loss.item()

    for i in range(args.repeats + 1):  # first of all: nothing else has touched the memory
        loss, spent, vision = timed(update, tower, clock)
        seconds["update"] += [spent] * (i > 0)
        seconds["vision"] += [vision] * (i > 0)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    torch.save(
        {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, folder / f"{way}.pt"
    )
    model.zero_grad(set_to_none=True)
    write = sampler(way, given, patches, look())
    for i in range(0 if args.update or way == "in parts" else args.repeats + 1):
        with torch.no_grad():
            frames, decode, _ = timed(lambda: read(given), tower, clock)
            _, processing, _ = timed(
                lambda: prepare(frames, way, G, model_type),  # noqa: B023
                tower,
                clock,
            )
            _, _, once = timed(look, tower, clock)
            _, prefill, vision = timed(lambda: write(1), tower, clock)
            _, whole, _ = timed(lambda: write(C), tower, clock)
            _, reference, again = timed(score, tower, clock)
        parts = {
            "decode": decode,
            "prepare": processing,
            "vision in rollout and reference": once + vision + again,
            "prefill": prefill,
            "sampling": whole - prefill,
            "reference": reference,
        }
        for name, value in parts.items():
            seconds[name] += [value] * (i > 0)
    medians = {name: statistics.median(values) for name, values in seconds.items() if values}
    whole_update = medians["update"] + medians["vision"]
    medians["vision"] += medians.pop("vision in rollout and reference", 0.0)
    return {"seconds": medians, "whole_update": whole_update, "mib": peak, "loss": loss}


# Printing


def difference(one: Path, other: Path) -> float:
    """Largest relative difference of a parameter's gradient (Frobenius norm)."""
    import torch

    a, b = (torch.load(path) for path in (one, other))
    assert a.keys() == b.keys()
    return max(float((a[n] - b[n]).norm() / b[n].norm().clamp(min=1e-30)) for n in a)


def row_of(
    size: tuple[int, ...], way: str, family: str, results: dict[str, Any], folder: Path
) -> dict[str, Any]:
    """A row of the table, as numbers."""
    P, C, G, percent = size
    mine, base = results[way], results["repeated"]
    row = {"P": P, "C": C, "G": G, "way": way, "seconds": mine["seconds"], "mib": mine["mib"]}
    row |= {"family": family, "distinct": percent}
    if "reference" in mine["seconds"]:
        row["step"] = sum(mine["seconds"].values())
        row["step_ratio"] = sum(base["seconds"].values()) / row["step"]
    row |= {
        "whole_update": mine["whole_update"],
        "update_ratio": base["whole_update"] / mine["whole_update"],
    }
    row |= {"memory_ratio": base["mib"] / max(mine["mib"], 1.0)}
    if way != "trl":
        ours, theirs = (predicted(P, C, G, w, percent, FAMILIES[family]) for w in (way, "repeated"))
        row |= {f"predicted_{part}": theirs[part] / ours[part] for part in ("update", "step")}
        row["gradient"] = difference(folder / f"{way}.pt", folder / "seen once.pt")
        row["loss_difference"] = abs(mine["loss"] - results["seen once"]["loss"])
    return row


def line_of(row: dict[str, Any]) -> str:
    """A row of the table, as text."""
    cells = [
        f"{row['seconds'][part]:9.2f}" if part in row["seconds"] else f"{'-':>9}" for part in PARTS
    ]
    step = f"{row['step']:8.2f} {row['step_ratio']:6.1f}" if "step" in row else f"{'-':>8} {'-':>6}"
    guess = [
        f"{row[name]:6.1f}" if name in row else f"{'-':>6}"
        for name in ("predicted_step", "predicted_update")
    ]
    same = (
        f"{row['loss_difference']:9.0e} {row['gradient']:9.0e}"
        if "gradient" in row
        else f"{'-':>9} {'-':>9}"
    )
    return (
        f"{row['way']:10}{''.join(cells)} {step} {guess[0]} {row['update_ratio']:7.1f} {guess[1]} "
        f"{row['mib']:7.0f} {row['memory_ratio']:6.1f} {same}"
    )


HEAD = (
    f"{'way':10}{''.join(f'{part:>9}' for part in PARTS)} {'step':>8} {'ratio':>6} {'pred.':>6} "
    f"{'update:':>7} {'pred.':>6} {'MiB':>7} {'ratio':>6} {'loss ±':>9} {'grad. ±':>9}"
)


def measured(
    size: tuple[int, ...], args: argparse.Namespace, folder: Path
) -> Iterator[dict[str, Any]]:
    """Run each way, of one family after the other; print the rows by family, and give them."""
    results: dict[str, dict[str, Any]] = {family: {} for family in args.family}
    for way in [w for w in WAYS if w in (*args.ways, "repeated", "seen once")]:
        for family in args.family:
            own = folder / family
            own.mkdir(exist_ok=True)
            command = [sys.executable, __file__, "--one", way, str(own), "--family", family]
            command += ["--sizes", ",".join(map(str, size))]
            command += ["--threads", str(args.threads), "--repeats", str(args.repeats)]
            command += ["--update"] * args.update
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if not done.returncode:
                results[family][way] = json.loads(done.stdout.splitlines()[-1])
            elif way == "trl" and "allocate memory" in done.stderr:
                print(f"{way:10} needs more memory than is free", flush=True)
            else:
                raise SystemExit(f"{way} at {size} failed:\n{done.stderr[-2000:]}")
    for family, ways in results.items():
        if len(results) > 1:
            print(f"{family}:")
        for way in ways:
            row = row_of(size, way, family, ways, folder / family)
            print(line_of(row), flush=True)
            yield row


def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, run each way in its own process, print the table."""
    parser = argparse.ArgumentParser(
        description="Time a GRPO step of one video prompt, part by part and way by way."
    )
    parser.add_argument(
        "--sizes",
        nargs="+",
        metavar="P,C,G",
        help=f"default {' '.join(SIZES)}",
    )
    parser.add_argument("--quick", action="store_true", help="the size 1024,64,4 and one timed run")
    parser.add_argument("--update", action="store_true", help="the update alone")
    parser.add_argument("--threads", type=int, default=2, help="default 2")
    parser.add_argument("--repeats", type=int, help="timed runs after one to warm up (default 3)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="default: all")
    parser.add_argument(
        "--family",
        nargs="+",
        choices=list(FAMILIES),
        default=["qwen2.5-vl"],
        help="of the model, one or more (default: qwen2.5-vl)",
    )
    parser.add_argument("--json", type=Path, help="write the rows there too")
    parser.add_argument("--one", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.repeats = args.repeats or (1 if args.quick else 3)
    given = args.sizes or (["1024,64,4"] if args.quick else SIZES)
    sizes = [tuple(map(int, size.split(","))) for size in given]
    sizes = [size if len(size) == 4 else (*size, 100) for size in sizes]
    if any(len(size) != 4 or size[0] < 128 or min(size) < 1 or size[3] > 100 for size in sizes):
        parser.error(f"--sizes takes P,C,G with P at least 128, not {' '.join(given)}")
    if any(common_beginning(C, G, percent) >= C for _, C, G, percent in sizes):
        parser.error("--sizes: of G completions at least 100 / G of 100 histories are distinct")
    if args.json and not args.json.parent.is_dir():
        parser.error(f"--json {args.json}: there is no folder {args.json.parent}")
    if args.one:
        print(json.dumps(run_one(args.one[0], sizes[0], args, Path(args.one[1]))))
        return
    rows: list[dict[str, Any]] = []
    for size in sizes:
        P, C, G, percent = size
        some = "" if percent == 100 else f", {percent} % of the histories distinct"
        print(f"prompt {P}, completions {G} × {C} tokens{some}\n{HEAD}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            for row in measured(size, args, Path(folder)):
                rows.append(row)
        wrong = [r["way"] for r in rows if r.get("gradient", 0.0) > 1e-3]
        if wrong:
            raise SystemExit(f"the ways disagree at {size}: gradients of {', '.join(wrong)}")
        if args.json:  # after each size: a long run may be stopped
            args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    from videothinker.commands.main import reader_may_leave

    with reader_may_leave():
        main()
