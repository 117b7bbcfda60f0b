"""Scores of tag sequences: seqeval in strict mode computes the values, the bootstrap over sentences the intervals."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmstage.data.tag_schemes import output_scheme, spans_of
from llmstage.evaluation.metrics.score import Score, bootstrap_score, ratio, resampled_sums

NAMES = ("precision", "recall", "f1", "macro_f1", "weighted_f1")
MEANS = {"micro avg": "micro", "macro avg": "macro", "weighted avg": "weighted"}

Tags = Sequence[Sequence[str]]


def type_scores(predicted: Tags, expected: Tags, scheme: str) -> dict[str, dict[str, float]]:
    """Return {type: {precision, recall, f1, support}} with `micro`, `macro` and `weighted` last, from seqeval's strict report.

    The types are those of references and predictions. The result is empty if there is no entity in either.
    """
    from seqeval.metrics import classification_report
    from seqeval.scheme import IOB2, IOBES

    if not any(spans_of(tags, scheme) for side in (expected, predicted) for tags in side):
        return {}  # seqeval raises on this
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # seqeval returns 0 for a type that is never predicted, which is right here
        report: dict[str, Any] = classification_report(
            [list(tags) for tags in expected],
            [list(tags) for tags in predicted],
            mode="strict",
            scheme=IOBES if output_scheme(scheme) == "iobes" else IOB2,
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
    """Return `precision recall f1 macro_f1 weighted_f1` of entities (exact span and type) and `token_accuracy`.

    `scheme`: iob2 or iobes. If the references have no entity, the first five are 0 by convention, as in seqeval, with a
    count of 0.
    """
    table = type_scores(predicted, expected, scheme)
    correct_counts, predicted_counts, true_counts = counts_by_type(predicted, expected, scheme)
    num_entities = int(true_counts.sum())
    values = dict.fromkeys(NAMES, 0.0)
    if table:
        values = {name: table["micro"][name] for name in ("precision", "recall", "f1")}
        values |= {"macro_f1": table["macro"]["f1"], "weighted_f1": table["weighted"]["f1"]}
    resampled = {}
    if len(correct_counts) > 1 and correct_counts.shape[1]:
        # Sentences are resampled, not entities: entities of one sentence depend on each other.
        sums = resampled_sums(np.concatenate([correct_counts, predicted_counts, true_counts], axis=1))
        resampled = scores_of_sums(*np.split(sums, 3, axis=1))
    scores = {
        name: bootstrap_score(value, resampled[name], num_entities)
        if name in resampled
        else Score(value, count=num_entities)
        for name, value in values.items()
    }
    correct_tags = [sum(a == b for a, b in zip(*pair, strict=True)) for pair in zip(predicted, expected, strict=True)]
    lengths = [len(tags) for tags in expected]
    return {**scores, "token_accuracy": ratio(correct_tags, lengths, count=sum(lengths))}


def counts_by_type(
    predicted: Tags, expected: Tags, scheme: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the numbers of correct, predicted and true entities, each [sentences, types]."""
    pairs = [
        (spans_of(predicted_tags, scheme), spans_of(expected_tags, scheme))
        for predicted_tags, expected_tags in zip(predicted, expected, strict=True)
    ]
    entity_types = sorted({span[0] for pair in pairs for side in pair for span in side})
    index_of = {entity_type: index for index, entity_type in enumerate(entity_types)}
    counts = np.zeros((3, len(pairs), len(entity_types)))
    for row, (predicted_spans, expected_spans) in enumerate(pairs):
        for which, spans in enumerate((set(predicted_spans) & set(expected_spans), predicted_spans, expected_spans)):
            for entity_type, count in Counter(span[0] for span in spans).items():
                counts[which, row, index_of[entity_type]] = count
    return counts[0], counts[1], counts[2]


def scores_of_sums(
    hits: NDArray[np.float64], predicted: NDArray[np.float64], expected: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Return the five scores of R resamples, given as sums by type [R, types]."""
    f1 = divide(2 * hits, predicted + expected)
    num_expected, occurs = expected.sum(1), (predicted + expected > 0).sum(1)
    return {
        "precision": divide(hits.sum(1), predicted.sum(1)),
        "recall": divide(hits.sum(1), num_expected),
        "f1": divide(2 * hits.sum(1), predicted.sum(1) + num_expected),
        "macro_f1": divide(f1.sum(1), occurs.astype(np.float64)),
        "weighted_f1": divide((f1 * expected).sum(1), num_expected),
    }


def divide(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the quotient; 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
