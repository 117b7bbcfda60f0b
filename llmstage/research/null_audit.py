"""How many subjects of a suite seem known at a fixed chance: a warning shipped with every table that has such a suite.

Answer-letter bias makes even a model that knows nothing "significant" in some subjects, so a fixed 1/k is a poor null.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from llmstage.explore.stats import above_chance, benjamini_hochberg
from llmstage.research.metric_names import group_of, is_accuracy
from llmstage.research.score_curves import items_behind, last_rows, name_of
from llmstage.research.scores_table import ScoreTable

FEWEST_SUBJECTS = 10
ALPHA = 0.05


@dataclass(slots=True)
class Audit:
    """One model's discoveries over one suite."""

    model: str
    group: str
    num: int
    chance: float
    raw: int
    bh: int
    bonferroni: int
    min_p: float


def audit(table: ScoreTable, chance: Mapping[str, float | None]) -> list[Audit]:
    """One-sided exact binomial tests of each model's last checkpoint, over every suite of ten subjects or more."""
    suites: dict[str, list[str]] = {}
    for metric in table.metrics:
        group = group_of(metric)
        if group and is_accuracy(metric) and chance[metric] is not None:
            suites.setdefault(group, []).append(metric)
    found = []
    for group, metrics in suites.items():
        items = {metric: items_behind(table.metrics[metric], table.errors[metric]) for metric in metrics}
        known = [metric for metric in metrics if items[metric]]
        if len(known) < FEWEST_SUBJECTS:
            continue
        for row in last_rows(table):
            p = [p_of(table, metric, row, items[metric], chance[metric]) for metric in known]
            told = np.array([value for value in p if value is not None])
            if len(told) < FEWEST_SUBJECTS:
                continue
            level = chance[known[0]] or 0.0
            found.append(
                Audit(
                    name_of(table, row), group, len(told), level, int((told < ALPHA).sum()),
                    int((benjamini_hochberg(told) < ALPHA).sum()), int((told < ALPHA / len(told)).sum()), float(told.min()),
                )
            )  # fmt: skip
    return found


def p_of(table: ScoreTable, metric: str, row: int, items: int | None, chance: float | None) -> float | None:
    value = table.metrics[metric][row]
    if not items or chance is None or not np.isfinite(value):
        return None
    return above_chance(round(float(value) * items), items, chance)
