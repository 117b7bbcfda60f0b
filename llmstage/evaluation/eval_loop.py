"""Scoring: one pass over a split, predictions kept, logits never gathered."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from llmstage.data.encoding.order import scoring_batches, spread
from llmstage.data.encoding.store import ExampleStore
from llmstage.evaluation.metrics.score import Score
from llmstage.tasks.base import UNSCORED, Batch, Example, ReportItem, Task
from llmstage.training.machine import Machine


@dataclass(slots=True)
class Scored:
    """What one pass over a split gave."""

    scores: dict[str, Score]
    predictions: list[Any]
    refs: list[Any]
    rows: list[int]
    """Row of each prediction."""
    report_items: list[ReportItem]


def fetch(store: ExampleStore, index: int) -> Example:
    arrays, ref, row = store.get(index)
    return Example(arrays, ref=ref, row=row)


def make_batch(
    task: Task, store: ExampleStore, rows: Sequence[Sequence[int]], draw: tuple[int, ...] | None = None
) -> Batch:
    """`draw`: (seed, epoch) in training, for tasks that draw at random in collate()."""
    features = [[fetch(store, index) for index in row] for row in rows]
    if draw is not None:
        for made, index in zip(
            (item for row in features for item in row), (i for row in rows for i in row), strict=True
        ):
            made.draw = (*draw, index)
    return task.collate(features)


def uncompiled(model: nn.Module) -> AbstractContextManager[Any]:
    """A compiled body would be compiled anew for every shape of a scoring batch."""
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
    """Predict and score `num_rows` rows of a split (None: all); text is generated for `text_rows` of them. `among`: numbers of
    the only rows that are looked at. `metrics`: False where predictions are all that is wanted.

    The rows are spread evenly over the split, because a file is often sorted by label or by time; of a training split, whose
    references are kept for its first rows only, they are those.

    Batches depend on the data and `batch_tokens` alone, so training and stage=evaluate compute the same numbers.
    """
    was_training = model.training
    model.eval()
    rows = np.asarray(store.rows)
    known = np.unique(rows[: len(store.refs)])
    picked = spread(known, num_rows)
    scored = np.array([ref != UNSCORED for ref in store.refs], dtype=bool)
    looked_at = picked if among is None else np.intersect1d(picked, among)
    chosen = np.flatnonzero(np.isin(rows[: len(store.refs)], looked_at) & scored)
    with_text = [int(index) for index in chosen[np.isin(rows[chosen], spread(picked, text_rows))]]
    generating = set(with_text)
    without = [int(index) for index in chosen if int(index) not in generating]
    found: dict[int, Any] = {}
    for group, wants_text in ((with_text, True), (without, False)):
        if not group:
            continue
        for batch_rows in scoring_batches(store.lengths, group, batch_tokens, packing=packing, context=task.context):
            batch = make_batch(task, store, batch_rows).to(machine.device)
            with machine.autocast(precision), uncompiled(model):
                predictions = task.predict(model, batch, generate=wants_text)
            found.update(zip([index for row in batch_rows for index in row], predictions, strict=True))
    model.train(was_training)
    order = sorted(found)
    predictions, refs, of_rows = task.merge(
        [found[index] for index in order], [store.refs[index] for index in order], [int(rows[index]) for index in order]
    )
    shown = task.report_items(predictions, refs) if report_items else []
    return Scored(task.score(predictions, refs) if metrics else {}, predictions, refs, of_rows, shown)
