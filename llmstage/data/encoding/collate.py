"""Collate lists of ids to tensors: several examples in one row with a block-diagonal mask, or one a row, padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(slots=True)
class Packed:
    """Rows of a packed micro-batch."""

    inputs: dict[str, Tensor]
    """input_ids [B, T]; position_ids [B, T] and attention_mask [B, 1, T, T] (bool) where a row has several examples."""
    segments: Tensor
    """[B, T] index of the example in reading order, -1 on padding."""
    num_tokens: int


def pad(sequences: Sequence[Sequence[int]], value: int, dtype: torch.dtype = torch.long) -> Tensor:
    """Return [B, T], padded with `value` on the right."""
    width = max(len(sequence) for sequence in sequences)
    return torch.tensor([[*sequence, *[value] * (width - len(sequence))] for sequence in sequences], dtype=dtype)


def pad_left(sequences: Sequence[Sequence[float]], width: int, value: float, dtype: torch.dtype = torch.long) -> Tensor:
    """Return [B, width], padded with `value` on the left, so that the last element of each sequence is last."""
    out = torch.full((len(sequences), width), value, dtype=dtype)
    for index, sequence in enumerate(sequences):
        out[index, width - len(sequence) :] = torch.as_tensor(sequence, dtype=dtype)
    return out


def pack(rows: Sequence[Sequence[Sequence[int]]], pad_id: int, *, causal: bool) -> Packed:
    """Pack examples (lists of ids) into rows; each example attends only to itself.

    A row with one example needs no mask under causal attention: no token attends to padding on the right.
    """
    flat = [[token for ids in row for token in ids] for row in rows]
    positions, segments, number = [], [], 0
    for row in rows:
        positions.append([position for ids in row for position in range(len(ids))])
        row_segments: list[int] = []
        for ids in row:
            row_segments += [number] * len(ids)
            number += 1
        segments.append(row_segments)
    inputs = {"input_ids": pad(flat, pad_id)}
    segment_ids = pad(segments, -1)
    if not causal or any(len(row) > 1 for row in rows):
        inputs["position_ids"] = pad(positions, 0)
        inputs["attention_mask"] = block_mask(segment_ids, causal=causal)
    return Packed(inputs, segment_ids, sum(map(len, flat)))


def block_mask(segments: Tensor, *, causal: bool) -> Tensor:
    """Return [B, 1, T, T], True where a query attends to a key: same example and, if causal, not later.

    Padding attends to padding, so that no row of the softmax is empty.
    """
    mask = segments[:, :, None] == segments[:, None, :]  # [B, T, T]
    if causal:
        mask &= torch.ones(mask.shape[-2:], dtype=torch.bool).tril()
    return mask[:, None]


def labels_for(rows: Sequence[Sequence[Sequence[int]]], ignore: int) -> Tensor:
    """Return the labels of packed rows, [B, T], with `ignore` on padding."""
    return pad([[label for labels in row for label in labels] for row in rows], ignore)
