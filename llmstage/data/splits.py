"""Open the splits of a config, and cut validation and test from train where they are missing.

A cut is made by a hash of the content of a row, by its group, or by its time. It needs one pass over train, in bounded
memory; its thresholds are cached under a digest of the data.
"""

from __future__ import annotations

import json
import math
import os
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmstage.config.data import DataConfig
from llmstage.data.columns import check_named
from llmstage.data.file_source import CheckedSource, CheckRow, FileSource
from llmstage.data.files import expand
from llmstage.data.formats import find_images, known_endings, load_reader
from llmstage.data.hf_datasets import open_saved_table, open_tables
from llmstage.data.row_source import PartSource, RowSource, Sides
from llmstage.data.row_times import Clock, check_time_format
from llmstage.data.rows import BadRows, Columns, Row, digest_of
from llmstage.data.split_keys import NO_KEYS, Cut, RankedCut, SplitKeys, rank_of, row_hash
from llmstage.data.text_lines import check_encoding
from llmstage.errors import DataError, UserError
from llmstage.paths import cache_dir

NUM_HASHES = 1 << 64
MAX_HASHES = 4096
"""All hashes of up to this many distinct texts are kept in memory, so that no side of the cut is empty."""


def open_splits(
    cfg: DataConfig, columns: Columns, check_row: CheckRow, out_dir: Path | None, *, trusted: bool = True,
    bad_rows: BadRows | None = None,
) -> dict[str, RowSource]:  # fmt: skip
    """Return the splits of `cfg` in the order train, validation, test; cut the missing ones from train.

    `check_row`: the task's own check; it returns None or the reason. `out_dir`: the folder of quarantine.jsonl.
    `trusted=False`: the config came from a file, so a dotted `data.format` is refused. `bad_rows`: shared with other
    tables of the run. Raise DataError for anything that gives no rows.
    """
    # Check the options before any file is opened.
    check_named(cfg.columns, columns)
    check_encoding(cfg.encoding)
    check_time_format(cfg.split.time_format)
    if cfg.format != "auto":
        load_reader(cfg.format, trusted=trusted)

    given = open_given(cfg, columns, check_row, bad_rows or BadRows(cfg.on_bad_row, out_dir), trusted=trusted)
    sources = cut_missing(given, cfg) if "train" in given else dict(given)
    for source in given.values():
        if source.num_rows is None:
            next(iter(source))  # the first row, or the DataError that says why there is none

    if cfg.limit is not None:
        for split, source in sources.items():
            if isinstance(source, PartSource):
                source.limit = cfg.limit
            else:
                sources[split] = PartSource(source, split, None, cfg.limit, None)
    return sources


def open_given(
    cfg: DataConfig, columns: Columns, check_row: CheckRow, bad_rows: BadRows, *, trusted: bool
) -> dict[str, RowSource]:
    """Return the splits that the config names: those of `data.path`, then those of files."""
    given: dict[str, RowSource] = {}
    if cfg.path:
        given.update(open_tables(cfg, columns, check_row, bad_rows))
    endings = known_endings(cfg.format if "." not in cfg.format else "auto", with_images=bool(columns.images))
    if cfg.format == "auto":
        find = find_images if columns.images else None
    else:
        find = getattr(load_reader(cfg.format, trusted=trusted), "find", None)
    for split, paths in cfg.sources().items():
        table = open_saved_table(split, paths, cfg, columns, check_row, bad_rows)
        if table is not None:
            given[split] = table
            continue
        files = expand(paths, f"data.{split}", endings, find)
        given[split] = FileSource(split, files, cfg, columns, check_row, bad_rows, trusted=trusted)
    # One clock for all splits notices numbers in one file and dates in another.
    clock = Clock(cfg.split.time_format)
    for source in given.values():
        if isinstance(source, CheckedSource):
            source.key_reader.clock = clock
    return {split: given[split] for split in ("train", "validation", "test") if split in given}


def cut_missing(given: dict[str, RowSource], cfg: DataConfig) -> dict[str, RowSource]:
    """Return `given` with validation and test cut from train where they are missing and their share is not 0."""
    shares = {split: 0.0 if split in given else getattr(cfg.split, split) for split in ("validation", "test")}
    if not any(shares.values()):
        return dict(given)
    train = given["train"]
    by = "time" if cfg.split.by == "time" else "group" if cfg.split.group else "content"
    rule = [shares, cfg.split.max_rows, cfg.split.seed, list(train.identity), by]
    cut = find_cut(train, shares, rule, cfg, by)
    sides = Sides()  # shared, so that one pass over the file serves all splits
    parts = {
        split: PartSource(train, split, cut, None, rule, sides)
        for split in ("train", *(s for s in shares if shares[s]))
    }
    merged: dict[str, RowSource] = {**given, **parts}
    return {split: merged[split] for split in ("train", "validation", "test") if split in merged}


def find_cut(train: RowSource, shares: dict[str, float], rule: list[Any], cfg: DataConfig, by: str) -> Cut | RankedCut:
    """Return the thresholds of a cut, from the cache or from one pass over train."""
    # A quarantined row must be noted in the folder of each run, so the file is read again.
    cache = cache_dir(cfg.cache) if cfg.on_bad_row == "error" else None
    cached = cache / "cuts" / f"{digest_of([train.digest(), rule])}.json" if cache else None
    if cached and cached.is_file():
        entry = json.loads(cached.read_text(encoding="utf-8"))
        train.num_rows = entry["rows"]
        ends = entry["low"], entry["high"], cfg.split.seed
        return Cut(*ends) if by == "content" else RankedCut(*ends, by)
    seed = cfg.split.seed
    census = Census(seed) if by == "content" else Ranking(by, str(getattr(cfg.split, by)), seed)
    for row, _, keys in train.with_keys():
        census.add(row, train.identity, keys)
    cut = census.cut(shares["validation"], shares["test"], cfg.split.max_rows, "data.train")
    if cached:
        cached.parent.mkdir(parents=True, exist_ok=True)
        draft = cached.with_name(f".tmp-{os.getpid()}-{cached.name}")
        draft.write_text(json.dumps({"low": cut.low, "high": cut.high, "rows": census.num_rows}), encoding="utf-8")
        draft.replace(cached)
    return cut


class Census:
    """Counts rows and collects their content hashes in one pass, in bounded memory."""

    def __init__(self, seed: int) -> None:
        self.seed, self.num_rows, self.smallest, self.largest = seed, 0, NUM_HASHES, -1
        self.hashes: set[int] | None = set()

    def add(self, row: Row, columns: Sequence[str], keys: SplitKeys = NO_KEYS) -> None:
        value = row_hash(row, columns, self.seed)
        self.num_rows += 1
        self.smallest, self.largest = min(value, self.smallest), max(value, self.largest)
        if self.hashes is not None:
            self.hashes.add(value)
            if len(self.hashes) > MAX_HASHES:
                self.hashes = None

    def cut(self, validation: float, test: float, max_rows: int, file: str) -> Cut:
        """Return the thresholds for these shares. Train and each side with a share above 0 get at least one text.

        Raise DataError for fewer than three distinct texts, UserError where the shares leave nothing to train.
        """
        check_shares(validation, test)
        cap = max_rows / max(self.num_rows, 1)
        low, high = int(min(validation, cap) * NUM_HASHES), NUM_HASHES - int(min(test, cap) * NUM_HASHES)
        if self.hashes is not None and len(self.hashes) < 3 and (validation or test):
            raise DataError(
                f"{file}: too few distinct texts to cut validation and test from: {len(self.hashes)} in "
                f"{self.num_rows} rows, and 3 are needed. Give more rows (of a text file, data.text_rows=line makes "
                f"each line a row), or cut nothing: data.split.validation=0 data.split.test=0."
            )
        # A small share of few rows may select none: move the threshold beyond the nearest hash.
        if validation and self.smallest >= low:
            low = self.smallest + 1
        if test and self.largest < high:
            high = self.largest
        if self.hashes is not None and (validation or test):
            low, high = keep_train(sorted(self.hashes), low, high)
        return Cut(low, high, self.seed)


def keep_train(hashes: list[int], low: int, high: int) -> tuple[int, int]:
    """Move the thresholds so that train gets at least one of three or more distinct hashes."""
    num_low, first_high = bisect_left(hashes, low), bisect_left(hashes, high)
    if num_low < first_high:
        return low, high
    if num_low > 1:  # validation gives its largest
        return hashes[num_low - 1], max(high, hashes[num_low - 1] + 1)
    return low, hashes[first_high] + 1  # test gives its smallest


class Ranking:
    """Collects the time or the hashed group of each row in one pass, 8 bytes a row."""

    def __init__(self, by: str, column: str, seed: int) -> None:
        self.by, self.column, self.seed = by, column, seed
        self.values = array("d")

    @property
    def num_rows(self) -> int:
        return len(self.values)

    def add(self, row: Row, columns: Sequence[str], keys: SplitKeys = NO_KEYS) -> None:
        self.values.append(rank_of(keys, self.by, self.seed))

    def cut(self, validation: float, test: float, max_rows: int, file: str) -> RankedCut:
        """Return thresholds between two distinct values, where the sizes of the sides come nearest to the shares.

        Train and each side with a share get at least one distinct value. Raise DataError where there are too few.
        """
        check_shares(validation, test)
        values, counts = np.unique(np.frombuffer(self.values, dtype=np.float64), return_counts=True)
        sides = 1 + (validation > 0) + (test > 0)
        if len(values) < sides:
            raise DataError(
                f"{file}: data.split.{self.by}={self.column} has too few distinct values to cut by: {len(values)} in "
                f"{self.num_rows} rows, and {sides} are needed, as rows of one {self.by} stay together. Name another "
                f"column, give more rows, or cut less: data.split.validation=0, data.split.test=0."
            )
        before = np.concatenate([[0], np.cumsum(counts)])  # rows below each distinct value, and all of them
        high = low = len(values)
        if test:
            high = low = nearest(before, self.num_rows - min(test * self.num_rows, max_rows), sides - 1, high - 1)
        if validation:
            low = nearest(before, before[high] - min(validation * self.num_rows, max_rows), 1, high - 1)
        edges = [*values.tolist(), math.inf]
        return RankedCut(edges[low], edges[high], self.seed, self.by)


def nearest(before: np.ndarray[Any, Any], target: float, first: int, last: int) -> int:
    """Return the index from `first` to `last` where `before` is nearest to `target`; of two, the one with more train rows."""
    distances = np.abs(before[first : last + 1] - target)
    return last - int(np.argmin(distances[::-1]))


def check_shares(validation: float, test: float) -> None:
    if validation + test >= 1:
        raise UserError(
            f"data.split.validation={validation:g} and data.split.test={test:g} leave no train rows. Lower one."
        )
