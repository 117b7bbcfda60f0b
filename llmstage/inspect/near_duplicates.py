"""Rows that say the same, or nearly: within a split, and on two sides of the splits."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence

from llmstage.data.quality.near_duplicates import BANDS, ROWS, hashed, jaccard, signatures

CHARACTERS = 5
"""Characters in a row that are compared: what Leskovec, Rajaraman & Ullman (Mining of Massive Datasets, 3.2.2) take for short
texts. (Runs of words, as for web pages, call two questions of eight words unlike as soon as one word differs.)"""
HAN = 2
"""The same of Chinese: there are thousands of characters, so that two of them say as much as five letters."""
MOST = 64
"""Rows of one bucket that a row is compared with: of texts made by one template there are thousands."""


def plain(text: str) -> str:
    """Letters and digits as they are compared: without case, width, punctuation, and with single spaces."""
    kept = re.sub(r"[^\w]+", " ", unicodedata.normalize("NFKC", text).casefold())
    return kept.strip()


def shingles(text: str) -> set[int]:
    """Hashes of all runs of CHARACTERS (HAN) characters; of a shorter text, of the whole of it."""
    said = plain(text)
    if not said:
        return set()
    han = len(re.findall("[\u3400-\u9fff]", said))
    size = HAN if han * 2 > len(said) else CHARACTERS
    return {hashed(said[at : at + size]) for at in range(max(1, len(said) - size + 1))}


def near_pairs(texts: Sequence[str], likeness: float) -> dict[int, int]:
    """Of each text that is like an earlier one (Jaccard likeness of its shingles at least `likeness`), the earlier one.

    MinHash (Broder 1997) finds the candidates; each is then compared exactly, so none is told that is not one.
    """
    sets = [shingles(text) for text in texts]
    marks = signatures(sets)
    buckets: list[dict[bytes, list[int]]] = [defaultdict(list) for _ in range(BANDS)]
    found: dict[int, int] = {}
    for number, own in enumerate(sets):
        if not own:
            continue
        keys = [marks[number, band * ROWS : (band + 1) * ROWS].tobytes() for band in range(BANDS)]
        near = {other for bucket, key in zip(buckets, keys, strict=True) for other in bucket[key][:MOST]}
        like = next((other for other in sorted(near) if jaccard(own, sets[other]) >= likeness), None)
        if like is not None:
            found[number] = like
        for bucket, key in zip(buckets, keys, strict=True):
            bucket[key].append(number)
    return found
