"""Encode conversations exactly as `tokenizer.apply_chat_template` does, and find the tokens that the assistant wrote.

A conversation is rendered as one text and encoded in one call, because the ids at the edge of a content depend on what the
template writes beside it: SentencePiece puts a space before each text, and a byte-level BPE joins a space and the word after it.
Text such as `<|assistant|>` inside a message does not become a control token, in training or in use.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmstage import console
from llmstage.errors import ModelError
from llmstage.tokenization.reply_spans import ChatTemplate, Conversation, Rendering
from llmstage.tokenization.template_rendering import PLAIN_TEMPLATE, Message, TemplateRefused
from llmstage.tokenization.tokenizer import Processor
from llmstage.tokenization.tool_template import enable_tools, uses_tools

__all__ = [
    "PLAIN_TEMPLATE",
    "Conversation",
    "TemplateRefused",
    "encode_conversations",
    "prepare_tools",
    "reply_prompt",
    "stop_ids",
]

Offsets = list[tuple[int, int]]


@dataclass(slots=True)
class EncodedReply:
    """What the assistant wrote in one message, as positions of ids."""

    message: int
    start: int
    """The ids before it are the prompt."""
    stop: int
    """After the token that ends the turn."""
    text: str
    """As the template writes it, without the end: reasoning, content and tool calls."""
    end_id: int | None = None
    """The token that ends the turn, the last of the reply's; None where nothing does."""


@dataclass(slots=True)
class EncodedConversation:
    """A conversation up to its message number `num_messages` as ids. `target`: 1 for the ids that are learned, else 0."""

    ids: list[int]
    target: list[int]
    replies: list[EncodedReply]
    num_messages: int


def chat_template(processor: Processor, *, tools: bool = False) -> ChatTemplate:
    """Return what is known of the chat template of a tokenizer. One without a template gets PLAIN_TEMPLATE.

    `tools`: whether it must write tools; one that does not gets the prelude of tool_template.py. Raise TemplateRefused.
    """
    tokenizer = processor.tokenizer
    if not tokenizer.chat_template:
        tokenizer.chat_template = PLAIN_TEMPLATE
    if tools:
        enable_tools(tokenizer)
    key = json.dumps([tokenizer.chat_template, len(tokenizer), tokenizer.special_tokens_map], default=str)
    if key not in processor.chat_templates:
        processor.chat_templates[key] = ChatTemplate(tokenizer, processor.generation_end_ids)
    template: ChatTemplate = processor.chat_templates[key]
    return template


def prepare_tools(processor: Processor) -> None:
    """Make sure that the chat template writes tools, and say so where it did not. Raise ModelError."""
    try:
        before = processor.tokenizer.chat_template
        chat_template(processor, tools=True)
    except TemplateRefused as error:
        raise ModelError(
            f"The rows have tools, but {error}. Use another model.path, or mend its chat_template.jinja."
        ) from None
    if before and processor.tokenizer.chat_template != before:
        console.note(
            "the chat template knows no tools: they are written in tags, and the template that is saved does so too"
        )


def encode_conversations(
    processor: Processor, conversations: Sequence[Conversation]
) -> list[list[EncodedConversation] | TemplateRefused]:
    """Return each conversation as one encoded conversation, or as the reason why the template refuses it.

    It is several where the template writes an earlier reply differently once other messages follow, e.g. without its reasoning:
    each reply is then learned as it is written at inference. Messages with `learn: false` are not learned.
    """
    tools = any(uses_tools(conversation.messages, conversation.tools) for conversation in conversations)
    template = chat_template(processor, tools=tools)
    rendered: list[list[Rendering] | TemplateRefused] = []
    typed: list[bool] = []
    for conversation in conversations:
        typed.append(template.controls.typed([conversation.messages, conversation.tools, conversation.template_kwargs]))
        try:
            rendered.append(template.renderings(marked(template, conversation) if typed[-1] else conversation))
        except TemplateRefused as error:
            rendered.append(error)
    plain = [
        part.text
        for renderings, is_typed in zip(rendered, typed, strict=True)
        if isinstance(renderings, list) and not is_typed
        for part in renderings
    ]
    encoded = iter(processor.text_encoder.encode_batch(plain, add_special_tokens=False))
    results: list[list[EncodedConversation] | TemplateRefused] = []
    for renderings, is_typed in zip(rendered, typed, strict=True):
        if isinstance(renderings, TemplateRefused):
            results.append(renderings)
            continue
        parts = []
        for rendering in renderings:
            if is_typed:
                rendering, ids, offsets = encode_marked(template, rendering)
            else:
                encoding = next(encoded)
                ids, offsets = encoding.ids, encoding.offsets
            parts.append(to_tokens(processor, rendering, ids, offsets))
        results.append(parts)
    return results


def marked(template: ChatTemplate, conversation: Conversation) -> Conversation:
    """Return the conversation with marks around the special tokens in its texts."""
    mark = template.controls.marked
    return Conversation(mark(conversation.messages), mark(conversation.tools), mark(conversation.template_kwargs))


def encode_marked(template: ChatTemplate, rendering: Rendering) -> tuple[Rendering, list[int], Offsets]:
    """Return a rendering with marks as (the rendering without, its ids, their offsets)."""
    positions = [position for span in rendering.spans for position in span.positions()]
    text, typed, positions = template.controls.unmark(rendering.text, positions)
    moved = iter(positions)
    spans = [span.moved([next(moved) for _ in span.positions()]) for span in rendering.spans]
    return Rendering(text, spans, rendering.num_messages), *template.controls.encode_typed(text, typed)


def to_tokens(processor: Processor, rendering: Rendering, ids: list[int], offsets: Offsets) -> EncodedConversation:
    """Map what the assistant wrote from characters to ids. An id belongs to it if it has one character of it.

    Where no token ends the last reply, the end of text is appended, so that the model learns to stop.
    """
    starts, stops = [start for start, _ in offsets], [stop for _, stop in offsets]
    target = [0] * len(ids)
    replies = []
    for span in rendering.spans:
        for first, last in span.learned:
            start, stop = token_range(starts, stops, first, last)
            target[start:stop] = [1] * (stop - start)
        start, stop = token_range(starts, stops, span.start, span.stop)
        text, end_id = rendering.text[span.start : span.text_stop], ids[stop - 1] if span.ends else None
        replies.append(EncodedReply(span.message, start, stop, text, end_id))
    last_span = rendering.spans[-1] if rendering.spans else None
    if (
        last_span is not None
        and last_span.message == rendering.num_messages - 1
        and not last_span.ends
        and processor.eos_id is not None
    ):
        # White space that the template writes behind the reply has to be generated before the end.
        ids, start = [*ids, processor.eos_id], replies[-1].stop
        target[start:] = [1] * (len(ids) - start)
        replies[-1].stop, replies[-1].end_id = len(ids), processor.eos_id
    return EncodedConversation(ids, target, replies, rendering.num_messages)


def token_range(starts: list[int], stops: list[int], first: int, last: int) -> tuple[int, int]:
    """Return the range of the tokens that have characters between `first` and `last`.

    `starts`, `stops`: the characters of each token. A space that SentencePiece adds has none, and belongs to the text behind it.
    """
    start = bisect_right(stops, first)
    while start > 0 and starts[start - 1] == stops[start - 1] == first:
        start -= 1
    return start, max(start, bisect_left(starts, last))


def reply_prompt(
    processor: Processor,
    messages: list[Message],
    room: int,
    *,
    tools: list[Any] | None = None,
    template_kwargs: dict[str, Any] | None = None,
) -> tuple[list[int], list[int]]:
    """Return (ids after which the assistant's next reply begins, ids that would end it).

    Of a conversation longer than `room` ids, the system message and the latest turns are used; of a last turn that alone is too
    long, its end. Raise TemplateRefused.
    """
    template = chat_template(processor, tools=uses_tools(messages, tools))
    conversation = Conversation(messages, tools, template_kwargs)
    ends = turn_end(processor)
    ids = prompt_ids(processor, template, conversation)
    if len(ids) <= room:
        return ids, ends
    # Drop the oldest turns: a conversation begins with a question.
    front = 1 if messages[0]["role"] == "system" else 0
    questions = [index for index, message in enumerate(messages) if message["role"] == "user" and index > front]
    low, high = 0, len(questions) - 1
    shortest = conversation
    while low <= high:  # the first question from which on the turns fit
        middle = (low + high) // 2
        shorter = replace(conversation, messages=messages[:front] + messages[questions[middle] :])
        candidate = prompt_ids(processor, template, shorter)
        if len(candidate) <= room:
            ids, high = candidate, middle - 1
        else:
            low = middle + 1
    if len(ids) <= room:
        return ids, ends
    if questions:
        shortest = replace(conversation, messages=messages[:front] + messages[questions[-1] :])
    return cut_prompt(processor, template, shortest, room), ends


def prompt_ids(processor: Processor, template: ChatTemplate, conversation: Conversation) -> list[int]:
    """Return the ids of a conversation with the generation prompt."""
    is_typed = template.controls.typed([conversation.messages, conversation.tools, conversation.template_kwargs])
    text = template.text(marked(template, conversation) if is_typed else conversation, prompt=True)
    if is_typed:
        return encode_marked(template, Rendering(text, [], 0))[1]
    return list(processor.text_encoder.encode(text, add_special_tokens=False).ids)


def cut_prompt(processor: Processor, template: ChatTemplate, conversation: Conversation, room: int) -> list[int]:
    """Return prompt_ids() with the beginning of the last text cut off, as much as is needed."""
    *before, last = conversation.messages
    text = text_of(last["content"])
    ids = prompt_ids(processor, template, conversation)
    offsets = processor.plain_offsets([text])[0][1]
    keep = len(offsets)
    while len(ids) > room and keep > 0:
        keep = max(0, keep - (len(ids) - room))
        rest = text[offsets[-keep][0] :] if keep else ""
        ids = prompt_ids(processor, template, replace(conversation, messages=[*before, {**last, "content": rest}]))
    return ids[-room:]


def turn_end(processor: Processor) -> list[int]:
    """Return the id that ends a reply without tool calls, in a conversation that ends with it; [] where nothing does."""
    template = chat_template(processor)
    if template.turn_end is None:
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        (encoded,) = encode_conversations(processor, [Conversation(messages)])
        end = encoded[-1].replies[-1].end_id if isinstance(encoded, list) and encoded else processor.eos_id
        template.turn_end = [] if end is None else [end]
    return list(template.turn_end)


def stop_ids(processor: Processor) -> list[int]:
    """Return the ids at which generation stops: those that end a turn in the chat template, if any, and the end of text."""
    ends = {*processor.generation_end_ids, *([] if processor.eos_id is None else [processor.eos_id])}
    if processor.tokenizer.chat_template:
        try:
            template = chat_template(processor)
            ends |= {*turn_end(processor), *(template.controls.ids[token] for token in template.inner_ends)}
        except ModelError:
            pass  # a task that uses the template reports it
    return sorted(ends)


def text_of(content: Any) -> str:
    """Return the text of a message's content."""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


@dataclass(slots=True)
class Exchange:
    """A question and its reply as ids. `end`: the ids that end the reply."""

    prompt: list[int]
    reply: list[int]
    end: list[int]


def encode_exchanges(processor: Processor, pairs: Sequence[tuple[Any, Any]]) -> list[Exchange]:
    """Return the ids of each (question, reply), each pair as a conversation of its own. Raise TemplateRefused.

    Contents are texts, or lists of parts as transformers takes them.
    """
    conversations = [
        Conversation([{"role": "user", "content": question}, {"role": "assistant", "content": reply}])
        for question, reply in pairs
    ]
    result = []
    for encoded in encode_conversations(processor, conversations):
        if isinstance(encoded, TemplateRefused):
            raise encoded
        part = encoded[-1]
        (reply,) = part.replies
        stop = reply.stop - (reply.end_id is not None)
        result.append(Exchange(part.ids[: reply.start], part.ids[reply.start : stop], part.ids[stop : reply.stop]))
    return result
