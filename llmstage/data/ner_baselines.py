"""Simple ways to find entities, learned by counting: what a model must beat."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from llmstage.data.tag_schemes import OUTSIDE, Span, mended_spans


class FrequentTags:
    """Each word gets the tag that it had most often; a word never seen gets O."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)

    def add(self, tokens: Sequence[str], tags: Sequence[str]) -> None:
        for token, tag in zip(tokens, tags, strict=True):
            self.counts[token][tag] += 1

    def spans(self, tokens: Sequence[str], scheme: str) -> list[Span]:
        """Tags chosen word by word rarely make legal sequences, so they are read kindly."""
        tags = [
            max(self.counts[token].items(), key=lambda item: item[1])[0] if token in self.counts else OUTSIDE
            for token in tokens
        ]
        return mended_spans(tags, scheme)


class Gazetteer:
    """Every entity of the training rows is looked up, from the left, the longest first; its most frequent type is taken.

    The baseline of the CoNLL-2003 shared task (Tjong Kim Sang & De Meulder 2003, section 4), which also asked that a
    string have one type only."""

    def __init__(self) -> None:
        self.kinds: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        self.longest = 0

    def add(self, tokens: Sequence[str], spans: Sequence[Span]) -> None:
        for kind, start, stop in spans:
            self.kinds[tuple(tokens[start:stop])][kind] += 1
            self.longest = max(self.longest, stop - start)

    def spans(self, tokens: Sequence[str], scheme: str) -> list[Span]:
        found: list[Span] = []
        start = 0
        while start < len(tokens):
            for stop in range(min(len(tokens), start + self.longest), start, -1):
                counts = self.kinds.get(tuple(tokens[start:stop]))
                if counts:
                    found.append((max(counts.items(), key=lambda item: item[1])[0], start, stop))
                    start = stop
                    break
            else:
                start += 1
        return found
