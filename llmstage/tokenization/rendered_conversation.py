"""Read conversations that a chat template has rendered already: texts with its special tokens in them.

What the assistant wrote is found by the marks of the template: what it writes before a reply, and the token that ends a turn. The
ids are those of the text as it is, and nothing is rendered again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise
from weakref import WeakKeyDictionary

from llmstage.data.chat_formats import RENDERED
from llmstage.data.conversation_windows import windows
from llmstage.tokenization.chat_template import (
    EncodedConversation,
    EncodedReply,
    chat_template,
    encode_conversations,
    to_tokens,
)
from llmstage.tokenization.context_windows import Window, cut_to, fit
from llmstage.tokenization.control_tokens import CONTROL_WORD
from llmstage.tokenization.reply_spans import SLOT, ChatTemplate, Conversation, Rendering, ReplySpan
from llmstage.tokenization.template_rendering import Message, TemplateRefused
from llmstage.tokenization.tokenizer import Processor


@dataclass(slots=True)
class TurnMarks:
    """What a chat template writes around the texts of a conversation."""

    reply: str
    """What opens a reply, with its white space."""
    openings: list[str]
    """Texts that open a reply, without white space: after a question, and after the result of a tool."""
    ends: set[str] = field(default_factory=set)
    """Tokens that end a turn."""
    closes: bool = True
    """Whether one of them ends a reply that a question follows; else the question's mark ends it."""
    question: str = ""
    """What opens a question, without white space; empty where nothing does."""
    space: tuple[str, str] = ("", "")
    """White space before a question that follows a reply, and at the end of a conversation."""
    system: tuple[str, str] | None = None
    """What the template writes before and after a system message that a question follows; None where it takes none."""
    begins_with_bos: bool = False


@dataclass(slots=True)
class RenderedConversation:
    """A rendered text as messages and as ids. The messages are for reading; the ids are those of the text."""

    messages: list[Message]
    encoded: EncodedConversation


MARKS: WeakKeyDictionary[ChatTemplate, TurnMarks] = WeakKeyDictionary()


def is_rendered(messages: list[Message]) -> bool:
    """Return whether the messages of a row are a rendered text instead."""
    return bool(messages) and isinstance(messages[0], dict) and messages[0].get("role") == RENDERED


def turn_marks(processor: Processor) -> TurnMarks:
    """Return the marks of a chat template. Raise TemplateRefused where they cannot be told from texts."""
    template = chat_template(processor)
    if template not in MARKS:
        MARKS[template] = find_marks(template)
    return MARKS[template]


def find_marks(template: ChatTemplate) -> TurnMarks:
    """Find the marks by rendering conversations with slots in place of the texts."""
    roles = ("user", "assistant", "user", "assistant")
    slots: list[Message] = [{"role": role, "content": SLOT.format(index)} for index, role in enumerate(roles)]
    rendering = template.located(Conversation(slots))[-1]
    text, span = rendering.text, rendering.spans[-1]
    before_reply = text[text.index(SLOT.format(2)) + len(SLOT.format(2)) : span.start]
    reply = reply_opening(template, slots[0], before_reply)
    if not (template.controls.pattern.search(reply) or CONTROL_WORD.search(reply)):
        raise TemplateRefused(
            f"the chat template opens a reply with {reply.strip()!r}, which is plain text, so replies cannot be found in a "
            f"rendered text"
        )
    marks = TurnMarks(reply, [reply.strip()])
    last_end = text[span.text_stop : span.stop].strip()
    marks.ends = {token for token in template.controls.ids if template.ends_turn(token)} | ({last_end} - {""})
    # Some templates open every message with it (SmolLM2), so that a text without it is no text of theirs.
    marks.begins_with_bos = begins_with_bos(template, text)

    # What opens a question: what follows the end of the first reply.
    between = text[text.index(SLOT.format(1)) + len(SLOT.format(1)) : text.index(SLOT.format(2))]
    end = next((match for match in template.controls.pattern.finditer(between) if match[0] in marks.ends), None)
    opening = between[end.end() if end else 0 :]
    marks.question, marks.closes = opening.strip(), end is not None
    tail = text[span.stop :]
    marks.space = (opening[: len(opening) - len(opening.lstrip())], "" if tail.strip() else tail)
    marks.system = system_marks(template, slots)
    add_tool_marks(template, marks)
    return marks


def begins_with_bos(template: ChatTemplate, text: str) -> bool:
    bos = template.tokenizer.bos_token
    return bool(bos) and text.startswith(bos) and text.count(bos) == 1


def reply_opening(template: ChatTemplate, question: Message, before_reply: str) -> str:
    """Return what opens a reply, without what closes the question. `before_reply`: all between question and reply."""
    conversation = Conversation([question])
    try:
        prompt, closed = template.text(conversation, prompt=True), template.text(conversation)
    except TemplateRefused:
        return before_reply
    header = prompt.removeprefix(closed) if prompt != closed and prompt.startswith(closed) else ""
    # A prompt may open a block of thinking, which is a part of the reply in rendered texts.
    length = next((size for size in range(len(header), 0, -1) if before_reply.endswith(header[:size])), 0)
    return header[:length] or before_reply


def system_marks(template: ChatTemplate, slots: list[Message]) -> tuple[str, str] | None:
    messages = [{"role": "system", "content": SLOT.format(9)}, *slots[:2]]
    try:
        text = template.text(Conversation(messages))
    except TemplateRefused:
        return None
    before, slot, rest = text.partition(SLOT.format(9))
    after = rest.partition(SLOT.format(0))[0]
    if begins_with_bos(template, text):
        before = before.removeprefix(template.tokenizer.bos_token)
    return (before.strip(), after.strip()) if slot and before.strip() else None


def add_tool_marks(template: ChatTemplate, marks: TurnMarks) -> None:
    """Add what ends a tool call, and what opens a reply after the result of a tool, where the template has tools."""
    call = {"id": "call00001", "type": "function", "function": {"name": "f", "arguments": {"a": "b"}}}
    messages: list[Message] = [
        {"role": "user", "content": SLOT.format(0)},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": SLOT.format(2), "tool_call_id": "call00001", "name": "f"},
        {"role": "assistant", "content": SLOT.format(3)},
    ]
    try:
        renderings = template.located(Conversation(messages))
    except TemplateRefused:
        return
    for rendering in renderings:
        marks.ends |= {rendering.text[span.text_stop : span.stop].strip() for span in rendering.spans} & {
            *template.controls.ids
        }
    _, slot, rest = renderings[-1].text.partition(SLOT.format(2))
    gap, followed, _ = rest.partition(SLOT.format(3))
    tokens = list(template.controls.pattern.finditer(gap)) or list(CONTROL_WORD.finditer(gap))
    if not (slot and followed and tokens) or tokens[-1][0] in marks.ends:
        return
    opening = gap[tokens[-1].start() :].strip()
    if not opening.endswith(marks.openings[0]):
        marks.openings.append(opening)


def parse_rendered(processor: Processor, text: str) -> RenderedConversation:
    """Return a rendered text as a conversation. Raise TemplateRefused where a mark is missing."""
    template, marks = chat_template(processor), turn_marks(processor)
    if marks.begins_with_bos and not text.startswith(template.tokenizer.bos_token):
        text = template.tokenizer.bos_token + text
    openings = list(re.finditer("|".join(map(re.escape, marks.openings)), text))
    if not openings:
        raise TemplateRefused(f"the text has no {marks.openings[0]!r}, with which the chat template opens a reply")
    messages: list[Message] = []
    spans: list[ReplySpan] = []
    position = 0
    for number, opening in enumerate(openings):
        messages += parse_questions(marks, text[position : opening.start()], is_first=number == 0)
        limit = openings[number + 1].start() if number + 1 < len(openings) else len(text)
        start = opening.end() + white_space(marks.reply, text[opening.end() : limit])
        # A reply ends before the next question: the token behind that one would make the question a part of the reply.
        question = text.find(marks.question, start, limit) if marks.question else -1
        before = question if question >= 0 else limit
        end = next((m for m in template.controls.pattern.finditer(text, start, before) if m[0] in marks.ends), None)
        text_stop, following = (end.start(), end.end()) if end else unended(marks, text, start, limit)
        if following is None:
            ends = " or ".join(sorted(marks.ends)) or marks.question
            raise TemplateRefused(f"reply {number + 1} of the text is not ended by {ends}")
        position = following
        if text[start:text_stop].strip():  # else an opening without a reply: the prompt of the next one
            stop = position if end else text_stop
            spans.append(ReplySpan(len(messages), start, text_stop, stop, end is not None, [(start, stop)]))
            messages.append({"role": "assistant", "content": text[start:text_stop]})
    if not spans:
        raise TemplateRefused(f"nothing follows {marks.openings[0]!r}, with which the chat template opens a reply")
    rest = text[position:]
    if rest.strip():
        messages += parse_questions(marks, rest, is_first=False)
    encoding = processor.text_encoder.encode(text, add_special_tokens=False)
    # Only a text that ends with a reply gets the end of text that its last turn lacks.
    num_messages = len(messages)
    return RenderedConversation(
        messages, to_tokens(processor, Rendering(text, spans, num_messages), encoding.ids, encoding.offsets)
    )


def unended(marks: TurnMarks, text: str, start: int, limit: int) -> tuple[int, int | None]:
    """Return (where a reply without an end token stops, where the next message begins; None where nothing tells it).

    It stops at the next question where the template has no token that ends a turn (GLM 4), else only at the end of the text.
    """
    question = text.find(marks.question, start, limit) if marks.question and not marks.closes else -1
    if question >= 0:
        return start + len(text[start:question].removesuffix(marks.space[0])), question
    return start + len(text[start:limit].removesuffix(marks.space[1])), len(text) if limit == len(text) else None


def white_space(opening: str, text: str) -> int:
    """Return the length of the opening's white space at the beginning of a text, as far as the text has it."""
    space = opening[len(opening.rstrip()) :]
    return next((size for size in range(len(space), 0, -1) if text.startswith(space[:size])), 0)


def parse_questions(marks: TurnMarks, text: str, *, is_first: bool) -> list[Message]:
    """Return the messages in the text before a reply: a system message, questions; a text without a mark is a tool's."""
    messages: list[Message] = []
    if is_first and marks.system is not None:
        before, after = marks.system
        _, slot, rest = text.partition(before)
        if slot and after and after in rest:
            content, _, text = rest.partition(after)
            messages.append({"role": "system", "content": content.strip()})
            text = marks.question + text
    parts = text.split(marks.question) if marks.question else [text]
    if marks.question and len(parts) == 1:
        content = without_ends(marks, text)
        return [*messages, *([{"role": "tool", "content": content}] if content else [])]
    return [
        *messages,
        *({"role": "user", "content": without_ends(marks, part)} for part in parts[1 if marks.question else 0 :]),
    ]


def without_ends(marks: TurnMarks, text: str) -> str:
    """Return a text without white space and the tokens that end turns at its ends."""
    text = text.strip()
    while token := next((token for token in marks.ends if token and text.endswith(token)), ""):
        text = text[: -len(token)].rstrip()
    while token := next((token for token in marks.ends if token and text.startswith(token)), ""):
        text = text[len(token) :].lstrip()
    return text


def fit_rendered(processor: Processor, parsed: RenderedConversation, context: int) -> tuple[list[Window], int]:
    """Return what fit() of context_windows.py returns.

    A long conversation whose messages render to the same ids is split as such, with its system message in each window.
    """
    encoded = parsed.encoded
    if len(encoded.ids) <= context:
        return [Window(encoded.ids, encoded.target, encoded.replies, 0, encoded.num_messages - 1)], 0
    conversation = Conversation(parsed.messages)
    (again,) = encode_conversations(processor, [conversation])
    if not isinstance(again, TemplateRefused) and [part.ids for part in again] == [encoded.ids]:
        return fit(processor, conversation, again, context)
    return split_ids(encoded, context)


def split_ids(encoded: EncodedConversation, context: int) -> tuple[list[Window], int]:
    """Return windows of the ids of a conversation, in which every reply is a target once."""
    edges = [0, *(edge for reply in encoded.replies for edge in (reply.start, reply.stop))]
    lengths = [stop - start for start, stop in pairwise(edges)]
    is_answer = [index % 2 == 1 for index in range(len(lengths))]
    result = []
    covered: set[int] = set()
    for first, last, answers in windows(lengths, is_answer, context):
        start, stop = edges[first], edges[last + 1]
        target = [0] * (stop - start)
        replies: list[EncodedReply] = []
        for index in answers:
            reply = encoded.replies[index // 2]
            target[reply.start - start : reply.stop - start] = [1] * (reply.stop - reply.start)
            replies.append(
                EncodedReply(reply.message, reply.start - start, reply.stop - start, reply.text, reply.end_id)
            )
        first_message = encoded.replies[first // 2 - 1].message + 1 if first else 0
        window = Window(encoded.ids[start:stop], target, replies, first_message, replies[-1].message)
        result.append(cut_to(context, window))
        covered.update(range(first, last + 1))
    return result, sum(length for index, length in enumerate(lengths) if index not in covered)


def rendered_prompt(processor: Processor, text: str, room: int) -> list[int]:
    """Return the ids after which the next reply of a rendered text begins; the last ones where they are more than `room`.

    A reply at the end of the text is ignored. Raise TemplateRefused.
    """
    template, marks = chat_template(processor), turn_marks(processor)
    if not any(text.rstrip().endswith(opening) for opening in marks.openings):
        last = max((match.end() for match in re.finditer("|".join(map(re.escape, marks.openings)), text)), default=-1)
        end = next((m for m in template.controls.pattern.finditer(text, max(last, 0)) if m[0] in marks.ends), None)
        if last >= 0 and (end is None or not text[end.end() :].strip()):
            text = text[: last + white_space(marks.reply, text[last:])]
        else:
            text += marks.reply
    if marks.begins_with_bos and not text.startswith(template.tokenizer.bos_token):
        text = template.tokenizer.bos_token + text
    return list(processor.text_encoder.encode(text, add_special_tokens=False).ids)[-room:]
