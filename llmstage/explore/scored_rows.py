"""The rows that a model was scored on: their content, the error of the model, and its predictions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmstage.data.file_source import CheckedSource
from llmstage.data.row_source import PartSource, RowSource
from llmstage.data.rows import Row
from llmstage.data.split_keys import row_hash
from llmstage.errors import DataError
from llmstage.evaluation.scoring import Scored, headline_split
from llmstage.explore.slice_search import Numbers
from llmstage.tasks.base import RowError
from llmstage.tasks.base_errors import ExampleErrors
from llmstage.training.components import RunComponents

FEW, HALF = 60, 30
"""Smallest number of rows for any claim: half of them to find slices, half to confirm them."""
REFUSED_FROM = 0.01
"""Share of scored rows in the training pool from which on the run is refused; fewer are left out and reported."""
MOST_POOL = 20_000
"""Largest number of pool rows that are used: the first ones of a seeded draw."""


@dataclass(slots=True)
class ScoredRows:
    """N rows of one split, in order."""

    split: str
    rows: list[Row]
    errors: Numbers
    """[N] 0 is right; see ExampleErrors."""
    example_errors: ExampleErrors
    """What the errors measure; its lists are those of single predictions, not of rows."""
    records: list[dict[str, Any]]
    """The line of predictions.jsonl of each row, of its first prediction."""
    confidence: list[float | None]
    nats: list[float | None]
    dropped: int = 0
    """Number of rows left out because they are in the training pool."""
    silent: int = 0
    """Number of rows without a prediction."""
    pool: list[Row] = field(default_factory=list)
    """Rows of the training pool, MOST_POOL at most; empty without a pool."""
    mapping: dict[str, str] = field(default_factory=dict)
    """Columns of the task to the columns of the pool's files."""
    has_images: bool = False

    def score(self, error: float) -> float:
        """Convert an error into the metric of the report."""
        return self.example_errors.score(error)
        return self.kind.score(error)


def keep_columns(source: RowSource) -> None:
    """Make a source return rows with all columns of their file."""
    while isinstance(source, PartSource):
        source = source.base
    if isinstance(source, CheckedSource):
        source.keep_columns = True


def rows_as_scored(components: RunComponents, split: str) -> list[Row]:
    """Return the raw rows of a split, numbered as its examples: a row that could not be encoded has no number."""
    source = components.sources[split]
    keep_columns(source)
    if not components.stores[split].ledger.refused:
        return [row for row, _ in source]
    return [row for row, _ in source if can_be_encoded(components, row)]


def encodable(components: RunComponents, rows: list[Row], on_bad_row: str) -> list[Row]:
    """Return the rows that have a number: with quarantined bad rows, only those that can be encoded."""
    return rows if on_bad_row == "error" else [row for row in rows if can_be_encoded(components, row)]


def can_be_encoded(components: RunComponents, row: Row) -> bool:
    """Whether the task accepts a row."""
    try:
        components.task.encode(row)
    except RowError:
        return False
    return True


def gather(components: RunComponents, scored: Scored, split: str, overlap: str) -> ScoredRows:
    """Return the scored rows and the training pool. `overlap`: how to treat rows that are in both, see stage.slices.overlap."""
    rows = rows_as_scored(components, split)
    errors_of_examples = components.task.errors(scored.predictions, scored.refs)
    # A row may have several predictions (windows, questions): its error is their weighted mean.
    of_row: dict[int, list[int]] = defaultdict(list)
    for index, row in enumerate(scored.rows):
        of_row[row].append(index)
    pool = list(pool_rows(components, split))
    shared = shared_rows(components, rows, pool)
    retained, errors, silent = [], [], 0
    for row in sorted(of_row):
        error = mean_of(errors_of_examples.values, of_row[row], errors_of_examples.weights)
        if error is None:
            silent += 1
        elif row not in shared:
            retained.append(row)
            errors.append(error)
    check_rows(split, len(of_row), len(retained), silent, len(shared & of_row.keys()), overlap)
    first = [of_row[row][0] for row in retained]

    def mean_of_rows(values: list[float | None]) -> list[float | None]:
        return [mean_of(values, of_row[row], []) for row in retained] if values else [None] * len(retained)

    return ScoredRows(
        split, [rows[row] for row in retained], np.array(errors, dtype=np.float64), errors_of_examples,
        [components.task.records(scored.predictions[index], scored.refs[index])[0] for index in first],
        mean_of_rows(errors_of_examples.confidence), mean_of_rows(errors_of_examples.nats),
        len(shared & of_row.keys()), silent, pool[:MOST_POOL],
        dict(components.sources["train"].mapping) if pool else {}, bool(components.task.columns.images),
    )  # fmt: skip


def mean_of(values: list[float | None], indices: list[int], weights: list[float]) -> float | None:
    """Return the weighted mean of the known values at `indices`; None without any."""
    known = [(values[at], weights[at] if weights else 1.0) for at in indices if values[at] is not None]
    total = sum(weight for _, weight in known)
    return sum((value or 0.0) * weight for value, weight in known) / total if total > 0 else None


def check_rows(split: str, num: int, retained: int, silent: int, shared: int, overlap: str) -> None:
    """Raise DataError where the rows allow no conclusion."""
    if silent == num:
        raise DataError(
            f"The model predicted nothing for any of the {num} rows of {split}, so there is nothing to find weak slices in. "
            f"Score rows that have the target columns: data.test=<files>."
        )
    if shared and overlap == "refuse" and (shared >= REFUSED_FROM * num or not retained):
        raise DataError(
            f"{shared} of {num} rows of {split} are also in the training pool ({shared / num:.1%}). The model has trained on "
            f"them, so its errors there do not predict those on new rows. Give other rows with data.test=<files>, or "
            f"leave these rows out with stage.slices.overlap=drop."
        )
    if shared and not retained:
        raise DataError(
            f"All {num} rows of {split} are also in the training pool. Give other rows with data.test=<files>."
        )


def pool_rows(components: RunComponents, split: str) -> Iterator[Row]:
    """Yield the training rows, unless the scored split is the training split."""
    if split == "train" or "train" not in components.sources:
        return
    keep_columns(components.sources["train"])
    for row, _ in components.sources["train"]:
        yield row


def shared_rows(components: RunComponents, rows: list[Row], pool: list[Row]) -> set[int]:
    """Return the numbers of the rows whose text is in the pool."""
    columns = components.task.columns.identity
    known = {row_hash(row, columns, 0) for row in pool}
    return {number for number, row in enumerate(rows) if known and row_hash(row, columns, 0) in known}


def split_to_score(components: RunComponents) -> str:
    """Return the split of the headline score."""
    return headline_split(components.stores)
