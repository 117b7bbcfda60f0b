"""Choose the kernels of a training run, enable them on its model, and compare each with the plain operation first.

choose_kernels() decides from the configuration, the machine and the model alone. enable() applies the choice: attention, rotary
positions, fused layers, chunked head loss, float8 and activation checkpointing. Each of them is compared once with the plain operation
on this model (kernels/comparison.py). Where they differ, the plain operation is used and a warning names the kernel. The final
decisions are saved with the run; a resumed run takes them from there and compares nothing again, so that it stays bit-exact.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from llmstage import console
from llmstage.config import TrainerConfig
from llmstage.errors import UserError
from llmstage.kernels.activation_checkpointing import checkpoint_layers
from llmstage.kernels.attention import use_matmul_attention
from llmstage.kernels.comparison import Difference, ModelComparison
from llmstage.kernels.float8 import TOLERANCE as FLOAT8_TOLERANCE
from llmstage.kernels.float8 import check_float8, restore_linear, use_float8
from llmstage.kernels.head_loss import chunk_size, head_difference, supports_chunks
from llmstage.kernels.llama_blocks import use_fused_blocks
from llmstage.kernels.rotary import restore_rotary, use_fast_rotary
from llmstage.kernels.varlen_attention import use_varlen_attention, with_cu_seqlens

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MATMUL, VARLEN, SDPA = "products", "documents", "sdpa"
"""Saved names of the attention of kernels/attention.py, of kernels/varlen_attention.py, and of transformers' own. Like the keys below
they are those of version 0.1.0, whose checkpoints hold them."""
PLAIN: dict[str, Any] = {
    "attention": SDPA, "rotary": False, "lean": False, "head_chunk": 0, "float8": "off", "checkpointing": False,
}  # fmt: skip
"""The decision for the plain operation, by the key under which a kernel is saved: `lean` is trainer.fused_blocks, `checkpointing` is
trainer.activation_checkpointing. `rotary` belongs to the attention, and is saved only where it was turned off alone."""
OPTIONS = {"lean": "trainer.fused_blocks", "checkpointing": "trainer.activation_checkpointing"}
"""The option of a kernel, where its saved key has another name."""


class Machine(Protocol):
    """What the choice of kernels needs to know of the machine."""

    @property
    def device(self) -> torch.device: ...

    @property
    def precision(self) -> str:
        """fp32, bf16 or fp16: the type of matrix products in training."""


def choose_kernels(model: Any, trainer: TrainerConfig, machine: Machine, resolved: dict[str, Any]) -> dict[str, Any]:
    """The kernel of each operation, and whether the body is compiled. `resolved`: decisions of the run that is resumed, which stay."""
    check_float8(trainer.float8, machine.device)
    on_cpu = machine.device.type == "cpu"
    matmul = trainer.attention == "auto" and on_cpu and machine.precision == "bf16"
    varlen = trainer.attention == "auto" and machine.device.type == "cuda" and machine.precision in ("bf16", "fp16")
    compiled = trainer.compile == "on" or (trainer.compile == "auto" and not on_cpu)
    fused = trainer.fused_blocks == "auto" and matmul and not compiled and trainer.float8 == "off"
    vocab_size = getattr(model.config.get_text_config(), "vocab_size", 1)
    return {
        "attention": resolved.get("attention", MATMUL if matmul else VARLEN if varlen else SDPA),
        "compile": bool(resolved.get("compile", compiled)),
        "lean": bool(resolved.get("lean", fused)),
        "head_chunk": int(resolved.get("head_chunk", chunk_size(trainer.head_chunk, vocab_size, machine.device))),
        "float8": resolved.get("float8", trainer.float8),
        "checkpointing": bool(resolved.get("checkpointing", trainer.activation_checkpointing == "on")),
        **{key: bool(resolved[key]) for key in ("rotary",) if key in resolved},
    }


def enable(model: Any, trainer: TrainerConfig, machine: Machine, resolved: dict[str, Any]) -> dict[str, Any]:
    """Enable the kernels of a run on its model, all but compilation; returns the decisions, to be saved with the run.

    `resolved`: decisions that were saved before. What is among them is enabled without a comparison.
    """
    kernels = choose_kernels(model, trainer, machine, resolved)
    comparisons = Comparisons(model, DTYPES[machine.precision])
    # Attention comes first: the fused layers apply only to a model whose attention they know.
    if kernels["attention"] == MATMUL:
        kernels |= comparisons.enable("attention", kernels, resolved, use_matmul_attention, restore_attention)
        if kernels.get("rotary", True):
            kernels |= comparisons.enable(
                "rotary", kernels, resolved, use_fast_rotary, lambda model, _: restore_rotary()
            )
    if kernels["attention"] == VARLEN:
        kernels |= comparisons.enable(
            "attention", kernels, resolved, use_varlen_attention, restore_attention, convert=with_cu_seqlens
        )
    if kernels["lean"]:
        kernels |= comparisons.enable("lean", kernels, resolved, use_fused_blocks)
    if kernels["float8"] != "off":
        kernels |= comparisons.enable(
            "float8", kernels, resolved, partial(use_float8, setting=kernels["float8"]), restore_linear,
            tolerance=FLOAT8_TOLERANCE,
        )  # fmt: skip
    if kernels["checkpointing"]:
        kernels |= comparisons.enable("checkpointing", kernels, resolved, checkpoint_layers, training=True)
    if kernels["head_chunk"] and "head_chunk" not in resolved:
        kernels |= comparisons.compare_head(kernels)
    model.head_chunk = kernels["head_chunk"]
    return kernels


def restore_attention(model: Any, _: Any) -> None:
    """Let the model compute transformers' own attention again."""
    model.set_attn_implementation("sdpa")


class Comparisons:
    """The comparisons of one model. Its plain passes are made when the first kernel is compared, and only if one is."""

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        self.model, self.dtype = model, dtype
        self.plain: ModelComparison | None = None

    def enable(
        self,
        key: str,
        kernels: dict[str, Any],
        resolved: dict[str, Any],
        apply: Callable[[Any], Any],
        restore: Callable[[Any, Any], None] = lambda model, applied: None,
        *,
        convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
        training: bool = False,
        tolerance: float | None = None,
    ) -> dict[str, Any]:
        """Apply one kernel and compare it; returns what changes in the decisions.

        `restore(model, applied)` undoes what does not lie in the forward of a module; `convert`: the kernel reads packed batches
        in another form; `training`: it acts on a model in training mode only.
        """
        if key in resolved or (key == "rotary" and "attention" in resolved):
            apply(self.model)
            return {}
        forwards = [(module, module.__dict__.get("forward")) for module in self.model.modules()]
        applied: Any = None
        try:
            if convert is not None or training:  # plain passes of their own: other inputs, or dropout
                comparison = ModelComparison(self.model, self.dtype, packed=convert is not None, training=training)
            else:
                comparison = self.plain = self.plain or ModelComparison(self.model, self.dtype)
            applied = apply(self.model)
            if not applied:  # this model has nothing that the kernel replaces
                return {}
            difference = comparison.difference(convert or (lambda inputs: inputs), tolerance)
            accepted, reason = difference.accepted, str(difference)
        except UserError:
            raise  # the configuration asks for a kernel that this model or machine cannot have
        except Exception as error:  # whatever fails here would fail in the first step
            accepted, reason = False, f"{type(error).__name__}: {error}"
        if accepted:
            return {}
        restore(self.model, applied)
        restore_forwards(forwards)
        warn(f"{OPTIONS.get(key, key)}={kernels.get(key, True)}", reason)
        return {key: PLAIN[key]}

    def compare_head(self, kernels: dict[str, Any]) -> dict[str, Any]:
        """Compare the chunked head loss with the plain one; returns the decision."""
        head = output_layer(self.model)
        if head is None:
            return {}
        try:
            difference: Difference = head_difference(head, self.dtype)
            accepted, reason = difference.accepted, str(difference)
        except Exception as error:  # as above
            accepted, reason = False, f"{type(error).__name__}: {error}"
        if accepted:
            return {}
        warn(f"head_chunk={kernels['head_chunk']}", reason)
        return {"head_chunk": PLAIN["head_chunk"]}


def output_layer(model: Any) -> nn.Linear | None:
    """The linear layer whose loss is computed in chunks; None where there is none, or where it is not trained."""
    if not getattr(model, "split_head", False):
        return None
    head = model.get_output_embeddings()
    return head if supports_chunks(head) else None


def restore_forwards(forwards: list[tuple[nn.Module, Any]]) -> None:
    """Give modules the forward back that they had: one of the instance, or that of the class."""
    for module, forward in forwards:
        if forward is not None:
            module.forward = forward
        else:
            module.__dict__.pop("forward", None)


def warn(name: str, reason: str) -> None:
    console.warn(
        f"kernels: {name} differs from the plain operation on this model ({reason}). The plain operation is used in this run."
    )


def compile_body(model: Any, kernels: dict[str, Any]) -> None:
    """Compile the body where the run does so. It comes last, after every replacement."""
    if kernels["compile"]:
        model.base_model.compile()  # in place: names of weights stay, and the head keeps its own shapes
