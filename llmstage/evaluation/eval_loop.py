"""The evaluation loop: predict the examples of a split, then score the predictions. Logits are never collected."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from llmstage.data.encoding.order import evenly_spaced, scoring_batches
from llmstage.data.encoding.store import ExampleStore
from llmstage.evaluation.metrics.score import Score
from llmstage.tasks.base import UNSCORED, Batch, Example, ReportItem, Task
from llmstage.training.machine import Machine


@dataclass(slots=True)
class Scored:
    """The result of one pass over a split. The lists have one entry for each prediction."""

    scores: dict[str, Score]
    predictions: list[Any]
    refs: list[Any]
    rows: list[int]
    """Index of the row in its split."""
    report_items: list[ReportItem]


def load_example(store: ExampleStore, index: int) -> Example:
    """Return an example of a store by its index."""
    arrays, ref, row = store.get(index)
    return Example(arrays, ref=ref, row=row)


def make_batch(
    task: Task, store: ExampleStore, rows: Sequence[Sequence[int]], draw: tuple[int, ...] | None = None
) -> Batch:
    """Collate examples, given by index for each row of the batch.

    `draw`: (seed, epoch) in training, for tasks whose collate() draws random numbers.
    """
    examples = [[load_example(store, index) for index in row] for row in rows]
    if draw is not None:
        for row, row_examples in zip(rows, examples, strict=True):
            for index, example in zip(row, row_examples, strict=True):
                example.draw = (*draw, index)
    return task.collate(examples)


def uncompiled(model: nn.Module) -> AbstractContextManager[Any]:
    """Run a compiled model without compilation: it would be compiled anew for every shape of a scoring batch."""
    body = getattr(model, "base_model", model)
    return torch.compiler.set_stance("force_eager") if body._compiled_call_impl is not None else nullcontext()


@torch.no_grad()
def score_split(
    model: nn.Module,
    task: Task,
    store: ExampleStore,
    machine: Machine,
    *,
    precision: str,
    batch_tokens: int,
    packing: bool,
    num_rows: int | None = None,
    text_rows: int = 0,
    report_items: bool = False,
    among: NDArray[np.int64] | None = None,
    metrics: bool = True,
) -> Scored:
    """Predict and score `num_rows` rows of a split (None: all), and generate text for `text_rows` of them.

    `among`: only rows with these indices. `metrics`: False where the caller needs the predictions only. The rows are spread
    evenly over the split, because files are often sorted by label or by time. A training split has references for its first
    rows only, so its rows are among those. Batches depend on the data and `batch_tokens` alone, so that training and
    stage=evaluate compute the same numbers.
    """
    was_training = model.training
    model.eval()

    # 1. Which examples are predicted, and for which of them text is generated.
    rows = np.asarray(store.rows)
    rows_with_refs = rows[: len(store.refs)]
    picked = evenly_spaced(np.unique(rows_with_refs), num_rows)
    requested = picked if among is None else np.intersect1d(picked, among)
    has_ref = np.array([ref != UNSCORED for ref in store.refs], dtype=bool)
    indices = np.flatnonzero(np.isin(rows_with_refs, requested) & has_ref)
    generated = np.isin(rows[indices], evenly_spaced(picked, text_rows))
    groups = ((indices[generated].tolist(), True), (indices[~generated].tolist(), False))

    # 2. The predictions.
    predicted: dict[int, Any] = {}
    for group, generate in groups:
        if not group:
            continue
        for batch_rows in scoring_batches(store.lengths, group, batch_tokens, packing=packing, context=task.context):
            batch = make_batch(task, store, batch_rows).to(machine.device)
            with machine.autocast(precision), uncompiled(model):
                results = task.predict(model, batch, generate=generate)
            predicted.update(zip([index for row in batch_rows for index in row], results, strict=True))
    model.train(was_training)

    # 3. The scores, over rows: the examples of a long row are merged first.
    order = sorted(predicted)
    predictions, refs, merged_rows = task.merge(
        [predicted[index] for index in order],
        [store.refs[index] for index in order],
        [int(rows[index]) for index in order],
    )
    items = task.report_items(predictions, refs) if report_items else []
    return Scored(task.score(predictions, refs) if metrics else {}, predictions, refs, merged_rows, items)
