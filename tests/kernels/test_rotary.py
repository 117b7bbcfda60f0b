"""The training rotation turns as transformers does, gradients included, and only where it is meant to."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest
import torch
from transformers import LlamaConfig, LlamaModel, ModernBertConfig, ModernBertModel

from llmstage.kernels.rotary import MODEL_TYPES, Rotation, restore_rotary, rotate, use_fast_rotary

PARTS = {"vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
MODELS = {
    "llama": lambda: LlamaModel(LlamaConfig(**PARTS, num_key_value_heads=2)),
    "modernbert": lambda: ModernBertModel(ModernBertConfig(**PARTS, **SPECIAL)),
}


@pytest.mark.parametrize("name", MODEL_TYPES)
def test_a_turn_is_theirs_to_the_last_digit_of_fp32(name: str) -> None:
    theirs = importlib.import_module(f"transformers.models.{name}.modeling_{name}").apply_rotary_pos_emb
    angles = torch.outer(torch.arange(7.0), 10000 ** -torch.linspace(0, 1, 8)).repeat(1, 2)[None]  # [1, T, D]
    q, k = torch.randn(2, 4, 7, 16, requires_grad=True), torch.randn(2, 2, 7, 16)
    cos, sin = angles.cos(), angles.sin()
    expected, _ = theirs(q, k, cos, sin)
    halves = cos[..., :8].unsqueeze(1), sin[..., :8].unsqueeze(1)
    torch.testing.assert_close(rotate(q.detach(), *halves), expected.detach())
    weights = torch.randn_like(expected)
    (their_gradient,) = torch.autograd.grad((expected * weights).sum(), q)
    (our_gradient,) = torch.autograd.grad((Rotation.apply(q, *halves) * weights).sum(), q)
    torch.testing.assert_close(our_gradient, their_gradient)


@pytest.fixture(autouse=True)
def _theirs() -> Iterator[None]:
    restore_rotary()
    yield
    restore_rotary()


def loss_and_gradient(net: torch.nn.Module, *, bf16: bool) -> tuple[float, torch.Tensor]:
    net.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        hidden = net(input_ids=(torch.arange(80) % 61 + 3)[None].reshape(2, 40)).last_hidden_state.float()
    loss = hidden[:, ::3, ::2].square().mean()
    loss.backward()
    return loss.item(), torch.cat([weight.grad.flatten() for weight in net.parameters() if weight.grad is not None])


@pytest.mark.parametrize("name", MODELS)
def test_training_in_bf16_is_as_near_to_fp32_as_theirs(name: str) -> None:
    torch.manual_seed(0)
    net = MODELS[name]()
    exact, true_gradient = loss_and_gradient(net, bf16=False)
    their_loss, their_gradient = loss_and_gradient(net, bf16=True)
    use_fast_rotary(net)
    our_loss, our_gradient = loss_and_gradient(net, bf16=True)
    assert our_loss == pytest.approx(exact, rel=0.01) and not torch.equal(our_gradient, their_gradient)
    ours, theirs = ((gradient - true_gradient).norm() for gradient in (our_gradient, their_gradient))
    assert ours < 1.5 * theirs, "bf16 noise of the same size"
    assert loss_and_gradient(net, bf16=False)[0] == exact, "in fp32 it is theirs to the bit"
    assert their_loss == pytest.approx(our_loss, rel=0.01)


def test_scoring_is_theirs_and_a_second_call_wraps_nothing_anew() -> None:
    net = MODELS["modernbert"]().eval()
    ids = torch.arange(3, 40)[None]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        before = net(input_ids=ids).last_hidden_state
        use_fast_rotary(net)
        assert torch.equal(net(input_ids=ids).last_hidden_state, before)
    module = importlib.import_module(type(net).__module__)
    first = module.apply_rotary_pos_emb
    use_fast_rotary(net)
    assert module.apply_rotary_pos_emb is first
    restore_rotary()
    assert module.apply_rotary_pos_emb is first.original, "the next job of a sweep starts clean"
