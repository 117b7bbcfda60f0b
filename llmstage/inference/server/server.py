"""A model behind a port: who may ask, the threads that answer, uvicorn."""

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
from llmstage.inference.inference_session import Ready
from llmstage.inference.page.routes import pages
from llmstage.inference.retrieval.grounding import make_grounding
from llmstage.inference.server.app import build_app
from llmstage.inference.server.chat_routes import Chat
from llmstage.inference.server.generation_worker import Writer
from llmstage.inference.server.limits import Limits, timed_protocol
from llmstage.inference.server.monitor_api import Live
from llmstage.inference.server.row_routes import Rows
from llmstage.inference.server.row_worker import Answers, enough_rows

TOKEN = "LLMSTAGE_API_KEY"
CONNECTIONS = 512
"""Open at once; more are answered 503 by uvicorn."""
KEEP_ALIVE, SHUTDOWN = 5, 20
"""Seconds that an idle connection stays open, and that replies in progress are given when the server ends."""


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_token(cfg: Serve) -> str | None:
    """The token that requests must bring. Raises Refused where one is needed and there is none, or where others can read it."""
    token = os.environ.get(TOKEN, "").strip()
    if cfg.token_path:
        path = Path(cfg.token_path).expanduser()
        try:
            mode = path.stat().st_mode
            token = path.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise UserError(f"stage.token_path={path} cannot be read ({error.strerror}).") from None
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise Refused(f"stage.token_path={path} can be read by others. Close it: chmod 600 {path}")
        if not token:
            raise UserError(f"stage.token_path={path} is empty. Write a token into it.")
    if not token and not is_loopback(cfg.host):
        raise Refused(
            f"stage.host={cfg.host} can be reached by others, so requests must bring a token. Set it in the environment "
            f"({TOKEN}=…) or in a file (stage.token_path=…, mode 600); or keep stage.host=127.0.0.1."
        )
    return token or None


@dataclass(slots=True)
class Prepared:
    """A server that is bound and has not begun to answer."""

    server: uvicorn.Server
    bound: socket.socket
    url: str
    writer: Writer | None
    answers: Answers | None
    """Of a model; None where only a monitor is shown."""

    def run(self) -> None:
        """Until a signal comes, or `server.should_exit` is set."""
        self.server.run(sockets=[self.bound])


@contextmanager
def prepared(ready: Ready | None, cfg: Serve, name: str) -> Iterator[Prepared]:
    """`name`: what clients call the model; `ready`: None where a monitor is shown and no model served. The threads that answer
    end with the context."""
    token = read_token(cfg)
    live = Live(Path(cfg.monitor).expanduser().resolve()) if cfg.monitor else None
    grounding = make_grounding(ready) if ready is not None else None
    bound = bind(cfg)
    chat: Chat | None = None
    rows: Rows | None = None
    answers: Answers | None = None
    writer: Writer | None = None
    if ready is not None:
        answers, writer = Answers(ready, cfg.queue, enough_rows(ready)), make_writer(ready, cfg)
        rows = Rows(ready, answers, name)
        if writer is not None:
            told, system = ready.run.generation, getattr(ready.run.task, "system", None)
            usual = {"temperature": told.temperature, "top_p": told.top_p}
            chat = Chat(writer, ready.pieces.processor, cfg, name, system=system, grounding=grounding, **usual)
    shown = pages(model=rows is not None, monitor=live is not None)
    app = build_app(chat, rows, live, cfg, name, shown, exposed=not is_loopback(cfg.host))
    hosts = None if token else {"localhost", "127.0.0.1", "::1", cfg.host}
    size = int(cfg.max_body_mb * (1 << 20))
    limits = Limits(
        app, token=token, open_to_all={"/health", *shown}, hosts=hosts, body_bytes=size, read_seconds=cfg.read_timeout
    )
    config = uvicorn.Config(
        limits, http=timed_protocol(cfg.read_timeout), ws="none", lifespan="off", log_config=None, access_log=False, proxy_headers=False,
        limit_concurrency=CONNECTIONS, timeout_keep_alive=KEEP_ALIVE, timeout_graceful_shutdown=SHUTDOWN, server_header=False,
    )  # fmt: skip
    host, port = bound.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    try:
        yield Prepared(uvicorn.Server(config), bound, url, writer, answers)
    finally:
        bound.close()
        if answers is not None:
            answers.close()
        if writer is not None:
            writer.close()


def make_writer(ready: Ready, cfg: Serve) -> Writer | None:
    """The thread that writes for chat and completions; None where the model does not go on with a text."""
    if ready.task.auto_model != "AutoModelForCausalLM":
        return None
    return Writer(ready.model, ready.pieces.processor, slots=cfg.slots, queue=cfg.queue, longest=ready.longest)


def serve(ready: Ready | None, cfg: Serve, name: str) -> None:
    """Answer until a signal comes."""
    with prepared(ready, cfg, name) as it:
        console.note(
            f"serving '{name}' on {it.url} (a page in the browser, /v1 for programs; GET /health says when it is ready; Ctrl-C ends)"
        )
        if ready is not None and ready.precision == "bf16" and ready.run.trainer.eval_precision == "auto":
            console.note(
                "answers are computed in bf16, which is fast here; trainer.eval_precision=fp32 has them as stage=predict has"
            )
        if cfg.monitor:
            console.note(f"what {cfg.monitor} counts: {it.url}/monitor")
        it.run()


def bind(cfg: Serve) -> socket.socket:
    family = socket.AF_INET6 if ":" in cfg.host else socket.AF_INET
    # The protocol by its number: asyncio switches Nagle's delay off only on connections of sockets that name it, and without that
    # every reply to a client that keeps its connection waits 40 ms for the acknowledgement of its own head.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((cfg.host, cfg.port))
    except OSError as error:
        bound.close()
        raise UserError(
            f"stage.host={cfg.host} stage.port={cfg.port} cannot be opened ({error.strerror}). Name another port."
        ) from None
    return bound
