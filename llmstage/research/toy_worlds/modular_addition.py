"""Addition modulo a prime, learned by the transformer of Nanda et al. (2023, arXiv 2301.05217), who explained grokking
with it.

The model has one layer, ReLU, no LayerNorm and untied embeddings; the loss is at "=" only. Keys and values are
therefore computed once for each symbol and position, and everything after attention for the last position alone. The
function is the same at a third of the cost.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

WARM_UP = 10
"""Steps of linear learning-rate warm-up, as in the published code."""


@dataclass(slots=True)
class ModularWorld:
    """a + b mod p, with a share of the unordered pairs as training data."""

    modulus: int = 53
    train_share: float = 0.8
    weight_decay: float = 1.0
    steps: int = 4000
    width: int = 64
    mlp_width: int = 256
    heads: int = 4
    lr: float = 1e-3
    every: int = 50
    """Steps between snapshots."""
    ordered: bool = False
    """Split ordered pairs, as the papers do. Part of the validation pairs then have their mirror image in training."""


@dataclass(slots=True)
class Snapshots:
    """The weights of one training run at its snapshots. Logits are recomputed from the weights."""

    world: ModularWorld
    seed: int
    train: NDArray[np.bool_]
    """[p, p] whether the pair was trained on."""
    steps: list[int] = field(default_factory=list)
    weights: list[dict[str, Tensor]] = field(default_factory=list)


class ModularModel(nn.Module):
    """The transformer. Random weights have the scale of the published code: 1/sqrt(width), for the output
    1/sqrt(symbols)."""

    def __init__(self, world: ModularWorld) -> None:
        super().__init__()
        p, width, inner = world.modulus, world.width, world.mlp_width
        self.heads = world.heads
        scale = width**-0.5

        def random_weights(*shape: int, by: float = scale) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape) * by)

        self.embed, self.position_embedding = (
            random_weights(p + 1, width),
            random_weights(3, width),
        )  # the last symbol is "="
        self.query, self.key, self.value, self.out = (random_weights(width, width) for _ in range(4))
        self.up, self.down = random_weights(width, inner), random_weights(inner, width)
        self.up_bias, self.down_bias = nn.Parameter(torch.zeros(inner)), nn.Parameter(torch.zeros(width))
        self.unembed = random_weights(width, p, by=p**-0.5)

    def forward(self, chosen: Tensor | None = None) -> dict[str, Tensor]:
        """Return the states at "=" by layer, [N, D] each, and `logits` [N, p], of the pairs a * p + b in `chosen` [N];
        None: all pairs."""
        symbols = self.embed[:-1]
        left, right = symbols + self.position_embedding[0], symbols + self.position_embedding[1]  # [p, D]
        last = self.embed[-1] + self.position_embedding[2]  # [D]
        size = last.shape[0] // self.heads
        query = (last @ self.query).view(self.heads, size) * size**-0.5

        def scores_and_values(state: Tensor) -> tuple[Tensor, Tensor]:
            """[..., D] -> scores [..., H] of the one query, values [..., H, D/H]."""
            key = (state @ self.key).view(*state.shape[:-1], self.heads, size)
            return (key * query).sum(-1), (state @ self.value).view(*state.shape[:-1], self.heads, size)

        (score_a, value_a), (score_b, value_b), (score_c, value_c) = map(scores_and_values, (left, right, last))
        p = len(symbols)
        # Broadcast over the whole grid: indexing rows for each pair would scatter the gradients one by one.
        scores = torch.stack(
            [part.expand(p, p, -1) for part in (score_a[:, None], score_b[None], score_c[None, None])], -1
        )
        share = scores.softmax(-1).unsqueeze(-2)  # [p, p, H, 1, 3]
        attended_values = (
            share[..., 0] * value_a[:, None] + share[..., 1] * value_b + share[..., 2] * value_c
        )  # [p, p, H, D/H]
        rows = attended_values.flatten(2).flatten(0, 1)  # [p * p, D]
        attended = last + (rows if chosen is None else rows.index_select(0, chosen)) @ self.out
        inner = F.relu(attended @ self.up + self.up_bias)
        after = attended + inner @ self.down + self.down_bias
        return {"attention": attended, "mlp": inner, "residual": after, "logits": after @ self.unembed}


def split_pairs(world: ModularWorld, seed: int) -> NDArray[np.bool_]:
    """[p, p] true where the pair is in training. Both orders of an unordered pair are on one side: addition commutes,
    and a mirror image in training would reveal a validation pair."""
    draw = np.random.default_rng(seed).random((world.modulus, world.modulus))
    if not world.ordered:
        draw = np.triu(draw) + np.triu(draw, 1).T
    known = draw if world.ordered else draw[np.triu_indices(world.modulus)]
    border = np.sort(known.ravel())[round(world.train_share * known.size) - 1]
    return np.asarray(draw <= border)


def train_modular(world: ModularWorld, seed: int, log: Any = None) -> Snapshots:
    """Train on the full batch with AdamW. The loss is computed in fp64, because at 1e-7 an fp32 loss has no gradient
    left.

    `log(step, loss)` is called at each snapshot.
    """
    snapshots = Snapshots(world, seed, split_pairs(world, seed))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ModularModel(world)
    chosen = torch.from_numpy(snapshots.train.ravel().nonzero()[0])
    target = (chosen // world.modulus + chosen) % world.modulus
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=world.lr, weight_decay=world.weight_decay, betas=(0.9, 0.98), fused=True
    )
    for step in range(world.steps + 1):
        loss = F.cross_entropy(model(chosen)["logits"].double(), target)
        if step % world.every == 0 or step == world.steps:
            snapshots.steps.append(step)
            snapshots.weights.append({name: value.detach().clone() for name, value in model.state_dict().items()})
            if log is not None:
                log(step, float(loss.detach()))
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.param_groups[0]["lr"] = world.lr * min(1.0, (step + 1) / WARM_UP)
        optimizer.step()
    return snapshots


@torch.no_grad()
def snapshot_states(snapshots: Snapshots, number: int) -> dict[str, NDArray[np.float64]]:
    """Return the states of a snapshot over the whole grid, [p, p, ...] by layer; `embeddings` [p, p, D] is the sum of
    the two."""
    model = ModularModel(snapshots.world)
    model.load_state_dict(snapshots.weights[number])
    p = snapshots.world.modulus
    symbols = model.embed[:-1]
    states = {"embeddings": symbols[:, None] + symbols, **model()}
    return {name: value.double().view(p, p, -1).numpy() for name, value in states.items()}


def weight_norm(snapshots: Snapshots, number: int) -> float:
    """Return the norm of all weights together."""
    return float(sum(float(value.double().square().sum()) for value in snapshots.weights[number].values()) ** 0.5)
