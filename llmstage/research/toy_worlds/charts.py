"""Charts of the toy worlds: measures of the snapshots of a run over its training steps."""

from __future__ import annotations

from typing import Any

from llmstage.research.wording import sentence

COLUMNS = {"train_accuracy": "training_pairs", "held_out_accuracy": "held_out_pairs"}
"""Measures whose label has another key than their own name."""


def chart(title: str, lines: list[dict[str, float]], names: dict[str, str], y_label: str) -> dict[str, Any]:
    """Return a line chart of columns of the snapshots over steps. `names`: column to its label."""
    x = [line["step"] for line in lines]
    series = [{"name": word, "x": x, "y": [line[name] for line in lines]} for name, word in names.items()]
    return {
        "kind": "lines",
        "title": title,
        "x_label": sentence("step"),
        "y_label": y_label,
        "series": series,
        "log_y": False,
    }


def grokking_charts(lines: list[dict[str, float]]) -> list[dict[str, Any]]:
    """Accuracies, progress measures and key frequencies of a grokking run."""

    def chart_of(title: str, unit: str, *names: str) -> dict[str, Any]:
        return chart(
            sentence(title), lines, {name: sentence(COLUMNS.get(name, name)) for name in names}, sentence(unit)
        )

    return [
        chart_of("right_answers", "share", "train_accuracy", "held_out_accuracy"),
        chart_of("hidden_progress", "nats", "excluded_loss", "restricted_loss"),
        chart_of("key_frequencies", "share", "key_share", "gini"),
    ]


def induction_charts(lines: list[dict[str, float]]) -> list[dict[str, Any]]:
    """Attention scores, accuracy and losses of an induction run."""
    shares = {
        "prefix_matching": sentence("best_prefix"),
        "previous_token": sentence("best_previous"),
        "accuracy": sentence("accuracy"),
    }
    losses = {"loss": sentence("loss"), "context_gain": sentence("late_minus_early")}
    return [
        chart(sentence("copying_appears"), lines, shares, sentence("share")),
        chart(sentence("repeated_loss"), lines, losses, sentence("nats")),
    ]


def growth_charts(before: list[dict[str, float]], after: list[dict[str, float]]) -> list[dict[str, Any]]:
    """Accuracy and attention scores through both trainings, on one axis of steps."""
    last = before[-1]["step"]
    all_lines = [*before, *({**line, "step": last + line["step"]} for line in after[1:])]
    names = {
        "accuracy": sentence("accuracy"),
        "prefix_matching": sentence("best_prefix"),
        "previous_token": sentence("best_previous"),
    }
    return [chart(sentence("layer_added", step=last), all_lines, names, sentence("share"))]
