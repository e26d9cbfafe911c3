"""What a step learns does not depend on how its rows or completions are cut into micro-batches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from transformers import TrainerCallback

from videothinker.model.encoder import Encoder, EncoderOptions
from videothinker.model.generate import Completion
from videothinker.model.loading import Settings, load_model
from videothinker.schema import Sample, read_captions
from videothinker.synthesis.synthesize import synthesize
from videothinker.toy.teacher import ScriptedTeacher
from videothinker.toy.world import WorldSize, make_world
from videothinker.training.grpo import VideoGRPOConfig, VideoGRPOTrainer
from videothinker.training.job import Recipe, TrainingJob
from videothinker.training.losses import clip_fractions
from videothinker.training.rollouts import Rollout
from videothinker.training.setup import set_up_training
from videothinker.training.sft import sft_trainer

BASE = str(ROOT / "data" / "tiny-base")
IN_PROCESS = EncoderOptions(timeout=None)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Sample]]:
    """A folder of clips, and four rows with traces of very different lengths."""
    folder = tmp_path_factory.mktemp("objectives")
    make_world(folder, WorldSize(train=8, val=0, test=0, ood=0, questions=1))
    captions = read_captions(folder / "captions.jsonl")
    made = synthesize(captions, [], ScriptedTeacher(0, mistake_rate=0), progress=False)
    lengths = (1, 2, 5, 40)  # words of the traces
    words = [str(row.process).split() for row in made]
    cut = [" ".join((trace * 9)[:n]) for trace, n in zip(words, lengths, strict=True)]
    return folder, [replace(row, process=p) for row, p in zip(made, cut, strict=True)]


class Gradients(TrainerCallback):
    """Keeps the gradients of the first step."""

    def __init__(self) -> None:
        self.of: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        if not self.of:
            grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
            self.of = {name: grad.clone() for name, grad in grads.items()}


def sft_step(
    rows: tuple[Path, list[Sample]], out: Path, batch: int, accumulation: int, **options: Any
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one SFT step over all rows."""
    train = {
        "max_steps": 1,
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "logging_steps": 1,
        "save_strategy": "no",
        "max_grad_norm": 0.0,
        "disable_tqdm": True,
    }
    sampling = Settings.of(BASE).sampling
    recipe = Recipe("sft", style="short", sampling=sampling, train=train, **options)
    gradients = Gradients()
    job = TrainingJob(recipe, BASE, rows[1], rows[0], out, IN_PROCESS, callbacks=[gradients])
    trainer = sft_trainer(job, set_up_training(job))
    trainer.train()
    return trainer.state.log_history[0]["loss"], gradients.of


def assert_same_gradients(
    first: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float = 1e-4
) -> None:
    assert first.keys() == other.keys() and first
    for name, gradient in first.items():
        assert torch.norm(gradient - other[name]) <= tolerance * torch.norm(gradient) + 1e-9, name


@pytest.mark.parametrize("peft", [None, {"r": 2, "target_modules": ["q_proj", "down_proj"]}])
def test_sft_is_the_mean_over_tokens_however_the_rows_are_split(
    rows: tuple[Path, list[Sample]], tmp_path: Path, peft: dict[str, Any] | None
) -> None:
    # rows of a micro-batch, micro-batches of a step; with 3 × 2 the second one has a single row
    splits = [(4, 1), (1, 4)] if peft else [(4, 1), (2, 2), (1, 4), (3, 2)]
    loss, gradients = sft_step(rows, tmp_path, *splits[0], peft=peft)
    for split in splits[1:]:
        other_loss, other = sft_step(rows, tmp_path, *split, peft=peft)
        assert other_loss == pytest.approx(loss, rel=2e-5), split
        assert_same_gradients(gradients, other)


# GRPO: cut-off completions


def grpo_step(
    rows: tuple[Path, list[Sample]],
    out: Path,
    completions: list[Completion],
    advantages: list[float],
    accumulation: int,
    **train: Any,
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one GRPO step on given completions, of as many prompts as there are."""
    folder, samples = rows
    model, processor = load_model(BASE)
    settings = Settings.of(BASE)
    encoder = Encoder(processor, folder, settings.sampling, settings.style, IN_PROCESS)
    args = VideoGRPOConfig(
        output_dir=str(out),
        num_generations=len(completions),
        per_device_train_batch_size=len(completions),
        gradient_accumulation_steps=accumulation,
        max_steps=1,
        logging_steps=1,
        save_strategy="no",
        max_grad_norm=0.0,
        use_cpu=True,
        bf16=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        mask_truncated_completions=True,
        **train,
    )
    gradients = Gradients()
    trainer = VideoGRPOTrainer(model, args, samples, encoder, {}, callbacks=[gradients])
    scores = torch.tensor(advantages)
    rollouts = [
        Rollout(s, encoder(s), list(completions), rewards=scores, advantages=scores)
        for s in samples[:accumulation]
    ]
    trainer.scored_rollouts = lambda step_rows: rollouts
    trainer.share = lambda own: own
    trainer.record = lambda everyone: None
    trainer.train()
    return trainer.state.log_history[0]["loss"], gradients.of


@pytest.mark.parametrize("loss_type", ["dapo", "cispo"])
def test_cut_off_completions_leave_no_trace_in_the_loss(
    rows: tuple[Path, list[Sample]], tmp_path: Path, loss_type: str
) -> None:
    words = list(range(20, 30))
    finished = [Completion(words[:n], [-1.0] * n, True) for n in (10, 7, 3)]
    cut_off = Completion(words * 6, [-1.0] * 60, False)
    options = {"loss_type": loss_type, "epsilon_high": 2.0}
    advantages = [1.0, -0.5, 0.25]
    without = grpo_step(rows, tmp_path, finished, advantages, 2, **options)
    masked = grpo_step(rows, tmp_path, [*finished, cut_off], [*advantages, 3.0], 2, **options)
    assert masked[0] == pytest.approx(without[0], rel=1e-4)
    assert_same_gradients(without[1], masked[1])
    assert any(gradient.abs().max() > 0 for gradient in without[1].values())


def test_a_step_of_cut_off_completions_learns_nothing(
    rows: tuple[Path, list[Sample]], tmp_path: Path
) -> None:
    cut_off = [Completion([20] * n, [-1.0] * n, False) for n in (5, 9)]
    loss, gradients = grpo_step(rows, tmp_path, cut_off, [1.0, -1.0], 1, loss_type="dapo")
    assert loss == 0 and all(gradient.abs().max() == 0 for gradient in gradients.values())


# Clip statistics


def test_clip_statistics_count_what_the_loss_clips() -> None:
    """GSPO clips whole completions, CISPO caps weights: worked out by hand."""
    old = torch.zeros(2, 3)
    mask = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    logps = torch.log(torch.tensor([[2.0, 1.0, 1.0], [0.5, 9.0, 9.0]]))
    advantages = torch.tensor([1.0, -1.0])
    token = clip_fractions(logps, old, advantages, mask, 0.2, 0.3)
    assert token["clip_ratio/high_mean"] == pytest.approx(1 / 4)  # the 2.0, of four tokens
    assert token["clip_ratio/low_mean"] == pytest.approx(1 / 4)  # the 0.5
    whole = clip_fractions(logps, old, advantages, mask, 0.2, 0.3, level="sequence")
    # geometric means 2^(1/3) = 1.26 (not above 1.3) and 0.5 (below 0.8), of two completions
    assert whole["clip_ratio/high_mean"] == 0
    assert whole["clip_ratio/low_mean"] == pytest.approx(1 / 2)
    assert whole["clip_ratio/region_mean"] == pytest.approx(1 / 2)
    capped = clip_fractions(logps, old, advantages, mask, 0.2, 1.5, "cispo")
    assert capped == {"cispo_clip_ratio": pytest.approx(1 / 4)}  # the 2.0; the 0.5 has A < 0
