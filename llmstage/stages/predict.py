"""stage=predict: what a trained model says of each row of a file."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

from llmstage import console
from llmstage.config import RunConfig
from llmstage.config.stage import Predict
from llmstage.data.quarantine import BadRows
from llmstage.data.resumable_output import Growing, Pipe
from llmstage.inference.inference_session import make_ready
from llmstage.inference.predict import key_of, predict, reads_standard_input
from llmstage.report.files import write_json
from llmstage.training.finalize import link_latest
from llmstage.training.machine import environment, resolve_machine
from llmstage.training.run_folder import write_run_yaml
from llmstage.training.session import run_lock, session


def run(cfg: RunConfig, out_dir: Path, about: dict[str, str]) -> float | None:
    """Rows in, lines out; standard output holds lines only, everything else is said on standard error."""
    assert isinstance(cfg.stage, Predict)
    clock = time.perf_counter()
    with run_lock(out_dir), console.logged(out_dir / "run.log"):
        machine = resolve_machine(cfg.trainer)
        with session(cfg.seed, machine.threads, deterministic=cfg.trainer.deterministic, heeded=True) as stop:
            bad_rows = BadRows(cfg.data.on_bad_row, out_dir)
            ready = make_ready(cfg, machine, bad_rows)
            write_run_yaml(out_dir, cfg, {"context": ready.pieces.context})
            path = Path(cfg.stage.output or out_dir / "predictions.jsonl").expanduser()
            output: Growing | Pipe
            if cfg.stage.output == "-":
                output = Pipe()
            else:
                once = reads_standard_input(ready)  # what stood there before cannot be read again
                output = Growing(path, f"{time.time_ns()}" if once else key_of(ready))
            if output.rows:
                console.note(
                    f"resumed from row {output.rows:,} ({output.draft if isinstance(output, Growing) else ''})"
                )
            assert ready.source is not None
            console.note(
                f"llmstage predict | {cfg.task.name} on {ready.source.described} | {cfg.model.path} | {out_dir}"
            )
            done = predict(ready, output, stop, bad_rows, cfg.stage.chunk_rows)
            fresh = done.rows - done.resumed
            told = {
                **asdict(done), "output": cfg.stage.output or str(path), "rows_per_second": fresh / max(done.seconds, 1e-9),
            }  # fmt: skip
            report = {
                "status": "completed",
                "stage": cfg.stage.name,
                "task": cfg.task.name,
                "predicted": told,
                **environment(),
                **about,
            }
            write_json(
                out_dir / "report.json",
                {**report, "seconds": time.perf_counter() - clock, "run_dir": str(out_dir.resolve())},
            )
            link_latest(out_dir, cfg.stage.name)
            where = "standard output" if cfg.stage.output == "-" else path
            bad = f", {done.refused + len(bad_rows.seen)} bad rows left out ({bad_rows.path})" if bad_rows.seen else ""
            console.note(f"{done.rows:,} rows to {where} ({fresh / max(done.seconds, 1e-9):,.0f} rows/s){bad}")
    return None
