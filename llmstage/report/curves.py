"""From the lines of `metrics.jsonl` to curves for the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

Line = Mapping[str, Any]
STEP = "optimizer step"
SMOOTH_FROM = 40
"""Train losses from which a smoothed curve is drawn over the raw one."""


def points(lines: Sequence[Line], name: str, kind: str, split: str | None = None) -> dict[str, list[Any]]:
    """`{x: steps, y: values}` of one number, by step; after a resume the later line of a step counts; null is a gap."""
    found = {
        line["step"]: finite(line[name])
        for line in lines
        if line.get("kind") == kind and name in line and line.get("step") is not None and line.get("split") == split
    }
    return {"x": sorted(found), "y": [found[step] for step in sorted(found)]}


def finite(value: Any) -> float | None:
    """A number that can be drawn, or None."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Mean of about `window` points around each, fewer towards the ends; unlike an exponential mean it does not lag."""
    sums = [0.0, *accumulate(values)]
    out = []
    for at in range(len(values)):
        half = min(window // 2, at, len(values) - 1 - at)  # the same number on both sides: a slope stays a slope
        out.append((sums[at + half + 1] - sums[at - half]) / (2 * half + 1))
    return out


def loss_chart(lines: Sequence[Line], selected_step: int | None) -> dict[str, Any] | None:
    """Train loss (raw and smoothed) and the loss of every evaluated split over steps; None where nothing was logged."""
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
    lost = len(train["y"]) - len(known)
    values = [value for one in series for value in one["y"] if value is not None]
    log_y = bool(values) and min(values) > 0 and max(values) / min(values) > 20
    note = f"{lost} logged step{'s' if lost != 1 else ''} had no finite loss: a gap in the curve." if lost else ""
    return {
        "title": "Loss", "x_label": STEP, "y_label": "loss (log scale)" if log_y else "loss",
        "series": series, "log_y": log_y, "mark": selected_step, "mark_label": "selected", "note": note,
    }  # fmt: skip


def metric_charts(lines: Sequence[Line], selected_step: int | None) -> list[dict[str, Any]]:
    """One chart for each metric evaluated at two steps or more, with a curve for each split."""
    skipped = {"step", "kind", "split", "loss", "seconds"}
    names = dict.fromkeys(
        name for line in lines if line.get("kind") == "eval" for name in line
        if name not in skipped and finite(line[name]) is not None
    )  # fmt: skip
    charts = []
    for name in names:
        series = [{"name": split, **points(lines, name, "eval", split)} for split in eval_splits(lines)]
        series = [one for one in series if len(one["x"]) > 1]
        if series:
            chart = {"title": name, "x_label": STEP, "y_label": name, "series": series, "mark": selected_step}
            charts.append({**chart, "log_y": False} if grows_to_one(series) else chart)
    return charts


def grows_to_one(series: Sequence[Mapping[str, Any]]) -> bool:
    """A share that grows, such as an accuracy: on a logarithmic axis all of it from 0.5 to 1 would look alike."""
    known = [[value for value in one["y"] if value is not None] for one in series]
    return all(ys and max(ys) <= 1 and ys[-1] >= ys[0] >= 0 for ys in known)


def train_charts(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Learning rate, gradient norm and speed over steps, where logged."""
    charts = []
    titles = {"lr": "Learning rate", "grad_norm": "Gradient norm", "tokens_per_second": "Tokens per second"}
    for name, title in titles.items():
        curve = points(lines, name, "train")
        if sum(value is not None for value in curve["y"]) > 1:
            chart = {"title": title, "x_label": STEP, "y_label": "", "series": [{"name": title, **curve}]}
            # A schedule is known by its shape on a linear axis; a gradient norm may leap over decades.
            charts.append(chart if name == "grad_norm" else {**chart, "log_y": False})
    return charts


def eval_splits(lines: Sequence[Line]) -> list[Any]:
    """Splits in the order in which they were first evaluated."""
    return list(dict.fromkeys(line.get("split") for line in lines if line.get("kind") == "eval"))
