"""Compare models on the rows of a split: which rows count, which are weak, and the error of each model on each row."""

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
from llmstage.data.split_keys import row_hash
from llmstage.evaluation.scoring import score
from llmstage.explore.elicit import encoded
from llmstage.explore.guard import Mask, Numbers, Scores
from llmstage.explore.hidden_states import Groups, row_vectors
from llmstage.explore.matching import matching, rows_with_columns
from llmstage.explore.row_features import RowFeatures, flat
from llmstage.explore.scored_rows import encodable
from llmstage.explore.term_statistics import terms_of
from llmstage.explore.wording import sentence
from llmstage.paths import locate_model
from llmstage.training.components import RunComponents
from llmstage.training.machine import Machine


@dataclass(slots=True)
class Metric:
    """The metric of the errors; the first scored model sets it."""

    name: str = ""
    share: bool = True
    """True: errors are at most 1, and the score is 1 - error. False: the score is the error, in nats per token."""

    def score(self, error: float) -> float:
        """Convert an error into the metric of the report."""
        return 1 - error if self.share else error


@dataclass(slots=True)
class Comparison:
    """The rows of one split on which models are compared."""

    run: RunConfig
    components: RunComponents
    machine: Machine
    split: str
    rows: list[Row]
    """With all columns of their file."""
    use: Mask
    """[N] rows that count. The others were used to find the slices, or are in the pool."""
    metric: Metric

    @classmethod
    def of(cls, run: RunConfig, components: RunComponents, machine: Machine, split: str, metric: Metric) -> Comparison:
        """Return the comparison on all rows of a split."""
        rows = encodable(components, rows_with_columns(components.sources[split]), run.data.on_bad_row)
        return cls(run, components, machine, split, rows, np.ones(len(rows), dtype=bool), metric)

    def features(self, *, unseen: bool) -> RowFeatures:
        """Return the features of rows, with the borders of these rows, as in the search for slices.

        `unseen`: also whether words are in the pool, which takes a pass over it.
        """
        task = self.components.task

        def num_tokens(texts: list[str]) -> list[int]:
            return [len(ids) for ids in self.components.processor.plain_ids(texts)]

        words = None
        if unseen:
            pool = rows_with_columns(self.components.sources["train"])
            words = Counter(term for row in pool for text in task.texts(row) for term in set(terms_of(text)))
        fitted = RowFeatures(task.texts, num_tokens, words)
        fitted.table(self.rows)
        return fitted

    def topics(self, groups: Groups) -> Callable[[Sequence[Row]], list[str]]:
        """Return a function from rows to clusters, by the hidden states of the old model, in which the clusters were found."""
        task, model = self.components.task, self.model(str(self.run.model.path))

        def assign(rows: Sequence[Row]) -> list[str]:
            return groups.assign(row_vectors(task, model, encoded(task, rows, len(rows)), self.machine.device))

        return assign

    def model(self, path: Path | str) -> Any:
        """Load a model by path, for scoring."""
        run = replace(self.run, model=replace(self.run.model, path=str(path)))
        return replace(self.components, model_source=locate_model(str(path))).build(
            run, self.machine.device, training=False
        )

    def score(self, path: Path | str) -> Scores:
        """Score the model at `path`: errors [N], NaN where it predicts nothing, and nats where the task has them.

        Only rows that count are scored, unless the task scores rows against each other.
        """
        used = np.flatnonzero(self.use) if self.components.task.additive_loss and self.use.any() else None
        scored = score(self.run, self.components, self.model(path), self.machine, self.split, among=used, metrics=False)
        result = self.components.task.errors(scored.predictions, scored.refs)
        self.metric.name, self.metric.share = result.metric, result.share
        weights = result.weights or [1.0] * len(result.values)
        errors = per_row(result.values, weights, scored.rows, len(self.rows))
        nats = per_row(result.nats, [1.0] * len(result.nats), scored.rows, len(self.rows)) if result.nats else None
        return Scores(errors, nats if result.share else errors)


def per_row(values: Sequence[float | None], weights: Sequence[float], rows: Sequence[int], num: int) -> Numbers:
    """Return the weighted mean [N] of the values of each row (windows, answers); NaN for a row without values."""
    total, weight_sum = np.zeros(num), np.zeros(num)
    for value, weight, row in zip(values, weights, rows, strict=True):
        if value is not None:
            total[row] += weight * value
            weight_sum[row] += weight
    mean: Numbers = np.divide(total, weight_sum, out=np.full(num, np.nan), where=weight_sum > 0)
    return mean


def masks_of(
    slices: Sequence[Mapping[str, Any]], features: RowFeatures, rows: Sequence[Row]
) -> list[NDArray[np.bool_]]:
    """Return the mask [N] of the rows of each slice."""
    if not rows:
        return [np.zeros(0, dtype=bool) for _ in slices]
    counted = features.counted(rows)
    table = features.table(rows, counted)
    row_values = [
        {**flat(row), **{name: values[at] for name, values in counted.items()}} for at, row in enumerate(rows)
    ]
    return [matching(conditions, table, row_values) for conditions in slices]


def set_aside(rows: Sequence[Row], words: Sequence[str], among: Mask) -> Mask:
    """Return half of the rows `among` all, by a hash of their text: equal rows stay together, and a resumed run takes the same."""
    return np.array([bool(used) and row_hash(row, words, 1) % 2 == 0 for row, used in zip(rows, among, strict=True)])


def hashes_of(rows: Sequence[Row], words: Sequence[str]) -> NDArray[np.uint64]:
    """Return a hash [N] of each row's text: rows with the same text have the same hash."""
    return np.array([row_hash(row, words, 0) for row in rows], dtype=np.uint64)


def families_of(rows: Sequence[Row], among: Mask, column: str | None) -> dict[str, Mask]:
    """Return the rows on which nothing may be lost, grouped by the values of a column."""
    if column is None:
        return {sentence("all_other_rows"): among}
    values = [flat(row).get(column) for row in rows]
    names = sorted({str(value) for value, used in zip(values, among, strict=True) if used})
    return {f"{column} {name}": among & np.array([str(value) == name for value in values]) for name in names}
