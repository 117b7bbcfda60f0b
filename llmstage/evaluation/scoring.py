"""Score the splits of a run and write predictions.jsonl: the same functions for training and for stage=evaluate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from llmstage.config import RunConfig
from llmstage.errors import UserError
from llmstage.evaluation.eval_loop import Scored, load_example, score_split
from llmstage.evaluation.metrics.score import Score
from llmstage.tasks.base import Task
from llmstage.training.components import RunComponents
from llmstage.training.machine import Machine, scoring_precision

SAMPLES = 30
"""Predictions that the report shows."""


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
