"""The summarization world: short reports of a working day, in English and Chinese.

The summary says who did what where. In the report, that is in several sentences, with others about what somebody did not do.
"""

from __future__ import annotations

import random
from typing import Any

from llmstage.demo import words

NAMES = {
    "en": words("Anna Boris Carla David Elena Frank Grace Henry Irene Jonas Karin Louis"),
    "zh": words("李雷 王芳 张伟 刘洋 陈静 杨光 赵敏 周涛 吴丹 孙浩 郑洁 冯刚"),
}
DEEDS = {
    "en": words("repaired cleaned moved painted checked replaced"),
    "zh": words("修好了 清洗了 搬走了 粉刷了 检查了 更换了"),
}
THINGS = {
    "en": words("pump door engine lamp printer fence boiler ladder crane window"),
    "zh": words("水泵 大门 发动机 路灯 打印机 围栏 锅炉 梯子 吊车 窗户"),
}
PLACES = {
    "en": words("harbour school station hospital library factory market museum"),
    "zh": words("港口 学校 车站 医院 图书馆 工厂 市场 博物馆"),
}
CALM = {
    "en": (
        "The morning was quiet.", "It rained until noon.", "The road was closed again.", "Lunch was late.",
        "Nobody called before ten.", "The new tools arrived.", "The evening shift was short.", "The phone rang all day.",
    ),
    "zh": (
        "早上很安静。", "雨一直下到中午。", "路又封了。", "午饭来得晚。", "十点以前没有人来电话。", "新工具到了。",
        "晚班很短。", "电话响了一整天。",
    ),
}  # fmt: skip
SHAPES = {
    "en": {
        "who": "{who} was on duty.",
        "where": "The call came from the {where}.",
        "what": "There {who} {did} the {what}.",
        "other": "{other} had planned to see to the {thing} but stayed at home.",
        "summary": "{who} {did} the {what} at the {where}.",
    },
    "zh": {
        "who": "今天{who}值班。",
        "where": "电话是从{where}打来的。",
        "what": "{who}在那里{did}{what}。",
        "other": "{other}本来要去看{thing}，但是没有来。",
        "summary": "{who}在{where}{did}{what}。",
    },
}


def summarization_rows(num_rows: int, seed: int) -> list[dict[str, Any]]:
    """Return `num_rows` rows {document, summary} with distinct documents; about half of them are Chinese."""
    rng = random.Random(f"summarization {seed}")
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    while len(rows) < num_rows:
        row = report(rng, rng.choice(("en", "zh")))
        if row["document"] not in seen:
            seen.add(row["document"])
            rows.append(row)
    return rows


def report(rng: random.Random, language: str) -> dict[str, Any]:
    """Draw one report with its summary."""
    who, absent = rng.sample(NAMES[language], 2)
    what, thing = rng.sample(THINGS[language], 2)
    facts = {
        "who": who, "other": absent, "what": what, "thing": thing, "did": rng.choice(DEEDS[language]),
        "where": rng.choice(PLACES[language]),
    }  # fmt: skip
    sentences = {name: shape.format(**facts) for name, shape in SHAPES[language].items()}
    calm = rng.sample(CALM[language], 2)
    lines = [calm[0], sentences["who"], sentences["where"], sentences["what"]]
    lines.insert(rng.randrange(1, len(lines) + 1), sentences["other"])
    lines.insert(rng.randrange(1, len(lines) + 1), calm[1])
    return {"document": (" " if language == "en" else "").join(lines), "summary": sentences["summary"]}
