"""The base class of tasks that read a text and generate another: translation, summarization, answers to questions.

Examples have `input_ids` (the source, then the target) and `target` (1 for target tokens, else 0). A decoder reads both as one
sequence, packed; an encoder-decoder (model family t5) reads the source and generates the target.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from llmstage.data.encoding.collate import labels_for, pack, pad
from llmstage.models.generation import cut_at_end, end_ids, generate_replies
from llmstage.models.lm_loss import sum_by_segment, token_losses
from llmstage.tasks.base import IGNORE_INDEX, Batch, Example, LossSum, Task


class GenerationTask(Task):
    """The loss is over target tokens only; models/generation.py generates the text."""

    auto_model = "AutoModelForCausalLM"
    packs = True
    smoothing: float = 0.0
    """Label smoothing of the training loss."""

    def set_model_family(self, model_family: str) -> None:
        super().set_model_family(model_family)
        if model_family == "t5":
            self.auto_model, self.packs = "AutoModelForSeq2SeqLM", False

    def num_targets(self, example: Example) -> int:
        return sum(example.arrays["target"])

    def collate(self, rows: list[list[Example]]) -> Batch:
        refs = [example.ref for row in rows for example in row]
        if self.model_family != "t5":
            packed = pack([[example.input_ids for example in row] for row in rows], self.processor.pad_id, causal=True)
            labels = labels_for([[labels_of(example) for example in row] for row in rows], IGNORE_INDEX)
            return Batch(packed.inputs, labels, refs, packed.segments, packed.num_tokens)
        pairs = [split(example) for row in rows for example in row]
        inputs = {
            "input_ids": pad([source for source, _ in pairs], self.processor.pad_id),  # [B, S]
            "attention_mask": pad([[1] * len(source) for source, _ in pairs], 0),
        }
        labels = pad([[IGNORE_INDEX, *target] for _, target in pairs], IGNORE_INDEX)  # [B, T], see token_losses
        segments = pad([[number] * (len(target) + 1) for number, (_, target) in enumerate(pairs)], -1)
        return Batch(inputs, labels, refs, segments, sum(len(source) + len(target) for source, target in pairs))

    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        assert batch.labels is not None
        losses = token_losses(model, batch.inputs, batch.labels, IGNORE_INDEX, self.smoothing)
        return LossSum(losses.nll.sum(), len(losses.nll))

    def predict(self, model: nn.Module, batch: Batch, *, generate: bool) -> list[Any]:
        """Return `nll`, `correct` and `tokens` of the reference; with `generate` also `text` and `ended`."""
        assert batch.labels is not None and batch.segments is not None
        losses = token_losses(model, batch.inputs, batch.labels, IGNORE_INDEX)
        nll, correct, tokens = (
            sum_by_segment(values, losses.where, batch.segments, len(batch.refs))
            for values in (losses.nll, losses.correct, losses.correct | True)
        )
        items = [{"nll": a, "correct": int(b), "tokens": int(c)} for a, b, c in zip(nll, correct, tokens, strict=True)]
        if generate:
            self._write(model, batch, items)
        return items

    def _write(self, model: nn.Module, batch: Batch, items: list[dict[str, Any]]) -> None:
        """Add the generated text of each source to its item.

        If each token of the target, its end included, is the most probable one after the true tokens before it, greedy decoding
        gives the target (by induction), and generation is skipped.
        """
        assert batch.labels is not None and batch.segments is not None
        ends, greedy = end_ids(model), self.generation.temperature == 0 and self.generation.num_beams == 1
        ids, mask = batch.inputs["input_ids"].cpu(), batch.inputs.get("attention_mask")
        labels, segments = batch.labels.cpu(), batch.segments.cpu()
        prompts, numbers = [], []
        # Decide for each example whether it must be generated, and collect the prompts.
        for number, item in enumerate(items):
            if not self.generates_text(batch.refs[number]):
                continue
            row_labels = labels[segments == number]
            target = row_labels[row_labels != IGNORE_INDEX].tolist()
            text_ids, ended = cut_at_end(target, ends)
            if (
                greedy
                and ended
                and item["correct"] == item["tokens"]
                and len(text_ids) < self.generation.max_new_tokens
            ):
                item["text"], item["ended"] = self.processor.decode(text_ids), True
                continue
            # The prompt is the source: the encoder input, or the ids before the target.
            if self.model_family == "t5":
                assert mask is not None
                prompts.append(ids[number][mask[number].cpu().bool()].tolist())
            else:
                prompts.append(ids[segments == number][: -len(target)].tolist())
            numbers.append(number)
        extra_inputs = self.extra_inputs(batch, numbers) if numbers else {}
        replies = generate_replies(model, self.processor, prompts, self.generation, model_inputs=extra_inputs)
        for number, (text, ended) in zip(numbers, replies, strict=True):
            items[number]["text"], items[number]["ended"] = text, ended

    def generates_text(self, ref: Any) -> bool:
        """Return whether to generate a text for the example with this ref, if predict() generates."""
        return True

    def extra_inputs(self, batch: Batch, numbers: list[int]) -> dict[str, Tensor]:
        """Return further inputs of the model for the prompts of these examples of the batch, e.g. their images."""
        return {}


def labels_of(example: Example) -> list[int]:
    """Return the labels: target ids, and IGNORE_INDEX for source tokens."""
    pairs = zip(example.input_ids, example.arrays["target"], strict=True)
    return [token if is_target else IGNORE_INDEX for token, is_target in pairs]


def split(example: Example) -> tuple[list[int], list[int]]:
    """Return (source ids, target ids)."""
    start = len(example.input_ids) - sum(example.arrays["target"])
    return example.input_ids[:start], example.input_ids[start:]
