"""Scores of a language model from sums over rows, and the unigram model as its baseline."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from llmstage.evaluation.metrics.score import Score, ratio

SMOOTHING = 1.0
"""Laplace smoothing: one more occurrence of every vocabulary entry, so that no probability is 0."""


def language_model_scores(
    nll: ArrayLike, tokens: ArrayLike, correct: ArrayLike, bytes: Sequence[float | None] | ArrayLike | None
) -> dict[str, Score]:
    """Return `perplexity`, `bits_per_byte`, `token_accuracy` and `loss` (nats per token) of rows [N].

    `nll`: the summed negative log-likelihood of each row in nats. `tokens`: the number of its targets. `correct`: the number
    of targets that the model ranks first. `bytes`: the UTF-8 bytes of the targets (None, NaN or 0 if unknown). Bits per byte
    do not depend on the tokenizer, so they are comparable across models. They use the rows with known bytes, with the
    number of bytes as count; they are left out if no bytes are known. Intervals are over rows.
    """
    losses, targets = np.asarray(nll, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
    num = int(targets.sum())
    scores = {"perplexity": ratio(losses, targets, np.exp, count=num, higher_is_better=False)}
    if bytes is not None:
        sizes = np.asarray(bytes, dtype=np.float64)
        known = sizes > 0  # False for NaN
        if known.any():
            nats = math.log(2) * sizes[known]
            num_bytes = int(sizes[known].sum())
            scores["bits_per_byte"] = ratio(losses[known], nats, count=num_bytes, higher_is_better=False)
    scores["token_accuracy"] = ratio(correct, targets, count=num)
    scores["loss"] = ratio(losses, targets, count=num, higher_is_better=False)
    return scores


def masked_language_model_scores(nll: ArrayLike, tokens: ArrayLike, correct: ArrayLike) -> dict[str, Score]:
    """Return `pseudo_perplexity`, `masked_accuracy` and `loss` (nats per token) of rows [N]; arguments as above, over masked
    tokens.

    Pseudo-perplexity (Salazar et al. 2020, Masked Language Model Scoring) is exp of the mean -log p(token | all other tokens),
    with one token masked at a time. Here a fixed sample of tokens is masked together, as in training. This is an estimate at
    the cost of one pass, comparable between models under the same masks; transformers' run_mlm prints the same number.
    """
    losses, targets = np.asarray(nll, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
    num = int(targets.sum())
    return {
        "pseudo_perplexity": ratio(losses, targets, np.exp, count=num, higher_is_better=False),
        "masked_accuracy": ratio(correct, targets, count=num),
        "loss": ratio(losses, targets, count=num, higher_is_better=False),
    }


class Unigram:
    """A unigram model with add-k smoothing: p(t) = (count(t) + k) / (number of tokens + k * vocabulary size)."""

    def __init__(self, texts: Iterable[Iterable[int]], vocab_size: int) -> None:
        counts: Counter[int] = Counter()
        for ids in texts:
            counts.update(ids)
        smoothed_counts = np.full(vocab_size, SMOOTHING)
        for token, count in counts.items():
            smoothed_counts[token] += count
        self.log_p: np.ndarray = np.log(smoothed_counts) - math.log(smoothed_counts.sum())
        self.most_frequent = int(smoothed_counts.argmax())

    def measure(self, texts: Iterable[list[int]]) -> tuple[list[float], list[int], list[int]]:
        """Return (-log p in nats, tokens, tokens that equal the most frequent one) of each text."""
        rows = [
            (-float(self.log_p[ids].sum()) if ids else 0.0, len(ids), ids.count(self.most_frequent)) for ids in texts
        ]
        return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]
