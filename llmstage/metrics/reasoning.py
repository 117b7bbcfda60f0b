"""Answers about pictures: when two are the same, what the picture adds, and means over kinds of questions."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np

from llmstage.metrics.answers import is_punctuation
from llmstage.metrics.composition import split_rows
from llmstage.metrics.intervals import bootstrap_score, mean, resampled_sums
from llmstage.metrics.score import Score

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
