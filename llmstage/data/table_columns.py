"""Columns of a classification row: their roles (text, target, feature), and feature columns of numbers and categories.

Features are standardized with the statistics of the training split; missing values get a value of their own.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmstage.data.rows import Columns, Row
from llmstage.errors import UserError

MISSING = frozenset(("", "na", "n/a", "nan", "null", "none"))
"""Texts of a missing value, in any case; `None` and NaN are missing too."""
MAX_DEVIATIONS = 10.0
"""Standardized numbers are clipped to ±10 deviations: a broken sensor in the test split must not dominate the rest."""
MAX_LEVELS = 1000
"""Categories of a column that have an index, the most frequent ones; the rest counts as unknown."""
UNKNOWN, MISSING_LEVEL = 0, 1
"""Indices of a category that is not in training (or rare), and of a missing one; the known ones follow."""


def is_missing(value: Any) -> bool:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    return isinstance(value, str) and value.strip().casefold() in MISSING


def parse_number(value: Any) -> float | None:
    """Return the number, or None where it is missing. Raise ValueError for text and infinite numbers."""
    if is_missing(value):
        return None
    if isinstance(value, (bool, int, float)):
        number = float(value)
    elif isinstance(value, str):
        try:
            number = float(value.strip())
        except ValueError:
            raise ValueError(f"{value.strip()[:40]!r} is text, not a number") from None
    else:
        raise ValueError(f"{value!r:.40} is not a number")
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not a finite number")
    return number


def is_bare_number(text: str) -> bool:
    """Return whether a text is only a number: a column of numbers is a feature, or the wrong column."""
    try:
        return bool(text.strip()) and math.isfinite(float(text))
    except ValueError:
        return False


class FeatureTable:
    """The feature columns of a task. Call add() for each training row, then finish_fit(); or from_dict() for a saved model."""

    def __init__(self, numbers: Iterable[str] = (), categories: Iterable[str] = ()) -> None:
        self.numbers, self.categories = tuple(numbers), tuple(categories)
        self.mean: dict[str, float] = {}
        self.std: dict[str, float] = {}
        self.gaps: dict[str, bool] = {}
        """Whether a number column has missing values in training."""
        self.levels: dict[str, list[str]] = {}
        self._numbers: dict[str, array[float]] = {name: array("d") for name in self.numbers}
        self._counts: dict[str, Counter[str]] = {name: Counter() for name in self.categories}
        self._rows = 0

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.numbers, *self.categories)

    def __bool__(self) -> bool:
        return bool(self.names)

    def complaint(self, row: Row) -> str | None:
        """Return why the features of a row are unusable, or None."""
        for name in self.numbers:
            try:
                parse_number(row.get(name))
            except ValueError as error:
                return f"{name}: {error}. Leave the column out of task.features.numbers, or name it in task.features.categories"
        for name in self.categories:
            if isinstance(row.get(name), (dict, list)):
                return f"{name} is no category: {str(row[name])[:40]}"
        return None

    def add(self, row: Row) -> None:
        self._rows += 1
        for name in self.numbers:
            value = parse_number(row.get(name))
            if value is not None:
                self._numbers[name].append(value)
        for name in self.categories:
            if not is_missing(row.get(name)):
                self._counts[name][level_of(row[name])] += 1

    def finish_fit(self) -> None:
        """Compute mean and deviation of each number column (1 for a constant one), and levels by frequency, then name."""
        for name, numbers in self._numbers.items():
            values = np.frombuffer(numbers, dtype=np.float64) if numbers else np.zeros(1)
            spread = float(values.std())
            self.mean[name] = float(values.mean())
            # A relative limit: the mean of equal large numbers differs from them by rounding.
            self.std[name] = spread if spread > 1e-9 * max(1.0, float(np.abs(values).max())) else 1.0
            self.gaps[name] = len(numbers) < self._rows
        for name, counts in self._counts.items():
            ranked = sorted(counts, key=lambda level: (-counts[level], level))
            self.levels[name] = ranked[:MAX_LEVELS]
        self._numbers, self._counts = {}, {}

    def encode(self, row: Row) -> tuple[list[float], list[int]]:
        """Return (standardized numbers [N] and then 1.0 for each missing one [N]; category indices [C])."""
        values, gaps = [], []
        for name in self.numbers:
            value = parse_number(row.get(name))
            gaps.append(float(value is None))
            scaled = 0.0 if value is None else (value - self.mean[name]) / self.std[name]
            values.append(min(MAX_DEVIATIONS, max(-MAX_DEVIATIONS, scaled)))
        return values + gaps, [self.index(name, row.get(name)) for name in self.categories]

    def index(self, name: str, value: Any) -> int:
        if is_missing(value):
            return MISSING_LEVEL
        level = level_of(value)
        return self.levels[name].index(level) + 2 if level in self.levels[name] else UNKNOWN

    def sizes(self) -> list[int]:
        """Return the number of indices of each category column, unknown and missing included."""
        return [len(self.levels[name]) + 2 for name in self.categories]

    def raw_values(self, row: Row) -> dict[str, Any]:
        """Return the raw features of a row, for predictions.jsonl and for baselines."""
        return {name: plain(row.get(name)) for name in self.names}

    def matrix(self, rows: Iterable[Row]) -> NDArray[np.float64]:
        """Return [rows, D] for linear models: standardized numbers, flags of missing values, a column for each category."""
        flags = [number for number, name in enumerate(self.numbers) if self.gaps.get(name)]
        out = []
        for row in rows:
            numbers, indices = self.encode(row)
            values = numbers[: len(self.numbers)] + [numbers[len(self.numbers) + flag] for flag in flags]
            for index, size in zip(indices, self.sizes(), strict=True):
                values += [float(index == column) for column in range(1, size)]
            out.append(values)
        return np.asarray(out, dtype=np.float64).reshape(len(out), -1)

    def as_dict(self) -> dict[str, Any]:
        return {
            "numbers": list(self.numbers), "categories": list(self.categories), "mean": self.mean, "std": self.std,
            "gaps": self.gaps, "levels": self.levels,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> FeatureTable:
        table = cls(saved["numbers"], saved["categories"])
        table.mean, table.std, table.gaps, table.levels = saved["mean"], saved["std"], saved["gaps"], saved["levels"]
        return table


def level_of(value: Any) -> str:
    return str(value).strip()


def plain(value: Any) -> Any:
    """Return a value as JSON data; NaN becomes None."""
    return None if is_missing(value) else value if isinstance(value, (str, int, float, bool)) else str(value)


def columns_of(targets: tuple[str, ...], table: FeatureTable) -> Columns:
    """Return the columns of a row; with features the text may be missing. Each column has one role."""
    names = ["text", "text_pair", *targets, *table.names]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(
            f"{', '.join(repeated)}: a column is text, a target, or a feature, and only one of them. See task.targets, "
            f"task.features.numbers and task.features.categories; data.columns.<name>=<column> gives a column another name."
        )
    if not table:
        return Columns(("text", *targets), ("text_pair",), content=("text", "text_pair"))
    content = ("text", "text_pair", *table.names)
    return Columns(targets, content, content=content, present=table.names)


def text_of(row: Row, column: str) -> str:
    value = row.get(column)
    return "" if value is None else str(value)


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and value == value  # NaN is a missing text


def list_targets(target_types: dict[str, str]) -> str:
    return ", ".join(f"{column} ({target_type})" for column, target_type in target_types.items())
