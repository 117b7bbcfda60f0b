"""One vector for a text: the mean of an encoder's last hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from llmstage.data.encoding.collate import pad

CHUNK_TOKENS = 16_384
"""Padded tokens encoded at once; bounds memory."""


def text_vectors(model: nn.Module, texts: Sequence[Sequence[int]], pad_id: int) -> Tensor:
    """[N, D] of N texts given as token ids, in their order; texts of similar length are encoded together."""
    device = next(model.parameters()).device
    if not texts:  # a batch of users without history
        config: Any = model.config
        return torch.zeros(0, config.hidden_size, device=device)
    order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
    vectors: list[Tensor] = []
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * len(texts[order[stop]]) <= CHUNK_TOKENS:
            stop += 1
        chosen = [texts[at] for at in order[start:stop]]
        lengths = torch.tensor([len(text) for text in chosen])
        ids = pad(chosen, pad_id)
        mask = (torch.arange(ids.shape[1])[None] < lengths[:, None]).long()  # padding is marked by position, not by id
        vectors.append(pooled(model, ids.to(device), mask.to(device)))
        start = stop
    back = torch.empty(len(order), dtype=torch.long)
    back[torch.tensor(order)] = torch.arange(len(order))
    return torch.cat(vectors)[back.to(device)]


def pooled(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """[B, D] float32: the mean over real tokens of ids [B, T] with mask [B, T]."""
    hidden: Tensor = model(input_ids=ids, attention_mask=mask)[0].float()  # [B, T, D]
    weight = mask[..., None].float()
    return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)
