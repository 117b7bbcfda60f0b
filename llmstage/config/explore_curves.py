"""Keys of stage=explore for score curves: the columns of a table, scaling laws, thresholds of claims, the report."""

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
    """Scaling laws fitted to the table in stage.curves; the results are in fits.json."""

    law: Annotated[Literal["auto", "none", "chinchilla", "broken"], CURVES] = "auto"
    """chinchilla: loss over parameters and tokens; broken: a power law with one break along one axis; auto: chinchilla
    where the table has params, tokens and loss and no steps, broken where a loss has ten points or more over scale."""
    drop_highest: Annotated[int, NOT_NEGATIVE, CURVES] = 0
    """Points with the highest losses to leave out as outliers."""
    hold_out: Annotated[int, NOT_NEGATIVE, CURVES] = 0
    """broken: last points to predict instead of fitting; the report has their error."""


@dataclass(slots=True)
class Stats:
    """Thresholds of statistical claims."""

    bootstrap: Annotated[int, Range(20, 1_000_000)] = 2000
    """Bootstrap resamples of an interval, and simulated curves of a p-value; a law is fitted to a fifth as many."""
    alpha: Annotated[float, Range(0, 1, open_low=True, open_high=True)] = 0.05
    """Significance level of a single test: whether a metric's breakthroughness exceeds that of a noisy line, whether a
    score is above chance."""
    fdr: Annotated[float, Range(0, 1, open_low=True)] = 0.05
    """False discovery rate of breaks over all curves of a report (Benjamini-Hochberg)."""
    delta_aicc: Annotated[float, POSITIVE] = 6.0
    """Difference of AICc by which the best broken shape must beat the best smooth shape."""
    min_points: Annotated[int, Range(5, 10_000)] = 10
    """Fewest points of a curve on which a break can be distinguished from curvature."""
    min_departure: Annotated[float, Range(0, 1)] = 0.05
    """Smallest maximal distance of the broken shape from the smooth shape, as a share of the curve's range. With small
    errors a bend of any size beats every smooth shape, and is not an abrupt change."""


@dataclass(slots=True)
class ReportWords:
    """Language of the report."""

    language: Literal["auto", "en", "zh"] = "auto"
    """Language of all parts of this stage; auto: Chinese where the names in the data (columns, classes, models) or the
    locale are Chinese, else English."""


def check_columns(columns: Mapping[str, str]) -> list[str]:
    """Return complaints about unknown column roles."""
    return [
        f"stage.columns.{role}: there is no such role. Known: {', '.join(COLUMN_ROLES)}."
        for role in columns
        if role not in COLUMN_ROLES
    ]
