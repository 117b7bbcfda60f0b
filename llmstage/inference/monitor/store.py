"""What a monitor keeps: one SQLite file in its run folder. Counts and the place in the input change in one transaction, so
that a run that is killed anywhere counts each item once."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmstage.errors import DiskError, ModelError
from llmstage.inference.monitor.aggregation import Judged, Windows

TABLES = """
CREATE TABLE IF NOT EXISTS kept (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS counts (start INTEGER, topic TEXT, items INTEGER NOT NULL, negative INTEGER NOT NULL,
  expected REAL, p_value REAL, above INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (start, topic)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS alerts (id INTEGER PRIMARY KEY, line TEXT NOT NULL, delivery TEXT);
"""
WRITE = (
    "INSERT INTO counts VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (start, topic) DO UPDATE SET items = excluded.items, "
    "negative = excluded.negative, expected = excluded.expected, p_value = excluded.p_value, above = excluded.above"
)


@contextmanager
def told(path: Path, what: str = "written") -> Iterator[None]:
    """Errors of the database in a user's words."""
    try:
        yield
    except sqlite3.OperationalError as error:
        mend = "Free space; the same command goes on." if what == "written" else "Check that the folder may be read."
        raise DiskError(f"{path} cannot be {what} ({error}). {mend}") from None
    except sqlite3.DatabaseError as error:
        raise ModelError(
            f"{path} is damaged ({error}). Begin anew in another folder: hydra.run.dir=<folder>; alerts.jsonl stays."
        ) from None


class Store:
    """The file `monitor.db`."""

    def __init__(self, path: Path, topics: Sequence[str]) -> None:
        self.path, self.topics = path, list(topics)
        with told(path):
            self.db = sqlite3.connect(path, isolation_level=None)
            self.db.execute("PRAGMA journal_mode=WAL")  # a page may read while the monitor writes
            self.db.execute("PRAGMA synchronous=NORMAL")
            self.db.executescript(TABLES)

    def close(self) -> None:
        self.db.close()

    def kept(self) -> dict[str, Any]:
        with told(self.path):
            return {key: json.loads(value) for key, value in self.db.execute("SELECT key, value FROM kept")}

    def save(
        self, kept: dict[str, Any], windows: Windows, judged: Iterable[Judged], alerts: Iterable[dict[str, Any]]
    ) -> list[int]:
        """One transaction: counts, verdicts, alerts and everything that says how far the input was read. The numbers of the
        alerts."""
        rows: list[tuple[Any, ...]] = [
            (start, self.topics[topic], int(items), int(negative), None, None, 0)
            for start in windows.touched
            for topic, (items, negative) in enumerate(windows.open[start])
            if items
        ]
        rows += [
            (one.start, self.topics[one.topic], one.items, one.negative, one.expected, one.p_value, int(one.above))
            for one in judged
        ]
        with told(self.path):
            self.db.execute("BEGIN IMMEDIATE")
            try:
                self.db.executemany(WRITE, rows)
                numbers = [
                    int(self.db.execute("INSERT INTO alerts (line) VALUES (?)", [encoded(line)]).lastrowid or 0)
                    for line in alerts
                ]
                self.db.executemany(
                    "INSERT OR REPLACE INTO kept VALUES (?, ?)", [(key, encoded(value)) for key, value in kept.items()]
                )
                self.db.execute("COMMIT")
            except BaseException:
                self.db.execute("ROLLBACK")
                raise
        windows.touched.clear()
        return numbers

    def load(self, windows: Windows, newest: float, closed: int) -> None:
        """The open windows and the past, as an earlier run left them."""
        windows.newest, windows.closed = newest, closed
        place = {topic: number for number, topic in enumerate(self.topics)}
        first = closed - windows.span * windows.width
        found: dict[int, Any] = {}
        with told(self.path):
            query = "SELECT start, topic, items, negative, above FROM counts WHERE start >= ? ORDER BY start"
            for start, topic, items, negative, above in self.db.execute(query, [first]):
                counts, high = found.setdefault(start, (windows.past[:, :, 0] * 0, []))
                counts[place[topic]] = items, negative
                high += [place[topic]] if above else []
            for topic, start in self.db.execute("SELECT topic, MAX(start) FROM counts WHERE above GROUP BY topic"):
                windows.last_above[place[topic]] = start + windows.width
        for start, (counts, high) in found.items():
            if start < closed:
                windows.remember(start, counts, high)
            else:
                windows.open[start] = counts

    def alerts(self) -> list[tuple[int, str, str | None]]:
        """(number, line of JSON, what became of its delivery as JSON) of each, in order."""
        with told(self.path):
            return list(self.db.execute("SELECT id, line, delivery FROM alerts ORDER BY id"))

    def delivered(self, number: int, outcome: dict[str, str]) -> None:
        with told(self.path):
            self.db.execute("UPDATE alerts SET delivery = ? WHERE id = ?", [encoded(outcome), number])


def encoded(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


TOTALS = "SELECT topic, SUM(items) AS items, SUM(negative) AS negative, SUM(above) AS above FROM counts GROUP BY topic"


def read_series(path: Path, *, last: int | None = None) -> dict[str, Any]:
    """Counts, verdicts and alerts so far as JSON data, for a page; the monitor may be writing meanwhile.

    `{settings, shown, items, late, bad, newest, topics: {topic: [{start, items, negative, expected, p_value, above}]},
    totals: {topic: {items, negative, above}}, alerts: [{…, delivery}]}`, times in seconds since 1970. All of it is of one moment.
    A store that is just being made has no settings. `last`: of `topics` only windows that begin in so many seconds before the newest one. Raises DiskError, ModelError.
    """
    with told(path, "read"):
        # Not the path as it is: a # or ? in it would end the name.
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        try:
            db.row_factory = sqlite3.Row
            db.execute("BEGIN")  # one snapshot for all that follows; under WAL it holds no writer up
            if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'alerts'").fetchone() is None:
                return {
                    "settings": {},
                    "items": 0,
                    "topics": {},
                    "totals": {},
                    "alerts": [],
                }  # it is being made just now
            kept = {row["key"]: json.loads(row["value"]) for row in db.execute("SELECT key, value FROM kept")}
            topics: dict[str, list[dict[str, Any]]] = {}
            newest = db.execute("SELECT MAX(start) FROM counts").fetchone()[0]
            first = -(1 << 60) if last is None or newest is None else newest - last
            for row in db.execute("SELECT * FROM counts WHERE start >= ? ORDER BY start", [first]):
                one = dict(row)
                topics.setdefault(one.pop("topic"), []).append(one)
            totals = {one.pop("topic"): one for one in map(dict, db.execute(TOTALS))}
            alerts = [
                json.loads(row["line"]) | {"delivery": json.loads(row["delivery"] or "null")}
                for row in db.execute("SELECT * FROM alerts ORDER BY id")
            ]
        finally:
            db.close()
    moment = kept.get("newest")
    return {
        "settings": kept.get("settings", {}), "shown": kept.get("shown", {}), **{key: kept.get(key, 0) for key in ("items", "late", "bad")},
        "newest": moment if moment is not None and math.isfinite(moment) else None, "topics": topics, "totals": totals, "alerts": alerts,
    }  # fmt: skip
