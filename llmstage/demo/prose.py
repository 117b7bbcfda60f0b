"""The prose world: short stories, in English and Chinese, for causal language models.

A story introduces two people by name, one of them moves a thing from one place to another, and the end is about the same
people, thing and places: the first sentences decide the last ones.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from llmstage.data.rows import Row
from llmstage.demo import words


@dataclass(slots=True, frozen=True)
class Grammar:
    """Sentence patterns with {a} and {b} (people), {thing}, {old} (its place before), {new} (its place after)."""

    people: tuple[str, ...]
    things: tuple[str, ...]
    places: tuple[str, ...]
    openings: tuple[str, ...]
    deeds: tuple[str, ...]
    asides: tuple[str, ...]
    endings: tuple[str, ...]
    join: str


ENGLISH = Grammar(
    people=words("Ada Bruno Celia Dmitri Edith Felix Greta Henrik Ines Jonas Katrin Leo"),
    things=words("compass ladder violin letter telescope suitcase drum kite notebook lantern"),
    places=words("attic garden harbour library kitchen station museum cellar workshop tower"),
    openings=(
        "{a} and {b} lived in a house by the river.",
        "{a} had known {b} since they were children.",
        "On a cold evening {a} paid {b} a visit.",
        "{a} taught {b} how to paint, and they became friends.",
    ),
    deeds=(
        "One day {a} found a {thing} in the {old} and carried it to the {new}.",
        "{a} took the {thing} out of the {old} and hid it in the {new}.",
        "There was a {thing} in the {old}, and {a} brought it to the {new}.",
    ),
    asides=(
        "It rained until the morning.",
        "{b} was asleep and heard nothing.",
        "The bells of the town rang twice.",
        "A dog barked somewhere behind the hill.",
        "{b} was busy baking bread.",
        "Snow lay on all the roofs.",
    ),
    endings=(
        "Later {b} looked for the {thing} in the {old}, but {a} had left it in the {new}.",
        '"Where is the {thing}?" asked {b}. "It is in the {new}," said {a}.',
        "When {b} came to the {new}, the {thing} was there, and {b} thanked {a}.",
    ),
    join=" ",
)

CHINESE = Grammar(
    people=words("小梅 阿东 小兰 阿成 小雨 阿福 小菊 阿宝 小云 阿明 小荷 阿林"),
    things=words("指南针 梯子 小提琴 信 望远镜 箱子 鼓 风筝 笔记本 灯笼"),
    places=words("阁楼 花园 码头 图书馆 厨房 车站 博物馆 地窖 作坊 塔楼"),
    openings=(
        "{a}和{b}住在河边的一座老房子里，两个人是邻居，也是很好的朋友。",
        "{a}从小就认识{b}，他们一起上学，一起长大，什么事情都愿意告诉对方。",
        "在一个寒冷的晚上，{a}走了很远的路，到城里来看望老朋友{b}。",
        "{a}教{b}画画，教了整整一个夏天，后来他们就成了很好的朋友。",
    ),
    deeds=(
        "有一天，{a}在{old}里找到了{thing}，把它搬到了{new}。",
        "{a}从{old}里拿出{thing}，悄悄地藏进了{new}。",
        "{old}里放着{thing}，{a}把它带到了{new}。",
    ),
    asides=(
        "雨一直下到第二天早上。",
        "{b}睡得很熟，什么也没有听见。",
        "城里的钟响了两下。",
        "山后面有一只狗在叫。",
        "{b}正忙着做面包。",
        "所有的屋顶上都是雪。",
    ),
    endings=(
        "后来{b}到{old}里去找{thing}，可是{a}已经把它放在{new}了。",
        "{b}问：“{thing}在哪里？”{a}回答说：“它在{new}里。”",
        "{b}来到{new}的时候，看见{thing}就在那里，于是谢了{a}。",
    ),
    join="",
)

GRAMMARS = (ENGLISH, CHINESE)


def prose_rows(num_rows: int, seed: int) -> list[Row]:
    """Return `num_rows` distinct documents `{"text"}` of 80 to 400 characters; English and Chinese alternate.

    Equal arguments give equal rows, and a longer list begins with the shorter one.
    """
    rng = random.Random(f"prose {seed}")
    rows: list[Row] = []
    seen: set[str] = set()
    while len(rows) < num_rows:
        text = draw_story(rng, GRAMMARS[len(rows) % len(GRAMMARS)])
        if text not in seen:
            seen.add(text)
            rows.append({"text": text})
    return rows


def draw_story(rng: random.Random, grammar: Grammar) -> str:
    a, b = rng.sample(grammar.people, 2)
    old, new = rng.sample(grammar.places, 2)
    before, after = rng.sample(grammar.asides, 2)
    order = (rng.choice(grammar.openings), before, rng.choice(grammar.deeds), after, rng.choice(grammar.endings))
    thing = rng.choice(grammar.things)
    return grammar.join.join(order).format(a=a, b=b, thing=thing, old=old, new=new)
