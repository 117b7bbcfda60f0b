"""The chunked head gives the plain loss and gradient, whatever the size of a chunk."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmstage.kernels import head_loss
from llmstage.kernels.head_loss import chunk_size, head_losses, supports_chunks
from llmstage.models.lm_loss import masked_losses, token_losses


def plain(head: nn.Linear, hidden: Tensor, target: Tensor, smoothing: float) -> Tensor:
    return F.cross_entropy(head(hidden).float(), target, reduction="none", label_smoothing=smoothing)


def gradients(losses: Tensor, weights: Tensor | None, *of: Tensor) -> list[Tensor]:
    total = losses.sum() if weights is None else (losses * weights).sum()
    return list(torch.autograd.grad(total, of))


def case(tokens: int = 37, *, bias: bool = False) -> tuple[nn.Linear, Tensor, Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(tokens, 24, requires_grad=True)
    return nn.Linear(24, 50, bias=bias), hidden, torch.randint(0, 50, (tokens,))


@pytest.mark.parametrize("chunk", [1, 8, 37, 1000])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_the_plain_loss_in_fp32(
    chunk: int, smoothing: float, *, bias: bool, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_loss, "CACHED", 150)  # blocks of three tokens
    head, hidden, target = case(bias=bias)
    weights = torch.rand(len(target)) if weighted else None  # the gradient is then not that of a sum
    expected = plain(head, hidden, target, smoothing)
    found = head_losses(head, hidden, target, smoothing, chunk)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    of = (hidden, *head.parameters())
    for ours, theirs in zip(gradients(found, weights, *of), gradients(expected, weights, *of), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_scaled_loss_scales_the_gradient() -> None:
    head, hidden, target = case()
    once, again = (head_losses(head, hidden, target, 0.0, 16).sum() * factor for factor in (1, 1024))
    for one, scaled in zip(
        gradients(once, None, hidden, head.weight), gradients(again, None, hidden, head.weight), strict=True
    ):
        torch.testing.assert_close(scaled, one * 1024)


def test_in_bf16_it_is_as_near_to_fp32_as_the_plain_loss() -> None:
    """Logits are rounded to bf16 by both; the loss is exact from there on, the gradient within bf16 noise."""
    head, hidden, target = case(1024)
    true = gradients(plain(head, hidden, target, 0.0), None, hidden, head.weight)
    off = []
    for chunk in (0, 256):
        with torch.autocast("cpu", torch.bfloat16):
            losses = head_losses(head, hidden, target, 0.0, chunk) if chunk else plain(head, hidden, target, 0.0)
        assert losses.dtype == torch.float32
        found = gradients(losses, None, hidden, head.weight)
        off.append([float((a - b).norm() / b.norm()) for a, b in zip(found, true, strict=True)])
    for plainly, chunked in zip(*off, strict=True):
        assert chunked < 1.5 * plainly + 1e-3


def test_no_target_no_loss() -> None:
    head, hidden, _ = case(4)
    losses = head_losses(head, hidden[:0], torch.zeros(0, dtype=torch.long), 0.0, 8)
    assert losses.shape == (0,)
    losses.sum().backward()
    assert head.weight.grad is not None and not head.weight.grad.any()


def test_the_setting_and_what_it_is_refused_for() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert chunk_size("off", 8192, cpu) == 0 and chunk_size(77, 8192, cpu) == 77
    assert chunk_size("auto", 8192, cpu) == 2048 and chunk_size("auto", 8192, gpu) == 8 * 2048
    frozen = nn.Linear(2, 2)
    frozen.weight.requires_grad_(requires_grad=False)
    assert (
        supports_chunks(nn.Linear(2, 2)) and not supports_chunks(nn.Bilinear(1, 1, 1)) and not supports_chunks(frozen)
    )


def llama(*, tied: bool) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=96, tie_word_embeddings=tied, **sizes))
    model.split_head = True
    return model


def modernbert() -> nn.Module:
    from transformers import ModernBertConfig, ModernBertForMaskedLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    model = ModernBertForMaskedLM(ModernBertConfig(vocab_size=96, **sizes, **ids))
    model.split_head = True
    return model


@pytest.mark.parametrize("make", [lambda: llama(tied=False), lambda: llama(tied=True), modernbert])
def test_a_model_learns_the_same_in_chunks(make) -> None:
    """Tied embeddings get both their gradients; ModernBERT's decoder, which has a bias, is chunked behind its dense layer."""
    model = make()
    losses = masked_losses if model.config.model_type == "modernbert" else token_losses
    ids = torch.randint(3, 96, (3, 20))
    labels = ids.masked_fill(torch.rand(3, 20) < 0.5, -100)
    found = []
    for chunk in (0, 7):
        model.head_chunk = chunk
        model.zero_grad()
        total = losses(model, {"input_ids": ids}, labels, -100).nll.sum()
        total.backward()
        found.append((total.item(), {name: weight.grad for name, weight in model.named_parameters()}))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-6)
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, rtol=1e-4, atol=1e-5, msg=name)
