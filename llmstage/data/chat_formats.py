"""Convert the formats in which chat data is published to one: `{"messages": [{"role": ..., "content": ...}, ...]}`."""

from __future__ import annotations

from typing import Any

ROLES = {
    "system": ("system", "developer"),
    "user": ("user", "human", "usr", "customer", "prompter", "client", "patient"),
    "assistant": ("assistant", "gpt", "sys", "bot", "agent", "model", "chatgpt", "bard", "doctor"),
}
ROLE_OF = {name: role for role, names in ROLES.items() for name in names}
PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("question", "answer"),
    ("query", "response"),
    ("ask", "answer"),
    ("input", "output"),
)
"""Columns that hold one exchange, in the order they are tried."""
PAIR_COLUMNS = ("prompt", "completion", "system")
"""Further keys of `data.columns` for a task with `messages`: the columns of the two turns and of the system text."""


def find_form(names: list[str], system: str = "system", *, replies: bool = True) -> tuple[str, ...]:
    """Return the columns from which `messages` are made, the list or the two turns first; empty where none fit.

    `replies`: whether the reply is required; else its column is ignored.
    """
    for name in ("messages", "conversations", "conversation", "dialogue", "dialog"):
        if name in names:
            return (name,)
    for prompt, reply in PAIRS:
        if prompt in names and (reply in names or not replies):
            extra = ["input"] if prompt == "instruction" and "input" in names else []
            return (prompt, reply, *extra, *([system] if system in names else []))
    return ()


def to_messages(
    record: dict[str, Any], columns: dict[str, str] | None = None, *, replies: bool = True
) -> dict[str, Any] | str:
    """Return the record as `{"messages": [...]}` with its other columns, or the reason why it is no chat.

    `columns`: the columns that the user named, by `messages`, or by `prompt`, `completion` and `system`.
    """
    # The form: the columns that the user named, or well-known ones.
    columns = columns or {}
    system_column = columns.get("system", "system")
    if "messages" in columns:
        form: tuple[str, ...] = (columns["messages"],)
    elif "prompt" in columns and ("completion" in columns or not replies):
        form = (columns["prompt"], columns.get("completion", ""), *([system_column] if system_column in record else []))
    else:
        form = find_form(list(record), system_column, replies=replies)
    if not form or form[0] not in record:
        return f"no chat: columns {', '.join(record)} hold neither messages, conversations nor a prompt with its reply"
    # The turns, with the system text before them.
    rest = {key: value for key, value in record.items() if key not in form}
    if len(form) == 1:
        turns = record[form[0]]
        if not isinstance(turns, list):
            return f"'{form[0]}' is {type(turns).__name__}, where a list of messages is required"
        system = rest.pop(system_column, None)
        leading = [{"role": "system", "content": system}] if isinstance(system, str) and system.strip() else []
    else:
        leading, turns = pair(record, form, system_column)
        if not replies and turns and turns[-1].get("role") == "assistant":
            turns = turns[:-1]
    # Each turn under the common role names.
    messages = []
    for number, turn in enumerate([*leading, *turns], start=1):
        message = to_message(turn)
        if isinstance(message, str):
            return f"message {number}: {message}"
        messages.append(message)
    return {"messages": messages, **rest}


def pair(record: dict[str, Any], form: tuple[str, ...], system_column: str) -> tuple[list[Any], list[Any]]:
    """Return one exchange as (system turn, turns). The `input` of Alpaca follows its instruction after a blank line."""
    prompt_column, reply_column, *further = form
    prompt, reply = record[prompt_column], record.get(reply_column)
    extra = record.get("input") if "input" in further else None
    if isinstance(prompt, list) and isinstance(reply, list):  # conversational prompt and completion (TRL)
        return [], [*prompt, *reply]
    if isinstance(prompt, str) and isinstance(extra, str) and extra.strip():
        prompt = f"{prompt}\n\n{extra}"
    system = record.get(system_column) if system_column in further else None
    leading = [{"role": "system", "content": system}] if isinstance(system, str) and system.strip() else []
    return leading, [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]


def to_message(turn: Any) -> dict[str, Any] | str:
    """Return `{role, content, ...}` with a common role name, or the reason why not. Null values, which Arrow adds, are dropped."""
    if not isinstance(turn, dict):
        return f"a {type(turn).__name__}, where an object with role and content is required"
    role = turn.get("role", turn.get("from"))
    content = turn.get("content", turn.get("value"))
    known = ROLE_OF.get(str(role).lower())
    if known is None:
        return f"unknown role {role!r}; known: {', '.join(ROLE_OF)}"
    if not isinstance(content, str):
        return f"the content is {'null' if content is None else type(content).__name__}, not text"
    used = ("role", "content") if "role" in turn else ("from", "value")
    extra = {key: value for key, value in turn.items() if key not in used and value is not None}
    return {"role": known, "content": content, **extra}
