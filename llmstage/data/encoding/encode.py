"""Encode rows to stored examples: once, cached by content, with a ledger that counts every token."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from llmstage.data.encoding.store import FORMAT, ExampleStore, ExampleWriter
from llmstage.data.quarantine import BadRows, parse_location
from llmstage.data.row_source import RowSource
from llmstage.data.rows import Row
from llmstage.errors import DataError

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
            return ExampleStore.open(folder)
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
                writer.add(example.arrays, number)
                if refs_of_rows is None or number < refs_of_rows:
                    writer.refs.append(plain(example.ref))
            number += 1
    if not ledger.features:
        path = getattr(bad_rows_of(source), "path", None)
        hint = f" See {path} for the reasons." if path and ledger.refused else ""
        raise DataError(f"data.{source.split}: no row of {source.description} could be encoded.{hint}")
    return writer.finish()


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
