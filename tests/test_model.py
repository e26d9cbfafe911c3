"""Attention of completions to their prompt, and models of other families."""

from __future__ import annotations

import json
import re
from pathlib import Path
from unittest.mock import patch

import pytest
from conftest import ROOT


def test_the_package_names_no_private_operator_of_torch() -> None:
    named = [
        path
        for path in (ROOT / "videothinker").rglob("*.py")
        if re.search(r"torch\.ops|\baten\b", path.read_text())
    ]
    assert named == []


def attention_calls(prefix: int, by_batch: bool) -> set[tuple[bool, bool]]:
    """(mask, grouped heads) of each attention in a group update and a rollout of the tiny model."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    from videothinker.model import attention, shared_prefix
    from videothinker.model.encoder import Prompt
    from videothinker.model.generate import Decoding, generate
    from videothinker.model.qwen import family_of
    from videothinker.toy.model import build_model, build_processor

    calls = set()

    def watched(*args, attn_mask=None, enable_gqa=False, **options):
        calls.add((attn_mask is not None, enable_gqa))
        return scaled_dot_product_attention(
            *args, attn_mask=attn_mask, enable_gqa=enable_gqa, **options
        )

    processor = build_processor()
    model = build_model(processor)
    family = family_of(model, processor)
    prompt = Prompt(torch.randint(10, 400, (prefix,)), None, None, ())
    with (
        patch.object(attention, "scaled_dot_product_attention", watched),
        patch.object(
            attention,
            "heads_as_rows",
            attention.heads_as_batch if by_batch else attention.heads_as_rows,
        ),
    ):
        completions = [[20, 21, 22], [23], [24, 25]]
        logps, _, _ = shared_prefix.completion_logps(model, [(prompt, completions)], family)
        logps.sum().backward()
        generate(model, [prompt], family, 2, Decoding(max_new_tokens=3))
    return calls


@pytest.mark.parametrize("prefix", [30, 600])
@pytest.mark.parametrize("by_batch", [False, True])
def test_no_attention_has_both_a_mask_and_grouped_heads(prefix: int, by_batch: bool) -> None:
    calls = attention_calls(prefix, by_batch)
    assert calls
    assert (True, True) not in calls


def test_a_model_of_another_family_is_refused(tmp_path: Path) -> None:
    from transformers import Qwen3VLConfig

    from videothinker.files import InputError
    from videothinker.model.qwen import load_model

    Qwen3VLConfig().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "qwen3_vl"
    with pytest.raises(InputError, match="'qwen3_vl'; known families: qwen2_5_vl"):
        load_model(tmp_path)


def test_the_patch_embedding_keeps_its_names_when_saved(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    from videothinker.configs import base_model_path
    from videothinker.model.qwen import PatchProjection, Settings, load_model, save_model

    model, processor = load_model(base_model_path())
    assert isinstance(model.model.visual.patch_embed.proj, PatchProjection)
    save_model(model, processor, tmp_path / "saved", Settings())
    before = load_file(base_model_path() / "model.safetensors")
    after = load_file(tmp_path / "saved" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_without_a_cache_nothing_is_written(tmp_path: Path) -> None:
    """`cache_dir=None` decodes anew; "default" is the usual folder, not one of that name."""
    from videothinker.model.encoder import Encoder, EncoderOptions
    from videothinker.schema import read_rows
    from videothinker.toy.world import WorldSize, make_world
    from videothinker.video.frames import Sampling
    from videothinker.video.reader import frame_cache

    make_world(tmp_path / "world", WorldSize(1, 0, 0, 0))
    row = read_rows(tmp_path / "world" / "qa.jsonl")[0]
    sampling = Sampling(n_frames=4, size=(56, 56))

    def files(cache: str | None, folder: str) -> int:
        with patch.dict("os.environ", {"VIDEOTHINKER_CACHE": str(tmp_path / folder)}):
            frame_cache.cache_clear()
            options = EncoderOptions(cache, timeout=None)
            Encoder(None, tmp_path / "world", sampling, options=options).frames(row)
        return len(list((tmp_path / folder).rglob("*.frames")))

    assert (files(None, "none"), files("default", "usual")) == (0, 1)
    frame_cache.cache_clear()
