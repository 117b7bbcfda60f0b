"""Texts as words, and the words that set one group of texts apart from the others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from llmstage.evaluation.metrics.generation import CJK, WORD

RUN = re.compile(rf"[{CJK}]+|[^\W_{CJK}]+")
SCRIPTS = {
    "Chinese": "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff", "Japanese": "\u3040-\u30ff",
    "Korean": "\uac00-\ud7af\u1100-\u11ff", "Cyrillic": "\u0400-\u052f", "Arabic": "\u0600-\u06ff",
    "Greek": "\u0370-\u03ff", "Hebrew": "\u0590-\u05ff", "Devanagari": "\u0900-\u097f", "Thai": "\u0e00-\u0e7f",
    "Latin": "A-Za-z\u00c0-\u024f",
}  # fmt: skip
FINDERS = {name: re.compile(f"[{letters}]") for name, letters in SCRIPTS.items()}
MINOR = 0.1
"""Share of letters under which a second script is a word or two, not a language."""
PRIOR = 100.0
"""Weight of the prior in words: the corpus' own frequencies count as so many words of each side."""
TELLING = 1.96
"""z above which a word sets a group apart."""


def terms_of(text: str) -> list[str]:
    """Lower-cased words; a run of Chinese characters or kana as its overlapping pairs, which is what most words there have."""
    terms: list[str] = []
    for run in RUN.findall(text.lower()):
        if WORD.fullmatch(run[0]) and re.match(f"[{CJK}]", run[0]) and len(run) > 1:
            terms += [run[at : at + 2] for at in range(len(run) - 1)]
        else:
            terms.append(run)
    return terms


def script_of(text: str) -> str | None:
    """The script of a text's letters; `Chinese and Latin` where a second one is more than a few words; None without letters."""
    counts = {name: len(found.findall(text)) for name, found in FINDERS.items()}
    if counts["Japanese"]:
        counts["Japanese"] += counts.pop("Chinese")
    whole = sum(counts.values())
    if not whole:
        return None
    first, *others = sorted((name for name in counts if counts[name] >= MINOR * whole), key=lambda name: -counts[name])
    return " and ".join(sorted([first, *others[:1]]))


def telling_words(groups: Sequence[int], texts: Sequence[str], most: int = 3) -> dict[int, list[str]]:
    """The words of each group that are likelier there than elsewhere, the clearest first.

    Log-odds ratios with an informative Dirichlet prior, divided by their deviation: Monroe, Colaresi & Quinn (2008),
    Fightin' Words, Political Analysis 16:372-403, equations 16, 18, 19, 22. The prior are the words of all texts.
    """
    counts: dict[int, Counter[str]] = {}
    for group, text in zip(groups, texts, strict=True):
        counts.setdefault(group, Counter()).update(terms_of(text))
    every = sum(counts.values(), Counter())
    names = sorted(every)
    whole = np.array([every[name] for name in names], dtype=np.float64)  # [W]
    if not names:
        return {group: [] for group in counts}
    prior = PRIOR * whole / whole.sum()
    out: dict[int, list[str]] = {}
    for group, own in sorted(counts.items()):
        mine = np.array([own[name] for name in names], dtype=np.float64)
        z = log_odds_z(mine, whole - mine, prior)
        best = np.argsort(-z, kind="stable")[:most]
        out[group] = [names[at] for at in best if z[at] > TELLING]
    return out


def log_odds_z(mine: np.ndarray, others: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """z of each word: positive where it is likelier in `mine`."""
    a, b = mine + prior, others + prior
    delta = np.log(a / (a.sum() - a)) - np.log(b / (b.sum() - b))
    found: np.ndarray = delta / np.sqrt(1 / a + 1 / b)
    return found
