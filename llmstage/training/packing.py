"""Decide whether a run packs its rows: only where a proof on its model shows that packed documents stay apart."""

from __future__ import annotations

from typing import Any

from llmstage import console
from llmstage.config import RunConfig
from llmstage.errors import ModelError
from llmstage.models.packing_proof import PackingProof, prove_packing
from llmstage.tasks.base import Task

ANNOUNCED: set[str] = set()
"""What this process has said already: training, scoring and control runs build their models one after the other."""


def decide_packing(run: RunConfig, task: Task, model: Any, context: int, *, packs: bool) -> bool:
    """Return whether rows of this model are packed. `packs`: whether task and config would pack.

    Also check the batches that are not packed. Raise ModelError where trainer.packing=on and the proof fails, and where the
    model of a causal task sees later tokens.
    """
    if not task.packs:
        return False
    causal = task.auto_model not in ("AutoModelForMaskedLM", "AutoModelForTokenClassification")
    proof = prove_packing(model, causal=causal, context=context, pad_id=task.processor.pad_id)
    name = run.model.path or run.model.name
    if proof.sees_later:
        raise ModelError(
            f"{type(model).__name__} of {name} sees later tokens, so it would be told the token that it must predict. "
            f"Take a decoder for task={run.task.name}: model.path=<decoder>."
        )
    if proof.padded is not None and not proof.padded.accepted:
        announce(
            f"{name} ({model.config.model_type}): texts in a padded batch differ from the same texts alone by {proof.padded}."
        )
    if packs and proof.form is None:
        if run.trainer.packing == "on":
            raise ModelError(
                f"trainer.packing=on: {explain(name, model, proof)} Use packing=auto, which goes on unpacked."
            )
        announce(f"{explain(name, model, proof)} The rows are not packed.")
    return packs and proof.form is not None


def explain(name: str, model: Any, proof: PackingProof) -> str:
    """Say why the rows of this model are not packed, and by how much packed documents differ."""
    if proof.difference is None:
        return f"{name} ({model.config.model_type}) does not take packed rows ({proof.reason})."
    return (
        f"{name} ({model.config.model_type}): documents that are packed into one row differ from the same documents alone "
        f"by {proof.difference}."
    )


def announce(line: str) -> None:
    """Print a warning once in this process."""
    if line not in ANNOUNCED:
        ANNOUNCED.add(line)
        console.warn(line)
