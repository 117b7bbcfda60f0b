"""Read the prompts of a decoder's batch, and what several prompts begin with only once.

The replies of one conversation are generated from prompts of which each begins with the one before. A decoder's keys and values at
a token depend on the tokens before it alone, so the longest of them is read, and the others take their part of its cache. Whether
that holds of a model is tried once on the model itself (prefixes_agree()).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from llmstage.kernels.comparison import sample_ids, untouched
from llmstage.kernels.transformers_internals import cache_arguments

TOLERANCE = 1e-4
"""Largest relative difference of the last hidden state of a prompt that is read alone, and as the beginning of a longer one."""


@dataclass(slots=True)
class PromptBatch:
    """B prompts, of which N are read: every prompt is the beginning of one of those."""

    ids: Tensor
    """[N, T] prompts that are read, padded on the left."""
    mask: Tensor
    """[N, T] 1 on tokens."""
    hosts: Tensor
    """[B] the row of `ids` that begins with the prompt."""
    lengths: Tensor
    """[B] tokens of each prompt."""
    model_inputs: dict[str, Tensor] = field(default_factory=dict)
    """What the model reads beside the prompts, a row each, e.g. pixel_values."""

    @classmethod
    def of(cls, ids: Tensor, mask: Tensor, model_inputs: dict[str, Tensor] | None = None) -> Self:
        """Each prompt is read by itself."""
        return cls(ids, mask, torch.arange(len(ids), device=ids.device), mask.sum(-1), model_inputs or {})

    def __len__(self) -> int:
        return len(self.hosts)

    @property
    def width(self) -> int:
        """Columns of the batch: tokens of the longest prompt."""
        return int(self.ids.shape[1])

    @property
    def is_shared(self) -> bool:
        """Whether a prompt is read as the beginning of another."""
        return len(self.hosts) > len(self.ids)

    def row_mask(self) -> Tensor:
        """[B, T] 1 on the tokens of each prompt, padded on the left."""
        columns = torch.arange(self.width, device=self.ids.device)
        return (columns >= self.width - self.lengths[:, None]).long()

    def last_hidden(self, body: Any, cache: Any) -> Tensor:
        """Last hidden state [B, W] of each prompt, read by transformers' forward; keys and values of `ids` are put into `cache`."""
        positions = (self.mask.cumsum(-1) - 1).clamp(min=0)
        hidden = body(
            input_ids=self.ids, attention_mask=self.mask, position_ids=positions, **cache_arguments(body, cache),
            **self.model_inputs,
        ).last_hidden_state  # fmt: skip
        starts = self.width - self.mask.sum(-1)
        last: Tensor = hidden[self.hosts, starts[self.hosts] + self.lengths - 1]
        return last

    def copy_rows(self, states: Tensor, out: Tensor) -> None:
        """Write keys or values [N, G, T, D] of the prompts that were read into those of each prompt, [B, G, T, D]."""
        if not self.is_shared:
            out.copy_(states[self.hosts])
            return
        starts = (self.width - self.mask.sum(-1)).tolist()
        for row, (host, length) in enumerate(zip(self.hosts.tolist(), self.lengths.tolist(), strict=True)):
            out[row, :, self.width - length :] = states[host, :, starts[host] : starts[host] + length]

    def expand(self, cache: Any) -> None:
        """Give each prompt its own row of a transformers cache that holds those of `ids`."""
        for layer in cache.layers:
            for name in ("keys", "values"):
                states = getattr(layer, name)
                rows = states.new_zeros(len(self), *states.shape[1:])
                self.copy_rows(states, rows)
                setattr(layer, name, rows)


def prompt_hosts(prompts: Sequence[Sequence[int]]) -> list[int]:
    """The index of the longest prompt that begins with each prompt; its own where no other does.

    In lexical order a prompt stands right before those that begin with it.
    """
    keys = [tuple(prompt) for prompt in prompts]
    hosts = list(range(len(prompts)))
    order = sorted(hosts, key=keys.__getitem__)
    for this, after in zip(reversed(order[:-1]), reversed(order[1:]), strict=True):
        if keys[after][: len(keys[this])] == keys[this]:
            hosts[this] = hosts[after]
    return hosts


@torch.no_grad()
def prefixes_agree(model: Any) -> bool:
    """Return whether the last hidden state and the keys of a prompt are the same where more tokens follow; tried once a model.

    False for models that see what follows, and for those whose cache is not one of keys and values of all tokens (windows, states
    of a recurrence).
    """
    known: bool | None = model.__dict__.get("prefixes_agree")
    if known is not None:
        return known
    body = model.base_model
    ids = sample_ids(model)
    mask = torch.ones_like(ids)
    shorter = PromptBatch.of(ids[:, :9], mask[:, :9])
    shared = PromptBatch(ids, mask, shorter.hosts, shorter.lengths)
    caches = [DynamicCache(config=model.config) for _ in range(2)]
    layers = [layer for cache in caches for layer in cache.layers]
    agree = bool(layers) and all(type(layer) is DynamicLayer for layer in layers)
    if agree:
        with untouched(model, training=False):
            expected, actual = shorter.last_hidden(body, caches[0]), shared.last_hidden(body, caches[1])
        agree = float((expected - actual).norm()) <= TOLERANCE * float(expected.norm())
    model.__dict__["prefixes_agree"] = agree
    return agree
