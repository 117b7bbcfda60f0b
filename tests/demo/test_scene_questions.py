"""Laws of the questions: a second interpreter, which reads their words, gives the same answers; words alone say little."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import pytest

from llmstage.demo.scene_questions import PATTERNS, question_rows
from llmstage.demo.scene_sentences import COLOURS, QUESTION_TYPES, SCENE_LANGUAGES, SHAPES
from llmstage.demo.scenes import UNSEEN, read_scene

ZH_COLOURS = dict(zip("红橙黄绿青蓝紫黑", COLOURS, strict=True))
ZH_SHAPES = dict(zip(("圆形", "正方形", "三角形", "五角星", "十字形", "菱形"), SHAPES, strict=True))
ZH_RELATIONS = {"左边": "left", "右边": "right", "上面": "above", "下面": "below"}
ZH_PLACES = dict(
    zip(("左上角", "正上方", "右上角", "左侧", "中间", "右侧", "左下角", "正下方", "右下角"), range(9), strict=True)
)
EN_PLACES = dict(
    zip(
        ("at the top left", "at the top", "at the top right", "on the left", "in the middle", "on the right",
         "at the bottom left", "at the bottom", "at the bottom right"), range(9), strict=True,
    )
)  # fmt: skip
EN_RELATIONS = {"to the left of": "left", "to the right of": "right", "above": "above", "below": "below"}

E = {
    "c": f"({'|'.join(COLOURS)})",
    "s": f"({'|'.join(SHAPES)})",
    "z": "(small|large)",
    "r": f"({'|'.join(EN_RELATIONS)})",
    "p": f"({'|'.join(EN_PLACES)})",
}
Z = {
    "c": f"([{''.join(ZH_COLOURS)}])色",
    "s": f"({'|'.join(ZH_SHAPES)})",
    "z": "([大小])",
    "r": f"({'|'.join(ZH_RELATIONS)})",
    "p": f"({'|'.join(ZH_PLACES)})",
}


def only(things):
    (thing,) = things
    return thing


def stands(one, relation, two):
    across, down = two.column - one.column, two.row - one.row
    return {"left": across > 0, "right": across < 0, "above": down > 0, "below": down < 0}[relation]


def any_pair(things, colour, shape):
    return any(t.colour == colour and t.shape == shape for t in things)


def related(things, colour, shape, relation, other_colour, other):
    one = only(t for t in things if (t.colour, t.shape) == (colour, shape))
    return stands(one, relation, only(t for t in things if (t.colour, t.shape) == (other_colour, other)))


def of_shape(things, shape):
    return only(t for t in things if t.shape == shape)


def at(things, place):
    return only(t for t in things if 3 * t.row + t.column == place)


def same_colour_other(things, shape):
    anchor = of_shape(things, shape)
    return only(t for t in things if t.colour == anchor.colour and t is not anchor).shape


def beside(things, relation, shape):
    return only(t for t in things if stands(t, relation, of_shape(things, shape))).colour


def larger_of(things, one, two):
    one, two = of_shape(things, one), of_shape(things, two)
    assert one.size != two.size
    return one.shape if one.size == "large" else two.shape


def larger(things, one, two):
    return (of_shape(things, one).size, of_shape(things, two).size) == ("large", "small")


def without_any(things, size, shape):
    return any((t.size, t.shape) == (size, shape) for t in things)


READINGS = [
    (r"(?:Is there|Can you see) any {c} {s}\?", r"(?:图中有|能看到){c}的{s}吗？", any_pair),
    (r"(?:Is there|Can you see) any {z} {s}\?", r"(?:图中有|能看到){z}{s}吗？", without_any),
    (r"(?:How many|What is the number of) {s}e?s(?: are there)?\?", r"(?:图中有几个{s}|{s}的数量是多少)？",
     lambda things, shape: sum(t.shape == shape for t in things)),
    (r"(?:How many|What is the number of) {c} objects(?: are there)?\?", r"(?:图中有几个{c}的物体|{c}物体的数量是多少)？",
     lambda things, colour: sum(t.colour == colour for t in things)),
    (r"(?:What colour is the {s}|Which colour does the {s} have)\?", r"(?:图中的)?{s}是(?:什么|哪种)颜色？",
     lambda things, shape: of_shape(things, shape).colour),
    (r"(?:What shape is the {c} object|Which shape does the {c} object have)\?", r"(?:图中)?{c}的物体是(?:什么|哪种)形状？",
     lambda things, colour: only(t for t in things if t.colour == colour).shape),
    (r"(?:Is the {s} small or large|What size is the {s}, small or large)\?", r"(?:图中的)?{s}是(?:大还是小|大的还是小的)？",
     lambda things, shape: of_shape(things, shape).size),
    (r"Is the {s} larger than the {s}\?", r"{s}比{s}大吗？", larger),
    (r"Do the {s} and the {s} have the same colour\?", r"{s}和{s}的颜色相同吗？",
     lambda things, one, two: of_shape(things, one).colour == of_shape(things, two).colour),
    (r"Which is larger, the {s} or the {s}\?", r"{s}和{s}，哪个更大？", larger_of),
    (r"Is the {c} {s} {r} the {c} {s}\?", None, related),
    (None, r"{c}的{s}在{c}的{s}的{r}吗？", lambda things, c, s, oc, os, r: related(things, c, s, r, oc, os)),
    (r"What colour is the object {p}\?", r"{p}的物体是什么颜色？", lambda things, place: at(things, place).colour),
    (r"What shape is the object {p}\?", r"{p}的物体是什么形状？", lambda things, place: at(things, place).shape),
    (r"Is it true that there is no {c} {s}\?", r"“图中没有{c}的{s}”，这句话是真的吗？",
     lambda things, c, s: not any_pair(things, c, s)),
    (r"Is there an object that is not {c}\?", r"图中有不是{c}的物体吗？",
     lambda things, colour: any(t.colour != colour for t in things)),
    (r"What shape is the object that is not {c}\?", r"不是{c}的物体是什么形状？",
     lambda things, colour: only(t for t in things if t.colour != colour).shape),
    (r"What colour is the object {r} the {s}\?", None, beside),
    (None, r"{s}{r}的物体是什么颜色？", lambda things, shape, relation: beside(things, relation, shape)),
    (r"What shape is the other object with the colour of the {s}\?", r"与{s}颜色相同的另一个物体是什么形状？", same_colour_other),
]  # fmt: skip


def answer_to(row) -> str:
    """Reads the question's words and looks at the scene; exactly one reading fits, and it has one answer."""
    english = row["language"] == "en"
    index, holes = (0, E) if english else (1, Z)
    back = (
        EN_PLACES | EN_RELATIONS if english
        else ZH_COLOURS | ZH_SHAPES | ZH_RELATIONS | ZH_PLACES | {"大": "large", "小": "small"}
    )  # fmt: skip
    found = [
        (reading[2], match)
        for reading in READINGS
        if reading[index] and (match := re.fullmatch(reading[index].format(**holes), row["question"]))
    ]
    (meaning, match) = only(found)
    things = read_scene(row["image"])[1]
    told = meaning(things, *(back.get(group, group) for group in match.groups() if group is not None))
    word = ("no", "yes")[told] if isinstance(told, bool) else str(told)
    if english:
        return word
    return ({"yes": "是", "no": "否", "small": "小", "large": "大"}
            | {there: f"{here}色" for here, there in ZH_COLOURS.items()}
            | {there: here for here, there in ZH_SHAPES.items()}).get(word, word)  # fmt: skip


@pytest.fixture(scope="module")
def both():
    return question_rows(6000, 0, "both")


def test_a_second_interpreter_gives_the_same_answers(both):
    for row in both:
        assert answer_to(row) == row["answer"], row


@pytest.mark.parametrize("composition", ["seen", "unseen", "both"])
def test_pure_distinct_and_a_longer_list_begins_with_the_shorter_one(composition):
    rows = question_rows(500, 3, composition)
    assert rows[:120] == question_rows(120, 3, composition)
    asked = {(row["image"], row["question"]) for row in rows}
    assert len(asked) == 500
    assert not asked & {(row["image"], row["question"]) for row in question_rows(500, 4, composition)}


def test_kinds_languages_and_compositions_are_balanced(both):
    counts = Counter((row["kind"], row["language"], row["composition"]) for row in both)
    assert len(counts) == len(QUESTION_TYPES) * 4
    assert min(counts.values()) > 0.97 * 6000 / len(counts)
    for language in ("en", "zh"):
        questions = "\n".join(row["question"] for row in both if row["language"] == language)
        for pattern in PATTERNS:
            for text in SCENE_LANGUAGES[language].questions[pattern]:
                assert re.search(re.sub(r"\\\{\w+\\\}", ".+", re.escape(text)), questions), text
    assert all(len(row["answer"].split()) == 1 for row in both)


def skeleton(row) -> str:
    """The question without its colours, shapes and places: what pattern it is."""
    text = row["question"]
    holes = (*EN_PLACES, *EN_RELATIONS, *COLOURS, *SHAPES, *ZH_PLACES, *ZH_RELATIONS, *ZH_SHAPES, *ZH_COLOURS)
    for word in sorted(holes, key=len, reverse=True):
        text = text.replace(word, "_")
    return re.sub(r"\b(small|large)\b(?! or|\?)", "_", text) if row["language"] == "en" else text


@pytest.mark.parametrize("composition", ["seen", "unseen"])
def test_the_pattern_of_a_question_says_little_about_its_answer(composition):
    patterns = defaultdict(Counter)
    for row in question_rows(8000, 1, composition):
        patterns[skeleton(row)][row["answer"]] += 1
    hits = 0
    for text, answers in patterns.items():
        total = sum(answers.values())
        hits += max(answers.values())
        if total >= 100:  # chance of n answers, and a margin for 100 draws
            assert max(answers.values()) / total < 1 / len(answers) + 0.12, (text, answers)
    assert hits / 8000 < 0.43


def test_the_kind_alone_is_a_weak_prior(both):
    for kind in QUESTION_TYPES:
        answers = Counter(row["answer"] for row in both if row["kind"] == kind and row["language"] == "en")
        assert max(answers.values()) / sum(answers.values()) < 0.56, (kind, answers)


def test_the_words_of_training_questions_are_a_weak_prior_for_test_answers():
    """A blind memory: the most frequent answer to the very same question among 8,000 training rows."""
    told = defaultdict(Counter)
    for row in question_rows(8000, 0):
        told[row["question"]][row["answer"]] += 1
        told[skeleton(row)][row["answer"]] += 1
    tests = question_rows(2000, 1)
    hits = 0
    for row in tests:
        best = told.get(row["question"]) or told[skeleton(row)]
        hits += best.most_common(1)[0][0] == row["answer"]
    assert hits / len(tests) < 0.45


def test_training_questions_hold_no_held_out_pair_in_picture_or_words():
    for row in question_rows(2000, 0):
        assert not {thing.pair for thing in read_scene(row["image"])[1]} & set(UNSEEN)
        match = re.search(f"{E['c']} {E['s']}" if row["language"] == "en" else f"{Z['c']}的{Z['s']}", row["question"])
        if match:
            colour, shape = match.groups()
            assert (ZH_COLOURS.get(colour, colour), ZH_SHAPES.get(shape, shape)) not in UNSEEN


def test_unseen_questions_ask_for_a_held_out_pair_or_show_one():
    for row in question_rows(2000, 0, "unseen"):
        assert {thing.pair for thing in read_scene(row["image"])[1]} & set(UNSEEN) or row["kind"] in (
            "existence",
            "negation",
        )
