"""Number and category columns as a vector: standardised on the training rows, with a place that says `missing`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from llmstage.data.interaction_columns import parse_number
from llmstage.data.rows import Row

MOST_VALUES = 256
"""Categories kept of a column, the most frequent first."""


class ColumnFeatures:
    """What is known of each column after fit(): mean and deviation of numbers, the values of categories."""

    def __init__(self, numbers: list[str], categories: list[str]) -> None:
        self.numbers, self.categories = numbers, categories
        self.moments: dict[str, list[float]] = {name: [0.0, 1.0] for name in numbers}
        self.values: dict[str, list[str]] = {name: [] for name in categories}

    def fit(self, rows: Iterable[Row]) -> None:
        found: dict[str, list[float]] = {name: [] for name in self.numbers}
        counts: dict[str, Counter[str]] = {name: Counter() for name in self.categories}
        for row in rows:
            for name in self.numbers:
                number = parse_number(row.get(name))
                if number is not None:
                    found[name].append(number)
            for name in self.categories:
                counts[name].update(parts(row.get(name)))
        for name, numbers in found.items():
            mean = math.fsum(numbers) / len(numbers) if numbers else 0.0
            spread = math.sqrt(math.fsum((number - mean) ** 2 for number in numbers) / len(numbers)) if numbers else 0.0
            self.moments[name] = [mean, spread or 1.0]
        for name, counter in counts.items():
            ranked = sorted(counter, key=lambda value: (-counter[value], value))
            self.values[name] = ranked[:MOST_VALUES]

    @property
    def width(self) -> int:
        return 2 * len(self.numbers) + sum(map(len, self.values.values()))

    def vector(self, row: Row) -> list[float]:
        """[width] standardised numbers (0 where missing) with a flag for missing each, then one place a category."""
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
        """JSON data from which restore() makes the same."""
        return {"moments": self.moments, "values": self.values}

    def restore(self, state: dict[str, Any]) -> None:
        self.moments = {name: list(state["moments"][name]) for name in self.numbers}
        self.values = {name: list(state["values"][name]) for name in self.categories}


def parts(value: Any) -> list[str]:
    """The categories in one value: a list, or text with `|` between them."""
    if value is None:
        return []
    pieces = value if isinstance(value, list) else str(value).split("|")
    return [str(piece).strip() for piece in pieces if str(piece).strip()]
