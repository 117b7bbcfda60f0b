"""Addition of two numbers of n digits; every number of carries is equally likely. Reversed order writes the last digit
first, spacing puts a space between digits."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from llmstage.explore.probes.base import NO_LANGUAGE, Question

LANGUAGES = NO_LANGUAGE
CORE = (
    *({"digits": digits, "order": "normal", "spaced": False} for digits in (1, 2, 3, 4, 6)),
    {"digits": 4, "order": "reversed", "spaced": False},
)
FULL = tuple(
    {"digits": digits, "order": order, "spaced": spaced}
    for spaced in (False, True)
    for order in ("normal", "reversed")
    for digits in range(1, 7)
)


def sample_question(rng: random.Random, cell: Mapping[str, Any], lang: str) -> Question:
    """Draw two numbers and their carries; one part for each column."""
    digits = cell["digits"]
    a, b, carries = with_carries(rng, digits, rng.randint(0, digits))
    columns, carry = [], 0
    for position in range(digits):
        x, y = a // 10**position % 10, b // 10**position % 10
        columns.append(column(x, y, carry))
        carry = (x + y + carry) // 10
    return Question(
        f"{written(a, cell)} + {written(b, cell)} =",
        written(a + b, cell),
        key=f"{min(a, b)} {max(a, b)}",
        meta={"carries": carries},
        parts=[("carry" if part.prompt.endswith("+ 1 =") else "digit", part) for part in columns],
    )


def column(x: int, y: int, carry: int) -> Question:
    """Return the sum of one column, a part of the full addition."""
    return Question(f"{x} + {y} + 1 =" if carry else f"{x} + {y} =", str(x + y + carry))


def with_carries(rng: random.Random, digits: int, carries: int) -> tuple[int, int, int]:
    """Return (a, b, number of carries): draw the columns that carry, then digits with these carries."""
    carrying = set(rng.sample(range(digits), carries))
    a = b = carry = 0
    for position in range(digits):
        least = 1 if position == digits - 1 and digits > 1 else 0
        pairs = [
            (x, y)
            for x in range(least, 10)
            for y in range(least, 10)
            if (x + y + carry >= 10) == (position in carrying)
        ]
        x, y = rng.choice(pairs)
        a, b = a + x * 10**position, b + y * 10**position
        carry = int(position in carrying)
    return a, b, carries


def written(number: int, cell: Mapping[str, Any]) -> str:
    """Return the number in the order and spacing of the cell."""
    text = str(number)[::-1] if cell["order"] == "reversed" else str(number)
    return " ".join(text) if cell["spaced"] else text
