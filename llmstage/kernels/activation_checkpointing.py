"""Activation checkpointing (Chen 2016, arXiv 1604.06174): a layer keeps only its input, and its forward runs again for the gradient.

It costs about a third more arithmetic, and memory then hardly grows with the number of layers. It replaces transformers' own
`gradient_checkpointing_enable()`, which does not see layers whose forward was replaced (kernels/llama_blocks.py), for every
model whose layers transformers marks for it, on every machine (trainer.activation_checkpointing=on). When it is enabled,
outputs and gradients in training mode, dropout included, are compared with those of the unchanged layers
(kernels/comparison.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from llmstage.errors import UserError
from llmstage.kernels.transformers_internals import GradientCheckpointingLayer


class CheckpointedForward:
    """A layer's forward that keeps nothing but its input while gradients are recorded."""

    def __init__(self, layer: Any, forward: Callable[..., Any]) -> None:
        self.layer, self.forward = layer, forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.layer.training and torch.is_grad_enabled():
            # The reentrant variant needs an input with a gradient, which a body with a frozen embedding does not have.
            return checkpoint(self.forward, *args, use_reentrant=False, **kwargs)
        return self.forward(*args, **kwargs)


def checkpoint_layers(model: Any) -> int:
    """Checkpoint every layer of a transformers model; returns how many layers there are. Nothing of it is saved with the model.

    Raises UserError where transformers marks no layer of this model for it.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise UserError(
            f"trainer.activation_checkpointing=on: transformers marks no layer of {type(model).__name__} for checkpointing. "
            f"Leave it off, and set trainer.micro_batch_size lower to save memory."
        )
    for layer in layers:
        layer.forward = CheckpointedForward(layer, layer.forward)
    return len(layers)
