"""Which tokens are hidden, and how: laws of BERT's masking, and words in two languages."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from llmstage.data.encoding.masking import draw_mask, word_numbers

MASK, SPECIAL, PLAIN = 3, frozenset({0, 1, 2, 3}), np.arange(4, 2000)


def draw(ids, seed, words=None, share=0.15):
    return draw_mask(ids, words, share, MASK, PLAIN, SPECIAL, np.random.default_rng(seed))


def test_shares_are_those_of_bert_and_every_place_is_as_likely():
    ids = [1, *range(10, 110), 2]
    ways: Counter[str] = Counter()
    places: Counter[int] = Counter()
    for seed in range(2000):
        shown, chosen = draw(ids, seed)
        assert len(chosen) == 15 and chosen == sorted(set(chosen))
        places.update(chosen)
        for place, (new, old) in enumerate(zip(shown, ids, strict=True)):
            assert place in chosen or new == old
        ways.update("mask" if shown[at] == MASK else "same" if shown[at] == ids[at] else "other" for at in chosen)
        assert all(shown[at] not in SPECIAL - {MASK} for at in chosen)
    for way, share in (("mask", 0.8), ("other", 0.1), ("same", 0.1)):
        assert ways[way] / 30000 == pytest.approx(share, abs=0.01)
    assert set(places) == set(range(1, 101)) and max(places.values()) < 1.4 * min(places.values())


def test_one_token_at_least_and_never_a_special_one():
    for seed in range(20):
        assert draw([1, 50, 2], seed)[1] == [1]
        assert draw([1, 0, 60, 0, 2], seed, share=1.0)[1] == [2]
    assert draw([1, 0, 2], 0) == ([1, 0, 2], [])


def test_the_same_seed_draws_the_same_and_another_draws_anew():
    ids = [1, *range(10, 110), 2]
    assert draw(ids, (7, 1)) == draw(ids, (7, 1))
    assert draw(ids, (7, 1)) != draw(ids, (7, 2))


def test_whole_words_are_hidden_whole_within_the_share():
    words = [-1, *[place // 3 for place in range(60)], -1]
    ids = [1, *range(10, 70), 2]
    for seed in range(50):
        chosen = draw(ids, seed, words)[1]
        assert len(chosen) == 9
        assert all(count == 3 for count in Counter(words[at] for at in chosen).values())
    assert draw(ids, 0, words) != draw(ids, 0)
    assert len(draw(ids, 0, [0] * 62)[1]) == 9, "a word longer than the whole share is hidden in part"


@pytest.mark.parametrize(
    ("text", "pieces", "expected"),
    [
        ("the red balloon", ["the", " red", " ball", "oon"], [0, 1, 2, 2]),
        ("re-do it.", ["re", "-", "do", " it", "."], [0, 0, 0, 1, 1]),
        ("我爱北京", ["我", "爱", "北京"], [0, 1, 2]),
        ("用GPU训练", ["用", "G", "PU", "训", "练"], [0, 1, 1, 2, 3]),
        ("好，走", ["好", "，", "走"], [0, 1, 2]),
        ("a\n\nb", ["a", "\n\n", "b"], [0, 1, 2]),
        ("나는 간다", ["나", "는", " 간", "다"], [0, 0, 1, 1]),
    ],
)
def test_words_begin_at_white_space_and_a_chinese_character_is_one(text, pieces, expected):
    offsets, at = [], 0
    for piece in pieces:
        offsets.append((at, at + len(piece)))
        at += len(piece)
    assert word_numbers(text, offsets) == expected


def test_the_bytes_of_one_character_are_one_word():
    assert word_numbers("水火", [(0, 1), (0, 1), (0, 1), (1, 2), (1, 2), (1, 2)]) == [0, 0, 0, 1, 1, 1]
