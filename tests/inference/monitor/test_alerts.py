"""Webhook and command: delivered, tried again, given up on with a note; monitoring goes on in every case."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from streams import alerts, counts, rows_of, watch, write

from llmstage.config.monitor import COMMANDS, WEBHOOK, Monitor
from llmstage.errors import Refused, UserError
from llmstage.inference.monitor import alerts as alerts_module
from llmstage.inference.monitor.alerts import Delivery, redacted_url
from llmstage.inference.monitor.store import read_series


class Hook(HTTPServer):
    """Answers with each of `statuses` in turn, the last one for ever."""

    def __init__(self, statuses: list[int]) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.statuses, self.got = statuses, []
        self.url = f"http://127.0.0.1:{self.server_port}/secret"


class Answer(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, json.loads(body), self.headers["X-Alert-Number"]))
        status = self.server.statuses.pop(0) if len(self.server.statuses) > 1 else self.server.statuses[0]
        self.send_response(status)
        if status == 302:
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/elsewhere")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hook(request: pytest.FixtureRequest) -> Iterator[Hook]:
    server = Hook(request.param)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts_module, "FIRST_RETRY_SECONDS", 0.01)
    monkeypatch.delenv(COMMANDS, raising=False)
    monkeypatch.delenv(WEBHOOK, raising=False)


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    items, negative = counts(1, 9, volume=12, rho=0.005)
    items[206, 1], negative[206, 1] = 60, 55
    return write(tmp_path_factory.mktemp("stream") / "in.jsonl", rows_of(items, negative))


def deliveries(folder: Path) -> list[dict[str, str] | None]:
    return [alert["delivery"] for alert in read_series(folder / "monitor.db")["alerts"]]


@pytest.mark.parametrize("hook", [[200]], indirect=True)
def test_a_webhook_gets_the_alert_once(hook: Hook, stream: Path, tmp_path: Path) -> None:
    watch(tmp_path / "run", stream, webhook=hook.url)
    assert hook.got == [("/secret", alerts(tmp_path / "run")[0], "1")]
    assert deliveries(tmp_path / "run") == [{"webhook": "delivered"}]
    watch(tmp_path / "run", stream, webhook=hook.url)
    assert len(hook.got) == 1, "a run that goes on does not send again what was delivered"


@pytest.mark.parametrize("hook", [[500, 503, 200]], indirect=True)
def test_a_webhook_that_fails_is_tried_again(hook: Hook, stream: Path, tmp_path: Path) -> None:
    watch(tmp_path / "run", stream, webhook=hook.url, retries=2)
    assert len(hook.got) == 3 and deliveries(tmp_path / "run") == [{"webhook": "delivered"}]


@pytest.mark.parametrize("hook", [[500]], indirect=True)
def test_a_webhook_that_keeps_failing_is_noted_and_monitoring_goes_on(hook: Hook, stream: Path, tmp_path: Path) -> None:
    done = watch(tmp_path / "run", stream, webhook=hook.url, retries=1)
    assert len(hook.got) == 2 and len(alerts(tmp_path / "run")) == 1 and done.undelivered == 1
    assert deliveries(tmp_path / "run") == [{"webhook": "not delivered after 2 tries: status 500"}]
    assert done.tally.items == len(stream.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("hook", [[302]], indirect=True)
def test_a_webhook_is_not_redirected_and_a_dead_one_is_told(hook: Hook, stream: Path, tmp_path: Path) -> None:
    watch(tmp_path / "one", stream, webhook=hook.url)
    assert len(hook.got) == 1 and "status 302" in str(deliveries(tmp_path / "one"))
    watch(tmp_path / "two", stream, webhook="http://127.0.0.1:9/", timeout=2.0)
    assert "refused" in str(deliveries(tmp_path / "two"))


@pytest.mark.parametrize("hook", [[200]], indirect=True)
def test_what_was_not_delivered_when_a_run_was_killed_is_delivered_by_the_next(
    hook: Hook, stream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch(tmp_path / "run", stream)  # raised an alert and had no webhook
    assert deliveries(tmp_path / "run") == [None]
    monkeypatch.setenv(WEBHOOK, hook.url)
    watch(tmp_path / "run", stream)
    assert len(hook.got) == 1 and deliveries(tmp_path / "run") == [{"webhook": "delivered"}]


def test_a_command_gets_the_alert_without_a_shell(
    stream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(COMMANDS, f"/bin/nothing{os.pathsep}{sys.executable}")
    out = tmp_path / "got; touch broken.json"
    code = "import sys; open(sys.argv[1], 'a', encoding='utf-8').write(sys.stdin.read())"
    watch(tmp_path / "run", stream, command=[sys.executable, "-c", code, str(out)])
    assert json.loads(out.read_text(encoding="utf-8")) == alerts(tmp_path / "run")[0]
    assert deliveries(tmp_path / "run") == [{"command": "delivered"}]


def test_a_command_that_fails_or_hangs_is_noted(stream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMMANDS, sys.executable)
    watch(tmp_path / "one", stream, command=[sys.executable, "-c", "raise SystemExit(3)"])
    assert "exit status 3" in str(deliveries(tmp_path / "one"))
    watch(tmp_path / "two", stream, command=[sys.executable, "-c", "import time; time.sleep(60)"], timeout=0.3)
    assert "timed out" in str(deliveries(tmp_path / "two"))


def test_only_programs_on_the_list_are_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for named in ("", "/bin/nothing", sys.executable + "x"):
        monkeypatch.setenv(COMMANDS, named)
        with pytest.raises(Refused, match=f"export {COMMANDS}="):
            Delivery(Monitor(command=[sys.executable]))
    with pytest.raises(UserError, match="no such program"):
        Delivery(Monitor(command=["no-such-program-here"]))


def test_what_is_secret_in_an_address_is_not_shown() -> None:
    assert redacted_url("https://user:word@hooks.example.com:8443/T0/B0/xyz?k=1") == "https://hooks.example.com:8443/…"
