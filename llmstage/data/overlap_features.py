"""Which words of a context stand in its question: numbers for each word that a model can be told beside the tokens."""

from __future__ import annotations

from collections import Counter

import numpy as np

from llmstage.data.question_rows import words_at

MATCHES = ("match", "near", "far")
"""Names of the numbers, each from 0 to 1."""
REACH = {"near": 5, "far": 15}
"""Words (Chinese characters) looked at on either side."""


def matches(
    question: str, context: str, offsets: list[tuple[int, int]], first: int, length: int
) -> dict[str, list[float]]:
    """For the tokens of the context (at `first` and on, by their `offsets` in characters) among `length` tokens: how rare a question word it is (1 / its count in
    the context), and which share of the question's words, so weighted, stands within a few and within some more words.

    The first is the exact match of DrQA (Chen et al. 2017, section 3.2), the others are the sliding window of Richardson
    et al. (2013) as an input.
    """
    words = words_at(context)
    counts = Counter(word for word, _, _ in words)
    wanted = [word for word in dict.fromkeys(word for word, _, _ in words_at(question)) if word in counts]
    places = {word: [place for place, (other, _, _) in enumerate(words) if other == word] for word in wanted}
    numbers = {name: np.zeros(len(words) + 1) for name in MATCHES}  # the last: no word at all
    whole = sum(1 / counts[word] for word in wanted)
    for word in wanted:
        numbers["match"][places[word]] = 1 / counts[word]
        for name, reach in REACH.items():
            seen = np.zeros(len(words) + 1, dtype=bool)
            for place in places[word]:
                seen[max(0, place - reach) : min(len(words), place + reach + 1)] = True
            numbers[name] += seen / counts[word] / whole
    of_character = np.full(len(context) + 1, len(words))
    for place, (_, start, end) in enumerate(words):
        of_character[start:end] = place
    # A token that begins with white space belongs to the word that it ends in.
    index = [int(of_character[max(start, end - 1)]) for start, end in offsets]
    out = {name: [0.0] * length for name in MATCHES}
    for name in MATCHES:
        out[name][first : first + len(offsets)] = [float(value) for value in numbers[name][index]]
    return out
