"""Hand the requests of rollouts by vLLM to vLLM's own classes.

    python scripts/check_vllm.py

Checked is what vLLM's server parses and its model sees: the request (`GenerateRequest`),
the sampling parameters, the unpacked tensors, the class that Qwen2.5-VL's video inputs go through,
and the positions that vLLM's models work out, for 404 rates of frames, of Qwen3-VL for two videos
of 1 to 29 frames. Prints what was checked and ends with an error at the first difference. Needs
vLLM to be importable; its native libraries and a GPU are not used. Its engine itself is compared
with ours by `pytest tests/test_vllm_engine.py`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace


def main() -> None:
    """Compare, and print what was compared."""
    argparse.ArgumentParser(
        description="Hand the requests of rollouts by vLLM to vLLM's own classes."
    ).parse_args()
    try:
        import vllm
        from vllm import SamplingParams
        from vllm.entrypoints.scale_out.token_in_token_out.mm_features import (
            mm_kwargs_from_features,
        )
        from vllm.entrypoints.scale_out.token_in_token_out.protocol import GenerateRequest
        from vllm.model_executor.models.qwen2_5_vl import (
            Qwen2_5_VLForConditionalGeneration,
            Qwen2_5_VLVideoEmbeddingInputs,
        )
        from vllm.multimodal.inputs import MultiModalFeatureSpec
        from vllm.sampling_params import RequestOutputKind
    except ImportError as e:
        raise SystemExit(f"vLLM cannot be imported: {e}") from e
    import torch

    from videothinker.model.family import family_of
    from videothinker.model.generate import Decoding
    from videothinker.model.loading import load_model
    from videothinker.model.shared_prefix import prompt_positions
    from videothinker.model.vision_cache import with_features
    from videothinker.model.vllm_input import engine_input, engine_sampling, wire_features
    from videothinker.toy.base import Task, encode_task
    from videothinker.toy.world import draw_scene

    model, processor = load_model(Path(__file__).parent.parent / "data" / "tiny-base", "float32")
    family = family_of(model, processor)
    prompt = encode_task(Task("Describe the video.", "", draw_scene("vllm", 1)), processor)[0]
    prompt = with_features(model, [prompt])[0]
    prompt = replace(prompt, features=prompt.features.bfloat16())
    request = engine_input(prompt, family)
    sampling = engine_sampling(Decoding(stop=("x",)), family, 8, 5)
    assert SamplingParams(**sampling, output_kind=RequestOutputKind.FINAL_ONLY).n == 8
    body = {
        "token_ids": request["prompt_token_ids"],
        "features": wire_features(request),
        "sampling_params": sampling,
    }
    parsed = GenerateRequest.model_validate_json(json.dumps(body))
    assert parsed.sampling_params.logit_bias == {token: -100.0 for token in family.suppressed}
    (item,) = mm_kwargs_from_features(parsed.features)["video"]
    assert torch.equal(item["video_embeds"].data, prompt.features)
    assert torch.equal(item["video_grid_thw"].data, prompt.grid[0])
    tensors = {
        name: item[name].data for name in ("video_embeds", "video_grid_thw", "second_per_grid_ts")
    }
    tensors |= {name: tensors[name][None] for name in ("video_grid_thw", "second_per_grid_ts")}
    Qwen2_5_VLVideoEmbeddingInputs(type="video_embeds", **tensors)
    print(f"vLLM {vllm.__version__}: request, sampling parameters and tensors as sent")

    network = Qwen2_5_VLForConditionalGeneration
    own = SimpleNamespace(config=model.config)
    own.iter_mm_grid_thw = lambda features: network.iter_mm_grid_thw(own, features)
    rates = [0.01 + i / 97 for i in range(400)] + [7 / 12, 31 / 30, 13 / 25, 7 / 24]
    for seconds in rates:
        timed = replace(prompt, seconds_per_grid=(seconds,))
        sent = engine_input(timed, family)
        (item,), (place,) = sent["mm_kwargs"]["video"], sent["mm_placeholders"]["video"]
        video = MultiModalFeatureSpec(data=item, modality="video", identifier="", mm_position=place)
        theirs, _ = network.get_mrope_input_positions(own, sent["prompt_token_ids"], [video])
        assert torch.equal(theirs, prompt_positions(timed, family)), seconds
    print(f"positions equal at {len(rates)} rates")
    check_whole_videos()


def check_whole_videos() -> None:
    """Positions of Qwen3-VL's videos, with the places that vLLM is told."""
    import numpy as np
    import torch
    from vllm.model_executor.models.qwen3_vl import Qwen3VLForConditionalGeneration
    from vllm.multimodal.inputs import MultiModalFeatureSpec

    from videothinker.model.family import VIDEO_PLACE, encode_video, family_of
    from videothinker.model.shared_prefix import prompt_positions
    from videothinker.model.vision_cache import with_features
    from videothinker.model.vllm_input import engine_input
    from videothinker.toy.model import build_model, build_processor
    from videothinker.video.frames import Frames

    processor = build_processor("qwen3_vl")
    model = build_model(processor)
    family = family_of(model, processor)
    counts = range(1, 30)
    for n in counts:
        pixels = np.zeros((n, 64, 96, 3), np.uint8)
        clips = [Frames(pixels, np.arange(n) / (2 + i), n / (2 + i)) for i in range(2)]
        text = f"<|im_start|>user\n{VIDEO_PLACE}{VIDEO_PLACE}Which?<|im_end|>\n"
        [prompt] = with_features(model, [encode_video(processor, text, *clips)])
        sent = engine_input(prompt, family)
        parts = sent["mm_kwargs"]["video"], sent["mm_placeholders"]["video"]
        videos = [
            MultiModalFeatureSpec(data=item, modality="video", identifier="", mm_position=place)
            for item, place in zip(*parts, strict=True)
        ]
        theirs, _ = Qwen3VLForConditionalGeneration._get_mrope_input_positions(
            sent["prompt_token_ids"], videos, model.config
        )
        assert torch.equal(theirs, prompt_positions(prompt, family)), n
    print(f"positions of Qwen3-VL equal for two videos of {counts[0]} to {counts[-1]} frames")


if __name__ == "__main__":
    from videothinker.commands.main import reader_may_leave

    with reader_may_leave():
        main()
