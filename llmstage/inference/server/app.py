"""The routes: OpenAI's for models that write, one for each other task, a monitor's, /health, and what goes wrong in OpenAI's
form."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException as RoutingError

from llmstage.config.stage import Serve
from llmstage.errors import UserError
from llmstage.inference.page.routes import add_pages
from llmstage.inference.server.chat_routes import Chat
from llmstage.inference.server.generation_worker import QueueFull
from llmstage.inference.server.limits import problem
from llmstage.inference.server.monitor_api import Live, add_monitor
from llmstage.inference.server.row_routes import Rows
from llmstage.inference.server.row_worker import ModelFailed
from llmstage.inference.server.schemas import ChatForm, CompletionForm, RowsForm, TextsForm


def build_app(
    chat: Chat | None, rows: Rows | None, live: Live | None, cfg: Serve, name: str, pages: dict[str, Path], *, exposed: bool
) -> FastAPI:  # fmt: skip
    """`chat`: of models that write on; `rows`: of every model; `live`: a monitor that is shown. `exposed`: reached from
    elsewhere, so that nothing is shown that is not asked for with a token."""
    closed: dict[str, Any] = {"docs_url": None, "redoc_url": None} if exposed else {}
    app = FastAPI(title=f"llmstage: {name}", **closed)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    if rows is None:

        @app.get("/v1/models")
        async def no_models() -> dict[str, Any]:
            return {"object": "list", "data": []}

    else:
        add_model(app, chat, rows, name, also=[] if live is None else ["/v1/monitor"])
    if live is not None:
        add_monitor(app, live)
    add_pages(app, pages)
    add_troubles(app, cfg)
    return app


def add_model(app: FastAPI, chat: Chat | None, rows: Rows, name: str, also: list[str]) -> None:
    """The routes of a model; `also`: what else this server has."""
    started = int(time.time())

    def check_model(asked: str | None) -> None:
        if asked is not None and asked != name:
            raise HTTPException(404, f"There is no model '{asked[:80]}' here; this server has '{name}'.")

    writes = [] if chat is None else ["/v1/chat/completions", "/v1/completions"]
    about: dict[str, Any] = {
        **{"id": name, "object": "model", "created": started, "owned_by": "llmstage"},
        # Beside OpenAI's words: what a page or a program must know to ask this model something.
        **{"task": rows.task, "row": rows.described(), "max_model_len": rows.ready.longest},
        "routes": rows.routes() + (writes if rows.converses else writes[::-1]) + also,
    }

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [about]}

    @app.get("/v1/models/{asked:path}")
    async def model(asked: str) -> dict[str, Any]:
        check_model(asked)
        return about

    if chat is not None:
        writer = chat

        @app.post("/v1/chat/completions")
        async def chat_completions(form: ChatForm, request: Request) -> Response:
            check_model(form.model)
            return await writer.reply(form, request)

        @app.post("/v1/completions")
        async def completions(form: CompletionForm, request: Request) -> Response:
            check_model(form.model)
            return await writer.complete(form, request)

    if chat is not None and chat.grounding is not None:
        library = chat.grounding.library

        @app.post("/v1/index/reload")
        async def reload_index() -> dict[str, Any]:
            """The files of retrieval.path are read again; requests are answered from the old index until the new one is whole."""
            try:
                return await asyncio.to_thread(library.renew)
            except UserError as error:
                raise HTTPException(409, f"The old index is kept. {error}") from None

    async def answer(form: RowsForm) -> dict[str, Any]:
        check_model(form.model)
        return await rows.answer(form)

    if rows.route:
        app.post(f"/v1/{rows.route}")(answer)

    if rows.embeds:

        @app.post("/v1/embed")
        @app.post("/v1/embeddings")
        async def embed(form: TextsForm) -> dict[str, Any]:
            check_model(form.model)
            return await rows.embed(form)


def add_troubles(app: FastAPI, cfg: Serve) -> None:
    """What goes wrong, in OpenAI's form."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return JSONResponse(problem(f"The body is not JSON: {first['ctx']['error']}."), 400)
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        told = "is not known here" if first["type"] == "extra_forbidden" else first["msg"]
        return JSONResponse(problem(f"{where or 'The body'}: {told}.", param=where or None), 400)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        code = "model_not_found" if error.status_code == 404 else getattr(error, "code", None)
        return JSONResponse(problem(str(error.detail), code=code), error.status_code, headers=error.headers)

    @app.exception_handler(RoutingError)
    async def no_route(request: Request, error: RoutingError) -> JSONResponse:
        """What no route takes: FastAPI's own answer is of another form, and does not say what there is. A body that cannot even
        be looked at (not UTF-8, nested too deeply) is told here as well."""
        if error.status_code not in (404, 405):
            return JSONResponse(problem("The body cannot be read as JSON."), error.status_code, headers=error.headers)
        known = ", ".join(route.path for route in app.routes if isinstance(route, APIRoute) and route.include_in_schema)
        told = problem(f"There is no {request.method} {request.url.path[:80]} here. This server has: {known}.")
        return JSONResponse(told, error.status_code, headers=error.headers)

    @app.exception_handler(ModelFailed)
    async def failed(request: Request, error: ModelFailed) -> JSONResponse:
        return JSONResponse(problem("The model failed on this request.", "server_error"), 500)

    @app.exception_handler(QueueFull)
    async def full(request: Request, error: QueueFull) -> JSONResponse:
        told = problem(f"{cfg.queue} requests wait already. Try again.", "rate_limit_error", code="queue_full")
        return JSONResponse(told, 429, headers={"Retry-After": "1"})
