"""The thread that writes: requests wait in a queue, join the texts that are being written, and leave when they end."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from tokenizers.decoders import DecodeStream

from llmstage import console
from llmstage.models.continuous_batching import choose, write_together
from llmstage.models.generation import end_ids
from llmstage.tokenization.tokenizer import Processor

FULL = "full"


@dataclass(slots=True)
class Piece:
    """Something that happened to a text: more of it, its end, or a failure."""

    text: str = ""
    finish: str | None = None
    """`stop` (end token or stop text) or `length`, with the last piece."""
    error: str | None = None


@dataclass(slots=True, eq=False)
class Job:
    """One text to be written. `told` is called from the writer's thread."""

    prompt: list[int]
    max_tokens: int
    told: Callable[[Piece], None]
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: list[str] = field(default_factory=list)
    timeout: float = 60.0
    streamed: bool = True
    """Told piece by piece; otherwise once, at its end: a piece for every token costs the server as much as a small model does."""
    new: list[int] = field(default_factory=list)
    """Tokens written, the end token included."""
    cancelled: bool = False
    deadline: float = 0.0
    generator: torch.Generator | None = None
    stream: Any = None
    text: str = ""
    sent: int = 0
    """Characters of `text` that were told."""


class QueueFull(Exception):
    """More requests wait than may."""


class Writer:
    """`slots`: texts written at once; `queue`: texts that may wait."""

    def __init__(self, model: Any, processor: Processor, *, slots: int, queue: int, longest: int) -> None:
        self.model, self.processor, self.slots, self.queue, self.longest = model, processor, slots, queue, longest
        self.ends = end_ids(model)
        self.waiting: deque[Job] = deque()
        self.writing: list[Job] = []
        self.changed = threading.Condition()
        self.closed = False
        self.tokens = 0
        """Tokens written since the start."""
        self.thread = threading.Thread(target=self.run, name="writer", daemon=True)
        self.thread.start()

    def add(self, job: Job) -> None:
        with self.changed:
            if len(self.waiting) >= self.queue:
                raise QueueFull
            self.waiting.append(job)
            self.changed.notify()

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify()
        self.thread.join(timeout=30)

    @torch.no_grad()
    def run(self) -> None:
        shared = write_together(self.model, self.processor.pad_id, self.slots, self.longest)
        while True:
            with self.changed:
                while not (self.waiting or self.writing or self.closed):
                    self.changed.wait()
                if self.closed:
                    return
                joining = self.admit()
            try:
                if joining:
                    shared.join([job.prompt for job in joining])
                    self.writing += joining
                if self.writing:
                    self.step(shared)
            except Exception as error:  # one bad step must not end the server; its texts are told
                console.warn(f"writing failed: {type(error).__name__}: {error}")
                for job in {*self.writing, *joining}:
                    job.told(Piece(error="the model failed on this request"))
                self.writing = []
                shared = write_together(self.model, self.processor.pad_id, self.slots, self.longest)

    def admit(self) -> list[Job]:
        joining: list[Job] = []
        while self.waiting and len(self.writing) + len(joining) < self.slots:
            job = self.waiting.popleft()
            if job.cancelled:
                continue
            job.deadline = time.monotonic() + job.timeout
            job.stream = DecodeStream(skip_special_tokens=True)
            if job.temperature > 0:
                job.generator = torch.Generator()
                job.generator.manual_seed(job.seed) if job.seed is not None else job.generator.seed()
            joining.append(job)
        return joining

    def step(self, shared: Any) -> None:
        """One token more in every text."""
        jobs = self.writing
        tokens = choose(
            shared.logits(),
            [job.temperature for job in jobs],
            [job.top_p for job in jobs],
            [job.generator for job in jobs],
        )
        now = time.monotonic()
        gone = [
            row
            for row, (job, token) in enumerate(zip(self.writing, tokens, strict=True))
            if self.ended(job, token, now)
        ]
        if gone:
            shared.leave(gone)
            left = set(gone)
            self.writing = [job for row, job in enumerate(self.writing) if row not in left]
            tokens = [token for row, token in enumerate(tokens) if row not in left]
        if tokens:
            shared.take(torch.tensor(tokens))

    def ended(self, job: Job, token: int, now: float) -> bool:
        """Add a token to a text; whether the text ends with it."""
        if job.cancelled:
            return True
        job.new.append(token)
        self.tokens += 1
        if token in self.ends:
            return self.finish(job, "stop")
        job.text += job.stream.step(self.processor.tokenizer.backend_tokenizer, token) or ""
        found = [place for stop in job.stop if (place := job.text.find(stop)) >= 0]
        if found:
            job.text = job.text[: min(found)]
            return self.finish(job, "stop", whole=True)
        if len(job.new) >= job.max_tokens or now > job.deadline:
            return self.finish(job, "length")
        if not job.streamed:
            return False
        # What may be the beginning of a stop text waits until it is known not to be.
        held = max((len(stop) - 1 for stop in job.stop), default=0)
        upto = len(job.text) - held
        if upto > job.sent:
            job.told(Piece(job.text[job.sent : upto]))
            job.sent = upto
        return False

    def finish(self, job: Job, why: str, *, whole: bool = False) -> bool:
        if not whole:  # characters of which only a part of the bytes has come
            text = self.processor.decode(job.new)
            job.text = text if text.startswith(job.text) else job.text
        job.told(Piece(job.text[job.sent :], finish=why))
        return True
