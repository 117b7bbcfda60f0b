"""The elicitation probe: does a copy that trains for a few steps on rows of a slice learn it? (Snell et al. 2024)

Half of each batch are rows of the pool. Of rows of one class alone a copy would learn to say that class always.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from llmstage.config import OptimConfig
from llmstage.tasks.base import UNSCORED, Example, Task
from llmstage.training.machine import Machine
from llmstage.training.optimizers import auto_lr, build_optimizer, scale_gradients

BATCH = 32
ROWS_SCORED = 200
AT_ONCE = 16


def encoded(task: Task, rows: Sequence[Any], most: int) -> list[list[Example]]:
    """Features of the first `most` rows."""
    return [[item for item in own if item.ref != UNSCORED] for own in task.encode_many(list(rows[:most]))]


@torch.no_grad()
def mean_error(task: Task, model: nn.Module, rows: Sequence[Sequence[Example]], machine: Machine) -> float | None:
    """Mean over rows given by their features; None where the model predicts nothing for them."""
    was_training = model.training
    model.eval()
    flat = sorted(((at, item) for at, own in enumerate(rows) for item in own), key=lambda pair: len(pair[1].input_ids))
    found: list[tuple[int, Any, Any]] = []
    for start in range(0, len(flat), AT_ONCE):
        part = flat[start : start + AT_ONCE]
        batch = task.collate([[item] for _, item in part]).to(machine.device)
        said = task.predict(model, batch, generate=True)
        found += [(at, prediction, item.ref) for (at, item), prediction in zip(part, said, strict=True)]
    model.train(was_training)
    found.sort(key=lambda one: one[0])
    if not found:
        return None
    numbers, predictions, refs = (list(column) for column in zip(*found, strict=True))
    errors = task.errors(*task.merge(predictions, refs, numbers)[:2])
    told = [
        (value, errors.weights[at] if errors.weights else 1.0)
        for at, value in enumerate(errors.values)
        if value is not None
    ]
    whole = sum(weight for _, weight in told)
    return sum(value * weight for value, weight in told) / whole if whole > 0 else None


def trained_copy(
    task: Task,
    model: Any,
    target: Sequence[Sequence[Example]],
    replay: Sequence[Sequence[Example]],
    machine: Machine,
    *,
    steps: int,
    seed: int,
) -> Any:
    """A copy after `steps` steps on batches of 16 features of the target rows and 16 of the replay rows."""
    learner = copy.deepcopy(model).train()
    width = int(getattr(model.config.get_text_config(), "hidden_size", 128))
    rate = auto_lr(width, from_scratch=False) * task.lr_share
    optimizer = build_optimizer(learner, OptimConfig(), rate)
    rng = np.random.default_rng(seed)
    sides = [[item for own in rows for item in own] for rows in (target, replay)]
    sides = [side for side in sides if side]
    for step in range(steps):
        drawn = [side[int(at)] for side in sides for at in rng.integers(0, len(side), BATCH // len(sides))]
        for item in drawn:
            item.draw = (seed, step, item.row + 1)
        batch = task.collate([[item] for item in drawn]).to(machine.device)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 5)
        with torch.enable_grad():
            part = task.loss(learner, batch)
            part.total.backward()
        weights = [one for group in optimizer.param_groups for one in group["params"]]
        scale_gradients(weights, max(part.count, 1e-12), 1.0, part.total.detach().double())
        optimizer.step()
        task.after_step(learner)
        optimizer.zero_grad(set_to_none=True)
    for item in (item for side in sides for item in side):
        item.draw = None
    task.after_step(model)  # what a task keeps of the weights it last saw is that of the copy
    return learner.eval()
