"""The gradient of a step, micro-batch by micro-batch, also where the rows of the whole batch are each other's negatives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from llmstage.tasks.base import Batch, LossSum, Task

Autocast = Callable[[], AbstractContextManager[None]]


def backward_parts(
    task: Task, model: nn.Module, parts: Sequence[Batch], autocast: Autocast, scale: Callable[[Tensor], Tensor]
) -> Iterator[LossSum]:
    """Add the gradient of all micro-batches to the weights, and yield their losses. `scale`: the loss scaling of fp16."""
    if not task.additive_loss and len(parts) > 1:
        yield cached_backward(task, model, parts, autocast, scale)
        return
    for part in parts:
        with autocast():
            loss = task.loss(model, part)
        scale(loss.total).backward()
        yield loss


def cached_backward(
    task: Task, model: nn.Module, parts: Sequence[Batch], autocast: Autocast, scale: Callable[[Tensor], Tensor]
) -> LossSum:
    """Compute the gradient of the whole batch with the memory of one micro-batch (GradCache: Gao 2021, arXiv 2101.06983)."""
    # 1. Embed all micro-batches and drop their graphs.
    embeddings: list[tuple[Tensor, ...]] = []
    random_states: list[RandomState] = []
    for part in parts:
        random_states.append(RandomState(model))
        with autocast():
            # Not under no_grad, by which some kernels are chosen: both passes must round and draw alike.
            embeddings.append(tuple(tensor.detach().requires_grad_() for tensor in task.embed(model, part)))
    final_state = RandomState(model)

    # 2. The loss over all embeddings gives the gradient of each embedding.
    batch_embeddings = tuple(torch.cat(tensors) for tensors in zip(*embeddings, strict=True))
    with autocast():
        loss = task.pair_loss(model, batch_embeddings, parts)
    scale(loss.total).backward()

    # 3. Embed each micro-batch again, with the same random numbers, and pass the gradient of its embeddings on.
    for part, random_state, cached in zip(parts, random_states, embeddings, strict=True):
        random_state.restore()
        with autocast():
            again = task.embed(model, part)
        pairs = [(tensor, leaf.grad) for tensor, leaf in zip(again, cached, strict=True) if tensor.requires_grad]
        if pairs:  # none where both towers are frozen
            torch.autograd.backward([tensor for tensor, _ in pairs], [gradient for _, gradient in pairs])
    final_state.restore()
    return LossSum(loss.total.detach(), loss.count, loss.logs)


class RandomState:
    """The state of torch's random numbers on the CPU and on the model's GPU, at the time when it is made."""

    def __init__(self, model: nn.Module) -> None:
        self.device = next(model.parameters()).device
        self.cpu = torch.get_rng_state()
        self.gpu = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None

    def restore(self) -> None:
        """Put the random numbers back into this state."""
        torch.set_rng_state(self.cpu)
        if self.gpu is not None:
            torch.cuda.set_rng_state(self.gpu, self.device)
