"""The thread that predicts rows for all clients. It batches the rows that wait when the model becomes free."""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future
from typing import Any

import torch

from llmstage.data.rows import Row
from llmstage.inference.failures import ModelFailed, QueueFull, log_failure
from llmstage.inference.inference_session import InferenceSession

Prediction = dict[str, Any] | str
"""The prediction of a row, or the reason why the row cannot be read."""
MAX_BATCH_SIZE = 64
"""Rows of one batch."""
MAX_WAIT_SHARE, MAX_WAIT_SECONDS = 0.3, 0.01
"""A client that just got its reply often sends the next row at once, so the next batch waits until it has as many rows as the last
one. It waits at most this share of the last batch's duration and at most this many seconds. A single client never waits."""
CPU_FP32_BATCH_SIZE = 8
"""From this many short texts on, an fp32 batch on a CPU is limited by arithmetic, and a larger batch gains nothing. The worker
waits for no more rows than this, so that it predicts for one half of the clients while the other half sends its next rows."""


def full_batch_size(session: InferenceSession) -> int:
    """Return the number of rows that a batch waits for. Generation and bf16 products gain from larger batches."""
    fp32_classifier = session.precision == "fp32" and not session.model.can_generate()
    return CPU_FP32_BATCH_SIZE if fp32_classifier and session.machine.device.type == "cpu" else MAX_BATCH_SIZE


class RowWorker:
    """A thread with a queue of rows.

    `queue_size`: the number of rows that may wait; `full_batch`: the number of rows that a batch waits for.
    """

    def __init__(self, session: InferenceSession, queue_size: int, full_batch: int = MAX_BATCH_SIZE) -> None:
        self.session, self.queue_size, self.full_batch = session, queue_size, full_batch
        self.waiting: deque[tuple[Row, Future[Prediction]]] = deque()
        self.changed = threading.Condition()
        self.closed = False
        self.batch_sizes: deque[int] = deque(maxlen=1000)
        """Rows of each of the latest batches."""
        self.thread = threading.Thread(target=self.run, name="row-worker", daemon=True)
        self.thread.start()

    def submit(self, rows: list[Row]) -> list[Future[Prediction]]:
        """Queue rows and return a future for each. Raises QueueFull."""
        with self.changed:
            # A request with more rows than the queue has places is accepted where nothing else waits.
            if len(self.waiting) + len(rows) > max(self.queue_size, len(rows) if not self.waiting else 0):
                raise QueueFull
            futures: list[Future[Prediction]] = [Future() for _ in rows]
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
        num_rows, seconds = 1, 0.0  # of the last batch
        while not self.closed:
            batch = self.next_batch(num_rows, min(MAX_WAIT_SHARE * seconds, MAX_WAIT_SECONDS))
            if batch:
                self.batch_sizes.append(len(batch))
                started = time.monotonic()
                self.predict(batch)
                num_rows, seconds = min(len(batch), self.full_batch), time.monotonic() - started

    def next_batch(self, num_rows: int, seconds: float) -> list[tuple[Row, Future[Prediction]]]:
        """Wait for a first row, then up to `seconds` longer for `num_rows` rows, and return all that wait."""
        with self.changed:
            self.changed.wait_for(lambda: self.closed or self.waiting)
            self.changed.wait_for(lambda: self.closed or len(self.waiting) >= num_rows, seconds)
            batch = [self.waiting.popleft() for _ in range(min(MAX_BATCH_SIZE, len(self.waiting)))]
        return [(row, future) for row, future in batch if future.set_running_or_notify_cancel()]

    def predict(self, batch: list[tuple[Row, Future[Prediction]]]) -> None:
        """Set the future of each row. After a failure each row is predicted alone, so that only the failing row gets an error."""
        try:
            predictions = self.session.predict([row for row, _ in batch], list(range(len(batch))))
        except Exception as error:
            if len(batch) > 1:
                for row_and_future in batch:
                    self.predict([row_and_future])
                return
            log_failure("predicting a row", error)
            batch[0][1].set_exception(ModelFailed())
            return
        for (_, future), prediction in zip(batch, predictions, strict=True):
            future.set_result(prediction)
