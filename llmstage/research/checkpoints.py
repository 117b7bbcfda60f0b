"""List the checkpoints of a ladder of models, with size, training tokens and the loss on one held-out corpus."""

from __future__ import annotations

import glob
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from llmstage.errors import ModelError, UserError
from llmstage.explore.probed_model import ProbedModel
from llmstage.models.build import count_parameters
from llmstage.models.loglikelihood import score_decoder
from llmstage.paths import locate_model, read_run_yaml
from llmstage.research.wording import sentence
from llmstage.training.checkpoint import list_checkpoints, step_of, why_invalid

MAX_TOKENS = 1024
"""Tokens of a held-out text that are scored, at most."""


@dataclass(slots=True, frozen=True)
class HeldOut:
    """A text of the held-out corpus. Its loss is computed after the context `given`."""

    text: str
    given: str = ""


@dataclass(slots=True)
class Checkpoint:
    """One model or training checkpoint. A value that is not known is None."""

    id: str
    path: str
    params: int | None = None
    tokens: int | None = None
    step: int | None = None
    seed: int | None = None
    lm_loss: float | None = None
    """Nats per token on the held-out corpus."""
    lm_loss_per_byte: float | None = None
    tokenizer: str = ""
    """Digest of the tokenizer: losses per token of two checkpoints can be compared only where it is the same."""
    group: str = ""
    """Checkpoints of one group differ only in training time or seed."""

    @property
    def flops(self) -> float | None:
        """Training compute, 6 N D (Kaplan et al. 2020)."""
        return None if self.params is None or self.tokens is None else 6.0 * self.params * self.tokens

    def axis_value(self, axis: str) -> float | None:
        """Return the value of the checkpoint on an axis; None where it is not known."""
        value = (
            {"steps": self.step, "flops": self.flops}.get(axis) if axis in ("steps", "flops") else getattr(self, axis)
        )
        return None if value is None else float(value)

    def as_dict(self) -> dict[str, Any]:
        """Return the checkpoint as report.json has it."""
        return {**asdict(self), "flops": self.flops}


def checkpoints_of_runs(patterns: str | list[str]) -> list[Checkpoint]:
    """List every complete checkpoint below the paths that the patterns match: run folders, or checkpoints themselves."""
    checkpoints: list[Checkpoint] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        paths = sorted(Path(path) for path in glob.glob(str(Path(pattern).expanduser())))
        if not paths:
            raise UserError(
                f"stage.ladder.runs={pattern} matches nothing (below {Path.cwd()}). Give run folders, or their "
                f"checkpoints: '<runs>/*/checkpoints/step_*'."
            )
        for path in paths:
            folders = [path] if (path / "state.json").is_file() else list_checkpoints(path / "checkpoints")[::-1]
            if not folders:
                raise UserError(f"stage.ladder.runs: {path} is neither a checkpoint nor a run folder with checkpoints.")
            checkpoints += [read_checkpoint(folder) for folder in folders]
    return list({checkpoint.path: checkpoint for checkpoint in checkpoints}.values())


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read size, tokens, step and seed of a training checkpoint from its files."""
    folder = folder.resolve()
    reason = why_invalid(folder)
    if reason:
        raise ModelError(f"{folder} is not a complete checkpoint: {reason}. Leave it out of stage.ladder.runs.")
    manifest = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    config = manifest.get("config", {})
    model = {key: value for key, value in config.get("model", {}).items() if key != "path"}
    with safe_open(str(folder / "model.safetensors"), "np") as file:
        params = sum(int(np.prod(file.get_slice(name).get_shape())) for name in file.keys())  # noqa: SIM118
    run_dir = folder.parent.parent
    return Checkpoint(
        id=f"{run_dir.name}/{folder.name}",
        path=str(folder),
        params=params,
        tokens=manifest["state"]["tokens"],
        step=step_of(folder),
        seed=config.get("seed"),
        group=json.dumps([model, config.get("trainer", {}).get("max_steps")], sort_keys=True),
    )


def checkpoints_of_models(paths: Sequence[str]) -> list[Checkpoint]:
    """Return Hugging Face directories, run folders or hub ids as checkpoints. Facts about their training that are not
    recorded stay None."""
    checkpoints = []
    for path in paths:
        source = locate_model(path)
        seed = (read_run_yaml(source.run_dir) or {}).get("seed") if source.run_dir else None
        checkpoints.append(
            Checkpoint(id=Path(path).name if source.model_dir else path, path=path, seed=seed, group=path)
        )
    return checkpoints


def measure_checkpoint(checkpoint: Checkpoint, probed: ProbedModel, texts: Sequence[HeldOut]) -> None:
    """Set size, tokenizer digest and held-out losses of the checkpoint, given its loaded model."""
    checkpoint.params = count_parameters(probed.model)
    checkpoint.tokenizer = probed.processor.digest()
    if not texts or probed.model_family != "gpt":
        return
    processor = probed.processor
    start = [processor.bos_id] if processor.bos_id is not None else []
    size = min(MAX_TOKENS, probed.context)
    total, tokens, num_bytes = 0.0, 0, 0.0
    pairs, answer_bytes = [], []
    given_texts = processor.plain_ids([text.given for text in texts])
    for text, given_ids, ids in zip(
        texts, given_texts, processor.plain_ids([text.text for text in texts]), strict=True
    ):
        context_ids = [*start, *given_ids] or ids[:1]
        answer_ids = (ids if start or given_ids else ids[1:])[: max(0, size - len(context_ids))]
        if answer_ids:
            pairs.append((list(context_ids), list(answer_ids)))
            answer_bytes.append(len(text.text.encode()) * len(answer_ids) / max(1, len(ids)))
    for answer, num_answer_bytes in zip(
        score_decoder(probed.model, processor.pad_id, pairs), answer_bytes, strict=True
    ):
        total, tokens, num_bytes = total - answer.total, tokens + len(answer.log_probs), num_bytes + num_answer_bytes
    if tokens:
        checkpoint.lm_loss, checkpoint.lm_loss_per_byte = total / tokens, total / num_bytes


def choose_axis(checkpoints: Sequence[Checkpoint], requested_axis: str) -> tuple[str, list[str]]:
    """Return the axis that all checkpoints have a value on, and the limits that follow where it is not the requested
    one."""
    limits = []
    axis = requested_axis
    if axis == "lm_loss" and any(checkpoint.lm_loss is None for checkpoint in checkpoints):
        axis = next(
            (name for name in ("tokens", "params") if all(checkpoint.axis_value(name) for checkpoint in checkpoints)),
            "steps",
        )
        limits.append(sentence("no_common_loss", axis=axis))
    elif axis == "lm_loss" and len({checkpoint.tokenizer for checkpoint in checkpoints}) > 1:
        axis = "lm_loss_per_byte"
        limits.append(sentence("mixed_tokenizers"))
    if axis != "lm_loss_per_byte" and any(checkpoint.axis_value(axis) is None for checkpoint in checkpoints):
        missing = [checkpoint.id for checkpoint in checkpoints if checkpoint.axis_value(axis) is None]
        raise UserError(
            f"stage.ladder.x={axis}: {', '.join(missing[:4])} have no such value. Use stage.ladder.x=params, or lm_loss with "
            f"task=causal_lm data.test=<text>."
        )
    return axis, limits
