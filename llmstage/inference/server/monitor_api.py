"""What a monitor has counted so far, for the page that shows it: read from its run folder while it writes there."""

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

from llmstage.config.monitor import seconds
from llmstage.errors import UserError
from llmstage.inference.monitor.report import DAY, MOST_TOPICS, running
from llmstage.inference.monitor.store import read_series
from llmstage.inference.server.limits import problem
from llmstage.paths import MONITOR_STORE
from llmstage.training.session import is_held

WINDOWS = 336
"""Windows of a chart, the newest: two weeks of hours."""
ALERTS = 50
"""The newest alerts that are told."""


class Live:
    """`folder`: of a stage=monitor, which may not have begun yet, may run, or may have ended."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, folder / MONITOR_STORE
        self.lock = threading.Lock()
        self.seen: Any = None
        self.last: int | None = None
        """Seconds of the store that are shown; known once it was read."""
        self.body, self.tag = b"", ""

    def told(self) -> tuple[bytes, str]:
        """(JSON, a tag that changes with it). Read anew only when something has changed, however many ask. Raises DiskError and
        ModelError."""
        with self.lock:
            seen = self.signs()
            if seen != self.seen:
                self.body = json.dumps(self.made(), ensure_ascii=False, allow_nan=False).encode()
                self.tag = f'"{hashlib.blake2b(self.body, digest_size=12).hexdigest()}"'
                self.seen = seen
            return self.body, self.tag

    def signs(self) -> tuple[Any, ...]:
        """What changes whenever the answer does. New counts stand in the log beside the store first."""
        files = (self.store, self.store.with_name(f"{self.store.name}-wal"), self.folder / "report.json")
        return is_held(self.folder), *map(touched, files)

    def made(self) -> dict[str, Any]:
        known = {
            "object": "monitor",
            "folder": self.folder.name,
            "path": str(self.folder),
            "running": is_held(self.folder),
        }
        if not self.store.is_file():
            return {**known, "begun": False}
        series = read_series(self.store, last=self.last)
        if not series["settings"]:
            return {**known, "begun": False}
        settings, shown, alerts = series["settings"], series["shown"], series["alerts"]
        width = seconds(settings["window"])
        span = 7 * DAY if width >= DAY else DAY
        self.last = width * WINDOWS + span  # the share of the last day stands at the first window shown, too
        topics = [
            {"topic": topic, **series["totals"][topic], "alerts": sum(alert["topic"] == topic for alert in alerts)}
            for topic in series["totals"]
        ]
        topics.sort(key=lambda one: (-one["alerts"], -one["items"], one["topic"]))
        begin = max((rows[-1]["start"] for rows in series["topics"].values()), default=0) - width * (WINDOWS - 1)
        for one in topics[:MOST_TOPICS]:
            one |= columns_of(series["topics"].get(one["topic"], []), begin, span)
        return {
            **known, "begun": True, "ended": None if known["running"] else self.ending(series["items"]), "input": shown.get("input"),
            "min_items": shown.get("min_items", 1), "window": width, "span": span, "timezone": settings["timezone"],
            "negative": settings["negative"], **{key: series[key] for key in ("items", "late", "bad", "newest")},
            "topics": topics, "alerts": alerts[-ALERTS:], "num_alerts": len(alerts),
        }  # fmt: skip

    def ending(self, items: int) -> dict[str, Any] | None:
        """How the run ended, where report.json is of that end and not of an earlier part of the run."""
        path = self.folder / "report.json"
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            newer = path.stat().st_mtime_ns >= self.store.stat().st_mtime_ns
        except (OSError, ValueError):
            return None
        if not newer and (report.get("monitor") or {}).get("items") != items:
            return None
        return {"status": report.get("status"), "error": report.get("error")}


def touched(path: Path) -> tuple[int, int] | None:
    try:
        told = path.stat()
    except OSError:
        return None
    return told.st_mtime_ns, told.st_size


def columns_of(rows: Sequence[Mapping[str, Any]], begin: int, span: int) -> dict[str, list[Any]]:
    """The windows of a topic from `begin` on, a list a quantity: half the size of one object a window."""
    shares = running(rows, span)
    first = next((place for place, row in enumerate(rows) if row["start"] >= begin), len(rows))
    kept = rows[first:]
    return {
        **{f"window_{key}": [row[key] for row in kept] for key in ("start", "items", "negative", "above")},
        "window_expected": [None if row["expected"] is None else round(row["expected"], 4) for row in kept],
        "window_running": [round(share, 4) for share in shares[first:]],
    }


def add_monitor(app: FastAPI, live: Live) -> None:
    @app.get("/v1/monitor")
    async def monitor(request: Request) -> Response:
        """Counts, shares and alerts of the monitor so far; 304 where If-None-Match names what was told last."""
        try:
            body, tag = await asyncio.to_thread(live.told)
        except UserError as error:
            return JSONResponse(problem(str(error), "server_error"), 503)
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(body, media_type="application/json", headers=headers)
