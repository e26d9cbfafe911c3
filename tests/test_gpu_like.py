"""Trainings on a CPU that behaves as a GPU does (see `gpu_like`)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from gpu_like import TRAIN, Host, gpu_like, on_host

LORA = {"r": 4, "target_modules": ["q_proj", "v_proj", "down_proj"]}
WAYS: dict[str, dict[str, Any]] = {
    "full": {},
    "LoRA": {"peft": LORA},
    "QLoRA": {"peft": LORA, "quantization": {"load_in_4bit": True}},
}
STAGES: dict[str, dict[str, Any]] = {
    "sft": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    "grpo": {
        "num_generations": 3,
        "per_device_train_batch_size": 6,
        "gradient_accumulation_steps": 1,
        "max_completion_length": 8,
        "temperature": 2.0,
        "top_p": 0.99,
        "beta": 0.04,
    },
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips with traces, and a model that was saved in 16 bits."""
    from videothinker.configs import base_model_path
    from videothinker.model.loading import Settings, load_model, save_model
    from videothinker.schema import read_captions, write_rows
    from videothinker.synthesis.synthesize import synthesize
    from videothinker.toy.teacher import ScriptedTeacher
    from videothinker.toy.world import WorldSize, make_world

    folder = tmp_path_factory.mktemp("world")
    make_world(folder / "clips", WorldSize(train=4, val=0, test=0, ood=0, questions=1))
    captions = read_captions(folder / "clips" / "captions.jsonl")
    rows = synthesize(captions, [], ScriptedTeacher(0, mistake_rate=0), progress=False)
    write_rows(folder / "clips" / "train.jsonl", rows)
    model, processor = load_model(base_model_path())
    save_model(model, processor, folder / "base", Settings("short"), dtype=torch.bfloat16)
    return folder


def spread(prompts: Any, completions: Any, **columns: Any) -> list[float]:
    """A reward that different completions seldom share."""
    return [float(sum(map(ord, c)) % 17) for c in completions]


def train(
    world: Path, out: Path, stage: str, way: str, freeze_vision: bool = True, **options: Any
) -> dict[str, Any]:
    """Two steps of a stage in the simulated device's arithmetic; its result."""
    from videothinker.model.encoder import EncoderOptions
    from videothinker.schema import read_rows
    from videothinker.training.grpo import train_grpo
    from videothinker.training.job import Recipe, TrainingJob
    from videothinker.training.sft import train_sft
    from videothinker.video.frames import Sampling

    recipe = Recipe(
        stage,
        style="short",
        sampling=Sampling(fps=2, max_frames=48, size=(56, 56)),
        freeze_vision=freeze_vision,
        **WAYS[way],
        train=TRAIN
        | {"max_steps": 2, "save_strategy": "no", "logging_steps": 1}
        | STAGES[stage]
        | options,
    )
    rows = read_rows(world / "clips" / "train.jsonl")
    job = TrainingJob(
        recipe,
        str(world / "base"),
        rows,
        world / "clips",
        out,
        EncoderOptions(timeout=None),
        {"spread": spread},
    )
    with gpu_like() as seen:
        result = {"sft": train_sft, "grpo": train_grpo}[stage](job)
    assert seen.attentions and seen.sixteen_bits == seen.attentions
    assert seen.pinned or stage == "grpo"
    return result


def encoder_of(world: Path, processor: Any) -> Any:
    """Rows of the world → prompts."""
    from videothinker.model.encoder import Encoder, EncoderOptions
    from videothinker.video.frames import Sampling

    sampling = Sampling(fps=2, max_frames=48, size=(56, 56))
    return Encoder(processor, world / "clips", sampling, "short", EncoderOptions(timeout=None))


def without(way: str) -> None:
    if way == "QLoRA" and importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("QLoRA needs bitsandbytes: pip install 'videothinker[qlora]'")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_training_runs_as_on_a_gpu(world: Path, tmp_path: Path, stage: str, way: str) -> None:
    without(way)
    log = train(world, tmp_path, stage, way)["log"]
    steps = [row for row in log if "loss" in row]
    assert len(steps) == 2 and all(row["grad_norm"] > 0 for row in steps)
    if stage == "grpo":  # reference and policy compute in the same arithmetic
        assert steps[0]["kl"] == 0


def test_only_the_language_model_is_quantised(world: Path) -> None:
    without("QLoRA")
    from videothinker.model.loading import load_model

    model, _ = load_model(world / "base", quantization={"load_in_4bit": True})
    packed = [n for n, module in model.named_modules() if type(module).__name__ == "Linear4bit"]
    assert len(packed) == 7 * model.config.get_text_config().num_hidden_layers
    assert not [name for name in packed if "visual" in name or "lm_head" in name]


def test_adapters_are_merged_beside_the_gpu(world: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    from videothinker.model.loading import load_model
    from videothinker.training import setup

    trained = get_peft_model(load_model(world / "base")[0], LoraConfig(**LORA))
    with patch.object(setup, "load_model", wraps=load_model) as load:
        setup.merged_model(trained, world / "base", tmp_path / "adapter", anew=True)
    assert load.call_args.kwargs["device"] == "cpu"  # the GPU is full of what was trained


def test_a_model_is_saved_in_the_numbers_of_its_text() -> None:
    from transformers import Qwen3VLConfig

    from videothinker.training.setup import dtype_of

    assert dtype_of(Qwen3VLConfig(dtype="float16")) == torch.float16
    assert dtype_of(Qwen3VLConfig(text_config={"dtype": "bfloat16"})) == torch.bfloat16
    assert dtype_of(Qwen3VLConfig()) == torch.float32


@pytest.mark.parametrize(
    ("stage", "options"),
    [
        ("sft", {"train_sampling_strategy": "group_by_length", "dataloader_num_workers": 1}),
        ("grpo", {"update_rows": 1, "num_iterations": 2, "dynamic_sampling": 1, "top_p": 1.0}),
    ],
)
def test_a_trained_tower_and_other_options(
    world: Path, tmp_path: Path, stage: str, options: dict[str, Any]
) -> None:
    log = train(world, tmp_path, stage, "full", freeze_vision=False, **options)["log"]
    steps = [row for row in log if "loss" in row]
    assert len(steps) == 2 and all(row["grad_norm"] > 0 for row in steps)
    if stage == "grpo":
        assert steps[0]["kl"] == 0
        # 16 bits; rounding alone
        assert steps[0]["sampling/sampling_logp_difference/max"] < 0.3


# ---- the mode itself: what a GPU would refuse is refused


def test_an_output_of_transformers_cannot_be_pinned() -> None:
    from torch.utils.data import DataLoader
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    from videothinker.model.batch import EncoderOutput

    def batch_of(kind: type) -> Any:
        features = kind(pooler_output=(torch.ones(2), torch.ones(3)))
        rows = DataLoader([0], pin_memory=True, collate_fn=lambda _: {"video": features})
        return next(iter(rows))["video"]

    with gpu_like() as seen:
        with pytest.raises(Exception, match="You cannot use ``update``"):
            batch_of(BaseModelOutputWithPooling)
        pinned = batch_of(EncoderOutput)
        assert isinstance(pinned, EncoderOutput) and seen.pinned >= 2
        assert [len(x) for x in pinned.pooler_output] == [2, 3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_that_would_keep_all_scores_is_refused(dtype: torch.dtype) -> None:
    from torch.nn.attention.bias import causal_lower_right
    from torch.nn.functional import scaled_dot_product_attention as attend

    q, k = torch.randn(1, 4, 3, 8, dtype=dtype), torch.randn(1, 2, 5, 8, dtype=dtype)
    all_heads = k.repeat_interleave(2, 1)
    mask = torch.ones(3, 5, dtype=torch.bool)
    with gpu_like() as seen:
        with pytest.raises(RuntimeError, match="a mask together with grouped heads"):
            attend(q, k, k, attn_mask=mask, enable_gqa=True)
        with pytest.raises(RuntimeError, match="math kernel"):
            attend(q[0], all_heads[0], all_heads[0])
        with pytest.raises(RuntimeError, match="types"):
            attend(q.double(), all_heads, all_heads, attn_mask=causal_lower_right(3, 5))
        if dtype == torch.float32:
            with pytest.raises(RuntimeError, match="enable_gqa=True"):
                attend(q, k, k, enable_gqa=True)
        attend(q, all_heads, all_heads, attn_mask=mask)
        attend(q, all_heads, all_heads, attn_mask=causal_lower_right(3, 5))
    assert seen.attentions >= 5


def test_sums_of_floats_are_refused_only_where_cuda_refuses_them() -> None:
    floats, whole = torch.rand(3, 4), torch.arange(4)
    with gpu_like():
        assert floats.cumsum(-1).shape == (3, 4)
        torch.use_deterministic_algorithms(True)
        assert whole.cumsum(0).tolist() == [0, 1, 3, 6]
        for refused in (lambda: floats.cumsum(-1), lambda: torch.cumsum(floats, 0)):
            with pytest.raises(RuntimeError, match="deterministic"):
                refused()
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_tensor_of_the_host_has_to_be_moved() -> None:
    host, device = on_host(torch.arange(4.0)), torch.ones(4)
    with gpu_like():
        for apart in (lambda: host + device, lambda: torch.cat([device, host])):
            with pytest.raises(RuntimeError, match="on the same device"):
                apart()
        assert isinstance(host + host, Host) and isinstance((device + 1).cpu(), Host)
        assert not isinstance(host.to("cpu") + device, Host)
        assert not isinstance(host.to(device) + device, Host)
        assert isinstance(host.to(torch.float64), Host)
        assert device[host.long()[:2]].shape == (2,)  # an index may stay


# ---- evaluation


def test_an_evaluation_runs_as_on_a_gpu(world: Path) -> None:
    from videothinker.evaluation.evaluate import saved_protocol
    from videothinker.evaluation.questions import FrameSource, make_questions
    from videothinker.evaluation.video_engine import HFEngine
    from videothinker.model.loading import load_model
    from videothinker.schema import read_rows

    model, processor = load_model(world / "base")
    with gpu_like() as seen:
        protocol = saved_protocol(encoder_of(world, processor), 8)
        rows = read_rows(world / "clips" / "train.jsonl")[:2]
        questions = make_questions(rows, protocol) + make_questions(rows[1:], protocol, "no_video")
        engine = HFEngine(model, processor, FrameSource(world / "clips", timeout=None))
        replies = dict(engine.answer(questions[:2])) | {2: dict(engine.answer(questions[2:]))[0]}
    assert not any(reply.error for reply in replies.values())
    assert len(replies) == 3 and seen.sixteen_bits == seen.attentions > 0
