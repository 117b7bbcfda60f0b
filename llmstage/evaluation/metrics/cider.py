"""CIDEr-D of captions against several references (Vedantam, Zitnick & Parikh 2015, CVPR, section 4 and its D variant).

Computed as the COCO caption code does it (`pycocoevalcap.cider`, Lin & Vedantam): TF-IDF vectors of 1- to 4-grams, document
frequency from the references of the very rows that are scored, counts clipped at the reference's, a Gaussian penalty of the
difference in length (sigma 6, measured in bigrams), the mean over the four lengths of n-gram and over the references, times
10. So it lies between 0 and 10, depends on the other rows of the split (compare only equal splits), and is 0 for one row.

Words are ours (metrics/generation.py): lower-case runs of letters and digits without punctuation, each Chinese character by
itself. The COCO code runs Stanford's PTB tokenizer first, which keeps hyphens and clitics ('s) as tokens of their own and
knows no Chinese words; on plain English captions both cut alike.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from llmstage.evaluation.metrics.generation import References, check_pairs, references_of, split_words
from llmstage.evaluation.metrics.intervals import mean
from llmstage.evaluation.metrics.score import Score

LONGEST = 4
SIGMA = 6.0
SCALE = 10.0

Gram = tuple[str, ...]
Vectors = list[dict[Gram, float]]
"""Weights of the n-grams of one text: of single words, of pairs, ... ."""


def cider(hyps: Sequence[str], refs: References) -> Score:
    """Mean over rows (0 to 10). The interval is the bootstrap over rows with the document frequencies as they are."""
    return mean(cider_rows(hyps, refs))


def cider_rows(hyps: Sequence[str], refs: References) -> list[float]:
    """CIDEr-D of each row; the frequencies are those of all `refs`."""
    check_pairs(hyps, refs)
    told = [[grams(ref) for ref in references_of(row)] for row in refs]
    seen = Counter(gram for row in told for gram in set().union(*row))
    whole = math.log(max(1, len(refs)))
    rareness = {gram: whole - math.log(count) for gram, count in seen.items()}

    def vectors(counts: Counter[Gram]) -> Vectors:
        out: Vectors = [{} for _ in range(LONGEST)]
        for gram, count in counts.items():
            out[len(gram) - 1][gram] = count * rareness.get(gram, whole)  # in no reference: as if in one
        return out

    scores = []
    for hyp, row in zip(hyps, told, strict=True):
        counts = grams(hyp)
        mine = vectors(counts)
        likeness = [similarity(mine, vectors(ref), num_pairs(counts) - num_pairs(ref)) for ref in row]
        scores.append(SCALE * sum(likeness) / max(1, len(likeness)))
    return scores


def grams(text: str) -> Counter[Gram]:
    """How often each 1- to 4-gram of words stands in a text."""
    words = split_words(text)
    return Counter(
        tuple(words[at : at + size]) for size in range(1, LONGEST + 1) for at in range(len(words) - size + 1)
    )


def num_pairs(counts: Counter[Gram]) -> int:
    """The length that the penalty compares; the COCO code counts bigrams."""
    return sum(count for gram, count in counts.items() if len(gram) == 2)


def similarity(hyp: Vectors, ref: Vectors, longer: int) -> float:
    """Mean over n of the clipped cosine, less where one text is `longer` than the other."""
    total = 0.0
    for mine, theirs in zip(hyp, ref, strict=True):
        shared = sum(min(weight, theirs.get(gram, 0.0)) * theirs.get(gram, 0.0) for gram, weight in mine.items())
        size = math.sqrt(sum(weight**2 for weight in mine.values()) * sum(weight**2 for weight in theirs.values()))
        total += shared / size if size else 0.0
    return total / LONGEST * math.exp(-(longer**2) / (2 * SIGMA**2))
