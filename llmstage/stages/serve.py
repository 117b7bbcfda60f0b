"""stage=serve: an HTTP API for a trained model, a web page for a monitor, or both."""

from __future__ import annotations

from pathlib import Path

from llmstage import console
from llmstage.config import RunConfig
from llmstage.config.stage import Serve
from llmstage.data.rows import BadRows
from llmstage.errors import UserError
from llmstage.inference.inference_session import load_session
from llmstage.report.files import write_json
from llmstage.training.finalize import link_latest
from llmstage.training.machine import environment, resolve_machine
from llmstage.training.session import run_lock, session


def run(cfg: RunConfig, out_dir: Path, about: dict[str, str]) -> float | None:
    """Serve until a signal arrives."""
    assert isinstance(cfg.stage, Serve)
    try:
        from llmstage.inference.server.server import read_token, serve
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "uvicorn", "pydantic"):
            raise
        raise UserError(f"stage=serve needs the package {error.name}: pip install 'llmstage[serve]'") from None
    read_token(cfg.stage)  # raises what it refuses before the model is loaded
    with run_lock(out_dir), console.logged(out_dir / "run.log"):
        machine = resolve_machine(cfg.trainer)
        with session(cfg.seed, machine.threads, deterministic=False) as stop:
            model_session, name = None, Path(str(cfg.stage.monitor)).expanduser().resolve().name
            if cfg.model.path:
                model_session = load_session(cfg, machine, BadRows("error", out_dir))
                source = model_session.components.model_source
                folder = source and (source.run_dir or source.model_dir)
                name = cfg.stage.name_of_model or (folder.name if folder else str(cfg.model.path))
            stop.handles_stop = (
                True  # uvicorn handles signals from here on, and raises the signal again after its shutdown
            )
            serve(model_session, cfg.stage, name)
        report = {"status": "completed", "stage": cfg.stage.name, "task": cfg.task.name, **environment(), **about}
        write_json(out_dir / "report.json", {**report, "run_dir": str(out_dir.resolve())})
        link_latest(out_dir, cfg.stage.name)
    return None
