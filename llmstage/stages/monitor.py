"""stage=monitor: classifiers on a stream of items, and a warning where the negative share of a topic surges."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from llmstage import console
from llmstage.config import RunConfig
from llmstage.config.monitor import Monitor, seconds, zone
from llmstage.data.quarantine import BadRows
from llmstage.errors import Interrupted, ModelError
from llmstage.inference.monitor.aggregation import Windows
from llmstage.inference.monitor.alerts import Delivery, shown
from llmstage.inference.monitor.classifiers import Answers, find_roles, load_classifier
from llmstage.inference.monitor.records import Items, Reading
from llmstage.inference.monitor.report import page_of
from llmstage.inference.monitor.store import Store, read_series
from llmstage.inference.monitor.tail import Feed
from llmstage.inference.monitor.watch import Watch, cut_quarantine, tally_of
from llmstage.paths import MONITOR_STORE
from llmstage.report.files import write_json
from llmstage.report.html import write_html
from llmstage.training.finalize import finish
from llmstage.training.machine import environment, resolve_machine
from llmstage.training.run_folder import write_run_yaml
from llmstage.training.session import StopFlag, run_lock, session


def run(cfg: RunConfig, out_dir: Path, about: dict[str, str]) -> float | None:
    """Until the input ends; with stage.follow until it is stopped."""
    assert isinstance(cfg.stage, Monitor)
    with run_lock(out_dir), console.logged(out_dir / "run.log"):
        write_json(out_dir / "environment.json", environment())
        machine = resolve_machine(cfg.trainer)
        delivery = Delivery(cfg.stage)  # a program that may not be run is refused before models are loaded
        with session(cfg.seed, machine.threads, deterministic=cfg.trainer.deterministic, heeded=True) as stop:
            found = [load_classifier(name, path, cfg, machine) for name, path in cfg.stage.models.items()]
            roles = find_roles(found, cfg.stage.negative)
            settings = {
                "models": {one.name: one.digest() for one in found}, "negative": roles.negative, "topics": roles.topics,
                **{key: getattr(cfg.stage, key) for key in ("window", "timezone", "late", "time_format")},
                "columns": cfg.data.columns,
            }  # fmt: skip
            secret = replace(
                cfg, stage=replace(cfg.stage, webhook=shown(cfg.stage.webhook) if cfg.stage.webhook else None)
            )
            write_run_yaml(out_dir, secret, {"negative": roles.negative, "topics": roles.topics})
            store = Store(out_dir / MONITOR_STORE, roles.topics)
            try:
                watch_until_end(cfg, out_dir, about, Answers(found, roles), settings, store, delivery, stop)
            finally:
                store.close()
    return None


def watch_until_end(
    cfg: RunConfig, out_dir: Path, about: dict[str, str], answers: Answers, settings: dict[str, Any], store: Store,
    delivery: Delivery, stop: StopFlag,
) -> None:  # fmt: skip
    stage, clock = cfg.stage, time.perf_counter()
    assert isinstance(stage, Monitor)
    kept = store.kept()
    check_same(settings, kept.get("settings"), out_dir)
    local = zone(stage.timezone)
    assert local is not None
    windows = Windows(
        len(store.topics), seconds(stage.window), seconds(stage.late), seconds(stage.history), seconds(stage.quiet),
        stage.alpha, stage.min_items, local,
    )  # fmt: skip
    reading, tally = Reading.from_dict(kept["reading"]) if "reading" in kept else Reading(), tally_of(kept)
    begun = "newest" in kept  # a run that was stopped before its first item has left its settings only
    bad_rows = BadRows(cfg.data.on_bad_row, out_dir, goes_on=begun)
    cut_quarantine(bad_rows.path, tally.quarantined)
    size = int(cfg.data.max_row_mb * (1 << 20))
    feed = Feed(str(stage.input), reading.place, follow=stage.follow, poll=stage.poll, max_bytes=size)
    items = Items(feed, reading, cfg.data, answers.columns, stage.time_format, local, bad_rows)
    items.num_bad, before = tally.bad, tally.items
    if begun:
        store.load(windows, kept["newest"], kept["closed"])
        console.note(
            f"resumed after {tally.items:,} items ({store.path}, line {reading.place.line:,} of {stage.input})"
        )
    # What a page beside the counts says; unlike `settings` it may change when the run goes on.
    shown_with = {"input": str(stage.input), "min_items": stage.min_items}
    store.save({"settings": settings, "shown": shown_with}, windows, [], [])

    def report() -> dict[str, Any]:
        numbers = {**asdict(tally), "undelivered": watch.undelivered}
        limits = {"alpha": stage.alpha, "min_items": stage.min_items, "late": stage.late, "window": stage.window}
        page = page_of(read_series(store.path), numbers, limits, local, stage.language)
        took, fresh = time.perf_counter() - clock, tally.items - before
        own = max(took - answers.seconds, 1e-9)
        page["monitor"] |= {
            **{key: value for key, value in numbers.items() if key != "quarantined"}, "resumed_after": before,
            "texts_asked": answers.asked, "model_seconds": answers.seconds, "items_per_second": fresh / max(took, 1e-9),
            "items_per_second_beside_models": fresh / own, "input": str(stage.input), "negative_labels": settings["negative"],
        }  # fmt: skip
        return {**about, "heading": "standard input" if stage.input == "-" else stage.input, **page}

    def draw(status: str = "in progress") -> None:
        whole = {"status": status, "stage": stage.name, "task": "", "run_dir": str(out_dir.resolve()), **environment()}
        write_html(out_dir, {**whole, "seconds": time.perf_counter() - clock, **report()})

    watch = Watch(stage, out_dir, items, answers, windows, store, delivery, local, tally, draw)
    names = ", ".join(f"{one.name} {one.path}" for one in answers.found)
    console.note(
        f"llmstage monitor | {stage.input} | {names} | negative: {', '.join(settings['negative'])} ({answers.roles.sentiment}) | "
        f"{len(store.topics)} topics | windows of {stage.window} | {out_dir}"
    )
    try:
        watch.run(stop)
    except Interrupted:
        draw("interrupted")
        write_json(out_dir / "report.json", {"status": "interrupted", "stage": stage.name, **environment(), **report()})
        raise
    finally:
        delivery.leave.set()
    finish(cfg, out_dir, report(), time.perf_counter() - clock)


def check_same(now: dict[str, Any], then: dict[str, Any] | None, out_dir: Path) -> None:
    """Counts of two kinds must not meet in one store."""
    changed = [key for key in now if then is not None and now[key] != then.get(key)]
    if changed and then is not None:
        listed = ", ".join(f"{key}: {then.get(key)} -> {now[key]}" for key in changed)
        raise ModelError(
            f"{out_dir} holds counts that were made otherwise ({listed}). Repeat the old command, or begin anew in another "
            f"folder: hydra.run.dir=<folder>"
        )
