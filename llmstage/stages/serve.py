"""stage=serve: a trained model behind an HTTP API, a monitor on a page, or both."""

from __future__ import annotations

from pathlib import Path

from llmstage import console
from llmstage.config import RunConfig
from llmstage.config.stage import Serve
from llmstage.data.quarantine import BadRows
from llmstage.errors import UserError
from llmstage.inference.inference_session import make_ready
from llmstage.report.files import write_json
from llmstage.training.finalize import link_latest
from llmstage.training.machine import environment, resolve_machine
from llmstage.training.session import run_lock, session


def run(cfg: RunConfig, out_dir: Path, about: dict[str, str]) -> float | None:
    """Serves until it is told to end."""
    assert isinstance(cfg.stage, Serve)
    try:
        from llmstage.inference.server.server import read_token, serve
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "uvicorn", "pydantic"):
            raise
        raise UserError(f"stage=serve needs the package {error.name}: pip install 'llmstage[serve]'") from None
    read_token(cfg.stage)  # refused before the model is loaded
    with run_lock(out_dir), console.logged(out_dir / "run.log"):
        machine = resolve_machine(cfg.trainer)
        with session(cfg.seed, machine.threads, deterministic=False) as stop:
            ready, name = None, Path(str(cfg.stage.monitor)).expanduser().resolve().name
            if cfg.model.path:
                ready = make_ready(cfg, machine, BadRows("error", out_dir))
                place = ready.pieces.place
                home = place and (place.run_dir or place.model_dir)
                name = cfg.stage.name_of_model or (home.name if home else str(cfg.model.path))
            stop.heeded = True  # from here on the server ends with a signal, and raises it once more when it has
            serve(ready, cfg.stage, name)
        report = {"status": "completed", "stage": cfg.stage.name, "task": cfg.task.name, **environment(), **about}
        write_json(out_dir / "report.json", {**report, "run_dir": str(out_dir.resolve())})
        link_latest(out_dir, cfg.stage.name)
    return None
