"""Small chat templates, one for each behaviour that the templates of published models have, and what is learned under each.

`written(messages, index, last)` is what the assistant writes in message number `index`, the token that ends the turn included;
`last` says whether the conversation ends with it. It is written by hand from the template.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]
Written = Callable[[list[Message], int, bool], str]

SPECIAL = ("<|start|>", "<|stop|>", "<|user|>", "<|assistant|>", "<|call|>", "<image>")
"""Special tokens without a name, beside <s> (bos) and </s> (eos)."""

CHATML = "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|stop|>\n{% endfor %}"
PROMPT = "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"


def content(messages: list[Message], index: int, last: bool) -> str:
    return str(messages[index]["content"])


def then(end: str, trim: bool = False, before: str = "") -> Written:
    def written(messages: list[Message], index: int, last: bool) -> str:
        text = content(messages, index, last)
        return before + (text.strip() if trim else text) + end

    return written


@dataclass
class Case:
    name: str
    template: str
    written: Written
    takes_system: bool = True
    alternates: bool = False
    takes_tools: bool = False
    reasons: bool = False
    end_appended: bool = False
    """The last turn has no end, so </s> is appended."""
    per_turn: bool = False
    """Earlier turns are written differently, so that each turn of a conversation is an example."""
    moves_tools: bool = False
    """The tools are in the last question, so that a conversation with two is two examples."""
    kwargs: dict[str, Any] = field(default_factory=dict)


def thinking(messages: list[Message], index: int, last: bool) -> str:
    """What THINKING writes for the last message of a conversation."""
    message = messages[index]
    reasoning, text = message.get("reasoning_content", ""), message["content"]
    if "</think>" in text:
        reasoning, text = text.split("</think>")[0].split("<think>")[-1], text.split("</think>")[-1].lstrip("\n")
    return f"<think>\n{reasoning.strip()}\n</think>\n\n{text}<|stop|>"


THINKING = (
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m['role'] == 'user' %}{% set ns.last = loop.index0 %}{% endif %}"
    "{% endfor %}{% for m in messages %}{% if m['role'] != 'assistant' %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|stop|>\n"
    "{% else %}{% set text = m['content'] %}{% set why = m.reasoning_content or '' %}{% if '</think>' in text %}"
    "{% set why = text.split('</think>')[0].split('<think>')[-1] %}{% set text = text.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
    "<|start|>assistant\n{% if loop.index0 > ns.last %}{{ '<think>\\n' + why.strip() + '\\n</think>\\n\\n' }}{% endif %}{{ text }}<|stop|>\n"
    "{% endif %}{% endfor %}" + PROMPT
)


def calls_with_tags(messages: list[Message], index: int, last: bool) -> str:
    message = messages[index]
    calls = [
        f'\n<tool_call>\n{{"name": "{call["function"]["name"]}", "arguments": {json.dumps(call["function"]["arguments"])}}}\n</tool_call>'
        for call in message.get("tool_calls", [])
    ]
    return message["content"] + "".join(calls) + "<|stop|>"


TOOLS_WITH_TAGS = (
    "{% if tools %}<|start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|stop|>\n{% endif %}{% for m in messages %}"
    "{% if m['role'] == 'tool' %}<|start|>user\n<tool_response>\n{{ m['content'] }}\n</tool_response><|stop|>\n{% else %}"
    "<|start|>{{ m['role'] }}\n{{ m['content'] }}{% for call in m.tool_calls or [] %}"
    "{{ '\\n<tool_call>\\n{\"name\": \"' + call.function.name + '\", \"arguments\": ' + (call.function.arguments | tojson) + '}\\n</tool_call>' }}"
    "{% endfor %}<|stop|>\n{% endif %}{% endfor %}" + PROMPT
)


def calls_without_tags(messages: list[Message], index: int, last: bool) -> str:
    message = messages[index]
    if "tool_calls" not in message:
        return message["content"] + "</s>"
    function = message["tool_calls"][0]["function"]
    return f'{{"name": "{function["name"]}", "parameters": {json.dumps(function["arguments"])}}}<|call|>'


TOOLS_WITHOUT_TAGS = (
    "<s>{% if tools %}{{ tools | tojson }}\n{% endif %}{% for m in messages %}{% if m.tool_calls %}{% set f = m.tool_calls[0].function %}"
    "<|assistant|>{{ '{\"name\": \"' + f.name + '\", \"parameters\": ' + (f.arguments | tojson) + '}' }}<|call|>"
    "{% elif m['role'] == 'assistant' %}<|assistant|>{{ m['content'] }}</s>{% else %}<|user|>{{ m['role'] + ': ' + m['content'] }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def calls_by_token(messages: list[Message], index: int, last: bool) -> str:
    message = messages[index]
    if "tool_calls" not in message:
        return f" {message['content']}</s>"
    calls = [
        {"name": call["function"]["name"], "arguments": call["function"]["arguments"]} for call in message["tool_calls"]
    ]
    return f"<|call|> {json.dumps(calls)}</s>"


TOOLS_BY_TOKEN = (  # a special token opens the calls, and the tools are in the last question only
    "<s>{% set ns = namespace(last=0) %}{% for m in messages %}{% if m['role'] == 'user' %}{% set ns.last = loop.index0 %}{% endif %}"
    "{% endfor %}{% for m in messages %}{% if m['role'] == 'user' %}{% if tools and loop.index0 == ns.last %}[TOOLS]{{ tools | tojson }}[/TOOLS]{% endif %}"
    "[INST] {{ m['content'] }}[/INST]{% elif m['role'] == 'tool' %}[RESULT] {{ m['content'] }}[/RESULT]{% elif m.tool_calls %}<|call|> ["
    "{% for call in m.tool_calls %}{{ '{\"name\": \"' + call.function.name + '\", \"arguments\": ' + (call.function.arguments | tojson) + '}' }}"
    "{% if not loop.last %}, {% endif %}{% endfor %}]</s>{% else %}{{ ' ' + m['content'] }}</s>{% endif %}{% endfor %}"
)

CASES = [
    Case(
        "default_system",
        "{% if messages[0]['role'] != 'system' %}<|start|>system\nBe kind.<|stop|>\n{% endif %}" + CHATML + PROMPT,
        then("<|stop|>"),
    ),
    Case(
        "trimmed",
        "<s>{% for m in messages %}{% set text = '<|start|>' + m['role'] + '\\n\\n' + m['content'] | trim + '<|stop|>' %}{{ text }}"
        "{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n\n{% endif %}",
        then("<|stop|>", trim=True),
    ),
    Case(
        "space_before_content",
        "<s>{% for m in messages %}{% if m['role'] == 'assistant' %}{{ ' ASSISTANT: ' + m['content'] }}</s>{% else %}"
        "{{ m['role'] | upper + ': ' + m['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}",
        then("</s>", before=" "),
    ),
    Case(
        "prompt_ends_with_space",
        "<s>{% for m in messages %}{% if m['role'] == 'assistant' %}{{ 'Assistant: ' + m['content'] }}</s>{% else %}"
        "{{ 'User: ' + m['content'] + '\\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}",
        then("</s>"),
    ),
    Case(
        "system_in_first_question",
        "<s>{% set ns = namespace(system='') %}{% for m in messages %}{% if m['role'] == 'system' %}{% set ns.system = m['content'] + '\\n\\n' %}"
        "{% elif m['role'] == 'user' %}{{ '[INST] ' + ns.system + m['content'] + ' [/INST]' }}{% set ns.system = '' %}{% else %}"
        "{{ ' ' + m['content'] + ' ' }}</s>{% endif %}{% endfor %}",
        then(" </s>", before=" "),
    ),
    Case(
        "strict_alternation",
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}<s>{% for m in messages %}"
        "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}<|start|>"
        "{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] | trim }}<|stop|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|start|>model\n{% endif %}",
        then("<|stop|>", trim=True),
        takes_system=False,
        alternates=True,
    ),
    Case(
        "needs_a_question",
        "{% if not messages | selectattr('role', 'equalto', 'user') | list %}{{ raise_exception('No user query found') }}{% endif %}"
        + CHATML
        + PROMPT,
        then("<|stop|>"),
    ),
    Case(
        "end_and_end_of_text",
        "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|stop|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% else %}</s>{% endif %}",
        then("<|stop|>"),
    ),
    Case(
        "last_turn_closed_differently",
        "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}{% if loop.last and m['role'] == 'assistant' %}</s>{% else %}"
        "<|stop|>{% endif %}{% endfor %}" + PROMPT,
        lambda messages, index, last: content(messages, index, last) + ("</s>" if last else "<|stop|>"),
    ),
    Case(
        "only_earlier_turns_closed",
        "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}{% if not loop.last %}<|stop|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|stop|>\n<|start|>assistant\n{% endif %}",
        lambda messages, index, last: content(messages, index, last) + ("</s>" if last else "<|stop|>"),
        end_appended=True,
    ),
    Case(
        "no_end",  # a header token follows a reply; it does not end it
        "<s>{% for m in messages %}<|{{ 'assistant' if m['role'] == 'assistant' else 'user' }}|>{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}",
        lambda messages, index, last: content(messages, index, last) + ("</s>" if last else ""),
        end_appended=True,
    ),
    Case(
        "no_end_but_lines",
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}",
        lambda messages, index, last: " " + content(messages, index, last) + ("\n</s>" if last else ""),
        end_appended=True,
    ),
    Case("no_generation_prompt", CHATML, then("<|stop|>")),
    Case("thinking", THINKING, thinking, reasons=True, per_turn=True),
    Case(
        "prompt_opens_thinking",
        CHATML + "{% if add_generation_prompt %}<|start|>assistant\n<think>\n{% endif %}",
        then("<|stop|>"),
    ),
    Case(
        "thinking_off",
        THINKING.replace(
            PROMPT,
            "{% if add_generation_prompt %}<|start|>assistant\n{% if off %}<think>\n\n</think>\n\n{% endif %}{% endif %}",
        ),
        lambda messages, index, last: thinking(messages, index, last).removeprefix("<think>\n\n</think>\n\n"),
        per_turn=True,
        kwargs={"off": True},
    ),
    Case("tools_with_tags", TOOLS_WITH_TAGS, calls_with_tags, takes_tools=True),
    Case("tools_without_tags", TOOLS_WITHOUT_TAGS, calls_without_tags, takes_tools=True),
    Case("tools_by_token", TOOLS_BY_TOKEN, calls_by_token, takes_tools=True, takes_system=False, moves_tools=True),
    Case(
        "generation_marks",  # the marks include the line end, which the assistant does not write
        "{% for m in messages %}<|start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}<|stop|>\n"
        "{% endgeneration %}{% else %}{{ m['content'] }}<|stop|>\n{% endif %}{% endfor %}" + PROMPT,
        then("<|stop|>"),
    ),
    Case(
        "generation_marks_without_end",
        "{% for m in messages %}<|start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}{% endgeneration %}"
        "{% else %}{{ m['content'] }}{% endif %}<|stop|>\n{% endfor %}" + PROMPT,
        then("<|stop|>"),
    ),
    Case("date", "{{ strftime_now('%d %B %Y') }}\n" + CHATML + PROMPT, then("<|stop|>")),
    Case(
        "parts",
        "{% for m in messages %}<|start|>{{ m['role'] }}\n{% for part in m['content'] %}{% if part['type'] == 'image' %}<image>"
        "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}<|stop|>\n{% endfor %}" + PROMPT,
        then("<|stop|>"),
    ),
]

TALK: list[Message] = [
    {"role": "user", "content": "Where is order 12?"},
    {"role": "assistant", "content": "On its way."},
    {"role": "user", "content": "谢谢，还有别的吗？"},
    {"role": "assistant", "content": "没有了。"},
]
SPACED: list[Message] = [
    {"role": "user", "content": "  two  words \n"},
    {"role": "assistant", "content": " yes\n\nno \n"},
    {"role": "user", "content": "1\t2"},
    {"role": "assistant", "content": "'s <b>Ünï</b> <tool_call>"},
]
SYSTEM: Message = {"role": "system", "content": "Be brief."}
REASONED: list[Message] = [
    {"role": "user", "content": "Two and two?"},
    {"role": "assistant", "content": "Four.", "reasoning_content": "I count."},
    {"role": "user", "content": "And three?"},
    {"role": "assistant", "content": "Five.", "reasoning_content": "I add one."},
]
TAGGED: list[Message] = [
    {"role": "user", "content": "Two and two?"},
    {"role": "assistant", "content": "<think>\nI count.\n</think>\n\nFour."},
    {"role": "user", "content": "And three?"},
    {"role": "assistant", "content": "Five."},
]
CALLS: list[Message] = [
    {"role": "user", "content": "Weather in Rome?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "abcdefghi", "type": "function", "function": {"name": "weather", "arguments": {"city": "Rome", "days": 2}}}],
    },
    {"role": "tool", "tool_call_id": "abcdefghi", "content": "12 C"},
    {"role": "assistant", "content": "Twelve degrees."},
    {"role": "user", "content": "Thanks."},
    {"role": "assistant", "content": "Bye."},
]  # fmt: skip
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
        },
    }
]


def conversations(case: Case) -> list[tuple[list[Message], list[Any] | None]]:
    """The conversations that a template takes, as (messages, tools)."""
    rows: list[tuple[list[Message], list[Any] | None]] = [
        (TALK, None),
        (TALK[:2], None),
        (SPACED, None),
        (TALK[:3], None),
    ]
    if case.takes_system:
        rows.append(([SYSTEM, *TALK], None))
    if case.reasons:
        rows += [(REASONED, None), (TAGGED, None)]
    if case.takes_tools:
        rows += [(CALLS, TOOLS), (CALLS[:2], TOOLS)]
    return rows
