"""The HTTP server of stage=serve: access rules, worker threads, the listening socket and uvicorn."""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from llmstage import console
from llmstage.config.stage import Serve
from llmstage.errors import Refused, UserError
from llmstage.inference.inference_session import InferenceSession
from llmstage.inference.retrieval.grounding import make_grounding
from llmstage.inference.server.app import build_app, page_files
from llmstage.inference.server.chat_routes import CompletionHandler
from llmstage.inference.server.generation_worker import GenerationWorker
from llmstage.inference.server.limits import RequestLimits
from llmstage.inference.server.monitor_api import MonitorReader
from llmstage.inference.server.row_routes import RowHandler
from llmstage.inference.server.row_worker import RowWorker, full_batch_size
from llmstage.inference.server.uvicorn_internals import make_http_protocol

TOKEN_VARIABLE = "LLMSTAGE_API_KEY"
MAX_CONNECTIONS = 512
"""Open connections; uvicorn answers 503 to further ones."""
KEEP_ALIVE_SECONDS, SHUTDOWN_SECONDS = 5, 20
"""How long an idle connection stays open, and how long replies in progress may take when the server shuts down."""


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach the host."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_token(cfg: Serve) -> str | None:
    """Return the token that requests need, or None.

    Raises Refused where other machines can reach the server and there is no token, or where other users can read its file.
    """
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if cfg.token_path:
        path = Path(cfg.token_path).expanduser()
        try:
            mode = path.stat().st_mode
            token = path.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise UserError(f"stage.token_path={path} cannot be read ({error.strerror}).") from None
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise Refused(f"stage.token_path={path} can be read by other users. Restrict it: chmod 600 {path}")
        if not token:
            raise UserError(f"stage.token_path={path} is empty. Write a token into it.")
    if not token and not is_loopback(cfg.host):
        raise Refused(
            f"Other machines can reach stage.host={cfg.host}, so requests need a token. Set it in the environment "
            f"({TOKEN_VARIABLE}=…) or in a file (stage.token_path=…, mode 600); or keep stage.host=127.0.0.1."
        )
    return token or None


@dataclass(slots=True)
class BoundServer:
    """A server whose socket is bound and which does not answer yet. Without a model there are no workers."""

    server: uvicorn.Server
    bound_socket: socket.socket
    url: str
    generation_worker: GenerationWorker | None
    row_worker: RowWorker | None

    def run(self) -> None:
        """Answer requests until a signal arrives or `server.should_exit` is set."""
        self.server.run(sockets=[self.bound_socket])


@contextmanager
def open_server(session: InferenceSession | None, cfg: Serve, model_name: str) -> Iterator[BoundServer]:
    """Yield a server with its worker threads; the threads end with the context.

    `session`: None where the server displays a monitor and has no model; `model_name`: the name by which clients call the model.
    """
    # Check everything that may be refused before threads start.
    token = read_token(cfg)
    monitor = MonitorReader(Path(cfg.monitor).expanduser().resolve()) if cfg.monitor else None
    grounding = make_grounding(session) if session is not None else None
    bound_socket = bind_socket(cfg)
    # Start the workers and the handlers that use them.
    completions: CompletionHandler | None = None
    rows: RowHandler | None = None
    row_worker: RowWorker | None = None
    generation_worker: GenerationWorker | None = None
    if session is not None:
        row_worker = RowWorker(session, cfg.queue, full_batch_size(session))
        generation_worker = make_generation_worker(session, cfg)
        rows = RowHandler(session, row_worker, model_name)
        if generation_worker is not None:
            generation = session.run.generation
            completions = CompletionHandler(
                generation_worker, session.components.processor, cfg, model_name, grounding=grounding,
                system=getattr(session.run.task, "system", None), temperature=generation.temperature, top_p=generation.top_p,
            )  # fmt: skip
    # Build the application inside its limits.
    pages = page_files(model=rows is not None, monitor=monitor is not None)
    app = build_app(completions, rows, monitor, cfg, model_name, pages, exposed=not is_loopback(cfg.host))
    limited_app = RequestLimits(
        app,
        token=token,
        public_paths={"/health", *pages},
        hosts=None if token else {"localhost", "127.0.0.1", "::1", cfg.host},
        max_body_bytes=int(cfg.max_body_mb * (1 << 20)),
        read_seconds=cfg.read_timeout,
    )
    config = uvicorn.Config(
        limited_app, http=make_http_protocol(cfg.read_timeout), ws="none", lifespan="off", log_config=None, access_log=False,
        proxy_headers=False, limit_concurrency=MAX_CONNECTIONS, timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS, server_header=False,
    )  # fmt: skip
    host, port = bound_socket.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    try:
        yield BoundServer(uvicorn.Server(config), bound_socket, url, generation_worker, row_worker)
    finally:
        bound_socket.close()
        if row_worker is not None:
            row_worker.close()
        if generation_worker is not None:
            generation_worker.close()


def make_generation_worker(session: InferenceSession, cfg: Serve) -> GenerationWorker | None:
    """Return the thread that generates text for completions; None where the model is not a causal language model."""
    if session.task.auto_model != "AutoModelForCausalLM":
        return None
    return GenerationWorker(
        session.model,
        session.components.processor,
        slots=cfg.slots,
        queue_size=cfg.queue,
        max_length=session.max_length,
    )


def serve(session: InferenceSession | None, cfg: Serve, model_name: str) -> None:
    """Answer requests until a signal arrives."""
    with open_server(session, cfg, model_name) as bound:
        console.note(
            f"serving '{model_name}' on {bound.url} (a web page at this address, the API under /v1; GET /health answers when the "
            f"server is ready; Ctrl-C ends it)"
        )
        if session is not None and session.precision == "bf16" and session.run.trainer.eval_precision == "auto":
            console.note(
                "predictions are computed in bf16, which is fast on this machine; trainer.eval_precision=fp32 gives the same "
                "predictions as stage=predict"
            )
        if cfg.monitor:
            console.note(f"the counts of the monitor {cfg.monitor}: {bound.url}/monitor")
        bound.run()


def bind_socket(cfg: Serve) -> socket.socket:
    """Return a socket bound to the host and port of the config. Raises UserError."""
    address_family = socket.AF_INET6 if ":" in cfg.host else socket.AF_INET
    # The protocol has to be given: asyncio turns Nagle's delay off only for sockets that name it. Without that, every reply on a
    # connection that stays open waits 40 ms until the client acknowledges the head of the reply.
    bound_socket = socket.socket(address_family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound_socket.bind((cfg.host, cfg.port))
    except OSError as error:
        bound_socket.close()
        raise UserError(
            f"stage.host={cfg.host} stage.port={cfg.port} cannot be opened ({error.strerror}). Name another port."
        ) from None
    return bound_socket
