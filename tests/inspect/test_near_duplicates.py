"""Near-duplicates against all pairs compared by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from llmstage.inspect.near_duplicates import near_pairs, plain, shingles

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
    a, b = ({text[at : at + 5] for at in range(len(text) - 4)} for text in (plain(index), plain(two)))
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
    assert len(shingles("退款要等多久")) == 5
    assert near_pairs(["请问我的退款还要再等多久才能到账户里", "请问我的退款还要再等多久才能到账户里呢"], 0.8) == {1: 0}
    assert near_pairs(["退款要等多久", "运费要付多少"], 0.8) == {}


@pytest.mark.parametrize("likeness", [0.3, 0.6, 0.9])
def test_likeness_decides(likeness):
    texts = ["my card did not arrive yet today", "my card did not arrive today at all"]
    assert bool(near_pairs(texts, likeness)) is (by_hand(*texts) >= likeness)
