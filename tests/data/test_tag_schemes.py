"""Schemes against seqeval's own reading of them."""

from __future__ import annotations

import random

import pytest
from seqeval.scheme import IOB1, IOB2, IOBES, Entities

from llmstage.data.tag_schemes import (
    LETTERS,
    detect_scheme,
    first_illegal,
    label_names,
    lenient_spans,
    may_follow,
    spans_of,
    tags_of,
)  # fmt: skip

THEIRS = {"iob1": IOB1, "iob2": IOB2, "iobes": IOBES}


def sequences(scheme: str, num: int = 4000) -> list[list[str]]:
    rng = random.Random(scheme)
    known = ["O", *(f"{letter}-{kind}" for letter in LETTERS[scheme] for kind in ("PER", "LOC"))]
    return [[rng.choice(known) for _ in range(rng.randint(1, 7))] for _ in range(num)]


def theirs(tags: list[str], scheme: str) -> list[tuple[str, int, int]]:
    return [(found.tag, found.start, found.end) for row in Entities([tags], THEIRS[scheme]).entities for found in row]


@pytest.mark.parametrize("scheme", ["iob2", "iobes"])
def test_any_sequence_is_read_as_seqeval_reads_it_strictly(scheme: str) -> None:
    for tags in sequences(scheme):
        assert spans_of(tags, scheme) == theirs(tags, scheme), tags


@pytest.mark.parametrize("scheme", ["iob1", "iob2", "iobes"])
def test_legal_sequences_have_one_meaning(scheme: str) -> None:
    legal = [tags for tags in sequences(scheme) if first_illegal(tags, scheme) is None]
    assert len(legal) > 100
    for tags in legal:
        spans = spans_of(tags, scheme)
        assert spans == lenient_spans(tags, scheme) == theirs(tags, scheme)
        if scheme != "iob1":
            assert tags_of(spans, len(tags), scheme) == tags


@pytest.mark.parametrize("scheme", ["iob2", "iobes"])
def test_a_sequence_is_legal_where_each_tag_may_follow_the_one_before(scheme: str) -> None:
    for tags in sequences(scheme):
        steps = zip([None, *tags], [*tags, None], strict=True)
        assert (first_illegal(tags, scheme) is None) == all(may_follow(one, two, scheme) for one, two in steps), tags


def test_bmes_is_iobes_with_another_letter() -> None:
    for tags in sequences("iobes", 500):
        renamed = [tag.replace("I-", "M-") for tag in tags]
        assert spans_of(renamed, "bmes") == spans_of(tags, "iobes")
        assert (first_illegal(renamed, "bmes") is None) == (first_illegal(tags, "iobes") is None)


@pytest.mark.parametrize(
    ("scheme", "tags", "index", "told"),
    [
        ("iob2", ["O", "I-PER"], 1, "'I-PER' after O"),
        ("iob2", ["B-LOC", "I-PER"], 1, "'I-PER' after B-LOC"),
        ("iob1", ["O", "B-PER"], 1, "'B-PER' after O"),
        ("bmes", ["B-PER", "O"], 1, "'O' after B-PER"),
        ("bmes", ["S-PER", "B-PER"], 1, "the end after B-PER"),
        ("bmes", ["M-PER", "E-PER"], 0, "'M-PER' after the beginning"),
        ("iob2", ["B-PER", "E-PER"], 1, "'E-PER' is no tag of iob2"),
    ],
)
def test_the_first_illegal_tag_is_named(scheme: str, tags: list[str], index: int, told: str) -> None:
    found = first_illegal(tags, scheme)
    assert found is not None and found[0] == index and told in found[1]


@pytest.mark.parametrize(
    ("scheme", "rows"),
    [
        ("iob2", [["B-PER", "I-PER"], ["O", "B-LOC", "B-LOC"], ["O", "I-PER"]]),  # one slip does not turn the verdict
        ("iob1", [["I-PER", "I-PER"], ["I-LOC", "B-LOC"], ["O", "I-PER"]]),
        ("bmes", [["B-PER", "M-PER", "E-PER", "S-LOC"]]),
        ("bmes", [["B-PER", "E-PER"], ["O"]]),
        ("iobes", [["B-PER", "I-PER", "E-PER"], ["S-LOC"]]),
    ],
)
def test_the_scheme_is_told_by_the_tags(scheme: str, rows: list[list[str]]) -> None:
    assert detect_scheme(rows) == scheme


def test_labels_are_complete_for_every_type() -> None:
    assert label_names({"PER", "LOC"}, "iob1") == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    assert label_names({"PER"}, "bmes") == ["O", "B-PER", "I-PER", "E-PER", "S-PER"]


def test_illegal_sequences_are_mended_as_conlleval_reads_them() -> None:
    assert lenient_spans(["I-PER", "I-PER", "I-LOC", "O", "I-LOC"], "iob2") == [
        ("PER", 0, 2),
        ("LOC", 2, 3),
        ("LOC", 4, 5),
    ]
    assert lenient_spans(["B-PER", "O", "M-LOC", "E-LOC"], "bmes") == [("PER", 0, 1), ("LOC", 2, 4)]
