"""Temporal positions of a clip's patches beside those of Qwen2.5-VL's own rule."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from transformers import AutoProcessor
from transformers.video_utils import VideoMetadata

from videothinker.model.encoder import encode_prompt
from videothinker.model.qwen2_5_vl import mrope_positions
from videothinker.schema import Sample
from videothinker.video.frames import Frames, Sampling
from videothinker.video.reader import cached_frames, read_frames

BASE = Path(__file__).parents[1] / "data" / "tiny-base"
TWO = Sampling(fps=2, max_frames=64, size=(56, 56))
RATES = {
    "23.976": Fraction(24000, 1001),
    "24": Fraction(24),
    "25": Fraction(25),
    "29.97": Fraction(30000, 1001),
    "30": Fraction(30),
    "50": Fraction(50),
    "59.94": Fraction(60000, 1001),
    "60": Fraction(60),
}


@pytest.fixture(scope="module")
def processor() -> Any:
    """The tiny model's processor, which has Qwen2.5-VL's rules."""
    return AutoProcessor.from_pretrained(BASE)


def film(path: Path, times: list[Fraction], rate: Fraction, start: int = 0) -> Path:
    """A grey film with frames at these times, of a nominal rate."""
    with av.open(str(path), "w") as out:
        options = {"g": "50", "preset": "ultrafast", "threads": "1", "bf": "0"}
        stream = out.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        clock = 1 / (rate * 4)
        stream.time_base = stream.codec_context.time_base = clock
        for time in times:
            frame = av.VideoFrame(32, 32, "yuv420p")
            frame.pts, frame.time_base = start + round(time / clock), clock
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def positions(processor: Any, frames: Frames) -> list[int]:
    """Temporal positions of the patches, the first at 0."""
    sample = Sample("What is it?", ["A. a cat", "B. a dog"], "<answer>A</answer>")
    prompt = encode_prompt(processor, sample, frames, "short")
    token = processor.tokenizer.convert_tokens_to_ids("<|video_pad|>")
    found = mrope_positions(prompt.input_ids, token, prompt.grid, prompt.seconds_per_grid)
    times = found[0][prompt.input_ids == token].reshape(-1, 4)[:, 0]  # 56 x 56: 4 tokens a patch
    return (times - times[0]).tolist()


def own(processor: Any, n_stored: int, rate: Fraction, **how: Any) -> tuple[list[int], np.ndarray]:
    """Positions and times of frames [T] as the processor samples and places them itself."""
    metadata = VideoMetadata(total_num_frames=n_stored, fps=float(rate))
    indices = processor.video_processor.sample_frames(metadata, max_frames=768, **how)
    metadata.frames_indices = indices
    seconds = torch.tensor(2 / metadata.sampled_fps)  # 32 bits, as `second_per_grid_ts`
    return (
        torch.arange(len(indices) // 2) * (2 * seconds)
    ).long().tolist(), indices.numpy() / float(rate)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("name", RATES)
def test_two_frames_a_second_are_placed_as_qwen_places_them(
    name: str, suffix: str, processor: Any, tmp_path: Path
) -> None:
    rate = RATES[name]
    n = 20 * round(rate)
    path = film(tmp_path / f"film.{suffix}", [i / rate for i in range(n)], rate)
    frames = read_frames(path, TWO)
    right, times = own(processor, n, rate, fps=2)
    assert right == list(range(0, 40, 2))
    assert positions(processor, frames)[:20] == right
    assert np.abs(frames.times[:40] - times).max() <= max(1 / float(rate), 0.04) + 1e-3
    assert cached_frames(path, TWO, tmp_path / "cache").fps == 2
    assert cached_frames(path, TWO, tmp_path / "cache").fps == 2  # from the cache, too


@pytest.mark.parametrize("n_frames", [16, 32])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("name", RATES)
def test_frames_spread_over_a_clip_are_placed_as_qwen_places_them(
    name: str, suffix: str, n_frames: int, processor: Any, tmp_path: Path
) -> None:
    rate = RATES[name]
    for seconds in (20, 13):
        n = seconds * round(rate)
        path = film(tmp_path / f"{seconds}.{suffix}", [i / rate for i in range(n)], rate)
        frames = read_frames(path, Sampling(n_frames=n_frames, size=(56, 56)))
        right, times = own(processor, n, rate, num_frames=n_frames)
        assert positions(processor, frames) == right
        assert np.abs(frames.times - times).max() <= 1 / float(rate) + 1e-3


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("name", ["23.976", "25", "29.97"])
def test_a_clip_cut_from_the_middle_is_placed_as_a_clip_of_its_own(
    name: str, suffix: str, processor: Any, tmp_path: Path
) -> None:
    rate = RATES[name]
    n = 20 * round(rate)
    times = [i / rate for i in range(n)]
    path = film(tmp_path / f"film.{suffix}", times, rate, start=4 * 777)
    right, _ = own(processor, n, rate, fps=2)
    assert positions(processor, read_frames(path, TWO))[:20] == right
    spread = read_frames(path, Sampling(n_frames=16, size=(56, 56)))
    assert positions(processor, spread) == own(processor, n, rate, num_frames=16)[0]


def test_of_a_varying_rate_the_true_times_count(processor: Any, tmp_path: Path) -> None:
    """Thirty frames a second for 4 s, then one in half a second, then none for 3 s."""
    fast = [Fraction(i, 30) for i in range(120)]
    slow = [4 + Fraction(i, 2) for i in range(9)]
    late = [11 + Fraction(i, 10) for i in range(50)]
    path = film(tmp_path / "varies.mp4", fast + slow + late, Fraction(30))
    frames = read_frames(path, TWO)
    found = np.array(positions(processor, frames))
    moments = np.arange(len(frames.times)) / 2  # when the frames are on the screen
    assert (found == np.floor(2 * moments[::2])).all()
    stamps = np.array([float(time) for time in fast + slow + late])
    shown = stamps[np.searchsorted(stamps, moments[: len(frames.times)] + 1e-3, side="right") - 1]
    assert np.abs(frames.times[:31] - shown[:31]).max() < 1e-3
    by_index, _ = own(processor, len(stamps), Fraction(179, 16), fps=2)
    assert by_index[:8] == found[:8].tolist()  # Qwen's rule says the same, of other pictures


def test_times_chosen_one_by_one_have_their_mean_rate(processor: Any, tmp_path: Path) -> None:
    path = film(tmp_path / "film.mp4", [Fraction(i, 25) for i in range(500)], Fraction(25))
    chosen = read_frames(path, Sampling(times=(0.0, 1.0, 2.0, 6.0, 8.0, 10.0), size=(56, 56)))
    assert chosen.rate is None and positions(processor, chosen) == [0, 8, 16]
    even = read_frames(path, Sampling(fps=2, within=((10.0, 14.0),), size=(56, 56)))
    assert even.rate == 2 and positions(processor, even) == [0, 2, 4, 6]
