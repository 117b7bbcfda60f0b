"""Control tokens of a tokenizer: which of them end a turn, and how their names are encoded when a user types them.

A user who types `<|im_end|>` must not end a turn. The text of a typed special token is marked before the template is rendered, and
encoded as plain text afterwards.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from typing import Any

from tokenizers import Tokenizer

OPEN, CLOSE = "\U0010fff0", "\U0010fff1"
"""Private-use characters around a typed special token while the template is rendered, as transformers' own
`sanitize_control_tokens` has them: a template that searches for the token still finds it."""
FIRST_ALIAS = 0xF0000
"""The first private-use character that names a special token in ControlTokens.aliased."""
CONTROL_WORD = re.compile(r"<\S+>|\[/?[A-Z_]+\]")
"""What looks like a control token."""


class ControlTokens:
    """The tokens that a tokenizer searches in a text before it encodes the rest."""

    def __init__(self, tokenizer: Any, end_ids: tuple[int, ...] = ()) -> None:
        self.backend: Tokenizer = tokenizer.backend_tokenizer
        added = {str(token): (index, token.special) for index, token in tokenizer.added_tokens_decoder.items()}
        self.special = {text: index for text, (index, special) in added.items() if special and text.strip()}
        """Text -> id of the special tokens, named ones such as eos_token and others."""
        # Added tokens of white space are part of texts. An end token of generation need not be an added token.
        self.ids = {text: index for text, (index, _) in added.items() if text.strip()}
        for index in end_ids:
            text = tokenizer.convert_ids_to_tokens(index)
            if isinstance(text, str) and text.strip():
                self.ids.setdefault(text, index)
        self.pattern = any_of(self.ids)
        self.special_pattern = any_of(self.special)
        self.typed_pattern = re.compile(f"{OPEN}({self.special_pattern.pattern}){CLOSE}|[{OPEN}{CLOSE}]")
        self._aliased: tuple[Tokenizer, dict[str, str]] | None = None

    def typed(self, value: Any) -> bool:
        """Return whether a special token occurs in the strings of a message, a list or a dictionary."""
        if isinstance(value, str):
            return bool(self.special_pattern.search(value))
        if isinstance(value, dict):
            return any(map(self.typed, value.values()))
        return isinstance(value, (list, tuple)) and any(map(self.typed, value))

    def marked(self, value: Any) -> Any:
        """Return the value with marks around each special token in its strings. Roles and keys are not marked."""
        if isinstance(value, str):
            plain = value.replace(OPEN, "").replace(CLOSE, "")
            return self.special_pattern.sub(rf"{OPEN}\g<0>{CLOSE}", plain)
        if isinstance(value, dict):
            return {key: item if key == "role" else self.marked(item) for key, item in value.items()}
        return [self.marked(item) for item in value] if isinstance(value, (list, tuple)) else value

    def unmark(self, text: str, positions: list[int]) -> tuple[str, list[tuple[int, int]], list[int]]:
        """Return (the text without marks, the spans of typed tokens in it, the positions in it)."""
        parts: list[str] = []
        spans: list[tuple[int, int]] = []
        last = length = 0
        for match in self.typed_pattern.finditer(text):
            typed = match[1] or ""  # a template that splits texts may leave a single mark
            length += match.start() - last
            parts += [text[last : match.start()], typed]
            if typed:
                spans.append((length, length + len(typed)))
            length += len(typed)
            last = match.end()
        parts.append(text[last:])
        marks = [index for index, character in enumerate(text) if character in (OPEN, CLOSE)]
        return "".join(parts), spans, [position - bisect_left(marks, position) for position in positions]

    def encode_typed(self, text: str, typed: list[tuple[int, int]]) -> tuple[list[int], list[tuple[int, int]]]:
        """Return (ids, offsets) of a text in which the special tokens inside the spans `typed` are plain text."""
        tokenizer, aliases = self.aliased
        parts: list[str] = []
        origins: list[int] = []  # of each character of the text with aliases, its position in `text`
        last = 0
        for match in self.special_pattern.finditer(text):
            if any(start < match.end() and match.start() < stop for start, stop in typed):
                continue
            parts += [text[last : match.start()], aliases[match[0]]]
            origins += [*range(last, match.start()), match.start()]
            last = match.end()
        parts.append(text[last:])
        origins += range(last, len(text) + 1)
        encoding = tokenizer.encode("".join(parts), add_special_tokens=False)
        return list(encoding.ids), [(origins[start], origins[stop]) for start, stop in encoding.offsets]

    @property
    def aliased(self) -> tuple[Tokenizer, dict[str, str]]:
        """Return a copy of the tokenizer that knows the special tokens by other names only, and the names.

        Each name is one private-use character. The ids are unchanged, and everything else too: what the tokenizer does at the
        edges of a special token, such as SentencePiece's space, it does here as well.
        """
        if self._aliased is None:
            state = json.loads(self.backend.to_str())
            names = {text: chr(FIRST_ALIAS + number) for number, text in enumerate(self.special)}
            state["post_processor"] = state["truncation"] = state["padding"] = None
            for token in state["added_tokens"]:
                token["content"] = names.get(token["content"], token["content"])
            rename_entries(state["model"], names)
            self._aliased = (Tokenizer.from_str(json.dumps(state)), names)
        return self._aliased


def any_of(texts: Any) -> re.Pattern[str]:
    """Return a pattern of the texts that prefers the longest, as tokenizers do."""
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or "(?!)")


def rename_entries(model: dict[str, Any], names: dict[str, str]) -> None:
    """Rename entries of a vocabulary, so that no text is encoded as one of them."""
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(text, text): index for text, index in vocabulary.items()}
    elif isinstance(vocabulary, list):  # Unigram
        model["vocab"] = [[names.get(text, text), score] for text, score in vocabulary]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
