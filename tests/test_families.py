"""Families of models: the same video in transformers' own processor and forward pass, and here."""

from __future__ import annotations

import logging
import re
from copy import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from families import CLIPS, FAMILIES, PLACE, SIDES, noise_clip
from transformers.video_utils import VideoMetadata

from videothinker.model.batch import collate
from videothinker.model.family import (
    VIDEO,
    Prompt,
    encode_video,
    family_class,
    family_of,
    processor_family,
    seconds_text,
    tell_times,
)
from videothinker.model.generate import Decoding, generate
from videothinker.model.shared_prefix import group_logps
from videothinker.model.vision_cache import FeatureCache, tower_digest, with_features
from videothinker.toy.model import build_model, build_processor
from videothinker.video.frames import Frames, smart_resize

COMPLETIONS = [[20, 21, 22, 23], [20, 21, 30], [40, 41, 42, 43, 44], [20, 21, 22, 23]]


@pytest.fixture(scope="module", params=FAMILIES)
def kit(request: pytest.FixtureRequest) -> SimpleNamespace:
    """Processor, untrained model (32 bits) and constants of a family."""
    processor = build_processor(request.param)
    model = build_model(processor).eval()
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.2)
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            torch.nn.init.normal_(parameter, 1.0, 0.2)
    return SimpleNamespace(
        name=request.param,
        processor=processor,
        model=model,
        family=family_of(model, processor),
        side=SIDES[request.param],
    )


def clips_of(kit: SimpleNamespace, name: str) -> list[Frames]:
    return [noise_clip(times, kit.side, i, 1 + i) for i, times in enumerate(CLIPS[name])]


def conversation(n: int) -> str:
    """A question about n videos, as the chat template writes it."""
    return (
        f"<|im_start|>user\n{PLACE * n}Which shape moves first?<|im_end|>\n<|im_start|>assistant\n"
    )


def processed(kit: SimpleNamespace, clips: list[Frames]) -> Any:
    """What transformers' own processor makes of a question, told the true times."""
    metadata = []
    for clip in clips:
        fps, indices = (
            (1.0, clip.times.tolist())
            if kit.name == "qwen3_vl"  # index / fps is the time of a frame
            else (clip.fps, list(range(len(clip.times))))
        )
        metadata.append(
            VideoMetadata(total_num_frames=len(clip.times), fps=fps, frames_indices=indices)
        )
    return kit.processor(
        text=[conversation(len(clips))],
        videos=[torch.from_numpy(clip.pixels).permute(0, 3, 1, 2) for clip in clips],
        video_metadata=metadata,
        do_sample_frames=False,
        do_resize=False,
        return_tensors="pt",
    )


def test_the_plan_knows_of_norms_of_heads_what_the_model_has(kit: SimpleNamespace) -> None:
    """The shared prefix asks the model, `plan` the family, which has no model."""
    names = [name for name, _ in kit.model.named_parameters()]
    assert kit.family.head_norms == any(name.endswith("q_norm.weight") for name in names)


def test_encoding_does_not_warn(kit: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    """Of a cap on pixels that frames in their size do not meet."""
    with patch.object(logging.getLogger("transformers"), "propagate", True):
        encode_video(kit.processor, conversation(1), *clips_of(kit, "constant"))
    assert not caplog.records


@pytest.mark.parametrize("name", CLIPS)
def test_ids_pixels_grids_and_seconds_are_the_processors(kit: SimpleNamespace, name: str) -> None:
    clips = clips_of(kit, name)
    prompt = encode_video(kit.processor, conversation(len(clips)), *clips)
    theirs = processed(kit, clips)
    assert torch.equal(prompt.input_ids, theirs["input_ids"][0])
    assert torch.equal(prompt.pixels, theirs["pixel_values_videos"])
    assert torch.equal(prompt.grid, theirs["video_grid_thw"])
    if "second_per_grid_ts" in theirs:
        assert prompt.seconds_per_grid == pytest.approx(theirs["second_per_grid_ts"], rel=1e-6)


def test_features_of_two_videos_stand_side_by_side_whatever_transformers_returns() -> None:
    """Levels of DeepStack come as a tensor of each video, or (transformers 5.17) as one of all."""
    from transformers.modeling_outputs import ModelOutput

    from videothinker.model.qwen3_vl import Qwen3VL

    main, level = torch.arange(6.0).view(3, 2), torch.arange(6.0, 12.0).view(3, 2)
    split = main.split([1, 2])
    for levels in ([level], [level.split([1, 2])]):
        out = ModelOutput(pooler_output=split, deepstack_features=levels)
        model = SimpleNamespace(
            model=SimpleNamespace(get_video_features=lambda *_, out=out, **options: out)
        )
        features = Qwen3VL.video_features(model, torch.empty(0), torch.empty(0))
        assert torch.equal(features, torch.cat([main, level], 1))


def plain_logps(kit: SimpleNamespace, model: Any, inputs: dict[str, Any], group: Any) -> Any:
    """Log-probabilities [ΣC], each completion a plain forward pass behind the processor's ids."""
    banned = torch.tensor(kit.family.suppressed)
    logps = []
    for completion in group:
        ids = torch.cat([inputs["input_ids"][0], torch.tensor(completion)])[None]
        kinds = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, len(completion)))
        more = {k: v for k, v in inputs.items() if "video" in k or k == "second_per_grid_ts"}
        model.model.rope_deltas = None
        out = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=kinds,
            use_cache=False,
            **more,
        )
        logits = out.logits[0, -len(completion) - 1 : -1]
        rows = logits.index_fill(-1, banned, torch.finfo(logits.dtype).min).log_softmax(-1)
        logps.append(rows.gather(-1, torch.tensor(completion)[:, None]).squeeze(-1))
    return torch.cat(logps)


@pytest.mark.parametrize("name", CLIPS)
def test_log_probabilities_are_those_of_the_processor_and_a_plain_pass(
    kit: SimpleNamespace, name: str
) -> None:
    """Qwen2.5-VL's positions are the report's and not transformers 5's; so they are handed over."""
    clips = clips_of(kit, name)
    prompt = encode_video(kit.processor, conversation(len(clips)), *clips)
    inputs = processed(kit, clips)
    with torch.no_grad():
        ours, _ = group_logps(kit.model, prompt, COMPLETIONS, kit.family)
        if kit.name == "qwen3_vl":
            plain = plain_logps(kit, kit.model, inputs, COMPLETIONS)
        else:
            plain = torch.cat([collated_logps(kit, prompt, c) for c in COMPLETIONS])
    assert float((ours - plain).abs().max()) < 1e-5


def collated_logps(kit: SimpleNamespace, prompt: Prompt, completion: list[int]) -> Any:
    batch = collate([prompt], [completion], kit.family)
    logits = kit.model(**batch.model_inputs(), use_cache=False).logits[0]
    logits = logits[-len(completion) - 1 : -1]
    banned = torch.tensor(kit.family.suppressed)
    rows = logits.index_fill(-1, banned, torch.finfo(logits.dtype).min).log_softmax(-1)
    return rows.gather(-1, torch.tensor(completion)[:, None]).squeeze(-1)


def test_positions_of_a_thousand_prompts_are_those_of_qwen3_vl() -> None:
    """One to three videos of any grid, with text of any length around them."""
    processor = build_processor("qwen3_vl")
    model = build_model(processor)
    family = family_of(model, processor)
    rng = np.random.default_rng(0)
    for _ in range(1000):
        text, grids = "", []
        for _ in range(rng.integers(1, 4)):
            n = int(rng.integers(1, 14))  # frames, odd numbers too
            h, w = (2 * int(x) for x in rng.integers(1, 5, 2))
            times = np.sort(rng.uniform(0, 10 ** rng.uniform(-1, 3.5), n))
            if n % 2:
                times = np.append(times, times[-1])
            grid = (len(times) // 2, h, w)
            text += "a red square " * int(rng.integers(0, 4))
            text += PLACE.replace(VIDEO, family.video_text(grid, times, 2))
            grids.append(grid)
        text += "moves left ." * int(rng.integers(1, 5))
        ids = torch.tensor(processor.tokenizer(text)["input_ids"])
        grid = torch.tensor(grids)
        kinds = (ids == family.video_token).int()[None] * 2
        theirs, _ = model.model.get_rope_index(ids[None], kinds, video_grid_thw=grid)
        ours = family.positions(ids, Prompt(ids, None, grid, ()))
        assert torch.equal(ours, theirs[:, 0])


def run(kit: Any, model: Any, prompt: Prompt, **options: Any) -> list[torch.Tensor]:
    """Log-probabilities of a group, and the gradients of a random linear loss of them."""
    model.zero_grad(set_to_none=True)
    logps, _ = group_logps(model, prompt, COMPLETIONS, kit.family, **options)
    return [logps.detach(), *gradients(model, logps)]


def gradients(model: Any, logps: torch.Tensor) -> list[torch.Tensor]:
    noise = torch.Generator().manual_seed(1)
    weights = torch.randn(len(logps), generator=noise, dtype=torch.float64)
    (logps * weights.to(logps)).sum().backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


def test_gradients_of_qwen3_vl_are_those_of_the_processor_and_a_plain_pass() -> None:
    """In 32 bits, two videos, all weights and the tower trained; nothing of ours on the other side.

    In 64 bits, with adapters and a frozen tower, tests/test_prefix_tree.py.
    """
    processor = build_processor("qwen3_vl")
    model = build_model(processor)
    kit = SimpleNamespace(
        name="qwen3_vl", processor=processor, family=family_of(model, processor), side=64
    )
    clips = clips_of(kit, "two")
    prompt = encode_video(processor, conversation(2), *clips)
    model.zero_grad(set_to_none=True)
    logps = plain_logps(kit, model, processed(kit, clips), COMPLETIONS)
    plain = [logps.detach(), *gradients(model, logps)]
    for options in ({}, {"save_memory": True}, {"save_memory": True, "part": 2}):
        ours = run(kit, model, prompt, **options)
        assert len(ours) == len(plain)
        assert float((ours[0] - plain[0]).abs().max()) < 1e-5
        a, b = (torch.cat([g.flatten() for g in side[1:]]) for side in (ours, plain))
        assert float((a - b).norm() / b.norm()) < 1e-4


@pytest.mark.parametrize("name", ["constant", "odd", "variable", "two"])
def test_greedy_completions_are_those_of_transformers(name: str) -> None:
    """Qwen3-VL, from the processor's output; of Qwen2.5-VL its positions differ (see `Batch`)."""
    processor = build_processor("qwen3_vl")
    model = build_model(processor, seed=3).eval()
    for parameter in model.parameters():  # an untrained model says one word for ever
        parameter.data.mul_(3)
    family = family_of(model, processor)
    kit = SimpleNamespace(name="qwen3_vl", processor=processor, family=family, side=64)
    clips = clips_of(kit, name)
    prompt = encode_video(processor, conversation(len(clips)), *clips)
    inputs = {k: v for k, v in processed(kit, clips).items() if k != "video_metadata"}
    theirs = model.generate(
        **inputs,
        do_sample=False,
        max_new_tokens=24,
        suppress_tokens=list(family.suppressed),
        eos_token_id=family.eos_token,
    )[0, len(prompt) :].tolist()
    [[ours]] = generate(model, [prompt], family, 1, Decoding(0.0, max_new_tokens=24))
    assert ours.ids == theirs and len(set(ours.ids)) > 2


def test_times_of_a_variable_rate_are_true(tmp_path: Path) -> None:
    """At four frames a second: each time that is written is within 0.05 s of the two frames'."""
    from videothinker.toy.world import draw_scene, encode_scene
    from videothinker.video.frames import Sampling
    from videothinker.video.reader import read_frames

    processor = build_processor("qwen3_vl")
    for seed in range(3):
        scene = replace(draw_scene(f"vfr-{seed}", 0), variable_rate=True)
        encode_scene(scene, tmp_path / f"{seed}.mp4")
        sampling = Sampling(fps=4, max_frames=96, size=(64, 64))
        frames = read_frames(tmp_path / f"{seed}.mp4", sampling, timeout=None)
        prompt = encode_video(processor, conversation(1), frames)
        text = processor.tokenizer.decode(prompt.input_ids)
        written = np.array([float(x) for x in re.findall(r"<([\d.]+) seconds>", text)])
        assert len(written) == prompt.grid[0, 0] > 10
        true = frames.times.reshape(-1, 2).mean(1)
        assert np.abs(written - true).max() <= 0.05 + 1e-9
        stamps = stamps_of(tmp_path / f"{seed}.mp4")
        nearest = np.abs(frames.times[:, None] - stamps).min(1)
        assert nearest.max() < 1e-3  # a frame of the file was on display then


def stamps_of(path: Path) -> np.ndarray:
    """Presentation times of all frames of a file, from its container."""
    import av

    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        times = [float(frame.pts * stream.time_base) for frame in file.decode(stream)]
    return np.array(times) - times[0]


def test_a_batch_says_which_tokens_are_video(kit: SimpleNamespace) -> None:
    """As transformers wants it, in `mm_token_type_ids`; positions are ours, not worked out anew."""
    clips = clips_of(kit, "two")
    prompts = [encode_video(kit.processor, conversation(1), clip) for clip in clips]
    batch = collate(prompts, [COMPLETIONS[0], COMPLETIONS[2]], kit.family)
    kinds = batch.mm_token_type_ids
    assert torch.equal(kinds, 2 * (batch.input_ids == kit.family.video_token))
    assert kinds.dtype == processed(kit, clips)["mm_token_type_ids"].dtype
    if kit.name == "qwen3_vl":
        theirs, _ = kit.model.model.get_rope_index(
            batch.input_ids,
            kinds,
            video_grid_thw=batch.video_grid_thw,
            attention_mask=batch.attention_mask,
        )
        real = batch.attention_mask.bool()
        assert torch.equal(theirs[:, real], batch.position_ids[:, real])
    with torch.no_grad(), patch.object(type(kit.model.model), "compute_3d_position_ids", None):
        kit.model(**batch.model_inputs(), use_cache=False)
    broken = [[*COMPLETIONS[0], kit.family.video_token]]  # drawn by an engine: no part of a video
    with pytest.raises(ValueError, match="video tokens"):
        collate(prompts[:1], broken, kit.family)


# == Vision features ==


def test_features_of_all_levels_go_through_the_cache(kit: SimpleNamespace, tmp_path: Path) -> None:
    clips = clips_of(kit, "constant") + clips_of(kit, "odd")
    prompts = [encode_video(kit.processor, conversation(1), clip) for clip in clips]
    width = kit.model.config.text_config.hidden_size * (1 + kit.family.levels)
    cache = FeatureCache(kit.model, tmp_path)
    kept = cache(prompts)
    again = FeatureCache(kit.model, tmp_path)
    with patch.object(kit.model.model, "get_video_features", None):  # from the disk
        found = again(prompts)
    for prompt, a, b in zip(prompts, kept, found, strict=True):
        assert a.features.shape == (int(prompt.grid.prod()) // 4, width)
        assert torch.equal(a.features, b.features)
        assert again.memory.get(again.key(prompt)).nbytes == a.features.nbytes
    with torch.no_grad():
        for whole, seen in zip(prompts, kept, strict=True):
            ours, _ = group_logps(kit.model, seen, COMPLETIONS, kit.family)
            pixels, _ = group_logps(kit.model, whole, COMPLETIONS, kit.family)
            batch = torch.cat([collated_logps(kit, seen, c) for c in COMPLETIONS])
            assert float((ours - pixels).abs().max()) < 1e-5
            assert float((ours - batch).abs().max()) < 1e-5


def test_the_digest_of_a_tower_covers_every_merger(kit: SimpleNamespace) -> None:
    before = tower_digest(kit.model)
    for name, parameter in kit.model.model.visual.named_parameters():
        if "merger" not in name:
            continue
        with torch.no_grad():
            parameter.view(-1)[0] += 1
            assert tower_digest(kit.model) != before, name
            parameter.view(-1)[0] -= 1


# == Times as text ==


def test_times_as_text_are_videos_of_one_moment(kit: SimpleNamespace) -> None:
    """What the processor makes of a conversation with a video for each pair of frames."""
    [clip] = clips_of(kit, "variable")
    text = conversation(1)
    prompt = encode_video(tell_times(kit.processor, "text"), text, clip)
    tell_times(kit.processor, "own")
    pairs = clip.times.reshape(-1, 2)
    words = text.replace(PLACE, "".join(seconds_text(pair) + PLACE for pair in pairs))
    assert kit.family.read_times(words) == [0.0, 1.3, 4.7] and not kit.family.read_times(text)
    stills = [
        Frames(clip.pixels[2 * i : 2 * i + 2], pair, clip.duration) for i, pair in enumerate(pairs)
    ]
    if kit.name == "qwen2_5_vl":  # Qwen3-VL would write its own times within them
        apart = encode_video(kit.processor, words, *stills)
        assert torch.equal(prompt.input_ids, apart.input_ids)
        assert torch.equal(prompt.pixels, apart.pixels)
        assert torch.equal(prompt.grid, apart.grid)
    assert prompt.grid.tolist() == [[1, 4, 4]] * 3
    with torch.no_grad():
        ours, _ = group_logps(kit.model, prompt, COMPLETIONS, kit.family)
        plain = torch.cat([collated_logps(kit, prompt, c) for c in COMPLETIONS])
        [seen] = with_features(kit.model, [prompt])
        cached, _ = group_logps(kit.model, seen, COMPLETIONS, kit.family)
    assert float((ours - plain).abs().max()) < 1e-5 and float((ours - cached).abs().max()) < 1e-5


def test_times_as_text_are_saved_with_a_model(tmp_path: Path) -> None:
    from videothinker.files import InputError
    from videothinker.model.loading import Settings, load_model, save_model

    processor = build_processor()
    model = build_model(processor)
    save_model(model, processor, tmp_path / "told", Settings("short", times="text"))
    save_model(model, processor, tmp_path / "own", Settings("short"))
    [clip] = [noise_clip([0, 0.5, 1, 1.5], 56)]
    told, own = (
        encode_video(load_model(tmp_path / name)[1], conversation(1), clip)
        for name in ("told", "own")
    )
    assert (len(told.grid), len(own.grid)) == (2, 1)
    assert Settings.of(tmp_path / "told").times == "text"
    with pytest.raises(InputError, match="times must be one of own, text"):
        tell_times(processor, "frames")


# == Think tags ==

TRACE = (
    "<time>00:01-00:03</time>\n<caption>a red square moves left</caption>\n"
    "<think>it lasts 2 seconds</think>\n<think>so the answer is B</think>\n<answer>B</answer>"
)


def test_think_tags_survive(kit: SimpleNamespace, tmp_path: Path) -> None:
    """Encode → decode → parse → reward, before and after the model is saved and loaded."""
    from videothinker.model.generate import Completion, texts
    from videothinker.model.loading import Settings, load_model, save_model
    from videothinker.trace import parse_trace
    from videothinker.training.rewards import rewards_by_name

    save_model(kit.model, kit.processor, tmp_path / "saved", Settings("short"))
    _, loaded = load_model(tmp_path / "saved")
    encoded = []
    for processor in (kit.processor, loaded):
        tokenizer = processor.tokenizer
        ids = tokenizer(TRACE + "<|im_end|>", add_special_tokens=False)["input_ids"]
        encoded.append(ids)
        assert not set(ids) & set(kit.family.suppressed)  # all of it may be drawn
        [text] = texts([Completion(ids, [0.0] * len(ids), True)], processor)
        assert text == TRACE
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids[:-1]
        assert tokenizer.decode(ids, skip_special_tokens=True) == TRACE
        trace = parse_trace(text)
        assert [b.think for b in trace.blocks] == ["it lasts 2 seconds"]
        rewards = rewards_by_name(["correct", "format"], 512)
        columns = {"solution": ["<answer>B</answer>"], "duration": [10.0]}
        eaten = text.replace("<think>", "").replace("</think>", "")  # as a reasoning parser would
        earned = {
            name: [reward([""], [said], **columns)[0] for said in (text, TRACE, eaten)]
            for name, reward in rewards.items()
        }
        assert earned["correct"] == [1.0] * 3
        assert earned["format"][0] == earned["format"][1] > earned["format"][2]
    assert encoded[0] == encoded[1]
    tags = tuple(tokenizer.convert_tokens_to_ids(t) for t in ("<think>", "</think>"))
    assert kit.family.think == (tags if kit.name == "qwen3_vl" else ())
    assert set(kit.family.think) <= set(encoded[0])


def test_two_families_may_have_one_class_of_processors(
    kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Qwen3-VL and Qwen3.5 have in transformers; what was loaded for a model is that model's."""
    from videothinker.model import family

    base = type(kit.family)
    newer = type("Newer", (base,), {"model_type": "newer_vl"})
    monkeypatch.setattr(family, "FAMILIES", {**family.known_families(), "newer_vl": newer})
    assert processor_family(kit.processor) is base
    unknown = copy(kit.processor)  # as from `AutoProcessor`
    del unknown.family_type
    assert processor_family(unknown) is base
    unknown.family_type = "newer_vl"
    assert processor_family(unknown) is newer


def test_the_processor_says_the_family(kit: SimpleNamespace) -> None:
    from videothinker.files import InputError
    from videothinker.model.family import pixel_factor

    assert processor_family(kit.processor) is type(kit.family)
    assert pixel_factor(kit.processor) == kit.family.factor == {56: 28, 64: 32}[kit.side]
    with pytest.raises(InputError, match="a processor of no known family"):
        processor_family(SimpleNamespace())
    odd = noise_clip([0.0, 1.0], kit.side + 2)
    with pytest.raises(InputError, match=f"multiples of {kit.family.factor}"):
        encode_video(kit.processor, conversation(1), odd)


@pytest.mark.parametrize("name, side", [("qwen2_5_vl", 28), ("qwen3_vl", 32)])
def test_a_server_shows_frames_as_large_as_in_training(name: str, side: int) -> None:
    """As the card of a trained model says; Qwen3-VL's processor limits the whole video."""
    from transformers import Qwen2VLVideoProcessor, Qwen3VLVideoProcessor

    kinds = {"qwen2_5_vl": Qwen2VLVideoProcessor, "qwen3_vl": Qwen3VLVideoProcessor}
    processor = kinds[name](patch_size=side // 2)
    frames, pixels = 16, 128 * side**2
    limit = family_class(name, "a card").server_limit(pixels, frames)
    video = np.zeros((frames, 3, 360, 640), np.uint8)
    grid = processor([video], do_sample_frames=False, return_tensors="pt", **limit)
    height, width = smart_resize(360, 640, pixels, 4 * side**2, side)
    assert grid["video_grid_thw"].tolist() == [[8, 2 * height // side, 2 * width // side]]


def test_an_encoder_asks_for_frames_that_the_model_can_take(kit: SimpleNamespace) -> None:
    """Sides of frames are multiples of the family's factor; old keys stay what they were."""
    from videothinker.model.encoder import Encoder
    from videothinker.video.frames import Sampling, frame_size

    asked = Sampling(n_frames=8, max_pixels=100_352)
    sampling = Encoder(kit.processor, ".", asked).sampling
    height, width = frame_size(720, 1280, 8, sampling)
    assert sampling.factor == kit.family.factor
    assert height % sampling.factor == width % sampling.factor == 0
    assert height * width <= 100_352
    assert ("factor" in sampling.to_dict()) == (kit.name == "qwen3_vl")


def test_a_recipe_says_how_times_are_told(tmp_path: Path) -> None:
    from videothinker.files import InputError
    from videothinker.training.recipes import apply_overrides, check_targets, read_recipe

    recipe = read_recipe("qwen2.5-vl-7b/grpo-lora-80g")
    assert recipe.times == "own" and "times" not in recipe.to_json()
    told = apply_overrides(recipe, ["times=text"])
    assert told.settings().times == told.to_json()["times"] == "text"
    with pytest.raises(InputError, match="times"):
        apply_overrides(recipe, ["times=frames"])
    from families import save_tiny

    for family in FAMILIES:  # adapters' targets are looked up in the family's own modules
        base = save_tiny(family, tmp_path / family)
        check_targets(recipe, base)
        wrong = replace(recipe, peft={"target_modules": ["query_proj"]})
        with pytest.raises(InputError, match="no module 'query_proj'"):
            check_targets(wrong, base)


def test_base_training_draws_what_an_encoder_would_read(kit: SimpleNamespace) -> None:
    """The shortcut without processor and file: the same ids, pixels and grid."""
    from videothinker.toy.base import Task, encode_task
    from videothinker.toy.model import display_times, scene_frames
    from videothinker.toy.world import draw_scene

    for seed in range(3):
        scene = replace(draw_scene(f"base-{seed}", 0), variable_rate=seed == 1)
        drawn, _ = encode_task(Task("Describe the video.", "", scene), kit.processor)
        times = display_times(scene)
        frames = Frames(scene_frames(scene, side=kit.side), times, scene.duration, rate=2.0)
        text = f"<|im_start|>user\n{PLACE}Describe the video.<|im_end|>\n<|im_start|>assistant\n"
        prompt = encode_video(kit.processor, text, frames)
        assert torch.equal(drawn.input_ids, prompt.input_ids)
        assert torch.equal(drawn.grid, prompt.grid)
        assert torch.allclose(drawn.pixels, prompt.pixels, atol=1e-6)
        assert drawn.seconds_per_grid == prompt.seconds_per_grid
