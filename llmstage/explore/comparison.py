"""Candidates on the rows of a comparison: which rows, which of them are weak, how wrong each model is on each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmstage.config import RunConfig
from llmstage.data.rows import Row
from llmstage.data.splits import row_hash
from llmstage.evaluation.scoring import score
from llmstage.explore.elicit import encoded
from llmstage.explore.guard import Mask, Numbers, Scores
from llmstage.explore.hidden_states import Groups, row_vectors
from llmstage.explore.matching import matching, rows_with_columns
from llmstage.explore.row_features import RowFeatures, flat
from llmstage.explore.scored_rows import encodable
from llmstage.explore.term_statistics import terms_of
from llmstage.explore.wording import say
from llmstage.paths import locate_model
from llmstage.training.machine import Machine
from llmstage.training.setup import RunComponents


@dataclass(slots=True)
class Metric:
    """What the errors are, from the first model that was scored."""

    name: str = ""
    share: bool = True
    """Errors are at most 1 and the score is 1 - error; else the score is the error, nats a token."""

    def score(self, error: float) -> float:
        return 1 - error if self.share else error


@dataclass(slots=True)
class Trial:
    """Rows of one split on which models are compared."""

    run: RunConfig
    pieces: RunComponents
    machine: Machine
    split: str
    rows: list[Row]
    """With all columns of their file."""
    use: Mask
    """[N] rows that count; the others were spent on finding the slices, or stand in the pool."""
    metric: Metric

    @classmethod
    def of(cls, run: RunConfig, pieces: RunComponents, machine: Machine, split: str, metric: Metric) -> Trial:
        rows = encodable(pieces, rows_with_columns(pieces.sources[split]), run.data.on_bad_row)
        return cls(run, pieces, machine, split, rows, np.ones(len(rows), dtype=bool), metric)

    def features(self, *, unseen: bool) -> RowFeatures:
        """What can be said of rows, with the borders that these rows draw, as where slices are looked for. `unseen`: also
        whether their words stand in the pool, which takes a pass over it."""
        task = self.pieces.task

        def num_tokens(texts: list[str]) -> list[int]:
            return [len(ids) for ids in self.pieces.processor.plain_ids(texts)]

        words = None
        if unseen:
            pool = rows_with_columns(self.pieces.sources["train"])
            words = Counter(term for row in pool for text in task.texts(row) for term in set(terms_of(text)))
        fitted = RowFeatures(task.texts, num_tokens, words)
        fitted.table(self.rows)
        return fitted

    def topics(self, groups: Groups) -> Callable[[Sequence[Row]], list[str]]:
        """The group of each row by the hidden states of the old model, in which the groups were found."""
        task, model = self.pieces.task, self.model(str(self.run.model.path))

        def told(rows: Sequence[Row]) -> list[str]:
            return groups.of(row_vectors(task, model, encoded(task, rows, len(rows)), self.machine.device))

        return told

    def model(self, path: Path | str) -> Any:
        """A model by path, for scoring."""
        run = replace(self.run, model=replace(self.run.model, path=str(path)))
        return replace(self.pieces, place=locate_model(str(path))).build(run, self.machine.device, training=False)

    def score(self, path: Path | str) -> Scores:
        """[N] errors of the model at `path`, NaN where it predicts nothing; nats beside them where the task has them. Only
        the rows that are used are looked at, unless rows are scored against each other."""
        used = np.flatnonzero(self.use) if self.pieces.task.additive_loss and self.use.any() else None
        scored = score(self.run, self.pieces, self.model(path), self.machine, self.split, among=used, metrics=False)
        found = self.pieces.task.errors(scored.predictions, scored.refs)
        self.metric.name, self.metric.share = found.metric, found.share
        weights = found.weights or [1.0] * len(found.values)
        errors = per_row(found.values, weights, scored.rows, len(self.rows))
        nats = per_row(found.nats, [1.0] * len(found.nats), scored.rows, len(self.rows)) if found.nats else None
        return Scores(errors, nats if found.share else errors)


def per_row(values: Sequence[float | None], weights: Sequence[float], rows: Sequence[int], num: int) -> Numbers:
    """Weighted mean of what each row has several of (windows, answers); NaN where it has nothing."""
    total, whole = np.zeros(num), np.zeros(num)
    for value, weight, row in zip(values, weights, rows, strict=True):
        if value is not None:
            total[row] += weight * value
            whole[row] += weight
    mean: Numbers = np.divide(total, whole, out=np.full(num, np.nan), where=whole > 0)
    return mean


def masks_of(
    slices: Sequence[Mapping[str, Any]], features: RowFeatures, rows: Sequence[Row]
) -> list[NDArray[np.bool_]]:
    """[N] rows of each slice."""
    if not rows:
        return [np.zeros(0, dtype=bool) for _ in slices]
    counted = features.counted(rows)
    table = features.table(rows, counted)
    own = [{**flat(row), **{name: values[at] for name, values in counted.items()}} for at, row in enumerate(rows)]
    return [matching(one, table, own) for one in slices]


def set_aside(rows: Sequence[Row], words: Sequence[str], among: Mask) -> Mask:
    """Half of the rows `among` all, by a hash of what they say, so that equal rows stay together and a resumed run sets the
    same aside."""
    return np.array([bool(used) and row_hash(row, words, 1) % 2 == 0 for row, used in zip(rows, among, strict=True)])


def hashes_of(rows: Sequence[Row], words: Sequence[str]) -> NDArray[np.uint64]:
    """[N] a number for what each row says: rows that say the same have the same."""
    return np.array([row_hash(row, words, 0) for row in rows], dtype=np.uint64)


def families_of(rows: Sequence[Row], among: Mask, column: str | None) -> dict[str, Mask]:
    """The rows on which nothing may be lost, parted by a column's values."""
    if column is None:
        return {say("all_other_rows"): among}
    own = [flat(row).get(column) for row in rows]
    names = sorted({str(value) for value, used in zip(own, among, strict=True) if used})
    return {f"{column} {name}": among & np.array([str(value) == name for value in own]) for name in names}
