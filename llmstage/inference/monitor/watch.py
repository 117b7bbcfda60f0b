"""The loop of stage=monitor: read, classify, count, test, save, alert. The store has all that a later run needs to continue."""

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
from llmstage.inference.monitor.aggregation import WindowCounts, WindowResult
from llmstage.inference.monitor.alerts import DELIVERED, Delivery, Outcomes
from llmstage.inference.monitor.records import MonitorItem, RecordReader, iso
from llmstage.inference.monitor.store import Store, to_json
from llmstage.report.files import append_line, write_text

ALERTS = "alerts.jsonl"
RATE_SECONDS = 10
"""Seconds between two lines with the number of items."""


class Labeler(Protocol):
    """Labels rows: (whether negative, numbers of the topics), or the reason why a row cannot be read."""

    def label_rows(self, rows: Sequence[Row]) -> list[tuple[bool, list[int]] | str]: ...


class Stop(Protocol):
    name: str | None
    """The signal that ends the run, if one has arrived."""


@dataclass(slots=True)
class Tally:
    """Numbers of a run, its earlier parts included."""

    items: int = 0
    late: int = 0
    bad: int = 0
    quarantined: int = 0
    """Bytes of quarantine.jsonl that belong to `bad`; later bytes belong to a batch that was not saved."""


class MonitorLoop:
    """One run of a monitor. `write_report`: writes report.html while the run continues."""

    def __init__(
        self, cfg: Monitor, out_dir: Path, reader: RecordReader, labeler: Labeler, windows: WindowCounts, store: Store,
        delivery: Delivery, zone: tzinfo, tally: Tally, write_report: Callable[[], None],
    ) -> None:  # fmt: skip
        self.cfg, self.out_dir, self.reader, self.labeler = cfg, out_dir, reader, labeler
        self.windows, self.store, self.delivery = windows, store, delivery
        self.zone, self.tally, self.write_report = zone, tally, write_report
        self.alerts_path = out_dir / ALERTS
        self.last_report = self.last_rate = time.monotonic()
        self.items_at_last_rate, self.undelivered = tally.items, 0

    def restore_alerts(self) -> None:
        """Write alerts.jsonl from the store, and send the alerts that were not delivered."""
        stored = self.store.alerts()
        write_text(self.alerts_path, "".join(f"{line}\n" for _, line, _ in stored))
        for number, line, delivery in stored:
            if delivery is None:
                self.delivery.send(number, line)

    def run(self, stop: Stop) -> None:
        """Run until the input ends. Raises Interrupted after a signal; the same command with the same folder continues."""
        self.restore_alerts()
        while True:
            # Count a batch and save it, with the results of the windows that it closed.
            batch = self.reader.take(self.cfg.batch)
            results = self.count(batch) if batch else []
            if self.reader.ended and not stop.name:
                results += self.windows.close(end_of_input=True)
            if batch or results or self.reader.num_bad > self.tally.bad:
                self.save(results)
            self.save_outcomes(self.delivery.outcomes())
            # End after a signal or at the end of the input.
            if stop.name:
                self.save_outcomes(self.delivery.finish(keep_trying=False))
                raise Interrupted(
                    f"Stopped by {stop.name} after {self.tally.items:,} items; the same command continues with "
                    f"hydra.run.dir={self.out_dir}"
                )
            if self.reader.ended:
                break
            self.report_progress()
            if not batch and not self.reader.tail.lines:
                self.reader.tail.wait()
        self.save_outcomes(self.delivery.finish(keep_trying=True))

    def count(self, batch: list[MonitorItem]) -> list[WindowResult]:
        """Classify a batch, count its items, and return the results of the windows that close."""
        results: list[WindowResult] = []
        labels = self.labeler.label_rows([item.row for item in batch])
        for item, label in zip(batch, labels, strict=True):
            if isinstance(label, str):
                self.reader.report_bad_row(item.line, label, shorten(item.row))
            elif self.windows.is_late(item.time):
                self.tally.late += 1
            else:
                negative, topics = label
                self.tally.items += 1
                self.windows.add(item.time, topics, negative=negative)
                results += self.windows.close()
        return results

    def save(self, results: list[WindowResult]) -> None:
        """Save counts, read position and alerts in one transaction; then write and send the alerts."""
        alerts = [self.alert_of(result) for result in results if result.raises_alert]
        quarantine = self.reader.bad_rows.path
        self.tally.bad = self.reader.num_bad
        self.tally.quarantined = quarantine.stat().st_size if quarantine and quarantine.exists() else 0
        state = {
            "reading": self.reader.state.as_dict(), "newest": self.windows.newest, "closed": self.windows.closed_until,
            "items": self.tally.items, "late": self.tally.late, "bad": self.tally.bad, "quarantined": self.tally.quarantined,
        }  # fmt: skip
        for number, alert in zip(self.store.save(state, self.windows, results, alerts), alerts, strict=True):
            append_line(self.alerts_path, alert)
            console.note(
                f"alert: {alert['topic']} {alert['window']}: {alert['share']:.0%} negative ({alert['negative']} of {alert['items']}), "
                f"expected {alert['expected']:.0%}, p = {alert['p_value']:.2g}"
            )
            self.delivery.send(number, to_json(alert))

    def alert_of(self, result: WindowResult) -> dict[str, Any]:
        end = iso(result.start + self.windows.width, self.zone)
        return {
            "time": end, "topic": self.store.topics[result.topic], "window": f"{iso(result.start, self.zone)}/{end}",
            "share": result.negative / result.items, "expected": result.expected, "p_value": result.p_value,
            "items": result.items, "negative": result.negative,
        }  # fmt: skip

    def save_outcomes(self, outcomes: Outcomes) -> None:
        """Save the outcomes of deliveries, and warn of those that failed."""
        for number, outcome in outcomes:
            self.store.set_delivery(number, outcome)
            for channel, result in outcome.items():
                if result != DELIVERED:
                    self.undelivered += 1
                    console.warn(f"alert {number}: {channel}: {result}; {self.alerts_path} has the alert")

    def report_progress(self) -> None:
        """Print the number of items every few seconds, and write the report every stage.report_every seconds."""
        now = time.monotonic()
        new_items = self.tally.items - self.items_at_last_rate
        if now - self.last_rate > RATE_SECONDS and new_items:
            console.note(f"{self.tally.items:,} items, {new_items / (now - self.last_rate):,.0f} items/s")
            self.last_rate, self.items_at_last_rate = now, self.tally.items
        if now - self.last_report > self.cfg.report_every:
            self.write_report()
            self.last_report = time.monotonic()


def tally_from_state(state: dict[str, Any]) -> Tally:
    """Return the numbers of the earlier parts of a run."""
    return Tally(*(int(state.get(key, 0)) for key in ("items", "late", "bad", "quarantined")))


def cut_quarantine(path: Path | None, size: int) -> None:
    """Remove the bad rows that an earlier part wrote after its last save: this part reads them again."""
    if path and path.exists() and path.stat().st_size > size:
        with path.open("ab") as file:
            file.truncate(size)
