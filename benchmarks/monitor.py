"""Measure how many items a second the monitor handles without its models: it reads, counts, tests and saves.

python benchmarks/monitor.py [items]      # JSON lines of ten topics, about 200 items an hour; a dummy model answers at once

The script prints items a second for JSON lines and for CSV, with the default batch and with small batches. `report.json` of a real
run has the same figure (`monitor.items_per_second_beside_models`).
"""

from __future__ import annotations

import csv
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats  # noqa: F401 - imported here, so that the rate does not include it

from llmstage.config.data import DataConfig
from llmstage.config.monitor import Monitor, seconds
from llmstage.data.columns import Columns
from llmstage.data.rows import BadRows
from llmstage.inference.monitor.aggregation import WindowCounts
from llmstage.inference.monitor.alerts import Delivery
from llmstage.inference.monitor.records import InputState, RecordReader
from llmstage.inference.monitor.store import Store
from llmstage.inference.monitor.tail import LineTail
from llmstage.inference.monitor.watch import MonitorLoop, Tally

TOPICS = [f"topic {number}" for number in range(10)]
AN_HOUR = 200


class AtOnce:
    """A dummy model: it reads the labels from the text, at no cost."""

    def label_rows(self, rows: Sequence[dict[str, Any]]) -> list[Any]:
        return [(row["text"][0] == "-", [int(row["text"][1])]) for row in rows]


class Stop:
    name = None


def write(folder: Path, count: int) -> tuple[Path, Path]:
    rng, begin = np.random.default_rng(0), datetime(2026, 1, 5, tzinfo=UTC)
    rows = [
        {
            "id": number, "time": (begin + timedelta(seconds=3600 * number / AN_HOUR)).isoformat(),
            "text": f"{'-' if rng.random() < 0.15 else '+'}{rng.integers(10)} the company said on Monday that 公司 results of the quarter were",
        }
        for number in range(count)
    ]  # fmt: skip
    lines, table = folder / "in.jsonl", folder / "in.csv"
    lines.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return lines, table


def rates(source: Path, folder: Path, count: int, batch: int) -> tuple[float, float]:
    """Return items a second of wall time, and of this process's CPU time. Other work on the machine slows only the first."""
    cfg = Monitor(name="monitor", input=str(source), batch=batch)
    spans = [seconds(getattr(cfg, key)) for key in ("window", "late", "history", "quiet")]
    windows = WindowCounts(len(TOPICS), *spans, cfg.alpha, cfg.min_items, UTC)
    folder.mkdir()
    store, reading, bad = Store(folder / "monitor.db", TOPICS), InputState(), BadRows("error", folder)
    feed = LineTail(str(source), reading.position, follow=False, poll=1.0, max_bytes=1 << 20)
    items = RecordReader(feed, reading, DataConfig(), Columns(("text", "time")), None, UTC, bad)
    watch = MonitorLoop(cfg, folder, items, AtOnce(), windows, store, Delivery(cfg), UTC, Tally(), lambda: None)
    clock, cpu_clock = time.perf_counter(), time.process_time()
    watch.run(Stop())
    took, cpu_clock = time.perf_counter() - clock, time.process_time() - cpu_clock
    assert watch.tally.items == count
    store.close()
    return count / took, count / cpu_clock


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines, table = write(folder, count)
        for number, (source, batch) in enumerate(((lines, 256), (lines, 16), (table, 256))):
            wall, cpu_seconds = rates(source, folder / str(number), count, batch)
            label = f"{source.suffix[1:]:6} batches of {batch:>3}"
            print(f"{label}  {wall:8,.0f} items/s  {cpu_seconds:8,.0f} items/s of its own CPU time", flush=True)


if __name__ == "__main__":
    main()
