"""Counts items by topic and time window, and tests a window for a surge when it closes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo

import numpy as np

from llmstage.config.monitor import DAY
from llmstage.inference.monitor.surge import expect, holm_rejections

MONTH = 30 * DAY
LONG_AGO = -(1 << 60)
"""A time before every item."""


@dataclass(slots=True)
class WindowResult:
    """A closed window of one topic."""

    start: int
    """Seconds since 1970."""
    topic: int
    items: int
    negative: int
    expected: float | None = None
    """The negative share that the past predicts; None where the window was not tested."""
    p_value: float | None = None
    above: bool = False
    raises_alert: bool = False
    """The share is above the expected one, and this is the first such window of its surge."""


class WindowCounts:
    """The counts of open windows, and the closed windows with which they are compared.

    `num_topics`: the number of topics; `width`, `late`, `history`, `quiet`: in seconds. Windows begin at midnight of the zone (by
    its offset in winter). The hour of a window is the part of the local day in which it begins.
    """

    def __init__(
        self,
        num_topics: int,
        width: int,
        late: int,
        history: int,
        quiet: int,
        alpha: float,
        min_items: int,
        zone: tzinfo,
    ) -> None:
        self.num_topics, self.width, self.late, self.quiet, self.zone = num_topics, width, late, quiet, zone
        self.min_items, self.level = min_items, alpha * min(1.0, width / MONTH)
        """Family-wise error rate of one window: `alpha` is the rate of a month and is divided evenly among its windows."""
        winter = datetime(2024, 1, 1, tzinfo=UTC).astimezone(zone).utcoffset()
        self.offset = int(winter.total_seconds()) if winter else 0
        self.num_past = max(1, history // width)
        """Closed windows that are remembered."""
        self.newest = float("-inf")
        """The latest time of an item."""
        self.closed_until = LONG_AGO
        """The end of the last closed window; items of earlier windows are too late."""
        self.open: dict[int, np.ndarray] = {}
        """Start of a window to its counts [topics, 2]: items, negative items."""
        self.changed: set[int] = set()
        """Starts of open windows that changed since the last save."""
        # The past is a ring buffer: a window is at index (start / width) modulo num_past.
        self.past = np.zeros((num_topics, 2, self.num_past), dtype=np.int64)
        self.starts = np.full(self.num_past, LONG_AGO, dtype=np.int64)
        self.hours = np.zeros(self.num_past, dtype=np.int64)
        self.last_above = np.full(num_topics, LONG_AGO, dtype=np.int64)
        """The end of each topic's last window that was above."""

    def start_of(self, timestamp: float) -> int:
        """Return the start of the window that contains a time."""
        return int((timestamp + self.offset) // self.width) * self.width - self.offset

    def hour_of(self, start: int) -> int:
        """Return the number of a window within the local day; 0 where windows are days or longer."""
        if self.width >= DAY:
            return 0
        local = datetime.fromtimestamp(start, UTC).astimezone(self.zone)
        return (local.hour * 3600 + local.minute * 60 + local.second) // self.width

    def is_late(self, timestamp: float) -> bool:
        """Return whether the window of an item has been closed."""
        return self.start_of(timestamp) < self.closed_until

    def add(self, timestamp: float, topics: list[int], *, negative: bool) -> None:
        """Count an item in its window, for each of its topics."""
        start = self.start_of(timestamp)
        if start not in self.open:
            self.open[start] = np.zeros((self.num_topics, 2), dtype=np.int64)
        self.open[start][topics, 0] += 1
        if negative:
            self.open[start][topics, 1] += 1
        self.changed.add(start)
        self.newest = max(self.newest, timestamp)

    def close(self, *, end_of_input: bool = False) -> Iterator[WindowResult]:
        """Yield the results of the windows that ended `late` seconds or more before the newest item; of all at the end."""
        until = self.newest - self.late
        for start in sorted(self.open):
            if not end_of_input and start + self.width > until:
                return
            yield from self.test(start, self.open.pop(start))
            self.changed.discard(start)
            self.closed_until = start + self.width

    def test(self, start: int, counts: np.ndarray) -> list[WindowResult]:
        """Test each topic of a closed window, and return the results of topics with items."""
        hour = self.hour_of(start)
        results = [
            WindowResult(start, topic, int(counts[topic, 0]), int(counts[topic, 1])) for topic in range(self.num_topics)
        ]
        # A p-value for each topic with enough items and enough past.
        is_recent = (self.starts >= start - self.num_past * self.width) & (self.starts < start)
        p_values = np.full(self.num_topics, np.nan)
        for result in results:
            if result.items < self.min_items:
                continue
            items, negative = self.past[result.topic]
            used = is_recent & (items > 0)
            expectation = expect(items[used], negative[used], self.hours[used], hour)
            if expectation is not None:
                result.expected = expectation.share
                result.p_value = expectation.p_value(result.items, result.negative)
                p_values[result.topic] = result.p_value
        # Which of them are surges. A topic raises one alert for windows that are less than `quiet` apart.
        for result, is_above in zip(results, holm_rejections(p_values, self.level), strict=True):
            if is_above:
                result.above = True
                result.raises_alert = start - self.last_above[result.topic] > self.quiet
                self.last_above[result.topic] = start + self.width
        self.remember(start, counts, [result.topic for result in results if result.above])
        return [result for result in results if result.items]

    def remember(self, start: int, counts: np.ndarray, topics_above: list[int]) -> None:
        """Add a closed window to the past, without the topics that were above.

        A surge in the past would hide the next one. Where a new level stays, it becomes the past once the old level is older
        than `history`.
        """
        index = (start + self.offset) // self.width % self.num_past
        self.past[:, :, index], self.starts[index], self.hours[index] = counts, start, self.hour_of(start)
        self.past[topics_above, :, index] = 0
