"""Laws of the village world: answers stand where they say, and questions without one ask for what is not told."""

from __future__ import annotations

import pytest

from llmstage.demo.questions import CHINESE, ENGLISH, NO_ANSWER, question_rows
from llmstage.evaluation.metrics.answers import HAS_CJK


@pytest.mark.parametrize("unanswerable", [False, True])
def test_pure_distinct_and_a_longer_list_begins_with_the_shorter_one(unanswerable):
    rows = question_rows(400, 0, unanswerable=unanswerable)
    assert rows[:100] == question_rows(100, 0, unanswerable=unanswerable)
    asked = {(row["question"], row["context"]) for row in rows}
    assert len(asked) == 400
    assert len(asked & {(row["question"], row["context"]) for row in question_rows(400, 1)}) <= 1


def test_both_languages_in_turn_and_every_answer_stands_at_its_place():
    for index, row in enumerate(question_rows(400, 0)):
        assert bool(HAS_CJK.search(row["context"])) is bool(HAS_CJK.search(row["question"])) is (index % 2 == 1)
        (answer,) = row["answers"]
        assert row["context"][answer["answer_start"] :].startswith(answer["text"])
        assert "{" not in row["context"] + row["question"]


def test_the_person_of_the_question_is_told_of_near_the_answer():
    for index, row in enumerate(question_rows(400, 0)):
        people = (ENGLISH, CHINESE)[index % 2].people
        (who,) = [name for name in people if name in row["question"]]
        start = row["answers"][0]["answer_start"]
        stops = ".。"
        begin = max(row["context"].rfind(stop, 0, start) for stop in stops) + 1
        end = min(place for stop in stops if (place := row["context"].find(stop, start)) >= 0)
        assert who in row["context"][begin:end]


def test_a_share_has_no_answer_and_asks_for_what_only_the_other_one_is_told_of():
    rows = question_rows(1000, 0, unanswerable=True)
    none = [row for row in rows if not row["answers"]]
    assert all(row["is_impossible"] is (not row["answers"]) for row in rows)
    assert 0.8 * NO_ANSWER < len(none) / len(rows) < 1.2 * NO_ANSWER
    for number, row in enumerate(rows):
        village = (ENGLISH, CHINESE)[number % 2]
        (kind,) = {
            name for name, fact in village.facts.items() for ask in fact.asks
            if row["question"] in [ask.format(who=who) for who in village.people]
        }  # fmt: skip
        (who,) = [name for name in village.people if name in row["question"]]
        told = [
            tell.format(who=who, value=value)
            for tell in village.facts[kind].tells
            for value in village.values.get(kind, village.people)
        ]
        assert any(sentence in row["context"] for sentence in told) is bool(row["answers"])
