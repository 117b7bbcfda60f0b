"""Matrix products of linear layers, with operands laid out as a CPU multiplies them fastest.

They replace `torch.nn.functional.linear` in the kernels of this package: weight_gradient() in training in bf16 on a CPU,
PackedLinear and few_rows_linear() where a model generates on a CPU (kernels/llama_decode.py). On machines without oneDNN the
plain product is computed. A packed weight is compared with the plain product once for each shape and type in a process; where
they differ, the plain product is used and a warning says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmstage import console
from llmstage.kernels.torch_internals import pack_linear_weight, packed_linear

MIN_TRANSPOSED = 1024
"""Elements of a side from which on transposing the narrower operand saves time."""


def weight_gradient(gradient: Tensor, inputs: Tensor) -> Tensor:
    """gradient [N, O] and inputs [N, I] -> [O, I] = gradient.T @ inputs.

    torch passes a transposed bf16 operand to oneDNN, which multiplies it at half its rate (2048 tokens, 384 to 2048: 6.5 ms
    against 3.7). Copying the narrower of the two into transposed order first costs less than that, and the other one is read
    in the order in which it is stored.
    """
    outputs, width = gradient.shape[1], inputs.shape[1]
    if gradient.dtype != torch.bfloat16 or gradient.device.type != "cpu" or max(outputs, width) < MIN_TRANSPOSED:
        return gradient.t() @ inputs
    if outputs <= width:
        return gradient.t().contiguous() @ inputs
    return (inputs.t().contiguous() @ gradient).t().contiguous()


MIN_PACKED_ROWS = 8
"""Rows from which on a packed weight is faster in fp32."""
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.01}
"""Relative error of a packed product that is accepted."""
AGREED: dict[tuple[torch.dtype, torch.Size], bool] = {}
"""(type, shape) of weights whose packed product was compared with the plain one: whether they agreed."""


class PackedLinear:
    """x [N, in] times a weight [out, in] that does not change: x @ weight.T + bias in the weight's type.

    oneDNN reorders a weight into its own blocks at every call, which for few rows costs more than the product. Here that is done
    once: 16 rows of 384 in bf16, on one thread, with 8,192 outputs take half the time and with 384 two thirds. The numbers are
    those of F.linear, bit for bit.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight, self.bias = weight.detach(), None if bias is None else bias.detach().to(weight.dtype)
        self.blocks: Any = pack_linear_weight(self.weight)
        if self.blocks is not None and not packing_agrees(self.weight, self.blocks):
            self.blocks = None
        if self.blocks is not None:
            self.weight = self.weight[:0]  # the packed copy is enough

    def __call__(self, x: Tensor) -> Tensor:
        if self.blocks is None:
            return F.linear(x, self.weight, self.bias)
        return packed_linear(x, self.blocks, self.bias)


@torch.no_grad()
def packing_agrees(weight: Tensor, blocks: Any) -> bool:
    """Whether the packed product of this weight is the plain one, for two rows; remembered by type and shape."""
    key = weight.dtype, weight.shape
    if key not in AGREED:
        x = torch.linspace(-1, 1, 2 * weight.shape[1]).view(2, -1).to(weight.dtype)
        plain = F.linear(x, weight).float()
        try:
            error = float((packed_linear(x, blocks, None).float() - plain).norm() / plain.norm().clamp(min=1e-12))
            reason = f"relative error {error:.2g}"
        except RuntimeError as failure:
            error, reason = float("inf"), str(failure).splitlines()[0]
        AGREED[key] = error <= TOLERANCE[weight.dtype]
        if not AGREED[key]:
            console.warn(
                f"kernels.matmul: the packed product of a weight {tuple(weight.shape)} differs from the plain one ({reason}). "
                f"The plain product is used."
            )
    return AGREED[key]


def few_rows_linear(layers: list[nn.Linear], dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """x [N, in] -> [N, out of all layers], with their biases, for few rows.

    fp32 weights are transposed: [in, out] is up to twice as fast for few rows.
    """
    weight = torch.cat([layer.weight.detach() for layer in layers]).to(dtype)
    bias = None
    if any(layer.bias is not None for layer in layers):
        zeros = [weight.new_zeros(layer.out_features) for layer in layers]
        parts = zip(layers, zeros, strict=True)
        bias = torch.cat([zero if layer.bias is None else layer.bias.detach().to(dtype) for layer, zero in parts])
    if dtype == torch.bfloat16:
        return PackedLinear(weight, bias)
    columns = transposed(weight)
    if bias is None:
        return lambda x: x @ columns
    return lambda x: torch.addmm(bias, x, columns)


def transposed(weight: Tensor) -> Tensor:
    """[in, out] of a weight [out, in]."""
    return weight.detach().t().contiguous()


def output_linear(head: nn.Linear, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Logits [N, V] of an output layer. In fp32, few rows read the weight fastest as it is stored."""
    packed = PackedLinear(head.weight.to(dtype), head.bias)
    if dtype == torch.bfloat16:
        return packed
    return lambda x: packed(x) if len(x) >= MIN_PACKED_ROWS else head(x)
