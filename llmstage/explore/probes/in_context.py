"""A rule that stands in the examples alone: which of two labels a kind of word gets, or a linear map of small numbers."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from llmstage.demo import words
from llmstage.explore.probes.base import BOTH, LETTERS, Asked

LANGUAGES = BOTH
CORE = (
    *({"rule": "labels", "shots": shots, "noise": 0.0} for shots in (2, 8)),
    {"rule": "labels", "shots": 8, "noise": 0.25},
    *({"rule": "linear", "shots": shots, "dim": 1} for shots in (2, 6)),
    {"rule": "linear", "shots": 6, "dim": 2},
)
FULL = (
    *({"rule": "labels", "shots": shots, "noise": 0.0} for shots in (2, 4, 8, 16)),
    *({"rule": "labels", "shots": shots, "noise": 0.25} for shots in (8, 16)),
    *({"rule": "linear", "shots": shots, "dim": dim} for dim in (1, 2, 3) for shots in (2, 4, 8, 16) if shots > dim),
)
KINDS = (
    {"en": words("cat dog horse cow sheep goat lion tiger bear wolf fox rabbit"), "zh": words("猫 狗 马 牛 羊 鹿 狮子 老虎 熊 狼 狐狸 兔子")},
    {"en": words("apple pear plum peach grape lemon melon cherry orange banana mango fig"), "zh": words("苹果 梨 李子 桃子 葡萄 柠檬 甜瓜 樱桃 橙子 香蕉 芒果 无花果")},
)  # fmt: skip


def ask(rng: random.Random, cell: Mapping[str, Any], lang: str) -> Asked:
    return labels(rng, cell, lang) if cell["rule"] == "labels" else linear(rng, cell)


def labels(rng: random.Random, cell: Mapping[str, Any], lang: str) -> Asked:
    """Half of the examples are animals, half are fruit; with noise, so many of each kind have the other's label."""
    names = rng.sample(LETTERS.upper(), 2)
    each = cell["shots"] // 2
    wrong = int(cell["noise"] * each)
    shown = [rng.sample(range(12), each) for _ in KINDS]
    shots = [(kind, word, 1 - kind if at < wrong else kind) for kind in (0, 1) for at, word in enumerate(shown[kind])]
    rng.shuffle(shots)
    asked_kind = rng.randrange(2)
    asked = rng.choice([word for word in range(12) if word not in shown[asked_kind]])
    lines = [f"{KINDS[kind][lang][word]} -> {names[label]}" for kind, word, label in shots]
    prompt = "\n".join([*lines, f"{KINDS[asked_kind][lang][asked]} ->"])
    choices = sorted(names)
    return Asked(
        prompt,
        choices=choices,
        label=choices.index(names[asked_kind]),
        key=f"labels {names} {shots} {asked_kind} {asked}",
    )


def linear(rng: random.Random, cell: Mapping[str, Any]) -> Asked:
    """y = w x with whole weights; the first `dim` examples are multiples of the axes, so that the weights are decided."""
    dim, most = cell["dim"], max(9, 2 * cell["shots"])
    weights = [rng.randint(1, 5) for _ in range(dim)]
    shots = [[rng.randint(1, 5) if at == axis else 0 for at in range(dim)] for axis in range(dim)]
    while len(shots) < cell["shots"]:
        shots.append([rng.randint(0, most) for _ in range(dim)])
    rng.shuffle(shots)
    while (asked := [rng.randint(1, most) for _ in range(dim)]) in shots:
        pass
    lines = [f"{row(shot)} -> {apply(weights, shot)}" for shot in shots]
    return Asked(
        "\n".join([*lines, f"{row(asked)} ->"]),
        str(apply(weights, asked)),
        key=f"linear {weights} {shots} {asked}",
        meta={"lang": "numbers"},
    )


def row(numbers: list[int]) -> str:
    return " ".join(map(str, numbers))


def apply(weights: list[int], numbers: list[int]) -> int:
    return sum(weight * number for weight, number in zip(weights, numbers, strict=True))
