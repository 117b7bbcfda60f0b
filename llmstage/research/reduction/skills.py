"""Is a composite explained by its parts? The product law and the composition gap over matched items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmstage.explore.wording import say

RESAMPLES = 2000
FEWEST_HITS = 5
"""Right answers, seen or foretold, below which a logarithm of them says nothing."""


@dataclass(slots=True)
class Composition:
    """log acc(composite) - mean over items of the sum of log acc(part), with its interval, and the gap."""

    num: int
    accuracy: float
    product: float
    """What independent parts would give."""
    residual: float
    """log(accuracy / product): 0 explained by parts, below 0 a composition gap, above 0 a shortcut or a shared mechanism."""
    low: float
    high: float
    gap: float | None
    """P(composite wrong | every part right); None where all parts were right in no item."""
    known: int
    """Items whose parts were all right."""

    @property
    def explained(self) -> float:
        """Share of the composite's accuracy that the product accounts for, at most 1."""
        return min(1.0, self.product / self.accuracy) if self.accuracy else 1.0

    @property
    def text(self) -> str:
        if max(self.accuracy, self.product) * self.num < FEWEST_HITS:
            right, foretold = self.accuracy * self.num, self.product * self.num
            return say("parts_unresolved", right=right, num=self.num, foretold=foretold)
        where = say("log_residual", residual=self.residual, low=self.low, high=self.high)
        values = {"accuracy": self.accuracy, "product": self.product, "where": where}
        if self.low <= 0 <= self.high:
            return say("parts_explain", **values)
        if self.high < 0:
            gap = "" if self.gap is None else say("gap_of_ready", known=self.known, gap=self.gap)
            return say("composition_gap", gap=gap, **values)
        return say("more_than_parts", **values)

    def as_dict(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in self.__slots__}, "explained": self.explained, "text": self.text,
        }  # fmt: skip


def compose(whole: Sequence[float], parts: Sequence[Sequence[float]], *, seed: int = 0) -> Composition:
    """Okawa et al. 2023 (arXiv 2310.09336): `whole` [N] right (1) or wrong (0), `parts` [N][K_n] the same of each item's
    parts. A part's accuracy is that of all parts at the same place; where none is right half a hit stands, so that a logarithm
    exists. Items are drawn in the bootstrap, each with its parts."""
    right = np.asarray(whole, dtype=np.float64)
    most = max(map(len, parts))
    table = np.full((len(right), most), np.nan)
    for row, own in enumerate(parts):
        table[row, : len(own)] = own

    def rate(hits: Any, num: Any) -> Any:
        return np.maximum(hits, 0.5) / np.maximum(
            num, 1
        )  # half a hit more everywhere would favour the whole over its parts

    def logs(rows: NDArray[np.int64]) -> tuple[float, float]:
        drawn = table[rows]
        counts = (~np.isnan(drawn)).sum(0)
        rates = rate(np.nansum(drawn, 0), counts)
        by_item = np.where(np.isnan(drawn), 0.0, np.log(rates))
        product = np.log(np.exp(by_item.sum(1)).mean())
        return float(np.log(rate(right[rows].sum(), len(rows)))), float(product)

    rng = np.random.default_rng(seed)
    num = len(right)
    whole_log, product_log = logs(np.arange(num))
    drawn = [logs(rng.integers(0, num, num)) for _ in range(RESAMPLES)]
    low, high = np.percentile([a - b for a, b in drawn], [2.5, 97.5])
    known = np.nanmin(table, 1) == 1
    gap = float(1 - right[known].mean()) if known.any() else None
    return Composition(
        num, float(right.mean()), float(np.exp(product_log)), whole_log - product_log, float(low), float(high), gap,
        int(known.sum()),
    )  # fmt: skip
