"""stage=evaluate: the scores of a trained model, as training computed them."""

from __future__ import annotations

import time
from pathlib import Path

from llmstage import console
from llmstage.engine.about import described, header, mapping, model_about, warnings
from llmstage.engine.assemble import assemble, ledger
from llmstage.engine.baseline import baselines
from llmstage.engine.checkpoint import TrainState
from llmstage.engine.control import score_controls
from llmstage.engine.machine import environment, resolve_machine
from llmstage.engine.outcome import finish
from llmstage.engine.runfolder import write_run_yaml
from llmstage.engine.scoring import headline_split, score_all, scores_dict, stored, write_predictions
from llmstage.engine.session import run_lock, session
from llmstage.report.files import write_json
from llmstage.schema import RunConfig


def run(cfg: RunConfig, out_dir: Path, about: dict[str, str]) -> float | None:
    """Score every split there is (train only where it is the only one); returns the selecting metric."""
    clock = time.perf_counter()
    with run_lock(out_dir), console.logged(out_dir / "run.log"):
        machine = resolve_machine(cfg.trainer)
        with session(cfg.seed, machine.threads, deterministic=cfg.trainer.deterministic):
            write_json(out_dir / "environment.json", environment())
            pieces = assemble(cfg, out_dir, training=False, fixed={}, resume_from=None)
            write_run_yaml(
                out_dir,
                cfg,
                {"context": pieces.context, "threads": machine.threads, "precision": cfg.trainer.eval_precision},
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
                "exhibits": scored[split].exhibits,
                "samples": write_predictions(out_dir / "predictions.jsonl", pieces, scored[split], split),
                "warnings": warnings(pieces, TrainState(), beside, scored),
            }
            finish(cfg, out_dir, report, time.perf_counter() - clock)
            chosen = scored[split].scores.get(pieces.task.select)
            return chosen.value if chosen else None
