"""Every layout of conversations gives the normal form, compared with what was written by hand."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llmstage.config.data import DataConfig
from llmstage.data.chat_formats import has_target, to_messages
from llmstage.data.file_source import options_of
from llmstage.data.row_source import RowSource
from llmstage.data.rows import Columns
from llmstage.data.splits import open_splits
from llmstage.errors import DataError

CHAT = Columns(("messages",), ("recalls",))
CASES = Path(__file__).resolve().parents[2].parent / "shared" / "cases"
DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def answer(text: str, **further: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **further}


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def result(text: str, **further: Any) -> dict[str, Any]:
    return {"role": "tool", "content": text, **further}


def call(name: str, arguments: dict[str, Any], **further: Any) -> dict[str, Any]:
    return {**further, "type": "function", "function": {"name": name, "arguments": arguments}}


def schema(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}


HELLO = [user("hi"), answer("hello")]
BARE = schema("area")["function"]

LAYOUTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "openai": ({"messages": [system("s"), *HELLO]}, {"messages": [system("s"), *HELLO]}),
    "openai weight": (
        {"messages": [user("a"), answer("b", weight=0), user("c"), answer("d", weight=1)]},
        {"messages": [user("a"), answer("b", learn=False), user("c"), answer("d")]},
    ),
    "openai tools": (
        {
            "messages": [
                user("weather?"),
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"id": "c1", "type": "function", "function": {"name": "w", "arguments": '{"city": "Rome"}'}},
                        {"id": "c2", "type": "function", "function": {"name": "w", "arguments": ""}},
                    ],
                },
                {"role": "tool", "tool_call_id": "c1", "content": "12 C"},
                answer("12 degrees"),
            ],
            "tools": json.dumps([schema("w")]),
            "parallel_tool_calls": None,
        },
        {
            "messages": [
                user("weather?"),
                answer("", tool_calls=[call("w", {"city": "Rome"}, id="c1"), call("w", {}, id="c2")]),
                result("12 C", tool_call_id="c1"),
                answer("12 degrees"),
            ],
            "tools": [schema("w")],
            "parallel_tool_calls": None,
        },
    ),
    "openai functions": (
        {
            "messages": [
                {"role": "developer", "content": "s"},
                user("area?"),
                {"role": "assistant", "content": None, "function_call": {"name": "area", "arguments": "{}"}},
                {"role": "function", "name": "area", "content": "15"},
                answer("15"),
            ],
            "functions": [BARE],
        },
        {
            "messages": [
                system("s"),
                user("area?"),
                answer("", tool_calls=[call("area", {})]),
                result("15", name="area"),
                answer("15"),
            ],
            "tools": [schema("area")],
        },
    ),
    "parts": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "c"}]},
            ]
        },
        {"messages": [user("ab"), answer("c", reasoning_content="hm")]},
    ),
    "image parts": (
        {"messages": [{"role": "user", "content": [{"type": "image", "url": "a.png"}, "what?"]}, answer("a cat")]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "image", "url": "a.png"}, {"type": "text", "text": "what?"}]},
                answer("a cat"),
            ]
        },
    ),
    "anthropic": (
        {
            "messages": [
                user("area?"),
                {
                    "role": "assistant",
                    "content": [
                        {"type": "text", "text": "I look."},
                        {"type": "tool_use", "id": "t1", "name": "area", "input": {"a": 3}},
                    ],
                },
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "9"}]},
                answer("9"),
            ]
        },
        {
            "messages": [
                user("area?"),
                answer("I look.", tool_calls=[call("area", {"a": 3}, id="t1")]),
                result("9", tool_call_id="t1"),
                answer("9"),
            ]
        },
    ),
    "sharegpt": (
        {
            "conversations": [
                {"from": "human", "value": "area?"},
                {"from": "function_call", "value": '{"name": "area", "arguments": {"a": 3}}'},
                {"from": "observation", "value": '{"area": 9}'},
                {"from": "gpt", "value": "9"},
            ],
            "system": "s",
            "tools": json.dumps([BARE]),
        },
        {
            "messages": [
                system("s"),
                user("area?"),
                answer("", tool_calls=[call("area", {"a": 3})]),
                result('{"area": 9}'),
                answer("9"),
            ],
            "tools": [schema("area")],
        },
    ),
    "sharegpt several calls with thought": (
        {
            "conversations": [
                {"from": "human", "value": "q"},
                {
                    "from": "function_call",
                    "value": '<think>\nboth\n</think>\n\n[{"name": "f", "arguments": {}}, {"name": "g", "arguments": "{}"}]',
                },
                {"from": "tool", "value": "1"},
                {"from": "gpt", "value": "done"},
            ],
            "tools": "[]",
        },
        {
            "messages": [
                user("q"),
                answer("", reasoning_content="both", tool_calls=[call("f", {}), call("g", {})]),
                result("1"),
                answer("done"),
            ]
        },
    ),
    "axolotl train": (
        {
            "conversations": [
                {"from": "human", "value": "a", "train": False},
                {"from": "gpt", "value": "b", "train": False},
                {"from": "human", "value": "c"},
                {"from": "gpt", "value": "d", "train": True},
            ]
        },
        {"messages": [user("a"), answer("b", learn=False), user("c"), answer("d")]},
    ),
    "llama-factory loss_weight": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "value": "a"}], "loss_weight": 0.0},
                {"role": "assistant", "content": [{"type": "text", "value": "b"}], "loss_weight": 1.0},
            ]
        },
        {"messages": [user("a"), answer("b")]},
    ),
    "alpaca": (
        {"instruction": "add", "input": "1 2", "output": "3", "system": "s", "history": [["q1", "a1"], ["q2", "a2"]]},
        {"messages": [system("s"), user("q1"), answer("a1"), user("q2"), answer("a2"), user("add\n\n1 2"), answer("3")]},
    ),
    "dolly": (
        {"instruction": "who?", "context": "Anna sings.", "response": "Anna", "category": "closed_qa"},
        {"messages": [user("who?\n\nAnna sings."), answer("Anna")], "category": "closed_qa"},
    ),
    "question with context": (
        {"question": "who?", "context": ["Anna sings.", "Ben reads."], "answer": "Anna"},
        {"messages": [user("who?\n\nAnna sings.\n\nBen reads."), answer("Anna")]},
    ),
    "capital letters": ({"Question": "q", "Response": "?", "Answer": "a"}, {"messages": [user("q"), answer("a")], "Response": "?"}),
    "openorca": (
        {"id": "1", "system_prompt": "s", "question": "q", "response": "?", "answer": "a"},
        {"messages": [system("s"), user("q"), answer("a")], "id": "1", "response": "?"},
    ),
    "trl": ({"prompt": "q", "completion": "a"}, {"messages": [user("q"), answer("a")]}),
    "trl conversational": (
        {
            "prompt": [system("s"), user("a"), answer("b"), user("c")],
            "completion": [answer("d")],
            "chat_template_kwargs": {"enable_thinking": False},
        },
        {
            "messages": [system("s"), user("a"), answer("b", learn=False), user("c"), answer("d")],
            "chat_template_kwargs": {"enable_thinking": False},
        },
    ),
    "template arguments": (
        {"messages": HELLO, "documents": [{"title": "t", "text": "x"}], "enable_thinking": True},
        {
            "messages": HELLO,
            "chat_template_kwargs": {"documents": [{"title": "t", "text": "x"}], "enable_thinking": True},
        },
    ),
    "kto": (
        {"prompt": "q", "completion": "go away", "label": False},
        {"messages": [user("q"), answer("go away", learn=False)]},
    ),
    "kto desirable": ({"messages": HELLO, "label": True}, {"messages": HELLO}),
    "kto_tag in a table": (
        {"prompt": "q", "completion": "a", "kto_tag": "false"},
        {"messages": [user("q"), answer("a", learn=False)]},
    ),
    "a topic as label": ({"messages": HELLO, "label": "greeting"}, {"messages": HELLO, "label": "greeting"}),
    "row weight": ({"messages": HELLO, "weight": 0}, {"messages": [user("hi"), answer("hello", learn=False)]}),
    "reasoning": (
        {"messages": [user("q"), answer("a", reasoning="hm")]},
        {"messages": [user("q"), answer("a", reasoning_content="hm")]},
    ),
    "reasoning in a column": (
        {"question": "q", "answer": "a", "thinking": "hm"},
        {"messages": [user("q"), answer("a", reasoning_content="hm")]},
    ),
    "firefly": (
        {"conversation": [{"human": "a", "assistant": "b"}, {"human": "c", "assistant": "d"}]},
        {"messages": [user("a"), answer("b"), user("c"), answer("d")]},
    ),
    "xtuner": (
        {"conversation": [{"system": "s", "input": "a", "output": "b"}, {"input": "c", "output": "d", "output_with_loss": False}]},
        {"messages": [system("s"), user("a"), answer("b"), user("c"), answer("d", learn=False)]},
    ),
    "dailydialog": ({"dialog": ["a", "b", "c", "d"]}, {"messages": [user("a"), answer("b"), user("c"), answer("d")]}),
    "kdconv": (
        {"messages": [{"message": "a", "attrs": [{"name": "x"}]}, {"message": "b"}], "name": "n"},
        {"messages": [user("a"), answer("b")], "name": "n"},
    ),
    "multiwoz": (
        {"goal": {"hotel": {}}, "log": [{"text": "a", "metadata": {}}, {"text": "b", "metadata": {"x": 1}}]},
        {"messages": [user("a"), answer("b")], "goal": {"hotel": {}}},
    ),
    "multiwoz 2.2": (
        {"turns": [{"speaker": "USER", "utterance": "a"}, {"speaker": "SYSTEM", "utterance": "b"}]},
        {"messages": [user("a"), answer("b")]},
    ),
    "messages as a text": ({"messages": json.dumps(HELLO)}, {"messages": HELLO}),
    "ipython": (
        {"messages": [user("a"), answer("b"), {"role": "ipython", "content": {"x": 1}}, answer("c")]},
        {"messages": [user("a"), answer("b"), result('{"x": 1}'), answer("c")]},
    ),
    "one role twice": ({"messages": [user("a"), user("b"), answer("c")]}, {"messages": [user("a"), user("b"), answer("c")]}),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_becomes_the_normal_form(name: str) -> None:
    record, expected = LAYOUTS[name]
    found = to_messages(json.loads(json.dumps(record)))
    assert found == expected
    # The normal form is a layout too.
    assert isinstance(found, dict) and to_messages(found) == expected


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "half a weight": ({"messages": [user("a"), answer("b", weight=0.5)]}, "message 2: weight is 0.5"),
    "train on a question": (
        {"messages": [{**user("a"), "train": True}, answer("b")]},
        "message 1: train is True on a message of the role user",
    ),
    "mask": ({"messages": [user("a"), answer("b", mask=1)]}, "'mask' is not read"),
    "row mask": ({"messages": HELLO, "loss_mask": [0, 1]}, "'loss_mask' is not read"),
    "partly learned": ({"messages": [user("a"), answer("b", train_detail=[{}])]}, "'train_detail' is not read"),
    "row weight": ({"messages": HELLO, "weight": 3}, "weight is 3"),
    "label as a number": ({"prompt": "q", "completion": "a", "label": 0}, "'label' is 0. Write true or false"),
    "preferences": ({"prompt": "q", "chosen": "a", "rejected": "b"}, "'chosen' and 'rejected' .*data.columns.completion=chosen"),
    "preferred conversations": (
        {"chosen": HELLO, "rejected": HELLO},
        "'chosen' and 'rejected' .*data.columns.messages=chosen",
    ),
    "a rejected reply": ({"messages": HELLO, "rejected_response": "b"}, "'rejected_response' .*data.columns.messages=messages"),
    "history beside messages": ({"messages": HELLO, "history": [["a", "b"]]}, "'history' beside 'messages'"),
    "reasoning beside messages": ({"messages": HELLO, "reasoning": "hm"}, "'reasoning' beside 'messages'"),
    "history of texts": ({"prompt": "q", "completion": "a", "history": ["x", "y"]}, "'history', turn 1"),
    "two system texts": ({"messages": [system("s"), *HELLO], "system": "t"}, "two different system messages"),
    "images": ({"messages": HELLO, "images": ["a.png"]}, "'images' is not read by task=dialogue"),
    "call that is no JSON": (
        {"messages": [user("a"), {**answer(""), "tool_calls": [{"function": {"name": "f", "arguments": "{a"}}]}]},
        "message 2: the arguments of the tool call 'f': no JSON",
    ),
    "arguments that are a list": (
        {"messages": [user("a"), {**answer(""), "tool_calls": [{"function": {"name": "f", "arguments": [1]}}]}]},
        "arguments of the tool call 'f' are list",
    ),
    "sharegpt call that is no JSON": (
        {"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": "f(x)"}]},
        "message 2: the tool call: no JSON",
    ),
    "tools that are no JSON": ({"messages": HELLO, "tools": "[{"}, "'tools': no JSON"),
    "tools without a name": ({"messages": HELLO, "tools": [{"type": "code_interpreter"}]}, "'tools', tool 1: .*has none"),
    "null": ({"messages": [user("a"), answer(None)]}, "message 2: the content is null"),  # type: ignore[arg-type]
    "audio": ({"messages": [{"role": "user", "content": [{"type": "audio"}]}, answer("b")]}, "a part of type 'audio'"),
    "reasoning of a user": ({"messages": [{**user("a"), "reasoning": "x"}, answer("b")]}, "only an answer has them"),
    "role": ({"messages": [{"role": "wizard", "content": "a"}]}, "message 1: unknown role 'wizard'"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_changes_the_learning_and_is_not_read_is_refused_by_name(name: str) -> None:
    import re

    record, reason = REFUSED[name]
    found = to_messages(record)
    assert isinstance(found, str) and re.search(reason, found), found


def test_the_user_decides_with_named_columns() -> None:
    pairs = {"prompt": "q", "chosen": "a", "rejected": "b"}
    assert to_messages(pairs, {"completion": "chosen"}) == {"messages": [user("q"), answer("a")], "rejected": "b"}
    # Ultrafeedback repeats the question in front of the answer; LLaMA-Factory has turns and one answer.
    chats = {"prompt": "hi", "chosen": HELLO, "rejected": HELLO}
    assert to_messages(chats, {"completion": "chosen"}) == {"messages": HELLO, "rejected": HELLO}
    turns = {
        "conversations": [{"from": "human", "value": "hi"}],
        "chosen": {"from": "gpt", "value": "hello"},
        "rejected": {},
    }
    found = to_messages(turns, {"completion": "chosen"})
    assert isinstance(found, dict) and found["messages"] == HELLO
    beside = {"messages": HELLO, "history": [["a", "b"]]}
    assert to_messages(beside, {"messages": "messages"}) == beside
    found = to_messages(beside, {"messages": "messages", "history": "history"})
    assert found == {"messages": [user("a"), answer("b"), *HELLO]}
    assert "belongs to a prompt" in str(to_messages({"messages": HELLO, "doc": "x"}, {"context": "doc"}))
    named = {"frage": "q", "antwort": "a", "verlauf": [["x", "y"]]}
    columns = {"prompt": "frage", "completion": "antwort", "history": "verlauf"}
    assert to_messages(named, columns) == {"messages": [user("x"), answer("y"), user("q"), answer("a")]}


def test_a_conversation_to_be_continued_needs_no_reply() -> None:
    assert to_messages({"prompt": "q", "label": False}, replies=False) == {"messages": [user("q")]}
    found = to_messages({"question": "q", "answer": "a", "context": "c"}, replies=False)
    assert isinstance(found, dict) and found["messages"] == [user("q\n\nc")]


def test_keys_that_are_not_read_are_counted() -> None:
    unread: Counter[str] = Counter()
    for _ in range(2):
        record = {
            "messages": [{**user("a"), "emotion": "glad"}, answer("b", emotion="sad", name="Bo")],
            "topic": "x",
            "note": None,
        }
        to_messages(record, unread=unread)
    assert unread == {"messages[].emotion": 4, "topic": 2}


# Files.


def opened(**options: Any) -> RowSource:
    return open_splits(DataConfig(**options), CHAT, lambda row: None, None)["test"]


def write(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in records), encoding="utf-8")
    return str(path)


def test_rows_with_nothing_to_learn_are_left_out_and_counted(tmp_path: Path) -> None:
    kto = [{"prompt": f"q{n}", "completion": "a", "label": n % 3 == 0, "topic": "x", "id": n} for n in range(90)]
    source = opened(test=write(tmp_path / "a.jsonl", kto))
    for _ in range(2):  # a second pass counts anew
        assert len(list(source)) == 30
        assert source.num_rows == 30 and list(source.left_out.values()) == [60]
        assert source.unread == {"topic": 30} and source.quarantined == 0
    with pytest.raises(DataError, match=r"every row is left out or bad: no answer is to be learned .* \(60\)"):
        list(opened(test=write(tmp_path / "b.jsonl", [record for record in kto if not record["label"]])))


def test_preference_pairs_are_refused_once_with_the_remedy(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"prompt": "q", "chosen": "a", "rejected": "b"}])
    with pytest.raises(DataError, match=r"a\.jsonl: 'chosen' and 'rejected' .*data.columns.completion=chosen"):
        list(opened(test=path))
    (row, _), *_ = opened(test=path, columns={"completion": "chosen"})
    assert row["messages"] == [user("q"), answer("a")]


@pytest.mark.parametrize("indent", [None, 1])
def test_conversations_by_their_id(tmp_path: Path, indent: int | None) -> None:
    woz = {f"S{n}.json": {"goal": {}, "log": [{"text": f"q{n}"}, {"text": f"a{n}"}]} for n in range(3)}
    (tmp_path / "woz.json").write_text(json.dumps(woz, indent=indent))
    found = [row for row, _ in opened(test=str(tmp_path / "woz.json"))]
    assert [row["messages"] for row in found] == [[user(f"q{n}"), answer(f"a{n}")] for n in range(3)]
    assert [row["id"] for row in found] == list(woz)
    (tmp_path / "lists.json").write_text(json.dumps({"c1": HELLO, "c2": HELLO}, indent=2))
    rows = list(opened(test=str(tmp_path / "lists.json")))
    assert [row["messages"] for row, _ in rows] == [HELLO, HELLO] and rows[1][1].endswith(":12")


def test_nulls_that_arrow_adds_are_dropped(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    messages = [
        [user("q"), answer("", tool_calls=[call("f", {"a": 1})]), result("1"), answer("x")],
        [
            user("q"),
            answer("", tool_calls=[call("g", {"b": "t"})]),
            result("1"),
            answer("x", weight=0),
            user("u"),
            answer("y"),
        ],
    ]
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([{"messages": item} for item in messages]), tmp_path / "a.parquet"
    )
    rows = [row["messages"] for row, _ in opened(test=str(tmp_path / "a.parquet"))]
    assert rows[0] == messages[0]
    assert rows[1][1]["tool_calls"] == [call("g", {"b": "t"})] and rows[1][3] == answer("x", learn=False)


def test_rendered_texts_stay_texts(tmp_path: Path) -> None:
    rows = [{"text": f"<|user|>{n}<|assistant|>yes", "id": n, "topic": "x", "weight": n % 2} for n in range(8)]
    path = write(tmp_path / "a.jsonl", rows)
    source = opened(test=path, rendered=True)
    found = [row for row, _ in source]
    assert found[0] == {"messages": [{"role": "rendered", "content": rows[1]["text"]}], "id": 1, "topic": "x"}
    assert len(found) == 4 and list(source.left_out.values()) == [4] and source.unread == {"topic": 4}
    assert options_of(DataConfig(rendered=True), CHAT) != options_of(DataConfig(), CHAT)  # a part of the cache key
    with pytest.raises(DataError, match=r"data\.rendered=true needs a column .*data\.columns\.messages=<column>"):
        list(opened(test=write(tmp_path / "b.jsonl", [{"body": "x"}]), rendered=True))
    assert len(list(opened(test=str(tmp_path / "b.jsonl"), rendered=True, columns={"messages": "body"}))) == 1
    with pytest.raises(DataError, match=r"c\.jsonl:1: 'text' is empty"):
        list(opened(test=write(tmp_path / "c.jsonl", [{"text": " "}]), rendered=True))


# The files at which version 0.1.0 went wrong, and published sets.


def case(name: str) -> list[dict[str, Any]]:
    path = CASES / "dialogue_keys" / f"{name}.jsonl"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    return [row for row, _ in opened(test=str(path))]


def test_the_cases_are_read() -> None:
    rows = case("weight")
    assert len(rows) == 60 and [message.get("learn") for message in rows[0]["messages"]] == [None, False, None, None]
    (first, *_) = case("alpaca_history")
    assert [message["role"] for message in first["messages"]] == ["system", "user", "assistant", "user", "assistant"]
    assert first["messages"][2]["content"] == "It is fine 0."
    rows = case("kto")
    assert len(rows) == 30 and all(message["content"] != "Go away." for row in rows for message in row["messages"])
    assert case("parts")[0]["messages"][1] == answer("It is fine 0.")
    tools = case("tools")[0]
    assert (
        tools["messages"][1] == answer("", tool_calls=[call("w", {}, id="c1")])
        and tools["messages"][2]["role"] == "tool"
    )
    assert tools["tools"] == [{"type": "function", "function": {"name": "w"}}]
    roles = [message["role"] for message in case("sharegpt_tools")[0]["messages"]]
    assert roles == ["user", "assistant", "tool", "assistant"]
    with pytest.raises(DataError, match=r"data\.columns\.completion=chosen"):
        case("pref")


@pytest.mark.parametrize(
    ("name", "num_calls", "num_tools", "num_learned"),
    [
        ("glaive_toolcall_demo/glaive_toolcall_en_demo.json", 137, 119, 200),
        ("glaive_toolcall_demo/glaive_toolcall_zh_demo.json", 156, 140, 200),
        ("kto_demo/kto_en_demo.json", 0, 0, 107),
    ],
)
def test_published_sets(name: str, num_calls: int, num_tools: int, num_learned: int) -> None:
    """The counts are those of the README beside the sets."""
    if not (DATA / name).is_file():
        pytest.skip(f"{name} is not here")
    rows = [row for row, _ in opened(test=str(DATA / name))]
    calls = [message for row in rows for message in row["messages"] if message.get("tool_calls")]
    assert (len(calls), sum("tools" in row for row in rows), len(rows)) == (num_calls, num_tools, num_learned)
    assert all(map(has_target, rows))
