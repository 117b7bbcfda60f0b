"""AdamW, the learning rate as a pure function of the step, and gradient clipping."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llmstage.config import OptimConfig
from llmstage.kernels.torch_internals import scale_tensors
from llmstage.training.defaults import warmup_steps


def build_optimizer(model: nn.Module, cfg: OptimConfig, lr: float) -> torch.optim.AdamW:
    """Return fused AdamW (Loshchilov 2019). Weight decay applies to matrices, not to norms, biases and embeddings."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    decayed: list[nn.Parameter] = []
    not_decayed: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            (not_decayed if parameter.ndim < 2 or id(parameter) in embeddings else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": cfg.weight_decay}, {"params": not_decayed, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=lr, betas=(cfg.beta1, cfg.beta2), eps=cfg.eps, fused=True
    )


def scratch_lr(width: int) -> float:
    """Return the peak learning rate from scratch: 3e-3 at a width of 128, falling with the square root of the width.

    Wider models need smaller steps (Yang 2022, muP); the constant worked on the demo world and the small public sets used to
    develop this project.
    """
    return 3e-3 * math.sqrt(128 / width)


@dataclass(slots=True, frozen=True)
class Schedule:
    """The learning rate: linear warm-up, then cosine (Loshchilov 2017), linear, wsd (Hu 2024) or constant."""

    peak: float
    warmup: int
    steps: int
    shape: str
    floor: float
    """The rate at the end, as a share of the peak."""

    def at(self, step: int) -> float:
        """Return the learning rate of the update after `step` updates."""
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


def build_schedule(cfg: OptimConfig, lr: float, steps: int, *, from_scratch: bool = True) -> Schedule:
    """Return the schedule of the config."""
    warmup = warmup_steps(steps, from_scratch=from_scratch) if cfg.warmup_steps == "auto" else int(cfg.warmup_steps)
    return Schedule(lr, warmup, steps, cfg.schedule, cfg.min_lr_share)


def scale_gradients(
    parameters: list[nn.Parameter], divisor: float, max_norm: float | None, total: Tensor
) -> tuple[float, float]:
    """Divide summed gradients by the number of items and clip them to `max_norm`, in one pass.

    Return (`total`, norm before clipping). Both are read from the device together: a step waits for it once.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    total_value, summed_norm = torch.stack([total, torch.nn.utils.get_total_norm(gradients).double()]).tolist()
    norm = summed_norm / divisor
    factor = 1 / divisor
    if max_norm is not None and norm > max_norm:
        factor *= max_norm / norm
    if math.isfinite(norm):
        scale_tensors(gradients, factor)
    return total_value, norm
