"""Store encoded examples as flat arrays with offsets, in memory or memory-mapped from a folder.

A folder is renamed to its final name after it is complete.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from array import array
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = 5
"""Increased when these files or the encode() of a task change their meaning; part of every cache key."""


@dataclass(slots=True)
class Ledger:
    """Counts of the tokens of a split: input, target, masked, cut."""

    rows: int = 0
    features: int = 0
    tokens: int = 0
    """Input tokens in examples."""
    target_tokens: int = 0
    """Target tokens among them."""
    masked_tokens: int = 0
    """Input tokens that are context only."""
    cut_tokens: int = 0
    """Tokens in no example, because the row is too long."""
    lost_targets: int = 0
    """Target tokens among the cut tokens."""
    lost_ends: int = 0
    """Examples whose target lost its end token."""
    refused: int = 0
    """Rows that could not be encoded and were quarantined."""

    @property
    def lost_target_share(self) -> float:
        all_targets = self.target_tokens + self.lost_targets
        return self.lost_targets / all_targets if all_targets else 0.0

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "lost_target_share": self.lost_target_share}


class ExampleStore:
    """Examples of one split. `arrays[name]` is flat; example i is `arrays[name][offsets[name][i]:offsets[name][i + 1]]`."""

    def __init__(
        self,
        arrays: dict[str, np.ndarray],
        offsets: dict[str, np.ndarray],
        rows: np.ndarray,
        refs: list[Any],
        ledger: Ledger,
    ) -> None:
        # Plain views of memory maps: a slice of an np.memmap runs Python code and is slow.
        self.arrays, self.offsets = (
            {name: np.asarray(values) for name, values in named.items()} for named in (arrays, offsets)
        )
        self.rows, self.refs, self.ledger = np.asarray(rows), refs, ledger
        self.lengths: np.ndarray = np.diff(offsets["input_ids"])

    def __len__(self) -> int:
        return len(self.rows)

    def get(self, index: int) -> tuple[dict[str, list[Any]], Any, int]:
        """Return (arrays, ref, row) of one example."""
        arrays = {
            name: flat[self.offsets[name][index] : self.offsets[name][index + 1]].tolist()
            for name, flat in self.arrays.items()
        }
        return arrays, self.refs[index] if index < len(self.refs) else None, int(self.rows[index])

    @classmethod
    def open(cls, folder: Path) -> ExampleStore:
        """Memory-map a folder; this takes milliseconds whatever its size."""
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        arrays = {
            name: np.memmap(folder / f"{name}.bin", dtype=dtype, mode="r")
            if (folder / f"{name}.bin").stat().st_size
            else np.zeros(0, dtype)
            for name, dtype in meta["arrays"].items()
        }
        offsets = {name: np.load(folder / f"{name}.offsets.npy", mmap_mode="r") for name in meta["arrays"]}
        refs = json.loads((folder / "refs.json").read_text(encoding="utf-8"))
        return cls(arrays, offsets, np.load(folder / "rows.npy", mmap_mode="r"), refs, Ledger(**meta["ledger"]))


class ExampleWriter:
    """Appends examples; `finish` returns the store. With a folder, data is written to disk at once and memory stays constant."""

    def __init__(self, folder: Path | None, id_type: str) -> None:
        self.folder = folder
        self.draft = folder.with_name(f".tmp-{folder.name}-{os.getpid()}") if folder else None
        if self.draft:
            shutil.rmtree(self.draft, ignore_errors=True)
            self.draft.mkdir(parents=True)
        self.id_type = id_type
        self.files: dict[str, Any] = {}
        self.types: dict[str, str] = {}
        """Data type of each array; the first example decides it."""
        # Eight bytes an example: a list of Python integers takes half a gigabyte for ten million examples.
        self.lengths: dict[str, array[int]] = {}
        self.rows: array[int] = array("q")
        self.refs: list[Any] = []
        self.ledger = Ledger()

    def type_of(self, name: str, values: list[Any]) -> str:
        if name not in self.types:
            known = {"input_ids": self.id_type, "target": "uint8"}
            is_float = any(isinstance(value, float) for value in values)
            self.types[name] = known.get(name, "float32" if is_float else "int32")
        return self.types[name]

    def add(self, arrays: dict[str, list[Any]], row: int) -> None:
        for name, values in arrays.items():
            if name not in self.files:
                self.files[name] = open(self.draft / f"{name}.bin", "wb") if self.draft else io.BytesIO()  # noqa: SIM115
                self.lengths[name] = array("q")
            self.files[name].write(np.asarray(values, dtype=self.type_of(name, values)).tobytes())
            self.lengths[name].append(len(values))
        self.rows.append(row)

    def finish(self) -> ExampleStore:
        offsets = {
            name: np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]) for name, lengths in self.lengths.items()
        }
        rows = np.asarray(self.rows, dtype=np.int64)
        if self.draft is None or self.folder is None:
            arrays = {name: np.frombuffer(file.getvalue(), dtype=self.types[name]) for name, file in self.files.items()}
            return ExampleStore(arrays, offsets, rows, self.refs, self.ledger)
        for name, file in self.files.items():
            file.close()
            np.save(self.draft / f"{name}.offsets.npy", offsets[name])
        np.save(self.draft / "rows.npy", rows)
        (self.draft / "refs.json").write_text(json.dumps(self.refs, ensure_ascii=False), encoding="utf-8")
        meta = {
            "format": FORMAT,
            "arrays": self.types,
            "ledger": asdict(self.ledger),
        }
        (self.draft / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
        try:
            self.draft.rename(self.folder)
        except OSError:  # another run published the same content first
            shutil.rmtree(self.draft)
        return ExampleStore.open(self.folder)
