"""ModernBERT's forward for answering on a CPU: some ten passes over memory a layer where transformers' eager layers make forty.

Queries and keys are turned by one multiplication of complex numbers (the rows of their weights are put in an order in which the
two numbers that turn together are neighbours, which no product of a query with a key notices), a product adds to the residual
stream itself, gate and input come out of products of their own and are not cut apart afterwards, masks are made once a batch
and not at all where nothing is padded, cosines once and not for every batch. In bf16 products read and give bf16, while the
residual stream, norms and turning stay in fp32; weights are rounded once, not for every batch. Everything else (gradients, GPUs,
biases, adapters, other arithmetic than the weights were prepared for, outputs of inner layers) goes to transformers' own forward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from llmstage.kernels.matmul import turned

HALF = torch.bfloat16


class Layer:
    """The weights of a layer as products read them."""

    def __init__(self, layer: Any, heads: int, dtype: torch.dtype) -> None:
        look, feed = layer.attn, layer.mlp
        joint = look.Wqkv.weight.detach().view(3, heads, 2, -1, look.Wqkv.in_features)  # [3, H, halves, D / 2, W]
        neighbours = joint[:2].transpose(2, 3).flatten(0, 3)  # dimension d beside d + D / 2
        self.joint = turned(torch.cat([neighbours, joint[2].flatten(0, 2)]).to(dtype))
        self.output = turned(look.Wo.weight.to(dtype))
        self.inner, self.gate = (turned(part.to(dtype)) for part in feed.Wi.weight.chunk(2))
        self.down = turned(feed.Wo.weight.to(dtype))
        self.first = None if isinstance(layer.attn_norm, nn.Identity) else layer.attn_norm
        self.second = layer.mlp_norm
        self.kind: str = layer.attention_type


class LeanEncoder:
    """`original`: the forward of `body`, for what this one is not made for; `dtype`: of products."""

    def __init__(self, body: Any, dtype: torch.dtype) -> None:
        self.original: Callable[..., Any] = body.forward
        self.body, self.dtype = body, dtype
        config = body.config
        self.heads, self.reach = config.num_attention_heads, config.sliding_window
        self.layers = [Layer(layer, self.heads, dtype) for layer in body.layers]
        self.kinds = sorted({layer.kind for layer in self.layers})
        self.turns: dict[str, Tensor] = {}
        """cos + i sin [T, 1, 1, D / 2] of each kind of layer, for the longest text so far."""

    def fits(self, ids: Any, mask: Any, kwargs: dict[str, Any]) -> bool:
        now = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
        return (
            isinstance(ids, Tensor)
            and ids.device.type == "cpu"
            and now == self.dtype
            and not torch.is_grad_enabled()
            and not self.body.training
            and all(value is None for value in kwargs.values())
            and (mask is None or isinstance(mask, dict) or mask.ndim == 2)
        )

    def __call__(
        self, input_ids: Any = None, attention_mask: Any = None, position_ids: Any = None, **kwargs: Any
    ) -> Any:
        if not self.fits(input_ids, attention_mask, kwargs):
            kwargs |= {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
            return self.original(**kwargs)
        with torch.autocast("cpu", enabled=False):
            return BaseModelOutput(last_hidden_state=self.read(input_ids, attention_mask, position_ids))

    def read(self, ids: Tensor, mask: Any, places: Tensor | None) -> Tensor:
        """ids [B, T], mask [B, T] or bools [B, 1, T, T] of each kind of layer, places [B, T] -> [B, T, W]."""
        batch, length = ids.shape
        biases, turns = self.biases(mask, length), self.turned(length, places)
        x = self.body.embeddings(input_ids=ids).flatten(0, 1)
        width = x.shape[1]
        for layer in self.layers:
            made = self.product(x if layer.first is None else normed(x, layer.first), layer.joint)
            pairs = torch.view_as_complex(made[:, : 2 * width].float().view(batch, length, 2, self.heads, -1, 2))
            placed = torch.view_as_real(pairs * turns[layer.kind]).flatten(-2).to(self.dtype)  # [B, T, 2, H, D]
            query, key = placed.transpose(1, 3).unbind(2)
            value = made[:, 2 * width :].view(batch, length, self.heads, -1).transpose(1, 2)
            seen = F.scaled_dot_product_attention(query, key, value, attn_mask=biases[layer.kind])
            self.add(x, seen.transpose(1, 2).reshape(batch * length, width), layer.output)
            inner = normed(x, layer.second).to(self.dtype)
            self.add(x, F.gelu(inner @ layer.inner).mul_(inner @ layer.gate), layer.down)
        return normed(x, self.body.final_norm).view(batch, length, width)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        return x.to(self.dtype) @ weight

    def add(self, x: Tensor, inner: Tensor, weight: Tensor) -> None:
        """x + inner @ weight, in the place of x."""
        if self.dtype == torch.float32:
            x.addmm_(inner, weight)
        else:
            x.add_(self.product(inner, weight))

    def biases(self, mask: Any, length: int) -> dict[str, Tensor | None]:
        """What is added to the scores of each kind of layer: nothing, or little where a query may not look."""
        if isinstance(mask, dict):
            return {kind: None if mask[kind] is None else bias_of(mask[kind], self.dtype) for kind in self.kinds}
        known = None if mask is None or bool(mask.all()) else mask.bool()[:, None, None]  # [B, 1, 1, T]
        found: dict[str, Tensor | None] = dict.fromkeys(
            self.kinds, None if known is None else bias_of(known, self.dtype)
        )
        if "sliding_attention" in found and length > self.reach + 1:
            place = torch.arange(length)
            near = ((place[:, None] - place[None]).abs() <= self.reach)[None, None]
            found["sliding_attention"] = bias_of(near if known is None else near & known, self.dtype)
        return found

    def turned(self, length: int, places: Tensor | None) -> dict[str, Tensor]:
        """cos + i sin [T or B, T, 1, 1, D / 2] of each kind of layer."""
        longest = length if places is None else int(places.max()) + 1
        for kind in self.kinds:
            if kind not in self.turns or len(self.turns[kind]) < longest:
                cos, sin = self.body.rotary_emb(torch.zeros(1), torch.arange(longest)[None], kind)
                half = cos.shape[-1] // 2
                self.turns[kind] = torch.complex(cos[0, :, :half], sin[0, :, :half])[:, None, None]
        return {kind: self.turns[kind][:length] if places is None else self.turns[kind][places] for kind in self.kinds}


def normed(x: Tensor, norm: Any) -> Tensor:
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def bias_of(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a query may look; elsewhere very little and not -inf, since a query of padding may be allowed to look nowhere."""
    return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)


def plain_body(model: Any) -> Any:
    """The body of a model where it is a ModernBERT that the forward above can read for; else None."""
    body = getattr(model, "base_model", model)
    config: Any = getattr(body, "config", None)
    if getattr(config, "model_type", "") != "modernbert" or next(body.parameters()).device.type != "cpu":
        return None
    if config.hidden_activation != "gelu" or config._attn_implementation not in ("sdpa", "eager"):
        return None
    linear = [part for layer in body.layers for part in (layer.attn.Wqkv, layer.attn.Wo, layer.mlp.Wi, layer.mlp.Wo)]
    return body if all(type(part) is nn.Linear and part.bias is None for part in linear) else None


def use_lean_encoder(body: Any, dtype: torch.dtype) -> None:
    """Let plain_body() read by the forward above. Its weights must not change after this, and nothing of it is saved with it."""
    body.forward = LeanEncoder(body, dtype)
