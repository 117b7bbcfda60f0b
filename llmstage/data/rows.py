"""The words in which readers, tasks and loaders speak about rows."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
"""One raw example in the task's own words, e.g. `{"text": ..., "label": ...}` or `{"messages": [...]}`."""


class Place(str):
    """Where a picture is. Rows are hashed by the name that their file gives it, so that a data set that is moved to another
    folder is cut as before."""

    name: str = ""

    @classmethod
    def of(cls, place: str, name: str) -> Place:
        made = cls(place)
        made.name = name
        return made


@dataclass(slots=True, frozen=True)
class Columns:
    """What a task's rows hold: the words it must have, those it may have, and the words that say what a row *is*."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    content: tuple[str, ...] = ()
    """Words whose value identifies the text of a row: rows equal in these never stand on two sides of a cut split.
    Empty: the required words."""
    either: tuple[tuple[str, ...], ...] = ()
    """Groups of optional words, of which one must be there as a whole: the same thing said in different forms."""
    images: tuple[str, ...] = ()
    """Words whose value says where a picture is, seen from the row's file."""
    present: tuple[str, ...] = ()
    """Optional words that a file must have a column for all the same: a value may be missing, the column may not."""

    replies: bool = True
    """Whether a conversation must hold its last reply; False where that reply is what is asked for."""

    def without(self, words: tuple[str, ...]) -> Columns:
        """The same rows before anyone has answered: these words need not be there, and are not looked for."""
        kept = {
            name: tuple(word for word in getattr(self, name) if word not in words)
            for name in ("required", "optional", "content", "images", "present")
        }
        either = tuple(tuple(word for word in group if word not in words) for group in self.either)
        return Columns(**kept, either=either, replies=False)

    @property
    def identity(self) -> tuple[str, ...]:
        return self.content or self.required


def digest_of(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, ensure_ascii=True, sort_keys=True, default=str).encode()).hexdigest()
