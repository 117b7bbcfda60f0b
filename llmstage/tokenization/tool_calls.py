"""Read the text that a model writes: its reasoning, its answer and its calls of tools, whole or while it is generated.

The form is that of the tokenizer's response template, where it has one (transformers parses it then), or that of its chat template
(call_form.py). A call is passed on once it is complete and its arguments are JSON. Until then it is held back, and a call that never
becomes one stays text and is counted in `malformed`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llmstage.tokenization.call_form import (
    NAME,
    OTHER_NAME,
    CallForm,
    call_of,
    find_call_form,
    find_think_marks,
    written_calls,
)
from llmstage.tokenization.call_reader import PYTHON_TAG, CallReader, ToolCall, call_from
from llmstage.tokenization.chat_template import TemplateRefused, chat_template
from llmstage.tokenization.tokenizer import Processor


@dataclass(slots=True)
class ReplyDelta:
    """More of a reply: text of the answer, text of the reasoning, or a call."""

    content: str = ""
    reasoning: str = ""
    call: ToolCall | None = None


@dataclass(slots=True)
class Reply:
    """A reply in its parts."""

    content: str = ""
    reasoning: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    malformed: int = 0
    """Calls that were begun and are no JSON; their text is in `content`."""

    def add(self, delta: ReplyDelta) -> None:
        self.content += delta.content
        self.reasoning += delta.reasoning
        self.calls += [delta.call] if delta.call else []

    def to_message(self) -> dict[str, Any]:
        """Return the reply as a message of the assistant."""
        reasoning = {"reasoning_content": self.reasoning} if self.reasoning else {}
        calls = {"tool_calls": [call.to_message() for call in self.calls]} if self.calls else {}
        return {"role": "assistant", "content": self.content, **reasoning, **calls}


class ReplyForm:
    """How the model of a processor writes replies. `end_ids`: the tokens that end its texts."""

    def __init__(self, processor: Processor, end_ids: set[int]) -> None:
        tokenizer = processor.tokenizer
        self.tokenizer = tokenizer
        self.response_template = getattr(tokenizer, "response_template", None)
        self.think = find_think_marks(tokenizer)
        form = find_call_form(tokenizer)
        self.calls = form if form is not None and reads_back(form, tokenizer, self.think) else None
        special = {index: str(token) for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        # Marks may be special tokens, which decoding drops.
        marks = [*(self.think or ()), PYTHON_TAG]
        if self.calls is not None:
            marks += [
                self.calls.opening,
                self.calls.after_name,
                self.calls.end,
                *self.calls.marks,
                *self.calls.parameter,
            ]
        self.mark_ids = frozenset(
            index
            for index, text in special.items()
            if index not in end_ids and (self.response_template or any(text in mark for mark in marks))
        )
        """The special tokens that the text of a reply must contain for its parser."""

    def parser(
        self, prompt: str, tools: list[Any] | None, *, forced: str = "", max_calls: int | None = None
    ) -> ReplyParser:
        """Return a parser for one reply.

        `prompt`: the text that the model continues; `tools`: what may be called; None: no text is a call; `forced`: the beginning of the reply
        that was put into the model's mouth; `max_calls`: what the model writes after so many calls is dropped.
        """
        if self.response_template:
            return TemplateParser(self.tokenizer, prompt + forced, tools, max_calls)
        opened = self.think is not None and prompt.rstrip().endswith(self.think[0])
        form = None if tools is None else self.calls
        parser = MarkParser(form, self.think, tools or [], max_calls, in_reasoning=opened and not forced)
        parser.feed(forced)
        return parser

    def parse(self, text: str, prompt: str, tools: list[Any] | None) -> Reply:
        """Return a complete reply in its parts."""
        parser = self.parser(prompt, tools)
        parser.feed(text)
        parser.finish()
        return parser.reply

    def forced_text(self, name: str | None, prompt: str) -> str | None:
        """Return the beginning of a reply that can only go on as a call; None where the form of calls is not known."""
        if self.calls is None:
            return None
        text = self.calls.forced(name)
        opened = self.think is not None and prompt.rstrip().endswith(self.think[0])
        return f"{self.think[1]}\n\n{text}" if opened and self.think else text


def reply_form(processor: Processor, end_ids: set[int]) -> tuple[ReplyForm, str | None]:
    """Return the form of replies, and why the chat template takes no tools; None where it takes them, or was made to."""
    refused = None
    try:
        chat_template(processor, tools=True)
    except TemplateRefused as error:
        refused = str(error)
    return ReplyForm(processor, end_ids), refused


def reads_back(form: CallForm, tokenizer: Any, think: tuple[str, str] | None) -> bool:
    """Return whether the form reads the calls that the template writes, other ones than those from which it was found."""
    arguments = {"probe_key": "a {b}", "other_key": 3}
    schema = {"properties": {"probe_key": {"type": "string"}, "other_key": {"type": "integer"}}}
    names = [NAME, OTHER_NAME]
    tools = [{"type": "function", "function": {"name": name, "parameters": schema}} for name in names]
    for count in (1, 2):
        text = written_calls(tokenizer, count, think, arguments, "abcdefgh1")
        if text is None:
            continue  # a template may refuse two calls
        parser = MarkParser(form, think, tools, None, in_reasoning=False)
        for character in text:
            parser.feed(character)
        parser.finish()
        read = [(call.name, call.arguments) for call in parser.reply.calls]
        if read != [(name, arguments) for name in names[:count]] or parser.reply.content.strip():
            return False
    return True


class ReplyParser:
    """Takes the text of a reply as it comes, and returns what is known of it so far."""

    def __init__(self, max_calls: int | None) -> None:
        self.reply = Reply()
        self.max_calls = max_calls

    def feed(self, text: str) -> list[ReplyDelta]:
        return self.collect(self.read(text, final=False))

    def finish(self) -> list[ReplyDelta]:
        """Return the rest; the text has ended."""
        return self.collect(self.read("", final=True))

    def read(self, text: str, *, final: bool) -> list[ReplyDelta]:
        raise NotImplementedError

    @property
    def done(self) -> bool:
        """Whether all that may be written was written."""
        return self.max_calls is not None and len(self.reply.calls) >= self.max_calls

    def collect(self, deltas: list[ReplyDelta]) -> list[ReplyDelta]:
        taken = []
        for delta in deltas:
            if self.done:
                break
            if delta.content or delta.reasoning or delta.call:
                self.reply.add(delta)
                taken.append(delta)
        return taken


class TextParser(ReplyParser):
    """For texts that have no parts."""

    def __init__(self) -> None:
        super().__init__(None)

    def read(self, text: str, *, final: bool) -> list[ReplyDelta]:
        return [ReplyDelta(text)]


class TemplateParser(ReplyParser):
    """The parser of transformers, with the response template of the tokenizer."""

    def __init__(self, tokenizer: Any, prompt: str, tools: list[Any] | None, max_calls: int | None) -> None:
        super().__init__(max_calls)
        self.parser: Any = tokenizer.get_response_parser(prefix=prompt, tools=tools)
        self.tools, self.failed = tools, False
        self.region = ""
        """The text of the call that is open."""

    def read(self, text: str, *, final: bool) -> list[ReplyDelta]:
        if self.failed:
            return [ReplyDelta(text)]
        try:
            events = self.parser.finalize()[1] if final else self.parser.feed(text)
        except (ValueError, KeyError):  # arguments that are no JSON, or a call without a name
            self.failed = True
            self.reply.malformed += 1
            return [ReplyDelta(self.region + text)]
        return [delta for event in events for delta in self.deltas(event)]

    def deltas(self, event: dict[str, Any]) -> list[ReplyDelta]:
        region, event_type, text = event.get("field"), event["type"], event.get("text") or ""
        if region in ("content", "reasoning_content", "thinking"):
            if event_type != "region_chunk":
                return []
            return [ReplyDelta(text) if region == "content" else ReplyDelta(reasoning=text)]
        if region != "tool_calls":
            return []
        self.region = "" if event_type == "region_open" else self.region + text
        if event_type != "region_close":
            return []
        if self.tools is None:
            return [ReplyDelta(self.region)]
        values = event["value"] if isinstance(event["value"], list) else [event["value"]]
        calls = [call_from(*call_of(value)) for value in values]
        self.reply.malformed += calls.count(None)
        return [ReplyDelta(call=call) if call else ReplyDelta(self.region) for call in calls]


class MarkParser(ReplyParser):
    """A parser for the form of calls and the marks of reasoning that the chat template has."""

    def __init__(
        self, form: CallForm | None, think: tuple[str, str] | None, tools: list[Any], max_calls: int | None, *, in_reasoning: bool
    ) -> None:  # fmt: skip
        super().__init__(max_calls)
        self.form, self.think = form, think
        self.functions = {tool["function"]["name"]: tool["function"] for tool in tools if "function" in tool}
        self.buffer = self.space = ""
        """What is not passed on yet, and the white space before the mark at its beginning."""
        self.state = self.in_reasoning if in_reasoning else self.at_start
        self.reader = None if form is None else CallReader(form, self.functions)

    def read(self, text: str, *, final: bool) -> list[ReplyDelta]:
        self.buffer += text
        deltas: list[ReplyDelta] = []
        # Each state takes what it knows from the buffer, and returns whether to go on.
        while self.state(deltas, final=final):
            if self.done:
                break
        return deltas

    def at_start(self, deltas: list[ReplyDelta], *, final: bool) -> bool:
        """Before any text: reasoning may begin."""
        text = self.buffer.lstrip()
        if self.think and text.startswith(self.think[0]):
            self.buffer = text[len(self.think[0]) :]
            self.state = self.in_reasoning
        elif self.think and text.startswith(self.think[1]):  # the end of reasoning that the prompt has begun
            self.buffer = text[len(self.think[1]) :]
            self.state = self.after_reasoning
        elif self.think and not final and any(mark.startswith(text) for mark in self.think):
            return False
        else:
            self.state = self.before_answer
        return True

    def in_reasoning(self, deltas: list[ReplyDelta], *, final: bool) -> bool:
        assert self.think is not None
        if not self.reply.reasoning and not any(delta.reasoning for delta in deltas):
            self.buffer = self.buffer.lstrip()
        text, closed, rest = self.buffer.partition(self.think[1])
        if not closed:
            self.release(deltas, self.think[1], final=final, reasoning=True)
            return False
        deltas.append(ReplyDelta(reasoning=text.rstrip()))
        self.buffer = rest
        self.state = self.after_reasoning
        return True

    def after_reasoning(self, deltas: list[ReplyDelta], *, final: bool) -> bool:
        self.buffer = self.buffer.lstrip()
        if self.buffer:
            self.state = self.before_answer
        return bool(self.buffer)

    def before_answer(self, deltas: list[ReplyDelta], *, final: bool) -> bool:
        """At the beginning of the answer: a call without a mark must begin here."""
        if self.form is None or self.form.start:
            self.state = self.in_answer
            return True
        text = self.buffer.lstrip()
        if text.startswith(("{", PYTHON_TAG)):
            self.state = self.in_calls
        elif not final and PYTHON_TAG.startswith(text):
            return False
        else:
            self.form = None  # an answer: no call can follow
            self.state = self.in_answer
        return True

    def in_answer(self, deltas: list[ReplyDelta], *, final: bool) -> bool:
        if self.form is None or not self.form.start:
            deltas.append(ReplyDelta(self.buffer))
            self.buffer = ""
            return False
        start = self.buffer.find(self.form.start)
        if start < 0:
            self.release(deltas, self.form.start, final=final)
            return False
        text = self.buffer[:start].rstrip()
        self.space = self.buffer[len(text) : start]
        deltas.append(ReplyDelta(text))
        self.buffer = self.buffer[start:]
        self.state = self.in_calls
        return True

    def in_calls(self, deltas: list[ReplyDelta], *, final: bool) -> bool:
        """At a mark, or behind a call: another call may follow, or text."""
        assert self.reader is not None
        begin = self.reader.skip_marks(self.buffer)
        rest = self.buffer[begin:]
        has_calls = bool(self.reply.calls) or any(delta.call for delta in deltas)
        may_go_on = self.reader.may_be_mark(rest) or self.reader.may_be_mark(self.buffer.lstrip())
        if not rest or (not final and may_go_on):
            if final and not has_calls and self.buffer.strip():
                self.keep_as_text(deltas, len(self.buffer))
            self.buffer = "" if final else self.buffer
            return False
        read = self.reader.read(self.buffer, begin, final=final)
        if read is None:
            return False
        calls, end = read
        if calls:
            deltas += [ReplyDelta(call=call) for call in calls]
            self.buffer, self.space = self.buffer[end:], ""
        elif has_calls and not self.reader.begins_call(self.buffer, begin):
            self.buffer = rest  # an answer behind the calls
            self.state = self.in_answer
        else:
            self.keep_as_text(deltas, end)
            self.state = self.in_answer
        return True

    def keep_as_text(self, deltas: list[ReplyDelta], end: int) -> None:
        """Pass on the first characters of the buffer as they are: they look like a call and are none."""
        self.reply.malformed += 1
        deltas.append(ReplyDelta(self.space + self.buffer[:end]))
        self.buffer, self.space = self.buffer[end:], ""

    def release(self, deltas: list[ReplyDelta], mark: str, *, final: bool, reasoning: bool = False) -> None:
        """Pass on the buffer, without an end that may begin a mark and the white space before it."""
        held = 0
        if not final:
            held = next((size for size in range(len(mark) - 1, 0, -1) if self.buffer.endswith(mark[:size])), 0)
        end = len(self.buffer) - held
        # White space before a mark is part of the form, not of the text.
        end = end if final and not reasoning else len(self.buffer[:end].rstrip())
        text, self.buffer = self.buffer[:end], "" if final else self.buffer[end:]
        deltas.append(ReplyDelta(reasoning=text) if reasoning else ReplyDelta(text))
