"""Join tokens to a text, split a text into tokens, and align entities given by characters with tokens."""

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
"""Characters of scripts without spaces between words, with their punctuation."""
WIDE_CHARACTER = re.compile(f"[{WIDE}]")
TOKEN = re.compile(rf"[{WIDE}]|(?:(?![{WIDE}])\w)+|[^\w\s]")
"""A token of a text: a character of such a script, a run of letters and digits, or a punctuation mark."""

Offsets = list[tuple[int, int]]
"""(first character, character after the last) of each token."""


def join_tokens(tokens: Sequence[str]) -> tuple[str, Offsets]:
    """Return the tokens as one text, with a space between them except next to a Chinese or Japanese character."""
    parts: list[str] = []
    offsets: Offsets = []
    position = 0
    for token in tokens:
        if parts and not WIDE_CHARACTER.match(parts[-1][-1]) and not WIDE_CHARACTER.match(token[0]):
            parts.append(" ")
            position += 1
        offsets.append((position, position + len(token)))
        parts.append(token)
        position += len(token)
    return "".join(parts), offsets


def split_text(text: str) -> Offsets:
    """Return the offsets of the tokens of a text."""
    return [match.span() for match in TOKEN.finditer(text)]


def align_spans(spans: Any, text: str, offsets: Offsets) -> list[Span] | str:
    """Convert entities given by characters (`{"start", "end", "label"}`) to spans of tokens, or return why they do not fit."""
    if not isinstance(spans, list):
        return f"spans is {type(spans).__name__}, where a list of {{start, end, label}} is required"
    starts = {start: index for index, (start, _) in enumerate(offsets)}
    ends = {end: index for index, (_, end) in enumerate(offsets)}
    aligned: list[Span] = []
    for number, span in enumerate(spans, 1):
        reason = span_complaint(span, text)
        if reason:
            return f"span {number}: {reason}"
        start, end, label = span["start"], span["end"], span["label"]
        if start not in starts or end not in ends:
            return f"span {number} ({start}, {end}, {label}) {text[start:end]!r} does not begin and end at the border of a token"
        aligned.append((label, starts[start], ends[end] + 1))
    aligned.sort(key=lambda span: span[1])
    for first, second in pairwise(aligned):
        if second[1] < first[2]:
            texts = [text[offsets[start][0] : offsets[stop - 1][1]] for _, start, stop in (first, second)]
            return (
                f"spans overlap: {texts[0]!r} ({first[0]}) and {texts[1]!r} ({second[0]}); one token can have one tag"
            )
    return aligned


def span_complaint(span: Any, text: str) -> str | None:
    """Return what is wrong with one entity given by characters, or None."""
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


def word_windows(lengths: Sequence[int], max_tokens: int) -> list[tuple[int, int, int, int]]:
    """Split a sequence of words into windows of at most `max_tokens` subword tokens.

    Return (first word, first target, end of targets, end of words) of each window. Every word is a target in exactly one
    window, and has up to a quarter of the window as context on a side where the sequence was split. `lengths`: subword
    tokens of each word, none above `max_tokens`.
    """
    out: list[tuple[int, int, int, int]] = []
    target, count = 0, len(lengths)
    side = max_tokens // 4
    while target < count:
        # Context on the left.
        first, left = target, 0
        while first > 0 and left + lengths[first - 1] <= min(side, max_tokens - lengths[target]):
            first -= 1
            left += lengths[first]
        # Words until the window is full.
        end, size = target, left
        while end < count and size + lengths[end] <= max_tokens:
            size += lengths[end]
            end += 1
        # The last words are context on the right, and targets of the next window.
        stop, right = end, 0
        while end < count and stop - 1 > target and right + lengths[stop - 1] <= side:
            stop -= 1
            right += lengths[stop]
        out.append((first, target, stop, end))
        target = stop
    return out
