"""Tokens and the text they stand in: written together, cut apart, and entities given by characters laid on tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from llmstage.data.tag_schemes import Span

WIDE = (
    "\u1100-\u11ff\u2e80-\u303f\u3040-\u30ff\u3100-\u312f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef"
    "\U00020000-\U0003ffff"
)
"""Characters of writing without spaces between words, with its punctuation."""
WIDE_CHARACTER = re.compile(f"[{WIDE}]")
TOKEN = re.compile(rf"[{WIDE}]|(?:(?![{WIDE}])\w)+|[^\w\s]")
"""A token of running text: a character of such writing, a run of letters and digits, or a mark."""

Offsets = list[tuple[int, int]]
"""(first character, one behind the last) of each token."""


def join_tokens(tokens: Sequence[str]) -> tuple[str, Offsets]:
    """The tokens as one text: with a space between them, but none beside a Chinese or Japanese character."""
    parts: list[str] = []
    offsets: Offsets = []
    place = 0
    for token in tokens:
        if parts and not WIDE_CHARACTER.match(parts[-1][-1]) and not WIDE_CHARACTER.match(token[0]):
            parts.append(" ")
            place += 1
        offsets.append((place, place + len(token)))
        parts.append(token)
        place += len(token)
    return "".join(parts), offsets


def split_text(text: str) -> Offsets:
    """The tokens of running text, as places in it."""
    return [found.span() for found in TOKEN.finditer(text)]


def lay_spans(spans: Any, text: str, offsets: Offsets) -> list[Span] | str:
    """Entities given by characters (`{"start", "end", "label"}`) as spans of tokens, or why they do not fit."""
    if not isinstance(spans, list):
        return f"spans is {type(spans).__name__}, where a list of {{start, end, label}} must stand"
    starts = {start: index for index, (start, _) in enumerate(offsets)}
    ends = {end: index for index, (_, end) in enumerate(offsets)}
    laid: list[Span] = []
    for number, span in enumerate(spans, 1):
        reason = misshapen(span, text)
        if reason:
            return f"span {number}: {reason}"
        start, end, kind = span["start"], span["end"], span["label"]
        if start not in starts or end not in ends:
            return f"span {number} ({start}, {end}, {kind}) {text[start:end]!r} does not begin and end at the border of a token"
        laid.append((kind, starts[start], ends[end] + 1))
    laid.sort(key=lambda span: span[1])
    for one, two in pairwise(laid):
        if two[1] < one[2]:
            told = [text[offsets[start][0] : offsets[stop - 1][1]] for _, start, stop in (one, two)]
            return f"spans overlap: {told[0]!r} ({one[0]}) and {told[1]!r} ({two[0]}); one token can have one tag"
    return laid


def misshapen(span: Any, text: str) -> str | None:
    if not isinstance(span, dict) or not {"start", "end", "label"} <= span.keys():
        return "not an object with start, end and label"
    start, end = span["start"], span["end"]
    if not isinstance(start, int) or not isinstance(end, int):
        return f"start {start!r} and end {end!r} must be whole numbers"
    if not 0 <= start < end <= len(text):
        return f"({start}, {end}) is no part of a text of {len(text)} characters"
    if not isinstance(span["label"], str) or not span["label"].strip():
        return f"label {span['label']!r} is not a name"
    return None


def word_windows(lengths: Sequence[int], room: int) -> list[tuple[int, int, int, int]]:
    """(first word, first target, end of targets, end of words) of each window of at most `room` pieces.

    Every word is a target in exactly one window, and has up to a quarter of the room as context on the side where its
    window was cut. `lengths`: pieces of each word, none above `room`.
    """
    out: list[tuple[int, int, int, int]] = []
    target, count = 0, len(lengths)
    side = room // 4
    while target < count:
        first, left = target, 0
        while first > 0 and left + lengths[first - 1] <= min(side, room - lengths[target]):
            first -= 1
            left += lengths[first]
        end, size = target, left
        while end < count and size + lengths[end] <= room:
            size += lengths[end]
            end += 1
        stop, right = end, 0
        while end < count and stop - 1 > target and right + lengths[stop - 1] <= side:
            stop -= 1
            right += lengths[stop]
        out.append((first, target, stop, end))
        target = stop
    return out
