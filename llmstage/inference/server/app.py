"""The FastAPI application: the routes of the model, of the monitor and of the web pages, and the handlers of errors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException as RoutingError

from llmstage.config.stage import Serve
from llmstage.errors import UserError
from llmstage.inference.failures import ModelFailed, QueueFull
from llmstage.inference.server.chat_routes import CompletionHandler
from llmstage.inference.server.chat_schemas import ChatCompletionRequest
from llmstage.inference.server.monitor_api import MonitorReader, add_monitor_route
from llmstage.inference.server.row_routes import RowHandler
from llmstage.inference.server.schemas import (
    CompletionRequest,
    EmbeddingRequest,
    RowsRequest,
    error_body,
)

PAGE_DIR = Path(__file__).resolve().parents[1] / "page"
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
PAGE_HEADERS = {
    # The browser loads and runs only the page's own files, even where a text of a user or a model becomes markup.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def build_app(
    completions: CompletionHandler | None, rows: RowHandler | None, monitor: MonitorReader | None, cfg: Serve, model_name: str,
    pages: dict[str, Path], *, exposed: bool,
) -> FastAPI:  # fmt: skip
    """Return the application.

    `completions`: None where the model does not generate text; `rows`: None where there is no model; `monitor`: None where no
    monitor is displayed; `exposed`: other machines can reach the server, so the API documentation is turned off.
    """
    docs: dict[str, Any] = {"docs_url": None, "redoc_url": None} if exposed else {}
    app = FastAPI(title=f"llmstage: {model_name}", **docs)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    if rows is None:

        @app.get("/v1/models")
        async def no_models() -> dict[str, Any]:
            return {"object": "list", "data": []}

    else:
        add_model_routes(app, completions, rows, model_name, [] if monitor is None else ["/v1/monitor"])
    if monitor is not None:
        add_monitor_route(app, monitor)
    add_page_routes(app, pages)
    add_error_handlers(app, cfg)
    return app


def add_model_routes(
    app: FastAPI, completions: CompletionHandler | None, rows: RowHandler, model_name: str, extra_routes: list[str]
) -> None:
    """Add the routes of a model. `extra_routes`: further routes that /v1/models lists."""

    def check_model(requested: str | None) -> None:
        if requested is not None and requested != model_name:
            raise HTTPException(404, f"There is no model '{requested[:80]}' here; this server has '{model_name}'.")

    completion_routes = [] if completions is None else ["/v1/chat/completions", "/v1/completions"]
    model_info: dict[str, Any] = {
        **{"id": model_name, "object": "model", "created": int(time.time()), "owned_by": "llmstage"},
        # Fields that OpenAI lacks: what a page or a program needs to know before it sends a request.
        **{"task": rows.task, "row": rows.row_schema(), "max_model_len": rows.session.max_length},
        "routes": rows.routes() + (completion_routes if rows.converses else completion_routes[::-1]) + extra_routes,
    }

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model_info]}

    @app.get("/v1/models/{requested:path}")
    async def model(requested: str) -> dict[str, Any]:
        check_model(requested)
        return model_info

    if completions is not None:
        handler = completions

        @app.post("/v1/chat/completions")
        async def chat_completions(body: ChatCompletionRequest, request: Request) -> Response:
            check_model(body.model)
            return await handler.chat(body, request)

        @app.post("/v1/completions")
        async def text_completions(body: CompletionRequest, request: Request) -> Response:
            check_model(body.model)
            return await handler.complete(body, request)

    if completions is not None and completions.grounding is not None:
        retriever = completions.grounding.retriever

        @app.post("/v1/index/reload")
        async def reload_index() -> dict[str, Any]:
            """Read the files of retrieval.path again. Requests use the old index until the new one is complete."""
            try:
                return await asyncio.to_thread(retriever.reload)
            except UserError as error:
                raise HTTPException(409, f"The old index is kept. {error}") from None

    async def predict(body: RowsRequest) -> dict[str, Any]:
        check_model(body.model)
        return await rows.predict(body)

    if rows.route:
        app.post(f"/v1/{rows.route}")(predict)

    if rows.embeds:

        @app.post("/v1/embed")
        @app.post("/v1/embeddings")
        async def embed(body: EmbeddingRequest) -> dict[str, Any]:
            check_model(body.model)
            return await rows.embed(body)


def page_files(*, model: bool, monitor: bool) -> dict[str, Path]:
    """Return the file of each address, by what the server has.

    These addresses need no token, since the user types the token into the page. The files contain no data of the model: the
    page requests all data from /v1.
    """
    assets = {f"/page/{path.name}": path for path in sorted(PAGE_DIR.iterdir()) if path.suffix in (".css", ".js")}
    model_page, monitor_page = PAGE_DIR / "index.html", PAGE_DIR / "monitor.html"
    start = {"/": model_page if model else monitor_page}
    return {**start, **({"/monitor": monitor_page} if monitor else {}), **assets}


def add_page_routes(app: FastAPI, pages: dict[str, Path]) -> None:
    for address, path in pages.items():
        app.get(address, include_in_schema=False)(file_endpoint(path))


def file_endpoint(path: Path) -> Callable[[], Awaitable[Response]]:
    """Return a route function that sends a file. The file is read once, when the server starts."""
    content, media_type = path.read_bytes(), f"{MEDIA_TYPES[path.suffix]}; charset=utf-8"

    async def send_file() -> Response:
        return Response(content, media_type=media_type, headers=PAGE_HEADERS)

    return send_file


def add_error_handlers(app: FastAPI, cfg: Serve) -> None:
    """Make every error reply have OpenAI's form."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return JSONResponse(error_body(f"The body is not JSON: {first['ctx']['error']}."), 400)
        field_path = ".".join(str(part) for part in first["loc"] if part != "body")
        reason = "is not known here" if first["type"] == "extra_forbidden" else first["msg"]
        return JSONResponse(error_body(f"{field_path or 'The body'}: {reason}.", param=field_path or None), 400)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        code = "model_not_found" if error.status_code == 404 else getattr(error, "code", None)
        error_type = "server_error" if error.status_code >= 500 else "invalid_request_error"
        return JSONResponse(
            error_body(str(error.detail), error_type, code=code), error.status_code, headers=error.headers
        )

    @app.exception_handler(RoutingError)
    async def no_route(request: Request, error: RoutingError) -> JSONResponse:
        """Name the routes that exist. The reply of FastAPI has another form and does not name them.

        FastAPI also raises this error for a body that it cannot parse (not UTF-8, nested too deeply).
        """
        if error.status_code not in (404, 405):
            return JSONResponse(
                error_body("The body cannot be read as JSON."), error.status_code, headers=error.headers
            )
        routes = ", ".join(
            route.path for route in app.routes if isinstance(route, APIRoute) and route.include_in_schema
        )
        message = f"There is no {request.method} {request.url.path[:80]} here. This server has: {routes}."
        return JSONResponse(error_body(message), error.status_code, headers=error.headers)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        """Answer for an exception that no other handler knows. Starlette raises it again, and RequestLimits logs it."""
        return JSONResponse(error_body("The server failed on this request.", "server_error"), 500)

    @app.exception_handler(ModelFailed)
    async def failed(request: Request, error: ModelFailed) -> JSONResponse:
        return JSONResponse(error_body("The model failed on this request.", "server_error"), 500)

    @app.exception_handler(QueueFull)
    async def queue_full(request: Request, error: QueueFull) -> JSONResponse:
        body = error_body(f"{cfg.queue} requests wait already. Try again.", "rate_limit_error", code="queue_full")
        return JSONResponse(body, 429, headers={"Retry-After": "1"})
