"""Scores of a language model from per-row sums."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from llmstage.evaluation.metrics.intervals import ratio
from llmstage.evaluation.metrics.score import Score


def language_model_scores(
    nll: ArrayLike, tokens: ArrayLike, correct: ArrayLike, bytes: Sequence[float | None] | ArrayLike | None
) -> dict[str, Score]:
    """`perplexity`, `bits_per_byte`, `token_accuracy` and `loss` (nats a token) of rows [N].

    `nll` is the row's summed negative log-likelihood in nats, `tokens` how many targets it was summed over, `correct`
    how many of them the model ranked first, `bytes` the UTF-8 bytes these targets stand for (None, NaN or 0 where
    unknown). Bits per byte do not depend on the tokenizer, so they compare across models; they rest on the rows whose
    bytes are known, with the number of bytes as count, and are left out where none are. Intervals are over rows.
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
    """`pseudo_perplexity`, `masked_accuracy` and `loss` (nats a token) of rows [N]; arguments as above, over hidden tokens.

    Pseudo-perplexity (Salazar et al. 2020, Masked Language Model Scoring) is exp of the mean -log p(token | all others),
    with one token hidden at a time. Here a fixed sample of tokens is hidden together, as in training: an estimate at the
    cost of one pass, for comparing models under the same masks, and the number that transformers' run_mlm prints.
    """
    losses, targets = np.asarray(nll, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
    num = int(targets.sum())
    return {
        "pseudo_perplexity": ratio(losses, targets, np.exp, count=num, higher_is_better=False),
        "masked_accuracy": ratio(correct, targets, count=num),
        "loss": ratio(losses, targets, count=num, higher_is_better=False),
    }
