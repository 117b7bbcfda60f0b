"""Tokens as text and text as tokens; windows that lose no word."""

from __future__ import annotations

import random

import pytest

from llmstage.data.token_spans import align_spans, join_tokens, split_text, word_windows


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (["Anna", "left", "."], "Anna left ."),
        (["中", "国", "银", "行", "ABC", "公", "司", "。"], "中国银行ABC公司。"),
        (["a", "，", "b"], "a，b"),
        (["x"], "x"),
    ],
)
def test_tokens_written_together_stand_where_their_offsets_say(tokens: list[str], text: str) -> None:
    joined, offsets = join_tokens(tokens)
    assert joined == text
    assert [joined[start:end] for start, end in offsets] == tokens


def test_running_text_is_cut_at_spaces_marks_and_chinese_characters() -> None:
    text = "Dr Zäl's 3051号房, 東京!"
    assert [text[start:end] for start, end in split_text(text)] == [
        "Dr", "Zäl", "'", "s", "3051", "号", "房", ",", "東", "京", "!",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("spans", "told"),
    [
        ([{"start": 0, "end": 3, "label": "PER"}], "border of a token"),
        ([{"start": 0, "end": 9, "label": "PER"}, {"start": 5, "end": 9, "label": "ORG"}], "overlap: 'Anna Bell'"),
        ([{"start": 5, "end": 99, "label": "PER"}], "no part of a text of 17 characters"),
        ([{"start": 5, "label": "PER"}], "start, end and label"),
        ([{"start": "5", "end": 9, "label": "PER"}], "whole numbers"),
        ([{"start": 5, "end": 9, "label": ""}], "not a name"),
        ("PER", "where a list"),
    ],
)
def test_spans_that_do_not_fit_are_told(spans: object, told: str) -> None:
    text = "Anna Bell left 中国"
    found = align_spans(spans, text, split_text(text))
    assert isinstance(found, str) and told in found


def test_spans_by_character_become_spans_of_tokens() -> None:
    text = "Anna Bell left 中国"
    spans = [{"start": 15, "end": 17, "label": "LOC"}, {"start": 0, "end": 9, "label": "PER"}]
    assert align_spans(spans, text, split_text(text)) == [("PER", 0, 2), ("LOC", 3, 5)]


@pytest.mark.parametrize("seed", range(200))
def test_every_word_is_a_target_once_and_windows_share_context(seed: int) -> None:
    rng = random.Random(seed)
    room = rng.randint(2, 40)
    lengths = [rng.randint(1, min(room, rng.choice((1, 3, room)))) for _ in range(rng.randint(1, 120))]
    parts = word_windows(lengths, room)
    assert [index for _, start, stop, _ in parts for index in range(start, stop)] == list(range(len(lengths)))
    for first, start, stop, end in parts:
        assert first <= start < stop <= end and sum(lengths[first:end]) <= room
    if sum(lengths) <= room:
        assert parts == [(0, 0, len(lengths), len(lengths))]


def test_a_target_at_a_cut_has_context_on_both_sides() -> None:
    for first, start, stop, end in word_windows([1] * 100, 40):
        assert start - first == (10 if start else 0)
        assert end - stop == (10 if end < 100 else 0)
