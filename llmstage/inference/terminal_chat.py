"""A conversation in the terminal, through the same writer as the server's."""

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
from llmstage.data.row_checks import half_character
from llmstage.errors import DataError, UserError
from llmstage.inference.retrieval.grounding import Grounding
from llmstage.inference.retrieval.library import Found
from llmstage.inference.server.generation_worker import Job, Piece, Writer
from llmstage.tokenization.chat_template import TemplateRefused, reply_prompt
from llmstage.tokenization.tokenizer import Processor

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
HELP = "/reset begins anew · /system <text> says who the model is and begins anew · /save <file> · /quit"


class Conversation:
    """What was said so far. `seed`: of sampling; each reply draws with a number of its own. `grounding`: looks up what a turn
    asks for, where there is one."""

    def __init__(
        self, writer: Writer, processor: Processor, generation: GenerationConfig, system: str | None, seed: int,
        grounding: Grounding | None = None,
    ) -> None:  # fmt: skip
        self.writer, self.processor, self.generation, self.system, self.seed = (
            writer,
            processor,
            generation,
            system,
            seed,
        )
        self.grounding = grounding
        self.messages: list[dict[str, Any]] = []
        self.sources: list[Found] = []
        """Of the last reply."""
        self.reset()

    def reset(self) -> None:
        self.messages = [{"role": "system", "content": self.system}] if self.system else []

    def say(self, text: str, show: Callable[[str], None]) -> None:
        """The reply to a text, shown as it is written; both are then part of the conversation. Of a long one the model reads
        the system message and the latest turns. Ctrl-C ends a reply as it stands."""
        asked = [*self.messages, {"role": "user", "content": text}]
        most = min(self.generation.max_new_tokens, self.writer.longest // 2)
        room = self.writer.longest - most
        try:
            read = asked if self.grounding is None else self.grounded(self.grounding, asked, room)
            if isinstance(read, str):
                show(read)
                self.messages = [*asked, {"role": "assistant", "content": read}]
                return
            prompt, _ = reply_prompt(self.processor, read, room)
        except TemplateRefused as error:
            raise DataError(f"{error}.") from None
        told: queue.Queue[Piece] = queue.Queue()
        drawn = self.seed + len(self.messages)
        job = Job(prompt, most, told.put, self.generation.temperature, self.generation.top_p, drawn)
        self.writer.add(job)
        parts: list[str] = []
        try:
            while True:
                piece = told.get()
                if piece.error:
                    raise UserError(piece.error)
                parts.append(piece.text)
                show(piece.text)
                if piece.finish:
                    break
        except KeyboardInterrupt:
            job.cancelled = True
        self.messages = [*asked, {"role": "assistant", "content": "".join(parts)}]

    def grounded(self, grounding: Grounding, asked: list[dict[str, Any]], room: int) -> list[dict[str, Any]] | str:
        """The conversation with passages in it, or the answer where the model is not asked. Earlier turns give way to passages,
        the question does not."""
        start = asked[:1] if asked[0]["role"] == "system" else []
        question, _ = reply_prompt(self.processor, [*start, asked[-1]], room)
        made = grounding.ground(asked, room - len(question))
        self.sources = made.sources
        return made.messages if made.text is None else made.text

    def save(self, path: str) -> None:
        """Append the conversation as a row of task=dialogue."""
        try:
            with Path(path).expanduser().open("a", encoding="utf-8") as file:
                file.write(json.dumps({"messages": self.messages}, ensure_ascii=False) + "\n")
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror}).") from None


def typed() -> Iterator[str]:
    """Turns from the keyboard, or from a pipe. Raises UserError for bytes that are no text."""
    while True:
        try:
            text = input("> ") if sys.stdin.isatty() else input()
        except EOFError:
            return
        except UnicodeDecodeError as error:
            raise UserError(
                f"Standard input is not text in {error.encoding} ({error.reason}). Write it in UTF-8."
            ) from None
        if half := half_character(text):  # so Python keeps a byte that it cannot read where the locale is none of UTF-8
            raise UserError(f"Standard input is not text in UTF-8: {half}. Write it in UTF-8, in a locale that has it.")
        yield text


def read_script(path: str) -> list[str]:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"stage.script={path} cannot be read ({error}).") from None


def talk(conversation: Conversation, turns: Iterable[str], *, echo: bool) -> None:
    """Until the turns end or one is /quit. Replies go to standard output, a line each at least, all else to standard error.
    `echo`: show the turns too, where nobody typed them."""

    def show(text: str) -> None:
        sys.stdout.write(CONTROL.sub("", text))  # a model must not steer the terminal
        sys.stdout.flush()

    for line in turns:
        text = line.strip()
        if not text:
            continue
        if echo:
            console.note(f"> {text}")
        word, _, rest = text.partition(" ")
        if word == "/quit":
            return
        if word == "/reset":
            conversation.reset()
            console.note("a new conversation")
        elif word == "/system":
            conversation.system = rest.strip() or None
            conversation.reset()
            console.note(
                "a new conversation with this system message" if rest.strip() else "a new conversation without one"
            )
        elif word == "/save" and rest.strip():
            conversation.save(rest.strip())
            console.note(f"saved to {rest.strip()}")
        elif text.startswith("/"):
            console.note(HELP)
        else:
            conversation.say(text, show)
            show("\n")
            for number, found in enumerate(conversation.sources, start=1):
                console.note(f"[{number}] {found.title or found.id} ({found.path}, {found.score:.2f})")
