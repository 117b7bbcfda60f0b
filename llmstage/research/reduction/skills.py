"""Test whether a composite skill is explained by its parts: the product law and the composition gap over matched items.

Okawa et al. 2023 (arXiv 2310.09336).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmstage.research.wording import sentence

RESAMPLES = 2000
MIN_HITS = 5
"""Right answers, observed or predicted, below which a logarithm of them is not meaningful."""


@dataclass(slots=True)
class Composition:
    """log acc(composite) - mean over items of the sum of log acc(part), with its interval, and the composition gap."""

    num: int
    accuracy: float
    product: float
    """Accuracy that independent parts would give."""
    residual: float
    """log(accuracy / product): 0 explained by parts, below 0 a composition gap, above 0 a shortcut or a shared
    mechanism."""
    low: float
    high: float
    gap: float | None
    """P(composite wrong | every part right); None where no item has all parts right."""
    known: int
    """Items with all parts right."""

    @property
    def explained(self) -> float:
        """Share of the composite's accuracy that the product accounts for, at most 1."""
        return min(1.0, self.product / self.accuracy) if self.accuracy else 1.0

    @property
    def text(self) -> str:
        if max(self.accuracy, self.product) * self.num < MIN_HITS:
            right, foretold = self.accuracy * self.num, self.product * self.num
            return sentence("parts_unresolved", right=right, num=self.num, foretold=foretold)
        where = sentence("log_residual", residual=self.residual, low=self.low, high=self.high)
        values = {"accuracy": self.accuracy, "product": self.product, "where": where}
        if self.low <= 0 <= self.high:
            return sentence("parts_explain", **values)
        if self.high < 0:
            gap = "" if self.gap is None else sentence("gap_of_ready", known=self.known, gap=self.gap)
            return sentence("composition_gap", gap=gap, **values)
        return sentence("more_than_parts", **values)

    def as_dict(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in self.__slots__}, "explained": self.explained, "text": self.text,
        }  # fmt: skip


def compose(composite: Sequence[float], parts: Sequence[Sequence[float]], *, seed: int = 0) -> Composition:
    """Compare `composite` [N], right (1) or wrong (0), with `parts` [N][K_n], the same for the parts of each item.

    The accuracy of a part is that over all parts at the same position. Where none is right, half a hit is counted, so
    that the logarithm exists. The bootstrap resamples items together with their parts.
    """
    correct = np.asarray(composite, dtype=np.float64)
    max_parts = max(map(len, parts))
    table = np.full((len(correct), max_parts), np.nan)
    for row, item_parts in enumerate(parts):
        table[row, : len(item_parts)] = item_parts

    def floored_rate(hits: Any, num: Any) -> Any:
        return np.maximum(hits, 0.5) / np.maximum(
            num, 1
        )  # adding half a hit everywhere would favour the composite over its parts

    def logs(rows: NDArray[np.int64]) -> tuple[float, float]:
        drawn = table[rows]
        counts = (~np.isnan(drawn)).sum(0)
        rates = floored_rate(np.nansum(drawn, 0), counts)
        by_item = np.where(np.isnan(drawn), 0.0, np.log(rates))
        product = np.log(np.exp(by_item.sum(1)).mean())
        return float(np.log(floored_rate(correct[rows].sum(), len(rows)))), float(product)

    rng = np.random.default_rng(seed)
    num = len(correct)
    composite_log, product_log = logs(np.arange(num))
    drawn = [logs(rng.integers(0, num, num)) for _ in range(RESAMPLES)]
    low, high = np.percentile([a - b for a, b in drawn], [2.5, 97.5])
    known = np.nanmin(table, 1) == 1
    gap = float(1 - correct[known].mean()) if known.any() else None
    return Composition(
        num, float(correct.mean()), float(np.exp(product_log)), composite_log - product_log, float(low), float(high), gap,
        int(known.sum()),
    )  # fmt: skip
