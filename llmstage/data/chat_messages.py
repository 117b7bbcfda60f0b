"""Convert one message of a conversation, in the spellings in which chat data is published, to the normal form.

The normal form is `{"role": system | user | assistant | tool, "content": text, ...}`, with `reasoning_content`,
`tool_calls`, `tool_call_id` and `name` where they are given, and `learn: False` on an answer that is context only.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

ROLES = {
    "system": ("system", "developer"),
    "user": ("user", "human", "usr", "customer", "prompter", "client", "patient"),
    "assistant": ("assistant", "gpt", "sys", "bot", "agent", "model", "chatgpt", "bard", "doctor"),
    "tool": (
        "tool", "function", "observation", "ipython", "tool_response", "tool_result", "tool_results", "function_response",
    ),
}  # fmt: skip
ROLE_OF = {name: role for role, names in ROLES.items() for name in names}
CALL_ROLES = ("function_call", "tool_call", "tool_calls")
"""Roles of an assistant's turn whose text is a tool call as JSON (ShareGPT)."""
ROLE_KEYS = ("role", "from", "speaker", "author", "sender")
CONTENT_KEYS = ("content", "value", "text", "message", "utterance")
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking", "thought")
NUMBER_FLAGS = ("weight", "loss_weight")
"""Weights of a message or row in the loss (OpenAI, LLaMA-Factory): 0 is context, 1 is learned."""
BOOLEAN_FLAGS = ("train", "loss", "learn", "output_with_loss")
"""Whether a message or row is learned (axolotl, ms-swift, our own, XTuner)."""
LEARN_FLAGS = (*NUMBER_FLAGS, *BOOLEAN_FLAGS)
REFUSED_KEYS = {
    "mask": "it does not say which value is learned; use weight: 0 or 1",
    "loss_mask": "it does not say which value is learned; use weight: 0 or 1",
    "loss_scale": "an answer is learned or not; use weight: 0 or 1",
    "train_detail": "an answer is learned as a whole or not at all; use train: true or false",
    "refusal": "write the refusal in content if it is to be learned",
}
"""Keys that change what is learned and that are not read, each with the reason."""
PASSED_KEYS = ("name", "tool_call_id")
TURN_PAIRS = (
    ("human", "assistant"), ("user", "assistant"), ("input", "output"), ("question", "answer"), ("prompt", "response"),
    ("instruction", "output"), ("user", "bot"),
)  # fmt: skip
"""Keys of a turn that holds a question with its answer (Firefly, XTuner)."""
THINK_BLOCK = re.compile(r"\s*<think>\n?(.*?)\n?</think>\s*", re.DOTALL)

Message = dict[str, Any]


class BadChat(ValueError):
    """A record cannot be read as a conversation; the text says why."""


def to_message_list(turns: list[Any], unread: Counter[str]) -> list[Message]:
    """Return the turns as messages. Raise BadChat. `unread` counts the keys that the normal form does not have.

    Turns without any role, as KdConv and MultiWOZ have them, alternate: the user begins.
    """
    alternates = not any(isinstance(turn, dict) and find_key(turn, ROLE_KEYS) for turn in turns)
    messages: list[Message] = []
    for number, turn in enumerate(turns, start=1):
        try:
            if alternates and isinstance(turn, dict) and (pair := pair_of(turn)):
                messages += turn_pair(turn, pair, unread)
            elif alternates and isinstance(turn, (str, dict)):
                messages.append(spoken(turn, ("user", "assistant")[(number - 1) % 2], unread))
            else:
                messages += to_message(turn, unread)
        except BadChat as error:
            raise BadChat(f"message {number}: {error}") from None
    return messages


def find_key(turn: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """Return the first of the names that is a key of the turn, or an empty text."""
    return next((name for name in names if name in turn), "")


def pair_of(turn: Mapping[str, Any]) -> tuple[str, str] | None:
    return next((pair for pair in TURN_PAIRS if pair[0] in turn and pair[1] in turn), None)


def turn_pair(turn: Message, pair: tuple[str, str], unread: Counter[str]) -> list[Message]:
    """Return a turn such as `{"human": ..., "assistant": ...}` as its messages."""
    flags = {key: turn[key] for key in (*LEARN_FLAGS, *REFUSED_KEYS) if key in turn}
    messages = to_message({"role": "user", "content": turn[pair[0]]}, unread)
    messages += to_message({"role": "assistant", "content": turn[pair[1]], **flags}, unread)
    if isinstance(turn.get("system"), str) and turn["system"].strip():
        messages.insert(0, {"role": "system", "content": turn["system"]})
    count_unread(turn, {*pair, *flags, "system"}, "messages[].", unread)
    return messages


def spoken(turn: str | Message, role: str, unread: Counter[str]) -> Message:
    """Return a turn without a role as a message of the speaker whose turn it is."""
    if isinstance(turn, str):
        return {"role": role, "content": turn}
    key = find_key(turn, CONTENT_KEYS)
    if not key:
        raise BadChat(f"no role and no text; a message has role and content, this one {', '.join(turn) or 'nothing'}")
    refuse_keys(turn)
    flags = {name: turn[name] for name in LEARN_FLAGS if name in turn}
    count_unread(turn, {key, *flags}, "messages[].", unread)
    return to_message({"role": role, "content": turn[key], **flags}, unread)[0]


def to_message(turn: Any, unread: Counter[str]) -> list[Message]:
    """Return the turn in the normal form; several messages where one turn holds several results of tools.

    Null values, which Arrow adds, are dropped. Keys that the normal form does not have are passed to the template.
    """
    if not isinstance(turn, dict):
        raise BadChat(f"a {type(turn).__name__}, where an object with role and content is required")
    turn = {key: value for key, value in turn.items() if value is not None}
    role_key, content_key = find_key(turn, ROLE_KEYS), find_key(turn, CONTENT_KEYS)
    speaker = turn.get(role_key)
    name = str(speaker.get("role") if isinstance(speaker, dict) else speaker).lower()
    role = "assistant" if name in CALL_ROLES else ROLE_OF.get(name)
    if role_key == "speaker" and name == "system":  # the system of a dialogue between user and system, as in MultiWOZ
        role = "assistant"
    if role is None:
        raise BadChat(f"unknown role {speaker!r}; known: {', '.join((*ROLE_OF, *CALL_ROLES))}")
    refuse_keys(turn)
    message: Message = {"role": role, "content": ""}
    results: list[Message] = []

    # What the turn says: text, parts, reasoning, tool calls.
    content = turn.get(content_key)
    calls = read_calls(turn)
    if name in CALL_ROLES:
        content, reasoning, calls = calls_in_text(content)
    else:
        content, reasoning, parts_calls, results = read_content(content, role)
        calls += parts_calls
    reasoning = reasoning or reasoning_of(turn)
    if content is None:
        if not (calls or reasoning or results):
            raise BadChat("the content is null, not text")
        content = ""
    message["content"] = content
    if (reasoning or calls) and role != "assistant":
        raise BadChat(
            f"a message of the role {role} has {'tool calls' if calls else 'reasoning'}; only an answer has them"
        )
    message |= ({"reasoning_content": reasoning} if reasoning else {}) | ({"tool_calls": calls} if calls else {})

    # Whether it is learned.
    learned = read_flags(turn)
    if learned and role != "assistant" and "learn" not in turn:
        named = next(key for key in LEARN_FLAGS if key in turn)
        raise BadChat(f"{named} is {turn[named]!r} on a message of the role {role}; only answers are learned")
    if learned is False and role == "assistant":
        message["learn"] = False

    known = {role_key, content_key, "tool_calls", "function_call", *REASONING_KEYS, *LEARN_FLAGS}
    further = {key: value for key, value in turn.items() if key not in known}
    count_unread(further, set(PASSED_KEYS), "messages[].", unread)
    message |= further
    return [*results, *([message] if content or not results else [])]


def count_unread(values: Mapping[str, Any], known: set[str], prefix: str, unread: Counter[str]) -> None:
    for key, value in values.items():
        if key not in known and value is not None:
            unread[f"{prefix}{key}"] += 1


def without_nulls(record: Message) -> Message:
    """Return a record without the null values inside its columns.

    Arrow gives all objects of a column the same keys, so the arguments of one function appear as null in calls of others.
    """
    return {key: drop_nulls(value) for key, value in record.items()}


def drop_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: drop_nulls(item) for key, item in value.items() if item is not None}
    return [drop_nulls(item) for item in value] if isinstance(value, list) else value


def refuse_keys(values: Mapping[str, Any]) -> None:
    """Raise BadChat for a key that changes what is learned and is not read."""
    for key, reason in REFUSED_KEYS.items():
        if values.get(key) is not None:
            raise BadChat(f"'{key}' is not read: {reason}")


def read_flags(values: Mapping[str, Any]) -> bool | None:
    """Return whether a message or row is learned, or None where nothing says so. Raise BadChat for another value."""
    flags: list[bool] = []
    for key in LEARN_FLAGS:
        value = values.get(key)
        if value is None or value == "":
            continue
        text = str(value).strip().lower()
        if text not in ("true", "false", "0", "1", "0.0", "1.0"):
            raise BadChat(f"{key} is {value!r}; read are 0 and false (context), 1 and true (learned)")
        flags.append(text in ("true", "1", "1.0"))
    return all(flags) if flags else None


def reasoning_of(values: Mapping[str, Any]) -> str:
    """Return the reasoning of a message or row, or an empty text."""
    for key in REASONING_KEYS:
        value = values.get(key)
        if value is None or value == "":
            continue
        if not isinstance(value, str):
            raise BadChat(f"'{key}' is {type(value).__name__}, where the text of the reasoning is required")
        return value
    return ""


def read_content(content: Any, role: str) -> tuple[Any, str, list[Message], list[Message]]:
    """Return (text or parts, reasoning, tool calls, results of tools) of the content of a message.

    Parts that are all text become one text. Parts with images stay a list.
    """
    if content is None or isinstance(content, str):
        return content, "", [], []
    if role == "tool" and not is_parts(content):  # a result that is data
        return json.dumps(content, ensure_ascii=False), "", [], []
    if not is_parts(content):
        raise BadChat(f"the content is {type(content).__name__}, not text")
    parts: list[Message] = []
    reasoning: list[str] = []
    calls: list[Message] = []
    results: list[Message] = []
    for part in content:
        part_type = "text" if isinstance(part, str) else str(part.get("type", "text"))
        if part_type in ("text", "input_text", "output_text"):
            text = (
                part if isinstance(part, str) else next((part[key] for key in ("text", "value") if part.get(key)), "")
            )
            if not isinstance(text, str):
                raise BadChat(f"a part of type text holds {type(text).__name__}")
            parts.append({"type": "text", "text": text})
        elif part_type in ("thinking", "reasoning"):
            reasoning.append(thinking_text(part))
        elif part_type in ("tool_use", "tool_call"):
            calls.append(to_call(part.get("tool_call") or part.get("value") or part))
        elif part_type == "tool_result":
            text, *_ = read_content(part.get("content", part.get("value")), "tool")
            identity = {"tool_call_id": part["tool_use_id"]} if part.get("tool_use_id") else {}
            results.append({"role": "tool", "content": text or "", **identity})
        elif part_type in ("image", "image_url", "input_image"):
            parts.append({key: value for key, value in part.items() if value is not None})
        else:
            raise BadChat(f"a part of type {part_type!r} is not read")
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts) if parts else None, "".join(reasoning), calls, results
    return parts, "".join(reasoning), calls, results


def is_parts(content: Any) -> bool:
    """Return whether a content is a list of parts: texts, or objects with a type or a text."""
    return isinstance(content, list) and all(
        isinstance(part, str) or (isinstance(part, dict) and ("type" in part or set(part) == {"text"}))
        for part in content
    )


def thinking_text(part: Message) -> str:
    """Return the text of a part that holds reasoning: a text (Anthropic) or a list of texts (Mistral)."""
    value = next((part[key] for key in ("thinking", "reasoning", "text", "value") if part.get(key)), "")
    if isinstance(value, list):
        value = "".join(item if isinstance(item, str) else str(item.get("text", "")) for item in value)
    if not isinstance(value, str):
        raise BadChat(f"a part of reasoning holds {type(value).__name__}")
    return value


def read_calls(turn: Mapping[str, Any]) -> list[Message]:
    """Return the tool calls of a message, from `tool_calls` or the older `function_call`."""
    calls = turn.get("tool_calls")
    if isinstance(calls, str):
        calls = parse_json(calls, "tool_calls") if calls.strip() else []
    if calls is not None and not isinstance(calls, list):
        raise BadChat(f"'tool_calls' is {type(calls).__name__}, where a list of calls is required")
    calls = [*(calls or []), *([turn["function_call"]] if turn.get("function_call") else [])]
    return [to_call(call) for call in calls]


def calls_in_text(content: Any) -> tuple[str, str, list[Message]]:
    """Return (text, reasoning, tool calls) of a turn `function_call`, whose text is one call or a list of calls as JSON.

    An object without a name is no call; it stays the text of the answer, as it is written.
    """
    if not isinstance(content, str):
        return "", "", [to_call(call) for call in (content if isinstance(content, list) else [content])]
    thought = THINK_BLOCK.match(content)
    text = content[thought.end() :] if thought else content
    reasoning = thought[1] if thought else ""
    value = parse_json(text, "the tool call")
    values = value if isinstance(value, list) else [value]
    if values and all(isinstance(item, dict) and ("name" in item or "function" in item) for item in values):
        return "", reasoning, [to_call(item) for item in values]
    return text, reasoning, []


def to_call(call: Any) -> Message:
    """Return a tool call in OpenAI's form with its arguments as an object."""
    if isinstance(call, str):
        call = parse_json(call, "a tool call")
    if not isinstance(call, dict):
        raise BadChat(f"a tool call is {type(call).__name__}, where an object with name and arguments is required")
    inner = call.get("function")
    function: Message = inner if isinstance(inner, dict) else call
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise BadChat("a tool call has no name")
    arguments = next((function[key] for key in ("arguments", "parameters", "input", "args") if key in function), None)
    if isinstance(arguments, str):
        arguments = parse_json(arguments, f"the arguments of the tool call '{name}'") if arguments.strip() else {}
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise BadChat(
            f"the arguments of the tool call '{name}' are {type(arguments).__name__}, where an object is required"
        )
    identity = {"id": call["id"]} if call.get("id") is not None else {}
    return {**identity, "type": "function", "function": {"name": name, "arguments": arguments}}


def parse_json(text: str, label: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadChat(f"{label}: no JSON ({error}): {text[:60]!r}") from None
