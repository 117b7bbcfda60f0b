"""What a decoder would say if it ended at each layer, and how much of each layer's state is the sum of its words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmstage.research.reduction.additive import additive_share


@torch.no_grad()
def hidden_states(model: Any, rows: Sequence[Sequence[int]], device: torch.device) -> list[Tensor]:
    """By layer (embeddings first), the state at the last token of each row, [N, D]; the last layer is normed already, as
    transformers gives it."""
    found: list[list[Tensor]] = []
    for row in rows:
        states = model(input_ids=torch.tensor([list(row)], device=device), output_hidden_states=True).hidden_states
        found.append([state[0, -1].float().cpu() for state in states])
    return [torch.stack(layer) for layer in zip(*found, strict=True)]


def final_norm(model: Any) -> Any:
    """The norm before the head, by the names that transformers' decoders give it; None where it is not known."""
    body = model.base_model
    names = ("norm", "ln_f", "final_layer_norm", "final_layernorm")
    return next((module for name in names if (module := getattr(body, name, None)) is not None), None)


@torch.no_grad()
def logit_lens(model: Any, states: Sequence[Tensor], targets: Sequence[int]) -> list[dict[str, float]] | None:
    """By layer, probability and median rank of the answer's first token under unembed(norm(h)) (nostalgebraist 2020);
    None where the model's last norm is not known."""
    norm, head = final_norm(model), model.get_output_embeddings()
    if norm is None:
        return None
    device = head.weight.device
    wanted = torch.tensor(list(targets), device=device)
    lines = []
    for layer, state in enumerate(states):
        state = state.to(device)
        logits = head(state if layer == len(states) - 1 else norm(state)).float()
        own = logits.gather(1, wanted[:, None])
        rank = 1 + (logits > own).sum(-1)
        lines.append(
            {
                "layer": layer,
                "probability": float(logits.softmax(-1).gather(1, wanted[:, None]).mean()),
                "median_rank": float(rank.double().median()),
            }
        )
    return lines


def answer_layer(lines: Sequence[dict[str, float]]) -> int:
    """First layer whose probability of the answer has made half of the way from the first to the last layer."""
    values = np.array([line["probability"] for line in lines])
    half = values[0] + 0.5 * (values[-1] - values[0])
    return int(np.argmax(values >= half)) if values[-1] > values[0] else len(values) - 1


def shares_of_words(states: Sequence[Tensor], sentences: Sequence[Sequence[int]], seed: int) -> list[dict[str, float]]:
    """By layer, the share of the state that words and their places explain on held-out prompts, and the same after the
    states were dealt to other prompts (a control that must be near 0 or below)."""
    order = np.random.default_rng(seed).permutation(len(sentences))
    # All rows end alike ("="), so the last token's own embedding says nothing at layer 0; places count from the start.
    longest = max(map(len, sentences))
    lines = []
    for layer, state in enumerate(states):
        z = state.double().numpy()
        if float(z.var(0).sum()) < 1e-12:
            continue
        share = additive_share(z, sentences, positions=min(longest, 24), seed=seed)
        control = additive_share(z[order], sentences, positions=min(longest, 24), seed=seed)
        lines.append({"layer": layer, "additive": share, "shuffled": control})
    return lines
