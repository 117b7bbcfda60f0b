"""A model that raises: the operator gets a traceback without the user's text, the client a 500 in OpenAI's form."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmstage import console
from llmstage.errors import ModelError
from llmstage.inference.failures import log_failure
from llmstage.inference.server.limits import RequestLimits

SECRET = "my secret 退款"


class FailingSession:
    """Raises an error that quotes the row, from another error that does too."""

    def predict(self, rows: Any, numbers: Any) -> Any:
        try:
            raise KeyError(rows[0]["text"])
        except KeyError as error:
            raise ValueError(f"cannot read {rows[0]['text']!r}") from error


def check_log(text: str) -> None:
    assert "Traceback (most recent call last):" in text and "test_failures.py" in text
    assert SECRET not in text and "secret" not in text and "退款" not in text


def check_reply(reply: httpx.Response) -> None:
    error = reply.json()["error"]
    assert reply.status_code == 500 and error["type"] == "server_error"
    assert set(error) == {"message", "type", "param", "code"} and SECRET not in reply.text


def test_the_log_has_the_tracebacks_of_all_causes_and_no_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with console.logged(tmp_path / "run.log"):
        try:
            FailingSession().predict([{"text": SECRET}], [0])
        except ValueError as error:
            log_failure("predicting", error)
    for text in (capsys.readouterr().err, (tmp_path / "run.log").read_text(encoding="utf-8")):
        check_log(text)
        assert "predicting failed: ValueError" in text
        assert text.index("builtins.KeyError") < text.index("builtins.ValueError")


def test_a_row_on_which_the_model_raises(serving: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    with serving("classification") as it:
        it.row_worker.session = FailingSession()
        capsys.readouterr()
        check_reply(httpx.post(f"{it.url}/v1/classify", json={"input": SECRET}, timeout=60))
        check_log(capsys.readouterr().err)
        assert httpx.get(f"{it.url}/health").status_code == 200


def test_a_text_on_which_the_model_raises(serving: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    with serving("dialogue") as it:
        step = it.generation_worker.step

        def failing(batch: Any) -> None:
            FailingSession().predict([{"text": SECRET}], [0])

        it.generation_worker.step = failing
        body = {"messages": [{"role": "user", "content": SECRET}], "max_tokens": 4}
        capsys.readouterr()
        check_reply(httpx.post(f"{it.url}/v1/chat/completions", json=body, timeout=60))
        check_log(capsys.readouterr().err)
        with httpx.stream("POST", f"{it.url}/v1/chat/completions", json=body | {"stream": True}, timeout=60) as reply:
            events = [json.loads(line[6:]) for line in reply.iter_lines() if line.startswith("data: {")]
        assert events[-1]["error"]["type"] == "server_error" and SECRET not in str(events)
        it.generation_worker.step = step
        assert httpx.post(f"{it.url}/v1/chat/completions", json=body, timeout=60).status_code == 200


def test_a_text_that_cannot_be_embedded_and_a_route_that_raises(
    serving: Callable[..., Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmstage.inference.server.row_routes import RowHandler

    def failing(self: Any, value: Any, number: int = 0) -> Any:
        return FailingSession().predict([{"text": SECRET}], [0])

    monkeypatch.setattr(RowHandler, "embeddings", failing)
    monkeypatch.setattr(RowHandler, "to_row", failing)
    for task, route in (("contrastive", "embed"), ("classification", "classify")):
        with serving(task) as it:
            capsys.readouterr()
            check_reply(httpx.post(f"{it.url}/v1/{route}", json={"input": SECRET}, timeout=60))
            check_log(capsys.readouterr().err)


def test_an_application_that_raises_before_its_reply_is_answered_500(capsys: pytest.CaptureFixture[str]) -> None:
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        FailingSession().predict([{"text": SECRET}], [0])

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    limits = RequestLimits(app, token=None, public_paths=set(), hosts=None, max_body_bytes=100, read_seconds=5)
    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    with ThreadPoolExecutor(1) as pool:  # a browser of another test may have left an event loop in this thread
        pool.submit(asyncio.run, limits(scope, receive, send)).result()
    assert sent[0]["status"] == 500 and json.loads(sent[1]["body"])["error"]["type"] == "server_error"
    check_log(capsys.readouterr().err)


def test_a_monitor_ends_without_the_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from llmstage.inference.monitor.classifiers import Classifier, ItemLabeler, Roles

    classifier = Classifier("sentiment", "model", FailingSession(), ["bad", "good"], "label")  # type: ignore[arg-type]
    labeler = ItemLabeler([classifier], Roles("sentiment", ["bad"], ["all"], False))
    with pytest.raises(ModelError, match=r"stage\.models\.sentiment=model failed on 1 items \(ValueError\)") as raised:
        labeler.predict(classifier, [{"text": SECRET}])
    assert SECRET not in str(raised.value) and raised.value.__suppress_context__
    check_log(capsys.readouterr().err)


def test_another_uvicorn_is_served_by_its_own_protocol(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from llmstage.inference.server import uvicorn_internals

    assert uvicorn_internals.missing_names() == []
    assert isinstance(uvicorn_internals.make_http_protocol(5), type)
    monkeypatch.setitem(uvicorn_internals.PRIVATE_NAMES, "H11Protocol", ("loop", "renamed"))
    assert uvicorn_internals.make_http_protocol(5) == "h11"
    assert "H11Protocol.renamed" in capsys.readouterr().err
