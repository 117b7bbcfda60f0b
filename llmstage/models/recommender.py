"""A recommender over a text encoder: its weights, its negative samples, its decoding, and where its item vectors start.

Recommender is the head of the model. NegativeSampler draws the items that training compares with the clicked one. decode_logits() turns
logits over a catalogue into a prediction. ItemCooccurrence computes item vectors from clicks that are close together in time,
from which training can start. recommender_baselines.py holds the simple methods it is compared with.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

NUM_TOP_ITEMS = 10
"""Items in a prediction."""
DRAWS_PER_ITEM = 20
"""Draws for each item that decode_logits() samples; those of the user's history are skipped."""
WINDOW = 10
"""Items before a click that count as its neighbours; the one d places before it counts 1/d."""
MAX_PAIRS = 50_000_000
"""Pairs of items that are counted at most; it bounds memory."""


class Recommender(nn.Module):
    """Two towers over one text encoder.

    An item is its text and, if it occurred in training, a learned vector and bias in addition (a residual, so that a
    cold item is scored from text alone). A user is a weighted mean of the last items with their ratings. The
    ranking logit is their product plus the item's bias; it is trained by sampled softmax (Jean 2015, logQ correction).
    The probability of a click is a second output for the same pair, which is absolute and not relative to other items.
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

    def initialize_from(self, vectors: Tensor) -> None:
        """Start from item vectors [known, D] of mean square length 1, and from users that are the mean of their history.

        The item k places back counts 1/k. Before its first step the model then ranks by co-occurrence and popularity.
        """
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

    def items(self, text: Tensor, index: Tensor, columns: Tensor | None, use_ids: Tensor) -> tuple[Tensor, Tensor]:
        """(vectors [N, D], biases [N]) of items with text vectors [N, D]; `use_ids` [N]: whether an item uses its learned vector."""
        vector = self.text(text)
        bias = self.text_bias(text).squeeze(-1)
        if self.item_columns is not None and columns is not None:
            vector = vector + self.item_columns(columns)
        known = (use_ids & (index < self.num_known)).to(vector.dtype)  # [N]
        safe = index.clamp(max=max(0, self.num_known - 1))
        vector = vector + known[:, None] * self.item_ids(safe)
        return vector, bias + known * (self.item_bias[safe] + self.popularity_weight * self.popularity[safe])

    def users(self, history: Tensor, values: Tensor, mask: Tensor, columns: Tensor | None) -> Tensor:
        """User vectors [B, D] from item vectors [B, H, D] (the newest last), their ratings [B, H], and which of them exist."""
        events = history + self.value(values[..., None])
        ages = self.recency[: history.shape[1]].flip(0)  # recency[0] belongs to the newest
        score = torch.tanh(self.key(events)) @ self.query + ages if self.attention else torch.zeros_like(values)
        weight = torch.softmax(score.masked_fill(~mask, -1e9), -1) * mask  # all zero for a user without history
        mean = torch.einsum("bh,bhd->bd", weight, events)
        user = self.user(mean) + torch.where(mask.any(-1, keepdim=True), 0.0, self.nobody)
        if self.user_columns is not None and columns is not None:
            user = user + self.user_columns(columns)
        normed: Tensor = self.user_norm(user)
        return normed

    def rank(self, users: Tensor, items: Tensor, biases: Tensor) -> Tensor:
        """Ranking logits [B, N]: log-probability of being the next item, up to a constant of the user."""
        logits: Tensor = users @ items.T * (self.scale.exp() / math.sqrt(users.shape[-1])) + biases
        return logits

    def click(self, logits: Tensor, users: Tensor, items: Tensor) -> Tensor:
        """Log-odds of a click [B, N] from ranking logits [B, N], users [B, D] and items [N, D]."""
        pair = (users * self.click_pair) @ items.T
        odds: Tensor = nn.functional.softplus(self.click_slope) * logits + pair + self.click_user(users)
        return odds

    def rank_candidates(self, users: Tensor, items: Tensor, biases: Tensor) -> Tensor:
        """Ranking logits [B] of one candidate [D] for each user."""
        return (users * items).sum(-1) * (self.scale.exp() / math.sqrt(users.shape[-1])) + biases

    def click_candidates(self, logits: Tensor, users: Tensor, items: Tensor) -> Tensor:
        """Log-odds of a click [B] on one candidate for each user."""
        pair = (users * self.click_pair * items).sum(-1)
        odds: Tensor = nn.functional.softplus(self.click_slope) * logits + pair + self.click_user(users).squeeze(-1)
        return odds

    @staticmethod
    def negatives_loss(odds: Tensor, counts: Tensor, num: int) -> Tensor:
        """Log-loss of items [B, M] that were not clicked; those that count have a total weight of `num` in each row."""
        weight = counts.float() * num / counts.sum(1, keepdim=True).clamp(min=1)
        total: Tensor = (nn.functional.softplus(odds) * weight).sum()
        return total


class NegativeSampler:
    """Items to compare the clicked one with: half of them drawn uniformly, half by popularity, with a known probability of each.

    It draws with replacement among the items of the training rows.
    """

    def __init__(self, counts: np.ndarray) -> None:
        weights = np.maximum(counts, 1) ** 0.75  # word2vec's flattening (Mikolov 2013)
        share = weights / weights.sum()
        self.num_items = len(counts)
        self.cumulated = torch.from_numpy(np.cumsum(share))
        self.log_q = torch.from_numpy(np.log(0.5 / len(share) + 0.5 * share)).float()
        """[items] log-probability of each in one draw, both halves together."""

    def draw(self, uniform: Tensor) -> Tensor:
        """Items [R, M] from uniform random numbers [R, M]; the first half is drawn uniformly."""
        half = uniform.shape[1] // 2
        even = (uniform[:, :half] * self.num_items).long()
        popular = torch.searchsorted(self.cumulated, uniform[:, half:].double().contiguous())
        return torch.cat([even, popular], 1).clamp(max=self.num_items - 1)


def fixed_uniform_numbers(seeds: list[int], num: int) -> Tensor:
    """[R, M] uniform random numbers, each row from its own seed."""
    return torch.from_numpy(np.stack([np.random.default_rng(seed).random(num) for seed in seeds])).float()


def decode_logits(
    logits: Tensor, odds: Tensor, target: int, history: list[int], draw: int, *, num_others: int, exclude_seen: bool
) -> dict[str, Any]:
    """The prediction of one row: the best items, the rank of the target, and click probabilities.

    `logits`, `odds` [N] over the catalogue; `history`: the user's earlier items, -1 where there is none; `draw`: the seed that
    decides for which `num_others` other items a click probability is returned. Of equal logits the earlier item ranks higher.
    """
    earlier = [index for index in history if index >= 0 and index != target]
    if exclude_seen:
        logits[earlier] = -math.inf
    target_logit = logits[target]
    rank = 1 + int((logits > target_logit).sum()) + int((logits[:target] == target_logit).sum())
    best = logits.topk(min(NUM_TOP_ITEMS, len(logits)))
    top = [index for index, value in zip(best.indices.tolist(), best.values.tolist(), strict=True) if value > -math.inf]
    excluded, others = {target, *earlier}, list[int]()
    if num_others:
        for index in np.random.default_rng(draw).integers(0, len(logits), DRAWS_PER_ITEM * num_others).tolist():
            if index not in excluded and len(others) < num_others:
                others.append(index)
    probabilities = torch.sigmoid(odds)
    return {
        "rank": rank,
        "p": float(probabilities[target]),
        "others": probabilities[others].tolist(),
        "top": top,
        "chances": probabilities[top].tolist(),
    }


class ItemCooccurrence:
    """Pairs of items that one user clicked within WINDOW of each other, and the item vectors that follow from them."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self.left, self.right, self.weight = array("i"), array("i"), array("f")

    def add_click(self, items: Sequence[str]) -> None:
        """Count the pairs of one click: `items` are a user's items up to it, the clicked one last."""
        if len(self.left) > MAX_PAIRS:
            return
        clicked = self.names.setdefault(items[-1], len(self.names))
        for distance, name in enumerate(reversed(items[-1 - WINDOW : -1]), start=1):
            self.left.append(clicked)
            self.right.append(self.names.setdefault(name, len(self.names)))
            self.weight.append(1 / distance)

    def vectors(self, known: Sequence[str], width: int) -> NDArray[np.float32] | None:
        """[len(known), width], mean square length 1: leading eigenvectors of log(1 + co-clicks) times the roots of their eigenvalues.

        The spectral form of item2vec (Barkan & Koenigstein 2016) and of co-factorisation (Liang 2016, CoFactor, on shifted
        PMI); log counts did better than PMI on a validation split. Only positive eigenvalues count, so that the product of two
        vectors comes near the entry. None where there are too few pairs for one dimension.
        """
        from scipy.sparse import coo_matrix
        from scipy.sparse.linalg import eigsh

        index = {name: number for number, name in enumerate(known)}
        known_index = np.array([index.get(name, -1) for name in self.names], dtype=np.int64)
        if not len(self.left) or len(known) < 3:
            return None
        a, b = (known_index[np.frombuffer(side, dtype=np.int32)] for side in (self.left, self.right))
        valid = (a >= 0) & (b >= 0) & (a != b)
        values = np.frombuffer(self.weight, dtype=np.float32)[valid].astype(np.float64)
        a, b, size = a[valid], b[valid], len(known)
        counts: Any = coo_matrix((np.tile(values, 2), (np.r_[a, b], np.r_[b, a])), shape=(size, size)).tocsr()
        if not counts.nnz:
            return None
        counts.data = np.log1p(counts.data)
        rank = min(width, size - 1)
        if size <= 4 * width:  # the iterative solver needs far fewer eigenvectors than rows
            eigenvalues, directions = np.linalg.eigh(counts.toarray())
            eigenvalues, directions = eigenvalues[-rank:], directions[:, -rank:]
        else:
            eigenvalues, directions = eigsh(
                counts, k=rank, which="LA", v0=np.ones(size)
            )  # a fixed start: the same result each time
        vectors = np.zeros((size, width), dtype=np.float32)
        vectors[:, :rank] = directions * np.sqrt(np.maximum(eigenvalues, 0))
        length = float(np.sqrt((vectors**2).sum(1).mean()))
        return vectors / length if length else None
