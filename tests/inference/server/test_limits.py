"""What can be sent wrongly, too much of it, too slowly, or by too many: each against a running server."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from processes import Running

from llmstage.cli.command import main

ROOT = Path(__file__).resolve().parents[3]
HELLO = [{"role": "user", "content": "Hello, where is order 3051? 退款要等多久？"}]


@pytest.fixture(scope="module")
def small(serving: Callable[..., Any]) -> Iterator[Any]:
    with serving("dialogue", max_tokens=5, max_body_mb=0.01, slots=2) as it:
        yield it


def chat(it: Any, **more: Any) -> httpx.Response:
    return httpx.post(f"{it.url}/v1/chat/completions", json={"messages": HELLO, **more}, timeout=60)


def test_a_reply_has_no_more_tokens_than_the_server_writes(small: Any) -> None:
    small.generation_worker.eos_token_ids, kept = set(), small.generation_worker.eos_token_ids
    try:
        told = chat(small).json()
        assert told["usage"]["completion_tokens"] == 5 and told["choices"][0]["finish_reason"] == "length"
        assert chat(small, max_tokens=4).json()["usage"]["completion_tokens"] == 4
        for key in ("max_tokens", "max_completion_tokens"):
            refused = chat(small, **{key: 6})
            assert refused.status_code == 400 and f"{key}=6 is more than this server writes: 5" in refused.text
    finally:
        small.generation_worker.eos_token_ids = kept


def test_a_request_is_no_larger_than_the_server_reads(small: Any) -> None:
    long = [{"role": "user", "content": "x" * 11_000}]
    refused = chat(small, messages=long)
    assert refused.status_code == 413 and "10,485 bytes (stage.max_body_mb)" in refused.text
    assert chat(small, user="x" * 9_000).status_code == 200


NO_JSON: dict[str, bytes] = {
    "cut off": b'{"messages": [{"role": "us',
    "nothing": b"",
    "a list": b"[]",
    "not UTF-8": b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}',
    "nested too deeply": b"[" * 10_000,
    "a number of 5000 digits": b'{"seed": ' + b"9" * 5000 + b', "messages": [{"role": "user", "content": "x"}]}',
    "a seed of 26 digits": b'{"seed": '
    + b"9" * 26
    + b', "temperature": 1, "messages": [{"role": "user", "content": "x"}]}',
    "half of a character": rb'{"messages": [{"role": "user", "content": "a\ud83d"}]}',
    "not a number": b'{"temperature": NaN, "messages": [{"role": "user", "content": "x"}]}',
}


@pytest.mark.parametrize("name", NO_JSON)
def test_what_is_no_request_is_refused_and_the_server_goes_on(small: Any, name: str) -> None:
    headers = {"content-type": "application/json"}
    refused = httpx.post(f"{small.url}/v1/chat/completions", content=NO_JSON[name], headers=headers)
    assert refused.status_code == 400 and set(refused.json()["error"]) == {"message", "type", "param", "code"}
    assert "There is no" not in refused.text, "the route is there"
    assert chat(small, temperature=1, seed=1).status_code == 200


def test_a_temperature_of_almost_nothing_is_one_of_nothing(small: Any) -> None:
    said = [chat(small, temperature=heat).json()["choices"][0]["message"]["content"] for heat in (0, 1e-30, 1e-300)]
    assert said[0] == said[1] == said[2]


def test_a_client_that_reads_nothing_holds_nobody_up(serving: Callable[..., Any]) -> None:
    with serving("dialogue", slots=1, max_tokens=900) as it:
        it.generation_worker.eos_token_ids = set()
        host, _, port = it.url.removeprefix("http://").partition(":")
        body = json.dumps({"messages": HELLO, "stream": True, "max_tokens": 900}).encode()
        with socket.socket() as link:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            link.connect((host, int(port)))
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            link.sendall(head.encode() + body)
            end = time.monotonic() + 30
            while not it.generation_worker.running and time.monotonic() < end:
                time.sleep(0.01)
            told = chat(it, max_tokens=3)  # waits for the one slot, and gets it
            assert told.status_code == 200 and told.json()["usage"]["completion_tokens"] == 3
            end = time.monotonic() + 5
            while (
                it.generation_worker.running and time.monotonic() < end
            ):  # its row leaves a moment after its last piece
                time.sleep(0.01)
            assert not it.generation_worker.running


def test_more_rows_than_may_wait_are_answered_429(serving: Callable[..., Any]) -> None:
    with serving("classification", queue=3) as it:
        session, held = it.row_worker.session, threading.Event()

        class Slow:
            def predict(self, rows: Any, numbers: Any) -> Any:
                held.wait(30)
                return session.predict(rows, numbers)

        it.row_worker.session = Slow()

        def ask(number: int) -> httpx.Response:
            return httpx.post(f"{it.url}/v1/classify", json={"input": f"parcel {number}"}, timeout=60)

        with ThreadPoolExecutor(12) as pool:
            asked = [pool.submit(ask, number) for number in range(12)]
            end = time.monotonic() + 20
            while sum(one.done() for one in asked) < 6 and time.monotonic() < end:
                time.sleep(0.02)
            held.set()
            answers = [one.result() for one in asked]
        full = [answer for answer in answers if answer.status_code == 429]
        assert full and full[0].headers["retry-after"] == "1" and full[0].json()["error"]["code"] == "queue_full"
        assert {answer.status_code for answer in answers} == {200, 429}


def test_a_row_on_which_the_model_fails_spoils_no_other(serving: Callable[..., Any]) -> None:
    with serving("classification") as it:
        session = it.row_worker.session

        class Failing:
            def predict(self, rows: Any, numbers: Any) -> Any:
                if any(row["text"] == "poison" for row in rows):
                    raise ZeroDivisionError("poison")
                return session.predict(rows, numbers)

        it.row_worker.session = Failing()
        bad = httpx.post(f"{it.url}/v1/classify", json={"input": "poison"}, timeout=60)
        assert bad.status_code == 500 and bad.json()["error"]["type"] == "server_error"
        futures = it.row_worker.submit([{"text": "good"}, {"text": "poison"}, {"text": "fine"}])
        assert futures[0].result(30)["prediction"] and futures[2].result(30)["prediction"]
        assert futures[1].exception(30) is not None


def test_a_model_folder_without_weights_is_told(
    run_of: Callable[[str], Path], workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run_of("classification") / "model", "empty")
    Path("empty/model.safetensors").unlink()
    words = ["stage=serve", "task=classification", "model.path=empty", "stage.port=0"]
    assert main(words) == 4
    told = capsys.readouterr().err
    assert "empty" in told and "Traceback" not in told
    Path("empty/model.safetensors").write_bytes(b"\x00" * 100)
    assert main(words) == 4
    assert "Traceback" not in capsys.readouterr().err


def memory(process: Running) -> int:
    """Bytes that a process holds."""
    told = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", told)[1]) * 1024  # type: ignore[index]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_a_hundred_clients_at_once_are_all_answered_and_memory_stays(
    run_of: Callable[[str], Path], workplace: Path, start_command: Callable[..., Running]
) -> None:
    words = ["stage=serve", f"model.path={run_of('dialogue')}", "stage.port=0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("LLMSTAGE_API_KEY", None)
    running = start_command(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment)
    try:
        assert running.stderr
        url = re.search(r"http://\S+", next(line for line in running.stderr if "serving" in line))[0]  # type: ignore[index]

        def ask(number: int) -> int:
            body = {"messages": [{"role": "user", "content": f"{number} " * (number % 40 + 1)}], "max_tokens": 8}
            if number % 3 == 0:  # some want to see it, and leave
                with api.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as answer:
                    next(answer.iter_lines())
                    return answer.status_code
            return api.post("/v1/chat/completions", json=body).status_code

        held = []
        with httpx.Client(base_url=url, timeout=60) as api, ThreadPoolExecutor(100) as pool:
            for _ in range(4):
                assert set(pool.map(ask, range(100))) == {200}
                held.append(memory(running))
        assert held[-1] - held[0] < 24 << 20, held
    finally:
        running.terminate()
        running.wait(timeout=30)


def test_rows_of_clients_that_ask_again_at_once_meet_in_one_batch_and_one_client_never_waits() -> None:
    from llmstage.inference.server.row_worker import RowWorker

    class Counting:
        def predict(self, rows: Any, numbers: Any) -> Any:
            time.sleep(0.04)
            return [{"prediction": row["text"]} for row in rows]

    session: Any = Counting()
    worker = RowWorker(session, 64)
    try:

        def ask(number: int) -> None:
            for _ in range(6):
                worker.submit([{"text": str(number)}])[0].result(10)
                time.sleep(0.002 * (number % 3))  # they come back a little apart

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ask, range(8)))
        together = list(worker.batch_sizes)
        assert len(together) <= 12, f"48 rows of 8 clients in {together}"
        worker.submit([{"text": "x"}])[0].result(10)
        started = time.monotonic()
        worker.submit([{"text": "x"}])[0].result(10)
        assert time.monotonic() - started < 0.1
    finally:
        worker.close()


def test_a_batch_waits_for_no_more_rows_than_are_worth_it() -> None:
    from llmstage.inference.server.row_worker import RowWorker

    class Noting:
        held, sizes = threading.Event(), []  # type: ignore[var-annotated]

        def predict(self, rows: Any, numbers: Any) -> Any:
            self.sizes.append(len(rows))
            self.held.wait(30)
            return [{"prediction": row["text"]} for row in rows]

    session: Any = Noting()
    worker = RowWorker(session, 64, full_batch=3)
    asked: list[int] = []
    next_batch = worker.next_batch

    def noted(rows: int, seconds: float) -> Any:
        asked.append(rows)
        return next_batch(rows, seconds)

    worker.next_batch = noted  # type: ignore[method-assign]
    try:
        first = worker.submit([{"text": "a"}])
        while not session.sizes:
            time.sleep(0.005)
        rest = worker.submit([{"text": str(number)} for number in range(10)])
        session.held.set()
        assert [one.result(30)["prediction"] for one in rest] == [str(number) for number in range(10)] and first[
            0
        ].done()
        worker.submit([{"text": "z"}])[0].result(30)
        assert session.sizes[:2] == [1, 10], "what waits already is taken at once"
        assert max(asked) == 3, "and no batch waits for more than three"
    finally:
        worker.close()


def test_what_is_written_in_one_turn_of_the_loop_is_sent_together_and_before_the_end() -> None:
    from llmstage.inference.server.uvicorn_internals import CoalescingTransport

    sent: list[bytes | str] = []
    transport: Any = SimpleNamespace(write=sent.append, close=lambda: sent.append("closed"), is_closing=lambda: False)

    async def replies() -> None:
        joined = CoalescingTransport(transport, asyncio.get_running_loop())
        joined.write(b"head ")
        joined.write(b"body")
        assert not sent and not joined.is_closing()
        await asyncio.sleep(0)
        assert sent == [b"head body"]
        joined.write(b"last")
        joined.close()
        await asyncio.sleep(0)

    asyncio.run(replies())
    assert sent == [b"head body", b"last", "closed"], "nothing twice, and nothing lost at the end"
