"""Scores of answers to questions: exact match and F1 of SQuAD; Chinese text is compared by character."""

from __future__ import annotations

import itertools
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

from llmstage.evaluation.metrics.generation import CJK
from llmstage.evaluation.metrics.score import Score, mean, proportion

ARTICLES = re.compile(r"\b(a|an|the)\b")
HAS_CJK = re.compile(f"[{CJK}]")
CHINESE_UNITS = re.compile(rf"[{CJK}]|[^\s{CJK}]+")


def english_words(text: str) -> list[str]:
    """Return lower-cased words without ASCII punctuation and articles, as normalize_answer of SQuAD v1.1 does."""
    letters = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return ARTICLES.sub(" ", letters).split()


def chinese_words(text: str) -> list[str]:
    """Return lower-cased words without punctuation of any script. Each Chinese character or kana is a word.

    The mixed segmentation of CMRC 2018 (Cui et al. 2019) and MLQA (Lewis et al. 2020).
    """
    letters = "".join(letter for letter in text.lower() if not is_punctuation(letter))
    return CHINESE_UNITS.findall(letters)


def is_punctuation(letter: str) -> bool:
    return letter in string.punctuation or unicodedata.category(letter).startswith("P")


def exact_and_f1(answer: str, references: Sequence[str]) -> tuple[bool, float]:
    """Return (exact match, F1) with the best matching reference. Without references, the correct answer is an empty text.

    Rajpurkar et al. (2016), section 6.1, and the v2.0 script for an empty answer or reference. Texts are split by
    character if any reference contains a Chinese character.
    """
    split = chinese_words if any(HAS_CJK.search(reference) for reference in references) else english_words
    predicted = split(answer)
    expected = [split(reference) for reference in references or [""]]
    return any(predicted == reference for reference in expected), max(
        overlap_f1(predicted, reference) for reference in expected
    )


def overlap_f1(predicted: list[str], expected: list[str]) -> float:
    """Return the harmonic mean of precision and recall over the bags of words; 1 or 0 if one is empty."""
    if not predicted or not expected:
        return float(predicted == expected)
    num_common = sum((Counter(predicted) & Counter(expected)).values())
    return 2 * num_common / (len(predicted) + len(expected))


def answer_scores(answers: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Score]:
    """Return `exact_match` and `f1`, from 0 to 1.

    If some rows have no reference (SQuAD v2), also return `no_answer_accuracy`, the share of these rows with an empty
    answer, and `answerable_f1` of the other rows.
    """
    pairs = [exact_and_f1(answer, row_references) for answer, row_references in zip(answers, references, strict=True)]
    scores = {"exact_match": proportion([exact for exact, _ in pairs]), "f1": mean([f1 for _, f1 in pairs])}
    unanswerable = [number for number, row_references in enumerate(references) if not row_references]
    if unanswerable:
        scores["no_answer_accuracy"] = proportion([not answers[number].strip() for number in unanswerable])
        answerable_f1 = [f1 for (_, f1), row_references in zip(pairs, references, strict=True) if row_references]
        if answerable_f1:
            scores["answerable_f1"] = mean(answerable_f1)
    return scores


def best_threshold(margins: Sequence[float], answered: Sequence[float], unanswered: Sequence[float]) -> float:
    """Return the threshold with the highest mean score. A row gets the empty answer if its margin is above the threshold.

    `margins` [N]: log-probability of no answer minus that of the best span; `answered`, `unanswered` [N]: the score of the
    row with the span and with the empty answer. The result lies midway between two neighbouring margins; of equally good
    thresholds, it is the one nearest to 0.
    """
    order = sorted(range(len(margins)), key=lambda row: margins[row])
    total = sum(unanswered)  # below the smallest margin, every row gets the empty answer
    sorted_margins = [margins[row] for row in order]
    options = [(total, min(sorted_margins[0] - 1.0, 0.0))]
    for position, row in enumerate(order):
        total += answered[row] - unanswered[row]
        if position + 1 == len(order):
            options.append((total, max(sorted_margins[position] + 1.0, 0.0)))
        elif sorted_margins[position] < sorted_margins[position + 1]:
            # Every number between the two gives the same score; 0 needs no explanation.
            contains_zero = sorted_margins[position] < 0.0 < sorted_margins[position + 1]
            options.append(
                (total, 0.0 if contains_zero else (sorted_margins[position] + sorted_margins[position + 1]) / 2)
            )
    best = max(value for value, _ in options)
    return min((threshold for value, threshold in options if value >= best - 1e-9), key=abs)


def answer_tables(
    answers: Sequence[str],
    references: Sequence[Sequence[str]],
    question_words: Sequence[str],
    lengths: Sequence[int],
    num_ambiguous: int = 0,
) -> list[dict[str, Any]]:
    """Return tables of the scores by question word and by quarters of the context length in characters.

    `num_ambiguous`: references without a given position that occur more than once in their context.
    """
    if not answers:
        return []
    sorted_lengths = sorted(lengths)
    # Upper bounds of the first three quarters, and the name of each quarter.
    quarters = [sorted_lengths[min(len(sorted_lengths) - 1, part * len(sorted_lengths) // 4)] for part in (1, 2, 3)]
    names = [f"up to {quarters[0]}", *(f"{a + 1} to {b}" for a, b in itertools.pairwise(quarters))]
    names.append(f"above {quarters[-1]}")
    length_groups = [names[sum(size > bound for bound in quarters)] for size in lengths]
    by_question_word = scores_by_group(
        "question word",
        answers,
        references,
        question_words,
        sorted(set(question_words), key=question_words.count, reverse=True),
    )
    if num_ambiguous:
        by_question_word["note"] = (
            f"{num_ambiguous} references have no answer_start and occur more than once: the first occurrence is used."
        )
    by_length = scores_by_group(
        "characters of the context", answers, references, length_groups, list(dict.fromkeys(names))
    )
    return [by_question_word, by_length]


def scores_by_group(
    group_name: str,
    answers: Sequence[str],
    references: Sequence[Sequence[str]],
    groups: Sequence[str],
    order: Sequence[str],
) -> dict[str, Any]:
    """Return a table of the scores of each group, in the given order."""
    rows = []
    for group in order:
        members = [number for number, name in enumerate(groups) if name == group]
        if not members:
            continue
        scores = answer_scores([answers[number] for number in members], [references[number] for number in members])
        cells = [f"{scores[name].value:.3f}" for name in ("exact_match", "f1")]
        low, high = scores["exact_match"].low, scores["exact_match"].high
        rows.append([group, *cells, f"{low:.3f} to {high:.3f}", str(len(members))])
    columns = [group_name, "exact match", "F1", "95 % of exact match (Wilson)", "questions"]
    return {"kind": "table", "title": f"Answers by {group_name}", "columns": columns, "rows": rows}


def best_of_first_spans(
    spans: Sequence[Sequence[str]], references: Sequence[Sequence[str]], max_spans: int
) -> list[dict[str, Any]]:
    """Return a table of the best score among the first 1, 2, … `max_spans` spans, over the questions that have an answer."""
    answerable = [(list(row_spans), texts) for row_spans, texts in zip(spans, references, strict=True) if texts]
    rows = []
    for count in range(1, max_spans + 1 if answerable else 1):
        row_scores = [
            [exact_and_f1(text, texts) for text in row_spans[:count] or [""]] for row_spans, texts in answerable
        ]
        exact = sum(any(hit for hit, _ in pairs) for pairs in row_scores) / len(row_scores)
        f1 = sum(max(f1 for _, f1 in pairs) for pairs in row_scores) / len(row_scores)
        rows.append([str(count), f"{exact:.3f}", f"{f1:.3f}"])
    title = "Best of the first spans, on questions with an answer"
    table = {"kind": "table", "title": title, "columns": ["spans", "exact match", "F1"], "rows": rows}
    return [table] if rows else []
