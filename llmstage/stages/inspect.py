"""stage=inspect: what a training run would read, learn, cost and stumble over; nothing is trained."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from llmstage import console
from llmstage.config import RunConfig
from llmstage.config.stage import Inspect, spoken
from llmstage.errors import DataError
from llmstage.inspect.findings import Finding
from llmstage.inspect.lint import Seen, bad_rows, check_rows, read_rows
from llmstage.inspect.lint_rows import check_words, told_leaks
from llmstage.inspect.lint_tokens import check_features
from llmstage.inspect.planning import Planned, plan_run
from llmstage.inspect.token_view import Shown, show_rows
from llmstage.inspect.wording import CHECKS, LEVELS, heads, say
from llmstage.paths import locate_model
from llmstage.report import formatting
from llmstage.report.files import write_json
from llmstage.report.html import ledger as ledger_table
from llmstage.training.finalize import finish
from llmstage.training.machine import environment, resolve_machine
from llmstage.training.run_folder import name_the_model, write_run_yaml
from llmstage.training.session import run_lock, session
from llmstage.training.setup import RunComponents, ledger, setup_run
from llmstage.training.summary import described, header, mapping

ORDER = {"major": 0, "minor": 1, "ok": 2}


def run(cfg: RunConfig, out_dir: Path, about: dict[str, str]) -> float | None:
    """Returns the number of major findings. Ends with the data's exit status where training would."""
    stage = cfg.stage
    assert isinstance(stage, Inspect)
    clock = time.perf_counter()
    cfg = name_the_model(cfg)
    with run_lock(out_dir), console.logged(out_dir / "run.log"):
        machine = resolve_machine(cfg.trainer)
        with session(cfg.seed, machine.threads, deterministic=cfg.trainer.deterministic):
            write_json(out_dir / "environment.json", environment())
            (out_dir / "quarantine.jsonl").unlink(missing_ok=True)  # of an earlier look, in the same folder
            pieces, stopped = open_all(cfg, out_dir)
            resolved = {"context": pieces.context, "threads": machine.threads, "precision": machine.precision}
            write_run_yaml(out_dir, cfg, resolved)
            console.note(header(cfg, pieces, out_dir))
            language = spoken(stage.language)
            rows = read_rows(pieces.task, pieces.sources, stage.rows)
            shown = (
                show_rows(cfg, pieces, rows.get("train") or next(iter(rows.values())), stage.show) if stage.show else []
            )
            findings = lint(cfg, pieces, rows, out_dir, stopped)
            trains = "train" in pieces.stores and bool(pieces.sources)
            planned = (
                plan_run(cfg, pieces, machine, language, trial=stage.measure)
                if trains and trainable(cfg)
                else Planned()
            )
            findings = sorted([*findings, *planned.findings], key=lambda one: ORDER[one.level])
            report = {
                **about,
                "data": {"described": described(pieces), "mapping": mapping(pieces), "splits": ledger(pieces)},
                "model": planned.model,
                "inspect": {
                    "findings": [one.as_dict(language) for one in findings],
                    "shown": [{"place": one.place, "tokens": one.tokens, "learned": one.learned, "ends": one.ends, "same": one.same, "text": one.text} for one in shown],
                    "plan": planned.block,
                },
                "language": language,
                "plan": planned.line,
                "sentences": [summary(findings, language), *(one.sentence(language) for one in findings if one.level != "ok"), *planned.sentences],
                "limits": planned.limits,
                "exhibits": [lint_table(findings, language), *(one.exhibit(language) for one in shown), *planned.report_items],
            }  # fmt: skip
            show(report, shown, planned, language)
            finish(cfg, out_dir, report, time.perf_counter() - clock)
    stops = [one for one in findings if one.stops]
    if stopped or stops:
        told = [str(stopped)] if stopped else [one.sentence("en") for one in stops]
        raise DataError("Training would stop here:\n" + "\n".join(told))
    return float(sum(one.level == "major" for one in findings))


def trainable(cfg: RunConfig) -> bool:
    """Whether training rows were given, not only rows to score."""
    return cfg.data.is_demo or bool(cfg.data.train or cfg.data.path)


def open_all(cfg: RunConfig, out_dir: Path) -> tuple[RunComponents, DataError | None]:
    """Rows to features, and why training would stop at them: bad rows are then left out and all of them are told."""
    kept = replace(cfg, data=replace(cfg.data, max_lost=1.0))  # what is cut is a finding here
    if not trainable(cfg):
        locate_model(str(cfg.model.path))
    try:
        return setup_run(kept, out_dir, training=trainable(cfg), fixed={}, resume_from=None), None
    except DataError as error:
        if cfg.data.is_demo or cfg.data.on_bad_row != "error":
            raise
        first = error
    careful = replace(kept, data=replace(kept.data, on_bad_row="quarantine"))
    pieces = setup_run(careful, out_dir, training=trainable(cfg), fixed={}, resume_from=None)
    console.warn(f"training would stop here, so rows like it are left out and told below: {first}")
    return pieces, first


def lint(
    cfg: RunConfig, pieces: RunComponents, rows: dict[str, list[Seen]], out_dir: Path, stopped: DataError | None
) -> list[Finding]:
    stage = cfg.stage
    assert isinstance(stage, Inspect)
    found = list(bad_rows(out_dir / "quarantine.jsonl", "data", stops=stopped is not None))
    found += check_rows(cfg, pieces.task, pieces.sources, rows, stage.likeness)
    found += check_words(cfg, pieces.task, pieces.sources, rows)
    found += told_leaks(pieces.leaks.told)
    found += check_features(cfg, pieces, rows)
    return found


def summary(findings: list[Finding], language: str) -> str:
    counts = {level: sum(one.level == level for one in findings) for level in ORDER}
    if not counts["major"] and not counts["minor"]:
        return say("all_ok", language, num=len(findings))
    return say("some", language, num=len(findings), major=counts["major"], minor=counts["minor"])


def lint_table(findings: list[Finding], language: str) -> dict[str, Any]:
    """A row a finding; checks that found nothing have one for all splits."""
    at = language == "zh"
    fine: dict[str, list[Finding]] = {}
    for one in findings:
        if one.level == "ok":
            fine.setdefault(one.check, []).append(one)
    rows: list[list[Any]] = [
        [
            LEVELS[one.level][at],
            CHECKS[one.check][at],
            one.split or "–",
            one.count,
            one.whole or None,
            ", ".join(one.places[:5]),
            one.mend,
        ]
        for one in findings
        if one.level != "ok"
    ]
    rows += [
        [
            LEVELS["ok"][at],
            CHECKS[check][at],
            ", ".join(one.split for one in same),
            sum(one.count for one in same),
            sum(one.whole for one in same),
            "",
            "",
        ]
        for check, same in fine.items()
    ]
    return {
        "kind": "table",
        "title": say("lint_title", language),
        "columns": heads("lint_columns", language),
        "rows": rows,
    }


def show(report: dict[str, Any], shown: list[Shown], planned: Planned, language: str) -> None:
    """The ledger, the rows and the plan on the terminal; what was found follows at the end."""
    told = ledger_table(report)
    if told:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in ("tokens", *told["splits"]):
            table.add_column(Text(name), justify="left" if name == "tokens" else "right", no_wrap=True)
        for row in told["rows"]:
            table.add_row(Text(row["name"]), *(Text(cell) for cell in row["cells"]))
        console.result(table)
    if shown:
        console.result(say("legend", language))
    for one in shown:
        console.result(Text(say("row", language, place=one.place), style="bold"), one.rich(), f"  {one.note(language)}")
        if one.template:
            console.result(f"  {say('template', language)}: {one.template}")
    if planned.block:
        block = planned.block
        line = f"{formatting.short(block['flops'])} FLOPs, {formatting.short(block['flops_longest_batch'])} of them in a step on the longest batch"
        console.result(planned.line, line)
