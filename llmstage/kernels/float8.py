"""Matrix products in eight bits while training (trainer.float8), by torchao: inputs and weights in e4m3, gradients in e5m2, each
tensor scaled by its own largest value (Micikevicius 2022, arXiv 2209.05433).

It replaces the trained linear layers of the body: trainer.float8=on on GPUs of compute capability 8.9 or newer,
trainer.float8=emulated on every machine. This is the only module that imports torchao, and it does so when float8 is asked for. Weights
stay fp32 and keep their names, so that checkpoints and optimizers see no difference; scoring uses the plain product. When it is
enabled, outputs and gradients of the model are compared with the plain ones (kernels/comparison.py). They differ by design: e4m3
has three bits of mantissa, so a relative error of TOLERANCE is accepted, and a larger one turns float8 off.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmstage.errors import UserError
from llmstage.kernels.transformers_internals import BODY_EXCLUDED

SIDE_MULTIPLE = 16
"""The hardware multiplies matrices whose sides are multiples of this number."""
MIN_CAPABILITY = (8, 9)
"""Lowest CUDA compute capability with products in eight bits."""
TOLERANCE = 0.5
"""Relative error of an output or a gradient that is accepted of products in eight bits: 0.01 to 0.3 is usual for gradients."""


def check_float8(setting: str, device: torch.device) -> None:
    """Raise UserError where trainer.float8 needs a GPU that this machine lacks."""
    if setting != "on":
        return
    if device.type != "cuda":
        raise UserError(
            "trainer.float8=on needs a GPU: no CPU multiplies in eight bits here. trainer.float8=emulated rounds in the same way, "
            "slowly, to show the effect on the loss; trainer.float8=off trains in trainer.precision."
        )
    capability = torch.cuda.get_device_capability(device)
    if capability < MIN_CAPABILITY:
        raise UserError(
            f"trainer.float8=on needs compute capability {MIN_CAPABILITY[0]}.{MIN_CAPABILITY[1]} (Ada, Hopper or newer); this GPU has "
            f"{capability[0]}.{capability[1]}. Set trainer.float8=off."
        )


def eligible(module: nn.Module, name: str) -> bool:
    """Whether this is a trained linear layer of the body with sides that the hardware takes.

    Heads are left out: their sums over the vocabulary are long, and their rounding goes into the loss directly.
    """
    if type(module) is not nn.Linear or not module.weight.requires_grad:
        return False
    return not set(name.split(".")) & set(BODY_EXCLUDED) and not (
        module.in_features % SIDE_MULTIPLE or module.out_features % SIDE_MULTIPLE
    )


def use_float8(model: Any, setting: str) -> dict[str, nn.Module]:
    """Train the body's linear layers in eight bits; returns the replaced layers by name. `setting`: on or emulated.

    Raises UserError where torchao is missing or no layer is eligible.
    """
    try:
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    except ImportError:
        raise UserError(f"trainer.float8={setting} needs the package torchao: pip install 'llmstage[float8]'") from None
    replaced = {name: module for name, module in model.named_modules() if eligible(module, name)}
    if not replaced:
        raise UserError(
            f"trainer.float8={setting}: no layer of this model can be trained in eight bits (linear layers that are trained, with "
            f"sides divisible by {SIDE_MULTIPLE}; not heads, not what adapter=lora freezes). Set trainer.float8=off."
        )
    # The number of tokens in a batch is no multiple of 16: torchao pads it for the product of the weights' gradient.
    config = Float8LinearConfig(emulate=setting == "emulated", pad_inner_dim=True)
    convert_to_float8_training(model, config=config, module_filter_fn=lambda module, name: name in replaced)
    for name in replaced:
        layer = model.get_submodule(name)
        layer.forward = MethodType(TrainingProduct(layer.forward), layer)
    return replaced


def restore_linear(model: Any, replaced: dict[str, nn.Module]) -> None:
    """Put the layers that use_float8() replaced back; they hold the same weights."""
    for name, module in replaced.items():
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, module)


class TrainingProduct:
    """A layer's eight-bit product while gradients are recorded, and its plain product while the model is scored."""

    def __init__(self, float8_forward: Callable[[Tensor], Tensor]) -> None:
        self.float8_forward = float8_forward

    def __call__(self, layer: Any, hidden: Tensor) -> Tensor:
        return self.float8_forward(hidden) if torch.is_grad_enabled() else F.linear(hidden, layer.weight, layer.bias)
