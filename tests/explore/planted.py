"""Digits to copy, reverse, sort or count up, with a weakness planted in the training rows (EMERGENCE.md 4.4).

    python tests/explore/planted.py <folder> [seed] [ladder]

writes train.jsonl (long reversals at 0.2 % of the normal rate), test.jsonl (all at the same rate), new.jsonl (the rows that were
left out) and weak.jsonl (the slice as stage=explore writes it). No row is in two files. With `ladder` it writes the same
world without a weakness as plain text, train.txt and validation.txt, and items.jsonl, 150 questions of each of the 28 cells.
"""

from __future__ import annotations

import json
import random
import sys
from hashlib import blake2b
from pathlib import Path
from typing import Any

OPS = {
    "copy": lambda digits: digits,
    "rev": lambda digits: digits[::-1],
    "sort": lambda digits: "".join(sorted(digits)),
    "succ": lambda digits: "".join(str((int(digit) + 1) % 10) for digit in digits),
}
WEAK = {"op": "rev", "len": ">= 6"}


def is_held_out(source: str) -> bool:
    """Whether a string is in the fixed fifth that is for scoring."""
    return blake2b(source.encode(), digest_size=2).digest()[0] < 51


def draw(rng: random.Random, op: str, length: int, *, held_out: bool) -> dict[str, Any]:
    while True:
        digits = "".join(rng.choice("0123456789") for _ in range(length))
        source = f"{op} {digits}"
        if is_held_out(source) is held_out:
            return {"source": source, "target": OPS[op](digits), "op": op, "len": length}


def rows(
    seed: int, num: int, *, held_out: bool, lengths: range = range(2, 9), weak_from: int = 6, weak_rate: float = 1.0,
    ops: tuple[str, ...] = tuple(OPS), only_weak: bool = False,
) -> list[dict[str, Any]]:  # fmt: skip
    """`weak_rate`: how often a reversal of `weak_from` digits or more occurs, where 1 is as often as the others."""
    rng = random.Random(seed)
    cells = [(op, length) for op in ops for length in lengths]
    weak = [op == "rev" and length >= weak_from for op, length in cells]
    weights = [float(bad) if only_weak else weak_rate if bad else 1.0 for bad in weak]
    return [draw(rng, *rng.choices(cells, weights)[0], held_out=held_out) for _ in range(num)]


def write(
    folder: Path, seed: int = 0, num_train: int = 60_000, num_test: int = 17_000, planted: bool = True, **how: Any
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rate = 0.002 if planted else 1.0
    files = {
        "train": rows(seed, num_train, held_out=False, weak_rate=rate, **how),
        "test": rows(seed + 1000, num_test, held_out=True, **how),
        "new": rows(seed + 2000, max(200, num_train // 12), held_out=False, only_weak=True, **how),
        "weak": [{"slice": {"op": "rev", "len": f">= {how.get('weak_from', 6)}"}}],
    }
    for name, lines in files.items():
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


def write_ladder(folder: Path, seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in (
        ("train", rows(seed, 60_000, held_out=False)),
        ("validation", rows(seed + 7, 600, held_out=True)),
    ):
        text = "".join(f"{row['source']}={row['target']}\n" for row in lines)
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    rng = random.Random(seed + 1000)
    asked = [draw(rng, op, length, held_out=True) for op in OPS for length in range(2, 9) for _ in range(150)]
    items = [
        {
            "family": "rows",
            "prompt": f"{row['source']}=",
            "answer": row["target"],
            "meta": {"op": row["op"], "len": row["len"]},
        }
        for row in asked
    ]
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")


if __name__ == "__main__":
    writer = write_ladder if "ladder" in sys.argv[3:] else write
    writer(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
