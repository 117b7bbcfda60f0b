"""Several texts written at once, each from its own place: rows join between two tokens and leave when they end.

Keys and values of all rows stand in one buffer per layer (`Slots`, for plain Llamas on a CPU: the step of lean_steps.py with a
length of its own for each row), or in transformers' cache, padded on the left (`Padded`, for every other decoder).
transformers' own continuous batching pages its cache and wants attention kernels for pages, which a CPU has not.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from llmstage.data.encoding.collate import pad
from llmstage.kernels.llama_decode import Layer, step_body
from llmstage.kernels.matmul import head_for_rows
from llmstage.models.generation import padded


class Together(Protocol):
    """Rows 0..n-1 are being written."""

    def join(self, prompts: list[list[int]]) -> None:
        """New rows behind those that are there."""

    def logits(self) -> Tensor:
        """[n, V] of the token that comes next in each row."""

    def leave(self, rows: list[int]) -> None:
        """These rows are gone; the others move up and keep their order."""

    def take(self, tokens: Tensor) -> None:
        """The tokens [n] that were chosen."""


def write_together(model: Any, pad_id: int, slots: int, longest: int) -> Together:
    """`longest`: tokens of a row, its prompt included."""
    body = step_body(model)
    return Padded(model, pad_id) if body is None else Slots(model, body, pad_id, slots, longest)


class Slots:
    """The step of lean_steps.LeanStepper with a length of its own for each row."""

    def __init__(self, model: Any, body: Any, pad_id: int, slots: int, longest: int) -> None:
        self.model, self.body, self.pad_id = model, body, pad_id
        self.layers = [Layer(layer, torch.float32) for layer in body.layers]
        self.head = head_for_rows(model.get_output_embeddings(), torch.float32)
        config = body.config
        self.heads, self.eps, self.longest = config.num_attention_heads, config.rms_norm_eps, longest
        size = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        # zeros() takes memory only where something is written, so a long context costs nothing until it is used.
        self.kept = [torch.zeros(2, slots, self.heads, longest, size) for _ in self.layers]
        """[2, slots, H, longest, D] keys and values of each layer."""
        self.lengths = torch.zeros(0, dtype=torch.long)
        """[n] tokens of each row that are read."""
        self.last = torch.zeros(0, config.hidden_size)
        """[n, W] what the head reads."""

    def join(self, prompts: list[list[int]]) -> None:
        # Padded on the right: under a causal mask no row looks at what follows its end.
        ids = pad(prompts, self.pad_id)
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        first, (count, size) = len(self.lengths), ids.shape
        x = self.body.embed_tokens(ids).flatten(0, 1)  # [k * T, W]
        turn = self.turns(torch.arange(size)[None].expand(count, size))
        for layer, kept in zip(self.layers, self.kept, strict=True):
            made = layer.joint(self.norm(layer.first, x)).view(count, size, 3, self.heads, -1)
            placed = turned_by(made[:, :, :2], *turn)
            query, keys, values = placed[:, :, 0], placed[:, :, 1], made[:, :, 2]
            kept[0, first : first + count, :, :size] = keys.transpose(1, 2)
            kept[1, first : first + count, :, :size] = values.transpose(1, 2)
            looked = F.scaled_dot_product_attention(
                query.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), is_causal=True
            )
            x = x + layer.output(looked.transpose(1, 2).reshape(count * size, -1))
            x = self.fed(layer, x)
        last = x.view(count, size, -1)[torch.arange(count), lengths - 1]
        self.last = torch.cat([self.last, self.body.norm(last)])
        self.lengths = torch.cat([self.lengths, lengths])

    def turns(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """(cos, sin) [B, T, 1, 1, D] of rotary positions [B, T]; the first half is turned backwards."""
        cos, sin = (part[:, :, None, None] for part in self.body.rotary_emb(self.last, position_ids=places))
        half = cos.shape[-1] // 2
        return cos, torch.cat([-sin[..., :half], sin[..., half:]], -1)

    def fed(self, layer: Layer, x: Tensor) -> Tensor:
        gate, up = layer.inner(self.norm(layer.second, x)).chunk(2, -1)
        return x + layer.down(F.silu(gate).mul_(up))

    def logits(self) -> Tensor:
        return self.head(self.last)

    def leave(self, rows: list[int]) -> None:
        gone = set(rows)
        stay = [row for row in range(len(self.lengths)) if row not in gone]
        for to, row in enumerate(stay):
            if to != row:
                used = int(self.lengths[row])
                for kept in self.kept:
                    kept[:, to, :, :used] = kept[:, row, :, :used].clone()
        self.lengths, self.last = self.lengths[stay], self.last[stay]

    def take(self, tokens: Tensor) -> None:
        count, stop = len(tokens), int(self.lengths.max()) + 1
        rows = torch.arange(count)
        x = self.body.embed_tokens(tokens)
        turn = self.turns(self.lengths[:, None])
        seen = torch.arange(stop)[None] <= self.lengths[:, None]  # [n, stop]
        bias = torch.zeros(count, 1, 1, stop).masked_fill_(~seen[:, None, None], torch.finfo(torch.float32).min)
        for layer, kept in zip(self.layers, self.kept, strict=True):
            made = layer.joint(self.norm(layer.first, x)).view(count, 1, 3, self.heads, -1)
            placed = turned_by(made[:, :, :2], *turn)[:, 0]  # [n, 2, H, D]
            kept[0, rows, :, self.lengths], kept[1, rows, :, self.lengths] = placed[:, 1], made[:, 0, 2]
            keys, values = kept[0, :count, :, :stop], kept[1, :count, :, :stop]
            looked = F.scaled_dot_product_attention(placed[:, 0, :, None], keys, values, attn_mask=bias)
            x = self.fed(layer, x + layer.output(looked.reshape(count, -1)))
        self.last = self.body.norm(x)
        self.lengths = self.lengths + 1

    def norm(self, norm: Any, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], norm.weight, self.eps)


def turned_by(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Queries and keys [B, T, 2, H, D] turned by their positions."""
    return x * cos + x.roll(x.shape[-1] // 2, -1) * sin


class Padded:
    """Any decoder: rows of one cache, padded on the left to the longest."""

    def __init__(self, model: Any, pad_id: int) -> None:
        self.model, self.pad_id = model, pad_id
        self.device = next(model.parameters()).device
        self.cache: Any = None
        self.mask = torch.zeros(0, 0, dtype=torch.long)
        self.next: Tensor = torch.zeros(0, 0)

    def join(self, prompts: list[list[int]]) -> None:
        ids, mask = (part.to(self.device) for part in padded(prompts, self.pad_id, left=True))
        cache: Any = DynamicCache(config=self.model.config)
        said = self.forward(ids, mask, cache)
        if self.cache is None:
            self.cache, self.mask, self.next = cache, mask, said
            return
        wide = max(mask.shape[1], self.mask.shape[1])
        for mine, new in zip(self.cache.layers, cache.layers, strict=True):
            for name in ("keys", "values"):
                old, fresh = getattr(mine, name), getattr(new, name)
                both = [F.pad(part, (0, 0, wide - part.shape[2], 0)) for part in (old, fresh)]
                setattr(mine, name, torch.cat(both))
        self.mask = torch.cat([F.pad(part, (wide - part.shape[1], 0)) for part in (self.mask, mask)])
        self.next = torch.cat([self.next, said])

    def forward(self, ids: Tensor, mask: Tensor, cache: Any) -> Tensor:
        places = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        out = self.model(input_ids=ids, attention_mask=mask, position_ids=places, cache=cache, use_cache=True)
        logits: Tensor = out.logits[:, -1]
        return logits

    def logits(self) -> Tensor:
        return self.next

    def leave(self, rows: list[int]) -> None:
        gone = set(rows)
        stay = [row for row in range(len(self.mask)) if row not in gone]
        if not stay:
            self.cache, self.mask, self.next = None, self.mask[:0], self.next[:0]
            return
        self.cache.batch_select_indices(torch.tensor(stay, device=self.device))
        self.mask, self.next = self.mask[stay], self.next[stay]
        empty = int((self.mask.cumsum(-1) == 0).all(0).sum())  # columns that are padding in every row that is left
        if empty:
            self.mask = self.mask[:, empty:]
            for layer in self.cache.layers:
                layer.keys, layer.values = layer.keys[:, :, empty:], layer.values[:, :, empty:]

    def take(self, tokens: Tensor) -> None:
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], 1)
        self.next = self.forward(tokens.to(self.device)[:, None], self.mask, self.cache)


COLD = 1e-5
"""Temperatures below draw the likeliest token, and dividing by them overflows."""


def choose(
    logits: Tensor, temperatures: list[float], top_ps: list[float], draws: list[torch.Generator | None]
) -> list[int]:
    """A token for each row of logits [n, V]: the likeliest at temperature 0, else drawn from the smallest set with a
    probability of top_p, by the row's own generator."""
    chosen = logits.argmax(-1).tolist()
    rows = [row for row, temperature in enumerate(temperatures) if temperature >= COLD]
    if not rows:
        return chosen
    heat = torch.tensor([temperatures[row] for row in rows])[:, None]
    shares = torch.softmax(logits[rows].float().cpu() / heat, -1)
    for place, row in enumerate(rows):
        if top_ps[row] < 1:
            ordered, places = shares[place].sort(descending=True)
            out = places[ordered.cumsum(-1) - ordered >= top_ps[row]]  # the token that crosses the border stays
            shares[place, out] = 0
    sums = shares.cumsum(-1)  # [m, V]
    drawn = torch.stack([torch.rand(1, generator=draws[row]) for row in rows]) * sums[:, -1:]
    tokens = torch.searchsorted(sums, drawn, right=True)[:, 0].clamp(max=sums.shape[1] - 1)
    for row, token in zip(rows, tokens.tolist(), strict=True):
        chosen[row] = token
    return chosen
