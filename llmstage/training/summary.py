"""What a run says of itself: the header line, and the parts of the report that training and scoring share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from llmstage.config import RunConfig
from llmstage.evaluation.eval_loop import Scored
from llmstage.training.checkpoint import TrainState
from llmstage.training.setup import RunComponents


def header(run: RunConfig, pieces: RunComponents, out_dir: Path) -> str:
    counts = ", ".join(f"{store.ledger.rows:,} {split}" for split, store in pieces.stores.items())
    model = run.model.path or run.model.name
    used = mapping(pieces)
    columns = "" if run.data.is_demo else " | " + ", ".join(f"{word}={column}" for word, column in used.items())
    told = f"{run.task.name} on {described(pieces)} ({counts}{columns})"
    return f"llmstage {run.stage.name} | {told} | {model} | seed {run.seed} | {out_dir}"


def described(pieces: RunComponents) -> str:
    """Where the rows come from, each source once; what was cut by time or group, and from when to when."""
    told = list(
        dict.fromkeys(
            source.described.partition(", cut")[0].partition(", less")[0] for source in pieces.sources.values()
        )
    )
    cuts = {source.cut_by for source in pieces.sources.values()} - {"", "content"}
    told += [f"cut by {by}" for by in cuts]
    spans = [f"{split} {' to '.join(dict.fromkeys(ends))}" for split, ends in pieces.leaks.spans.items()]
    return "; ".join([*told, *([", ".join(spans)] if spans else [])])


def mapping(pieces: RunComponents) -> dict[str, str]:
    return dict(next(iter(pieces.sources.values())).mapping)


def model_about(run: RunConfig, pieces: RunComponents, model: nn.Module) -> dict[str, Any]:
    config: Any = model.config
    extra: nn.Module | None = getattr(model, "extra", None)
    return {
        "name": run.model.path or run.model.name,
        "kind": run.model.family,
        "architecture": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "context": pieces.context,
        "vocab_size": config.get_text_config().vocab_size,
        "path": run.model.path,
        "pipeline_tag": pieces.task.pipeline_tag,
        "auto_class": pieces.task.auto_model,
        "own_weights": 0 if extra is None else sum(parameter.numel() for parameter in extra.parameters()),
    }


def warnings(
    pieces: RunComponents, state: TrainState, beside: dict[str, Any] | None, scored: dict[str, Scored]
) -> list[str]:
    told = [beside["verdict"]] if beside and not beside["beaten"] else []
    told += pieces.leaks.told
    told += dict.fromkeys(note for source in pieces.sources.values() for note in source.notes)
    if state.skipped:
        told.append(f"{state.skipped} of {state.step} steps were skipped: loss or gradient not finite, or a spike.")
    for split, store in pieces.stores.items():
        if store.ledger.lost_targets:
            told.append(
                f"{split}: {store.ledger.lost_targets} target tokens ({store.ledger.lost_target_share:.2%}) were cut, {store.ledger.lost_ends} answers lost their end."
            )
    for split, item in scored.items():
        told += [f"{split}: {line}" for line in pieces.task.warnings(item.predictions, item.refs)]
    return told
