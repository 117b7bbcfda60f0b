"""Split texts into words, name their script, and find the words that distinguish one group of texts from the others."""

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
SCRIPT_PATTERNS = {name: re.compile(f"[{letters}]") for name, letters in SCRIPTS.items()}
MINOR = 0.1
"""A second script counts from this share of the letters on; below, it is a word or two."""
PRIOR = 100.0
"""Weight of the prior in words: the frequencies of all texts count as so many words of each side."""
DISTINCTIVE = 1.96
"""A word distinguishes a group where its z is above this."""


def terms_of(text: str) -> list[str]:
    """Return lower-cased words. A run of Chinese characters or kana gives its overlapping pairs, the usual word length there."""
    terms: list[str] = []
    for run in RUN.findall(text.lower()):
        if WORD.fullmatch(run[0]) and re.match(f"[{CJK}]", run[0]) and len(run) > 1:
            terms += [run[at : at + 2] for at in range(len(run) - 1)]
        else:
            terms.append(run)
    return terms


def script_of(text: str) -> str | None:
    """Return the script of a text's letters, or two as `Chinese and Latin` (see MINOR); None without letters."""
    counts = {name: len(pattern.findall(text)) for name, pattern in SCRIPT_PATTERNS.items()}
    if counts["Japanese"]:
        counts["Japanese"] += counts.pop("Chinese")
    num_letters = sum(counts.values())
    if not num_letters:
        return None
    frequent = (name for name in counts if counts[name] >= MINOR * num_letters)
    first, *others = sorted(frequent, key=lambda name: -counts[name])
    return " and ".join(sorted([first, *others[:1]]))


def distinctive_words(groups: Sequence[int], texts: Sequence[str], most: int = 3) -> dict[int, list[str]]:
    """Return for each group the words that are more likely there than elsewhere, the most distinctive first.

    Log-odds ratios with an informative Dirichlet prior, divided by their deviation: Monroe, Colaresi & Quinn (2008),
    Fightin' Words, Political Analysis 16:372-403, equations 16, 18, 19, 22. The prior are the words of all texts.
    """
    counts: dict[int, Counter[str]] = {}
    for group, text in zip(groups, texts, strict=True):
        counts.setdefault(group, Counter()).update(terms_of(text))
    every = sum(counts.values(), Counter())
    names = sorted(every)
    total = np.array([every[name] for name in names], dtype=np.float64)  # [W]
    if not names:
        return {group: [] for group in counts}
    prior = PRIOR * total / total.sum()
    out: dict[int, list[str]] = {}
    for group, group_counts in sorted(counts.items()):
        inside = np.array([group_counts[name] for name in names], dtype=np.float64)
        z = log_odds_z(inside, total - inside, prior)
        best = np.argsort(-z, kind="stable")[:most]
        out[group] = [names[at] for at in best if z[at] > DISTINCTIVE]
    return out


def log_odds_z(inside: np.ndarray, outside: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Return the z of each word: positive where it is more likely `inside`."""
    a, b = inside + prior, outside + prior
    delta = np.log(a / (a.sum() - a)) - np.log(b / (b.sum() - b))
    z: np.ndarray = delta / np.sqrt(1 / a + 1 / b)
    return z
