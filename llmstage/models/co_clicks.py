"""Where a recommender's item vectors begin: what is clicked close together in time lies close together."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

WINDOW = 10
"""Items before a click that count as its neighbours; the one d places back counts 1/d."""
MOST_PAIRS = 50_000_000


class CoClicks:
    """Pairs of items that one user clicked within WINDOW of each other."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self.left, self.right, self.weight = array("i"), array("i"), array("f")

    def see(self, items: Sequence[str]) -> None:
        """A user's items up to a click, the click last: the new pairs are those of the click."""
        if len(self.left) > MOST_PAIRS:
            return
        here = self.names.setdefault(items[-1], len(self.names))
        for distance, name in enumerate(reversed(items[-1 - WINDOW : -1]), start=1):
            self.left.append(here)
            self.right.append(self.names.setdefault(name, len(self.names)))
            self.weight.append(1 / distance)

    def vectors(self, known: Sequence[str], width: int) -> NDArray[np.float32] | None:
        """[len(known), width], mean square length 1: leading eigenvectors of log(1 + co-clicks), by the roots of their values.

        The spectral form of item2vec (Barkan & Koenigstein 2016) and of co-factorisation (Liang 2016, CoFactor, on shifted
        PMI); log counts did better than PMI on a validation split. Only positive eigenvalues count, so that the product of two
        vectors comes near the entry. None where there are too few pairs for one direction.
        """
        from scipy.sparse import coo_matrix
        from scipy.sparse.linalg import eigsh

        index = {name: number for number, name in enumerate(known)}
        place = np.array([index.get(name, -1) for name in self.names], dtype=np.int64)
        if not len(self.left) or len(known) < 3:
            return None
        a, b = place[np.frombuffer(self.left, dtype=np.int32)], place[np.frombuffer(self.right, dtype=np.int32)]
        kept = (a >= 0) & (b >= 0) & (a != b)
        values = np.frombuffer(self.weight, dtype=np.float32)[kept].astype(np.float64)
        a, b, size = a[kept], b[kept], len(known)
        counts: Any = coo_matrix((np.tile(values, 2), (np.r_[a, b], np.r_[b, a])), shape=(size, size)).tocsr()
        if not counts.nnz:
            return None
        counts.data = np.log1p(counts.data)
        rank = min(width, size - 1)
        if size <= 4 * width:  # the iterative solver wants far fewer directions than rows
            found, directions = np.linalg.eigh(counts.toarray())
            found, directions = found[-rank:], directions[:, -rank:]
        else:
            found, directions = eigsh(counts, k=rank, which="LA", v0=np.ones(size))  # a fixed start: the same each time
        vectors = np.zeros((size, width), dtype=np.float32)
        vectors[:, :rank] = directions * np.sqrt(np.maximum(found, 0))
        length = float(np.sqrt((vectors**2).sum(1).mean()))
        return vectors / length if length else None
