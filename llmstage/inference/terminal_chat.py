"""A conversation with a model in the terminal. Replies come from the same generation worker as the server's."""

from __future__ import annotations

import json
import queue
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from llmstage import console
from llmstage.config import GenerationConfig
from llmstage.data.chat_formats import read_tools
from llmstage.data.chat_messages import BadChat
from llmstage.data.row_checks import lone_surrogate
from llmstage.errors import DataError, ModelError, UserError
from llmstage.inference.retrieval.grounding import Grounding
from llmstage.inference.retrieval.retriever import SearchResult
from llmstage.inference.server.generation_worker import GenerationWorker, Job, TextDelta
from llmstage.tokenization.call_reader import ToolCall
from llmstage.tokenization.chat_template import TemplateRefused, reply_prompt
from llmstage.tokenization.tokenizer import Processor
from llmstage.tokenization.tool_calls import ReplyDelta, reply_form

RESULT_PREFIX = "tool:"
"""How a turn begins that is the result of a call."""
CALL_SIGN = "→"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
HELP = (
    "/reset starts a new conversation · /system <text> sets the system message and starts a new conversation · "
    "/save <file> · /quit"
)


class Conversation:
    """The messages so far, and the model that replies. `seed`: each reply samples with a seed derived from it; `grounding`:
    searches passages for each turn; None turns retrieval off; `tools`: what the model may call, as chat templates take it."""

    def __init__(
        self, worker: GenerationWorker, processor: Processor, generation: GenerationConfig, system: str | None, seed: int,
        grounding: Grounding | None = None, tools: list[dict[str, Any]] | None = None,
    ) -> None:  # fmt: skip
        self.worker, self.processor, self.generation = worker, processor, generation
        self.tools = tools
        self.reply_form, refused = reply_form(processor, worker.eos_token_ids)
        if tools and refused:
            raise ModelError(f"stage.tools cannot be used with this model: {refused}.")
        self.waiting_calls: list[ToolCall] = []
        """The calls of the last reply that have no result yet."""
        self.system, self.seed, self.grounding = system, seed, grounding
        self.messages: list[dict[str, Any]] = []
        self.sources: list[SearchResult] = []
        """The passages of the last reply."""
        self.reset()

    def reset(self) -> None:
        self.messages = [{"role": "system", "content": self.system}] if self.system else []
        self.waiting_calls = []

    def add_result(self, text: str, write: Callable[[str], None]) -> None:
        """Take a text as the result of the first call that has none, and reply once all calls have one."""
        call = self.waiting_calls.pop(0)
        result = {"role": "tool", "tool_call_id": call.id, "name": call.name, "content": text}
        if self.waiting_calls:
            self.messages.append(result)
        else:
            self.reply(result, write)

    def reply(self, message: dict[str, Any], write: Callable[[str], None]) -> None:
        """Reply to a message and add both to the conversation. `write` gets each part of the reply once it is generated.

        Of a long conversation the model reads the system message and the latest turns. Ctrl-C ends the reply; its text so far
        stays in the conversation.
        """
        # Build the prompt, or take the answer from the retrieval.
        messages = [*self.messages, message]
        self.waiting_calls = []
        max_new_tokens = min(self.generation.max_new_tokens, self.worker.max_length // 2)
        max_prompt_tokens = self.worker.max_length - max_new_tokens
        try:
            prompt: list[dict[str, Any]] | str = messages
            if self.grounding is not None:
                prompt = self.grounded_prompt(self.grounding, messages, max_prompt_tokens)
            if isinstance(prompt, str):
                write(prompt)
                self.messages = [*messages, {"role": "assistant", "content": prompt}]
                return
            prompt_ids, _ = reply_prompt(self.processor, prompt, max_prompt_tokens, tools=self.tools)
        except TemplateRefused as error:
            raise DataError(f"{error}.") from None
        # Generate. The seed differs for each turn, so that the same question can get another reply.
        deltas: queue.Queue[TextDelta] = queue.Queue()
        seed = self.seed + len(self.messages)
        job = Job(
            prompt_ids, max_new_tokens, deltas.put, self.generation.temperature, self.generation.top_p, seed,
            marks=self.reply_form.mark_ids,
        )  # fmt: skip
        parser = self.reply_form.parser(self.processor.tokenizer.decode(prompt_ids), self.tools)
        self.worker.submit(job)
        try:
            while True:
                delta = deltas.get()
                if delta.error:
                    raise UserError(delta.error)
                self.show(parser.feed(delta.text), write)
                if delta.finish_reason:
                    break
        except KeyboardInterrupt:
            job.cancelled = True
        self.show(parser.finish(), write)
        if parser.reply.malformed:
            console.warn(f"{parser.reply.malformed} calls have arguments that are no JSON; they stay text")
        self.waiting_calls = list(parser.reply.calls)
        self.messages = [*messages, parser.reply.to_message()]

    def show(self, deltas: list[ReplyDelta], write: Callable[[str], None]) -> None:
        """Write the text of a reply, and each call in a line of its own. Reasoning is not a part of the reply."""
        for delta in deltas:
            if delta.call is not None:
                arguments = json.dumps(delta.call.arguments, ensure_ascii=False)
                write(f"\n{CALL_SIGN} {delta.call.name} {arguments}")
            elif delta.content:
                write(delta.content)

    def grounded_prompt(
        self, grounding: Grounding, messages: list[dict[str, Any]], max_prompt_tokens: int
    ) -> list[dict[str, Any]] | str:
        """Return the messages with passages in them, or the final answer where the retrieval has one.

        Passages may take the place of earlier turns, but not of the question.
        """
        system = messages[:1] if messages[0]["role"] == "system" else []
        question_ids, _ = reply_prompt(self.processor, [*system, messages[-1]], max_prompt_tokens)
        grounded = grounding.ground(messages, max_prompt_tokens - len(question_ids))
        self.sources = grounded.sources
        return grounded.messages if grounded.text is None else grounded.text

    def save(self, path: str) -> None:
        """Append the conversation to a file, as a row of task=dialogue. Raises UserError."""
        try:
            with Path(path).expanduser().open("a", encoding="utf-8") as file:
                row = {"messages": self.messages, **({"tools": self.tools} if self.tools else {})}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror}).") from None


def typed_lines() -> Iterator[str]:
    """Yield lines from the keyboard or from a pipe. Raises UserError for bytes that are not text."""
    while True:
        try:
            text = input("> ") if sys.stdin.isatty() else input()
        except EOFError:
            return
        except UnicodeDecodeError as error:
            raise UserError(
                f"Standard input is not text in {error.encoding} ({error.reason}). Write it in UTF-8."
            ) from None
        # In the locales C and POSIX Python replaces a byte that it cannot decode by a lone surrogate.
        if half := lone_surrogate(text):
            raise UserError(f"Standard input is not text in UTF-8: {half}. Write it in UTF-8, in a locale that has it.")
        yield text


def read_script(path: str) -> list[str]:
    """Return the lines of stage.script. Raises UserError."""
    try:
        return Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"stage.script={path} cannot be read ({error}).") from None


def read_tools_file(path: str) -> list[dict[str, Any]]:
    """Return the tools of stage.tools, a JSON list of function schemas. Raises UserError."""
    try:
        return read_tools(Path(path).expanduser().read_text(encoding="utf-8"), "stage.tools")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"stage.tools={path} cannot be read ({error}).") from None
    except BadChat as error:
        raise UserError(f"stage.tools={path} is no list of function schemas: {error}.") from None


def answer(conversation: Conversation, text: str, write: Callable[[str], None], *, typed: bool) -> None:
    """Reply to a line: the result of a call, or a message of the user. Raises DataError.

    `typed`: the line comes from a keyboard. While calls wait, it is a result then; elsewhere a result begins with `tool:`.
    """
    is_result = text.startswith(RESULT_PREFIX) or (typed and bool(conversation.waiting_calls))
    if not is_result:
        conversation.reply({"role": "user", "content": text}, write)
    elif conversation.waiting_calls:
        conversation.add_result(text.removeprefix(RESULT_PREFIX).strip(), write)
    else:
        raise DataError(f"The turn '{text[:60]}' is a result, and the model has called nothing that waits for one.")


def run_conversation(conversation: Conversation, turns: Iterable[str], *, echo: bool) -> None:
    """Reply to each turn until the turns end or a turn is /quit.

    Each reply goes to standard output and ends with a line break; everything else goes to standard error. `echo`: also print
    the turns, where nobody typed them.
    """

    def write(text: str) -> None:
        sys.stdout.write(CONTROL.sub("", text))  # escape sequences of a model could control the terminal
        sys.stdout.flush()

    for line in turns:
        text = line.strip()
        if not text:
            continue
        if echo:
            console.note(f"> {text}")
        command, _, argument = text.partition(" ")
        if command == "/quit":
            return
        if command == "/reset":
            conversation.reset()
            console.note("a new conversation")
        elif command == "/system":
            conversation.system = argument.strip() or None
            conversation.reset()
            console.note(
                "a new conversation with this system message"
                if argument.strip()
                else "a new conversation without a system message"
            )
        elif command == "/save" and argument.strip():
            conversation.save(argument.strip())
            console.note(f"saved to {argument.strip()}")
        elif text.startswith("/"):
            console.note(HELP)
        else:
            answer(conversation, text, write, typed=not echo and sys.stdin.isatty())
            write("\n")
            for call in conversation.waiting_calls[:1]:
                console.note(f"the result of {call.name}:")
            for number, source in enumerate(conversation.sources, start=1):
                console.note(f"[{number}] {source.title or source.id} ({source.path}, {source.score:.2f})")
