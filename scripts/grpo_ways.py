"""A GRPO step of one video prompt in several ways: as trainers do it, and with what is shared here.

What `bench_grpo.py` (on a CPU) and `check_gpu.py` have in common: models with random weights, a
prompt that is nearly all video, completions, the log-probabilities of the completions, and the
floating-point operations that each way needs. The ways:

    repeated   what trainers with video do: the video's tensors repeated G times, logits for the
               completions only
    seen once  the same, but with the tower's features computed once for all
    ours       features once, prompt once, common beginnings of completions once
    in parts   the same with one completion's activations in memory at a time (`update_rows: 1`)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

SIDE = 16  # patches of a frame's side
MERGE = 2  # patches per side that become one token
TOKENS = (SIDE // MERGE) ** 2  # tokens of a temporal patch
TEXT = 60  # tokens of a prompt that are not video, at least
BEFORE = 15  # of them before the video
ORDINARY = 10  # token ids from here on are words

TEXT_MODEL = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 2048,
    "max_position_embeddings": 65536,
    "bos_token_id": None,
    "eos_token_id": 1,
    "tie_word_embeddings": True,
}
TOWER = {"depth": 4, "hidden_size": 128, "intermediate_size": 256, "num_heads": 4}
TOWERS = {  # `model_type` → what its tower has of its own
    "qwen2_5_vl": {"fullatt_block_indexes": [1, 3], "tokens_per_second": 2},
    "qwen3_vl": {"deepstack_visual_indexes": [0, 1, 2]},
}
VIDEO, IMAGE, START, END = 5, 6, 7, 8  # special tokens
SPECIAL = {
    "video_token_id": VIDEO,
    "image_token_id": IMAGE,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
}


# Models, prompts, completions


def tiny_config(model_type: str = "qwen2_5_vl") -> Any:
    """Configuration of a small model of a family: hidden 256, four layers, 2,048 words."""
    from videothinker.model.family import family_class

    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [12, 10, 10]}
    cls = family_class(model_type, "the family").model_class().config_class
    return cls(
        text_config=TEXT_MODEL | {"rope_parameters": rope},
        vision_config=TOWER | TOWERS[model_type] | {"out_hidden_size": TEXT_MODEL["hidden_size"]},
        tie_word_embeddings=True,
        **SPECIAL,
    )


def family_of_config(config: Any) -> Any:
    """A family's constants without a tokenizer: token 0 pads, token 1 ends a reply."""
    from videothinker.model.family import family_class

    special = (getattr(config, name) for name in SPECIAL)
    added = {i: SimpleNamespace(special=True, content="") for i in special}
    tokenizer = SimpleNamespace(
        added_tokens_decoder=added, pad_token_id=0, convert_tokens_to_ids=lambda token: 1
    )
    cls = family_class(config.model_type, "the configuration")
    return cls(**cls.constants(config, tokenizer))


def random_model(config: Any, device: Any = "cpu", dtype: Any = None) -> Any:
    """A model with random weights and a frozen tower, made where it is to be, as it is loaded."""
    import torch

    from videothinker.model.family import family_class
    from videothinker.model.loading import fast_patches, keep_frequencies

    torch.manual_seed(0)
    cls = family_class(config.model_type, "the configuration").model_class()
    with torch.device(device):
        model = cls._from_config(config, dtype=dtype or torch.float32)
    model.model.visual.requires_grad_(False)
    return keep_frequencies(fast_patches(model.eval()))


def temporal_patches(P: int, words: int = 0) -> int:
    """Temporal patches of a video in a prompt of P tokens, each with some words before it."""
    return (P - TEXT) // (TOKENS + words)


def video_prompt(config: Any, P: int) -> Any:
    """A prompt of P random tokens around a video, without the video's pixels."""
    import torch

    from videothinker.model.family import Prompt

    family = family_of_config(config)
    t = temporal_patches(P, family.words)
    grid = torch.tensor([[t, SIDE, SIDE]])
    ids = random_words(config, P)
    start = BEFORE
    for run in family.runs(grid):
        start += family.words
        tokens = int(run.prod()) // MERGE**2
        ids[start : start + tokens] = family.video_token
        start += tokens
    return Prompt(ids, None, grid, (1.0,))


def random_words(config: Any, *shape: int) -> Any:
    """Token ids that are neither special nor the end of a reply."""
    import torch

    first = min(getattr(config, name) for name in SPECIAL)
    end = first if first > ORDINARY else config.text_config.vocab_size
    return torch.randint(ORDINARY, end, shape)


def random_pixels(config: Any, grid: Any) -> Any:
    """Patches of noise for a grid. float32 [N, patch]"""
    import torch

    vision = config.vision_config
    width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    return torch.randn(int(grid.prod(-1).sum()), width)


def common_beginning(C: int, G: int, percent: int) -> int:
    """Tokens that G completions begin with, so that `percent` of their histories are distinct."""
    return round(G * C * (1 - percent / 100) / (G - 1)) if G > 1 else 0


def random_completions(config: Any, C: int, G: int, percent: int = 100) -> list[list[int]]:
    """G completions of C tokens, of whose histories `percent` are distinct."""
    completions = random_words(config, G, C)
    begin = common_beginning(C, G, percent)
    completions[:, :begin] = completions[0, :begin].clone()
    return completions.tolist()


@dataclass
class Group:
    """A model, a prompt about a video, and completions of it."""

    model: Any
    prompt: Any
    completions: Sequence[Sequence[int]]
    family: Any


# Log-probabilities


def scorer(way: str, group: Group, save_memory: bool = False) -> Callable[[], Any]:
    """A function that finds the log-probabilities [ΣC] of the completions.

    `repeated` shows the tower the prompt's pixels each time; for the others they are in its
    features, or are shown to the tower once each time. With `save_memory` the activations of ours
    are computed again in the backward pass, as they are `in parts` anyway.
    """
    from videothinker.model.shared_prefix import group_logps

    if way not in ("ours", "in parts"):
        return plain_scorer(group)
    part = int(way == "in parts")
    options = {"save_memory": save_memory or bool(part), "part": part}

    def score() -> Any:
        given = group.model, group.prompt, group.completions, group.family
        return group_logps(*given, **options)[0]

    return score


def plain_scorer(group: Group) -> Callable[[], Any]:
    """`scorer` by the forward pass of transformers over G padded rows."""
    import torch

    from videothinker.model.batch import collate

    model, family = group.model, group.family
    batch = collate([group.prompt] * len(group.completions), group.completions, family)
    inputs = {name: on_device(value, model.device) for name, value in batch.model_inputs().items()}
    P, L = len(group.prompt), batch.input_ids.shape[1]
    keep = torch.arange(P - 1, L - 1, device=model.device)
    targets = inputs["input_ids"][:, P:, None]  # [G, C, 1]
    mask = batch.completion_mask[:, P:].bool().to(model.device)  # [G, C]
    banned = torch.tensor(family.suppressed, device=model.device)

    def score() -> Any:
        logits = model(**inputs, logits_to_keep=keep, use_cache=False).logits  # [G, C, V]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        logits = logits.index_fill(-1, banned, torch.finfo(logits.dtype).min)
        return logits.log_softmax(-1).gather(-1, targets).squeeze(-1)[mask]

    return score


def on_device(value: Any, device: Any) -> Any:
    """A tensor of a batch on a device; features are where the tower has put them."""
    return value.to(device) if hasattr(value, "to") else value


# Operations


def flops(
    shape: Any, P: int, C: int, G: int, shared: bool, parts: bool = False, percent: int = 100
) -> float:
    """Operations of the language model's forward pass over a group.

    With `parts`, each a completion, of all forward passes in an update.
    """
    if not shared:
        return float(G * shape.text(P + C, (P + C) / 2) + shape.head(G * C))
    prompt = shape.text(P, P / 2)
    nodes = G * C if parts else G * C - (G - 1) * common_beginning(C, G, percent)
    completions = shape.text(nodes, P + C / 2) + shape.head(nodes)
    if parts:  # checkpoints: of each layer, and for the completions of each part as well
        return float(2 * prompt + 3 * completions)
    return float(prompt + completions)


def vision_flops(shape: Any, P: int) -> float:
    """Operations of the tower over the video of a prompt."""
    return float(shape.vision((temporal_patches(P, shape.family.words), SIDE, SIDE)))


def needed_flops(shape: Any, P: int, C: int, G: int, way: str) -> float:
    """Operations of reference, forward and backward pass: what a way needs, nothing done twice.

    The backward pass is two forward ones; a frozen tower has none.
    """
    runs = 2 * G if way == "repeated" else 1  # of the tower
    return 4 * flops(shape, P, C, G, way in ("ours", "in parts")) + runs * vision_flops(shape, P)
