"""Streams for the tests: items whose text says what a classifier would say, and counts with a daily rhythm."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from llmstage.config.data import DataConfig
from llmstage.config.monitor import Monitor, seconds, zone
from llmstage.data.columns import Columns
from llmstage.data.rows import BadRows
from llmstage.inference.monitor.aggregation import WindowCounts
from llmstage.inference.monitor.alerts import Delivery
from llmstage.inference.monitor.records import InputState, RecordReader
from llmstage.inference.monitor.store import Store
from llmstage.inference.monitor.tail import LineTail
from llmstage.inference.monitor.watch import MonitorLoop, cut_quarantine, tally_from_state

TOPICS = ["oil", "银行", "tech"]
HOUR, DAY = 3600, 86400
BEGIN = datetime(2026, 3, 2, tzinfo=UTC)


class Reads:
    """Stands in for classifiers: a text is `<topic> <bad|good> …`; `unreadable …` cannot be read."""

    def label_rows(self, rows: Sequence[dict[str, Any]]) -> list[Any]:
        out: list[Any] = []
        for row in rows:
            topic, mood, *_ = row["text"].split()
            out.append("text is unreadable" if topic == "unreadable" else (mood == "bad", [TOPICS.index(topic)]))
        return out


class Stop:
    name: str | None = None


def watch(folder: Path, source: str | Path, *, labeler: Any = None, stop: Any = None, on_bad_row: str = "quarantine",
          columns: dict[str, str] | None = None, header: Any = "auto", **keys: Any) -> MonitorLoop:  # fmt: skip
    """One part of a run, as stages/monitor.py wires it, with a stand-in for the models."""
    cfg = Monitor(name="monitor", input=str(source), **{"retries": 0, "poll": 0.01, **keys})
    data = DataConfig(on_bad_row=on_bad_row, columns=columns or {}, header=header)
    folder.mkdir(exist_ok=True)
    store, local = Store(folder / "monitor.db", TOPICS), zone(cfg.timezone)
    assert local
    state = store.state()
    spans = [seconds(getattr(cfg, key)) for key in ("window", "late", "history", "quiet")]
    windows = WindowCounts(len(TOPICS), *spans, cfg.alpha, cfg.min_items, local)
    input_state, tally = (
        InputState.from_dict(state["reading"]) if "reading" in state else InputState(),
        tally_from_state(state),
    )
    bad = BadRows(data.on_bad_row, folder, append=bool(state))
    cut_quarantine(bad.path, tally.quarantined)
    tail = LineTail(cfg.input or "", input_state.position, follow=cfg.follow, poll=cfg.poll, max_bytes=1 << 20)
    reader = RecordReader(tail, input_state, data, Columns(("text", "time")), cfg.time_format, local, bad)
    reader.num_bad = tally.bad
    if state:
        store.load_windows(windows, state["newest"], state["closed"])
    loop = MonitorLoop(
        cfg, folder, reader, labeler or Reads(), windows, store, Delivery(cfg), local, tally, lambda: None
    )
    try:
        loop.run(stop or Stop())
    finally:
        store.close()
    return loop


def alerts(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "alerts.jsonl").read_text(encoding="utf-8").splitlines()]


def counts(seed: int, days: int, *, volume: float = 25, share: float = 0.15, rhythm: float = 0.8, rho: float = 0.02,
           topics: int = len(TOPICS)) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """(items, negative) [hours, topics]: volume and share follow the hour, and windows scatter beyond chance."""
    rng = np.random.default_rng(seed)
    hour = np.arange(days * 24) % 24
    many = volume * (0.15 + 0.85 * np.clip(0.5 + 0.6 * np.sin((hour - 6) / 24 * 2 * np.pi), 0, 1))
    items = rng.poisson(many[:, None], (days * 24, topics))
    p = 1 / (1 + np.exp(-(np.log(share / (1 - share)) + rhythm * np.sin((hour - 3) / 24 * 2 * np.pi))))
    p = np.repeat(p[:, None], topics, axis=1)
    if rho:
        p = rng.beta(p * (1 / rho - 1), (1 - p) * (1 / rho - 1))
    return items, rng.binomial(items, p)


def rows_of(items: np.ndarray, negative: np.ndarray, seed: int = 0) -> list[dict[str, Any]]:
    """The same as rows, in order of time."""
    rng, rows = np.random.default_rng(seed), []
    for hour in range(len(items)):
        said = [
            f"{TOPICS[topic]} {'bad' if number < negative[hour, topic] else 'good'} {hour} {number}"
            for topic in range(items.shape[1])
            for number in range(items[hour, topic])
        ]
        moments = np.sort(rng.uniform(0, HOUR, len(said)))
        for text, moment in zip(rng.permutation(said), moments, strict=True):
            when = BEGIN + timedelta(hours=hour, seconds=float(moment))
            rows.append({"time": when.isoformat(), "text": str(text)})
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def items_in(folder: Path) -> int:
    """Items that a run has counted, read while it writes."""
    try:
        db = sqlite3.connect(f"file:{folder / 'monitor.db'}?mode=ro", uri=True)
        found = db.execute("SELECT value FROM kept WHERE key = 'items'").fetchone()
        db.close()
    except sqlite3.Error:
        return 0
    return int(found[0]) if found else 0
