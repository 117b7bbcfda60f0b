"""Corrections that are added to the logits of a text classifier: number and category columns, and hashed token n-grams."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BUCKETS = 1 << 15
HIDDEN = 128
NGRAM_WIDTH = 128
PRIMES = (1_000_003, 998_244_353)
"""Multipliers of the rolling hash of two and three tokens."""


class Fusion(nn.Module):
    """A correction [B, W] of the logits from [pooled text, numbers, missing flags, category embeddings].

    Late fusion with a wide (linear) and a deep (two hidden layers) path, after Cheng et al. (2016), Wide & Deep Learning.
    Both start at zero, so that training starts from the text head alone.
    """

    def __init__(self, text_width: int, num_numbers: int, sizes: list[int], width: int, dropout: float) -> None:
        super().__init__()
        tables = [nn.Embedding(size, min(16, size)) for size in sizes]
        for table in tables:
            # The first two entries are an unseen and a missing category. Training may contain neither, and an untrained
            # entry must add zero and not noise.
            nn.init.normal_(table.weight, std=0.5)
            with torch.no_grad():
                table.weight[:2] = 0
        self.embeddings = nn.ModuleList(tables)
        columns = 2 * num_numbers + sum(min(16, size) for size in sizes)
        self.text = nn.Sequential(nn.LayerNorm(text_width), nn.Linear(text_width, 32))
        last = nn.Linear(HIDDEN, width)
        self.deep = nn.Sequential(
            nn.Linear(columns + 32, HIDDEN), nn.SiLU(), nn.Dropout(dropout),
            nn.Linear(HIDDEN, HIDDEN), nn.SiLU(), nn.Dropout(dropout), last,
        )  # fmt: skip
        self.wide = nn.Linear(columns, width)
        for layer in (last, self.wide):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, pooled: Tensor, numbers: Tensor, categories: Tensor) -> Tensor:
        """`pooled` [B, H], `numbers` [B, 2N] (values, then missing flags), `categories` [B, C] -> [B, W]."""
        parts = [numbers, *(table(categories[:, index]) for index, table in enumerate(self.embeddings))]
        columns = torch.cat(parts, dim=-1)
        out: Tensor = self.wide(columns) + self.deep(torch.cat([self.text(pooled), columns], dim=-1))
        return out


class NgramPath(nn.Module):
    """A correction [B, W] from a bag of hashed token n-grams (1, 2 and 3 tokens) through one hidden layer.

    Joulin et al. (2017), Bag of Tricks for Efficient Text Classification (fastText): it learns from n-grams in a
    few epochs, where a transformer from scratch needs many more.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(BUCKETS, NGRAM_WIDTH, mode="sum")
        nn.init.normal_(self.table.weight, std=0.1)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(NGRAM_WIDTH, width)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token ids and their mask [B, T] -> [B, W]; the sum over n-grams is divided by the root of their number."""
        grams, weights = ngrams(ids, mask)
        bag = self.table(grams, per_sample_weights=weights.to(self.table.weight.dtype))
        out: Tensor = self.head(self.drop(bag / weights.sum(dim=1, keepdim=True).clamp(min=1).sqrt()))
        return out


def ngrams(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(bucket of each n-gram [B, 3T], 1.0 where all its tokens are real [B, 3T])."""
    real = mask.bool()
    grams, valid, rolled, complete = [ids], [real], ids, real
    for shift, prime in enumerate(PRIMES, start=1):
        following = F.pad(ids, (0, shift))[:, shift:]
        rolled = (rolled + 1) * prime + following
        complete = complete & F.pad(real, (0, shift))[:, shift:]
        grams.append(rolled)
        valid.append(complete)
    mixed = torch.cat(grams, dim=1)
    mixed = (mixed ^ (mixed >> 15)) * 0x2C1B3C6D
    return (mixed ^ (mixed >> 12)).remainder(BUCKETS), torch.cat(valid, dim=1).float()


class Extra(nn.Module):
    """The task's own weights, in addition to those of the transformers class; saved as `extra.*`."""

    def __init__(self, fusion: Fusion | None, grams: NgramPath | None) -> None:
        super().__init__()
        self.fusion, self.grams = fusion, grams

    def forward(self, inputs: dict[str, Tensor], hidden: Tensor | None, numbers: Tensor, categories: Tensor) -> Tensor:
        """The sum of the corrections [B, W]; `hidden` [B, T, H] is the body's last one, of the same forward pass."""
        out: Tensor | float = 0.0
        if self.fusion is not None:
            assert hidden is not None
            mask = inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            out = out + self.fusion((hidden * mask).sum(1) / mask.sum(1).clamp(min=1), numbers, categories)
        if self.grams is not None:
            out = out + self.grams(inputs["input_ids"], inputs["attention_mask"])
        assert isinstance(out, Tensor)
        return out
