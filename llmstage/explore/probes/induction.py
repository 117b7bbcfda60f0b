"""A random row of symbols comes again and stops; what follows? The gold test of a phase change (Olsson 2022): it takes a
head that finds the symbol's last occurrence and one that knows what came after it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from llmstage.explore.probes.base import LETTERS, NO_LANGUAGE, Asked, shuffled

LANGUAGES = NO_LANGUAGE
CORE = tuple({"period": period, "vocabulary": 26} for period in (4, 8, 16))
FULL = tuple(
    {"period": period, "vocabulary": size} for period in (4, 8, 16, 24, 40) for size in (26, 52) if period <= size
)
SYMBOLS = LETTERS + LETTERS.upper()


def ask(rng: random.Random, cell: Mapping[str, Any], lang: str) -> Asked:
    # A period that is always the same would let a rule of places win (Olsson 2022): it is drawn, up to the cell's.
    period = rng.randint(cell["period"] // 2, cell["period"])
    row = rng.sample(SYMBOLS[: cell["vocabulary"]], period)
    # How far the second round has come is drawn, so that no fixed place holds the answer.
    seen = rng.randrange(1, period)
    last, answer = row[seen - 1], row[seen]
    given = " ".join([*row, *row[:seen]])
    absent = [one for one in SYMBOLS[: cell["vocabulary"]] if one not in row]
    parts = [("previous", Asked(f"{' '.join(row)} ; before {answer} :", last))]
    if absent:
        asked = rng.choice((last, rng.choice(absent)))
        choices, label = shuffled(rng, "yes" if asked in row else "no", ["no" if asked in row else "yes"])
        parts.append(("match", Asked(f"{' '.join(row)} ; is {asked} there :", choices=choices, label=label)))
    return Asked(given, answer, key=" ".join(row), meta={"distance": period, "second": seen}, parts=parts)
