"""Information measures of small discrete systems, computed exactly.

They are not meant for raw activations: estimators of information are biased there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import entropy

Array = NDArray[np.float64]


def entropy_bits(distribution: ArrayLike) -> float:
    """Return the entropy in bits of a distribution of any shape."""
    return float(entropy(np.asarray(distribution, dtype=np.float64).ravel(), base=2))


def mutual_information(joint: ArrayLike) -> float:
    """I(X; Y) in bits of a joint distribution [X, Y]."""
    table = np.asarray(joint, dtype=np.float64)
    return entropy_bits(table.sum(1)) + entropy_bits(table.sum(0)) - entropy_bits(table)


def joint_distribution(samples: Sequence[Sequence[object]]) -> Array:
    """Return the empirical joint distribution [X1, X2, …] of rows of discrete values, one column per variable."""
    columns = list(zip(*samples, strict=True))
    codes = [np.unique([repr(value) for value in column], return_inverse=True)[1] for column in columns]
    table = np.zeros([int(code.max()) + 1 for code in codes])
    np.add.at(table, tuple(codes), 1.0)
    return np.asarray(table / table.sum())


def effective_information(transitions: ArrayLike) -> float:
    """Return EI of a transition matrix [S, S] in bits: entropy of the mean row minus mean entropy of the rows (Hoel,
    Albantakis & Tononi 2013, PNAS 110:19790)."""
    rows = np.asarray(transitions, dtype=np.float64)
    return entropy_bits(rows.mean(0)) - float(np.mean([entropy_bits(row) for row in rows]))


def coarse_grain(transitions: ArrayLike, groups: Sequence[Sequence[int]]) -> Array:
    """Return the transition matrix between groups of states, where all states of a group are equally likely."""
    rows = np.asarray(transitions, dtype=np.float64)
    return np.array([[rows[np.ix_(start, end)].sum(1).mean() for end in groups] for start in groups])


def causal_emergence(transitions: ArrayLike, groups: Sequence[Sequence[int]]) -> float:
    """Return EI of the groups minus EI of the states: above 0, the coarse description predicts the next state better."""
    return effective_information(coarse_grain(transitions, groups)) - effective_information(transitions)


def partial_information(joint: ArrayLike) -> dict[str, float]:
    """Decompose the information of two sources about a target, in bits: redundancy, unique to each, synergy (Williams &
    Beer 2010, arXiv 1004.2515).

    `joint` [X1, X2, Y]. Redundancy is their I_min: the expected minimum of the specific information.
    """
    table = np.asarray(joint, dtype=np.float64)
    target = table.sum((0, 1))  # [Y]
    sources = [table.sum(1), table.sum(0)]  # [X, Y] each
    redundancy = 0.0
    for y, weight in enumerate(target):
        if weight > 0:
            redundancy += weight * min(specific_information(source, y, float(weight)) for source in sources)
    first, second = (mutual_information(source) for source in sources)
    joint_information = mutual_information(table.reshape(-1, table.shape[2]))
    return {
        "redundancy": redundancy,
        "unique_1": first - redundancy,
        "unique_2": second - redundancy,
        "synergy": joint_information - first - second + redundancy,
        "total": joint_information,
    }


def specific_information(source: Array, y: int, weight: float) -> float:
    """I(X; Y = y) = Σ_x p(x | y) log2 p(y | x) / p(y) of a joint distribution [X, Y]."""
    column, marginal = source[:, y], source.sum(1)
    possible = column > 0
    return float((column[possible] / weight * np.log2(column[possible] / marginal[possible] / weight)).sum())


def psi(joint: ArrayLike, macro: Callable[[tuple[int, ...]], int], *, parts: int) -> float:
    """Ψ = I(V_t; V_t') - Σ_j I(X_t^j; V_t') in bits (Rosas et al. 2020, PLoS Comput Biol 16:e1008289).

    Above 0, the macro variable predicts its own future better than its parts do together. This is sufficient for causal
    emergence, not necessary. `joint` [states of X_t, states of X_t'], with the states in the order of
    `itertools.product` over binary parts.
    """
    table = np.asarray(joint, dtype=np.float64)
    states = list(itertools.product((0, 1), repeat=parts))
    macro_state = np.array([macro(state) for state in states])
    num = int(macro_state.max()) + 1
    to_macro = np.eye(num)[macro_state]  # [S, V]
    future = table @ to_macro  # [S, V] X_t with V_t'
    joint_information = mutual_information(to_macro.T @ future)
    separate_information = sum(
        mutual_information(np.eye(2)[[state[j] for state in states]].T @ future) for j in range(parts)
    )
    return joint_information - separate_information
