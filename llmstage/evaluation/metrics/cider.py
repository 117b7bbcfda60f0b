"""CIDEr-D of captions against several references (Vedantam, Zitnick & Parikh 2015, CVPR, section 4 and its D variant).

It is computed as in the COCO caption code (`pycocoevalcap.cider`, Lin & Vedantam): TF-IDF vectors of 1- to 4-grams, document
frequencies from the references of the scored rows, counts clipped at the reference's, a Gaussian penalty of the
difference in length (sigma 6, measured in bigrams), the mean over the four lengths of n-gram and over the references, times
10. So it lies between 0 and 10, depends on the other rows of the split (compare only equal splits), and is 0 for one row.

Words are those of metrics/generation.py: lower-cased runs of letters and digits without punctuation; each Chinese character
is a word. The COCO code runs Stanford's PTB tokenizer first, which makes tokens of hyphens and clitics
('s) and knows no Chinese words; on plain English captions both give the same words.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from llmstage.evaluation.metrics.generation import References, check_pairs, references_of, split_words
from llmstage.evaluation.metrics.score import Score, mean

MAX_N = 4
SIGMA = 6.0
SCALE = 10.0

Gram = tuple[str, ...]
Vectors = list[dict[Gram, float]]
"""TF-IDF weights of the n-grams of one text, one dict for each n."""


def cider(hyps: Sequence[str], refs: References) -> Score:
    """Return the mean CIDEr-D over rows (0 to 10). The bootstrap over rows does not resample the document frequencies."""
    return mean(cider_rows(hyps, refs))


def cider_rows(hyps: Sequence[str], refs: References) -> list[float]:
    """Return the CIDEr-D of each row; the document frequencies are those of all `refs`."""
    check_pairs(hyps, refs)
    ref_counts = [[count_ngrams(ref) for ref in references_of(row)] for row in refs]
    document_frequency = Counter(gram for row in ref_counts for gram in set().union(*row))
    log_num_rows = math.log(max(1, len(refs)))
    idf = {gram: log_num_rows - math.log(count) for gram, count in document_frequency.items()}

    def vectors(counts: Counter[Gram]) -> Vectors:
        weights: Vectors = [{} for _ in range(MAX_N)]
        for gram, count in counts.items():
            weights[len(gram) - 1][gram] = count * idf.get(
                gram, log_num_rows
            )  # an n-gram of no reference counts as if one reference had it
        return weights

    scores = []
    for hyp, row in zip(hyps, ref_counts, strict=True):
        counts = count_ngrams(hyp)
        hyp_vectors = vectors(counts)
        similarities = [similarity(hyp_vectors, vectors(ref), num_bigrams(counts) - num_bigrams(ref)) for ref in row]
        scores.append(SCALE * sum(similarities) / max(1, len(similarities)))
    return scores


def count_ngrams(text: str) -> Counter[Gram]:
    """Return the counts of the 1- to 4-grams of words of a text."""
    words = split_words(text)
    return Counter(
        tuple(words[start : start + size]) for size in range(1, MAX_N + 1) for start in range(len(words) - size + 1)
    )


def num_bigrams(counts: Counter[Gram]) -> int:
    """Return the number of bigrams, which the COCO code takes as the length in the penalty."""
    return sum(count for gram, count in counts.items() if len(gram) == 2)


def similarity(hyp: Vectors, ref: Vectors, length_difference: int) -> float:
    """Return the mean over n of the clipped cosine, reduced by the difference in length."""
    total = 0.0
    for hyp_weights, ref_weights in zip(hyp, ref, strict=True):
        shared = sum(
            min(weight, ref_weights.get(gram, 0.0)) * ref_weights.get(gram, 0.0) for gram, weight in hyp_weights.items()
        )
        norm = math.sqrt(
            sum(weight**2 for weight in hyp_weights.values()) * sum(weight**2 for weight in ref_weights.values())
        )
        total += shared / norm if norm else 0.0
    return total / MAX_N * math.exp(-(length_difference**2) / (2 * SIGMA**2))
