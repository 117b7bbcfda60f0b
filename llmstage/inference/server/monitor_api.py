"""The route /v1/monitor: the counts and alerts of a stage=monitor, read from its run folder while it may still run."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from llmstage.config.monitor import DAY, seconds
from llmstage.errors import UserError
from llmstage.inference.monitor.report import MAX_TOPICS, running_shares
from llmstage.inference.monitor.store import read_series
from llmstage.inference.server.schemas import error_body
from llmstage.paths import MONITOR_STORE
from llmstage.training.session import is_locked

MAX_WINDOWS = 336
"""Windows of a chart, the newest: two weeks of hours."""
MAX_ALERTS = 50
"""Alerts in a reply, the newest."""


class MonitorReader:
    """Reads a monitor's run folder. The monitor may not have begun yet, may run, or may have ended."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store_path = folder, folder / MONITOR_STORE
        self.lock = threading.Lock()
        self.cached_state: Any = None
        self.history_seconds: int | None = None
        """The part of the store that the charts need; known after the first read."""
        self.body, self.etag = b"", ""

    def response(self) -> tuple[bytes, str]:
        """Return the JSON and its ETag. The store is read only where it has changed since the last request.

        Raises DiskError and ModelError.
        """
        with self.lock:
            state = self.file_state()
            if state != self.cached_state:
                self.body = json.dumps(self.payload(), ensure_ascii=False, allow_nan=False).encode()
                self.etag = f'"{hashlib.blake2b(self.body, digest_size=12).hexdigest()}"'
                self.cached_state = state
            return self.body, self.etag

    def file_state(self) -> tuple[Any, ...]:
        """Return values that change whenever the payload does. New counts reach SQLite's write-ahead log first."""
        files = (self.store_path, self.store_path.with_name(f"{self.store_path.name}-wal"), self.folder / "report.json")
        return is_locked(self.folder), *map(modified, files)

    def payload(self) -> dict[str, Any]:
        """Read the store and return the reply."""
        base = {
            "object": "monitor",
            "folder": self.folder.name,
            "path": str(self.folder),
            "running": is_locked(self.folder),
        }
        if not self.store_path.is_file():
            return {**base, "begun": False}
        series = read_series(self.store_path, last_seconds=self.history_seconds)
        if not series["settings"]:
            return {**base, "begun": False}
        settings, display, alerts = series["settings"], series["shown"], series["alerts"]
        width = seconds(settings["window"])
        span = 7 * DAY if width >= DAY else DAY
        # One span more than the charts show: the first window also has the share of a full span before it.
        self.history_seconds = width * MAX_WINDOWS + span
        topics = [
            {"topic": topic, **series["totals"][topic], "alerts": sum(alert["topic"] == topic for alert in alerts)}
            for topic in series["totals"]
        ]
        topics.sort(key=lambda topic: (-topic["alerts"], -topic["items"], topic["topic"]))
        newest_start = max((rows[-1]["start"] for rows in series["topics"].values()), default=0)
        begin = newest_start - width * (MAX_WINDOWS - 1)
        for topic in topics[:MAX_TOPICS]:
            topic |= window_columns(series["topics"].get(topic["topic"], []), begin, span)
        return {
            **base, "begun": True, "ended": None if base["running"] else self.end_of_run(series["items"]), "input": display.get("input"),
            "min_items": display.get("min_items", 1), "window": width, "span": span, "timezone": settings["timezone"],
            "negative": settings["negative"], **{key: series[key] for key in ("items", "late", "bad", "newest")},
            "topics": topics, "alerts": alerts[-MAX_ALERTS:], "num_alerts": len(alerts),
        }  # fmt: skip

    def end_of_run(self, num_items: int) -> dict[str, Any] | None:
        """Return status and error of report.json; None where it belongs to an earlier part of the run."""
        path = self.folder / "report.json"
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            is_newer = path.stat().st_mtime_ns >= self.store_path.stat().st_mtime_ns
        except (OSError, ValueError):
            return None
        if not is_newer and (report.get("monitor") or {}).get("items") != num_items:
            return None
        return {"status": report.get("status"), "error": report.get("error")}


def modified(path: Path) -> tuple[int, int] | None:
    """Return the modification time and the size of a file; None where there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def window_columns(rows: Sequence[Mapping[str, Any]], begin: int, span: int) -> dict[str, list[Any]]:
    """Return a topic's windows from `begin` on, one list for each quantity: half the size of one object for each window."""
    shares = running_shares(rows, span)
    first = next((index for index, row in enumerate(rows) if row["start"] >= begin), len(rows))
    visible = rows[first:]
    return {
        **{f"window_{key}": [row[key] for row in visible] for key in ("start", "items", "negative", "above")},
        "window_expected": [None if row["expected"] is None else round(row["expected"], 4) for row in visible],
        "window_running": [round(share, 4) for share in shares[first:]],
    }


def add_monitor_route(app: FastAPI, reader: MonitorReader) -> None:
    @app.get("/v1/monitor")
    async def monitor(request: Request) -> Response:
        """Return counts, shares and alerts so far; 304 where If-None-Match names the current state."""
        try:
            body, etag = await asyncio.to_thread(reader.response)
        except UserError as error:
            return JSONResponse(error_body(str(error), "server_error"), 503)
        headers = {"ETag": etag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(body, media_type="application/json", headers=headers)
