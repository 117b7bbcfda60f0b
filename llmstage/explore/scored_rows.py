"""The rows that a model was scored on: what each holds, how wrong the model was, and what it said."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmstage.data.file_source import CheckedSource
from llmstage.data.row_source import PartSource, RowSource
from llmstage.data.rows import Row
from llmstage.data.splits import row_hash
from llmstage.errors import DataError
from llmstage.evaluation.eval_loop import Scored
from llmstage.evaluation.scoring import headline_split
from llmstage.explore.slice_search import Numbers
from llmstage.tasks.base import RowError
from llmstage.tasks.base_errors import Errors
from llmstage.training.setup import RunComponents

FEW, HALF = 60, 30
"""Rows without which nothing is claimed: as many to find a slice on as to confirm it."""
REFUSED_FROM = 0.01
"""Share of the scored rows in the pool from which on the run is refused; fewer are left out and told."""
MOST_POOL = 20_000
"""Rows of the pool that are looked at: the first ones of a seeded draw."""


@dataclass(slots=True)
class ScoredRows:
    """N rows of one split, in order."""

    split: str
    rows: list[Row]
    errors: Numbers
    """[N] 0 is right; see Errors."""
    kind: Errors
    """What the errors are; its lists are those of single predictions, not of rows."""
    records: list[dict[str, Any]]
    """What predictions.jsonl says of each, its first prediction."""
    confidence: list[float | None]
    nats: list[float | None]
    dropped: int = 0
    """Rows left out because they stand in the training pool."""
    silent: int = 0
    """Rows without a prediction."""
    pool: list[Row] = field(default_factory=list)
    """Rows of the training pool, MOST_POOL at most; empty where there is none."""
    mapping: dict[str, str] = field(default_factory=dict)
    """The task's words to the columns of the pool's files."""
    has_pictures: bool = False

    def score(self, error: float) -> float:
        return self.kind.score(error)


def keep_columns(source: RowSource) -> None:
    """From now on rows hold all columns of their file."""
    while isinstance(source, PartSource):
        source = source.base
    if isinstance(source, CheckedSource):
        source.keep_columns = True


def rows_as_scored(pieces: RunComponents, split: str) -> list[Row]:
    """The raw rows of a split by the numbers that its features have: rows that could not be encoded have none."""
    source = pieces.sources[split]
    keep_columns(source)
    if not pieces.stores[split].ledger.refused:
        return [row for row, _ in source]
    return [row for row, _ in source if can_be_encoded(pieces, row)]


def encodable(pieces: RunComponents, rows: list[Row], on_bad_row: str) -> list[Row]:
    """The rows that features are numbered by: where bad rows are quarantined, those that cannot be encoded have no number."""
    return rows if on_bad_row == "error" else [row for row in rows if can_be_encoded(pieces, row)]


def can_be_encoded(pieces: RunComponents, row: Row) -> bool:
    try:
        pieces.task.encode(row)
    except RowError:
        return False
    return True


def gather(pieces: RunComponents, scored: Scored, split: str, overlap: str) -> ScoredRows:
    """Scored rows beside the training pool. `overlap`: what is done with rows that stand in both, see stage.slices.overlap."""
    rows = rows_as_scored(pieces, split)
    kind = pieces.task.errors(scored.predictions, scored.refs)
    of_row: dict[int, list[int]] = defaultdict(list)
    for place, row in enumerate(scored.rows):
        of_row[row].append(place)
    pool = list(pool_rows(pieces, split))
    shared = shared_rows(pieces, rows, pool)
    kept, errors, silent = [], [], 0
    for row in sorted(of_row):
        error = mean_of(kind.values, of_row[row], kind.weights)
        if error is None:
            silent += 1
        elif row not in shared:
            kept.append(row)
            errors.append(error)
    complain(split, len(of_row), len(kept), silent, len(shared & of_row.keys()), overlap)
    first = [of_row[row][0] for row in kept]
    return ScoredRows(
        split, [rows[row] for row in kept], np.array(errors, dtype=np.float64), kind,
        [pieces.task.records(scored.predictions[place], scored.refs[place])[0] for place in first],
        [mean_of(kind.confidence, of_row[row], []) for row in kept] if kind.confidence else [None] * len(kept),
        [mean_of(kind.nats, of_row[row], []) for row in kept] if kind.nats else [None] * len(kept),
        len(shared & of_row.keys()), silent, pool[:MOST_POOL],
        dict(pieces.sources["train"].mapping) if pool else {}, bool(pieces.task.columns.images),
    )  # fmt: skip


def mean_of(values: list[float | None], places: list[int], weights: list[float]) -> float | None:
    """The weighted mean of a row's own; None where it has none."""
    known = [(values[at], weights[at] if weights else 1.0) for at in places if values[at] is not None]
    whole = sum(weight for _, weight in known)
    return sum((value or 0.0) * weight for value, weight in known) / whole if whole > 0 else None


def complain(split: str, num: int, kept: int, silent: int, shared: int, overlap: str) -> None:
    """Refuse what nothing can be concluded from."""
    if silent == num:
        raise DataError(
            f"The model predicted nothing for any of the {num} rows of {split}, so there is nothing to find weak slices in. "
            f"Score rows that hold what is to be predicted: data.test=<files>."
        )
    if shared and overlap == "refuse" and (shared >= REFUSED_FROM * num or not kept):
        raise DataError(
            f"{shared} of {num} rows of {split} stand in the training pool too ({shared / num:.1%}): the model has seen them, "
            f"and what it gets wrong on rows it knows says little about new ones. Give other rows with data.test=<files>, or "
            f"leave the double ones out with stage.slices.overlap=drop."
        )
    if shared and not kept:
        raise DataError(
            f"All {num} rows of {split} stand in the training pool. Give other rows with data.test=<files>."
        )


def pool_rows(pieces: RunComponents, split: str) -> Iterator[Row]:
    """The training rows, unless it is they that were scored."""
    if split == "train" or "train" not in pieces.sources:
        return
    keep_columns(pieces.sources["train"])
    for row, _ in pieces.sources["train"]:
        yield row


def shared_rows(pieces: RunComponents, rows: list[Row], pool: list[Row]) -> set[int]:
    """Numbers of the rows whose text stands in the pool."""
    words = pieces.task.columns.identity
    known = {row_hash(row, words, 0) for row in pool}
    return {number for number, row in enumerate(rows) if known and row_hash(row, words, 0) in known}


def split_to_score(pieces: RunComponents) -> str:
    return headline_split(pieces.stores)
