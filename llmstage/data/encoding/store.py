"""Encode rows to examples and store them as flat arrays with offsets, in memory or memory-mapped from a folder.

encode_split() encodes a split once, cached by content, with a ledger that counts every token. A folder is renamed to its
final name after it is complete.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmstage.data.row_source import RowSource
from llmstage.data.rows import BadRows, Row, parse_location
from llmstage.errors import DataError

FORMAT = 6
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
    rewritten: int = 0
    """Examples that are turns by themselves, because the chat template writes them differently once more turns follow."""
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
        self.reading: dict[str, Any] = {}
        """What reading the rows had shown when they were encoded (RowSource.reading)."""

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
        store = cls(arrays, offsets, np.load(folder / "rows.npy", mmap_mode="r"), refs, Ledger(**meta["ledger"]))
        store.reading = meta["reading"]
        return store


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

    def finish(self, reading: dict[str, Any] | None = None) -> ExampleStore:
        """Publish the examples. `reading`: what reading the rows has shown, which is stored with them."""
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
            "reading": reading or {},
        }
        (self.draft / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
        try:
            self.draft.rename(self.folder)
        except OSError:  # another run published the same content first
            shutil.rmtree(self.draft)
        return ExampleStore.open(self.folder)


BATCH_CHARACTERS = 4_000_000
"""Characters that are tokenized in one call: enough for all cores, with constant memory."""

Encode = Callable[[list[Row]], list[list[Any]]]


def encode_split(
    source: RowSource,
    encode_many: Encode,
    num_targets: Callable[[Any], int],
    vocab_size: int,
    *,
    refs_of_rows: int | None,
    on_row_error: type[Exception],
    cache: Path | None,
    key: dict[str, Any],
) -> ExampleStore:
    """Encode all rows of `source` to an ExampleStore, or open the cached one.

    `refs_of_rows`: number of rows whose references are stored (None: all); a training split needs few of them.
    `key`: everything except the content of the rows that decides the examples.
    """
    folder = None
    if cache is not None:
        parts = [FORMAT, source.digest(), vocab_size, refs_of_rows, key]
        cache_key = json.dumps(parts, sort_keys=True, ensure_ascii=False)
        name = hashlib.sha256(cache_key.encode()).hexdigest()
        folder = cache / "features" / name[:2] / name
        if (folder / "meta.json").is_file():
            store = ExampleStore.open(folder)
            source.restore_reading(store.reading)
            return store
        folder.parent.mkdir(parents=True, exist_ok=True)
    writer = ExampleWriter(folder, "uint16" if vocab_size <= 2**16 else "uint32")
    ledger, number = writer.ledger, 0
    for batch in encoded(source, encode_many, on_row_error):
        for examples in batch:
            if examples is None:  # the row could not be encoded
                ledger.refused += 1
                continue
            ledger.rows += 1
            for example in examples:
                targets = num_targets(example)
                tokens = len(example.arrays["input_ids"])
                ledger.features += 1
                ledger.tokens += tokens
                ledger.target_tokens += targets
                ledger.masked_tokens += max(0, tokens - targets)
                ledger.cut_tokens += example.cut
                ledger.lost_targets += example.cut_targets
                ledger.lost_ends += int(example.lost_end)
                ledger.rewritten += int(example.rewritten)
                writer.add(example.arrays, number)
                if refs_of_rows is None or number < refs_of_rows:
                    writer.refs.append(plain(example.ref))
            number += 1
    if not ledger.features:
        path = getattr(bad_rows_of(source), "path", None)
        hint = f" See {path} for the reasons." if path and ledger.refused else ""
        raise DataError(f"data.{source.split}: no row of {source.description} could be encoded.{hint}")
    return writer.finish(source.reading())


def plain(ref: Any) -> Any:
    """Return a reference as JSON data. Tasks may leave arrays in it, since most references of training are not stored."""
    if not isinstance(ref, dict):
        return ref
    return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in ref.items()}


def encoded(source: RowSource, encode_many: Encode, on_row_error: type[Exception]) -> Iterator[list[list[Any] | None]]:
    """Yield the examples of each batch of rows while the next batch is read: tokenizing releases the GIL, reading does not.

    With a quarantine, reading and encoding alternate: both write its file.
    """
    bad_rows, before = bad_rows_of(source), 0
    if bad_rows is not None and bad_rows.policy != "error":
        for rows in batches_of(source):
            yield encode_rows(rows, encode_many, on_row_error, source, before)
            before += len(rows)
        return
    with ThreadPoolExecutor(1, "encode") as pool:
        ahead: Future[list[list[Any] | None]] | None = None
        for rows in batches_of(source):
            following = pool.submit(encode_rows, rows, encode_many, on_row_error, source, before)
            before += len(rows)
            if ahead is not None:
                yield ahead.result()
            ahead = following
        if ahead is not None:
            yield ahead.result()


def batches_of(source: RowSource) -> Iterator[list[tuple[Row, str]]]:
    batch: list[tuple[Row, str]] = []
    size = 0
    for row, location in source:
        batch.append((row, location))
        size += sum(len(value) if isinstance(value, str) else 500 for value in row.values())
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def encode_rows(
    rows: list[tuple[Row, str]], encode_many: Encode, on_row_error: type[Exception], source: RowSource, before: int
) -> list[list[Any] | None]:
    """Return the examples of each row. A row that cannot be encoded raises DataError with its location, or is quarantined.

    `before`: number of rows of the split before these.
    """
    try:
        return list(encode_many([row for row, _ in rows]))
    except on_row_error:
        pass  # one of the rows: encode them one by one to find it
    out: list[list[Any] | None] = []
    for number, (row, location) in enumerate(rows, before):
        try:
            out.append(encode_many([row])[0])
        except on_row_error as error:
            bad_rows = bad_rows_of(source)
            if bad_rows is None:
                raise DataError(f"{location}: {error}.") from None
            file, line = parse_location(location)
            # Several splits may be cut from one file, so split and number identify a bad row.
            raw = json.dumps(row, ensure_ascii=False)[:500]
            bad_rows.report(file, f"{source.split} {number}", line, str(error), raw, number)
            out.append(None)
    return out


def bad_rows_of(source: RowSource) -> BadRows | None:
    """Return the BadRows of a split; None where its rows are in memory."""
    bad_rows = getattr(source, "bad_rows", None) or getattr(getattr(source, "base", None), "bad_rows", None)
    return bad_rows if isinstance(bad_rows, BadRows) else None


def check_ledger(split: str, store: ExampleStore, max_lost: float, context: int) -> None:
    """Raise DataError for a split without targets, or one that loses more of them than data.max_lost."""
    ledger = store.ledger
    if ledger.target_tokens == 0:
        raise DataError(
            f"The {split} split has no target token in {ledger.rows} rows: there is nothing to learn or score. "
            f"Check data.columns and, for conversations, that the assistant's turns hold text."
        )
    if ledger.lost_target_share > max_lost:
        raise DataError(
            f"The {split} split would lose {ledger.lost_targets} of {ledger.lost_targets + ledger.target_tokens} target tokens "
            f"({ledger.lost_target_share:.1%}, {ledger.lost_ends} ends of answers), more than data.max_lost={max_lost:g}: answers are "
            f"longer than the context. Raise data.context={context}, or accept it with data.max_lost={min(1.0, ledger.lost_target_share * 1.05):.3f}."
        )
