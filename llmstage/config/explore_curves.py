"""Keys of stage=explore for curves: columns of a table of scores, laws fitted to it, what a verdict needs, the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from llmstage.config.key_conditions import ReadBy, RunFacts
from llmstage.config.typed import NOT_NEGATIVE, POSITIVE, Range


def _curves(run: RunFacts) -> str | None:
    return None if getattr(run.stage, "curves", None) else "stage.curves names no table of scores"


CURVES = ReadBy(_curves)
COLUMN_ROLES = (
    "model", "family", "seed", "params", "compute", "examples", "step", "tokens", "loss", "metric", "score",
)  # fmt: skip


@dataclass(slots=True)
class CurveFit:
    """Laws fitted to the table that stage.curves names; they go to fits.json."""

    law: Annotated[Literal["auto", "none", "chinchilla", "broken"], CURVES] = "auto"
    """chinchilla: loss over size and tokens; broken: a power law with one break along one axis; auto: the first where the
    table has params, tokens and loss and no steps, the second where a loss has ten points or more over scale."""
    drop_highest: Annotated[int, NOT_NEGATIVE, CURVES] = 0
    """Points of the highest losses that are left out as outliers."""
    hold_out: Annotated[int, NOT_NEGATIVE, CURVES] = 0
    """broken: last points that are predicted and not fitted; their error is told."""


@dataclass(slots=True)
class Stats:
    """What a claim needs."""

    bootstrap: Annotated[int, Range(20, 1_000_000)] = 2000
    """Resamples behind an interval and simulated curves behind a p-value; a law is fitted to a fifth as many."""
    alpha: Annotated[float, Range(0, 1, open_low=True, open_high=True)] = 0.05
    """Level of a single test: whether a metric's breakthroughness beats a noisy line, whether a score is above chance."""
    fdr: Annotated[float, Range(0, 1, open_low=True)] = 0.05
    """False discovery rate of breaks over all curves of a report (Benjamini-Hochberg)."""
    delta_aicc: Annotated[float, POSITIVE] = 6.0
    """By how much the best broken shape must beat the best smooth one."""
    min_points: Annotated[int, Range(5, 10_000)] = 10
    """Points of a curve below which a break is not told from curvature."""
    min_departure: Annotated[float, Range(0, 1)] = 0.05
    """How far the broken shape must lie from the smooth one somewhere, as a share of the curve's range: with small errors a bend of
    any size beats every smooth shape, and is nothing abrupt."""


@dataclass(slots=True)
class ReportWords:
    """How the report is written."""

    language: Literal["auto", "en", "zh"] = "auto"
    """en or zh, of all parts of this stage; auto: Chinese where the names in the data (columns, classes, models) are Chinese
    or the locale is, else English."""


def check_columns(columns: Mapping[str, str]) -> list[str]:
    return [
        f"stage.columns.{role}: there is no such role. Known: {', '.join(COLUMN_ROLES)}."
        for role in columns
        if role not in COLUMN_ROLES
    ]
