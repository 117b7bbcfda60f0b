"""The weights of a recommender beside the text encoder: items, the user's history, and the chance of a click."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Recommender(nn.Module):
    """Two towers over one text encoder.

    An item is its text, and, where it was met in training, a vector and a bias of its own on top (a residual, so that a
    cold item is scored from text alone). A user is a weighted mean of the last items with what was thought of them. The
    ranking logit is their product plus the item's bias; it is trained by sampled softmax (Jean 2015, logQ correction).
    The chance of a click is a second, absolute reading of the same pair.
    """

    popularity: Tensor

    def __init__(
        self, width: int, counts: list[int], item_features: int, user_features: int, history: int, *, attention: bool
    ) -> None:
        super().__init__()
        self.attention, self.num_known = attention, len(counts)
        self.item_ids = nn.Embedding(max(1, len(counts)), width)
        nn.init.normal_(self.item_ids.weight, std=0.3 / math.sqrt(width))
        self.item_bias = nn.Parameter(torch.zeros(max(1, len(counts))))
        self.register_buffer(
            "popularity", torch.log1p(torch.tensor(counts or [0], dtype=torch.float32)), persistent=False
        )
        self.popularity_weight = nn.Parameter(torch.ones(()))
        self.text = nn.Linear(width, width)
        self.text_bias = nn.Linear(width, 1)
        nn.init.zeros_(self.text_bias.weight)
        self.item_columns = nn.Linear(item_features, width) if item_features else None
        self.user_columns = nn.Linear(user_features, width) if user_features else None
        self.value = nn.Linear(1, width, bias=False)
        self.key = nn.Linear(width, width)
        self.query = nn.Parameter(torch.randn(width) / math.sqrt(width))
        self.recency = nn.Parameter(torch.zeros(history))
        self.user = nn.Linear(width, width)
        self.nobody = nn.Parameter(torch.zeros(width))
        self.user_norm = nn.LayerNorm(width)
        self.scale = nn.Parameter(torch.tensor(0.0))
        self.click_slope = nn.Parameter(torch.tensor(0.0))
        self.click_pair = nn.Parameter(torch.zeros(width))
        self.click_user = nn.Linear(width, 1)
        nn.init.zeros_(self.click_user.weight)

    def start_from(self, vectors: Tensor) -> None:
        """Begin with item vectors [known, D] of mean square length 1, and with a user who is the mean of the past, the item
        k places back counting 1/k: before its first step the model ranks by what was clicked close by, and by popularity."""
        with torch.no_grad():
            self.item_ids.weight.copy_(vectors)
            self.text.weight.mul_(0.1)
            nn.init.zeros_(self.text.bias)
            nn.init.zeros_(self.value.weight)
            nn.init.zeros_(self.query)
            self.recency.copy_(-torch.log1p(torch.arange(len(self.recency), dtype=torch.float32)))
            nn.init.eye_(self.user.weight)
            nn.init.zeros_(self.user.bias)
            self.scale.fill_(math.log(4.0))

    def items(self, text: Tensor, index: Tensor, columns: Tensor | None, own: Tensor) -> tuple[Tensor, Tensor]:
        """(vectors [N, D], biases [N]) of items with text vectors [N, D]; `own` [N]: whether an item uses its own weights."""
        vector = self.text(text)
        bias = self.text_bias(text).squeeze(-1)
        if self.item_columns is not None and columns is not None:
            vector = vector + self.item_columns(columns)
        keep = (own & (index < self.num_known)).to(vector.dtype)  # [N]
        safe = index.clamp(max=max(0, self.num_known - 1))
        vector = vector + keep[:, None] * self.item_ids(safe)
        return vector, bias + keep * (self.item_bias[safe] + self.popularity_weight * self.popularity[safe])

    def users(self, history: Tensor, values: Tensor, mask: Tensor, columns: Tensor | None) -> Tensor:
        """[B, D] from item vectors [B, H, D] (the newest last), what was thought of each [B, H], and which are there."""
        events = history + self.value(values[..., None])
        ages = self.recency[: history.shape[1]].flip(0)  # recency[0] belongs to the newest
        score = torch.tanh(self.key(events)) @ self.query + ages if self.attention else torch.zeros_like(values)
        weight = torch.softmax(score.masked_fill(~mask, -1e9), -1) * mask  # all zero for a user without history
        mean = torch.einsum("bh,bhd->bd", weight, events)
        told = self.user(mean) + torch.where(mask.any(-1, keepdim=True), 0.0, self.nobody)
        if self.user_columns is not None and columns is not None:
            told = told + self.user_columns(columns)
        normed: Tensor = self.user_norm(told)
        return normed

    def rank(self, users: Tensor, items: Tensor, biases: Tensor) -> Tensor:
        """Ranking logits [B, N]: log of the chance to be the next one, up to a constant of the user."""
        logits: Tensor = users @ items.T * (self.scale.exp() / math.sqrt(users.shape[-1])) + biases
        return logits

    def click(self, logits: Tensor, users: Tensor, items: Tensor) -> Tensor:
        """Log-odds of a click [B, N] from ranking logits [B, N], users [B, D] and items [N, D]."""
        pair = (users * self.click_pair) @ items.T
        odds: Tensor = nn.functional.softplus(self.click_slope) * logits + pair + self.click_user(users)
        return odds

    def rank_own(self, users: Tensor, items: Tensor, biases: Tensor) -> Tensor:
        """Ranking logits [B] of one candidate [D] for each user."""
        return (users * items).sum(-1) * (self.scale.exp() / math.sqrt(users.shape[-1])) + biases

    def click_own(self, logits: Tensor, users: Tensor, items: Tensor) -> Tensor:
        """Log-odds of a click [B] on one candidate for each user."""
        pair = (users * self.click_pair * items).sum(-1)
        odds: Tensor = nn.functional.softplus(self.click_slope) * logits + pair + self.click_user(users).squeeze(-1)
        return odds

    @staticmethod
    def others_loss(odds: Tensor, counts: Tensor, num: int) -> Tensor:
        """Log-loss of items [B, M] that were not clicked, those that count weighing `num` together in each row."""
        weight = counts.float() * num / counts.sum(1, keepdim=True).clamp(min=1)
        total: Tensor = (nn.functional.softplus(odds) * weight).sum()
        return total
