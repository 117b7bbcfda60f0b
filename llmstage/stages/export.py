"""stage=export: a trained model as other runtimes read it, checked before it is put in its place."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from llmstage import console
from llmstage.config import RunConfig
from llmstage.config.stage import Export
from llmstage.data.quarantine import BadRows
from llmstage.errors import ModelError, UserError
from llmstage.inference.inference_session import make_ready
from llmstage.models.export import answers, difference, export_hf, export_onnx, questions
from llmstage.report.files import write_json
from llmstage.training.finalize import link_latest
from llmstage.training.machine import environment, resolve_machine
from llmstage.training.session import run_lock, session

TOLERANCE = {"hf": 1e-5, "onnx": 1e-3, "int8": 0.1}
"""Most that may differ (models/portable.py: difference) where stage.tolerance=auto."""


def run(cfg: RunConfig, out_dir: Path, about: dict[str, str]) -> float | None:
    """Returns the difference between the export and its model."""
    stage = cfg.stage
    assert isinstance(stage, Export)
    clock = time.perf_counter()
    with run_lock(out_dir), console.logged(out_dir / "run.log"):
        machine = resolve_machine(cfg.trainer)
        with session(cfg.seed, machine.threads, deterministic=cfg.trainer.deterministic):
            target = Path(stage.output or out_dir / "export").expanduser()
            if target.exists() and (not target.is_dir() or any(target.iterdir())):
                raise UserError(
                    f"stage.output={target} is there already and not empty. Name a new folder, or remove it."
                )
            ready = make_ready(cfg, machine, BadRows("error", out_dir))
            processor, model = ready.pieces.processor, ready.model.cpu()
            draft = target.with_name(f".{target.name}.{os.getpid()}.draft")
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            try:
                prompts = list(questions(processor, stage.prompts)) if processor.images is None else []
                # A model without a head of its own (two towers, a recommender's body) is compared by its weights, on loading.
                prompts = prompts if ready.task.auto_model != "AutoModel" else []
                wanted = answers(model, prompts)
                if stage.format == "hf":
                    ask = export_hf(model, processor, draft, v4=stage.compat == "v4")
                else:
                    ask = export_onnx(model, processor, draft, int8=stage.format == "int8")
                got = ask(prompts)
                apart = difference(wanted, got) if prompts else 0.0
                most = TOLERANCE[stage.format] if stage.tolerance == "auto" else float(stage.tolerance)
                if not apart <= most:
                    raise ModelError(
                        f"The {stage.format} export differs from its model by {apart:.2g} of the logits' spread on {len(prompts)} prompts, "
                        f"more than {most:g}, so nothing was written. stage.tolerance={apart * 1.1:.1g} would accept it."
                    )
                same = [
                    (a.argmax(-1) == b.argmax(-1)).float()
                    for one, two in zip(wanted, got, strict=True)
                    for a, b in zip(one, two, strict=True)
                ]
                agree = float(sum(part.sum() for part in same) / max(1, sum(part.numel() for part in same)))
                if target.is_dir():
                    target.rmdir()
                draft.rename(target)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
            size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
            told = {
                "format": stage.format, "compat": stage.compat, "folder": str(target.resolve()), "bytes": size, "difference": apart,
                "tolerance": most, "prompts": len(prompts), "same_likeliest": agree if prompts else None,
            }  # fmt: skip
            report = {
                "status": "completed",
                "stage": stage.name,
                "task": cfg.task.name,
                "export": told,
                **environment(),
                **about,
            }
            write_json(
                out_dir / "report.json",
                {**report, "seconds": time.perf_counter() - clock, "run_dir": str(out_dir.resolve())},
            )
            link_latest(out_dir, stage.name)
            checked = f"differs by {apart:.2g} of the spread on {len(prompts)} prompts (at most {most:g}), same likeliest {agree:.1%}"
            console.result(f"{stage.format}: {target} ({size / 1e6:.1f} MB)", checked if prompts else "loaded again")
    return apart
