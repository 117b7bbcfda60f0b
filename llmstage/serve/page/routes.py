"""The page of the server: files of this folder, which know nothing of the model. What they show they ask of /v1."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import Response

HERE = Path(__file__).parent
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
FILES = {
    "/" if path.name == "index.html" else f"/page/{path.name}": path
    for path in sorted(HERE.iterdir())
    if path.suffix in KINDS
}
"""Address and file. They are given without a token, since the page is where it is typed."""

HEADERS = {
    # Nothing but the page's own files runs or is loaded, wherever a text of a user or a model might end up.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def add_page(app: FastAPI) -> None:
    for address, path in FILES.items():
        app.get(address, include_in_schema=False)(giving(path))


def giving(path: Path) -> Callable[[], Awaitable[Response]]:
    body, kind = path.read_bytes(), f"{KINDS[path.suffix]}; charset=utf-8"

    async def give() -> Response:
        return Response(body, media_type=kind, headers=HEADERS)

    return give
