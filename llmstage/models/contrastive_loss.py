"""Losses that compare images with texts: symmetric InfoNCE and SigLIP's sigmoid, over one batch or over all ranks' batches.

Shapes: n pairs of this process, N pairs of all processes, D the width in which images and texts are compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

SIGMOID_BIAS = -10.0
"""The initial bias of SigLIP (Zhai 2023): most pairs of a batch do not match, and the first loss accounts for that."""


class PairBias(nn.Module):
    """The learned bias of the sigmoid loss; `model.extra` where that loss is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(SIGMOID_BIAS))


def unit(vectors: Tensor) -> Tensor:
    """[n, D] of length 1, in fp32: rankings depend on differences that bf16 cannot represent."""
    with torch.autocast(vectors.device.type, enabled=False):
        return F.normalize(vectors.float(), dim=-1)


def image_vectors(model: Any, pixel_values: Tensor) -> Tensor:
    """[n, D]"""
    return unit(model.get_image_features(pixel_values=pixel_values).pooler_output)


def text_vectors(model: Any, input_ids: Tensor) -> Tensor:
    """[n, D]. The tower is causal and read at the first end token, so padding on the right needs no mask."""
    return unit(model.get_text_features(input_ids=input_ids).pooler_output)


class AllGather(torch.autograd.Function):
    """Rows of all ranks, in the order of ranks; the gradient of each row goes back to the rank it came from.

    The loss of every rank reads all rows, so the gradients of a row are summed over ranks.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes, ctx.rank = sizes, dist.get_rank()
        padded = F.pad(rows, (0, 0, 0, max(sizes) - len(rows)))  # ranks may hold unlike numbers of rows
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded.contiguous())
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient.split(ctx.sizes)[ctx.rank], None


def ranks() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@dataclass(slots=True)
class Pairs:
    """Pairs (image i, text i) of this process, and everything they are compared with."""

    images: Tensor
    """[n, D]"""
    texts: Tensor
    """[n, D]"""
    all_images: Tensor
    """[N, D]"""
    all_texts: Tensor
    """[N, D]"""
    start: int
    """Index of this process's first pair among all."""
    alike: Tensor
    """bool [n, N]: another pair with the same image or the same text, which is no negative."""

    @property
    def right(self) -> Tensor:
        """[n] index of each pair of this process among all."""
        return torch.arange(self.start, self.start + len(self.images), device=self.images.device)


def gather_pairs(images: Tensor, texts: Tensor, image_ids: Tensor, text_ids: Tensor, *, mask: bool) -> Pairs:
    """images, texts [n, D]; image_ids, text_ids [n]: equal numbers for equal images or texts. `mask`: find repeats."""
    if ranks() == 1:
        all_images, all_texts, start, known = images, texts, 0, torch.stack([image_ids, text_ids])
    else:
        local = torch.stack([image_ids, text_ids], 1)  # [n, 2]
        sizes = all_sizes(len(images), images.device)
        all_images, all_texts = AllGather.apply(images, sizes), AllGather.apply(texts, sizes)
        start, known = sum(sizes[: dist.get_rank()]), AllGather.apply(local, sizes).T
    pairs = Pairs(images, texts, all_images, all_texts, start, torch.zeros(0, dtype=torch.bool))
    pairs.alike = (image_ids[:, None] == known[0]) | (text_ids[:, None] == known[1])
    pairs.alike[torch.arange(len(images)), pairs.right] = False
    if not mask:
        pairs.alike = torch.zeros_like(pairs.alike)
    return pairs


def all_sizes(size: int, device: torch.device) -> list[int]:
    local_size = torch.tensor([size], device=device)
    sizes = [torch.empty_like(local_size) for _ in range(ranks())]
    dist.all_gather(sizes, local_size)
    return [int(rank_size) for rank_size in sizes]


def infonce(pairs: Pairs, log_scale: Tensor) -> Tensor:
    """Sum over own pairs of the mean of both directions' cross-entropy (Radford 2021, figure 3), scalar.

    The image must find its text among all texts, and the text its image among all images.
    """
    scale = log_scale.float().exp()
    per_image = (scale * pairs.images @ pairs.all_texts.T).masked_fill(pairs.alike, -torch.inf)  # [n, N]
    per_text = (scale * pairs.texts @ pairs.all_images.T).masked_fill(pairs.alike, -torch.inf)
    image_loss: Tensor = F.cross_entropy(per_image, pairs.right, reduction="sum")
    return (image_loss + F.cross_entropy(per_text, pairs.right, reduction="sum")) / 2


def sigmoid_loss(pairs: Pairs, log_scale: Tensor, bias: Tensor) -> Tensor:
    """Sum over own images and all texts of -log sigmoid(z (scale * x.y + bias)), z 1 for a pair and -1 else, scalar.

    Zhai (2023), Sigmoid Loss for Language Image Pre-Training, equation 1; each pair of image and text is judged by itself.
    """
    logits = log_scale.float().exp() * pairs.images @ pairs.all_texts.T + bias.float()  # [n, N]
    sign = torch.full_like(logits, -1.0)
    sign[torch.arange(len(logits)), pairs.right] = 1.0
    return -F.logsigmoid(sign * logits).masked_fill(pairs.alike, 0.0).sum()


def chance_loss(num_pairs: int, loss: str) -> float:
    """What a model loses per pair that knows nothing: ln N; for the sigmoid, N times the entropy of one in N."""
    if loss == "infonce" or num_pairs == 1:
        return math.log(num_pairs)
    return math.log(num_pairs) + (num_pairs - 1) * math.log(num_pairs / (num_pairs - 1))
