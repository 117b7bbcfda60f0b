"""Demo worlds: seeded, original, bilingual rows that a tiny model can learn offline.

Each world is a pure function of (num_rows, seed): equal arguments give equal rows on every machine, a longer list
begins with the shorter one, and two seeds share practically no row.
"""

from __future__ import annotations


def words(text: str) -> tuple[str, ...]:
    """The words of a list that is written as one line of text."""
    return tuple(text.split())
