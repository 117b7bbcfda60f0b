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


CHECKED = (
    "AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForMaskedLM", "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification", "AutoModelForQuestionAnswering",
)  # fmt: skip
"""Classes of models whose rows are token ids, padded on the right."""


def decide_packing(run: RunConfig, task: Task, model: Any, context: int, *, packs: bool) -> bool:
    """Return whether rows of this model are packed. `packs`: whether task and config would pack.

    Also check padded batches: where padding changes the outputs, the task gets batches of rows of one length. Raise ModelError where
    trainer.packing=on and the proof fails, and where the model of a causal task sees later tokens.
    """
    if task.auto_model not in CHECKED:
        return packs
    causal = task.auto_model in ("AutoModelForCausalLM", "AutoModelForImageTextToText")
    proof = prove_packing(model, causal=causal, context=context, pad_id=task.processor.pad_id, packs=task.packs)
    name = f"{run.model.path or run.model.name} ({model.config.model_type})"
    if proof.sees_later:
        raise ModelError(
            f"{type(model).__name__} of {name} sees later tokens, so it would be given the token that it must predict. "
            f"Take a decoder for task={run.task.name}: model.path=<decoder>."
        )
    packed = packs and proof.form is not None
    if packs and not packed:
        if run.trainer.packing == "on":
            raise ModelError(f"trainer.packing=on: {explain(name, proof)} Use packing=auto, which goes on unpacked.")
        announce(f"{explain(name, proof)} The rows are not packed.")
    task.reads_padding = not packed and proof.padded is not None and not proof.padded.accepted
    if task.reads_padding:
        announce(
            f"{name}: padding changes the outputs by {proof.padded}. Each micro-batch has texts of one length, without padding."
        )
    return packed


def explain(name: str, proof: PackingProof) -> str:
    """Say why the rows of this model are not packed, and by how much packed documents differ."""
    if proof.difference is None:
        return f"{name} does not take packed rows ({proof.reason})."
    return f"{name}: documents that are packed into one row differ from the same documents alone by {proof.difference}."


def announce(line: str) -> None:
    """Print a warning once in this process."""
    if line not in ANNOUNCED:
        ANNOUNCED.add(line)
        console.warn(line)
