"""The village world: short passages about people, in English and Chinese, and questions whose answers stand in them.

Of the two people of a passage one kind of fact (a city, a year, a number, a thing, a day, a teacher) is told of both, and
one more of each alone. The kind of the question gives half of the answers away; the others need its person too.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from llmstage.data.rows import Row
from llmstage.demo import words


@dataclass(slots=True, frozen=True)
class Fact:
    """A kind of fact: sentences with {who} and {value}, and the questions that ask for the value."""

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
"""Share of questions without an answer, where such are wanted."""


def question_rows(num_rows: int, seed: int, *, unanswerable: bool = False) -> list[Row]:
    """`num_rows` distinct rows `{question, context, answers, is_impossible}`, English and Chinese in turn.

    A question without an answer asks for a fact of a person that the passage does not tell, though it tells that fact
    of somebody else and other facts of this person.
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
    people = rng.sample(village.people, 2)
    others = [name for name in village.people if name not in people]
    both, *own = rng.sample(list(village.facts), 3)
    told = [
        (who, kind, rng.choice(others if kind == "teacher" else village.values[kind]))
        for who, mine in zip(people, own, strict=True)
        for kind in (both, mine)
    ]
    rng.shuffle(told)
    who, kind, value = rng.choice(told)
    silent = unanswerable and rng.random() < NO_ANSWER
    if silent:  # what is told of the other one alone
        who, kind = people[0], own[1]
    parts, start, length = [], -1, 0
    for person, about, said in told:
        before, _, after = rng.choice(village.facts[about].tells).partition("{value}")
        before, after = before.format(who=person), after.format(who=person)
        if (person, about) == (who, kind):
            start = length + len(before)
        parts.append(before + said + after)
        length += len(parts[-1]) + len(village.join)
    question = rng.choice(village.facts[kind].asks).format(who=who)
    answers = [] if silent else [{"text": value, "answer_start": start}]
    return {
        "question": question,
        "context": village.join.join(parts),
        "answers": answers,
        **({"is_impossible": silent} if unanswerable else {}),
    }
