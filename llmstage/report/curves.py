"""Builds the curves of the report from the lines of `metrics.jsonl`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

Line = Mapping[str, Any]
STEP = "optimizer step"
SMOOTH_FROM = 40
"""Number of train losses from which on a smoothed curve is drawn over the raw one."""


def points(lines: Sequence[Line], name: str, phase: str, split: str | None = None) -> dict[str, list[Any]]:
    """Return `{x: steps, y: values}` of one number; null is a gap. `phase`: `train` or `eval`.

    A resumed run logs some steps again; the later line of a step is used.
    """
    values = {
        line["step"]: finite(line[name])
        for line in lines
        if line.get("kind") == phase and name in line and line.get("step") is not None and line.get("split") == split
    }
    return {"x": sorted(values), "y": [values[step] for step in sorted(values)]}


def finite(value: Any) -> float | None:
    """Return a number that can be drawn, or None."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Return the mean of about `window` points around each point, fewer at the ends. Unlike an exponential mean it does not lag."""
    sums = [0.0, *accumulate(values)]
    out = []
    for index in range(len(values)):
        half = min(
            window // 2, index, len(values) - 1 - index
        )  # the same number on both sides keeps a straight line straight
        out.append((sums[index + half + 1] - sums[index - half]) / (2 * half + 1))
    return out


def loss_chart(lines: Sequence[Line], selected_step: int | None) -> dict[str, Any] | None:
    """Return train loss (raw and smoothed) and the loss of every evaluated split over steps; None where no loss was logged."""
    train = points(lines, "loss", "train")
    series: list[dict[str, Any]] = []
    known = [value for value in train["y"] if value is not None]
    if len(known) >= SMOOTH_FROM:
        steps = [step for step, value in zip(train["x"], train["y"], strict=True) if value is not None]
        smoothed = smooth(known, max(5, len(known) // 30))
        series.append({"name": "train, each step logged", **train, "faint": True, "colour": 0})
        series.append({"name": "train, smoothed", "x": steps, "y": smoothed, "colour": 0, "dots": False})
    elif known:
        series.append({"name": "train", **train, "colour": 0})
    for number, split in enumerate(eval_splits(lines)):
        curve = points(lines, "loss", "eval", split)
        if curve["x"]:
            series.append({"name": split, **curve, "colour": 1 + number % 7})
    if not series:
        return None
    num_missing = len(train["y"]) - len(known)
    values = [value for curve in series for value in curve["y"] if value is not None]
    log_y = bool(values) and min(values) > 0 and max(values) / min(values) > 20
    note = ""
    if num_missing:
        note = f"{num_missing} logged step{'s' if num_missing != 1 else ''} had no finite loss: a gap in the curve."
    return {
        "title": "Loss", "x_label": STEP, "y_label": "loss (log scale)" if log_y else "loss",
        "series": series, "log_y": log_y, "mark": selected_step, "mark_label": "selected", "note": note,
    }  # fmt: skip


def metric_charts(lines: Sequence[Line], selected_step: int | None) -> list[dict[str, Any]]:
    """Return a chart for each metric that was evaluated at two steps or more, with a curve for each split."""
    skipped = {"step", "kind", "split", "loss", "seconds"}
    names = dict.fromkeys(
        name for line in lines if line.get("kind") == "eval" for name in line
        if name not in skipped and finite(line[name]) is not None
    )  # fmt: skip
    charts = []
    for name in names:
        series = [{"name": split, **points(lines, name, "eval", split)} for split in eval_splits(lines)]
        series = [curve for curve in series if len(curve["x"]) > 1]
        if series:
            chart = {"title": name, "x_label": STEP, "y_label": name, "series": series, "mark": selected_step}
            charts.append({**chart, "log_y": False} if is_growing_share(series) else chart)
    return charts


def is_growing_share(series: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether all curves grow and stay at most 1, as an accuracy does.

    A logarithmic axis would compress the part from 0.5 to 1.
    """
    known = [[value for value in curve["y"] if value is not None] for curve in series]
    return all(ys and max(ys) <= 1 and ys[-1] >= ys[0] >= 0 for ys in known)


def train_charts(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Return charts of learning rate, gradient norm and speed over steps, where these were logged."""
    charts = []
    titles = {"lr": "Learning rate", "grad_norm": "Gradient norm", "tokens_per_second": "Tokens per second"}
    for name, title in titles.items():
        curve = points(lines, name, "train")
        if sum(value is not None for value in curve["y"]) > 1:
            chart = {"title": title, "x_label": STEP, "y_label": "", "series": [{"name": title, **curve}]}
            # Readers recognize a schedule by its shape on a linear axis; a gradient norm can span powers of ten.
            charts.append(chart if name == "grad_norm" else {**chart, "log_y": False})
    return charts


def eval_splits(lines: Sequence[Line]) -> list[Any]:
    """Return the splits in the order of their first evaluation."""
    return list(dict.fromkeys(line.get("split") for line in lines if line.get("kind") == "eval"))
