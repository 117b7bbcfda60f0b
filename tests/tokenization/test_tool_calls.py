"""Tool calls in the text of a model: found by the form of its chat template, whole and streamed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tool_templates import (
    DEEPSEEK,
    HERMES,
    LLAMA,
    MISTRAL,
    MISTRAL_NEW,
    NO_MARK,
    NO_SYSTEM,
    PLAIN,
    THINKING,
    WITH_TOOLS,
)

from llmstage.tokenization.call_form import assistant_text
from llmstage.tokenization.template_rendering import TemplateRefused, render
from llmstage.tokenization.tokenizer import CHAT_TEMPLATE, Processor, train_processor
from llmstage.tokenization.tool_calls import Reply, ReplyForm
from llmstage.tokenization.tool_template import PRELUDE_BEGIN, enable_tools

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "A function.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "options": {"type": "object"}},
            },
        },
    }
    for name in ("get_weather", "math.add")
]
CALLS = [
    ("get_weather", {"city": 'Zür"ich {x}\n天气', "days": 3, "options": {"deep": [1, None, True]}}),
    ("math.add", {"days": -1}),
]


@pytest.fixture(scope="module")
def base() -> Processor:
    return train_processor(["a small text"] * 20, 300, "gpt", 256)


def form_of(base: Processor, template: str) -> ReplyForm:
    base.tokenizer.chat_template = template
    enable_tools(base.tokenizer)
    return ReplyForm(base, set())


def written(form: ReplyForm, count: int) -> str:
    """What the template itself writes for calls: the text that a perfect model would write."""
    for as_text in (False, True):
        calls = [
            {"id": f"abcdefgh{number}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments) if as_text else arguments}}
            for number, (name, arguments) in enumerate(CALLS[:count])
        ]  # fmt: skip
        names = tuple(name for name, _ in CALLS[:count])
        text = assistant_text(form.tokenizer, {"role": "assistant", "content": "", "tool_calls": calls}, names)
        if text is not None:
            return text
    raise AssertionError("the template writes no calls")


def calls_of(reply: Reply) -> list[tuple[str, Any]]:
    return [(call.name, call.arguments) for call in reply.calls]


def streamed(form: ReplyForm, text: str, size: int, **options: Any) -> tuple[Reply, list[Any]]:
    """The reply to which the deltas add up, and the deltas."""
    parser = form.parser(options.pop("prompt", ""), options.pop("tools", TOOLS), **options)
    deltas = [delta for start in range(0, len(text), size) for delta in parser.feed(text[start : start + size])]
    deltas += parser.finish()
    total = Reply(malformed=parser.reply.malformed)
    for delta in deltas:
        total.add(delta)
    return total, deltas


@pytest.mark.parametrize("name", WITH_TOOLS)
def test_what_a_template_writes_is_read_back(base: Processor, name: str) -> None:
    form = form_of(base, WITH_TOOLS[name])
    for count in (1,) if name == "llama" else (1, 2):
        text = written(form, count)
        whole = form.parse(text, "", TOOLS)
        assert calls_of(whole) == CALLS[:count], text
        assert (whole.content, whole.malformed) == ("", 0)
        for size in (1, 4):
            pieces, _ = streamed(form, text, size)
            assert calls_of(pieces) == CALLS[:count] and pieces.content == ""
        assert all(len(call.id) == 9 and call.id.isalnum() for call in whole.calls), "Mistral takes no other ids"
        # Where nobody offered tools, the same text is an answer.
        plain = form.parse(text, "", None)
        assert not plain.calls and CALLS[0][0] in plain.content


@pytest.mark.parametrize("name", WITH_TOOLS)
def test_the_forced_beginning_of_a_call_is_completed_to_a_call(base: Processor, name: str) -> None:
    form = form_of(base, WITH_TOOLS[name])
    text = written(form, 1).lstrip("\n")
    if form.think:
        text = text.partition("</think>\n\n")[2]
    for function in (None, "get_weather"):
        forced = form.forced_text(function, "")
        assert forced is not None
        rest = text.removeprefix(forced) if "[CALL_ID]" not in text or function is None else text.partition("[ARGS]")[2]
        assert rest != text, "a beginning of what the template writes"
        parser = form.parser("", TOOLS, forced=forced, max_calls=1)
        parser.feed(rest + written(form, 1))
        parser.finish()
        assert calls_of(parser.reply) == CALLS[:1], "and the second call is dropped"


def test_an_answer_is_passed_on_at_once_and_a_possible_mark_is_held(base: Processor) -> None:
    form = form_of(base, HERMES)
    parser = form.parser("", TOOLS)
    assert [delta.content for delta in parser.feed("Let me see")] == ["Let me see"]
    assert [delta.content for delta in parser.feed(".\n<tool_c")] == ["."], (
        "white space and the beginning of a mark wait"
    )
    parser.feed("ounter> is a word of mine")
    parser.finish()
    assert parser.reply.content == "Let me see.\n<tool_counter> is a word of mine"
    text = 'Yes.\n<tool_call>\n{"name": "math.add", "arguments": {}}\n</tool_call>\n'
    reply, deltas = streamed(form, text, 3)
    assert reply.content == "Yes." and calls_of(reply) == [("math.add", {})]
    assert [bool(delta.call) for delta in deltas][-1] and not any(delta.call for delta in deltas[:-1])


def test_plain_answers_are_not_touched(base: Processor) -> None:
    for template in (HERMES, LLAMA, MISTRAL, PLAIN):
        form = form_of(base, template)
        for text in ("  a\n\n", "", "\n", "a < b and [1, 2]", "{x} is a set", '{"name": "Ann", "age": 3}'):
            for tools in (None, TOOLS):
                assert form.parse(text, "", tools).content == text or (text.startswith("{") and tools)
                assert streamed(form, text, 1, tools=tools)[0].content == form.parse(text, "", tools).content


@pytest.mark.parametrize(
    ("template", "text", "calls"),
    [
        (HERMES, '<tool_call>\n{"name": "math.add", "arguments": {"days": }}\n</tool_call>', []),
        (HERMES, '<tool_call>\n{"name": "math.add", "arguments": [1]}\n</tool_call>', []),
        (HERMES, '<tool_call>\n{"name": "math.add", "arguments": {"days": 1', []),
        (HERMES, "<tool_call>\nmath.add(3)\n</tool_call>", []),
        (HERMES, "I write <tool_call> here.", []),
        (HERMES, '<tool_call>\n{"name": 3}\n</tool_call>\n<tool_call>\n{"name": "math.add", "arguments": {"days": 2}}\n</tool_call>', [("math.add", {"days": 2})]),
        (LLAMA, '{"name": "math.add", "parameters": "many"}', []),
        (LLAMA, '{"name": "unknown.function", "parameters": {}}', []),
        (MISTRAL, '[TOOL_CALLS][{"name": "math.add", "arguments": 3}]', []),
        (MISTRAL_NEW, "[TOOL_CALLS]math.add[ARGS]{days: 3}", []),
    ],
)  # fmt: skip
def test_a_call_whose_arguments_are_no_json_stays_text_and_is_counted(
    base: Processor, template: str, text: str, calls: list[Any]
) -> None:
    form = form_of(base, template)
    reply = form.parse(text, "", TOOLS)
    assert calls_of(reply) == calls and reply.malformed == 1
    lost = text if not calls else text.partition("</tool_call>")[0]
    assert reply.content.startswith(lost), "no character is lost"
    pieces, _ = streamed(form, text, 1)
    assert (pieces.content, calls_of(pieces), pieces.malformed) == (reply.content, calls, 1)


def test_forms_that_models_write_and_templates_do_not(base: Processor) -> None:
    llama = form_of(base, LLAMA)
    for text in (
        '<|python_tag|>{"name": "math.add", "parameters": {"days": 1}}',
        '{"type": "function", "name": "math.add", "parameters": {"days": 1}}',
        '  {"name": "math.add", "arguments": "{\\"days\\": 1}"}',
    ):
        assert calls_of(llama.parse(text, "", TOOLS)) == [("math.add", {"days": 1})]
    two = '{"name": "math.add", "parameters": {}}; {"name": "get_weather", "parameters": {"days": 2}}'
    assert calls_of(llama.parse(two, "", TOOLS)) == [("math.add", {}), ("get_weather", {"days": 2})]
    hermes = form_of(base, HERMES)
    unclosed = '<tool_call>{"name": "math.add", "arguments": {"city": "a </tool_call> b"}}'
    assert calls_of(hermes.parse(unclosed, "", TOOLS)) == [("math.add", {"city": "a </tool_call> b"})]
    deepseek = form_of(base, DEEPSEEK)
    assert deepseek.calls is not None and deepseek.calls.start == "<｜calls▁begin｜>"


def test_reasoning_is_apart_from_the_answer(base: Processor) -> None:
    form = form_of(base, THINKING)
    assert form.think == ("<think>", "</think>")
    text = '<think>\nA or {B}?\n</think>\n\nB.\n<tool_call>\n{"name": "math.add", "arguments": {}}\n</tool_call>'
    for size in (1, 5, 1000):
        reply, _ = streamed(form, text, size)
        assert (reply.reasoning, reply.content, calls_of(reply)) == ("A or {B}?", "B.", [("math.add", {})])
    opened, _ = streamed(form, "A or B?\n</think>\n\nB.", 2, prompt="<|im_start|>assistant\n<think>\n")
    assert (opened.reasoning, opened.content) == ("A or B?", "B.")
    cut, _ = streamed(form, "<think>\nA or", 1, tools=None)
    assert (cut.reasoning, cut.content) == ("A or", "")
    assert form_of(base, HERMES).parse("<think>no marks here</think>", "", None).content.startswith("<think>")


def test_a_template_without_tools_gets_them_in_tags_and_renders_the_rest_as_before(base: Processor) -> None:
    tokenizer = base.tokenizer
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    with_system = [{"role": "system", "content": "Be brief."}, *talk]
    tools_talk = [
        *talk,
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "math.add", "arguments": {"city": "é"}}}]},
        {"role": "tool", "content": "sun"},
        {"role": "tool", "content": "rain"},
        {"role": "assistant", "content": "Both."},
    ]  # fmt: skip
    for template in (CHAT_TEMPLATE, PLAIN, NO_SYSTEM):
        tokenizer.chat_template = template
        chats = [talk] if template == NO_SYSTEM else [talk, with_system]
        before = [render(tokenizer, chat) for chat in chats]
        assert enable_tools(tokenizer) and not enable_tools(tokenizer)
        assert [render(tokenizer, chat) for chat in chats] == before
        text = render(tokenizer, tools_talk, tools=TOOLS)
        assert text.count("<tools>") == 1 and '{"type": "function", "function": {"name": "math.add"' in text
        assert '<tool_call>\n{"name": "math.add", "arguments": {"city": "é"}}\n</tool_call>' in text
        assert "<tool_response>\nsun\n</tool_response>\n<tool_response>\nrain\n</tool_response>" in text
        if template != NO_SYSTEM:
            appended = render(tokenizer, with_system, tools=TOOLS)
            assert appended.index("Be brief.") < appended.index("<tools>") < appended.index("Hi")
    for template in (HERMES, LLAMA):
        tokenizer.chat_template = template
        assert not enable_tools(tokenizer) and PRELUDE_BEGIN not in tokenizer.chat_template
    tokenizer.chat_template = "{% for m in messages %}{% if m.role == 'user' %}u{% endif %}{% endfor %}"
    with pytest.raises(TemplateRefused, match="takes no tools"):
        enable_tools(tokenizer)


def test_a_form_that_cannot_be_told_from_an_answer_is_not_guessed(base: Processor) -> None:
    form = form_of(base, NO_MARK)
    assert form.calls is None and form.forced_text("math.add", "") is None
    assert form.parse("call math.add: {}", "", TOOLS).content == "call math.add: {}"


def test_the_response_template_of_a_tokenizer_comes_first(base: Processor) -> None:
    """transformers parses it; the template here is the one of its documentation for Qwen."""
    base.tokenizer.chat_template = HERMES
    base.tokenizer.response_template = {
        "defaults": {"role": "assistant"},
        "start_anchor": "<|im_start|>assistant\n",
        "fields": {
            "reasoning_content": {"open": "<R>", "close": "</R>", "content": "text"},
            "tool_calls": {
                "open_pattern": r"\s*<CALL>", "close": "</CALL>", "repeats": True, "content": "json",
                "transform": {"type": "function", "function": "{content}"},
            },
            "content": {"content": "text"},
        },
    }  # fmt: skip
    try:
        form = ReplyForm(base, set())
        text = '<R>why</R>Yes.\n<CALL>{"name": "math.add", "arguments": {"days": 2}}</CALL>'
        for size in (1, 6, 1000):
            reply, _ = streamed(form, text, size)
            assert (reply.reasoning, reply.content, calls_of(reply)) == ("why", "Yes.", [("math.add", {"days": 2})])
        opened, _ = streamed(form, "why</R>Yes.", 1, prompt="<|im_start|>assistant\n<R>")
        assert (opened.reasoning, opened.content) == ("why", "Yes.")
        broken, _ = streamed(form, '<CALL>{"name": </CALL>', 1000)
        assert broken.malformed == 1 and '{"name": ' in broken.content
    finally:
        base.tokenizer.response_template = None
