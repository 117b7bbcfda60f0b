"""Rows with tagged tokens, in the forms they come in: tokens with tags (text or numbers), or text with spans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmstage.data.rows import Row
from llmstage.data.tag_schemes import Span, malformed
from llmstage.data.token_spans import Offsets, join_tokens, lay_spans, split_text


def check_tagged(row: Row, names: Sequence[str]) -> str | None:
    """Why the row cannot be used whatever the scheme of its tags, or None. `names`: of tags that are numbers."""
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
    laid = lay_spans(row["spans"], text, offsets)
    return laid if isinstance(laid, str) else None


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
        reason = check_number(tag, names) if isinstance(tag, int) else malformed(tag)
        if reason:
            return f"token {number} ({token!r}): {reason}"
    return None


def check_number(tag: int, names: Sequence[str]) -> str | None:
    if not names:
        return f"tag {tag} is a number; say what the numbers mean, in order: task.names=[O,B-PER,I-PER,...]"
    if not 0 <= tag < len(names):
        return f"tag {tag} has no name: task.names has {len(names)}"
    return malformed(names[tag])


def has_tags(row: Row) -> bool:
    return row.get("tokens") is not None and row.get("tags") is not None


def tags_in(row: Row, names: Sequence[str]) -> list[str] | None:
    """The row's tags as text; None where it has spans instead."""
    return [names[tag] if isinstance(tag, int) else tag for tag in row["tags"]] if has_tags(row) else None


def text_of(row: Row) -> tuple[str, Offsets]:
    """(text, place of each token in it)."""
    return join_tokens(row["tokens"]) if has_tags(row) else (row["text"], split_text(row["text"]))


def units(text: str, offsets: Offsets) -> list[str]:
    """The words as they are encoded, each by itself: with the space before it, where there is one."""
    return [(" " if start and text[start - 1].isspace() else "") + text[start:end] for start, end in offsets]


def describe_spans(spans: Sequence[Span], text: str, offsets: Offsets) -> list[dict[str, Any]]:
    """Entities by token as they are written down: `{"start", "end", "label", "text"}`, in characters."""
    places = [(kind, offsets[start][0], offsets[stop - 1][1]) for kind, start, stop in spans]
    return [{"start": start, "end": end, "label": kind, "text": text[start:end]} for kind, start, end in places]
