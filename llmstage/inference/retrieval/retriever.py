"""Searches the files of retrieval.path: builds their index, caches it on disk by the content of the files, and reloads it."""

from __future__ import annotations

import hashlib
import importlib
import os
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmstage import console
from llmstage.config.retrieval import RetrievalConfig
from llmstage.errors import DataError, DiskError, UserError
from llmstage.inference.retrieval.encoder import Encoder
from llmstage.inference.retrieval.index import FORMAT, Index
from llmstage.inference.retrieval.passages import find_files, read_passages

REQUIRED_PACKAGES = ("bm25s", "snowballstemmer")


@dataclass(slots=True, frozen=True)
class SearchResult:
    """A passage that a search returned, with its score."""

    id: str
    title: str
    text: str
    score: float
    path: str

    def as_dict(self) -> dict[str, Any]:
        return {"id": self.id, "title": self.title, "text": self.text, "score": self.score, "path": self.path}


class Retriever:
    """Searches one index at a time.

    A reload replaces `index` as a whole, so that a running search ends in the index in which it began. `cache`: None keeps the
    index in memory only.
    """

    def __init__(self, cfg: RetrievalConfig, cache: Path | None, *, offline: bool) -> None:
        for package in REQUIRED_PACKAGES:
            try:
                importlib.import_module(package)
            except ModuleNotFoundError as error:
                if error.name != package:
                    raise
                raise UserError(f"retrieval needs the package {package}: pip install 'llmstage[retrieval]'") from None
        self.cfg, self.cache = cfg, cache
        self.encoder = Encoder(str(cfg.encoder), offline=offline) if cfg.method != "bm25" else None
        self.reload_lock = threading.Lock()
        self.index, self.key, built = self.load_index()
        self.description = (
            f"{len(self.index):,} passages of {cfg.path} ({cfg.method}{', built' if built else ', from the cache'})"
        )

    def search(self, question: str) -> list[SearchResult]:
        """Return the best passages for a question, best first."""
        index = self.index
        hits = index.search(question, self.cfg.method, self.cfg.top_k, self.encoder)
        fields = ("id", "title", "text", "path")
        return [
            SearchResult(**{name: index.passages[number][name] for name in fields}, score=round(score, 6))
            for number, score in hits
        ]

    def reload(self) -> dict[str, Any]:
        """Read the files again and replace the index once the new one is complete. An error leaves the old index in use."""
        with self.reload_lock:
            clock = time.perf_counter()
            index, key, _ = self.load_index()
            changed, self.index, self.key = key != self.key, index, key
            seconds = round(time.perf_counter() - clock, 3)
            return {"object": "index", "passages": len(index), "changed": changed, "seconds": seconds}

    def load_index(self) -> tuple[Index, str, bool]:
        """Return the index of the current files, its key, and whether it had to be built."""
        # Use the cache where it has an index of exactly these files.
        files = find_files(self.cfg)
        key = self.cache_key(files)
        folder = self.cache / "retrieval" / key if self.cache else None
        if folder is not None and folder.exists():
            try:
                return Index.open(folder), key, False
            except (OSError, ValueError, KeyError, TypeError) as error:
                console.warn(f"the index {folder} cannot be used ({error}); it is built again")
        passages = list(read_passages(files, self.cfg))
        if not passages:
            raise DataError(
                f"retrieval.path={self.cfg.path}: there is no text in its {len(files)} files. Give answers or articles."
            )
        # An index under the key of other content would be used by every later run.
        if self.cache_key(find_files(self.cfg)) != key:
            raise DataError(
                f"retrieval.path={self.cfg.path} was changed while it was read. Try again when it is complete."
            )
        index = Index.build(passages, self.encoder)
        if folder is not None:
            publish(index, folder)
            index = Index.open(folder)
        return index, key, True

    def cache_key(self, files: list[Any]) -> str:
        """Return a hash of everything that determines the index."""
        try:
            content = [(name, file.digest()) for file, name in files]
        except OSError as error:
            raise DataError(f"retrieval.path={self.cfg.path} cannot be read ({error}).") from None
        encoder = self.encoder.digest if self.encoder else None
        inputs = [FORMAT, content, self.cfg.encoding, self.cfg.passage_words, encoder]
        return hashlib.sha256(repr(inputs).encode()).hexdigest()[:32]


def publish(index: Index, folder: Path) -> None:
    """Write an index to `folder` by renaming a draft: other processes see the complete folder or none. An old folder is removed."""
    draft = folder.with_name(f".tmp-{folder.name}-{os.getpid()}-{threading.get_ident()}")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        index.save(draft)
        if folder.exists():
            shutil.rmtree(folder)
        draft.rename(folder)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        if not (folder / "index.json").is_file():  # else another process has published the same index
            raise DiskError(
                f"The index cannot be written to {folder} ({error}). Free space, or data.cache=<folder> or off."
            ) from None
