"""The tiny bases: on two processes they are trained as on one."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from videothinker.model.family import family_of
from videothinker.model.padding_free import attends_row_by_row
from videothinker.toy.base import (
    base_step,
    batches_of,
    join_processes,
    token_sets,
    train_vision,
)
from videothinker.toy.model import build_model, build_processor
from videothinker.training.processes import run_in_processes

KINDS = {"video": ["caption", "aloud", "letter"], "text": ["reason"], "none": []}


def trained(name: str) -> tuple[dict[str, float], dict[str, Any], dict[str, Any]]:
    """Losses, shares and gradients of a step, and the tower after two of its own.

    Neither the rows nor the seconds come out even on two processes.
    """
    share = join_processes()
    processor = build_processor(name)
    model = build_model(processor)
    attends_row_by_row(model)
    family = family_of(model, processor)
    batches = {
        kind: batches_of(kinds, 5, 0, "short", processor, family, share)
        for kind, kinds in KINDS.items()
    }
    row = base_step(model, batches, token_sets(processor))
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    train_vision(model, processor, steps=2, batch=7)
    return row, grads, model.model.visual.state_dict()


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_two_processes_train_as_one(name: str) -> None:
    (row, grads, tower), (row2, grads2, tower2) = (
        run_in_processes(trained, (name,), n) for n in (1, 2)
    )
    assert math.isnan(row["loss_none"]) and row["loss_video"] > 1 and row["loss_text"] > 1
    assert row == pytest.approx(row2, abs=2e-4, nan_ok=True)
    assert grads.keys() == grads2.keys() and len(grads) > 30
    for key, grad in grads.items():
        assert grad.abs().max() > 0 and torch.allclose(grad, grads2[key], rtol=1e-4, atol=1e-6), key
    untrained = build_model(build_processor(name)).model.visual.state_dict()
    assert any(not torch.equal(weights, untrained[key]) for key, weights in tower.items())
    for key, weights in tower.items():
        assert torch.allclose(weights, tower2[key], atol=2e-6), key
