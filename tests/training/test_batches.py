"""Batches on their way to a GPU: pinned by the DataLoader, and read once a step."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data._utils.pin_memory import pin_memory

from llmstage.tasks.base import Batch
from llmstage.training.batches import StepBatch
from llmstage.training.optimizers import scale_gradients


def test_the_loader_pins_every_tensor_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own function, which leaves types it does not know as they are unless they have a pin_memory()."""
    pinned: list[torch.Tensor] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor)
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    tensors = [torch.full((2, 3), value) for value in range(4)]
    parts = [Batch({"input_ids": tensors[0], "position_ids": tensors[1]}, tensors[2], [], tensors[3], 6), Batch({})]
    batch = pin_memory(StepBatch(0, 1, 2, parts, [[0], [1]]))
    assert isinstance(batch, StepBatch) and [id(tensor) for tensor in pinned] == [id(tensor) for tensor in tensors]
    first = batch.parts[0]
    assert first.labels is not None and torch.equal(first.labels, tensors[2]) and first.labels is not tensors[2]


def test_losses_added_on_the_device_are_those_added_on_the_host() -> None:
    """To the bit: floats of Python are of 64 bits, too."""
    losses = torch.randn(100) * 1000
    host, device = 0.0, torch.zeros((), dtype=torch.float64)
    for loss in losses:
        host += float(loss)
        device += loss
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.full((3,), 2.0)
    total, norm = scale_gradients([parameter], 2.0, None, device)
    assert total == host
    assert norm == float(torch.full((3,), 2.0).norm()) / 2 and parameter.grad.tolist() == [1.0, 1.0, 1.0]
