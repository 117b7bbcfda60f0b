"""Repeated random tokens for an attention-only model: the setting in which induction heads form (Olsson et al. 2022).

A row is a segment of distinct tokens, repeated to the end. Its length is drawn for each row, because with a fixed
length a rule about positions would be enough. Tokens of a segment are distinct, so the next token is never ambiguous.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONTINUED = 20_011
"""Added to the seed of the rows on which a trained model continues, so that it does not see its earlier rows in the
same order."""


@dataclass(slots=True)
class InductionWorld:
    """Sizes of rows, model and training."""

    layers: int = 2
    steps: int = 800
    width: int = 64
    heads: int = 4
    vocabulary: int = 64
    length: int = 64
    shortest: int = 10
    longest: int = 30
    batch: int = 64
    lr: float = 1e-3
    every: int = 25
    """Steps between snapshots."""


@dataclass(slots=True)
class InductionRun:
    """Snapshots of one training run."""

    world: InductionWorld
    seed: int
    steps: list[int] = field(default_factory=list)
    weights: list[dict[str, Tensor]] = field(default_factory=list)

    def model(self, number: int) -> AttentionOnly:
        """Return the model of a snapshot."""
        model = AttentionOnly(self.world)
        model.load_state_dict(self.weights[number])
        return model.eval()


class Attention(nn.Module):
    """Causal self-attention. `o_proj` reads the concatenated heads, as in transformers' decoders."""

    def __init__(self, world: InductionWorld) -> None:
        super().__init__()
        self.heads, width = world.heads, world.width
        self.qkv, self.o_proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, *, patterns: bool = False) -> tuple[Tensor, Tensor | None]:
        """[B, T, D] -> [B, T, D], and the attention patterns [B, H, T, T] if requested."""
        rows, length, width = x.shape
        q, k, v = self.qkv(x).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        pattern = None
        if patterns:
            scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
            later = torch.ones(length, length, dtype=torch.bool).triu(1)
            pattern = scores.masked_fill(later, -torch.inf).softmax(-1)
            mixed = pattern @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).reshape(rows, length, width)), pattern


class AttentionOnly(nn.Module):
    """Token and position embeddings, attention layers with a norm before each, and a head; no MLP."""

    def __init__(self, world: InductionWorld) -> None:
        super().__init__()
        self.embed, self.position_embedding = (
            nn.Embedding(world.vocabulary, world.width),
            nn.Embedding(world.length, world.width),
        )
        self.layers = nn.ModuleList(Attention(world) for _ in range(world.layers))
        self.norms = nn.ModuleList(nn.LayerNorm(world.width) for _ in range(world.layers + 1))
        self.head = nn.Linear(world.width, world.vocabulary, bias=False)
        for table in (self.embed, self.position_embedding):
            nn.init.normal_(table.weight, std=0.5)

    def forward(self, ids: Tensor, *, patterns: bool = False) -> tuple[Tensor, list[Tensor]]:
        """ids [B, T] -> logits [B, T, V], and the attention patterns by layer if requested."""
        x = self.embed(ids) + self.position_embedding.weight[: ids.shape[1]]
        attention_patterns = []
        for norm, layer in zip(self.norms, self.layers, strict=False):
            out, pattern = layer(norm(x), patterns=patterns)
            x = x + out
            attention_patterns += [pattern] if pattern is not None else []
        return self.head(self.norms[-1](x)), attention_patterns


def draw_rows(world: InductionWorld, num_rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """ids [N, T] and the period [N] of each row."""
    order = torch.rand(num_rows, world.vocabulary, generator=generator).argsort(1)
    period = torch.randint(world.shortest, world.longest + 1, (num_rows,), generator=generator)
    position = torch.arange(world.length) % period[:, None]
    return order.gather(1, position), period


def with_new_layer(run: InductionRun) -> AttentionOnly:
    """Return the last model of a run with a new layer below the others. The layer outputs zero, so the logits do not
    change.

    The new layer is below, because a matching head reads what a lower layer writes. (A copy of the last layer at the
    end, which depth expansion uses for models of many layers, does not help: repeated tokens are right in 30 % after
    800 steps, where a new layer below gives 99 % after 300.)
    """
    model = run.model(len(run.steps) - 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        layer = Attention(run.world)
    nn.init.zeros_(layer.o_proj.weight)
    model.layers.insert(0, layer)
    model.norms.insert(0, nn.LayerNorm(run.world.width))
    return model


def train_induction(
    world: InductionWorld, seed: int, log: Any = None, start: AttentionOnly | None = None
) -> InductionRun:
    """Train with AdamW on all next tokens, with fresh rows at each step, from random weights or from those of `start`.

    `log(step, loss)` is called at each snapshot.
    """
    run = InductionRun(world, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AttentionOnly(world)
    if start is not None:
        model.load_state_dict(start.state_dict())
    generator = torch.Generator().manual_seed(seed if start is None else seed + CONTINUED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=world.lr, fused=True)
    for step in range(world.steps + 1):
        ids, _ = draw_rows(world, world.batch, generator)
        logits, _ = model(ids[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        if step % world.every == 0 or step == world.steps:
            run.steps.append(step)
            run.weights.append({name: value.detach().clone() for name, value in model.state_dict().items()})
            if log is not None:
                log(step, float(loss.detach()))
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
    return run
