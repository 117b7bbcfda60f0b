"""The translation world: sentences of a small grammar in English and Chinese, about animals, colours, places and deeds."""

from __future__ import annotations

import random
from typing import Any

from llmstage.demo import words

NUMBERS = dict(zip(words("two three four five six seven eight nine ten"), "两三四五六七八九十", strict=True))
COLOURS = {
    "red": "红色", "black": "黑色", "white": "白色", "yellow": "黄色", "green": "绿色", "blue": "蓝色", "grey": "灰色",
    "brown": "棕色",
}  # fmt: skip
ANIMALS = {  # singular: (plural, Chinese, measure word)
    "cat": ("cats", "猫", "只"), "dog": ("dogs", "狗", "条"), "horse": ("horses", "马", "匹"), "cow": ("cows", "牛", "头"),
    "bird": ("birds", "鸟", "只"), "fish": ("fish", "鱼", "条"), "tiger": ("tigers", "老虎", "只"), "goat": ("goats", "山羊", "只"),
    "duck": ("ducks", "鸭子", "只"), "mouse": ("mice", "老鼠", "只"), "snake": ("snakes", "蛇", "条"), "bear": ("bears", "熊", "头"),
    "rabbit": ("rabbits", "兔子", "只"), "frog": ("frogs", "青蛙", "只"),
}  # fmt: skip
DOING = {
    "sleeping": "睡觉", "running": "跑步", "eating": "吃东西", "drinking": "喝水", "playing": "玩", "singing": "唱歌",
    "resting": "休息", "waiting": "等待",
}  # fmt: skip
PLACES = {
    "": "", "by the river": "河边", "in the garden": "花园里", "under the tree": "树下", "on the hill": "山上",
    "behind the house": "房子后面", "near the bridge": "桥附近",
}  # fmt: skip
DEEDS = {"saw": "看见了", "followed": "跟着", "found": "找到了", "carried": "带走了", "lost": "弄丢了"}
THINGS = {
    "ball": "球", "hat": "帽子", "box": "盒子", "book": "书", "flower": "花", "cup": "杯子", "chair": "椅子", "lamp": "灯",
    "shoe": "鞋", "bag": "包",
}  # fmt: skip


def translation_rows(num_rows: int, seed: int) -> list[dict[str, Any]]:
    """Return `num_rows` rows {source, target} with distinct sources."""
    rng = random.Random(f"translation {seed}")
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    while len(rows) < num_rows:
        source, target = rng.choice((counted, counted, deed, question))(rng)
        if source not in seen:
            seen.add(source)
            rows.append({"source": source, "target": target})
    return rows


def pick(rng: random.Random, table: dict[str, Any]) -> tuple[str, Any]:
    return rng.choice(list(table.items()))


def counted(rng: random.Random) -> tuple[str, str]:
    """Return a sentence such as: Three red cats are sleeping by the river."""
    (number, zh_number), (colour, zh_colour) = pick(rng, NUMBERS), pick(rng, COLOURS)
    _, (animals, zh_animal, measure) = pick(rng, ANIMALS)
    (doing, zh_doing), (location, zh_location) = pick(rng, DOING), pick(rng, PLACES)
    source = f"{number.capitalize()} {colour} {animals} are {doing}{' ' if location else ''}{location}."
    return source, f"{zh_number}{measure}{zh_colour}的{zh_animal}在{zh_location}{zh_doing}。"


def deed(rng: random.Random) -> tuple[str, str]:
    """Return a sentence such as: The black dog found the blue hat."""
    (colour, zh_colour), (thing_colour, zh_thing_colour) = pick(rng, COLOURS), pick(rng, COLOURS)
    animal, (_, zh_animal, _) = pick(rng, ANIMALS)
    (did, zh_did), (thing, zh_thing) = pick(rng, DEEDS), pick(rng, THINGS)
    return (
        f"The {colour} {animal} {did} the {thing_colour} {thing}.",
        f"{zh_colour}的{zh_animal}{zh_did}{zh_thing_colour}的{zh_thing}。",
    )


def question(rng: random.Random) -> tuple[str, str]:
    """Return a sentence such as: Does the white horse like the green cup?"""
    (colour, zh_colour), (thing_colour, zh_thing_colour) = pick(rng, COLOURS), pick(rng, COLOURS)
    animal, (_, zh_animal, _) = pick(rng, ANIMALS)
    thing, zh_thing = pick(rng, THINGS)
    return (
        f"Does the {colour} {animal} like the {thing_colour} {thing}?",
        f"{zh_colour}的{zh_animal}喜欢{zh_thing_colour}的{zh_thing}吗？",
    )
