"""The loop of a monitor: read, classify, count, judge, save, warn. Everything it needs to go on is in its store."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from pathlib import Path
from typing import Any, Protocol

from llmstage import console
from llmstage.config.monitor import Monitor
from llmstage.data.row_checks import shorten
from llmstage.data.rows import Row
from llmstage.errors import Interrupted
from llmstage.inference.monitor.aggregation import Judged, Windows
from llmstage.inference.monitor.alerts import DELIVERED, Delivery
from llmstage.inference.monitor.records import Item, Items, iso
from llmstage.inference.monitor.store import Store, encoded
from llmstage.report.files import append_line, write_text

ALERTS = "alerts.jsonl"


class Says(Protocol):
    """What labels items: (whether negative, numbers of topics), or why an item cannot be read."""

    def say(self, rows: Sequence[Row]) -> list[tuple[bool, list[int]] | str]: ...


class Stop(Protocol):
    name: str | None


@dataclass(slots=True)
class Tally:
    """Numbers of a whole run, its earlier parts included."""

    items: int = 0
    late: int = 0
    bad: int = 0
    quarantined: int = 0
    """Bytes of quarantine.jsonl that belong to `bad`; what stands behind them is of a batch that was never counted."""


class Watch:
    """One run. `draw` makes the report anew."""

    def __init__(
        self, cfg: Monitor, out_dir: Path, items: Items, says: Says, windows: Windows, store: Store, delivery: Delivery,
        zone: tzinfo, tally: Tally, draw: Callable[[], None],
    ) -> None:  # fmt: skip
        self.cfg, self.out_dir, self.items, self.says, self.windows, self.store = (
            cfg,
            out_dir,
            items,
            says,
            windows,
            store,
        )
        self.delivery, self.zone, self.tally, self.draw = delivery, zone, tally, draw
        self.path = out_dir / ALERTS
        self.drawn = self.noted = time.monotonic()
        self.began, self.undelivered = tally.items, 0

    def begin(self) -> None:
        """alerts.jsonl as the store has it, and what was not delivered yet on its way again."""
        known = self.store.alerts()
        write_text(self.path, "".join(f"{line}\n" for _, line, _ in known))
        for number, line, delivery in known:
            if delivery is None:
                self.delivery.send(number, line)

    def run(self, stop: Stop) -> None:
        """Until the input ends. Raises Interrupted after a signal; the same command with the same folder goes on."""
        self.begin()
        while True:
            batch = self.items.take(self.cfg.batch)
            judged = self.count(batch) if batch else []
            if self.items.ended and not stop.name:
                judged += self.windows.close(all_of_them=True)
            if batch or judged or self.items.num_bad > self.tally.bad:
                self.save(judged)
            self.settle(self.delivery.outcomes())
            if stop.name:
                self.settle(self.delivery.finish(patient=False))
                raise Interrupted(
                    f"Stopped by {stop.name} after {self.tally.items:,} items; the same command goes on with "
                    f"hydra.run.dir={self.out_dir}"
                )
            if self.items.ended:
                break
            self.tell()
            if not batch and not self.items.feed.lines:
                self.items.feed.wait()
        self.settle(self.delivery.finish(patient=True))

    def count(self, batch: list[Item]) -> list[Judged]:
        judged: list[Judged] = []
        for item, said in zip(batch, self.says.say([item.row for item in batch]), strict=True):
            if isinstance(said, str):
                self.items.refuse(item.line, said, shorten(item.row))
            elif self.windows.is_late(item.time):
                self.tally.late += 1
            else:
                self.tally.items += 1
                self.windows.add(item.time, said[1], negative=said[0])
                judged += self.windows.close()
        return judged

    def save(self, judged: list[Judged]) -> None:
        lines = [self.line_of(one) for one in judged if one.fresh]
        quarantine = self.items.bad_rows.path
        self.tally.bad = self.items.num_bad
        self.tally.quarantined = quarantine.stat().st_size if quarantine and quarantine.exists() else 0
        kept = {
            "reading": self.items.reading.as_dict(), "newest": self.windows.newest, "closed": self.windows.closed,
            "items": self.tally.items, "late": self.tally.late, "bad": self.tally.bad, "quarantined": self.tally.quarantined,
        }  # fmt: skip
        for number, line in zip(self.store.save(kept, self.windows, judged, lines), lines, strict=True):
            append_line(self.path, line)
            console.note(
                f"alert: {line['topic']} {line['window']}: {line['share']:.0%} negative ({line['negative']} of {line['items']}), "
                f"expected {line['expected']:.0%}, p = {line['p_value']:.2g}"
            )
            self.delivery.send(number, encoded(line))

    def line_of(self, one: Judged) -> dict[str, Any]:
        end = iso(one.start + self.windows.width, self.zone)
        return {
            "time": end, "topic": self.store.topics[one.topic], "window": f"{iso(one.start, self.zone)}/{end}",
            "share": one.negative / one.items, "expected": one.expected, "p_value": one.p_value, "items": one.items,
            "negative": one.negative,
        }  # fmt: skip

    def settle(self, outcomes: list[tuple[int, dict[str, str]]]) -> None:
        for number, outcome in outcomes:
            self.store.delivered(number, outcome)
            for way, said in outcome.items():
                if said != DELIVERED:
                    self.undelivered += 1
                    console.warn(f"alert {number}: {way}: {said}; it stands in {self.path}")

    def tell(self) -> None:
        """A line now and then, and the report."""
        now = time.monotonic()
        if now - self.noted > 10 and self.tally.items > self.began:
            console.note(
                f"{self.tally.items:,} items, {(self.tally.items - self.began) / (now - self.noted):,.0f} items/s"
            )
            self.noted, self.began = now, self.tally.items
        if now - self.drawn > self.cfg.report_every:
            self.draw()
            self.drawn = time.monotonic()


def tally_of(kept: dict[str, Any]) -> Tally:
    return Tally(*(int(kept.get(key, 0)) for key in ("items", "late", "bad", "quarantined")))


def cut_quarantine(path: Path | None, size: int) -> None:
    """Bad rows behind the place where an earlier run was killed are met again."""
    if path and path.exists() and path.stat().st_size > size:
        with path.open("ab") as file:
            file.truncate(size)
