"""Questions about a text: the answer is a span that an encoder points at, or is written by a decoder."""

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
from llmstage.data.overlap_features import MATCHES, matches
from llmstage.data.question_rows import BadAnswer, Guesser, answers_of, excerpt, question_word, text_at, texts_of
from llmstage.data.rows import Columns, Row
from llmstage.demo.questions import question_rows
from llmstage.evaluation.metrics.answers import (
    among_the_first,
    answer_scores,
    answer_tables,
    best_threshold,
    exact_and_f1,
)
from llmstage.evaluation.metrics.language_model import language_model_scores
from llmstage.evaluation.metrics.score import Score
from llmstage.models.answer_spans import Window, confidences, merge_windows, read_spans, span_logits, windows_of
from llmstage.models.written_answers import reading_ids
from llmstage.tasks.base import Batch, Example, LossSum, ReportItem, RowError, Task
from llmstage.tasks.base_errors import Errors, errors_by_text, token_nats
from llmstage.tasks.base_generation import Written


class QuestionAnswering(Task):
    """What both styles share: rows, scores, simple methods, tables."""

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
    silent: bool = False
    """Whether "no answer" may be the answer."""

    def demo_rows(self, num_rows: int, seed: int) -> list[Row]:
        return question_rows(num_rows, seed, unanswerable=self.cfg.unanswerable is True)

    def check_row(self, row: Row) -> str | None:
        for word in ("question", "context"):
            if not isinstance(row[word], str) or not row[word].strip():
                return f"{word} is empty" if isinstance(row[word], str) else f"{word} is not text"
        try:
            found = answers_of(row)
        except BadAnswer as error:
            return str(error)
        if not found and self.cfg.unanswerable is False:
            return "a question without an answer, and task.unanswerable=false"
        return None

    def texts(self, row: Row) -> list[str]:
        return [row["question"], row["context"]]

    def dummy_target(self, row: Row) -> Row:
        return row | {"answers": str(row.get("context")).strip()[:1]}

    def fit_labels(self, rows: Iterable[Row]) -> None:
        """Whether there are questions without an answer; and how many answers could stand in several places."""
        silent, unclear = False, 0
        for row in rows:
            found = answers_of(row)
            silent = silent or not found
            unclear += any(answer.places > 1 for answer in found)
        self.silent = silent if self.cfg.unanswerable == "auto" else self.cfg.unanswerable
        if unclear:
            console.note(
                f"train: {unclear} answers without answer_start occur more than once; the first place is taken"
            )

    def load_config(self, config: Any) -> None:
        known = getattr(config, "llmstage", None) or {}
        self.silent = bool(known.get("unanswerable", self.cfg.unanswerable is True))

    def model_options(self) -> dict[str, Any]:
        return {"llmstage": {"unanswerable": self.silent}}

    def ref_of(self, row: Row) -> dict[str, Any]:
        answers = answers_of(row)
        names = {name: row[name] for name in ("id", "title") if row.get(name) not in (None, "")}
        told = [{"text": one.text, "start": one.start, "places": one.places} for one in answers]
        return {**names, "question": row["question"], "context": row["context"], "answers": told}

    @abstractmethod
    def answer(self, prediction: Any, ref: Any) -> str | None:
        """The answer as text, empty for none; None where nothing was written."""

    def pairs(self, predictions: list[Any], refs: list[Any]) -> tuple[list[str], list[Any]]:
        """(answers, refs) of the rows that have an answer."""
        found = [(self.answer(one, ref), ref) for one, ref in zip(predictions, refs, strict=True)]
        return [said for said, _ in found if said is not None], [ref for said, ref in found if said is not None]

    def score(self, predictions: list[Any], refs: list[Any]) -> dict[str, Score]:
        said, told = self.pairs(predictions, refs)
        return answer_scores(said, [texts_of(ref) for ref in told]) if said else {}

    def errors(self, predictions: list[Any], refs: list[Any]) -> Errors:
        said = [self.answer(*pair) for pair in zip(predictions, refs, strict=True)]
        found = errors_by_text(said, [texts_of(ref) for ref in refs])
        if all("nll" in item for item in predictions):  # written, not pointed at
            found.nats = token_nats([item["nll"] for item in predictions], [item["tokens"] for item in predictions])
        return found

    def baselines(self, train: Iterable[Row], refs: list[Any]) -> dict[str, dict[str, Score]]:
        """First sentence, the sentence and the span with the question's words; where some have none: never an answer."""
        told = [texts_of(ref) for ref in refs]
        scores = {
            name: answer_scores([method(ref["question"], ref["context"]) for ref in refs], told)
            for name, method in Guesser(train).methods().items()
        }
        return scores | ({} if all(told) else {"never an answer": answer_scores([""] * len(refs), told)})

    def report_items(self, predictions: list[Any], refs: list[Any]) -> list[ReportItem]:
        said, told = self.pairs(predictions, refs)
        kinds = [question_word(ref["question"]) for ref in told]
        sizes = [len(ref["context"]) for ref in told]
        unclear = sum(one["places"] > 1 for ref in told for one in ref["answers"])
        return answer_tables(said, [texts_of(ref) for ref in told], kinds, sizes, unclear)

    def record(self, said: str | None, ref: Any, start: int | None, end: int | None) -> dict[str, Any]:
        """What both styles say of a row; `start` and `end`: where the answer stands in the context."""
        names = {f"question_{name}" if name == "id" else name: ref[name] for name in ("id", "title") if name in ref}
        shown: dict[str, Any] = {"prediction": said, "reference": texts_of(ref)}
        if said is not None:
            exact, f1 = exact_and_f1(said, texts_of(ref))
            shown |= {"correct": exact, "f1": round(f1, 4)}
        return {**names, **shown, "question": ref["question"], "context": excerpt(ref["context"], start, end)}


class Extractive(QuestionAnswering):
    """A long context is read in windows; a window without the whole answer has "no answer here" as its target."""

    auto_model = "AutoModelForQuestionAnswering"
    pipeline_tag = "question-answering"
    by_character = True

    threshold: float = 0.0
    """A row is left unanswered where no answer is likelier than the best span by more than this (nats)."""
    matching: bool

    def __init__(self, cfg: QuestionAnsweringConfig, generation: GenerationConfig) -> None:
        super().__init__(cfg, generation)
        self.matching = cfg.match_features
        self._windows = lru_cache(512)(self._windows_of)

    @property
    def tunes(self) -> bool:  # type: ignore[override]
        return self.silent

    def load_config(self, config: Any) -> None:
        super().load_config(config)
        known = getattr(config, "llmstage", None) or {}
        self.threshold = float(known.get("null_threshold", 0.0))
        self.matching = bool(known.get("match_features", False))

    def model_options(self) -> dict[str, Any]:
        own = {"unanswerable": self.silent, "null_threshold": self.threshold, "match_features": self.matching}
        return {"num_labels": 2, "llmstage": own}

    def extra_module(self, config: Any) -> nn.Module | None:
        if not self.matching:
            return None
        layer = nn.Linear(len(MATCHES), config.hidden_size, bias=False)
        nn.init.normal_(layer.weight, std=getattr(config, "initializer_range", 0.02))  # as large as an embedding
        return layer

    def cache_key(self) -> dict[str, Any]:
        return {"style": "extract", "stride": self.cfg.stride, "matching": self.matching}

    def _windows_of(self, question: str, context: str) -> tuple[list[Window], int]:
        return windows_of(self.processor, question, context, self.context, self.cfg.stride)

    def encode(self, row: Row) -> list[Example]:
        ref = self.ref_of(row)
        windows, cut = self._windows(row["question"], row["context"])
        answers = [(one["start"], one["start"] + len(one["text"])) for one in ref["answers"]]
        features = []
        for number, window in enumerate(windows):
            spans = (window.tokens_of(*answer) for answer in answers)
            start, end = next((span for span in spans if span is not None), (window.none, window.none))
            arrays: dict[str, list[Any]] = {"input_ids": window.ids}
            arrays["place"] = [window.none, window.first, window.stop, start, end]
            if "token_type_ids" in self.processor.tokenizer.model_input_names:
                arrays["token_type_ids"] = window.types
            if self.matching:
                arrays |= matches(row["question"], row["context"], window.offsets, window.first, len(window.ids))
            features.append(Example(arrays, ref={**ref, "window": number}))
        features[0].cut = cut
        whole = [item for item in features if item.arrays["place"][3] != item.arrays["place"][0]]
        if answers and not whole:  # an answer longer than what two windows share, on their border
            features[0].cut_targets = 1
        return features

    def collate(self, rows: list[list[Example]]) -> Batch:
        features = [row[0] for row in rows]
        lengths = torch.tensor([len(item.input_ids) for item in features])
        ids = pad([item.input_ids for item in features], self.processor.pad_id)
        position = torch.arange(ids.shape[1])[None]
        inputs = {"input_ids": ids, "attention_mask": (position < lengths[:, None]).long()}
        if "token_type_ids" in features[0].arrays:
            inputs["token_type_ids"] = pad([item.arrays["token_type_ids"] for item in features], 0)
        if self.matching:
            numbers = [pad([item.arrays[name] for item in features], 0, torch.float32) for name in MATCHES]
            inputs["matches"] = torch.stack(numbers, -1)  # [B, T, 3]
        place = torch.tensor([item.arrays["place"] for item in features])  # [B, 5]
        none, first, stop = place[:, :3, None].unbind(1)  # [B, 1] each
        inputs["inside"] = (position >= first) & (position < stop)  # [B, T] tokens of the context
        inputs["legal"] = inputs["inside"] | (position == none)
        return Batch(inputs, place[:, 3:], [item.ref for item in features], num_tokens=int(lengths.sum()))

    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        """Mean of the cross-entropies of start and end, as in transformers."""
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
        """The best spans of all windows of a row; no answer is as likely as in the window that believes in it least."""
        merged, first = merge_windows(predictions, rows, self.cfg.n_best)
        return merged, [refs[place] for place in first], [rows[place] for place in first]

    def margin(self, prediction: Any) -> float:
        """How much likelier no answer is than the best span, in nats (the null score difference of SQuAD v2)."""
        spans = prediction["spans"]
        return float(prediction["none"] - spans[0][2]) if spans else math.inf

    def tune(self, predictions: list[Any], refs: list[Any]) -> None:
        """The threshold with the highest F1 on validation, where it has both kinds of questions."""
        told = [texts_of(ref) for ref in refs]
        if all(told) or not any(told):
            return
        best = [text_at(one, ref) for one, ref in zip(predictions, refs, strict=True)]
        answered = [exact_and_f1(said, texts)[1] for said, texts in zip(best, told, strict=True)]
        silent = [exact_and_f1("", texts)[1] for texts in told]
        self.threshold = best_threshold([min(self.margin(one), 1e4) for one in predictions], answered, silent)

    def answer(self, prediction: Any, ref: Any) -> str:
        return "" if self.silent and self.margin(prediction) > self.threshold else text_at(prediction, ref)

    def report_items(self, predictions: list[Any], refs: list[Any]) -> list[ReportItem]:
        """Also how often the right answer stands among the first spans."""
        shown = super().report_items(predictions, refs)
        spans = [[ref["context"][a:b] for a, b, _ in one["spans"]] for one, ref in zip(predictions, refs, strict=True)]
        return [*shown, *among_the_first(spans, [texts_of(ref) for ref in refs], self.cfg.n_best)]

    def records(self, prediction: Any, ref: Any) -> list[dict[str, Any]]:
        said, spans = self.answer(prediction, ref), prediction["spans"]
        *sure, none = confidences([score for _, _, score in spans], prediction["none"] if self.silent else -math.inf)
        best = [
            {"text": ref["context"][a:b], "start": a, "end": b, "confidence": round(chance, 6)}
            for (a, b, _), chance in zip(spans, sure, strict=True)
        ]
        place: dict[str, Any] = best[0] if said else {"start": None, "end": None, "confidence": round(none, 6)}
        shown = {name: place[name] for name in ("start", "end", "confidence")}
        return [{**self.record(said, ref, shown["start"], shown["end"]), **shown, "n_best": best}]


class Generative(Written, QuestionAnswering):
    """Context, question and answer are one text, a line each; the answer and the end after it are learned.

    A question without an answer has an empty one. Of a context that is too long, the part that shares most tokens with
    the question is kept; what is left out is counted as cut.
    """

    def cache_key(self) -> dict[str, Any]:
        return {"style": "generate"}

    def encode(self, row: Row) -> list[Example]:
        if self.processor.eos_id is None:
            raise RowError("the model's tokenizer has no end token, so that no answer could end")
        answers = answers_of(row)
        said = answers[0].text if answers else ""
        source, target, cut, lost = reading_ids(self.processor, row["context"], row["question"], said, self.context)
        ids = source + target
        ref = {**self.ref_of(row), "bytes": len(said.encode())}
        arrays = {"input_ids": ids, "target": [0] * len(source) + [1] * len(target)}
        return [Example(arrays, ref=ref, cut=cut + lost, cut_targets=lost, lost_end=lost > 0)]

    def answer(self, prediction: Any, ref: Any) -> str | None:
        said = prediction.get("text")
        return None if said is None else str(said).strip()

    def score(self, predictions: list[Any], refs: list[Any]) -> dict[str, Score]:
        counts = [[item[name] for item in predictions] for name in ("nll", "tokens", "correct")]
        nll, tokens, right = counts
        return super().score(predictions, refs) | language_model_scores(
            nll, tokens, right, [ref["bytes"] for ref in refs]
        )

    def records(self, prediction: Any, ref: Any) -> list[dict[str, Any]]:
        said = self.answer(prediction, ref)
        at = ref["context"].find(said) if said else -1
        start, end = (at, at + len(said or "")) if at >= 0 else (None, None)
        shown = {"start": start, "end": end, "ended": prediction.get("ended"), "log_probability": -prediction["nll"]}
        return [{**self.record(said, ref, start, end), **shown}]

    @property
    def generate_rows(self) -> int:
        return 1 << 31  # every row: what is not answered has no score


def TASK(cfg: QuestionAnsweringConfig, generation: GenerationConfig) -> QuestionAnswering:
    """The task in the style that its config names."""
    return (Extractive if cfg.style == "extract" else Generative)(cfg, generation)
