"""A rule that only the examples in the prompt define: the label of a class of words, or a linear map of small numbers."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from llmstage.demo import words
from llmstage.explore.probes.base import BOTH, LETTERS, Question

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
CLASSES = (
    {"en": words("cat dog horse cow sheep goat lion tiger bear wolf fox rabbit"), "zh": words("猫 狗 马 牛 羊 鹿 狮子 老虎 熊 狼 狐狸 兔子")},
    {"en": words("apple pear plum peach grape lemon melon cherry orange banana mango fig"), "zh": words("苹果 梨 李子 桃子 葡萄 柠檬 甜瓜 樱桃 橙子 香蕉 芒果 无花果")},
)  # fmt: skip


def sample_question(rng: random.Random, cell: Mapping[str, Any], lang: str) -> Question:
    """Draw a question of the rule `labels` or `linear`."""
    return labels(rng, cell, lang) if cell["rule"] == "labels" else linear(rng, cell)


def labels(rng: random.Random, cell: Mapping[str, Any], lang: str) -> Question:
    """Half of the examples are animals, half are fruit; with noise, a share of each class has the label of the other."""
    names = rng.sample(LETTERS.upper(), 2)
    each = cell["shots"] // 2
    wrong = int(cell["noise"] * each)
    examples = [rng.sample(range(12), each) for _ in CLASSES]
    shots = [
        (group, word, 1 - group if at < wrong else group) for group in (0, 1) for at, word in enumerate(examples[group])
    ]
    rng.shuffle(shots)
    target_class = rng.randrange(2)
    target = rng.choice([word for word in range(12) if word not in examples[target_class]])
    lines = [f"{CLASSES[group][lang][word]} -> {names[label]}" for group, word, label in shots]
    prompt = "\n".join([*lines, f"{CLASSES[target_class][lang][target]} ->"])
    choices = sorted(names)
    return Question(
        prompt,
        choices=choices,
        label=choices.index(names[target_class]),
        key=f"labels {names} {shots} {target_class} {target}",
    )


def linear(rng: random.Random, cell: Mapping[str, Any]) -> Question:
    """y = w x with integer weights. The first `dim` examples are multiples of the axes, so that they determine the weights."""
    dim, most = cell["dim"], max(9, 2 * cell["shots"])
    weights = [rng.randint(1, 5) for _ in range(dim)]
    shots = [[rng.randint(1, 5) if at == axis else 0 for at in range(dim)] for axis in range(dim)]
    while len(shots) < cell["shots"]:
        shots.append([rng.randint(0, most) for _ in range(dim)])
    rng.shuffle(shots)
    while (asked := [rng.randint(1, most) for _ in range(dim)]) in shots:
        pass
    lines = [f"{row(shot)} -> {apply(weights, shot)}" for shot in shots]
    return Question(
        "\n".join([*lines, f"{row(asked)} ->"]),
        str(apply(weights, asked)),
        key=f"linear {weights} {shots} {asked}",
        meta={"lang": "numbers"},
    )


def row(numbers: list[int]) -> str:
    """Return numbers as text."""
    return " ".join(map(str, numbers))


def apply(weights: list[int], numbers: list[int]) -> int:
    """Return the value of the linear map."""
    return sum(weight * number for weight, number in zip(weights, numbers, strict=True))
