"""Find rows that two splits share although they should not: equal texts, equal groups, times that overlap.

Leaks are counted and reported. No row is removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from llmstage.data.row_source import RowSource
from llmstage.data.rows import ImageLocation, Row
from llmstage.data.split_keys import SplitKeys, TimeRange, group_hash, row_hash


@dataclass(slots=True)
class Leaks:
    """The leaks of one run, for the header, the token ledger and the warnings of the report."""

    texts: dict[str, int] = field(default_factory=dict)
    """Rows of a split whose text is in train too, where the cut does not rule it out."""
    groups: dict[str, int] = field(default_factory=dict)
    """Rows of a given split whose data.split.group is in train too."""
    time_ranges: dict[str, tuple[str, str]] = field(default_factory=dict)
    """First and last time of each split, where data.split.time is set."""
    warnings: list[str] = field(default_factory=list)
    """Sentences about the leaks."""


def find_leaks(sources: Mapping[str, RowSource], group: str | None = None, time: str | None = None) -> Leaks:
    """Compare the splits with train. `group`, `time`: the columns that the config names.

    This is one more pass over the splits where there is something to compare.
    """
    leaks = Leaks(overlap(dict(sources)))
    if group:
        leaks.groups = group_overlap(sources)
    if time:
        leaks.time_ranges, leaks.warnings = time_ranges(sources, time)
    leaks.warnings += [
        f"{count} rows of {split} stand in the training split too." for split, count in leaks.texts.items() if count
    ]
    leaks.warnings += [
        f"{count} rows of {split} have a value of data.split.group={group} that stands in the training split too."
        for split, count in leaks.groups.items()
        if count
    ]
    return leaks


def overlap(sources: Mapping[str, RowSource]) -> dict[str, int]:
    """Count the rows of each split whose text is in train too, for splits that were given or cut by time or group."""
    train = sources.get("train")
    columns = train.identity if train is not None else ()

    def key(row: Row, keys: SplitKeys) -> int:
        # An image of the same name in another folder is another image, so the full location is compared.
        located = {name: str(value) if isinstance(value, ImageLocation) else value for name, value in row.items()}
        return row_hash(located, columns, 0)

    return count_shared(sources, lambda source: source.cut_by != "content", key)


def group_overlap(sources: Mapping[str, RowSource]) -> dict[str, int]:
    """Count the rows of each given split whose group is in train too."""

    def key(row: Row, keys: SplitKeys) -> int | None:
        return None if keys.group is None else group_hash(keys.group, 0)

    return count_shared(sources, lambda source: not source.cut_by, key)


def count_shared(
    sources: Mapping[str, RowSource],
    selects: Callable[[RowSource], bool],
    key: Callable[[Row, SplitKeys], int | None],
) -> dict[str, int]:
    """Count the rows of each split that `selects` accepts whose key is in train too; a key of None is never shared.

    Memory is that of the keys of validation and test, whatever the size of train.
    """
    train = sources.get("train")
    selected = {split: source for split, source in sources.items() if split != "train" and selects(source)}
    if train is None or not selected:
        return {}
    values: dict[str, list[int | None]] = {split: [] for split in selected}
    for split, row, keys in iterate_together(selected):
        values[split].append(key(row, keys))
    distinct = {value for split_values in values.values() for value in split_values if value is not None}
    shared = {value for row, _, keys in train.with_keys() if (value := key(row, keys)) in distinct}
    return {split: sum(value in shared for value in split_values) for split, split_values in values.items()}


def iterate_together(sources: Mapping[str, RowSource]) -> Iterator[tuple[str, Row, SplitKeys]]:
    """Yield the rows of several splits, each with its split. One pass serves all splits cut from one source."""
    parts = {split: source for split, source in sources.items() if source.cut_from is not None}
    for split, source in sources.items():
        if split not in parts:
            for row, _, keys in source.with_keys():
                yield split, row, keys
    if not parts:
        return
    base, cut = next(source.cut_from for source in parts.values() if source.cut_from is not None)
    ranges = {split: TimeRange() for split in parts}
    for row, _, keys in base.with_keys():
        side = cut.side(row, base.identity, keys)
        if side in parts:
            ranges[side].add(keys)
            yield side, row, keys
    for split, time_range in ranges.items():
        parts[split].times = time_range.ends


def time_ranges(sources: Mapping[str, RowSource], column: str) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """Return first and last time of each split, and a sentence for each split that begins before train ends."""
    ends: dict[str, tuple[float, float]] = {}
    format_time: Callable[[float], str] = str
    for split, source in sources.items():
        if source.times is None:
            for _ in source.with_keys():  # a full pass records the times
                pass
        if source.times is not None:
            ends[split] = source.times
            format_time = source.format_time
    warnings = [
        f"{split} begins at {format_time(ends[split][0])}, before train ends at {format_time(ends['train'][1])} ({column}): "
        f"what is scored may be older than what was learnt. data.split.by=time cuts by time."
        for split in ("validation", "test")
        if "train" in ends and split in ends and ends[split][0] < ends["train"][1]
    ]
    return {split: (format_time(first), format_time(last)) for split, (first, last) in ends.items()}, warnings
