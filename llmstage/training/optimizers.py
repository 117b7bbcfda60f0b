"""AdamW and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llmstage.config import OptimConfig


def build_optimizer(model: nn.Module, cfg: OptimConfig, lr: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov 2019), fused. Matrices decay; vectors (norms, biases) and embeddings do not."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            (plain if parameter.ndim < 2 or id(parameter) in embeddings else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": cfg.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=lr, betas=(cfg.beta1, cfg.beta2), eps=cfg.eps, fused=True
    )


def auto_lr(width: int, *, from_scratch: bool, adapter: bool = False) -> float:
    """A peak rate that suits a width: 3e-3 at 128, falling with its square root from scratch and linearly when finetuning.

    Wider models want smaller steps (Yang 2022, muP); the constants are those that worked on the demo world and the small
    public sets used to develop this project. Low-rank updates want about ten times the rate of whole weights (Schulman
    2025, LoRA Without Regret). Shown in the plan line; optim.lr overrides it.
    """
    scratch = 3e-3 * math.sqrt(128 / width)
    return scratch if from_scratch else min(scratch / 3, 0.04 / width) * (10 if adapter else 1)


@dataclass(slots=True, frozen=True)
class Schedule:
    """Learning rate at a step: linear warm-up, then cosine (Loshchilov 2017), linear, wsd (Hu 2024) or constant."""

    peak: float
    warmup: int
    steps: int
    shape: str
    floor: float
    """Share of the peak at the end."""

    def at(self, step: int) -> float:
        """Rate of the update that follows `step` finished ones."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        done = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        if self.shape == "constant":
            share = 1.0
        elif self.shape == "linear":
            share = 1 - done * (1 - self.floor)
        elif self.shape == "wsd":
            share = 1.0 if done < 0.8 else 1 - (done - 0.8) / 0.2 * (1 - self.floor)
        else:
            share = self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * done))
        return self.peak * share


def build_schedule(cfg: OptimConfig, lr: float, steps: int) -> Schedule:
    warmup = min(200, max(1, steps // 20)) if cfg.warmup_steps == "auto" else int(cfg.warmup_steps)
    return Schedule(lr, warmup, steps, cfg.schedule, cfg.min_lr_share)


def scale_gradients(
    parameters: list[nn.Parameter], divisor: float, max_norm: float | None, total: Tensor
) -> tuple[float, float]:
    """Divide summed gradients by the number of items and clip them to `max_norm`, in one pass.

    Returns (`total`, norm before); both are read from the device at once, the one time a step waits for it.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    summed, whole = torch.stack([total, torch.nn.utils.get_total_norm(gradients).double()]).tolist()
    norm = whole / divisor
    factor = 1 / divisor
    if max_norm is not None and norm > max_norm:
        factor *= max_norm / norm
    if math.isfinite(norm):
        torch._foreach_mul_(gradients, factor)
    return summed, norm
