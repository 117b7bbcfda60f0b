"""Image captioning: CIDEr, BLEU-4, ROUGE-L and chrF against one or several references, and compositional generalisation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llmstage.config.task import Captioning as CaptioningConfig
from llmstage.data.encoding.order import evenly_spaced
from llmstage.data.image_store import ImageStore
from llmstage.data.rows import Columns, Row
from llmstage.demo.scenes import Composition, caption_rows
from llmstage.evaluation.metrics.cider import cider, cider_rows
from llmstage.evaluation.metrics.composition import composition_item, group_scores
from llmstage.evaluation.metrics.generation import chrf, references_of, rouge
from llmstage.evaluation.metrics.score import Score
from llmstage.evaluation.metrics.sklearn_baselines import most_frequent
from llmstage.evaluation.metrics.translation import bleu
from llmstage.tasks.base import UNSCORED, Example, ReportItem
from llmstage.tasks.base_image import ImageTextTask
from llmstage.tasks.base_scored_text import ScoredTextTask, generated, shorten

MAX_SEARCHED = 20_000
"""Upper bound of the training images in which the baseline searches the nearest one."""
GRID = 8
"""Side of the grid of mean colours by which it compares images."""
BATCH_SIZE = 256
NUM_SHOWN = 24
"""Images in the grid of the report."""


class Captioning(ImageTextTask, ScoredTextTask):
    """`caption`: a text or a list of references. `prompt`: the prompt of this image. `composition`: whether training
    contained its combination of attributes (`seen` or `unseen`)."""

    # Only the image identifies a row: all captions of an image are in the same split.
    columns = Columns(
        required=("image", "caption"),
        optional=("prompt", "composition", "language"),
        content=("image",),
        images=("image",),
    )
    route = "caption"
    demo_size = 24_000
    source, target = "prompt", "caption"
    row_metric, length_of = "cider", "target"

    cfg: CaptioningConfig

    @staticmethod
    def demo_rows(num_rows: int, seed: int) -> list[Row]:
        return demo_captions(num_rows, seed, "seen")

    def demo_test_rows(self, num_rows: int, seed: int) -> list[Row]:
        return demo_captions(num_rows, seed, "both")

    def check_row(self, row: Row) -> str | None:
        return super().check_row(row) or self.check_texts(row, "caption")

    def prompt_of(self, row: Row) -> str:
        """Return the prompt of a row, by default task.prompt."""
        return row.get("prompt") or self.cfg.prompt

    def texts(self, row: Row) -> list[str]:
        return [self.prompt_of(row), *references_of(row["caption"])]

    def cache_key(self) -> dict[str, Any]:
        return {**super().cache_key(), "prompt": self.cfg.prompt, "learn": self.cfg.learn}

    def encode(self, row: Row) -> list[Example]:
        prompt, captions = self.prompt_of(row), [text for text in references_of(row["caption"]) if text.strip()]
        first = captions[0]
        ref = {
            "source": prompt,
            "targets": captions,
            "bytes": len(first.encode()),
            "composition": row.get("composition"),
        }
        example = self.encode_text(row, prompt, first, ref, [prompt, *captions])
        ref["image"] = example.arrays["image"][0]
        further_captions = captions[1:] if self.cfg.learn == "all" else []
        return [
            example,
            *(self.encode_text(row, prompt, text, UNSCORED, [prompt, *captions]) for text in further_captions),
        ]

    def text_scores(self, hyps: Sequence[str], refs: list[list[str]]) -> dict[str, Score]:
        return {
            "cider": cider(hyps, refs),
            "bleu4": bleu(hyps, refs),
            "rouge_l": rouge(hyps, refs)["rouge_l"],
            "chrf": chrf(hyps, refs),
        }

    def row_scores(self, hyps: Sequence[str], refs: list[list[str]]) -> list[float]:
        return cider_rows(hyps, refs)

    def all_text_scores(self, hyps: Sequence[str], refs: list[Any]) -> dict[str, Score]:
        groups = [ref["composition"] for ref in refs]
        return super().all_text_scores(hyps, refs) | group_scores("exact_match", exact_hits(hyps, refs), groups)

    def simple_texts(self, train: Iterable[Row], refs: list[Any]) -> dict[str, list[str]]:
        rows = list(islice(train, MAX_SEARCHED))
        prompts, captions = [self.prompt_of(row) for row in rows], [references_of(row["caption"])[0] for row in rows]
        requested = [ref["source"] for ref in refs]
        return {
            "most frequent caption for the prompt": most_frequent(prompts, captions, requested),
            "caption of the most similar training picture": self.nearest(rows, prompts, captions, refs),
        }

    def nearest(self, rows: list[Row], prompts: list[str], captions: list[str], refs: list[Any]) -> list[str]:
        """Return the caption of the training image with the same prompt and the nearest coarse pixels."""
        assert self.image_store is not None
        paths = [row["image"] for row in rows]
        image_store = self.image_store
        if any(
            position not in image_store.numbers for position in paths
        ):  # a run that only evaluates has not read the training images
            image_store = ImageStore(image_store.image_processor, image_store.cache, image_store.threads)
            image_store.read(paths)
        usable = [position for position, path in enumerate(paths) if path not in image_store.bad]
        train_pixels = coarse_pixels(image_store, [image_store.numbers[paths[position]] for position in usable])
        pixels = coarse_pixels(self.image_store, [ref["image"] for ref in refs])
        prompt_index = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
        labels = torch.tensor([prompt_index[prompts[position]] for position in usable])
        nearest_captions: list[str] = []
        for start in range(0, len(refs), BATCH_SIZE):
            part = refs[start : start + BATCH_SIZE]
            distances = torch.cdist(pixels[start : start + BATCH_SIZE], train_pixels)  # [B, N]
            # Images with another prompt rank after all images with the same prompt.
            other_prompt = (
                torch.tensor([prompt_index.get(ref["source"], -1) for ref in part])[:, None] != labels[None, :]
            )
            nearest_captions += [
                captions[usable[int(position)]] for position in (distances + other_prompt * distances.max()).argmin(1)
            ]
        return nearest_captions

    def report_items(self, predictions: list[Any], refs: list[Any]) -> list[ReportItem]:
        hyps, scored_refs = generated(predictions, refs)
        correct = exact_hits(hyps, scored_refs)
        groups = [ref["composition"] for ref in scored_refs]
        grid = self.grid(hyps, scored_refs, correct)
        return [*composition_item("exact_match", correct, groups), *grid, *super().report_items(predictions, refs)]

    def grid(self, hyps: list[str], refs: list[Any], correct: list[float]) -> list[ReportItem]:
        """Return a grid of evenly spaced images of the split, whatever their score."""
        if self.image_store is None or not refs:
            return []
        items = []
        for index in evenly_spaced(np.arange(len(refs)), NUM_SHOWN):
            hyp, ref, is_correct = hyps[index], refs[index], bool(correct[index])
            lines = (
                [shorten(hyp)]
                if is_correct
                else [f"generated: {shorten(hyp)}", f"reference: {shorten(ref['targets'][0])}"]
            )
            lines += [f"{ref['composition']} pairs"] if ref["composition"] else []
            items.append({"src": self.image_store.thumbnail(ref["image"]), "lines": lines, "good": is_correct})
        return [{"kind": "images", "title": "Images and generated captions", "columns": 4, "items": items}]


def demo_captions(num_rows: int, seed: int, composition: Composition) -> list[Row]:
    """Return rows of the demo world with the columns of this task."""
    rows = caption_rows(num_rows, seed, composition)
    return [{**{key: row[key] for key in row if key != "captions"}, "caption": row["captions"]} for row in rows]


def exact_hits(hyps: Sequence[str], refs: list[Any]) -> list[float]:
    """Return 1 for each text that equals one of its references, else 0."""
    return [
        float(hyp.strip() in {text.strip() for text in ref["targets"]}) for hyp, ref in zip(hyps, refs, strict=True)
    ]


def coarse_pixels(image_store: ImageStore, indices: Sequence[int]) -> Tensor:
    """Return the mean colours [N, 3 * GRID * GRID] of the cells of images, 0 to 1."""
    parts = [
        F.adaptive_avg_pool2d(image_store.pixels(indices[start : start + BATCH_SIZE]).float() / 255, GRID).flatten(1)
        for start in range(0, len(indices), BATCH_SIZE)
    ]
    return torch.cat(parts)


TASK = Captioning
