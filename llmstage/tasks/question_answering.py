"""Question answering about a context: an encoder predicts the span of the answer, or a decoder generates the answer."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from llmstage import console
from llmstage.config import GenerationConfig
from llmstage.config.task import QuestionAnswering as QuestionAnsweringConfig
from llmstage.data.encoding.collate import pad
from llmstage.data.question_rows import (
    MATCHES,
    BadAnswer,
    OverlapBaselines,
    answers_of,
    excerpt,
    overlap_features,
    question_word,
    text_at,
    texts_of,
)
from llmstage.data.rows import Columns, Row
from llmstage.demo.questions import question_rows
from llmstage.evaluation.metrics.answers import (
    answer_scores,
    answer_tables,
    best_of_first_spans,
    best_threshold,
    exact_and_f1,
)
from llmstage.evaluation.metrics.language_model import language_model_scores
from llmstage.evaluation.metrics.score import Score
from llmstage.models.answer_spans import (
    Window,
    confidences,
    context_windows,
    merge_windows,
    read_spans,
    span_logits,
    written_answer_ids,
)
from llmstage.tasks.base import Batch, Example, LossSum, ReportItem, RowError, Task
from llmstage.tasks.base_errors import ExampleErrors, errors_by_text, token_nats
from llmstage.tasks.base_generation import GenerationTask


class QuestionAnswering(Task):
    """Base class of both styles: rows, scores, baselines, report tables."""

    columns = Columns(
        required=("question", "context", "answers"),
        optional=("answer_start", "is_impossible", "id", "title"),
        content=("question", "context"),
    )
    target_columns = ("answers", "answer_start", "is_impossible")
    reference_columns = ("reference", "correct", "f1", "log_probability")
    route = "answer"
    demo_size = 6000

    cfg: QuestionAnsweringConfig
    has_unanswerable: bool = False
    """Whether some questions have no answer, so that the answer may be empty."""

    def demo_rows(self, num_rows: int, seed: int) -> list[Row]:
        return question_rows(num_rows, seed, unanswerable=self.cfg.unanswerable is True)

    def check_row(self, row: Row) -> str | None:
        for column in ("question", "context"):
            if not isinstance(row[column], str) or not row[column].strip():
                return f"{column} is empty" if isinstance(row[column], str) else f"{column} is not text"
        try:
            answers = answers_of(row)
        except BadAnswer as error:
            return str(error)
        if not answers and self.cfg.unanswerable is False:
            return "the question has no answer, but task.unanswerable=false"
        return None

    def texts(self, row: Row) -> list[str]:
        return [row["question"], row["context"]]

    def dummy_target(self, row: Row) -> Row:
        return row | {"answers": str(row.get("context")).strip()[:1]}

    def fit_labels(self, rows: Iterable[Row]) -> None:
        """Find out whether there are questions without an answer; print a note about ambiguous answer positions."""
        has_unanswerable, num_ambiguous = False, 0
        for row in rows:
            answers = answers_of(row)
            has_unanswerable = has_unanswerable or not answers
            num_ambiguous += any(answer.occurrences > 1 for answer in answers)
        self.has_unanswerable = has_unanswerable if self.cfg.unanswerable == "auto" else self.cfg.unanswerable
        if num_ambiguous:
            console.note(
                f"train: {num_ambiguous} answers without answer_start occur more than once; the first occurrence is used"
            )

    def load_config(self, config: Any) -> None:
        saved = getattr(config, "llmstage", None) or {}
        self.has_unanswerable = bool(saved.get("unanswerable", self.cfg.unanswerable is True))

    def model_options(self) -> dict[str, Any]:
        return {"llmstage": {"unanswerable": self.has_unanswerable}}

    def ref_of(self, row: Row) -> dict[str, Any]:
        answers = answers_of(row)
        names = {name: row[name] for name in ("id", "title") if row.get(name) not in (None, "")}
        answer_dicts = [
            {"text": answer.text, "start": answer.start, "places": answer.occurrences} for answer in answers
        ]
        return {**names, "question": row["question"], "context": row["context"], "answers": answer_dicts}

    @abstractmethod
    def answer(self, prediction: Any, ref: Any) -> str | None:
        """Return the answer as text, empty for no answer; None without a generated text."""

    def pairs(self, predictions: list[Any], refs: list[Any]) -> tuple[list[str], list[Any]]:
        """Return (answers, refs) of the rows for which answer() is not None."""
        pairs = [(self.answer(prediction, ref), ref) for prediction, ref in zip(predictions, refs, strict=True)]
        return [answer for answer, _ in pairs if answer is not None], [
            ref for answer, ref in pairs if answer is not None
        ]

    def score(self, predictions: list[Any], refs: list[Any]) -> dict[str, Score]:
        answers, answered_refs = self.pairs(predictions, refs)
        return answer_scores(answers, [texts_of(ref) for ref in answered_refs]) if answers else {}

    def errors(self, predictions: list[Any], refs: list[Any]) -> ExampleErrors:
        answers = [self.answer(*pair) for pair in zip(predictions, refs, strict=True)]
        errors = errors_by_text(answers, [texts_of(ref) for ref in refs])
        if all("nll" in item for item in predictions):  # written, not pointed at
            errors.nats = token_nats([item["nll"] for item in predictions], [item["tokens"] for item in predictions])
        return errors

    def baselines(self, train: Iterable[Row], refs: list[Any]) -> dict[str, dict[str, Score]]:
        """Return scores of the first sentence, and of the sentence and span with most words of the question.

        If some questions have no answer, also of the constant empty answer.
        """
        references = [texts_of(ref) for ref in refs]
        scores = {
            name: answer_scores([method(ref["question"], ref["context"]) for ref in refs], references)
            for name, method in OverlapBaselines(train).methods().items()
        }
        return scores | ({} if all(references) else {"never an answer": answer_scores([""] * len(refs), references)})

    def report_items(self, predictions: list[Any], refs: list[Any]) -> list[ReportItem]:
        answers, answered_refs = self.pairs(predictions, refs)
        question_words = [question_word(ref["question"]) for ref in answered_refs]
        context_lengths = [len(ref["context"]) for ref in answered_refs]
        num_ambiguous = sum(answer["places"] > 1 for ref in answered_refs for answer in ref["answers"])
        return answer_tables(
            answers, [texts_of(ref) for ref in answered_refs], question_words, context_lengths, num_ambiguous
        )

    def record(self, answer: str | None, ref: Any, start: int | None, end: int | None) -> dict[str, Any]:
        """Return the keys of predictions.jsonl of both styles. `start` and `end`: the answer's position in the context."""
        names = {f"question_{name}" if name == "id" else name: ref[name] for name in ("id", "title") if name in ref}
        scored: dict[str, Any] = {"prediction": answer, "reference": texts_of(ref)}
        if answer is not None:
            exact, f1 = exact_and_f1(answer, texts_of(ref))
            scored |= {"correct": exact, "f1": round(f1, 4)}
        return {**names, **scored, "question": ref["question"], "context": excerpt(ref["context"], start, end)}


class Extractive(QuestionAnswering):
    """A long context is split into windows; the target of a window without the complete answer is "no answer here"."""

    auto_model = "AutoModelForQuestionAnswering"
    pipeline_tag = "question-answering"
    by_character = True

    threshold: float = 0.0
    """The answer is empty if the score of no answer exceeds that of the best span by more than this (nats)."""
    match_features: bool

    def __init__(self, cfg: QuestionAnsweringConfig, generation: GenerationConfig) -> None:
        super().__init__(cfg, generation)
        self.match_features = cfg.match_features
        self._windows = lru_cache(512)(self._windows_of)

    @property
    def needs_tuning(self) -> bool:  # type: ignore[override]
        return self.has_unanswerable

    def load_config(self, config: Any) -> None:
        super().load_config(config)
        saved = getattr(config, "llmstage", None) or {}
        self.threshold = float(saved.get("null_threshold", 0.0))
        self.match_features = bool(saved.get("match_features", False))

    def model_options(self) -> dict[str, Any]:
        options = {
            "unanswerable": self.has_unanswerable,
            "null_threshold": self.threshold,
            "match_features": self.match_features,
        }
        return {"num_labels": 2, "llmstage": options}

    def extra_module(self, config: Any) -> nn.Module | None:
        if not self.match_features:
            return None
        layer = nn.Linear(len(MATCHES), config.hidden_size, bias=False)
        nn.init.normal_(layer.weight, std=getattr(config, "initializer_range", 0.02))  # the scale of an embedding
        return layer

    def cache_key(self) -> dict[str, Any]:
        return {"style": "extract", "stride": self.cfg.stride, "matching": self.match_features}

    def _windows_of(self, question: str, context: str) -> tuple[list[Window], int]:
        return context_windows(self.processor, question, context, self.context, self.cfg.stride)

    def encode(self, row: Row) -> list[Example]:
        ref = self.ref_of(row)
        windows, cut = self._windows(row["question"], row["context"])
        answers = [(answer["start"], answer["start"] + len(answer["text"])) for answer in ref["answers"]]
        examples = []
        for number, window in enumerate(windows):
            spans = (window.tokens_of(*answer) for answer in answers)
            start, end = next((span for span in spans if span is not None), (window.none, window.none))
            arrays: dict[str, list[Any]] = {"input_ids": window.ids}
            arrays["place"] = [window.none, window.first, window.stop, start, end]
            if "token_type_ids" in self.processor.tokenizer.model_input_names:
                arrays["token_type_ids"] = window.types
            if self.match_features:
                arrays |= overlap_features(
                    row["question"], row["context"], window.offsets, window.first, len(window.ids)
                )
            examples.append(Example(arrays, ref={**ref, "window": number}))
        examples[0].cut = cut
        with_answer = [example for example in examples if example.arrays["place"][3] != example.arrays["place"][0]]
        if answers and not with_answer:  # an answer at a window border that is longer than the overlap
            examples[0].cut_targets = 1
        return examples

    def collate(self, rows: list[list[Example]]) -> Batch:
        examples = [row[0] for row in rows]
        lengths = torch.tensor([len(example.input_ids) for example in examples])
        ids = pad([example.input_ids for example in examples], self.processor.pad_id)
        position = torch.arange(ids.shape[1])[None]
        inputs = {"input_ids": ids, "attention_mask": (position < lengths[:, None]).long()}
        if "token_type_ids" in examples[0].arrays:
            inputs["token_type_ids"] = pad([example.arrays["token_type_ids"] for example in examples], 0)
        if self.match_features:
            match_arrays = [pad([example.arrays[name] for example in examples], 0, torch.float32) for name in MATCHES]
            inputs["matches"] = torch.stack(match_arrays, -1)  # [B, T, 3]
        positions = torch.tensor([example.arrays["place"] for example in examples])  # [B, 5]
        none, first, stop = positions[:, :3, None].unbind(1)  # [B, 1] each
        inputs["inside"] = (position >= first) & (position < stop)  # [B, T] tokens of the context
        inputs["legal"] = inputs["inside"] | (position == none)
        return Batch(inputs, positions[:, 3:], [example.ref for example in examples], num_tokens=int(lengths.sum()))

    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        """Return the mean of the cross-entropies of start and end, as in transformers."""
        assert batch.labels is not None
        start, end = span_logits(model, batch.inputs)
        total = F.cross_entropy(start, batch.labels[:, 0], reduction="sum")
        total = total + F.cross_entropy(end, batch.labels[:, 1], reduction="sum")
        return LossSum(total / 2, len(batch.labels))

    def predict(self, model: nn.Module, batch: Batch, *, generate: bool) -> list[Any]:
        windows = [self._windows(ref["question"], ref["context"])[0][ref["window"]] for ref in batch.refs]
        contexts = [ref["context"] for ref in batch.refs]
        logits = span_logits(model, batch.inputs)
        return read_spans(logits, batch.inputs, windows, contexts, self.cfg.max_answer_tokens, self.cfg.n_best)

    def merge(self, predictions: list[Any], refs: list[Any], rows: list[int]) -> tuple[list[Any], list[Any], list[int]]:
        """Merge the best spans of all windows of a row. The score of no answer is the minimum over the windows."""
        merged, first_windows = merge_windows(predictions, rows, self.cfg.n_best)
        return merged, [refs[index] for index in first_windows], [rows[index] for index in first_windows]

    def margin(self, prediction: Any) -> float:
        """Return the score of no answer minus that of the best span, in nats (the null score difference of SQuAD v2)."""
        spans = prediction["spans"]
        return float(prediction["none"] - spans[0][2]) if spans else math.inf

    def tune(self, predictions: list[Any], refs: list[Any]) -> None:
        """Fit the threshold with the highest F1 on validation, if it has questions with and without an answer."""
        references = [texts_of(ref) for ref in refs]
        if all(references) or not any(references):
            return
        best_texts = [text_at(prediction, ref) for prediction, ref in zip(predictions, refs, strict=True)]
        span_f1 = [exact_and_f1(text, texts)[1] for text, texts in zip(best_texts, references, strict=True)]
        empty_f1 = [exact_and_f1("", texts)[1] for texts in references]
        self.threshold = best_threshold(
            [min(self.margin(prediction), 1e4) for prediction in predictions], span_f1, empty_f1
        )

    def answer(self, prediction: Any, ref: Any) -> str:
        return "" if self.has_unanswerable and self.margin(prediction) > self.threshold else text_at(prediction, ref)

    def report_items(self, predictions: list[Any], refs: list[Any]) -> list[ReportItem]:
        """Add a table of the best score among the first spans."""
        items = super().report_items(predictions, refs)
        spans = [
            [ref["context"][a:b] for a, b, _ in prediction["spans"]]
            for prediction, ref in zip(predictions, refs, strict=True)
        ]
        return [*items, *best_of_first_spans(spans, [texts_of(ref) for ref in refs], self.cfg.n_best)]

    def records(self, prediction: Any, ref: Any) -> list[dict[str, Any]]:
        answer, spans = self.answer(prediction, ref), prediction["spans"]
        *span_confidences, no_answer_confidence = confidences(
            [score for _, _, score in spans], prediction["none"] if self.has_unanswerable else -math.inf
        )
        best = [
            {"text": ref["context"][a:b], "start": a, "end": b, "confidence": round(confidence, 6)}
            for (a, b, _), confidence in zip(spans, span_confidences, strict=True)
        ]
        chosen: dict[str, Any] = (
            best[0] if answer else {"start": None, "end": None, "confidence": round(no_answer_confidence, 6)}
        )
        position = {name: chosen[name] for name in ("start", "end", "confidence")}
        return [{**self.record(answer, ref, position["start"], position["end"]), **position, "n_best": best}]


class Generative(GenerationTask, QuestionAnswering):
    """Context, question and answer form one text, one line each; the answer and the end token are the target.

    A question without an answer has an empty answer. Of a context that is too long, the part with most tokens of the question
    is used; the other tokens count as cut.
    """

    def cache_key(self) -> dict[str, Any]:
        return {"style": "generate"}

    def encode(self, row: Row) -> list[Example]:
        if self.processor.eos_id is None:
            raise RowError("the tokenizer of the model has no end token, so a generated answer would never end")
        answers = answers_of(row)
        answer_text = answers[0].text if answers else ""
        source, target, cut, num_lost = written_answer_ids(
            self.processor, row["context"], row["question"], answer_text, self.context
        )
        ids = source + target
        ref = {**self.ref_of(row), "bytes": len(answer_text.encode())}
        arrays = {"input_ids": ids, "target": [0] * len(source) + [1] * len(target)}
        return [Example(arrays, ref=ref, cut=cut + num_lost, cut_targets=num_lost, lost_end=num_lost > 0)]

    def answer(self, prediction: Any, ref: Any) -> str | None:
        text = prediction.get("text")
        return None if text is None else str(text).strip()

    def score(self, predictions: list[Any], refs: list[Any]) -> dict[str, Score]:
        counts = [[item[name] for item in predictions] for name in ("nll", "tokens", "correct")]
        nll, tokens, correct = counts
        return super().score(predictions, refs) | language_model_scores(
            nll, tokens, correct, [ref["bytes"] for ref in refs]
        )

    def records(self, prediction: Any, ref: Any) -> list[dict[str, Any]]:
        answer = self.answer(prediction, ref)
        position = ref["context"].find(answer) if answer else -1
        start, end = (position, position + len(answer or "")) if position >= 0 else (None, None)
        details = {"start": start, "end": end, "ended": prediction.get("ended"), "log_probability": -prediction["nll"]}
        return [{**self.record(answer, ref, start, end), **details}]

    @property
    def generate_rows(self) -> int:
        return 1 << 31  # all rows: without text, a row has no score


def TASK(cfg: QuestionAnsweringConfig, generation: GenerationConfig) -> QuestionAnswering:
    """Return the task in the style of the config."""
    return (Extractive if cfg.style == "extract" else Generative)(cfg, generation)
