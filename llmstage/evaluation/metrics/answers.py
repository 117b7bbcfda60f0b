"""Scores of answers to questions: SQuAD's exact match and F1, for Chinese by character."""

from __future__ import annotations

import itertools
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

from llmstage.evaluation.metrics.generation import CJK
from llmstage.evaluation.metrics.intervals import mean, proportion
from llmstage.evaluation.metrics.score import Score

ARTICLES = re.compile(r"\b(a|an|the)\b")
HAS_CJK = re.compile(f"[{CJK}]")
PIECES = re.compile(rf"[{CJK}]|[^\s{CJK}]+")


def english_words(text: str) -> list[str]:
    """Lower case, without ASCII punctuation and articles, split at white space: SQuAD v1.1's normalize_answer."""
    kept = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return ARTICLES.sub(" ", kept).split()


def chinese_words(text: str) -> list[str]:
    """Lower case, without punctuation of any script; each Chinese character or kana is a word, other runs are whole.

    The mixed segmentation of CMRC 2018 (Cui et al. 2019) and MLQA (Lewis et al. 2020).
    """
    kept = "".join(letter for letter in text.lower() if not is_punctuation(letter))
    return PIECES.findall(kept)


def is_punctuation(letter: str) -> bool:
    return letter in string.punctuation or unicodedata.category(letter).startswith("P")


def exact_and_f1(answer: str, references: Sequence[str]) -> tuple[bool, float]:
    """(exact match, F1) with the reference that fits best; no reference: the right answer is none, an empty text.

    Rajpurkar et al. (2016), section 6.1, and the v2.0 script where an answer or a reference is empty. A row with a
    Chinese character in any reference is split by character.
    """
    split = chinese_words if any(HAS_CJK.search(one) for one in references) else english_words
    said = split(answer)
    wanted = [split(one) for one in references or [""]]
    return any(said == one for one in wanted), max(overlap_f1(said, one) for one in wanted)


def overlap_f1(said: list[str], wanted: list[str]) -> float:
    """Harmonic mean of precision and recall over the bags of words; 1 or 0 where one is empty."""
    if not said or not wanted:
        return float(said == wanted)
    same = sum((Counter(said) & Counter(wanted)).values())
    return 2 * same / (len(said) + len(wanted))


def answer_scores(answers: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Score]:
    """`exact_match` and `f1`; where some rows have no reference (SQuAD v2), also `no_answer_accuracy`, the share of
    those that were left unanswered, and `answerable_f1` of the others. All from 0 to 1."""
    pairs = [exact_and_f1(answer, told) for answer, told in zip(answers, references, strict=True)]
    scores = {"exact_match": proportion([exact for exact, _ in pairs]), "f1": mean([f1 for _, f1 in pairs])}
    open_ones = [number for number, told in enumerate(references) if not told]
    if open_ones:
        scores["no_answer_accuracy"] = proportion([not answers[number].strip() for number in open_ones])
        rest = [f1 for (_, f1), told in zip(pairs, references, strict=True) if told]
        if rest:
            scores["answerable_f1"] = mean(rest)
    return scores


def best_threshold(margins: Sequence[float], answered: Sequence[float], silent: Sequence[float]) -> float:
    """The threshold t that makes the mean score highest where a row is left unanswered if its margin is above t.

    `margins` [N]: how much likelier no answer is than the best span; `answered`, `silent` [N]: the row's score either
    way. The middle between two neighbours is taken; among equals the one nearest to 0.
    """
    order = sorted(range(len(margins)), key=lambda row: margins[row])
    total = sum(silent)  # below the smallest margin every row is left unanswered
    ends = [margins[row] for row in order]
    options = [(total, min(ends[0] - 1.0, 0.0))]
    for place, row in enumerate(order):
        total += answered[row] - silent[row]
        if place + 1 == len(order):
            options.append((total, max(ends[place] + 1.0, 0.0)))
        elif ends[place] < ends[place + 1]:
            # 0 is as good as any other number between the two.
            inside = ends[place] < 0.0 < ends[place + 1]
            options.append((total, 0.0 if inside else (ends[place] + ends[place + 1]) / 2))
    best = max(value for value, _ in options)
    return min((threshold for value, threshold in options if value >= best - 1e-9), key=abs)


def answer_tables(
    answers: Sequence[str],
    references: Sequence[Sequence[str]],
    kinds: Sequence[str],
    sizes: Sequence[int],
    unclear: int = 0,
) -> list[dict[str, Any]]:
    """Tables of the scores by question word and by quarters of the context's length in characters."""
    if not answers:
        return []
    bounds = sorted(sizes)
    quarters = [bounds[min(len(bounds) - 1, part * len(bounds) // 4)] for part in (1, 2, 3)]
    names = [f"up to {quarters[0]}", *(f"{a + 1} to {b}" for a, b in itertools.pairwise(quarters))]
    names.append(f"above {quarters[-1]}")
    of_size = [names[sum(size > bound for bound in quarters)] for size in sizes]
    by_kind = table_of("question word", answers, references, kinds, sorted(set(kinds), key=kinds.count, reverse=True))
    if unclear:
        by_kind["note"] = f"{unclear} references came without a place and occur more than once: the first was taken."
    by_size = table_of("characters of the context", answers, references, of_size, list(dict.fromkeys(names)))
    return [by_kind, by_size]


def table_of(
    word: str,
    answers: Sequence[str],
    references: Sequence[Sequence[str]],
    groups: Sequence[str],
    order: Sequence[str],
) -> dict[str, Any]:
    rows = []
    for group in order:
        chosen = [number for number, name in enumerate(groups) if name == group]
        if not chosen:
            continue
        scores = answer_scores([answers[number] for number in chosen], [references[number] for number in chosen])
        shown = [f"{scores[name].value:.3f}" for name in ("exact_match", "f1")]
        low, high = scores["exact_match"].low, scores["exact_match"].high
        rows.append([group, *shown, f"{low:.3f} to {high:.3f}", str(len(chosen))])
    columns = [word, "exact match", "F1", "95 % of exact match (Wilson)", "questions"]
    return {"kind": "table", "title": f"Answers by {word}", "columns": columns, "rows": rows}


def among_the_first(
    spans: Sequence[Sequence[str]], references: Sequence[Sequence[str]], most: int
) -> list[dict[str, Any]]:
    """A table of the best score among the first 1, 2, … `most` spans, over the questions that have an answer."""
    told = [(list(found), texts) for found, texts in zip(spans, references, strict=True) if texts]
    rows = []
    for count in range(1, most + 1 if told else 1):
        best = [[exact_and_f1(text, texts) for text in found[:count] or [""]] for found, texts in told]
        exact = sum(any(hit for hit, _ in pairs) for pairs in best) / len(best)
        f1 = sum(max(f1 for _, f1 in pairs) for pairs in best) / len(best)
        rows.append([str(count), f"{exact:.3f}", f"{f1:.3f}"])
    title = "Best of the first spans, on questions with an answer"
    table = {"kind": "table", "title": title, "columns": ["spans", "exact match", "F1"], "rows": rows}
    return [table] if rows else []
