"""Choose the tokens of a window that are masked, and their replacements (BERT, Devlin 2019)."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np

SHOWN = ("mask", "random", "unchanged")
"""Input at a masked position: the mask token, a random token, the token itself."""
SHARES = (0.8, 0.9)
"""A random number below the first: the mask token; below the second: a random token; else the token itself."""


def draw_mask(
    ids: Sequence[int],
    words: Sequence[int] | None,
    share: float,
    mask_id: int,
    plain: np.ndarray,
    special: frozenset[int],
    rng: np.random.Generator,
) -> tuple[list[int], list[int]]:
    """Return (input ids [T], masked positions in ascending order).

    round(share * candidates) tokens are masked, at least one and never a special token. With `words` [T], the word number of
    each token, complete words are masked as long as they fit into that number. `plain`: the ids of random tokens.
    """
    candidates = [position for position, token in enumerate(ids) if token not in special]
    masked = choose_positions(candidates, words, max(1, round(share * len(candidates))), rng) if candidates else []
    input_ids = list(ids)
    draws, random_indices = rng.random(len(masked)), rng.integers(0, len(plain), len(masked))
    for position, draw, index in zip(masked, draws.tolist(), random_indices.tolist(), strict=True):
        if draw < SHARES[0]:
            input_ids[position] = mask_id
        elif draw < SHARES[1]:
            input_ids[position] = int(plain[index])
    return input_ids, masked


def choose_positions(
    candidates: list[int], words: Sequence[int] | None, count: int, rng: np.random.Generator
) -> list[int]:
    """Return at most `count` of the candidates in ascending order, complete words where `words` are given."""
    if words is None:
        return sorted(candidates[index] for index in rng.permutation(len(candidates))[:count].tolist())
    by_word: dict[int, list[int]] = {}
    for position in candidates:
        by_word.setdefault(words[position], []).append(position)
    groups = list(by_word.values())
    order = rng.permutation(len(groups)).tolist()
    chosen: list[int] = []
    for index in order:
        if len(chosen) + len(groups[index]) <= count:
            chosen += groups[index]
    return sorted(chosen or groups[order[0]][:count])  # a word longer than `count` is masked in part


def word_numbers(text: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Return the word number of each token from its offsets in the text (characters, [start, end)).

    A word begins at white space. A CJK character is a word, unless its token has more characters.
    """
    numbers: list[int] = []
    number, reached = -1, 0
    for start, end in offsets:
        if not numbers or (start >= reached and begins_word(text, start)):
            number += 1
        numbers.append(number)
        reached = max(reached, end)  # the bytes of one character are several tokens with the same offsets
    return numbers


def begins_word(text: str, start: int) -> bool:
    if start == 0 or start >= len(text):
        return True
    here, before = text[start], text[start - 1]
    return here.isspace() or before.isspace() or is_unspaced(here) or is_unspaced(before)


def is_unspaced(character: str) -> bool:
    """Return whether a character belongs to a script without spaces: Chinese, Japanese, their punctuation; not Korean."""
    wide = unicodedata.east_asian_width(character) in "WF"
    return wide and not ("\u1100" <= character <= "\u11ff" or "\uac00" <= character <= "\ud7a3")
