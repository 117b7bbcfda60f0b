"""Tables beside the scores of a recommender: cold items, short and long histories, how much of the catalogue is shown."""

from __future__ import annotations

from typing import Any

from llmstage.evaluation.metrics.recommendation import ranking_scores

LENGTHS = ((0, 0), (1, 9), (10, 49), (50, 199), (200, None))
"""Items that a user had before; the last has no end."""


def ranking_tables(
    predictions: list[Any], refs: list[Any], num_items: int, facts: dict[str, int]
) -> list[dict[str, Any]]:
    """Exhibits: scores by slice, coverage, and what was counted while the data was read."""
    clicked = [(item["rank"], ref) for item, ref in zip(predictions, refs, strict=True) if ref["click"]]
    slices = [("all", clicked)]
    slices.append(("items met in training", [pair for pair in clicked if not pair[1]["cold"]]))
    slices.append(("cold items (scored from text alone)", [pair for pair in clicked if pair[1]["cold"]]))
    for low, high in LENGTHS:
        name = f"{low} and more items before" if high is None else f"{low} to {high} items before"
        within = [
            pair for pair in clicked if pair[1]["history"] >= low and (high is None or pair[1]["history"] <= high)
        ]
        slices.append(("no item before" if high == 0 else name, within))
    names = ("ndcg@10", "hit@10", "mrr")
    rows = []
    for name, pairs in slices:
        if pairs:
            scores = ranking_scores([rank for rank, _ in pairs], [ref["user"] for _, ref in pairs])
            rows.append([name, str(len(pairs)), *(f"{scores[metric].value:.4f}" for metric in names)])
    shown = {index for item in predictions for index in item["top"]}
    counted = [[name, f"{count:,}"] for name, count in facts.items()]
    counted.append(["items in the catalogue", f"{num_items:,}"])
    counted.append(["of them shown in some top 10 (coverage)", f"{len(shown):,} ({len(shown) / num_items:.1%})"])
    return [
        {"kind": "table", "title": "Ranking by slice", "columns": ["slice", "clicks", *names], "rows": rows},
        {"kind": "table", "title": "Interactions and items", "columns": ["what", "count"], "rows": counted},
    ]


def ranking_record(prediction: Any, ref: Any, ids: list[str], texts: list[str]) -> dict[str, Any]:
    """A line of predictions.jsonl: the best items with their chances, the held-out one and its rank."""
    best = zip(prediction["top"], prediction["chances"], strict=True)
    return {
        "user": ref["user"],
        "prediction": [{"item": ids[at], "text": texts[at], "probability": round(chance, 6)} for at, chance in best],
        "reference": {"item": ref["item"], "text": ref["text"]},
        "rank": prediction["rank"] if ref["click"] else None,
        "click": ref["click"],
        "probability": round(prediction["p"], 6),
        "history": ref["history"],
        "cold": ref["cold"],
    }
