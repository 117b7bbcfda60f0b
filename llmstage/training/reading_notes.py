"""Which keys of conversations nothing reads, and which rows are left out, for the terminal, the report and stage=inspect."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from llmstage.training.components import RunComponents


def unread_keys(components: RunComponents) -> dict[str, int]:
    """Return the keys of conversations that nothing reads, with the number of times they occur.

    A key of a message that the chat template names is read by it.
    """
    template = str(components.processor.tokenizer.chat_template or "")
    counts: dict[str, int] = {}
    for unread in distinct(source.unread for source in components.sources.values()):
        for key, count in unread.items():
            name = key.removeprefix("messages[].")
            if name == key or not re.search(rf"\b{re.escape(name)}\b", template):
                counts[key] = counts.get(key, 0) + count
    return counts


def left_out_rows(components: RunComponents) -> dict[str, int]:
    """Return the number of rows that are left out though they are not bad, by the reason."""
    counts: Counter[str] = Counter()
    for left_out in distinct(source.left_out for source in components.sources.values()):
        counts.update(left_out)
    return dict(counts)


def distinct(values: Iterable[Mapping[str, int]]) -> list[Mapping[str, int]]:
    """Return the mappings, each object once: the parts of a file that was cut share theirs."""
    return list({id(value): value for value in values}.values())


def reading_notes(components: RunComponents) -> list[str]:
    """Return sentences about keys that are not read and rows that are left out."""
    unread = unread_keys(components)
    notes = [f"{count:,} rows are left out: {reason}." for reason, count in left_out_rows(components).items()]
    if unread:
        keys = ", ".join(f"{key} ({count:,})" for key, count in sorted(unread.items()))
        notes.append(f"Columns not read: {keys}.")
    templates = components.processor.chat_templates.values()
    return notes + [f"{warning[0].upper()}{warning[1:]}." for template in templates for warning in template.warnings]
