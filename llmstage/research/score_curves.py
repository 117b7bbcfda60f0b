"""Turn a table of scores into curves: over scale (the last checkpoint of each model) and over training (one model
each)."""

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
class TableCurve:
    """A curve and the rows of the table behind its points."""

    curve: Curve
    curve_type: Literal["scale", "training"]
    rows: list[list[int]]
    """Row indices of the table behind each point: one, or one for each seed."""
    model_family: str | None = None


def table_curves(table: ScoreTable) -> list[TableCurve]:
    """Return all curves of two points or more. Raises UserError where no column orders the rows."""
    order = next((role for role in ORDERS if role in table.axes), None)
    if order is None and "step" not in table.axes:
        raise UserError(
            f"{table.path}: no column orders the models. Name one: stage.columns.params=<column> (or compute, examples, "
            f"tokens, step). It has: {', '.join([*table.columns.values(), *table.metrics][:30])}."
        )
    surface = "model" not in table.labels and {"params", "tokens"} <= table.axes.keys() and "step" not in table.axes
    if surface:  # losses over sizes and tokens are points of a scaling law, not a ladder of models
        return []
    return [*scale_curves(table, order), *training_curves(table)]


def scale_curves(table: ScoreTable, order: str | None) -> Iterator[TableCurve]:
    if order is None or ("model" not in table.labels and "step" in table.axes):
        return
    model_families = table.labels.get("family", [""] * len(table))
    many_families = len(set(model_families)) > 1
    for model_family in dict.fromkeys(model_families):
        points: dict[tuple[str, float], list[int]] = {}
        for row in last_rows(table):
            x = float(table.axes[order][row])
            if model_families[row] == model_family and np.isfinite(x):
                points.setdefault((name_of(table, row), x), []).append(row)
        check_seeds(table, list(points.values()), order)
        ordered = sorted(points.items(), key=lambda item: item[0][1])
        rows = [rows_of_point for _, rows_of_point in ordered]
        sizes = np.array([key[1] for key, _ in ordered])
        for metric in table.metrics:
            curve_and_rows = curve_of(table, metric, rows, sizes, table.columns[order], "*")
            if curve_and_rows is not None:
                yield TableCurve(curve_and_rows[0], "scale", curve_and_rows[1], model_family if many_families else None)


def training_curves(table: ScoreTable) -> Iterator[TableCurve]:
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
            curve_and_rows = curve_of(table, metric, [points[step] for step in x], x, table.columns["step"], model)
            if curve_and_rows is not None:
                curve, rows = curve_and_rows
                yield TableCurve(replace(curve, axis_kind="training"), "training", rows)


def name_of(table: ScoreTable, row: int) -> str:
    return table.labels["model"][row] if "model" in table.labels else "*"


def last_rows(table: ScoreTable) -> list[int]:
    """Return the rows of the last checkpoint of each model and seed; all rows where there are no checkpoints."""
    if "step" not in table.axes:
        return list(range(len(table)))
    steps, seeds = table.axes["step"], table.labels.get("seed", [""] * len(table))
    last: dict[tuple[str, str], int] = {}
    for row in range(len(table)):
        key = (name_of(table, row), seeds[row])
        if np.isfinite(steps[row]) and (key not in last or steps[row] > steps[last[key]]):
            last[key] = row
    return list(last.values())


def check_seeds(table: ScoreTable, groups: list[list[int]], axis: str) -> None:
    """Raise DataError where two rows of a point have no different seeds."""
    seeds = table.labels.get("seed")
    for group in groups:
        for first, second in combinations(group, 2):
            if seeds is None or seeds[first] == seeds[second]:
                raise DataError(
                    f"{table.path}:{table.lines[second]}: the same model and {table.columns[axis]} as in line "
                    f"{table.lines[first]}. Name the column that distinguishes them: stage.columns.seed=<column>."
                )


def curve_of(
    table: ScoreTable, metric: str, groups: list[list[int]], x: Numbers, axis: str, model: str
) -> tuple[Curve, list[list[int]]] | None:
    """Return the curve of one metric over groups of rows (seeds of one point), without the points that have no score."""
    values, errors = table.metrics[metric], table.errors[metric]
    scored = [[row for row in group if np.isfinite(values[row])] for group in groups]
    present = [k for k, group in enumerate(scored) if group]
    if len(present) < 2:
        return None
    groups = [scored[k] for k in present]
    seed_variances = [float(np.var(values[group], ddof=1)) for group in groups if len(group) > 1]
    items = items_behind(values, errors) if is_accuracy(metric) else None
    y = np.array([values[group].mean() for group in groups])
    error = np.array([np.sqrt(np.mean(errors[group] ** 2)) for group in groups])
    error = floored_standard_error(y, error, items) if items else error
    curve = Curve(
        metric, x[present], y, error, axis, "log", model, seed_sd=float(np.sqrt(np.mean(seed_variances))) if seed_variances else None,
        items=items, finals=tuple(values[groups[-1]].tolist()) if seed_variances else (),
    )  # fmt: skip
    return curve, groups


def floored_standard_error(y: Numbers, error: Numbers, items: int) -> Numbers:
    """Return standard errors of shares y of `items`. Where none or all are right, the error is that of Agresti &
    Coull's estimate (1998), because 0 would claim certainty."""
    middle = (y * items + 2) / (items + 4)
    return np.where((y <= 0) | (y >= 1), np.sqrt(middle * (1 - middle) / (items + 4)), error)


def items_behind(values: Numbers, errors: Numbers) -> int | None:
    """Compute how many items a share was counted on from its standard error sqrt(p (1 - p) / (n - 1)); None where
    unknown."""
    with np.errstate(all="ignore"):
        counts = values * (1 - values) / errors**2 + 1
    known = counts[np.isfinite(counts) & (errors > 0) & (values > 0) & (values < 1)]
    return round(float(np.median(known))) if len(known) else None


def logged(curve: Curve) -> Curve:
    """Return a perplexity as its logarithm, with the matching error; other scores unchanged."""
    if not is_perplexity(curve.metric) or (curve.y <= 0).any():
        return curve
    return replace(curve, y=np.log(curve.y), error=curve.error / curve.y, metric=f"log {curve.metric}")
