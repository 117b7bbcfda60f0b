"""Visual question answering: the answer is one of the training answers, true or false, or generated text."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np
from torch import nn

from llmstage import console
from llmstage.config import GenerationConfig, TaskConfig
from llmstage.config.task import VisualReasoning as VisualReasoningConfig
from llmstage.data.encoding.order import evenly_spaced
from llmstage.data.rows import Columns, Row
from llmstage.data.split_keys import row_hash
from llmstage.demo.scene_questions import question_rows
from llmstage.errors import DataError, ModelError
from llmstage.evaluation.metrics.calibration import reliability
from llmstage.evaluation.metrics.classification import calibration_error, classification_scores, confusion
from llmstage.evaluation.metrics.composition import composition_item, group_scores
from llmstage.evaluation.metrics.language_model import language_model_scores
from llmstage.evaluation.metrics.score import Score, proportion
from llmstage.evaluation.metrics.sklearn_baselines import (
    MAX_VALIDATION_ROWS,
    accuracy,
    logistic,
    most_frequent,
    name_with_sample,
    subsample,
    tfidf,
    tfidf_name,
)
from llmstage.evaluation.metrics.visual_reasoning import (
    BLIND,
    FIRST_WORDS,
    answer_hits,
    answered,
    first_words,
    image_gain,
    macro_over_types,
    normalize_answer,
    question_type_items_of,
    truth_of,
    wrong_answers,
)
from llmstage.models.multiple_choice import AnswerTree, answer_log_probs
from llmstage.tasks.base import IGNORE_INDEX, UNSCORED, Batch, Control, Example, ReportItem, RowError
from llmstage.tasks.base_image import ImageTextTask
from llmstage.tokenization.tokenizer import Processor

TRUTH = ("false", "true")
NUM_SHOWN = 24
"""Images in the grid of the report."""
MAX_MATRIX = 12
"""Upper bound of the answers in the confusion matrix."""


class VisualReasoning(ImageTextTask):
    """With each task.answer, the loss is the language model loss of the answer and its end, so the saved model can also
    generate answers."""

    columns = Columns(
        required=("image", "question", "answer"),
        optional=("kind", "composition", "language", "caption", "prompt"),
        content=("image", "question"),
        images=("image",),
    )
    # With 20,000 rows, a model of two million weights memorised them (accuracy 0.88 in training, 0.65 in test). With 60,000
    # rows, each in fewer epochs, it learned no faster.
    demo_size = 30_000
    route = "answer"
    target_columns = ("answer",)

    cfg: VisualReasoningConfig

    def __init__(self, cfg: TaskConfig, generation: GenerationConfig) -> None:
        super().__init__(cfg, generation)
        self.blind = self.cfg.blind
        self.answer_mode: str = self.cfg.answer
        """choose, truth or generate; auto before fit_labels() or load_config()."""
        self.answers: list[str] = []
        """The possible answers; empty if text is generated."""

    @staticmethod
    def demo_rows(num_rows: int, seed: int) -> list[Row]:
        return question_rows(num_rows, seed, "seen")

    def demo_test_rows(self, num_rows: int, seed: int) -> list[Row]:
        return question_rows(num_rows, seed, "both")

    def check_row(self, row: Row) -> str | None:
        reason = super().check_row(row)
        if reason:
            return reason
        if not isinstance(row["question"], str):
            return "question is not text"
        if not row["question"].strip():
            return "question is empty"
        for column in ("kind", "composition"):
            if row.get(column) is not None and not isinstance(row[column], str):
                return f"{column} is not text"
        answer = row["answer"]
        if not isinstance(answer, (str, bool, int, float)) or (isinstance(answer, float) and not math.isfinite(answer)):
            return "answer is neither a text, a number nor true or false"
        return None if answer_of(row) else "answer is empty"

    def dummy_target(self, row: Row) -> Row:
        return row | {"answer": self.answers[0] if self.answers else "?"}

    def texts(self, row: Row) -> list[str]:
        return [row["question"], answer_of(row), *caption_of(row)]

    def fit_labels(self, rows: Iterable[Row]) -> None:
        """Fit the mode and the possible answers; truth values count as such in any spelling."""
        counts = Counter(answer_of(row) for row in rows)
        if not counts:
            return
        if self.answer_mode == "auto":
            if all(truth_of(answer) for answer in counts):
                self.answer_mode = "truth"
            else:
                self.answer_mode = "choose" if len(counts) <= self.cfg.max_answers else "generate"
        if self.answer_mode == "truth":
            self.answers = list(TRUTH)
        elif self.answer_mode == "choose":
            frequent = sorted(counts, key=lambda answer: (-counts[answer], answer))[: self.cfg.max_answers]
            self.answers = sorted(frequent)
            num_lost = sum(counts.values()) - sum(counts[answer] for answer in frequent)
            if num_lost:
                console.note(
                    f"{len(counts):,} different answers; the model chooses from {len(frequent):,} of them, without the answers of {num_lost:,} "
                    f"training rows (task.max_answers={self.cfg.max_answers})"
                )
        if self.cfg.answer == "auto":
            console.note(f"task.answer=auto: {self.answer_mode}, {len(counts):,} different answers in training")

    def load_config(self, config: Any) -> None:
        saved = getattr(config, "llmstage", None) or {}
        if "answer" not in saved:
            raise ModelError(
                "The model has no answer mode: it was not trained by task=visual_reasoning. Finetune it first: "
                "llmstage stage=finetune task=visual_reasoning model.path=…"
            )
        self.answer_mode, self.answers, self.blind = saved["answer"], list(saved["answers"]), bool(saved["blind"])

    def model_options(self) -> dict[str, Any]:
        return {"llmstage": {"answer": self.answer_mode, "answers": self.answers, "blind": self.blind}}

    def attach_tokenizer(self, processor: Processor, context: int) -> None:
        super().attach_tokenizer(processor, context)
        if self.answer_mode == "auto":
            raise DataError(
                "There are no training rows to determine the answer mode. Set data.train, or task.answer=generate."
            )
        replies = [reply for _, reply in self.exchanges([("a", answer) for answer in self.answers])]
        self.tree = AnswerTree.of(replies) if self.answers else None
        self.known = {normalize_answer(answer) for answer in self.answers}

    def cache_key(self) -> dict[str, Any]:
        options = {"describe": self.cfg.describe, "prompt": self.cfg.prompt}
        return {**super().cache_key(), "answer": self.answer_mode, "answers": self.answers, **options}

    def encode(self, row: Row) -> list[Example]:
        question, answer = row["question"], answer_of(row)
        if self.answer_mode == "truth":
            spelling, answer = answer, truth_of(answer) or ""
            if not answer:
                raise RowError(
                    f"answer '{spelling[:40]}' is not a truth value (true, false, yes, no, 1, 0, 是, 否, 对, 错), and task.answer "
                    f"is truth"
                )
        ref = {
            "question": question,
            "answer": answer,
            "known": not self.known or normalize_answer(answer) in self.known,
            **{column: row.get(column) for column in ("kind", "composition")},
        }
        all_texts = [question, answer, *caption_of(row)]
        examples = [self.encode_text(row, question, answer, ref, all_texts)]
        if row_hash(row, self.columns.content, 0) < self.cfg.describe * 2**64:
            prompt = row.get("prompt") or self.cfg.prompt
            examples += [self.encode_text(row, prompt, text, UNSCORED, all_texts) for text in caption_of(row)]
        assert self.image_store is not None
        ref["image"] = self.image_store.index(row["image"])
        return examples

    def predict(self, model: nn.Module, batch: Batch, *, generate: bool) -> list[Any]:
        """Return `answer`, its `probability` among the possible answers, and `nll` and `tokens` of the true answer."""
        items = super().predict(model, batch, generate=generate and self.tree is None)
        for item in items:
            if "text" in item:
                item["answer"] = item.pop("text")
        if self.tree is not None:
            assert batch.labels is not None and batch.segments is not None
            ids, segments = batch.inputs["input_ids"].cpu(), batch.segments.cpu()
            is_source = batch.labels.cpu() == IGNORE_INDEX
            prompts = [ids[(segments == number) & is_source].tolist() for number in range(len(items))]
            concat_features = self.extra_inputs(batch, list(range(len(items))))
            probabilities = answer_log_probs(model, self.processor.pad_id, prompts, self.tree, concat_features).softmax(
                -1
            )
            for item, row_probabilities in zip(items, probabilities, strict=True):
                best = int(row_probabilities.argmax())
                item["answer"], item["probability"] = self.answers[best], round(float(row_probabilities[best]), 6)
        return items

    @property
    def generate_rows(self) -> int:
        return sys.maxsize

    def answer_scores(self, answers: Sequence[str], refs: list[Any]) -> dict[str, Score]:
        """Return the scores of answers, of the model or of a baseline."""
        correct = answer_hits(answers, refs)
        macro_accuracy = macro_over_types(correct, [ref["kind"] for ref in refs])
        scores = {
            "accuracy": proportion([bool(hit) for hit in correct]),
            **group_scores("accuracy", correct, [ref["composition"] for ref in refs]),
            **({"macro_kind_accuracy": macro_accuracy} if macro_accuracy else {}),
        }
        if self.answer_mode == "truth":
            truth_scores = classification_scores(
                [truth_of(answer) or "" for answer in answers], [ref["answer"] for ref in refs], TRUTH
            )
            scores |= {name: truth_scores[name] for name in ("macro_f1", "mcc")}
        known = [ref["known"] for ref in refs]
        if not all(known):
            scores["answers_known"] = proportion(known)
        return scores

    def score(self, predictions: list[Any], refs: list[Any]) -> dict[str, Score]:
        answers, answered_refs, answered_predictions = answered(predictions, refs)
        scores = self.answer_scores(answers, answered_refs) if answers else {}
        if answered_predictions and "probability" in answered_predictions[0]:
            correct = np.array(answer_hits(answers, answered_refs))
            confidence = np.array([item["probability"] for item in answered_predictions])
            # Two columns, the answer and the rest: the calibration error of the top answer needs no more.
            scores["ece"] = calibration_error(
                np.stack([confidence, 0 * confidence], 1), (correct == 0).astype(np.int64)
            )
        nll, tokens, num_correct = ([item[key] for item in predictions] for key in ("nll", "tokens", "correct"))
        return scores | {"perplexity": language_model_scores(nll, tokens, num_correct, None)["perplexity"]}

    def warnings(self, predictions: list[Any], refs: list[Any]) -> list[str]:
        unknown = Counter(ref["answer"] for ref in refs if not ref["known"])
        if not unknown:
            return []
        examples = ", ".join(f"'{answer}'" for answer, _ in unknown.most_common(5))
        return [
            f"the answers of {sum(unknown.values()):,} of {len(refs):,} rows are not among the {len(self.answers)} possible answers "
            f"of the model and count as wrong ({examples}{', …' if len(unknown) > 5 else ''}); task.answer=generate has no fixed answers"
        ]

    def controls(self) -> list[Control]:
        enabled = self.cfg.control == "train" and not self.blind
        return [Control(BLIND, {"blind": True}, "the same model without the image")] if enabled else []

    def compare_with_control(
        self, name: str, predictions: list[Any], control_predictions: list[Any], refs: list[Any]
    ) -> tuple[dict[str, Score], list[ReportItem]]:
        pairs = [
            (prediction["answer"], control["answer"], ref)
            for prediction, control, ref in zip(predictions, control_predictions, refs, strict=True)
            if "answer" in prediction and "answer" in control
        ]
        answered_refs = [ref for _, _, ref in pairs]
        correct, blind_correct = (answer_hits([pair[side] for pair in pairs], answered_refs) for side in (0, 1))
        return {"image_gain": image_gain(correct, blind_correct)}, question_type_items_of(
            correct, answered_refs, blind_correct
        )

    def baselines(self, train: Iterable[Row], refs: list[Any]) -> dict[str, dict[str, Score]]:
        """Return scores of methods without the image."""
        train_rows = list(train)
        rows = self.with_truths([train_rows[index] for index in subsample(len(train_rows))])
        answers = [answer_of(row) for row in rows]
        questions, requested = [row["question"] for row in rows], [ref["question"] for ref in refs]
        methods = {
            "most frequent answer": most_frequent([""] * len(rows), answers, [""] * len(refs)),
            f"most frequent answer after the first {FIRST_WORDS} words": most_frequent(
                list(map(first_words, questions)), answers, list(map(first_words, requested))
            ),
        }
        if any(row.get("kind") for row in rows):
            question_types = [str(row.get("kind")) for row in rows]
            methods["most frequent answer of the kind"] = most_frequent(
                question_types, answers, [str(ref["kind"]) for ref in refs]
            )
        known = self.with_truths(list(islice(self.validation_rows, MAX_VALIDATION_ROWS)))
        x_train, x_validation, x = tfidf(questions, [row["question"] for row in known] or [""], requested)
        judged = (x_validation, [answer_of(row) for row in known]) if known else None
        classes, probabilities = logistic(x_train, answers, x, judged, score=accuracy)
        linear_name = name_with_sample(
            f"{tfidf_name(questions)} of the question + logistic regression", len(train_rows)
        )
        methods[linear_name] = [classes[index] for index in probabilities.argmax(1)]
        return {name: self.answer_scores(texts, refs) for name, texts in methods.items()}

    def with_truths(self, rows: list[Row]) -> list[Row]:
        """Return rows whose answers are `true` or `false` where the task decides statements; other rows as they are."""
        if self.answer_mode != "truth":
            return rows
        return [{**row, "answer": truth} for row in rows if (truth := truth_of(answer_of(row)))]

    def report_items(self, predictions: list[Any], refs: list[Any]) -> list[ReportItem]:
        answers, answered_refs, answered_predictions = answered(predictions, refs)
        if not answers:
            return []
        correct = answer_hits(answers, answered_refs)
        items = [
            *question_type_items_of(correct, answered_refs),
            *composition_item("accuracy", correct, [ref["composition"] for ref in answered_refs]),
            *self.grid(answers, answered_refs, correct),
            *wrong_answers(answers, answered_refs, correct),
        ]
        if self.tree is not None:
            if len(self.answers) <= MAX_MATRIX and all(ref["known"] for ref in answered_refs):
                spelling_of = {normalize_answer(answer): answer for answer in self.answers}
                true = [spelling_of[normalize_answer(ref["answer"])] for ref in answered_refs]
                cells = confusion(answers, true, self.answers)
                items.append(
                    {
                        "kind": "matrix",
                        "title": "Confusion matrix of the answers",
                        "values": cells,
                        "row_labels": self.answers,
                        "column_labels": self.answers,
                    }
                )
            items += reliability(
                np.array([item["probability"] for item in answered_predictions]), np.array(correct) == 1
            )
        return items

    def grid(self, answers: list[str], refs: list[Any], correct: list[float]) -> list[ReportItem]:
        """Return a grid of evenly spaced images of the split, whatever their score."""
        if self.image_store is None:
            return []
        items = []
        for index in evenly_spaced(np.arange(len(refs)), NUM_SHOWN):
            ref, is_correct = refs[index], bool(correct[index])
            lines = [ref["question"], answers[index] if is_correct else f"{answers[index]} (right: {ref['answer']})"]
            tags = [ref["kind"], f"{ref['composition']} pairs" if ref["composition"] else None]
            lines += [" · ".join(tag for tag in tags if tag)] if any(tags) else []
            items.append({"src": self.image_store.thumbnail(ref["image"]), "lines": lines, "good": is_correct})
        return [{"kind": "images", "title": "Images, questions and answers", "columns": 4, "items": items}]

    def records(self, prediction: Any, ref: Any) -> list[dict[str, Any]]:
        answer = prediction.get("answer")
        return [
            {
                "prediction": answer,
                "reference": ref["answer"],
                "correct": None if answer is None else bool(answer_hits([answer], [ref])[0]),
                "question": ref["question"],
                **{column: ref[column] for column in ("kind", "composition") if ref[column]},
                **({"probability": prediction["probability"]} if "probability" in prediction else {}),
            }
        ]


def caption_of(row: Row) -> list[str]:
    """Return a list of the first non-empty caption; an empty list without one."""
    texts = row.get("caption") or []
    return [text for text in ([texts] if isinstance(texts, str) else texts) if isinstance(text, str) and text.strip()][
        :1
    ]


def answer_of(row: Row) -> str:
    """Return the answer as text: JSON true and false as these words, 3.0 as `3`."""
    answer = row["answer"]
    if isinstance(answer, bool):
        return str(answer).lower()
    if isinstance(answer, float) and answer.is_integer():
        return str(int(answer))
    return str(answer).strip()


TASK = VisualReasoning
