"""How a model is computed in training: attention, blocks, head, compilation, what is kept for the gradient."""

from __future__ import annotations

from typing import Any

from llmstage.config import RunConfig
from llmstage.kernels.activation_checkpointing import recompute_layers
from llmstage.kernels.attention import use_products
from llmstage.kernels.float8 import check_float8, use_float8
from llmstage.kernels.head_loss import chunk_of
from llmstage.kernels.llama_blocks import use_lean_blocks
from llmstage.kernels.rotary import use_turns
from llmstage.kernels.varlen_attention import use_documents
from llmstage.training.machine import Machine


def choose_kernels(run: RunConfig, machine: Machine, fixed: dict[str, Any], model: Any) -> dict[str, Any]:
    """Which attention, head and blocks, and whether the body is compiled; what an earlier part of the run chose stays."""
    check_float8(run.trainer.float8, machine.device)
    on_cpu = machine.device.type == "cpu"
    products = run.trainer.attention == "auto" and on_cpu and machine.precision == "bf16"
    compiled = run.trainer.compile == "on" or (run.trainer.compile == "auto" and not on_cpu)
    flash = run.trainer.attention == "auto" and machine.device.type == "cuda" and machine.precision in ("bf16", "fp16")
    lean = run.trainer.fused_blocks == "auto" and products and not compiled and run.trainer.float8 == "off"
    vocabulary = getattr(model.config.get_text_config(), "vocab_size", 1)
    return {
        "attention": fixed.get("attention", "products" if products else "documents" if flash else "sdpa"),
        "compile": bool(fixed.get("compile", compiled)),
        "fused_blocks": bool(fixed.get("fused_blocks", lean)),
        "head_chunk": int(fixed.get("head_chunk", chunk_of(run.trainer.head_chunk, vocabulary, machine.device))),
        "float8": fixed.get("float8", run.trainer.float8),
        "activation_checkpointing": bool(fixed.get("activation_checkpointing", run.trainer.activation_checkpointing == "on")),
    }


def use_kernels(model: Any, kernels: dict[str, Any]) -> None:
    """All of them but compilation, which comes last."""
    model.head_chunk = kernels["head_chunk"]
    if kernels["attention"] == "products":
        use_products(model)
        use_turns(model)
    if kernels["attention"] == "documents":
        use_documents(model)
    if kernels["fused_blocks"]:
        use_lean_blocks(model)
    if kernels["float8"] != "off":
        use_float8(model, kernels["float8"])
    if kernels["activation_checkpointing"]:
        recompute_layers(model)


def compile_body(model: Any, kernels: dict[str, Any]) -> None:
    if kernels["compile"]:
        model.base_model.compile()  # in place: names of weights stay, and the head keeps its own shapes
