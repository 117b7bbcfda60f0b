"""Encode the number and category columns of items and interactions as a vector, standardized on the training rows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from llmstage.data.interaction_columns import parse_number
from llmstage.data.rows import Row

MAX_VALUES = 256
"""Categories of a column that have an element of the vector, the most frequent first."""


class ColumnFeatures:
    """Mean and deviation of number columns and the values of category columns, known after fit()."""

    def __init__(self, numbers: list[str], categories: list[str]) -> None:
        self.numbers, self.categories = numbers, categories
        self.moments: dict[str, list[float]] = {name: [0.0, 1.0] for name in numbers}
        self.values: dict[str, list[str]] = {name: [] for name in categories}

    def fit(self, rows: Iterable[Row]) -> None:
        numbers_of: dict[str, list[float]] = {name: [] for name in self.numbers}
        counts: dict[str, Counter[str]] = {name: Counter() for name in self.categories}
        for row in rows:
            for name in self.numbers:
                number = parse_number(row.get(name))
                if number is not None:
                    numbers_of[name].append(number)
            for name in self.categories:
                counts[name].update(parts(row.get(name)))
        for name, numbers in numbers_of.items():
            mean = math.fsum(numbers) / len(numbers) if numbers else 0.0
            spread = math.sqrt(math.fsum((number - mean) ** 2 for number in numbers) / len(numbers)) if numbers else 0.0
            self.moments[name] = [mean, spread or 1.0]
        for name, counter in counts.items():
            ranked = sorted(counter, key=lambda value: (-counter[value], value))
            self.values[name] = ranked[:MAX_VALUES]

    @property
    def width(self) -> int:
        return 2 * len(self.numbers) + sum(map(len, self.values.values()))

    def vector(self, row: Row) -> list[float]:
        """Return [width]: each standardized number (0 where missing) with a flag for missing, then one element a category."""
        out: list[float] = []
        for name in self.numbers:
            number = parse_number(row.get(name))
            mean, spread = self.moments[name]
            out += [0.0, 1.0] if number is None else [(number - mean) / spread, 0.0]
        for name in self.categories:
            present = set(parts(row.get(name)))
            out += [float(value in present) for value in self.values[name]]
        return out

    def state(self) -> dict[str, Any]:
        """Return JSON data for restore()."""
        return {"moments": self.moments, "values": self.values}

    def restore(self, state: dict[str, Any]) -> None:
        self.moments = {name: list(state["moments"][name]) for name in self.numbers}
        self.values = {name: list(state["values"][name]) for name in self.categories}


def parts(value: Any) -> list[str]:
    """Return the categories in a value: a list, or a text with `|` between them."""
    if value is None:
        return []
    categories = value if isinstance(value, list) else str(value).split("|")
    return [str(category).strip() for category in categories if str(category).strip()]
