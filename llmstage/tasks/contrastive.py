"""Contrastive image-text training (CLIP, SigLIP): image and caption of a pair get similar embeddings.

The other pairs of the batch are the negatives (models/contrastive_loss.py, training/batches.py).
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
from llmstage.evaluation.metrics.pair_ranks import merge_pairs, pair_scores
from llmstage.evaluation.metrics.retrieval import make_pools
from llmstage.evaluation.metrics.retrieval_baselines import pair_baselines
from llmstage.evaluation.metrics.retrieval_tables import pair_items
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
from llmstage.tasks.base_errors import ExampleErrors, errors_by_rank
from llmstage.tasks.base_image import ImageTask

INITIAL_TEMPERATURE = {"infonce": 0.07, "sigmoid": 0.1}
"""Initial temperatures of CLIP and SigLIP."""
RECORDED_KEYS = (
    "rank", "text_ranks", "similarity", "found_similarity", "pool", "label", "label_probability", "foils_beaten",
)  # fmt: skip
"""Keys of a prediction in predictions.jsonl, besides the retrieved caption; without the embeddings."""


class Contrastive(ImageTask):
    """An unchanged CLIPModel of transformers, plus the bias of the sigmoid loss. An example is one (image, caption) pair."""

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
    # With the full learning rate, two towers of width 128 collapsed: all embeddings equal, loss ln N.
    lr_share = 1 / 3
    demo_size: ClassVar[int] = 60_000
    target_columns = ("label",)
    route = "classify"
    embeds = True

    cfg: ContrastiveConfig

    def __init__(self, cfg: TaskConfig, generation: GenerationConfig) -> None:
        super().__init__(cfg, generation)
        self.classes: list[str] = []
        """Class names of zero-shot classification, if rows have a label."""
        self.biased = self.cfg.loss == "sigmoid"
        self._class_vectors: tuple[Any, Tensor] | None = None
        invalid = [template for template in self.cfg.templates if "{}" not in template]
        if invalid or not self.cfg.templates:
            reason = f"{invalid[0]!r} has no {{}}" if invalid else "there is none"
            raise UserError(
                f'task.templates: {reason}, but a template needs {{}} for the class name. For example task.templates=["a picture of {{}}"].'
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
            return "the row has neither a caption nor a label"
        captions = caption if isinstance(caption, list) else [] if caption is None else [caption]
        if caption is not None and not captions:
            return "caption is an empty list"
        if any(not isinstance(text, str) for text in captions):
            return "caption is not text"
        if any(not text.strip() for text in captions):
            return "caption is empty"
        if label is not None and (isinstance(label, (list, dict)) or not str(label).strip()):
            return f"label is not a class name: {label!r:.40}"
        foils = row.get("foils")
        if foils is not None and (
            not isinstance(foils, list) or any(not isinstance(foil, str) or not foil.strip() for foil in foils)
        ):
            return "foils is not a list of texts"
        return None

    def captions(self, row: Row) -> list[str]:
        """Return all captions of the image of a row; for a row with only a label, the first template with its name."""
        caption = row.get("caption")
        if caption is None:
            return [self.cfg.templates[0].replace("{}", str(row["label"]).strip())]
        return list(dict.fromkeys(caption)) if isinstance(caption, list) else [caption]

    def texts(self, row: Row) -> list[str]:
        return self.captions(row)

    def build_splits(
        self, sources: dict[str, RowSource], tables: dict[str, RowSource], data: DataConfig
    ) -> dict[str, RowSource]:
        """Collect the class names of all splits: in zero-shot classification they are the input, not the target."""
        names = {
            str(row["label"]).strip()
            for source in sources.values()
            if "label" in source.mapping
            for row, _ in source
            if row.get("label") is not None
        }
        self.classes = sorted({*self.classes, *names})
        return sources

    def load_config(self, config: Any) -> None:
        saved = getattr(config, "llmstage", None) or {}
        self.classes = sorted({*self.classes, *saved.get("classes", [])})
        self.biased = saved.get("loss", "infonce") == "sigmoid"

    def model_options(self) -> dict[str, Any]:
        temperature = (
            INITIAL_TEMPERATURE[self.cfg.loss] if self.cfg.temperature == "auto" else float(self.cfg.temperature)
        )
        return {
            "logit_scale_init_value": -math.log(temperature),
            "llmstage": {"classes": self.classes, "loss": "sigmoid" if self.biased else "infonce"},
        }

    def extra_module(self, config: Any) -> nn.Module | None:
        return PairBias() if self.biased else None

    def cache_key(self) -> dict[str, Any]:
        return {**super().cache_key(), "template": self.cfg.templates[0]}

    def encode(self, row: Row) -> list[Example]:
        captions, foils = self.captions(row), row.get("foils") or []
        image_arrays = self.image_arrays(row, captions)
        foil_ids = [self.processor.marked_ids(foil, None, self.context)[0] for foil in foils]
        ref: dict[str, Any] = {"picture": image_arrays["image"][0], "captions": captions}
        ref |= {column: str(row[column]).strip() for column in ("label", "composition", "language") if row.get(column)}
        if foils:
            ref["foils"] = foils
        examples = []
        for index, caption in enumerate(captions):
            ids, _, cut = self.processor.marked_ids(caption, None, self.context)
            # Foils belong to the first caption. All examples must have the same arrays, so the others have empty ones.
            caption_foils = foil_ids if index == 0 else []
            arrays = {
                "input_ids": ids,
                **image_arrays,
                "foils": [token for foil in caption_foils for token in foil],
                "foil_lengths": list(map(len, caption_foils)),
            }
            examples.append(Example(arrays, ref=ref | {"caption": index}, cut=cut))
        return examples

    def collate(self, rows: list[list[Example]]) -> Batch:
        examples = [row[0] for row in rows]
        inputs = {
            "input_ids": pad([example.input_ids for example in examples], self.processor.pad_id),
            "pixel_values": self.pixel_values(examples),
            "image_index": torch.tensor([example.arrays["image"][0] for example in examples]),
            "text_hash": torch.tensor([text_hash(example.input_ids) for example in examples]),
        }
        # Training does not read the foils.
        if examples[0].draw is None and any(example.arrays["foil_lengths"] for example in examples):
            inputs["foils"], inputs["num_foils"] = self.pad_foils([foils_of(example) for example in examples])
        return Batch(
            inputs,
            refs=[example.ref for example in examples],
            num_tokens=sum(len(example.input_ids) for example in examples),
        )

    def pad_foils(self, foils: list[list[list[int]]]) -> tuple[Tensor, Tensor]:
        """Return (ids [B, F, T] of the foils of each pair, their number [B])."""
        width = max(map(len, foils))
        length = max(len(ids) for row in foils for ids in row)
        padded = torch.full((len(foils), width, length), self.processor.pad_id)
        for index, row in enumerate(foils):
            for number, ids in enumerate(row):
                padded[index, number, : len(ids)] = torch.tensor(ids)
        return padded, torch.tensor([len(row) for row in foils])

    # training

    def embed(self, model: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        """Return the normalised embeddings (images [B, D], texts [B, D])."""
        return image_vectors(model, batch.inputs["pixel_values"]), text_vectors(model, batch.inputs["input_ids"])

    def pair_loss(self, model: nn.Module, embeddings: tuple[Tensor, ...], batches: Sequence[Batch]) -> LossSum:
        head: Any = model
        image_index, text_hashes = (
            torch.cat([batch.inputs[name] for batch in batches]) for name in ("image_index", "text_hash")
        )
        with torch.autocast(image_index.device.type, enabled=False):
            images, texts = embeddings
            pairs = gather_pairs(images, texts, image_index, text_hashes, mask=self.cfg.repeats == "mask")
            if self.cfg.loss == "sigmoid":
                total = sigmoid_loss(pairs, head.logit_scale, head.extra.bias)
            else:
                total = infonce(pairs, head.logit_scale)
        return LossSum(total, len(image_index), {"temperature": math.exp(-float(head.logit_scale.detach()))})

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
        """Return embeddings and classes of each pair; merge() computes the ranks, which need the whole split."""
        images, texts = self.embed(model, batch)
        scale = float(model.logit_scale.exp())  # type: ignore[operator]
        predictions: list[dict[str, Any]] = [
            {"image": image, "text": text, "scale": scale}
            for image, text in zip(images.tolist(), texts.tolist(), strict=True)
        ]
        if "foils" in batch.inputs:
            is_foil = (
                torch.arange(batch.inputs["foils"].shape[1], device=images.device) < batch.inputs["num_foils"][:, None]
            )
            pair_index = is_foil.nonzero()[:, 0]  # [number of foils] the pair of each foil
            foil_similarity = (text_vectors(model, batch.inputs["foils"][is_foil]) * images[pair_index]).sum(1)
            similarity = (texts * images).sum(1)
            for index, foil, correct in zip(
                pair_index.tolist(), foil_similarity.tolist(), similarity[pair_index].tolist(), strict=True
            ):
                predictions[index]["foils_beaten"] = predictions[index].get("foils_beaten", True) and correct > foil
        if self.classes:
            probabilities = (scale * images @ self.class_vectors(model).T).softmax(1).cpu()  # [B, C]
            for item, row_probabilities in zip(predictions, probabilities, strict=True):
                best = int(row_probabilities.argmax())
                item["label"], item["label_probability"] = self.classes[best], round(float(row_probabilities[best]), 6)
        return predictions

    def text_vectors(self, model: nn.Module, texts: Sequence[Sequence[int]]) -> Tensor:
        return text_vectors(model, pad(texts, self.processor.pad_id).to(next(model.parameters()).device))

    def class_vectors(self, model: nn.Module) -> Tensor:
        """Return the class embeddings [C, D], means over the templates; computed again only after a change of weights."""
        state = id(model), [parameter._version for parameter in model.parameters()]
        if self._class_vectors is None or self._class_vectors[0] != state:
            means = []
            for name in self.classes:
                prompts = [template.replace("{}", name) for template in self.cfg.templates]
                ids = [self.processor.marked_ids(text, None, self.context)[0] for text in prompts]
                device = next(model.parameters()).device
                means.append(text_vectors(model, pad(ids, self.processor.pad_id).to(device)).mean(0))
            self._class_vectors = state, unit(torch.stack(means))
        return self._class_vectors[1]

    def merge(self, predictions: list[Any], refs: list[Any], rows: list[int]) -> tuple[list[Any], list[Any], list[int]]:
        """Merge the pairs of each image, also those of several rows, and add the ranks in its pool."""
        return merge_pairs(predictions, refs, rows, self.cfg.pool)

    def dummy_target(self, row: Row) -> Row:
        return row if row.get("caption") is not None else row | {"caption": "?"}

    def to_response(self, predictions: list[Any], refs: list[Any]) -> dict[str, Any]:
        """Return the most probable known class, and the similarity of each caption of the row with the image."""
        similarities = [sum(map(float.__mul__, item["image"], item["text"])) for item in predictions]
        texts = refs[0]["captions"]
        response: dict[str, Any] = {
            "prediction": predictions[0].get("label", texts[similarities.index(max(similarities))])
        }
        if self.classes:
            response["probability"] = predictions[0]["label_probability"]
        if texts != ["?"]:
            response["similarities"] = dict(zip(texts, (round(value, 6) for value in similarities), strict=True))
        return response

    def score(self, predictions: list[Any], refs: list[Any]) -> dict[str, Score]:
        return pair_scores(predictions, refs, self.classes)

    def baselines(self, train: Iterable[Row], refs: list[Any]) -> dict[str, dict[str, Score]]:
        pools = make_pools([ref["captions"] for ref in refs], self.cfg.pool)
        train_pairs = ((row["image"], self.captions(row), row.get("label")) for row in train)
        return pair_baselines(train_pairs, refs, pools, self.image_store)

    def report_items(self, predictions: list[Any], refs: list[Any]) -> list[ReportItem]:
        return pair_items(predictions, refs, self.image_store, pair_scores(predictions, refs, self.classes))

    def errors(self, predictions: list[Any], refs: list[Any]) -> ExampleErrors:
        """Return the errors by the rank of the correct caption in the pool of the image."""
        return errors_by_rank(item.get("rank") for item in predictions)

    def records(self, prediction: Any, ref: Any) -> list[dict[str, Any]]:
        recorded = {name: prediction[name] for name in RECORDED_KEYS if name in prediction}
        inputs = {name: ref[name] for name in ("composition", "language") if name in ref}
        if "label" in ref:
            inputs["reference_label"] = ref["label"]
        return [{"prediction": prediction["found"], "reference": ref["captions"], **recorded, **inputs}]


def foils_of(example: Example) -> list[list[int]]:
    """Return the token ids of each foil of an example."""
    tokens, foils, start = example.arrays["foils"], [], 0
    for length in example.arrays["foil_lengths"]:
        foils.append(tokens[start : start + length])
        start += length
    return foils


def text_hash(ids: Sequence[int]) -> int:
    """Return a 63-bit hash of the token ids, to find equal texts in a batch."""
    text = ",".join(map(str, ids)).encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big") >> 1


TASK = Contrastive
