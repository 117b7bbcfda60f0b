"""Laws of the world of named entities: names of the test rows are new, and tags are legal."""

from __future__ import annotations

from llmstage.data.tag_schemes import first_illegal, spans_of
from llmstage.demo.token_classification import TYPES, entity_rows

ROWS = entity_rows(1600, 0)


def names(rows) -> set[tuple[str, ...]]:
    return {tuple(row["tokens"][a:b]) for row in rows for _, a, b in spans_of(row["tags"], "iob2")}


def test_pure_distinct_and_a_longer_list_begins_with_the_shorter_one():
    assert entity_rows(1600, 0) == ROWS and entity_rows(100, 0) == ROWS[:100]
    assert len({tuple(row["tokens"]) for row in ROWS}) == 1600


def test_tags_are_legal_and_of_every_type():
    assert all(len(row["tokens"]) == len(row["tags"]) and all(row["tokens"]) for row in ROWS)
    assert all(first_illegal(row["tags"], "iob2") is None for row in ROWS)
    assert {kind for row in ROWS for kind, _, _ in spans_of(row["tags"], "iob2")} == set(TYPES)


def test_most_names_of_other_rows_were_never_seen():
    known, other = names(ROWS), names(entity_rows(300, 2))
    assert len(other - known) / len(other) > 0.6


def test_chinese_rows_hold_characters_and_english_ones_words():
    assert all(len(token) == 1 for row in ROWS[1::2] for token in row["tokens"])
    assert all(" " not in token for row in ROWS[::2] for token in row["tokens"])
