"""What the tasks share that read a text and write another: translation, summarization, answers to questions.

Features hold `input_ids` (what is read, then what is written) and `target` (0 and 1). A decoder sees them as one row, packed;
an encoder-decoder (kind t5) reads the first part and writes the second.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from llmstage.data.encoding.collate import labels_for, pack, pad
from llmstage.models.generation import cut_at_end, end_ids, generate_replies
from llmstage.models.lm_loss import sum_by_segment, token_losses
from llmstage.tasks.base import IGNORE_INDEX, Batch, Example, LossSum, Task


class Written(Task):
    """Loss on the written part alone; its text by the generation loop."""

    auto_model = "AutoModelForCausalLM"
    packs = True
    smoothing: float = 0.0
    """Share of the target's probability that is spread over the vocabulary in the training loss."""

    def set_model_family(self, kind: str) -> None:
        super().set_model_family(kind)
        if kind == "t5":
            self.auto_model, self.packs = "AutoModelForSeq2SeqLM", False

    def num_targets(self, features: Example) -> int:
        return sum(features.arrays["target"])

    def collate(self, rows: list[list[Example]]) -> Batch:
        refs = [features.ref for row in rows for features in row]
        if self.kind != "t5":
            packed = pack([[item.input_ids for item in row] for row in rows], self.processor.pad_id, causal=True)
            labels = labels_for([[labels_of(features) for features in row] for row in rows], IGNORE_INDEX)
            return Batch(packed.inputs, labels, refs, packed.segments, packed.num_tokens)
        halves = [split(features) for row in rows for features in row]
        inputs = {
            "input_ids": pad([source for source, _ in halves], self.processor.pad_id),  # [B, S]
            "attention_mask": pad([[1] * len(source) for source, _ in halves], 0),
        }
        labels = pad([[IGNORE_INDEX, *target] for _, target in halves], IGNORE_INDEX)  # [B, T], see token_losses
        owner = pad([[number] * (len(target) + 1) for number, (_, target) in enumerate(halves)], -1)
        return Batch(inputs, labels, refs, owner, sum(len(source) + len(target) for source, target in halves))

    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        assert batch.labels is not None
        losses = token_losses(model, batch.inputs, batch.labels, IGNORE_INDEX, self.smoothing)
        return LossSum(losses.nll.sum(), len(losses.nll))

    def predict(self, model: nn.Module, batch: Batch, *, generate: bool) -> list[Any]:
        """`nll`, `correct` and `tokens` of the reference; with `generate` also `text` and `ended`."""
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
        """The text for each source. Where every token of the target, its end included, is the likeliest one given the
        true ones before it, greedy decoding gives the target itself (by induction), and it need not be run."""
        assert batch.labels is not None and batch.segments is not None
        ends, greedy = end_ids(model), self.generation.temperature == 0 and self.generation.num_beams == 1
        ids, mask = batch.inputs["input_ids"].cpu(), batch.inputs.get("attention_mask")
        labels, owner = batch.labels.cpu(), batch.segments.cpu()
        prompts, places = [], []
        for number, item in enumerate(items):
            if not self.wants_text(batch.refs[number]):
                continue
            own = labels[owner == number]
            target = own[own != IGNORE_INDEX].tolist()
            said, ended = cut_at_end(target, ends)
            if greedy and ended and item["correct"] == item["tokens"] and len(said) < self.generation.max_new_tokens:
                item["text"], item["ended"] = self.processor.decode(said), True
                continue
            if self.kind == "t5":
                assert mask is not None
                prompts.append(ids[number][mask[number].cpu().bool()].tolist())
            else:
                prompts.append(ids[owner == number][: -len(target)].tolist())
            places.append(number)
        beside = self.beside(batch, places) if places else {}
        replies = generate_replies(model, self.processor, prompts, self.generation, beside=beside)
        for number, (text, ended) in zip(places, replies, strict=True):
            items[number]["text"], items[number]["ended"] = text, ended

    def wants_text(self, ref: Any) -> bool:
        """Whether a text is written for the feature with this ref, where texts are wanted."""
        return True

    def beside(self, batch: Batch, places: list[int]) -> dict[str, Tensor]:
        """What the model reads together with the prompts of these features of the batch, a row each."""
        return {}


def labels_of(features: Example) -> list[int]:
    """The ids that are written; IGNORE_INDEX where the model only reads."""
    pairs = zip(features.input_ids, features.arrays["target"], strict=True)
    return [token if wanted else IGNORE_INDEX for token, wanted in pairs]


def split(features: Example) -> tuple[list[int], list[int]]:
    """(what is read, what is written)"""
    at = len(features.input_ids) - sum(features.arrays["target"])
    return features.input_ids[:at], features.input_ids[at:]
