"""The pages of the server: files of this folder, which know nothing of the model. What they show they ask of /v1."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import Response

HERE = Path(__file__).parent
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
MODEL, MONITOR = HERE / "index.html", HERE / "monitor.html"

HEADERS = {
    # Nothing but the page's own files runs or is loaded, wherever a text of a user or a model might end up.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def pages(*, model: bool, monitor: bool) -> dict[str, Path]:
    """Address and file, by what the server has. They are given without a token, since the page is where it is typed."""
    parts = {f"/page/{path.name}": path for path in sorted(HERE.iterdir()) if path.suffix in (".css", ".js")}
    return {"/": MODEL if model else MONITOR, **({"/monitor": MONITOR} if monitor else {}), **parts}


def add_pages(app: FastAPI, shown: dict[str, Path]) -> None:
    for address, path in shown.items():
        app.get(address, include_in_schema=False)(giving(path))


def giving(path: Path) -> Callable[[], Awaitable[Response]]:
    body, kind = path.read_bytes(), f"{KINDS[path.suffix]}; charset=utf-8"

    async def give() -> Response:
        return Response(body, media_type=kind, headers=HEADERS)

    return give
