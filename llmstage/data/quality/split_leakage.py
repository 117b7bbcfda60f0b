"""What stands on two sides although it should not: texts, groups, times. Counted and told, never mended in silence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from llmstage.data.row_source import RowSource
from llmstage.data.rows import Row
from llmstage.data.split_keys import Mark
from llmstage.data.splits import count_shared, group_hash, overlap


@dataclass(slots=True)
class Leaks:
    """Of one run's splits; for the header, the ledger and the warnings of the report."""

    texts: dict[str, int] = field(default_factory=dict)
    """Rows of a split whose text stands in train too, where the cut does not rule it out."""
    groups: dict[str, int] = field(default_factory=dict)
    """Rows of a given split whose data.split.group stands in train too."""
    spans: dict[str, tuple[str, str]] = field(default_factory=dict)
    """First and last time of each split, where data.split.time is set."""
    told: list[str] = field(default_factory=list)
    """Sentences about what was found."""


def find_leaks(sources: Mapping[str, RowSource], group: str | None = None, time: str | None = None) -> Leaks:
    """`group`, `time`: the columns named by the config. One more pass over the splits where there is something to compare."""
    leaks = Leaks(overlap(dict(sources)))
    if group:
        leaks.groups = group_overlap(sources)
    if time:
        leaks.spans, leaks.told = time_spans(sources, time)
    leaks.told += [
        f"{count} rows of {split} stand in the training split too." for split, count in leaks.texts.items() if count
    ]
    leaks.told += [
        f"{count} rows of {split} have a value of data.split.group={group} that stands in the training split too."
        for split, count in leaks.groups.items()
        if count
    ]
    return leaks


def group_overlap(sources: Mapping[str, RowSource]) -> dict[str, int]:
    """For splits that were given, not cut: how many of their rows have a group that stands in train too."""

    def key(row: Row, mark: Mark) -> int | None:
        return None if mark.group is None else group_hash(mark.group, 0)

    return count_shared(sources, lambda source: not source.cut_by, key)


def time_spans(sources: Mapping[str, RowSource], column: str) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """First and last time of each split, and a sentence for each that begins before train has ended."""
    spans: dict[str, tuple[float, float]] = {}
    show: Callable[[float], str] = str
    for split, source in sources.items():
        if source.times is None:
            for _ in source.marked():
                pass
        if source.times is not None:
            spans[split] = source.times
            show = source.show_time
    told = [
        f"{split} begins at {show(spans[split][0])}, before train ends at {show(spans['train'][1])} ({column}): "
        f"what is scored may be older than what was learnt. data.split.by=time cuts by time."
        for split in ("validation", "test")
        if "train" in spans and split in spans and spans[split][0] < spans["train"][1]
    ]
    return {split: (show(first), show(last)) for split, (first, last) in spans.items()}, told
