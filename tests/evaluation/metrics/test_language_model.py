"""Language-model scores against numbers worked by hand."""

from __future__ import annotations

import math

import pytest

from llmstage.evaluation.metrics.language_model import language_model_scores


def test_a_uniform_model_over_four_tokens_of_one_byte() -> None:
    scores = language_model_scores([3 * math.log(4), 5 * math.log(4)], [3, 5], [1, 1], [3, 5])
    assert scores["perplexity"].value == pytest.approx(4)
    assert scores["bits_per_byte"].value == pytest.approx(2)
    assert scores["token_accuracy"].value == 0.25
    assert [score.count for score in scores.values()] == [8, 8, 8, 8]
    assert [score.higher_is_better for score in scores.values()] == [False, False, True, False]


def test_bits_per_byte_rest_on_rows_with_known_bytes_only() -> None:
    scores = language_model_scores([8 * math.log(2), 99.0], [8, 9], [0, 9], [4, None])
    assert scores["bits_per_byte"].value == pytest.approx(2) and scores["bits_per_byte"].count == 4
    assert "bits_per_byte" not in language_model_scores([1.0], [1], [1], None)
    assert "bits_per_byte" not in language_model_scores([1.0], [1], [1], [None])


def test_rows_weigh_by_their_tokens() -> None:
    scores = language_model_scores([0.0, 10.0], [90, 10], [90, 0], None)
    assert scores["perplexity"].value == pytest.approx(math.exp(0.1)) and scores["token_accuracy"].value == 0.9
