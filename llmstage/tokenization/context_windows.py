"""Fit encoded conversations into the context of a model. A long one becomes windows, each rendered as a conversation of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from llmstage.data.conversation_windows import windows
from llmstage.tokenization.chat_template import EncodedConversation, EncodedReply, encode_conversations
from llmstage.tokenization.reply_spans import Conversation
from llmstage.tokenization.template_rendering import Message, TemplateRefused
from llmstage.tokenization.tokenizer import Processor

MAX_PLANS = 6
"""How often the windows of a conversation are planned again because one is longer than estimated."""
MIN_PROMPT_TOKENS = 8
"""Tokens before an answer that are kept where the answer itself does not fit."""


@dataclass(slots=True)
class Window:
    """The messages first..last of a conversation as ids within the context, behind its system message."""

    ids: list[int]
    target: list[int]
    replies: list[EncodedReply]
    """The learned replies; `message` counts in the full conversation."""
    first: int
    last: int
    cut: int = 0
    """Tokens of the window that did not fit."""
    cut_targets: int = 0


def fit(
    processor: Processor, conversation: Conversation, encoded: list[EncodedConversation], context: int
) -> tuple[list[Window], int]:
    """Return (windows in which every learned reply is a target once, tokens of messages in no window).

    `encoded`: the conversation by encode_conversations().
    """
    result: list[Window] = []
    lengths: dict[int, int] = {}
    for part in encoded:
        if len(part.ids) <= context:
            result.append(Window(part.ids, part.target, part.replies, 0, part.num_messages - 1))
        else:
            part_windows, part_lengths = split(processor, conversation.first(part.num_messages), part, context)
            result += part_windows
            lengths |= dict(enumerate(part_lengths))
    covered = {index for window in result for index in range(window.first, window.last + 1)}
    if conversation.messages[0]["role"] == "system":
        covered.add(0)  # every window begins with it
    return result, sum(length for index, length in lengths.items() if index not in covered)


def split(
    processor: Processor, conversation: Conversation, encoded: EncodedConversation, context: int
) -> tuple[list[Window], list[int]]:
    """Return (the windows of one encoded conversation that is longer than the context, the tokens of each message)."""
    messages = conversation.messages
    answers = {reply.message for reply in encoded.replies}
    lengths = message_lengths(processor, messages, len(encoded.ids))
    reserve = lengths[0] if messages[0]["role"] == "system" else 0
    is_start = [message["role"] == "user" for message in messages]
    # The lengths are estimates: what the template writes around a message may depend on the messages beside it.
    result: list[Window] = []
    for _ in range(MAX_PLANS):
        plan = windows(lengths, [index in answers for index in range(len(messages))], context, reserve, is_start)
        result = [
            window
            for first, last, targets in plan
            for window in render_window(processor, conversation, first, last, set(targets), context)
        ]
        # A window of one question and its answer cannot be made shorter.
        excess = max((part.cut for part in result if len(part.replies) > 1 or part.first < part.last - 1), default=0)
        if not excess:
            break
        reserve += excess
        lengths = [lengths[0] + excess, *lengths[1:]]
    return result, lengths


def message_lengths(processor: Processor, messages: list[Message], num_tokens: int) -> list[int]:
    """Return an estimate of the tokens of each message, the template's included. `num_tokens`: of the conversation."""
    texts = [
        "".join(
            [
                message["content"] if isinstance(message["content"], str) else "",
                message.get("reasoning_content") or "",
                json.dumps(message["tool_calls"], ensure_ascii=False) if message.get("tool_calls") else "",
            ]
        )
        for message in messages
    ]
    counts = [len(ids) for ids in processor.plain_ids(texts)]
    around = -(-max(0, num_tokens - sum(counts)) // len(messages))
    return [count + around for count in counts]


def render_window(
    processor: Processor, conversation: Conversation, first: int, last: int, answers: set[int], context: int
) -> list[Window]:
    """Return the messages first..last, behind the system message, as one window, or more where the template rewrites turns."""
    messages: list[Message] = [
        {**message, "learn": index in answers} if message["role"] == "assistant" else message
        for index, message in enumerate(conversation.messages)
    ]
    shift = first
    front: list[Message] = []
    if first > 0 and messages[0]["role"] == "system":
        front, shift = messages[:1], first - 1
    (encoded,) = encode_conversations(processor, [replace(conversation, messages=front + messages[first : last + 1])])
    if isinstance(encoded, TemplateRefused):
        raise encoded
    return [cut_to(context, moved(part, shift, first)) for part in encoded]


def moved(part: EncodedConversation, shift: int, first: int) -> Window:
    """Return an encoded part of a conversation as a window. `shift`: how many messages precede it in the full one."""
    replies = [replace(reply, message=reply.message + shift) for reply in part.replies]
    return Window(part.ids, part.target, replies, first, shift + part.num_messages - 1)


def cut_to(context: int, window: Window) -> Window:
    """Return the window within the context: first tokens before the answer are dropped, then the end of the answer."""
    cut = max(0, len(window.ids) - context)
    if not cut:
        return window
    num_dropped = min(cut, max(0, window.replies[0].start - MIN_PROMPT_TOKENS))
    ids, target = window.ids[num_dropped:], window.target[num_dropped:]
    replies = [
        replace(reply, start=reply.start - num_dropped, stop=reply.stop - num_dropped) for reply in window.replies
    ]
    return replace(
        window,
        ids=ids[:context],
        target=target[:context],
        replies=replies,
        cut=cut,
        cut_targets=sum(target[context:]),
    )


def texts_of(message: dict[str, Any]) -> list[str]:
    """Return the texts of a message that a tokenizer should know."""
    calls = message.get("tool_calls")
    texts = [
        message["content"],
        message.get("reasoning_content"),
        json.dumps(calls, ensure_ascii=False) if calls else None,
    ]
    return [text for text in texts if text]
