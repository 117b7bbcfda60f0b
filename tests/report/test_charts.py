"""Charts: valid XML whatever they are given, the numbers they were given, and no lost peak."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import pytest

from llmstage.report.charts import bar_chart, heat_map, interval_bar, line_chart
from llmstage.report.curves import loss_chart, metric_charts, points, smooth
from llmstage.report.scale import Axis, cut, fit, nice_ticks, thin, tick_label, width

NASTY = '<b>&"中文\x00\ud800'


def words_of(svg: str) -> list[str]:
    return [node.text or "" for node in ElementTree.fromstring(svg).iter() if node.tag.endswith(("text", "title"))]


def lines(**more: Any) -> dict[str, Any]:
    return {
        "title": NASTY,
        "x_label": NASTY,
        "y_label": NASTY,
        "series": [{"name": NASTY, "x": [1, 2], "y": [3, 4]}],
        **more,
    }


@pytest.mark.parametrize(
    "chart",
    [
        lines(),
        lines(series=[]),
        lines(series=[{"name": "a", "x": [1], "y": [None]}]),
        lines(series=[{"name": "a", "x": [5], "y": [7]}]),
        lines(series=[{"name": "a", "x": [1, 2, 3], "y": [1, None, 3], "low": [0, None, 2], "high": [2, None, 4]}]),
        lines(series=[{"name": "a", "x": [1, 2], "y": [0.0, 0.0]}], mark=2, mark_label="selected"),
        lines(series=[{"name": "a", "x": [1, 2], "y": [1e-9, 1e9]}]),
        lines(series=[{"name": "a", "x": ["甲", NASTY], "y": [1, 2]}], y_range=[0, 1]),
        lines(series=[{"name": "a", "x": [1, 2], "y": [-1e6, math.inf]}]),
    ],
)
def test_line_charts_are_valid_xml(chart: dict[str, Any]) -> None:
    ElementTree.fromstring(line_chart(chart))


def test_bars_and_matrices_are_valid_xml_and_show_their_numbers() -> None:
    bars = bar_chart({"labels": ["甲", NASTY], "values": [0.25, None], "lows": [0.1, None], "highs": [0.5, None]})
    assert {"甲", "0.2500"} <= set(words_of(bars))
    assert bar_chart({"labels": [], "values": []}) and ElementTree.fromstring(
        bar_chart({"labels": ["a"], "values": [0]})
    )
    table = {"row_labels": ["a", "乙"], "column_labels": ["a", "乙"], "values": [[17, 3], [0, 41]], "row_name": NASTY}
    found = words_of(heat_map(table))
    assert {"17", "3", "41", "乙"} <= set(found) and "a → 乙: 3 (15.0 % of the row)" in found
    wide = {"row_labels": ["x"] * 3, "column_labels": [f"c{k}" for k in range(90)], "values": [[-0.5] * 90] * 3}
    ElementTree.fromstring(heat_map(wide))
    ElementTree.fromstring(heat_map({"row_labels": [], "column_labels": [], "values": []}))
    ElementTree.fromstring(interval_bar({"value": 0.5, "low": 0.4, "high": 0.6}, {"value": 0.1}, 0, 1))


def test_null_is_a_gap() -> None:
    svg = line_chart(lines(series=[{"name": "a", "x": [1, 2, 3, 4, 5], "y": [1, 2, None, 4, 5]}]))
    assert svg.count('class="line') == 2


def test_thinning_keeps_peaks_ends_and_the_limit() -> None:
    ys = [math.sin(k / 50) for k in range(20_000)]
    ys[7777], ys[12_345] = 9.0, -9.0
    kept = thin(range(20_000), ys)
    assert len(kept) <= 400 and {0, 7777, 12_345, 19_999} <= set(kept) and kept == sorted(kept)
    assert thin([1, 2], [3, 4]) == [0, 1]


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-3.7, 12.2), (1e-7, 3e-7), (99_000, 1_000_000), (5, 5.001), (1e6, 1e6 + 1)]
)
def test_ticks_are_round_evenly_spaced_inside_and_told_apart(low: float, high: float) -> None:
    ticks = nice_ticks(low, high, 6)
    gaps = {round((b - a) / (ticks[1] - ticks[0]), 6) for a, b in pairwise(ticks)}
    assert 3 <= len(ticks) <= 8 and gaps == {1.0} and low <= ticks[0] and ticks[-1] <= high
    assert len({tick_label(tick, ticks) for tick in ticks}) == len(ticks)


def test_axes_place_ends_at_ends() -> None:
    assert Axis(2, 4, 10, 20).pixel(3) == 15 and Axis(1, 100, 0, 2, log=True).pixel(10) == pytest.approx(1)
    assert fit([3.0], 0, 1).low < 3 < fit([3.0], 0, 1).high and fit([0.0, 5.0], 0, 1).low == 0


def test_labels_are_cut_to_their_room() -> None:
    assert cut("short", 100) == "short" and cut("一二三四五六七八", 50).endswith("…")
    assert width(cut("一二三四五六七八", 50)) <= 50


def test_curves_take_the_later_line_of_a_step_and_say_how_many_losses_are_missing() -> None:
    logged: list[dict[str, Any]] = [{"step": s, "kind": "train", "loss": float(s)} for s in (1, 2, 3)]
    logged += [{"step": 2, "kind": "train", "loss": None}, {"step": 3, "kind": "train", "loss": 30.0}]
    logged += [{"step": s, "kind": "eval", "split": "验证", "loss": 1.0, "accuracy": s / 10} for s in (2, 4)]
    assert points(logged, "loss", "train") == {"x": [1, 2, 3], "y": [1.0, None, 30.0]}
    chart = loss_chart(logged, 2)
    assert chart is not None and [one["name"] for one in chart["series"]] == ["train", "验证"]
    assert chart["note"].startswith("1 logged step ") and chart["mark"] == 2 and chart["log_y"]
    (metric,) = metric_charts(logged, None)
    assert metric["title"] == "accuracy" and metric["series"][0]["y"] == [0.2, 0.4]
    assert loss_chart([], None) is None and metric_charts([], None) == []


def test_smoothing_leaves_a_straight_line_straight() -> None:
    assert smooth([float(k) for k in range(50)], 7) == pytest.approx([float(k) for k in range(50)])


def test_a_share_that_grows_stands_on_a_linear_axis_and_a_loss_that_falls_on_a_logarithmic_one() -> None:
    values = {"accuracy": (0.01, 0.9), "bits_per_byte": (0.9, 0.01)}
    logged = [
        {"step": step, "kind": "eval", "split": "validation", **{name: two[step] for name, two in values.items()}}
        for step in (0, 1)
    ]
    ticks = {chart["title"]: words_of(line_chart(chart))[:3] for chart in metric_charts(logged, None)}
    assert "0.4" in ticks["accuracy"] and "0.1" in ticks["bits_per_byte"]  # the first ticks are those of the y axis


def test_a_logarithmic_x_axis_spaces_decades_evenly_and_leaves_out_zero() -> None:
    chart = {"series": [{"name": "a", "x": [0, 1, 10, 100], "y": [0.1, 0.2, 0.3, 0.4]}], "log_x": True}
    places = [float(found) for found in re.findall(r'cx="([\d.]+)"', line_chart(chart))]
    assert len(places) == 3 and places[2] - places[1] == pytest.approx(places[1] - places[0], abs=0.2)
    linear = re.findall(r'cx="([\d.]+)"', line_chart({**chart, "log_x": False}))
    assert len(linear) == 4
