"""Lists of ids as tensors: several features in one row behind a block-diagonal mask, or one a row, padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(slots=True)
class Packed:
    """Rows of a packed micro-batch."""

    inputs: dict[str, Tensor]
    """input_ids [B, T]; position_ids [B, T] and attention_mask [B, 1, T, T] (bool) where a row holds several features."""
    segments: Tensor
    """[B, T] index of the feature in reading order, -1 on padding."""
    num_tokens: int


def pad(sequences: Sequence[Sequence[int]], value: int, dtype: torch.dtype = torch.long) -> Tensor:
    """[B, T] with `value` on the right."""
    width = max(len(sequence) for sequence in sequences)
    return torch.tensor([[*sequence, *[value] * (width - len(sequence))] for sequence in sequences], dtype=dtype)


def pad_left(sequences: Sequence[Sequence[float]], width: int, value: float, dtype: torch.dtype = torch.long) -> Tensor:
    """[B, width] with `value` on the left: the last of each sequence stands last."""
    out = torch.full((len(sequences), width), value, dtype=dtype)
    for index, sequence in enumerate(sequences):
        out[index, width - len(sequence) :] = torch.as_tensor(sequence, dtype=dtype)
    return out


def pack(rows: Sequence[Sequence[Sequence[int]]], pad_id: int, *, causal: bool) -> Packed:
    """Features (lists of ids) laid side by side in rows, each seeing only itself.

    A row with one feature needs no mask under causal attention: padding on the right is never looked at.
    """
    flat = [[token for ids in row for token in ids] for row in rows]
    positions, segments, number = [], [], 0
    for row in rows:
        positions.append([position for ids in row for position in range(len(ids))])
        owners: list[int] = []
        for ids in row:
            owners += [number] * len(ids)
            number += 1
        segments.append(owners)
    inputs = {"input_ids": pad(flat, pad_id)}
    owner = pad(segments, -1)
    if not causal or any(len(row) > 1 for row in rows):
        inputs["position_ids"] = pad(positions, 0)
        inputs["attention_mask"] = block_mask(owner, causal=causal)
    return Packed(inputs, owner, sum(map(len, flat)))


def block_mask(segments: Tensor, *, causal: bool) -> Tensor:
    """[B, 1, T, T], True where a query may look at a key: same feature and, if causal, not later.

    Padding positions see their own kind, so that no row of the softmax is empty.
    """
    same = segments[:, :, None] == segments[:, None, :]  # [B, T, T]
    if causal:
        same &= torch.ones(same.shape[-2:], dtype=torch.bool).tril()
    return same[:, None]


def labels_for(rows: Sequence[Sequence[Sequence[int]]], ignore: int) -> Tensor:
    """[B, T] labels of packed rows, `ignore` on padding."""
    return pad([[label for labels in row for label in labels] for row in rows], ignore)
