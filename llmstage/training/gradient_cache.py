"""The gradient of a step, micro-batch by micro-batch, also where the rows of the whole batch are each other's negatives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from llmstage.tasks.base import Batch, LossSum, Task

Context = Callable[[], AbstractContextManager[None]]


def backward_parts(
    task: Task, model: nn.Module, parts: Sequence[Batch], context: Context, scale: Callable[[Tensor], Tensor]
) -> Iterator[LossSum]:
    """Adds the gradient of all parts to the weights and gives their losses. `context`: autocast; `scale`: of a loss, for fp16."""
    if not task.additive_loss and len(parts) > 1:
        yield cached_backward(task, model, parts, context, scale)
        return
    for part in parts:
        with context():
            loss = task.loss(model, part)
        scale(loss.total).backward()
        yield loss


def cached_backward(
    task: Task, model: nn.Module, parts: Sequence[Batch], context: Context, scale: Callable[[Tensor], Tensor]
) -> LossSum:
    """The whole batch's gradient with the memory of one micro-batch (GradCache: Gao 2021, arXiv 2101.06983).

    All micro-batches are embedded and their graphs dropped; the loss over all embeddings gives the embeddings' gradients;
    then each micro-batch is embedded again, with the same random numbers, and takes its embeddings' gradient further.
    """
    embeddings: list[tuple[Tensor, ...]] = []
    states: list[Randomness] = []
    for part in parts:
        states.append(Randomness(model))
        with context():
            # Not under no_grad: kernels may be chosen by it, and both passes must round and draw alike.
            embeddings.append(tuple(made.detach().requires_grad_() for made in task.embed(model, part)))
    end = Randomness(model)
    whole = tuple(torch.cat(same) for same in zip(*embeddings, strict=True))
    with context():
        loss = task.pair_loss(model, whole, parts)
    scale(loss.total).backward()
    for part, state, own in zip(parts, states, embeddings, strict=True):
        state.set()
        with context():
            again = task.embed(model, part)
        pushed = [(made, cached.grad) for made, cached in zip(again, own, strict=True) if made.requires_grad]
        if pushed:  # nothing is, where both towers are frozen
            torch.autograd.backward([made for made, _ in pushed], [gradient for _, gradient in pushed])
    end.set()
    return LossSum(loss.total.detach(), loss.count, loss.logs)


class Randomness:
    """Where torch's random numbers stand, on the CPU and on the model's GPU."""

    def __init__(self, model: nn.Module) -> None:
        self.device = next(model.parameters()).device
        self.cpu = torch.get_rng_state()
        self.gpu = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None

    def set(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.gpu is not None:
            torch.cuda.set_rng_state(self.gpu, self.device)
