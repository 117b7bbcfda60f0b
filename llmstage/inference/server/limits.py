"""An ASGI wrapper around the routes that checks the token, the host name, the size and the duration of each request.

FastAPI and uvicorn have no such limits. The wrapper also answers 500 where a route raises an exception that nothing handled.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import ClientDisconnect

from llmstage.inference.failures import log_failure
from llmstage.inference.server.schemas import error_body

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class RequestLimits:
    """`token`: required on every route outside `public_paths`; None: on no route. `hosts`: the host names that a server without
    a token accepts, so that a web page cannot reach it through a name of its own (DNS rebinding); None: any."""

    def __init__(
        self,
        app: Any,
        *,
        token: str | None,
        public_paths: set[str],
        hosts: set[str] | None,
        max_body_bytes: int,
        read_seconds: float,
    ) -> None:
        self.app, self.token, self.public_paths, self.hosts = app, token, public_paths, hosts
        self.max_body_bytes, self.read_seconds = max_body_bytes, read_seconds

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if await self.refused_by_headers(scope["path"], headers, send):
            return
        await self.run_app(scope, receive, send)

    async def refused_by_headers(self, path: str, headers: dict[str, str], send: Send) -> bool:
        """Check what the headers tell. Where that is wrong, send the error and return True."""
        host = headers.get("host", "").rpartition("]")[0].strip("[") or headers.get("host", "").partition(":")[0]
        if self.hosts is not None and host.lower() not in self.hosts:
            await send_error(send, 421, f"This server is not called '{host[:80]}'.")
            return True
        if self.token is not None and path not in self.public_paths:
            token = headers.get("authorization", "").removeprefix("Bearer ").strip()
            if not hmac.compare_digest(token.encode(), self.token.encode()):
                message = "The token is missing or wrong: Authorization: Bearer <token>."
                await send_error(send, 401, message, "authentication_error")
                return True
        content_length = headers.get("content-length", "0")
        if content_length.isdigit() and int(content_length) > self.max_body_bytes:
            await send_error(send, 413, self.too_large_message())
            return True
        return False

    async def run_app(self, scope: Any, receive: Receive, send: Send) -> None:
        """Run the routes; stop reading at the limits of size and time."""
        clock = asyncio.get_running_loop().time
        started, num_bytes, body_complete = clock(), 0, False
        reply_started = reply_complete = False
        exceeded: tuple[int, str] | None = None

        async def limited_receive() -> dict[str, Any]:
            nonlocal num_bytes, body_complete, exceeded
            if body_complete:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(self.read_seconds - (clock() - started), 0.001))
            except TimeoutError:
                exceeded = 408, f"The request took longer than {self.read_seconds:g} s to arrive."
                return {"type": "http.disconnect"}
            num_bytes += len(message.get("body", b""))
            body_complete = not message.get("more_body", False)
            if num_bytes > self.max_body_bytes:
                exceeded = 413, self.too_large_message()
                return {"type": "http.disconnect"}
            return message

        async def observed_send(message: dict[str, Any]) -> None:
            nonlocal reply_started, reply_complete
            if exceeded is not None and not reply_started:
                return  # the routes saw a part of the request; their reply to it would be misleading
            reply_started = True
            await send(message)
            reply_complete = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            await self.app(scope, limited_receive, observed_send)
        except Exception as error:
            # uvicorn would log the message of the exception, which may quote the request.
            if exceeded is None and not isinstance(error, ClientDisconnect):
                log_failure(f"{scope['method']} {scope['path'][:80]}", error)
                if not reply_started:
                    await send_error(send, 500, "The server failed on this request.", "server_error")
                elif not reply_complete:
                    raise ReplyAborted from None  # uvicorn closes the connection, so the client sees that the reply is cut
                return
        if exceeded is not None and not reply_started:
            await send_error(send, *exceeded)

    def too_large_message(self) -> str:
        return f"The request is larger than {self.max_body_bytes:,} bytes (stage.max_body_mb)."


class ReplyAborted(Exception):
    """A route failed after the reply had begun. The log has the traceback of the failure above this one."""


async def send_error(send: Send, status: int, message: str, error_type: str = "invalid_request_error") -> None:
    """Send an error in OpenAI's form and close the connection, since the rest of the request may still be on its way."""
    body = json.dumps(error_body(message, error_type)).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
