"""Small models behind real servers on free ports."""

from __future__ import annotations

import gc
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmstage.cli.command import main
from llmstage.data.rows import BadRows
from llmstage.inference.inference_session import load_session
from llmstage.training.machine import resolve_machine

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SMALL = [
    "trainer=smoke", "trainer.max_steps=2", "model.num_hidden_layers=2", "model.hidden_size=32", "model.num_attention_heads=2", "model.intermediate_size=48",
    "model.vocab_size=320", "data.demo_rows=60", "data.max_lost=1", "data.context=256", "trainer.threads=1", "seed=5",
    "trainer.baselines=false",
]  # fmt: skip


@pytest.fixture(scope="session")
def run_of(shared_folder: Callable[..., Path]) -> Callable[[str], Path]:
    """`run_of("dialogue")`: a run folder of a small model, trained once."""

    def train(task: str) -> None:
        stage = "pretrain" if task in ("causal_lm", "masked_lm", "contrastive") else "finetune"
        more = ["task.generate_rows=1"] if task == "dialogue" else []
        assert main([f"stage={stage}", f"task={task}", *SMALL, *more, f"hydra.run.dir={task}"]) == 0

    return lambda task: shared_folder(f"served/{task}", lambda: train(task)) / task


@pytest.fixture(scope="session")
def answering() -> Callable[..., Any]:
    """`with answering(session, cfg, name) as it`: a server that answers."""

    @contextmanager
    def opened(session: Any, cfg: Any, name: str) -> Iterator[Any]:
        from llmstage.inference.server.server import open_server

        with open_server(session, cfg, name) as it:
            thread = threading.Thread(target=it.run, daemon=True)
            thread.start()
            until = time.monotonic() + 60
            while time.monotonic() < until:
                try:
                    if httpx.get(f"{it.url}/health").status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.05)
            yield it
            it.server.should_exit = True
            thread.join(timeout=30)

    return opened


@pytest.fixture(scope="session")
def serving(run_of: Callable[[str], Path], compose_run: Any, answering: Callable[..., Any]) -> Callable[..., Any]:
    """`with serving("dialogue", queue=2) as it`: a server that answers; `it.url`, `it.generation_worker`, `it.row_worker`. A key with a dot
    is one of another group than `stage`."""

    @contextmanager
    def opened(task: str, **changes: Any) -> Iterator[Any]:
        keys = {key if "." in key else f"stage.{key}": value for key, value in {"port": 0, **changes}.items()}
        words = [f"{key}={value}" for key, value in keys.items()]
        run = compose_run(["stage=serve", f"task={task}", f"model.path={run_of(task)}", "trainer.threads=1", *words])
        session = load_session(run, resolve_machine(run.trainer), BadRows("error", None))
        with answering(session, run.stage, task) as it:
            yield it

    return opened


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no browser is installed: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright drives the browser")
    with playwright.sync_playwright() as driver:
        # root has no sandbox; /dev/shm is small in containers
        more = ["--no-sandbox", "--disable-dev-shm-usage"] if os.geteuid() == 0 else []
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=more)
        yield opened
        gc.collect()  # data workers that an error keeps alive hold the driver's pipe, and it would wait for ever
        opened.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """`visit(url, locale="zh-CN")`: a page of a visitor of its own; what its console complains of fails the test."""
    wrong: list[str] = []
    visitors = []

    def opened(url: str, **about: Any) -> Any:
        visitor = browser.new_context(**{"locale": "en-GB", "viewport": {"width": 900, "height": 700}, **about})
        visitor.set_default_timeout(20_000)
        visitors.append(visitor)
        page = visitor.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
        page.goto(url)
        page.locator(".view:not([hidden]), dialog[open]").first.wait_for()  # it knows what it shows
        return page

    yield opened
    for visitor in visitors:
        visitor.close()
    # Requests that are refused or fail are told on the console too; what these tests provoke is no fault of the page.
    assert not [line for line in wrong if not line.startswith("Failed to load resource")]
