"""The index that is asked now, kept in the cache by its content, and the one that takes its place."""

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

NEEDED = ("bm25s", "snowballstemmer")


@dataclass(slots=True, frozen=True)
class Found:
    """A passage that answers a question, perhaps."""

    id: str
    title: str
    text: str
    score: float
    path: str

    def as_dict(self) -> dict[str, Any]:
        return {"id": self.id, "title": self.title, "text": self.text, "score": self.score, "path": self.path}


class Library:
    """`index`: replaced as a whole, so that a search that has begun ends in the one it began with. `cache`: None keeps the
    index in memory only."""

    def __init__(self, cfg: RetrievalConfig, cache: Path | None, *, offline: bool) -> None:
        for package in NEEDED:
            try:
                importlib.import_module(package)
            except ModuleNotFoundError as error:
                if error.name != package:
                    raise
                raise UserError(f"retrieval needs the package {package}: pip install 'llmstage[retrieval]'") from None
        self.cfg, self.cache = cfg, cache
        self.encoder = Encoder(str(cfg.encoder), offline=offline) if cfg.method != "bm25" else None
        self.renewing = threading.Lock()
        self.index, self.key, built = self.made()
        self.told = (
            f"{len(self.index):,} passages of {cfg.path} ({cfg.method}{', built' if built else ', from the cache'})"
        )

    def search(self, question: str) -> list[Found]:
        """The best passages for a question, best first."""
        index = self.index
        hits = index.search(question, self.cfg.method, self.cfg.top_k, self.encoder)
        fields = ("id", "title", "text", "path")
        return [
            Found(**{name: index.passages[at][name] for name in fields}, score=round(score, 6)) for at, score in hits
        ]

    def renew(self) -> dict[str, Any]:
        """Read the files again and, when the new index is whole, ask that one. Where they cannot be read the old one stays."""
        with self.renewing:
            clock = time.perf_counter()
            index, key, _ = self.made()
            changed, self.index, self.key = key != self.key, index, key
            seconds = round(time.perf_counter() - clock, 3)
            return {"object": "index", "passages": len(index), "changed": changed, "seconds": seconds}

    def made(self) -> tuple[Index, str, bool]:
        """(index of the files as they are now, its key, whether it had to be built)"""
        files = find_files(self.cfg)
        key = self.key_of(files)
        folder = self.cache / "retrieval" / key if self.cache else None
        if folder is not None and folder.exists():
            try:
                return Index.open(folder), key, False
            except (OSError, ValueError, KeyError, TypeError) as error:
                console.warn(f"the index {folder} cannot be used ({error}); it is built anew")
        passages = list(read_passages(files, self.cfg))
        if not passages:
            raise DataError(
                f"retrieval.path={self.cfg.path}: there is no text in its {len(files)} files. Give answers or articles."
            )
        if self.key_of(find_files(self.cfg)) != key:
            raise DataError(
                f"retrieval.path={self.cfg.path} was changed while it was read. Try again when it is whole."
            )
        index = Index.build(passages, self.encoder)
        if folder is not None:
            publish(index, folder)
            index = Index.open(folder)
        return index, key, True

    def key_of(self, files: list[Any]) -> str:
        """Everything that decides what the index holds."""
        try:
            content = [(name, file.digest()) for file, name in files]
        except OSError as error:
            raise DataError(f"retrieval.path={self.cfg.path} cannot be read ({error}).") from None
        encoder = self.encoder.digest if self.encoder else None
        told = [FORMAT, content, self.cfg.encoding, self.cfg.passage_words, encoder]
        return hashlib.sha256(repr(told).encode()).hexdigest()[:32]


def publish(index: Index, folder: Path) -> None:
    """Others see the whole folder or none of it; what cannot be used and stood there gives way."""
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
        if not (folder / "index.json").is_file():  # else another process was first
            raise DiskError(
                f"The index cannot be written to {folder} ({error}). Free space, or data.cache=<folder> or off."
            ) from None
