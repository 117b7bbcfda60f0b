"""A matrix as an SVG heat map: confusion matrices first of all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmstage.report import formatting
from llmstage.report.charts import WIDTH
from llmstage.report.curves import finite
from llmstage.report.scale import cut, width
from llmstage.report.svg import open_svg, text, xml


def heat_map(chart: Mapping[str, Any]) -> str:
    """Cells shaded by value, with numbers where they fit, and every value in a tooltip.

    `chart`: {row_labels, column_labels, values [R][C], row_name?, column_name?}. Where rows and columns are the same
    labels it is a confusion matrix: shades are shares of the row, the diagonal (right) is blue, mistakes are orange.
    """
    rows, columns = [str(v) for v in chart["row_labels"]], [str(v) for v in chart["column_labels"]]
    values = [[finite(value) for value in row] for row in chart["values"]]
    if not rows or not columns:
        return f"{open_svg(WIDTH, 20, 'an empty matrix')}</svg>"
    paired = rows == columns
    left = min(200.0, max(width(v) for v in rows) + 14) + (20 if chart.get("row_name") else 0)
    cell = min(72.0, max(9.0, (WIDTH - left - 60) / len(columns)))
    tall_cell = min(cell, 40.0)
    size = min(12.0, max(7.0, tall_cell - 2))
    longest = max(width(v, size) for v in columns)
    slanted = longest > cell - 4
    head = (min(130.0, longest * 0.71 + 14) if slanted else 20.0) + (22 if chart.get("column_name") else 0)
    slant_room = min(130.0, longest * 0.71) if slanted else 0.0
    wide, tall = max(left + cell * len(columns) + slant_room + 4, 320.0), head + tall_cell * len(rows) + 6
    parts = [open_svg(wide, tall, chart.get("title", ""), f'style="max-width:{wide:.0f}px"')]
    if chart.get("column_name"):
        parts.append(text(left + cell * len(columns) / 2, 13, chart["column_name"], "label"))
    if chart.get("row_name"):
        parts.append(text(13, head + tall_cell * len(rows) / 2, chart["row_name"], "label", turn=-90))
    for number, label in enumerate(columns):
        x = left + (number + 0.5) * cell
        anchor, turn, room = ("start", -45, 170.0) if slanted else ("middle", 0, cell)
        shown = cut(label, room, size)
        parts.append(text(x, head - 7, shown, "word", anchor, turn=turn, size=size, told=label))
    top_of_all = max((abs(v) for row in values for v in row if v is not None), default=0.0)
    for at_row, (label, row) in enumerate(zip(rows, values, strict=True)):
        y = head + at_row * tall_cell
        line = y + tall_cell / 2 + size * 0.35
        shown = cut(label, left - 30 if chart.get("row_name") else left - 10, size)
        parts.append(text(left - 8, line, shown, "word", "end", size=size, told=label))
        whole = sum(abs(v) for v in row if v is not None) if paired else top_of_all
        for at_column, value in enumerate(row):
            x = left + at_column * cell
            part = abs(value) / whole if value is not None and whole else 0.0
            colour = 1 if (paired and at_row != at_column) or (value or 0) < 0 else 0
            # Square root: one mistake in fifty must still be seen.
            shade = round(min(1.0, part**0.5 if paired else part), 3)
            told = f"{label} → {columns[at_column]}: {formatting.number(as_given(row[at_column]))}"
            told += f" ({100 * part:.1f} % of the row)" if paired and value is not None else ""
            parts.append(
                f'<rect class="cell s{colour}" x="{x + 0.5:.1f}" y="{y + 0.5:.1f}" width="{cell - 1:.1f}" '
                f'height="{tall_cell - 1:.1f}" rx="2" fill-opacity="{shade}"><title>{xml(told)}</title></rect>'
            )
            shown = formatting.number(as_given(value))
            if value and width(shown, size) <= cell - 4 and tall_cell >= 14:
                kind = "in-cell on" if shade > 0.6 else "in-cell"
                parts.append(text(x + cell / 2, line, shown, kind, size=size))
    return "".join([*parts, "</svg>"])


def as_given(value: Any) -> Any:
    """Counts stay whole numbers, also where they came as floats."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
