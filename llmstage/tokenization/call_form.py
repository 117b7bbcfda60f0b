"""Find out how a chat template writes tool calls and reasoning, by rendering a known call and looking at the text around it.

No list of models: a template is the one place that says how its model was trained to write calls. Four layouts are recognised:

    object      {"name": N, "arguments": {…}}, bare (Llama 3), in tags (Hermes, Qwen 2.5, prelude of tool_template.py), in a list
                (Mistral), under other keys
    named       N, a mark, then the arguments as JSON (newer Mistral, DeepSeek, Functionary)
    parameters  N, then each argument in a tag of its own (Qwen3-Coder, GLM 4.5, MiniMax)
    pythonic    [N(key='value')] (LFM2)
"""

from __future__ import annotations

import itertools
import json
import re
import secrets
import string
from dataclasses import dataclass
from typing import Any, Literal

from llmstage.tokenization.template_rendering import Message, TemplateRefused, render
from llmstage.tokenization.tool_template import PROBE_TOOL, QUESTION

NAME, OTHER_NAME, CALL_ID = "probe_function", "other_function", "probecall"
"""`CALL_ID` has nine characters, as Mistral's templates want."""
ARGUMENTS: dict[str, Any] = {"probe_key": "probe_value", "other_key": "other_value"}
ANSWER, REASONING = "probe_answer", "probe_reasoning"
TAG = re.compile(r"<[^<>\s]+>|<[^<>\s=]+ [^<>]*>|\[/?[A-Z_]+\]")
"""A mark of a template, such as `<tool_call>` or `[TOOL_CALLS]`."""
UNIT = re.compile(f"{TAG.pattern}|.", re.DOTALL)
"""Texts are compared mark by mark and character by character, since `<tool_call>` and `<think>` begin alike."""
THINK_MARKS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
"""Marks of reasoning, for templates that drop it from messages and yet know its marks."""


@dataclass(frozen=True)
class CallForm:
    """How a template writes tool calls."""

    layout: Literal["object", "named", "parameters", "pythonic"]
    start: str
    """The mark with which the first call begins; empty: a call is a reply that begins with `{`."""
    marks: tuple[str, ...]
    """What may stand before, between and after calls; the longest first."""
    opening: str
    """All that is before the name of the first call."""
    after_name: str
    """All between the name and the arguments."""
    end: str = ""
    """The mark that follows a call."""
    parameter: tuple[str, str, str] = ("", "", "")
    """Layout `parameters`: what is before the name of an argument, between name and value, and after the value."""

    def forced(self, name: str | None) -> str:
        """Return the beginning of a reply that can only go on as a call, of the function `name` where it is given."""
        text = self.opening if name is None else self.opening + name + self.after_name
        # A space at the end would be a token of its own, which the model has seen joined with what follows it.
        return text.replace(CALL_ID, new_call_id()).lstrip("\n").rstrip(" ")


def find_call_form(tokenizer: Any) -> CallForm | None:
    """Return how the template writes calls; None where it writes none, or in a way that is not recognised."""
    think = find_think_marks(tokenizer)
    single, double = written_calls(tokenizer, 1, think), written_calls(tokenizer, 2, think)
    if single is None:
        return None
    for layout in (object_layout, named_layout, parameter_layout, pythonic_layout):
        form = layout(single, single.index(NAME), double)
        if form is not None:
            # Without a mark, only a JSON object can be told from an answer.
            return (
                form if form.start or (form.layout == "object" and not form.opening.strip().partition("{")[0]) else None
            )
    return None


def written_calls(
    tokenizer: Any, count: int, think: tuple[str, str] | None, arguments: dict[str, Any] = ARGUMENTS, call_id: str = CALL_ID
) -> str | None:  # fmt: skip
    """Return what the assistant writes for one or two calls, without reasoning and the end of its turn.

    None where the template refuses such a message or drops the calls.
    """
    names = (NAME, OTHER_NAME)[:count]
    for value in (arguments, json.dumps(arguments)):  # some templates want JSON text
        calls = [{"id": call_id, "type": "function", "function": {"name": name, "arguments": value}} for name in names]
        for content in ("", None):
            text = assistant_text(tokenizer, {"role": "assistant", "content": content, "tool_calls": calls}, names)
            if text is None:
                continue
            if think and think[1] in text.partition(NAME)[0]:  # an empty think block, or the end of an open one
                text = text[text.index(think[1]) + len(think[1]) :]
            return text
    return None


def assistant_text(tokenizer: Any, message: Message, names: tuple[str, ...]) -> str | None:
    """Return what the template writes of an assistant message, from its generation prompt to the end of the turn.

    None where the template refuses the message or drops one of the names.
    """
    systems: tuple[list[Message], ...] = ([], [{"role": "system", "content": "probe"}])
    for system, tools in itertools.product(systems, (None, [PROBE_TOOL])):
        history = [*system, QUESTION]
        try:
            prompt = render(tokenizer, history, tools=tools, generation_prompt=True)
            full = render(tokenizer, [*history, message], tools=tools)
            answered = render(tokenizer, [*history, {"role": "assistant", "content": ANSWER}], tools=tools)
        except TemplateRefused:
            continue
        # A generation prompt may go on where a message of the history does not, as with an empty think block.
        written = full[len(common_prefix(prompt, full)) :]
        written = written[: len(written) - len(common_suffix(written, answered.rpartition(ANSWER)[2]))]
        if all(name in written for name in names):
            return written
    return None


def object_layout(single: str, start: int, double: str | None) -> CallForm | None:
    """Return the form of a call that is one JSON object with its name."""
    for match in re.finditer(r"\{", single[:start]):
        try:
            value, end = json.JSONDecoder().raw_decode(single, match.start())
        except ValueError:
            continue
        if call_of(value) != (NAME, ARGUMENTS):
            return None
        head, stop = single[: match.start()], start + len(NAME)
        after_name = single[stop : max(stop, single.find('{"probe_key', stop))]
        tail, middle = single[end:], double[end : double.index("{", end)] if double else ""
        return CallForm(
            "object", first_mark(head), marks_of(head, tail, middle), single[:start], after_name, first_mark(tail)
        )
    return None


def named_layout(single: str, start: int, double: str | None) -> CallForm | None:
    """Return the form of a call whose name is followed by its arguments as a JSON object."""
    stop = start + len(NAME)
    begin = single.find("{", stop)
    try:
        value, end = json.JSONDecoder().raw_decode(single, max(begin, 0))
    except ValueError:
        return None
    if begin < 0 or value != ARGUMENTS:
        return None
    head = single[:start]
    tail, middle = single[end:], double[end : double.index(OTHER_NAME)] if double else ""
    return CallForm("named", first_mark(head), marks_of(head, tail, middle), head, single[stop:begin], first_mark(tail))


def parameter_layout(single: str, name_start: int, double: str | None) -> CallForm | None:
    """Return the form of a call with a tag for each argument."""
    position, gaps = name_start + len(NAME), []
    for text in itertools.chain(*ARGUMENTS.items()):
        start = single.find(text, position)
        if start < 0:
            return None
        gaps.append(single[position:start])
        position = start + len(text)
    to_key, to_value, to_next, to_value_again = gaps
    before_key = common_suffix(to_key, to_next)
    after_value = to_next.removesuffix(before_key)
    if to_value != to_value_again or not before_key.strip() or not after_value.strip():
        return None
    head, tail, middle = single[:name_start], single[position:].removeprefix(after_value), ""
    if double:
        middle = double[: double.index(OTHER_NAME)].rpartition("other_value")[2].removeprefix(after_value)
    parameter = (before_key, to_value, after_value)
    after_name = to_key.removesuffix(before_key)
    marks = marks_of(head, tail, middle)
    return CallForm("parameters", first_mark(head), marks, head, after_name, first_mark(tail), parameter)


def pythonic_layout(single: str, start: int, double: str | None) -> CallForm | None:
    """Return the form of calls that are written as Python."""
    match = re.match(r"\(probe_key=(['\"])probe_value\1, ?other_key=\1other_value\1\)", single[start + len(NAME) :])
    if match is None:
        return None
    head, tail = single[:start], single[start + len(NAME) + match.end() :]
    return CallForm("pythonic", first_mark(head), marks_of(head, tail, ""), head, "(", first_mark(tail.lstrip("]")))


def new_call_id() -> str:
    """Return a random id of nine letters and digits, the only kind that Mistral's templates take."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))


def call_of(value: Any) -> tuple[str | None, Any]:
    """Return the name and the arguments in the JSON value of a call; None where it has none."""
    if not isinstance(value, dict):
        return None, None
    value = value["function"] if isinstance(value.get("function"), dict) else value
    name = next((value[key] for key in ("name", "tool_name", "function") if isinstance(value.get(key), str)), None)
    arguments = next((value[key] for key in ("arguments", "parameters", "args") if key in value), None)
    return name, arguments


def marks_of(head: str, tail: str, middle: str) -> tuple[str, ...]:
    """Return the texts around calls, whole and tag by tag, the longest first."""
    texts = {head, tail, middle, *(tag for text in (head, tail, middle) for tag in TAG.findall(text))}
    # What is written before each call, and what is written once before all.
    call_begin = common_suffix(head, middle)
    texts |= {call_begin, head.removesuffix(call_begin)}
    texts = {text.replace(CALL_ID, "").strip() for text in texts}
    return tuple(sorted((text for text in texts if text), key=len, reverse=True))


def first_mark(text: str) -> str:
    """Return the mark with which a text begins: a tag, or a tag that the name of the function completes."""
    text = text.strip()
    match = TAG.match(text)
    return match[0] if match else text if text[:1] in "<[" and not re.search(r"\s", text) else ""


def common_prefix(first: str, second: str) -> str:
    pairs = zip(UNIT.findall(first), UNIT.findall(second), strict=False)
    return "".join(unit for unit, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def common_suffix(first: str, second: str) -> str:
    pairs = zip(reversed(UNIT.findall(first)), reversed(UNIT.findall(second)), strict=False)
    units = [unit for unit, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)]
    return "".join(reversed(units))


def find_think_marks(tokenizer: Any) -> tuple[str, str] | None:
    """Return the marks around reasoning; None where the template knows none."""
    try:
        text = render(tokenizer, [QUESTION, {"role": "assistant", "content": ANSWER, "reasoning_content": REASONING}])
    except TemplateRefused:
        text = ""
    before, reasoning, after = text.partition(REASONING)
    opening, closing = TAG.findall(before), TAG.findall(after.partition(ANSWER)[0])
    if reasoning and opening and closing and re.search("think|reason", opening[-1], re.IGNORECASE):
        return opening[-1], closing[0]
    template = tokenizer.get_chat_template()
    return next((marks for marks in THINK_MARKS if marks[1] in template), None)
