"""Base classes of tasks that read an image: alone or with a caption (contrastive), or with a prompt and a generated text.

Examples contain the index of the image in the image store; collate() adds the pixels to the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from llmstage.data.augment import augment, mentions_sides
from llmstage.data.images import BadImage
from llmstage.data.rows import Row
from llmstage.tasks.base import Batch, Example, RowError, Task
from llmstage.tasks.base_generation import GenerationTask
from llmstage.tokenization.chat_template import TemplateRefused, encode_exchanges


class ImageTask(Task):
    """Rows have one `image`. Examples have `image` [1], its index in the image store, and `mirror` [1], whether augmentation
    may mirror it."""

    def images(self, row: Row) -> list[str]:
        return [row["image"]]

    def image_arrays(self, row: Row, texts: Sequence[str]) -> dict[str, list[Any]]:
        """Return the arrays of the image of a row. Raise RowError for an unusable image.

        `texts`: all texts about the image; one that contains `left` or `right` forbids mirroring.
        """
        assert self.image_store is not None
        try:
            index = self.image_store.index(row["image"])
        except BadImage as error:
            raise RowError(str(error)) from None
        return {"image": [index], "mirror": [int(not mentions_sides(texts))]}

    def cache_key(self) -> dict[str, Any]:
        return {"pictures": self.image_store.digest if self.image_store is not None else ""}

    def image_index(self, example: Example) -> int | None:
        # A control run without the image has no image in its examples.
        return int(example.arrays["image"][0]) if "image" in example.arrays else None

    def pixel_values(self, examples: Sequence[Example]) -> Tensor:
        """Return the normalised images, float32 [B, 3, H, W], with random augmentation in training if the config says so."""
        assert self.image_store is not None
        pixels = self.image_store.pixels([example.arrays["image"][0] for example in examples])
        config = self.augment
        if config is not None and (config.crop < 1 or config.flip):
            images = []
            for example, image in zip(examples, pixels, strict=True):
                mirror = config.flip and bool(example.arrays["mirror"][0])
                images.append(
                    image if example.draw is None else augment(image, example.draw, crop=config.crop, mirror=mirror)
                )
            pixels = torch.stack(images)
        return self.image_store.normalized(pixels)


class ImageTextTask(ImageTask, GenerationTask):
    """A user turn with image and prompt, and an assistant turn with the text to generate, by the chat template of the model.

    The text and the end of the turn are targets; the positions of the image patches never are. Examples have `input_ids`,
    `target` (0 and 1), and `image` and `mirror` [1] unless the task is blind. Several examples may share a packed row; the
    images of a batch are in reading order, as LLaVA expects.
    """

    auto_model = "AutoModelForImageTextToText"
    pipeline_tag = "image-text-to-text"
    packs = True
    by_character = True
    # Questions of equal length often have the same type, and a batch of one question type biases the update.
    by_length = False
    # With the learning rate of a text model of the same width, the loss of a new model with a vision tower had spikes.
    lr_share = 1 / 3

    blind: bool = False
    """Leave the image out, to measure what the prompt alone reveals."""

    def check_row(self, row: Row) -> str | None:
        if not isinstance(row["image"], str) or not row["image"].strip():
            return "image is not the path of an image"
        if row.get("prompt") is not None and not isinstance(row["prompt"], str):
            return "prompt is not text"
        return None

    def cache_key(self) -> dict[str, Any]:
        vision = self.processor.vision
        return {**super().cache_key(), "blind": self.blind, "tokens": vision.tokens if vision else 0}

    def exchanges(self, pairs: list[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
        """Return (prompt ids, reply ids) of prompts with an image and texts, one image token for each image patch.

        Raise RowError where the chat template refuses them.
        """
        assert self.processor.vision is not None
        image: list[dict[str, Any]] = [] if self.blind else [{"type": "image"}]
        contents = [
            ([*image, {"type": "text", "text": prompt}], [{"type": "text", "text": text}]) for prompt, text in pairs
        ]
        try:
            encoded = encode_exchanges(self.processor, contents)
        except TemplateRefused as error:
            raise RowError(str(error)) from None
        image_ids = [self.processor.image_id] * self.processor.vision.tokens
        return [
            (
                [part for token in item.prompt for part in (image_ids if token == image_ids[0] else [token])],
                item.reply + item.end,
            )
            for item in encoded
        ]

    def encode_text(self, row: Row, prompt: str, text: str, ref: Any, all_texts: list[str]) -> Example:
        """Return the example of an image, a prompt and the text to generate. Raise RowError for an unusable image.

        If both are too long, first the prompt loses its end, then the text. `all_texts`: all texts of the row about the image.
        """
        ((source, target),) = self.exchanges([(prompt, text)])
        num_cut = 0
        if len(source) + len(target) > self.context:
            offsets = self.processor.plain_offsets([prompt])[0][1]
            num_cut = min(len(offsets), len(source) + len(target) - self.context)
            last = len(offsets) - num_cut
            ((source, target),) = self.exchanges([(prompt[: offsets[last - 1][1]] if last else "", text)])
        num_lost = min(len(target), max(0, len(source) + len(target) - self.context))
        target = target[: len(target) - num_lost]
        arrays: dict[str, list[Any]] = {
            "input_ids": [*source, *target],
            "target": [0] * len(source) + [1] * len(target),
        }
        image_arrays = self.image_arrays(row, all_texts)  # also if blind, so that both runs refuse the same rows
        if not self.blind:
            arrays |= image_arrays
        return Example(
            arrays,
            ref=ref,
            cut=num_cut + num_lost,
            cut_targets=num_lost,
            lost_end=num_lost > 0,
        )

    def collate(self, rows: list[list[Example]]) -> Batch:
        batch = super().collate(rows)
        if not self.blind:
            batch.inputs["pixel_values"] = self.pixel_values(
                [example for row in rows for example in row]
            )  # [B, 3, H, W]
        return batch

    def extra_inputs(self, batch: Batch, numbers: list[int]) -> dict[str, Tensor]:
        return {} if self.blind else {"pixel_values": batch.inputs["pixel_values"][numbers]}
