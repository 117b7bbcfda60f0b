"""Greedy decoding of a Llama on a CPU, one token a step: about fifteen operations a layer, on keys and values that are never copied.

It replaces the forward of a plain Llama (no biases, no grouped keys, SiLU) while it generates on a CPU. transformers' forward
makes some sixty small operations of a layer and copies all keys and values for each token; with a model of ten million
weights that takes longer than the products. Here queries, keys and values are one product, as are gate and up, and keys are
written into a buffer that was allocated for the full text. The prompt is read by transformers' forward. In fp32 the tokens are
those of generate(); under bf16 autocast the weights are rounded once, not at every step. Before a model generates for the first
time, the logits of a prompt and three tokens are compared with those of the plain forward; where they differ, the model
decodes through the plain forward, and a warning says so.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache

from llmstage import console
from llmstage.kernels.comparison import Values, arithmetic, largest_difference, sample_ids, untouched
from llmstage.kernels.matmul import few_rows_linear, output_linear
from llmstage.kernels.transformers_internals import cache_arguments

COMPARED_STEPS = 3
"""Tokens that are decoded when the logits are compared with those of the plain forward."""


class DecoderLayer:
    """The weights of a layer in the form in which a step multiplies them."""

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.joint = few_rows_linear([attention.q_proj, attention.k_proj, attention.v_proj], dtype)
        self.output = few_rows_linear([attention.o_proj], dtype)
        self.inner = few_rows_linear([mlp.gate_proj, mlp.up_proj], dtype)
        self.down = few_rows_linear([mlp.down_proj], dtype)
        self.first, self.second = layer.input_layernorm, layer.post_attention_layernorm


def plain_llama_body(model: Any) -> Any:
    """The body of a plain Llama on a CPU whose head can be applied separately; None for every other model."""
    body = getattr(model, "base_model", model)
    body = getattr(body, "language_model", body)
    config: Any = getattr(body, "config", None)
    if getattr(config, "model_type", "") != "llama" or next(body.parameters()).device.type != "cpu":
        return None
    if config.num_key_value_heads != config.num_attention_heads or config.hidden_act != "silu":
        return None
    for layer in body.layers:
        attention, mlp = layer.self_attn, layer.mlp
        projections = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
        linear = (*projections, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        if not all(type(part) is nn.Linear and part.bias is None for part in linear):
            return None
    return body if getattr(model, "split_head", False) else None


def stepper_body(model: Any) -> Any:
    """The body that LlamaStepper decodes; None for models that decode through their own forward.

    The comparison with the plain forward is made once for each model and type of its products.
    """
    body = plain_llama_body(model)
    if body is None:
        return None
    dtype = product_dtype()
    agreed: dict[torch.dtype, bool] = model.__dict__.setdefault("decoding_agreed", {})
    if dtype not in agreed:
        try:
            difference = decoding_difference(model, body, dtype)
            agreed[dtype], reason = difference.accepted, str(difference)
        except Exception as error:  # whatever fails here would fail in every generation
            agreed[dtype], reason = False, f"{type(error).__name__}: {error}"
        if not agreed[dtype]:
            console.warn(
                f"kernels.llama_decode: logits of single steps differ from those of the plain forward ({reason}). "
                f"This model generates through the plain forward, which is slower."
            )
    return body if agreed[dtype] else None


def product_dtype() -> torch.dtype:
    """The type of matrix products under the caller's autocast on a CPU."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32


@torch.no_grad()
def decoding_difference(model: Any, body: Any, dtype: torch.dtype) -> Any:
    """Compare the logits of LlamaStepper with those of the plain forward, for a prompt of two rows and COMPARED_STEPS tokens."""
    ids = sample_ids(model)
    prompt = ids[:, : ids.shape[1] - COMPARED_STEPS]
    mask = torch.ones_like(ids)
    mask[0, :3] = 0  # prompts are padded on the left

    def plain(dtype: torch.dtype) -> Values:
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        with arithmetic(ids.device, dtype):
            hidden = model.base_model(
                input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False
            ).last_hidden_state
            logits = model.get_output_embeddings()(hidden[:, prompt.shape[1] - 1 :])
        return Values({f"logits of step {step}": logits[:, step].float() for step in range(COMPARED_STEPS + 1)})

    with untouched(model, training=False):
        exact = plain(torch.float32)
        usual = exact if dtype == torch.float32 else plain(dtype)
        with arithmetic(ids.device, dtype):
            stepper = LlamaStepper(model, body, prompt, mask[:, : prompt.shape[1]], {}, COMPARED_STEPS)
            steps = [stepper.logits().float()]
            for step in range(COMPARED_STEPS):
                stepper.take(ids[:, prompt.shape[1] + step])
                steps.append(stepper.logits().float())
    replaced = Values({f"logits of step {step}": logits for step, logits in enumerate(steps)})
    return largest_difference(exact, usual, replaced, dtype)


class LlamaStepper:
    """The generation.Stepper of a plain Llama: logits() of the next token, take() it, keep() the rows that go on."""

    def __init__(
        self, model: Any, body: Any, ids: Tensor, mask: Tensor, model_inputs: dict[str, Tensor], max_new_tokens: int
    ) -> None:
        self.model, self.body, self.mask = model, body, mask
        self.dtype = product_dtype()
        self.layers = [DecoderLayer(layer, self.dtype) for layer in body.layers]
        self.head = output_linear(model.get_output_embeddings(), self.dtype)
        config = body.config
        self.heads, self.eps = config.num_attention_heads, config.rms_norm_eps
        # The prompt goes through transformers' forward, which fills a cache of its own.
        cache = DynamicCache(config=model.config)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        hidden = model.base_model(
            input_ids=ids, attention_mask=mask, position_ids=positions, **cache_arguments(model.base_model, cache),
            **model_inputs,
        ).last_hidden_state  # fmt: skip
        self.last = hidden[:, -1]  # [B, W]
        self.length = ids.shape[1]
        # Keys and values are copied once into buffers that have room for the full text.
        self.buffers: list[Tensor] = []
        """[2, B, H, longest, D] keys and values of each layer."""
        layers: Any = cache.layers
        for layer in layers:
            shape = (2, len(ids), self.heads, self.length + max_new_tokens, layer.keys.shape[-1])
            buffer = torch.zeros(shape, dtype=self.dtype)
            buffer[0, :, :, : self.length], buffer[1, :, :, : self.length] = layer.keys, layer.values
            self.buffers.append(buffer)
        # Added to the scores: 0 for every key but the padding on the left of a row.
        self.bias = torch.zeros(len(ids), 1, 1, self.length + max_new_tokens, dtype=self.dtype)
        self.bias[..., : self.length].masked_fill_(~mask.bool()[:, None, None], torch.finfo(self.dtype).min)
        self.position = mask.sum(-1, keepdim=True)  # [B, 1] of the next token

    def logits(self) -> Tensor:
        """[B, V] of the token that comes next."""
        return self.head(self.last.to(self.dtype))

    def take(self, tokens: Tensor) -> None:
        """Append the tokens [B] that were chosen."""
        body, batch, stop = self.body, len(tokens), self.length + 1
        x = body.embed_tokens(tokens)
        cos, sin = (
            angle[:, :, None] for angle in body.rotary_emb(x[:, None], position_ids=self.position)
        )  # [B, 1, 1, D]
        cos, half = cos.float(), cos.shape[-1] // 2
        sin = torch.cat([-sin[..., :half], sin[..., half:]], -1).float()  # the first half is rotated backwards
        bias = self.bias[..., :stop]
        for layer, buffer in zip(self.layers, self.buffers, strict=True):
            qkv = layer.joint(self.norm(layer.first, x)).view(batch, 3, self.heads, -1)
            query_key = qkv[:, :2].float()
            rotated = query_key * cos + query_key.roll(half, -1) * sin  # [B, 2, H, D]
            buffer[0, :, :, self.length], buffer[1, :, :, self.length] = rotated[:, 1], qkv[:, 2]
            query = rotated[:, 0].to(self.dtype)[:, :, None]  # [B, H, 1, D]
            mixed = F.scaled_dot_product_attention(
                query, buffer[0, :, :, :stop], buffer[1, :, :, :stop], attn_mask=bias
            )
            x = x + layer.output(mixed.reshape(batch, -1))
            gate, up = layer.inner(self.norm(layer.second, x)).chunk(2, -1)
            x = x + layer.down(F.silu(gate).mul_(up))
        self.last = body.norm(x)
        self.length, self.position = stop, self.position + 1

    def norm(self, norm: Any, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], norm.weight, self.eps).to(self.dtype)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self.buffers = [buffer[:, rows] for buffer in self.buffers]
        self.bias, self.position, self.last = self.bias[rows], self.position[rows], self.last[rows]
