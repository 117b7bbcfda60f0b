"""Which tokens of a window are hidden, and what stands in their place (BERT, Devlin 2019)."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np

SHOWN = ("mask", "random", "unchanged")
"""What the model sees at a hidden place: the mask token, any token, the token itself."""
SHARES = (0.8, 0.9)
"""Below the first: the mask token; below the second: a random token; else the token itself."""


def draw_mask(
    ids: Sequence[int],
    words: Sequence[int] | None,
    share: float,
    mask_id: int,
    plain: np.ndarray,
    special: frozenset[int],
    rng: np.random.Generator,
) -> tuple[list[int], list[int]]:
    """(what the model sees [T], chosen positions in rising order).

    round(share * candidates) tokens are chosen, one at least; a special token never. With `words` [T] (the number of the
    word that a token belongs to) whole words are chosen, as long as they fit into that number. `plain`: the ids that a
    random token is drawn from.
    """
    candidates = [place for place, token in enumerate(ids) if token not in special]
    chosen = choose(candidates, words, max(1, round(share * len(candidates))), rng) if candidates else []
    shown = list(ids)
    luck, others = rng.random(len(chosen)), rng.integers(0, len(plain), len(chosen))
    for place, value, other in zip(chosen, luck.tolist(), others.tolist(), strict=True):
        if value < SHARES[0]:
            shown[place] = mask_id
        elif value < SHARES[1]:
            shown[place] = int(plain[other])
    return shown, chosen


def choose(candidates: list[int], words: Sequence[int] | None, most: int, rng: np.random.Generator) -> list[int]:
    if words is None:
        return sorted(candidates[index] for index in rng.permutation(len(candidates))[:most].tolist())
    groups: dict[int, list[int]] = {}
    for place in candidates:
        groups.setdefault(words[place], []).append(place)
    pieces = list(groups.values())
    order = rng.permutation(len(pieces)).tolist()
    chosen: list[int] = []
    for index in order:
        if len(chosen) + len(pieces[index]) <= most:
            chosen += pieces[index]
    return sorted(chosen or pieces[order[0]][:most])  # a word longer than the whole share is hidden in part


def word_numbers(text: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """The word of each token, by its place in the text (characters, [start, end)).

    A word begins at white space; a CJK character is a word by itself, unless its token holds more than that character.
    """
    numbers: list[int] = []
    number, reached = -1, 0
    for start, end in offsets:
        if not numbers or (start >= reached and begins_word(text, start)):
            number += 1
        numbers.append(number)
        reached = max(reached, end)  # a character cut into bytes has several tokens with the same place
    return numbers


def begins_word(text: str, start: int) -> bool:
    if start == 0 or start >= len(text):
        return True
    here, before = text[start], text[start - 1]
    return here.isspace() or before.isspace() or stands_alone(here) or stands_alone(before)


def stands_alone(character: str) -> bool:
    """Wide characters are written without spaces: Chinese, Japanese, their punctuation. Korean has spaces."""
    wide = unicodedata.east_asian_width(character) in "WF"
    return wide and not ("\u1100" <= character <= "\u11ff" or "\uac00" <= character <= "\ud7a3")
