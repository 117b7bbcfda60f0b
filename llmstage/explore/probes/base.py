"""What all probe families use: the form of a question, and names and objects in English and Chinese."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from llmstage.demo import words
from llmstage.explore.items import MetaValue


@dataclass(slots=True)
class Question:
    """One question, before it has an id and a split."""

    prompt: str
    answer: str | None = None
    choices: Sequence[str] = ()
    label: int | None = None
    key: str = ""
    """Template and parameters, without the language: the same content in two languages is in one split."""
    meta: dict[str, MetaValue] = field(default_factory=dict)
    """Axes that vary inside the cell."""
    parts: list[tuple[str, Question]] = field(default_factory=list)
    """(name of the skill, question on the same facts)."""
    image: str | None = None
    free: bool = False
    glued: bool = False
    """Whether no space separates prompt and answer."""

    def identity(self) -> str:
        """Return all that a model reads of the question; two questions with the same text are one."""
        return f"{self.prompt}|{self.image}|{sorted(self.choices)}"


BOTH = ("en", "zh")
NO_LANGUAGE = ("",)
LETTERS = "abcdefghijklmnopqrstuvwxyz"
STEMS = "甲乙丙丁戊己庚辛壬癸子丑寅卯辰巳午未申酉戌亥"
"""The ten heavenly stems and the twelve earthly branches, in order."""

NAMES = {
    "en": words(
        "Anna Ben Clara David Emma Frank Grace Henry Iris Jack Karen Leo Maria Nora Oscar Paula Quinn Rosa Simon Tina "
        "Ursula Victor Wendy Xavier Yvonne Zack Alma Boris Celia Doris Erik Fiona"
    ),
    "zh": words(
        "安娜 本杰 小兰 大伟 艾玛 方明 小雅 海瑞 小虹 杰克 可欣 立欧 玛丽 诺拉 小奥 宝拉 秋恩 若莎 西蒙 婷娜 "
        "乌雪 文克 温迪 夏维 怡文 泽康 小玛 鲍里 思丽 多丽 艾力 菲娜"
    ),
}
THINGS = {
    "en": words("ball cup key book lamp coin pen hat box ring bell rope"),
    "zh": words("球 杯子 钥匙 书 灯 硬币 钢笔 帽子 盒子 戒指 铃铛 绳子"),
}
YES_NO = {"en": ("yes", "no"), "zh": ("是", "否")}


def number(rng: random.Random, digits: int) -> int:
    """Draw a number with this many digits, uniformly."""
    return rng.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits)


def shuffled(rng: random.Random, right: str, wrong: Sequence[str]) -> tuple[list[str], int]:
    """Return (choices in random order, index of the right one)."""
    choices = [right, *wrong]
    rng.shuffle(choices)
    return choices, choices.index(right)
