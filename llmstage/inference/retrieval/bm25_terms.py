"""Splits a text into the terms that BM25 compares.

Latin and other spaced scripts: words in lower case, reduced to their stems (Snowball's English stemmer, Porter 2). Chinese,
Japanese and Korean: each character and each pair of neighbouring characters, which needs no dictionary (Lucene's CJK analyzer
makes the same overlapping pairs). On the Chinese sets that benchmarks/retrieval.py reads, these terms find at least as much as
jieba's words, and they need 40 MB less memory.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from functools import lru_cache
from typing import Any

CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
RUN = re.compile(rf"[{CJK}]+|[^\W_{CJK}]+")
RUN_OF_CJK = re.compile(f"[{CJK}]")
COUNTED = re.compile(rf"[{CJK}]|[^\W_{CJK}]+")
HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")
_stemmer_lock = threading.Lock()


def terms_of(text: str) -> list[str]:
    """Return the terms in the order of the text, with repetitions."""
    terms: list[str] = []
    for run in RUN.findall(unicodedata.normalize("NFKC", text).lower()):
        if RUN_OF_CJK.match(run):
            terms += run
            terms += [run[start : start + 2] for start in range(len(run) - 1)]
        else:
            terms.append(stem(run))
    return terms


def count_words(text: str) -> int:
    """Return the number of words in spaced scripts plus the number of CJK characters."""
    return len(COUNTED.findall(text))


def is_chinese(text: str) -> bool:
    return HAN.search(text) is not None


@lru_cache(maxsize=1 << 17)
def stem(word: str) -> str:
    with _stemmer_lock:  # the stemmer stores the current word in itself
        return str(stemmer().stemWord(word))


@lru_cache(maxsize=1)
def stemmer() -> Any:
    import snowballstemmer

    return snowballstemmer.stemmer("english")
