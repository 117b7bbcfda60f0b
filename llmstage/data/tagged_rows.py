"""Rows with tagged tokens: tokens with tags (names or numbers), or text with spans; and baselines that count tags."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from llmstage.data.rows import Row
from llmstage.data.tag_schemes import OUTSIDE, Span, lenient_spans, tag_complaint
from llmstage.data.token_spans import Offsets, align_spans, join_tokens, split_text


def check_tagged(row: Row, names: Sequence[str]) -> str | None:
    """Return why a row is unusable in any tag scheme, or None. `names`: the names of tags that are numbers."""
    if has_tags(row):
        return check_tokens(row["tokens"], row["tags"], names)
    text = row.get("text")
    if row.get("spans") is None or text is None:
        return "neither tokens with tags nor text with spans is there"
    if not isinstance(text, str):
        return f"text is {type(text).__name__}, not text"
    offsets = split_text(text)
    if not offsets:
        return "text is empty"
    aligned = align_spans(row["spans"], text, offsets)
    return aligned if isinstance(aligned, str) else None


def check_tokens(tokens: Any, tags: Any, names: Sequence[str]) -> str | None:
    if not isinstance(tokens, list) or not isinstance(tags, list):
        return "tokens and tags must both be lists"
    if len(tokens) != len(tags):
        return f"{len(tokens)} tokens but {len(tags)} tags"
    if not tokens:
        return "there is no token"
    for number, (token, tag) in enumerate(zip(tokens, tags, strict=True), 1):
        if not isinstance(token, str) or not token:
            return f"token {number} is {'empty' if token == '' else f'{token!r}, not text'}"
        reason = check_number(tag, names) if isinstance(tag, int) else tag_complaint(tag)
        if reason:
            return f"token {number} ({token!r}): {reason}"
    return None


def check_number(tag: int, names: Sequence[str]) -> str | None:
    if not names:
        return f"tag {tag} is a number; say what the numbers mean, in order: task.names=[O,B-PER,I-PER,...]"
    if not 0 <= tag < len(names):
        return f"tag {tag} has no name: task.names has {len(names)}"
    return tag_complaint(names[tag])


def has_tags(row: Row) -> bool:
    return row.get("tokens") is not None and row.get("tags") is not None


def tags_in(row: Row, names: Sequence[str]) -> list[str] | None:
    """Return the tags of a row as names; None where it has spans instead."""
    return [names[tag] if isinstance(tag, int) else tag for tag in row["tags"]] if has_tags(row) else None


def text_of(row: Row) -> tuple[str, Offsets]:
    """Return (text, offsets of its tokens)."""
    return join_tokens(row["tokens"]) if has_tags(row) else (row["text"], split_text(row["text"]))


def units(text: str, offsets: Offsets) -> list[str]:
    """Return the words as they are encoded, one by one: each with the space before it, where there is one."""
    return [(" " if start and text[start - 1].isspace() else "") + text[start:end] for start, end in offsets]


def describe_spans(spans: Sequence[Span], text: str, offsets: Offsets) -> list[dict[str, Any]]:
    """Convert spans of tokens to `{"start", "end", "label", "text"}` in characters."""
    in_characters = [(label, offsets[start][0], offsets[stop - 1][1]) for label, start, stop in spans]
    return [
        {"start": start, "end": end, "label": label, "text": text[start:end]} for label, start, end in in_characters
    ]


class FrequentTags:
    """Baseline: tag each word with its most frequent tag in training; an unknown word gets O."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)

    def add(self, tokens: Sequence[str], tags: Sequence[str]) -> None:
        for token, tag in zip(tokens, tags, strict=True):
            self.counts[token][tag] += 1

    def spans(self, tokens: Sequence[str], scheme: str) -> list[Span]:
        """Return the entities of the tags. Independent tags are rarely a legal sequence, so they are read leniently."""
        tags = [
            max(self.counts[token].items(), key=lambda item: item[1])[0] if token in self.counts else OUTSIDE
            for token in tokens
        ]
        return lenient_spans(tags, scheme)


class Gazetteer:
    """Baseline: find the entities of the training rows, from the left, the longest first, with their most frequent type.

    The baseline of the CoNLL-2003 shared task (Tjong Kim Sang & De Meulder 2003, section 4) also requires that a string has
    one type only.
    """

    def __init__(self) -> None:
        self.types: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        self.longest = 0

    def add(self, tokens: Sequence[str], spans: Sequence[Span]) -> None:
        for entity_type, start, stop in spans:
            self.types[tuple(tokens[start:stop])][entity_type] += 1
            self.longest = max(self.longest, stop - start)

    def spans(self, tokens: Sequence[str], scheme: str) -> list[Span]:
        spans: list[Span] = []
        start = 0
        while start < len(tokens):
            for stop in range(min(len(tokens), start + self.longest), start, -1):
                counts = self.types.get(tuple(tokens[start:stop]))
                if counts:
                    spans.append((max(counts.items(), key=lambda item: item[1])[0], start, stop))
                    start = stop
                    break
            else:
                start += 1
        return spans
