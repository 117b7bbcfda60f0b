"""Near duplicates against all pairs compared by hand."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from llmstage.data.quality.near_duplicates import (
    WORD_NGRAM,
    character_ngrams,
    distinct_texts,
    in_pool,
    jaccard,
    near_pairs,
    normalize_text,
    word_ngrams,
)  # fmt: skip

WORDS = [
    "where",
    "is",
    "my",
    "card",
    "and",
    "when",
    "will",
    "it",
    "arrive",
    "please",
    "tell",
    "me",
    "the",
    "fee",
    "for",
    "a",
    "transfer",
    "to",
    "my",
    "account",
    "in",
    "spain",
    "today",
]


def sentence_of(num: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, 9)) for _ in range(num)]


def by_hand(index: str, two: str) -> float:
    """Jaccard likeness of five characters in a row, written out."""
    a, b = ({text[at : at + 5] for at in range(len(text) - 4)} for text in (normalize_text(index), normalize_text(two)))
    return len(a & b) / len(a | b)


def test_what_is_found_is_what_all_pairs_by_hand_give():
    texts = sentence_of(120, 0)
    texts += [text.replace("the", "teh") for text in texts[:20]] + [text.upper() + "!!" for text in texts[20:30]]
    near = near_pairs(texts, 0.8)
    truth = {
        later
        for earlier, later in itertools.combinations(range(len(texts)), 2)
        if by_hand(texts[earlier], texts[later]) >= 0.8
    }
    assert len(truth) >= 20
    assert set(near) == truth
    assert all(by_hand(texts[later], texts[earlier]) >= 0.8 and earlier < later for later, earlier in near.items())


def test_case_width_and_punctuation_make_no_difference_and_another_word_does():
    assert near_pairs(["Where is my card?", "where is my ＣＡＲＤ"], 1.0) == {1: 0}
    assert near_pairs(["Where is my card?", "Where is my phone?"], 0.8) == {}
    assert near_pairs(["", "", "!!"], 0.8) == {}


def test_chinese_is_compared_by_two_characters():
    assert len(character_ngrams("退款要等多久")) == 5
    assert near_pairs(["请问我的退款还要再等多久才能到账户里", "请问我的退款还要再等多久才能到账户里呢"], 0.8) == {1: 0}
    assert near_pairs(["退款要等多久", "运费要付多少"], 0.8) == {}


@pytest.mark.parametrize("likeness", [0.3, 0.6, 0.9])
def test_likeness_decides(likeness):
    texts = ["my card did not arrive yet today", "my card did not arrive today at all"]
    assert bool(near_pairs(texts, likeness)) is (by_hand(*texts) >= likeness)


@pytest.mark.parametrize("likeness", [0.5, 0.8, 1.0])
def test_near_duplicates_are_those_of_comparing_all_pairs(likeness):
    rng = random.Random(0)
    words = [f"w{number}" for number in range(60)]
    texts = []
    for _ in range(60):
        base = rng.choices(words, k=40)
        texts.append(" ".join(base))
        for changes in (0, 1, 3):
            copy = list(base)
            for index in rng.sample(range(40), changes):
                copy[index] = "x"
            texts.append(" ".join(copy))
    expected: list[int] = []
    for number, text in enumerate(texts):
        grams = word_ngrams(text, WORD_NGRAM)
        if all(jaccard(grams, word_ngrams(texts[index], WORD_NGRAM)) < likeness for index in expected):
            expected.append(number)
    distinct = distinct_texts(texts, likeness)
    assert len(set(distinct) ^ set(expected)) <= (3 if likeness < 0.8 else 0)  # below 0.8 a pair may not meet
    assert len(distinct) < len(texts)


def test_near_duplicates_in_chinese_and_texts_without_words():
    assert distinct_texts(["我的快递在哪里", "我的快递在哪里！", "退款多久到账", "", "??"], 0.8) == [0, 2, 3]


def test_texts_of_the_pool_are_recognised_by_words_in_a_row():
    pool = ["one two three four five six seven eight nine ten", "我想知道我的包裹在哪里", "short text"]
    texts = ["zero two three four five six", "two three four seven", "Short text!", "包裹在哪里呢", "text short"]
    assert in_pool(texts, pool, 4) == [True, False, True, True, False]
    assert in_pool(texts, pool, 7) == [False, False, True, False, False]
