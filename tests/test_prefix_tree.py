"""A group over its prefix tree: each history computed once, and the gradients stay the same."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

# a fork after two tokens, one after four, a proper beginning, a copy, an empty one, another root
SHARED = [
    [20, 21, 22, 23],
    [20, 21, 30, 31, 32, 33, 34],
    [20, 21, 30, 31, 40, 41],
    [20, 21],
    [20, 21, 22, 23],
    [],
    [50],
    [50, 21, 22],
]
APART = [[i, 60, 61, 62] for i in range(20, 24)]  # they share the prompt's last token alone
GROUPS = {"shared": SHARED, "apart": APART, "one": [[20, 21, 22]], "copies": [[20, 21]] * 3}
MODES = ("tower trained", "two videos", "tower frozen", "no video", "LoRA")


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def world(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A fresh model in 64 bits, norms included, an adapted copy, and a prompt for each mode."""
    import torch
    from peft import LoraConfig, get_peft_model

    from videothinker.model.family import family_of
    from videothinker.model.shared_prefix import text_model
    from videothinker.model.vision_cache import with_features
    from videothinker.toy.base import Task, encode_task
    from videothinker.toy.model import build_model, build_processor
    from videothinker.toy.world import draw_scene

    torch.manual_seed(0)
    processor = build_processor(request.param)
    model = build_model(processor).double()
    modeling = import_module(type(model).__module__)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # a fresh model's biases are 0: they would prove nothing
            torch.nn.init.normal_(parameter, std=0.2)
        if name.endswith(("q_norm.weight", "k_norm.weight")):  # and these are 1
            torch.nn.init.normal_(parameter, 1.0, 0.2)
    adapters = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)

    def encoded(scene: Any) -> Any:
        prompt, _ = encode_task(Task("Check the options.", "", scene), processor)
        pixels = None if prompt.pixels is None else prompt.pixels.double()
        return replace(prompt, pixels=pixels)

    video, other = (encoded(draw_scene("tree", i)) for i in (0, 1))
    two = replace(
        video,
        input_ids=torch.cat([video.input_ids, other.input_ids]),
        pixels=torch.cat([video.pixels, other.pixels]),
        grid=torch.cat([video.grid, other.grid]),
        seconds_per_grid=video.seconds_per_grid + other.seconds_per_grid,
    )
    frozen = deepcopy(model)
    frozen.model.visual.requires_grad_(False)
    (still,) = with_features(frozen, [video])
    adapted = get_peft_model(deepcopy(frozen), adapters)
    norm = type(text_model(model).norm)

    def exact_norm(self: Any, x: Any) -> Any:  # transformers' computes in 32 bits
        return (
            self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        )

    def exact_rotation(q: Any, k: Any, cos: Any, sin: Any) -> Any:  # so does the tower's
        cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
        return tuple(x * cos + modeling.rotate_half(x) * sin for x in (q, k))

    with (
        patch.object(norm, "forward", exact_norm),
        patch.object(modeling, "apply_rotary_pos_emb_vision", exact_rotation),
    ):
        yield SimpleNamespace(
            processor=processor,
            family=family_of(model, processor),
            modes={
                "tower trained": (model, video),
                "two videos": (model, two),
                "tower frozen": (frozen, still),
                "no video": (frozen, encoded(None)),
                "LoRA": (adapted, still),
            },
        )


def one_by_one(model: Any, prompt: Any, group: Any, family: Any, temperature: float) -> Any:
    """(log-probabilities, entropies) [ΣC], each completion a forward pass of its own."""
    import torch

    from videothinker.model.batch import collate

    banned = torch.tensor(family.suppressed)
    logps, entropies = [], []
    for completion in filter(None, group):
        batch = collate([prompt], [completion], family)
        logits = model(**batch.model_inputs(), use_cache=False).logits[0, -len(completion) - 1 : -1]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
        rows = logits.index_fill(-1, banned, torch.finfo(logits.dtype).min).log_softmax(
            -1
        )  # [C, V]
        logps.append(rows.gather(-1, torch.tensor(completion)[:, None]).squeeze(-1))
        entropies.append(-(rows.exp() * rows).sum(-1))
    return torch.cat(logps), torch.cat(entropies)


def run(world: Any, mode: str, group: Any, plainly: bool = False, **options: Any) -> list[Any]:
    """Log-probabilities, entropies and the gradients of a linear loss with random weights."""
    import torch

    from videothinker.model.shared_prefix import group_logps

    model, prompt = world.modes[mode]
    score = one_by_one if plainly else group_logps
    model.zero_grad(set_to_none=True)
    logps, entropies = score(model, prompt, group, world.family, temperature=0.7, **options)
    noise = torch.Generator().manual_seed(1)
    weights = torch.randn(len(logps), generator=noise, dtype=torch.float64)
    (logps * weights.to(logps)).sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(gradients) > 10
    return [logps.detach(), entropies.detach(), *gradients]


def worst(ours: list[Any], plain: list[Any]) -> float:
    """Largest relative difference (Frobenius norm)."""
    return max(float((a - b).norm() / b.norm()) for a, b in zip(ours, plain, strict=True))


def whole(ours: list[Any], plain: list[Any]) -> float:
    """Relative difference of the gradient as one vector."""
    import torch

    a, b = (torch.cat([g.flatten() for g in gradients]) for gradients in (ours[2:], plain[2:]))
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("mode", MODES)
def test_gradients_are_those_of_one_completion_at_a_time(world: Any, mode: str) -> None:
    """With all in memory, checkpointed, in parts; with a short prompt's attention and a long's."""
    plain = run(world, mode, SHARED, plainly=True)
    for long in (10**9, 0):
        with patch("videothinker.model.attention.LONG", long):
            for options in ({}, {"save_memory": True}, {"save_memory": True, "part": 2}):
                assert worst(run(world, mode, SHARED, **options), plain) < 1e-12, (long, options)


@pytest.mark.parametrize("group", ["apart", "one", "copies"])
def test_groups_that_are_no_real_tree(world: Any, group: str) -> None:
    plain = run(world, "tower frozen", GROUPS[group], plainly=True)
    for options in ({}, {"part": 1}):
        assert worst(run(world, "tower frozen", GROUPS[group], **options), plain) < 1e-12


@pytest.fixture(scope="module")
def single(world: Any) -> Any:
    """The same in 32 bits."""
    model, prompt = world.modes["tower frozen"]
    prompt = replace(prompt, pixels=prompt.pixels.float(), features=prompt.features.float())
    modes = {"tower frozen": (deepcopy(model).float(), prompt)}
    return SimpleNamespace(family=world.family, modes=modes)


@pytest.mark.parametrize("long", [10**9, 0])
def test_in_32_bits(single: Any, long: int) -> None:
    plain = run(single, "tower frozen", SHARED, plainly=True)
    with patch("videothinker.model.attention.LONG", long):
        ours = run(single, "tower frozen", SHARED)
    assert whole(ours, plain) < 1e-6 and worst(ours, plain) < 1e-5


def test_in_16_bits_it_is_as_near_to_the_exact_gradient(single: Any) -> None:
    """Under autocast both round, each in its own way: neither is far from 32 bits."""
    import torch

    exact = run(single, "tower frozen", SHARED, plainly=True)
    off = {}
    for plainly in (True, False):
        with torch.autocast("cpu", torch.bfloat16):
            off[plainly] = whole(run(single, "tower frozen", SHARED, plainly=plainly), exact)
    assert 1e-4 < off[False] < 1.5 * off[True]


def computed(world: Any, group: Any, **options: Any) -> tuple[int, int, int]:
    """Tokens that a layer and the head see, and calls of attention in it, beside the prefix."""
    import torch

    from videothinker.model import attention
    from videothinker.model.shared_prefix import group_logps, prefix_pass, text_model

    model, prompt = world.modes["tower frozen"]
    rows: dict[str, int] = {"layer": 0, "head": 0}
    calls = []

    def count(name: str) -> Any:
        def hook(module: Any, inputs: Any) -> None:
            rows[name] += inputs[0].shape[0]

        return hook

    def read(*args: Any) -> Any:
        calls.append(1)
        return attention.heads_as_batch(*args)

    layers = text_model(model).layers
    with torch.no_grad():
        prefix = prefix_pass(model, prompt, world.family)
        hooks = [
            layers[0].mlp.register_forward_pre_hook(count("layer")),
            model.lm_head.register_forward_pre_hook(count("head")),
        ]
        with patch.object(attention, "heads_as_rows", read):
            group_logps(model, prompt, group, world.family, prefix=prefix, **options)
        for hook in hooks:
            hook.remove()
    return rows["layer"], rows["head"], len(calls) // len(layers)


def test_each_distinct_history_is_computed_once(world: Any) -> None:
    """The head sees one row more where two tokens follow one history."""
    histories = {tuple(c[:n]) for c in SHARED for n in range(len(c))}
    scored = {tuple(c[:n]) for c in SHARED for n in range(1, len(c) + 1)}
    assert computed(world, SHARED)[:2] == (len(histories), len(scored)) == (11, 14)
    assert computed(world, [[20, 21]] * 8) == (2, 2, 1)


def test_what_shares_nothing_costs_what_it_did(world: Any) -> None:
    """But for the prompt's last token: a call of attention for each completion, and no mask."""
    tokens = sum(map(len, APART))
    assert computed(world, APART) == (tokens - (len(APART) - 1), tokens, len(APART))


def test_parts_take_neighbours_and_each_completion_once(world: Any) -> None:
    """Four distinct completions in two parts: what the two of a part share is computed once."""
    group = [[1 + 20, 7, 7, 7], [30, 7, 7, 7], [1 + 20, 7, 7, 8], [30, 7, 7, 8], [30, 7, 7, 8]]
    assert computed(world, group, part=2)[0] == 4 + 4
    assert computed(world, group, part=1)[0] == 4 * 4


def test_order_and_copies_of_completions_change_nothing(world: Any) -> None:
    import torch

    from videothinker.model.shared_prefix import completion_logps

    model, prompt = world.modes["tower frozen"]
    with torch.no_grad():
        there, _, mask = completion_logps(model, [(prompt, SHARED)], world.family)
        back, _, _ = completion_logps(model, [(prompt, SHARED[::-1])], world.family)
    assert mask.sum(1).tolist() == [len(c) for c in SHARED]
    assert torch.equal(there, back.flip(0))
    assert torch.equal(there[0], there[4])


def test_a_long_group_needs_no_mask_of_all_by_all(world: Any) -> None:
    """16 answers of 2,000 tokens: what the tree holds grows with its tokens, not their square."""
    from videothinker.model.prefix_tree import PrefixTree

    group = [[g, *range(1999)] for g in range(16)]
    tree = PrefixTree(group)
    branches = tree.branches()
    assert len(tree) == 16 * 2000 - 15
    assert branches.nodes.numel() == 16 * 2000 and len(branches.lengths) == 16
