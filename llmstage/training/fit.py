"""Train a model from end to end, as stage=pretrain and stage=finetune do: set up, train, finish."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from llmstage import console
from llmstage.config import RunConfig
from llmstage.errors import ModelError
from llmstage.evaluation.baselines import baselines
from llmstage.evaluation.scoring import (
    Scored,
    headline_split,
    report_values,
    score,
    score_all,
    scores_dict,
    select,
    write_predictions,
)
from llmstage.models.adapter import has_adapter, merge_adapter, save_adapter
from llmstage.models.build import save_model
from llmstage.models.weight_types import config_types, exceeds_memory, is_held, release, round_weights
from llmstage.paths import ModelSource
from llmstage.training.checkpoint import Checkpoints, TrainState, find_resume_point, set_aside
from llmstage.training.components import (
    RunComponents,
    Variant,
    column_mapping,
    describe_data,
    describe_model,
    token_ledger,
)
from llmstage.training.control_runs import train_controls
from llmstage.training.finalize import finish, warnings
from llmstage.training.loop import train
from llmstage.training.loop_setup import TrainingSetup, set_up_training
from llmstage.training.machine import Machine, peak_memory, resolve_machine
from llmstage.training.session import run_lock, session


@dataclass(slots=True)
class FitResult:
    """The scores of a trained model."""

    selected: float | None
    """The selecting metric on validation, which a sweep optimises; None where there is no such split."""
    scored: dict[str, Scored]
    """By split."""


def fit(run: RunConfig, out_dir: Path, metadata: dict[str, str], variant: Variant | None = None) -> FitResult:
    """Train, select and score a model and its control runs, and write the run folder.

    `metadata`: the command and its start, for the report. `variant`: how this run differs from what its config describes.
    """
    started = time.perf_counter()
    variant = variant or Variant()
    with run_lock(out_dir), console.logged(out_dir / "run.log"):
        if run.trainer.resume == "never" and (old := set_aside(out_dir)):
            console.note(f"trainer.resume=never: the checkpoints of the earlier run are kept in {old}")
        resume = find_resume_point(out_dir, run.trainer.resume)
        machine = resolve_machine(run.trainer, resume.auto_values)
        with session(run.seed, machine.threads, deterministic=run.trainer.deterministic, handles_stop=True) as stop:
            setup = set_up_training(run, out_dir, machine, resume, stop, variant)
            train(setup.training)
            setup.tracker.close()
            return finish_training(setup, metadata, started, updates_latest=variant.updates_latest)


def finish_training(
    setup: TrainingSetup, metadata: dict[str, str], started: float, *, updates_latest: bool
) -> FitResult:
    """Score and save the selected weights, train the control runs, and write the report."""
    run, out_dir, components, machine = setup.run, setup.out_dir, setup.components, setup.machine
    state = setup.training.state

    # 1. The weights that are scored and saved.
    selected_step = load_best(setup.model, state, setup.training.checkpoints)
    model: Any = finish_adapter(setup) if has_adapter(setup.model) else setup.model
    if not has_adapter(model):
        round_weights(model)  # the scores are those of the weights that are saved
    if is_held(model) and not exceeds_memory(components.weights_dir):
        release(model)  # casting weights each time they are used is slow where texts are generated
    tune(run, components, model, machine)

    # 2. The scores, and the predictions of the split that the report shows.
    scored = score_all(run, components, model, machine, training=True)
    split = headline_split(scored) if scored else None
    headline = scored[split] if split else None
    samples = (
        write_predictions(out_dir / "predictions.jsonl", components, headline, split) if headline and split else []
    )
    if has_adapter(model):  # adapter.merge=false: adapter/ is the model
        with config_types(model):
            model.config.save_pretrained(out_dir / "adapter")
    else:
        save_model(model, components.processor, out_dir / "model")

    # 3. Models and methods to compare with. Controls come after saving, so that the run does not depend on them.
    same_batches = Variant(order=lambda default, store: setup.order, updates_latest=False)
    controls = train_controls(
        run, components, out_dir, setup.plan.steps, scored, split,
        lambda control, folder: fit(control, folder, metadata, same_batches).scored,
    )  # fmt: skip
    comparison = baselines(run, components, headline, split, controls) if headline and split else None

    # 4. The report.
    plan = setup.plan
    report = {
        **metadata,
        "data": {
            "described": describe_data(components),
            "mapping": column_mapping(components),
            "splits": token_ledger(components),
        },
        "model": describe_model(run, components, model),
        "train": describe_training(setup, selected_step),
        "scores": scores_dict(scored),
        **report_values(scored),
        "before": {split: setup.untrained_scores} if setup.untrained_scores and split else {},
        "baselines": comparison,
        "exhibits": headline.report_items if headline else [],
        "samples": samples,
        "predicted": {
            "steps": plan.steps,
            "tokens": plan.tokens,
            "seconds": plan.seconds,
            "memory_bytes": plan.memory_bytes,
        },
        "plan": setup.plan_text,
        "warnings": warnings(components, state, comparison, scored, plan),
    }
    finish(run, out_dir, report, time.perf_counter() - started, updates_latest=updates_latest)
    selected = select(components.task, scored["validation"].scores)[1].value if "validation" in scored else None
    return FitResult(selected, scored)


def load_best(model: nn.Module, state: TrainState, checkpoints: Checkpoints) -> int:
    """Load the checkpoint that the validation metric selected, if there is one; return the step of the loaded weights."""
    folder = checkpoints.folder / f"step_{state.best_step or 0:06d}"
    if state.best_step is None or state.best_step == state.step or not folder.is_dir():
        return state.step
    # A checkpoint lacks tied weights and those that an adapter does not train; but the model must know all that it has.
    unknown = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False).unexpected_keys
    if unknown:
        raise ModelError(f"{folder} does not fit the model: {', '.join(unknown[:4])}.")
    return state.best_step


def finish_adapter(setup: TrainingSetup) -> Any:
    """Write adapter/ and return the model to score and save: merged unless adapter.merge=false, on unquantized weights."""
    run, model = setup.run, setup.model
    folder = setup.out_dir / "adapter"
    save_adapter(model, setup.components.processor, folder)
    if run.adapter.quantize != "none":
        components = replace(setup.components, model_source=ModelSource(folder))
        model = components.build(run, setup.machine.device, training=False)
    if run.adapter.merge:
        merge_adapter(model)
    return model


def tune(run: RunConfig, components: RunComponents, model: nn.Module, machine: Machine) -> None:
    """Let the task fit thresholds and the like on validation, and put them into the config that is saved with the model."""
    if not components.task.needs_tuning or "validation" not in components.stores:
        return
    scored = score(run, components, model, machine, "validation")
    components.task.tune(scored.predictions, scored.refs)
    config: Any = model.config
    config.llmstage = components.task.model_options().get("llmstage")


REPORTED_AUTO_VALUES = (
    "precision", "threads", "micro_batch_size", "lr", "packing", "compile", "attention", "checkpointing", "float8",
    "allocator",
)  # fmt: skip


def describe_training(setup: TrainingSetup, selected_step: int) -> dict[str, Any]:
    """Return the `train` entry of report.json."""
    state, plan = setup.training.state, setup.plan
    tokens_per_second = state.timed_tokens / state.timed_seconds if state.timed_seconds else None
    flops_per_token = plan.flops / plan.tokens if plan.tokens else 0.0
    loss = {"first": state.first_loss, "last": state.last_loss, "best_validation": state.best}
    chance_loss = setup.components.task.chance_loss(plan.batch_rows)
    return {
        "steps": state.step,
        "epochs": round(plan.epochs * state.step / plan.steps, 3),
        "tokens": state.tokens,
        "tokens_per_second": tokens_per_second,
        "mfu": tokens_per_second * flops_per_token / setup.training.matmul_rate if tokens_per_second else None,
        "peak_memory_bytes": peak_memory(),
        "seconds": state.seconds,
        "loss": loss | ({"chance": chance_loss} if chance_loss is not None else {}),
        "selected_step": selected_step,
        "skipped_steps": state.skipped,
        "rollbacks": state.rollbacks,
        "real_share": plan.real_share,
        **{name: setup.auto_values[name] for name in REPORTED_AUTO_VALUES},
        "plan": asdict(plan),
    }
