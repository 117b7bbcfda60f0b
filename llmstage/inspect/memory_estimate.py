"""Estimate the memory and FLOPs of a training step without running it: loss and gradient of the task run on meta
tensors, which have a shape and no data, and the allocations are added up.

Ids, labels and masks are real, because the number of logits depends on which tokens are targets. Everything that
depends on weights is a `FakeTensor` of torch, a meta tensor with a device. measured_step.py measures a real step for
comparison. The sum of the tensors agrees with torch's profiler.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from llmstage.kernels.torch_internals import FakeTensor, FakeTensorMode, TorchDispatchMode, tree_iter
from llmstage.tasks.base import Batch, Task
from llmstage.training.batches import backward_parts
from llmstage.training.machine import Machine

ADAM_BYTES = 8
"""Two moments of a trained weight, in fp32."""
aten: Any = torch.ops.aten


@dataclass(slots=True)
class MemoryEstimate:
    """Bytes of the tensors of a training step, and its FLOPs."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    """At the peak: tensors that the gradient needs, and the outputs of the current operation."""
    logits: int
    """Tensors as wide as the vocabulary, at the moment when they are largest."""
    logits_at_peak: int
    gradients_at_peak: int
    flops: float
    """Of the whole batch, forward and backward, by torch's counter (matrix products and attention)."""

    @property
    def peak(self) -> int:
        """The largest sum at any time, the optimizer moments included, as from the second step on."""
        transient = max(self.activations + self.logits_at_peak + self.gradients_at_peak, self.gradients)
        return self.weights + self.optimizer + transient

    @property
    def parts(self) -> dict[str, int]:
        """Bytes by what they hold."""
        return {name: getattr(self, name) for name in ("weights", "gradients", "optimizer", "activations", "logits")}


class Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Add up the live storages and record the maximum. Where the code asks for the value of a fake tensor, it is 1."""

    def __init__(self, model: nn.Module, vocabulary: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.weights, self.vocabulary = list(model.parameters()), vocabulary
        self.now = self.logits = self.max_logits = self.peak = 0
        self.bytes_at_peak = (0, 0)
        """(logits, gradients) at the peak."""
        self.known = {item.untyped_storage()._cdata for item in (*model.parameters(), *model.buffers())}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args else None
        if isinstance(first, FakeTensor):
            if func is aten._local_scalar_dense.default:
                return 1.0 if first.dtype.is_floating_point else 1
            if func in (
                aten.allclose.default,
                aten.equal.default,
            ):  # a model may compare two ways to the same logits: assume that they agree
                return True
            if func is aten.nonzero.default:  # the number of nonzeros is unknown: take the largest
                return first.new_empty((first.numel(), first.ndim), dtype=torch.int64)
        if func in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default):
            args = (first, [positions for index in args[1] for positions in index_positions(index)], *args[2:])
        outputs = func(*args, **kwargs)
        for item in tree_iter(outputs):
            if isinstance(item, Tensor):
                self.add(item)
        return outputs

    def add(self, item: Tensor) -> None:
        storage = item.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        logits_size = size if item.ndim > 1 and item.shape[-1] == self.vocabulary and item.is_floating_point() else 0
        self.known.add(key)
        self.now, self.logits = self.now + size, self.logits + logits_size
        self.max_logits = max(self.logits, self.max_logits)
        weakref.finalize(storage, self.drop, key, size, logits_size)
        if self.now > self.peak:
            self.peak = self.now
            self.bytes_at_peak = (
                self.logits,
                sum(num_bytes(weight.grad) for weight in self.weights if weight.grad is not None),
            )

    def drop(self, key: int, size: int, logits_size: int) -> None:
        self.known.discard(key)
        self.now, self.logits = self.now - size, self.logits - logits_size


def index_positions(index: Any) -> list[Any]:
    """Convert a mask to indices. Of a mask without data, all positions are taken."""
    if not isinstance(index, Tensor) or index.dtype not in (torch.bool, torch.uint8):
        return [index]
    if isinstance(index, FakeTensor):
        return [index.new_empty((index.numel(),), dtype=torch.int64) for _ in range(index.ndim)]
    return list(index.nonzero(as_tuple=True))


def num_bytes(item: Tensor) -> int:
    return item.numel() * item.element_size()


def to_meta(model: nn.Module) -> nn.Module:
    """Copy a model with fake weights; shared weights stay shared."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    memo: dict[int, Any] = {}
    for weight in model.parameters():
        fake: Any = mode.from_tensor(weight.detach())
        memo[id(weight)] = nn.Parameter(fake, requires_grad=weight.requires_grad)
    meta_model: nn.Module = copy.deepcopy(model, memo)
    return meta_model


def estimate_memory(task: Task, model: nn.Module, parts: Sequence[Batch], machine: Machine) -> MemoryEstimate:
    """Estimate one optimizer step over these micro-batches. `model` keeps its weights and gets no gradients."""
    config: Any = model.config
    meta_model = to_meta(model).train()
    trained_bytes = sum(num_bytes(weight) for weight in model.parameters() if weight.requires_grad)
    counter = FlopCounterMode(display=False)
    with counter, Allocations(meta_model, int(config.get_text_config().vocab_size)) as allocations:
        for loss in backward_parts(
            task, meta_model, parts, lambda: machine.autocast(machine.precision), lambda total: total
        ):
            del loss
    logits, gradients = allocations.bytes_at_peak
    return MemoryEstimate(
        weights=sum(num_bytes(item) for item in (*model.parameters(), *model.buffers())),
        gradients=trained_bytes,
        optimizer=trained_bytes // 4 * ADAM_BYTES,
        activations=max(0, allocations.peak - logits - gradients),
        logits=allocations.max_logits,
        logits_at_peak=logits,
        gradients_at_peak=gradients,
        flops=float(counter.get_total_flops()),
    )
