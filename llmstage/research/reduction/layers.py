"""What the layers of a decoder compute: the logit lens, and how much of each state is the sum of its words.

The logit lens (nostalgebraist 2020) reads an answer from each layer. The additive share is the R² of a state on the words
of its prompt; the interaction share is the rest of a two-way analysis of variance (Fisher 1925).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Array = NDArray[np.float64]


def interaction_share(grid: ArrayLike) -> float:
    """Return |Z - mean - A_a - B_b|² / |Z - mean|² of states [A, B, D] over every combination of two parts.

    This is a two-way analysis of variance without replicates (Fisher 1925). 0: the state is the sum of one effect of
    each part. 1: it depends on the combination alone.
    """
    states = np.asarray(grid, dtype=np.float64)
    if states.ndim == 2:
        states = states[..., None]
    deviations = states - states.mean((0, 1))
    interaction = deviations - deviations.mean(1, keepdims=True) - deviations.mean(0, keepdims=True)
    total = float((deviations**2).sum())
    # States that do not depend on the parts vary only by rounding, which is no interaction.
    if total <= 1e-24 * max(1.0, float((states**2).sum())):
        return 0.0
    return float((interaction**2).sum()) / total


def bag_of_words(sentences: Sequence[Sequence[int]], vocabulary: Sequence[int], *, positions: int = 0) -> Array:
    """[N, V (+ V * positions)] counts of each word in each sentence; with `positions`, at each of the first positions
    too."""
    column = {word: number for number, word in enumerate(vocabulary)}
    counts = np.zeros((len(sentences), len(vocabulary) * (1 + positions)))
    for row, sentence in enumerate(sentences):
        for position, word in enumerate(sentence):
            if word in column:
                counts[row, column[word]] += 1
                if position < positions:
                    counts[row, len(vocabulary) * (1 + position) + column[word]] += 1
    return counts


def additive_share(
    states: ArrayLike, sentences: Sequence[Sequence[int]], *, positions: int = 0, folds: int = 5, seed: int = 0
) -> float:
    """Return R² on held-out sentences of z(s) = Σ v_w + c, a ridge regression on the words (and their positions) of
    other sentences.

    `states` [N, D]. The strength of the ridge is chosen inside each training part (scikit-learn's RidgeCV). R² is at
    most 1, and below 0 where the words predict worse than the mean.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold

    z = np.asarray(states, dtype=np.float64)
    words = sorted({word for sentence in sentences for word in sentence})
    counts = bag_of_words(sentences, words, positions=positions)
    residual = total = 0.0
    for train, test in KFold(folds, shuffle=True, random_state=seed).split(z):
        fitted = RidgeCV(np.logspace(-3, 3, 7)).fit(counts[train], z[train])
        residual += float(((z[test] - fitted.predict(counts[test]).reshape(z[test].shape)) ** 2).sum())
        total += float(((z[test] - z[train].mean(0)) ** 2).sum())
    return 1 - residual / total if total else 0.0


@torch.no_grad()
def hidden_states(model: Any, rows: Sequence[Sequence[int]], device: torch.device) -> list[Tensor]:
    """Return by layer (embeddings first) the state at the last token of each row, [N, D]. The last layer's state is
    already normalized by the final norm, as transformers returns it."""
    by_layer: list[list[Tensor]] = []
    for row in rows:
        states = model(input_ids=torch.tensor([list(row)], device=device), output_hidden_states=True).hidden_states
        by_layer.append([state[0, -1].float().cpu() for state in states])
    return [torch.stack(layer) for layer in zip(*by_layer, strict=True)]


def final_norm(model: Any) -> Any:
    """Return the norm before the head, by the names that transformers' decoders give it; None where no name matches."""
    body = model.base_model
    names = ("norm", "ln_f", "final_layer_norm", "final_layernorm")
    return next((module for name in names if (module := getattr(body, name, None)) is not None), None)


@torch.no_grad()
def logit_lens(model: Any, states: Sequence[Tensor], targets: Sequence[int]) -> list[dict[str, float]] | None:
    """Return by layer the probability and median rank of the answer's first token under unembed(norm(h))
    (nostalgebraist 2020). None where the model's final norm is not found."""
    norm, head = final_norm(model), model.get_output_embeddings()
    if norm is None:
        return None
    device = head.weight.device
    target_ids = torch.tensor(list(targets), device=device)
    lines = []
    for layer, state in enumerate(states):
        state = state.to(device)
        logits = head(state if layer == len(states) - 1 else norm(state)).float()
        target_logits = logits.gather(1, target_ids[:, None])
        rank = 1 + (logits > target_logits).sum(-1)
        lines.append(
            {
                "layer": layer,
                "probability": float(logits.softmax(-1).gather(1, target_ids[:, None]).mean()),
                "median_rank": float(rank.double().median()),
            }
        )
    return lines


def answer_layer(lines: Sequence[dict[str, float]]) -> int:
    """Return the first layer whose probability of the answer has made half of the change from the first to the last
    layer."""
    values = np.array([line["probability"] for line in lines])
    half = values[0] + 0.5 * (values[-1] - values[0])
    return int(np.argmax(values >= half)) if values[-1] > values[0] else len(values) - 1


def additive_shares_by_layer(
    states: Sequence[Tensor], sentences: Sequence[Sequence[int]], seed: int
) -> list[dict[str, float]]:
    """Return by layer the share of the state that words and their positions explain on held-out prompts. As a control,
    the same with the states shuffled between prompts; it must be near 0 or below."""
    order = np.random.default_rng(seed).permutation(len(sentences))
    # All rows end with the same token ("="), so the state is constant at layer 0. Positions count from the start.
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
