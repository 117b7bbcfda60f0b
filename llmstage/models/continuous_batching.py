"""Generate several texts in one batch: a row joins between two tokens and leaves when it ends (stage=serve).

Keys and values of all rows are in one buffer per layer (`SlotBatch`, for Llama-like models on a CPU: the step of kernels/llama_decode.py
with a length of its own for each row), or in transformers' cache, padded on the left (`PaddedBatch`, for every other decoder).
transformers' own continuous batching pages its cache and needs attention kernels for pages, which a CPU does not have.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from llmstage.data.encoding.collate import pad
from llmstage.kernels.llama_decode import DecoderLayer, rotation_angles, stepper_body
from llmstage.kernels.matmul import output_linear
from llmstage.kernels.transformers_internals import cache_arguments
from llmstage.models.generation import padded


class ContinuousBatch(Protocol):
    """A batch whose rows 0..n-1 are being generated."""

    def join(self, prompts: list[list[int]]) -> None:
        """Add rows for these prompts behind the present ones."""

    def logits(self) -> Tensor:
        """[n, V] of the token that comes next in each row."""

    def leave(self, rows: list[int]) -> None:
        """Remove these rows; the others move up in their order."""

    def take(self, tokens: Tensor) -> None:
        """Append the tokens [n] that were chosen."""


def start_batch(model: Any, pad_id: int, slots: int, longest: int) -> ContinuousBatch:
    """An empty batch for this model. `longest`: tokens of a row, its prompt included."""
    body = stepper_body(model, longest)
    return PaddedBatch(model, pad_id) if body is None else SlotBatch(model, body, pad_id, slots, longest)


class SlotBatch:
    """The step of llama_decode.LlamaStepper with a length of its own for each row."""

    def __init__(self, model: Any, body: Any, pad_id: int, slots: int, longest: int) -> None:
        self.model, self.body, self.pad_id = model, body, pad_id
        config = body.config
        self.layers = [DecoderLayer(layer, config, torch.float32) for layer in body.layers]
        self.head = output_linear(model.get_output_embeddings(), torch.float32)
        groups = config.num_key_value_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        # zeros() takes memory only where something is written, so a long context costs nothing until it is used.
        self.buffers = [torch.zeros(2, slots, groups, longest, size) for _ in self.layers]
        """[2, slots, G, longest, D] keys and values of each layer."""
        self.lengths = torch.zeros(0, dtype=torch.long)
        """[n] tokens of each row that were read."""
        self.last = torch.zeros(0, config.hidden_size)
        """[n, W] the input of the head."""

    def join(self, prompts: list[list[int]]) -> None:
        # Padded on the right: under a causal mask no token sees what follows the end of its row.
        ids = pad(prompts, self.pad_id)
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        first, (count, size) = len(self.lengths), ids.shape
        x = self.body.embed_tokens(ids).flatten(0, 1)  # [k * T, W]
        angles = rotation_angles(self.body, x, torch.arange(size)[None].expand(count, size))
        for layer, buffer in zip(self.layers, self.buffers, strict=True):
            parts = layer.query_key_value(x, *angles)
            query, keys, values = (part.view(count, size, -1, part.shape[-1]).transpose(1, 2) for part in parts)
            buffer[0, first : first + count, :, :size], buffer[1, first : first + count, :, :size] = keys, values
            mixed = F.scaled_dot_product_attention(
                query, keys, values, is_causal=True, enable_gqa=layer.groups < layer.heads
            )
            x = layer.mlp(x + layer.output(mixed.transpose(1, 2).reshape(count * size, -1)))
        last = x.view(count, size, -1)[torch.arange(count), lengths - 1]
        self.last = torch.cat([self.last, self.body.norm(last)])
        self.lengths = torch.cat([self.lengths, lengths])

    def logits(self) -> Tensor:
        return self.head(self.last)

    def leave(self, rows: list[int]) -> None:
        removed = set(rows)
        remaining = [row for row in range(len(self.lengths)) if row not in removed]
        for slot, row in enumerate(remaining):
            if slot != row:
                used = int(self.lengths[row])
                for buffer in self.buffers:
                    buffer[:, slot, :, :used] = buffer[:, row, :, :used].clone()
        self.lengths, self.last = self.lengths[remaining], self.last[remaining]

    def take(self, tokens: Tensor) -> None:
        count, stop = len(tokens), int(self.lengths.max()) + 1
        rows = torch.arange(count)
        x = self.body.embed_tokens(tokens)
        angles = rotation_angles(self.body, x[:, None], self.lengths[:, None])
        visible = torch.arange(stop)[None] <= self.lengths[:, None]  # [n, stop]
        bias = torch.zeros(count, 1, 1, stop).masked_fill_(~visible[:, None, None], torch.finfo(torch.float32).min)
        for layer, buffer in zip(self.layers, self.buffers, strict=True):
            query, keys, values = layer.query_key_value(x, *angles)
            buffer[0, rows, :, self.lengths], buffer[1, rows, :, self.lengths] = keys, values
            mixed = layer.attend(query, buffer[0, :count, :, :stop], buffer[1, :count, :, :stop], bias)
            x = layer.mlp(x + layer.output(mixed))
        self.last = self.body.norm(x)
        self.lengths = self.lengths + 1


class PaddedBatch:
    """A batch for any decoder: rows of one cache, padded on the left to the longest."""

    def __init__(self, model: Any, pad_id: int) -> None:
        self.model, self.pad_id = model, pad_id
        self.device = next(model.parameters()).device
        self.cache: Any = None
        self.mask = torch.zeros(0, 0, dtype=torch.long)
        self.next: Tensor = torch.zeros(0, 0)

    def join(self, prompts: list[list[int]]) -> None:
        ids, mask = (part.to(self.device) for part in padded(prompts, self.pad_id, left=True))
        cache: Any = DynamicCache(config=self.model.config)
        logits = self.forward(ids, mask, cache)
        if self.cache is None:
            self.cache, self.mask, self.next = cache, mask, logits
            return
        # Pad the shorter of the two caches on the left, and join them.
        width = max(mask.shape[1], self.mask.shape[1])
        for layer, new_layer in zip(self.cache.layers, cache.layers, strict=True):
            for name in ("keys", "values"):
                states = [getattr(layer, name), getattr(new_layer, name)]
                padded_states = [F.pad(part, (0, 0, width - part.shape[2], 0)) for part in states]
                setattr(layer, name, torch.cat(padded_states))
        self.mask = torch.cat([F.pad(part, (width - part.shape[1], 0)) for part in (self.mask, mask)])
        self.next = torch.cat([self.next, logits])

    def forward(self, ids: Tensor, mask: Tensor, cache: Any) -> Tensor:
        """Logits [n, V] behind `ids` [n, T], whose keys and values are appended to `cache`."""
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        out = self.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, **cache_arguments(self.model, cache)
        )
        logits: Tensor = out.logits[:, -1]
        return logits

    def logits(self) -> Tensor:
        return self.next

    def leave(self, rows: list[int]) -> None:
        removed = set(rows)
        remaining = [row for row in range(len(self.mask)) if row not in removed]
        if not remaining:
            self.cache, self.mask, self.next = None, self.mask[:0], self.next[:0]
            return
        self.cache.batch_select_indices(torch.tensor(remaining, device=self.device))
        self.mask, self.next = self.mask[remaining], self.next[remaining]
        empty = int((self.mask.cumsum(-1) == 0).all(0).sum())  # columns that are padding in every remaining row
        if empty:
            self.mask = self.mask[:, empty:]
            for layer in self.cache.layers:
                layer.keys, layer.values = layer.keys[:, :, empty:], layer.values[:, :, empty:]

    def take(self, tokens: Tensor) -> None:
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], 1)
        self.next = self.forward(tokens.to(self.device)[:, None], self.mask, self.cache)


MIN_TEMPERATURE = 1e-5
"""Below this temperature the likeliest token is taken: its division would overflow."""


def sample_tokens(
    logits: Tensor, temperatures: list[float], top_ps: list[float], draws: list[torch.Generator | None]
) -> list[int]:
    """A token for each row of logits [n, V], the likeliest at temperature 0.

    At other temperatures it is drawn from the smallest set of tokens with a probability of top_p, by the row's own generator.
    """
    chosen = logits.argmax(-1).tolist()
    rows = [row for row, temperature in enumerate(temperatures) if temperature >= MIN_TEMPERATURE]
    if not rows:
        return chosen
    divisor = torch.tensor([temperatures[row] for row in rows])[:, None]
    probabilities = torch.softmax(logits[rows].float().cpu() / divisor, -1)
    for index, row in enumerate(rows):
        if top_ps[row] < 1:
            ordered, tokens_by_rank = probabilities[index].sort(descending=True)
            outside = tokens_by_rank[ordered.cumsum(-1) - ordered >= top_ps[row]]  # the token that crosses top_p stays
            probabilities[index, outside] = 0
    sums = probabilities.cumsum(-1)  # [m, V]
    drawn = torch.stack([torch.rand(1, generator=draws[row]) for row in rows]) * sums[:, -1:]
    tokens = torch.searchsorted(sums, drawn, right=True)[:, 0].clamp(max=sums.shape[1] - 1)
    for row, token in zip(rows, tokens.tolist(), strict=True):
        chosen[row] = token
    return chosen
