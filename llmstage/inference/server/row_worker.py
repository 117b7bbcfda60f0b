"""The thread that answers rows: whatever waits when the model is free is one batch."""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future
from typing import Any

import torch

from llmstage import console
from llmstage.data.rows import Row
from llmstage.inference.inference_session import Ready
from llmstage.inference.server.generation_worker import QueueFull

Said = dict[str, Any] | str
AT_ONCE = 64
"""Rows of one batch."""
PATIENCE, LONGEST = 0.3, 0.01
"""Whoever was just answered often asks again: the next batch waits for as many rows as the last one had, but no longer than this
share of the time that the last one took, nor than so many seconds. One client alone never waits."""
IN_FULL = 8
"""Short texts from which on a batch in fp32 is arithmetic, which a larger one does not save: it waits for no more of them, so that
one half of the clients is answered while the other half asks again."""


def enough_rows(ready: Ready) -> int:
    """Models that write, and products in bf16, gain from larger batches."""
    in_full = ready.precision == "fp32" and not ready.model.can_generate()
    return IN_FULL if in_full and ready.machine.device.type == "cpu" else AT_ONCE


class ModelFailed(Exception):
    """On a row, for a reason that is not the row's sender's to know."""


class Answers:
    """`queue`: rows that may wait; `enough`: rows for which a batch waits at most."""

    def __init__(self, ready: Ready, queue: int, enough: int = AT_ONCE) -> None:
        self.ready, self.queue, self.enough = ready, queue, enough
        self.waiting: deque[tuple[Row, Future[Said]]] = deque()
        self.changed = threading.Condition()
        self.closed = False
        self.batches: deque[int] = deque(maxlen=1000)
        """Rows of the last batches."""
        self.thread = threading.Thread(target=self.run, name="answers", daemon=True)
        self.thread.start()

    def ask(self, rows: list[Row]) -> list[Future[Said]]:
        with self.changed:
            if len(self.waiting) + len(rows) > max(self.queue, len(rows) if not self.waiting else 0):
                raise QueueFull
            futures: list[Future[Said]] = [Future() for _ in rows]
            self.waiting += zip(rows, futures, strict=True)
            self.changed.notify()
        return futures

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify()
        self.thread.join(timeout=30)

    @torch.no_grad()
    def run(self) -> None:
        rows, seconds = 1, 0.0  # of the last batch
        while not self.closed:
            batch = self.gather(rows, min(PATIENCE * seconds, LONGEST))
            if batch:
                self.batches.append(len(batch))
                started = time.monotonic()
                self.answer(batch)
                rows, seconds = min(len(batch), self.enough), time.monotonic() - started

    def gather(self, rows: int, seconds: float) -> list[tuple[Row, Future[Said]]]:
        """What waits once something does; for so many rows it waits so many seconds more."""
        with self.changed:
            self.changed.wait_for(lambda: self.closed or self.waiting)
            self.changed.wait_for(lambda: self.closed or len(self.waiting) >= rows, seconds)
            batch = [self.waiting.popleft() for _ in range(min(AT_ONCE, len(self.waiting)))]
        return [(row, future) for row, future in batch if future.set_running_or_notify_cancel()]

    def answer(self, batch: list[tuple[Row, Future[Said]]]) -> None:
        """Neither the server nor a neighbour may suffer from a row on which the model fails."""
        try:
            said = self.ready.answer([row for row, _ in batch], list(range(len(batch))))
        except Exception as error:
            if len(batch) > 1:
                for one in batch:
                    self.answer([one])
                return
            console.warn(f"answering failed: {type(error).__name__}")  # its text may quote what was asked
            batch[0][1].set_exception(ModelFailed())
            return
        for (_, future), answer in zip(batch, said, strict=True):
            future.set_result(answer)
