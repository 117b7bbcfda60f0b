"""Compute one vector for each row, the mean of the model's last hidden states, and cluster rows by these vectors."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from llmstage.errors import DataError
from llmstage.explore.term_statistics import distinctive_words
from llmstage.explore.wording import sentence
from llmstage.report.files import write_json
from llmstage.tasks.base import Batch, Example, Task

ROWS_A_GROUP, MOST_GROUPS = 100, 24
"""Average number of rows in a group, and the largest number of groups."""
GROUPS = "groups.json"
"""File next to weaknesses.jsonl, written where a weak slice is a group."""
BATCH_TOKENS = 4096
"""Tokens of a batch, padding included."""

Vectors = NDArray[np.float64]


@torch.no_grad()
def row_vectors(task: Task, model: nn.Module, rows: Sequence[Sequence[Example]], device: torch.device) -> Vectors:
    """Return the vectors [N, D] of encoded rows: the mean over all tokens of all examples of a row."""
    # Sorted by length, so that a batch has little padding; the row number makes the order unique.
    flat = sorted(
        ((len(example.input_ids), at, example) for at, examples in enumerate(rows) for example in examples),
        key=lambda entry: entry[:2],
    )
    sums: list[Tensor | None] = [None] * len(rows)
    weights = [0.0] * len(rows)
    was_training = model.training
    model.eval()
    start = 0
    while start < len(flat):
        # 1. Take as many examples as fit into a batch of BATCH_TOKENS.
        stop = start + 1
        while stop < len(flat) and (stop + 1 - start) * flat[stop][0] <= BATCH_TOKENS:
            stop += 1
        part = flat[start:stop]
        # 2. Add the mean vector of each example to the sum of its row, weighted by its tokens.
        vectors = pooled_batch(task, model, task.collate([[example] for _, _, example in part]).to(device))
        for (length, at, _), vector in zip(part, vectors, strict=True):
            known = sums[at]
            sums[at] = vector * length if known is None else known + vector * length
            weights[at] += length
        start = stop
    model.train(was_training)
    width = next((len(total) for total in sums if total is not None), 0)
    return np.array(
        [
            np.zeros(width) if total is None else (total / weight).numpy()
            for total, weight in zip(sums, weights, strict=True)
        ],
        dtype=np.float64,
    ).reshape(len(rows), width)


def pooled_batch(task: Task, model: Any, batch: Batch) -> Tensor:
    """Return the mean hidden state [B, D] of each example, on the CPU in float64; each example is one row of the batch."""
    if not task.additive_loss:  # Two towers: the vectors that they compare are the representation.
        return torch.cat(task.embed(model, batch), 1).double().cpu()
    encoder_decoder = bool(getattr(model.config, "is_encoder_decoder", False))
    body = model.get_encoder() if encoder_decoder else model.base_model
    # The body of a model takes only the inputs that its forward() names, or any known input where it has **kwargs.
    parameters = inspect.signature(body.forward).parameters
    open_ended = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    known = ("attention_mask", "position_ids", "token_type_ids", "pixel_values", "cu_seq_lens_q", "cu_seq_lens_k")
    inputs = {
        name: value
        for name, value in batch.inputs.items()
        if name == "input_ids" or name in parameters or (open_ended and name in known)
    }
    hidden = body(**inputs)[0].double()  # [B, T, D]
    mask = batch.inputs.get("attention_mask")
    if batch.segments is not None and not encoder_decoder:
        real = batch.segments >= 0
    elif mask is not None and mask.ndim == 2:
        real = mask.bool()
    else:
        real = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
    weight = real[..., None].double()
    pooled: Tensor = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)
    return pooled.cpu()


@dataclass(slots=True)
class Groups:
    """Clusters of row vectors (k-means), each with a name."""

    centre: Vectors
    scale: Vectors
    middles: Vectors
    names: list[str]

    def assign(self, vectors: Vectors) -> list[str]:
        """Return the name of the nearest group for each row."""
        if not len(vectors):
            return []
        from scipy.spatial.distance import cdist

        distances = cdist((vectors - self.centre) / self.scale, self.middles)  # [N, K]
        return [self.names[at] for at in distances.argmin(1)]

    def write(self, path: Path) -> None:
        """Write the groups as JSON."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Groups:
        """Read groups from JSON. Raises DataError where there is no such file."""
        if not path.is_file():
            raise DataError(
                f"A weak slice is a group of the model's hidden states, and {path}, which defines the groups, does not exist. "
                f"Name the weaknesses.jsonl in the folder of the run that found it: stage.improve.weaknesses=<run>/weaknesses.jsonl."
            )
        saved = json.loads(path.read_text(encoding="utf-8"))
        centre, scale, middles = (np.array(saved[name]) for name in ("centre", "scale", "middles"))
        return cls(centre, scale, middles, saved["names"])


def group_rows(vectors: Vectors, texts: Sequence[str], seed: int, num_groups: int | None = None) -> Groups | None:
    """Cluster rows, and name each group by its most distinctive words; None where there are too few rows for two groups."""
    from sklearn.cluster import KMeans

    count = min(num_groups or MOST_GROUPS, len(vectors) // ROWS_A_GROUP if num_groups is None else len(vectors))
    if count < 2 or len(np.unique(vectors, axis=0)) < count:
        return None
    centre, scale = vectors.mean(0), np.maximum(vectors.std(0), 1e-9)
    clusters = KMeans(count, n_init=3, random_state=seed).fit((vectors - centre) / scale)
    words = distinctive_words(clusters.labels_.tolist(), texts)
    names: list[str] = []
    for at in range(count):
        description = ", ".join(words.get(at, [])) or sentence("group_number", number=at + 1)
        name = sentence("group_like", words=description)
        names.append(name if name not in names else f"{name} ({at + 1})")
    return Groups(centre, scale, clusters.cluster_centers_, names)
