"""SQuAD's files and other forms of questions: every question a row, bad answers told with their place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmstage.config.data import DataConfig
from llmstage.config.run import GenerationConfig
from llmstage.config.task import QuestionAnswering as Config
from llmstage.data.question_rows import BadAnswer, answers_of, excerpt, likeliest_part, question_word, sentences
from llmstage.data.splits import open_splits
from llmstage.errors import DataError
from llmstage.tasks.question_answering import TASK

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
CONTEXT = "黑豹队的防守只丢了 308 分。The Panthers gave up 308 points."


def squad(*asked: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "version": "v2.0",
        "data": [{"title": "Panthers", "paragraphs": [{"qas": list(asked), "context": CONTEXT}]}],
        **more,
    }


GOOD = {
    "id": "q1",
    "question": "丢了多少分？",
    "answers": [{"text": "308", "answer_start": 10}, {"text": "308 分", "answer_start": 10}],
}
NONE = {
    "id": "q2",
    "question": "Who won?",
    "answers": [],
    "is_impossible": True,
    "plausible_answers": [{"text": "308", "answer_start": 10}],
}


def opened(path: Path, out_dir: Path | None = None, **options: Any) -> list[tuple[dict[str, Any], str]]:
    task = TASK(Config(name="question_answering"), GenerationConfig())
    source = open_splits(DataConfig(test=str(path), **options), task.columns, task.check_row, out_dir)["test"]
    return list(source)


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("reader", ["auto", "squad"])
def test_each_question_is_a_row_with_the_line_it_stands_at(tmp_path: Path, indent: int | None, reader: str) -> None:
    path = tmp_path / "dev.json"
    path.write_text(json.dumps(squad(GOOD, NONE), indent=indent, ensure_ascii=False), encoding="utf-8")
    (one, first), (two, second) = opened(path, format=reader)
    assert one == {**GOOD, "title": "Panthers", "context": CONTEXT}
    assert two["answers"] == [] and two["is_impossible"] is True and answers_of(two) == []
    assert [answer.text for answer in answers_of(one)] == ["308", "308 分"]
    lines = path.read_text(encoding="utf-8").splitlines()
    for place, name in ((first, "q1"), (second, "q2")):
        assert f'"{name}"' in lines[int(place.rpartition(":")[2]) - 1]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"text": "309", "answer_start": 10}, r"question bad: answer_start=10 points at '308', not at the answer '309'; it does not stand"),
        ({"text": "308", "answer_start": 11}, r"points at '08 ', not at the answer '308'; it stands at 10"),
        ({"text": "308", "answer_start": 999}, r"answer_start=999 points at ''"),
        ({"text": "308", "answer_start": -1}, r"answer_start=-1"),
        ({"text": "308", "answer_start": "ten"}, r"answer_start is 'ten', not a whole number"),
        ({"text": "nobody"}, r"question bad: the answer 'nobody' does not stand in the context"),
        ({"text": ""}, r"without a text"),
    ],
)  # fmt: skip
def test_a_wrong_answer_is_told_with_file_line_question_and_reason(
    tmp_path: Path, answer: dict[str, Any], reason: str
) -> None:
    path = tmp_path / "dev.json"
    bad = {"id": "bad", "question": "丢了多少分？", "answers": [answer]}
    path.write_text(json.dumps(squad(GOOD, bad), indent=1, ensure_ascii=False), encoding="utf-8")
    with pytest.raises(DataError, match=rf"dev\.json:\d+: .*{reason}.*quarantine"):
        opened(path)
    rows = opened(path, out_dir=tmp_path, on_bad_row="quarantine")
    assert [row["id"] for row, _ in rows] == ["q1"]
    (line,) = (tmp_path / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    told = json.loads(line)
    assert path.read_text(encoding="utf-8").splitlines()[told["line"] - 1].strip().startswith('"id": "bad"')


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"data": [{"title": "x", "paragraphs": [{"context": CONTEXT}]}]}, "without a list 'qas'"),
        ({"data": [{"title": "x", "paragraphs": [{"context": CONTEXT, "qas": ["what?"]}]}]}, "a question that is no object"),
        ({"data": [{"title": "x", "paragraphs": "none", "context": 1}]}, "without a list 'paragraphs'"),
        (squad({"id": "q", "question": "Who?", "is_impossible": False}), "no answer, though is_impossible is false"),
    ],
)  # fmt: skip
def test_a_part_without_what_squad_has_is_a_bad_row(tmp_path: Path, broken: dict[str, Any], reason: str) -> None:
    path = tmp_path / "dev.json"
    path.write_text(json.dumps(broken, ensure_ascii=False), encoding="utf-8")
    with pytest.raises(DataError, match=reason):
        opened(path, format="squad")


@pytest.mark.parametrize(
    ("answers", "start", "spans"),
    [
        ("308 points", None, [("308 points", 37, 1)]),
        ("308", None, [("308", 10, 2)]),  # twice: the first, and it is counted
        ("308", "37", [("308", 37, 1)]),
        ("", None, []),
        (["308", "points"], [37, 41], [("308", 37, 1), ("points", 41, 1)]),
        ({"text": ["308"], "answer_start": [37]}, None, [("308", 37, 1)]),  # the columns of `datasets`
        ({"text": [], "answer_start": []}, None, []),
    ],
)
def test_answers_in_other_forms(answers: Any, start: Any, spans: list[Any]) -> None:
    row = {"context": CONTEXT, "question": "?", "answers": answers, **({"answer_start": start} if start else {})}
    assert [(one.text, one.start, one.occurrences) for one in answers_of(row)] == spans
    for text, at, _ in spans:
        assert CONTEXT[at : at + len(text)] == text


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [("answers", 3, "int"), ("is_impossible", "perhaps", "perhaps"), ("answer_start", [1, 2], "1 answers but 2")],
)
def test_forms_that_cannot_be_read(key: str, value: Any, reason: str) -> None:
    row = {"context": CONTEXT, "question": "?", "answers": ["308"], "id": 7, key: value}
    with pytest.raises(BadAnswer, match=f"question 7: .*{reason}"):
        answers_of(row)


def test_tables_and_lines_with_the_usual_names(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        f'query,passage,answer\nhow many?,"{CONTEXT}",308 points\nwho?,"{CONTEXT}",\n', encoding="utf-8"
    )
    (one, _), (two, place) = opened(tmp_path / "a.csv")
    assert one == {"question": "how many?", "context": CONTEXT, "answers": "308 points"}
    assert answers_of(two) == [] and place.endswith("a.csv:3")
    (tmp_path / "b.jsonl").write_text(
        json.dumps({"question": "?", "context": CONTEXT, "answers": ["308"], "extra": 1}) + "\n"
    )
    assert len(opened(tmp_path / "b.jsonl")) == 1


@pytest.mark.parametrize("language", ["en", "zh"])
def test_xquad(language: str) -> None:
    path = DATA / "xquad" / f"xquad.{language}.json"
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    rows = [row for row, _ in opened(path)]
    assert (
        len(rows) == 632 and len({row["title"] for row in rows}) == 24 and len({row["context"] for row in rows}) == 120
    )
    assert all(len(answers_of(row)) == 1 for row in rows)


@pytest.mark.parametrize(
    ("question", "word"),
    [
        ("How many points?", "how many"), ("In what year did it end?", "when"), ("Which city is it?", "where"), ("Whom did he meet?", "who"),
        ("Why?", "why"), ("How did they win?", "how"), ("What is it?", "what"), ("Name the king.", "other"),
        ("丢了多少分？", "how many"), ("他哪一年出生？", "when"), ("他住在哪里？", "where"), ("谁赢了？", "who"), ("为什么？", "why"), ("如何做到的？", "how"), ("这是什么？", "what"),
    ],
)  # fmt: skip
def test_question_words_of_both_languages(question: str, word: str) -> None:
    assert question_word(question) == word


def test_sentences_cover_the_text_and_a_decimal_point_ends_none() -> None:
    text = "It fell by 3.5 points. Then it rose!  他走了。她来了？好"
    found = [text[a:b] for a, b in sentences(text)]
    assert found == ["It fell by 3.5 points.", "Then it rose!", "他走了。", "她来了？", "好"]


def test_the_part_that_is_kept_holds_the_words_of_the_question() -> None:
    context = [1] * 50 + [7, 8, 9] + [1] * 50
    first, stop = likeliest_part(context, [1, 8], 11)
    assert stop - first == 11 and 8 in context[first:stop]
    assert likeliest_part([1, 2], [3], 5) == (0, 2)


def test_an_excerpt_of_a_long_context_is_around_the_answer() -> None:
    long = "a" * 1000 + "ANSWER" + "b" * 1000
    shown = excerpt(long, 1000, 1006)
    assert "ANSWER" in shown and len(shown) < 400 and shown[0] == shown[-1] == "…"
    assert excerpt("short", 0, 2) == "short"
