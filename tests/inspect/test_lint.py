"""Every check, on rows in which its fault is planted, and on the same rows without it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from llmstage.data.row_source import ListSource
from llmstage.inspect.findings import Finding
from llmstage.inspect.lint import check_rows, read_rows
from llmstage.inspect.lint_rows import check_columns, odd_lengths
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
        by_check = [*check_rows(cfg, task, sources, rows, likeness), *check_columns(cfg, task, sources, rows)]
        assert all(
            finding.sentence("en") and finding.sentence("zh") and finding.check in SENTENCES for finding in by_check
        )
        return {(finding.check, finding.split): finding for finding in by_check}

    return run


def test_every_sentence_has_a_name_in_the_table_and_both_languages():
    assert CHECKS.keys() == SENTENCES.keys()
    assert all(len(pair) == 2 and all(pair) for pair in (*CHECKS.values(), *SENTENCES.values()))


def labelled(texts: list[str], labels: str = "ab") -> list[dict[str, Any]]:
    return [{"text": text, "label": labels[number % len(labels)]} for number, text in enumerate(texts)]


def test_clean_rows_have_no_finding_but_too_few_of_each_label(linted):
    by_check = linted(
        "classification",
        train=labelled([f"{line} {word}" for word in ("again", "I said", "sir", "to me") for line in LINES]),
        test=labelled(["nothing of this"]),
    )
    bad = {key for key, finding in by_check.items() if finding.level != "ok"}
    assert bad == set()


def test_a_row_said_twice_is_named_with_the_first(linted):
    rows = labelled(LINES) + labelled(LINES[:1])
    by_check = linted("classification", train=rows)["duplicates", "train"]
    assert (by_check.level, by_check.count, by_check.locations) == ("major", 1, ["train:7 = train:1"])
    assert "train:7 = train:1" in by_check.sentence("en")


def test_one_text_with_two_labels_is_a_contradiction_and_no_duplicate(linted):
    by_check = linted("classification", train=[*labelled(LINES), {"text": LINES[0], "label": "b"}])
    assert by_check["conflicts", "train"].locations == ["train:7 ≠ train:1"]
    assert by_check["duplicates", "train"].level == "ok"


def test_rows_to_score_that_training_has_seen(linted):
    by_check = linted("classification", train=labelled(LINES), test=labelled([LINES[2], "unheard of so far"]))[
        "seen", "test"
    ]
    assert (by_check.level, by_check.count, by_check.total, by_check.locations) == ("major", 1, 2, ["test:1 = train:3"])


def test_near_duplicates_within_and_across_and_the_likeness_that_counts(linted):
    train = labelled([*LINES, "The BILL came twice!"])
    test = labelled(["please cancel it all."])
    by_check = linted("classification", train=train, test=test)
    assert by_check["near", "train"].locations == ["train:7 ~ train:1"]
    assert by_check["near_seen", "test"].locations == ["test:1 ~ train:3"]
    assert by_check["near_seen", "test"].level == "major"
    far = labelled([*LINES, "the bill came twice or so"])
    assert linted("classification", train=far)["near", "train"].count == 0
    assert linted("classification", likeness=0.5, train=far)["near", "train"].count == 1


def test_labels_that_are_rare_alone_or_new(linted):
    rows = labelled([f"{line} {number}" for number in range(20) for line in LINES], "a" * 119 + "b")
    by_check = linted("classification", train=rows, test=[{"text": "so what", "label": "c"}])
    assert by_check["imbalance", "train"].level == "major"
    assert by_check["imbalance", "train"].values["ratio"] == "119"
    assert by_check["unseen_labels", "test"].values["names"] == "c"
    assert by_check["unseen_labels", "test"].locations == ["test:1"]
    assert linted("classification", train=labelled(LINES, "a"))["one_label", "train"].level == "major"


def test_several_labels_in_one_text_are_several(linted):
    rows = [{"text": line, "label": "x, y" if number % 2 else "y"} for number, line in enumerate(LINES)]
    by_check = linted("classification", ("task.target=multilabel",), train=rows)["imbalance", "train"]
    assert (by_check.values["num"], by_check.values["most"], by_check.values["top"]) == (2, "'y'", "6")


def test_a_wrong_encoding_shows(linted):
    by_check = linted("classification", train=labelled([*LINES, "caf\ufffd au lait"]))["replacement", "train"]
    assert by_check.locations == ["train:7"]
    assert "data.encoding" in by_check.remedy


def tagged(*tags: str) -> dict[str, Any]:
    return {"tokens": [f"w{number}" for number, _ in enumerate(tags)], "tags": list(tags)}


def test_illegal_tags_are_named_by_token_and_the_key_that_mends_them(linted):
    rows = [tagged("B-PER", "I-PER", "O"), tagged("O", "B-LOC"), tagged("B-PER", "O"), tagged("O", "I-PER", "O")]
    by_check = linted("token_classification", train=rows)["illegal_tags", "train"]
    assert (by_check.level, by_check.count, by_check.locations) == ("major", 1, ["train:4 token 2 ('w1')"])
    assert "task.repair=true" in by_check.sentence("en")
    scheme = linted("token_classification", ("task.repair=true",), train=rows)["illegal_tags", "train"]
    assert scheme.level == "minor"
    assert linted("token_classification", train=rows[:3])["illegal_tags", "train"].level == "ok"


def translation_pairs(num: int = 30) -> list[dict[str, str]]:
    return [
        {"source": f"this is sentence number {number} of all", "target": f"这是所有句子里的第{number}句话"}
        for number in range(num)
    ]


def test_pairs_that_do_not_go_together_copies_and_another_script(linted):
    rows = [
        *translation_pairs(),
        {"source": "short", "target": "很长的一句话" * 30},
        {"source": "The same", "target": "the same"},
    ]
    by_check = linted("translation", train=rows)
    assert by_check["length_ratio", "train"].locations == ["train:31"]
    assert by_check["copies", "train"].locations == ["train:32"]
    assert by_check["wrong_script", "train"].locations in (["train:32"], [])
    by_word = [finding for finding in check_for(linted, rows) if finding.check == "wrong_script"]
    assert {(finding.values["word"], finding.values["script"], finding.count) for finding in by_word} == {
        ("source", "Latin", 0),
        ("target", "Han", 1),
    }


def check_for(linted: Any, rows: list[dict[str, Any]]) -> list[Finding]:
    from llmstage.inspect.lint import LintRow
    from llmstage.inspect.lint_rows import check_pairs

    seen = [LintRow(row, f"train:{number}", "") for number, row in enumerate(rows, 1)]
    return list(check_pairs({"train": seen}, "source", "target", parallel=True))


def test_odd_lengths_do_not_hide_themselves():
    texts = [("a" * 20, "b" * (9 + number % 3)) for number in range(40)]
    odd = [("a" * 20, "b" * 200)] * 9
    by_check, median = odd_lengths(texts + odd)
    assert by_check == list(range(40, 49))
    assert median == pytest.approx(15 / 25, rel=0.1)
    assert odd_lengths([]) == ([], 1.0)


def test_a_summary_that_is_its_document(linted):
    rows = [
        {"document": f"A long text {number} about many things.", "summary": f"Text {number}"} for number in range(9)
    ]
    by_check = linted("summarization", train=[*rows, {"document": "All of it", "summary": "all of it"}])
    assert by_check["copies", "train"].locations == ["train:10"]
    assert ("length_ratio", "train") not in by_check  # a summary is short by design


def test_an_answer_that_stands_there_twice(linted):
    rows = [
        {"question": "who?", "context": "Ann met Bob, and Ann left.", "answers": ["Ann"]},
        {"question": "whom?", "context": "Ann met Bob.", "answers": ["Bob"]},
    ]
    by_check = linted("question_answering", train=rows)["answers_twice", "train"]
    assert by_check.locations == ["train:1"]


def test_questions_are_compared_by_what_they_ask_and_shared_texts_are_told(linted):
    text = "Ann met Bob in Rome, and they went on to Oslo by train the next day."
    rows = [
        {"question": question_row, "context": text, "answers": ["Ann"]}
        for question_row in ("Who met Bob in Rome?", "Where did they go by train?")
    ]
    asked = [
        {"question": "who met Bob in Rome", "context": text, "answers": ["Ann"]},
        {"question": "Which year?", "context": "In 1900 Ann left.", "answers": ["1900"]},
    ]
    by_check = linted("question_answering", train=rows, test=asked)
    assert by_check["near", "train"].count == 0
    assert by_check["near_seen", "test"].locations == ["test:1 ~ train:1"]
    assert by_check["contexts", "test"].locations == ["test:1"]
    assert "data.split.group=context" in by_check["contexts", "test"].remedy


def test_names_of_pictures_need_not_be_even(linted):
    by_check = linted(
        "contrastive", train=[{"image": f"{n}.png", "label": f"thing {n}", "caption": f"thing {n}"} for n in range(4)]
    )
    assert ("imbalance", "train") not in by_check


def test_captions_of_several_pictures_and_not_of_one(linted):
    rows = [{"image": f"{number}.png", "caption": "a red square"} for number in range(2)]
    rows += [{"image": "2.png", "caption": "a blue circle"}] * 2
    by_check = linted("contrastive", train=rows)["captions", "train"]
    assert by_check.locations == ["train:1", "train:2"]
    assert "task.repeats=mask" in by_check.remedy


def test_an_empty_answer_of_the_assistant(linted):
    answer = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": " "},
        {"role": "user", "content": "hm"},
        {"role": "assistant", "content": "yes"},
    ]
    by_check = linted("dialogue", train=[{"messages": answer}])["empty_answer", "train"]
    assert by_check.locations == ["train:1"]


def test_clicks_to_be_scored_that_are_older_than_what_was_learned():
    import numpy as np

    from llmstage.inspect.lint_rows import check_click_times

    log = SimpleNamespace(has_time=True, time=np.array([1e9, 2e9, 1.5e9, 3e9]))
    train, test = (SimpleNamespace(log=log, positions=np.array(at)) for at in ([0, 1], [2, 3]))
    cut = SimpleNamespace(data=SimpleNamespace(test=None))
    given = SimpleNamespace(data=SimpleNamespace(test="file.csv"))
    (by_check,) = check_click_times(cut, {"train": train, "test": test})  # type: ignore[arg-type]
    assert (by_check.level, by_check.count, by_check.locations) == ("minor", 1, ["test:1"])
    assert next(check_click_times(given, {"train": train, "test": test})).level == "major"  # type: ignore[arg-type]
