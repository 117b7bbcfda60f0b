"""Faults of features: each planted, and each absent from features as the task makes them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from llmstage.data.encoding.store import ExampleStore, ExampleWriter
from llmstage.data.quality.split_leakage import Leaks
from llmstage.inspect.findings import Finding
from llmstage.inspect.lint import LintRow
from llmstage.inspect.lint_tokens import check_examples, end_tokens, rendered
from llmstage.inspect.token_view import contains_texts, group_tokens, view_row
from llmstage.tokenization.chat_template import Conversation
from llmstage.training.components import RunComponents


def stored(features: list[dict[str, list[int]]], cut: int = 0) -> ExampleStore:
    writer = ExampleWriter(None, "uint16")
    for number, arrays in enumerate(features):
        writer.add(arrays, number)
        writer.ledger.tokens += len(arrays["input_ids"])
    writer.ledger.cut_tokens = cut
    return writer.finish()


@pytest.fixture
def chat(tiny_task: Any) -> Any:
    return tiny_task("dialogue", "gpt")


def check_example(
    run_components: Any, store: ExampleStore, rows: list[dict[str, Any]] | None = None, **cfg: Any
) -> dict[str, Finding]:
    token_spans = RunComponents(
        run_components.task, run_components.processor, {}, {"train": store}, None, run_components.context, True, Leaks()
    )
    run: Any = SimpleNamespace(data=SimpleNamespace(max_lost=0.01), task=run_components.run.task, **cfg)
    seen = [
        LintRow(row, f"f:{number}", "\n".join(run_components.task.texts(row)))
        for number, row in enumerate(rows or [], 1)
    ]
    return {finding.check: finding for finding in check_examples(run, token_spans, {"train": seen} if seen else {})}


def test_features_as_the_task_makes_them_have_no_fault(chat):
    by_check = check_example(chat, stored([item.arrays for item in chat.features]), chat.rows)
    assert {finding.level for finding in by_check.values()} == {"ok"}
    assert {"double_bos", "no_end", "no_targets", "round_trip", "template", "cut", "lost_targets"} <= by_check.keys()
    assert by_check["no_end"].total >= len(chat.features)


def test_a_start_token_said_twice(chat):
    arrays = [dict(item.arrays) for item in chat.features]
    start = chat.processor.bos_id
    arrays[2] = {"input_ids": [start, *arrays[2]["input_ids"]], "target": [0, *arrays[2]["target"]]}
    by_check = check_example(chat, stored(arrays))["double_bos"]
    assert (by_check.level, by_check.count, by_check.locations) == ("major", 1, ["train row 3"])


def test_an_answer_whose_end_is_not_learned(chat):
    arrays = [{name: list(values) for name, values in item.arrays.items()} for item in chat.features]
    ends = end_tokens(RunComponents(chat.task, chat.processor, {}, {}, None, chat.context, True, Leaks()))
    assert chat.processor.eos_id in ends and len(ends) == 2
    ids, target = arrays[0]["input_ids"], arrays[0]["target"]
    arrays[0]["target"] = [int(is_target and token not in ends) for token, is_target in zip(ids, target, strict=True)]
    arrays[1]["target"] = [0] * len(arrays[1]["target"])
    by_check = check_example(chat, stored(arrays))
    assert by_check["no_end"].level == "major" and by_check["no_end"].locations == ["train row 1"]
    assert by_check["no_targets"].locations == ["train row 2"]


def test_tokens_that_stand_in_no_feature(chat):
    store = stored([item.arrays for item in chat.features], cut=10_000)
    by_check = check_example(chat, store)["cut"]
    assert by_check.level == "major" and f"data.context={2 * chat.context}" in by_check.remedy


def test_unknown_tokens_and_texts_that_come_back_changed(chat):
    tokenizer = chat.processor.tokenizer
    tokenizer.unk_token = tokenizer.pad_token  # as a tokenizer of words has one
    ids = [tokenizer.unk_token_id] * 2 + [40] * 8
    plain = chat.processor.plain_ids
    chat.processor.plain_ids = lambda texts: plain([text.lower() for text in texts])
    try:
        by_check = check_example(
            chat,
            stored([{"input_ids": ids, "target": [0] * 9 + [1]}]),
            [{"messages": [{"role": "user", "content": "Hello You"}]}],
        )
    finally:
        del chat.processor.plain_ids
    assert (by_check["unknown"].level, by_check["unknown"].count) == ("major", 2)
    assert by_check["round_trip"].level == "minor" and "'Hello Yo'" in by_check["round_trip"].sentence("en")


def test_a_template_that_trims_is_told(chat):
    tokenizer = chat.processor.tokenizer
    before = tokenizer.chat_template
    doubled = [{"role": "user", "content": " hi "}, {"role": "assistant", "content": "yes"}]
    assert rendered(chat.processor, Conversation(doubled)).count(" hi ") == 1
    tokenizer.chat_template = before.replace("message['content']", "message['content'] | trim")
    try:
        by_check = check_example(chat, stored([item.arrays for item in chat.features]), [{"messages": doubled}])[
            "template"
        ]
    finally:
        tokenizer.chat_template = before
    assert by_check.level == "minor" and by_check.locations == ["f:1"]


def test_bytes_of_one_character_are_drawn_as_one(chat):
    ids = chat.processor.plain_ids(["a 龘 b"])[0]
    token_spans = RunComponents(chat.task, chat.processor, {}, {}, None, chat.context, True, Leaks())
    drawn = group_tokens(token_spans, ids, [False] * len(ids))
    assert "".join(piece.text for piece in drawn) == "a 龘 b"
    assert [token for piece in drawn for token in piece.ids] == ids
    assert any("龘" in piece.text and len(piece.ids) > 1 for piece in drawn)


def test_brackets_hold_what_is_learned_and_nothing_else(chat):
    doubled = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "on"},
        {"role": "assistant", "content": "no"},
    ]
    token_spans = RunComponents(chat.task, chat.processor, {}, {}, None, chat.context, True, Leaks())
    run: Any = SimpleNamespace(task=chat.run.task)
    shown = view_row(
        run,
        token_spans,
        LintRow({"messages": doubled}, "f:1", "go\nyes\non\nno"),
        chat.task.encode({"messages": doubled}),
    )
    assert (
        shown.rich().plain
        == "<|bos|><|user|>go<|end|><|assistant|>⟦yes<|end|>⟧<|user|>on<|end|><|assistant|>⟦no<|end|>⟧"
    )
    assert shown.has_end and shown.restores_text and shown.template.startswith("<|bos|><|user|>go")
    assert {str(span.style) for span in shown.rich().spans} >= {"bold green", "magenta", "dim"}
    assert "the end token among them" in shown.note("en") and "包括结束词元" in shown.note("zh")


def test_what_gives_a_text_back():
    assert contains_texts("ask me yes", ["ask me", "yes"])
    assert contains_texts("ask yes", ["ask", "yes", "yep"])  # one of several captions
    assert not contains_texts("ask y", ["ask", "yes"])
