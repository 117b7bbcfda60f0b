"""Schedules against torch's and transformers', AdamW's groups, the rule for the automatic rate."""

from __future__ import annotations

import math

import pytest
import torch

from llmstage.config import OptimConfig
from llmstage.training.optimizers import Schedule, build_optimizer, build_schedule, scale_gradients, scratch_lr


def test_cosine_equals_transformers() -> None:
    from transformers import get_cosine_schedule_with_warmup

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    theirs = get_cosine_schedule_with_warmup(optimizer, 10, 100)
    ours = Schedule(0.5, 10, 100, "cosine", 0.0)
    for step in range(100):
        if step >= 10:  # their warm-up begins at 0, ours takes a first step
            assert ours.at(step) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_linear_equals_transformers() -> None:
    from transformers import get_linear_schedule_with_warmup

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    theirs = get_linear_schedule_with_warmup(optimizer, 0, 50)
    ours = Schedule(0.5, 0, 50, "linear", 0.0)
    for step in range(50):
        assert ours.at(step) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_shapes() -> None:
    wsd = Schedule(1.0, 0, 100, "wsd", 0.1)
    assert wsd.at(0) == wsd.at(79) == 1.0 and wsd.at(90) == pytest.approx(0.55) and wsd.at(100) == pytest.approx(0.1)
    assert {Schedule(1.0, 0, 100, "constant", 0.1).at(step) for step in range(200)} == {1.0}
    assert Schedule(1.0, 0, 100, "cosine", 0.1).at(500) == pytest.approx(0.1)
    warm = build_schedule(OptimConfig(warmup_steps=4), 1.0, 100)
    assert [warm.at(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


def test_matrices_decay_and_vectors_and_embeddings_do_not() -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
    optimizer = build_optimizer(model, OptimConfig(weight_decay=0.3, beta1=0.8, beta2=0.7, eps=1e-6), 0.1)
    decayed = [p for group in optimizer.param_groups if group["weight_decay"] == 0.3 for p in group["params"]]
    assert [id(p) for p in decayed] == [id(model[1].weight)]
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.7) and optimizer.param_groups[0]["eps"] == 1e-6


def test_scaling_divides_and_clips_as_torch_does() -> None:
    ours = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2))]
    theirs = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2))]
    for a, b in zip(ours, theirs, strict=True):
        a.grad = torch.randn(a.shape) * 8
        b.grad = a.grad / 4
    total, norm = scale_gradients(ours, 4.0, 0.5, torch.tensor(0.1, dtype=torch.float64))
    assert total == 0.1
    assert norm == pytest.approx(float(torch.nn.utils.clip_grad_norm_(theirs, 0.5)), rel=1e-6)
    assert all(torch.allclose(a.grad, b.grad, rtol=1e-4) for a, b in zip(ours, theirs, strict=True))  # type: ignore[arg-type]
    assert math.isinf(scale_gradients_of(float("inf")))


def scale_gradients_of(value: float) -> float:
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([value, 1.0])
    return scale_gradients([parameter], 1.0, 1.0, torch.zeros((), dtype=torch.float64))[1]


def test_the_automatic_rate_from_scratch_falls_with_width() -> None:
    assert scratch_lr(128) == pytest.approx(3e-3)
    assert scratch_lr(128) > scratch_lr(768)
