"""Predict and score the splits of a run, and write predictions.jsonl: the same functions for training and stage=evaluate.

Logits are never collected: each batch is decoded as soon as it is predicted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from llmstage.config import RunConfig
from llmstage.data.encoding.order import evenly_spaced, of_one_length, scoring_batches
from llmstage.data.encoding.store import ExampleStore
from llmstage.errors import UserError
from llmstage.evaluation.metrics.score import Score
from llmstage.tasks.base import UNSCORED, Batch, Example, ReportItem, Task
from llmstage.tasks.base_contract import check_batch, check_predictions, check_scores
from llmstage.training.components import RunComponents
from llmstage.training.machine import Machine, scoring_precision

SAMPLES = 30
"""Predictions that the report shows."""


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
    return check_batch(task, task.collate(examples), len(rows))


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
        batches = scoring_batches(store.lengths, group, batch_tokens, packing=packing, context=task.context)
        if task.reads_padding:
            batches = [part for batch in batches for part in of_one_length(batch, store.lengths)]
        for batch_rows in batches:
            batch = make_batch(task, store, batch_rows).to(machine.device)
            with machine.autocast(precision), uncompiled(model):
                results = task.predict(model, batch, generate=generate)
            batch_indices = [index for row in batch_rows for index in row]
            predicted.update(zip(batch_indices, check_predictions(task, results, len(batch_indices)), strict=True))
    model.train(was_training)

    # 3. The scores, over rows: the examples of a long row are merged first.
    order = sorted(predicted)
    predictions, refs, merged_rows = task.merge(
        [predicted[index] for index in order],
        [store.refs[index] for index in order],
        [int(rows[index]) for index in order],
    )
    items = task.report_items(predictions, refs) if report_items else []
    return Scored(
        check_scores(task, task.score(predictions, refs)) if metrics else {}, predictions, refs, merged_rows, items
    )


def score(
    run: RunConfig,
    components: RunComponents,
    model: nn.Module,
    machine: Machine,
    split: str,
    *,
    num_rows: int | None = None,
    generate: bool = True,
    report_items: bool = False,
    text_rows: int | None = None,
    among: NDArray[np.int64] | None = None,
    metrics: bool = True,
) -> Scored:
    """Score one split with the precision, batches and generation of the config; the arguments are those of score_split()."""
    generate_rows = components.task.generate_rows if generate and run.task.generates else 0
    return score_split(
        model,
        components.task,
        components.stores[split],
        machine,
        precision=scoring_precision(run.trainer),
        batch_tokens=run.trainer.eval_batch_tokens,
        packing=components.packing,
        num_rows=num_rows,
        text_rows=generate_rows if text_rows is None else min(generate_rows, text_rows),
        report_items=report_items,
        among=among,
        metrics=metrics,
    )


def score_all(
    run: RunConfig, components: RunComponents, model: nn.Module, machine: Machine, *, training: bool
) -> dict[str, Scored]:
    """Score every split; after training, of `train` the first trainer.train_rows_scored rows only."""
    scored = {}
    for split in components.stores:
        rows = None
        if split == "train" and training:
            rows = run.trainer.train_rows_scored
            if not rows:
                continue
        scored[split] = score(run, components, model, machine, split, num_rows=rows, report_items=True)
    return scored


def headline_split(scored: dict[str, Any]) -> str:
    """Return the split whose predictions the report shows: test, else validation, else train."""
    return next(split for split in ("test", "validation", "train") if split in scored)


def select(task: Task, scores: dict[str, Score]) -> tuple[str, Score]:
    """Return name and score of the metric that selects the best checkpoint."""
    name = task.select
    if name not in scores:
        raise UserError(f"task.select={name} is no metric of task={task.cfg.name}. There are: {', '.join(scores)}.")
    return name, scores[name]


def write_predictions(path: Path, components: RunComponents, scored: Scored, split: str) -> list[dict[str, Any]]:
    """Write one line for each prediction; return the first ones for the report.

    A line has the path of its image; the lines for the report have a small copy of the image too.
    """
    samples: list[dict[str, Any]] = []
    images = components.task.image_store
    image_of_row = image_indices(components, split, scored.rows) if images is not None else {}
    names = images.names() if images is not None else []
    draft = path.with_suffix(".tmp")
    with draft.open("w", encoding="utf-8") as file:
        for row, prediction, ref in zip(scored.rows, scored.predictions, scored.refs, strict=True):
            for number, record in enumerate(components.task.records(prediction, ref)):
                # A conversation has a record for each turn, so that its id names the turn.
                line = {
                    "id": f"{row}" if number == 0 and "turn" not in record else f"{row}:{record.get('turn', number)}",
                    "row": row,
                    "split": split,
                    **({"image": names[image_of_row[row]]} if row in image_of_row else {}),
                    **record,
                }
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                if len(samples) < SAMPLES and record.get("prediction") is not None:
                    has_image = images is not None and row in image_of_row
                    picture = {"picture": images.thumbnail(image_of_row[row])} if images and has_image else {}
                    samples.append({**line, **picture})
    draft.replace(path)
    return samples


def image_indices(components: RunComponents, split: str, rows: list[int]) -> dict[int, int]:
    """Return the index of the image of each row, that of the row's first example; rows without an image are left out."""
    store = components.stores[split]
    encoded_rows, starts = np.unique(np.asarray(store.rows), return_index=True)
    unique_rows = np.unique(rows)
    first_examples = starts[np.searchsorted(encoded_rows, unique_rows)]
    indices = {
        int(row): components.task.image_index(load_example(store, int(index)))
        for row, index in zip(unique_rows, first_examples, strict=True)
    }
    return {row: index for row, index in indices.items() if index is not None}


def scores_dict(scored: dict[str, Scored]) -> dict[str, Any]:
    """Return the `scores` entry of report.json: {split: {metric: score}}."""
    return {split: {name: value.as_dict() for name, value in result.scores.items()} for split, result in scored.items()}


def report_values(scored: dict[str, Scored]) -> dict[str, Any]:
    """Return the values of report items that report.json has as data: {report_key: {split: values}}."""
    values: dict[str, Any] = {}
    for split, result in scored.items():
        for item in result.report_items:
            if "report_key" in item:
                values.setdefault(item["report_key"], {})[split] = item["values"]
    return values
