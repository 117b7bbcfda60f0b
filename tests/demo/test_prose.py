"""Laws of the prose world: length, both languages, and an end that speaks of what the beginning introduced."""

from __future__ import annotations

from llmstage.demo.prose import CHINESE, ENGLISH, prose_rows

ROWS = prose_rows(1000, 0)


def test_pure_and_a_longer_list_begins_with_the_shorter_one():
    assert prose_rows(1000, 0) == ROWS
    assert prose_rows(100, 0) == ROWS[:100]


def test_rows_are_distinct_and_seeds_share_practically_none():
    texts = {row["text"] for row in ROWS}
    assert len(texts) == len(ROWS)
    assert len(texts & {row["text"] for row in prose_rows(1000, 1)}) <= 1


def test_documents_are_80_to_400_characters_of_clean_text():
    for row in ROWS:
        assert set(row) == {"text"}
        assert 80 <= len(row["text"]) <= 400
        assert "{" not in row["text"] and row["text"].encode("utf-8").decode("utf-8") == row["text"]


def test_the_end_refers_to_two_people_and_a_thing_introduced_before():
    for index, row in enumerate(ROWS):
        grammar = (ENGLISH, CHINESE)[index % 2]
        people = {name for name in grammar.people if name in row["text"]}
        assert len(people) == 2
        middle = len(row["text"]) * 5 // 8
        first, last = row["text"][:middle], row["text"][middle:]
        assert all(name in first and name in last for name in people)
        (thing,) = {thing for thing in grammar.things if thing in row["text"]} or {""}
        assert thing in last
