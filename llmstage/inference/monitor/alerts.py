"""Delivers alerts to a webhook and to a command. A background thread retries, so that monitoring continues meanwhile."""

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

FIRST_RETRY_SECONDS = 1.0
"""Seconds before the second attempt; they double with each attempt."""
DELIVERED = "delivered"

Outcomes = list[tuple[int, dict[str, str]]]
"""(alert number, {webhook or command: `delivered`, or the reason why not})"""


class Delivery:
    """Delivers each alert at least once to the webhook and the command of `cfg`.

    A run that is killed between a delivery and its entry in the store delivers again, with the same alert number.
    """

    def __init__(self, cfg: Monitor) -> None:
        self.cfg = cfg
        self.url = cfg.webhook or os.environ.get(WEBHOOK) or None
        self.program = allowed_program(cfg.command) if cfg.command else None
        self.waiting: queue.Queue[tuple[int, str] | None] = queue.Queue()
        self.done: queue.Queue[tuple[int, dict[str, str]]] = queue.Queue()
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        if self.enabled:
            self.thread.start()

    @property
    def enabled(self) -> bool:
        return bool(self.url or self.program)

    def send(self, number: int, line: str) -> None:
        """Queue an alert. `line`: the alert as JSON."""
        if self.enabled:
            self.waiting.put((number, line))

    def outcomes(self) -> Outcomes:
        """Return the outcomes of the alerts whose delivery ended since the last call."""
        outcomes = []
        while not self.done.empty():
            outcomes.append(self.done.get())
        return outcomes

    def finish(self, *, keep_trying: bool) -> Outcomes:
        """Wait for the last attempts. With `keep_trying=False` only for the current attempt: the next run delivers the rest."""
        if self.enabled:
            if not keep_trying:
                self.stopping.set()
            self.waiting.put(None)
            self.thread.join()
        return self.outcomes()

    def run(self) -> None:
        """Deliver the queued alerts, in the background thread."""
        while (entry := self.waiting.get()) is not None and not self.stopping.is_set():
            number, line = entry
            outcome: dict[str, str] = {}
            if self.url:
                outcome["webhook"] = self.retry(partial(post, self.url, line, number, self.cfg.timeout))
            if self.program:
                outcome["command"] = self.retry(partial(self.run_command, line))
            # An alert without a final outcome stays open in the store, and the next run sends it again.
            if not self.stopping.is_set() or all(result == DELIVERED for result in outcome.values()):
                self.done.put((number, outcome))

    def retry(self, attempt_once: Callable[[], None]) -> str:
        """Return `delivered`, or the reason of the last failure."""
        reason = ""
        for attempt in range(self.cfg.retries + 1):
            if attempt and self.stopping.wait(FIRST_RETRY_SECONDS * 2 ** (attempt - 1)):
                break
            try:
                attempt_once()
                return DELIVERED
            except (OSError, ValueError, HTTPException, subprocess.SubprocessError) as error:
                reason = str(getattr(error, "reason", "") or error) or type(error).__name__
                if isinstance(error, urllib.error.HTTPError):
                    reason = f"status {error.code}"
        return f"not delivered after {self.cfg.retries + 1} tries: {reason}"

    def run_command(self, line: str) -> None:
        """Start the program without a shell; it reads the alert from standard input."""
        assert self.cfg.command and self.program
        subprocess.run(
            [self.program, *self.cfg.command[1:]], input=line.encode() + b"\n", check=True, timeout=self.cfg.timeout,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Makes a redirect a failure: an alert goes only to the address that the user gave."""

    def redirect_request(self, *args: Any, **options: Any) -> None:
        return None


def post(url: str, line: str, number: int, timeout: float) -> None:
    """Send an alert to a webhook. The header X-Alert-Number lets the receiver recognize a repeated delivery."""
    headers = {"Content-Type": "application/json; charset=utf-8", "X-Alert-Number": str(number)}
    request = urllib.request.Request(url, line.encode(), headers, method="POST")
    with urllib.request.build_opener(NoRedirect).open(request, timeout=timeout) as response:
        response.read(1)


def allowed_program(command: list[str]) -> str:
    """Return the absolute path of the program.

    Raises Refused where LLMSTAGE_COMMANDS does not name it: the person who runs the monitor decides which programs may run, not
    a config file.
    """
    program = shutil.which(command[0])
    if program is None:
        raise UserError(f"stage.command=[{command[0]},…]: there is no such program. Give its path.")
    program = os.path.abspath(program)
    allowed = [name for name in os.environ.get(COMMANDS, "").split(os.pathsep) if name]
    if os.path.realpath(program) not in {os.path.realpath(Path(name).expanduser()) for name in allowed}:
        raise Refused(
            f"stage.command would run {program}, which is not on the list of programs that may be run. If you trust it: "
            f"export {COMMANDS}={os.pathsep.join([*allowed, program])}"
        )
    return program


def redacted_url(url: str) -> str:
    """Return an address without the parts that may be secret: user, password, path and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}/…"
