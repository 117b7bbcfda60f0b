"""Every check, on rows in which its fault is planted, and on the same rows without it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from llmstage.data.row_source import ListSource
from llmstage.inspect.findings import Finding
from llmstage.inspect.lint import check_rows, read_rows
from llmstage.inspect.lint_rows import check_words, odd_lengths
from llmstage.inspect.wording import CHECKS, SENTENCES
from llmstage.naming import load_module

LINES = [
    "the bill came twice",
    "my parcel is lost",
    "please cancel it all",
    "how do I pay here",
    "who took my bag",
    "open the door now",
]


@pytest.fixture
def linted(compose_run: Any):
    """`linted("classification", train=[...], test=[...])`: findings by (check, split)."""

    def run(
        name: str, words: tuple[str, ...] = (), likeness: float = 0.8, **splits: list[dict[str, Any]]
    ) -> dict[tuple[str, str], Finding]:
        cfg = compose_run(["stage=inspect", f"task={name}", *words])
        task = load_module("tasks", name, trusted=True).TASK(cfg.task, cfg.generation)
        sources = {split: ListSource(split, rows, split, task.columns.identity) for split, rows in splits.items()}
        rows = read_rows(task, sources, 1000)
        found = [*check_rows(cfg, task, sources, rows, likeness), *check_words(cfg, task, sources, rows)]
        assert all(one.sentence("en") and one.sentence("zh") and one.check in SENTENCES for one in found)
        return {(one.check, one.split): one for one in found}

    return run


def test_every_sentence_has_a_name_in_the_table_and_both_languages():
    assert CHECKS.keys() == SENTENCES.keys()
    assert all(len(pair) == 2 and all(pair) for pair in (*CHECKS.values(), *SENTENCES.values()))


def labelled(texts: list[str], labels: str = "ab") -> list[dict[str, Any]]:
    return [{"text": text, "label": labels[number % len(labels)]} for number, text in enumerate(texts)]


def test_clean_rows_have_no_finding_but_too_few_of_each_label(linted):
    found = linted(
        "classification",
        train=labelled([f"{line} {word}" for word in ("again", "I said", "sir", "to me") for line in LINES]),
        test=labelled(["nothing of this"]),
    )
    bad = {key for key, one in found.items() if one.level != "ok"}
    assert bad == set()


def test_a_row_said_twice_is_named_with_the_first(linted):
    rows = labelled(LINES) + labelled(LINES[:1])
    found = linted("classification", train=rows)["duplicates", "train"]
    assert (found.level, found.count, found.places) == ("major", 1, ["train:7 = train:1"])
    assert "train:7 = train:1" in found.sentence("en")


def test_one_text_with_two_labels_is_a_contradiction_and_no_duplicate(linted):
    found = linted("classification", train=[*labelled(LINES), {"text": LINES[0], "label": "b"}])
    assert found["conflicts", "train"].places == ["train:7 ≠ train:1"]
    assert found["duplicates", "train"].level == "ok"


def test_rows_to_score_that_training_has_seen(linted):
    found = linted("classification", train=labelled(LINES), test=labelled([LINES[2], "unheard of so far"]))[
        "seen", "test"
    ]
    assert (found.level, found.count, found.whole, found.places) == ("major", 1, 2, ["test:1 = train:3"])


def test_near_duplicates_within_and_across_and_the_likeness_that_counts(linted):
    train = labelled([*LINES, "The BILL came twice!"])
    test = labelled(["please cancel it all."])
    found = linted("classification", train=train, test=test)
    assert found["near", "train"].places == ["train:7 ~ train:1"]
    assert found["near_seen", "test"].places == ["test:1 ~ train:3"]
    assert found["near_seen", "test"].level == "major"
    far = labelled([*LINES, "the bill came twice or so"])
    assert linted("classification", train=far)["near", "train"].count == 0
    assert linted("classification", likeness=0.5, train=far)["near", "train"].count == 1


def test_labels_that_are_rare_alone_or_new(linted):
    rows = labelled([f"{line} {number}" for number in range(20) for line in LINES], "a" * 119 + "b")
    found = linted("classification", train=rows, test=[{"text": "so what", "label": "c"}])
    assert found["imbalance", "train"].level == "major"
    assert found["imbalance", "train"].values["ratio"] == "119"
    assert found["unseen_labels", "test"].values["names"] == "c"
    assert found["unseen_labels", "test"].places == ["test:1"]
    assert linted("classification", train=labelled(LINES, "a"))["one_label", "train"].level == "major"


def test_several_labels_in_one_text_are_several(linted):
    rows = [{"text": line, "label": "x, y" if number % 2 else "y"} for number, line in enumerate(LINES)]
    found = linted("classification", ("task.target=multilabel",), train=rows)["imbalance", "train"]
    assert (found.values["num"], found.values["most"], found.values["top"]) == (2, "'y'", "6")


def test_a_wrong_encoding_shows(linted):
    found = linted("classification", train=labelled([*LINES, "caf\ufffd au lait"]))["replacement", "train"]
    assert found.places == ["train:7"]
    assert "data.encoding" in found.mend


def tagged(*tags: str) -> dict[str, Any]:
    return {"tokens": [f"w{number}" for number, _ in enumerate(tags)], "tags": list(tags)}


def test_illegal_tags_are_named_by_token_and_the_key_that_mends_them(linted):
    rows = [tagged("B-PER", "I-PER", "O"), tagged("O", "B-LOC"), tagged("B-PER", "O"), tagged("O", "I-PER", "O")]
    found = linted("token_classification", train=rows)["illegal_tags", "train"]
    assert (found.level, found.count, found.places) == ("major", 1, ["train:4 token 2 ('w1')"])
    assert "task.repair=true" in found.sentence("en")
    kind = linted("token_classification", ("task.repair=true",), train=rows)["illegal_tags", "train"]
    assert kind.level == "minor"
    assert linted("token_classification", train=rows[:3])["illegal_tags", "train"].level == "ok"


def pairs(num: int = 30) -> list[dict[str, str]]:
    return [
        {"source": f"this is sentence number {number} of all", "target": f"这是所有句子里的第{number}句话"}
        for number in range(num)
    ]


def test_pairs_that_do_not_go_together_copies_and_another_script(linted):
    rows = [*pairs(), {"source": "short", "target": "很长的一句话" * 30}, {"source": "The same", "target": "the same"}]
    found = linted("translation", train=rows)
    assert found["length_ratio", "train"].places == ["train:31"]
    assert found["copies", "train"].places == ["train:32"]
    assert found["wrong_script", "train"].places in (["train:32"], [])
    by_word = [one for one in check_for(linted, rows) if one.check == "wrong_script"]
    assert {(one.values["word"], one.values["script"], one.count) for one in by_word} == {
        ("source", "Latin", 0),
        ("target", "Han", 1),
    }


def check_for(linted: Any, rows: list[dict[str, Any]]) -> list[Finding]:
    from llmstage.inspect.lint import Seen
    from llmstage.inspect.lint_rows import pairs as pair_checks

    seen = [Seen(row, f"train:{number}", "") for number, row in enumerate(rows, 1)]
    return list(pair_checks({"train": seen}, "source", "target", same=True))


def test_odd_lengths_do_not_hide_themselves():
    texts = [("a" * 20, "b" * (9 + number % 3)) for number in range(40)]
    odd = [("a" * 20, "b" * 200)] * 9
    found, median = odd_lengths(texts + odd)
    assert found == list(range(40, 49))
    assert median == pytest.approx(15 / 25, rel=0.1)
    assert odd_lengths([]) == ([], 1.0)


def test_a_summary_that_is_its_document(linted):
    rows = [
        {"document": f"A long text {number} about many things.", "summary": f"Text {number}"} for number in range(9)
    ]
    found = linted("summarization", train=[*rows, {"document": "All of it", "summary": "all of it"}])
    assert found["copies", "train"].places == ["train:10"]
    assert ("length_ratio", "train") not in found  # a summary is short by design


def test_an_answer_that_stands_there_twice(linted):
    rows = [
        {"question": "who?", "context": "Ann met Bob, and Ann left.", "answers": ["Ann"]},
        {"question": "whom?", "context": "Ann met Bob.", "answers": ["Bob"]},
    ]
    found = linted("question_answering", train=rows)["answers_twice", "train"]
    assert found.places == ["train:1"]


def test_questions_are_compared_by_what_they_ask_and_shared_texts_are_told(linted):
    text = "Ann met Bob in Rome, and they went on to Oslo by train the next day."
    rows = [
        {"question": ask, "context": text, "answers": ["Ann"]}
        for ask in ("Who met Bob in Rome?", "Where did they go by train?")
    ]
    asked = [
        {"question": "who met Bob in Rome", "context": text, "answers": ["Ann"]},
        {"question": "Which year?", "context": "In 1900 Ann left.", "answers": ["1900"]},
    ]
    found = linted("question_answering", train=rows, test=asked)
    assert found["near", "train"].count == 0
    assert found["near_seen", "test"].places == ["test:1 ~ train:1"]
    assert found["contexts", "test"].places == ["test:1"]
    assert "data.split.group=context" in found["contexts", "test"].mend


def test_names_of_pictures_need_not_be_even(linted):
    found = linted(
        "contrastive", train=[{"image": f"{n}.png", "label": f"thing {n}", "caption": f"thing {n}"} for n in range(4)]
    )
    assert ("imbalance", "train") not in found


def test_captions_of_several_pictures_and_not_of_one(linted):
    rows = [{"image": f"{number}.png", "caption": "a red square"} for number in range(2)]
    rows += [{"image": "2.png", "caption": "a blue circle"}] * 2
    found = linted("contrastive", train=rows)["captions", "train"]
    assert found.places == ["train:1", "train:2"]
    assert "task.repeats=mask" in found.mend


def test_an_empty_answer_of_the_assistant(linted):
    said = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": " "},
        {"role": "user", "content": "hm"},
        {"role": "assistant", "content": "yes"},
    ]
    found = linted("dialogue", train=[{"messages": said}])["empty_answer", "train"]
    assert found.places == ["train:1"]


def test_clicks_to_be_scored_that_are_older_than_what_was_learned():
    import numpy as np

    from llmstage.inspect.lint_rows import click_times

    log = SimpleNamespace(has_time=True, time=np.array([1e9, 2e9, 1.5e9, 3e9]))
    train, test = (SimpleNamespace(log=log, chosen=np.array(at)) for at in ([0, 1], [2, 3]))
    cut = SimpleNamespace(data=SimpleNamespace(test=None))
    given = SimpleNamespace(data=SimpleNamespace(test="file.csv"))
    (found,) = click_times(cut, {"train": train, "test": test})  # type: ignore[arg-type]
    assert (found.level, found.count, found.places) == ("minor", 1, ["test:1"])
    assert next(click_times(given, {"train": train, "test": test})).level == "major"  # type: ignore[arg-type]
