"""Matrix products in eight bits while training (trainer.float8), by torchao: inputs and weights in e4m3, gradients in e5m2, each
tensor scaled by its own largest value (Micikevicius 2022, arXiv 2209.05433).

Only this module knows torchao, and imports it when it is asked for. Weights stay fp32 and keep their names, so that
checkpoints and optimizers see no difference; scoring multiplies as it always does.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmstage.errors import UserError
from llmstage.models.adapter import NO_TARGETS

SIDES = 16
"""The hardware multiplies matrices whose sides are multiples of this."""
LEAST = (8, 9)
"""CUDA compute capability from which on there are products in eight bits."""


def check_float8(setting: str, device: torch.device) -> None:
    """Raises UserError where trainer.float8 asks for what this machine cannot do."""
    if setting != "on":
        return
    if device.type != "cuda":
        raise UserError(
            "trainer.float8=on needs a GPU: no CPU multiplies in eight bits here. trainer.float8=emulated rounds alike, "
            "slowly, to see what it does to the loss; trainer.float8=off trains in trainer.precision."
        )
    found = torch.cuda.get_device_capability(device)
    if found < LEAST:
        raise UserError(
            f"trainer.float8=on needs compute capability {LEAST[0]}.{LEAST[1]} (Ada, Hopper or newer); this GPU has "
            f"{found[0]}.{found[1]}. Set trainer.float8=off."
        )


def eligible(module: nn.Module, name: str) -> bool:
    """Trained linear layers of the body with sides that the hardware takes. Heads are left out: their sums are long, and
    what is lost there is lost for the loss."""
    if type(module) is not nn.Linear or not module.weight.requires_grad:
        return False
    return not set(name.split(".")) & set(NO_TARGETS) and not (
        module.in_features % SIDES or module.out_features % SIDES
    )


def use_float8(model: Any, setting: str) -> int:
    """Let the body's linear layers be trained in eight bits; returns how many. `setting`: on or emulated."""
    try:
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    except ImportError:
        raise UserError(f"trainer.float8={setting} needs the package torchao: pip install 'llmstage[float8]'") from None
    before = {name for name, module in model.named_modules() if eligible(module, name)}
    if not before:
        raise UserError(
            f"trainer.float8={setting}: no layer of this model can be trained so (linear layers that are trained, with sides "
            f"divisible by {SIDES}; not heads, not what adapter=lora freezes). Set trainer.float8=off."
        )
    # Tokens of a batch are no multiple of 16: torchao fills them up for the product of the weights' gradient.
    config = Float8LinearConfig(emulate=setting == "emulated", pad_inner_dim=True)
    convert_to_float8_training(model, config=config, module_filter_fn=lambda module, name: name in before)
    for name in before:
        layer = model.get_submodule(name)
        layer.forward = MethodType(Trained(layer.forward), layer)
    return len(before)


class Trained:
    """A layer's eight-bit product while gradients are wanted, and its plain one while the model is scored."""

    def __init__(self, product: Callable[[Tensor], Tensor]) -> None:
        self.product = product

    def __call__(self, layer: Any, hidden: Tensor) -> Tensor:
        return self.product(hidden) if torch.is_grad_enabled() else F.linear(hidden, layer.weight, layer.bias)
