"""The scores for a console: a rich table, and plain lines for a pipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmstage.report import formatting
from llmstage.report.files import plain
from llmstage.report.html import score_tables
from llmstage.report.page_labels import page_words

if TYPE_CHECKING:
    from rich.table import Table


def score_rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells: split, metric, before (where there is a before), value, interval, count."""
    tables = list(score_tables(plain(report)))
    compared = any(table["compared"] for table in tables)
    heads = ["split", "metric", *(["before", "after"] if compared else ["value"]), "95 % interval", "count"]
    rows = []
    for table in tables:
        for row in table["rows"]:
            score, was = row["score"], row["before"]
            before = [formatting.number(was["value"]) if was else formatting.NOTHING] if compared else []
            spread = formatting.interval(score) or formatting.NOTHING
            cells = [table["split"], row["name"], *before, formatting.number(score["value"]), spread]
            rows.append([*cells, formatting.number(score.get("count", 0))])
    return heads, rows


def score_table(report: Mapping[str, Any]) -> Table:
    """The scores of every split as a rich table."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    heads, rows = score_rows(report)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in heads:
        words_column = name in ("split", "metric", "95 % interval")
        table.add_column(name, justify="left" if words_column else "right", no_wrap=True)
    last = None
    for cells in rows:
        if last not in (None, cells[0]):
            table.add_section()
        # Text, not str: a split named `[red]` is a name and no markup.
        table.add_row(*(Text("" if cells[0] == last and k == 0 else cell) for k, cell in enumerate(cells)))
        last = cells[0]
    return table


def finding_lines(report: Mapping[str, Any]) -> list[str]:
    """What stage=explore found, a line each, and below it what could not be concluded."""
    say = page_words(report.get("language"))
    found, limits = list(report.get("sentences") or []), list(report.get("limits") or [])
    lines = [f"{say['found']}:", *(f"  {line}" for line in found or [say["nothing"]])]
    return [*lines, f"{say['limits']}:", *(f"  {line}" for line in limits)] if limits else lines


def baseline_lines(report: Mapping[str, Any]) -> list[str]:
    """The model beside the simple methods, in the metric they are compared by, and the sentence about it."""
    beside = report.get("baselines")
    if not beside:
        return []
    split, metric = beside["split"], beside["metric"]
    methods = {"this model": report["scores"][split], **beside["methods"]}
    wide = max(map(len, methods))
    lines = [
        f"  {name:<{wide}}  {metric} {formatting.number(scores[metric]['value'])}" for name, scores in methods.items()
    ]
    return [f"beside simple methods ({split}):", *lines, beside["verdict"]]


def score_lines(report: Mapping[str, Any]) -> list[str]:
    """The same, one tab-separated line a score with a heading line, for pipes."""
    heads, rows = score_rows(report)
    return ["\t".join(cells) for cells in ([heads, *rows] if rows else [])]
