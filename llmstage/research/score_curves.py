"""From a table of scores to curves: over scale (the last checkpoint of each model) and over training (one model each)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np

from llmstage.errors import DataError, UserError
from llmstage.research.curves import Curve, Numbers
from llmstage.research.metric_names import is_accuracy, is_perplexity
from llmstage.research.scores_table import ORDERS, ScoreTable


@dataclass(slots=True)
class Placed:
    """A curve, and where its points stand in the table."""

    curve: Curve
    kind: Literal["scale", "training"]
    rows: list[list[int]]
    """Rows of the table behind each point: one, or one a seed."""
    family: str | None = None


def placed_curves(table: ScoreTable) -> list[Placed]:
    """All curves of two points or more. Raises UserError where nothing orders the rows."""
    order = next((role for role in ORDERS if role in table.axes), None)
    if order is None and "step" not in table.axes:
        raise UserError(
            f"{table.shown}: no column orders the models. Name one: stage.columns.params=<column> (or compute, examples, "
            f"tokens, step). It has: {', '.join([*table.columns.values(), *table.metrics][:30])}."
        )
    surface = "model" not in table.words and {"params", "tokens"} <= table.axes.keys() and "step" not in table.axes
    if surface:  # losses over sizes and tokens are a surface for a scaling law, not a ladder
        return []
    return [*scale_curves(table, order), *training_curves(table)]


def scale_curves(table: ScoreTable, order: str | None) -> Iterator[Placed]:
    if order is None or ("model" not in table.words and "step" in table.axes):
        return
    families = table.words.get("family", [""] * len(table))
    several = len(set(families)) > 1
    for family in dict.fromkeys(families):
        points: dict[tuple[str, float], list[int]] = {}
        for row in last_rows(table):
            x = float(table.axes[order][row])
            if families[row] == family and np.isfinite(x):
                points.setdefault((name_of(table, row), x), []).append(row)
        check_seeds(table, list(points.values()), order)
        ordered = sorted(points.items(), key=lambda item: item[0][1])
        rows = [own for _, own in ordered]
        sizes = np.array([key[1] for key, _ in ordered])
        for metric in table.metrics:
            made = curve_of(table, metric, rows, sizes, table.columns[order], "*")
            if made is not None:
                yield Placed(made[0], "scale", made[1], family if several else None)


def training_curves(table: ScoreTable) -> Iterator[Placed]:
    if "step" not in table.axes:
        return
    steps = table.axes["step"]
    for model in dict.fromkeys(name_of(table, row) for row in range(len(table))):
        points: dict[float, list[int]] = {}
        for row in range(len(table)):
            if name_of(table, row) == model and np.isfinite(steps[row]):
                points.setdefault(float(steps[row]), []).append(row)
        if len(points) < 2:
            continue
        check_seeds(table, list(points.values()), "step")
        x = np.array(sorted(points))
        for metric in table.metrics:
            made = curve_of(table, metric, [points[step] for step in x], x, table.columns["step"], model)
            if made is not None:
                curve, rows = made
                yield Placed(replace(curve, axis_kind="training"), "training", rows)


def name_of(table: ScoreTable, row: int) -> str:
    return table.words["model"][row] if "model" in table.words else "*"


def last_rows(table: ScoreTable) -> list[int]:
    """Rows of each model's (and seed's) last checkpoint; all rows where there are no checkpoints."""
    if "step" not in table.axes:
        return list(range(len(table)))
    steps, seeds = table.axes["step"], table.words.get("seed", [""] * len(table))
    last: dict[tuple[str, str], int] = {}
    for row in range(len(table)):
        key = (name_of(table, row), seeds[row])
        if np.isfinite(steps[row]) and (key not in last or steps[row] > steps[last[key]]):
            last[key] = row
    return list(last.values())


def check_seeds(table: ScoreTable, groups: list[list[int]], axis: str) -> None:
    """Two rows at one place need a column that tells them apart."""
    seeds = table.words.get("seed")
    for group in groups:
        for one, other in combinations(group, 2):
            if seeds is None or seeds[one] == seeds[other]:
                raise DataError(
                    f"{table.shown}:{table.lines[other]}: the same model and {table.columns[axis]} as in line "
                    f"{table.lines[one]}. Name the column that tells them apart: stage.columns.seed=<column>."
                )


def curve_of(
    table: ScoreTable, metric: str, groups: list[list[int]], x: Numbers, axis: str, model: str
) -> tuple[Curve, list[list[int]]] | None:
    """The curve of one metric over groups of rows (seeds of one point), without the points that have no score."""
    values, errors = table.metrics[metric], table.errors[metric]
    kept = [[row for row in group if np.isfinite(values[row])] for group in groups]
    there = [k for k, group in enumerate(kept) if group]
    if len(there) < 2:
        return None
    groups = [kept[k] for k in there]
    spreads = [float(np.var(values[group], ddof=1)) for group in groups if len(group) > 1]
    items = items_behind(values, errors) if is_accuracy(metric) else None
    y = np.array([values[group].mean() for group in groups])
    error = np.array([np.sqrt(np.mean(errors[group] ** 2)) for group in groups])
    error = never_certain(y, error, items) if items else error
    curve = Curve(
        metric, x[there], y, error, axis, "log", model, seed_sd=float(np.sqrt(np.mean(spreads))) if spreads else None,
        items=items, finals=tuple(values[groups[-1]].tolist()) if spreads else (),
    )  # fmt: skip
    return curve, groups


def never_certain(y: Numbers, error: Numbers, items: int) -> Numbers:
    """Standard errors of shares y of `items`; none or all right is no certainty: there that of Agresti & Coull's estimate (1998)."""
    middle = (y * items + 2) / (items + 4)
    return np.where((y <= 0) | (y >= 1), np.sqrt(middle * (1 - middle) / (items + 4)), error)


def items_behind(values: Numbers, errors: Numbers) -> int | None:
    """How many items a share was counted on, from its standard error sqrt(p (1 - p) / (n - 1)); None where unknown."""
    with np.errstate(all="ignore"):
        counts = values * (1 - values) / errors**2 + 1
    known = counts[np.isfinite(counts) & (errors > 0) & (values > 0) & (values < 1)]
    return round(float(np.median(known))) if len(known) else None


def logged(curve: Curve) -> Curve:
    """A perplexity as its logarithm, with the error that goes with it; other scores as they are."""
    if not is_perplexity(curve.metric) or (curve.y <= 0).any():
        return curve
    return replace(curve, y=np.log(curve.y), error=curve.error / curve.y, metric=f"log {curve.metric}")
