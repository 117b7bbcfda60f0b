"""The one module that uses private names of uvicorn: a time limit for request heads, and one system call for a short reply.

uvicorn has no setting for either. Where another version of uvicorn lacks one of the names, the server uses uvicorn's own
protocol and prints a warning.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http import h11_impl

from llmstage import console
from llmstage.inference.server.schemas import error_body

PRIVATE_NAMES = {
    "H11Protocol": ("loop", "transport", "cycle"),
    "RequestResponseCycle": ("response_complete",),
}
"""Class of uvicorn's h11 protocol to the attributes that its __init__ sets and that this module reads."""


def missing_names() -> list[str]:
    """Return those of the private names that the installed uvicorn lacks."""
    missing = []
    for class_name, attributes in PRIVATE_NAMES.items():
        init = getattr(getattr(h11_impl, class_name, None), "__init__", None)
        assigned = getattr(getattr(init, "__code__", None), "co_names", ())
        missing += [f"{class_name}.{attribute}" for attribute in attributes if attribute not in assigned]
    return missing


def make_http_protocol(head_seconds: float) -> type[asyncio.Protocol] | str:
    """Return a value for uvicorn's setting `http`: a protocol that gives each client `head_seconds` for a request head."""
    missing = missing_names()
    if missing:
        console.warn(
            f"this version of uvicorn lacks {', '.join(missing)}: stage.read_timeout does not limit the head of a request"
        )
        return "h11"

    class TimedProtocol(h11_impl.H11Protocol):
        head_timer: Any = None

        def connection_made(self, transport: Any) -> None:
            coalescing: Any = CoalescingTransport(transport, self.loop)
            super().connection_made(coalescing)
            self.head_timer = self.loop.call_later(head_seconds, self.head_timeout)

        def data_received(self, data: bytes) -> None:
            previous = self.cycle
            super().data_received(data)
            # A new cycle means that the head is complete; from there on RequestLimits has the clock.
            if self.cycle is not previous or (self.cycle is not None and not self.cycle.response_complete):
                self.stop_head_timer()
            elif self.head_timer is None:  # the next request on a connection that the client kept open
                self.head_timer = self.loop.call_later(head_seconds, self.head_timeout)

        def head_timeout(self) -> None:
            if not self.transport.is_closing():
                message = f"The head of a request took longer than {head_seconds:g} s."
                body = json.dumps(error_body(message)).encode()
                head = (
                    f"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
                    "connection: close\r\n\r\n"
                )
                self.transport.write(head.encode() + body)
                self.transport.close()

        def stop_head_timer(self) -> None:
            if self.head_timer is not None:
                self.head_timer.cancel()
                self.head_timer = None

        def connection_lost(self, exc: Exception | None) -> None:
            self.stop_head_timer()
            super().connection_lost(exc)

    return TimedProtocol


class CoalescingTransport:
    """A transport that joins all writes of one turn of the event loop into one.

    uvicorn writes the head and the body of a reply separately. A second system call costs the server as much as a small model
    does, and it wakes the client twice.
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.transport, self.loop = transport, loop
        self.buffer: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)

    def write(self, data: bytes) -> None:
        if not self.buffer:
            self.loop.call_soon(self.flush)
        self.buffer.append(data)

    def flush(self) -> None:
        if self.buffer:
            self.transport.write(b"".join(self.buffer))
            self.buffer.clear()

    def close(self) -> None:
        self.flush()
        self.transport.close()
