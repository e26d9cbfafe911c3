"""A reward for trainings of a few steps, which have to move the weights: `varied_reward:varied`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zlib import crc32


def varied(prompts: Any, completions: Sequence[Any], **columns: Any) -> list[float]:
    """Something that differs between completions, whatever they say."""
    return [float(crc32(str(completion).encode()) % 7) for completion in completions]
