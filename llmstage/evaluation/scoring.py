"""All splits of a run scored, predictions.jsonl written: the same function for training and for stage=evaluate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from llmstage.config import RunConfig
from llmstage.errors import UserError
from llmstage.evaluation.eval_loop import Scored, fetch, score_split
from llmstage.evaluation.metrics.score import Score
from llmstage.tasks.base import Task
from llmstage.training.machine import Machine, scoring_precision
from llmstage.training.setup import RunComponents

SAMPLES = 30


def score(
    run: RunConfig,
    pieces: RunComponents,
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
    """One split as the run's config says: precision, batches, generation (for `text_rows` rows at most)."""
    wanted = pieces.task.generate_rows if generate and run.task.generates else 0
    return score_split(
        model,
        pieces.task,
        pieces.stores[split],
        machine,
        precision=scoring_precision(run.trainer),
        batch_tokens=run.trainer.eval_batch_tokens,
        packing=pieces.packing,
        num_rows=num_rows,
        text_rows=min(wanted, wanted if text_rows is None else text_rows),
        report_items=report_items,
        among=among,
        metrics=metrics,
    )


def score_all(
    run: RunConfig, pieces: RunComponents, model: nn.Module, machine: Machine, *, training: bool
) -> dict[str, Scored]:
    """Every split there is; after training, of train the first rows only (trainer.train_rows_scored)."""
    scored = {}
    for split in pieces.stores:
        rows = None
        if split == "train" and training:
            rows = run.trainer.train_rows_scored
            if not rows:
                continue
        scored[split] = score(run, pieces, model, machine, split, num_rows=rows, report_items=True)
    return scored


def headline_split(scored: dict[str, Any]) -> str:
    """The split whose predictions are shown: test, else validation, else what there is."""
    return next(split for split in ("test", "validation", "train") if split in scored)


def select(task: Task, scores: dict[str, Score]) -> tuple[str, Score]:
    """The metric that picks the best checkpoint."""
    name = task.select
    if name not in scores:
        raise UserError(f"task.select={name} is no metric of task={task.cfg.name}. There are: {', '.join(scores)}.")
    return name, scores[name]


def write_predictions(path: Path, pieces: RunComponents, scored: Scored, split: str) -> list[dict[str, Any]]:
    """One line a prediction; returns the first ones for the report. A line says where its picture is; only what the report
    shows holds the picture itself, small."""
    samples: list[dict[str, Any]] = []
    pictures = pieces.task.pictures
    looked_at = pictures_of(pieces, split, scored.rows) if pictures is not None else {}
    names = pictures.names() if pictures is not None else []
    draft = path.with_suffix(".tmp")
    with draft.open("w", encoding="utf-8") as file:
        for row, prediction, ref in zip(scored.rows, scored.predictions, scored.refs, strict=True):
            for number, record in enumerate(pieces.task.records(prediction, ref)):
                line = {
                    "id": f"{row}" if number == 0 and "turn" not in record else f"{row}:{record.get('turn', number)}",
                    "row": row,
                    "split": split,
                    **({"image": names[looked_at[row]]} if row in looked_at else {}),
                    **record,
                }
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                if len(samples) < SAMPLES and record.get("prediction") is not None:
                    seen = {"picture": pictures.thumbnail(looked_at[row])} if pictures and row in looked_at else {}
                    samples.append({**line, **seen})
    draft.replace(path)
    return samples


def pictures_of(pieces: RunComponents, split: str, wanted: list[int]) -> dict[int, int]:
    """Row to the number of its picture, that of its first feature; rows without one are left out."""
    store = pieces.stores[split]
    known, starts = np.unique(np.asarray(store.rows), return_index=True)
    rows = np.unique(wanted)
    first = starts[np.searchsorted(known, rows)]
    numbers = {int(row): pieces.task.picture(fetch(store, int(at))) for row, at in zip(rows, first, strict=True)}
    return {row: number for row, number in numbers.items() if number is not None}


def scores_dict(scored: dict[str, Scored]) -> dict[str, Any]:
    return {split: {name: value.as_dict() for name, value in item.scores.items()} for split, item in scored.items()}


def stored(scored: dict[str, Scored]) -> dict[str, Any]:
    """What exhibits give to report.json as data, under their `report_key`: {key: {split: values}}."""
    found: dict[str, Any] = {}
    for split, item in scored.items():
        for exhibit in item.report_items:
            if "report_key" in exhibit:
                found.setdefault(exhibit["report_key"], {})[split] = exhibit["values"]
    return found
