"""The capability map: items grouped by probe family and difficulty, with the score of a model in each cell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmstage.evaluation.metrics.score import Score, mean
from llmstage.explore.chance import Chance, chance_of
from llmstage.explore.items import Item
from llmstage.explore.probes import families, load
from llmstage.explore.stats import above_chance, benjamini_hochberg, share_interval

Scores = dict[str, Any]


@dataclass(slots=True)
class Cell:
    """One probe family at one difficulty."""

    probe_family: str
    axes: str
    """`digits=3,order=normal`; empty where a family has no axes."""
    metric: str
    """acc (choices) or em."""
    score: Score
    logp_per_token: Score
    chance: Chance
    p_value: float
    """Exact binomial p-value, one-sided, of this many right answers under chance."""
    unscored: int
    part: bool
    """Whether it tests a sub-skill of other items."""
    informed: float | None = None
    """p-value that answers are more likely than their token frequencies predict (free answers)."""
    above: bool = False
    """Whether the score is above chance after Benjamini and Hochberg over all cells."""

    @property
    def normalised(self) -> float:
        """0 at chance, 1 where all answers are right."""
        above_chance_range = 1 - self.chance.value
        return (self.score.value - self.chance.value) / above_chance_range if above_chance_range > 0 else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the entry of report.json."""
        return {
            "family": self.probe_family, "cell": self.axes, "metric": self.metric, **self.score.as_dict(),
            "chance": self.chance.as_dict(), "normalised": self.normalised, "p": self.p_value, "above_chance": self.above,
            "logp_per_token": self.logp_per_token.as_dict(), "informed_p": self.informed, "unscored": self.unscored,
            "part": self.part,
        }  # fmt: skip


def axes_of(item: Item, shipped: dict[str, list[str]]) -> str:
    """Return the difficulty of an item, as `axis=value,axis=value`."""
    return ",".join(f"{axis}={item.meta[axis]}" for axis in shipped.get(item.probe_family, []) if axis in item.meta)


def grouped(items: Sequence[Item]) -> dict[tuple[str, str], list[int]]:
    """Map (probe family, difficulty) to indices of items; in the order of the items."""
    names = {item.probe_family for item in items}
    shipped = {
        name: list(dict.fromkeys(axis for cell in load(name).FULL for axis in cell))
        for name in families()
        if name in names
    }
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        groups[item.probe_family, axes_of(item, shipped)].append(index)
    return dict(groups)


def measure_cells(
    items: Sequence[Item],
    scores: Sequence[Scores],
    untrained: Sequence[Scores] | None,
    unigram: Sequence[float | None],
    *,
    permutations: int,
    seed: int,
    fdr: float,
) -> list[Cell]:
    """Return every cell that has scored items, with its test against chance."""
    parts = {part for item in items for part in item.parts}
    cells = []
    for (probe_family, axes), indices in grouped(items).items():
        known = [index for index in indices if scores[index]["unscored"] is None]
        if not known:
            continue
        cell_items, cell_scores = [items[index] for index in known], [scores[index] for index in known]
        fresh = [untrained[index] for index in known] if untrained is not None else None
        metric = "acc" if all(item.choices for item in cell_items) else "em"
        # A masked model has no exact match: the share of right tokens replaces it.
        values = [result[metric] if result[metric] is not None else result["tok"] for result in cell_scores]
        hits = [value == 1 for value in values]
        chance = chance_of(cell_items, cell_scores, fresh, permutations=permutations, seed=seed)
        cells.append(
            Cell(
                probe_family, axes, metric if cell_scores[0][metric] is not None else "tok", share_interval(sum(hits), len(hits)),
                mean([result["logp_per_token"] for result in cell_scores]), chance,
                above_chance(sum(hits), len(hits), chance.value), len(indices) - len(known), cell_items[0].id in parts,
                informed(cell_scores, [unigram[index] for index in known]),
            )
        )  # fmt: skip
    adjusted: Any = benjamini_hochberg([cell.p_value for cell in cells]) if cells else []
    for cell, value in zip(cells, adjusted, strict=True):
        cell.above = bool(value < fdr)
    return cells


def informed(scores: Sequence[Scores], unigram: Sequence[float | None]) -> float | None:
    """One-sided p of a paired signed-rank test (Wilcoxon 1945) that answers are likelier than their token frequencies predict."""
    from scipy.stats import wilcoxon

    gaps = [result["logp_per_token"] - base for result, base in zip(scores, unigram, strict=True) if base is not None]
    if len(gaps) < 10 or not np.any(gaps):
        return None
    return float(wilcoxon(gaps, alternative="greater").pvalue)
