"""Matrix products of linear layers, with operands laid out as a CPU multiplies them fastest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW = 1024
"""Elements of a side from which on it pays to turn the narrower operand."""


def weight_gradient(gradient: Tensor, inputs: Tensor) -> Tensor:
    """gradient [N, O] and inputs [N, I] -> [O, I] = gradient.T @ inputs.

    torch hands a transposed bf16 operand to oneDNN, which multiplies it at half its rate (2048 tokens, 384 to 2048: 6.5 ms
    against 3.7). Turning the narrower of the two before costs less than that: the other one is then read as it lies.
    """
    outputs, width = gradient.shape[1], inputs.shape[1]
    if gradient.dtype != torch.bfloat16 or gradient.device.type != "cpu" or max(outputs, width) < FEW:
        return gradient.t() @ inputs
    if outputs <= width:
        return gradient.t().contiguous() @ inputs
    return (inputs.t().contiguous() @ gradient).t().contiguous()


MANY = 8
"""Rows from which on a packed weight pays in fp32."""


class Packed:
    """x [N, in] times a weight [out, in] that does not change: x @ weight.T + bias in the weight's type.

    oneDNN turns a weight into blocks of its own at every call, which for few rows costs more than the product. Here that is done
    once: 16 rows of 384 in bf16, on one thread, with 8,192 outputs take half the time and with 384 two thirds. The numbers are those
    of F.linear, bit for bit.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight, self.bias = weight.detach(), None if bias is None else bias.detach().to(weight.dtype)
        self.blocks: Any = None
        known = weight.dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        if weight.device.type == "cpu" and torch.backends.mkldnn.is_available() and known:
            self.blocks = torch.ops.mkldnn._reorder_linear_weight(self.weight)
            self.weight = self.weight[:0]

    def __call__(self, x: Tensor) -> Tensor:
        if self.blocks is None:
            return F.linear(x, self.weight, self.bias)
        made: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.blocks, self.bias, "none", [], "")
        return made


def for_few_rows(parts: list[nn.Linear], dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """x [N, in] -> [N, out of all parts], without biases. fp32 weights are turned: [in, out] is up to twice as fast for few rows."""
    weight = torch.cat([part.weight.detach() for part in parts]).to(dtype)
    if dtype == torch.bfloat16:
        return Packed(weight)
    laid = turned(weight)
    return lambda x: x @ laid


def turned(weight: Tensor) -> Tensor:
    """[in, out] of a weight [out, in]."""
    return weight.detach().t().contiguous()


def head_for_rows(head: nn.Linear, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Logits [N, V] of an output layer. In fp32 few rows read the weight as it lies fastest."""
    packed = Packed(head.weight.to(dtype), head.bias)
    if dtype == torch.bfloat16:
        return packed
    return lambda x: packed(x) if len(x) >= MANY else head(x)
