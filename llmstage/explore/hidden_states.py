"""One vector for a row: the mean of the model's own last hidden states; and groups of rows that are near to each other there."""

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
from llmstage.explore.term_statistics import telling_words
from llmstage.explore.wording import say
from llmstage.report.files import write_json
from llmstage.tasks.base import Batch, Example, Task

ROWS_A_GROUP, MOST_GROUPS = 100, 24
"""Rows that a group should have on average, and how many groups there are at most."""
GROUPS = "groups.json"
"""Beside weaknesses.jsonl, where one of them is a group."""
AT_ONCE = 4096
"""Tokens of a batch, padding included."""

Vectors = NDArray[np.float64]


@torch.no_grad()
def row_vectors(task: Task, model: nn.Module, rows: Sequence[Sequence[Example]], device: torch.device) -> Vectors:
    """[N, D] of rows given by their features: the mean over their tokens, of all their features together."""
    flat = sorted(
        ((len(item.input_ids), at, item) for at, own in enumerate(rows) for item in own), key=lambda one: one[:2]
    )
    sums: list[Tensor | None] = [None] * len(rows)
    weights = [0.0] * len(rows)
    was_training = model.training
    model.eval()
    start = 0
    while start < len(flat):
        stop = start + 1
        while stop < len(flat) and (stop + 1 - start) * flat[stop][0] <= AT_ONCE:
            stop += 1
        part = flat[start:stop]
        found = pooled_batch(task, model, task.collate([[item] for _, _, item in part]).to(device))
        for (length, at, _), vector in zip(part, found, strict=True):
            known = sums[at]
            sums[at] = vector * length if known is None else known + vector * length
            weights[at] += length
        start = stop
    model.train(was_training)
    width = next((len(one) for one in sums if one is not None), 0)
    return np.array(
        [np.zeros(width) if one is None else (one / weight).numpy() for one, weight in zip(sums, weights, strict=True)],
        dtype=np.float64,
    ).reshape(len(rows), width)


def pooled_batch(task: Task, model: Any, batch: Batch) -> Tensor:
    """[B, D] on the CPU, float64; each feature stands in a row of its own."""
    if not task.additive_loss:  # two towers: what they compare is the representation
        return torch.cat(task.embed(model, batch), 1).double().cpu()
    encoder_decoder = bool(getattr(model.config, "is_encoder_decoder", False))
    body = model.get_encoder() if encoder_decoder else model.base_model
    takes = inspect.signature(body.forward).parameters
    open_ended = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in takes.values())
    model_words = ("attention_mask", "position_ids", "token_type_ids", "pixel_values", "cu_seq_lens_q", "cu_seq_lens_k")
    inputs = {
        name: value
        for name, value in batch.inputs.items()
        if name == "input_ids" or name in takes or (open_ended and name in model_words)
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
    """k-means of row vectors, each group with a name."""

    centre: Vectors
    scale: Vectors
    middles: Vectors
    names: list[str]

    def of(self, vectors: Vectors) -> list[str]:
        """The name of the nearest group of each row."""
        if not len(vectors):
            return []
        from scipy.spatial.distance import cdist

        far = cdist((vectors - self.centre) / self.scale, self.middles)  # [N, K]
        return [self.names[at] for at in far.argmin(1)]

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Groups:
        """DataError where there is no such file."""
        if not path.is_file():
            raise DataError(
                f"A weak slice is a group of the model's hidden states, and {path}, which tells the groups apart, does not exist. "
                f"Name the weaknesses.jsonl in the folder of the run that found it: stage.improve.weaknesses=<run>/weaknesses.jsonl."
            )
        told = json.loads(path.read_text(encoding="utf-8"))
        centre, scale, middles = (np.array(told[name]) for name in ("centre", "scale", "middles"))
        return cls(centre, scale, middles, told["names"])


def group_rows(vectors: Vectors, texts: Sequence[str], seed: int, wanted: int | None = None) -> Groups | None:
    """Groups named by the words that set them apart; None where there are too few rows for two."""
    from sklearn.cluster import KMeans

    count = min(wanted or MOST_GROUPS, len(vectors) // ROWS_A_GROUP if wanted is None else len(vectors))
    if count < 2 or len(np.unique(vectors, axis=0)) < count:
        return None
    centre, scale = vectors.mean(0), np.maximum(vectors.std(0), 1e-9)
    found = KMeans(count, n_init=3, random_state=seed).fit((vectors - centre) / scale)
    words = telling_words(found.labels_.tolist(), texts)
    names: list[str] = []
    for at in range(count):
        told = ", ".join(words.get(at, [])) or say("group_number", number=at + 1)
        name = say("group_like", words=told)
        names.append(name if name not in names else f"{name} ({at + 1})")
    return Groups(centre, scale, found.cluster_centers_, names)
