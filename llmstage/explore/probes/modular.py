"""a + b or a * b modulo p: learned by heart or by rule (Power 2022). The unordered pair decides the split, so that no
item has its mirror image on the other side."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from llmstage.explore.probes.base import NO_LANGUAGE, Asked

LANGUAGES = NO_LANGUAGE
CORE = tuple({"op": op, "p": p} for op in ("add", "mul") for p in (11, 53))
FULL = tuple({"op": op, "p": p} for op in ("add", "mul") for p in (7, 11, 23, 53, 97, 113))
SIGN = {"add": "+", "mul": "*"}


def ask(rng: random.Random, cell: Mapping[str, Any], lang: str) -> Asked:
    p, op = cell["p"], cell["op"]
    a, b = rng.randrange(p), rng.randrange(p)
    result = (a + b if op == "add" else a * b) % p
    return Asked(f"{a} {SIGN[op]} {b} mod {p} =", str(result), key=f"{op} {p} {min(a, b)} {max(a, b)}")
