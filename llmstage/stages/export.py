"""stage=export: writes a trained model for other runtimes and compares the export with the model before publishing it."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

from llmstage import console
from llmstage.config import RunConfig
from llmstage.config.stage import Export
from llmstage.data.rows import BadRows
from llmstage.errors import ModelError, UserError
from llmstage.inference.inference_session import InferenceSession, load_session
from llmstage.models.export import comparison_prompts, difference, export_hf, export_onnx, plain_outputs
from llmstage.models.gguf_export import compare_with_llama_cpp, export_gguf, gguf_package
from llmstage.report.files import write_json
from llmstage.training.finalize import link_latest
from llmstage.training.machine import environment, resolve_machine
from llmstage.training.session import run_lock, session

TOLERANCE = {"hf": 1e-5, "onnx": 1e-3, "int8": 0.1, "f32": 1e-5, "f16": 0.01, "bf16": 0.05, "q8_0": 0.1}
"""The largest difference (models/export.py: difference) that stage.tolerance=auto allows, by the format, or the type of a GGUF
file."""


def run(cfg: RunConfig, out_dir: Path, about: dict[str, str]) -> float | None:
    """Export the model, and return the difference between the logits of the export and of the model."""
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
            if stage.format == "gguf":
                gguf_package()  # a missing package is told before the model is loaded
            model_session = load_session(cfg, machine, BadRows("error", out_dir))
            details = export_model(model_session, stage, target)
            files = [target] if target.is_file() else [path for path in target.rglob("*") if path.is_file()]
            size = sum(path.stat().st_size for path in files)
            export = {
                "format": stage.format, "compat": stage.compat, "folder": str(target.resolve()), "bytes": size, **details,
            }  # fmt: skip
            report = {
                "status": "completed",
                "stage": stage.name,
                "task": cfg.task.name,
                "export": export,
                **environment(),
                **about,
            }
            write_json(
                out_dir / "report.json",
                {**report, "seconds": time.perf_counter() - clock, "run_dir": str(out_dir.resolve())},
            )
            link_latest(out_dir, stage.name)
            checked = "loaded again"
            if details["prompts"]:
                checked = (
                    f"differs by {details['difference']:.2g} of the spread on {details['prompts']} prompts "
                    f"(at most {details['tolerance']:g}), same likeliest {details['same_likeliest']:.1%}"
                )
            if details.get("llama_cpp"):
                checked += f"; llama.cpp: {details['llama_cpp']}"
            console.result(f"{stage.format}: {target} ({size / 1e6:.1f} MB)", checked)
    return float(details["difference"])


def export_model(model_session: InferenceSession, stage: Export, target: Path) -> dict[str, Any]:
    """Write the export to a draft, compare it with the model, and rename the draft to `target`.

    Returns the comparison for report.json. Raises ModelError where the export differs more than stage.tolerance allows.
    """
    processor, model = model_session.components.processor, model_session.model.cpu()
    outtype = "f16" if stage.outtype == "auto" else stage.outtype
    written_type = outtype if stage.format == "gguf" else stage.format
    draft = target.with_name(f".{target.name}.{os.getpid()}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        # Models without logits (two towers, the body of a recommender) and models of images have no prompts: the export functions
        # load such an export again and compare the weights.
        has_prompts = processor.images is None and model_session.task.auto_model != "AutoModel"
        prompts = list(comparison_prompts(processor, stage.prompts)) if has_prompts else []
        model_logits = plain_outputs(model, prompts)
        if stage.format == "hf":
            run_export = export_hf(model, processor, draft, v4=stage.compat == "v4")
        elif stage.format == "gguf":
            run_export = export_gguf(model, processor, draft / f"model-{outtype}.gguf", outtype=outtype)
        else:
            run_export = export_onnx(model, processor, draft, int8=stage.format == "int8")
        export_logits = run_export(prompts)
        largest_difference = difference(model_logits, export_logits) if prompts else 0.0
        tolerance = TOLERANCE[written_type] if stage.tolerance == "auto" else float(stage.tolerance)
        if not largest_difference <= tolerance:  # also where the difference is NaN
            raise ModelError(
                f"The {written_type} export differs from its model by {largest_difference:.2g} of the logits' spread on "
                f"{len(prompts)} prompts, more than {tolerance:g}, so nothing was written. "
                f"stage.tolerance={largest_difference * 1.1:.1g} would accept it."
            )
        same = [
            (logits.argmax(-1) == exported.argmax(-1)).float()
            for batch, exported_batch in zip(model_logits, export_logits, strict=True)
            for logits, exported in zip(batch, exported_batch, strict=True)
        ]
        agreement = float(sum(part.sum() for part in same) / max(1, sum(part.numel() for part in same)))
        details: dict[str, Any] = {
            "difference": largest_difference, "tolerance": tolerance, "prompts": len(prompts),
            "same_likeliest": agreement if prompts else None,
        }  # fmt: skip
        if stage.format == "gguf":
            details["llama_cpp"] = compare_with_llama_cpp(model, processor, draft / f"model-{outtype}.gguf", prompts)
        if target.is_dir():
            target.rmdir()
        (draft / f"model-{outtype}.gguf" if target.suffix == ".gguf" else draft).rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return details
