"""Scores of answers about images: accuracy by question type, and the gain over the same model without the image."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from llmstage.evaluation.metrics.answers import is_punctuation
from llmstage.evaluation.metrics.composition import group_score, question_type_items, split_rows
from llmstage.evaluation.metrics.generation import split_words
from llmstage.evaluation.metrics.score import Score, bootstrap_score, mean, resampled_sums

ReportItem = dict[str, Any]

BLIND = "blind"
FIRST_WORDS = 3
MAX_WRONG_ANSWERS = 15
"""Rows of the table of wrong answers."""
TRUE = frozenset({"true", "yes", "1", "是", "对", "是的", "对的", "正确"})
FALSE = frozenset({"false", "no", "0", "否", "错", "不是", "不对", "错误"})


def normalize_answer(text: str) -> str:
    """Return the answer in lower case and NFKC, with single spaces and without punctuation around words.

    `The  Left.` and `the left` are then equal. A sign or a point inside a number stays: -3 is not 3.
    """
    words = []
    for word in unicodedata.normalize("NFKC", text).casefold().split():
        start, stop = 0, len(word)
        while stop > start and is_punctuation(word[stop - 1]):
            stop -= 1
        while start < stop and is_punctuation(word[start]) and not (word[start] == "-" and word[start + 1].isdigit()):
            start += 1
        if word[start:stop]:
            words.append(word[start:stop])
    # An answer of punctuation only (`+`, `?`) stays as it is.
    return " ".join(words) or " ".join(text.split())


def truth_of(text: str) -> str | None:
    """Return `true` or `false` for an English or Chinese spelling of a truth value, else None."""
    word = normalize_answer(text)
    return "true" if word in TRUE else "false" if word in FALSE else None


def image_gain(correct: Sequence[float], blind: Sequence[float]) -> Score:
    """Return the accuracy minus that of the model without the image, on the same rows.

    The interval is the paired bootstrap: the difference of each row is resampled, so rows that both answer correctly do not
    widen it.
    """
    return mean(np.asarray(correct, dtype=np.float64) - np.asarray(blind, dtype=np.float64))


def macro_over_types(correct: Sequence[float], question_types: Sequence[str | None]) -> Score | None:
    """Return the unweighted mean of the accuracies by question type, with rows resampled within their type.

    None if the rows have fewer than two question types.
    """
    parts = split_rows(correct, question_types)
    if len(parts) < 2:
        return None
    drawn = [
        resampled_sums(np.asarray(parts[question_type])[:, None], seed=seed)[:, 0] / len(parts[question_type])
        for seed, question_type in enumerate(sorted(parts))
    ]
    value = float(np.mean([np.mean(rows) for rows in parts.values()]))
    return bootstrap_score(value, np.mean(drawn, axis=0), sum(map(len, parts.values())))


def answered(predictions: list[Any], refs: list[Any]) -> tuple[list[str], list[Any], list[Any]]:
    """Return (answers, refs, predictions) of the rows with an answer; a run may generate text for a part of the rows only."""
    pairs = [(item, ref) for item, ref in zip(predictions, refs, strict=True) if "answer" in item]
    return [item["answer"] for item, _ in pairs], [ref for _, ref in pairs], [item for item, _ in pairs]


def answer_hits(answers: Sequence[str], refs: list[Any]) -> list[float]:
    """Return 1 for each answer that equals its reference after normalize_answer(), else 0."""
    return [
        float(normalize_answer(answer) == normalize_answer(ref["answer"]))
        for answer, ref in zip(answers, refs, strict=True)
    ]


def question_type_items_of(correct: list[float], refs: list[Any], blind: list[float] | None = None) -> list[ReportItem]:
    """Return a chart and a table of the accuracy by question type; `blind`: the hits of the model without the image."""
    question_types = [ref["kind"] for ref in refs]
    parts = split_rows(correct, question_types)
    if not parts:
        return []
    blind_scores = (
        {question_type: group_score(rows) for question_type, rows in split_rows(blind, question_types).items()}
        if blind is not None
        else {}
    )
    chart, table = question_type_items(
        "accuracy",
        correct,
        question_types,
        {question_type: score.value for question_type, score in blind_scores.items()},
    )
    values = {
        question_type: {
            "accuracy": group_score(rows).as_dict(),
            **({BLIND: blind_scores[question_type].as_dict()} if question_type in blind_scores else {}),
        }
        for question_type, rows in parts.items()
    }
    return [chart, {**table, "report_key": "kinds", "values": values}]


def wrong_answers(answers: list[str], refs: list[Any], correct: list[float]) -> list[ReportItem]:
    """Return a table of the most frequent wrong answers."""
    counts = Counter(
        (ref["answer"], answer) for answer, ref, hit in zip(answers, refs, correct, strict=True) if not hit
    )
    if not counts:
        return []
    rows = [[reference, answer, str(count)] for (reference, answer), count in counts.most_common(MAX_WRONG_ANSWERS)]
    return [
        {
            "kind": "table",
            "title": "Most frequent wrong answers",
            "columns": ["reference", "predicted", "rows"],
            "rows": rows,
        }
    ]


def first_words(question: str) -> str:
    """Return the first words of a question; for Chinese, its first characters."""
    return " ".join(split_words(question.lower())[:FIRST_WORDS])
