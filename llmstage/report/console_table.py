"""Formats scores for the console: a rich table, or plain lines for a pipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmstage.report import formatting
from llmstage.report.files import plain
from llmstage.report.html import page_labels, score_tables

if TYPE_CHECKING:
    from rich.table import Table


def score_rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return headings and cells: split, metric, value before training (where there is one), value, interval, count."""
    tables = list(score_tables(plain(report)))
    has_before = any(table["compared"] for table in tables)
    heads = ["split", "metric", *(["before", "after"] if has_before else ["value"]), "95 % interval", "count"]
    rows = []
    for table in tables:
        for row in table["rows"]:
            score, previous = row["score"], row["before"]
            before = [formatting.number(previous["value"]) if previous else formatting.NOTHING] if has_before else []
            interval = formatting.interval(score) or formatting.NOTHING
            cells = [table["split"], row["name"], *before, formatting.number(score["value"]), interval]
            rows.append([*cells, formatting.number(score.get("count", 0))])
    return heads, rows


def score_table(report: Mapping[str, Any]) -> Table:
    """Return the scores of every split as a rich table."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    heads, rows = score_rows(report)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in heads:
        is_text = name in ("split", "metric", "95 % interval")
        table.add_column(name, justify="left" if is_text else "right", no_wrap=True)
    last = None
    for cells in rows:
        if last not in (None, cells[0]):
            table.add_section()
        # Text, not str: rich would read a split named `[red]` as markup.
        table.add_row(*(Text("" if cells[0] == last and index == 0 else cell) for index, cell in enumerate(cells)))
        last = cells[0]
    return table


def finding_lines(report: Mapping[str, Any]) -> list[str]:
    """Return the findings of stage=explore, a line each, and after them what could not be concluded."""
    labels = page_labels(report.get("language"))
    sentences, limits = list(report.get("sentences") or []), list(report.get("limits") or [])
    lines = [f"{labels['found']}:", *(f"  {line}" for line in sentences or [labels["nothing"]])]
    return [*lines, f"{labels['limits']}:", *(f"  {line}" for line in limits)] if limits else lines


def baseline_lines(report: Mapping[str, Any]) -> list[str]:
    """Return the scores of the model and of simple methods in one metric, and the verdict about them."""
    baselines = report.get("baselines")
    if not baselines:
        return []
    split, metric = baselines["split"], baselines["metric"]
    methods = {"this model": report["scores"][split], **baselines["methods"]}
    name_width = max(map(len, methods))
    lines = [
        f"  {name:<{name_width}}  {metric} {formatting.number(scores[metric]['value'])}"
        for name, scores in methods.items()
    ]
    return [f"compared with simple methods ({split}):", *lines, baselines["verdict"]]


def score_lines(report: Mapping[str, Any]) -> list[str]:
    """Return the scores for a pipe: a heading line and one tab-separated line for each score."""
    heads, rows = score_rows(report)
    return ["\t".join(cells) for cells in ([heads, *rows] if rows else [])]
