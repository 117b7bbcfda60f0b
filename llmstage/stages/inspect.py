"""stage=inspect: report what a training run would read, learn and cost, and the problems in its data. Nothing is
trained."""

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
from llmstage.config.stage import Inspect, resolve_language
from llmstage.errors import DataError
from llmstage.inspect.findings import Finding
from llmstage.inspect.lint import LintRow, bad_rows, check_rows, read_rows
from llmstage.inspect.lint_rows import check_columns, leak_findings
from llmstage.inspect.lint_tokens import check_examples, check_reading
from llmstage.inspect.planning import PlanReport, plan_run
from llmstage.inspect.token_view import TokenView, view_rows
from llmstage.inspect.wording import CHECKS, LEVELS, column_names, sentence
from llmstage.paths import locate_model
from llmstage.report import formatting
from llmstage.report.files import write_json
from llmstage.report.html import ledger as ledger_table
from llmstage.training.components import (
    RunComponents,
    column_mapping,
    describe_data,
    header,
    token_ledger,
)
from llmstage.training.finalize import finish
from llmstage.training.machine import environment, resolve_machine
from llmstage.training.reading_notes import left_out_rows, unread_keys
from llmstage.training.run_folder import resolve_model_path, write_run_yaml
from llmstage.training.session import run_lock, session
from llmstage.training.setup import setup_run

ORDER = {"major": 0, "minor": 1, "ok": 2}


def run(cfg: RunConfig, out_dir: Path, about: dict[str, str]) -> float | None:
    """Return the number of major findings. Raises DataError where training would stop."""
    stage = cfg.stage
    assert isinstance(stage, Inspect)
    clock = time.perf_counter()
    cfg = resolve_model_path(cfg)
    with run_lock(out_dir), console.logged(out_dir / "run.log"):
        machine = resolve_machine(cfg.trainer)
        with session(cfg.seed, machine.threads, deterministic=cfg.trainer.deterministic):
            write_json(out_dir / "environment.json", environment())
            (out_dir / "quarantine.jsonl").unlink(missing_ok=True)  # from an earlier run in the same folder
            components, stop_error = open_run(cfg, out_dir)
            resolved = {"context": components.context, "threads": machine.threads, "precision": machine.precision}
            write_run_yaml(out_dir, cfg, resolved)
            console.note(header(cfg, components, out_dir))
            language = resolve_language(stage.language)
            rows = read_rows(components.task, components.sources, stage.rows)
            views = (
                view_rows(cfg, components, rows.get("train") or next(iter(rows.values())), stage.show)
                if stage.show
                else []
            )
            # Findings of the data, and the plan of the training where there is one; the worst findings come first.
            findings = lint(cfg, components, rows, out_dir, stop_error)
            trains = "train" in components.stores and bool(components.sources)
            plan = (
                plan_run(cfg, components, machine, language, measure=stage.measure)
                if trains and trainable(cfg)
                else PlanReport()
            )
            findings = sorted([*findings, *plan.findings], key=lambda finding: ORDER[finding.level])
            report = {
                **about,
                "data": {"described": describe_data(components), "mapping": column_mapping(components), "splits": token_ledger(components), "unread": unread_keys(components), "left_out": left_out_rows(components)},
                "model": plan.model,
                "inspect": {
                    "findings": [finding.as_dict(language) for finding in findings],
                    "shown": [{"place": finding.location, "tokens": finding.num_tokens, "learned": finding.num_targets, "ends": finding.has_end, "same": finding.restores_text, "text": finding.text} for finding in views],
                    "plan": plan.block,
                },
                "language": language,
                "plan": plan.line,
                "sentences": [summary(findings, language), *(finding.sentence(language) for finding in findings if finding.level != "ok"), *plan.sentences],
                "limits": plan.limits,
                "exhibits": [lint_table(findings, language), *(finding.exhibit(language) for finding in views), *plan.report_items],
            }  # fmt: skip
            show(report, views, plan, language)
            finish(cfg, out_dir, report, time.perf_counter() - clock)
    stopping = [finding for finding in findings if finding.stops]
    if stop_error or stopping:
        reasons = [str(stop_error)] if stop_error else [finding.sentence("en") for finding in stopping]
        raise DataError("Training would stop here:\n" + "\n".join(reasons))
    return float(sum(finding.level == "major" for finding in findings))


def trainable(cfg: RunConfig) -> bool:
    """Whether there are training rows, not only rows to score."""
    return cfg.data.is_demo or bool(cfg.data.train or cfg.data.path)


def open_run(cfg: RunConfig, out_dir: Path) -> tuple[RunComponents, DataError | None]:
    """Open the data of the run. Where training would stop at bad rows, open it without them and return the error too."""
    lenient = replace(cfg, data=replace(cfg.data, max_lost=1.0))  # here lost targets are a finding, not an error
    if not trainable(cfg):
        locate_model(str(cfg.model.path))
    try:
        return setup_run(lenient, out_dir, training=trainable(cfg)), None
    except DataError as error:
        if cfg.data.is_demo or cfg.data.on_bad_row != "error":
            raise
        first_error = error
    quarantining = replace(lenient, data=replace(lenient.data, on_bad_row="quarantine"))
    components = setup_run(quarantining, out_dir, training=trainable(cfg))
    console.warn(f"training would stop here; such rows are left out and listed below: {first_error}")
    return components, first_error


def lint(
    cfg: RunConfig,
    components: RunComponents,
    rows: dict[str, list[LintRow]],
    out_dir: Path,
    stop_error: DataError | None,
) -> list[Finding]:
    """Run all checks and return their findings."""
    stage = cfg.stage
    assert isinstance(stage, Inspect)
    findings = list(bad_rows(out_dir / "quarantine.jsonl", "data", stops=stop_error is not None))
    findings += check_rows(cfg, components.task, components.sources, rows, stage.likeness)
    findings += check_columns(cfg, components.task, components.sources, rows)
    findings += leak_findings(components.leaks.warnings)
    findings += check_reading(components)
    findings += check_examples(cfg, components, rows)
    return findings


def summary(findings: list[Finding], language: str) -> str:
    """Return the number of checks and findings as a sentence."""
    counts = {level: sum(finding.level == level for finding in findings) for level in ORDER}
    if not counts["major"] and not counts["minor"]:
        return sentence("all_ok", language, num=len(findings))
    return sentence("some", language, num=len(findings), major=counts["major"], minor=counts["minor"])


def lint_table(findings: list[Finding], language: str) -> dict[str, Any]:
    """Return a table with a row for each finding; passed checks have one row for all splits."""
    language_index = language == "zh"
    passed: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.level == "ok":
            passed.setdefault(finding.check, []).append(finding)
    rows: list[list[Any]] = [
        [
            LEVELS[finding.level][language_index],
            CHECKS[finding.check][language_index],
            finding.split or "–",
            finding.count,
            finding.total or None,
            ", ".join(finding.locations[:5]),
            finding.remedy,
        ]
        for finding in findings
        if finding.level != "ok"
    ]
    rows += [
        [
            LEVELS["ok"][language_index],
            CHECKS[check][language_index],
            ", ".join(finding.split for finding in findings_of_check),
            sum(finding.count for finding in findings_of_check),
            sum(finding.total for finding in findings_of_check),
            "",
            "",
        ]
        for check, findings_of_check in passed.items()
    ]
    return {
        "kind": "table",
        "title": sentence("lint_title", language),
        "columns": column_names("lint_columns", language),
        "rows": rows,
    }


def show(report: dict[str, Any], views: list[TokenView], plan: PlanReport, language: str) -> None:
    """Print the token ledger, the rows and the plan; the findings follow at the end of the run."""
    ledger = ledger_table(report)
    if ledger:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in ("tokens", *ledger["splits"]):
            table.add_column(Text(name), justify="left" if name == "tokens" else "right", no_wrap=True)
        for row in ledger["rows"]:
            table.add_row(Text(row["name"]), *(Text(cell) for cell in row["cells"]))
        console.result(table)
    if views:
        console.result(sentence("legend", language))
    for view in views:
        console.result(
            Text(view.title(language), style="bold"),
            view.rich(),
            f"  {view.note(language)}",
            *(f"  {line}" for line in (*view.content_lines(language), view.id_line(language))),
        )
        if view.template:
            console.result(f"  {sentence('template', language)}: {view.template}")
    if plan.block:
        block = plan.block
        line = f"{formatting.short(block['flops'])} FLOPs, {formatting.short(block['flops_longest_batch'])} of them in a step on the longest batch"
        console.result(plan.line, line)
