"""A text about a picture: CIDEr, BLEU-4, ROUGE-L and chrF against one or several references, and whether the model composes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llmstage.config.task import Captioning as CaptioningConfig
from llmstage.data.encoding.order import spread
from llmstage.data.image_store import ImageStore
from llmstage.data.rows import Columns, Row
from llmstage.demo.scenes import Composition, caption_rows
from llmstage.evaluation.metrics.cider import cider, cider_rows
from llmstage.evaluation.metrics.composition import composition_exhibit, group_scores
from llmstage.evaluation.metrics.generation import chrf, references_of, rouge
from llmstage.evaluation.metrics.score import Score
from llmstage.evaluation.metrics.sklearn_baselines import most_frequent
from llmstage.evaluation.metrics.translation import bleu
from llmstage.tasks.base import UNSCORED, Example, ReportItem
from llmstage.tasks.base_image_text import Looking
from llmstage.tasks.base_scored_text import ScoredText, generated, shorten

SEARCHED = 20_000
"""Training pictures among which the nearest one is looked for, at most."""
COARSE = 8
"""Cells of a side into which a picture is averaged for that."""
AT_ONCE = 256
SHOWN = 24
"""Pictures in the report's grid."""


class Captioning(Looking, ScoredText):
    """`caption` is a text or a list of references. `prompt` may say what is wanted of this picture, `composition` whether
    its combination of attributes was seen in training."""

    # The picture alone says what a row is: one with several captions stays on one side of a cut.
    columns = Columns(
        required=("image", "caption"),
        optional=("prompt", "composition", "language"),
        content=("image",),
        images=("image",),
    )
    route = "caption"
    demo_size = 24_000
    source, target = "prompt", "caption"
    headline, banded = "cider", "target"

    cfg: CaptioningConfig

    @staticmethod
    def demo_rows(num_rows: int, seed: int) -> list[Row]:
        return demo(num_rows, seed, "seen")

    def demo_test_rows(self, num_rows: int, seed: int) -> list[Row]:
        return demo(num_rows, seed, "both")

    def check_row(self, row: Row) -> str | None:
        return super().check_row(row) or self.target_complaint(row, "caption")

    def prompt_of(self, row: Row) -> str:
        return row.get("prompt") or self.cfg.prompt

    def texts(self, row: Row) -> list[str]:
        return [self.prompt_of(row), *references_of(row["caption"])]

    def cache_key(self) -> dict[str, Any]:
        return {**super().cache_key(), "prompt": self.cfg.prompt, "learn": self.cfg.learn}

    def encode(self, row: Row) -> list[Example]:
        prompt, said = self.prompt_of(row), [text for text in references_of(row["caption"]) if text.strip()]
        first = said[0]
        ref = {"source": prompt, "targets": said, "bytes": len(first.encode()), "composition": row.get("composition")}
        made = self.written(row, prompt, first, ref, [prompt, *said])
        ref["image"] = made.arrays["image"][0]
        more = said[1:] if self.cfg.learn == "all" else []
        return [made, *(self.written(row, prompt, text, UNSCORED, [prompt, *said]) for text in more)]

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
        return super().all_text_scores(hyps, refs) | group_scores("exact_match", hits(hyps, refs), groups)

    def simple_texts(self, train: Iterable[Row], refs: list[Any]) -> dict[str, list[str]]:
        rows = list(islice(train, SEARCHED))
        prompts, captions = [self.prompt_of(row) for row in rows], [references_of(row["caption"])[0] for row in rows]
        asked = [ref["source"] for ref in refs]
        return {
            "most frequent caption for the prompt": most_frequent(prompts, captions, asked),
            "caption of the most similar training picture": self.nearest(rows, prompts, captions, refs),
        }

    def nearest(self, rows: list[Row], prompts: list[str], captions: list[str], refs: list[Any]) -> list[str]:
        """The caption of the training picture with the same prompt whose coarse pixels are nearest."""
        assert self.pictures is not None
        places = [row["image"] for row in rows]
        known = self.pictures
        if any(place not in known.places for place in places):  # evaluation alone has not read them
            known = ImageStore(known.shape, known.cache, known.threads)
            known.read(places)
        usable = [place for place, name in enumerate(places) if name not in known.bad]
        theirs = coarse(known, [known.places[places[place]] for place in usable])
        mine = coarse(self.pictures, [ref["image"] for ref in refs])
        numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
        labels = torch.tensor([numbers[prompts[place]] for place in usable])
        out: list[str] = []
        for start in range(0, len(refs), AT_ONCE):
            part = refs[start : start + AT_ONCE]
            far = torch.cdist(mine[start : start + AT_ONCE], theirs)  # [B, N]
            # A picture with another prompt comes after all of those with the same one.
            other = torch.tensor([numbers.get(ref["source"], -1) for ref in part])[:, None] != labels[None, :]
            out += [captions[usable[int(place)]] for place in (far + other * far.max()).argmin(1)]
        return out

    def report_items(self, predictions: list[Any], refs: list[Any]) -> list[ReportItem]:
        hyps, told = generated(predictions, refs)
        right = hits(hyps, told)
        groups = [ref["composition"] for ref in told]
        grid = self.grid(hyps, told, right)
        return [*composition_exhibit("exact_match", right, groups), *grid, *super().report_items(predictions, refs)]

    def grid(self, hyps: list[str], refs: list[Any], right: list[float]) -> list[ReportItem]:
        """Pictures at even distances, not chosen by how well they went."""
        if self.pictures is None or not refs:
            return []
        items = []
        for place in spread(np.arange(len(refs)), SHOWN):
            hyp, ref, good = hyps[place], refs[place], bool(right[place])
            lines = [shorten(hyp)] if good else [f"written: {shorten(hyp)}", f"reference: {shorten(ref['targets'][0])}"]
            lines += [f"{ref['composition']} pairs"] if ref["composition"] else []
            items.append({"src": self.pictures.thumbnail(ref["image"]), "lines": lines, "good": good})
        return [{"kind": "images", "title": "Pictures and what was written about them", "columns": 4, "items": items}]


def demo(num_rows: int, seed: int, composition: Composition) -> list[Row]:
    """The world's rows in this task's word for the references."""
    rows = caption_rows(num_rows, seed, composition)
    return [{**{word: row[word] for word in row if word != "captions"}, "caption": row["captions"]} for row in rows]


def hits(hyps: Sequence[str], refs: list[Any]) -> list[float]:
    """1 where a text is one of its references, word for word."""
    return [
        float(hyp.strip() in {text.strip() for text in ref["targets"]}) for hyp, ref in zip(hyps, refs, strict=True)
    ]


def coarse(pictures: ImageStore, numbers: Sequence[int]) -> Tensor:
    """[N, 3 * COARSE * COARSE] mean colours of the cells of pictures, 0 to 1."""
    parts = [
        F.adaptive_avg_pool2d(pictures.pixels(numbers[start : start + AT_ONCE]).float() / 255, COARSE).flatten(1)
        for start in range(0, len(numbers), AT_ONCE)
    ]
    return torch.cat(parts)


TASK = Captioning
