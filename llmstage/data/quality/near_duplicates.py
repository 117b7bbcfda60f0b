"""Texts that say the same, and texts that stand in other texts: by hashed runs of words (Chinese: characters)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from llmstage.evaluation.metrics.generation import split_words

GRAM = 5
"""Words in a row that are compared where double texts are looked for."""
BANDS, ROWS = 32, 4
"""Of a MinHash signature. Two texts of Jaccard likeness s meet in a band with probability 1 - (1 - s^4)^32: 0.9999999 at 0.8,
0.87 at 0.5."""
SHORT = (1 << 31) - 1
"""Hashes and factors stay below this, so that products fit in 64 bits."""


def grams_of(text: str, size: int) -> set[int]:
    """Hashes (below 2**31) of all runs of `size` words; of a shorter text, of the whole of it."""
    words = split_words(text)
    if not words:
        return set()
    runs = range(max(1, len(words) - size + 1))
    return {hashed(" ".join(words[at : at + size])) for at in runs}


def hashed(words: str) -> int:
    return int.from_bytes(blake2b(words.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") % SHORT


def jaccard(one: set[int], two: set[int]) -> float:
    whole = len(one | two)
    return len(one & two) / whole if whole else 1.0


def signatures(texts: Sequence[set[int]], seed: int = 0) -> NDArray[np.int64]:
    """[N, BANDS * ROWS]: the least of the grams under each of so many hash functions a x + b (Broder 1997)."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(1, SHORT, (2, BANDS * ROWS))
    made = np.full((len(texts), BANDS * ROWS), SHORT, dtype=np.int64)
    for number, grams in enumerate(texts):
        if grams:
            values = np.fromiter(grams, dtype=np.int64)
            made[number] = ((values[:, None] * a + b) % SHORT).min(0)
    return made


def without_doubles(texts: Sequence[str], likeness: float) -> list[int]:
    """Numbers of the texts that are kept: of texts of at least this Jaccard likeness of their 5-grams, the first one.

    MinHash tells which pairs may be alike (Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, chapter 3), and each
    of them is then compared exactly.
    """
    grams = [grams_of(text, GRAM) for text in texts]
    marks = signatures(grams).reshape(len(texts), BANDS, ROWS) if texts else np.zeros((0, BANDS, ROWS), np.int64)
    buckets: list[dict[bytes, list[int]]] = [defaultdict(list) for _ in range(BANDS)]
    kept = []
    for number, own in enumerate(grams):
        keys = [marks[number, band].tobytes() for band in range(BANDS)]
        near = {other for bucket, key in zip(buckets, keys, strict=True) for other in bucket.get(key, ())}
        if any(jaccard(own, grams[other]) >= likeness for other in sorted(near)):
            continue
        kept.append(number)
        for bucket, key in zip(buckets, keys, strict=True):
            bucket[key].append(number)
    return kept


def in_pool(texts: Sequence[str], pool: Iterable[str], size: int) -> list[bool]:
    """Whether a text shares `size` words in a row with a text of the pool; a shorter text, whether it stands there whole."""
    wanted: dict[int, set[int]] = {}
    for number, text in enumerate(texts):
        words = split_words(text)
        if words:
            wanted.setdefault(min(size, len(words)), set()).add(number)
    found = [False] * len(texts)
    runs = {length: {gram: set[int]() for number in own for gram in grams_of(texts[number], length)} for length, own in wanted.items()}  # fmt: skip
    for length, own in wanted.items():
        for number in own:
            for gram in grams_of(texts[number], length):
                runs[length][gram].add(number)
    for text in pool:
        words = split_words(text)
        for length, known in runs.items():
            if length == size:
                grams = grams_of(text, size) if len(words) >= size else set()
            else:
                grams = {hashed(" ".join(words))} if len(words) == length else set()
            for gram in grams & known.keys():
                for number in known[gram]:
                    found[number] = True
    return found
