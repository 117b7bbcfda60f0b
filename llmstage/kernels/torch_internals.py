"""Undocumented functions of torch that this project calls, each with the documented operation it falls back to.

A new version of torch may rename or remove a private function. Every such name is in this file and in no other, and each
function here computes the same result by public operations where the private one is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "FakeTensor", "FakeTensorMode", "TorchDispatchMode", "bf16_unit", "pack_linear_weight", "packed_linear", "scale_tensors",
    "silu_gradient", "softmax_gradient", "tree_iter",
]  # fmt: skip

# What inspect/memory_estimate.py counts allocations with.
try:
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_iter
except ImportError:

    class FakeTensor(Tensor):  # type: ignore[no-redef]
        """No tensor is an instance of this class."""

    class TorchDispatchMode:  # type: ignore[no-redef]
        """A base class for counters, which cannot be entered: stage=inspect then reports that it has no estimate."""

        def __enter__(self) -> Any:
            raise NotImplementedError("this version of torch has no torch.utils._python_dispatch")

        def __exit__(self, *error: object) -> None:
            """Do nothing."""

    class FakeTensorMode(TorchDispatchMode):  # type: ignore[no-redef]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            raise NotImplementedError("this version of torch has no torch._subclasses.fake_tensor")

    def tree_iter(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> Iterable[Any]:
        """Leaves of nested lists, tuples and dicts."""
        if isinstance(tree, dict):
            tree = list(tree.values())
        if isinstance(tree, (list, tuple)):
            for item in tree:
                yield from tree_iter(item, is_leaf)
        else:
            yield tree


def softmax_gradient(gradient: Tensor, weights: Tensor) -> Tensor:
    """Gradient of the scores from the gradient of weights = softmax(scores, -1)."""
    backward = getattr(torch, "_softmax_backward_data", None)
    if backward is not None:
        result: Tensor = backward(gradient, weights, -1, weights.dtype)
        return result
    weighted = gradient.float() * weights.float()
    return (weighted - weights.float() * weighted.sum(-1, keepdim=True)).to(weights.dtype)


def silu_gradient(gradient: Tensor, x: Tensor, out: Tensor) -> None:
    """Write the gradient of x of silu(x) into `out`."""
    backward = getattr(torch.ops.aten, "silu_backward", None)
    if backward is not None and hasattr(backward, "grad_input"):
        backward.grad_input(gradient, x, grad_input=out)
        return
    sigmoid = x.float().sigmoid()
    out.copy_(gradient.float() * sigmoid * (1 + x.float() * (1 - sigmoid)))


def pack_linear_weight(weight: Tensor) -> Any:
    """`weight` [out, in] in oneDNN's blocked layout, for packed_linear(); None where this machine or torch has none."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return None
    mkldnn: Any = torch.ops.mkldnn
    names = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    if not all(hasattr(mkldnn, name) for name in names):
        return None
    if weight.dtype != torch.float32 and not mkldnn._is_mkldnn_bf16_supported():
        return None
    return mkldnn._reorder_linear_weight(weight)


def packed_linear(x: Tensor, packed: Any, bias: Tensor | None) -> Tensor:
    """x [N, in] @ weight.T + bias, with the weight as pack_linear_weight() returned it."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return result


def scale_tensors(tensors: list[Tensor], factor: Tensor | float) -> None:
    """Multiply all tensors by one factor in place, in one call where torch offers one."""
    foreach = getattr(torch, "_foreach_mul_", None)
    if foreach is not None:
        foreach(tensors, factor)
        return
    for tensor in tensors:
        tensor.mul_(factor)


def bf16_unit() -> str:
    """Name of the unit of this CPU that multiplies bf16 fast; empty where there is none or torch cannot report it."""
    for name, probe in (("AMX", "_is_amx_tile_supported"), ("AVX512-bf16", "_is_avx512_bf16_supported")):
        supported = getattr(torch.cpu, probe, None)
        if supported is not None and supported():
            return name
    return ""
