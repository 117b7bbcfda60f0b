"""Scores of earlier runs: a model's answer to an item does not change, so it is asked once."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from llmstage import console

FORMAT = 3


class Kept:
    """One file for each (model, tokenizer, way of asking) below data.cache; a line for each item."""

    def __init__(self, cache: Path | None) -> None:
        self.cache = cache
        self.path: Path | None = None
        self.known: dict[str, dict[str, Any]] = {}
        self.new = 0
        self.hits = 0

    def open(self, *told: Any) -> None:
        """What the scores depend on beside the item: weights, tokenizer, settings."""
        self.known, self.new = {}, 0
        key = hashlib.sha256(json.dumps([FORMAT, *told]).encode()).hexdigest()
        self.path = self.cache / "scores" / f"{key}.jsonl" if self.cache is not None else None
        if self.path is not None and self.path.is_file():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                entry = json.loads(line)
                self.known[entry["item"]] = entry["scores"]

    def get(self, item: str) -> dict[str, Any] | None:
        found = self.known.get(item)
        self.hits += found is not None
        return found

    def add(self, item: str, scores: dict[str, Any]) -> None:
        self.known[item] = scores
        self.new += 1

    def save(self) -> None:
        """The whole file by rename: a reader sees the old one or the new one. A full disk costs the cache, not the run."""
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
            console.warn(f"scores are not kept for later runs: {error.strerror} ({self.path.parent})")
