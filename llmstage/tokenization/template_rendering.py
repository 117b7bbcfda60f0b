"""Render conversations with a model's chat template, within a time limit.

A chat template is a program that comes with a model. Transformers renders it in jinja's sandbox, which bounds one range() but not
nested loops, so the time of each rendering is bounded here.
"""

from __future__ import annotations

import ctypes
import re
import threading
import time
from collections.abc import Callable
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError
from transformers.utils.chat_template_utils import render_jinja_template

from llmstage.errors import ModelError

PLAIN_TEMPLATE = (
    "{{ bos_token or '' }}{% for message in messages %}{{ message['role'] + ': ' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token or '' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
"""The template of base models that come without one; it needs no new tokens. The prompt ends before the space, because the space
and the first word of the answer are one token in most vocabularies."""

MAX_SECONDS = 2.0
"""The longest time that one rendering may take. A conversation of 100,000 words takes 10 ms."""
MAX_EXPANSION, MAX_LITERAL_CHARACTERS = 20, 1_000_000
"""A rendering has at most this many characters for each character of the conversation, and this many more."""
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
RESERVED = {
    "conversation", "tools", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize", "padding", "truncation",
    "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs", "sanitize_control_tokens",
    "messages",
}  # fmt: skip
"""Arguments of apply_chat_template() that a row may not set."""
Message = dict[str, Any]


class TemplateRefused(ValueError):
    """The model's chat template does not accept this conversation; the text says why."""


class RenderTimeout(BaseException):
    """Raised inside a rendering that takes too long. Not an Exception, so that no handler in between catches it."""


class RenderWatchdog:
    """Raises RenderTimeout in the threads that render for longer than MAX_SECONDS. Use it as a context manager.

    A signal would only work in the main thread, and rows are encoded in other threads too. The time is that of the thread, where
    the system measures it, so that a busy machine stops nothing.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.started: dict[int, float] = {}
        """The time at which each rendering began, by thread."""
        self.expired: set[int] = set()
        self.thread: threading.Thread | None = None

    def __enter__(self) -> None:
        with self.lock:
            identity = threading.get_ident()
            self.started[identity] = thread_seconds(identity)
            if self.thread is None:
                self.thread = threading.Thread(target=self.watch, name="chat-template-watchdog", daemon=True)
                self.thread.start()

    def __exit__(self, *exception: object) -> None:
        identity = threading.get_ident()
        with self.lock:
            self.started.pop(identity, None)
            if identity in self.expired:
                self.expired.discard(identity)
                # The exception may not have been raised yet; it must not be raised in the code that follows.
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(identity), None)

    def watch(self) -> None:
        """Look for late renderings until there is none for a while."""
        idle_since = time.monotonic()
        while True:
            time.sleep(MAX_SECONDS / 20)
            with self.lock:
                if self.started:
                    idle_since = time.monotonic()
                elif time.monotonic() - idle_since > 10 * MAX_SECONDS:
                    self.thread = None
                    return
                for identity, start in self.started.items():
                    if thread_seconds(identity) - start > MAX_SECONDS and identity not in self.expired:
                        self.expired.add(identity)
                        timeout = ctypes.py_object(RenderTimeout)
                        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(identity), timeout)


def thread_seconds(identity: int) -> float:
    """Return the processor time of a thread; the time of day where the system does not measure it."""
    if not hasattr(time, "pthread_getcpuclockid"):
        return time.monotonic()
    return time.clock_gettime(time.pthread_getcpuclockid(identity))


WATCHDOG = RenderWatchdog()


def render(
    tokenizer: Any,
    messages: list[Message],
    *,
    tools: list[Any] | None = None,
    template_kwargs: dict[str, Any] | None = None,
    generation_prompt: bool = False,
) -> str:
    """Return the text of tokenizer.apply_chat_template(). Raise TemplateRefused, or ModelError for an unusable template."""
    if reserved := RESERVED.intersection(template_kwargs or {}):
        raise TemplateRefused(f"chat_template_kwargs cannot set {', '.join(sorted(reserved))}")
    return bounded(
        tokenizer,
        messages,
        lambda: str(
            tokenizer.apply_chat_template(
                messages,
                tools=tools,
                tokenize=False,
                add_generation_prompt=generation_prompt,
                **(template_kwargs or {}),
            )
        ),
    )


def generation_marks(
    tokenizer: Any, messages: list[Message], tools: list[Any] | None, template_kwargs: dict[str, Any] | None
) -> tuple[str, list[tuple[int, int]]] | None:
    """Return the rendered text and the spans that the template's `{% generation %}` marks; None where it has no such marks."""
    template = tokenizer.get_chat_template(None, tools)
    if not GENERATION.search(template):
        return None
    chat = [{key: value for key, value in message.items() if value is not None} for message in messages]
    arguments = {**tokenizer.special_tokens_map, **(template_kwargs or {})}
    spans: list[tuple[int, int]] = []

    def rendered() -> str:
        result: Any = render_jinja_template(
            [chat], tools=tools, chat_template=template, return_assistant_tokens_mask=True, **arguments
        )
        texts, marks = result
        spans.extend(marks[0])
        return str(texts[0])

    return bounded(tokenizer, messages, rendered), spans


def bounded(tokenizer: Any, messages: list[Message], call: Callable[[], str]) -> str:
    """Return the text of one rendering, within the limits of time and size."""
    name = f"The chat template of {getattr(tokenizer, 'name_or_path', '') or 'this tokenizer'}"
    remedy = "Use another model.path, or mend chat_template.jinja in its folder."
    try:
        with WATCHDOG:
            text: str = call()
    except RenderTimeout:
        raise ModelError(
            f"{name} takes more than {MAX_SECONDS:g} s for one conversation: it has an endless loop. {remedy}"
        ) from None
    except (OverflowError, MemoryError, RecursionError) as error:
        raise ModelError(f"{name} cannot be rendered: {error or type(error).__name__}. {remedy}") from None
    except TemplateSyntaxError as error:
        raise ModelError(f"{name} is no valid template: {error.message} (line {error.lineno}). {remedy}") from None
    except (TemplateError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise TemplateRefused(f"the chat template refuses this conversation: {error}") from None
    if len(text) > MAX_LITERAL_CHARACTERS:
        limit = MAX_LITERAL_CHARACTERS + MAX_EXPANSION * len(str(messages))
        if len(text) > limit:
            raise ModelError(
                f"{name} writes {len(text):,} characters for one conversation of {len(str(messages)):,}. {remedy}"
            )
    return text
