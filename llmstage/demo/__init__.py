"""Demo worlds: generated bilingual rows that a tiny model can learn without a network.

Each world is a pure function of (num_rows, seed). Equal arguments give equal rows on every machine, a longer list begins with
the shorter one, and two seeds share practically no row.
"""

from __future__ import annotations


def words(text: str) -> tuple[str, ...]:
    """Split a list that is written as one line of text."""
    return tuple(text.split())
