"""The parity table finds what is planted: a fault for each of its rows, and for each way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from videothinker.evaluation import questions, served_engine
from videothinker.evaluation.questions import FrameSource
from videothinker.model import qwen3_vl, shared_prefix, vision_cache
from videothinker.model.qwen3_vl import Qwen3VL
from videothinker.training import parity
from videothinker.training.parity import Asked, Difference, parity_cases, parity_of


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """An untrained tiny model of each family, and the five cases."""
    from videothinker.toy.model import TOYS, build_model, build_processor
    from videothinker.toy.world import draw_scene, encode_scene

    folder = tmp_path_factory.mktemp("parity")
    clips = [folder / "constant.mp4", folder / "variable.mp4"]
    for clip in clips:
        rate = clip.stem == "variable"
        encode_scene(draw_scene(clip.stem, 0, max_duration=8, variable_rate=rate), clip)
    processors = {family: build_processor(family) for family in TOYS}
    models = {family: build_model(p).eval() for family, p in processors.items()}
    cases = {case.name: case for case in parity_cases(*clips)}
    return SimpleNamespace(processors=processors, models=models, cases=cases)


def cells_of(kit: SimpleNamespace, family: str, case: str) -> dict[tuple[str, str], Difference]:
    asked = Asked(kit.models[family], kit.processors[family], kit.cases[case])
    return {(cell.quantity, cell.way): cell for cell in parity_of(asked)}


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_every_difference_has_an_owner(kit: SimpleNamespace, family: str) -> None:
    for case in kit.cases:
        cells = cells_of(kit, family, case)
        faults = [str(cell) for cell in cells.values() if not cell.is_equal and not cell.owner]
        assert not faults
        assert {cell.size is None for cell in cells.values()} == {True, False}
        if family == "qwen3_vl":  # nothing of transformers' to excuse
            ours = [cell for (_, way), cell in cells.items() if way != "video"]
            assert all(cell.is_equal for cell in ours)


def changed_frames(change: Callable[[Any], Any]) -> Any:
    """The evaluation's frames, changed after they were read."""
    original = FrameSource.frames
    return patch.object(FrameSource, "frames", lambda *args: change(original(*args)))


def dropped_levels(self: Any, x: Any, is_video: Any, features: Any) -> Any:
    """The tower's last output alone, without DeepStack."""
    main = features.chunk(1 + self.levels, -1)[0]
    return (x.masked_scatter(is_video[:, None], main.to(x)),)


def later(self: Any, input_ids: Any, prompt: Any) -> Any:
    """Positions whose time axis is one too far behind the first video token."""
    positions = QWEN3_POSITIONS(self, input_ids, prompt).clone()
    positions[0] += torch.cumsum(input_ids == self.video_token, 0) > 0
    return positions


def other_grid(prompt: Any, family: Any) -> Any:
    """What vLLM is sent, with rows and columns of patches that make as many tokens."""
    sent = ENGINE_TENSORS(prompt, family)
    grid = sent["video_grid_thw"] * torch.tensor([1, 2, 1]) // torch.tensor([1, 1, 2])
    return sent | {"video_grid_thw": grid}


def with_a_newline(*args: Any) -> str:
    """The user's text of an evaluation, which training does not have."""
    return USER_TEXT(*args) + "\n"


QWEN3_POSITIONS = Qwen3VL.positions
ENGINE_TENSORS = parity.engine_tensors
USER_TEXT = questions.user_text
RUN_TOWER = vision_cache._run_tower
FAULTS: dict[str, tuple[str, str, Callable[[], Any]]] = {
    "a newline more in one prompt": (
        "token ids",
        "evaluation",
        lambda: patch.object(questions, "user_text", with_a_newline),
    ),
    "times of the first frame": (
        "times",
        "SFT",
        lambda: patch.object(qwen3_vl, "seconds_text", lambda t: f"<{t[0]:.1f} seconds>"),
    ),
    "a rate of its own": (
        "times, true",
        "evaluation",
        lambda: changed_frames(lambda f: replace(f, times=f.times / 2)),
    ),
    "darker frames": (
        "pixels",
        "evaluation",
        lambda: changed_frames(lambda f: replace(f, pixels=f.pixels // 2)),
    ),
    "stale features": (
        "features",
        "rollout",
        lambda: patch.object(vision_cache, "_run_tower", lambda *args: RUN_TOWER(*args) * 1.01),
    ),
    "a grid on its side": (
        "grid",
        "vLLM",
        lambda: patch.object(parity, "engine_tensors", other_grid),
    ),
    "a moment later": ("positions", "update", lambda: patch.object(Qwen3VL, "positions", later)),
    "without DeepStack": (
        "log-probs",
        "update",
        lambda: patch.object(Qwen3VL, "embed", dropped_levels),
    ),
    "without norms of heads": (
        "log-probs",
        "rollout",
        lambda: patch.object(shared_prefix, "hasattr", lambda *_: False, create=True),
    ),
    "frames a second, in words": (
        "times, true",
        "images",
        lambda: patch.object(served_engine, "time_text", lambda s: f"<{s * 2:.1f} seconds>"),
    ),
    "the last frame told as a new one": (
        "times, true",
        "video",
        lambda: patch.object(served_engine.np, "cumsum", lambda new: np.arange(len(new))),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(kit: SimpleNamespace, fault: str) -> None:
    quantity, way, plant = FAULTS[fault]
    case = "5 frames" if way == "video" else "variable rate"
    with plant():
        cells = cells_of(kit, "qwen3_vl", case)
    assert not cells[quantity, way].is_equal and not cells[quantity, way].owner


def test_every_row_has_a_fault() -> None:
    assert {quantity for quantity, _, _ in FAULTS.values()} == set(parity.QUANTITIES)
