"""The first hour on a GPU: what runs differently there, checked and timed by one command.

    python scripts/check_gpu.py [--minutes 8] [--json check_gpu.json] [--only WORD …]
    python scripts/check_gpu.py --tiny

It needs a checkout, torch from 2.11 and transformers from 5.17: no installation of this package, no
download. A row that needs more, such as TRL, says so where that is missing. The rows, one per line:

    card       a matrix product in 16 bits, which says what the card reaches; patches of a video
               embedded by a matrix product, as here, and by the Conv3d of transformers
    exact      of a small model of each family, in 32 bits and in 16: log-probabilities and
               gradients of a group of completions over its shared prompt, whole and in parts, and
               the rollout's log-probabilities, all held against the same weights in 64 bits. They
               may be twice as far from those as the repeated way (transformers' own forward pass
               over G rows) is, or within a limit
    train      two steps of SFT and of GRPO of the tiny models, of all weights and with adapters
    step       of a Qwen2.5-VL of 7B and a Qwen3-VL of 8B with random weights in 16 bits: a GRPO
               step of one group with a prompt of 4,096 tokens and 8 completions of 512, shared, in
               parts and repeated (see grpo_ways.py). A step is here: the tower, the reference's
               pass, forward and backward pass, activations computed again in the backward pass.
               Completions are given, so that nothing is decoded; there is no optimizer; the
               reference is the policy before its update, without a copy of its weights

Columns: seconds (a median, after a run to warm up); peak memory of the GPU, and what `videothinker
plan` expects of it; operations that plan expects of the step (Tflop); MFU, the operations that the
way needs (none of them twice) per second, as a part of the card's peak in its data sheet, and as a
part of what its matrix product has reached; seconds of the repeated way over those of this one,
and what the operations predict. Then what was seen, and which attention kernels ran.

--tiny runs the same rows of small models on the CPU. A row that fails says why, and the others
still run, in a new process where a row has broken the one before. What no longer fits into the
minutes is not run. All is written as JSON too. The last line says what failed; then the exit status
is 1.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from threading import Timer
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]  # a checkout is enough

from grpo_ways import (  # noqa: E402
    Group,
    family_of_config,
    flops,
    needed_flops,
    random_completions,
    random_model,
    random_pixels,
    scorer,
    tiny_config,
    video_prompt,
    vision_flops,
)

FAMILIES = {"qwen2_5_vl": "Qwen2.5-VL", "qwen3_vl": "Qwen3-VL"}
LARGE = {  # `model_type` → a published model of true size, and what its positions need
    "qwen2_5_vl": (
        "Qwen/Qwen2.5-VL-7B-Instruct",
        {"rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    ),
    "qwen3_vl": (
        "Qwen/Qwen3-VL-8B-Instruct",
        {"rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True},
    ),
}
PEAKS = {  # Tflop/s of dense products in 16 bits, from the data sheets; the first name that fits
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "H200": 989,
    "H800": 989,
    "GH200": 989,
    "B200": 2250,
    "A100": 312,
    "A800": 312,
    "L40S": 362,
    "A10": 125,
    "RTX 4090": 165,
    "RTX 3090": 71,
}
SIZE = (4096, 512, 8)  # tokens of a prompt, of a completion, completions
TINY_SIZE = (192, 8, 4)
WAYS = {"repeated": "repeated", "shared": "ours", "in parts": "in parts"}
LIMITS = {  # bits → of log-probabilities (nats, largest), and of the gradient (relative)
    32: (1e-5, 1e-4),
    16: (2e-2, 2e-2),
}
MEAN_LIMITS = {32: 1e-5, 16: 5e-2}  # nats, mean over tokens, between two passes in so many bits
KL_LIMIT = 1e-3  # nats of a policy from itself
REPEATS = 3


# Where it runs


@dataclass
class Place:
    """A device, with what the rows have in common.

    Attributes
    ----------
    tiny : small models and shapes, on the CPU.
    until : time (`time.time`) at which nothing new begins.
    """

    tiny: bool
    until: float
    reached: float = 0.0  # operations per second of a large matrix product
    first: dict[str, Any] = field(default_factory=dict)  # model type → log-probabilities of a step
    exact: dict[tuple[str, int], Exact] = field(default_factory=dict)  # by model type and bits
    _large: tuple[str, Any] | None = None

    @cached_property
    def device(self) -> Any:
        """The GPU, or with `tiny` the CPU."""
        import torch

        return torch.device("cpu" if self.tiny else "cuda")

    @property
    def is_cuda(self) -> bool:
        """True on a GPU."""
        return not self.tiny

    @property
    def size(self) -> tuple[int, int, int]:
        """Tokens of a prompt, of a completion, and completions, of the timed steps."""
        return TINY_SIZE if self.tiny else SIZE

    @property
    def repeats(self) -> int:
        """How often a step is timed, after one to warm up."""
        return 1 if self.tiny else REPEATS

    @cached_property
    def folder(self) -> Path:
        """For what the trainings read and write; gone with the process."""
        self._temporary = tempfile.TemporaryDirectory(prefix="check-gpu-")
        return Path(self._temporary.name)

    def machine(self) -> dict[str, Any]:
        """Card, its memory and peak, versions of what runs on it."""
        import torch
        import transformers

        about = {"torch": torch.__version__, "transformers": transformers.__version__}
        for name in ("trl", "peft"):
            about[name] = version_of(name)
        if not self.is_cuda:
            return about | {"device": "CPU", "threads": torch.get_num_threads()}
        card = torch.cuda.get_device_properties(0)
        return about | {
            "device": card.name,
            "gb": card.total_memory / 1e9,
            "peak_tflops": peak_of(card.name),
            "cuda": torch.version.cuda,
        }

    def clock(self) -> float:
        """Seconds; on one thread of a CPU those of the process, which others leave alone."""
        import torch

        alone = not self.is_cuda and torch.get_num_threads() == 1
        return time.process_time() if alone else time.perf_counter()

    def wait(self) -> None:
        """Until the device has done what it was given."""
        import torch

        if self.is_cuda:
            torch.cuda.synchronize()

    def clear(self) -> None:
        """Give back what nobody holds, and begin to count the peak of the memory anew."""
        import torch

        gc.collect()
        if self.is_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> float | None:
        """Gigabytes in use at most since `clear`; None on a CPU."""
        import torch

        return torch.cuda.max_memory_allocated() / 1e9 if self.is_cuda else None

    def large(self, model_type: str) -> Group:
        """A group of the timed steps; the model of one family at a time is in memory."""
        import torch

        if self._large is None or self._large[0] != model_type:
            self._large = None
            self.exact.clear()
            self.clear()
            config = tiny_config(model_type) if self.tiny else large_config(model_type)
            group = random_group(config, *self.size, self.device, torch.bfloat16)
            save_memory(group.model)
            self._large = model_type, group
        return self._large[1]


def version_of(module: str) -> str | None:
    """The version of an installed module, without importing it; None where there is none."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(module)
    except PackageNotFoundError:
        return None


def peak_of(card: str) -> float | None:
    """Tflop/s of a card's data sheet (dense, 16 bits); None for a card that is not known."""
    return next((float(peak) for name, peak in PEAKS.items() if name in card), None)


def large_config(model_type: str) -> Any:
    """The configuration of a published model, as `plan` knows it, with its rotary positions."""
    from videothinker.training.plan import config_of

    name, rope = LARGE[model_type]
    config = config_of(name)
    config.text_config.rope_parameters = {"rope_type": "default"} | rope
    return config


def save_memory(model: Any) -> None:
    """Let the layers of transformers compute their activations again in the backward pass."""
    older = model.gradient_checkpointing_enable  # before transformers 5.20 or so
    getattr(model, "activation_checkpointing_enable", older)()
    model.train()  # or it has no effect


def random_group(
    config: Any, P: int, C: int, G: int, device: Any = "cpu", dtype: Any = None
) -> Group:
    """A model with random weights, a prompt of noise, and completions of random words."""
    model = random_model(config, device, dtype)
    prompt = video_prompt(config, P)
    prompt = replace(prompt, pixels=random_pixels(config, prompt.grid))
    return Group(model, prompt, random_completions(config, C, G), family_of_config(config))


# Which attention ran

KERNELS = {  # operation of torch → name
    "aten::_scaled_dot_product_flash_attention": "flash",
    "aten::_scaled_dot_product_flash_attention_for_cpu": "flash",
    "aten::_scaled_dot_product_efficient_attention": "memory-efficient",
    "aten::_efficient_attention_forward": "memory-efficient",
    "aten::_scaled_dot_product_cudnn_attention": "cuDNN",
    "aten::_scaled_dot_product_fused_attention_overrideable": "fused",
    "aten::_scaled_dot_product_attention_math": "math",  # keeps all scores in memory
}


@contextmanager
def attention_kernels() -> Iterator[Counter[str]]:
    """Count the kernels that compute attention in forward passes, by name.

    The first call of each kind (shapes, types, mask) is watched by torch's profiler. Those in a
    backward pass, where activations are computed again, are counted on a CPU only.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    seen: Counter[str] = Counter()
    known: dict[Any, str] = {}  # kind of call → kernel

    class Calls(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
        ) -> Any:
            kwargs = kwargs or {}
            if func is not torch.nn.functional.scaled_dot_product_attention:
                return func(*args, **kwargs)
            kind = kind_of_call(*args, **kwargs)
            if kind in known:
                result = func(*args, **kwargs)
            else:
                with torch.profiler.profile(
                    activities=[torch.profiler.ProfilerActivity.CPU]
                ) as watched:
                    result = func(*args, **kwargs)
                names = {event.key for event in watched.key_averages()}
                kernels = dict.fromkeys(KERNELS[name] for name in KERNELS if name in names)
                known[kind] = " + ".join(kernels) or "unknown"
            seen[known[kind]] += 1
            return result

    with Calls():
        yield seen


def kind_of_call(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
    """What the choice of a kernel depends on: shapes, types, gradients and options."""
    tensors = [x for x in (*args, *kwargs.values()) if hasattr(x, "dtype")]
    shapes = [(type(x), tuple(x.shape), x.dtype, x.requires_grad) for x in tensors]
    options = {name: value for name, value in kwargs.items() if not hasattr(value, "dtype")}
    return *shapes, *sorted(options.items())


def kernel_text(seen: Counter[str]) -> str:
    """The kernels that were seen, the most frequent first."""
    return "attention: " + ", ".join(f"{n} × {name}" for name, n in seen.most_common() if n)


# Rows: the card


def matmul(place: Place) -> dict[str, Any]:
    """What the card reaches: a product of square matrices in 16 bits."""
    import torch

    n = 256 if place.tiny else 8192
    a, b = (torch.randn(n, n, device=place.device, dtype=torch.bfloat16) for _ in range(2))
    seconds = time_of(lambda: a @ b, place)
    place.reached = 2 * n**3 / seconds
    return {
        "seconds": seconds,
        "reached_tflops": place.reached / 1e12,
        "detail": f"{n}³ in bfloat16: {place.reached / 1e12:.3g} Tflop/s",
    }


def patch_embedding(place: Place, model_type: str) -> dict[str, Any]:
    """Patches of a video by one matrix product, and by the Conv3d that it replaces."""
    import torch

    from videothinker.model.loading import PatchProjection

    vision = large_config(model_type).vision_config
    sides = [vision.temporal_patch_size, vision.patch_size, vision.patch_size]
    bias = model_type == "qwen3_vl"
    torch.manual_seed(0)
    conv = torch.nn.Conv3d(3, vision.hidden_size, sides, stride=sides, bias=bias)
    conv = conv.to(place.device, torch.float32 if place.tiny else torch.bfloat16)
    product = deepcopy(conv)
    product.__class__ = PatchProjection
    patches = torch.randn(512 if place.tiny else 16384, 3, *sides).to(conv.weight)
    with torch.no_grad():
        expected = conv(patches).double()
        difference = float((product(patches).double() - expected).norm() / expected.norm())
        seconds = time_of(lambda: product(patches), place)
        theirs = time_of(lambda: conv(patches), place)
    limit = 1e-5 if place.tiny else 1e-2
    return {
        "seconds": seconds,
        "conv3d_seconds": theirs,
        "conv3d_ratio": theirs / seconds,
        "difference": difference,
        "problem": "" if difference < limit else f"off by {difference:.0e} from Conv3d",
        "detail": f"{len(patches)} patches; Conv3d takes {theirs / seconds:.1f} times as long, "
        f"difference {difference:.0e}",
    }


def timed(act: Callable[[], Any], place: Place) -> float:
    """Seconds of an act."""
    place.wait()
    begin = place.clock()
    act()
    place.wait()
    return place.clock() - begin


def time_of(act: Callable[[], Any], place: Place) -> float:
    """Median seconds of a short act, after one to warm up."""
    act()
    return statistics.median(timed(act, place) for _ in range(REPEATS))


# Rows: exactness


@dataclass
class Exact:
    """A group of a small model, and what its repeated way says, also with the weights in 64 bits.

    Attributes
    ----------
    truth : log-probabilities [ΣC] and gradient in 64 bits.
    repeated : how far the repeated way is from them in the group's own bits (see `distances`).
    """

    group: Group
    truth: tuple[Any, Any]
    repeated: tuple[float, float]


def exact_of(place: Place, model_type: str, bits: int) -> Exact:
    """The group of a family in so many bits; made once."""
    import torch

    if (model_type, bits) not in place.exact:
        group = uneven_group(place, model_type)
        dtype = torch.float32 if bits == 32 else torch.bfloat16
        group.model.to(place.device, dtype)
        truth = scored("repeated", replace(group, model=deepcopy(group.model).double()))
        repeated = distances(scored("repeated", group), truth)
        place.exact[model_type, bits] = Exact(group, truth, repeated)
    return place.exact[model_type, bits]


def uneven_group(place: Place, model_type: str) -> Group:
    """Completions of several lengths, some with a common beginning; the tower is trained, too."""
    P, C, G = (192, 10, 4) if place.tiny else (1024, 64, 8)
    group = random_group(tiny_config(model_type), P, C, G)
    group.model.requires_grad_(True)
    first = group.completions[0]
    completions = [
        [*first[: C // 2], *other[C // 2 : C - i]] if i % 2 else other[: C - i]
        for i, other in enumerate(group.completions)
    ]
    return replace(group, completions=completions)


def scored(way: str, group: Group) -> tuple[Any, Any]:
    """Log-probabilities [ΣC], and the gradient of a random linear function of them, in 64 bits."""
    import torch

    group.model.zero_grad(set_to_none=True)
    logps = scorer(way, group)()
    noise = torch.Generator().manual_seed(1)
    weights = torch.randn(len(logps), generator=noise, dtype=torch.float64)
    (logps * weights.to(logps)).sum().backward()
    gradient = torch.cat([p.grad.flatten().double() for p in group.model.parameters()])
    return logps.detach().double(), gradient


def distances(one: tuple[Any, Any], other: tuple[Any, Any]) -> tuple[float, float]:
    """Largest difference of log-probabilities (nats), and relative one of gradients."""
    logps = float((one[0] - other[0]).abs().max())
    return logps, float((one[1] - other[1]).norm() / other[1].norm())


def exactness(place: Place, model_type: str, bits: int, way: str) -> dict[str, Any]:
    """A way is as near to 64 bits as the repeated way of transformers is, or within the limits."""
    exact = exact_of(place, model_type, bits)
    repeated = exact.repeated
    with attention_kernels() as seen:
        ours = distances(scored(WAYS[way], exact.group), exact.truth)
    names = "log-probabilities", "gradient"
    far = [
        f"{name} off by {d:.0e} (repeated: {r:.0e})"
        for name, d, r, limit in zip(names, ours, repeated, LIMITS[bits], strict=True)
        if not d <= max(limit, 2 * r)  # not a number is far, too
    ]
    return {
        "logps": ours[0],
        "gradient": ours[1],
        "repeated_logps": repeated[0],
        "repeated_gradient": repeated[1],
        "kernels": dict(seen),
        "problem": ", ".join(far),
        "detail": f"log-prob. ± {ours[0]:.0e} (repeated {repeated[0]:.0e}), "
        f"gradient ± {ours[1]:.0e} ({repeated[1]:.0e}); {kernel_text(seen)}",
    }


def rollout(place: Place, model_type: str, bits: int) -> dict[str, Any]:
    """Log-probabilities that tokens were drawn with, beside those that the update gives them."""
    import torch

    from videothinker.model.generate import Decoding, generate

    group = exact_of(place, model_type, bits).group
    tokens = 8 if place.tiny else 64
    family = group.family
    with torch.no_grad():
        drawn = generate(
            group.model, [group.prompt], family, 4, Decoding(max_new_tokens=tokens), seed=0
        )[0]
        again = replace(group, completions=[c.ids for c in drawn])
        update = scorer("ours", again)().double().cpu()
    sampled = torch.tensor([x for c in drawn for x in c.logprobs], dtype=torch.float64)
    gap = (update - sampled).abs()
    mean, most = float(gap.mean()), float(gap.max())
    near = mean <= MEAN_LIMITS[bits]
    return {
        "mean_gap": mean,
        "largest_gap": most,
        "problem": "" if near else f"rollout and update differ by {mean:.0e} nats",
        "detail": f"rollout − update: mean {mean:.0e}, largest {most:.0e} nats of "
        f"{len(gap)} tokens",
    }


# Rows: trainings


def toy_rows(place: Place) -> tuple[Path, list[Any]]:
    """A folder of four small clips, and rows with traces."""
    from videothinker.schema import read_captions
    from videothinker.synthesis.synthesize import synthesize
    from videothinker.toy.teacher import ScriptedTeacher
    from videothinker.toy.world import WorldSize, make_world

    folder = place.folder / "clips"
    if not (folder / "captions.jsonl").exists():
        make_world(folder, WorldSize(train=4, val=0, test=0, ood=0, questions=1))
    captions = read_captions(folder / "captions.jsonl")
    return folder, synthesize(captions, [], ScriptedTeacher(0, mistake_rate=0), progress=False)


def toy_base(place: Place, model_type: str) -> str:
    """The tiny base that comes with the package, or an untrained one of the family."""
    from videothinker.configs import base_model_path
    from videothinker.model.loading import Settings, save_model
    from videothinker.toy.model import build_model, build_processor

    if model_type == "qwen2_5_vl":
        return str(base_model_path())
    base = place.folder / model_type
    if not base.exists():
        processor = build_processor(model_type)
        save_model(build_model(processor), processor, base, Settings("short"))
    return str(base)


def spread(completions: Sequence[str], **columns: Any) -> list[float]:
    """A reward that different completions seldom share."""
    return [float(sum(map(ord, text)) % 17) for text in completions]


def training(place: Place, model_type: str, stage: str, adapters: bool) -> dict[str, Any]:
    """Two steps of a tiny model, through the trainer that a real run goes through."""
    from videothinker.model.encoder import EncoderOptions
    from videothinker.training.grpo import train_grpo
    from videothinker.training.job import Recipe, TrainingJob
    from videothinker.training.sft import train_sft
    from videothinker.video.frames import Sampling

    folder, rows = toy_rows(place)
    side = 64 if model_type == "qwen3_vl" else 56
    group = {"num_generations": 4, "max_completion_length": 8, "beta": 0.04, "temperature": 2.0}
    train = {
        "max_steps": 2,
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "learning_rate": 1e-4,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "use_cpu": place.tiny,
    } | (group if stage == "grpo" else {})
    recipe = Recipe(
        stage,
        style="short",
        sampling=Sampling(fps=2, max_frames=48, size=(side, side)),
        peft={"r": 4, "target_modules": ["q_proj", "v_proj"]} if adapters else None,
        train=train,
    )
    with tempfile.TemporaryDirectory(dir=place.folder) as out:
        job = TrainingJob(
            recipe,
            toy_base(place, model_type),
            rows,
            folder,
            Path(out),
            EncoderOptions(timeout=None, cache_dir=None),
            {"spread": spread} if stage == "grpo" else None,
        )
        begin = time.perf_counter()
        log = {"sft": train_sft, "grpo": train_grpo}[stage](job)["log"]
    return judged([row for row in log if "loss" in row], stage) | {
        "seconds": time.perf_counter() - begin
    }


def judged(steps: Sequence[dict[str, float]], stage: str) -> dict[str, Any]:
    """What the log of two steps says, and what is wrong with it."""
    losses = [step["loss"] for step in steps]
    problem = ""
    if len(steps) != 2:
        problem = f"{len(steps)} steps instead of 2"
    elif not all(abs(loss) < float("inf") for loss in losses):
        problem = f"losses {losses}"
    elif not all(0 < step["grad_norm"] < float("inf") for step in steps):
        problem = f"gradients of norm {[step['grad_norm'] for step in steps]}"
    elif stage == "grpo" and not abs(steps[0]["kl"]) < KL_LIMIT:
        problem = f"the policy is {steps[0]['kl']:.0e} nats from itself before its first update"
    detail = "loss " + ", ".join(f"{loss:.3g}" for loss in losses)
    figures: dict[str, Any] = {"losses": losses}
    if stage == "grpo" and steps:
        gap = steps[0].get("sampling/sampling_logp_difference/max", float("nan"))
        figures |= {"kl": steps[0].get("kl"), "sampling_logp_difference_max": gap}
        detail += f"; KL before the first update {figures['kl']:.0e}; rollout − update at most "
        detail += f"{gap:.0e} nats"
    return figures | {"problem": problem, "detail": detail}


# Rows: steps at true size


def step_of(group: Group, way: str) -> Callable[[], Any]:
    """A function that does a step with given completions, and returns their log-probabilities.

    The tower sees the video once for all passes; `repeated`, G times in each.
    """
    import torch

    from videothinker.model.vision_cache import with_features
    from videothinker.training.losses import kl_estimate, mean_of_tokens, per_token_loss

    G, C = len(group.completions), len(group.completions[0])
    advantages = torch.linspace(-1, 1, G).to(group.model.device)
    mask = torch.ones(G, C, device=group.model.device)
    plain = scorer(way, group) if way == "repeated" else None

    def step() -> Any:
        group.model.zero_grad(set_to_none=True)
        score = plain
        if score is None:
            prompt = with_features(group.model, [group.prompt])[0]
            score = scorer(way, replace(group, prompt=prompt), save_memory=True)
        with torch.no_grad():
            reference = score().view(G, C)
        logps = score().view(G, C)
        loss = per_token_loss(logps, logps.detach(), advantages, mask, 0.2, 0.2)
        loss = loss + 0.04 * kl_estimate(logps, reference)
        mean_of_tokens(loss, mask, C, G * C).backward()
        return logps.detach().flatten()

    return step


def planned(group: Group, way: str) -> dict[str, float]:
    """Gigabytes and operations that `plan` expects of a step without rollout and optimizer."""
    from videothinker.training.job import Recipe
    from videothinker.training.plan import Load, Shape, memory_of, step_flops

    model = group.model
    shape = Shape.of(model.config)
    G, C, P = len(group.completions), len(group.completions[0]), len(group.prompt)
    video = int((group.prompt.input_ids == group.family.video_token).sum())
    load = Load(tuple(group.prompt.grid[0].tolist()), video, P, C, C)
    train = {"num_generations": G, "per_device_train_batch_size": G, "beta": 0.04, "bf16": True}
    recipe = Recipe("grpo", train=train | ({"update_rows": 1} if way == "in parts" else {}))
    operations = step_flops(shape, recipe, load)
    # weights and gradients in 16 bits are those of DeepSpeed's second stage
    memory = memory_of(shape, count_parameters(model), recipe, load, 1, "zero2")
    parts = "weights", "gradients", "activations", "logits"
    return {
        "planned_gb": sum(memory[part] for part in parts) / 1e9,
        "planned_tflop": sum(operations[p] for p in ("tower", "reference", "update")) / 1e12,
    }


def count_parameters(model: Any) -> dict[str, int]:
    """Parameters of `vision`, `text` and `words`, as `plan` counts them."""
    whole, vision, text = (
        sum(p.numel() for p in module.parameters())
        for module in (model, model.model.visual, model.model.language_model.layers)
    )
    return {"vision": vision, "text": text, "words": whole - vision - text}


def operations_of(group: Group, way: str) -> dict[str, float]:
    """Operations that a step needs, and those that it does, of the tower and both passes."""
    from videothinker.training.plan import Shape

    shape = Shape.of(group.model.config)
    G, C, P = len(group.completions), len(group.completions[0]), len(group.prompt)
    shared = way != "repeated"
    forward = flops(shape, P, C, G, shared)
    again = flops(shape, P, C, G, shared, way == "in parts") - forward
    done = 5 * forward + again + (1 if shared else 2 * G) * vision_flops(shape, P)
    return {"needed": needed_flops(shape, P, C, G, way), "done": done}


def step(place: Place, model_type: str, name: str) -> dict[str, Any]:
    """A GRPO step of one group, timed, beside what is planned."""
    way = WAYS[name]
    group = place.large(model_type)
    place.clear()
    act = step_of(group, way)
    begin = time.perf_counter()
    with attention_kernels() as seen:
        logps = act()
    place.wait()
    warm_up = time.perf_counter() - begin
    fits = int((place.until - time.time()) / max(warm_up, 1e-3))
    place.clear()
    times = [timed(act, place) for _ in range(max(1, min(place.repeats, fits)))]
    seconds = statistics.median(times)
    figures = {
        "seconds": seconds,
        "runs": len(times),
        "gb": place.peak(),
        "parameters": sum(count_parameters(group.model).values()),
        "kernels": dict(seen),
    }
    figures |= planned(group, way) if way != "repeated" else {}  # which `plan` does not know
    figures |= operations_of(group, way)
    figures |= utilisation(figures["needed"] / seconds, place)
    group.model.zero_grad(set_to_none=True)
    first = place.first.setdefault(model_type, logps.double().cpu())
    figures["mean_gap"] = float((logps.double().cpu() - first).abs().mean())
    near = figures["mean_gap"] <= MEAN_LIMITS[16]
    return figures | {
        "problem": "" if near else f"log-probabilities differ by {figures['mean_gap']:.0e} nats",
        "detail": f"{figures['parameters'] / 1e9:.2g} billion parameters; log-prob. ± "
        f"{figures['mean_gap']:.0e}; {kernel_text(seen)}",
    }


def utilisation(rate: float, place: Place) -> dict[str, float]:
    """Operations per second as parts of the data sheet's peak, and of the matrix product's rate."""
    peak = place.machine().get("peak_tflops")
    parts = {"mfu": rate / (peak * 1e12)} if peak else {}
    return parts | ({"of_matmul": rate / place.reached} if place.reached else {})


# All rows


@dataclass(frozen=True)
class Check:
    """A row: what it is called, what it does, which modules it needs, how long it takes at least.

    Attributes
    ----------
    run : place → figures; with them a `detail`, and a `problem` that is empty where there is none.
    seconds : it is not begun when fewer are left.
    limit : seconds after which it is stopped (not with `--tiny`: a CPU may be busy).
    """

    name: str
    run: Callable[[Place], dict[str, Any]]
    needs: tuple[str, ...] = ()
    seconds: float = 5.0
    limit: float = 60.0


def all_checks() -> list[Check]:
    """The rows in their order: the cheap ones first."""
    checks = [Check("card: matrix product", matmul)]
    families = FAMILIES.items()
    for model_type, title in families:
        name = f"card: patches of {title}"
        checks.append(Check(name, partial(patch_embedding, model_type=model_type)))
    for model_type, title in families:
        for bits in (32, 16):
            name, options = f"exact: {title}, {bits} bits", {"model_type": model_type, "bits": bits}
            for way in ("shared", "in parts"):
                checks.append(Check(f"{name}, {way}", partial(exactness, **options, way=way)))
            checks.append(Check(f"{name}, rollout", partial(rollout, **options)))
    trainer = "trl", "accelerate", "datasets", "av"
    for model_type, title in families:
        for stage, adapters in (("sft", False), ("grpo", False), ("grpo", True)):
            name = f"train: {title}, {stage.upper()}{', LoRA' if adapters else ''}"
            act = partial(training, model_type=model_type, stage=stage, adapters=adapters)
            needs = (*trainer, "peft") if adapters else trainer
            checks.append(Check(name, act, needs, seconds=15, limit=120))
    for model_type, title in families:
        for way in WAYS:
            name = f"step: {title}, {way}"
            act = partial(step, model_type=model_type, name=way)
            checks.append(Check(name, act, seconds=30, limit=180))
    return checks


@dataclass
class Row:
    """What has become of a check.

    Attributes
    ----------
    result : "passed", "failed" or "not run".
    detail : what was seen, or why.
    figures : what was measured.
    """

    name: str
    result: str
    detail: str
    figures: dict[str, Any] = field(default_factory=dict)


def has_time(check: Check, until: float) -> bool:
    """Return True if a check would be done in time."""
    return until - time.time() >= check.seconds


def guarded(check: Check, place: Place) -> Row:
    """The row of a check, whatever happens in it."""
    missing = [name for name in check.needs if importlib.util.find_spec(name) is None]
    if missing:
        return Row(check.name, "not run", f"needs {', '.join(missing)}")
    if not has_time(check, place.until):
        return Row(check.name, "not run", "no time left")
    try:
        figures = check.run(place)
    except Exception as error:  # whatever it is: the other rows are to run
        row = Row(check.name, "failed", said(error))
    else:
        problem, detail = figures.pop("problem", ""), figures.pop("detail", "")
        row = Row(check.name, "failed" if problem else "passed", problem or detail, figures)
    place.clear()  # after the error and its frames are gone
    return row


def said(error: BaseException) -> str:
    """An error as one line, with the one that it came from."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0] if lines else 'without a word'}"[:200]
    return f"{text} (from {said(error.__cause__)})" if error.__cause__ else text


# Processes: one runs the rows, the other one prints them and sees to it that they end


def serve(names: Sequence[str], tiny: bool, until: float) -> None:
    """Run the rows with these names; say of each, as JSON, when it begins and what became of it."""
    voice = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries talk, too

    def tell(**message: Any) -> None:
        voice.write(json.dumps(message) + "\n")

    import torch
    import transformers

    if not tiny and not torch.cuda.is_available():
        tell(refused="torch sees no GPU here; --tiny runs the same rows, small, on the CPU")
        return
    transformers.logging.set_verbosity_error()
    place = Place(tiny, until)
    tell(machine=place.machine())
    for check in all_checks():
        if check.name in names:
            tell(begins=check.name)
            row = guarded(check, place)
            tell(row=asdict(row))
            if row.result == "failed" and "CUDA error" in row.detail:
                return  # which all that follow in this process would meet as well


class Refused(Exception):
    """Nothing can be run; says why."""


def supervise(
    checks: Sequence[Check], tiny: bool, until: float, machine: dict[str, Any]
) -> Iterator[Row]:
    """Rows as they come from a process; another one begins after a row that ended it."""
    waiting = {check.name: check for check in checks}
    while waiting:
        if machine and not any(has_time(check, until) for check in waiting.values()):
            # another process would say no more, after its imports
            yield from (Row(name, "not run", "no time left") for name in waiting)
            return
        before = len(waiting)
        with tempfile.TemporaryFile("w+", errors="replace") as words:
            command = [sys.executable, sys.argv[0], "--serve", *waiting, "--until", str(until)]
            with subprocess.Popen(
                [*command, *["--tiny"] * tiny], stdout=subprocess.PIPE, stderr=words, text=True
            ) as process:
                begun, left, patience = "", 0.0, 0.0
                timer = Timer(0, process.kill)
                assert process.stdout is not None
                for message in map(json.loads, process.stdout):
                    if "refused" in message:
                        raise Refused(message["refused"])
                    machine |= message.get("machine", {})
                    if "begins" in message:
                        begun = message["begins"]
                        left = max(until - time.time(), 0) + 5
                        patience = left if tiny else min(left, waiting[begun].limit)
                        timer = Timer(patience, process.kill)
                        timer.start()
                    if "row" in message:
                        timer.cancel()
                        begun = ""
                        row = Row(**message["row"])
                        del waiting[row.name]
                        yield row
                timer.cancel()
            if begun:
                words.seek(0)
                del waiting[begun]
                if process.returncode == -signal.SIGKILL and patience == left:
                    yield Row(begun, "not run", f"stopped after {left:.0f} s: no time left")
                else:
                    yield broken(begun, process.returncode, patience, words.read())
            elif len(waiting) == before:
                words.seek(0)
                last = words.read().strip().splitlines() or ["it said nothing"]
                raise Refused(f"the process that runs the rows ended at once: {last[-1]}")


def broken(name: str, code: int, patience: float, words: str) -> Row:
    """The row of a check that ended its process, or was stopped with it."""
    if code == -signal.SIGKILL:
        why = f"stopped: took longer than {patience:.0f} s, or the host's memory was full"
        return Row(name, "failed", why)
    last = words.strip().splitlines()[-1:]
    why = f"its process ended with status {code}"
    return Row(name, "failed", ": ".join([why, *last])[:300])


# Printing

COLUMNS = {  # figure → its title, width, format, and a factor
    "seconds": ("s", 8, ".3g", 1),
    "gb": ("GB", 6, ".1f", 1),
    "planned_gb": ("plan", 6, ".1f", 1),
    "planned_tflop": ("Tflop", 9, ".3g", 1),
    "mfu": ("MFU %", 7, ".1f", 100),
    "of_matmul": ("of it", 7, ".1f", 100),
    "ratio": ("ratio", 6, ".2f", 1),
    "predicted_ratio": ("pred.", 6, ".2f", 1),
}
NAME = 38


def head() -> str:
    """Titles of the columns."""
    titles = "".join(f"{title:>{width}}" for title, width, *_ in COLUMNS.values())
    return f"{'row':{NAME}}{'result':8}{titles}  what was seen"


def line_of(row: Row) -> str:
    """A row of the table, as text."""
    cells = ""
    for name, (_, width, form, factor) in COLUMNS.items():
        value = row.figures.get(name)
        cells += f"{'-' if value is None else format(value * factor, form):>{width}}"
    return f"{row.name:{NAME}}{row.result:8}{cells}  {row.detail}"


def with_ratio(row: Row, rows: Sequence[Row]) -> Row:
    """A step's row with what the repeated way took in its place, if that has run."""
    kind, _, _ = row.name.rpartition(", ")
    base = next((r.figures for r in [*rows, row] if r.name == f"{kind}, repeated"), {})
    mine = row.figures
    if "done" in mine and "done" in base:
        ratios = {
            "ratio": base["seconds"] / mine["seconds"],
            "predicted_ratio": base["done"] / mine["done"],
        }
        return replace(row, figures=mine | ratios)
    return row


def verdict(rows: Sequence[Row]) -> str:
    """One line: what failed, and what was not run."""
    by_result: dict[str, list[str]] = {"passed": [], "failed": [], "not run": []}
    for row in rows:
        why = "" if row.result == "passed" else f" ({row.detail[:100]})"
        by_result[row.result].append(row.name + why)
    failed, absent = by_result["failed"], by_result["not run"]
    told = [f"{len(by_result['passed'])} of {len(rows)} rows passed"]
    told += [f"FAILED: {', '.join(failed)}"] if failed else []
    told += [f"not run: {', '.join(absent)}"] if absent else []
    return "; ".join(told)


def about(machine: dict[str, Any], tiny: bool) -> str:
    """One line about where the rows run."""
    P, C, G = TINY_SIZE if tiny else SIZE
    known = {name: value for name, value in machine.items() if value is not None}
    text = ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in known.items()
    )
    models = "tiny models" if tiny else " and ".join(name for name, _ in LARGE.values())
    return f"{text}\nsteps of {models}: a prompt of {P} tokens, {G} completions of {C}"


def write_report(path: Path, machine: dict[str, Any], tiny: bool, rows: Sequence[Row]) -> None:
    """All that is known so far, as JSON."""
    size = TINY_SIZE if tiny else SIZE
    report = {"machine": machine, "tiny": tiny, "size": size, "rows": list(map(asdict, rows))}
    path.write_text(json.dumps(report, indent=1) + "\n")


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        description="Check and time on a GPU what runs differently there, as one table."
    )
    parser.add_argument("--tiny", action="store_true", help="the same rows, small, on the CPU")
    parser.add_argument(
        "--minutes", type=float, default=8, help="nothing new begins after them (default: 8)"
    )
    parser.add_argument(
        "--json",
        type=Path,
        default=Path("check_gpu.json"),
        help="where the rows are written, too (default: check_gpu.json)",
    )
    parser.add_argument(
        "--only", nargs="+", metavar="WORD", help="rows with one of these words in their names"
    )
    parser.add_argument("--serve", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, default=0.0, help=argparse.SUPPRESS)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Parse the arguments, run the rows, print the table; 1 if a row failed."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.serve:
        serve(args.serve, args.tiny, args.until)
        return 0
    words = args.only or [""]
    checks = [check for check in all_checks() if any(word in check.name for word in words)]
    if not checks:
        parser.error(f"--only {' '.join(words)}: no row has that in its name")
    if not args.json.parent.is_dir():
        parser.error(f"--json {args.json}: there is no folder {args.json.parent}")
    machine: dict[str, Any] = {}
    rows: list[Row] = []
    try:
        for row in supervise(checks, args.tiny, time.time() + 60 * args.minutes, machine):
            if not rows:
                print(f"{about(machine, args.tiny)}\n{head()}")
            rows.append(with_ratio(row, rows))
            print(line_of(rows[-1]), flush=True)
            write_report(args.json, machine, args.tiny, rows)
    except Refused as refused:
        parser.error(str(refused))
    print(verdict(rows))
    return int(any(row.result == "failed" for row in rows))


if __name__ == "__main__":
    from videothinker.commands.main import reader_may_leave

    with reader_may_leave():
        sys.exit(main())
