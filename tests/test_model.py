"""Attention of completions to their prompt, and models of other families."""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
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
    from videothinker.model.family import Prompt, family_of
    from videothinker.model.generate import Decoding, generate
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
    from transformers import Qwen2VLConfig

    from videothinker.files import InputError
    from videothinker.model.loading import load_model

    Qwen2VLConfig().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "qwen2_vl"
    with pytest.raises(
        InputError, match=r"'qwen2_vl'; known families: qwen2_5_vl \(Qwen2.5-VL\), qwen3_vl"
    ):
        load_model(tmp_path)


def test_the_patch_embedding_keeps_its_names_when_saved(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    from videothinker.configs import base_model_path
    from videothinker.model.loading import PatchProjection, Settings, load_model, save_model

    model, processor = load_model(base_model_path())
    assert isinstance(model.model.visual.patch_embed.proj, PatchProjection)
    save_model(model, processor, tmp_path / "saved", Settings())
    before = load_file(base_model_path() / "model.safetensors")
    after = load_file(tmp_path / "saved" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_a_saved_model_says_what_servers_ask_of_it(family: str, tmp_path: Path) -> None:
    """vLLM reads the video processor's class there, and how Qwen3-VL's positions are laid out."""
    from families import save_tiny

    folder = Path(save_tiny(family, tmp_path / "saved"))
    told = json.loads((folder / "video_preprocessor_config.json").read_text())
    own = json.loads((folder / "processor_config.json").read_text())["video_processor"]
    assert told["video_processor_type"].endswith("VideoProcessor")
    assert own.items() <= told.items()
    rope = json.loads((folder / "config.json").read_text())["text_config"]["rope_parameters"]
    assert rope.get("mrope_interleaved", False) == (family == "qwen3_vl")


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


# ---- loading


def base_copy(folder: Path) -> Path:
    """A copy of the shipped model."""
    from videothinker.configs import base_model_path

    return Path(shutil.copytree(base_model_path(), folder / "model"))


def edit_weights(model: Path, edit: Callable[[dict], dict]) -> None:
    """Rewrite the weights of a model's folder."""
    from safetensors.torch import load_file, save_file

    file = model / "model.safetensors"
    save_file(edit(load_file(file)), file, metadata={"format": "pt"})


def without_tower(model: Path) -> None:
    edit_weights(model, lambda w: {k: v for k, v in w.items() if "visual" not in k})


def without_one(model: Path) -> None:
    edit_weights(model, lambda w: {k: v for k, v in w.items() if "blocks.1.attn.proj" not in k})


def smaller(model: Path) -> None:
    edit_weights(model, lambda w: {k: v[:8].clone() if "embed" in k else v for k, v in w.items()})


def cut_off(model: Path) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100_000])


def half_downloaded(model: Path) -> None:
    from transformers import Qwen2_5_VLForConditionalGeneration

    whole = Qwen2_5_VLForConditionalGeneration.from_pretrained(model)
    (model / "model.safetensors").unlink()
    whole.save_pretrained(model, max_shard_size="4MB")
    sorted(model.glob("*.safetensors"))[1].unlink()


def text_model(model: Path) -> None:
    from transformers import Qwen2Config

    Qwen2Config().save_pretrained(model)


def nameless(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"model_type": None}))


def adapters_only(model: Path) -> None:
    (model / "config.json").rename(model / "adapter_config.json")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (without_tower, "42 of the model's weights are not in its files, such as model.visual"),
        (without_one, "2 of the model's weights are not in its files, such as model.visual.blocks"),
        (smaller, "weights of other sizes than config.json says"),
        (cut_off, "a file of weights is cut off or damaged"),
        (half_downloaded, "a file of weights is missing .*00002-of-"),
        (text_model, "family 'qwen2'; known families: qwen2_5_vl"),
        (nameless, "family None; known families: qwen2_5_vl"),
        (adapters_only, "adapters without their model"),
    ],
)
def test_a_model_that_is_not_all_there_is_refused(
    tmp_path: Path, damage: Callable[[Path], None], says: str
) -> None:
    from videothinker.files import InputError
    from videothinker.model.loading import load_model

    model = base_copy(tmp_path)
    load_model(model)
    damage(model)
    with pytest.raises(InputError, match=says):
        load_model(model)


def test_rotary_frequencies_stay_in_32_bits() -> None:
    """A model that is turned to 16 bits as a whole, as DeepSpeed does, keeps its positions."""
    import torch

    from videothinker.configs import base_model_path
    from videothinker.model.loading import load_model
    from videothinker.model.shared_prefix import ropes, text_model

    model, _ = load_model(base_model_path())
    positions = torch.arange(6990, 7000).expand(3, -1)
    tower = model.model.visual.rotary_pos_emb
    places = torch.zeros(1), torch.arange(200).view(2, 100)
    expected = *ropes(text_model(model), torch.zeros(1), positions), *tower(*places)
    model.to(torch.bfloat16)
    assert tower.inv_freq.dtype == torch.bfloat16  # what is to be put right
    got = *ropes(text_model(model), torch.zeros(1), positions), *tower(*places)
    assert all(torch.equal(x, y) for x, y in zip(got, expected, strict=True))


# ---- features of the vision tower


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Three prompts about clips, and the shipped model saved in 16 bits."""
    import torch

    from videothinker.configs import base_model_path
    from videothinker.model.encoder import Encoder, EncoderOptions
    from videothinker.model.loading import Settings, load_model, save_model
    from videothinker.schema import read_rows
    from videothinker.toy.world import WorldSize, make_world
    from videothinker.video.frames import Sampling

    folder = tmp_path_factory.mktemp("clips")
    make_world(folder, WorldSize(6, 0, 0, 0, questions=1))
    model, processor = load_model(base_model_path())
    save_model(model, processor, folder / "base", Settings("short"), dtype=torch.bfloat16)
    sampling = Sampling(fps=2, max_frames=48, size=(56, 56))
    encoder = Encoder(processor, folder, sampling, "short", EncoderOptions(timeout=None))
    rows = read_rows(folder / "qa.jsonl")[:3]
    return SimpleNamespace(folder=folder, encoder=encoder, rows=rows, base=folder / "base")


def test_training_and_evaluation_see_the_same_features(clips: Any) -> None:
    """32-bit weights under autocast (full fine-tuning), 16-bit weights (evaluation, LoRA)."""
    import torch

    from videothinker.model.batch import collate
    from videothinker.model.family import family_of
    from videothinker.model.loading import load_model
    from videothinker.model.vision_cache import feature_cache, with_features

    prompts = [clips.encoder(row) for row in clips.rows]
    full, processor = load_model(clips.base, "float32")
    saved, _ = load_model(clips.base)
    collator = feature_cache(full, clips.encoder, "bf16")  # outside autocast
    features = {"training": collator(prompts), "evaluation": with_features(saved, prompts)}
    with torch.autocast("cpu", torch.bfloat16):
        features["rollout"] = with_features(full, prompts)
        features["rollout, LoRA"] = with_features(saved, prompts)
    for name, seen in features.items():
        for ours, theirs in zip(seen, features["evaluation"], strict=True):
            assert ours.features.dtype == torch.bfloat16, name
            assert torch.equal(ours.features, theirs.features), name
    shown = []
    hook = full.model.visual.register_forward_hook(lambda *args: shown.append(args[2]))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():  # pixels in the forward pass
        family = family_of(full, processor)
        full(**collate(prompts, [[20]] * len(prompts), family).model_inputs())
    hook.remove()
    rollout = torch.cat([p.features for p in features["rollout"]])
    assert torch.equal(torch.cat(shown[0].pooler_output), rollout)


def test_features_are_kept_in_the_precision_that_is_used(clips: Any, tmp_path: Path) -> None:
    import torch

    from videothinker.model.loading import load_model
    from videothinker.model.vision_cache import FeatureCache

    prompts = [clips.encoder(row) for row in clips.rows]
    model, _ = load_model(clips.base, "float32")
    kept = {}
    for dtype in (torch.bfloat16, torch.float32):
        cache = FeatureCache(model, tmp_path, dtype=dtype)
        kept[dtype] = [p.features for p in cache(prompts)]
        again = FeatureCache(model, tmp_path, dtype=dtype)  # from the disk
        with patch.object(model.model, "get_video_features", None):
            assert all(
                torch.equal(p.features, x) for p, x in zip(again(prompts), kept[dtype], strict=True)
            )
        assert {x.dtype for x in kept[dtype]} == {dtype}
        sizes = {x.untyped_storage().nbytes() == x.nbytes for x in kept[dtype]}
        assert sizes == {True}  # not a view of all features of the batch
    files = sorted(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    assert len(files) == 2 * len(prompts)


@pytest.mark.parametrize("limit", [10, 40, 100, 10**6])
def test_the_tower_is_shown_bounded_batches(clips: Any, limit: int) -> None:
    """Videos of any number and length: never more patches at a time than fit, the same features."""
    import torch

    from videothinker.model import vision_cache
    from videothinker.model.loading import load_model

    prompts = [clips.encoder(row) for row in clips.rows]
    model, _ = load_model(clips.base, "float32")
    expected = vision_cache.with_features(model, prompts)
    shown = []
    hook = model.model.visual.register_forward_pre_hook(lambda _, x: shown.append(len(x[0])))
    with patch.object(vision_cache, "PATCHES", limit):
        seen = vision_cache.with_features(model, prompts)
    hook.remove()
    patches = sum(len(p.pixels) for p in prompts)
    frame = 16  # patches of one: no fewer can be shown
    assert sum(shown) == patches and max(shown) <= max(limit, frame)
    assert len(shown) <= 1 + 2 * patches / max(limit, frame)
    for ours, whole in zip(seen, expected, strict=True):
        torch.testing.assert_close(ours.features, whole.features, atol=1e-4, rtol=1e-4)


# ---- drawing tokens


@contextmanager
def deterministic() -> Iterator[None]:
    """As with the field `full_determinism`."""
    import torch

    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def test_deterministic_draws_are_those_of_the_plain_sum() -> None:
    """And a token without probability is never drawn, wherever it stands."""
    import torch

    from videothinker.model.generate import Decoding, draw, noise_of, running_sum

    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(400, 3001, generator=generator)
    logits[torch.rand(logits.shape, generator=generator) < 0.3] = -torch.inf
    log_probs = logits.log_softmax(-1)
    noise = noise_of([1], 400, 1)[:, 0]
    decoding = Decoding(top_p=0.9)
    plain, nucleus = draw(log_probs, noise), decoding.log_probs(logits)
    with deterministic():
        assert torch.equal(draw(log_probs, noise), plain)
        assert torch.equal(decoding.log_probs(logits), nucleus)
        sums = running_sum(log_probs.double().exp())
    exact = log_probs.double().exp().cumsum(-1)
    assert float((sums - exact).abs().max()) < 1e-12
    assert (log_probs.gather(1, plain[:, None]) > -torch.inf).all()


def test_a_sum_that_steps_back_draws_nothing_impossible() -> None:
    """Sums whose order differs from token to token, as CUDA's: a rounding is no probability."""
    import torch

    from videothinker.model import generate

    probs = torch.tensor([[0.0, 0.3, 0.0, 0.0, 0.7, 0.0]], dtype=torch.float64)
    wrong = probs.cumsum(-1) + torch.tensor([1e-16, 0, 1e-16, -1e-16, 0, 1e-16])
    noise = torch.tensor([0.0, 0.3 - 1e-16, 0.3, 0.3 + 1e-16, 1 - 1e-16], dtype=torch.float64)
    with patch.object(generate, "running_sum", lambda x: wrong.expand(x.shape)):
        drawn = generate.draw(probs.log().expand(len(noise), -1), noise)
    assert set(drawn.tolist()) <= {1, 4}


def test_an_empty_completion_has_no_tokens_to_score() -> None:
    import torch

    from videothinker.model.family import Prompt, family_of
    from videothinker.model.shared_prefix import completion_logps
    from videothinker.toy.model import build_model, build_processor

    processor = build_processor()
    model = build_model(processor)
    family = family_of(model, processor)
    prompts = [Prompt(torch.randint(10, 400, (n,)), None, None, ()) for n in (20, 30)]
    full, empty = [[20, 21, 22], [23]], [[], []]
    logps, _, mask = completion_logps(
        model, [(prompts[0], [[], *full]), (prompts[1], empty)], family, part=1
    )
    expected, _, _ = completion_logps(model, [(prompts[0], full)], family)
    assert mask.sum(1).tolist() == [0, 3, 1, 0, 0]
    torch.testing.assert_close(logps[1:3], expected, atol=1e-6, rtol=0)
    logps.sum().backward()
    nothing, _, mask = completion_logps(model, [(prompts[0], empty)], family)
    assert nothing.shape == mask.shape == (2, 0)


def test_a_completion_with_control_tokens_survives() -> None:
    """An engine, or a text that is read again, may hold one: finite, and without gradient."""
    import torch

    from videothinker.model.family import Prompt, family_of
    from videothinker.model.shared_prefix import completion_logps
    from videothinker.toy.model import build_model, build_processor
    from videothinker.training.losses import kl_estimate, per_token_loss

    processor = build_processor()
    model = build_model(processor)
    family = family_of(model, processor)
    prompt = Prompt(torch.randint(10, 400, (20,)), None, None, ())
    completions = [[20, family.video_token, 21], [family.suppressed[0], 22]]
    logps, entropy, mask = completion_logps(model, [(prompt, completions)], family)
    loss = per_token_loss(logps, logps.detach(), torch.tensor([1.0, -1.0]), mask, 0.2, 0.2)
    loss = loss + 0.04 * kl_estimate(logps, logps.detach())
    (loss * mask).sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(g.isfinite().all() for g in gradients)
    assert entropy.isfinite().all() and logps.isfinite().all()


# ---- what the encoder refuses

CONTROL = ["<|im_start|>", "<|im_end|>", "<|video_pad|>", "<|image_pad|>", "<|vision_start|>"]


@pytest.mark.parametrize("token", CONTROL)
@pytest.mark.parametrize("field", ["problem", "options", "process", "solution"])
def test_control_tokens_in_a_row_are_refused_by_name(clips: Any, token: str, field: str) -> None:
    """In a question they would be obeyed, in a trace they would be learned."""
    from videothinker.files import FormatError
    from videothinker.model.encoder import readable
    from videothinker.model.family import family_of
    from videothinker.model.loading import load_model
    from videothinker.training.sft import TraceCollator

    row = replace(clips.rows[0], id="odd", process="It moves.")
    bad = {
        "problem": f"What {token} moves?",
        "options": [row.options[0] + token, *row.options[1:]],
        "process": f"It{token} moves.",
        "solution": f"<answer>A</answer>{token}",
    }[field]
    odd = replace(row, **{field: bad})
    model, processor = load_model(clips.base)
    collator = TraceCollator([row], clips.encoder, family_of(model, processor))
    with pytest.raises(FormatError, match="row 'odd': field .*" + re.escape(token)):
        clips.encoder(odd)
        collator.target(odd)
    kept, skipped = readable([row, odd, clips.rows[1]], clips.encoder)
    assert kept == [row, clips.rows[1]] and list(skipped) == ["row 'odd'"]
    assert token in skipped["row 'odd'"]
    harmless = replace(row, problem="What is 3 <video> |x|> and <|?")
    assert clips.encoder(harmless) and collator.target(row)


def test_what_the_system_refuses_is_about_one_clip(clips: Any) -> None:
    """A stale handle, a permission, a disk that fails: the other rows go on."""
    from videothinker.model.encoder import Encoder, EncoderOptions, readable, video_name
    from videothinker.video import frame_reader as module
    from videothinker.video.frames import VideoError

    first, second, third = clips.rows
    for target in ("read_frames", "resolve_path"):
        whole = getattr(module, target)

        def failing(what: Any, *args: Any, whole: Any = whole) -> Any:
            if second.path in str(what):
                raise OSError(errno.ESTALE, "Stale file handle")
            return whole(what, *args)

        options = EncoderOptions(timeout=None)
        encoder = Encoder(
            clips.encoder.processor, clips.folder, clips.encoder.sampling, "short", options
        )
        with patch.object(module, target, failing):
            encoder.expect(clips.rows)
            with pytest.raises(VideoError, match="Stale file handle"):
                encoder(second)
            kept, skipped = readable(clips.rows, encoder)
        assert kept == [first, third]
        assert "Stale file handle" in skipped[video_name(second)]
