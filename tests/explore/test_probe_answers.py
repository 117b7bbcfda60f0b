"""Answers to shipped probes, derived from the text of the prompt alone by code that is independent of the generators."""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction
from itertools import product

import pytest

from llmstage.demo import words
from llmstage.demo.scene_sentences import SCENE_LANGUAGES
from llmstage.demo.scenes import read_scene
from llmstage.explore.items import Item
from llmstage.explore.probes import families, generate, load
from llmstage.explore.probes.base import STEMS


def solve(item: Item) -> str:
    """The text of the answer, without the leading space."""
    answer: str = SOLVERS[item.probe_family.split(".")[0]](item)
    return answer


def modular(item: Item) -> str:
    a, sign, b, p = re.fullmatch(r"(\d+) ([+*]) (\d+) mod (\d+) =", item.prompt).groups()
    return str(eval(f"({a}{sign}{b}) % {p}"))


def addition(item: Item) -> str:
    text = item.prompt.removesuffix(" =")
    spaced, is_reversed = item.meta.get("spaced"), item.meta.get("order") == "reversed"
    numbers = [part.replace(" ", "") if spaced else part for part in text.split(" + ")]
    total = str(sum(int(part[::-1] if is_reversed else part) for part in numbers))
    total = total[::-1] if is_reversed else total
    return " ".join(total) if spaced else total


def copying(item: Item) -> str:
    chinese = "：" in item.prompt
    word, row = re.fullmatch(r"(.+?)(?:：|: )(.+?)(?:＝| =)", item.prompt).groups()
    symbols = list(row) if chinese else row.split(" ")
    order = STEMS if chinese else "abcdefghijklmnopqrstuvwxyz"
    if word in ("reverse", "倒写"):
        symbols.reverse()
    elif word in ("sort", "排序"):
        symbols.sort(key=order.index)
    elif word in ("next", "后一个"):
        symbols = [order[order.index(symbol) + 1] for symbol in symbols]
    return ("" if chinese else " ").join(symbols)


def induction(item: Item) -> str:
    if ";" in item.prompt:
        row, asked = item.prompt.split(" ; ")
        question, symbol = asked.removesuffix(" :").split()[:2]
        symbols = row.split()
        if question == "before":
            return symbols[symbols.index(symbol) - 1]
        return "yes" if symbol in symbols else "no"
    symbols = item.prompt.split()
    return symbols[symbols.index(symbols[-1]) + 1]


def key_value(item: Item) -> str:
    if "号码" in item.prompt:
        facts = dict(re.findall(r"([^。在]+?)的号码是(\d+)。", item.prompt.replace("现在", "")))
        return facts[re.search(r"([^。]+)的号码是多少", item.prompt.replace("现在", "")).group(1)]
    facts = dict(re.findall(r"number of (\w+) is (\d+)", item.prompt))
    return facts[re.search(r"What is the number of (\w+) now", item.prompt).group(1)]


def in_context(item: Item) -> str:
    *shots, asked = [line.split(" ->") for line in item.prompt.split("\n")]
    word = asked[0]
    if item.choices:
        animals = words(
            "cat dog horse cow sheep goat lion tiger bear wolf fox rabbit 猫 狗 马 牛 羊 鹿 狮子 老虎 熊 狼 狐狸 兔子"
        )
        same = Counter(label.strip() for shot, label in shots if (shot in animals) == (word in animals))
        return same.most_common(1)[0][0]
    rows = [list(map(int, shot.split())) for shot, _ in shots]
    values = [int(value) for _, value in shots]
    fits = [  # by trying all weights, not by solving
        weights
        for weights in product(range(1, 6), repeat=len(rows[0]))
        if all(sum(w * x for w, x in zip(weights, row, strict=True)) == y for row, y in zip(rows, values, strict=True))
    ]
    assert len(fits) == 1, "the examples do not decide the rule"
    return str(sum(Fraction(w) * int(x) for w, x in zip(fits[0], word.split(), strict=True)))


def brackets(item: Item) -> str:
    text = item.prompt.removesuffix(" ...").replace(" ", "")
    while (shorter := re.sub(r"\(\)|\[\]|\{\}|<>", "", text)) != text:
        text = shorter
    return " ".join(text[::-1].translate(str.maketrans("([{<", ")]}>")))


def multi_hop(item: Item) -> str:
    if "。" in item.prompt:
        role = re.search(r"的(老师|朋友|医生|邻居)", item.prompt).group(1)
        facts = dict(re.findall(rf"([^。]+?)的{role}是([^。]+)。", item.prompt))
        start, hops = re.search(rf"([^。]+?)((?:的{role})+)是谁", item.prompt).groups()
        steps = hops.count(role)
    else:
        facts = dict(re.findall(r"The \w+ of (\w+) is (\w+)\.", item.prompt))
        chain = re.search(r"Who is (.+)\? It is", item.prompt).group(1)
        steps, start = chain.count("the "), chain.split()[-1]
    for _ in range(steps):
        start = facts[start]
    return start


def negation(item: Item) -> str:
    chinese = "。" in item.prompt
    if chinese:
        facts = dict(re.findall(r"([^。“]+?)是([^。”]+的)。", item.prompt))
        claim = re.search(r"“(.+)”", item.prompt).group(1)
        flips, claim = claim.count("并非"), claim.replace("并非", "")
    else:
        facts = dict(re.findall(r"The (\w+) is (\w+)\.", item.prompt))
        claim = re.search(r"Is it right that (.+)\?", item.prompt).group(1)
        flips, claim = claim.count("it is not true that "), claim.replace("it is not true that ", "")
    state = claim.split("是")[-1] if chinese else claim.split()[-1]
    number = list(facts.values()).count(state)
    if claim.startswith(("all", "全部")):
        true = number == len(facts)
    elif claim.startswith(("some", "有的")):
        true = number > 0
    elif claim.startswith(("none", "没有")):
        true = number == 0
    else:
        thing = claim.split("是")[0] if chinese else claim.split()[1]
        true = facts[thing] == state
    true ^= flips % 2 == 1
    return ("是" if true else "否") if chinese else ("yes" if true else "no")


def tracking(item: Item) -> str:
    text = item.prompt
    if "How many" in text or "有几个" in text:
        row, asked = re.fullmatch(r"(.+?)(?:\. How many times is there a |。有几个)(\w+)？?\??.*", text).groups()
        return str(re.split(r", |、", row).count(asked.removesuffix("？答：")))
    if "。" in text:
        holds = dict(re.findall(r"([^。]+?)有([^。]+)。", text))
        swaps = re.findall(r"([^。]+?)和([^。]+?)互换。", text)
        asked = re.search(r"([^。]+)现在有什么", text).group(1)
    else:
        holds = dict(re.findall(r"(\w+) has the (\w+)\.", text))
        swaps = re.findall(r"(\w+) and (\w+) swap\.", text)
        asked = re.search(r"What does (\w+) have now", text).group(1)
    for a, b in swaps:
        holds[a], holds[b] = holds[b], holds[a]
    return holds[asked]


def long_dialogue(item: Item) -> str:
    *turns, question = item.prompt.split("\n")
    forms = {
        "live": r"I live in (\w+)\.", "train": r"my train leaves on (\w+)\.", "eat": r"I like to eat (\w+)\.",
        "coat": r"my coat is (\w+)\.", "住在": r"我住在(.+?)。", "火车": r"我的火车出发的日子是(.+?)。", "爱吃": r"我爱吃(.+?)。",
        "大衣": r"我的大衣颜色是(.+?)。",
    }  # fmt: skip
    form = next(pattern for word, pattern in forms.items() if word in question)
    who = re.search(r"\b([AB])\b|([AB])(?=住|的|爱)", question).group(0)
    values = [match.group(1) for turn in turns if turn.startswith(who) and (match := re.search(form, turn))]
    return values[-1]


def image_caption(item: Item) -> str:
    lang = "en" if item.meta["lang"] == "en" else "zh"
    true = [choice for choice in item.choices if is_true(item, choice, lang)]
    assert len(true) == 1, (item.prompt, item.choices, true)
    return true[0].removeprefix(" ")


def grid_of(text: str) -> dict[tuple[int, int], str]:
    rows = [row.split(" | ") for row in text.strip().split("\n")]
    return {(r, c): cell for r, row in enumerate(rows) for c, cell in enumerate(row) if cell != "."}


def is_true(item: Item, choice: str, lang: str) -> bool:
    """Whether a choice is true of the picture, or the caption in the prompt is true of a choice that is a grid."""
    if item.image is None:
        return holds_of(item.prompt, grid_of(choice), lang)
    things = read_scene(str(item.image))[1]
    grid = {(thing.row, thing.column): " ".join(thing.appearance) for thing in things}
    if item.probe_family.endswith((".colour", ".shape")):
        prompt = item.prompt
        names = SCENE_LANGUAGES[lang].names
        spots = {"top left": (0, 0), "top": (0, 1), "top right": (0, 2), "left": (1, 0), "middle": (1, 1), "right": (1, 2),
                 "bottom left": (2, 0), "bottom": (2, 1), "bottom right": (2, 2)}  # fmt: skip
        if lang == "en":
            spot = next(at for word, at in spots.items() if f"the {word}?" in prompt)
        else:
            spot = next(at for word, at in spots.items() if prompt.startswith(names[f"at {word}"]))
        _, colour, shape = grid[spot].split()
        return choice.strip() == names[colour if item.probe_family.endswith("colour") else shape]
    return holds_of(choice, grid, lang)


def holds_of(caption: str, grid: dict[tuple[int, int], str], lang: str) -> bool:
    names = SCENE_LANGUAGES[lang].names
    looks = {}
    for at, cell in grid.items():
        size, colour, shape = cell.split()
        text = f"a {size} {colour} {shape}" if lang == "en" else f"{names[colour]}的{names[size]}{names[shape]}"
        looks[text] = at
    relations = {
        "left": lambda a, b: a[1] < b[1], "right": lambda a, b: a[1] > b[1], "above": lambda a, b: a[0] < b[0],
        "below": lambda a, b: a[0] > b[0],
    }  # fmt: skip
    for (a, first), (b, second) in product(looks.items(), repeat=2):
        for word, holds in relations.items():
            claim = f"{a} {names[word]} {b}" if lang == "en" else f"{a}在{b}的{names[word]}"
            if claim in caption and holds(first, second):
                return True
    return False


SOLVERS = {
    "modular": modular, "addition": addition, "copying": copying, "induction": induction, "key_value": key_value,
    "in_context": in_context, "brackets": brackets, "multi_hop": multi_hop, "negation": negation, "tracking": tracking,
    "long_dialogue": long_dialogue, "image_caption": image_caption,
}  # fmt: skip


@pytest.mark.parametrize("probe_family", families())
def test_answers_are_right(probe_family: str):
    """By a solver that reads the text of the prompt alone; the parts as well."""
    for item in generate(probe_family, 6, 3, cells=load(probe_family).FULL):
        assert solve(item) == item.right.strip(" "), (item.prompt, item.right)
