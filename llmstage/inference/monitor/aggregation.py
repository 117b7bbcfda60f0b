"""Counts by topic and window: those that are open, the past that they are judged by, and the verdict when one is closed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo

import numpy as np

from llmstage.config.monitor import DAY
from llmstage.inference.monitor.surge import above, expect

MONTH = 30 * DAY


@dataclass(slots=True)
class Judged:
    """A closed window of one topic."""

    start: int
    """Seconds since 1970."""
    topic: int
    items: int
    negative: int
    expected: float | None = None
    """The share that its past leads one to expect; None where it was not judged."""
    p_value: float | None = None
    above: bool = False
    fresh: bool = False
    """Above, and the first such window of its surge: an alert."""


class Windows:
    """`topics`: how many. `width`, `late`, `history`, `quiet` in seconds. Windows begin at the zone's midnight (by the offset
    that it has in winter), and the hour of a window is the part of the local day in which it begins."""

    def __init__(
        self, topics: int, width: int, late: int, history: int, quiet: int, alpha: float, min_items: int, zone: tzinfo
    ) -> None:
        self.topics, self.width, self.late, self.quiet, self.zone = topics, width, late, quiet, zone
        self.min_items, self.level = min_items, alpha * min(1.0, width / MONTH)
        """Family-wise level of one window: what `alpha` allows in a month, spent evenly."""
        winter = datetime(2024, 1, 1, tzinfo=UTC).astimezone(zone).utcoffset()
        self.offset = int(winter.total_seconds()) if winter else 0
        self.span = max(1, history // width)
        self.newest = float("-inf")
        """The latest time of an item."""
        self.closed = -(1 << 60)
        """The end of the last window that was closed; what belongs to windows before it comes too late."""
        self.open: dict[int, np.ndarray] = {}
        """Start of a window to its counts [topics, 2]: items, negative ones."""
        self.touched: set[int] = set()
        """Open windows that changed since they were saved."""
        self.past = np.zeros((topics, 2, self.span), dtype=np.int64)
        self.starts = np.full(self.span, -(1 << 60), dtype=np.int64)
        self.hours = np.zeros(self.span, dtype=np.int64)
        self.last_above = np.full(topics, -(1 << 60), dtype=np.int64)
        """The end of each topic's last window that was above."""

    def start_of(self, moment: float) -> int:
        return int((moment + self.offset) // self.width) * self.width - self.offset

    def hour_of(self, start: int) -> int:
        if self.width >= DAY:
            return 0
        local = datetime.fromtimestamp(start, UTC).astimezone(self.zone)
        return (local.hour * 3600 + local.minute * 60 + local.second) // self.width

    def is_late(self, moment: float) -> bool:
        return self.start_of(moment) < self.closed

    def add(self, moment: float, topics: list[int], *, negative: bool) -> None:
        start = self.start_of(moment)
        if start not in self.open:
            self.open[start] = np.zeros((self.topics, 2), dtype=np.int64)
        self.open[start][topics, 0] += 1
        if negative:
            self.open[start][topics, 1] += 1
        self.touched.add(start)
        self.newest = max(self.newest, moment)

    def close(self, *, all_of_them: bool = False) -> Iterator[Judged]:
        """The verdicts on every window that has ended `late` before the newest item; on all at the end of the input."""
        until = self.newest - self.late
        for start in sorted(self.open):
            if not all_of_them and start + self.width > until:
                return
            yield from self.judge(start, self.open.pop(start))
            self.touched.discard(start)
            self.closed = start + self.width

    def judge(self, start: int, counts: np.ndarray) -> list[Judged]:
        hour = self.hour_of(start)
        found = [Judged(start, topic, int(counts[topic, 0]), int(counts[topic, 1])) for topic in range(self.topics)]
        recent = (self.starts >= start - self.span * self.width) & (self.starts < start)
        p_values = np.full(self.topics, np.nan)
        for one in found:
            if one.items < self.min_items:
                continue
            items, negative = self.past[one.topic]
            used = recent & (items > 0)
            past = expect(items[used], negative[used], self.hours[used], hour)
            if past is not None:
                one.expected, one.p_value = past.share, past.p_value(one.items, one.negative)
                p_values[one.topic] = one.p_value
        for one, is_above in zip(found, above(p_values, self.level), strict=True):
            if is_above:
                one.above, one.fresh = True, start - self.last_above[one.topic] > self.quiet
                self.last_above[one.topic] = start + self.width
        self.remember(start, counts, [one.topic for one in found if one.above])
        return [one for one in found if one.items]

    def remember(self, start: int, counts: np.ndarray, above: list[int]) -> None:
        """A window becomes part of the past, but for the topics that were above: a surge is not what the next one should be
        compared with, and would hide it. (A level that stays becomes the past once the old one is older than `history`.)"""
        place = (start + self.offset) // self.width % self.span
        self.past[:, :, place], self.starts[place], self.hours[place] = counts, start, self.hour_of(start)
        self.past[above, :, place] = 0
