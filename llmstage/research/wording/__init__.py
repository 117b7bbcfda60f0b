"""The sentences of research in English and Chinese, one file for each part, added to those of stage=explore.

Modules of research import `sentence` and its helpers from here, so that their sentences are known before the first call.
"""

from __future__ import annotations

from llmstage.explore.wording import add_sentences, current_language, figure, headings, named, pick, sentence
from llmstage.research.wording import curves, ladder, reduction, toy_worlds

__all__ = [
    "current_language",
    "figure",
    "headings",
    "meaning",
    "named",
    "sentence",
    "shape_name",
    "verdict_name",
]

for part in (curves, ladder, reduction, toy_worlds):
    add_sentences(part.SENTENCES)


def meaning(verdict: str) -> str:
    """Return what a verdict on a curve means, for a reader who does not know the papers."""
    return pick(curves.MEANINGS[verdict])


def verdict_name(verdict: str) -> str:
    """Return the name of a verdict for a reader."""
    return pick(curves.NAMES[verdict])


def shape_name(shape: str) -> str:
    """Return the name of a shape of curves for a reader."""
    return pick(curves.SHAPES[shape])
