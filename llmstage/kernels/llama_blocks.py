"""Llama's decoder layers for training in bf16 on a CPU, each half a function with a gradient written by hand.

They replace the forward of every plain layer of a Llama, Mistral or Qwen 2 (grouped keys and biases of queries, keys and values
included; no adapters, SiLU) while it trains in bf16 on a CPU, in rows of up to MAX_FUSED_TOKENS tokens. transformers' eager layers under autocast pass over memory far more often
than the arithmetic needs: a norm is six passes in fp32, its result is cast again for each product that reads it, and each
cast, product and sum leaves a gradient of its own to be added up. Here a layer is two functions, x + attention(norm(x)) and
x + mlp(norm(x)): one product for queries, keys and values, one for gate and up, rotary positions written where the attention
reads them, causal scores only below the diagonal (by blocks of queries), weight gradients in the faster order of operands
(kernels/matmul.py). The residual stream and the norms stay in fp32; all else is rounded to bf16 where autocast would round. For
long rows the attention's weights are not kept for the gradient but computed again, a block at a time. Everything else (fp32,
scoring, generation, GPUs, dropout, low-rank updates, windows, norms of queries, compiled bodies) goes to transformers' own forward. When they are
enabled, outputs and gradients of the model are compared with those of transformers' layers (kernels/comparison.py).
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmstage.kernels.attention import MAX_TOKENS, NAME, mask_bias
from llmstage.kernels.matmul import weight_gradient
from llmstage.kernels.torch_internals import silu_gradient, softmax_gradient
from llmstage.kernels.transformers_internals import attention_implementation, has_cache

QUERY_BLOCK = 128
"""Queries in a block: it reads the keys up to its own last query, and nothing is computed above the diagonal."""
MAX_FUSED_TOKENS = 2048
"""Tokens in a row up to which this is faster: 1.44 times the rate of transformers' own layers at 2,048 (14 M parameters, 4,096 tokens
a step), 0.7 times at 4,096."""
BF16 = torch.bfloat16
MODEL_TYPES = ("llama", "mistral", "qwen2")
"""Model types whose layers are computed here."""


def norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """RMSNorm of x [N, D] in fp32 -> (bf16 [N, D], reciprocal root [N, 1])."""
    inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return torch.mul(x * inverse, weight).to(BF16), inverse


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


def rotate(states: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """Write rotary positions of states [..., T, D] into `out`: dimension d is rotated with d + D / 2; cos and sin [B or 1, 1, T, D / 2]."""
    first, second = states.chunk(2, -1)
    left, right = out.chunk(2, -1)
    torch.mul(first, cos, out=left).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=right).addcmul_(first, sin)


def stacked(weights: list[Tensor]) -> Tensor:
    """The rows of all weights in bf16, below each other."""
    out = torch.empty(sum(len(weight) for weight in weights), weights[0].shape[1], dtype=BF16)
    for part, weight in zip(out.split([len(weight) for weight in weights]), weights, strict=True):
        part.copy_(weight)
    return out


def blocks(length: int) -> list[tuple[int, int]]:
    """(first, one past the last) index of each block of queries."""
    return [(start, min(start + QUERY_BLOCK, length)) for start in range(0, length, QUERY_BLOCK)]


def attention_weights(q: Tensor, k: Tensor, bias: Tensor, start: int, stop: int) -> Tensor:
    """Attention weights [B * H, block, stop] of a block of scaled queries over the keys so far; bias [B or 1, 1, T, T]."""
    scores = torch.bmm(q[:, start:stop], k[:, :stop].transpose(1, 2))
    scores.unflatten(0, (len(bias), -1)).add_(bias[:, :, start:stop, :stop])
    return torch.softmax(scores, -1)  # in fp32 inside, rounded at the end


def causal_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, *, save_weights: bool
) -> tuple[Tensor, list[Tensor]]:
    """Causal attention [B * H, T, D] of q, k, v [B * H, T, D], and the weights of each block if they are saved."""
    out, saved = torch.empty_like(q), []
    for start, stop in blocks(q.shape[1]):
        weights = attention_weights(q, k, bias, start, stop)
        out[:, start:stop] = torch.bmm(weights, v[:, :stop])
        if save_weights:
            saved.append(weights)
    return out, saved


def causal_attention_gradient(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, saved: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v. Weights that were not saved are computed again, to the same bits."""
    dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for number, (start, stop) in enumerate(blocks(q.shape[1])):
        weights = saved[number] if saved else attention_weights(q, k, bias, start, stop)
        d_out = gradient[:, start:stop]
        dv[:, :stop] += torch.bmm(weights.transpose(1, 2), d_out)
        d_scores = softmax_gradient(torch.bmm(d_out, v[:, :stop].transpose(1, 2)), weights)
        dq[:, start:stop] = torch.bmm(d_scores, k[:, :stop])
        dk[:, :stop] += torch.bmm(d_scores.transpose(1, 2), q[:, start:stop])
    return dq, dk, dv


class AttentionBlock(torch.autograd.Function):
    """x [B, T, W] -> x + output(attention(norm(x))), with H heads of queries and G heads of keys and values."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, eps: float, query: Tensor, key: Tensor, value: Tensor, output: Tensor,
        bias_q: Tensor | None, bias_k: Tensor | None, bias_v: Tensor | None, cos: Tensor, sin: Tensor, mask: Tensor,
        width: int,
    ) -> Tensor:  # fmt: skip
        batch, length, _ = x.shape
        flat = x.reshape(batch * length, -1)
        normed, inverse = norm(flat, scale, eps)
        joint, out_weight = stacked([query, key, value]), output.to(BF16)
        biases = [bias_q, bias_k, bias_v]
        joint_bias = None if bias_q is None else torch.cat([part for part in biases if part is not None]).to(BF16)
        heads, groups = len(query) // width, len(key) // width
        qkv = F.linear(normed, joint, joint_bias).view(batch, length, heads + 2 * groups, width).transpose(1, 2)
        # Rotate queries and keys; the scale of the scores is a factor of the queries' angles, which costs nothing.
        q, k = qkv.new_empty(batch, heads, length, width), qkv.new_empty(batch, groups, length, width)
        factor = width**-0.5
        rotate(qkv[:, :heads], cos * factor, sin * factor, q)
        rotate(qkv[:, heads : heads + groups], cos, sin, k)
        v = qkv[:, heads + groups :]
        q, k, v = q.view(-1, length, width), for_all_heads(k, heads), for_all_heads(v, heads)
        mixed, saved = causal_attention(q, k, v, mask, save_weights=length <= MAX_TOKENS)
        mixed = mixed.view(batch, heads, length, width).transpose(1, 2).reshape(batch * length, -1)
        ctx.save_for_backward(flat, scale, inverse, normed, joint, out_weight, cos, sin, q, k, v, mixed, mask, *saved)
        ctx.sizes, ctx.has_bias = (heads, groups, width), joint_bias is not None
        return (flat + F.linear(mixed, out_weight)).view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        flat, scale, inverse, normed, joint, out_weight, cos, sin, q, k, v, mixed, mask, *saved = ctx.saved_tensors
        batch, length, _ = gradient.shape
        heads, groups, width = ctx.sizes
        residual = gradient.reshape(batch * length, -1)
        d_sum = residual.to(BF16)
        # Through the output projection and the attention.
        d_output = weight_gradient(d_sum, mixed).float()
        d_mixed = (d_sum @ out_weight).view(batch, length, heads, width).transpose(1, 2).reshape(q.shape)
        dq, dk, dv = causal_attention_gradient(d_mixed, q, k, v, mask, saved)
        dk, dv = (sum_over_heads(part, batch, groups) for part in (dk, dv))
        # Rotate the gradients back, and through the joint projection and the norm.
        d_qkv = torch.empty(batch, heads + 2 * groups, length, width, dtype=BF16)
        factor = width**-0.5
        rotate(dq.view(batch, heads, length, width), cos * factor, sin * -factor, d_qkv[:, :heads])
        rotate(dk, cos, -sin, d_qkv[:, heads : heads + groups])
        d_qkv[:, heads + groups :] = dv
        d_qkv = d_qkv.transpose(1, 2).reshape(batch * length, -1)
        rows = [heads * width, groups * width, groups * width]
        d_joint = weight_gradient(d_qkv, normed).float().split(rows)
        d_bias = d_qkv.float().sum(0).split(rows) if ctx.has_bias else (None, None, None)
        dx, d_scale = norm_gradient(d_qkv @ joint, flat, inverse, scale, residual)
        return dx.view_as(gradient), d_scale, None, *d_joint, d_output, *d_bias, None, None, None, None


def for_all_heads(states: Tensor, heads: int) -> Tensor:
    """Keys or values [B, G, T, D] -> [B * H, T, D], repeated for the heads of each group."""
    groups, length, width = states.shape[1:]
    if groups == heads:
        return states.reshape(-1, length, width)
    return states.repeat_interleave(heads // groups, 1).view(-1, length, width)


def sum_over_heads(gradient: Tensor, batch: int, groups: int) -> Tensor:
    """Gradient [B * H, T, D] of what for_all_heads() repeated -> [B, G, T, D]."""
    split = gradient.view(batch, groups, -1, *gradient.shape[1:])
    return split[:, :, 0] if split.shape[2] == 1 else split.float().sum(2).to(gradient.dtype)


class MlpBlock(torch.autograd.Function):
    """x [B, T, W] -> x + down(silu(gate(norm(x))) * up(norm(x)))."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, eps: float, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        normed, inverse = norm(flat, scale, eps)
        joint, down_weight = stacked([gate, up]), down.to(BF16)
        gate_up = F.linear(normed, joint)
        gated, raised = gate_up.chunk(2, -1)
        inner = F.silu(gated).mul_(raised)
        ctx.save_for_backward(flat, scale, inverse, normed, joint, down_weight, gate_up, inner)
        return (flat + F.linear(inner, down_weight)).view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        flat, scale, inverse, normed, joint, down_weight, gate_up, inner = ctx.saved_tensors
        residual = gradient.reshape(-1, gradient.shape[-1])
        d_sum = residual.to(BF16)
        d_down = weight_gradient(d_sum, inner).float()
        d_inner = d_sum @ down_weight
        gated, raised = gate_up.chunk(2, -1)
        d_gate_up = torch.empty_like(gate_up)
        d_gated, d_raised = d_gate_up.chunk(2, -1)
        torch.mul(d_inner, F.silu(gated), out=d_raised)
        silu_gradient(d_inner.mul_(raised), gated, d_gated)
        d_gate, d_up = weight_gradient(d_gate_up, normed).float().chunk(2)
        dx, d_scale = norm_gradient(d_gate_up @ joint, flat, inverse, scale, residual)
        return dx.view_as(gradient), d_scale, None, d_gate, d_up, d_down


class FusedBlock:
    """The forward of one layer of a Llama: the functions above where they apply, else transformers' own."""

    def __init__(self, original: Callable[..., Tensor], masks: dict[str, Any]) -> None:
        self.original, self.masks = original, masks

    def fits(self, layer: Any, x: Tensor, mask: Any, kwargs: dict[str, Any]) -> bool:
        return (
            x.device.type == "cpu"
            and x.dtype == torch.float32
            and torch.is_grad_enabled()
            and torch.is_autocast_enabled("cpu")
            and torch.get_autocast_dtype("cpu") == BF16
            and x.shape[1] <= MAX_FUSED_TOKENS
            and not has_cache(kwargs)
            and (mask is None or (mask.ndim == 4 and mask.dtype == torch.bool))
            and not (layer.training and layer.self_attn.attention_dropout)
            and not torch.compiler.is_compiling()
        )

    def bias(self, mask: Tensor | None, length: int) -> Tensor:
        """The mask as numbers to add to scores, made once for all layers of a pass."""
        if "bias" not in self.masks or self.masks["mask"] is not mask or self.masks["bias"].shape[-1] != length:
            self.masks.update(mask=mask, bias=mask_bias(mask, length, causal=True))
        bias: Tensor = self.masks["bias"]
        return bias

    def __call__(self, layer: Any, hidden_states: Tensor, attention_mask: Any = None, **kwargs: Any) -> Tensor:
        x = hidden_states
        if not self.fits(layer, x, attention_mask, kwargs):
            return self.original(hidden_states, attention_mask=attention_mask, **kwargs)
        attention, mlp = layer.self_attn, layer.mlp
        first, second = layer.input_layernorm, layer.post_attention_layernorm
        half = attention.head_dim // 2  # cosines and sines are the same for both halves
        cos, sin = (part[..., :half].unsqueeze(1).to(BF16) for part in kwargs["position_embeddings"])
        bias = self.bias(attention_mask, x.shape[1])
        x = AttentionBlock.apply(
            x, first.weight, first.variance_epsilon, attention.q_proj.weight, attention.k_proj.weight,
            attention.v_proj.weight, attention.o_proj.weight, attention.q_proj.bias, attention.k_proj.bias,
            attention.v_proj.bias, cos, sin, bias, attention.head_dim,
        )  # fmt: skip
        out: Tensor = MlpBlock.apply(
            x, second.weight, second.variance_epsilon, mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight
        )
        return out


def use_fused_blocks(model: Any) -> int:
    """Let the plain layers of a Llama, Mistral or Qwen 2 train by the functions above; returns how many layers do.

    Layers with other biases, adapters, windows or norms of queries are left alone. Nothing of it is saved with the model.
    """
    body = getattr(model, "base_model", model)
    body = getattr(body, "language_model", body)
    config = body.config
    if config.model_type not in MODEL_TYPES or attention_implementation(config) not in ("sdpa", NAME):
        return 0
    window, layer_types = (getattr(config, name, None) for name in ("sliding_window", "layer_types"))
    if window is not None and (layer_types is None or "sliding_attention" in layer_types) and window < MAX_FUSED_TOKENS:
        return 0
    if config.hidden_act != "silu":
        return 0
    masks: dict[str, Any] = {}
    num_fused = 0
    for layer in body.layers:
        if is_plain(layer):
            layer.forward = MethodType(FusedBlock(layer.forward, masks), layer)
            num_fused += 1
    return num_fused


def is_plain(layer: Any) -> bool:
    """Whether a layer has no other parts than the functions above compute: biases for all of queries, keys and values, or for none."""
    attention, mlp = layer.self_attn, layer.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    without_bias = (attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    biases = {part.bias is None for part in projections if type(part) is nn.Linear}
    return (
        all(type(part) is nn.Linear for part in (*projections, *without_bias))
        and len(biases) == 1
        and all(part.bias is None for part in without_bias)
        and getattr(attention, "q_norm", None) is None
    )
