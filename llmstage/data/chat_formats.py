"""The forms in which chat data is published, as one: `{"messages": [{"role": ..., "content": ...}, ...]}`."""

from __future__ import annotations

from typing import Any

ROLES = {
    "system": ("system", "developer"),
    "user": ("user", "human", "usr", "customer", "prompter", "client", "patient"),
    "assistant": ("assistant", "gpt", "sys", "bot", "agent", "model", "chatgpt", "bard", "doctor"),
}
ROLE_OF = {word: role for role, words in ROLES.items() for word in words}
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
PAIR_WORDS = ("prompt", "completion", "system")
"""Words that `data.columns` takes beside `messages`: which columns hold the two turns and the system text."""


def find_form(names: list[str], system: str = "system", *, replies: bool = True) -> tuple[str, ...]:
    """The columns that make `messages`, the list or the two turns first; empty where none fit. `replies`: the reply must be
    there; else its column is not looked at."""
    for word in ("messages", "conversations", "conversation", "dialogue", "dialog"):
        if word in names:
            return (word,)
    for asked, replied in PAIRS:
        if asked in names and (replied in names or not replies):
            extra = [word for word in ("input",) if asked == "instruction" and word in names]
            return (asked, replied, *extra, *([system] if system in names else []))
    return ()


def to_messages(
    record: dict[str, Any], columns: dict[str, str] | None = None, *, replies: bool = True
) -> dict[str, Any] | str:
    """The record as `{"messages": [...]}` with the keys that were not used, or the reason why it is no chat.

    `columns` (words `messages`, or `prompt`, `completion`, `system`) names the columns where the user did.
    """
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
    rest = {key: value for key, value in record.items() if key not in form}
    if len(form) == 1:
        turns = record[form[0]]
        if not isinstance(turns, list):
            return f"'{form[0]}' is {type(turns).__name__}, where a list of messages must stand"
        system = rest.pop(system_column, None)
        leading = [{"role": "system", "content": system}] if isinstance(system, str) and system.strip() else []
    else:
        leading, turns = pair(record, form, system_column)
        if not replies and turns and turns[-1].get("role") == "assistant":
            turns = turns[:-1]
    messages = []
    for number, turn in enumerate([*leading, *turns], start=1):
        made = one_message(turn)
        if isinstance(made, str):
            return f"message {number}: {made}"
        messages.append(made)
    return {"messages": messages, **rest}


def pair(record: dict[str, Any], form: tuple[str, ...], system_column: str) -> tuple[list[Any], list[Any]]:
    """One exchange as turns; Alpaca's `input` follows its instruction after a blank line."""
    asked, replied, *others = form
    prompt, reply = record[asked], record.get(replied)
    extra = record.get("input") if "input" in others else None
    if isinstance(prompt, list) and isinstance(reply, list):  # conversational prompt and completion (TRL)
        return [], [*prompt, *reply]
    if isinstance(prompt, str) and isinstance(extra, str) and extra.strip():
        prompt = f"{prompt}\n\n{extra}"
    system = record.get(system_column) if system_column in others else None
    leading = [{"role": "system", "content": system}] if isinstance(system, str) and system.strip() else []
    return leading, [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]


def one_message(turn: Any) -> dict[str, Any] | str:
    """`{role, content, ...}` with our role words, or the reason why not. Null keys are dropped (Arrow adds them)."""
    if not isinstance(turn, dict):
        return f"a {type(turn).__name__}, where an object with role and content must stand"
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
