"""stage=predict: writes the prediction of a trained model for each row of a file."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

from llmstage import console
from llmstage.config import RunConfig
from llmstage.config.stage import Predict
from llmstage.data.resumable_output import ResumableOutput, StdoutOutput
from llmstage.data.rows import BadRows
from llmstage.inference.inference_session import load_session
from llmstage.inference.predict import output_fingerprint, predict, reads_standard_input
from llmstage.report.files import write_json
from llmstage.training.finalize import link_latest
from llmstage.training.machine import environment, resolve_machine
from llmstage.training.run_folder import write_run_yaml
from llmstage.training.session import run_lock, session


def run(cfg: RunConfig, out_dir: Path, about: dict[str, str]) -> float | None:
    """Predict the rows of data.test. With stage.output=- standard output has only the lines; messages go to standard error."""
    assert isinstance(cfg.stage, Predict)
    clock = time.perf_counter()
    with run_lock(out_dir), console.logged(out_dir / "run.log"):
        machine = resolve_machine(cfg.trainer)
        with session(cfg.seed, machine.threads, deterministic=cfg.trainer.deterministic, handles_stop=True) as stop:
            bad_rows = BadRows(cfg.data.on_bad_row, out_dir)
            model_session = load_session(cfg, machine, bad_rows)
            write_run_yaml(out_dir, cfg, {"context": model_session.components.context})
            path = Path(cfg.stage.output or out_dir / "predictions.jsonl").expanduser()
            output: ResumableOutput | StdoutOutput
            if cfg.stage.output == "-":
                output = StdoutOutput()
            else:
                # Standard input cannot be read again, so a run that reads it never continues an earlier draft.
                unique = f"{time.time_ns()}"
                output = ResumableOutput(
                    path, unique if reads_standard_input(model_session) else output_fingerprint(model_session)
                )
            if output.rows:
                draft = output.draft if isinstance(output, ResumableOutput) else ""
                console.note(f"resumed from row {output.rows:,} ({draft})")
            assert model_session.source is not None
            console.note(
                f"llmstage predict | {cfg.task.name} on {model_session.source.description} | {cfg.model.path} | {out_dir}"
            )
            done = predict(model_session, output, stop, bad_rows, cfg.stage.chunk_rows)
            num_new = done.rows - done.resumed
            predicted = {
                **asdict(done), "output": cfg.stage.output or str(path), "rows_per_second": num_new / max(done.seconds, 1e-9),
            }  # fmt: skip
            report = {
                "status": "completed",
                "stage": cfg.stage.name,
                "task": cfg.task.name,
                "predicted": predicted,
                **environment(),
                **about,
            }
            write_json(
                out_dir / "report.json",
                {**report, "seconds": time.perf_counter() - clock, "run_dir": str(out_dir.resolve())},
            )
            link_latest(out_dir, cfg.stage.name)
            target = "standard output" if cfg.stage.output == "-" else path
            bad = f", {done.refused + len(bad_rows.seen)} bad rows left out ({bad_rows.path})" if bad_rows.seen else ""
            console.note(f"{done.rows:,} rows to {target} ({num_new / max(done.seconds, 1e-9):,.0f} rows/s){bad}")
    return None
