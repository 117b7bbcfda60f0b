"""Find what the assistant wrote in a rendered conversation, and the token that ends each of its turns.

What the assistant writes is what follows the prompt that it gets at inference: the rendering of the messages before, with the
generation prompt. Its end is where a rendering with another answer is the same again. So nothing is assumed about a template: it
may trim texts, split off a reasoning, or write tool calls in any syntax.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from llmstage.errors import ModelError
from llmstage.tokenization.control_tokens import CONTROL_WORD, ControlTokens
from llmstage.tokenization.template_analysis import writes_contents_verbatim
from llmstage.tokenization.template_rendering import Message, TemplateRefused, generation_marks, render
from llmstage.tokenization.tokenizer import IMAGE_TEMPLATE
from llmstage.tokenization.tool_template import without_prelude

PLACEHOLDER = "\U0010fffd"
"""A text that no message has, in place of an answer."""
SLOT = "\U0010fffb{}\U0010fffc"
SLOT_PATTERN = re.compile("\U0010fffb([0-9]+)\U0010fffc")
"""In place of the content of message number {}, while the frame of conversations of the same shape is rendered."""
MAX_FRAMES = 10_000
"""Shapes of conversations whose frames are cached."""


@dataclass(slots=True)
class Conversation:
    """What a chat template renders. `messages`, `tools`: in the normal form of data/chat_formats.py."""

    messages: list[Message]
    tools: list[Any] | None = None
    template_kwargs: dict[str, Any] | None = None

    def first(self, count: int) -> Conversation:
        """Return the conversation up to its message number `count`."""
        return replace(self, messages=self.messages[:count])

    def with_last(self, message: Message) -> Conversation:
        """Return the conversation with another last message."""
        return replace(self, messages=[*self.messages[:-1], message])


@dataclass(slots=True)
class ReplySpan:
    """What the assistant wrote in one message, as positions in a rendered text."""

    message: int
    start: int
    """Where its prompt ends."""
    text_stop: int
    stop: int
    """After the token that ends the turn; `text_stop` where there is none."""
    ends: bool
    """Whether a token ends the turn."""
    learned: list[tuple[int, int]] = field(default_factory=list)
    """What is learned of it: start to stop, or less where the template marks it."""

    def positions(self) -> list[int]:
        return [self.start, self.text_stop, self.stop, *(edge for part in self.learned for edge in part)]

    def moved(self, positions: list[int]) -> ReplySpan:
        """Return the span with other positions, in the order of positions()."""
        edges = positions[3:]
        learned = list(zip(edges[::2], edges[1::2], strict=True))
        return replace(self, start=positions[0], text_stop=positions[1], stop=positions[2], learned=learned)


@dataclass(slots=True)
class Rendering:
    """A rendered conversation, and what the assistant wrote in it."""

    text: str
    spans: list[ReplySpan]
    num_messages: int
    """The number of messages that it contains, from the first one."""


@dataclass(slots=True)
class Frame:
    """A rendering with slots in place of the contents: what all conversations of one shape have in common."""

    literals: list[str]
    messages: list[int]
    """The message whose content is in each slot, between the literals."""
    spans: list[ReplySpan]
    edges: list[list[tuple[int, int]]]
    """The positions of each span, as (literal, characters of it)."""
    num_messages: int

    def fill(self, contents: list[str]) -> Rendering:
        """Return the rendering with these contents in the slots."""
        parts = [self.literals[0]]
        starts = [0]  # of the literals in the text
        length = len(self.literals[0])
        for number, message in enumerate(self.messages):
            content, literal = contents[message], self.literals[number + 1]
            parts += [content, literal]
            starts.append(length + len(content))
            length += len(content) + len(literal)
        spans = [
            span.moved([starts[literal] + offset for literal, offset in edges])
            for span, edges in zip(self.spans, self.edges, strict=True)
        ]
        return Rendering("".join(parts), spans, self.num_messages)


class ChatTemplate:
    """The chat template of a tokenizer, with what is known of it."""

    def __init__(self, tokenizer: Any, end_ids: tuple[int, ...]) -> None:
        self.tokenizer, self.controls = tokenizer, ControlTokens(tokenizer, end_ids)
        self.end_ids = {index for index in (*end_ids, tokenizer.eos_token_id) if index is not None}
        self.frames: dict[Any, list[Frame]] = {}
        self.writes_tools = False
        self.turn_end: list[int] | None = None
        """The id that ends a reply, once it is known."""
        self.warnings: dict[str, None] = {}
        """What the user should know about the rendering of the rows so far; the keys, in order."""

    def text(self, conversation: Conversation, *, prompt: bool = False) -> str:
        """Return the rendered conversation; with `prompt`, and the beginning of a reply. Raise TemplateRefused."""
        return render(
            self.tokenizer,
            self.arguments(conversation.messages),
            tools=conversation.tools,
            template_kwargs=conversation.template_kwargs,
            generation_prompt=prompt,
        )

    def arguments(self, messages: list[Message]) -> list[Message]:
        """Return the messages as the template takes them."""
        plain = [{key: value for key, value in message.items() if key != "learn"} for message in messages]
        return [as_parts(message) for message in plain] if self.takes_parts else plain

    @cached_property
    def takes_parts(self) -> bool:
        """Return whether contents must be lists of parts, as in the templates of many models that see."""
        slot = {"role": "user", "content": SLOT.format(0)}
        written = []
        for message in (slot, as_parts(slot)):
            try:
                written.append(slot["content"] in render(self.tokenizer, [message]))
            except TemplateRefused:
                written.append(False)
        return written == [False, True]

    @cached_property
    def is_verbatim(self) -> bool:
        """Return whether the template writes every content as it is, so that no rendering has to be compared."""
        template = without_prelude(self.tokenizer.get_chat_template())
        return template == IMAGE_TEMPLATE or writes_contents_verbatim(template)

    # Conversations of a known shape: one rendering, and a comparison.

    def renderings(self, conversation: Conversation) -> list[Rendering]:
        """Return the conversation as one rendering, or as several where the template rewrites earlier turns.

        Each message of the assistant is in the spans of one rendering, unless it has `learn: false`.
        """
        try:
            return self.by_frames(conversation) or self.located(conversation)
        except TemplateRefused:
            # Some templates join the arguments of a tool call to a text, and fail if they are not a text.
            as_text = with_text_arguments(conversation)
            if as_text is None:
                raise
            try:
                return self.located(as_text)
            except TemplateRefused:
                pass
            raise

    def by_frames(self, conversation: Conversation) -> list[Rendering]:
        """Return renderings() from the frames of the shape, where they give the text that the template writes; else []."""
        messages = conversation.messages
        contents = [single_text(message["content"]) for message in messages]
        if conversation.tools or not all(
            text and not text.isspace() and message.keys() <= {"role", "content", "learn"}
            for text, message in zip(contents, messages, strict=True)
        ):
            return []
        frames = self.frames_of(conversation)
        filled = [frame.fill(contents) for frame in frames]
        if frames and self.is_verbatim:
            return learned_only(filled, messages)
        texts = [self.text(conversation.first(frame.num_messages)) for frame in frames]
        if [part.text for part in filled] != texts:
            trimmed = [text.strip() for text in contents]
            filled = [frame.fill(trimmed) for frame in frames] if trimmed != contents else []
        return learned_only(filled, messages) if [part.text for part in filled] == texts else []

    def frames_of(self, conversation: Conversation) -> list[Frame]:
        """Return the frames of all conversations with these roles and parts; [] where there are none."""
        messages = conversation.messages
        key = (
            *((message["role"], part_types(message["content"])) for message in messages),
            str(conversation.template_kwargs),
        )
        if key not in self.frames:
            if len(self.frames) >= MAX_FRAMES:
                self.frames.clear()
            slots = [
                {"role": message["role"], "content": with_text(message["content"], SLOT.format(index))}
                for index, message in enumerate(messages)
            ]
            frames = [to_frame(part) for part in self.located(replace(conversation, messages=slots))]
            self.frames[key] = [frame for frame in frames if frame is not None] if all(frames) else []
        return self.frames[key]

    # Any conversation.

    def located(self, conversation: Conversation) -> list[Rendering]:
        """Return the renderings of a conversation, each assistant message located by its own prompt."""
        full_text = self.text(conversation)
        self.check_complete(conversation, full_text)
        renderings = [Rendering(full_text, [], len(conversation.messages))]
        for index, message in reversed(list(enumerate(conversation.messages))):
            if message["role"] != "assistant" or message.get("learn") is False:
                continue
            part = conversation.first(index + 1)
            text = full_text if len(part.messages) == len(conversation.messages) else self.text(part)
            span = self.last_reply(part, text)
            # A rendering that goes on with other messages has this turn as it was written, or the turn is an example by itself.
            for rendering in renderings:
                if rendering.text.startswith(text[: span.text_stop]):
                    rendering.spans.insert(0, self.closed(span, text, rendering.text))
                    break
            else:
                renderings.append(Rendering(text, [self.closed(span, text, text)], len(part.messages)))
        for rendering in renderings:
            self.apply_marks(conversation.first(rendering.num_messages), rendering)
        return [rendering for rendering in reversed(renderings) if rendering.spans]

    def last_reply(self, conversation: Conversation, text: str) -> ReplySpan:
        """Return the span of the last message. `text`: the rendered conversation; `stop` is after the end token in it."""
        message = conversation.messages[-1]
        plain = {key: value for key, value in message.items() if key not in ("reasoning_content", "tool_calls")}
        plain["content"] = with_text(message.get("content") or "", PLACEHOLDER)
        changed = self.text(conversation.with_last(plain))
        if PLACEHOLDER not in changed:
            raise TemplateRefused(f"the chat template leaves out message {len(conversation.messages)} (assistant)")
        start = self.reply_start(conversation, text, common_prefix(text, changed))
        reasoning = message.get("reasoning_content")
        if reasoning and reasoning.strip() not in text[start:]:
            self.warnings["the chat template does not write reasoning_content, so it is not learned"] = None
        if message.get("tool_calls"):
            return self.tool_call_span(conversation, text, start, changed)
        text_stop = max(start, len(text) - common_suffix(text, changed))
        stop = self.end_of_turn(text, text_stop)
        if stop is None:
            self.check_end_mark(text[text_stop:])
        index = len(conversation.messages) - 1
        return ReplySpan(index, start, text_stop, text_stop if stop is None else stop, stop is not None)

    def end_of_turn(self, text: str, position: int) -> int | None:
        """Return where the first control token after a position ends; None where none follows.

        Where others follow it at once, and one of them is an end of text, that one ends the turn (Cohere 2).
        """
        first = self.controls.pattern.search(text, position)
        if first is None:
            return None
        match: re.Match[str] | None = first
        while match and self.controls.ids[match[0]] not in self.end_ids:
            match = self.controls.pattern.match(text, match.end())
        return (match or first).end()

    def reply_start(self, conversation: Conversation, text: str, header: int) -> int:
        """Return where the last message begins. `header`: where the rendering depends on it."""
        before = conversation.first(len(conversation.messages) - 1)
        try:
            prompt = self.text(before, prompt=True) if before.messages else ""
        except TemplateRefused:
            return header
        if not prompt or not text.startswith(prompt):
            return header  # e.g. a prompt that opens a block of thinking, which the template does not write again
        written = text[len(prompt) : header]
        if not written.strip():
            return len(prompt)
        # What the template writes between the prompt and the answer is a header that the prompt lacks, or it is the
        # assistant's, as an empty block of thinking. A template without a generation prompt has headers there.
        return len(prompt) if prompt != self.text(before) else header

    def tool_call_span(self, conversation: Conversation, text: str, start: int, plain: str) -> ReplySpan:
        """Return the span of a last message with tool calls, whose syntax may have control tokens of its own."""
        message = conversation.messages[-1]
        calls = [
            {**call, "function": {**call["function"], "name": PLACEHOLDER, "arguments": {PLACEHOLDER: PLACEHOLDER}}}
            for call in message["tool_calls"]
        ]
        changed = self.text(conversation.with_last({**message, "tool_calls": calls}))
        if PLACEHOLDER not in changed:
            raise TemplateRefused(
                f"the chat template leaves out the tool calls of message {len(conversation.messages)}"
            )
        plain_end = self.controls.pattern.search(plain, plain.rindex(PLACEHOLDER))
        ends = list(self.controls.pattern.finditer(text, len(text) - common_suffix(text, changed)))
        end = next(
            (
                match
                for match in ends
                if self.controls.ids[match[0]] in self.end_ids or (plain_end and match[0] == plain_end[0])
            ),
            None,
        ) or next((match for match in reversed(ends) if match[0] in self.controls.special), None)
        index = len(conversation.messages) - 1
        if end is None:
            return ReplySpan(index, start, len(text), len(text), False)
        return ReplySpan(index, start, end.start(), end.end(), True)

    def closed(self, span: ReplySpan, text: str, rendered: str) -> ReplySpan:
        """Return the span in `rendered`, which begins as `text` does up to the end of the reply, but may close it otherwise."""
        index, tail = span.text_stop, text[span.text_stop : span.stop]
        stop, ends = span.stop, span.ends
        if rendered is text or (ends and rendered.startswith(tail, index)):
            pass
        else:
            match = self.controls.pattern.search(rendered, index)
            ends = match is not None and not rendered[index : match.start()].strip() and self.ends_turn(match[0])
            stop = match.end() if match and ends else index
        return replace(span, stop=stop, ends=ends, learned=[(span.start, stop)])

    def ends_turn(self, token: str) -> bool:
        """Return whether a token that follows a reply ends it, rather than to begin the next message."""
        return self.controls.ids[token] in self.end_ids or token in self.inner_ends

    @cached_property
    def inner_ends(self) -> set[str]:
        """Return the token that ends a reply which a question follows, as a set; empty where the question's header follows."""
        roles = ("user", "assistant", "user", "assistant")
        slots = [{"role": role, "content": SLOT.format(index)} for index, role in enumerate(roles)]
        try:
            text = self.text(Conversation(slots))
        except TemplateRefused:
            return set()
        before, _, rest = text.partition(SLOT.format(0))
        gap = rest.partition(SLOT.format(1))[2].partition(SLOT.format(2))[0]
        tokens = list(self.controls.pattern.finditer(gap))
        if not tokens:
            return set()
        # A header begins as the first message of a conversation does, or it is all that precedes the first question.
        first, bos = tokens[0], self.tokenizer.bos_token
        openings = [match[0] for match in self.controls.pattern.finditer(before) if match[0] != bos][:1]
        is_header = first[0] in openings or (len(tokens) == 1 and before.endswith(gap[first.start() :]))
        return set() if is_header else {first[0]}

    # Checks.

    def check_complete(self, conversation: Conversation, text: str) -> None:
        """Raise TemplateRefused where the template leaves out a message or the tools, and note what else it leaves out."""
        for index, message in enumerate(conversation.messages):
            content = message.get("content")
            if not isinstance(content, str) or content.strip() in text or message["role"] == "assistant":
                continue
            # The template may write the text in another form. It uses the text if another text gives another rendering.
            changed = [*conversation.messages]
            changed[index] = {**message, "content": PLACEHOLDER}
            if self.text(replace(conversation, messages=changed)) == text:
                raise TemplateRefused(f"the chat template leaves out message {index + 1} ({message['role']})")
        if conversation.tools and not self.writes_tools:
            self.writes_tools = self.text(replace(conversation, tools=None)) != text
            if not self.writes_tools:
                raise TemplateRefused("the chat template leaves out the tools")
        template = str(self.tokenizer.chat_template)
        for name in conversation.template_kwargs or {}:
            if name not in template:
                self.warnings[f"the chat template does not read {name} (chat_template_kwargs)"] = None

    def check_end_mark(self, tail: str) -> None:
        """Raise ModelError where a template ends a turn with a control word that the tokenizer does not know as a token."""
        word = CONTROL_WORD.match(tail.strip())
        if word:
            num_tokens = len(self.controls.backend.encode(word[0], add_special_tokens=False).ids)
            raise ModelError(
                f"The tokenizer and its chat template disagree: the template ends a turn with {word[0]}, which the tokenizer splits "
                f"into {num_tokens} tokens, so that generation could not stop there. Mend chat_template.jinja, or add the token to "
                f"the tokenizer."
            )

    def apply_marks(self, conversation: Conversation, rendering: Rendering) -> None:
        """Restrict what is learned to what the template marks with `{% generation %}`, where it does."""
        messages = self.arguments(conversation.messages)
        marks = generation_marks(self.tokenizer, messages, conversation.tools, conversation.template_kwargs)
        if marks is None or marks[0] != rendering.text:
            return
        for span in rendering.spans:
            # A mark may include the header or the line end behind the end token; neither is written by the assistant.
            parts = [
                (max(start, span.start), min(stop, span.stop))
                for start, stop in marks[1]
                if start < span.stop and stop > span.start
            ]
            if parts and parts[-1][1] >= span.text_stop:
                parts[-1] = (parts[-1][0], span.stop)
            span.learned = parts
        rendering.spans = [span for span in rendering.spans if span.learned]


def learned_only(renderings: list[Rendering], messages: list[Message]) -> list[Rendering]:
    """Return the renderings without the spans of messages that are context only."""
    for rendering in renderings:
        rendering.spans = [span for span in rendering.spans if messages[span.message].get("learn") is not False]
    return [rendering for rendering in renderings if rendering.spans]


def to_frame(rendering: Rendering) -> Frame | None:
    """Return the frame of a rendering with slots; None where a position is inside a slot."""
    parts = SLOT_PATTERN.split(rendering.text)
    literals, slots = parts[::2], [int(number) for number in parts[1::2]]
    starts, length = [], 0
    for index, literal in enumerate(literals):
        starts.append(length)
        length += len(literal) + (len(SLOT.format(slots[index])) if index < len(slots) else 0)
    edges = []
    for span in rendering.spans:
        pairs = [
            next(
                (
                    (index, position - start)
                    for index, (start, literal) in enumerate(zip(starts, literals, strict=True))
                    if start <= position <= start + len(literal)
                ),
                None,
            )
            for position in span.positions()
        ]
        edges.append([pair for pair in pairs if pair is not None])
        if len(edges[-1]) < len(pairs):
            return None
    return Frame(literals, slots, rendering.spans, edges, rendering.num_messages)


def as_parts(message: Message) -> Message:
    """Return the message with its content as a list of parts."""
    content = message["content"]
    return {**message, "content": [{"type": "text", "text": content}]} if isinstance(content, str) else message


def single_text(content: Any) -> str:
    """Return the text of a content, of which a list of parts has one; empty for others."""
    if isinstance(content, str):
        return content
    texts = [part["text"] for part in content if part["type"] == "text"]
    is_plain = len(texts) == 1 and all(part.keys() <= {"type", "text"} for part in content)
    return str(texts[0]) if is_plain else ""


def part_types(content: Any) -> Any:
    """Return what contents of the same shape have in common."""
    return None if isinstance(content, str) else tuple(part["type"] for part in content)


def with_text(content: Any, text: str) -> Any:
    """Return the content of a message with another text; images keep their places."""
    if isinstance(content, str):
        return text
    return [{**part, "text": text} if part["type"] == "text" else part for part in content]


def with_text_arguments(conversation: Conversation) -> Conversation | None:
    """Return the conversation with the arguments of its tool calls as JSON text; None where it has none."""
    messages = []
    for message in conversation.messages:
        calls = [
            {**call, "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False)}}
            if isinstance(call["function"].get("arguments"), dict)
            else call
            for call in message.get("tool_calls") or []
        ]  # fmt: skip
        messages.append({**message, "tool_calls": calls} if calls else message)
    return replace(conversation, messages=messages) if messages != conversation.messages else None


def common_prefix(first: str, second: str) -> int:
    """Return the number of characters that two texts have in common at their beginnings."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def common_suffix(first: str, second: str) -> int:
    """Return the number of characters that two texts have in common at their ends."""
    return common_prefix(first[::-1], second[::-1])
