"""Simple methods for any kinds of targets: one that looks at no row, and linear models on text, on columns, on both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmstage.evaluation.metrics.sklearn_baselines import beside, tfidf, tfidf_name
from llmstage.models.heads.base import Head

Said = dict[str, list[dict[str, Any]]]
"""Predictions of each target, by its word."""


def linear_methods(
    heads: list[Head],
    targets: dict[str, list[Any]],
    train_texts: Sequence[str],
    texts: Sequence[str],
    tables: Sequence[Any] | None,
) -> dict[str, Said]:
    """Predictions for `texts` by method: {name: {target: predictions}}.

    `targets`: refs of the training rows by target; `tables`: the feature matrices of training and asked rows, if any.
    """
    matrices: dict[str, tuple[Any, Any]] = {}
    if any(text.strip() for text in train_texts):
        matrices[tfidf_name(train_texts)] = tfidf(train_texts, texts)
    if tables is not None:
        matrices["columns"] = (tables[0], tables[1])
    if len(matrices) == 2:
        (known, asked), (known_columns, asked_columns) = matrices.values()
        matrices["text and columns"] = (beside(known, known_columns), beside(asked, asked_columns))
    alone = len(heads) == 1
    out: dict[str, Said] = {}
    for head in heads:
        name, predictions = head.prior(targets[head.word], len(texts))
        out.setdefault(name if alone else "most frequent or mean", {})[head.word] = predictions
        for columns, (x_train, x) in matrices.items():
            name, predictions = head.linear(x_train, targets[head.word], x)
            out.setdefault(f"{columns}, {name if alone else 'linear model'}", {})[head.word] = predictions
    return out
