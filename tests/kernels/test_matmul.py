"""Weights laid out once give the numbers of the plain product, in either type, with few rows or many."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from llmstage.kernels.matmul import MIN_PACKED_ROWS, PackedLinear, few_rows_linear, output_linear

ROWS = (1, MIN_PACKED_ROWS - 1, MIN_PACKED_ROWS, 16, 70)


@pytest.fixture(autouse=True)
def _no_gradient():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_bf16_weight_gives_the_bits_of_linear(rows: int, bias: bool) -> None:
    torch.manual_seed(rows)
    x, weight = torch.randn(rows, 96).bfloat16(), torch.randn(300, 96).bfloat16()
    offset = torch.randn(300) if bias else None
    packed = PackedLinear(weight, offset)
    wanted = F.linear(x, weight, None if offset is None else offset.bfloat16())
    assert torch.equal(packed(x), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", ROWS)
def test_layers_and_heads_laid_out_for_rows(rows: int, dtype: torch.dtype) -> None:
    torch.manual_seed(rows)
    parts, head = [nn.Linear(64, size, bias=False) for size in (64, 32)], nn.Linear(64, 500)
    x = torch.randn(rows, 64).to(dtype)
    near = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.0, "rtol": 0.0}
    joint = torch.cat([part.weight for part in parts]).to(dtype)
    torch.testing.assert_close(few_rows_linear(parts, dtype)(x), F.linear(x, joint), **near)
    logits = output_linear(head, dtype)(x)
    torch.testing.assert_close(logits, F.linear(x, head.weight.to(dtype), head.bias.to(dtype)), **near)


def test_without_onednn_the_plain_product_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    x, weight = torch.randn(3, 8), torch.randn(5, 8)
    packed = PackedLinear(weight)
    assert packed.blocks is None and torch.equal(packed(x), F.linear(x, weight))


def test_the_likeliest_token_is_the_first_of_equals() -> None:
    """generate.greedy_ids takes max() for argmax(): bf16 logits are often equal."""
    torch.manual_seed(0)
    for _ in range(50):
        logits = torch.randint(0, 6, (16, 700)).bfloat16()
        assert torch.equal(logits.max(-1).indices, logits.argmax(-1))
