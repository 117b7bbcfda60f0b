"""One token a step for a Llama on a CPU: about fifteen operations a layer, over keys and values that stand where they are.

transformers' forward makes some sixty small operations of a layer and copies all keys and values anew for each token; with a
model of ten million weights that takes longer than the products. Here queries, keys and values are one product, as are gate
and up, and keys are written into a buffer that was made for the whole text. The prompt is read by transformers itself.
In fp32 the tokens are those of generate(); under bf16 autocast the weights are rounded once, not at every step.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache

from llmstage.kernels.matmul import for_few_rows, head_for_rows


class Layer:
    """The products of a layer as a step makes them."""

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        look, feed = layer.self_attn, layer.mlp
        self.joint = for_few_rows([look.q_proj, look.k_proj, look.v_proj], dtype)
        self.output = for_few_rows([look.o_proj], dtype)
        self.inner = for_few_rows([feed.gate_proj, feed.up_proj], dtype)
        self.down = for_few_rows([feed.down_proj], dtype)
        self.first, self.second = layer.input_layernorm, layer.post_attention_layernorm


def step_body(model: Any) -> Any:
    """The body of a plain Llama that LeanStepper can step; None for every other model."""
    body = getattr(model, "base_model", model)
    body = getattr(body, "language_model", body)
    config: Any = getattr(body, "config", None)
    if getattr(config, "model_type", "") != "llama" or next(body.parameters()).device.type != "cpu":
        return None
    if config.num_key_value_heads != config.num_attention_heads or config.hidden_act != "silu":
        return None
    for layer in body.layers:
        look, feed = layer.self_attn, layer.mlp
        linear = (look.q_proj, look.k_proj, look.v_proj, look.o_proj, feed.gate_proj, feed.up_proj, feed.down_proj)
        if not all(type(part) is nn.Linear and part.bias is None for part in linear):
            return None
    return body if getattr(model, "split_head", False) else None


class LeanStepper:
    """generate.Stepper for a plain Llama: logits() of the next token, take() it, keep() the rows that go on."""

    def __init__(self, model: Any, body: Any, ids: Tensor, mask: Tensor, beside: dict[str, Tensor], most: int) -> None:
        self.model, self.body, self.mask = model, body, mask
        self.dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
        self.layers = [Layer(layer, self.dtype) for layer in body.layers]
        self.head = head_for_rows(model.get_output_embeddings(), self.dtype)
        config = body.config
        self.heads, self.eps = config.num_attention_heads, config.rms_norm_eps
        cache = DynamicCache(config=model.config)
        places = (mask.cumsum(-1) - 1).clamp(min=0)
        hidden = model.base_model(
            input_ids=ids, attention_mask=mask, position_ids=places, cache=cache, use_cache=True, **beside
        ).last_hidden_state
        self.last = hidden[:, -1]  # [B, W]
        self.length = ids.shape[1]
        self.kept: list[Tensor] = []
        """[2, B, H, longest, D] keys and values of each layer."""
        layers: Any = cache.layers
        for layer in layers:
            shape = (2, len(ids), self.heads, self.length + most, layer.keys.shape[-1])
            buffer = torch.zeros(shape, dtype=self.dtype)
            buffer[0, :, :, : self.length], buffer[1, :, :, : self.length] = layer.keys, layer.values
            self.kept.append(buffer)
        # Added to the scores: 0 where a row may look, which is everywhere but at the padding on its left.
        self.bias = torch.zeros(len(ids), 1, 1, self.length + most, dtype=self.dtype)
        self.bias[..., : self.length].masked_fill_(~mask.bool()[:, None, None], torch.finfo(self.dtype).min)
        self.place = mask.sum(-1, keepdim=True)  # [B, 1] of the next token

    def logits(self) -> Tensor:
        """[B, V] of the token that comes next."""
        return self.head(self.last.to(self.dtype))

    def take(self, tokens: Tensor) -> None:
        """The tokens [B] that were chosen."""
        body, batch, stop = self.body, len(tokens), self.length + 1
        x = body.embed_tokens(tokens)
        cos, sin = (part[:, :, None] for part in body.rotary_emb(x[:, None], position_ids=self.place))  # [B, 1, 1, D]
        cos, half = cos.float(), cos.shape[-1] // 2
        sin = torch.cat([-sin[..., :half], sin[..., half:]], -1).float()  # the first half is turned backwards
        bias = self.bias[..., :stop]
        for layer, kept in zip(self.layers, self.kept, strict=True):
            made = layer.joint(self.norm(layer.first, x)).view(batch, 3, self.heads, -1)
            turning = made[:, :2].float()
            placed = turning * cos + turning.roll(half, -1) * sin  # [B, 2, H, D]
            kept[0, :, :, self.length], kept[1, :, :, self.length] = placed[:, 1], made[:, 2]
            query = placed[:, 0].to(self.dtype)[:, :, None]  # [B, H, 1, D]
            seen = F.scaled_dot_product_attention(query, kept[0, :, :, :stop], kept[1, :, :, :stop], attn_mask=bias)
            x = x + layer.output(seen.reshape(batch, -1))
            gate, up = layer.inner(self.norm(layer.second, x)).chunk(2, -1)
            x = x + layer.down(F.silu(gate).mul_(up))
        self.last = body.norm(x)
        self.length, self.place = stop, self.place + 1

    def norm(self, norm: Any, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], norm.weight, self.eps).to(self.dtype)

    def keep(self, rows: Tensor) -> None:
        self.kept = [buffer[:, rows] for buffer in self.kept]
        self.bias, self.place, self.last = self.bias[rows], self.place[rows], self.last[rows]
