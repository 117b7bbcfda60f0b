"""Convert the layouts in which chat data is published to one: `{"messages": [...], "tools": [...]}` with the other columns.

chat_messages.py describes a message. A key of a row that changes what is learned is read or refused by name. The other
keys are counted, so that a run and stage=inspect can name them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmstage.data.chat_messages import (
    LEARN_FLAGS,
    REASONING_KEYS,
    REFUSED_KEYS,
    BadChat,
    Message,
    parse_json,
    read_flags,
    reasoning_of,
    refuse_keys,
    to_message,
    to_message_list,
)

RENDERED = "rendered"
"""The role of the only message of a row that is a rendered text (data.rendered); tokenization/rendered_conversation.py reads it."""
TURNS = ("messages", "conversations", "conversation", "dialogue", "dialog")
"""Columns that hold the turns of a conversation, in the order in which they are tried."""
TURNS_IF_LIST = ("log", "turns", "chat")
"""Further such columns, where their value is a list of objects (MultiWOZ)."""
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
PAIR_COLUMNS = ("prompt", "completion", "system", "context", "history", "tools")
"""Further keys of `data.columns` for a task with `messages`: the two turns and what belongs to them."""
SYNONYMS = {
    "system": ("system", "system_prompt", "system_message"),
    "context": ("context",),
    "history": ("history",),
    "tools": ("tools", "functions"),
    "label": ("label", "kto_tag"),
}
"""Columns that belong to a conversation, by what they hold."""
REJECTED = ("rejected", "rejected_messages", "rejected_response", "rejected_answer")
CHOSEN = ("chosen", "chosen_messages", "chosen_response", "chosen_answer")
TEMPLATE_ARGUMENTS = ("documents", "enable_thinking", "reasoning_effort")
"""Columns that are arguments of the chat template; `chat_template_kwargs` holds any others."""
MEDIA = ("image", "images", "video", "videos", "audio", "audios")
NO_TOOLS_LIST = "where a list of function schemas is required"


@dataclass(slots=True)
class Layout:
    """The columns of a record that make a conversation: the turns, or the two sides of an exchange."""

    turns: str = ""
    prompt: str = ""
    reply: str = ""
    """Empty where the reply is not needed and not there."""
    parts: dict[str, str] = field(default_factory=dict)
    """Columns that belong to the conversation, by what they hold: `input` and the keys of SYNONYMS."""
    is_named: bool = False
    """Whether the user named the turns or the exchange."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that are read, the turns first."""
        names = (self.turns, self.prompt, self.reply, *self.parts.values())
        return tuple(dict.fromkeys(name for name in names if name))


def find_layout(
    record: Mapping[str, Any], named: Mapping[str, str] | None = None, *, replies: bool = True
) -> Layout | None:
    """Return the layout of a record (or of samples of a file's columns), None where it holds no conversation.

    `named`: the columns that the user named, by `messages` or one of PAIR_COLUMNS. `replies`: whether the reply is
    required; else its column may be missing. Raise BadChat for pairs of a chosen and a rejected answer.
    """
    named = named or {}
    by_lower = {name.casefold(): name for name in reversed(list(record))}
    layout = Layout(is_named=bool({"messages", "prompt", "completion"} & named.keys()))

    # The turns or the exchange: as the user named them, else by well-known names.
    if "messages" in named:
        layout.turns = named["messages"]
    elif "completion" in named or ("prompt" in named and not replies):
        layout.reply = named.get("completion", "")
        prompts = [by_lower.get(name, "") for name in (*(pair[0] for pair in PAIRS), *TURNS)]
        layout.prompt = named.get("prompt") or next((name for name in prompts if name and name != layout.reply), "")
        if not layout.prompt:  # an answer that holds the whole conversation
            layout.turns, layout.reply = layout.reply, ""
    else:
        if replies:
            refuse_preferences(by_lower)
        is_list = {name: is_turns(record.get(by_lower.get(name, ""))) for name in TURNS_IF_LIST}
        layout.turns = next((by_lower[name] for name in TURNS if name in by_lower), "")
        if not layout.turns:
            find_pair(layout, by_lower, replies=replies)
        if not layout.prompt and not layout.turns:
            layout.turns = next((by_lower[name] for name in TURNS_IF_LIST if is_list[name]), "")
    if not layout.turns and not layout.prompt:
        return None

    # What belongs to them.
    if "context" in named and layout.turns:
        raise BadChat(
            f"data.columns.context={named['context']} belongs to a prompt, and '{layout.turns}' holds messages"
        )
    used = set(layout.columns)
    for part, synonyms in SYNONYMS.items():
        column = named.get(part) or next((by_lower[name] for name in synonyms if name in by_lower), "")
        if column not in record or column in used:
            continue
        if part in ("context", "history") and layout.turns and part not in named:
            continue  # beside messages these may be anything
        if part == "label" and not is_verdict(record[column]):
            continue
        layout.parts[part] = column
    if layout.prompt.casefold() in ("instruction", "prompt") and "input" in by_lower and by_lower["input"] not in used:
        layout.parts["input"] = by_lower["input"]
    return layout


def find_pair(layout: Layout, by_lower: Mapping[str, str], *, replies: bool) -> None:
    for prompt, reply in PAIRS:
        if prompt in by_lower and (reply in by_lower or not replies):
            layout.prompt, layout.reply = by_lower[prompt], by_lower.get(reply, "")
            return


def is_turns(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(turn, dict) for turn in value)


def refuse_preferences(by_lower: Mapping[str, str]) -> None:
    """Raise BadChat where a record holds a rejected answer: what is learned of such a pair is not decided by its names."""
    rejected = next((by_lower[name] for name in REJECTED if name in by_lower), "")
    if not rejected:
        return
    chosen = next((by_lower[name] for name in CHOSEN if name in by_lower), "")
    turns = next((by_lower[name] for name in TURNS if name in by_lower), "")
    prompt = next((by_lower[pair[0]] for pair in PAIRS if pair[0] in by_lower), "")
    if chosen:
        first = f"'{chosen}' and '{rejected}' are pairs of a preferred and a rejected answer"
        remedy = f"data.columns.{'completion' if turns or prompt else 'messages'}={chosen}"
    else:
        first = f"'{rejected}' is a rejected answer"
        reply = next((by_lower[reply] for _, reply in PAIRS if reply in by_lower), "")
        remedy = f"data.columns.messages={turns}" if turns else f"data.columns.completion={reply or '<column>'}"
    raise BadChat(
        f"{first}, and task=dialogue does not learn from the comparison. To learn the preferred answers alone: {remedy}"
    )


def to_messages(
    record: dict[str, Any],
    columns: Mapping[str, str] | None = None,
    *,
    replies: bool = True,
    unread: Counter[str] | None = None,
) -> dict[str, Any] | str:
    """Return the record as `{"messages": [...], "tools": [...]}` with its other columns, or the reason why it is no chat.

    `columns`, `replies`: see find_layout(). `unread` counts the keys of the row and its messages that are not read.
    """
    try:
        return convert(record, columns, replies=replies, unread=Counter() if unread is None else unread)
    except BadChat as error:
        return str(error)


def convert(
    record: dict[str, Any], columns: Mapping[str, str] | None, *, replies: bool, unread: Counter[str]
) -> dict[str, Any]:
    """Return the record in the normal form. Raise BadChat."""
    layout = find_layout(record, columns, replies=replies)
    if layout is None or (layout.turns or layout.prompt) not in record:
        raise BadChat(
            f"no chat: columns {', '.join(record)} hold neither messages, conversations nor a prompt with its reply"
        )
    rest = {key: value for key, value in record.items() if key not in layout.columns}
    check_further_columns(rest, layout, replies=replies)

    # The messages: earlier turns, the system text before them.
    if layout.turns:
        before = history_messages(record.get(layout.parts.get("history", "")), unread)
        messages = [*before, *to_message_list(list_of(record[layout.turns], layout.turns), unread)]
    else:
        messages = exchange(record, layout, rest, unread, replies=replies)
    messages = [*system_message(record, layout, messages), *messages]

    # What is learned of them.
    if replies:
        flags = {key: rest.pop(key) for key in LEARN_FLAGS if key in rest}
        if read_flags(flags) is False or is_undesirable(record, layout):
            messages = [as_context(message) for message in messages]

    # What the template needs beside the messages.
    row: dict[str, Any] = {"messages": messages}
    if "tools" in layout.parts and (tools := read_tools(record[layout.parts["tools"]], layout.parts["tools"])):
        row["tools"] = tools
    if arguments := template_arguments(rest):
        row["chat_template_kwargs"] = arguments
    for key, value in rest.items():
        if value is not None:
            unread[key] += 1
    return {**row, **rest}


def to_rendered(
    record: dict[str, Any], column: str, *, replies: bool = True, unread: Counter[str]
) -> dict[str, Any] | str:
    """Return a record whose text a chat template has rendered as a row, or the reason why it is none."""
    text = record.get(column)
    if not isinstance(text, str) or not text.strip():
        given = "null" if text is None else "empty" if isinstance(text, str) else type(text).__name__
        return f"'{column}' is {given}, where a rendered conversation is required (data.rendered=true)"
    rest = {key: value for key, value in record.items() if key != column}
    message = {"role": RENDERED, "content": text}
    if replies:
        try:
            refuse_keys({key: value for key, value in rest.items() if key != "refusal"})
            flags = {key: rest.pop(key) for key in LEARN_FLAGS if key in rest}
            label = next((key for key in SYNONYMS["label"] if key in rest and is_verdict(rest[key])), "")
            undesirable = bool(label) and is_undesirable(record, Layout(parts={"label": label}))
            rest.pop(label, None)
            if read_flags(flags) is False or undesirable:
                message["learn"] = False  # type: ignore[assignment]
        except BadChat as error:
            return str(error)
    unread.update(key for key, value in rest.items() if value is not None)
    return {"messages": [message], **rest}


def list_of(turns: Any, column: str) -> list[Any]:
    """Return the turns as a list; a cell of a table holds them as JSON text. An object is one message."""
    if isinstance(turns, str) and turns.lstrip()[:1] == "[":
        turns = parse_json(turns, f"'{column}'")
    if isinstance(turns, dict):
        turns = [turns]
    if not isinstance(turns, list):
        raise BadChat(f"'{column}' is {type(turns).__name__}, where a list of messages is required")
    return turns


def exchange(
    record: Mapping[str, Any], layout: Layout, rest: dict[str, Any], unread: Counter[str], *, replies: bool
) -> list[Message]:
    """Return the history, the prompt and the reply as messages.

    `input` and `context` follow the prompt after a blank line. The answers in a prompt that is a list are context.
    """
    prompt, reply = record[layout.prompt], record.get(layout.reply)
    before = history_messages(record.get(layout.parts.get("history", "")), unread)
    further = [
        passage(record.get(layout.parts.get(part, "")), layout.parts.get(part, "")) for part in ("input", "context")
    ]
    if isinstance(prompt, (list, dict)):
        asked = [as_context(message) for message in to_message_list(list_of(prompt, layout.prompt), unread)]
        if any(further):
            raise BadChat(f"'{layout.prompt}' is a list of messages, and {list(layout.parts.values())} are beside it")
    else:
        if not isinstance(prompt, str):
            raise BadChat(f"'{layout.prompt}' is {'null' if prompt is None else type(prompt).__name__}, not text")
        asked = [{"role": "user", "content": "\n\n".join([prompt, *(text for text in further if text)])}]
    if not replies:
        return [*before, *asked]

    # A reply is a text, a message or several; with reasoning in a column of its own.
    reasoning = reasoning_of(rest)
    for key in REASONING_KEYS:
        rest.pop(key, None)
    if isinstance(reply, (list, dict)):
        answers = to_message_list(list_of(reply, layout.reply), unread)
        if [text_of(message) for message in answers[: len(asked)]] == [text_of(message) for message in asked]:
            answers = answers[len(asked) :]  # the prompt is repeated in front of the answer (UltraFeedback)
    else:
        if not isinstance(reply, str):
            raise BadChat(f"'{layout.reply}' is {'null' if reply is None else type(reply).__name__}, not text")
        answers = [{"role": "assistant", "content": reply}]
    if reasoning and answers:
        answers[-1] = {**answers[-1], "reasoning_content": reasoning}
    return [*before, *asked, *answers]


def text_of(message: Message) -> tuple[Any, Any]:
    return message["role"], message["content"]


def passage(value: Any, column: str) -> str:
    """Return a further text of the prompt; a list of passages becomes one text."""
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        return "\n\n".join(text for text in value if text.strip())
    if not isinstance(value, str):
        raise BadChat(f"'{column}' belongs to the prompt and is {type(value).__name__}, where text is required")
    return value if value.strip() else ""


def history_messages(history: Any, unread: Counter[str]) -> list[Message]:
    """Return the turns before the prompt, from `[[question, answer], ...]` or a list of messages. They are learned."""
    if history in (None, "", []):
        return []
    if isinstance(history, str):
        history = parse_json(history, "'history'")
    if not isinstance(history, list):
        raise BadChat(f"'history' is {type(history).__name__}, where a list of [question, answer] is required")
    if all(isinstance(turn, dict) for turn in history):
        return to_message_list(history, unread)
    messages: list[Message] = []
    for number, turn in enumerate(history, start=1):
        if not (isinstance(turn, (list, tuple)) and len(turn) == 2 and all(isinstance(text, str) for text in turn)):
            raise BadChat(f"'history', turn {number}: {str(turn)[:60]!r} is not [question, answer]")
        messages += [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
    return messages


def system_message(record: Mapping[str, Any], layout: Layout, messages: list[Message]) -> list[Message]:
    """Return the system text of the row as a list of one message; empty where there is none."""
    column = layout.parts.get("system", "")
    system = record.get(column)
    if system is None or (isinstance(system, str) and not system.strip()):
        return []
    message = to_message({"role": "system", "content": system}, Counter())[0]
    if messages and messages[0]["role"] == "system":
        if messages[0]["content"] == message["content"]:
            return []
        raise BadChat(f"the column '{column}' and the first message are two different system messages")
    return [message]


def check_further_columns(rest: Mapping[str, Any], layout: Layout, *, replies: bool) -> None:
    """Raise BadChat for a column that changes the conversation or what is learned of it and is not read."""
    if media := next((key for key in MEDIA if rest.get(key)), ""):
        raise BadChat(f"'{media}' is not read by task=dialogue; for questions about images: task=visual_reasoning")
    if not replies:
        return
    if layout.turns and not layout.is_named:
        # Beside a list of messages it is not plain what these mean.
        reasoning = next((key for key in REASONING_KEYS if rest.get(key)), "")
        history = next((key for key in rest if key.casefold() == "history" and rest[key]), "")
        if column := reasoning or history:
            raise BadChat(
                f"'{column}' beside '{layout.turns}' is not read. If the messages are complete without it: "
                f"data.columns.messages={layout.turns}"
            )
    refuse_keys({key: value for key, value in rest.items() if key in REFUSED_KEYS and key != "refusal"})


def is_verdict(value: Any) -> bool:
    """Return whether a label may say that an answer is desirable (KTO), rather than e.g. name a topic."""
    return isinstance(value, bool) or str(value).strip().lower() in ("true", "false", "0", "1", "0.0", "1.0")


def is_undesirable(record: Mapping[str, Any], layout: Layout) -> bool:
    """Return whether the row's label (KTO) says that its answer is not to be learned.

    The numbers 0 and 1 may also be two topics, so they are refused.
    """
    column = layout.parts.get("label", "")
    text = str(record.get(column)).strip().lower() if column else "true"
    if text not in ("true", "false"):
        raise BadChat(
            f"'{column}' is {record[column]!r}. Write true or false if it says whether the answer is desirable (KTO), or "
            f"rename the column if it says something else"
        )
    return text == "false"


def as_context(message: Message) -> Message:
    return {**message, "learn": False} if message["role"] == "assistant" else message


def has_target(row: Mapping[str, Any]) -> bool:
    """Return whether something of a conversation in the normal form is learned; also where it has no answer at all."""
    answers = [message for message in row["messages"] if message["role"] in ("assistant", RENDERED)]
    return not answers or any(message.get("learn", True) for message in answers)


def read_tools(tools: Any, column: str) -> list[dict[str, Any]]:
    """Return function schemas in OpenAI's form, from a list or its JSON text. Raise BadChat."""
    if isinstance(tools, str):
        tools = parse_json(tools, f"'{column}'") if tools.strip() else []
    if isinstance(tools, dict):
        tools = [tools]
    if tools is None:
        return []
    if not isinstance(tools, list):
        raise BadChat(f"'{column}' is {type(tools).__name__}, {NO_TOOLS_LIST}")
    schemas = []
    for number, tool in enumerate(tools, start=1):
        if isinstance(tool, str):
            tool = parse_json(tool, f"'{column}', tool {number}")
        function = tool.get("function") if isinstance(tool, dict) and isinstance(tool.get("function"), dict) else tool
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadChat(f"'{column}', tool {number}: a function schema has a name, {str(tool)[:60]!r} has none")
        if function is tool:  # the schema without its envelope
            schemas.append({"type": "function", "function": {key: tool[key] for key in tool if key != "type"}})
        else:
            schemas.append({"type": "function", **tool})
    return schemas


def template_arguments(rest: dict[str, Any]) -> dict[str, Any]:
    """Take the arguments of the chat template out of the other columns and return them. Raise BadChat."""
    arguments = rest.pop("chat_template_kwargs", None)
    if isinstance(arguments, str):
        arguments = parse_json(arguments, "'chat_template_kwargs'") if arguments.strip() else None
    if arguments is not None and not isinstance(arguments, dict):
        raise BadChat(f"'chat_template_kwargs' is {type(arguments).__name__}, where an object is required")
    given = {key: rest.pop(key) for key in TEMPLATE_ARGUMENTS if rest.get(key) is not None}
    return {**given, **(arguments or {})}
