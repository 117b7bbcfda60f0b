"""stage=evaluate: score a trained model on every split, with the functions that training uses."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmstage import console
from llmstage.config import RunConfig
from llmstage.config.stage import Evaluate
from llmstage.evaluation.baselines import baselines
from llmstage.evaluation.scoring import headline_split, report_values, score_all, scores_dict, write_predictions
from llmstage.report.files import plain, write_json
from llmstage.report.lm_eval import command, write_results
from llmstage.training.checkpoint import TrainState
from llmstage.training.components import (
    RunComponents,
    column_mapping,
    describe_data,
    describe_model,
    header,
    token_ledger,
)
from llmstage.training.control_runs import score_controls
from llmstage.training.finalize import finish, warnings
from llmstage.training.machine import environment, resolve_machine, scoring_precision
from llmstage.training.run_folder import write_run_yaml
from llmstage.training.session import run_lock, session
from llmstage.training.setup import setup_run


def run(cfg: RunConfig, out_dir: Path, metadata: dict[str, str]) -> float | None:
    """Score every split, `train` only where there is no other; return the selecting metric."""
    assert isinstance(cfg.stage, Evaluate)
    started = time.perf_counter()
    with run_lock(out_dir), console.logged(out_dir / "run.log"):
        machine = resolve_machine(cfg.trainer)
        with session(cfg.seed, machine.threads, deterministic=cfg.trainer.deterministic):
            # 1. Rows, task and model.
            write_json(out_dir / "environment.json", environment())
            components = setup_run(cfg, out_dir, training=False)
            precision = scoring_precision(cfg.trainer)
            auto_values = {"context": components.context, "threads": machine.threads, "precision": precision}
            write_run_yaml(out_dir, cfg, auto_values)
            model = components.build(cfg, machine.device, training=False)
            console.note(header(cfg, components, out_dir))

            # 2. Scores, also those of control runs and simple methods on the same rows.
            scored = score_all(cfg, components, model, machine, training=False)
            split = headline_split(scored)
            controls = score_controls(cfg, components, machine, out_dir, scored[split], split)
            comparison = baselines(cfg, components, scored[split], split, controls)

            # 3. The report.
            report = {
                **metadata,
                "data": {
                    "described": describe_data(components),
                    "mapping": column_mapping(components),
                    "splits": token_ledger(components),
                },
                "model": describe_model(cfg, components, model),
                "train": None,
                "scores": scores_dict(scored),
                **report_values(scored),
                "baselines": comparison,
                "exhibits": scored[split].report_items,
                "samples": write_predictions(out_dir / "predictions.jsonl", components, scored[split], split),
                "warnings": warnings(components, TrainState(), comparison, scored),
            }
            finish(cfg, out_dir, report, time.perf_counter() - started)
            if cfg.stage.lm_eval:
                write_lm_eval(cfg, out_dir, components, report, machine.device.type)
            selected = scored[split].scores.get(components.task.select)
            return selected.value if selected else None


def write_lm_eval(
    cfg: RunConfig, out_dir: Path, components: RunComponents, report: dict[str, Any], device: str
) -> None:
    """Write the scores in the format of lm-evaluation-harness, and print its command for the same model."""
    model_source = components.model_source
    assert model_source is not None
    full_report = {
        **environment(),
        **report,
        "task": cfg.task.name,
        "seed": cfg.seed,
        "device": device,
        "model_dir": str(model_source.model_dir or model_source.hub_id),
        "seconds": json.loads((out_dir / "report.json").read_text(encoding="utf-8"))["seconds"],
    }
    path = write_results(out_dir, plain(full_report), components.processor.tokenizer, asdict(cfg.generation))
    console.result(f"results in lm-evaluation-harness's form: {path}", command(full_report))
