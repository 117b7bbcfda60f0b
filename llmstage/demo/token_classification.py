"""The world of named entities: news of small companies, in English and Chinese, with five types of names.

Names are composed of parts, so that most names of the test rows are not in training. A list of names is not enough: a model
needs the context and the parts. The same invented stem may be a person, a company, a town or a product.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from llmstage.data.rows import Row
from llmstage.demo import words

TYPES = ("DATE", "ORG", "PER", "PLACE", "PRODUCT")

ONSETS = words("B Br C D Dr F G H K L M N P R S T Tr V W Z")
MIDDLES = words("a e i o u al ar en er in ol or un")
CODAS = words("d da den l la lin mar n na nis r ra ric s sa t ton va")
FIRST = words(
    "Ada Ben Clara Dario Elif Farid Greta Hana Ivo Jonas Karim Lena Mina Noor Omar Petra Rosa Sami Tilda Yara"
)
ORG_ENDS = words("Group Labs Foods Motors Bank Institute Press Logistics Union")
LOCATION_ENDS = words("Bay Valley Harbour Falls Heights Springs")
PRODUCT_ENDS = words("Pump Lamp Scanner Bike Heater Drone")
MONTHS = words("January March April June July September October December")
DAYS = words("Monday Tuesday Wednesday Thursday Friday")

SURNAMES = tuple("王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗")
GIVEN = tuple("伟芳娜敏静强磊军洋勇艳杰涛明超霞平刚桂华建文玉春梅海云")
STEMS = tuple("华新东方远大星辰金龙明天安泰瑞祥恒通嘉禾广宏")
ZH_ORG = ("公司", "集团", "银行", "研究院", "大学", "医院")
ZH_LOCATION = ("市", "县", "镇", "村", "港")
ZH_PRODUCT = ("水泵", "台灯", "扫描仪", "无人机", "加热器")
ZH_DAYS = tuple("一二三四五六")

SENTENCES = {
    "en": (
        "{PER} joined {ORG} on {DATE} .",
        "On {DATE} , {ORG} opened an office in {PLACE} .",
        "{ORG} sold the {PRODUCT} to a shop in {PLACE} .",
        "The {PRODUCT} made by {ORG} broke on {DATE} , said {PER} .",
        "{PER} and {PER} live in {PLACE} .",
        "We asked {PER} about the {PRODUCT} , but there was no answer .",
        "Nobody in {PLACE} has heard of {ORG} .",
        "The meeting with {PER} of {ORG} was moved to {DATE} .",
        "It rained in {PLACE} until {DATE} .",
        "The office was closed and the bank lent no money .",
        "Is the {PRODUCT} better than the {PRODUCT} ?",
        "According to {PER} , the group will leave {PLACE} in spring .",
    ),
    "zh": (
        "{PER}于{DATE}加入{ORG}。",
        "{DATE}，{ORG}在{PLACE}开设了办事处。",
        "{ORG}把{PRODUCT}卖给了{PLACE}的一家商店。",
        "{PER}说，{ORG}生产的{PRODUCT}在{DATE}坏了。",
        "{PER}和{PER}住在{PLACE}。",
        "我们问了{PER}关于{PRODUCT}的事，没有得到回答。",
        "{PLACE}没有人听说过{ORG}。",
        "与{ORG}的{PER}的会议改到了{DATE}。",
        "{PLACE}的雨一直下到{DATE}。",
        "银行没有借钱，公司关门了。",
        "{PRODUCT}比{PRODUCT}好吗？",
        "据{PER}介绍，大学将在春天离开{PLACE}。",
    ),
}


def entity_rows(num_rows: int, seed: int) -> list[Row]:
    """Return `num_rows` distinct rows `{"tokens", "tags"}` with tags in IOB2; both languages are equally frequent.

    Equal arguments give equal rows, and a longer list begins with the shorter one.
    """
    rng = random.Random(f"token classification {seed}")
    rows: list[Row] = []
    seen: set[tuple[str, ...]] = set()
    while len(rows) < num_rows:
        language = ("en", "zh")[len(rows) % 2]
        tokens, tags = draw_sentence(rng, language)
        if tuple(tokens) not in seen:
            seen.add(tuple(tokens))
            rows.append({"tokens": tokens, "tags": tags})
    return rows


def draw_sentence(rng: random.Random, language: str) -> tuple[list[str], list[str]]:
    """Return (tokens, tags): words in English, characters in Chinese; sometimes of two sentences."""
    tokens: list[str] = []
    tags: list[str] = []
    for _ in range(1 if rng.random() < 0.7 else 2):
        for part in rng.choice(SENTENCES[language]).replace("{", "\t{").replace("}", "}\t").split("\t"):
            entity_type = part[1:-1] if part.startswith("{") else ""
            text = (NAMES_EN if language == "en" else NAMES_ZH)[entity_type](rng) if entity_type else part
            new = text.split() if language == "en" else list(text)
            tokens += new
            tags += [f"{'I' if index else 'B'}-{entity_type}" if entity_type else "O" for index in range(len(new))]
    return tokens, tags


def stem(rng: random.Random) -> str:
    return rng.choice(ONSETS) + rng.choice(MIDDLES) + rng.choice(CODAS)


def stem_zh(rng: random.Random) -> str:
    return rng.choice(STEMS) + rng.choice(STEMS)


def date(rng: random.Random) -> str:
    day = f"{rng.randrange(1, 29)} {rng.choice(MONTHS)}"
    return rng.choice((day, f"{day} {rng.randrange(1980, 2030)}", rng.choice(DAYS)))


def date_zh(rng: random.Random) -> str:
    day = f"{rng.randrange(1, 13)}月{rng.randrange(1, 29)}日"
    return rng.choice((day, f"{rng.randrange(1980, 2030)}年{day}", f"星期{rng.choice(ZH_DAYS)}"))


Draw = Callable[[random.Random], str]
NAMES_EN: dict[str, Draw] = {
    "PER": lambda rng: f"{rng.choice(FIRST)} {stem(rng)}" if rng.random() < 0.8 else f"Dr {stem(rng)}",
    "ORG": lambda rng: f"{stem(rng)} {rng.choice(ORG_ENDS)}",
    "PLACE": lambda rng: f"{stem(rng)} {rng.choice(LOCATION_ENDS)}" if rng.random() < 0.5 else f"{stem(rng)}ville",
    "PRODUCT": lambda rng: f"{stem(rng)} {rng.choice(PRODUCT_ENDS)} {rng.randrange(1, 100)}",
    "DATE": date,
}
NAMES_ZH: dict[str, Draw] = {
    "PER": lambda rng: rng.choice(SURNAMES) + "".join(rng.choice(GIVEN) for _ in range(rng.choice((1, 2, 2)))),
    "ORG": lambda rng: stem_zh(rng) + rng.choice(ZH_ORG),
    "PLACE": lambda rng: stem_zh(rng) + rng.choice(ZH_LOCATION),
    "PRODUCT": lambda rng: f"{stem_zh(rng)}{rng.choice(ZH_PRODUCT)}{rng.randrange(1, 100)}",
    "DATE": date_zh,
}
