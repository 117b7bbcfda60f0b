"""Small charts as SVG text; colours come from the page's CSS (classes `s0` to `s7`), so they follow light and dark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from llmstage.report import formatting
from llmstage.report.curves import finite
from llmstage.report.scale import Axis, cut, fit, thin, tick_label, wants_log, width
from llmstage.report.svg import empty, open_svg, path, text, xml

WIDTH = 920
NUM_COLOURS = 8


def line_chart(chart: Mapping[str, Any], size: tuple[int, int] = (WIDTH, 300)) -> str:
    """Curves over a shared x axis, with bands where a series has `low` and `high`, and gaps where y is null.

    `chart`: {series: [{name, x, y, low?, high?, faint?, colour?}], x_label, y_label, y_range?, log_y?, log_x?, mark?,
    mark_label?}. x may hold words; they are spread evenly. The y axis is logarithmic where values span more than a
    factor of 20, unless `log_y` or `y_range` is given.
    """
    wide, high = size
    series = chart.get("series") or []
    names = list(dict.fromkeys(x for one in series for x in one["x"] if finite(x) is None))
    if names:
        names = list(dict.fromkeys(x for one in series for x in one["x"]))
    curves = [list(read_points(one, names)) for one in series]
    ys = [value for curve in curves for point in curve for value in point[1:] if value is not None]
    if not ys:
        return empty(wide, 80)
    bounds = chart.get("y_range")
    log = bool(chart.get("log_y", not bounds and wants_log(ys))) and min(ys) > 0
    bottom, top = high - (46 if chart.get("x_label") else 30), 14
    y_axis = Axis(bounds[0], bounds[1], bottom, top) if bounds else fit(ys, bottom, top, log=log, margin=0.06)
    y_ticks = y_axis.ticks(6)
    y_words = [tick_label(tick, y_ticks) if not log else f"{tick:g}" for tick in y_ticks]
    left = 14 + max((width(word) for word in y_words), default=0) + (22 if chart.get("y_label") else 0)
    log_x = bool(chart.get("log_x")) and not names and any(point[0] > 0 for curve in curves for point in curve)
    if log_x:  # a logarithm has no place for 0
        curves = [[point for point in curve if point[0] > 0] for curve in curves]
    x_axis = fit([point[0] for curve in curves for point in curve], left + 6, wide - 18, margin=0, log=log_x)
    parts = [open_svg(wide, high, chart.get("title", ""))]
    for tick, word in zip(y_ticks, y_words, strict=True):
        at = y_axis.place(tick)
        parts += [path("grid", f"M{left:.1f} {at:.1f}H{wide - 12}"), text(left - 8, at + 4, word, anchor="end")]
    parts.append(path("axis", f"M{left:.1f} {bottom}H{wide - 12}"))
    parts += x_ticks(x_axis, names, bottom, wide)
    if chart.get("x_label"):
        parts.append(text((left + wide) / 2, high - 6, chart["x_label"], "label"))
    if chart.get("y_label"):
        parts.append(text(13, (top + bottom) / 2, formatting.label(str(chart["y_label"])), "label", turn=-90))
    mark = finite(chart.get("mark"))
    if mark is not None and x_axis.low <= mark <= x_axis.high:
        at, near_end = x_axis.place(mark), x_axis.place(mark) > wide - 110
        parts.append(path("mark", f"M{at:.1f} {top}V{bottom}"))
        if chart.get("mark_label"):
            word = f"{chart['mark_label']}: {formatting.number(chart['mark'])}"
            parts.append(text(at + (-6 if near_end else 6), top + 10, word, anchor="end" if near_end else "start"))
    for number, (one, curve) in enumerate(zip(series, curves, strict=True)):
        parts += draw_series(one, curve, one.get("colour", number % NUM_COLOURS), x_axis, y_axis)
    return "".join([*parts, "</svg>"])


def read_points(one: Mapping[str, Any], names: Sequence[Any]) -> Iterator[tuple[float, float | None, Any, Any]]:
    """Points of a series sorted as given; words on x become their place."""
    blank = [None] * len(one["x"])
    lows, highs = one.get("low") or blank, one.get("high") or blank
    for x, y, low, high in zip(one["x"], one["y"], lows, highs, strict=True):
        yield float(names.index(x) if names else x), finite(y), finite(low), finite(high)


def draw_series(one: Mapping[str, Any], curve: Sequence[Any], colour: int, x_axis: Axis, y_axis: Axis) -> Iterator[str]:
    """Band, line and dots of one series, each unbroken stretch on its own."""
    clip = sorted((y_axis.start, y_axis.end))

    def place(x: float, y: float) -> str:
        return f"{x_axis.place(x):.1f} {min(max(y_axis.place(y), clip[0]), clip[1]):.1f}"

    total = max(1, len(curve))
    for drawn, stretch in groupby(curve, key=lambda point: point[1] is not None):
        points = list(stretch)
        if not drawn:
            continue
        kept = thin([p[0] for p in points], [p[1] for p in points], max(4, 400 * len(points) // total))
        points = [points[k] for k in kept]
        band = [p for p in points if p[2] is not None and p[3] is not None]
        if len(band) > 1:
            edge = [place(p[0], p[3]) for p in band] + [place(p[0], p[2]) for p in reversed(band)]
            yield path(f"band s{colour}", f"M{'L'.join(edge)}Z")
        elif band:
            x, _, low, high = band[0]
            yield path(f"line s{colour}", f"M{place(x, low)}L{place(x, high)}")
        faint = " faint" if one.get("faint") else ""
        if len(points) > 1:
            yield path(f"line s{colour}{faint}", f"M{'L'.join(place(p[0], p[1]) for p in points)}")
        if len(points) == 1 or (total <= 40 and not faint):
            for x, y, *_ in points:
                cx, cy = place(x, y).split()
                told = xml(f"{one.get('name', '')}: {formatting.number(y)} at {formatting.number(x)}")
                yield f'<circle class="dot s{colour}" cx="{cx}" cy="{cy}" r="3"><title>{told}</title></circle>'


def x_ticks(axis: Axis, names: Sequence[Any], bottom: float, wide: int) -> Iterator[str]:
    """Numbers, or words where x holds words, below the axis."""
    if names:
        room = (axis.end - axis.start) / max(1, len(names) - 1)
        spots = [(float(place), cut(str(name), max(room - 6, 24))) for place, name in enumerate(names)]
    else:
        ticks = axis.ticks(max(3, wide // 110))
        spots = [
            (tick, formatting.short(int(tick) if tick == int(tick) else tick) if axis.log else tick_label(tick, ticks))
            for tick in ticks
        ]
    for value, word in spots:
        at = axis.place(value)
        # The outermost labels must not leave the picture.
        at = min(at, wide - width(word) / 2)
        yield path("axis", f"M{axis.place(value):.1f} {bottom}v4")
        yield text(at, bottom + 18, word)


def bar_chart(chart: Mapping[str, Any]) -> str:
    """Horizontal bars with their value at the end, and whiskers where `lows` and `highs` are given.

    `chart`: {labels, values, lows?, highs?, marks?, mark_name?, top?}. A mark is a line across the bar, such as the value
    of a simpler method; `top` is the end of the scale where it has one.
    """
    labels, values = [str(label) for label in chart["labels"]], [finite(value) for value in chart["values"]]
    blank = [None] * len(labels)
    lows, highs = chart.get("lows") or blank, chart.get("highs") or blank
    marks = [finite(mark) for mark in chart.get("marks") or blank]
    every = [v for group in (values, lows, highs, marks) for v in map(finite, group) if v is not None]
    if not every:
        return empty(WIDTH, 80)
    every += [top for top in [finite(chart.get("top"))] if top is not None]
    left = min(260.0, max(width(label) for label in labels) + 12)
    row, tall = 26, 26 * len(labels) + 10
    axis = Axis(min(0.0, *every), max(0.0, *every) or 1.0, left, WIDTH - 90)
    parts, zero = [open_svg(WIDTH, tall, chart.get("title", ""))], axis.place(0)
    shown = zip(labels, values, lows, highs, marks, strict=True)
    for number, (label, value, low, high, mark) in enumerate(shown):
        top, middle = 6 + number * row, 6 + number * row + 9
        parts.append(text(left - 10, middle + 4, cut(label, left - 10), "word", "end", told=label))
        end = zero
        if value is not None:
            end = axis.place(value)
            spot = f'x="{min(zero, end):.1f}" y="{top}" width="{abs(end - zero):.1f}" height="18"'
            parts.append(f'<rect class="bar s0" {spot} rx="3"/>')
        if finite(low) is not None and finite(high) is not None:
            a, b = axis.place(low), axis.place(high)
            ends = f"M{a:.1f} {middle - 4}v8M{b:.1f} {middle - 4}v8"
            parts.append(path("whisker", f"M{a:.1f} {middle}H{b:.1f}{ends}"))
            end = max(end, b)
        if mark is not None:
            told = xml(f"{chart.get('mark_name', '')}: {formatting.number(mark)}")
            parts.append(f'<path class="beside" d="M{axis.place(mark):.1f} {top - 3}v24"><title>{told}</title></path>')
            end = max(end, axis.place(mark))
        parts.append(text(max(end, zero) + 8, middle + 4, formatting.number(value), anchor="start"))
    return "".join([*parts, path("axis", f"M{zero:.1f} 0V{tall}"), "</svg>"])


def interval_bar(score: Mapping[str, Any], before: Mapping[str, Any] | None, low: float, high: float) -> str:
    """Where a score and its interval lie between `low` and `high`: a filled dot after training, a hollow one before."""
    axis = Axis(low, high, 6, 214)
    parts = [open_svg(220, 18, "", 'class="small"'), path("track", "M6 9H214")]
    if finite(score.get("low")) is not None and finite(score.get("high")) is not None:
        parts.append(path("range", f"M{axis.place(score['low']):.1f} 9H{axis.place(score['high']):.1f}"))
    was, value = finite((before or {}).get("value")), finite(score.get("value"))
    if was is not None:
        parts.append(f'<circle class="was" cx="{axis.place(was):.1f}" cy="9" r="3.2"/>')
    if value is not None:
        parts.append(f'<circle class="dot s0" cx="{axis.place(value):.1f}" cy="9" r="3.6"/>')
    return "".join([*parts, "</svg>"])
