"""Images and texts in one space: each image is to be nearest to its own caption, and each caption to its image.

The batch is part of the objective: its other pairs are the negatives (models/contrastive.py, engine/cached.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from llmstage.config import GenerationConfig, TaskConfig
from llmstage.config.data import DataConfig
from llmstage.config.task import Contrastive as ContrastiveConfig
from llmstage.data.encoding.collate import pad
from llmstage.data.row_source import RowSource
from llmstage.data.rows import Columns, Row
from llmstage.demo.scenes import contrastive_rows
from llmstage.errors import UserError
from llmstage.evaluation.metrics.pair_ranks import pair_scores, placed
from llmstage.evaluation.metrics.retrieval import make_pools
from llmstage.evaluation.metrics.retrieval_baselines import pair_baselines
from llmstage.evaluation.metrics.retrieval_tables import pair_exhibits
from llmstage.evaluation.metrics.score import Score
from llmstage.models.contrastive_loss import (
    PairBias,
    chance_loss,
    gather_pairs,
    image_vectors,
    infonce,
    sigmoid_loss,
    text_vectors,
    unit,
)  # fmt: skip
from llmstage.tasks.base import Batch, Example, LossSum, ReportItem
from llmstage.tasks.base_errors import Errors, errors_by_rank
from llmstage.tasks.base_image import Seeing

START = {"infonce": 0.07, "sigmoid": 0.1}
"""Temperatures from which CLIP and SigLIP start."""
RECORDED = (
    "rank", "text_ranks", "similarity", "found_similarity", "pool", "label", "label_probability", "foils_beaten",
)  # fmt: skip
"""What predictions.jsonl tells of an image beside the caption found; vectors stay out."""


class Contrastive(Seeing):
    """transformers' CLIPModel as it is; the sigmoid loss's bias lies beside it. One feature is one (image, caption) pair."""

    columns = Columns(
        ("image",),
        optional=("caption", "label", "foils", "composition", "language"),
        content=("image",),
        either=(("caption",), ("label",)),
        images=("image",),
    )
    auto_model = "AutoModel"
    pipeline_tag = "zero-shot-image-classification"
    additive_loss = False
    by_length = False
    lr_share = (
        1 / 3
    )  # at the whole of it two towers of width 128 collapsed: every image and every text alike, loss ln N
    demo_size: ClassVar[int] = 60_000
    target_columns = ("label",)
    route = "classify"
    embeds = True

    cfg: ContrastiveConfig

    def __init__(self, cfg: TaskConfig, generation: GenerationConfig) -> None:
        super().__init__(cfg, generation)
        self.classes: list[str] = []
        """Class names among which an image is put, where rows have a label."""
        self.biased = self.cfg.loss == "sigmoid"
        self._class_vectors: tuple[Any, Tensor] | None = None
        wrong = [template for template in self.cfg.templates if "{}" not in template]
        if wrong or not self.cfg.templates:
            shown = f"{wrong[0]!r} has no {{}}" if wrong else "there is none"
            raise UserError(
                f'task.templates: {shown}, so a class name has no place. For example task.templates=["a picture of {{}}"].'
            )

    def demo_rows(self, num_rows: int, seed: int) -> list[Row]:
        return contrastive_rows(num_rows, seed, "seen")

    def demo_test_rows(self, num_rows: int, seed: int) -> list[Row]:
        return contrastive_rows(num_rows, seed, "both")

    # rows

    def check_row(self, row: Row) -> str | None:
        if not isinstance(row["image"], str) or not row["image"].strip():
            return "image is empty"
        caption, label = row.get("caption"), row.get("label")
        if caption is None and label is None:
            return "there is neither a caption nor a label"
        captions = caption if isinstance(caption, list) else [] if caption is None else [caption]
        if caption is not None and not captions:
            return "caption is an empty list"
        if any(not isinstance(text, str) for text in captions):
            return "caption is not text"
        if any(not text.strip() for text in captions):
            return "caption is empty"
        if label is not None and (isinstance(label, (list, dict)) or not str(label).strip()):
            return f"label is no class name: {label!r:.40}"
        foils = row.get("foils")
        if foils is not None and (
            not isinstance(foils, list) or any(not isinstance(foil, str) or not foil.strip() for foil in foils)
        ):
            return "foils is not a list of texts"
        return None

    def captions(self, row: Row) -> list[str]:
        """All texts that are right of the row's image; of a row with a label alone, the first template."""
        caption = row.get("caption")
        if caption is None:
            return [self.cfg.templates[0].replace("{}", str(row["label"]).strip())]
        return list(dict.fromkeys(caption)) if isinstance(caption, list) else [caption]

    def texts(self, row: Row) -> list[str]:
        return self.captions(row)

    def build_splits(
        self, sources: dict[str, RowSource], tables: dict[str, RowSource], data: DataConfig
    ) -> dict[str, RowSource]:
        """The class names of zero-shot classification are those of all splits: they are the question, not the answer."""
        found = {
            str(row["label"]).strip()
            for source in sources.values()
            if "label" in source.mapping
            for row, _ in source
            if row.get("label") is not None
        }
        self.classes = sorted({*self.classes, *found})
        return sources

    def load_config(self, config: Any) -> None:
        saved = getattr(config, "llmstage", None) or {}
        self.classes = sorted({*self.classes, *saved.get("classes", [])})
        self.biased = saved.get("loss", "infonce") == "sigmoid"

    def model_options(self) -> dict[str, Any]:
        start = START[self.cfg.loss] if self.cfg.temperature == "auto" else float(self.cfg.temperature)
        return {
            "logit_scale_init_value": -math.log(start),
            "llmstage": {"classes": self.classes, "loss": "sigmoid" if self.biased else "infonce"},
        }

    def extra_module(self, config: Any) -> nn.Module | None:
        return PairBias() if self.biased else None

    def cache_key(self) -> dict[str, Any]:
        return {**super().cache_key(), "template": self.cfg.templates[0]}

    def encode(self, row: Row) -> list[Example]:
        captions, foils = self.captions(row), row.get("foils") or []
        sight = self.sight(row, captions)
        wrong = [self.processor.marked_ids(foil, None, self.context)[0] for foil in foils]
        ref: dict[str, Any] = {"picture": sight["image"][0], "captions": captions}
        ref |= {word: str(row[word]).strip() for word in ("label", "composition", "language") if row.get(word)}
        if foils:
            ref["foils"] = foils
        made = []
        for place, caption in enumerate(captions):
            ids, _, cut = self.processor.marked_ids(caption, None, self.context)
            # Wrong captions stand beside the first right one; every feature has the arrays, most of them empty.
            told = wrong if place == 0 else []
            arrays = {
                "input_ids": ids,
                **sight,
                "foils": [token for foil in told for token in foil],
                "foil_lengths": list(map(len, told)),
            }
            made.append(Example(arrays, ref=ref | {"caption": place}, cut=cut))
        return made

    def collate(self, rows: list[list[Example]]) -> Batch:
        features = [row[0] for row in rows]
        inputs = {
            "input_ids": pad([item.input_ids for item in features], self.processor.pad_id),
            "pixel_values": self.pixel_values(features),
            "picture": torch.tensor([item.arrays["image"][0] for item in features]),
            "words": torch.tensor([number_of(item.input_ids) for item in features]),
        }
        if features[0].draw is None and any(item.arrays["foil_lengths"] for item in features):  # not in training
            foils = [ids for item in features for ids in foils_of(item)]
            inputs["foils"] = pad(foils, self.processor.pad_id)
            inputs["foil_of"] = torch.tensor([place for place, item in enumerate(features) for _ in foils_of(item)])
        return Batch(
            inputs,
            refs=[item.ref for item in features],
            num_tokens=sum(len(item.input_ids) for item in features),
        )

    # training

    def embed(self, model: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        """(images [B, D], texts [B, D]), of length 1."""
        return image_vectors(model, batch.inputs["pixel_values"]), text_vectors(model, batch.inputs["input_ids"])

    def pair_loss(self, model: nn.Module, embeddings: tuple[Tensor, ...], batches: Sequence[Batch]) -> LossSum:
        head: Any = model
        picture, words = (torch.cat([batch.inputs[name] for batch in batches]) for name in ("picture", "words"))
        with torch.autocast(picture.device.type, enabled=False):
            images, texts = embeddings
            pairs = gather_pairs(images, texts, picture, words, mask=self.cfg.repeats == "mask")
            if self.cfg.loss == "sigmoid":
                total = sigmoid_loss(pairs, head.logit_scale, head.extra.bias)
            else:
                total = infonce(pairs, head.logit_scale)
        return LossSum(total, len(picture), {"temperature": math.exp(-float(head.logit_scale.detach()))})

    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        return self.pair_loss(model, self.embed(model, batch), [batch])

    def chance_loss(self, num_rows: int) -> float | None:
        return chance_loss(num_rows, self.cfg.loss)

    def after_step(self, model: nn.Module) -> None:
        head: Any = model
        with torch.no_grad():
            head.logit_scale.clamp_(0.0, -math.log(self.cfg.min_temperature))

    # scoring

    def predict(self, model: nn.Module, batch: Batch, *, generate: bool) -> list[Any]:
        """What a pair says of itself; who is near to whom is told by merge(), which sees all of a split."""
        images, texts = self.embed(model, batch)
        scale = float(model.logit_scale.exp())  # type: ignore[operator]
        found: list[dict[str, Any]] = [
            {"image": image, "text": text, "scale": scale}
            for image, text in zip(images.tolist(), texts.tolist(), strict=True)
        ]
        if "foils" in batch.inputs:
            of = batch.inputs["foil_of"]
            wrong = (text_vectors(model, batch.inputs["foils"]) * images[of]).sum(1)
            right = (texts * images).sum(1)
            for place, near, own in zip(of.tolist(), wrong.tolist(), right[of].tolist(), strict=True):
                found[place]["foils_beaten"] = found[place].get("foils_beaten", True) and own > near
        if self.classes:
            chances = (scale * images @ self.class_vectors(model).T).softmax(1).cpu()  # [B, C]
            for item, row in zip(found, chances, strict=True):
                best = int(row.argmax())
                item["label"], item["label_probability"] = self.classes[best], round(float(row[best]), 6)
        return found

    def text_vectors(self, model: nn.Module, texts: Sequence[Sequence[int]]) -> Tensor:
        return text_vectors(model, pad(texts, self.processor.pad_id).to(next(model.parameters()).device))

    def class_vectors(self, model: nn.Module) -> Tensor:
        """[C, D]: the mean over the templates of each class name, computed once for the same weights."""
        state = id(model), [parameter._version for parameter in model.parameters()]
        if self._class_vectors is None or self._class_vectors[0] != state:
            means = []
            for name in self.classes:
                said = [template.replace("{}", name) for template in self.cfg.templates]
                ids = [self.processor.marked_ids(text, None, self.context)[0] for text in said]
                device = next(model.parameters()).device
                means.append(text_vectors(model, pad(ids, self.processor.pad_id).to(device)).mean(0))
            self._class_vectors = state, unit(torch.stack(means))
        return self._class_vectors[1]

    def merge(self, predictions: list[Any], refs: list[Any], rows: list[int]) -> tuple[list[Any], list[Any], list[int]]:
        """One item an image: its captions brought together, also those of other rows, and all ranks told."""
        return placed(predictions, refs, rows, self.cfg.pool)

    def dummy_target(self, row: Row) -> Row:
        return row if row.get("caption") is not None else row | {"caption": "?"}

    def to_response(self, predictions: list[Any], refs: list[Any]) -> dict[str, Any]:
        """The class among those that the model knows, and how near each caption of the row's own is to its image."""
        near = [sum(map(float.__mul__, item["image"], item["text"])) for item in predictions]
        texts = refs[0]["captions"]
        told: dict[str, Any] = {"prediction": predictions[0].get("label", texts[near.index(max(near))])}
        if self.classes:
            told["probability"] = predictions[0]["label_probability"]
        if texts != ["?"]:
            told["similarities"] = dict(zip(texts, (round(value, 6) for value in near), strict=True))
        return told

    def score(self, predictions: list[Any], refs: list[Any]) -> dict[str, Score]:
        return pair_scores(predictions, refs, self.classes)

    def baselines(self, train: Iterable[Row], refs: list[Any]) -> dict[str, dict[str, Score]]:
        pools = make_pools([ref["captions"] for ref in refs], self.cfg.pool)
        seen = ((row["image"], self.captions(row), row.get("label")) for row in train)
        return pair_baselines(seen, refs, pools, self.pictures)

    def report_items(self, predictions: list[Any], refs: list[Any]) -> list[ReportItem]:
        return pair_exhibits(predictions, refs, self.pictures, pair_scores(predictions, refs, self.classes))

    def errors(self, predictions: list[Any], refs: list[Any]) -> Errors:
        """Of the rank of an image's own caption in its pool."""
        return errors_by_rank(item.get("rank") for item in predictions)

    def records(self, prediction: Any, ref: Any) -> list[dict[str, Any]]:
        shown = {name: prediction[name] for name in RECORDED if name in prediction}
        told = {name: ref[name] for name in ("composition", "language") if name in ref}
        if "label" in ref:
            told["reference_label"] = ref["label"]
        return [{"prediction": prediction["found"], "reference": ref["captions"], **shown, **told}]


def foils_of(features: Example) -> list[list[int]]:
    tokens, out, start = features.arrays["foils"], [], 0
    for length in features.arrays["foil_lengths"]:
        out.append(tokens[start : start + length])
        start += length
    return out


def number_of(ids: Sequence[int]) -> int:
    """A number that only the same tokens have (63 bits): texts that the model cannot tell apart are the same."""
    told = ",".join(map(str, ids)).encode()
    return int.from_bytes(blake2b(told, digest_size=8).digest(), "big") >> 1


TASK = Contrastive
