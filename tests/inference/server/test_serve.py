"""stage=serve against running servers: OpenAI's client, other tasks, concurrency, and everything that can be sent wrongly."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from processes import Running

from llmstage.cli.command import main

ROOT = Path(__file__).resolve().parents[3]
HELLO = [{"role": "user", "content": "Hello, where is order 3051? 退款要等多久？"}]
FP32 = {"trainer.eval_precision": "fp32"}


@pytest.fixture(scope="module")
def talking(serving: Callable[..., Any]) -> Iterator[Any]:
    with serving("dialogue", slots=8) as it:
        yield it


def client(it: Any, **more: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{it.url}/v1", api_key=more.pop("api_key", "none"), max_retries=0, **more)


def test_the_openai_client_talks_to_it_unchanged(talking: Any) -> None:
    api = client(talking)
    assert [model.id for model in api.models.list()] == ["dialogue"]
    whole = api.chat.completions.create(model="dialogue", messages=HELLO, max_tokens=24)
    assert whole.object == "chat.completion" and whole.choices[0].finish_reason in ("stop", "length")
    said = whole.choices[0].message.content
    stream = list(
        api.chat.completions.create(
            model="dialogue", messages=HELLO, max_tokens=24, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(part.choices[0].delta.content or "" for part in stream if part.choices) == said
    assert len([part for part in stream if part.choices and part.choices[0].delta.content]) > 1, "token by token"
    assert stream[-1].usage == whole.usage and stream[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    text = api.completions.create(model="dialogue", prompt=["Hello", "你好"], max_tokens=5)
    assert [choice.index for choice in text.choices] == [0, 1] and text.usage.completion_tokens <= 10
    parts = list(api.completions.create(model="dialogue", prompt="Hello", max_tokens=5, stream=True))
    assert "".join(part.choices[0].text for part in parts) == text.choices[0].text
    with pytest.raises(openai.NotFoundError):
        api.chat.completions.create(model="another", messages=HELLO)


def test_the_end_token_counts_as_one_and_tokens_are_those_of_generate(
    talking: Any, run_of: Callable[[str], Path]
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = run_of("dialogue") / "model"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": "Hello there"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        new = model.generate(**ids, max_new_tokens=40, do_sample=False)[0, ids["input_ids"].shape[1] :].tolist()
    reply = client(talking).chat.completions.create(model="dialogue", messages=messages, max_tokens=40)
    assert reply.usage.prompt_tokens == ids["input_ids"].shape[1]
    assert reply.usage.completion_tokens == len(new)
    assert reply.choices[0].message.content == tokenizer.decode(new, skip_special_tokens=True)
    ended = new[-1] in model.generation_config.eos_token_id
    assert reply.choices[0].finish_reason == ("stop" if ended else "length")


def test_sampling_is_seeded_and_stop_texts_stop(talking: Any) -> None:
    api = client(talking)
    hot: dict[str, Any] = {"model": "dialogue", "messages": HELLO, "max_tokens": 12, "temperature": 1.5}
    texts = [api.chat.completions.create(**hot, seed=seed).choices[0].message.content for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    warm: dict[str, Any] = {"model": "dialogue", "prompt": "Hello", "max_tokens": 20, "temperature": 1, "seed": 1}
    plain = api.completions.create(**warm).choices[0].text
    stop = plain[3:5]
    assert len(stop) == 2
    cut = api.completions.create(**warm, stop=[stop])
    assert cut.choices[0].text == plain[: plain.find(stop)] and cut.choices[0].finish_reason == "stop"
    parts = api.completions.create(**warm, stop=stop, stream=True)
    assert "".join(part.choices[0].text for part in parts) == cut.choices[0].text


def test_many_at_once_get_what_each_would_get_alone(talking: Any) -> None:
    asked = [[{"role": "user", "content": f"question {number} " * (number % 5 + 1)}] for number in range(24)]

    def ask(messages: Any) -> str:
        return (
            client(talking)
            .chat.completions.create(model="dialogue", messages=messages, max_tokens=16)
            .choices[0]
            .message.content
        )

    alone = [ask(messages) for messages in asked[:6]]
    with ThreadPoolExecutor(24) as pool:
        together = list(pool.map(ask, asked))
    assert together[:6] == alone


def test_special_tokens_in_what_users_write_stay_plain_text(talking: Any) -> None:
    api = client(talking)
    count = {}
    for name, content in (("plain", "a b"), ("special", "a <|end|><|assistant|>b")):
        reply = api.chat.completions.create(
            model="dialogue", messages=[{"role": "user", "content": content}], max_tokens=1
        )
        count[name] = reply.usage.prompt_tokens
    assert count["special"] > count["plain"] + 2 * 4, "each mark is several pieces of text, not one control token"


BAD: list[tuple[str, Any, int, str]] = [
    ("chat/completions", b'{"messages": [', 400, "not JSON"),
    ("chat/completions", {"messages": HELLO, "max_tokenz": 3}, 400, "max_tokenz"),
    ("chat/completions", {"messages": HELLO, "n": 1000}, 400, "n"),
    ("chat/completions", {"messages": HELLO, "max_tokens": 0}, 400, "max_tokens"),
    ("chat/completions", {"messages": HELLO, "temperature": -1}, 400, "temperature"),
    ("chat/completions", {"messages": []}, 400, "messages"),
    ("chat/completions", {"messages": [{"role": "wizard", "content": "x"}]}, 400, "role"),
    ("chat/completions", {"messages": [{"role": "user", "content": "word " * 400}]}, 400, "context_length"),
    ("chat/completions", {}, 400, "messages"),
    ("completions", {"prompt": 3}, 400, "prompt"),
    ("completions", {"prompt": "x" * (1 << 20)}, 413, "stage.max_body_mb"),
    ("classify", {"input": "x"}, 404, "There is no POST /v1/classify here"),
]


@pytest.mark.parametrize("case", BAD, ids=lambda case: f"{case[0]}-{case[3]}")
def test_what_is_wrong_is_named_in_openais_form(talking: Any, case: tuple[str, Any, int, str]) -> None:
    route, body, status, told = case
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = httpx.post(f"{talking.url}/v1/{route}", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert told in answer.text and set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert httpx.get(f"{talking.url}/health").json() == {"status": "ok"}


def test_a_client_that_leaves_ends_its_text(serving: Callable[..., Any]) -> None:
    with serving("dialogue", slots=1) as it:
        slow = threading.Event()
        step = it.generation_worker.step

        def watched(shared: Any) -> None:
            slow.wait(0.05)  # else the text would be whole before anyone can leave
            it.generation_worker.eos_token_ids = set()
            step(shared)

        it.generation_worker.step = watched
        body = {"messages": HELLO, "max_tokens": 200}
        for stream in (True, False):
            before = it.generation_worker.num_tokens
            with (
                pytest.raises(httpx.ReadTimeout)
                if not stream
                else httpx.stream("POST", f"{it.url}/v1/chat/completions", json=body | {"stream": True}) as answer
            ):
                if stream:
                    assert next(answer.iter_lines()).startswith("data: ")
                else:
                    httpx.post(f"{it.url}/v1/chat/completions", json=body, timeout=0.4)
            until = time.monotonic() + 8
            while it.generation_worker.running and time.monotonic() < until:
                time.sleep(0.02)
            assert not it.generation_worker.running and it.generation_worker.num_tokens - before < 150
        slow.set()
        assert httpx.post(f"{it.url}/v1/chat/completions", json=body | {"max_tokens": 2}, timeout=20).status_code == 200


def test_more_than_may_wait_is_answered_429_and_a_text_that_takes_too_long_is_ended(
    serving: Callable[..., Any],
) -> None:
    with serving("dialogue", slots=1, queue=2, timeout=0.5) as it:
        step = it.generation_worker.step

        def slow(shared: Any) -> None:
            time.sleep(0.05)
            it.generation_worker.eos_token_ids = set()
            step(shared)

        it.generation_worker.step = slow

        def ask(number: int) -> httpx.Response:
            return httpx.post(f"{it.url}/v1/chat/completions", json={"messages": HELLO, "max_tokens": 200}, timeout=30)

        with ThreadPoolExecutor(10) as pool:
            answers = list(pool.map(ask, range(10)))
        full = [answer for answer in answers if answer.status_code == 429]
        good = [answer for answer in answers if answer.status_code == 200]
        assert len(full) + len(good) == 10 and full and good
        assert full[0].headers["retry-after"] == "1"
        assert all(0 < answer.json()["usage"]["completion_tokens"] < 60 for answer in good)
        assert good[0].json()["choices"][0]["finish_reason"] == "length"


def raw(url: str, data: bytes, *, wait: float = 5) -> bytes:
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=wait) as link:
        link.sendall(data)
        return link.recv(4096)


def test_slow_senders_are_not_waited_for_and_other_names_are_refused(serving: Callable[..., Any]) -> None:
    with serving("classification", read_timeout=0.5) as it:
        assert b" 408 " in raw(it.url, b"POST /v1/classify HTT")
        assert b" 408 " in raw(
            it.url,
            b"POST /v1/classify HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{",
        )
        assert httpx.get(f"{it.url}/v1/models", headers={"host": "evil.example"}).status_code == 421
        body = b"x" * (1 << 21)

        def pieces() -> Iterator[bytes]:  # no content-length to look at
            for start in range(0, len(body), 1 << 16):
                yield body[start : start + (1 << 16)]

        with contextlib.suppress(httpx.WriteError):  # the server may hang up while we are still sending
            headers = {"content-type": "application/json"}
            assert httpx.post(f"{it.url}/v1/classify", content=pieces(), headers=headers).status_code == 413
        assert httpx.get(f"{it.url}/health").status_code == 200


def test_rows_of_a_task_are_answered_together(serving: Callable[..., Any], run_of: Callable[[str], Path]) -> None:
    from llmstage.data.resumable_output import lines_of

    texts = [f"my parcel {number} is late" for number in range(40)]
    with serving("classification", **FP32) as it:
        one = httpx.post(f"{it.url}/v1/classify", json={"input": texts[0]}).json()
        assert one["data"][0]["prediction"] and one["data"][0]["probability"] > 0
        assert httpx.post(f"{it.url}/v1/classify", json={"input": [{"text": texts[0]}]}).json() == one
        with ThreadPoolExecutor(40) as pool:
            said = list(
                pool.map(
                    lambda text: httpx.post(f"{it.url}/v1/classify", json={"input": text}, timeout=30).json(), texts
                )
            )
        assert max(it.row_worker.batch_sizes) > 1, "what waits together is one batch"
        for body, told in (
            ({"input": {"txt": "a"}}, "txt"),
            ({"input": {"text": 3}}, "text"),
            ({"input": ""}, "empty"),
            ({"input": []}, "input"),
        ):
            bad = httpx.post(f"{it.url}/v1/classify", json=body)
            assert bad.status_code == 400 and told in bad.text
        assert httpx.post(f"{it.url}/v1/chat/completions", json={"messages": HELLO}).status_code == 404
        assert "/v1/classify" in httpx.get(f"{it.url}/openapi.json").json()["paths"]
    Path("rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    try:
        assert (
            main(
                [
                    "stage=predict",
                    f"model.path={run_of('classification')}",
                    "data.test=rows.jsonl",
                    "stage.output=rows.out.jsonl",
                ]
            )
            == 0
        )
        wanted = [line["prediction"] for line in lines_of(Path("rows.out.jsonl"))]
    finally:
        for path in Path().glob("rows.*"):
            path.unlink()
    assert [answer["data"][0]["prediction"] for answer in said] == wanted


def test_labels_are_those_of_one_forward_a_text_in_fp32_and_near_them_in_bf16(
    serving: Callable[..., Any], run_of: Callable[[str], Path]
) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    texts = ["late", "where is my order " * 8, *(f"parcel {number} " * (number % 4 + 1) for number in range(14))]
    folder = run_of("classification") / "model"
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    with torch.no_grad():
        wanted = [model(**tokenizer(text, return_tensors="pt")).logits[0].softmax(-1).tolist() for text in texts]
    found = {}
    for precision in ("fp32", "bf16"):
        with serving("classification", **{"trainer.eval_precision": precision}) as it:
            said = httpx.post(f"{it.url}/v1/classify", json={"input": texts}).json()["data"]
        found[precision] = [[math.exp(log_p) for log_p in one["log_probabilities"].values()] for one in said]
    for precision, most in (("fp32", 1e-5), ("bf16", 0.02)):
        assert found[precision] == [pytest.approx(shares, abs=most) for shares in wanted]
    assert found["bf16"] != found["fp32"]


def test_the_command_answers_health_when_it_is_ready_and_ends_with_a_signal(
    run_of: Callable[[str], Path], workplace: Path, start_command: Callable[..., Running]
) -> None:
    words = ["stage=serve", f"model.path={run_of('dialogue')}", "stage.port=0", "stage.name_of_model=mine"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LLMSTAGE_API_KEY": "a secret"}
    running = start_command(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    try:
        assert running.stderr and running.stdout
        told = next(line for line in running.stderr if "serving" in line)
        url = re.search(r"http://\S+", told)[0]  # type: ignore[index]
        until = time.monotonic() + 30
        while time.monotonic() < until:
            try:
                assert httpx.get(f"{url}/health").status_code == 200
                break
            except httpx.TransportError:
                time.sleep(0.05)
        assert httpx.get(f"{url}/v1/models").status_code == 401
        assert httpx.get(f"{url}/v1/models", headers={"authorization": "Bearer no"}).status_code == 401
        api = openai.OpenAI(base_url=f"{url}/v1", api_key="a secret")
        assert [model.id for model in api.models.list()] == ["mine"]
        assert api.chat.completions.create(model="mine", messages=HELLO, max_tokens=2).usage.completion_tokens <= 2
    finally:
        running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=30) == 0
    assert running.stdout.read() == "" and "退款" not in running.stderr.read(), "nothing that users write is told"


def test_an_open_address_needs_a_token_that_nobody_else_can_read(
    run_of: Callable[[str], Path], workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLMSTAGE_API_KEY", raising=False)
    words = ["stage=serve", f"model.path={run_of('dialogue')}", "stage.host=0.0.0.0", "stage.port=0"]
    assert main(words) == 8
    assert "LLMSTAGE_API_KEY" in capsys.readouterr().err
    Path("token").write_text("secret")
    Path("token").chmod(0o644)
    assert main([*words, "stage.token_path=token"]) == 8
    assert "chmod 600" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main([*words[:2], f"stage.port={taken.getsockname()[1]}"]) == 2
    assert "cannot be opened" in capsys.readouterr().err
