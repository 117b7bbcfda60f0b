"""Progress measures of modular addition (Nanda et al. 2023, arXiv 2301.05217, section 5): the frequencies that make up
the logits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

Array = NDArray[np.float64]


def mean_by_sum(logits: Array) -> Array:
    """[p, p, C] -> [p, C]: the mean over all pairs with the same a + b mod p, i.e. the part that is a function of the
    sum."""
    p = len(logits)
    a = np.arange(p)
    return np.stack([logits[a, (total - a) % p].mean(0) for total in range(p)])


def amplitudes(logits: Array) -> NDArray[np.complex128]:
    """[p, C] complex amplitude of each frequency of a + b; frequency 0 is the mean."""
    return np.fft.fft(mean_by_sum(logits), axis=0) / len(logits)


def power(logits: Array) -> Array:
    """[(p - 1) / 2] variance of the logits in cos and sin of w_k (a + b), for k = 1, 2, …"""
    half = (len(logits) - 1) // 2
    return np.asarray(2 * (np.abs(amplitudes(logits)) ** 2).sum(1)[1 : half + 1])


def key_frequencies(logits: Array, share: float = 0.95) -> list[int]:
    """Return the fewest frequencies that carry `share` of that power, the strongest first."""
    strength = power(logits)
    order = np.argsort(-strength, kind="stable")
    count = int(np.searchsorted(np.cumsum(strength[order]), share * strength.sum())) + 1
    return [int(k) + 1 for k in order[:count]]


def frequency_component(logits: Array, frequencies: list[int]) -> Array:
    """[p, p, C] the component of the logits at these frequencies of a + b, without the mean."""
    p = len(logits)
    amplitudes_by_frequency = np.zeros((p, logits.shape[-1]), complex)
    both = [*frequencies, *(p - k for k in frequencies)]
    amplitudes_by_frequency[both] = amplitudes(logits)[both] * p
    table = np.fft.ifft(amplitudes_by_frequency, axis=0).real  # [p, C]
    a = np.arange(p)
    return np.asarray(table[(a[:, None] + a) % p])


def centered(logits: Array) -> Array:
    """Subtract each pair's mean over the answers; the softmax does not depend on it."""
    return np.asarray(logits - logits.mean(-1, keepdims=True))


def share_of_variance(logits: Array, frequencies: list[int]) -> float:
    """Return the share of the logits' variance over pairs that lies in these frequencies."""
    logits = centered(logits)
    total = float(((logits - logits.mean((0, 1))) ** 2).sum(-1).mean())
    return float(power(logits)[[k - 1 for k in frequencies]].sum() / total) if total else 0.0


def losses(logits: Array) -> Array:
    """[p, p] cross-entropy of a + b mod p, nats."""
    p = len(logits)
    a = np.arange(p)
    table = log_softmax(logits, -1)
    return np.asarray(-table[a[:, None], a, (a[:, None] + a) % p])


def restricted_loss(logits: Array, frequencies: list[int]) -> float:
    """Return the loss over all pairs of logits that keep only these frequencies and the mean."""
    return float(losses(frequency_component(logits, frequencies) + logits.mean((0, 1))).mean())


def excluded_loss(logits: Array, frequencies: list[int], train: NDArray[np.bool_]) -> float:
    """Return the loss on the training pairs of logits without these frequencies: the loss of memorization alone."""
    return float(losses(logits - frequency_component(logits, frequencies))[train].mean())


def gini(values: Array) -> float:
    """Return the Gini coefficient of non-negative values: 0 all equal, 1 - 1/n a single value is not 0."""
    ordered = np.sort(np.asarray(values, float))
    n = len(ordered)
    if not ordered.sum():
        return 0.0
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * ordered.sum()))


def gini_of_embeddings(embeddings: Array) -> float:
    """Return the Gini coefficient of the power of the embeddings [p, D] over the frequencies 1, 2, …; cos and sin are
    separate, as published."""
    half = (len(embeddings) - 1) // 2
    spectrum = np.fft.fft(embeddings - embeddings.mean(0), axis=0)[1 : half + 1]
    parts = np.concatenate([spectrum.real, spectrum.imag])
    return gini((parts**2).sum(1))
