"""Features of rows, and words that distinguish groups."""

from __future__ import annotations

import math
from collections import Counter

from llmstage.data.file_source import OTHER_COLUMNS
from llmstage.explore.row_features import UNSEEN, RowFeatures, answer_type
from llmstage.explore.term_statistics import PRIOR, distinctive_words, script_of, terms_of


def features(pool: Counter[str] | None = None) -> RowFeatures:
    return RowFeatures(lambda row: [row["text"]], lambda texts: [len(text.split()) for text in texts], pool)


ROWS = [
    {"text": " ".join(["word"] * (1 + number % 40)), "label": "ab"[number % 2], OTHER_COLUMNS: {
        "channel": ["mail", "chat", "phone"][number % 3], "amount": str(number % 50), "case": f"id-{number}"}}
    for number in range(200)
]  # fmt: skip


def test_columns_labels_and_lengths_are_features_and_ids_and_texts_are_not():
    table = features().table(ROWS)
    assert table["label"][:2] == ["a", "b"] and table["channel"][:3] == ["mail", "chat", "phone"]
    assert "case" not in table and "text" not in table and UNSEEN not in table
    assert set(table["length"][39]) == {">= 21 tokens", ">= 29 tokens", ">= 33 tokens", ">= 37 tokens", ">= 39 tokens"}
    assert table["length"][0] == ("< 5 tokens", "< 11 tokens")
    assert any(">= 45" in cell for cell in table["amount"])  # numbers that a table writes as text are cut at quantiles
    assert {len(cells) for cells in table.values()} == {200}


def test_later_rows_get_the_same_columns_and_borders():
    known = features()
    before = known.table(ROWS)
    again = known.table([{"text": "one " * 100, "label": "c", OTHER_COLUMNS: {"amount": "7"}}])
    assert again.keys() == before.keys() and again["label"] == ["c"] and again["channel"] == [None]
    assert set(again["length"][0]) == {">= 21 tokens", ">= 29 tokens", ">= 33 tokens", ">= 37 tokens", ">= 39 tokens"}


def test_words_that_training_never_shows_need_a_pool():
    table = features(Counter(terms_of("a word known"))).table([{"text": "a word"}, {"text": "a new wrd"}] * 40)
    assert table[UNSEEN][:2] == [(), ("at least 1", "at least 2")]


def test_answers_turns_and_languages():
    rows = [
        {"text": "Wie viele?", "answer": "12"},
        {"text": "他来吗？", "answer": "是"},
        {"text": "who", "answer": ""},
    ] * 30
    table = features().table(rows)
    assert table["answer type"][:3] == ["number", "yes or no", "no answer"]
    assert table["script"][:2] == ["Latin", "Chinese"]
    assert answer_type("in 1999") == "with a number" and answer_type("Paris") == "one word"
    assert answer_type("New York") == "several words"
    talks = [{"text": "", "messages": [{"role": "user", "content": "x"}] * (1 + at % 9)} for at in range(60)]
    assert any(">= 9 turns" in cell for cell in features().table(talks)["turns"])


def test_scripts():
    assert script_of("12 34") is None and script_of("こんにちは世界") == "Japanese"
    assert (
        script_of("我的 iPhone 坏了") == "Chinese and Latin"
        and script_of("我想知道这个订单什么时候可以送到我家里 ok") == "Chinese"
    )
    assert script_of("привет") == "Cyrillic"


def test_terms_of_chinese_are_pairs():
    assert terms_of("退款 Refund 很慢") == ["退款", "refund", "很慢"] and terms_of("退款很慢") == [
        "退款",
        "款很",
        "很慢",
    ]


def test_distinctive_words_are_those_of_monroes_formula():
    texts = ["card card lost"] * 20 + ["transfer money the"] * 20 + ["the card money"] * 10
    groups = [0] * 20 + [1] * 20 + [2] * 10
    words = distinctive_words(groups, texts)
    assert words[0][:2] == ["lost", "card"] or words[0][:2] == ["card", "lost"]
    assert words[1][0] == "transfer" and "the" not in words[0]
    # z of "transfer" in group 1, by hand (equations 16, 19 and 22 of the paper)
    every = Counter(term for text in texts for term in terms_of(text))
    mine = Counter(term for text in texts[20:40] for term in terms_of(text))
    total, in_group = sum(every.values()), sum(mine.values())

    def z(word: str) -> float:
        prior = PRIOR * every[word] / total
        a, b = mine[word] + prior, every[word] - mine[word] + prior
        gap = math.log(a / (in_group + PRIOR - a)) - math.log(b / (total - in_group + PRIOR - b))
        return gap / math.sqrt(1 / a + 1 / b)

    assert [word for word in sorted(every, key=z, reverse=True) if z(word) > 1.96][:3] == words[1]
