"""What happens when a model fails at inference: the log entry for the operator and the exceptions for the routes."""

from __future__ import annotations

import traceback

from llmstage import console


class ModelFailed(Exception):
    """The model raised an exception on a request. Clients get no details, since these may quote another client's text."""


class QueueFull(Exception):
    """The queue already has as many waiting requests as it may."""


def log_failure(action: str, error: BaseException) -> None:
    """Write the type and the traceback of an error to standard error and run.log, without its message.

    The message of an exception may quote the prompt or the row; source lines and type names do not.
    """
    console.warn("\n".join([f"{action} failed: {type(error).__name__}", *redacted_traceback(error)]))


def redacted_traceback(error: BaseException) -> list[str]:
    """Return the traceback lines of an error and of its causes, the first cause first, without any message."""
    chain = [error]
    while (
        cause := chain[-1].__cause__ or (None if chain[-1].__suppress_context__ else chain[-1].__context__)
    ) is not None:
        if cause in chain:
            break
        chain.append(cause)
    lines: list[str] = []
    for link in reversed(chain):
        frames = "".join(traceback.format_tb(link.__traceback__)).rstrip().split("\n")
        lines += ["Traceback (most recent call last):", *frames, f"{type(link).__module__}.{type(link).__qualname__}"]
    return lines
