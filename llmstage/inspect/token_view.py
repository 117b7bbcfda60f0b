"""Show a row as the model sees it: its tokens, which of them are targets, and whether decoding restores its text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rich.text import Text

from llmstage.config import RunConfig
from llmstage.inspect.lint import LintRow
from llmstage.inspect.lint_tokens import conversation_of, decoded, end_tokens, rendered
from llmstage.inspect.wording import sentence
from llmstage.tasks.base import IGNORE_INDEX, Example
from llmstage.training.components import RunComponents

STYLES = {"learned": "bold green", "special": "magenta", "read": "default"}
MAX_IDS = 200
"""Ids of an example that are printed on a terminal; the page has those of all its tokens."""
MAX_EXAMPLES = 4
"""Examples of one row that are shown, where the chat template makes several of a conversation."""
MAX_TOKENS = 1200
"""Tokens of an example that are drawn."""


@dataclass(slots=True)
class TokenSpan:
    """Tokens that are drawn together: one, or the few whose bytes form one character."""

    text: str
    ids: list[int]
    role: str
    """learned, special or read."""


@dataclass(slots=True)
class TokenView:
    """One example of a row."""

    location: str
    spans: list[TokenSpan]
    num_tokens: int
    num_targets: int
    has_end: bool
    """Whether an end token is among the targets."""
    restores_text: bool | None
    """Whether decoding restores the texts of the row; None where the row was cut."""
    text: str
    """The decoded text."""
    reference: str = ""
    """The target of the whole row, where no token is a target."""
    template: str = ""
    """The conversation as the chat template renders it."""
    contents: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Keys of sentences, with values, about tools, reasoning and answers that are context only."""
    ids: list[int] = field(default_factory=list)
    learned: list[bool] = field(default_factory=list)
    part: tuple[int, int] = (1, 1)
    """The number of the example, and how many the row has."""

    def note(self, language: str) -> str:
        """Return a line about the counts of tokens and the decoded text."""
        check = (
            sentence("cut", language)
            if self.restores_text is None
            else sentence("same", language)
            if self.restores_text
            else sentence("other", language, text=self.text[:200])
        )
        if self.reference:
            return sentence("whole_note", language, num_tokens=self.num_tokens, reference=self.reference, check=check)
        end = "" if not self.num_targets else sentence("end" if self.has_end else "no_end", language)
        return sentence(
            "row_note", language, num_tokens=self.num_tokens, num_targets=self.num_targets, end=end, check=check
        )

    def rich(self) -> Text:
        """Return the tokens for a terminal. Learned tokens are in brackets, so that they are visible on a pipe and
        without colours."""
        out = Text()
        inside = False
        for piece in self.spans:
            learned = piece.role == "learned"
            if learned != inside:
                out.append("⟦" if learned else "⟧", style="dim")
                inside = learned
            out.append(piece.text, style=STYLES[piece.role])
        if inside:
            out.append("⟧", style="dim")
        return out

    def exhibit(self, language: str) -> dict[str, Any]:
        tokens = [
            {"text": piece.text, "kind": piece.role, "ids": " ".join(map(str, piece.ids))} for piece in self.spans
        ]
        lines = [self.note(language), *self.content_lines(language)]
        lines += [f"{sentence('template', language)}: {self.template}"] if self.template else []
        return {
            "kind": "tokens",
            "title": self.title(language),
            "tokens": tokens,
            "legend": [{"kind": role, "name": sentence(role, language)} for role in STYLES],
            "note": "\n".join(lines),
        }

    def title(self, language: str) -> str:
        number, num = self.part
        location = self.location
        if num > 1:
            location = sentence("part", language, location=location, number=number, num=num)
        return sentence("row", language, location=location)

    def content_lines(self, language: str) -> list[str]:
        return [sentence(key, language, **values) for key, values in self.contents]

    def id_line(self, language: str) -> str:
        """Return the first ids, the learned ones in brackets."""
        words: list[str] = []
        for index, token in enumerate(self.ids[:MAX_IDS]):
            begins = self.learned[index] and not (index and self.learned[index - 1])
            ends = self.learned[index] and not (index + 1 < len(self.ids) and self.learned[index + 1])
            words.append(f"{'⟦' if begins else ''}{token}{'⟧' if ends else ''}")
        if len(self.ids) > MAX_IDS:
            words.append(sentence("more", language, num=len(self.ids) - MAX_IDS))
        return f"{sentence('ids', language)}: {' '.join(words)}"


def view_rows(run: RunConfig, components: RunComponents, rows: list[LintRow], max_rows: int) -> list[TokenView]:
    """View the first rows that can be encoded, `max_rows` of them: the first example of each.

    Where the chat template rewrites earlier answers, each answer is an example of its own, and the first ones are viewed.
    """
    views: list[TokenView] = []
    num_rows = 0
    for row in rows:
        if num_rows >= max_rows:
            break
        examples = components.task.encode(row.row)
        if not examples:
            continue
        num_rows += 1
        rewritten = isinstance(examples[0].ref, dict) and "rewritten" in examples[0].ref
        for number in range(min(len(examples), MAX_EXAMPLES) if rewritten else 1):
            view = view_row(run, components, row, examples, number)
            view.part = (number + 1, len(examples)) if rewritten else (1, 1)
            views.append(view)
    return views


def view_row(
    run: RunConfig, components: RunComponents, row: LintRow, examples: list[Example], number: int = 0
) -> TokenView:
    """View one example of a row."""
    example = examples[number]
    processor = components.processor
    ids = example.input_ids
    learned, targets = loss_mask(components, example)
    reference = ""
    if learned is None:
        learned, reference = [False] * len(ids), reference_summary(example.ref)
    spans = group_tokens(components, targets if targets is not None else ids, learned)
    all_ids = [token for example in examples for token in example.input_ids]
    template, contents = "", []
    if "messages" in row.row:
        template = rendered(processor, conversation_of(run, row.row))
        contents = conversation_contents(row.row, template)
    # The ids of a conversation are those of its rendering, special tokens included.
    text = decoded(processor, all_ids) if template else processor.decode(all_ids)
    is_complete = contains_texts(text, [template] if template else row.text.split("\n"))
    was_cut = any(example.cut for example in examples)
    # Windows of a long text overlap, so their joined text need not contain the whole text.
    restores_text = None if was_cut or (len(examples) > 1 and not is_complete) else is_complete
    ends = end_tokens(components)
    return TokenView(
        row.location, spans, len(ids), sum(learned), any(token in ends for token, is_target in zip(ids, learned, strict=True) if is_target),
        restores_text, text, reference, template, contents, ids, learned,
    )  # fmt: skip


def conversation_contents(row: dict[str, Any], template: str) -> list[tuple[str, dict[str, Any]]]:
    """Return what a conversation has beside its texts, as keys of sentences with their values. `template`: rendered."""
    answers = [message for message in row["messages"] if message["role"] == "assistant"]
    reasoning = [message["reasoning_content"] for message in answers if message.get("reasoning_content")]
    calls = sum(bool(message.get("tool_calls")) for message in answers)
    context_only = sum(message.get("learn") is False for message in answers)
    contents: list[tuple[str, dict[str, Any]]] = []
    if row.get("tools"):
        contents.append(("tools", {"names": ", ".join(tool["function"]["name"] for tool in row["tools"])}))
    if calls:
        contents.append(("calls", {"num": calls}))
    if reasoning:
        written = sum(text.strip() in template for text in reasoning)
        contents.append(("reasoning", {"num": len(reasoning), "written": written}))
    if context_only:
        contents.append(("context_only", {"num": context_only}))
    return contents


def contains_texts(text: str, parts: list[str]) -> bool:
    """Whether the text contains every part or, where a row has alternative texts (captions), consists of parts only.

    White space is ignored: a word tokenizer cannot restore it.
    """
    squeezed = "".join(text.split())
    expected = sorted((part for part in ("".join(part.split()) for part in parts) if part), key=len, reverse=True)
    if all(part in squeezed for part in expected):
        return True
    remaining = squeezed
    for part in expected:
        remaining = remaining.replace(part, "", 1)
    return not remaining


def loss_mask(components: RunComponents, example: Example) -> tuple[list[bool] | None, list[int] | None]:
    """Return (whether each token is a target, the tokens with masked ones restored). None where the target belongs to
    the row as a whole."""
    if "target" in example.arrays:
        return [bool(is_target) for is_target in example.arrays["target"]], None
    batch = components.task.collate([[example]])
    length = len(example.input_ids)
    if batch.labels is None or batch.labels.ndim != 2 or batch.labels.shape[1] < length:
        return None, None
    labels = batch.labels[0, :length].tolist()
    return [label != IGNORE_INDEX for label in labels], None


def reference_summary(ref: Any) -> str:
    """Return the reference that score() compares with, shortened."""
    if isinstance(ref, dict):
        shortened = {
            key: value for key, value in ref.items() if key not in ("text", "text_pair", "context", "captions")
        }
        return ", ".join(f"{key}={str(value)[:60]}" for key, value in list(shortened.items())[:6])
    return str(ref)[:200]


def group_tokens(components: RunComponents, ids: list[int], learned: list[bool]) -> list[TokenSpan]:
    """Return the tokens as text; tokens that are parts of one character are one span."""
    processor = components.processor
    special = set(processor.tokenizer.all_special_ids)
    spans: list[TokenSpan] = []
    open_ids: list[int] = []
    for index, token in enumerate(ids[:MAX_TOKENS]):
        role = "learned" if learned[index] else "special" if token in special else "read"
        if open_ids and (spans[-1].role != role or token in special or len(open_ids) >= 4):
            open_ids = []
        if open_ids:
            open_ids.append(token)
            spans[-1].text, spans[-1].ids = decoded(processor, open_ids), list(open_ids)
        else:
            open_ids = [token]
            spans.append(TokenSpan(decoded(processor, open_ids), [token], role))
        if "\ufffd" not in spans[-1].text:
            open_ids = []
    if len(ids) > MAX_TOKENS:
        spans.append(TokenSpan(f" … {len(ids) - MAX_TOKENS} more", [], "special"))
    return spans
