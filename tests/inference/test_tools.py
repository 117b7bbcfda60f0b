"""Tools end to end: a small model that has learned to call them is served, asked in the terminal, and scored."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from llmstage.cli.command import main
from llmstage.data.rows import BadRows
from llmstage.inference.inference_session import load_session
from llmstage.training.machine import resolve_machine

TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "About a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
        },
    }
    for name in ("get_weather", "get_time")
]
WEATHER: dict[str, Any] = {"city": "Zürich", "days": 2}
QUESTION = {"role": "user", "content": "Weather?"}
BOTH = {"role": "user", "content": "Weather and time?"}


def call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


ROWS = [
    {"tools": TOOLS, "messages": [
        QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [call("get_weather", WEATHER)]},
        {"role": "tool", "content": "sun"},
        {"role": "assistant", "content": "Sunny."},
    ]},
    {"tools": TOOLS, "messages": [
        BOTH,
        {"role": "assistant", "content": "I ask.", "tool_calls": [call("get_weather", WEATHER), call("get_time", {"city": "Rome"})]},
    ]},
    {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}]},
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a model that knows ROWS by heart; its chat template knows no tools of itself."""
    path = tmp_path_factory.mktemp("tools")
    (path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS * 4))
    (path / "tools.json").write_text(json.dumps(TOOLS))
    before = Path.cwd()
    os.chdir(path)
    try:
        data = [f"data.{split}=rows.jsonl" for split in ("train", "validation", "test")]
        words = [
            *data, "trainer=smoke", "trainer.max_steps=90", "trainer.eval_every=90", "optim.lr=4e-3", "trainer.batch_tokens=2048", "model.num_hidden_layers=2",
            "model.hidden_size=64", "model.num_attention_heads=2", "model.intermediate_size=128", "model.vocab_size=400",
            "data.context=512", "data.max_lost=1", "trainer.threads=1", "trainer.baselines=false", "generation.max_new_tokens=120",
        ]  # fmt: skip
        assert main(["stage=finetune", "task=dialogue", *words, "hydra.run.dir=model"]) == 0
    finally:
        os.chdir(before)
    return path


@pytest.fixture(scope="module")
def served(folder: Path, compose_run: Any, answering: Callable[..., Any]) -> Iterator[Any]:
    run = compose_run(
        ["stage=serve", "task=dialogue", f"model.path={folder / 'model'}", "trainer.threads=1", "stage.port=0"]
    )
    session = load_session(run, resolve_machine(run.trainer), BadRows("error", None))
    with answering(session, run.stage, "tools") as it:
        yield it


@pytest.fixture(scope="module")
def api(served: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


def ask(api: openai.OpenAI, messages: list[Any], **options: Any) -> ChatCompletion:
    reply = api.chat.completions.create(model="tools", messages=messages, **{"tools": TOOLS, **options})
    ChatCompletion.model_validate(reply.model_dump(), strict=True)
    return reply


def functions(message: Any) -> list[tuple[str, Any]]:
    return [(item.function.name, json.loads(item.function.arguments)) for item in message.tool_calls or []]


def assembled(api: openai.OpenAI, messages: list[Any], **options: Any) -> tuple[str, list[tuple[str, Any]], str]:
    """Put a stream together as clients do, and check its chunks against OpenAI's types."""
    content, calls, finish = "", {}, ""
    for chunk in api.chat.completions.create(
        model="tools", messages=messages, stream=True, **{"tools": TOOLS, **options}
    ):
        ChatCompletionChunk.model_validate(chunk.model_dump(), strict=True)
        for choice in chunk.choices:
            content += choice.delta.content or ""
            finish = choice.finish_reason or finish
            for part in choice.delta.tool_calls or []:
                entry = calls.setdefault(part.index, {"id": "", "name": "", "arguments": ""})
                entry["id"] += part.id or ""
                entry["name"] += part.function.name or ""
                entry["arguments"] += part.function.arguments or ""
    assert list(calls) == list(range(len(calls))) and all(entry["id"] for entry in calls.values())
    return content, [(entry["name"], json.loads(entry["arguments"])) for entry in calls.values()], finish


def test_a_call_its_result_and_the_answer(api: openai.OpenAI) -> None:
    first = ask(api, [QUESTION])
    message = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls" and message.content is None
    assert functions(message) == [("get_weather", WEATHER)]
    # The message goes back as the client returned it, and the result after it.
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sun"}
    last = ask(api, [QUESTION, message, result])
    assert (last.choices[0].message.content, last.choices[0].finish_reason) == ("Sunny.", "stop")
    assert ask(api, [{"role": "user", "content": "Hello"}], tools=openai.NOT_GIVEN).choices[0].message.content == "Hi!"


def test_parallel_calls_whole_and_streamed(api: openai.OpenAI) -> None:
    message = ask(api, [BOTH]).choices[0].message
    expected = [("get_weather", WEATHER), ("get_time", {"city": "Rome"})]
    assert message.content == "I ask." and functions(message) == expected
    assert assembled(api, [BOTH]) == ("I ask.", expected, "tool_calls")
    one = ask(api, [BOTH], parallel_tool_calls=False)
    assert functions(one.choices[0].message) == expected[:1] and one.choices[0].finish_reason == "tool_calls"
    assert assembled(api, [BOTH], parallel_tool_calls=False) == ("I ask.", expected[:1], "tool_calls")
    with api.chat.completions.stream(
        model="tools", messages=[BOTH], tools=TOOLS
    ) as stream:  # the client's own assembly
        assert functions(stream.get_final_completion().choices[0].message) == expected


def test_tool_choice(api: openai.OpenAI) -> None:
    hello = [{"role": "user", "content": "Hello"}]
    named = {"type": "function", "function": {"name": "get_time"}}
    for messages in (hello, [BOTH]):
        forced = ask(api, messages, tool_choice=named)
        assert [name for name, _ in functions(forced.choices[0].message)] == ["get_time"], forced
        content, calls, finish = assembled(api, messages, tool_choice=named)
        assert (content, [name for name, _ in calls], finish) == ("", ["get_time"], "tool_calls")
    required = ask(api, [QUESTION], tool_choice="required").choices[0]
    assert functions(required.message) == [("get_weather", WEATHER)] and required.message.content is None
    none = ask(api, [QUESTION], tool_choice="none").choices[0]
    assert none.message.tool_calls is None and none.finish_reason in ("stop", "length")
    assert ask(api, hello, tools=[], tool_choice="auto").choices[0].message.content == "Hi!"


def test_a_reply_that_is_cut_inside_a_call_is_text(api: openai.OpenAI) -> None:
    cut = ask(api, [QUESTION], max_tokens=8).choices[0]
    assert cut.finish_reason == "length" and cut.message.tool_calls is None
    assert "<tool_call>" in cut.message.content and cut.message.malformed_tool_calls == 1
    content, calls, finish = assembled(api, [QUESTION], max_tokens=8)
    assert (content, calls, finish) == (cut.message.content, [], "length")


NEUTRAL: dict[str, Any] = {
    "response_format": {"type": "text"}, "tools": [], "tool_choice": "none", "parallel_tool_calls": True, "logit_bias": {},
    "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "top_logprobs": 0, "logprobs": False, "user": "me", "n": 1,
    "safety_identifier": "x", "prompt_cache_key": "y", "modalities": ["text"], "functions": [], "function_call": "none",
    "presence_penalty": 0, "frequency_penalty": 0, "reasoning_effort": None, "verbosity": None, "prediction": None, "audio": None,
    "seed": None, "stop": None, "stream_options": None, "temperature": None, "top_p": None, "max_tokens": None,
}  # fmt: skip


def test_neutral_values_are_accepted_and_others_are_refused_by_name(served: Any) -> None:
    hello = [{"role": "user", "content": "Hello"}]
    url = f"{served.url}/v1/chat/completions"
    for fields in (NEUTRAL, dict.fromkeys(NEUTRAL)):
        reply = httpx.post(url, json={"messages": hello, **fields}, timeout=60)
        assert reply.status_code == 200, reply.text
        assert reply.json()["choices"][0]["message"]["content"] == "Hi!"
    named = {"type": "function", "function": {"name": "fly"}}
    strict = [{"type": "function", "function": {"name": "f", "strict": True}}]
    refused: dict[str, tuple[dict[str, Any], str]] = {
        "response_format": ({"response_format": {"type": "json_object"}}, "response_format"),
        "logit_bias": ({"logit_bias": {"5": 1}}, "logit_bias"),
        "strict": ({"tools": strict}, "strict"),
        "top_logprobs": ({"top_logprobs": 3}, "top_logprobs"),
        "no tools": ({"tool_choice": "required"}, "tool_choice"),
        "unknown tool": ({"tools": TOOLS, "tool_choice": named}, "fly"),
        "two tools": ({"tools": [*TOOLS, TOOLS[0]]}, "get_weather"),
        "name": ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "name"),
        "reasoning_effort": ({"reasoning_effort": "high"}, "reasoning_effort"),
        "template": ({"chat_template_kwargs": {"enable_thinking": False}}, "enable_thinking"),
        "reserved": ({"chat_template_kwargs": {"tools": []}}, "tools"),
    }
    for fields, word in refused.values():
        reply = httpx.post(url, json={"messages": hello, **fields}, timeout=60)
        assert reply.status_code == 400 and word in reply.json()["error"]["message"], reply.text
    bad_messages = (
        ({"role": "assistant", "content": None}, "null"),
        ({"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{"}}]}, "JSON"),
        ({"role": "user", "content": None}, "null"),
        ({"role": "tool", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "content"),
    )  # fmt: skip
    for message, word in bad_messages:
        reply = httpx.post(url, json={"messages": [*hello, message]}, timeout=60)
        assert reply.status_code == 400 and word in reply.json()["error"]["message"], reply.text
        assert "messages.1" in reply.json()["error"]["message"]


def test_max_tokens_reaches_to_the_context_and_the_cut_is_told(served: Any, api: openai.OpenAI) -> None:
    text = api.completions.create(model="tools", prompt="a", max_tokens=100_000, temperature=2.0, seed=1)
    usage, longest = text.usage, served.generation_worker.max_length
    assert usage.total_tokens <= longest
    assert text.choices[0].finish_reason == ("length" if usage.total_tokens == longest else "stop")


def test_the_finetuned_model_is_scored_by_its_calls(folder: Path) -> None:
    scores = json.loads((folder / "model" / "report.json").read_text())["scores"]["test"]
    # Each of the four copies of ROWS has three calls in its references, and two replies that call nothing: one with tools.
    assert {name: scores[name]["value"] for name in scores if name.startswith("tool_calls")} == {
        "tool_calls_exact": 1, "tool_calls_named": 1, "tool_calls_json": 1, "tool_calls_needless": 0,
    }  # fmt: skip
    assert scores["tool_calls_exact"]["count"] == 12 and scores["tool_calls_needless"]["count"] == 4
    assert 0.7 < scores["tool_calls_exact"]["low"] < 1


def test_predict_writes_the_calls(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    rows = [{"tools": TOOLS, "messages": [BOTH]}, {"messages": [{"role": "user", "content": "Hello"}]}]
    (folder / "ask.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["model.path=model", "data.test=ask.jsonl", "trainer.threads=1", "hydra.run.dir=predicted"]
    assert main(["stage=predict", "task=dialogue", *words]) == 0
    called, plain = map(json.loads, (folder / "predicted" / "predictions.jsonl").read_text().splitlines())
    functions = [item["function"] for item in called["tool_calls"]]
    assert [(item["name"], item["arguments"]) for item in functions] == [
        ("get_weather", WEATHER),
        ("get_time", {"city": "Rome"}),
    ]
    assert called["content"] == "I ask." and "<tool_call>" in called["prediction"]
    assert plain["prediction"] == "Hi!" and "tool_calls" not in plain


def test_the_terminal_shows_calls_and_takes_results(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    (folder / "turns.txt").write_text("Weather?\ntool: sun\n/reset\nHello\n")
    words = [
        "stage=chat",
        "model.path=model",
        "stage.tools=tools.json",
        "generation.max_new_tokens=120",
        "trainer.threads=1",
    ]
    capsys.readouterr()
    assert main([*words, "stage.script=turns.txt", "hydra.run.dir=chat", "stage.save=/dev/null"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert lines[0] == '→ get_weather {"city": "Zürich", "days": 2}' and lines[1] == "Sunny." and len(lines) == 3
    # What is kept is a row that trains.
    (folder / "more.txt").write_text("Weather?\ntool: sun\n")
    assert main([*words, "stage.script=more.txt", "stage.save=kept.jsonl", "hydra.run.dir=chat2"]) == 0
    kept = json.loads((folder / "kept.jsonl").read_text())
    assert [message["role"] for message in kept["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert kept["messages"][1]["tool_calls"][0]["function"] == {"name": "get_weather", "arguments": WEATHER}
    assert kept["tools"] == TOOLS
    (folder / "wrong.txt").write_text("tool: sun\n")
    assert main([*words, "stage.script=wrong.txt", "hydra.run.dir=chat3"]) == 3
    (folder / "bad.json").write_text('[{"description": "no name"}]')
    assert main(["stage=chat", "model.path=model", "stage.tools=bad.json", "hydra.run.dir=chat4"]) == 2
    assert "stage.tools=bad.json" in capsys.readouterr().err


def test_the_page_shows_calls_and_asks_for_results(served: Any, visit: Callable[..., Any]) -> None:
    page = visit(served.url)
    page.locator("details", has=page.locator("#tools")).locator("summary").first.click()
    page.fill("#tools", json.dumps(TOOLS))
    page.fill("#message", "Weather?")
    page.press("#message", "Enter")
    page.locator(".call").wait_for()
    assert page.locator(".call code").inner_text() == "get_weather"
    assert json.loads(page.locator(".call pre").inner_text()) == WEATHER
    page.wait_for_selector('#message[placeholder*="get_weather"]')
    page.fill("#message", "sun")
    page.press("#message", "Enter")
    page.get_by_text("Sunny.", exact=True).wait_for()
    page.fill("#tools", "{")
    page.fill("#message", "again")
    page.press("#message", "Enter")
    page.get_by_text("not a JSON list").wait_for()


def test_a_completion_is_that_of_generate_with_and_without_a_start_token(
    folder: Path, served: Any, api: openai.OpenAI, compose_run: Any, answering: Callable[..., Any]
) -> None:
    """The tokenizer of SmolLM2 has a start token and puts none before a text; those that are trained here do."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    bare = folder / "bare"
    shutil.copytree(folder / "model" / "model", bare)
    state = json.loads((bare / "tokenizer.json").read_text())
    state["post_processor"] = None
    (bare / "tokenizer.json").write_text(json.dumps(state))
    model = AutoModelForCausalLM.from_pretrained(bare).eval()

    def generated(path: Path, prompt: str) -> str:
        tokenizer = AutoTokenizer.from_pretrained(path)
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        new = model.generate(input_ids=ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
        return str(tokenizer.decode(new, skip_special_tokens=True))

    prompts = ["Sunny", "I ask", "Hello. Weather"]
    texts = [choice.text for choice in api.completions.create(model="tools", prompt=prompts, max_tokens=12).choices]
    assert texts == [generated(folder / "model" / "model", prompt) for prompt in prompts]
    run = compose_run(
        [
            "stage=serve",
            "task=dialogue",
            f"model.path={bare}",
            "trainer.threads=1",
            "stage.port=0",
            "stage.max_tokens=12",
        ]
    )
    session = load_session(run, resolve_machine(run.trainer), BadRows("error", None))
    with answering(session, run.stage, "bare") as it:
        client = openai.OpenAI(base_url=f"{it.url}/v1", api_key="none", max_retries=0)
        texts = [choice.text for choice in client.completions.create(model="bare", prompt=prompts).choices]
        assert texts == [generated(bare, prompt) for prompt in prompts]
        with pytest.raises(openai.BadRequestError, match=r"stage\.max_tokens"):
            client.completions.create(model="bare", prompt="a", max_tokens=13)
