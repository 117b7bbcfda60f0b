"""The thread that generates text for all clients. Requests wait in a queue, join the running batch, and leave it when they end."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from tokenizers.decoders import DecodeStream

from llmstage.inference.failures import QueueFull, log_failure
from llmstage.models.continuous_batching import sample_tokens, start_batch
from llmstage.models.generation import end_ids
from llmstage.tokenization.tokenizer import Processor


@dataclass(slots=True)
class TextDelta:
    """A message of the worker about one job: more text, the end of the text, or an error."""

    text: str = ""
    finish_reason: str | None = None
    """`stop` (end token or stop string) or `length`; set in the last delta only."""
    error: str | None = None


@dataclass(slots=True, eq=False)
class Job:
    """One text to generate. The worker's thread calls `on_delta`."""

    prompt_ids: list[int]
    max_tokens: int
    on_delta: Callable[[TextDelta], None]
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: list[str] = field(default_factory=list)
    timeout: float = 60.0
    streamed: bool = True
    """A delta for every token; else one delta at the end. A delta for every token costs the server as much as a small model does."""
    marks: frozenset[int] = frozenset()
    """The special tokens that are a part of the text."""
    output_ids: list[int] = field(default_factory=list)
    """The generated tokens, the end token included."""
    cancelled: bool = False
    deadline: float = 0.0
    generator: torch.Generator | None = None
    decoder: Any = None
    text: str = ""
    num_sent: int = 0
    """Characters of `text` that deltas have carried."""


class GenerationWorker:
    """A thread that generates several texts at once.

    `slots`: the number of texts in the running batch; `queue_size`: the number of texts that may wait; `max_length`: the number
    of tokens of prompt and output together.
    """

    def __init__(self, model: Any, processor: Processor, *, slots: int, queue_size: int, max_length: int) -> None:
        self.model, self.processor = model, processor
        self.slots, self.queue_size, self.max_length = slots, queue_size, max_length
        self.eos_token_ids = end_ids(model)
        self.waiting: deque[Job] = deque()
        self.running: list[Job] = []
        """The jobs in the batch; their order is the order of its rows."""
        self.changed = threading.Condition()
        self.closed = False
        self.num_tokens = 0
        """Tokens generated since the start."""
        self.thread = threading.Thread(target=self.run, name="generation-worker", daemon=True)
        self.thread.start()

    def submit(self, job: Job) -> None:
        """Queue a job. Raises QueueFull."""
        with self.changed:
            if len(self.waiting) >= self.queue_size:
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
        batch = start_batch(self.model, self.processor.pad_id, self.slots, self.max_length)
        while True:
            # Sleep while there is nothing to do; take new jobs between two steps.
            with self.changed:
                while not (self.waiting or self.running or self.closed):
                    self.changed.wait()
                if self.closed:
                    return
                joining = self.admit()
            try:
                if joining:
                    batch.join([job.prompt_ids for job in joining])
                    self.running += joining
                if self.running:
                    self.step(batch)
            except Exception as error:  # a failed step ends its texts, not the server
                log_failure("generation", error)
                for job in {*self.running, *joining}:
                    job.on_delta(TextDelta(error="the model failed on this request"))
                self.running = []
                # The cache may have some rows of the failed step and not others.
                batch = start_batch(self.model, self.processor.pad_id, self.slots, self.max_length)

    def admit(self) -> list[Job]:
        """Take waiting jobs for the free slots. The timeout of a job begins here, not when it was queued."""
        joining: list[Job] = []
        while self.waiting and len(self.running) + len(joining) < self.slots:
            job = self.waiting.popleft()
            if job.cancelled:
                continue
            job.deadline = time.monotonic() + job.timeout
            job.decoder = DecodeStream(skip_special_tokens=False)
            if job.temperature > 0:
                job.generator = torch.Generator()
                job.generator.manual_seed(job.seed) if job.seed is not None else job.generator.seed()
            joining.append(job)
        return joining

    def step(self, batch: Any) -> None:
        """Generate one token for every running job."""
        jobs = self.running
        tokens = sample_tokens(
            batch.logits(),
            [job.temperature for job in jobs],
            [job.top_p for job in jobs],
            [job.generator for job in jobs],
        )
        now = time.monotonic()
        ended = [row for row, (job, token) in enumerate(zip(jobs, tokens, strict=True)) if self.append(job, token, now)]
        # Rows that ended leave the batch before the others take their token: their slots are free for the next jobs.
        if ended:
            batch.leave(ended)
            removed = set(ended)
            self.running = [job for row, job in enumerate(self.running) if row not in removed]
            tokens = [token for row, token in enumerate(tokens) if row not in removed]
        if tokens:
            batch.take(torch.tensor(tokens))

    def append(self, job: Job, token: int, now: float) -> bool:
        """Add a token to a job, and return whether its text ends there."""
        if job.cancelled:
            return True
        job.output_ids.append(token)
        self.num_tokens += 1
        if token in self.eos_token_ids:
            return self.finish(job, "stop")
        if token in job.marks or token not in self.processor.special_token_ids:
            job.text += job.decoder.step(self.processor.tokenizer.backend_tokenizer, token) or ""
        stop_positions = [position for stop in job.stop if (position := job.text.find(stop)) >= 0]
        if stop_positions:
            job.text = job.text[: min(stop_positions)]
            return self.finish(job, "stop", stop_string=True)
        if len(job.output_ids) >= job.max_tokens or now > job.deadline:
            return self.finish(job, "length")
        if not job.streamed:
            return False
        # The last characters may be the beginning of a stop string, so they wait for the next token.
        num_held = max((len(stop) - 1 for stop in job.stop), default=0)
        end = len(job.text) - num_held
        if end > job.num_sent:
            job.on_delta(TextDelta(job.text[job.num_sent : end]))
            job.num_sent = end
        return False

    def finish(self, job: Job, finish_reason: str, *, stop_string: bool = False) -> bool:
        """Send the rest of the text. Returns True."""
        if not stop_string:  # the decoder holds back a character of which some bytes are missing; decode() shows it
            text = self.processor.decode(job.output_ids, marks=job.marks.difference(self.eos_token_ids))
            job.text = text if text.startswith(job.text) else job.text
        job.on_delta(TextDelta(job.text[job.num_sent :], finish_reason=finish_reason))
        return True
