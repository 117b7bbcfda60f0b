"""a + b or a * b modulo p, which a model memorises or generalises (Power 2022). The unordered pair decides the split, so
that (a, b) and (b, a) are never in two splits."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from llmstage.explore.probes.base import NO_LANGUAGE, Question

LANGUAGES = NO_LANGUAGE
CORE = tuple({"op": op, "p": p} for op in ("add", "mul") for p in (11, 53))
FULL = tuple({"op": op, "p": p} for op in ("add", "mul") for p in (7, 11, 23, 53, 97, 113))
SIGN = {"add": "+", "mul": "*"}


def sample_question(rng: random.Random, cell: Mapping[str, Any], lang: str) -> Question:
    """Draw a and b modulo p."""
    p, op = cell["p"], cell["op"]
    a, b = rng.randrange(p), rng.randrange(p)
    result = (a + b if op == "add" else a * b) % p
    return Question(f"{a} {SIGN[op]} {b} mod {p} =", str(result), key=f"{op} {p} {min(a, b)} {max(a, b)}")
