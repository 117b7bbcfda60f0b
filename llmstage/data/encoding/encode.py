"""From rows to stored features: encoded once, cached by content, with a ledger of every token."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from llmstage.data.encoding.store import FORMAT, ExampleStore, FeatureWriter
from llmstage.data.quarantine import BadRows, parse_location
from llmstage.data.row_source import RowSource
from llmstage.data.rows import Row
from llmstage.errors import DataError

BATCH_CHARACTERS = 4_000_000
"""Text tokenised in one call: keeps every core busy and memory flat."""


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
    """All rows of `source` as a ExampleStore.

    `refs_of_rows`: references are kept for the first so many rows (None: all); a training split needs few of them.
    `key`: everything that decides the features beside the rows' content. A cached store is opened, not made anew.
    """
    folder = None
    if cache is not None:
        whole = json.dumps([FORMAT, source.digest(), vocab_size, refs_of_rows, key], sort_keys=True, ensure_ascii=False)
        name = hashlib.sha256(whole.encode()).hexdigest()
        folder = cache / "features" / name[:2] / name
        if (folder / "meta.json").is_file():
            return ExampleStore.open(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
    writer = FeatureWriter(folder, "uint16" if vocab_size <= 2**16 else "uint32")
    ledger, number = writer.ledger, 0
    for batch in encoded(source, encode_many, on_row_error):
        for made in batch:
            if made is None:
                ledger.refused += 1
                continue
            ledger.rows += 1
            for features in made:
                targets = num_targets(features)
                tokens = len(features.arrays["input_ids"])
                ledger.features += 1
                ledger.tokens += tokens
                ledger.target_tokens += targets
                ledger.masked_tokens += max(0, tokens - targets)
                ledger.cut_tokens += features.cut
                ledger.lost_targets += features.cut_targets
                ledger.lost_ends += int(features.lost_end)
                writer.add(features.arrays, number)
                if refs_of_rows is None or number < refs_of_rows:
                    writer.refs.append(plain(features.ref))
            number += 1
    if not ledger.features:
        path = getattr(bad_rows_of(source), "path", None)
        told = f" See {path} for the reasons." if path and ledger.refused else ""
        raise DataError(f"data.{source.split}: no row of {source.description} could be encoded.{told}")
    return writer.finish()


def plain(ref: Any) -> Any:
    """As JSON has it: a task may leave ids as the tokenizer's arrays, and most refs of a training split are never kept."""
    if not isinstance(ref, dict):
        return ref
    return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in ref.items()}


def encoded(source: RowSource, encode_many: Encode, on_row_error: type[Exception]) -> Iterator[list[list[Any] | None]]:
    """Features of each batch of rows, while the next one is read: reading holds Python's lock, tokenising mostly does not.
    Where bad rows are noted rather than refused, one after the other, as their file is written by both."""
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
    for row, place in source:
        batch.append((row, place))
        size += sum(len(value) if isinstance(value, str) else 500 for value in row.values())
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def encode_rows(
    rows: list[tuple[Row, str]], encode_many: Encode, on_row_error: type[Exception], source: RowSource, before: int
) -> list[list[Any] | None]:
    """Features of each row; a row that cannot be encoded is named with its place, or quarantined. `before`: rows of the
    split that came before these."""
    try:
        return list(encode_many([row for row, _ in rows]))
    except on_row_error:
        pass  # one of them: find it
    out: list[list[Any] | None] = []
    for number, (row, place) in enumerate(rows, before):
        try:
            out.append(encode_many([row])[0])
        except on_row_error as error:
            bad_rows = bad_rows_of(source)
            if bad_rows is None:
                raise DataError(f"{place}: {error}.") from None
            shown, line = parse_location(place)
            # Several splits may be cut from one file: what tells two bad rows apart is the split and the place in it.
            told = json.dumps(row, ensure_ascii=False)[:500]
            bad_rows.report(shown, f"{source.split} {number}", line, str(error), told, number)
            out.append(None)
    return out


def bad_rows_of(source: RowSource) -> BadRows | None:
    """What is done with bad rows of a split; None where its rows are in memory."""
    found = getattr(source, "bad_rows", None) or getattr(getattr(source, "base", None), "bad_rows", None)
    return found if isinstance(found, BadRows) else None


def check_ledger(split: str, store: ExampleStore, max_lost: float, context: int) -> None:
    """No split without targets, and none that loses more of them than it may."""
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
