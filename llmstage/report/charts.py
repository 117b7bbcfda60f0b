"""Line charts, bar charts, heat maps and interval bars as SVG text.

Colours come from the page's CSS (classes `s0` to `s7`), so they follow the light and the dark theme.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import groupby
from typing import Any

from llmstage.report import formatting
from llmstage.report.curves import finite
from llmstage.report.scale import Axis, cut, fit, thin, tick_label, wants_log, width

WIDTH = 920
NUM_COLOURS = 8
MAX_DOTS = 40
"""A curve with at most this many points has a dot at each."""


def line_chart(chart: Mapping[str, Any], size: tuple[int, int] = (WIDTH, 300)) -> str:
    """Draw curves over a shared x axis, with bands where a series has `low` and `high`, and gaps where y is null.

    `chart`: {series: [{name, x, y, low?, high?, faint?, colour?}], x_label, y_label, y_range?, log_y?, log_x?, mark?,
    mark_label?}. Where x has strings they are spread evenly. The y axis is logarithmic where values span more than a factor of
    20, unless `log_y` or `y_range` is given.
    """
    wide, high = size
    # Read the points. Where one x is a string, every x is a category.
    series = chart.get("series") or []
    categories = list(dict.fromkeys(x for curve in series for x in curve["x"] if finite(x) is None))
    if categories:
        categories = list(dict.fromkeys(x for curve in series for x in curve["x"]))
    curves = [list(read_points(curve, categories)) for curve in series]
    ys = [value for points in curves for point in points for value in point[1:] if value is not None]
    if not ys:
        return empty_chart(wide, 80)
    # Lay out the axes: the y labels determine where the plot begins.
    bounds = chart.get("y_range")
    log = bool(chart.get("log_y", not bounds and wants_log(ys))) and min(ys) > 0
    bottom, top = high - (46 if chart.get("x_label") else 30), 14
    y_axis = Axis(bounds[0], bounds[1], bottom, top) if bounds else fit(ys, bottom, top, log=log, margin=0.06)
    y_ticks = y_axis.ticks(6)
    y_labels = [tick_label(tick, y_ticks) if not log else f"{tick:g}" for tick in y_ticks]
    left = 14 + max((width(label) for label in y_labels), default=0) + (22 if chart.get("y_label") else 0)
    log_x = bool(chart.get("log_x")) and not categories and any(point[0] > 0 for points in curves for point in points)
    if log_x:  # 0 has no logarithm
        curves = [[point for point in points if point[0] > 0] for points in curves]
    x_axis = fit([point[0] for points in curves for point in points], left + 6, wide - 18, margin=0, log=log_x)
    # Draw grid, axes and labels.
    parts = [open_svg(wide, high, chart.get("title", ""))]
    for tick, label in zip(y_ticks, y_labels, strict=True):
        y = y_axis.pixel(tick)
        parts += [svg_path("grid", f"M{left:.1f} {y:.1f}H{wide - 12}"), svg_text(left - 8, y + 4, label, anchor="end")]
    parts.append(svg_path("axis", f"M{left:.1f} {bottom}H{wide - 12}"))
    parts += x_ticks(x_axis, categories, bottom, wide)
    if chart.get("x_label"):
        parts.append(svg_text((left + wide) / 2, high - 6, chart["x_label"], "label"))
    if chart.get("y_label"):
        y_label = formatting.label(str(chart["y_label"]))
        parts.append(svg_text(13, (top + bottom) / 2, y_label, "label", rotation=-90))
    parts += draw_mark(chart, x_axis, top, bottom, wide)
    for number, (curve, points) in enumerate(zip(series, curves, strict=True)):
        parts += draw_series(curve, points, curve.get("colour", number % NUM_COLOURS), x_axis, y_axis)
    return "".join([*parts, "</svg>"])


def read_points(curve: Mapping[str, Any], categories: Sequence[Any]) -> Iterator[tuple[float, float | None, Any, Any]]:
    """Yield (x, y, low, high) in the given order. A category on x becomes its number."""
    blank = [None] * len(curve["x"])
    lows, highs = curve.get("low") or blank, curve.get("high") or blank
    for x, y, low, high in zip(curve["x"], curve["y"], lows, highs, strict=True):
        yield float(categories.index(x) if categories else x), finite(y), finite(low), finite(high)


def draw_mark(chart: Mapping[str, Any], x_axis: Axis, top: float, bottom: float, wide: int) -> Iterator[str]:
    """Draw the vertical line at `mark`, with its label on the side where it has space."""
    mark = finite(chart.get("mark"))
    if mark is None or not x_axis.low <= mark <= x_axis.high:
        return
    x = x_axis.pixel(mark)
    near_end = x > wide - 110
    yield svg_path("mark", f"M{x:.1f} {top}V{bottom}")
    if chart.get("mark_label"):
        label = f"{chart['mark_label']}: {formatting.number(chart['mark'])}"
        yield svg_text(x + (-6 if near_end else 6), top + 10, label, anchor="end" if near_end else "start")


def draw_series(
    curve: Mapping[str, Any], all_points: Sequence[Any], colour: int, x_axis: Axis, y_axis: Axis
) -> Iterator[str]:
    """Draw band, line and dots of one series, separately for each stretch without a gap."""
    clip = sorted((y_axis.start, y_axis.end))

    def pixels(x: float, y: float) -> str:
        return f"{x_axis.pixel(x):.1f} {min(max(y_axis.pixel(y), clip[0]), clip[1]):.1f}"

    total = max(1, len(all_points))
    for has_value, stretch in groupby(all_points, key=lambda point: point[1] is not None):
        points = list(stretch)
        if not has_value:
            continue
        retained = thin([p[0] for p in points], [p[1] for p in points], max(4, 400 * len(points) // total))
        points = [points[index] for index in retained]
        # The band goes along the upper values and back along the lower ones.
        band = [p for p in points if p[2] is not None and p[3] is not None]
        if len(band) > 1:
            edge = [pixels(p[0], p[3]) for p in band] + [pixels(p[0], p[2]) for p in reversed(band)]
            yield svg_path(f"band s{colour}", f"M{'L'.join(edge)}Z")
        elif band:
            x, _, low, high = band[0]
            yield svg_path(f"line s{colour}", f"M{pixels(x, low)}L{pixels(x, high)}")
        faint = " faint" if curve.get("faint") else ""
        if len(points) > 1:
            yield svg_path(f"line s{colour}{faint}", f"M{'L'.join(pixels(p[0], p[1]) for p in points)}")
        if len(points) == 1 or (total <= MAX_DOTS and not faint):
            for x, y, *_ in points:
                cx, cy = pixels(x, y).split()
                tooltip = escape_xml(f"{curve.get('name', '')}: {formatting.number(y)} at {formatting.number(x)}")
                yield f'<circle class="dot s{colour}" cx="{cx}" cy="{cy}" r="3"><title>{tooltip}</title></circle>'


def x_ticks(axis: Axis, categories: Sequence[Any], bottom: float, wide: int) -> Iterator[str]:
    """Draw the ticks below the axis: numbers, or the names of categories."""
    if categories:
        spacing = (axis.end - axis.start) / max(1, len(categories) - 1)
        labels = [(float(index), cut(str(name), max(spacing - 6, 24))) for index, name in enumerate(categories)]
    else:
        ticks = axis.ticks(max(3, wide // 110))
        labels = [
            (tick, formatting.short(int(tick) if tick == int(tick) else tick) if axis.log else tick_label(tick, ticks))
            for tick in ticks
        ]
    for value, label in labels:
        x = min(axis.pixel(value), wide - width(label) / 2)  # the last label stays inside the chart
        yield svg_path("axis", f"M{axis.pixel(value):.1f} {bottom}v4")
        yield svg_text(x, bottom + 18, label)


def bar_chart(chart: Mapping[str, Any]) -> str:
    """Draw horizontal bars with their value at the end, and whiskers where `lows` and `highs` are given.

    `chart`: {labels, values, lows?, highs?, marks?, mark_name?, top?}. A mark is a line across the bar, such as the value of a
    simpler method; `top` is the end of the scale where it has one.
    """
    labels, values = [str(label) for label in chart["labels"]], [finite(value) for value in chart["values"]]
    blank = [None] * len(labels)
    lows, highs = chart.get("lows") or blank, chart.get("highs") or blank
    marks = [finite(mark) for mark in chart.get("marks") or blank]
    # The axis covers every number and zero.
    drawn = [v for group in (values, lows, highs, marks) for v in map(finite, group) if v is not None]
    if not drawn:
        return empty_chart(WIDTH, 80)
    drawn += [top for top in [finite(chart.get("top"))] if top is not None]
    left = min(260.0, max(width(label) for label in labels) + 12)
    row_height, tall = 26, 26 * len(labels) + 10
    axis = Axis(min(0.0, *drawn), max(0.0, *drawn) or 1.0, left, WIDTH - 90)
    parts, zero = [open_svg(WIDTH, tall, chart.get("title", ""))], axis.pixel(0)
    bars = zip(labels, values, lows, highs, marks, strict=True)
    for number, (label, value, low, high, mark) in enumerate(bars):
        top, middle = 6 + number * row_height, 6 + number * row_height + 9
        parts.append(svg_text(left - 10, middle + 4, cut(label, left - 10), "word", "end", tooltip=label))
        end = zero  # the rightmost pixel of the bar, its whisker and its mark: the value goes after it
        if value is not None:
            end = axis.pixel(value)
            box = f'x="{min(zero, end):.1f}" y="{top}" width="{abs(end - zero):.1f}" height="18"'
            parts.append(f'<rect class="bar s0" {box} rx="3"/>')
        if finite(low) is not None and finite(high) is not None:
            a, b = axis.pixel(low), axis.pixel(high)
            ends = f"M{a:.1f} {middle - 4}v8M{b:.1f} {middle - 4}v8"
            parts.append(svg_path("whisker", f"M{a:.1f} {middle}H{b:.1f}{ends}"))
            end = max(end, b)
        if mark is not None:
            tooltip = escape_xml(f"{chart.get('mark_name', '')}: {formatting.number(mark)}")
            line = f"M{axis.pixel(mark):.1f} {top - 3}v24"
            parts.append(f'<path class="beside" d="{line}"><title>{tooltip}</title></path>')
            end = max(end, axis.pixel(mark))
        parts.append(svg_text(max(end, zero) + 8, middle + 4, formatting.number(value), anchor="start"))
    return "".join([*parts, svg_path("axis", f"M{zero:.1f} 0V{tall}"), "</svg>"])


def interval_bar(score: Mapping[str, Any], before: Mapping[str, Any] | None, low: float, high: float) -> str:
    """Draw a score and its interval on a scale from `low` to `high`: a filled dot after training, a hollow dot before."""
    axis = Axis(low, high, 6, 214)
    parts = [open_svg(220, 18, "", 'class="small"'), svg_path("track", "M6 9H214")]
    if finite(score.get("low")) is not None and finite(score.get("high")) is not None:
        parts.append(svg_path("range", f"M{axis.pixel(score['low']):.1f} 9H{axis.pixel(score['high']):.1f}"))
    previous, value = finite((before or {}).get("value")), finite(score.get("value"))
    if previous is not None:
        parts.append(f'<circle class="was" cx="{axis.pixel(previous):.1f}" cy="9" r="3.2"/>')
    if value is not None:
        parts.append(f'<circle class="dot s0" cx="{axis.pixel(value):.1f}" cy="9" r="3.6"/>')
    return "".join([*parts, "</svg>"])


def heat_map(chart: Mapping[str, Any]) -> str:
    """Draw cells shaded by value, with numbers where they fit, and every value in a tooltip.

    `chart`: {row_labels, column_labels, values [R][C], row_name?, column_name?}. Where rows and columns have the same labels it is
    a confusion matrix: shades are shares of the row, the diagonal (right) is blue, mistakes are orange.
    """
    rows, columns = [str(v) for v in chart["row_labels"]], [str(v) for v in chart["column_labels"]]
    values = [[finite(value) for value in row] for row in chart["values"]]
    if not rows or not columns:
        return f"{open_svg(WIDTH, 20, 'an empty matrix')}</svg>"
    is_confusion = rows == columns
    # Sizes of cells, text and margins, in pixels.
    left = min(200.0, max(width(v) for v in rows) + 14) + (20 if chart.get("row_name") else 0)
    cell_width = min(72.0, max(9.0, (WIDTH - left - 60) / len(columns)))
    cell_height = min(cell_width, 40.0)
    size = min(12.0, max(7.0, cell_height - 2))
    longest = max(width(v, size) for v in columns)
    slanted = longest > cell_width - 4
    head = (min(130.0, longest * 0.71 + 14) if slanted else 20.0) + (22 if chart.get("column_name") else 0)
    slant_width = min(130.0, longest * 0.71) if slanted else 0.0
    wide = max(left + cell_width * len(columns) + slant_width + 4, 320.0)
    tall = head + cell_height * len(rows) + 6
    # Names and labels of the axes.
    parts = [open_svg(wide, tall, chart.get("title", ""), f'style="max-width:{wide:.0f}px"')]
    if chart.get("column_name"):
        parts.append(svg_text(left + cell_width * len(columns) / 2, 13, chart["column_name"], "label"))
    if chart.get("row_name"):
        parts.append(svg_text(13, head + cell_height * len(rows) / 2, chart["row_name"], "label", rotation=-90))
    for number, label in enumerate(columns):
        x = left + (number + 0.5) * cell_width
        anchor, rotation, max_width = ("start", -45, 170.0) if slanted else ("middle", 0, cell_width)
        short = cut(label, max_width, size)
        parts.append(svg_text(x, head - 7, short, "word", anchor, rotation=rotation, size=size, tooltip=label))
    # Cells, row by row.
    largest = max((abs(v) for row in values for v in row if v is not None), default=0.0)
    for row_index, (label, row) in enumerate(zip(rows, values, strict=True)):
        y = head + row_index * cell_height
        baseline = y + cell_height / 2 + size * 0.35
        short = cut(label, left - 30 if chart.get("row_name") else left - 10, size)
        parts.append(svg_text(left - 8, baseline, short, "word", "end", size=size, tooltip=label))
        full = sum(abs(v) for v in row if v is not None) if is_confusion else largest
        for column_index, value in enumerate(row):
            x = left + column_index * cell_width
            share = abs(value) / full if value is not None and full else 0.0
            colour = 1 if (is_confusion and row_index != column_index) or (value or 0) < 0 else 0
            # The square root keeps one mistake in fifty visible.
            shade = round(min(1.0, share**0.5 if is_confusion else share), 3)
            tooltip = f"{label} → {columns[column_index]}: {formatting.number(as_given(row[column_index]))}"
            tooltip += f" ({100 * share:.1f} % of the row)" if is_confusion and value is not None else ""
            parts.append(
                f'<rect class="cell s{colour}" x="{x + 0.5:.1f}" y="{y + 0.5:.1f}" width="{cell_width - 1:.1f}" '
                f'height="{cell_height - 1:.1f}" rx="2" fill-opacity="{shade}"><title>{escape_xml(tooltip)}</title></rect>'
            )
            content = formatting.number(as_given(value))
            if value and width(content, size) <= cell_width - 4 and cell_height >= 14:
                css_class = "in-cell on" if shade > 0.6 else "in-cell"
                parts.append(svg_text(x + cell_width / 2, baseline, content, css_class, size=size))
    return "".join([*parts, "</svg>"])


def as_given(value: Any) -> Any:
    """Return a whole number as int, so that counts are not displayed with decimals."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def escape_xml(value: object) -> str:
    """Return text that is valid inside SVG: escaped, without the control characters and lone surrogates that XML forbids."""
    return escape(re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]", "�", str(value)))


def open_svg(wide: float, tall: float, title: str, attributes: str = "") -> str:
    """Return the opening tag, with a name for screen readers."""
    role = f'role="img" aria-label="{escape_xml(title)}"' if title else 'aria-hidden="true"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:.0f} {tall:.0f}" {role} {attributes}>'


def svg_text(
    x: float, y: float, content: object, css_class: str = "tick", anchor: str = "middle", *,
    rotation: int = 0, size: float | None = None, tooltip: object = None,
) -> str:  # fmt: skip
    """Return a text element. `rotation` in degrees; `size` in pixels, None: the 12 of the page."""
    position = f'transform="translate({x:.1f} {y:.1f}) rotate({rotation})"' if rotation else f'x="{x:.1f}" y="{y:.1f}"'
    style = f' style="font-size:{size:.1f}px"' if size is not None else ""
    title = f"<title>{escape_xml(tooltip)}</title>" if tooltip is not None else ""
    return f'<text class="{css_class}" {position} text-anchor="{anchor}"{style}>{escape_xml(content)}{title}</text>'


def svg_path(css_class: str, commands: str) -> str:
    return f'<path class="{css_class}" d="{commands}"/>'


def empty_chart(wide: int, tall: int) -> str:
    """Return a chart that says that it has no finite values."""
    message = svg_text(wide / 2, tall / 2, "no finite values", "label")
    return f"{open_svg(wide, tall, 'no finite values')}{message}</svg>"
