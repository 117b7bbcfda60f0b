"""ModernBERT's forward for inference on a CPU: some ten passes over memory a layer, where transformers' eager layers make forty.

It replaces the forward of a ModernBERT body without biases and adapters while it predicts on a CPU, in fp32 or bf16. Queries and
keys are rotated by one multiplication of complex numbers (the rows of their weights are reordered so that the two numbers
that rotate together are neighbours, which does not change the product of a query with a key). A product adds to the residual stream
itself. Gate and input are products of their own and are not cut apart afterwards. Masks are made once a batch, and not at all
where nothing is padded; cosines are computed once and not for every batch. In bf16, products read and return bf16, while the residual
stream, norms and rotation stay in fp32; weights are rounded once, not for every batch. Everything else (gradients, GPUs, biases,
adapters, arithmetic for which the weights were not prepared, outputs of inner layers) goes to transformers' own forward. When it is
enabled, its output is compared with that of transformers' forward; where they differ, the latter is used and a warning says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from llmstage import console
from llmstage.kernels.comparison import Difference, Values, arithmetic, largest_difference, sample_inputs, untouched
from llmstage.kernels.matmul import transposed
from llmstage.kernels.transformers_internals import attention_implementation


class EncoderLayer:
    """The weights of a layer in the form in which products read them."""

    def __init__(self, layer: Any, heads: int, dtype: torch.dtype) -> None:
        attention, mlp = layer.attn, layer.mlp
        joint = attention.Wqkv.weight.detach().view(
            3, heads, 2, -1, attention.Wqkv.in_features
        )  # [3, H, halves, D / 2, W]
        neighbours = joint[:2].transpose(2, 3).flatten(0, 3)  # dimension d beside d + D / 2
        self.joint = transposed(torch.cat([neighbours, joint[2].flatten(0, 2)]).to(dtype))
        self.output = transposed(attention.Wo.weight.to(dtype))
        self.inner, self.gate = (transposed(part.to(dtype)) for part in mlp.Wi.weight.chunk(2))
        self.down = transposed(mlp.Wo.weight.to(dtype))
        self.first = None if isinstance(layer.attn_norm, nn.Identity) else layer.attn_norm
        self.second = layer.mlp_norm
        self.attention_type: str = layer.attention_type


class FastEncoder:
    """The forward above for `body`, with products in `dtype`; its own forward, `original`, where it does not apply."""

    def __init__(self, body: Any, dtype: torch.dtype) -> None:
        self.original: Callable[..., Any] = body.forward
        self.body, self.dtype = body, dtype
        config = body.config
        self.heads, self.window = config.num_attention_heads, config.sliding_window
        self.layers = [EncoderLayer(layer, self.heads, dtype) for layer in body.layers]
        self.attention_types = sorted({layer.attention_type for layer in self.layers})
        self.rotations: dict[str, Tensor] = {}
        """cos + i sin [T, 1, 1, D / 2] for each attention type, for the longest text so far."""

    def fits(self, ids: Any, mask: Any, kwargs: dict[str, Any]) -> bool:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
        return (
            isinstance(ids, Tensor)
            and ids.device.type == "cpu"
            and dtype == self.dtype
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

    def read(self, ids: Tensor, mask: Any, positions: Tensor | None) -> Tensor:
        """ids [B, T], mask [B, T] or bools [B, 1, T, T] for each attention type, positions [B, T] -> [B, T, W]."""
        batch, length = ids.shape
        biases, rotations = self.biases(mask, length), self.rotations_for(length, positions)
        x = self.body.embeddings(input_ids=ids).flatten(0, 1)
        width = x.shape[1]
        for layer in self.layers:
            qkv = self.product(x if layer.first is None else normed(x, layer.first), layer.joint)
            pairs = torch.view_as_complex(qkv[:, : 2 * width].float().view(batch, length, 2, self.heads, -1, 2))
            rotated = torch.view_as_real(pairs * rotations[layer.attention_type]).flatten(-2).to(self.dtype)
            query, key = rotated.transpose(1, 3).unbind(2)  # of [B, T, 2, H, D]
            value = qkv[:, 2 * width :].view(batch, length, self.heads, -1).transpose(1, 2)
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=biases[layer.attention_type])
            self.add(x, mixed.transpose(1, 2).reshape(batch * length, width), layer.output)
            inner = normed(x, layer.second).to(self.dtype)
            self.add(x, F.gelu(inner @ layer.inner).mul_(inner @ layer.gate), layer.down)
        return normed(x, self.body.final_norm).view(batch, length, width)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        return x.to(self.dtype) @ weight

    def add(self, x: Tensor, inner: Tensor, weight: Tensor) -> None:
        """Add inner @ weight to x, in place."""
        if self.dtype == torch.float32:
            x.addmm_(inner, weight)
        else:
            x.add_(self.product(inner, weight))

    def biases(self, mask: Any, length: int) -> dict[str, Tensor | None]:
        """What is added to the scores for each attention type: None, or very negative numbers where a query does not see a key."""
        if isinstance(mask, dict):
            return {
                name: None if mask[name] is None else bias_of(mask[name], self.dtype) for name in self.attention_types
            }
        tokens = None if mask is None or bool(mask.all()) else mask.bool()[:, None, None]  # [B, 1, 1, T]
        biases: dict[str, Tensor | None] = dict.fromkeys(
            self.attention_types, None if tokens is None else bias_of(tokens, self.dtype)
        )
        if "sliding_attention" in biases and length > self.window + 1:
            index = torch.arange(length)
            near = ((index[:, None] - index[None]).abs() <= self.window)[None, None]
            biases["sliding_attention"] = bias_of(near if tokens is None else near & tokens, self.dtype)
        return biases

    def rotations_for(self, length: int, positions: Tensor | None) -> dict[str, Tensor]:
        """cos + i sin [T or B, T, 1, 1, D / 2] for each attention type."""
        longest = length if positions is None else int(positions.max()) + 1
        for name in self.attention_types:
            if name not in self.rotations or len(self.rotations[name]) < longest:
                cos, sin = self.body.rotary_emb(torch.zeros(1), torch.arange(longest)[None], name)
                half = cos.shape[-1] // 2
                self.rotations[name] = torch.complex(cos[0, :, :half], sin[0, :, :half])[:, None, None]
        return {
            name: self.rotations[name][:length] if positions is None else self.rotations[name][positions]
            for name in self.attention_types
        }


def normed(x: Tensor, norm: Any) -> Tensor:
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def bias_of(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a query sees a key, the lowest finite number elsewhere: -inf would give NaN for a padded query that sees no key."""
    return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)


def supported_body(model: Any) -> Any:
    """The body of a ModernBERT on a CPU to which the forward above applies; None for every other model."""
    body = getattr(model, "base_model", model)
    config: Any = getattr(body, "config", None)
    if getattr(config, "model_type", "") != "modernbert" or next(body.parameters()).device.type != "cpu":
        return None
    if config.hidden_activation != "gelu" or attention_implementation(config) not in ("sdpa", "eager"):
        return None
    linear = [part for layer in body.layers for part in (layer.attn.Wqkv, layer.attn.Wo, layer.mlp.Wi, layer.mlp.Wo)]
    return body if all(type(part) is nn.Linear and part.bias is None for part in linear) else None


def encoder_difference(body: Any, encoder: FastEncoder) -> Difference:
    """Compare the output of the forward above with that of transformers, for a batch with one padded row."""
    inputs = sample_inputs(body)
    mask = inputs["attention_mask"].bool()

    @torch.no_grad()
    def hidden(forward: Callable[..., Any], dtype: torch.dtype) -> Values:
        with untouched(body, training=False), arithmetic(mask.device, dtype):
            return Values({"last_hidden_state": forward(**inputs).last_hidden_state[mask].float()})

    exact = hidden(encoder.original, torch.float32)
    plain = exact if encoder.dtype == torch.float32 else hidden(encoder.original, encoder.dtype)
    return largest_difference(exact, plain, hidden(encoder, encoder.dtype), encoder.dtype)


def use_fast_encoder(body: Any, dtype: torch.dtype) -> bool:
    """Let the body of supported_body() predict by the forward above; returns whether it does.

    Where the comparison with transformers' forward fails, the body stays as it is, and a warning gives the difference. The weights
    of the body must not change after this call, and nothing of it is saved with the model.
    """
    encoder = FastEncoder(body, dtype)
    try:
        difference = encoder_difference(body, encoder)
        accepted, reason = difference.accepted, str(difference)
    except Exception as error:  # whatever fails here would fail for every batch
        accepted, reason = False, f"{type(error).__name__}: {error}"
    if accepted:
        body.forward = encoder
    else:
        console.warn(
            f"kernels.modernbert_encoder differs from transformers' forward ({reason}). The plain forward is used, which is slower."
        )
    return accepted
