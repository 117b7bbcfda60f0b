"""A text as the words that BM25 compares.

Latin and other spaced scripts: words in lower case, reduced to their stems (Snowball's English stemmer, Porter 2). Chinese,
Japanese and Korean: each character and each pair of neighbours, which needs no dictionary (as Lucene's CJK analyzer, whose
pairs overlap, with the characters beside them). On the Chinese sets that benchmarks/retrieval.py reads, this finds at least as
much as jieba's words, and needs 40 MB less.
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
_one_at_a_time = threading.Lock()


def words_of(text: str) -> list[str]:
    """In the order of the text, repetitions kept."""
    found: list[str] = []
    for run in RUN.findall(unicodedata.normalize("NFKC", text).lower()):
        if RUN_OF_CJK.match(run):
            found += run
            found += [run[at : at + 2] for at in range(len(run) - 1)]
        else:
            found.append(stem(run))
    return found


def count_words(text: str) -> int:
    """Words of spaced scripts, and characters of the others."""
    return len(COUNTED.findall(text))


def is_chinese(text: str) -> bool:
    return HAN.search(text) is not None


@lru_cache(maxsize=1 << 17)
def stem(word: str) -> str:
    with _one_at_a_time:  # the stemmer keeps the word that it works on in itself
        return str(stemmer().stemWord(word))


@lru_cache(maxsize=1)
def stemmer() -> Any:
    import snowballstemmer

    return snowballstemmer.stemmer("english")
