"""The SQLite file in a monitor's run folder: counts, alerts and the read position of the input.

One transaction changes the counts and the read position, so that a run that is killed at any moment counts each item once.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmstage.errors import DiskError, ModelError
from llmstage.inference.monitor.aggregation import WindowCounts, WindowResult

TABLES = """
CREATE TABLE IF NOT EXISTS kept (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS counts (start INTEGER, topic TEXT, items INTEGER NOT NULL, negative INTEGER NOT NULL,
  expected REAL, p_value REAL, above INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (start, topic)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS alerts (id INTEGER PRIMARY KEY, line TEXT NOT NULL, delivery TEXT);
"""
UPSERT_COUNTS = (
    "INSERT INTO counts VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (start, topic) DO UPDATE SET items = excluded.items, "
    "negative = excluded.negative, expected = excluded.expected, p_value = excluded.p_value, above = excluded.above"
)


@contextmanager
def user_errors(path: Path, action: str = "written") -> Iterator[None]:
    """Turn errors of SQLite into DiskError and ModelError."""
    try:
        yield
    except sqlite3.OperationalError as error:
        remedy = (
            "Free space; the same command then continues."
            if action == "written"
            else "Check that the folder may be read."
        )
        raise DiskError(f"{path} cannot be {action} ({error}). {remedy}") from None
    except sqlite3.DatabaseError as error:
        raise ModelError(
            f"{path} is damaged ({error}). Begin again in another folder: hydra.run.dir=<folder>; alerts.jsonl stays."
        ) from None


class Store:
    """The file `monitor.db`, opened for writing. `topics`: the names of the topics, in the order of the counts."""

    def __init__(self, path: Path, topics: Sequence[str]) -> None:
        self.path, self.topics = path, list(topics)
        with user_errors(path):
            self.db = sqlite3.connect(path, isolation_level=None)
            self.db.execute("PRAGMA journal_mode=WAL")  # a web page may read while the monitor writes
            self.db.execute("PRAGMA synchronous=NORMAL")
            self.db.executescript(TABLES)

    def close(self) -> None:
        self.db.close()

    def state(self) -> dict[str, Any]:
        """Return the saved state of the run: read position, settings, numbers of items."""
        with user_errors(self.path):
            return {key: json.loads(value) for key, value in self.db.execute("SELECT key, value FROM kept")}

    def save(
        self,
        state: dict[str, Any],
        windows: WindowCounts,
        results: Iterable[WindowResult],
        alerts: Iterable[dict[str, Any]],
    ) -> list[int]:
        """Write counts, results, alerts and the state in one transaction, and return the numbers of the alerts."""
        rows: list[tuple[Any, ...]] = [
            (start, self.topics[topic], int(items), int(negative), None, None, 0)
            for start in windows.changed
            for topic, (items, negative) in enumerate(windows.open[start])
            if items
        ]
        rows += [
            (
                result.start,
                self.topics[result.topic],
                result.items,
                result.negative,
                result.expected,
                result.p_value,
                int(result.above),
            )
            for result in results
        ]
        with user_errors(self.path):
            self.db.execute("BEGIN IMMEDIATE")
            try:
                self.db.executemany(UPSERT_COUNTS, rows)
                numbers = [
                    int(self.db.execute("INSERT INTO alerts (line) VALUES (?)", [to_json(alert)]).lastrowid or 0)
                    for alert in alerts
                ]
                self.db.executemany(
                    "INSERT OR REPLACE INTO kept VALUES (?, ?)", [(key, to_json(value)) for key, value in state.items()]
                )
                self.db.execute("COMMIT")
            except BaseException:
                self.db.execute("ROLLBACK")
                raise
        windows.changed.clear()
        return numbers

    def load_windows(self, windows: WindowCounts, newest: float, closed_until: int) -> None:
        """Restore the open windows and the past of an earlier part of the run."""
        windows.newest, windows.closed_until = newest, closed_until
        index = {topic: number for number, topic in enumerate(self.topics)}
        oldest = closed_until - windows.num_past * windows.width
        restored: dict[int, Any] = {}
        with user_errors(self.path):
            query = "SELECT start, topic, items, negative, above FROM counts WHERE start >= ? ORDER BY start"
            for start, topic, items, negative, above in self.db.execute(query, [oldest]):
                counts, topics_above = restored.setdefault(start, (windows.past[:, :, 0] * 0, []))
                counts[index[topic]] = items, negative
                topics_above += [index[topic]] if above else []
            for topic, start in self.db.execute("SELECT topic, MAX(start) FROM counts WHERE above GROUP BY topic"):
                windows.last_above[index[topic]] = start + windows.width
        for start, (counts, topics_above) in restored.items():
            if start < closed_until:
                windows.remember(start, counts, topics_above)
            else:
                windows.open[start] = counts

    def alerts(self) -> list[tuple[int, str, str | None]]:
        """Return (number, alert as JSON, outcome of its delivery as JSON or None) of each alert, in order."""
        with user_errors(self.path):
            return list(self.db.execute("SELECT id, line, delivery FROM alerts ORDER BY id"))

    def set_delivery(self, number: int, outcome: dict[str, str]) -> None:
        """Write the outcome of an alert's delivery."""
        with user_errors(self.path):
            self.db.execute("UPDATE alerts SET delivery = ? WHERE id = ?", [to_json(outcome), number])


def to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


TOTALS = "SELECT topic, SUM(items) AS items, SUM(negative) AS negative, SUM(above) AS above FROM counts GROUP BY topic"


def read_series(path: Path, *, last_seconds: int | None = None) -> dict[str, Any]:
    """Read counts, results and alerts as JSON data. The monitor may write at the same time.

    Returns `{settings, shown, items, late, bad, newest, topics: {topic: [{start, items, negative, expected, p_value, above}]},
    totals: {topic: {items, negative, above}}, alerts: [{…, delivery}]}` with times in seconds since 1970, all from one snapshot.
    A store that is being created has empty settings. `last_seconds`: limit `topics` to windows that begin at most this long
    before the newest window. Raises DiskError, ModelError.
    """
    with user_errors(path, "read"):
        # A URI and not the path: a # or ? in the path would end the file name.
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        try:
            db.row_factory = sqlite3.Row
            db.execute("BEGIN")  # one snapshot for all queries; with WAL it does not block the writer
            if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'alerts'").fetchone() is None:
                return {"settings": {}, "items": 0, "topics": {}, "totals": {}, "alerts": []}
            state = {row["key"]: json.loads(row["value"]) for row in db.execute("SELECT key, value FROM kept")}
            topics: dict[str, list[dict[str, Any]]] = {}
            newest_start = db.execute("SELECT MAX(start) FROM counts").fetchone()[0]
            first = -(1 << 60) if last_seconds is None or newest_start is None else newest_start - last_seconds
            for row in db.execute("SELECT * FROM counts WHERE start >= ? ORDER BY start", [first]):
                window = dict(row)
                topics.setdefault(window.pop("topic"), []).append(window)
            totals = {total.pop("topic"): total for total in map(dict, db.execute(TOTALS))}
            alerts = [
                json.loads(row["line"]) | {"delivery": json.loads(row["delivery"] or "null")}
                for row in db.execute("SELECT * FROM alerts ORDER BY id")
            ]
        finally:
            db.close()
    newest = state.get("newest")
    return {
        "settings": state.get("settings", {}), "shown": state.get("shown", {}), **{key: state.get(key, 0) for key in ("items", "late", "bad")},
        "newest": newest if newest is not None and math.isfinite(newest) else None, "topics": topics, "totals": totals, "alerts": alerts,
    }  # fmt: skip
