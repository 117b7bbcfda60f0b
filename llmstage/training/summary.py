"""Describe a run: the header line on the terminal, and the entries of report.json that training and scoring share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from llmstage.config import RunConfig
from llmstage.evaluation.eval_loop import Scored
from llmstage.models.build import count_parameters
from llmstage.training.checkpoint import TrainState
from llmstage.training.components import RunComponents


def header(run: RunConfig, components: RunComponents, out_dir: Path) -> str:
    """Return the line that a run begins with: stage, task, data, model, seed, folder."""
    counts = ", ".join(f"{store.ledger.rows:,} {split}" for split, store in components.stores.items())
    mapping = column_mapping(components)
    columns = "" if run.data.is_demo else " | " + ", ".join(f"{name}={column}" for name, column in mapping.items())
    data = f"{run.task.name} on {describe_data(components)} ({counts}{columns})"
    return f"llmstage {run.stage.name} | {data} | {run.model.path or run.model.name} | seed {run.seed} | {out_dir}"


def describe_data(components: RunComponents) -> str:
    """Return where the rows come from, each source once; for splits by time or group, by what, and the time of each split."""
    sources = components.sources.values()
    parts = list(dict.fromkeys(source.description.partition(", cut")[0].partition(", less")[0] for source in sources))
    parts += [f"cut by {key}" for key in {source.cut_by for source in sources} - {"", "content"}]
    spans = [f"{split} {' to '.join(dict.fromkeys(ends))}" for split, ends in components.leaks.time_ranges.items()]
    return "; ".join([*parts, *([", ".join(spans)] if spans else [])])


def column_mapping(components: RunComponents) -> dict[str, str]:
    """Return the column of the file for each column of the task."""
    return dict(next(iter(components.sources.values())).mapping)


def describe_model(run: RunConfig, components: RunComponents, model: nn.Module) -> dict[str, Any]:
    """Return the `model` entry of report.json."""
    config: Any = model.config
    extra: nn.Module | None = getattr(model, "extra", None)
    return {
        "name": run.model.path or run.model.name,
        "kind": run.model.family,
        "architecture": type(model).__name__,
        "parameters": count_parameters(model),
        "context": components.context,
        "vocab_size": config.get_text_config().vocab_size,
        "path": run.model.path,
        "pipeline_tag": components.task.pipeline_tag,
        "auto_class": components.task.auto_model,
        "own_weights": 0 if extra is None else count_parameters(extra),
    }


def warnings(
    components: RunComponents, state: TrainState, comparison: dict[str, Any] | None, scored: dict[str, Scored]
) -> list[str]:
    """Return what a reader of the report must know. `comparison`: of baselines()."""
    lines = [comparison["verdict"]] if comparison and not comparison["beaten"] else []
    lines += components.leaks.warnings
    lines += dict.fromkeys(note for source in components.sources.values() for note in source.notes)
    if state.skipped:
        lines.append(f"{state.skipped} of {state.step} steps were skipped: loss or gradient not finite, or a spike.")
    for split, store in components.stores.items():
        if store.ledger.lost_targets:
            lines.append(
                f"{split}: {store.ledger.lost_targets} target tokens ({store.ledger.lost_target_share:.2%}) were cut, {store.ledger.lost_ends} answers lost their end."
            )
    for split, result in scored.items():
        lines += [f"{split}: {line}" for line in components.task.warnings(result.predictions, result.refs)]
    return lines
