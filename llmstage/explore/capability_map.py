"""Items by family and difficulty, and what a model scores in each: the rows of the capability map."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmstage.evaluation.metrics.intervals import mean
from llmstage.evaluation.metrics.score import Score
from llmstage.explore.chance import Chance, chance_of
from llmstage.explore.items import Item
from llmstage.explore.probes import families, load
from llmstage.explore.stats import above_chance, benjamini_hochberg, share_interval

Scores = dict[str, Any]


@dataclass(slots=True)
class Cell:
    """One family at one difficulty."""

    family: str
    axes: str
    """`digits=3,order=normal`; empty where a family has no levels."""
    metric: str
    """acc (choices) or em."""
    score: Score
    logp_per_token: Score
    chance: Chance
    p_value: float
    """Of so many right answers under chance (exact binomial, one-sided)."""
    unscored: int
    part: bool
    """Asks for a skill that others are made of."""
    informed: float | None = None
    """p-value of answers being likelier than their tokens' frequencies say (free answers)."""
    above: bool = False
    """Above chance after Benjamini and Hochberg over all cells."""

    @property
    def normalised(self) -> float:
        """0 at chance, 1 at all right."""
        room = 1 - self.chance.value
        return (self.score.value - self.chance.value) / room if room > 0 else 0.0

    def as_dict(self) -> dict[str, Any]:
        return {
            "family": self.family, "cell": self.axes, "metric": self.metric, **self.score.as_dict(),
            "chance": self.chance.as_dict(), "normalised": self.normalised, "p": self.p_value, "above_chance": self.above,
            "logp_per_token": self.logp_per_token.as_dict(), "informed_p": self.informed, "unscored": self.unscored,
            "part": self.part,
        }  # fmt: skip


def axes_of(item: Item, shipped: dict[str, list[str]]) -> str:
    return ",".join(f"{axis}={item.meta[axis]}" for axis in shipped.get(item.family, []) if axis in item.meta)


def grouped(items: Sequence[Item]) -> dict[tuple[str, str], list[int]]:
    """(family, difficulty) -> places in the list; families in the order given, cells from easy to hard as they come."""
    names = {item.family for item in items}
    shipped = {
        name: list(dict.fromkeys(axis for cell in load(name).FULL for axis in cell))
        for name in families()
        if name in names
    }
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, item in enumerate(items):
        found[item.family, axes_of(item, shipped)].append(place)
    return dict(found)


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
    """Every cell that has scored items, marked where it is above chance."""
    parts = {part for item in items for part in item.parts}
    cells = []
    for (family, axes), places in grouped(items).items():
        known = [place for place in places if scores[place]["unscored"] is None]
        if not known:
            continue
        own, told = [items[place] for place in known], [scores[place] for place in known]
        fresh = [untrained[place] for place in known] if untrained is not None else None
        metric = "acc" if all(item.choices for item in own) else "em"
        values = [one[metric] if one[metric] is not None else one["tok"] for one in told]
        hits = [value == 1 for value in values]
        chance = chance_of(own, told, fresh, permutations=permutations, seed=seed)
        cells.append(
            Cell(
                family, axes, metric if told[0][metric] is not None else "tok", share_interval(sum(hits), len(hits)),
                mean([one["logp_per_token"] for one in told]), chance, above_chance(sum(hits), len(hits), chance.value),
                len(places) - len(known), own[0].id in parts, informed(told, [unigram[place] for place in known]),
            )
        )  # fmt: skip
    adjusted: Any = benjamini_hochberg([cell.p_value for cell in cells]) if cells else []
    for cell, value in zip(cells, adjusted, strict=True):
        cell.above = bool(value < fdr)
    return cells


def informed(scores: Sequence[Scores], unigram: Sequence[float | None]) -> float | None:
    """One-sided p of a paired signed-rank test (Wilcoxon 1945): answers are likelier than their tokens' frequencies say."""
    from scipy.stats import wilcoxon

    gaps = [one["logp_per_token"] - base for one, base in zip(scores, unigram, strict=True) if base is not None]
    if len(gaps) < 10 or not np.any(gaps):
        return None
    return float(wilcoxon(gaps, alternative="greater").pvalue)
