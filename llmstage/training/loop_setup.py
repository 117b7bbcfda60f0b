"""Set up training: components, model, kernels, plan, optimizer, checkpoints, in the order that a resumed run relies on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llmstage import console
from llmstage.allocator import allocator_name
from llmstage.config import RunConfig, TrackerConfig
from llmstage.data.encoding.order import BatchOrder
from llmstage.errors import ModelError, UserError
from llmstage.evaluation.metrics.score import Score
from llmstage.evaluation.scoring import headline_split, score, select
from llmstage.kernels.enable import compile_body, enable
from llmstage.models.adapter import has_adapter, save_checkpoint
from llmstage.models.build import save_model
from llmstage.models.loading import new_modules
from llmstage.report.files import write_json
from llmstage.tokenization.tokenizer import Processor
from llmstage.training.batches import find_micro_batch_size, searches_micro_batch_size
from llmstage.training.checkpoint import Checkpoints, ResumePoint, load_tensors
from llmstage.training.components import RunComponents, Variant, data_digest, header
from llmstage.training.loop import Training
from llmstage.training.machine import Machine, environment, matmul_rate
from llmstage.training.optimizers import build_optimizer, build_schedule
from llmstage.training.plan import (
    BUDGET_KEYS,
    Plan,
    budget_warning,
    check_budget,
    check_disk,
    make_order,
    make_plan,
    plan_line,
    resolve_budget,
)
from llmstage.training.run_folder import check_same_run, config_dict, write_run_yaml
from llmstage.training.session import StopFlag
from llmstage.training.setup import setup_run


@dataclass(slots=True)
class TrainingSetup:
    """A run that is ready to train, and what its report needs once it is trained."""

    run: RunConfig
    out_dir: Path
    machine: Machine
    components: RunComponents
    model: nn.Module
    order: BatchOrder
    plan: Plan
    plan_text: str
    auto_values: dict[str, Any]
    """What each `auto` of the config resolved to."""
    untrained_scores: dict[str, Any]
    """Scores before the first step, by metric; empty where there is no split to score."""
    tracker: Tracker
    training: Training


def set_up_training(
    run: RunConfig, out_dir: Path, machine: Machine, resume: ResumePoint, stop: StopFlag, variant: Variant
) -> TrainingSetup:
    """Build all that the training loop needs, from rows to optimizer, and announce the run. Raise UserError."""
    if resume.checkpoint:
        check_same_run(run, resume.config, resume.checkpoint)
    write_json(out_dir / "environment.json", environment())
    components = setup_run(
        run, out_dir, training=True, rows=variant.rows, context=resume.auto_values.get("context"),
        processor_dir=resume.checkpoint, by_character=variant.by_character,
    )  # fmt: skip
    task, store = components.task, components.stores["train"]

    # 1. The model. Seeded here, its weights do not depend on whether the rows came from a cache.
    torch.manual_seed(run.seed)
    model = components.build(run, machine.device, training=True)
    components.packing = saved_packing(resume, packing=components.packing)
    kernels = enable(model, run.trainer, machine, resume.auto_values)

    # 2. The budget, the batches and the objective. `planned` has numbers where the config has `auto`.
    planned = resolve_budget(run, components, resume.auto_values)
    check_budget(planned, store)
    order = make_order(planned, store, components.context, packing=components.packing, by_length=task.by_length)
    objective = variant.objective(components, machine) if variant.objective else task
    order = variant.order(order, store) if variant.order else order

    # 3. The plan, which the run announces before it starts.
    plan, auto_values = plan_training(run, planned, out_dir, machine, resume, components, model, order, kernels)
    plan_text = announce(run, out_dir, machine, resume, components, model, plan, auto_values)

    # 4. The optimizer, and the scores that training starts from.
    optimizer = build_optimizer(model, run.optim, plan.lr)
    untrained = score_untrained(run, components, model, machine, out_dir, resumed=resume.checkpoint is not None)
    tracker = Tracker(out_dir, run.tracker, resume.state.step if resume.checkpoint else None)
    checkpoints = Checkpoints(
        out_dir,
        run.trainer.save_total_limit,
        lambda folder: save_weights(model, components.processor, folder),
        {"config": config_dict(run), "resolved": auto_values},
    )
    checkpoints.clean()
    checkpoints.resumed_from = resume.checkpoint

    # 5. Random numbers last: those of dropout do not depend on what was scored before; a resumed run goes on with its own.
    torch.manual_seed(run.seed + 1)
    if resume.checkpoint:
        load_tensors(resume.checkpoint, model, optimizer)
    schedule = build_schedule(run.optim, plan.lr, plan.steps, from_scratch=plan.from_scratch)
    training = Training(
        model=model, task=objective, store=store, order=order, optimizer=optimizer, machine=machine,
        schedule=schedule, checkpoints=checkpoints, state=resume.state, stop=stop,
        trainer=planned.trainer, plan=plan, micro_batch_size=plan.micro_batch_size, max_grad_norm=run.optim.max_grad_norm,
        spike_policy=spike_policy(run), workers=num_workers(run, machine), matmul_rate=matmul_rate(machine),
        evaluate=lambda step: validate(run, components, model, machine, tracker, step), log=tracker, save_at=variant.save_at,
        select_from=schedule.warmup if not plan.from_scratch and new_modules(model) else 0,
    )  # fmt: skip
    return TrainingSetup(
        run, out_dir, machine, components, model, order, plan, plan_text, auto_values, untrained, tracker, training
    )


def saved_packing(resume: ResumePoint, *, packing: bool) -> bool:
    """Return whether rows are packed: a resumed run keeps what it did. `packing`: what the proof allows. Raise ModelError."""
    saved = bool(resume.auto_values.get("packing", packing))
    if saved and not packing:
        raise ModelError(
            f"{resume.checkpoint} was trained on packed rows, and this model does not keep the documents of a row apart (see the "
            f"warning above). Start anew in another folder with trainer.resume=never."
        )
    return saved


def plan_training(
    run: RunConfig, planned: RunConfig, out_dir: Path, machine: Machine, resume: ResumePoint, components: RunComponents,
    model: nn.Module, order: BatchOrder, kernels: dict[str, Any],
) -> tuple[Plan, dict[str, Any]]:  # fmt: skip
    """Return the plan and what each `auto` resolved to, which is written to run.yaml and each checkpoint.

    `planned`: the run with its budget resolved.

    A resumed run keeps what it resolved before. Raise ModelError where its training data has changed, DiskError.
    """
    task, store, saved = components.task, components.stores["train"], resume.auto_values
    rate = matmul_rate(machine)
    if searches_micro_batch_size(run, machine, saved, additive=task.additive_loss):
        saved = {**saved, "micro_batch_size": find_micro_batch_size(task, model, store, order, machine)}
    compile_body(model, kernels)  # after the search, which tries many shapes
    plan = make_plan(
        planned, store, order, model, machine, rate, saved, task=task, from_scratch=components.model_source is None
    )
    check_disk(out_dir, plan.trained)
    digest = data_digest(components)
    if resume.checkpoint and saved.get("data_digest") != digest:
        raise ModelError(
            f"The training data has changed since {resume.checkpoint} was written (content, options or tokenizer). "
            f"Resume with the old data, or start anew in another folder with trainer.resume=never."
        )
    auto_values = {
        "threads": machine.threads,
        "precision": machine.precision,
        "micro_batch_size": plan.micro_batch_size,
        "lr": plan.lr,
        "context": components.context,
        "packing": components.packing,
        **kernels,
        "allocator": saved.get("allocator", allocator_name()),
        "steps": plan.steps,
        "budget": {key: getattr(planned.trainer, key) for key in BUDGET_KEYS},
        "data_digest": digest,
    }
    write_run_yaml(out_dir, run, auto_values)
    return plan, auto_values


def announce(
    run: RunConfig, out_dir: Path, machine: Machine, resume: ResumePoint, components: RunComponents, model: nn.Module,
    plan: Plan, auto_values: dict[str, Any],
) -> str:  # fmt: skip
    """Print what runs on what, the plan, and where the run is resumed; return the line of the plan."""
    text = plan_line(
        plan, machine, components, allocator=auto_values["allocator"], compiled=auto_values["compile"],
        recomputed=auto_values["checkpointing"],
    )  # fmt: skip
    if parts := new_modules(model):
        text += f" · starts untrained: {', '.join(parts[:4])}{f' and {len(parts) - 4} more' if len(parts) > 4 else ''}"
    console.note(header(run, components, out_dir), text)
    if warning := budget_warning(plan, run):
        console.warn(warning)
    if resume.checkpoint:
        console.note(f"resumed from step {resume.state.step} ({resume.checkpoint})")
    return text


def score_untrained(
    run: RunConfig, components: RunComponents, model: nn.Module, machine: Machine, out_dir: Path, *, resumed: bool
) -> dict[str, Any]:
    """Score the untrained model on the split that the report shows, and keep the scores in before.json for a resumed run."""
    path = out_dir / "before.json"
    if resumed and path.is_file():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    splits = [split for split in components.stores if split != "train"]
    if not splits:
        return {}
    # An untrained model writes long texts that mean nothing: it generates for a few rows only, and `count` says so.
    scored = score(run, components, model, machine, headline_split(dict.fromkeys(splits)), text_rows=20)
    scores = {name: value.as_dict() for name, value in scored.scores.items()}
    write_json(path, scores)
    return scores


def validate(
    run: RunConfig, components: RunComponents, model: nn.Module, machine: Machine, tracker: Tracker, step: int
) -> tuple[str, Score] | None:
    """Score the validation split and log the scores; return the selecting metric, or None where there is no such split."""
    if "validation" not in components.stores:
        return None
    num_rows = run.trainer.eval_rows
    scored = score(run, components, model, machine, "validation", num_rows=num_rows, generate=False)
    if components.task.select not in scored.scores:  # the metric needs generated text
        scored = score(run, components, model, machine, "validation", num_rows=num_rows, generate=True)
    values = {name: value.value for name, value in scored.scores.items()}
    tracker({"step": step, "kind": "eval", "split": "validation", **values})
    return select(components.task, scored.scores)


def save_weights(model: nn.Module, processor: Processor, folder: Path) -> None:
    """Write the weights of a checkpoint: of the adapter where only it is trained, else of the whole model."""
    if has_adapter(model):
        save_checkpoint(model, processor, folder)
    else:
        save_model(model, processor, folder, native_names=True)


def spike_policy(run: RunConfig) -> str:
    """Return what trainer.spike resolves to."""
    if run.trainer.spike != "auto":
        return run.trainer.spike
    return "skip" if run.stage.name == "pretrain" else "warn"


def num_workers(run: RunConfig, machine: Machine) -> int:
    """Return the number of processes that collate batches: what trainer.workers resolves to."""
    return (2 if machine.device.type == "cuda" else 0) if run.trainer.workers == "auto" else int(run.trainer.workers)


class Tracker:
    """Appends one JSON object a line. A resumed run first removes the lines after its checkpoint."""

    def __init__(self, run_dir: Path, cfg: TrackerConfig, resumed_step: int | None) -> None:
        self.path = run_dir / "metrics.jsonl"
        self.failed = False
        if resumed_step is not None and self.path.exists():
            lines = self.path.read_text(encoding="utf-8").splitlines()
            earlier = [line for line in lines if is_up_to(line, resumed_step)]
            self.path.write_text("".join(f"{line}\n" for line in earlier), encoding="utf-8")
        elif self.path.exists():
            self.path.unlink()
        self.board = open_board(run_dir, resumed_step) if cfg.name == "tensorboard" else None

    def __call__(self, line: dict[str, Any]) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        except OSError as error:  # a full disk must not end the training; the checkpoint will say so if it lasts
            if not self.failed:
                console.warn(f"{self.path} cannot be written ({error}); training goes on without it")
            self.failed = True
        if self.board is not None:
            prefix = "train" if line["kind"] == "train" else f"eval/{line['split']}"
            for name, value in line.items():
                if isinstance(value, (int, float)) and name not in ("step", "tokens"):
                    self.board.add_scalar(f"{prefix}/{name}", value, line["step"])

    def close(self) -> None:
        if self.board is not None:
            self.board.close()


def is_up_to(line: str, step: int) -> bool:
    """Return whether a line belongs to a step up to `step`."""
    try:
        return int(json.loads(line)["step"]) <= step
    except (ValueError, KeyError):
        return False  # the line that was being written when the run died


def open_board(run_dir: Path, resumed_step: int | None) -> Any:
    """Return a TensorBoard writer. Raise UserError where the package is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(
            "tracker=tensorboard needs the package tensorboard: pip install 'llmstage[tensorboard]'"
        ) from None
    return SummaryWriter(str(run_dir / "tb"), purge_step=resumed_step)
