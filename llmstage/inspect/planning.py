"""The plan of a training run: parameters, arithmetic, steps, memory and time; foreseen, then measured once on the longest batch,
and both remembered."""

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
from llmstage.inspect.history import Entry, Learned, learn, remember
from llmstage.inspect.measured_step import Measured, measure
from llmstage.inspect.memory_estimate import Foreseen, foresee
from llmstage.inspect.wording import PARTS, heads, say
from llmstage.kernels.enable import choose_kernels, compile_body, use_kernels
from llmstage.kernels.varlen_attention import uses_cu_seqlens
from llmstage.paths import cache_dir
from llmstage.report import formatting
from llmstage.training.batch_size_finder import find_micro_batch_size, largest_batch, searches_micro_batch_size
from llmstage.training.batches import StepDataset

from llmstage.training.machine import Machine, cpu_name, matmul_rate
from llmstage.training.plan import SHARE_OF_PEAK, Plan, check_budget, make_order, make_plan, measure_epoch, plan_line
from llmstage.training.components import RunComponents

MIB = 2**20


@dataclass(slots=True)
class Planned:
    """What the report says of the plan."""

    line: str = ""
    block: dict[str, Any] = field(default_factory=dict)
    sentences: list[str] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)
    report_items: list[dict[str, Any]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    model: dict[str, Any] = field(default_factory=dict)


def plan_run(run: RunConfig, pieces: RunComponents, machine: Machine, language: str, *, trial: bool) -> Planned:
    """`trial`: do one step on the longest batch and time it."""
    from llmstage.training.summary import describe_model

    store, task = pieces.stores["train"], pieces.task
    check_budget(run, store)
    order = make_order(run, store, pieces.context, packing=pieces.packing, by_length=task.by_length)
    rate = matmul_rate(machine)
    torch.manual_seed(run.seed)
    model = pieces.build(run, machine.device, training=True)
    kernels = choose_kernels(run, machine, {}, model)
    use_kernels(model, kernels)
    fixed: dict[str, Any] = {}
    if trial and searches_micro_batch_size(run, machine, {}, additive=task.additive_loss):
        fixed["micro_batch_size"] = find_micro_batch_size(task, model, store, order, machine)
    plan = make_plan(
        run, store, order, model, machine, rate, fixed, from_scratch=pieces.model_source is None, additive=task.additive_loss,
        lr_share=task.lr_share,
    )  # fmt: skip
    line = plan_line(
        plan, machine, packing=pieces.packing, allocator=allocator_name(), compiled=kernels["compile"],
        recomputed=kernels["checkpointing"], by_length=task.by_length, chance=task.chance_loss(plan.batch_rows),
    )  # fmt: skip
    out = Planned(line.rpartition(" · about ")[0], model=describe_model(run, pieces, model))
    rows = largest_batch(order)
    dataset = StepDataset(task, store, plan.micro_batch_size, run.seed, documents=uses_cu_seqlens(model))
    parts = [part.to(machine.device) for part in dataset.parts(0, rows)]
    foreseen: Foreseen | None = None
    try:
        foreseen = foresee(task, model, parts, machine)
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        reason = (
            f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160]}"
            if str(error)
            else type(error).__name__
        )
        out.limits.append(say("unforeseen", language, reason=reason, foreseen=formatting.memory(plan.memory_bytes)))
    del model
    cache = cache_dir(run.data.cache)
    place = torch.cuda.get_device_name() if machine.device.type == "cuda" else cpu_name()
    key = f"{place} | {machine.precision} | {machine.threads} threads | {allocator_name()}"
    known = learn(cache, key)
    raw_seconds = (foreseen.flops if foreseen else plan.flops / plan.steps) / (rate * SHARE_OF_PEAK)
    measured: Measured | None = None
    if trial:
        console.note("one step on the longest batch ...")
        measured = try_step(run, pieces, machine, kernels, plan, dataset, rows, out)
    step_share = share_of_longest(order, rows)
    entry = Entry(
        when=datetime.now(UTC).isoformat(timespec="seconds"), machine=key, task=run.task.name,
        model=run.model.path or run.model.name, parameters=plan.parameters, raw_seconds=raw_seconds,
        foreseen_seconds=known.seconds.at(raw_seconds), measured_seconds=measured.seconds if measured else 0.0,
        raw_bytes=foreseen.peak if foreseen else None,
        foreseen_bytes=int(known.bytes.at(foreseen.peak)) if foreseen else None,
        measured_bytes=measured.bytes if measured else None,
    )  # fmt: skip
    if measured:
        remember(cache, entry)
    tell(out, plan, entry, foreseen, measured, known, step_share, language)
    return out


def try_step(
    run: RunConfig, pieces: RunComponents, machine: Machine, kernels: dict[str, Any], plan: Plan, dataset: StepDataset, rows: Rows,
    out: Planned,
) -> Measured | None:  # fmt: skip
    """The measured step; where memory runs out, a finding and nothing measured."""

    def build() -> Any:
        torch.manual_seed(run.seed)
        model = pieces.build(run, machine.device, training=True)
        use_kernels(model, kernels)
        compile_body(model, kernels)
        return model

    try:
        # A compiled body is compiled for the shapes that it meets: it has then met those that are timed.
        warm = dataset.parts(0, rows if kernels["compile"] else rows[-2:])
        return measure(run, pieces.task, build, dataset.parts(0, rows), warm, machine, plan.lr)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        marks = ("out of memory", "can't allocate memory")
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and not any(
            mark in str(error) for mark in marks
        ):
            raise
        mend = f"trainer.micro_batch_size={max(1, plan.micro_batch_size // 2)}, trainer.activation_checkpointing=on, or a smaller data.context"
        out.findings.append(Finding("memory", "major", "train", 1, 1, mend=mend))
        return None


def brief(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else formatting.seconds(seconds)


def share_of_longest(order: BatchOrder, rows: Rows) -> float:
    """Tokens computed in the mean batch, as a share of those of the longest."""
    batches, computed, _, _ = measure_epoch(order)
    lengths = [sum(int(order.lengths[index]) for index in row) for row in rows]
    return (computed / batches) / (max(lengths) * len(lengths))


def tell(
    out: Planned, plan: Plan, entry: Entry, foreseen: Foreseen | None, measured: Measured | None, known: Learned, share: float,
    language: str,
) -> None:  # fmt: skip
    """Sentences, tables and numbers."""
    step = entry.measured_seconds if measured else entry.foreseen_seconds
    whole = step * share * plan.steps
    if measured:
        out.sentences.append(
            say("time", language, step=brief(step), steps=f"{plan.steps:,}", whole=formatting.seconds(whole))
        )
    else:
        out.sentences.append(say("time_foreseen", language, steps=f"{plan.steps:,}", whole=formatting.seconds(whole)))
    at = 1 if language == "zh" else 0
    if foreseen and entry.foreseen_bytes:
        told = ", ".join(
            f"{PARTS[name][at]} {formatting.memory(size)}" for name, size in foreseen.parts.items() if size
        )
        values = {
            "tensors": formatting.memory(foreseen.peak),
            "parts": told,
            "foreseen": formatting.memory(entry.foreseen_bytes),
        }
        if entry.measured_bytes:
            ratio = f"{entry.measured_bytes / entry.foreseen_bytes:.2f} ×"
            out.sentences.append(
                say("memory", language, **values, measured=formatting.memory(entry.measured_bytes), ratio=ratio)
            )
        else:
            out.sentences.append(say("memory_foreseen", language, **values))
        rows = [[PARTS[name][at], round(size / MIB, 1)] for name, size in foreseen.parts.items()]
        bars = {
            "kind": "bars",
            "title": say("memory_title", language),
            "labels": [row[0] for row in rows],
            "values": [row[1] for row in rows],
        }
        out.report_items.append(bars)
    if known.entries:
        errors = {
            name: "–" if error is None else f"{error:.0%}"
            for name, error in (("memory", known.bytes_error), ("time", known.seconds_error))
        }
        out.sentences.append(say("history", language, num=len(known.entries), **errors))
    else:
        out.sentences.append(say("no_history", language))
    entries = [*known.entries, *([entry] if measured else [])]
    if entries:
        table = [
            [
                one.when[:16], one.task, Path(one.model).name, round(one.parameters / 1e6, 2), round(one.foreseen_seconds, 3),
                round(one.measured_seconds, 3), round((one.foreseen_bytes or 0) / MIB, 1) or None,
                round((one.measured_bytes or 0) / MIB, 1) or None,
            ]
            for one in reversed(entries)
        ]  # fmt: skip
        out.report_items.append(
            {
                "kind": "table",
                "title": say("history_title", language),
                "columns": heads("history_columns", language),
                "rows": table,
            }
        )
    out.block = {
        "steps": plan.steps, "batch_rows": plan.batch_rows, "micro_batch_size": plan.micro_batch_size, "lr": plan.lr,
        "parameters": plan.parameters, "trained_parameters": plan.trained, "tokens": plan.tokens, "epochs": plan.epochs,
        "real_share": plan.real_share, "flops": (foreseen.flops * share * plan.steps) if foreseen else plan.flops,
        "flops_longest_batch": foreseen.flops if foreseen else None,
        "memory": foreseen.parts | {"peak": foreseen.peak} if foreseen else None,
        "seconds": whole, "foreseen": asdict(entry), "share_of_longest": share,
        "learned": {"plans": len(known.entries), "seconds": asdict(known.seconds), "bytes": asdict(known.bytes), "seconds_error": known.seconds_error, "bytes_error": known.bytes_error},
    }  # fmt: skip
