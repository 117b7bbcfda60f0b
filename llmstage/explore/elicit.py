"""The elicitation probe: train a copy for a few steps on rows of a slice, and measure whether it learns them (Snell 2024).

Half of each batch are rows of the training pool: a copy that sees one class alone would learn to predict that class always.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from llmstage.config import OptimConfig
from llmstage.models.build import count_parameters
from llmstage.tasks.base import UNSCORED, Example, Task
from llmstage.training.defaults import finetuning_lr
from llmstage.training.machine import Machine
from llmstage.training.optimizers import build_optimizer, scale_gradients

BATCH = 32
ROWS_SCORED = 200
SCORING_BATCH = 16


def encoded(task: Task, rows: Sequence[Any], most: int) -> list[list[Example]]:
    """Return the encoded examples of each of the first `most` rows, without those that are not scored."""
    return [
        [example for example in examples if example.ref != UNSCORED] for examples in task.encode_many(list(rows[:most]))
    ]


@torch.no_grad()
def mean_error(task: Task, model: nn.Module, rows: Sequence[Sequence[Example]], machine: Machine) -> float | None:
    """Return the mean error over encoded rows; None where the model predicts nothing for them."""
    was_training = model.training
    model.eval()
    # Sorted by length, so that a batch has little padding; `at` is the number of the row.
    flat = sorted(
        ((at, example) for at, examples in enumerate(rows) for example in examples),
        key=lambda pair: len(pair[1].input_ids),
    )
    scored: list[tuple[int, Any, Any]] = []
    for start in range(0, len(flat), SCORING_BATCH):
        part = flat[start : start + SCORING_BATCH]
        batch = task.collate([[example] for _, example in part]).to(machine.device)
        predictions = task.predict(model, batch, generate=True)
        scored += [(at, prediction, example.ref) for (at, example), prediction in zip(part, predictions, strict=True)]
    model.train(was_training)
    scored.sort(key=lambda entry: entry[0])
    if not scored:
        return None
    numbers, predictions, refs = (list(column) for column in zip(*scored, strict=True))
    errors = task.errors(*task.merge(predictions, refs, numbers)[:2])
    weighted = [
        (value, errors.weights[at] if errors.weights else 1.0)
        for at, value in enumerate(errors.values)
        if value is not None
    ]
    total = sum(weight for _, weight in weighted)
    return sum(value * weight for value, weight in weighted) / total if total > 0 else None


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
    """Return a copy trained for `steps` steps on batches of 16 examples of target rows and 16 of replay rows."""
    trained = copy.deepcopy(model).train()
    rate = finetuning_lr(task.model_family, count_parameters(model), adapter=False)
    optimizer = build_optimizer(trained, OptimConfig(), rate)
    rng = np.random.default_rng(seed)
    sides = [[example for examples in rows for example in examples] for rows in (target, replay)]
    sides = [side for side in sides if side]
    for step in range(steps):
        drawn = [side[int(at)] for side in sides for at in rng.integers(0, len(side), BATCH // len(sides))]
        for example in drawn:
            example.draw = (seed, step, example.row + 1)
        batch = task.collate([[example] for example in drawn]).to(machine.device)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 5)  # five steps of warmup
        with torch.enable_grad():
            part = task.loss(trained, batch)
            part.total.backward()
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        scale_gradients(weights, max(part.count, 1e-12), 1.0, part.total.detach().double())
        optimizer.step()
        task.after_step(trained)
        optimizer.zero_grad(set_to_none=True)
    for example in (example for side in sides for example in side):
        example.draw = None
    task.after_step(model)  # A task may store values of the last weights it saw: restore those of the original model.
    return trained.eval()
