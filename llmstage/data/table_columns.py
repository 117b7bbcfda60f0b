"""Number and category columns beside the text: parsed, standardised from the training split only, missing values told apart."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmstage.data.rows import Row

MISSING = frozenset(("", "na", "n/a", "nan", "null", "none"))
"""What a missing value is written as, in any case; `None` and NaN are missing too."""
FARTHEST = 10.0
"""Standardised numbers are kept within ±10 deviations: a broken sensor in the test split must not drown the rest."""
MOST_LEVELS = 1000
"""Categories kept of a column, the most frequent ones; the rest counts as other."""
OTHER, ABSENT = 0, 1
"""Indices of a category that training did not see (or not often), and of a missing one; the known ones follow."""


def is_missing(value: Any) -> bool:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    return isinstance(value, str) and value.strip().casefold() in MISSING


def parse_number(value: Any) -> float | None:
    """The number, or None where it is missing; ValueError where it is text or infinite."""
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
    """Whether a text is a number and nothing else: a column of those is a feature, or the wrong column."""
    try:
        return bool(text.strip()) and math.isfinite(float(text))
    except ValueError:
        return False


class FeatureTable:
    """The feature columns of a task. `see` each training row, then `close`; or `from_dict` what a model was saved with."""

    def __init__(self, numbers: Iterable[str] = (), categories: Iterable[str] = ()) -> None:
        self.numbers, self.categories = tuple(numbers), tuple(categories)
        self.mean: dict[str, float] = {}
        self.std: dict[str, float] = {}
        self.gaps: dict[str, bool] = {}
        """Whether a number column had missing values in training."""
        self.levels: dict[str, list[str]] = {}
        self._seen: dict[str, array[float]] = {name: array("d") for name in self.numbers}
        self._counts: dict[str, Counter[str]] = {name: Counter() for name in self.categories}
        self._rows = 0

    @property
    def words(self) -> tuple[str, ...]:
        return (*self.numbers, *self.categories)

    def __bool__(self) -> bool:
        return bool(self.words)

    def complaint(self, row: Row) -> str | None:
        """Why a row's features cannot be used, or None."""
        for name in self.numbers:
            try:
                parse_number(row.get(name))
            except ValueError as error:
                return f"{name}: {error}. Leave the column out of task.features.numbers, or name it in task.features.categories"
        for name in self.categories:
            if isinstance(row.get(name), (dict, list)):
                return f"{name} is no category: {str(row[name])[:40]}"
        return None

    def see(self, row: Row) -> None:
        self._rows += 1
        for name in self.numbers:
            value = parse_number(row.get(name))
            if value is not None:
                self._seen[name].append(value)
        for name in self.categories:
            if not is_missing(row.get(name)):
                self._counts[name][level_of(row[name])] += 1

    def close(self) -> None:
        """Mean and deviation of each number column (a constant one keeps deviation 1), levels by frequency, then name."""
        for name, seen in self._seen.items():
            values = np.frombuffer(seen, dtype=np.float64) if seen else np.zeros(1)
            spread = float(values.std())
            self.mean[name] = float(values.mean())
            # Relative, because the mean of equal large numbers misses them by rounding.
            self.std[name] = spread if spread > 1e-9 * max(1.0, float(np.abs(values).max())) else 1.0
            self.gaps[name] = len(seen) < self._rows
        for name, counts in self._counts.items():
            ranked = sorted(counts, key=lambda level: (-counts[level], level))
            self.levels[name] = ranked[:MOST_LEVELS]
        self._seen, self._counts = {}, {}

    def encode(self, row: Row) -> tuple[list[float], list[int]]:
        """(standardised numbers [N], then 1.0 where one is missing [N]; category indices [C])."""
        values, gaps = [], []
        for name in self.numbers:
            value = parse_number(row.get(name))
            gaps.append(float(value is None))
            scaled = 0.0 if value is None else (value - self.mean[name]) / self.std[name]
            values.append(min(FARTHEST, max(-FARTHEST, scaled)))
        return values + gaps, [self.index(name, row.get(name)) for name in self.categories]

    def index(self, name: str, value: Any) -> int:
        if is_missing(value):
            return ABSENT
        level = level_of(value)
        return self.levels[name].index(level) + 2 if level in self.levels[name] else OTHER

    def sizes(self) -> list[int]:
        """Indices of each category column, those of other and missing included."""
        return [len(self.levels[name]) + 2 for name in self.categories]

    def shown(self, row: Row) -> dict[str, Any]:
        """The raw values of a row, for predictions.jsonl and for simple methods."""
        return {name: plain(row.get(name)) for name in self.words}

    def matrix(self, rows: Iterable[Row]) -> NDArray[np.float64]:
        """[rows, D] for linear models: standardised numbers, flags of columns with gaps, a column for each category."""
        flags = [number for number, name in enumerate(self.numbers) if self.gaps.get(name)]
        out = []
        for row in rows:
            numbers, places = self.encode(row)
            line = numbers[: len(self.numbers)] + [numbers[len(self.numbers) + flag] for flag in flags]
            for place, size in zip(places, self.sizes(), strict=True):
                line += [float(place == index) for index in range(1, size)]
            out.append(line)
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
    """A value as JSON takes it; NaN is none."""
    return None if is_missing(value) else value if isinstance(value, (str, int, float, bool)) else str(value)
