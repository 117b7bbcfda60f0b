"""stage=evaluate: the scores of a trained model, as training computed them."""

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
from llmstage.evaluation.scoring import headline_split, score_all, scores_dict, stored, write_predictions
from llmstage.report.files import plain, write_json
from llmstage.report.lm_eval import command, write_results
from llmstage.training.checkpoint import TrainState
from llmstage.training.control_runs import score_controls
from llmstage.training.finalize import finish
from llmstage.training.machine import environment, resolve_machine, scoring_precision
from llmstage.training.run_folder import write_run_yaml
from llmstage.training.session import run_lock, session
from llmstage.training.setup import RunComponents, ledger, setup_run
from llmstage.training.summary import described, header, mapping, model_about, warnings


def run(cfg: RunConfig, out_dir: Path, about: dict[str, str]) -> float | None:
    """Score every split there is (train only where it is the only one); returns the selecting metric."""
    assert isinstance(cfg.stage, Evaluate)
    clock = time.perf_counter()
    with run_lock(out_dir), console.logged(out_dir / "run.log"):
        machine = resolve_machine(cfg.trainer)
        with session(cfg.seed, machine.threads, deterministic=cfg.trainer.deterministic):
            write_json(out_dir / "environment.json", environment())
            pieces = setup_run(cfg, out_dir, training=False, fixed={}, resume_from=None)
            write_run_yaml(
                out_dir,
                cfg,
                {"context": pieces.context, "threads": machine.threads, "precision": scoring_precision(cfg.trainer)},
            )
            model = pieces.build(cfg, machine.device, training=False)
            console.note(header(cfg, pieces, out_dir))
            scored = score_all(cfg, pieces, model, machine, training=False)
            split = headline_split(scored)
            controls = score_controls(cfg, pieces, machine, out_dir, scored[split], split)
            beside = baselines(cfg, pieces, scored[split], split, controls)
            report = {
                **about,
                "data": {"described": described(pieces), "mapping": mapping(pieces), "splits": ledger(pieces)},
                "model": model_about(cfg, pieces, model),
                "train": None,
                "scores": scores_dict(scored),
                **stored(scored),
                "baselines": beside,
                "exhibits": scored[split].report_items,
                "samples": write_predictions(out_dir / "predictions.jsonl", pieces, scored[split], split),
                "warnings": warnings(pieces, TrainState(), beside, scored),
            }
            finish(cfg, out_dir, report, time.perf_counter() - clock)
            if cfg.stage.lm_eval:
                tell_lm_eval(cfg, out_dir, pieces, report, machine.device.type)
            chosen = scored[split].scores.get(pieces.task.select)
            return chosen.value if chosen else None


def tell_lm_eval(cfg: RunConfig, out_dir: Path, pieces: RunComponents, report: dict[str, Any], device: str) -> None:
    """The same scores in lm-evaluation-harness's form, and its command line for the model."""
    place = pieces.place
    assert place is not None
    known = {
        "task": cfg.task.name,
        "seed": cfg.seed,
        "device": device,
        "model_dir": str(place.model_dir or place.hub_id),
    }
    seconds = json.loads((out_dir / "report.json").read_text(encoding="utf-8"))["seconds"]
    whole = {**environment(), **report, **known, "seconds": seconds}
    path = write_results(out_dir, plain(whole), pieces.processor.tokenizer, asdict(cfg.generation))
    console.result(f"results in lm-evaluation-harness's form: {path}", command(whole))
