"""Layers that are computed again for their gradients: the same gradient, and less that is kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from llmstage.errors import UserError
from llmstage.kernels.activation_checkpointing import checkpoint_layers
from llmstage.kernels.attention import use_matmul_attention
from llmstage.kernels.llama_blocks import AttentionBlock, use_fused_blocks


def backward(
    tiny: Any, *, recomputed: bool, rounded: bool, **changes: Any
) -> tuple[float, dict[str, torch.Tensor], int]:
    """(loss, gradients, bytes that stood saved for the gradient) of one batch."""
    model = tiny.model(**changes)
    model.train()
    use_matmul_attention(model)
    if rounded and tiny.run.model.family == "gpt":
        assert use_fused_blocks(model) == 2
    if recomputed:
        assert checkpoint_layers(model) == len(
            [name for name, _ in model.named_modules() if name.endswith(("q_proj", "query", "Wqkv"))]
        )
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16, enabled=rounded):
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = tiny.task.loss(model, tiny.batch())
        weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        kept = sum(size for place, size in saved.items() if place not in weights)
        loss.total.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return loss.total.item(), gradients, kept


@pytest.mark.parametrize(
    ("name", "kind", "rounded", "changes"),
    [
        ("causal_lm", "gpt", False, {}),
        ("causal_lm", "gpt", True, {}),
        ("classification", "bert", False, {"dropout": 0.3}),
    ],
    ids=["llama", "llama with lean blocks", "encoder with dropout"],
)
def test_the_gradient_is_the_same_and_less_is_kept(
    tiny_task, name: str, kind: str, rounded: bool, changes: dict
) -> None:
    tiny = tiny_task(name, kind)
    loss, gradients, kept = backward(tiny, recomputed=False, rounded=rounded, **changes)
    again, others, less = backward(tiny, recomputed=True, rounded=rounded, **changes)
    assert loss == again and gradients.keys() == others.keys()
    assert all(torch.equal(gradients[key], others[key]) for key in gradients)
    assert less < 0.6 * kept, f"{less:,} of {kept:,} bytes"


def test_lean_blocks_are_computed_twice(tiny_task, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    apply = AttentionBlock.apply
    monkeypatch.setattr(AttentionBlock, "apply", lambda *args: calls.append(1) or apply(*args))
    backward(tiny_task("causal_lm", "gpt"), recomputed=True, rounded=True)
    assert len(calls) == 4, "two layers, forward and again"


def test_nothing_is_computed_again_where_no_gradient_is_wanted(tiny_task) -> None:
    tiny = tiny_task("causal_lm", "gpt")
    plain, other = tiny.model(), tiny.model()
    checkpoint_layers(other)
    with torch.no_grad():
        assert float(tiny.task.loss(plain, tiny.batch()).total) == float(tiny.task.loss(other, tiny.batch()).total)
    assert set(plain.state_dict()) == set(other.state_dict())


def test_a_model_without_such_layers_is_refused() -> None:
    with pytest.raises(UserError, match=r"trainer\.micro_batch_size"):
        checkpoint_layers(nn.Linear(2, 2))
