"""Cache of item scores: the same model gives the same answer to an item, so later runs read it from a file."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from llmstage import console

FORMAT = 3


class ScoreCache:
    """One JSON lines file below data.cache for each (model, tokenizer, scoring options); one line for each item."""

    def __init__(self, cache: Path | None) -> None:
        self.cache = cache
        self.path: Path | None = None
        self.known: dict[str, dict[str, Any]] = {}
        self.new = 0
        self.hits = 0

    def open(self, *dependencies: Any) -> None:
        """Load the file for these `dependencies`: whatever the scores depend on apart from the item."""
        self.known, self.new = {}, 0
        key = hashlib.sha256(json.dumps([FORMAT, *dependencies]).encode()).hexdigest()
        self.path = self.cache / "scores" / f"{key}.jsonl" if self.cache is not None else None
        if self.path is not None and self.path.is_file():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                entry = json.loads(line)
                self.known[entry["item"]] = entry["scores"]

    def get(self, item: str) -> dict[str, Any] | None:
        """Return the scores of an item digest, or None."""
        scores = self.known.get(item)
        self.hits += scores is not None
        return scores

    def add(self, item: str, scores: dict[str, Any]) -> None:
        """Add the scores of an item digest."""
        self.known[item] = scores
        self.new += 1

    def save(self) -> None:
        """Write the whole file under a temporary name, then rename it. A full disk gives a warning and no error."""
        if self.path is None or not self.new:
            return
        draft = self.path.with_name(f".tmp-{os.getpid()}-{self.path.name}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("w", encoding="utf-8") as file:
                for item, scores in self.known.items():
                    file.write(json.dumps({"item": item, "scores": scores}, ensure_ascii=False) + "\n")
            draft.replace(self.path)
        except OSError as error:
            console.warn(f"later runs cannot reuse these scores: {error.strerror} ({self.path.parent})")
