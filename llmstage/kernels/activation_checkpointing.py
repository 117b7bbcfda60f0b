"""Activation checkpointing (Chen 2016, arXiv 1604.06174): a layer keeps its input only, and is computed again on the way back.

About a third more arithmetic for memory that hardly grows with the number of layers. transformers' own switch looks past
layers whose forward was replaced (models/lean.py), so the layers are wrapped here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from llmstage.errors import UserError


class Recomputed:
    """A layer's forward that keeps nothing but its input while gradients are wanted."""

    def __init__(self, layer: Any, forward: Callable[..., Any]) -> None:
        self.layer, self.forward = layer, forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.layer.training and torch.is_grad_enabled():
            # Not the reentrant kind: it needs an input with a gradient, which a body with a frozen embedding has not.
            return checkpoint(self.forward, *args, use_reentrant=False, **kwargs)
        return self.forward(*args, **kwargs)


def recompute_layers(model: Any) -> int:
    """Let the layers of a transformers model be computed again for their gradients; returns how many there are.

    Nothing of it is saved with the model.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise UserError(
            f"trainer.activation_checkpointing=on: transformers knows no layers of {type(model).__name__} that can be computed again. "
            f"Leave it off, and set trainer.micro_batch_size lower to save memory."
        )
    for layer in layers:
        layer.forward = Recomputed(layer, layer.forward)
    return len(layers)
