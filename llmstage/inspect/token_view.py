"""A row as the model sees it: its tokens, which of them are learned, and whether decoding gives its text back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rich.text import Text

from llmstage.config import RunConfig
from llmstage.inspect.lint import Seen
from llmstage.inspect.lint_tokens import decoded, end_tokens, rendered, with_system
from llmstage.inspect.wording import say
from llmstage.tasks.base import IGNORE_INDEX, Example
from llmstage.training.setup import RunComponents

STYLES = {"learned": "bold green", "special": "magenta", "read": "default"}
MOST_TOKENS = 1200
"""Tokens of a feature that are drawn."""


@dataclass(slots=True)
class Piece:
    """Tokens that belong together: one, or the few whose bytes make up one character."""

    text: str
    ids: list[int]
    kind: str
    """learned, special or read."""


@dataclass(slots=True)
class Shown:
    """One feature."""

    place: str
    pieces: list[Piece]
    tokens: int
    learned: int
    ends: bool
    """An end token is among what is learned."""
    same: bool | None
    """Decoding gives the row's texts back; None where the row was cut."""
    text: str
    """What decoding gives."""
    label: str = ""
    """Of the whole row, where no token is a target by itself."""
    template: str = ""
    """The conversation as the chat template renders it."""
    facts: dict[str, Any] = field(default_factory=dict)

    def note(self, language: str) -> str:
        check = (
            say("cut", language)
            if self.same is None
            else say("same", language)
            if self.same
            else say("other", language, text=self.text[:200])
        )
        if self.label:
            return say("whole_note", language, tokens=self.tokens, label=self.label, check=check)
        end = "" if not self.learned else say("end" if self.ends else "no_end", language)
        return say("row_note", language, tokens=self.tokens, learned=self.learned, end=end, check=check)

    def rich(self) -> Text:
        """For a terminal; between brackets what is learned, so that it can be told on a pipe and without colours too."""
        out = Text()
        inside = False
        for piece in self.pieces:
            learned = piece.kind == "learned"
            if learned != inside:
                out.append("⟦" if learned else "⟧", style="dim")
                inside = learned
            out.append(piece.text, style=STYLES[piece.kind])
        if inside:
            out.append("⟧", style="dim")
        return out

    def exhibit(self, language: str) -> dict[str, Any]:
        tokens = [
            {"text": piece.text, "kind": piece.kind, "ids": " ".join(map(str, piece.ids))} for piece in self.pieces
        ]
        note = self.note(language)
        note += f"\n{say('template', language)}: {self.template}" if self.template else ""
        return {"kind": "tokens", "title": say("row", language, place=self.place), "tokens": tokens, "note": note}


def show_rows(run: RunConfig, pieces: RunComponents, rows: list[Seen], most: int) -> list[Shown]:
    """The first feature of each of the first `most` rows that can be encoded."""
    out: list[Shown] = []
    for one in rows:
        if len(out) >= most:
            break
        features = pieces.task.encode(one.row)
        if features:
            out.append(show(run, pieces, one, features))
    return out


def show(run: RunConfig, pieces: RunComponents, one: Seen, features: list[Example]) -> Shown:
    first = features[0]
    processor = pieces.processor
    ids = first.input_ids
    learned, targets = loss_mask(pieces, first)
    label = ""
    if learned is None:
        learned, label = [False] * len(ids), told_ref(first.ref)
    drawn = group(pieces, targets if targets is not None else ids, learned)
    text = processor.decode([token for feature in features for token in feature.input_ids])
    whole = gives_back(text, one.text.split("\n"))
    lost = any(feature.cut for feature in features)
    # Windows of a long text share tokens, so that their sum may hold its sentences and yet not the text.
    same = None if lost or (len(features) > 1 and not whole) else whole
    template = ""
    if "messages" in one.row:
        template = rendered(processor, with_system(run, one.row["messages"]))[1]
    ends = end_tokens(pieces)
    return Shown(
        one.place, drawn, len(ids), sum(learned), any(token in ends for token, wanted in zip(ids, learned, strict=True) if wanted),
        same, text, label, template,
    )  # fmt: skip


def gives_back(text: str, parts: list[str]) -> bool:
    """Whether each part stands in the text; or, where a row says one thing in several ways (captions), nothing else does.
    White space does not count: a tokenizer of words cannot know it."""
    squeezed = "".join(text.split())
    wanted = sorted((part for part in ("".join(part.split()) for part in parts) if part), key=len, reverse=True)
    if all(part in squeezed for part in wanted):
        return True
    left = squeezed
    for part in wanted:
        left = left.replace(part, "", 1)
    return not left


def loss_mask(pieces: RunComponents, features: Example) -> tuple[list[bool] | None, list[int] | None]:
    """(whether each token is a target, the tokens with those that are hidden from the model put back); None where the target
    is of the row as a whole."""
    if "target" in features.arrays:
        return [bool(wanted) for wanted in features.arrays["target"]], None
    batch = pieces.task.collate([[features]])
    length = len(features.input_ids)
    if batch.labels is None or batch.labels.ndim != 2 or batch.labels.shape[1] < length:
        return None, None
    labels = batch.labels[0, :length].tolist()
    return [label != IGNORE_INDEX for label in labels], None


def told_ref(ref: Any) -> str:
    """What score() compares with, in short."""
    if isinstance(ref, dict):
        told = {key: value for key, value in ref.items() if key not in ("text", "text_pair", "context", "captions")}
        return ", ".join(f"{key}={str(value)[:60]}" for key, value in list(told.items())[:6])
    return str(ref)[:200]


def group(pieces: RunComponents, ids: list[int], learned: list[bool]) -> list[Piece]:
    """Tokens as text; those that are parts of one character are drawn as one."""
    processor = pieces.processor
    special = set(processor.tokenizer.all_special_ids)
    out: list[Piece] = []
    held: list[int] = []
    for place, token in enumerate(ids[:MOST_TOKENS]):
        kind = "learned" if learned[place] else "special" if token in special else "read"
        if held and (out[-1].kind != kind or token in special or len(held) >= 4):
            held = []
        if held:
            held.append(token)
            out[-1].text, out[-1].ids = decoded(processor, held), list(held)
        else:
            held = [token]
            out.append(Piece(decoded(processor, held), [token], kind))
        if "\ufffd" not in out[-1].text:
            held = []
    if len(ids) > MOST_TOKENS:
        out.append(Piece(f" … {len(ids) - MOST_TOKENS} more", [], "special"))
    return out
