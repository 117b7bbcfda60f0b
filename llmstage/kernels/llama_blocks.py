"""Llama's blocks for training in bf16 on a CPU, each half a function with a gradient written out.

transformers' eager layers under autocast pass over memory far more often than the arithmetic asks for: a norm is six passes
in fp32, its result is cast anew for each of the products that read it, and each cast, product and sum leaves a gradient of
its own to be added up. Here a block is two functions, x + attention(norm(x)) and x + mlp(norm(x)): one product for queries,
keys and values, one for gate and up, rotary positions written where the attention reads them, causal scores only below the
diagonal (by blocks of queries), weight gradients in the faster order of operands (models/products.py). The residual stream
and the norms stay in fp32, all else is rounded to bf16 where autocast would. Of long rows the attention's weights are not kept for
the gradient but computed again, a block at a time. The rest (fp32, scoring, generation, GPUs,
dropout, low-rank updates, grouped keys, compiled bodies) goes to transformers' own forward.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmstage.kernels.attention import LONGEST, NAME, mask_bias
from llmstage.kernels.matmul import weight_gradient

QUERIES = 128
"""Queries of a block: it looks at the keys up to its own last one, and above the diagonal nothing is computed."""
REACH = 2048
"""Tokens in a row up to which this pays: 1.44 times the rate of transformers' own blocks at 2,048 (14 M parameters, 4,096 tokens a
step), 0.7 times at 4,096."""
HALF = torch.bfloat16


def norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """RMSNorm of x [N, D] in fp32 -> (bf16 [N, D], reciprocal root [N, 1])."""
    inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return torch.mul(x * inverse, weight).to(HALF), inverse


def norm_gradient(
    gradient: Tensor, x: Tensor, inverse: Tensor, weight: Tensor, residual: Tensor
) -> tuple[Tensor, Tensor]:
    """(residual + gradient of x, gradient of weight); gradient [N, D] of the norm's result, residual [N, D] of the sum."""
    gradient = gradient.float()
    unit = x * inverse
    product = gradient * unit
    along = (product @ weight).div_(x.shape[-1]).unsqueeze_(1)
    change = gradient.mul_(weight).addcmul_(unit, along, value=-1)
    return torch.addcmul(residual, change, inverse), product.sum(0)


def turn(states: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """Rotary positions of states [..., T, D]: dimension d is turned with d + D / 2; cos and sin [B or 1, 1, T, D / 2]."""
    first, second = states.chunk(2, -1)
    left, right = out.chunk(2, -1)
    torch.mul(first, cos, out=left).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=right).addcmul_(first, sin)


def stacked(weights: list[Tensor]) -> Tensor:
    """The rows of all weights in bf16, below each other."""
    out = torch.empty(sum(len(weight) for weight in weights), weights[0].shape[1], dtype=HALF)
    for part, weight in zip(out.split([len(weight) for weight in weights]), weights, strict=True):
        part.copy_(weight)
    return out


def blocks(length: int) -> list[tuple[int, int]]:
    """(first, past the last) of each block of queries."""
    return [(start, min(start + QUERIES, length)) for start in range(0, length, QUERIES)]


def weights_of(q: Tensor, k: Tensor, bias: Tensor, start: int, stop: int) -> Tensor:
    """How a block of queries (scaled already) looks at the keys so far, [B * H, block, stop]; bias [B or 1, 1, T, T]."""
    scores = torch.bmm(q[:, start:stop], k[:, :stop].transpose(1, 2))
    scores.unflatten(0, (len(bias), -1)).add_(bias[:, :, start:stop, :stop])
    return torch.softmax(scores, -1)  # in fp32 inside, rounded at the end


def look(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, *, keep: bool) -> tuple[Tensor, list[Tensor]]:
    """Causal attention [B * H, T, D] of q, k, v [B * H, T, D], and the weights of each block where they are kept."""
    out, kept = torch.empty_like(q), []
    for start, stop in blocks(q.shape[1]):
        weights = weights_of(q, k, bias, start, stop)
        out[:, start:stop] = torch.bmm(weights, v[:, :stop])
        if keep:
            kept.append(weights)
    return out, kept


def look_gradient(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, kept: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v. Weights that were not kept are computed again, to the same bits."""
    dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for number, (start, stop) in enumerate(blocks(q.shape[1])):
        weights = kept[number] if kept else weights_of(q, k, bias, start, stop)
        above = gradient[:, start:stop]
        dv[:, :stop] += torch.bmm(weights.transpose(1, 2), above)
        scores = torch._softmax_backward_data(torch.bmm(above, v[:, :stop].transpose(1, 2)), weights, -1, HALF)
        dq[:, start:stop] = torch.bmm(scores, k[:, :stop])
        dk[:, :stop] += torch.bmm(scores.transpose(1, 2), q[:, start:stop])
    return dq, dk, dv


class Attend(torch.autograd.Function):
    """x [B, T, W] -> x + output(attention(norm(x)))."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, eps: float, query: Tensor, key: Tensor, value: Tensor, output: Tensor,
        cos: Tensor, sin: Tensor, bias: Tensor, heads: int,
    ) -> Tensor:  # fmt: skip
        batch, length, _ = x.shape
        flat = x.reshape(batch * length, -1)
        normed, inverse = norm(flat, scale, eps)
        joint, out_weight = stacked([query, key, value]), output.to(HALF)
        made = F.linear(normed, joint).view(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)  # [3, B, H, T, D]
        made = made.contiguous()
        width = made.shape[-1]
        turned = torch.empty_like(made[:2])
        factor = width**-0.5
        turn(made[0], cos * factor, sin * factor, turned[0])
        turn(made[1], cos, sin, turned[1])
        q, k, v = (part.view(batch * heads, length, width) for part in (turned[0], turned[1], made[2]))
        seen, kept = look(q, k, v, bias, keep=length <= LONGEST)
        mixed = seen.view(batch, heads, length, width).transpose(1, 2).reshape(batch * length, -1)
        ctx.save_for_backward(flat, scale, inverse, normed, joint, out_weight, cos, sin, q, k, v, mixed, bias, *kept)
        ctx.heads = heads
        return (flat + F.linear(mixed, out_weight)).view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        flat, scale, inverse, normed, joint, out_weight, cos, sin, q, k, v, mixed, bias, *kept = ctx.saved_tensors
        batch, length, _ = gradient.shape
        heads, width = ctx.heads, q.shape[-1]
        residual = gradient.reshape(batch * length, -1)
        above = residual.to(HALF)
        d_output = weight_gradient(above, mixed).float()
        d_seen = (above @ out_weight).view(batch, length, heads, width).transpose(1, 2).reshape(q.shape)
        dq, dk, dv = (part.view(batch, heads, length, width) for part in look_gradient(d_seen, q, k, v, bias, kept))
        made = torch.empty(3, batch, heads, length, width, dtype=HALF)
        factor = width**-0.5
        turn(dq, cos * factor, sin * -factor, made[0])
        turn(dk, cos, -sin, made[1])
        made[2] = dv
        d_made = made.permute(1, 3, 0, 2, 4).reshape(batch * length, -1)
        d_joint = weight_gradient(d_made, normed).float().chunk(3)
        dx, d_scale = norm_gradient(d_made @ joint, flat, inverse, scale, residual)
        return dx.view_as(gradient), d_scale, None, *d_joint, d_output, None, None, None, None


class Feed(torch.autograd.Function):
    """x [B, T, W] -> x + down(silu(gate(norm(x))) * up(norm(x)))."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, eps: float, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        normed, inverse = norm(flat, scale, eps)
        joint, down_weight = stacked([gate, up]), down.to(HALF)
        made = F.linear(normed, joint)
        first, second = made.chunk(2, -1)
        inner = F.silu(first).mul_(second)
        ctx.save_for_backward(flat, scale, inverse, normed, joint, down_weight, made, inner)
        return (flat + F.linear(inner, down_weight)).view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        flat, scale, inverse, normed, joint, down_weight, made, inner = ctx.saved_tensors
        residual = gradient.reshape(-1, gradient.shape[-1])
        above = residual.to(HALF)
        d_down = weight_gradient(above, inner).float()
        d_inner = above @ down_weight
        first, second = made.chunk(2, -1)
        d_made = torch.empty_like(made)
        d_first, d_second = d_made.chunk(2, -1)
        torch.mul(d_inner, F.silu(first), out=d_second)
        torch.ops.aten.silu_backward.grad_input(d_inner.mul_(second), first, grad_input=d_first)
        d_gate, d_up = weight_gradient(d_made, normed).float().chunk(2)
        dx, d_scale = norm_gradient(d_made @ joint, flat, inverse, scale, residual)
        return dx.view_as(gradient), d_scale, None, d_gate, d_up, d_down


class LeanBlock:
    """A forward for one layer of a Llama, and transformers' own for what it is not made for."""

    def __init__(self, original: Callable[..., Tensor], masks: dict[str, Any]) -> None:
        self.original, self.masks = original, masks

    def fits(self, layer: Any, x: Tensor, mask: Any, kwargs: dict[str, Any]) -> bool:
        return (
            x.device.type == "cpu"
            and x.dtype == torch.float32
            and torch.is_grad_enabled()
            and torch.is_autocast_enabled("cpu")
            and torch.get_autocast_dtype("cpu") == HALF
            and x.shape[1] <= REACH
            and kwargs.get("cache") is None
            and (mask is None or (mask.ndim == 4 and mask.dtype == torch.bool))
            and not (layer.training and layer.self_attn.attention_dropout)
            and not torch.compiler.is_compiling()
        )

    def bias(self, mask: Tensor | None, length: int) -> Tensor:
        """The mask as numbers to add, made once for all layers of a pass."""
        if "bias" not in self.masks or self.masks["mask"] is not mask or self.masks["bias"].shape[-1] != length:
            found = mask_bias(mask, length, causal=True)
            self.masks.update(mask=mask, bias=found)
        bias: Tensor = self.masks["bias"]
        return bias

    def __call__(self, layer: Any, hidden_states: Tensor, attention_mask: Any = None, **kwargs: Any) -> Tensor:
        x = hidden_states
        if not self.fits(layer, x, attention_mask, kwargs):
            return self.original(hidden_states, attention_mask=attention_mask, **kwargs)
        look, feed = layer.self_attn, layer.mlp
        first, second = layer.input_layernorm, layer.post_attention_layernorm
        half = look.head_dim // 2
        cos, sin = (part[..., :half].unsqueeze(1).to(HALF) for part in kwargs["position_embeddings"])
        bias = self.bias(attention_mask, x.shape[1])
        x = Attend.apply(
            x, first.weight, first.variance_epsilon, look.q_proj.weight, look.k_proj.weight, look.v_proj.weight,
            look.o_proj.weight, cos, sin, bias, look.config.num_attention_heads,
        )  # fmt: skip
        out: Tensor = Feed.apply(
            x, second.weight, second.variance_epsilon, feed.gate_proj.weight, feed.up_proj.weight, feed.down_proj.weight
        )
        return out


def use_lean_blocks(model: Any) -> int:
    """Let the layers of a Llama be trained by the functions above; returns how many layers could be.

    Nothing of it is saved with the model. It keeps away from layers that are not plain: biases, grouped keys, adapters.
    """
    body = getattr(model, "base_model", model)
    body = getattr(body, "language_model", body)
    if body.config.model_type != "llama" or body.config._attn_implementation not in ("sdpa", NAME):
        return 0
    masks: dict[str, Any] = {}
    changed = 0
    for layer in body.layers:
        look, feed = layer.self_attn, layer.mlp
        linear = (look.q_proj, look.k_proj, look.v_proj, look.o_proj, feed.gate_proj, feed.up_proj, feed.down_proj)
        plain = all(type(part) is nn.Linear and part.bias is None for part in linear)
        if plain and look.num_key_value_groups == 1 and body.config.hidden_act == "silu":
            block = LeanBlock(layer.forward, masks)
            layer.forward = MethodType(block, layer)
            changed += 1
    return changed
