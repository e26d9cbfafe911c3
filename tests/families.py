"""What the tests of model families share: tiny models of each, clips, and a third family."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLModel,
    Qwen2_5_VLProcessor,
)

from videothinker.model.family import VIDEO, Prompt, register
from videothinker.model.qwen2_5_vl import Qwen25VL
from videothinker.video.frames import Frames

FAMILIES = ("qwen2_5_vl", "qwen3_vl")
SIDES = {"qwen2_5_vl": 56, "qwen3_vl": 64, "third_vl": 56}
PLACE = f"<|vision_start|>{VIDEO}<|vision_end|>"


def noise_clip(times: list[float], side: int, seed: int = 0, wide: int = 1) -> Frames:
    """A clip of noise with frames at these times, `wide` times as wide as high."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (len(times), side, side * wide, 3), dtype=np.uint8)
    return Frames(pixels, np.array(times), times[-1] + 0.5)


CLIPS = {  # name → times of the frames of each clip
    "constant": [[0.0, 0.5, 1.0, 1.5, 2.0, 2.5]],
    "odd": [[0.0, 1.0, 2.0, 3.0, 4.0]],
    "one frame": [[0.0]],
    "variable": [[0.0, 0.033, 0.7, 1.9, 2.0, 7.35]],
    "fast": [[i / 8 for i in range(12)]],  # eight frames a second
    "two": [[0.0, 0.5, 1.0, 1.5], [0.0, 2.0, 4.0, 5.5, 9.25]],
}


def save_tiny(family: str, folder: Path, seed: int = 0) -> str:
    """An untrained tiny model of a family as a folder, with its settings."""
    from videothinker.model.loading import Settings, save_model
    from videothinker.toy.model import build_model, build_processor
    from videothinker.video.frames import Sampling

    processor = build_processor(family)
    size = (SIDES[family],) * 2
    settings = Settings("short", Sampling(fps=2, max_frames=48, size=size))
    save_model(build_model(processor, seed), processor, folder, settings)
    return str(folder)


# == A third family: one file would be enough ==


class ThirdConfig(Qwen2_5_VLConfig):
    model_type = "third_vl"


class ThirdCore(Qwen2_5_VLModel):
    config_class = ThirdConfig

    def get_rope_index(self, input_ids: Tensor, *args: Any, **options: Any) -> tuple[Tensor, ...]:
        places = torch.arange(input_ids.shape[1]).expand(3, *input_ids.shape)
        return places, torch.zeros(len(input_ids), 1)


class ThirdModel(Qwen2_5_VLForConditionalGeneration):
    config_class = ThirdConfig

    def __init__(self, config: ThirdConfig) -> None:
        super().__init__(config)
        self.model = ThirdCore(config)
        self.post_init()


class ThirdProcessor(Qwen2_5_VLProcessor):
    def replace_video_token(self, video_inputs: dict, video_idx: int, **options: Any) -> str:
        t, h, w = video_inputs["video_grid_thw"][video_idx].tolist()
        tokens = self.video_token * (h * w // self.video_processor.merge_size**2)
        return "".join(f" {i} :{tokens}" for i in range(t))


@register
@dataclass(frozen=True)
class Third(Qwen25VL):
    """A Qwen2.5-VL that counts its moments aloud, and whose positions are those of a text."""

    model_type: ClassVar[str] = "third_vl"
    processor_type: ClassVar[str] = "ThirdProcessor"
    title: ClassVar[str] = "Third-VL"
    has_seconds: ClassVar[bool] = False

    @classmethod
    def model_class(cls) -> Any:
        return ThirdModel

    @classmethod
    def video_text(cls, grid: tuple[int, int, int], times: np.ndarray, merge: int) -> str:
        t, h, w = grid
        return "".join(f" {i} :" + VIDEO * (h * w // merge**2) for i in range(t))

    def positions(self, input_ids: Tensor, prompt: Prompt) -> Tensor:
        return torch.arange(len(input_ids)).expand(3, -1)

    def runs(self, grid: Tensor) -> Tensor:
        stills = grid.repeat_interleave(grid[:, 0], 0)
        return torch.cat([torch.ones_like(stills[:, :1]), stills[:, 1:]], 1)


AutoConfig.register("third_vl", ThirdConfig)
AutoProcessor.register(ThirdConfig, ThirdProcessor)


def build_third() -> tuple[Any, Any]:
    """An untrained tiny model of the third family, and its processor."""
    from videothinker.toy.model import build_config, build_processor

    own = build_processor()
    processor = ThirdProcessor(
        own.image_processor, own.tokenizer, own.video_processor, chat_template=own.chat_template
    )
    torch.manual_seed(0)
    config = build_config(own.tokenizer).to_dict()
    del config["model_type"]
    model = ThirdModel(ThirdConfig(**config))
    model.generation_config.eos_token_id = own.tokenizer.eos_token_id
    return model, processor


def save_third(folder: Path) -> str:
    """An untrained tiny model of the third family as a folder."""
    from videothinker.model.loading import Settings, save_model
    from videothinker.video.frames import Sampling

    model, processor = build_third()
    settings = Settings("short", Sampling(fps=2, max_frames=48, size=(56, 56)))
    save_model(model, processor, folder, settings)
    return str(folder)
