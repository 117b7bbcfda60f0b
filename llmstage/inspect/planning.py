"""Plan a training run: parameters, FLOPs, steps, memory and time. They are estimated, then measured once on the longest
batch, and both are recorded in the history of this machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from llmstage import console
from llmstage.allocator import allocator_name
from llmstage.config import RunConfig
from llmstage.data.encoding.order import BatchOrder, Rows
from llmstage.inspect.findings import Finding
from llmstage.inspect.history import Entry, PlanHistory, append_entry, load_history
from llmstage.inspect.measured_step import MeasuredStep, measure_step
from llmstage.inspect.memory_estimate import MemoryEstimate, estimate_memory
from llmstage.inspect.wording import PARTS, column_names, sentence
from llmstage.kernels.enable import compile_body, enable
from llmstage.kernels.varlen_attention import uses_cu_seqlens
from llmstage.paths import cache_dir
from llmstage.report import formatting
from llmstage.tasks.base import Batch, Task
from llmstage.training.batches import StepDataset, find_micro_batch_size, largest_batch, searches_micro_batch_size
from llmstage.training.components import RunComponents
from llmstage.training.machine import Machine, cpu_name, matmul_rate
from llmstage.training.plan import (
    SHARE_OF_PEAK,
    Plan,
    budget_warning,
    check_budget,
    make_order,
    make_plan,
    measure_epoch,
    plan_line,
    resolve_budget,
)

MIB = 2**20


@dataclass(slots=True)
class PlanReport:
    """The plan's part of the report."""

    line: str = ""
    block: dict[str, Any] = field(default_factory=dict)
    sentences: list[str] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)
    report_items: list[dict[str, Any]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    model: dict[str, Any] = field(default_factory=dict)


def plan_run(
    run: RunConfig, components: RunComponents, machine: Machine, language: str, *, measure: bool
) -> PlanReport:
    """Plan the run and report it. `measure`: run one step on the longest batch and time it."""
    from llmstage.training.components import describe_model

    # The plan of the run, made as training makes it.
    store, task = components.stores["train"], components.task
    rate = matmul_rate(machine)
    torch.manual_seed(run.seed)
    model = components.build(run, machine.device, training=True)
    run = resolve_budget(run, components, {})
    check_budget(run, store)
    order = make_order(run, store, components.context, packing=components.packing, by_length=task.by_length)
    kernels = enable(model, run.trainer, machine, {})
    fixed: dict[str, Any] = {}
    if measure and searches_micro_batch_size(run, machine, {}, additive=task.additive_loss):
        fixed["micro_batch_size"] = find_micro_batch_size(task, model, store, order, machine)
    plan = make_plan(
        run, store, order, model, machine, rate, fixed, task=task, from_scratch=components.model_source is None
    )
    line = plan_line(
        plan, machine, components, allocator=allocator_name(), compiled=kernels["compile"],
        recomputed=kernels["checkpointing"],
    )  # fmt: skip
    report = PlanReport(line.rpartition(" · about ")[0], model=describe_model(run, components, model))
    if warning := budget_warning(plan, run):
        console.warn(warning)
    # Estimate a step on the longest batch; earlier plans of this machine correct the estimate.
    rows = largest_batch(order)
    dataset = StepDataset(task, store, plan.micro_batch_size, run.seed, cu_seqlens=uses_cu_seqlens(model))
    parts = [part.to(machine.device) for part in dataset.collate_parts(0, rows)]
    estimate = try_estimate(task, model, parts, machine, plan, report, language)
    del model
    cache = cache_dir(run.data.cache)
    processor_name = torch.cuda.get_device_name() if machine.device.type == "cuda" else cpu_name()
    key = f"{processor_name} | {machine.precision} | {machine.threads} threads | {allocator_name()}"
    history = load_history(cache, key)
    raw_seconds = (estimate.flops if estimate else plan.flops / plan.steps) / (rate * SHARE_OF_PEAK)
    # Measure the same step, and record both.
    measured: MeasuredStep | None = None
    if measure:
        console.note("one step on the longest batch ...")
        measured = try_measured_step(run, components, machine, kernels, plan, dataset, rows, report)
    step_share = mean_to_longest_ratio(order, rows)
    entry = Entry(
        when=datetime.now(UTC).isoformat(timespec="seconds"), machine=key, task=run.task.name,
        model=run.model.path or run.model.name, parameters=plan.parameters, raw_seconds=raw_seconds,
        estimated_seconds=history.seconds.at(raw_seconds), measured_seconds=measured.seconds if measured else 0.0,
        raw_bytes=estimate.peak if estimate else None,
        estimated_bytes=int(history.bytes.at(estimate.peak)) if estimate else None,
        measured_bytes=measured.bytes if measured else None,
    )  # fmt: skip
    if measured:
        append_entry(cache, entry)
    write_plan_report(report, plan, entry, estimate, measured, history, step_share, language)
    return report


def try_estimate(
    task: Task, model: Any, parts: list[Batch], machine: Machine, plan: Plan, report: PlanReport, language: str
) -> MemoryEstimate | None:
    """Estimate the step on meta tensors; None, and a limit in the report, where the model does not run on them."""
    try:
        return estimate_memory(task, model, parts, machine)
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        message = str(error).strip()
        reason = f"{type(error).__name__}: {message.splitlines()[0][:160]}" if message else type(error).__name__
        rough = formatting.memory(plan.memory_bytes)
        report.limits.append(sentence("no_estimate", language, reason=reason, estimated=rough))
        return None


def try_measured_step(
    run: RunConfig, components: RunComponents, machine: Machine, kernels: dict[str, Any], plan: Plan, dataset: StepDataset, rows: Rows,
    report: PlanReport,
) -> MeasuredStep | None:  # fmt: skip
    """Measure a step; out of memory is a finding, and nothing is measured."""

    def build() -> Any:
        torch.manual_seed(run.seed)
        model = components.build(run, machine.device, training=True)
        enable(model, run.trainer, machine, kernels)
        compile_body(model, kernels)
        return model

    try:
        # torch.compile compiles for the shapes it sees: warm up with the shapes that are timed.
        warm_up_parts = dataset.collate_parts(0, rows if kernels["compile"] else rows[-2:])
        return measure_step(
            run, components.task, build, dataset.collate_parts(0, rows), warm_up_parts, machine, plan.lr
        )
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        messages = ("out of memory", "can't allocate memory")
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and not any(
            message in str(error) for message in messages
        ):
            raise
        remedy = f"trainer.micro_batch_size={max(1, plan.micro_batch_size // 2)}, trainer.activation_checkpointing=on, or a smaller data.context"
        report.findings.append(Finding("memory", "major", "train", 1, 1, remedy=remedy))
        return None


def format_duration(seconds: float) -> str:
    """Format a duration, in milliseconds below one second."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else formatting.seconds(seconds)


def mean_to_longest_ratio(order: BatchOrder, rows: Rows) -> float:
    """Return the tokens computed in the mean batch, as a share of those of the longest."""
    batches, computed, _, _ = measure_epoch(order)
    lengths = [sum(int(order.lengths[index]) for index in row) for row in rows]
    return (computed / batches) / (max(lengths) * len(lengths))


def write_plan_report(
    report: PlanReport, plan: Plan, entry: Entry, estimate: MemoryEstimate | None, measured: MeasuredStep | None, history: PlanHistory, mean_to_longest: float,
    language: str,
) -> None:  # fmt: skip
    """Add the sentences, tables and numbers of the plan to the report."""
    step = entry.measured_seconds if measured else entry.estimated_seconds
    total_seconds = step * mean_to_longest * plan.steps
    if measured:
        report.sentences.append(
            sentence(
                "time",
                language,
                step=format_duration(step),
                steps=f"{plan.steps:,}",
                total=formatting.seconds(total_seconds),
            )
        )
    else:
        report.sentences.append(
            sentence("time_estimated", language, steps=f"{plan.steps:,}", total=formatting.seconds(total_seconds))
        )
    if estimate and entry.estimated_bytes:
        report_memory(report, entry, estimate, language)
    report_history(report, entry, history, language, measured=measured is not None)
    report.block = {
        "steps": plan.steps, "batch_rows": plan.batch_rows, "micro_batch_size": plan.micro_batch_size, "lr": plan.lr,
        "parameters": plan.parameters, "trained_parameters": plan.trained, "tokens": plan.tokens, "epochs": plan.epochs,
        "real_share": plan.real_share, "flops": (estimate.flops * mean_to_longest * plan.steps) if estimate else plan.flops,
        "flops_longest_batch": estimate.flops if estimate else None,
        "memory": estimate.parts | {"peak": estimate.peak} if estimate else None,
        "seconds": total_seconds, "foreseen": entry.as_dict(), "share_of_longest": mean_to_longest,
        "learned": {"plans": len(history.entries), "seconds": asdict(history.seconds), "bytes": asdict(history.bytes), "seconds_error": history.seconds_error, "bytes_error": history.bytes_error},
    }  # fmt: skip


def report_memory(report: PlanReport, entry: Entry, estimate: MemoryEstimate, language: str) -> None:
    """Add the memory of a step to the report: a sentence and a chart of its parts."""
    assert entry.estimated_bytes
    language_index = 1 if language == "zh" else 0
    part_sizes = ", ".join(
        f"{PARTS[name][language_index]} {formatting.memory(size)}" for name, size in estimate.parts.items() if size
    )
    values = {
        "tensors": formatting.memory(estimate.peak),
        "parts": part_sizes,
        "estimated": formatting.memory(entry.estimated_bytes),
    }
    if entry.measured_bytes:
        ratio = f"{entry.measured_bytes / entry.estimated_bytes:.2f} ×"
        report.sentences.append(
            sentence("memory", language, **values, measured=formatting.memory(entry.measured_bytes), ratio=ratio)
        )
    else:
        report.sentences.append(sentence("memory_estimated", language, **values))
    rows = [[PARTS[name][language_index], round(size / MIB, 1)] for name, size in estimate.parts.items()]
    bars = {
        "kind": "bars",
        "title": sentence("memory_title", language),
        "labels": [row[0] for row in rows],
        "values": [row[1] for row in rows],
    }
    report.report_items.append(bars)


def report_history(report: PlanReport, entry: Entry, history: PlanHistory, language: str, *, measured: bool) -> None:
    """Add the errors of earlier plans to the report, and the table of all plans."""
    if history.entries:
        errors = {
            name: "–" if error is None else f"{error:.0%}"
            for name, error in (("memory", history.bytes_error), ("time", history.seconds_error))
        }
        report.sentences.append(sentence("history", language, num=len(history.entries), **errors))
    else:
        report.sentences.append(sentence("no_history", language))
    entries = [*history.entries, *([entry] if measured else [])]
    if entries:
        table = [
            [
                plan_entry.when[:16], plan_entry.task, Path(plan_entry.model).name, round(plan_entry.parameters / 1e6, 2), round(plan_entry.estimated_seconds, 3),
                round(plan_entry.measured_seconds, 3), round((plan_entry.estimated_bytes or 0) / MIB, 1) or None,
                round((plan_entry.measured_bytes or 0) / MIB, 1) or None,
            ]
            for plan_entry in reversed(entries)
        ]  # fmt: skip
        report.report_items.append(
            {
                "kind": "table",
                "title": sentence("history_title", language),
                "columns": column_names("history_columns", language),
                "rows": table,
            }
        )
