"""The parity table finds what is planted: each of its cells, in each family and case."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from families import build_third

from videothinker.commands import models as commands
from videothinker.evaluation import questions, served_engine
from videothinker.evaluation.questions import FrameSource
from videothinker.files import InputError
from videothinker.model import encoder, padding_free, qwen3_vl, shared_prefix, vision_cache
from videothinker.model import vllm_input as vllm_request
from videothinker.model.family import Family, tell_times
from videothinker.model.padding_free import ROW_BY_ROW, attends_row_by_row
from videothinker.model.qwen2_5_vl import Qwen25VL
from videothinker.model.qwen3_vl import Qwen3VL
from videothinker.training import parity, sft
from videothinker.training.parity import Asked, Difference, parity_cases, parity_of
from videothinker.video.frames import Frames

QWEN25, QWEN3 = FAMILIES = ("qwen2_5_vl", "qwen3_vl")
CASES = ("constant rate", "variable rate", "5 frames", "4 a second", "two videos")
Cells = dict[tuple[str, str], Difference]  # (quantity, way) → its cell


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """An untrained tiny model of each family, the third one of tests too, and the five cases."""
    from videothinker.toy.model import build_model, build_processor
    from videothinker.toy.world import draw_scene, encode_scene

    folder = tmp_path_factory.mktemp("parity")
    clips = [folder / "constant.mp4", folder / "variable.mp4"]
    for clip in clips:
        rate = clip.stem == "variable"
        encode_scene(draw_scene(clip.stem, 0, max_duration=8, variable_rate=rate), clip)
    processors = {family: build_processor(family) for family in FAMILIES}
    loaded = {family: (build_model(p).eval(), p) for family, p in processors.items()}
    loaded["third_vl"] = build_third()
    loaded["third_vl"][0].eval()
    cases = {case.name: case for case in parity_cases(*clips)}
    assert tuple(cases) == CASES
    return SimpleNamespace(loaded=loaded, cases=cases)


def cells_of(kit: SimpleNamespace, family: str, case: str) -> Cells:
    asked = Asked(*kit.loaded[family], kit.cases[case])
    return {(cell.quantity, cell.way): cell for cell in parity_of(asked)}


def faults_in(cells: Cells) -> set[tuple[str, str]]:
    return {name for name, cell in cells.items() if cell.is_fault}


@pytest.fixture(scope="module")
def sound(kit: SimpleNamespace) -> dict[tuple[str, str], Cells]:
    """(family, case) → the cells without a fault."""
    return {(f, c): cells_of(kit, f, c) for f in FAMILIES for c in CASES}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_difference_has_an_owner(sound: dict[tuple[str, str], Cells], family: str) -> None:
    for case in CASES:
        cells = sound[family, case]
        assert not faults_in(cells)
        assert {cell.size is None for cell in cells.values()} == {True, False}
        if family == QWEN3:  # nothing of transformers' to excuse
            assert all(cell.is_equal for (_, way), cell in cells.items() if way != "video")
        else:
            positions = [cells["positions", way] for way in ("SFT", "rollout", "update", "vLLM")]
            assert {cell.owner for cell in positions if not cell.is_equal} == {"a"}


# == Faults that are planted in all ways at once: each cell of each case answers to one ==


@contextmanager
def planted(*places: tuple[Any, str, Any]) -> Iterator[None]:
    """Replace attributes: (where, name, by what)."""
    with ExitStack() as stack:
        for where, name, new in places:
            stack.enter_context(patch.object(where, name, new))
        yield


def encoding(
    text: Callable[[str], str] = lambda text: text,
    clip: Callable[[Frames], Frames] = lambda clip: clip,
    prompt: Callable[[Any], Any] = lambda prompt: prompt,
) -> list[tuple[Any, str, Any]]:
    """Places of an `encode_video` that is told something else, or makes something else of it."""

    def encode(processor: Any, words: str, *clips: Frames) -> Any:
        return prompt(ENCODE_VIDEO(processor, text(words), *map(clip, clips)))

    return [(encoder, "encode_video", encode), (parity, "encode_video", encode)]


def darker(clip: Frames) -> Frames:
    return replace(clip, pixels=clip.pixels // 2)


def slower(clip: Frames) -> Frames:
    """As if it took twice as long."""
    return replace(clip, times=clip.times * 2, rate=clip.rate and clip.rate / 2)


def on_its_side(grid: Any) -> Any:
    """Other rows and columns of patches, that make as many tokens."""
    return grid * torch.tensor([1, 2, 1]) // torch.tensor([1, 1, 2])


def long_picture(pixels: np.ndarray, quality: int = 0) -> tuple[str, str]:
    """A picture's halves below each other."""
    return ENCODE_IMAGE(np.concatenate(np.split(pixels, 2, axis=1)), quality)


def half_the_rate(frames: Frames) -> dict[str, Any]:
    fields = VIDEO_FIELDS(frames)
    fields["media_io_kwargs"]["video"]["fps"] /= 2
    return fields


def more_words(text: str) -> str:
    return text.replace("moves first", "moves first of all")


ENCODE_VIDEO = encoder.encode_video
ENCODE_IMAGE = served_engine.encode_image
VIDEO_FIELDS = served_engine.video_fields
USER_TEXT = questions.user_text
EVERYWHERE: dict[str, list[tuple[Any, str, Any]]] = {
    "other words": [
        *encoding(text=more_words),
        (served_engine, "user_text", lambda *args: more_words(USER_TEXT(*args))),
    ],
    "darker frames": [
        *encoding(clip=darker),
        (served_engine, "encode_image", lambda p, quality=0: ENCODE_IMAGE(p // 2, quality)),
    ],
    "half the rate": [
        *encoding(clip=slower),
        (served_engine, "time_text", lambda seconds: f"<{seconds * 2:.1f} seconds>"),
        (served_engine, "video_fields", half_the_rate),
    ],
    "frames on their side": [
        *encoding(prompt=lambda prompt: replace(prompt, grid=on_its_side(prompt.grid))),
        (served_engine, "encode_image", long_picture),
    ],
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_cell_has_a_fault(
    kit: SimpleNamespace, sound: dict[tuple[str, str], Cells], family: str, case: str
) -> None:
    """Every cell of the table in which a way has a part turns into a fault of nobody's."""
    found = set()
    for places in EVERYWHERE.values():
        with planted(*places):
            found |= faults_in(cells_of(kit, family, case))
    assert found == {name for name, cell in sound[family, case].items() if cell.size is not None}


# == Faults in one place, which show in the columns of those who use it, and in no others ==


@dataclass(frozen=True)
class Fault:
    """Something wrong in one place.

    Attributes
    ----------
    quantity : that is wrong first.
    ways : that have it wrong; no others have a fault of any quantity.
    places : what is replaced: (where, name, by what).
    families, case : in which it is planted.
    """

    quantity: str
    ways: tuple[str, ...]
    places: tuple[tuple[Any, str, Any], ...]
    families: tuple[str, ...] = FAMILIES
    case: str = "variable rate"


def changed_frames(change: Callable[[Frames], Frames]) -> tuple[Any, str, Any]:
    """The evaluation's frames, changed after they were read."""
    return FrameSource, "frames", lambda *args: change(FRAMES(*args))


def later(self: Any, input_ids: Any, prompt: Any) -> Any:
    """Positions whose time axis is one too far behind the first video token."""
    positions = POSITIONS[type(self)](self, input_ids, prompt).clone()
    positions[0] += torch.cumsum(input_ids == self.video_token, 0) > 0
    return positions


def in_whole_seconds(self: Any, input_ids: Any, prompt: Any) -> Any:
    """Positions of seconds that were cut to integers (lmms-eval issue 1393)."""
    cut = replace(prompt, seconds_per_grid=[int(s) for s in prompt.seconds_per_grid])
    return POSITIONS[Qwen25VL](self, input_ids, cut)


def dropped_levels(self: Any, x: Any, is_video: Any, features: Any) -> Any:
    """The tower's last output alone, without DeepStack."""
    main = features.chunk(1 + self.levels, -1)[0]
    return (x.masked_scatter(is_video[:, None], main.to(x)),)


def batches(change: Callable[[Any], None]) -> tuple[tuple[Any, str, Any], ...]:
    """The collator's batches, changed in place."""

    def collate(*args: Any) -> Any:
        batch = COLLATE(*args)
        change(batch)
        return batch

    return (sft, "collate", collate), (parity, "collate", collate)


def turned(batch: Any) -> None:
    if batch.video_grid_thw is not None:
        batch.video_grid_thw = on_its_side(batch.video_grid_thw)


def upside_down(batch: Any) -> None:
    if batch.pixel_values_videos is not None:
        batch.pixel_values_videos = batch.pixel_values_videos.flip(0)


def other_features(batch: Any) -> None:
    if batch.features is not None:
        batch.features = [features.flip(0) for features in batch.features]


def moved(batch: Any) -> None:
    batch.position_ids = batch.position_ids + 1


def sent(**changes: Callable[[Any], Any]) -> tuple[Any, str, Any]:
    """Tensors for vLLM, changed."""

    def tensors(prompt: Any, family: Any) -> Any:
        right = ENGINE_TENSORS(prompt, family)
        return right | {name: change(right[name]) for name, change in changes.items()}

    return vllm_request, "engine_tensors", tensors


def one_too_far(prompt: Any, family: Any) -> Any:
    return [replace(place, first=place.first + 1) for place in PLACEHOLDERS(prompt, family)]


def last_pair_dropped(frames: Frames, send: str, quality: int) -> Any:
    n = len(frames.pixels) - 2 * (send == "video")
    return FRAME_PARTS(replace(frames, pixels=frames.pixels[:n]), send, quality)


def every_frame_new(frames: Frames) -> dict[str, Any]:
    fields = VIDEO_FIELDS(frames)
    fields["media_io_kwargs"]["video"]["frames_indices"] = list(range(len(frames.times)))
    return fields


def as_jpeg(pixels: np.ndarray, quality: int = 0) -> tuple[str, str]:
    return ENCODE_IMAGE(pixels, quality or 95)


POSITIONS = {Qwen25VL: Qwen25VL.positions, Qwen3VL: Qwen3VL.positions}
FRAMES = FrameSource.frames
COLLATE = sft.collate
ENGINE_TENSORS = vllm_request.engine_tensors
PLACEHOLDERS = vllm_request.placeholders
FRAME_PARTS = served_engine.frame_parts
SDPA = padding_free.sdpa_attention_forward
RUN_TOWER = vision_cache._run_tower
OURS = ("SFT", "rollout", "update", "evaluation", "vLLM")
LOCAL = {
    "a newline more in one prompt": Fault(
        "token ids",
        ("evaluation",),
        ((questions, "user_text", lambda *args: USER_TEXT(*args) + "\n"),),
    ),
    "a newline more in requests": Fault(
        "token ids",
        ("images", "video"),
        ((served_engine, "user_text", lambda *args: USER_TEXT(*args) + "\n"),),
    ),
    "placeholders one too far": Fault(
        "token ids", ("vLLM",), ((vllm_request, "placeholders", one_too_far),), case="two videos"
    ),
    "times of the first frame": Fault(
        "times",
        OURS,
        ((qwen3_vl, "seconds_text", lambda t: f"<{t[0]:.1f} seconds>"),),
        (QWEN3,),
    ),
    "seconds of another rate": Fault(
        "times", ("vLLM",), (sent(second_per_grid_ts=torch.ones_like),), (QWEN25,), "5 frames"
    ),
    "a rate of its own": Fault(
        "times, true",
        ("evaluation",),
        (changed_frames(lambda f: replace(f, times=f.times / 2, rate=f.rate and f.rate * 2)),),
    ),
    "whole frames a second": Fault(
        "times, true",
        (*OURS, "video"),
        ((Frames, "fps", property(lambda self: 1.0)),),
        (QWEN25,),
    ),
    "frames a second, in words": Fault(
        "times, true",
        ("images",),
        ((served_engine, "time_text", lambda s: f"<{s * 2:.1f} seconds>"),),
        case="4 a second",
    ),
    "the last frame told as a new one": Fault(
        "times, true",
        ("video",),
        ((served_engine, "video_fields", every_frame_new),),
        (QWEN3,),
        "5 frames",
    ),
    "darker frames": Fault("pixels", ("evaluation",), (changed_frames(darker),)),
    "pixels in another order": Fault("pixels", ("SFT",), batches(upside_down)),
    "pictures as JPEGs": Fault(
        "pixels", ("images",), ((served_engine, "encode_image", as_jpeg),), case="constant rate"
    ),
    "a video of coarse JPEGs": Fault(
        "pixels", ("video",), ((served_engine, "VIDEO_QUALITY", 90),), case="4 a second"
    ),
    "a pair of frames less": Fault(
        "pixels",
        ("video",),
        ((served_engine, "frame_parts", last_pair_dropped),),
        (QWEN25,),
    ),
    "stale features": Fault(
        "features",
        OURS,
        ((vision_cache, "_run_tower", lambda *args: RUN_TOWER(*args) * 1.01),),
        case="two videos",
    ),
    "features in another order": Fault("features", ("SFT",), batches(other_features)),
    "a grid on its side": Fault("grid", ("vLLM",), (sent(video_grid_thw=on_its_side),)),
    "a grid on its side in a batch": Fault("grid", ("SFT",), batches(turned), case="two videos"),
    "a moment later": Fault(
        "positions",
        OURS,
        ((Qwen25VL, "positions", later), (Qwen3VL, "positions", later)),
    ),
    "positions in whole seconds": Fault(
        "positions", OURS, ((Qwen25VL, "positions", in_whole_seconds),), (QWEN25,), "4 a second"
    ),
    "positions moved in a batch": Fault("positions", ("SFT",), batches(moved)),
    "without DeepStack": Fault(
        "log-probs",
        ("rollout", "update", "evaluation", "vLLM"),
        ((Qwen3VL, "embed", dropped_levels),),
        (QWEN3,),
    ),
    "without norms of heads": Fault(
        "log-probs",
        ("rollout", "update", "evaluation", "vLLM"),
        ((shared_prefix, "hasattr", lambda *_: False),),
        (QWEN3,),
    ),
    "a prefix without rotation": Fault(
        "log-probs",
        ("rollout", "update", "evaluation", "vLLM"),
        ((shared_prefix, "rotate", lambda x, rope: x),),
        case="5 frames",
    ),
    "another scale in rows without padding": Fault(
        "log-probs",
        ("SFT",),
        ((padding_free, "sdpa_attention_forward", lambda m, q, *a, **k: SDPA(m, 2 * q, *a, **k)),),
        case="constant rate",
    ),
}

PLANTED = [(name, family) for name, fault in LOCAL.items() for family in fault.families]


@pytest.mark.parametrize("name, family", PLANTED)
def test_a_fault_is_found_where_it_is(kit: SimpleNamespace, name: str, family: str) -> None:
    fault = LOCAL[name]
    with planted(*fault.places):
        found = faults_in(cells_of(kit, family, fault.case))
    ways = {w for w in fault.ways if fault.case != "two videos" or w not in parity.OF_A_ROW}
    assert {way for quantity, way in found if quantity == fault.quantity} == ways
    assert {way for _, way in found} == ways


def test_every_way_and_quantity_has_a_fault_of_its_own() -> None:
    assert {fault.quantity for fault in LOCAL.values()} == set(parity.QUANTITIES)
    assert {way for fault in LOCAL.values() for way in fault.ways} == set(parity.WAYS)
    assert {fault.case for fault in LOCAL.values()} == set(CASES)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_fault_of_ours_is_on_the_other_side(kit: SimpleNamespace, family: str) -> None:
    """What transformers makes of a question is the same with any fault planted."""
    asked = Asked(*kit.loaded[family], kit.cases["5 frames"])
    assert asked.completion and asked.clips
    faults = [*EVERYWHERE.values(), *(f.places for f in LOCAL.values() if family in f.families)]
    own = type(asked.family)
    faults += [[(own, "runs", lambda self, grid: grid + 1)], [(own, "video_features", None)]]
    faults += [[(padding_free, "attend_row_by_row", None), (Family, "embed", None)]]
    with torch.no_grad():
        sides = [*parity.by_transformers(asked), parity.by_protocol(asked)]
        for places in faults:
            if any(name == "fps" for _, name, _ in places):
                continue  # the rate is told to both
            with planted(*places):
                again = [*parity.by_transformers(asked), parity.by_protocol(asked)]
            for side, other in zip(sides, again, strict=True):
                for field in parity.QUANTITIES.values():
                    assert torch.equal(getattr(side, field), getattr(other, field)), places


def test_the_attention_of_a_model_is_put_back(kit: SimpleNamespace) -> None:
    model, processor = kit.loaded[QWEN25]
    text = model.config.get_text_config()
    assert text._attn_implementation == "sdpa"
    parity_of(Asked(model, processor, kit.cases["5 frames"]))
    assert text._attn_implementation == "sdpa"
    try:
        assert attends_row_by_row(model)
        with parity.own_attention(model):
            assert text._attn_implementation == "sdpa"
        assert text._attn_implementation == ROW_BY_ROW
    finally:
        model.set_attn_implementation({"text_config": "sdpa"})


# == Other families, and times as text ==


@pytest.mark.parametrize("case", CASES[1:3] + CASES[4:])
def test_a_family_that_tells_no_times(kit: SimpleNamespace, case: str) -> None:
    cells = cells_of(kit, "third_vl", case)
    assert not faults_in(cells)
    told = [cell for (quantity, way), cell in cells.items() if quantity == "times"]
    assert all(cell.size is None for cell in told)
    assert cells["grid", "SFT"].size == cells["positions", "vLLM"].size == 0


@pytest.mark.parametrize("case", CASES[1:3] + CASES[4:])
@pytest.mark.parametrize("family", FAMILIES)
def test_times_as_text(kit: SimpleNamespace, family: str, case: str) -> None:
    processor = tell_times(kit.loaded[family][1], "text")
    try:
        cells = cells_of(kit, family, case)
    finally:
        tell_times(processor, "own")
    assert all(cell.is_equal for cell in cells.values())
    assert all(cells[quantity, "video"].size is None for quantity in parity.QUANTITIES)
    assert cells["times", "SFT"].size == cells["times", "vLLM"].size == 0


def test_a_fault_of_times_as_text(kit: SimpleNamespace) -> None:
    processor = tell_times(kit.loaded[QWEN25][1], "text")
    try:
        with planted(*EVERYWHERE["half the rate"]):
            found = faults_in(cells_of(kit, QWEN25, "5 frames"))
    finally:
        tell_times(processor, "own")
    assert {("times", way) for way in OURS} | {("token ids", "SFT")} <= found


# == The command ==


def test_the_command_ends_with_an_error_at_a_fault(
    kit: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    args = argparse.Namespace(command="parity", model=None, device="cpu", revision=None)
    tables = [("a tiny model", *kit.loaded[QWEN25])]
    told = patch.object(commands, "parity_models", lambda args: iter(tables))
    few = patch.object(parity, "parity_cases", lambda *clips: parity_cases(*clips)[2:3])
    with told, few:
        commands.run_parity(args)
        assert "!" not in capsys.readouterr().out
        places = [*batches(turned), (Qwen25VL, "positions", later)]
        with planted(*places), pytest.raises(InputError) as error:
            commands.run_parity(args)
    first = "the first: grid, 5 frames, SFT"
    printed = capsys.readouterr().out
    n = printed.count("!") - 1  # one in the legend
    assert str(error.value) == f"{n} differences that nobody owns, {first}" and n > 6
    assert "!: nobody's: a fault" in printed
