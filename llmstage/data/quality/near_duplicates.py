"""Find near-duplicate texts, and texts that are contained in other texts, by hashed n-grams and MinHash.

MinHash (Broder 1997) with banding (Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, chapter 3) finds pairs that may be
similar. Each candidate is then compared exactly by the Jaccard similarity of the n-grams.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from llmstage.evaluation.metrics.generation import split_words

WORD_NGRAM = 5
"""Words of an n-gram where full texts are compared."""
CHARACTER_NGRAM = 5
"""Characters of an n-gram for short texts, as in Leskovec, Rajaraman & Ullman (3.2.2). With n-grams of words, two questions
of eight words are dissimilar as soon as one word differs."""
HAN_NGRAM = 2
"""The same for Chinese: with thousands of characters, two of them are as specific as five letters."""
BANDS, ROWS = 32, 4
"""Of a MinHash signature. Two texts of Jaccard similarity s share a band with probability 1 - (1 - s^4)^32: 0.9999999 at 0.8,
0.87 at 0.5."""
HASH_LIMIT = (1 << 31) - 1
"""Hashes and factors are below this, so that products fit in 64 bits."""
MAX_CANDIDATES = 64
"""Texts of one bucket that near_pairs() compares: a template may produce thousands of similar texts."""


class MinHashIndex:
    """Finds, among the sets that were added, candidates for sets that are similar to another one."""

    def __init__(self, sets: Sequence[set[int]]) -> None:
        self.signatures = signatures(sets)
        self.buckets: list[dict[bytes, list[int]]] = [defaultdict(list) for _ in range(BANDS)]

    def bands(self, number: int) -> list[bytes]:
        return [self.signatures[number, band * ROWS : (band + 1) * ROWS].tobytes() for band in range(BANDS)]

    def candidates(self, number: int, limit: int | None = None) -> list[int]:
        """Return the numbers of added sets that share a band with a set, at most `limit` of each band."""
        pairs = zip(self.buckets, self.bands(number), strict=True)
        return sorted({added for bucket, band in pairs for added in bucket.get(band, [])[:limit]})

    def add(self, number: int) -> None:
        for bucket, band in zip(self.buckets, self.bands(number), strict=True):
            bucket[band].append(number)


def near_pairs(texts: Sequence[str], similarity: float) -> dict[int, int]:
    """Map each text to the first earlier text with at least this Jaccard similarity of character n-grams.

    Only such texts are keys. Texts without a letter or digit are never near duplicates.
    """
    sets = [character_ngrams(text) for text in texts]
    index = MinHashIndex(sets)
    pairs: dict[int, int] = {}
    for number, ngrams in enumerate(sets):
        if not ngrams:
            continue
        candidates = index.candidates(number, MAX_CANDIDATES)
        earlier = next((candidate for candidate in candidates if jaccard(ngrams, sets[candidate]) >= similarity), None)
        if earlier is not None:
            pairs[number] = earlier
        index.add(number)
    return pairs


def distinct_texts(texts: Sequence[str], similarity: float) -> list[int]:
    """Return the numbers of the texts without near duplicates: the first of texts that share their word n-grams.

    A text is a near duplicate of a retained one at this Jaccard similarity.
    """
    sets = [word_ngrams(text, WORD_NGRAM) for text in texts]
    index = MinHashIndex(sets)
    retained = []
    for number, ngrams in enumerate(sets):
        if any(jaccard(ngrams, sets[candidate]) >= similarity for candidate in index.candidates(number)):
            continue
        retained.append(number)
        index.add(number)
    return retained


def in_pool(texts: Sequence[str], pool: Iterable[str], size: int) -> list[bool]:
    """Return for each text whether it shares an n-gram of `size` words with a text of the pool.

    A text with fewer words must equal a complete text of the pool.
    """
    # By length of n-gram: each n-gram with the texts that contain it.
    texts_of_ngram: dict[int, dict[int, set[int]]] = {}
    for number, text in enumerate(texts):
        words = split_words(text)
        if words:
            length = min(size, len(words))
            for ngram in word_ngrams(text, length):
                texts_of_ngram.setdefault(length, {}).setdefault(ngram, set()).add(number)
    contained = [False] * len(texts)
    for text in pool:
        words = split_words(text)
        for length, numbers in texts_of_ngram.items():
            if length == size:
                ngrams = word_ngrams(text, size) if len(words) >= size else set()
            else:
                ngrams = {hash_ngram(" ".join(words))} if len(words) == length else set()
            for ngram in ngrams & numbers.keys():
                for number in numbers[ngram]:
                    contained[number] = True
    return contained


def normalize_text(text: str) -> str:
    """Return the letters and digits of a text without case, width and punctuation, with single spaces."""
    return re.sub(r"[^\w]+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()


def character_ngrams(text: str) -> set[int]:
    """Return the hashes of all n-grams of characters, of two characters for Chinese; of a shorter text, one hash."""
    normalized = normalize_text(text)
    if not normalized:
        return set()
    num_han = len(re.findall("[\u3400-\u9fff]", normalized))
    size = HAN_NGRAM if num_han * 2 > len(normalized) else CHARACTER_NGRAM
    return {hash_ngram(normalized[start : start + size]) for start in range(max(1, len(normalized) - size + 1))}


def word_ngrams(text: str, size: int) -> set[int]:
    """Return the hashes of all n-grams of `size` words (Chinese: characters); of a shorter text, one hash."""
    words = split_words(text)
    if not words:
        return set()
    return {hash_ngram(" ".join(words[start : start + size])) for start in range(max(1, len(words) - size + 1))}


def hash_ngram(ngram: str) -> int:
    """Return a hash below HASH_LIMIT."""
    return int.from_bytes(blake2b(ngram.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") % HASH_LIMIT


def jaccard(first: set[int], second: set[int]) -> float:
    """Return the share of elements in both sets among those in either; 1 for two empty sets."""
    union = len(first | second)
    return len(first & second) / union if union else 1.0


def signatures(sets: Sequence[set[int]], seed: int = 0) -> NDArray[np.int64]:
    """Return the MinHash signatures, [N, BANDS * ROWS]: the minimum of each set under hash functions a x + b."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(1, HASH_LIMIT, (2, BANDS * ROWS))
    minima = np.full((len(sets), BANDS * ROWS), HASH_LIMIT, dtype=np.int64)
    for number, ngrams in enumerate(sets):
        if ngrams:
            values = np.fromiter(ngrams, dtype=np.int64)
            minima[number] = ((values[:, None] * a + b) % HASH_LIMIT).min(0)
    return minima
