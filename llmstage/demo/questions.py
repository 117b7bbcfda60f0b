"""The village world: short passages about people, in English and Chinese, and questions about them.

A passage has two people. It gives one type of fact (a city, a year, a number, a thing, a day, a teacher) of both, and one more
type of each. The type of the question is enough for half of the answers; the others need the person too.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from llmstage.data.rows import Row
from llmstage.demo import words


@dataclass(slots=True, frozen=True)
class Fact:
    """A type of fact: sentences with {who} and {value}, and the questions for the value."""

    tells: tuple[str, ...]
    asks: tuple[str, ...]


@dataclass(slots=True, frozen=True)
class Village:
    people: tuple[str, ...]
    values: dict[str, tuple[str, ...]]
    facts: dict[str, Fact]
    join: str


def numbers(low: int, high: int) -> tuple[str, ...]:
    return tuple(str(number) for number in range(low, high))


ENGLISH = Village(
    people=words("Ada Bruno Celia Dmitri Edith Felix Greta Henrik Ines Jonas Katrin Leo Mira Nils Olga Pavel"),
    values={
        "city": words("Bergen Cadiz Dover Essen Faro Ghent Halle Izmir Jena Kiel Lyon Malmo"),
        "year": numbers(1820, 1990),
        "goats": numbers(11, 99),
        "thing": words("clocks kites drums lamps boats chairs ladders violins bells maps baskets saddles"),
        "day": words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
    },
    facts={
        "city": Fact(
            ("{who} lives in the city of {value}.", "{who} has a small house in {value}."),
            ("Where does {who} live?", "In which city is the house of {who}?"),
        ),
        "year": Fact(
            ("{who} was born in {value}.", "{who} came into the world in the winter of {value}."),
            ("When was {who} born?", "In which year was {who} born?"),
        ),
        "goats": Fact(
            ("{who} keeps {value} goats.", "{who} has {value} goats behind the house."),
            ("How many goats does {who} keep?", "How many goats does {who} have?"),
        ),
        "thing": Fact(
            ("{who} repairs {value} for a living.", "{who} builds {value} in a workshop."),
            ("What does {who} make or repair?", "Which things does {who} work on?"),
        ),
        "day": Fact(
            ("{who} goes to the market on {value}.", "On {value} {who} goes to the market."),
            ("On which day does {who} go to the market?", "When does {who} go to the market?"),
        ),
        "teacher": Fact(
            ("{value} taught {who} how to swim.", "{who} learned to swim from {value}."),
            ("Who taught {who} how to swim?", "From whom did {who} learn to swim?"),
        ),
    },
    join=" ",
)

CHINESE = Village(
    people=words("小梅 阿东 小兰 阿成 小雨 阿福 小菊 阿宝 小云 阿明 小荷 阿林 小松 阿强 小雪 阿勇"),
    values={
        "city": words("苏州 杭州 青岛 大理 洛阳 桂林 厦门 昆明 长沙 扬州 拉萨 泉州"),
        "year": numbers(1820, 1990),
        "goats": numbers(11, 99),
        "thing": words("钟表 风筝 铜鼓 油灯 木船 椅子 梯子 提琴 铃铛 地图 竹篮 马鞍"),
        "day": words("星期一 星期二 星期三 星期四 星期五 星期六 星期日"),
    },
    facts={
        "city": Fact(("{who}住在{value}城里。", "{who}在{value}有一间小屋。"), ("{who}住在哪里？", "{who}的小屋在哪座城市？")),
        "year": Fact(("{who}生于{value}年。", "{who}在{value}年的冬天出生。"), ("{who}是哪一年出生的？", "{who}什么时候出生？")),
        "goats": Fact(("{who}养了{value}只山羊。", "{who}家里有{value}只山羊。"), ("{who}养了多少只山羊？", "{who}有几只山羊？")),
        "thing": Fact(("{who}靠修理{value}为生。", "{who}在作坊里做{value}。"), ("{who}做什么或者修什么？", "{who}的手艺是什么东西？")),
        "day": Fact(("{who}每逢{value}去赶集。", "每逢{value}，{who}都去赶集。"), ("{who}星期几去赶集？", "{who}哪一天去赶集？")),
        "teacher": Fact(("{value}教会了{who}游泳。", "{who}跟着{value}学会了游泳。"), ("谁教会了{who}游泳？", "{who}跟谁学会了游泳？")),
    },
    join="",
)  # fmt: skip

VILLAGES = (ENGLISH, CHINESE)
NO_ANSWER = 0.25
"""Share of questions without an answer, with `unanswerable`."""


def question_rows(num_rows: int, seed: int, *, unanswerable: bool = False) -> list[Row]:
    """Return `num_rows` distinct rows `{question, context, answers, is_impossible}`; English and Chinese alternate.

    A question without an answer is about a type of fact that the passage gives of the other person only.
    """
    rng = random.Random(f"questions {seed}{' with none' if unanswerable else ''}")
    rows: list[Row] = []
    seen: set[tuple[str, str]] = set()
    while len(rows) < num_rows:
        row = draw_row(rng, VILLAGES[len(rows) % len(VILLAGES)], unanswerable=unanswerable)
        if (row["question"], row["context"]) not in seen:
            seen.add((row["question"], row["context"]))
            rows.append(row)
    return rows


def draw_row(rng: random.Random, village: Village, *, unanswerable: bool) -> Row:
    """Draw a passage about two people, and a question about one of its facts."""
    people = rng.sample(village.people, 2)
    absent = [name for name in village.people if name not in people]
    shared, *single = rng.sample(list(village.facts), 3)
    facts = [
        (who, fact_type, rng.choice(absent if fact_type == "teacher" else village.values[fact_type]))
        for who, single_type in zip(people, single, strict=True)
        for fact_type in (shared, single_type)
    ]
    rng.shuffle(facts)
    who, fact_type, value = rng.choice(facts)
    is_impossible = unanswerable and rng.random() < NO_ANSWER
    if is_impossible:  # a fact that the passage gives of the second person only
        who, fact_type = people[0], single[1]
    parts, start, length = [], -1, 0
    for person, part_type, part_value in facts:
        before, _, after = rng.choice(village.facts[part_type].tells).partition("{value}")
        before, after = before.format(who=person), after.format(who=person)
        if (person, part_type) == (who, fact_type):
            start = length + len(before)
        parts.append(before + part_value + after)
        length += len(parts[-1]) + len(village.join)
    question = rng.choice(village.facts[fact_type].asks).format(who=who)
    answers = [] if is_impossible else [{"text": value, "answer_start": start}]
    return {
        "question": question,
        "context": village.join.join(parts),
        "answers": answers,
        **({"is_impossible": is_impossible} if unanswerable else {}),
    }
