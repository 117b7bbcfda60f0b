"""What stands between the socket and the routes (RELIABILITY P15): token, size and time of a request. Written against ASGI
and uvicorn, which have no such limits themselves."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


def problem(
    message: str, kind: str = "invalid_request_error", param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """OpenAI's form of an error."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class Limits:
    """`token`: asked for on every route but those `open_to_all`; None: on none. `hosts`: names under which the server may be called where
    there is no token, so that a web page cannot reach it through a name of its own (DNS rebinding); None: any."""

    def __init__(
        self,
        app: Any,
        *,
        token: str | None,
        open_to_all: set[str],
        hosts: set[str] | None,
        body_bytes: int,
        read_seconds: float,
    ) -> None:
        self.app, self.token, self.open_to_all, self.hosts = app, token, open_to_all, hosts
        self.body_bytes, self.read_seconds = body_bytes, read_seconds

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "").rpartition("]")[0].strip("[") or headers.get("host", "").partition(":")[0]
        if self.hosts is not None and host.lower() not in self.hosts:
            await refuse(send, 421, f"This server is not called '{host[:80]}'.")
            return
        if self.token is not None and scope["path"] not in self.open_to_all:
            given = headers.get("authorization", "").removeprefix("Bearer ").strip()
            if not hmac.compare_digest(given.encode(), self.token.encode()):
                await refuse(
                    send,
                    401,
                    "The token is missing or wrong: Authorization: Bearer <token>.",
                    kind="authentication_error",
                )
                return
        if headers.get("content-length", "0").isdigit() and int(headers.get("content-length", "0")) > self.body_bytes:
            await refuse(send, 413, self.large())
            return
        clock = asyncio.get_running_loop().time
        started, seen, whole, begun = clock(), 0, False, False
        trouble: tuple[int, str] | None = None

        async def limited() -> dict[str, Any]:
            nonlocal seen, whole, trouble
            if whole:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(self.read_seconds - (clock() - started), 0.001))
            except TimeoutError:
                trouble = 408, f"The request took longer than {self.read_seconds:g} s to arrive."
                return {"type": "http.disconnect"}
            seen += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if seen > self.body_bytes:
                trouble = 413, self.large()
                return {"type": "http.disconnect"}
            return message

        async def noted(message: dict[str, Any]) -> None:
            nonlocal begun
            if trouble is not None and not begun:
                return  # what the routes make of half a request is not told
            begun = True
            await send(message)

        try:
            await self.app(scope, limited, noted)
        except Exception:
            if trouble is None:
                raise
        if trouble is not None and not begun:
            await refuse(send, *trouble)

    def large(self) -> str:
        return f"The request is larger than {self.body_bytes:,} bytes (stage.max_body_mb)."


async def refuse(send: Send, status: int, message: str, kind: str = "invalid_request_error") -> None:
    body = json.dumps(problem(message, kind)).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Joined:
    """A transport that sends together what is written in one turn of the loop: uvicorn writes the head and the body of a reply one
    after the other, and sending the body by itself costs the server as much as a small model does, and its client a second waking."""

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.transport, self.loop = transport, loop
        self.held: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)

    def write(self, data: bytes) -> None:
        if not self.held:
            self.loop.call_soon(self.flush)
        self.held.append(data)

    def flush(self) -> None:
        if self.held:
            self.transport.write(b"".join(self.held))
            self.held.clear()

    def close(self) -> None:
        self.flush()
        self.transport.close()


def timed_protocol(seconds: float) -> type[H11Protocol]:
    """uvicorn's own protocol, which here lets nobody take longer than so many seconds over the head of a request."""

    class Timed(H11Protocol):
        head_timer: Any = None

        def connection_made(self, transport: Any) -> None:
            joined: Any = Joined(transport, self.loop)
            super().connection_made(joined)
            self.head_timer = self.loop.call_later(seconds, self.head_late)

        def data_received(self, data: bytes) -> None:
            before = self.cycle
            super().data_received(data)
            if self.cycle is not before or (self.cycle is not None and not self.cycle.response_complete):
                self.stop_timer()
            elif self.head_timer is None:  # the next request of a kept connection has begun
                self.head_timer = self.loop.call_later(seconds, self.head_late)

        def head_late(self) -> None:
            if not self.transport.is_closing():
                body = json.dumps(problem(f"The head of a request took longer than {seconds:g} s.")).encode()
                head = f"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
                self.transport.write(head.encode() + body)
                self.transport.close()

        def stop_timer(self) -> None:
            if self.head_timer is not None:
                self.head_timer.cancel()
                self.head_timer = None

        def connection_lost(self, exc: Exception | None) -> None:
            self.stop_timer()
            super().connection_lost(exc)

    return Timed
