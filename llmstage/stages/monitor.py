"""stage=monitor: classifies a stream of items and raises an alert where the negative share of a topic surges."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from llmstage import console
from llmstage.config import RunConfig
from llmstage.config.monitor import Monitor, seconds, zone
from llmstage.data.rows import BadRows
from llmstage.errors import Interrupted, ModelError
from llmstage.inference.monitor.aggregation import WindowCounts
from llmstage.inference.monitor.alerts import Delivery, redacted_url
from llmstage.inference.monitor.classifiers import ItemLabeler, assign_roles, load_classifier
from llmstage.inference.monitor.records import InputState, RecordReader
from llmstage.inference.monitor.report import monitor_report
from llmstage.inference.monitor.store import Store, read_series
from llmstage.inference.monitor.tail import LineTail
from llmstage.inference.monitor.watch import MonitorLoop, cut_quarantine, tally_from_state
from llmstage.paths import MONITOR_STORE
from llmstage.report.files import write_json
from llmstage.report.html import write_html
from llmstage.training.finalize import finish
from llmstage.training.machine import environment, resolve_machine
from llmstage.training.run_folder import write_run_yaml
from llmstage.training.session import StopFlag, run_lock, session


def run(cfg: RunConfig, out_dir: Path, about: dict[str, str]) -> float | None:
    """Run until the input ends; with stage.follow until a signal arrives."""
    assert isinstance(cfg.stage, Monitor)
    with run_lock(out_dir), console.logged(out_dir / "run.log"):
        write_json(out_dir / "environment.json", environment())
        machine = resolve_machine(cfg.trainer)
        delivery = Delivery(cfg.stage)  # raises for a program that may not run, before models are loaded
        with session(cfg.seed, machine.threads, deterministic=cfg.trainer.deterministic, handles_stop=True) as stop:
            classifiers = [load_classifier(name, path, cfg, machine) for name, path in cfg.stage.models.items()]
            roles = assign_roles(classifiers, cfg.stage.negative)
            settings = {
                "models": {classifier.name: classifier.digest() for classifier in classifiers},
                "negative": roles.negative, "topics": roles.topics,
                **{key: getattr(cfg.stage, key) for key in ("window", "timezone", "late", "time_format")},
                "columns": cfg.data.columns,
            }  # fmt: skip
            webhook = redacted_url(cfg.stage.webhook) if cfg.stage.webhook else None
            without_secrets = replace(cfg, stage=replace(cfg.stage, webhook=webhook))
            write_run_yaml(out_dir, without_secrets, {"negative": roles.negative, "topics": roles.topics})
            store = Store(out_dir / MONITOR_STORE, roles.topics)
            try:
                labeler = ItemLabeler(classifiers, roles)
                monitor_input(cfg, out_dir, about, labeler, settings, store, delivery, stop)
            finally:
                store.close()
    return None


def monitor_input(
    cfg: RunConfig, out_dir: Path, about: dict[str, str], labeler: ItemLabeler, settings: dict[str, Any], store: Store,
    delivery: Delivery, stop: StopFlag,
) -> None:  # fmt: skip
    """Open or resume the input, run the loop, and write the report."""
    stage, clock = cfg.stage, time.perf_counter()
    assert isinstance(stage, Monitor)
    local_zone = zone(stage.timezone)
    assert local_zone is not None
    # Restore what an earlier part of the run saved.
    state = store.state()
    check_same_settings(settings, state.get("settings"), out_dir)
    input_state = InputState.from_dict(state["reading"]) if "reading" in state else InputState()
    tally = tally_from_state(state)
    has_begun = "newest" in state  # a run that was stopped before its first item has saved its settings only
    bad_rows = BadRows(cfg.data.on_bad_row, out_dir, append=has_begun)
    cut_quarantine(bad_rows.path, tally.quarantined)
    reader = open_input(cfg, input_state, labeler, bad_rows)
    reader.num_bad, num_resumed = tally.bad, tally.items
    windows = WindowCounts(
        len(store.topics), seconds(stage.window), seconds(stage.late), seconds(stage.history), seconds(stage.quiet),
        stage.alpha, stage.min_items, local_zone,
    )  # fmt: skip
    if has_begun:
        store.load_windows(windows, state["newest"], state["closed"])
        console.note(
            f"resumed after {tally.items:,} items ({store.path}, line {input_state.position.line:,} of {stage.input})"
        )
    # What the web page displays; unlike `settings` it may change between two parts of a run.
    display = {"input": str(stage.input), "min_items": stage.min_items}
    store.save({"settings": settings, "shown": display}, windows, [], [])

    def report() -> dict[str, Any]:
        numbers = {**asdict(tally), "undelivered": loop.undelivered}
        limits = {"alpha": stage.alpha, "min_items": stage.min_items, "late": stage.late, "window": stage.window}
        body = monitor_report(read_series(store.path), numbers, limits, local_zone, stage.language)
        elapsed, num_new = time.perf_counter() - clock, tally.items - num_resumed
        seconds_besides_models = max(elapsed - labeler.seconds, 1e-9)
        body["monitor"] |= {
            **{key: value for key, value in numbers.items() if key != "quarantined"}, "resumed_after": num_resumed,
            "texts_asked": labeler.num_predicted, "model_seconds": labeler.seconds,
            "items_per_second": num_new / max(elapsed, 1e-9), "items_per_second_beside_models": num_new / seconds_besides_models,
            "input": str(stage.input), "negative_labels": settings["negative"],
        }  # fmt: skip
        return {**about, "heading": "standard input" if stage.input == "-" else stage.input, **body}

    def write_page(status: str = "in progress") -> None:
        head = {"status": status, "stage": stage.name, "task": "", "run_dir": str(out_dir.resolve()), **environment()}
        write_html(out_dir, {**head, "seconds": time.perf_counter() - clock, **report()})

    loop = MonitorLoop(
        stage, out_dir, reader, labeler, windows, store, delivery, local_zone, tally, write_report=write_page
    )
    names = ", ".join(f"{classifier.name} {classifier.path}" for classifier in labeler.classifiers)
    console.note(
        f"llmstage monitor | {stage.input} | {names} | negative: {', '.join(settings['negative'])} ({labeler.roles.sentiment}) | "
        f"{console.count(len(store.topics), 'topic')} | windows of {stage.window} | {out_dir}"
    )
    try:
        loop.run(stop)
    except Interrupted:
        write_page("interrupted")
        write_json(out_dir / "report.json", {"status": "interrupted", "stage": stage.name, **environment(), **report()})
        raise
    finally:
        delivery.stopping.set()
    finish(cfg, out_dir, report(), time.perf_counter() - clock)


def open_input(cfg: RunConfig, state: InputState, labeler: ItemLabeler, bad_rows: BadRows) -> RecordReader:
    """Return the reader of stage.input, at the read position of `state`."""
    stage = cfg.stage
    assert isinstance(stage, Monitor)
    local_zone = zone(stage.timezone)
    assert local_zone is not None
    tail = LineTail(
        str(stage.input),
        state.position,
        follow=stage.follow,
        poll=stage.poll,
        max_bytes=int(cfg.data.max_row_mb * (1 << 20)),
    )
    return RecordReader(tail, state, cfg.data, labeler.columns, stage.time_format, local_zone, bad_rows)


def check_same_settings(settings: dict[str, Any], saved: dict[str, Any] | None, out_dir: Path) -> None:
    """Raise ModelError where the store has counts that were made with other settings: they must not be added up."""
    changed = [key for key in settings if saved is not None and settings[key] != saved.get(key)]
    if changed and saved is not None:
        listed = ", ".join(f"{key}: {saved.get(key)} -> {settings[key]}" for key in changed)
        raise ModelError(
            f"{out_dir} has counts that were made with other settings ({listed}). Repeat the old command, or begin again in "
            f"another folder: hydra.run.dir=<folder>"
        )
