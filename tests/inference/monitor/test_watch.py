"""A run from items to alerts: the same after a kill anywhere, in any batches, in a file that grows; nothing counts twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from streams import Reads, Stop, alerts, counts, items_in, rows_of, watch, write

from llmstage.config.monitor import zone
from llmstage.errors import DataError, Interrupted, ModelError
from llmstage.inference.monitor.report import monitor_report
from llmstage.inference.monitor.store import Store, read_series

AT = 9 * 24 + 14
"""The hour of the planted surge."""


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten days of three topics, with three bad hours in the second; a bad row and a late one are among them."""
    items, negative = counts(0, 10, volume=12)
    items[AT : AT + 3, 1], negative[AT : AT + 3, 1] = 60, 45
    rows: list[dict[str, Any]] = rows_of(items, negative)
    rows.insert(50, {"time": "nonsense", "text": "oil bad"})
    rows.insert(60, {"time": rows[0]["time"], "text": "unreadable bad"})
    rows.insert(len(rows) // 2, {**rows[0]})
    return write(tmp_path_factory.mktemp("stream") / "in.jsonl", rows)


@pytest.fixture(scope="module")
def whole(stream: Path) -> Path:
    """The folder of an uninterrupted run."""
    watch(stream.parent / "whole", stream)
    return stream.parent / "whole"


def state(folder: Path) -> tuple[Any, ...]:
    db = sqlite3.connect(folder / "monitor.db")
    found = db.execute("SELECT * FROM counts ORDER BY start, topic").fetchall()
    kept = dict(db.execute("SELECT key, value FROM kept"))
    db.close()
    return found, kept["items"], kept["late"], kept["bad"], (folder / "alerts.jsonl").read_text(encoding="utf-8")


def test_the_planted_surge_is_one_alert_with_the_promised_fields(stream: Path, whole: Path) -> None:
    (alert,) = alerts(whole)
    assert list(alert)[:6] == ["time", "topic", "window", "share", "expected", "p_value"]
    assert (alert["topic"], alert["window"]) == ("银行", "2026-03-11T14:00:00+00:00/2026-03-11T15:00:00+00:00")
    assert alert["time"] == "2026-03-11T15:00:00+00:00" and alert["share"] == 45 / 60 and alert["expected"] < 0.4
    assert 0 < alert["p_value"] < 0.01 / 720
    rows = [json.loads(line) for line in stream.read_text(encoding="utf-8").splitlines()]
    found, items, late, bad, _ = state(whole)
    assert (int(late), int(bad)) == (1, 2) and int(items) == len(rows) - 3
    assert sum(row[2] for row in found) == int(items)
    assert sum(row[3] for row in found) == sum(" bad " in row["text"] for row in rows) - (" bad " in rows[0]["text"])
    assert len((whole / "quarantine.jsonl").read_text().splitlines()) == 2


def test_a_run_that_was_killed_anywhere_ends_with_the_same_counts_and_alerts(
    stream: Path, whole: Path, tmp_path: Path
) -> None:
    code = (
        f"import sys, time; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path; import streams\n"
        "class Slow(streams.Reads):\n"
        "    def label_rows(self, rows): time.sleep(0.02); return super().label_rows(rows)\n"
        f"streams.watch(Path({str(tmp_path / 'run')!r}), {str(stream)!r}, labeler=Slow(), batch=16)\n"
    )
    killed = 0
    for attempt in range(3):
        running = subprocess.Popen(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        )
        until = time.monotonic() + 60
        want = (attempt + 1) * 1000
        while running.poll() is None and time.monotonic() < until and items_in(tmp_path / "run") < want:
            time.sleep(0.02)
        if running.poll() is not None:
            break
        running.send_signal(signal.SIGKILL)
        running.wait()
        killed += 1
        with (tmp_path / "run" / "alerts.jsonl").open("a") as file:
            file.write('{"half')  # what a kill in the middle of a write leaves
    watch(tmp_path / "run", stream)
    assert killed >= 2
    assert state(tmp_path / "run") == state(whole)
    assert len((tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()) == 2


def test_the_size_of_a_batch_changes_nothing(stream: Path, whole: Path, tmp_path: Path) -> None:
    watch(tmp_path / "small", stream, batch=7)
    watch(tmp_path / "large", stream, batch=100_000)
    assert state(tmp_path / "small") == state(tmp_path / "large") == state(whole)


def test_a_signal_saves_and_the_next_part_goes_on(stream: Path, whole: Path, tmp_path: Path) -> None:
    stop = Stop()

    class Signalled(Reads):
        calls = 0

        def label_rows(self, rows: Any) -> Any:
            self.calls += 1
            stop.name = "SIGTERM" if self.calls == 20 else None
            return super().label_rows(rows)

    with pytest.raises(Interrupted, match=r"hydra\.run\.dir"):
        watch(tmp_path / "run", stream, labeler=Signalled(), stop=stop, batch=64)
    assert items_in(tmp_path / "run") > 1000
    watch(tmp_path / "run", stream, batch=64)
    assert state(tmp_path / "run") == state(whole)


def test_a_file_is_followed_while_it_grows(stream: Path, whole: Path, tmp_path: Path) -> None:
    lines, stop, path = stream.read_bytes().splitlines(keepends=True), Stop(), tmp_path / "grows.jsonl"
    path.write_bytes(b"")

    def grow() -> None:
        with path.open("ab") as file:
            for first in range(0, len(lines), 900):
                data = b"".join(lines[first : first + 900])
                file.write(data[:-5])
                file.flush()
                time.sleep(0.02)
                file.write(data[-5:])
                file.flush()
        until = time.monotonic() + 60
        while items_in(tmp_path / "run") < len(lines) - 3 and time.monotonic() < until:
            time.sleep(0.01)
        stop.name = "SIGTERM"

    thread = threading.Thread(target=grow)
    thread.start()
    with pytest.raises(Interrupted):
        watch(tmp_path / "run", path, stop=stop, follow=True)
    thread.join()
    assert alerts(tmp_path / "run") == alerts(whole), "the alert came while the file was still open"
    watch(tmp_path / "run", path)  # as a finished file: the last window is judged as well
    assert state(tmp_path / "run") == state(whole)


def test_a_bad_row_stops_the_run_where_data_on_bad_row_says_so_and_quarantine_goes_on(
    stream: Path, whole: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"in\.jsonl:51: 'time': 'nonsense'"):
        watch(tmp_path / "run", stream, on_bad_row="error", batch=16)
    watch(tmp_path / "run", stream)
    assert state(tmp_path / "run") == state(whole)


def test_late_says_how_long_a_window_waits(tmp_path: Path) -> None:
    rows = [("10:00", "oil good"), ("11:20", "oil good"), ("10:59", "oil bad"), ("11:30", "oil good")]
    path = write(tmp_path / "in.jsonl", [{"time": f"2026-03-02 {at}", "text": text} for at, text in rows])
    assert watch(tmp_path / "short", path, late="0s").tally.late == 1
    assert watch(tmp_path / "long", path, late="30m").tally.late == 0
    assert state(tmp_path / "long")[0][0][2:4] == (2, 1)


def test_a_page_can_read_while_the_monitor_writes_and_a_damaged_store_is_told(whole: Path, tmp_path: Path) -> None:
    series = read_series(whole / "monitor.db")
    assert set(series["topics"]) == set(series["totals"]) == {"oil", "银行", "tech"}
    for topic, rows in series["topics"].items():
        assert series["totals"][topic] == {key: sum(row[key] for row in rows) for key in ("items", "negative", "above")}
    assert series["items"] == sum(total["items"] for total in series["totals"].values())
    short = read_series(whole / "monitor.db", last_seconds=3600)
    assert {row["start"] for rows in short["topics"].values() for row in rows} == {
        newest(series),
        newest(series) - 3600,
    }
    assert short["totals"] == series["totals"], "of the whole run"
    json.dumps(series, allow_nan=False)
    shutil.copy(whole / "monitor.db", tmp_path / "monitor.db")
    (tmp_path / "monitor.db").write_bytes(b"this is no database, and longer than its header of a hundred bytes" * 9)
    with pytest.raises(ModelError, match="is damaged"):
        Store(tmp_path / "monitor.db", ["oil"])


def newest(series: dict[str, Any]) -> int:
    return max(row["start"] for rows in series["topics"].values() for row in rows)


def test_poll_is_the_pause_between_looks_at_an_input_that_has_nothing_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, stop, slept = write(tmp_path / "in.jsonl", [{"time": "2026-03-02 10:00", "text": "oil good"}]), Stop(), []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            path.write_text(path.read_text() + '{"time": "2026-03-02 10:01", "text": "oil bad"}\n')
        stop.name = "SIGTERM" if len(slept) == 4 else None

    monkeypatch.setattr("llmstage.inference.monitor.tail.time", SimpleNamespace(sleep=sleep))
    with pytest.raises(Interrupted):
        watch(tmp_path / "run", path, stop=stop, follow=True, poll=7.5)
    assert slept == [7.5] * 4 and items_in(tmp_path / "run") == 2


def test_header_says_whether_the_first_line_of_a_table_is_an_item(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    # A header of numbers looks like a row: columns would be counted from 0.
    path.write_text("7,8\n2026-03-02 10:00,oil good\n2026-03-02 10:01,oil bad\n")
    named = {"time": "7", "text": "8"}
    assert watch(tmp_path / "named", path, columns=named, header=True).tally.items == 2
    with pytest.raises(DataError, match="there is no column"):
        watch(tmp_path / "guessed", path, columns=named)
    numbered = watch(tmp_path / "numbered", path, columns={"time": "0", "text": "1"}, header=False)
    assert (numbered.tally.items, numbered.tally.bad) == (2, 1), "the first line is an item, and a bad one"


def test_the_chart_shows_a_running_day_and_only_windows_that_are_large_enough() -> None:
    from llmstage.inference.monitor.report import TEXTS, topic_chart

    said = [(4, 2), (20, 5), (30, 24)]
    rows = [
        {"start": hour * 20 * 3600, "items": n, "negative": x, "expected": 0.2, "p_value": 0.5, "above": hour == 2}
        for hour, (n, x) in enumerate(said)
    ]
    local = zone("UTC")
    assert local
    made = topic_chart("oil", rows, local, TEXTS["en"], {"window": "1h", "min_items": 10})
    window, day, expected, above = made["series"]
    assert window["y"] == [None, 0.25, 0.8] and expected["y"] == [0.2] * 3 and above["y"] == [0.8, None]
    assert day["y"] == [0.5, 7 / 24, 29 / 50] and day["x"] == pytest.approx([0, 20 / 24, 40 / 24])
    weekly = topic_chart("oil", rows, local, TEXTS["en"], {"window": "1d", "min_items": 10})["series"][1]
    assert weekly["y"][-1] == 31 / 54 and "7d" in weekly["name"]


def test_the_report_tells_alerts_and_limits_in_both_languages(whole: Path, tmp_path: Path) -> None:
    from llmstage.report.html import write_html

    series, local = read_series(whole / "monitor.db"), zone("UTC")
    numbers = {"items": 10, "late": 1, "bad": 2, "undelivered": 3}
    limits = {"alpha": 0.01, "min_items": 10, "late": "10m", "window": "1h"}
    assert local
    english, chinese, auto = (monitor_report(series, numbers, limits, local, tongue) for tongue in ("en", "zh", "auto"))
    assert "75% of the items from 2026-03-11T14:00:00+00:00 on were negative (45 of 60" in english["sentences"][0]
    assert "负面" in chinese["sentences"][0] and auto["language"] == "zh", "one of the topics is Chinese"
    assert len(english["limits"]) == 5
    page = write_html(tmp_path, {"status": "completed", "stage": "monitor", **english}).read_text(encoding="utf-8")
    assert page.count("<svg") == 3 and '<circle class="dot s1"' in page and "银行" in page
    none = monitor_report(
        {**series, "alerts": []}, {**numbers, "late": 0, "bad": 0, "undelivered": 0}, limits, local, "en"
    )
    assert none["sentences"][0].startswith("No surge") and len(none["limits"]) == 2
    empty = monitor_report({**series, "alerts": [], "topics": {}}, numbers, limits, local, "en")
    assert empty["sentences"][0].startswith("No window could be tested yet")
