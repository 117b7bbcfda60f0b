"""The page of a monitor: a server that shows what another process counts, while it counts."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from processes import Running

from llmstage.cli.command import main
from llmstage.config.stage import Serve
from llmstage.inference.monitor.store import Store

ROOT = Path(__file__).resolve().parents[3]
HOUR = 3600
API = httpx.Client(timeout=30)  # one for all: making one takes longer than a request


class Watched:
    """A monitor in a process of its own, on a file that the test lets grow."""

    def __init__(self, moods: Path, folder: Path, start_command: Callable[..., Running]) -> None:
        self.start_command = start_command
        self.folder, self.input = folder / "watch", folder / "in.jsonl"
        lines = (moods / "in.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        border = next(number for number, line in enumerate(lines) if '"2026-03-09T15' in line)
        self.calm, self.rest = lines[:border], lines[border:]
        negative = json.loads((moods / "said.json").read_text(encoding="utf-8"))["negative"]
        self.words = [
            "stage=monitor", f"stage.input={self.input}", f"stage.models.sentiment={moods / 'cls'}", "trainer.threads=1",
            f"stage.negative=[{negative}]", "stage.follow=true", "stage.poll=0.05", f"hydra.run.dir={self.folder}",
        ]  # fmt: skip
        self.input.write_text("", encoding="utf-8")
        self.process: Running | None = None

    def start(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = self.start_command(self.words, env=environment, stderr=subprocess.DEVNULL, cwd=self.input.parent)

    def grow(self, lines: list[str]) -> None:
        with self.input.open("a", encoding="utf-8") as file:
            file.writelines(lines)

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout=60)


@pytest.fixture
def watched(stream_of_moods: Path, tmp_path: Path, start_command: Callable[..., Running]) -> Iterator[Watched]:
    made = Watched(stream_of_moods, tmp_path, start_command)
    made.folder.mkdir()
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.kill()
        made.process.wait()


@pytest.fixture
def alone(answering: Callable[..., Any]) -> Callable[..., Any]:
    """`with alone(folder) as it`: a server that has a monitor to show and no model."""
    return lambda folder: answering(None, Serve(name="serve", port=0, monitor=str(folder)), "watch")


def told(it: Any) -> Any:
    return API.get(f"{it.url}/v1/monitor").raise_for_status().json()


def until(true: Callable[[], Any], seconds: float = 90) -> Any:
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def test_what_is_counted_is_told_while_it_is_counted(watched: Watched, alone: Callable[..., Any]) -> None:
    with alone(watched.folder) as it:
        nothing = {
            "object": "monitor",
            "folder": "watch",
            "path": str(watched.folder),
            "running": False,
            "begun": False,
        }
        assert told(it) == nothing
        (watched.folder / "monitor.db").touch()
        assert told(it) == nothing, "a store that is just being made"
        watched.start()
        until(lambda: told(it).get("begun"))
        assert told(it)["running"] and told(it)["newest"] is None and told(it)["topics"] == []
        watched.grow(watched.calm)
        before = until(lambda: (now := told(it))["items"] == len(watched.calm) and now)
        assert before["alerts"] == [] and before["late"] == before["bad"] == 0
        (topic,) = before["topics"]
        assert topic["items"] == len(watched.calm) == sum(topic["window_items"])
        assert topic["negative"] == sum(topic["window_negative"])
        last = json.loads(watched.calm[-1])["time"]
        assert (
            before["newest"] == pytest.approx(time_of(last))
            and topic["window_start"][-1] == time_of(last) // HOUR * HOUR
        )
        tag = httpx.get(f"{it.url}/v1/monitor").headers["etag"]
        again = httpx.get(f"{it.url}/v1/monitor", headers={"If-None-Match": tag})
        assert again.status_code == 304 and not again.content
        # Many look while the rest comes; the counts are those of the file all the same.
        done = threading.Event()

        def stare(_: int) -> int:
            looks = 0
            while not done.is_set():
                one = told(it)["topics"][0]
                assert one["items"] == sum(one["window_items"]), "all of it is of one moment"
                looks += 1
            return looks

        with ThreadPoolExecutor(4) as pool:
            looking = [pool.submit(stare, number) for number in range(4)]
            try:
                for first in range(0, len(watched.rest), 20):
                    watched.grow(watched.rest[first : first + 20])
                    time.sleep(0.05)
                until(lambda: told(it)["items"] == len(watched.calm) + len(watched.rest))
            finally:
                done.set()
            assert all(one.result() for one in looking)
        after = told(it)
        (alert,) = after["alerts"]
        assert alert == json.loads((watched.folder / "alerts.jsonl").read_text()) | {"delivery": None}
        assert after["topics"][0]["alerts"] == after["num_alerts"] == sum(after["topics"][0]["window_above"]) == 1
        assert httpx.get(f"{it.url}/v1/monitor", headers={"If-None-Match": tag}).status_code == 200
        watched.stop()
        ended = until(lambda: not (now := told(it))["running"] and now)
        assert ended["ended"] == {"status": "interrupted", "error": ended["ended"]["error"]}
        assert ended["items"] == len(watched.calm) + len(watched.rest)


def time_of(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_a_browser_sees_an_alert_appear_without_loading_the_page_again(
    watched: Watched, alone: Callable[..., Any], visit: Callable[..., Any]
) -> None:
    with alone(watched.folder) as it:
        page = visit(f"{it.url}/", locale="en-GB")  # without a model the first page is the monitor's
        page.wait_for_selector("#wait:not([hidden])")
        assert "Nothing has been counted yet" in page.inner_text("#wait") and str(watched.folder) in page.inner_text(
            "#wait"
        )
        watched.start()
        watched.grow(watched.calm)
        page.wait_for_selector("#charts figure", timeout=90_000)
        until(lambda: f"{len(watched.calm):,}" in page.inner_text("#facts"))
        assert page.inner_text("#state") == "The monitor is running." and page.title() == "watch"
        assert page.locator("#alerts li").count() == 0 and page.inner_text("#calm") == "No alert so far."
        assert page.locator("svg .running").get_attribute("d").count("L") > 150
        page.evaluate("window.never_left = true")
        watched.grow(watched.rest)
        page.wait_for_selector("#alerts li.fresh", timeout=60_000)
        line = page.inner_text("#alerts li")
        alert = json.loads((watched.folder / "alerts.jsonl").read_text())
        assert "Mar 9, 2026, 15:00" in line and f"{alert['negative']} / {alert['items']}" in line
        assert page.evaluate("window.never_left") and not page.locator("#calm").is_visible()
        assert page.inner_text("#told").startswith("New alert: all")
        assert page.locator("svg circle.above").count() == 1
        # The window of the alert can be read off with the keyboard.
        page.focus("figure")
        for _ in range(30):
            page.keyboard.press("ArrowLeft")
            if f"({alert['negative']} / {alert['items']})" in page.inner_text("figcaption"):
                break
        assert "above the expected share" in page.inner_text("figcaption") and "Mar 9, 2026, 15:00" in page.inner_text(
            "figcaption"
        )
        page.select_option("#language", "zh")
        assert page.inner_text("#state") == "监控正在运行。" and "负面" in page.inner_text("#alerts li")
        watched.stop()
        until(lambda: page.inner_text("#state") == "监控未在运行；用同一文件夹再次执行命令即可继续。", 20)
        page.set_viewport_size({"width": 320, "height": 560})
        page.emulate_media(color_scheme="dark")
        assert page.evaluate("document.documentElement.scrollWidth") <= 320, "nothing stands outside a narrow screen"


def test_beside_a_model_both_pages_lead_to_each_other(
    serving: Callable[..., Any], visit: Callable[..., Any], tmp_path: Path
) -> None:
    filled(tmp_path)
    with serving("classification", monitor=str(tmp_path)) as it:
        about = httpx.get(f"{it.url}/v1/models").json()["data"][0]
        assert about["routes"] == ["/v1/classify", "/v1/monitor"]
        page = visit(it.url)
        assert page.inner_text("#views button") == "Try it"
        page.click("#views a")
        page.wait_for_selector("#charts figure")
        assert page.locator("#charts figure h3").all_inner_texts() == ["oil <b>", "tech"]
        page.click("#views a")
        page.wait_for_selector("[name=text]")


def filled(folder: Path) -> None:
    """A store of two topics, as a monitor leaves it."""
    store = Store(folder / "monitor.db", ["oil <b>", "tech"])
    settings = {"window": "1h", "timezone": "Asia/Shanghai", "negative": ["bad"]}
    rows = [(hour * HOUR, topic, 20, 5, 0.2, 0.5, 0) for hour in range(500) for topic in store.topics]
    store.db.executemany("INSERT INTO counts VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    kept = {"settings": settings, "shown": {"min_items": 10, "input": "x"}, "items": 20_000, "newest": 500.0 * HOUR}
    store.db.executemany("INSERT INTO kept VALUES (?, ?)", [(key, json.dumps(value)) for key, value in kept.items()])
    store.close()


def test_a_chart_holds_the_newest_windows_and_its_first_share_is_of_a_whole_day(
    alone: Callable[..., Any], tmp_path: Path
) -> None:
    filled(tmp_path)
    db = sqlite3.connect(tmp_path / "monitor.db")
    # The 24 hours before the first window shown have twice the share.
    db.execute(f"UPDATE counts SET negative = 10 WHERE start < {(500 - 336) * HOUR}")
    db.commit()
    db.close()
    with alone(tmp_path) as it:
        for _ in range(2):  # the first look reads the whole store, the next one what is shown of it
            topic = told(it)["topics"][0]
            assert topic["window_start"] == [hour * HOUR for hour in range(500 - 336, 500)]
            assert (
                topic["window_running"][0] == round((23 * 10 + 5) / (24 * 20), 4)
                and topic["window_running"][-1] == 0.25
            )
            assert topic["items"] == 10_000, "of the whole run"
            os.utime(tmp_path / "monitor.db")


def test_a_damaged_store_is_told_and_the_page_goes_on_once_it_is_mended(
    alone: Callable[..., Any], visit: Callable[..., Any], tmp_path: Path
) -> None:
    filled(tmp_path)
    good = (tmp_path / "monitor.db").read_bytes()
    (tmp_path / "monitor.db").write_bytes(b"this is no database, and longer than its header of a hundred bytes" * 9)
    for rest in tmp_path.glob("monitor.db-*"):
        rest.unlink()
    with alone(tmp_path) as it:
        refused = httpx.get(f"{it.url}/v1/monitor")
        assert refused.status_code == 503 and "monitor.db is damaged" in refused.json()["error"]["message"]
        page = visit(f"{it.url}/monitor")
        page.wait_for_selector("#problem:not([hidden])")
        assert "is damaged" in page.inner_text("#problem")
        (tmp_path / "monitor.db").write_bytes(good)
        page.wait_for_selector("#charts figure")
        assert page.locator("#problem").is_hidden()
        shutil.rmtree(tmp_path)
        assert told(it)["begun"] is False


def test_the_token_is_asked_for_here_too(
    alone: Callable[..., Any], visit: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path)
    monkeypatch.setenv("LLMSTAGE_API_KEY", "open-sesame")
    with alone(tmp_path) as it:
        assert httpx.get(f"{it.url}/monitor").status_code == 200, "the bare page"
        assert httpx.get(f"{it.url}/v1/monitor").status_code == 401
        allowed = httpx.get(f"{it.url}/v1/monitor", headers={"Authorization": "Bearer open-sesame"})
        assert allowed.status_code == 200 and allowed.json()["items"] == 20_000
        page = visit(f"{it.url}/monitor")
        page.fill("#token", "open-sesame")
        page.press("#token", "Enter")
        page.wait_for_selector("#charts figure")


def test_a_server_without_a_model_says_what_it_has(alone: Callable[..., Any], tmp_path: Path) -> None:
    filled(tmp_path)
    with alone(tmp_path) as it:
        assert httpx.get(f"{it.url}/health").json() == {"status": "ok"}
        assert httpx.get(f"{it.url}/v1/models").json()["data"] == []
        refused = httpx.post(f"{it.url}/v1/classify", json={"input": "x"})
        assert refused.status_code == 404 and "/v1/monitor" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stage.monitor=gone"], "stage.monitor=gone: there is no such folder"),
        (["stage.monitor=wach"], "Did you mean 'watch'?"),
        (
            ["stage.monitor=plain"],
            "stage.monitor=plain is no run folder of stage=monitor: there is no monitor.db in it",
        ),
        (["stage.monitor=trained"], "stage.monitor=trained is a run of stage=finetune, and no monitor"),
        (["stage.monitor=watch", "stage.slots=2"], "stage.slots is not read here: no model is served"),
        (
            ["stage.monitor=watch", "generation.num_beams=2"],
            "generation.num_beams is not read here: there is no model to write",
        ),
        (["stage.monitor=watch", "retrieval.path=x"], "retrieval.path is not read here"),
        (["stage.monitor=watch", "task=dialogue"], "stage=serve needs a model"),
    ],
)
def test_what_cannot_be_shown_is_told_before_anything_is_loaded(
    words: list[str], said: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("watch", "plain", "trained"):
        Path(name).mkdir()
    Path("watch/monitor.db").touch()
    Path("trained/run.yaml").write_text("stage: {name: finetune}\n")
    assert main(["stage=serve", *words]) == 2
    assert said in capsys.readouterr().err and not Path("outputs").exists()


def test_the_command_serves_a_monitor_alone(workplace: Path, start_command: Callable[..., Running]) -> None:
    Path("watch").mkdir()
    filled(Path("watch"))
    words = ["stage=serve", "stage.monitor=watch", "stage.port=0"]
    environment = {key: value for key, value in os.environ.items() if key != "LLMSTAGE_API_KEY"}
    running = start_command(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment)
    try:
        assert running.stderr
        line = next(line for line in running.stderr if "serving 'watch'" in line)
        url = re.search(r"http://[\w.:]+", line)[0]  # type: ignore[index]
        assert httpx.get(f"{url}/v1/monitor").json()["items"] == 20_000
    finally:
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=30) == 0
    (run,) = Path("outputs/serve").glob("2*")
    assert json.loads((run / "report.json").read_text())["status"] == "completed"
