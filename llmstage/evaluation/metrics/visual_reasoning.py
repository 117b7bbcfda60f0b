"""Answers about pictures: when two are the same, what the picture adds, and means over kinds of questions."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from llmstage.evaluation.metrics.answers import is_punctuation
from llmstage.evaluation.metrics.composition import kind_exhibit, share, split_rows
from llmstage.evaluation.metrics.generation import split_words
from llmstage.evaluation.metrics.intervals import bootstrap_score, mean, resampled_sums
from llmstage.evaluation.metrics.score import Score

ReportItem = dict[str, Any]

BLIND = "blind"
FIRST_WORDS = 3
ERRORS = 15
"""Lines of the table of mistakes."""
TRUE = frozenset({"true", "yes", "1", "是", "对", "是的", "对的", "正确"})
FALSE = frozenset({"false", "no", "0", "否", "错", "不是", "不对", "错误"})


def normal(text: str) -> str:
    """Lower case, one form of each character (NFKC), single spaces, no punctuation around words: `The  Left.` and `the left`
    are the same answer. A sign or a point inside a number stays, so that -3 is not 3."""
    words = []
    for word in unicodedata.normalize("NFKC", text).casefold().split():
        start, stop = 0, len(word)
        while stop > start and is_punctuation(word[stop - 1]):
            stop -= 1
        while start < stop and is_punctuation(word[start]) and not (word[start] == "-" and word[start + 1].isdigit()):
            start += 1
        if word[start:stop]:
            words.append(word[start:stop])
    # An answer of nothing but punctuation (`+`, `?`) is what it is.
    return " ".join(words) or " ".join(text.split())


def truth_of(text: str) -> str | None:
    """`true` or `false` for the spellings of truth values in English and Chinese; None for anything else."""
    word = normal(text)
    return "true" if word in TRUE else "false" if word in FALSE else None


def image_gain(right: Sequence[float], blind: Sequence[float]) -> Score:
    """Share of right answers minus that of the model without the picture, on the same rows: the paired bootstrap over rows
    (their difference is drawn row by row, so what both find easy adds no width)."""
    return mean(np.asarray(right, dtype=np.float64) - np.asarray(blind, dtype=np.float64))


def macro_by_kind(right: Sequence[float], kinds: Sequence[str | None]) -> Score | None:
    """Mean of the accuracies of the kinds, each kind counting the same; rows are drawn within their kinds. None where rows
    have fewer than two kinds."""
    parts = split_rows(right, kinds)
    if len(parts) < 2:
        return None
    drawn = [
        resampled_sums(np.asarray(parts[kind])[:, None], seed=seed)[:, 0] / len(parts[kind])
        for seed, kind in enumerate(sorted(parts))
    ]
    value = float(np.mean([np.mean(rows) for rows in parts.values()]))
    return bootstrap_score(value, np.mean(drawn, axis=0), sum(map(len, parts.values())))


def answered(predictions: list[Any], refs: list[Any]) -> tuple[list[str], list[Any], list[Any]]:
    """(answers, refs, predictions) of the rows that were answered: text is not generated for all of them at all times."""
    pairs = [(item, ref) for item, ref in zip(predictions, refs, strict=True) if "answer" in item]
    return [item["answer"] for item, _ in pairs], [ref for _, ref in pairs], [item for item, _ in pairs]


def hits(said: Sequence[str], refs: list[Any]) -> list[float]:
    """1 where the answer is the right one, but for case, spaces and punctuation."""
    return [float(normal(answer) == normal(ref["answer"])) for answer, ref in zip(said, refs, strict=True)]


def by_kind(right: list[float], refs: list[Any], blind: list[float] | None = None) -> list[ReportItem]:
    """Accuracy by kind of question; `blind`: what the model without the picture got right, shown beside it."""
    kinds = [ref["kind"] for ref in refs]
    parts = split_rows(right, kinds)
    if not parts:
        return []
    theirs = {kind: share(rows) for kind, rows in split_rows(blind, kinds).items()} if blind is not None else {}
    chart, table = kind_exhibit("accuracy", right, kinds, {kind: score.value for kind, score in theirs.items()})
    values = {
        kind: {"accuracy": share(rows).as_dict(), **({BLIND: theirs[kind].as_dict()} if kind in theirs else {})}
        for kind, rows in parts.items()
    }
    return [chart, {**table, "report_key": "kinds", "values": values}]


def mistakes(said: list[str], refs: list[Any], right: list[float]) -> list[ReportItem]:
    wrong = Counter((ref["answer"], answer) for answer, ref, hit in zip(said, refs, right, strict=True) if not hit)
    if not wrong:
        return []
    rows = [[told, answer, str(count)] for (told, answer), count in wrong.most_common(ERRORS)]
    return [{"kind": "table", "title": "Most frequent mistakes", "columns": ["right", "said", "rows"], "rows": rows}]


def beginning(question: str) -> str:
    """Its first words; of Chinese, its first characters."""
    return " ".join(split_words(question.lower())[:FIRST_WORDS])
