"""Facts from many turns ago, who said them, and their corrections: the core of a long dialogue, in English and Chinese."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from llmstage.demo import words
from llmstage.explore.probes.base import BOTH, Question

LANGUAGES = BOTH
CORE = (
    *({"turns": turns, "facts": 2, "corrected": False} for turns in (4, 12)),
    {"turns": 12, "facts": 2, "corrected": True},
)
FULL = tuple(
    {"turns": turns, "facts": facts, "corrected": corrected}
    for corrected in (False, True)
    for turns, facts in ((4, 2), (8, 2), (12, 4), (24, 4), (48, 8))
)
TOPICS = {
    "en": {
        "city": ("I live in", "Where does {who} live? In", words("Rome Oslo Cairo Lima Paris Delhi Berlin Tokyo Madrid Vienna")),
        "day": ("my train leaves on", "When does the train of {who} leave? On", words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")),
        "food": ("I like to eat", "What does {who} like to eat?", words("rice soup bread fish pasta salad cake beans noodles cheese")),
        "colour": ("my coat is", "Which colour is the coat of {who}?", words("red blue green yellow black white brown grey pink purple")),
    },
    "zh": {
        "city": ("我住在", "{who}住在哪里？住在", words("罗马 奥斯陆 开罗 利马 巴黎 德里 柏林 东京 马德里 维也纳")),
        "day": ("我的火车出发的日子是", "{who}的火车哪天出发？是", words("周一 周二 周三 周四 周五 周六 周日")),
        "food": ("我爱吃", "{who}爱吃什么？爱吃", words("米饭 汤 面包 鱼 意面 沙拉 蛋糕 豆子 面条 奶酪")),
        "colour": ("我的大衣颜色是", "{who}的大衣是什么颜色？是", words("红色 蓝色 绿色 黄色 黑色 白色 棕色 灰色 粉色 紫色")),
    },
}  # fmt: skip
FILLERS = {
    "en": ("how are you?", "thank you.", "the weather is fine.", "let us go on.", "I see.", "that is good to hear.", "really?", "of course."),
    "zh": ("你好吗？", "谢谢。", "天气不错。", "我们继续吧。", "我明白了。", "听到这个很高兴。", "真的吗？", "当然。"),
}  # fmt: skip
SPEAKERS = ("A", "B")
Fact = tuple[int, str, int]
"""(speaker, topic, value)."""


def sample_question(rng: random.Random, cell: Mapping[str, Any], lang: str) -> Question:
    """Put facts at random turns; the other speaker has a fact of the same topic with another value, where turns suffice.

    A correction is after its fact and before the question; about half of the questions are about a corrected fact.
    """
    topics = list(TOPICS["en"])
    pairs = [(who, topic) for topic in rng.sample(topics, max(1, cell["facts"] // 2)) for who in (0, 1)]
    facts: list[Fact] = []
    for who, topic in pairs[: cell["facts"]]:
        taken = {value for _, name, value in facts if name == topic}
        facts.append((who, topic, rng.choice([v for v in range(len(TOPICS["en"][topic][2])) if v not in taken])))
    # The question is about one fact; `last` has the value that holds at the end.
    asked = rng.randrange(len(facts))
    last = {(who, topic): value for who, topic, value in facts}
    places = sorted(rng.sample(range(cell["turns"] - 1 if cell["corrected"] else cell["turns"]), len(facts)))
    statements: dict[int, tuple[str, Fact]] = {at: ("says", fact) for at, fact in zip(places, facts, strict=True)}
    if cell["corrected"]:
        target = asked if rng.random() < 0.5 else rng.randrange(len(facts))
        who, topic, _ = facts[target]
        free = [at for at in range(places[target] + 1, cell["turns"]) if at not in statements]
        taken = {value for _, name, value in facts if name == topic}
        value = rng.choice([v for v in range(len(TOPICS["en"][topic][2])) if v not in taken])
        statements[rng.choice(free)] = ("corrects", (who, topic, value))
        last[who, topic] = value
    # All other turns are filler; the turns between the last statement and the question are the distance.
    fillers = [rng.randrange(len(FILLERS["en"])) for _ in range(cell["turns"])]
    who, topic, _ = facts[asked]
    right = last[who, topic]
    at = max(turn for turn, (_, fact) in statements.items() if fact[:2] == (who, topic))
    alone = {0: ("says", (who, topic, right))}
    asked_about = (who, topic, right)
    return Question(
        dialogue(cell["turns"], statements, fillers, asked_about, lang),
        TOPICS[lang][topic][2][right],
        key=f"{sorted(statements.items())} {fillers} {asked}",
        meta={"distance": cell["turns"] - at, "speaker": SPEAKERS[who], "topic": topic},
        parts=[("fact", Question(dialogue(1, alone, fillers, asked_about, lang), TOPICS[lang][topic][2][right]))],
    )


def dialogue(turns: int, statements: Mapping[int, tuple[str, Fact]], fillers: list[int], asked: Fact, lang: str) -> str:
    """Return the dialogue and its question. Speakers alternate, except that the speaker of a statement takes its turn."""
    lines = []
    colon, stop = ("：", "。") if lang == "zh" else (": ", ".")
    for turn in range(turns):
        who, text = turn % 2, FILLERS[lang][fillers[turn]]
        if turn in statements:
            how, (who, topic, value) = statements[turn]
            start, _, values = TOPICS[lang][topic]
            between = "" if lang == "zh" else " "
            text = f"{start}{between}{values[value]}{stop}"
            if how == "corrects":
                text = ("不，我说错了，" if lang == "zh" else "no, that was wrong, ") + text
        lines.append(f"{SPEAKERS[who]}{colon}{text}")
    who, topic, _ = asked
    return "\n".join([*lines, TOPICS[lang][topic][1].format(who=SPEAKERS[who])])
