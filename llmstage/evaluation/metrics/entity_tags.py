"""Scores of tag sequences: values by seqeval in strict mode, intervals by the bootstrap over sentences."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmstage.data.tag_schemes import family, spans_of
from llmstage.evaluation.metrics.intervals import bootstrap_score, ratio, resampled_sums
from llmstage.evaluation.metrics.score import Score

NAMES = ("precision", "recall", "f1", "macro_f1", "weighted_f1")
MEANS = {"micro avg": "micro", "macro avg": "macro", "weighted avg": "weighted"}

Tags = Sequence[Sequence[str]]


def type_scores(predicted: Tags, expected: Tags, scheme: str) -> dict[str, dict[str, float]]:
    """{type: {precision, recall, f1, support}} with the rows `micro`, `macro` and `weighted` last, as seqeval's strict
    report has them; types are those of references and predictions. Empty where no side has an entity."""
    from seqeval.metrics import classification_report
    from seqeval.scheme import IOB2, IOBES

    if not any(spans_of(tags, scheme) for side in (expected, predicted) for tags in side):
        return {}  # seqeval fails on this
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a type never predicted: its answer, 0, is the one wanted
        report: dict[str, Any] = classification_report(
            [list(tags) for tags in expected],
            [list(tags) for tags in predicted],
            mode="strict",
            scheme=IOBES if family(scheme) == "iobes" else IOB2,
            output_dict=True,
            zero_division=0,
        )
    return {
        MEANS.get(name, name): {
            "precision": float(row["precision"]),
            "recall": float(row["recall"]),
            "f1": float(row["f1-score"]),
            "support": int(row["support"]),
        }
        for name, row in report.items()
    }


def tag_scores(predicted: Tags, expected: Tags, scheme: str) -> dict[str, Score]:
    """`precision recall f1 macro_f1 weighted_f1` of entities (exact borders and type) and `token_accuracy`.

    `scheme`: iob2 or iobes. Where there is no entity in the references the first five are 0 by convention, as in
    seqeval, with a count of 0: nothing was measured.
    """
    table = type_scores(predicted, expected, scheme)
    hits, said, told = counts_by_type(predicted, expected, scheme)
    num = int(told.sum())
    values = dict.fromkeys(NAMES, 0.0)
    if table:
        values = {name: table["micro"][name] for name in ("precision", "recall", "f1")}
        values |= {"macro_f1": table["macro"]["f1"], "weighted_f1": table["weighted"]["f1"]}
    resampled = {}
    if len(hits) > 1 and hits.shape[1]:
        # Sentences, not entities, are drawn: entities of one sentence depend on each other.
        sums = resampled_sums(np.concatenate([hits, said, told], axis=1))
        resampled = scores_of_sums(*np.split(sums, 3, axis=1))
    scores = {
        name: bootstrap_score(value, resampled[name], num) if name in resampled else Score(value, count=num)
        for name, value in values.items()
    }
    right = [sum(a == b for a, b in zip(*pair, strict=True)) for pair in zip(predicted, expected, strict=True)]
    lengths = [len(tags) for tags in expected]
    return {**scores, "token_accuracy": ratio(right, lengths, count=sum(lengths))}


def counts_by_type(
    predicted: Tags, expected: Tags, scheme: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Entities found, predicted and true, each [sentences, types]."""
    pairs = [(spans_of(one, scheme), spans_of(two, scheme)) for one, two in zip(predicted, expected, strict=True)]
    kinds = sorted({span[0] for pair in pairs for side in pair for span in side})
    where = {kind: index for index, kind in enumerate(kinds)}
    found = np.zeros((3, len(pairs), len(kinds)))
    for row, (said, told) in enumerate(pairs):
        for layer, spans in enumerate((set(said) & set(told), said, told)):
            for kind, count in Counter(span[0] for span in spans).items():
                found[layer, row, where[kind]] = count
    return found[0], found[1], found[2]


def scores_of_sums(
    hits: NDArray[np.float64], said: NDArray[np.float64], told: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """The five scores of R resamples, given as sums by type [R, types]."""
    f1 = divide(2 * hits, said + told)
    true, either = told.sum(1), (said + told > 0).sum(1)
    return {
        "precision": divide(hits.sum(1), said.sum(1)),
        "recall": divide(hits.sum(1), true),
        "f1": divide(2 * hits.sum(1), said.sum(1) + true),
        "macro_f1": divide(f1.sum(1), either.astype(np.float64)),
        "weighted_f1": divide((f1 * told).sum(1), true),
    }


def divide(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
