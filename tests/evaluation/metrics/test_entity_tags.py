"""Entity scores against seqeval in strict mode, called directly."""

from __future__ import annotations

import random
import warnings
from typing import Any

import pytest
from seqeval.metrics import accuracy_score
from seqeval.metrics.v1 import precision_recall_fscore_support
from seqeval.scheme import IOB2, IOBES

from llmstage.data.tag_schemes import LETTERS
from llmstage.evaluation.metrics.entity_tags import counts_by_type, tag_scores, type_scores

THEIRS = {"iob2": IOB2, "iobes": IOBES}


def drawn(scheme: str, num: int, seed: int) -> tuple[list[list[str]], list[list[str]]]:
    """(predicted, expected): any tags at all, legal or not; half of them right."""
    rng = random.Random(seed)
    known = [
        "O",
        "O",
        *(f"{letter}-{entity_type}" for letter in LETTERS[scheme] for entity_type in ("PER", "LOC", "ORG")),
    ]
    expected = [[rng.choice(known) for _ in range(rng.randint(1, 9))] for _ in range(num)]
    predicted = [[tag if rng.random() < 0.7 else rng.choice(known) for tag in tags] for tags in expected]
    return predicted, expected


def seqeval(predicted: Any, expected: Any, scheme: str, average: str | None) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return precision_recall_fscore_support(
            expected, predicted, average=average, scheme=THEIRS[scheme], zero_division=0
        )


@pytest.mark.parametrize("scheme", ["iob2", "iobes"])
def test_scores_equal_seqeval_strict(scheme: str) -> None:
    predicted, expected = drawn(scheme, 300, 1)
    scores = tag_scores(predicted, expected, scheme)
    micro, macro, weighted = (seqeval(predicted, expected, scheme, how) for how in ("micro", "macro", "weighted"))
    assert [scores[name].value for name in ("precision", "recall", "f1")] == pytest.approx(micro[:3])
    assert scores["macro_f1"].value == pytest.approx(macro[2])
    assert scores["weighted_f1"].value == pytest.approx(weighted[2])
    assert scores["token_accuracy"].value == pytest.approx(accuracy_score(expected, predicted))
    table = type_scores(predicted, expected, scheme)
    assert list(table) == ["LOC", "ORG", "PER", "micro", "macro", "weighted"]
    each = seqeval(predicted, expected, scheme, None)
    for row, entity_type in enumerate(("LOC", "ORG", "PER")):
        assert list(table[entity_type].values()) == pytest.approx([float(column[row]) for column in each])


@pytest.mark.parametrize("scheme", ["iob2", "iobes"])
def test_the_counts_behind_the_intervals_are_seqevals(scheme: str) -> None:
    predicted, expected = drawn(scheme, 300, 2)
    hits, predicted_counts, true_counts = (part.sum(0) for part in counts_by_type(predicted, expected, scheme))
    precision, recall, _, support = seqeval(predicted, expected, scheme, None)
    assert list(true_counts) == list(support)
    assert list(hits / predicted_counts) == pytest.approx(list(precision)) and list(
        hits / true_counts
    ) == pytest.approx(list(recall))
    for name, score in tag_scores(predicted, expected, scheme).items():
        assert score.low is not None and score.high is not None and score.low < score.value < score.high, name
        assert score.method == "bootstrap"


def test_without_entities_nothing_was_measured() -> None:
    scores = tag_scores([["O", "O"]], [["O", "O"]], "iob2")
    assert (scores["f1"].value, scores["f1"].count, scores["f1"].low) == (0.0, 0, None)
    assert scores["token_accuracy"].value == 1.0
    only_said = tag_scores([["B-PER"], ["O"]], [["O"], ["O"]], "iob2")
    assert only_said["f1"].value == 0.0 and only_said["precision"].count == 0


def test_perfect_predictions() -> None:
    _, expected = drawn("iob2", 50, 3)
    assert {score.value for score in tag_scores(expected, expected, "iob2").values()} == {1.0}
