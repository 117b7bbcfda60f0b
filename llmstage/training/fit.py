"""Training from end to end: what stage=pretrain and stage=finetune share."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from llmstage import console
from llmstage.allocator import allocator_name
from llmstage.config import RunConfig
from llmstage.data.encoding.order import BatchOrder
from llmstage.errors import ModelError
from llmstage.evaluation.baselines import baselines
from llmstage.evaluation.eval_loop import Scored
from llmstage.evaluation.metrics.score import Score
from llmstage.evaluation.scoring import headline_split, score, score_all, scores_dict, select, stored, write_predictions
from llmstage.kernels.enable import choose_kernels, compile_body, use_kernels
from llmstage.models.adapter import has_adapter, merge_adapter, save_adapter, save_checkpoint
from llmstage.models.build import save_model
from llmstage.paths import ModelSource
from llmstage.report.files import write_json
from llmstage.tokenization.tokenizer import Processor
from llmstage.training.batch_size_finder import probe_micro
from llmstage.training.checkpoint import Checkpoints, TrainState, find_checkpoint, load_tensors, read_state, set_aside
from llmstage.training.control_runs import train_controls
from llmstage.training.finalize import finish
from llmstage.training.loop import Training, train
from llmstage.training.machine import Machine, environment, peak_memory, product_rate, resolve_machine
from llmstage.training.optimizers import build_optimizer, build_schedule
from llmstage.training.plan import Plan, check_budget, check_disk, make_order, make_plan, plan_line
from llmstage.training.run_folder import check_same_run, comparable, write_run_yaml
from llmstage.training.session import run_lock, session
from llmstage.training.setup import RunComponents, data_digest, ledger, setup_run
from llmstage.training.summary import described, header, mapping, model_about, warnings
from llmstage.training.tracker import Tracker
from llmstage.training.variant import Arm


def fit(run: RunConfig, out_dir: Path, about: dict[str, str]) -> float | None:
    """Train, select, score, write the run folder, and the same for the task's controls. Returns the selecting metric on
    validation: what a sweep optimises."""
    return fit_one(run, out_dir, about)[0]


def fit_one(
    run: RunConfig,
    out_dir: Path,
    about: dict[str, str],
    batches: BatchOrder | None = None,
    arm: Arm | None = None,
    *,
    save_at: frozenset[int] = frozenset(),
    main: bool | None = None,
    by_character: bool = False,
) -> tuple[float | None, dict[str, Scored]]:
    """fit(), with what was scored. `batches`: of a control, those of the run beside which it is trained. `arm`: what is
    other in a run that stage=explore trains. `save_at`: steps after which a checkpoint is written in any case. `main`: what
    outputs/latest names; None: all but controls and arms. `by_character`: its tokenizer joins no Chinese characters."""
    clock = time.perf_counter()
    with run_lock(out_dir), console.logged(out_dir / "run.log"):
        old = set_aside(out_dir) if run.trainer.resume == "never" else None
        if old:
            console.note(f"trainer.resume=never: the checkpoints of the earlier run are kept in {old}")
        found = find_checkpoint(out_dir, run.trainer.resume)
        state, saved = read_state(found) if found else (TrainState(), {})
        fixed = saved.get("resolved", {})
        machine = resolve_machine(run.trainer, fixed)
        with session(run.seed, machine.threads, deterministic=run.trainer.deterministic, heeded=True) as stop:
            if found:
                check_same_run(run, saved["config"], found)
            write_json(out_dir / "environment.json", environment())
            rows = arm.rows if arm else None
            pieces = setup_run(
                run, out_dir, training=True, fixed=fixed, resume_from=found, rows=rows, by_character=by_character
            )
            torch.manual_seed(run.seed)  # weights depend on the seed alone, not on what was encoded or cached
            model = pieces.build(run, machine.device, training=True)
            kernels = choose_kernels(run, machine, fixed, model)
            use_kernels(model, kernels)
            store = pieces.stores["train"]
            check_budget(run, store)
            task = pieces.task
            own_order = make_order(run, store, pieces.context, packing=pieces.packing, by_length=task.by_length)
            learned = arm.objective(pieces, machine) if arm else task
            order = batches or (arm.order(own_order, store) if arm else own_order)
            rate = product_rate(machine)
            if probes_micro(run, machine, fixed, additive=task.additive_loss):
                fixed = {**fixed, "micro_batch_size": probe_micro(task, model, store, order, machine)}
            compile_body(model, kernels)
            plan = make_plan(
                run,
                store,
                order,
                model,
                machine,
                rate,
                fixed,
                from_scratch=pieces.place is None,
                additive=task.additive_loss,
                lr_share=task.lr_share,
            )
            check_disk(out_dir, plan.trained)
            resolved = resolve(plan, machine, pieces, kernels, fixed, found)
            write_run_yaml(out_dir, run, resolved)
            planned = plan_line(
                plan,
                machine,
                packing=pieces.packing,
                allocator=resolved["allocator"],
                compiled=resolved["compile"],
                recomputed=resolved["activation_checkpointing"],
                by_length=task.by_length,
                chance=task.chance_loss(plan.batch_rows),
            )
            console.note(header(run, pieces, out_dir), planned)
            if found:
                console.note(f"resumed from step {state.step} ({found})")
            optimizer = build_optimizer(model, run.optim, plan.lr)
            before = before_training(run, pieces, model, machine, out_dir, resumed=found is not None)
            tracker = Tracker(out_dir, run.tracker, state.step if found else None)
            checkpoints = Checkpoints(
                out_dir,
                run.trainer.save_total_limit,
                lambda folder: save_weights(model, pieces.processor, folder),
                {"config": comparable(run), "resolved": resolved},
            )
            checkpoints.clean()
            checkpoints.resumed_from = found
            torch.manual_seed(run.seed + 1)
            if found:
                load_tensors(found, model, optimizer)

            def evaluate(step: int) -> tuple[str, Score] | None:
                if "validation" not in pieces.stores:
                    return None
                rows = run.trainer.eval_rows
                scored = score(run, pieces, model, machine, "validation", num_rows=rows, generate=False)
                if pieces.task.select not in scored.scores:
                    scored = score(run, pieces, model, machine, "validation", num_rows=rows, generate=True)
                tracker(
                    {
                        "step": step,
                        "kind": "eval",
                        "split": "validation",
                        **{name: value.value for name, value in scored.scores.items()},
                    }
                )
                return select(pieces.task, scored.scores)

            training = Training(
                model=model,
                task=learned,
                store=store,
                order=order,
                schedule=build_schedule(run.optim, plan.lr, plan.steps),
                optimizer=optimizer,
                machine=machine,
                checkpoints=checkpoints,
                state=state,
                stop=stop,
                micro_batch_size=plan.micro_batch_size,
                eval_every=plan.eval_every,
                save_every=plan.save_every,
                patience=run.trainer.patience,
                max_tokens=run.trainer.max_tokens,
                max_norm=run.optim.max_grad_norm,
                spike=spike_policy(run),
                workers=resolve_workers(run, machine),
                log_every=run.trainer.log_every,
                flops_per_token=plan.flops / max(1, plan.tokens),
                rate=rate,
                evaluate=evaluate,
                log=tracker,
                save_at=save_at,
            )
            train(training)
            tracker.close()
            selected = load_best(model, state, checkpoints)
            if has_adapter(model):
                model = settle_adapter(run, pieces, model, machine, out_dir)
            tune(run, pieces, model, machine)
            scored = score_all(run, pieces, model, machine, training=True)
            split = headline_split(scored) if scored else None
            shown = scored[split] if split else None
            samples = write_predictions(out_dir / "predictions.jsonl", pieces, shown, split) if shown and split else []
            if has_adapter(model):  # adapter.merge=false
                model.config.save_pretrained(out_dir / "adapter")
            else:
                save_model(model, pieces.processor, out_dir / "model")
            controls = train_controls(
                run, pieces, out_dir, plan.steps, scored, split, lambda own, at: fit_one(own, at, about, order)[1]
            )
            beside = baselines(run, pieces, shown, split, controls) if shown and split else None
            report = {
                **about,
                "data": {"described": described(pieces), "mapping": mapping(pieces), "splits": ledger(pieces)},
                "model": model_about(run, pieces, model),
                "train": train_about(state, plan, machine, pieces, rate, selected, resolved),
                "scores": scores_dict(scored),
                **stored(scored),
                "before": {split: before} if before and split else {},
                "baselines": beside,
                "exhibits": shown.report_items if shown else [],
                "samples": samples,
                "predicted": {
                    "steps": plan.steps,
                    "tokens": plan.tokens,
                    "seconds": plan.seconds,
                    "memory_bytes": plan.memory_bytes,
                },
                "plan": planned,
                "warnings": warnings(pieces, state, beside, scored),
            }
            newest = (batches is None and arm is None) if main is None else main
            finish(run, out_dir, report, time.perf_counter() - clock, main=newest)
            chosen = select(pieces.task, scored["validation"].scores)[1].value if "validation" in scored else None
            return chosen, scored


def resolve(
    plan: Plan,
    machine: Machine,
    pieces: RunComponents,
    kernels: dict[str, Any],
    fixed: dict[str, Any],
    found: Path | None,
) -> dict[str, Any]:
    """Everything `auto` decided, for run.yaml and each checkpoint; a resumed run keeps it."""
    digest = data_digest(pieces)
    if found and fixed.get("data_digest") != digest:
        raise ModelError(
            f"The training data has changed since {found} was written (content, options or tokenizer). "
            f"Resume with the old data, or start anew in another folder with trainer.resume=never."
        )
    return {
        "threads": machine.threads,
        "precision": machine.precision,
        "micro_batch_size": plan.micro_batch_size,
        "lr": plan.lr,
        "context": pieces.context,
        "packing": pieces.packing,
        **kernels,
        "allocator": fixed.get("allocator", allocator_name()),
        "steps": plan.steps,
        "data_digest": digest,
    }


def probes_micro(run: RunConfig, machine: Machine, fixed: dict[str, Any], *, additive: bool) -> bool:
    """Whether the size of micro-batches is found by trying: on a GPU, once in the life of a run."""
    chosen = run.trainer.micro_batch_size != "auto" or fixed.get("micro_batch_size")
    return machine.device.type == "cuda" and additive and not chosen


def spike_policy(run: RunConfig) -> str:
    if run.trainer.spike != "auto":
        return run.trainer.spike
    return "skip" if run.stage.name == "pretrain" else "warn"


def resolve_workers(run: RunConfig, machine: Machine) -> int:
    return (2 if machine.device.type == "cuda" else 0) if run.trainer.workers == "auto" else int(run.trainer.workers)


def before_training(
    run: RunConfig, pieces: RunComponents, model: nn.Module, machine: Machine, out_dir: Path, *, resumed: bool
) -> dict[str, Any]:
    """Scores of the untrained model on the split that the report shows; kept in a file, so that a resumed run has them."""
    path = out_dir / "before.json"
    if resumed and path.is_file():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    splits = [split for split in pieces.stores if split != "train"]
    if not splits:
        return {}
    # Text of an untrained model is long and tells little: it is generated for a few rows only, and `count` says so.
    scored = score(run, pieces, model, machine, headline_split(dict.fromkeys(splits)), text_rows=20)
    found = {name: value.as_dict() for name, value in scored.scores.items()}
    write_json(path, found)
    return found


def load_best(model: nn.Module, state: TrainState, checkpoints: Checkpoints) -> int:
    """Weights of the best checkpoint where a validation metric selected one; returns the step they belong to."""
    folder = checkpoints.folder / f"step_{state.best_step or 0:06d}"
    if state.best_step is None or state.best_step == state.step or not folder.is_dir():
        return state.step
    # Not all weights are there (tied ones, those that an adapter leaves alone), but whatever is there must go somewhere.
    unknown = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False).unexpected_keys
    if unknown:
        raise ModelError(f"{folder} does not fit the model: {', '.join(unknown[:4])}.")
    return state.best_step


def save_weights(model: nn.Module, processor: Processor, folder: Path) -> None:
    """What a checkpoint holds of the model: all of it, or the adapter where all else is as it was loaded."""
    if has_adapter(model):
        save_checkpoint(model, processor, folder)
    else:
        save_model(model, processor, folder, own_names=True)


def settle_adapter(run: RunConfig, pieces: RunComponents, model: nn.Module, machine: Machine, out_dir: Path) -> Any:
    """Write adapter/; the model to be scored and saved, merged unless told otherwise, on full base weights."""
    save_adapter(model, pieces.processor, out_dir / "adapter")
    if run.adapter.quantize != "none":
        model = replace(pieces, place=ModelSource(out_dir / "adapter")).build(run, machine.device, training=False)
    if run.adapter.merge:
        merge_adapter(model)
    return model


def tune(run: RunConfig, pieces: RunComponents, model: nn.Module, machine: Machine) -> None:
    """What a task fits on validation after training goes into the model's config, so that the saved model has it."""
    if not pieces.task.tunes or "validation" not in pieces.stores:
        return
    scored = score(run, pieces, model, machine, "validation")
    pieces.task.tune(scored.predictions, scored.refs)
    config: Any = model.config
    config.llmstage = pieces.task.model_options().get("llmstage")


def train_about(
    state: TrainState,
    plan: Plan,
    machine: Machine,
    pieces: RunComponents,
    rate: float,
    selected: int,
    resolved: dict[str, Any],
) -> dict[str, Any]:
    speed = state.timed_tokens / state.timed_seconds if state.timed_seconds else None
    flops = plan.flops / plan.tokens if plan.tokens else 0.0
    return {
        "steps": state.step,
        "epochs": round(plan.epochs * state.step / plan.steps, 3),
        "tokens": state.tokens,
        "tokens_per_second": speed,
        "mfu": speed * flops / rate if speed else None,
        "peak_memory_bytes": peak_memory(),
        "seconds": state.seconds,
        "loss": {"first": state.first_loss, "last": state.last_loss, "best_validation": state.best}
        | ({"chance": chance} if (chance := pieces.task.chance_loss(plan.batch_rows)) is not None else {}),
        "selected_step": selected,
        "skipped_steps": state.skipped,
        "rollbacks": state.rollbacks,
        "real_share": plan.real_share,
        **{
            name: resolved[name]
            for name in (
                "precision",
                "threads",
                "micro_batch_size",
                "lr",
                "packing",
                "compile",
                "attention",
                "activation_checkpointing",
                "float8",
                "allocator",
            )
        },
        "plan": asdict(plan),
    }
