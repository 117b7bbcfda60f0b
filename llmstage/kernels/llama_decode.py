"""Greedy decoding of Llama-like models on a CPU, one token a step: about fifteen operations a layer, on keys and values that are
never copied.

It replaces the forward of Llama, Mistral, Qwen 2 and Qwen 3 (grouped keys, biases and norms of queries and keys included) while
they generate on a CPU. transformers' forward makes some sixty small operations of a layer and copies all keys and values for
each token; with a model of ten million weights that takes longer than the products. Here queries, keys and values are one
product, as are gate and up, and keys are written into a buffer that was allocated for the full text. The prompt is read by
transformers' forward. In fp32 the tokens are those of generate(); under bf16 autocast the weights are rounded once, not at every
step. Before a model generates for the first time, the logits of a prompt and three tokens are compared with those of the plain
forward; where they differ, the model decodes through the plain forward, and a warning says so.
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
from llmstage.kernels.prompt_batch import PromptBatch

COMPARED_STEPS = 3
"""Tokens that are decoded when the logits are compared with those of the plain forward."""


MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose layers are computed here."""


class DecoderLayer:
    """The weights of a layer in the form in which a step multiplies them."""

    def __init__(self, layer: Any, config: Any, dtype: torch.dtype) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.dtype, self.eps = dtype, config.rms_norm_eps
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.joint = few_rows_linear([attention.q_proj, attention.k_proj, attention.v_proj], dtype)
        self.output = few_rows_linear([attention.o_proj], dtype)
        self.inner = few_rows_linear([mlp.gate_proj, mlp.up_proj], dtype)
        self.down = few_rows_linear([mlp.down_proj], dtype)
        self.first, self.second = layer.input_layernorm, layer.post_attention_layernorm
        self.query_norm, self.key_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)

    def query_key_value(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [N, W] and angles [N, 1, D] (rotation_angles()) -> queries [N, H, D], keys and values [N, G, D]."""
        heads, groups = self.heads, self.groups
        states = self.joint(self.norm(self.first, x)).view(len(x), heads + 2 * groups, -1)
        rotated, values = states[:, : heads + groups].float(), states[:, heads + groups :]
        if self.query_norm is not None and self.key_norm is not None:
            queries, keys = rotated.split([heads, groups], 1)
            rotated = torch.cat([self.norm(self.query_norm, queries), self.norm(self.key_norm, keys)], 1).float()
        rotated = rotated * cos + rotated.roll(rotated.shape[-1] // 2, -1) * sin
        return rotated[:, :heads].to(self.dtype), rotated[:, heads:].to(self.dtype), values

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """Queries [B, H, D] of one token a row over keys and values [B, G, T, D], bias [B, 1, 1, T] -> [B, H * D].

        The heads of a group share their keys, so they are the queries of one head of keys.
        """
        grouped = query.view(len(query), self.groups, self.heads // self.groups, -1)
        return F.scaled_dot_product_attention(grouped, keys, values, attn_mask=bias).reshape(len(query), -1)

    def mlp(self, x: Tensor) -> Tensor:
        """x [N, W] -> x + down(silu(gate(norm(x))) * up(norm(x)))."""
        gate, up = self.inner(self.norm(self.second, x)).chunk(2, -1)
        return x + self.down(F.silu(gate).mul_(up))

    def norm(self, norm: Any, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], norm.weight, self.eps).to(self.dtype)


def rotation_angles(body: Any, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """(cos, sin) [N, 1, D] in fp32 of positions [B, T], N = B * T; the first half of a head is rotated backwards."""
    cos, sin = (angle.float().flatten(0, 1)[:, None] for angle in body.rotary_emb(x, position_ids=positions))
    half = cos.shape[-1] // 2
    return cos, torch.cat([-sin[..., :half], sin[..., half:]], -1)


def decoder_body(model: Any, longest: int) -> Any:
    """The body of a Llama-like model on a CPU whose head can be applied separately; None for every other model, and for one in
    which a text of `longest` tokens is longer than a layer's window."""
    body = getattr(model, "base_model", model)
    body = getattr(body, "language_model", body)
    config: Any = getattr(body, "config", None)
    if getattr(config, "model_type", "") not in MODEL_TYPES or next(body.parameters()).device.type != "cpu":
        return None
    if config.hidden_act != "silu" or not getattr(model, "split_head", False):
        return None
    window = getattr(config, "sliding_window", None)
    layer_types = getattr(config, "layer_types", None)
    if window is not None and longest > window and (layer_types is None or "sliding_attention" in layer_types):
        return None
    for layer in body.layers:
        attention, mlp = layer.self_attn, layer.mlp
        projections = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
        if not all(type(part) is nn.Linear for part in (*projections, mlp.gate_proj, mlp.up_proj, mlp.down_proj)):
            return None
    return body


def stepper_body(model: Any, longest: int) -> Any:
    """The body that LlamaStepper decodes; None for models that decode through their own forward.

    `longest`: tokens of the longest text, its prompt included. The comparison with the plain forward is made once for each model
    and type of its products.
    """
    body = decoder_body(model, longest)
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
            stepper = LlamaStepper(model, body, PromptBatch.of(prompt, mask[:, : prompt.shape[1]]), COMPARED_STEPS)
            steps = [stepper.logits().float()]
            for step in range(COMPARED_STEPS):
                stepper.take(ids[:, prompt.shape[1] + step])
                steps.append(stepper.logits().float())
    replaced = Values({f"logits of step {step}": logits for step, logits in enumerate(steps)})
    return largest_difference(exact, usual, replaced, dtype)


class LlamaStepper:
    """The generation.Stepper of a Llama-like model: logits() of the next token, take() it, keep() the rows that go on."""

    def __init__(self, model: Any, body: Any, prompts: PromptBatch, max_new_tokens: int) -> None:
        self.model, self.body = model, body
        self.dtype = product_dtype()
        self.layers = [DecoderLayer(layer, body.config, self.dtype) for layer in body.layers]
        self.head = output_linear(model.get_output_embeddings(), self.dtype)
        # The prompts go through transformers' forward, which fills a cache of its own.
        cache = DynamicCache(config=model.config)
        self.last = prompts.last_hidden(model.base_model, cache)  # [B, W]
        self.length = prompts.width
        # Keys and values are copied once into buffers that have room for the full text.
        self.buffers: list[Tensor] = []
        """[2, B, G, longest, D] keys and values of each layer."""
        layers: Any = cache.layers
        for number, layer in enumerate(layers):
            _, groups, _, size = layer.keys.shape
            buffer = torch.zeros(2, len(prompts), groups, self.length + max_new_tokens, size, dtype=self.dtype)
            prompts.copy_rows(layer.keys, buffer[0, :, :, : self.length])
            prompts.copy_rows(layer.values, buffer[1, :, :, : self.length])
            self.buffers.append(buffer)
            layers[number] = None  # its memory is free for the next buffer
        # Added to the scores: 0 for every key but the padding on the left of a row.
        self.bias = torch.zeros(len(prompts), 1, 1, self.length + max_new_tokens, dtype=self.dtype)
        visible = prompts.row_mask().bool()[:, None, None]
        self.bias[..., : self.length].masked_fill_(~visible, torch.finfo(self.dtype).min)
        self.position = prompts.lengths[:, None]  # [B, 1] of the next token

    def logits(self) -> Tensor:
        """[B, V] of the token that comes next."""
        return self.head(self.last.to(self.dtype))

    def take(self, tokens: Tensor) -> None:
        """Append the tokens [B] that were chosen."""
        stop = self.length + 1
        x = self.body.embed_tokens(tokens)
        angles = rotation_angles(self.body, x[:, None], self.position)
        bias = self.bias[..., :stop]
        for layer, buffer in zip(self.layers, self.buffers, strict=True):
            query, buffer[0, :, :, self.length], buffer[1, :, :, self.length] = layer.query_key_value(x, *angles)
            mixed = layer.attend(query, buffer[0, :, :, :stop], buffer[1, :, :, :stop], bias)
            x = layer.mlp(x + layer.output(mixed))
        self.last = self.body.norm(x)
        self.length, self.position = stop, self.position + 1

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self.buffers = [buffer[:, rows] for buffer in self.buffers]
        self.bias, self.position, self.last = self.bias[rows], self.position[rows], self.last[rows]
