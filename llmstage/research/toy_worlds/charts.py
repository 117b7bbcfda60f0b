"""What was measured along a run of a gold world, as charts."""

from __future__ import annotations

from typing import Any

from llmstage.explore.wording import say


def chart(title: str, lines: list[dict[str, float]], names: dict[str, str], y_label: str) -> dict[str, Any]:
    """Columns of the snapshots over steps; `names`: column to its word for a reader."""
    x = [line["step"] for line in lines]
    series = [{"name": word, "x": x, "y": [line[name] for line in lines]} for name, word in names.items()]
    return {
        "kind": "lines",
        "title": title,
        "x_label": say("step"),
        "y_label": y_label,
        "series": series,
        "log_y": False,
    }
