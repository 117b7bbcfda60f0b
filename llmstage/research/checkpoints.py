"""The rungs of a ladder: which models there are, how large, how long trained, and their loss on one held-out corpus."""

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
from llmstage.explore.probed_model import Subject
from llmstage.explore.wording import say
from llmstage.models.build import count_parameters
from llmstage.models.loglikelihood import tell_decoder
from llmstage.paths import locate_model, read_run_yaml
from llmstage.training.checkpoint import list_checkpoints, step_of, why_invalid

LONGEST = 1024
"""Tokens of a held-out text that are read, at most."""


@dataclass(slots=True, frozen=True)
class HeldOut:
    """A text of the common corpus; its loss is read behind what is given."""

    text: str
    given: str = ""


@dataclass(slots=True)
class Rung:
    """One model or checkpoint. What is not known is None."""

    id: str
    path: str
    params: int | None = None
    tokens: int | None = None
    step: int | None = None
    seed: int | None = None
    lm_loss: float | None = None
    """nats a token on the held-out corpus."""
    lm_loss_per_byte: float | None = None
    tokenizer: str = ""
    """Digest: losses a token of two rungs compare only where it is the same."""
    group: str = ""
    """Rungs that differ in training time or seed alone share it."""

    @property
    def flops(self) -> float | None:
        """6 N D (Kaplan 2020)."""
        return None if self.params is None or self.tokens is None else 6.0 * self.params * self.tokens

    def place(self, axis: str) -> float | None:
        value = (
            {"steps": self.step, "flops": self.flops}.get(axis) if axis in ("steps", "flops") else getattr(self, axis)
        )
        return None if value is None else float(value)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "flops": self.flops}


def rungs_of_runs(patterns: str | list[str]) -> list[Rung]:
    """Every whole checkpoint of the run folders, or the checkpoints themselves, that the patterns name."""
    found: list[Rung] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        places = sorted(Path(path) for path in glob.glob(str(Path(pattern).expanduser())))
        if not places:
            raise UserError(
                f"stage.ladder.runs={pattern} names nothing (seen from {Path.cwd()}). Give run folders, or their "
                f"checkpoints: '<runs>/*/checkpoints/step_*'."
            )
        for place in places:
            checkpoints = [place] if (place / "state.json").is_file() else list_checkpoints(place / "checkpoints")[::-1]
            if not checkpoints:
                raise UserError(f"stage.ladder.runs: {place} is no run folder with checkpoints and no checkpoint.")
            found += [rung_of_checkpoint(folder) for folder in checkpoints]
    return list({rung.path: rung for rung in found}.values())


def rung_of_checkpoint(folder: Path) -> Rung:
    folder = folder.resolve()
    reason = why_invalid(folder)
    if reason:
        raise ModelError(f"{folder} is no whole checkpoint: {reason}. Leave it out of stage.ladder.runs.")
    about = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    config = about.get("config", {})
    model = {key: value for key, value in config.get("model", {}).items() if key != "path"}
    with safe_open(str(folder / "model.safetensors"), "np") as file:
        params = sum(int(np.prod(file.get_slice(name).get_shape())) for name in file.keys())  # noqa: SIM118
    run_dir = folder.parent.parent
    return Rung(
        id=f"{run_dir.name}/{folder.name}",
        path=str(folder),
        params=params,
        tokens=about["state"]["tokens"],
        step=step_of(folder),
        seed=config.get("seed"),
        group=json.dumps([model, config.get("trainer", {}).get("max_steps")], sort_keys=True),
    )


def rungs_of_models(paths: Sequence[str]) -> list[Rung]:
    """Hugging Face directories, run folders or hub ids; what they do not say of their training stays unknown."""
    found = []
    for path in paths:
        place = locate_model(path)
        seed = (read_run_yaml(place.run_dir) or {}).get("seed") if place.run_dir else None
        found.append(Rung(id=Path(path).name if place.model_dir else path, path=path, seed=seed, group=path))
    return found


def examine(rung: Rung, subject: Subject, texts: Sequence[HeldOut]) -> None:
    """Write size, tokenizer and held-out losses into the rung."""
    rung.params = count_parameters(subject.model)
    rung.tokenizer = subject.processor.digest()
    if not texts or subject.kind != "gpt":
        return
    processor = subject.processor
    begin = [processor.bos_id] if processor.bos_id is not None else []
    size = min(LONGEST, subject.context)
    total, tokens, num_bytes = 0.0, 0, 0.0
    pairs, shares = [], []
    given = processor.plain_ids([one.given for one in texts])
    for one, before, ids in zip(texts, given, processor.plain_ids([one.text for one in texts]), strict=True):
        head = [*begin, *before] or ids[:1]
        body = (ids if begin or before else ids[1:])[: max(0, size - len(head))]
        if body:
            pairs.append((list(head), list(body)))
            shares.append(len(one.text.encode()) * len(body) / max(1, len(ids)))
    for told, share in zip(tell_decoder(subject.model, processor.pad_id, pairs), shares, strict=True):
        total, tokens, num_bytes = total - told.total, tokens + len(told.log_probs), num_bytes + share
    if tokens:
        rung.lm_loss, rung.lm_loss_per_byte = total / tokens, total / num_bytes


def axis_of(rungs: Sequence[Rung], wanted: str) -> tuple[str, list[str]]:
    """The axis that the rungs can be put on, and what it means for the conclusion where it is not the wanted one."""
    limits = []
    axis = wanted
    if axis == "lm_loss" and any(rung.lm_loss is None for rung in rungs):
        axis = next((name for name in ("tokens", "params") if all(rung.place(name) for rung in rungs)), "steps")
        limits.append(say("no_common_loss", axis=axis))
    elif axis == "lm_loss" and len({rung.tokenizer for rung in rungs}) > 1:
        axis = "lm_loss_per_byte"
        limits.append(say("mixed_tokenizers"))
    if axis != "lm_loss_per_byte" and any(rung.place(axis) is None for rung in rungs):
        missing = [rung.id for rung in rungs if rung.place(axis) is None]
        raise UserError(
            f"stage.ladder.x={axis}: {', '.join(missing[:4])} do not say it. Use stage.ladder.x=params, or lm_loss with "
            f"task=causal_lm data.test=<text>."
        )
    return axis, limits
