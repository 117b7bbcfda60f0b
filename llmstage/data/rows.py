"""The types of rows that readers, tasks and loaders share."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
"""One raw example under the column names of its task, e.g. `{"text": ..., "label": ...}` or `{"messages": [...]}`."""


class ImageLocation(str):
    """The location of an image. Rows are hashed by `name`, the name in their file, so that a data set in another folder
    is cut into the same splits."""

    name: str = ""

    @classmethod
    def of(cls, location: str, name: str) -> ImageLocation:
        instance = cls(location)
        instance.name = name
        return instance


@dataclass(slots=True, frozen=True)
class Columns:
    """The columns of the rows of a task: required ones, optional ones, and those that identify a row."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    content: tuple[str, ...] = ()
    """Columns that identify the text of a row: rows equal in these get the same split. Empty: the required columns."""
    either: tuple[tuple[str, ...], ...] = ()
    """Groups of optional columns, alternative forms of the same content. At least one group must be complete."""
    images: tuple[str, ...] = ()
    """Columns whose value is the location of an image, relative to the file of the row."""
    present: tuple[str, ...] = ()
    """Optional columns that the file must have all the same: a value may be missing, the column may not."""

    replies: bool = True
    """Whether a conversation must contain its last reply; False where the model generates that reply."""

    def without(self, targets: tuple[str, ...]) -> Columns:
        """Return the columns of unlabeled rows: `targets` are neither required nor read."""
        remaining = {
            name: tuple(column for column in getattr(self, name) if column not in targets)
            for name in ("required", "optional", "content", "images", "present")
        }
        either = tuple(tuple(column for column in group if column not in targets) for group in self.either)
        return Columns(**remaining, either=either, replies=False)

    @property
    def identity(self) -> tuple[str, ...]:
        return self.content or self.required


def digest_of(value: Any) -> str:
    """Return the sha256 of a value as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(value, ensure_ascii=True, sort_keys=True, default=str).encode()).hexdigest()
