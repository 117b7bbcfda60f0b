"""A random sequence of symbols repeats and stops; what follows? The reference test of a phase change (Olsson 2022): it needs
an attention head that finds the last occurrence of the symbol, and one that reads what came after it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from llmstage.explore.probes.base import LETTERS, NO_LANGUAGE, Question, shuffled

LANGUAGES = NO_LANGUAGE
CORE = tuple({"period": period, "vocabulary": 26} for period in (4, 8, 16))
FULL = tuple(
    {"period": period, "vocabulary": size} for period in (4, 8, 16, 24, 40) for size in (26, 52) if period <= size
)
SYMBOLS = LETTERS + LETTERS.upper()


def sample_question(rng: random.Random, cell: Mapping[str, Any], lang: str) -> Question:
    """Draw a sequence that repeats, cut its second round, and ask for the next symbol."""
    # With a constant period a rule on positions would be enough (Olsson 2022): it is drawn, up to that of the cell.
    period = rng.randint(cell["period"] // 2, cell["period"])
    row = rng.sample(SYMBOLS[: cell["vocabulary"]], period)
    # The length of the second round is drawn, so that the answer has no fixed position.
    seen = rng.randrange(1, period)
    last, answer = row[seen - 1], row[seen]
    given = " ".join([*row, *row[:seen]])
    absent = [symbol for symbol in SYMBOLS[: cell["vocabulary"]] if symbol not in row]
    parts = [("previous", Question(f"{' '.join(row)} ; before {answer} :", last))]
    if absent:
        symbol = rng.choice((last, rng.choice(absent)))
        choices, label = shuffled(rng, "yes" if symbol in row else "no", ["no" if symbol in row else "yes"])
        parts.append(("match", Question(f"{' '.join(row)} ; is {symbol} there :", choices=choices, label=label)))
    return Question(given, answer, key=" ".join(row), meta={"distance": period, "second": seen}, parts=parts)
