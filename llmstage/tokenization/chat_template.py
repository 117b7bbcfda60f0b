"""Encode conversations with the model's own chat template, and every message's content as plain text.

Text such as `<|assistant|>` inside a message must not become a control token, in training or in use. So the template is rendered
around placeholders and split at them, and the ids of the contents are inserted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from llmstage.tokenization.tokenizer import Processor

MARK = "\ue000{}\ue001"
"""The placeholder of the content of message number {} while the template is rendered; private-use characters."""

FRAMES = 10_000
"""Sequences of roles whose frames are cached."""

PLAIN_TEMPLATE = (
    "{{ bos_token or '' }}{% for message in messages %}{{ message['role'] + ': ' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token or '' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
"""The template of base models that come without one; it needs no new tokens."""


class TemplateRefused(ValueError):
    """The model's chat template does not accept this conversation; the text says why."""


@dataclass(slots=True)
class Turn:
    """One message as ids: `before` opens it, `content` is its text, `after` closes it."""

    before: list[int]
    content: list[int]
    after: list[int]
    """For an assistant's turn it begins with the tokens that end the turn."""
    role: str

    def __len__(self) -> int:
        return len(self.before) + len(self.content) + len(self.after)


def conversation(
    processor: Processor, messages: list[dict[str, Any]], contents: list[list[int]] | None = None
) -> list[Turn]:
    """The messages as turns whose ids, laid end to end, are the rendered conversation.

    Content is a text, or a list of `{"type": "image"}` and one `{"type": "text", "text": ...}`, as transformers takes it.
    `contents`: ids of the messages' texts, where plain_ids() has given them already.
    """
    if not processor.tokenizer.chat_template:
        processor.tokenizer.chat_template = PLAIN_TEMPLATE
    marked = [
        {"role": message["role"], "content": with_mark(message["content"], MARK.format(index))}
        for index, message in enumerate(messages)
    ]
    # The template sees marks only, so that all conversations of the same roles are framed alike.
    key = json.dumps([processor.tokenizer.chat_template, marked])
    if key not in processor.frames:
        if len(processor.frames) >= FRAMES:
            processor.frames.clear()
        processor.frames[key] = frames_of(processor, marked)
    if contents is None:
        contents = processor.plain_ids([text_of(message["content"]) for message in messages])
    return [
        Turn(list(before), content, list(after), message["role"])
        for (before, after), content, message in zip(processor.frames[key], contents, messages, strict=True)
    ]


def frames_of(processor: Processor, marked: list[dict[str, Any]]) -> list[tuple[list[int], list[int]]]:
    """(ids before the content, ids after it) of each message, as the template puts them around its mark."""
    try:
        text = str(processor.tokenizer.apply_chat_template(marked, tokenize=False))
        opening = str(processor.tokenizer.apply_chat_template(marked[:1], tokenize=False, add_generation_prompt=True))
        closed = str(processor.tokenizer.apply_chat_template(marked[:1], tokenize=False))
    except (TemplateError, ValueError) as error:
        raise TemplateRefused(f"the chat template refuses this conversation: {error}") from None
    prompt = opening.removeprefix(closed)  # what opens an assistant's turn
    between: list[str] = []
    rest = text
    for index, message in enumerate(marked):
        head, mark, rest = rest.partition(MARK.format(index))
        if not mark:
            raise TemplateRefused(f"the chat template leaves out message {index + 1} ({message['role']})")
        between.append(head)
    between.append(rest)
    return split_frames(processor, [message["role"] for message in marked], between, prompt)


def reply_prompt(processor: Processor, messages: list[dict[str, Any]], room: int) -> tuple[list[int], list[int]]:
    """(ids after which the assistant's next reply begins, ids that would end it).

    Of a conversation longer than `room` ids, the system message and the latest turns are used; of a last turn that alone is too
    long, its end.
    """
    *turns, reply = conversation(processor, [*messages, {"role": "assistant", "content": "a"}])
    front = turns[0].before + turns[0].content + turns[0].after if turns and turns[0].role == "system" else []
    rest = turns[1:] if front else turns
    start = rest[0].before[:1] if rest and not front and rest[0].before[:1] == [processor.bos_id] else []
    available = room - len(front) - len(reply.before)
    latest: list[int] = []
    for number, turn in reversed(list(enumerate(rest))):
        ids = turn.before + turn.content + turn.after
        ids = ids[1:] if number == 0 and start else ids
        if len(start) + len(latest) + len(ids) > available:
            if not latest:  # the last message alone is too long: its end is used
                frame = len(turn.before) + len(turn.after)
                content = turn.content[max(0, len(turn.content) - max(0, available - frame)) :]
                latest = [token for token in turn.before if [token] != start] + content + turn.after
            break
        latest = ids + latest
    return front + start + latest + reply.before, reply.after


def text_of(content: Any) -> str:
    """The text of a message's content."""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def with_mark(content: Any, mark: str) -> Any:
    """The content with its text replaced; images keep their places."""
    if isinstance(content, str):
        return mark
    return [{**part, "text": mark} if part["type"] == "text" else part for part in content]


def split_frames(
    processor: Processor, roles: list[str], between: list[str], prompt: str
) -> list[tuple[list[int], list[int]]]:
    """Text between two contents closes one turn and opens the next; an assistant's opening is the generation prompt."""
    openings = [between[0]]
    closings = []
    for index in range(1, len(between)):
        text = between[index]
        following = roles[index] if index < len(roles) else None
        if following == "assistant" and prompt and text.endswith(prompt):
            cut = len(text) - len(prompt)
        elif following is None:
            cut = len(text)
        else:
            end = end_of_turn(processor, text)
            # Without a mark, what follows an assistant is its end (it must stop), and what follows others opens the next.
            cut = end if end is not None else len(text) if roles[index - 1] == "assistant" else 0
        closings.append(text[:cut])
        openings.append(text[cut:])
    return [
        (processor.markup_ids(openings[index]), processor.markup_ids(closings[index])) for index in range(len(roles))
    ]


def end_of_turn(processor: Processor, text: str) -> int | None:
    """Length of the part of `text` that ends a turn: up to and with its first special token; None without one."""
    specials = [token for token in processor.tokenizer.all_special_tokens if token in text]
    if not specials:
        return None
    first = min(specials, key=text.index)
    return text.index(first) + len(first)
