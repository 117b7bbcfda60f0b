"""Information measures of small discrete systems, exact. Not for raw activations: their estimators are biased there."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import entropy

Array = NDArray[np.float64]


def bits(distribution: ArrayLike) -> float:
    """Entropy in bits of a distribution of any shape."""
    return float(entropy(np.asarray(distribution, dtype=np.float64).ravel(), base=2))


def mutual_information(joint: ArrayLike) -> float:
    """I(X; Y) in bits of a joint distribution [X, Y]."""
    table = np.asarray(joint, dtype=np.float64)
    return bits(table.sum(1)) + bits(table.sum(0)) - bits(table)


def joint_of(samples: Sequence[Sequence[object]]) -> Array:
    """The empirical joint distribution [X1, X2, …] of rows of discrete values, one column a variable."""
    columns = list(zip(*samples, strict=True))
    codes = [np.unique([repr(value) for value in column], return_inverse=True)[1] for column in columns]
    table = np.zeros([int(code.max()) + 1 for code in codes])
    np.add.at(table, tuple(codes), 1.0)
    return np.asarray(table / table.sum())


def effective_information(transitions: ArrayLike) -> float:
    """EI of a transition matrix [S, S], bits: entropy of the mean row minus the mean entropy of the rows (Hoel, Albantakis
    & Tononi 2013, PNAS 110:19790)."""
    rows = np.asarray(transitions, dtype=np.float64)
    return bits(rows.mean(0)) - float(np.mean([bits(row) for row in rows]))


def coarse(transitions: ArrayLike, groups: Sequence[Sequence[int]]) -> Array:
    """The transition matrix between groups of states, each state of a group as likely as the others."""
    rows = np.asarray(transitions, dtype=np.float64)
    return np.array([[rows[np.ix_(start, end)].sum(1).mean() for end in groups] for start in groups])


def causal_emergence(transitions: ArrayLike, groups: Sequence[Sequence[int]]) -> float:
    """EI of the groups minus EI of the states: above 0, the coarse description says more about what comes next."""
    return effective_information(coarse(transitions, groups)) - effective_information(transitions)


def decomposition(joint: ArrayLike) -> dict[str, float]:
    """What two sources tell about a target, bits: redundancy, unique to each, synergy (Williams & Beer 2010, arXiv
    1004.2515). `joint` [X1, X2, Y]. Redundancy is their I_min: the expected least specific information."""
    table = np.asarray(joint, dtype=np.float64)
    target = table.sum((0, 1))  # [Y]
    sources = [table.sum(1), table.sum(0)]  # [X, Y] each
    redundancy = 0.0
    for y, weight in enumerate(target):
        if weight > 0:
            redundancy += weight * min(specific(source, y, float(weight)) for source in sources)
    first, second = (mutual_information(source) for source in sources)
    both = mutual_information(table.reshape(-1, table.shape[2]))
    return {
        "redundancy": redundancy,
        "unique_1": first - redundancy,
        "unique_2": second - redundancy,
        "synergy": both - first - second + redundancy,
        "total": both,
    }


def specific(source: Array, y: int, weight: float) -> float:
    """I(X; Y = y) = Σ_x p(x | y) log2 p(y | x) / p(y) of a joint distribution [X, Y]."""
    column, seen = source[:, y], source.sum(1)
    with_it = column > 0
    return float((column[with_it] / weight * np.log2(column[with_it] / seen[with_it] / weight)).sum())


def psi(joint: ArrayLike, macro: Callable[[tuple[int, ...]], int], *, parts: int) -> float:
    """Ψ = I(V_t; V_t') - Σ_j I(X_t^j; V_t') in bits (Rosas et al. 2020, PLoS Comput Biol 16:e1008289): above 0, the
    whole's future is foretold by the whole better than by its parts together. Sufficient for causal emergence, not
    necessary. `joint` [states of X_t, states of X_t'] with states numbered as `itertools.product` counts binary parts.
    """
    table = np.asarray(joint, dtype=np.float64)
    states = list(itertools.product((0, 1), repeat=parts))
    value = np.array([macro(state) for state in states])
    num = int(value.max()) + 1
    to_macro = np.eye(num)[value]  # [S, V]
    future = table @ to_macro  # [S, V] X_t with V_t'
    whole = mutual_information(to_macro.T @ future)
    apart = sum(mutual_information(np.eye(2)[[state[j] for state in states]].T @ future) for j in range(parts))
    return whole - apart
