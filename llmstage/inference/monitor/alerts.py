"""Alerts to others: a webhook, a command. Tried again in the background, so that monitoring goes on meanwhile."""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from llmstage.config.monitor import COMMANDS, WEBHOOK, Monitor
from llmstage.errors import Refused, UserError

WAIT = 1.0
"""Seconds before the second try; doubled each time."""
DELIVERED = "delivered"


class Delivery:
    """Gets alerts to where `cfg` says. Each is delivered at least once: a run that is killed between a delivery and its note
    delivers again, with the same number."""

    def __init__(self, cfg: Monitor) -> None:
        self.cfg = cfg
        self.url = cfg.webhook or os.environ.get(WEBHOOK) or None
        self.program = allowed(cfg.command) if cfg.command else None
        self.waiting: queue.Queue[tuple[int, str] | None] = queue.Queue()
        self.done: queue.Queue[tuple[int, dict[str, str]]] = queue.Queue()
        self.leave = threading.Event()
        self.thread = threading.Thread(target=self.work, daemon=True)
        if self.wanted:
            self.thread.start()

    @property
    def wanted(self) -> bool:
        return bool(self.url or self.program)

    def send(self, number: int, line: str) -> None:
        if self.wanted:
            self.waiting.put((number, line))

    def outcomes(self) -> list[tuple[int, dict[str, str]]]:
        """(number, {webhook, command: delivered, or why not}) of alerts that were settled since the last call."""
        found = []
        while not self.done.empty():
            found.append(self.done.get())
        return found

    def finish(self, *, patient: bool) -> list[tuple[int, dict[str, str]]]:
        """Wait for the last tries; `patient=False`: for the one in hand only, the rest is the next run's."""
        if self.wanted:
            if not patient:
                self.leave.set()
            self.waiting.put(None)
            self.thread.join()
        return self.outcomes()

    def work(self) -> None:
        while (one := self.waiting.get()) is not None and not self.leave.is_set():
            number, line = one
            outcome: dict[str, str] = {}
            if self.url:
                outcome["webhook"] = self.tried(partial(post, self.url, line, number, self.cfg.timeout))
            if self.program:
                outcome["command"] = self.tried(partial(self.start, line))
            if not self.leave.is_set() or all(said == DELIVERED for said in outcome.values()):
                self.done.put((number, outcome))

    def tried(self, once: Callable[[], None]) -> str:
        """`delivered`, or the last reason why not."""
        reason = ""
        for attempt in range(self.cfg.retries + 1):
            if attempt and self.leave.wait(WAIT * 2 ** (attempt - 1)):
                break
            try:
                once()
                return DELIVERED
            except (OSError, ValueError, HTTPException, subprocess.SubprocessError) as error:
                reason = str(getattr(error, "reason", "") or error) or type(error).__name__
                if isinstance(error, urllib.error.HTTPError):
                    reason = f"status {error.code}"
        return f"not delivered after {self.cfg.retries + 1} tries: {reason}"

    def start(self, line: str) -> None:
        assert self.cfg.command and self.program
        subprocess.run(
            [self.program, *self.cfg.command[1:]], input=line.encode() + b"\n", check=True, timeout=self.cfg.timeout,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """An alert goes where the user said and nowhere else; a redirect is a failure with its status."""

    def redirect_request(self, *args: Any, **options: Any) -> None:
        return None


def post(url: str, line: str, number: int, timeout: float) -> None:
    headers = {"Content-Type": "application/json; charset=utf-8", "X-Alert-Number": str(number)}
    request = urllib.request.Request(url, line.encode(), headers, method="POST")
    with urllib.request.build_opener(NoRedirect).open(request, timeout=timeout) as answer:
        answer.read(1)


def allowed(command: list[str]) -> str:
    """The program as an absolute path. Raises Refused where LLMSTAGE_COMMANDS does not name it: what may be run is said by who
    runs the monitor, not by a config."""
    program = shutil.which(command[0])
    if program is None:
        raise UserError(f"stage.command=[{command[0]},…]: there is no such program. Give its path.")
    program = os.path.abspath(program)
    named = [name for name in os.environ.get(COMMANDS, "").split(os.pathsep) if name]
    if os.path.realpath(program) not in {os.path.realpath(Path(name).expanduser()) for name in named}:
        raise Refused(
            f"stage.command would run {program}, which is not on the list of programs that may be run. If you trust it: "
            f"export {COMMANDS}={os.pathsep.join([*named, program])}"
        )
    return program


def shown(url: str) -> str:
    """An address without what may be secret in it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}/…"
