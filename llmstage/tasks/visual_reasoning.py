"""A question or a statement about a picture, and its answer: chosen from the training answers, true or false, or written."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from torch import nn

from llmstage import console
from llmstage.config import GenerationConfig, TaskConfig
from llmstage.config.task import VisualReasoning as VisualReasoningConfig
from llmstage.data.encoding.order import spread
from llmstage.data.rows import Columns, Row
from llmstage.data.splits import row_hash
from llmstage.demo.scene_questions import question_rows
from llmstage.errors import DataError, ModelError
from llmstage.evaluation.metrics.calibration import reliability
from llmstage.evaluation.metrics.classification import calibration_error, classification_scores, confusion
from llmstage.evaluation.metrics.composition import composition_exhibit, group_scores
from llmstage.evaluation.metrics.intervals import proportion
from llmstage.evaluation.metrics.language_model import language_model_scores
from llmstage.evaluation.metrics.score import Score
from llmstage.evaluation.metrics.sklearn_baselines import capped, logistic, most_frequent, tfidf, tfidf_name, thin
from llmstage.evaluation.metrics.visual_reasoning import (
    BLIND,
    FIRST_WORDS,
    answered,
    beginning,
    by_kind,
    hits,
    image_gain,
    macro_by_kind,
    mistakes,
    normal,
    truth_of,
)
from llmstage.models.multiple_choice import AnswerTree, answer_log_probs
from llmstage.tasks.base import IGNORE_INDEX, UNSCORED, Batch, Control, Example, ReportItem, RowError
from llmstage.tasks.base_image_text import Looking
from llmstage.tokenization.tokenizer import Processor

TRUTH = ("false", "true")
SHOWN = 24
"""Pictures in the report's grid."""
MATRIX = 12
"""Answers up to which they are shown against each other."""


class VisualReasoning(Looking):
    """Whatever task.answer says, the loss is that of a language model on the answer and its end, so that the saved model
    answers by plain generation as well."""

    columns = Columns(
        required=("image", "question", "answer"),
        optional=("kind", "composition", "language", "caption", "prompt"),
        content=("image", "question"),
        images=("image",),
    )
    # With 20,000 a model of two million weights knew them by heart (0.88 on training rows, 0.65 on others); with 60,000, seen
    # less often each, it learned no faster.
    demo_size = 30_000
    route = "answer"
    target_columns = ("answer",)

    cfg: VisualReasoningConfig

    def __init__(self, cfg: TaskConfig, generation: GenerationConfig) -> None:
        super().__init__(cfg, generation)
        self.blind = self.cfg.blind
        self.mode: str = self.cfg.answer
        """choose, truth or generate; auto until fit_labels() or load_config() has said which."""
        self.answers: list[str] = []
        """What is chosen from; empty where text is generated."""

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
            return "question is no text"
        if not row["question"].strip():
            return "question is empty"
        for word in ("kind", "composition"):
            if row.get(word) is not None and not isinstance(row[word], str):
                return f"{word} is no text"
        answer = row["answer"]
        if not isinstance(answer, (str, bool, int, float)) or (isinstance(answer, float) and not math.isfinite(answer)):
            return "answer is neither a text, a number nor true or false"
        return None if answer_of(row) else "answer is empty"

    def dummy_target(self, row: Row) -> Row:
        return row | {"answer": self.answers[0] if self.answers else "?"}

    def texts(self, row: Row) -> list[str]:
        return [row["question"], answer_of(row), *caption_of(row)]

    def fit_labels(self, rows: Iterable[Row]) -> None:
        """What there is to choose from; truth values count as such whatever their spelling."""
        counts = Counter(answer_of(row) for row in rows)
        if not counts:
            return
        if self.mode == "auto":
            if all(truth_of(answer) for answer in counts):
                self.mode = "truth"
            else:
                self.mode = "choose" if len(counts) <= self.cfg.max_answers else "generate"
        if self.mode == "truth":
            self.answers = list(TRUTH)
        elif self.mode == "choose":
            kept = sorted(counts, key=lambda answer: (-counts[answer], answer))[: self.cfg.max_answers]
            self.answers = sorted(kept)
            lost = sum(counts.values()) - sum(counts[answer] for answer in kept)
            if lost:
                console.note(
                    f"{len(counts):,} different answers, {len(kept):,} of them to choose from: the answers of {lost:,} training "
                    f"rows are not (task.max_answers={self.cfg.max_answers})"
                )
        if self.cfg.answer == "auto":
            console.note(f"task.answer=auto: {self.mode}, {len(counts):,} different answers in training")

    def load_config(self, config: Any) -> None:
        saved = getattr(config, "llmstage", None) or {}
        if "answer" not in saved:
            raise ModelError(
                "The model does not say how it answers: it was not trained by task=visual_reasoning. Finetune it first: "
                "llmstage stage=finetune task=visual_reasoning model.path=…"
            )
        self.mode, self.answers, self.blind = saved["answer"], list(saved["answers"]), bool(saved["blind"])

    def model_options(self) -> dict[str, Any]:
        return {"llmstage": {"answer": self.mode, "answers": self.answers, "blind": self.blind}}

    def attach_tokenizer(self, processor: Processor, context: int) -> None:
        super().attach_tokenizer(processor, context)
        if self.mode == "auto":
            raise DataError(
                "There are no training rows that say how to answer. Give data.train, or task.answer=generate."
            )
        end = self.turns[1].after
        self.tree = AnswerTree.of([[*ids, *end] for ids in processor.plain_ids(self.answers)]) if self.answers else None
        self.known = {normal(answer) for answer in self.answers}

    def cache_key(self) -> dict[str, Any]:
        told = {"describe": self.cfg.describe, "prompt": self.cfg.prompt}
        return {**super().cache_key(), "answer": self.mode, "answers": self.answers, **told}

    def encode(self, row: Row) -> list[Example]:
        question, answer = row["question"], answer_of(row)
        if self.mode == "truth":
            spelled, answer = answer, truth_of(answer) or ""
            if not answer:
                raise RowError(
                    f"answer '{spelled[:40]}' is no truth value (true, false, yes, no, 1, 0, 是, 否, 对, 错), and the task "
                    f"is to tell true from false"
                )
        ref = {
            "question": question,
            "answer": answer,
            "known": not self.known or normal(answer) in self.known,
            **{word: row.get(word) for word in ("kind", "composition")},
        }
        said = [question, answer, *caption_of(row)]
        made = [self.written(row, question, answer, ref, said)]
        if row_hash(row, self.columns.content, 0) < self.cfg.describe * 2**64:
            prompt = row.get("prompt") or self.cfg.prompt
            made += [self.written(row, prompt, text, UNSCORED, said) for text in caption_of(row)]
        assert self.pictures is not None
        ref["image"] = self.pictures.index(row["image"])
        return made

    def predict(self, model: nn.Module, batch: Batch, *, generate: bool) -> list[Any]:
        """Of each row `answer`, with `probability` among those to choose from; and what the true answer costs (`nll`,
        `tokens`)."""
        items = super().predict(model, batch, generate=generate and self.tree is None)
        for item in items:
            if "text" in item:
                item["answer"] = item.pop("text")
        if self.tree is not None:
            assert batch.labels is not None and batch.segments is not None
            ids, owner = batch.inputs["input_ids"].cpu(), batch.segments.cpu()
            read = batch.labels.cpu() == IGNORE_INDEX
            prompts = [ids[(owner == number) & read].tolist() for number in range(len(items))]
            beside = self.beside(batch, list(range(len(items))))
            shares = answer_log_probs(model, self.processor.pad_id, prompts, self.tree, beside).softmax(-1)
            for item, own in zip(items, shares, strict=True):
                place = int(own.argmax())
                item["answer"], item["probability"] = self.answers[place], round(float(own[place]), 6)
        return items

    @property
    def generate_rows(self) -> int:
        return sys.maxsize

    def answer_scores(self, said: Sequence[str], refs: list[Any]) -> dict[str, Score]:
        """Scores of answers, by this model or by a simple method."""
        right = hits(said, refs)
        macro = macro_by_kind(right, [ref["kind"] for ref in refs])
        scores = {
            "accuracy": proportion([bool(hit) for hit in right]),
            **group_scores("accuracy", right, [ref["composition"] for ref in refs]),
            **({"macro_kind_accuracy": macro} if macro else {}),
        }
        if self.mode == "truth":
            ours = classification_scores(
                [truth_of(answer) or "" for answer in said], [ref["answer"] for ref in refs], TRUTH
            )
            scores |= {name: ours[name] for name in ("macro_f1", "mcc")}
        known = [ref["known"] for ref in refs]
        if not all(known):
            scores["answers_known"] = proportion(known)
        return scores

    def score(self, predictions: list[Any], refs: list[Any]) -> dict[str, Score]:
        said, told, kept = answered(predictions, refs)
        scores = self.answer_scores(said, told) if said else {}
        if kept and "probability" in kept[0]:
            right = np.array(hits(said, told))
            confidence = np.array([item["probability"] for item in kept])
            # Two columns, what was said and the rest: the error of the likeliest answer's confidence needs no more.
            scores["ece"] = calibration_error(np.stack([confidence, 0 * confidence], 1), (right == 0).astype(np.int64))
        nll, tokens, correct = ([item[word] for item in predictions] for word in ("nll", "tokens", "correct"))
        return scores | {"perplexity": language_model_scores(nll, tokens, correct, None)["perplexity"]}

    def warnings(self, predictions: list[Any], refs: list[Any]) -> list[str]:
        strange = Counter(ref["answer"] for ref in refs if not ref["known"])
        if not strange:
            return []
        shown = ", ".join(f"'{answer}'" for answer, _ in strange.most_common(5))
        return [
            f"the answers of {sum(strange.values()):,} of {len(refs):,} rows are none of the {len(self.answers)} that the model "
            f"chooses from, and count as wrong ({shown}{', …' if len(strange) > 5 else ''}); task.answer=generate may say anything"
        ]

    def controls(self) -> list[Control]:
        on = self.cfg.control == "train" and not self.blind
        return [Control(BLIND, {"blind": True}, "the same model without the image")] if on else []

    def contrast(
        self, name: str, predictions: list[Any], controls: list[Any], refs: list[Any]
    ) -> tuple[dict[str, Score], list[ReportItem]]:
        pairs = [
            (ours["answer"], theirs["answer"], ref)
            for ours, theirs, ref in zip(predictions, controls, refs, strict=True)
            if "answer" in ours and "answer" in theirs
        ]
        told = [ref for _, _, ref in pairs]
        right, blind = (hits([pair[side] for pair in pairs], told) for side in (0, 1))
        return {"image_gain": image_gain(right, blind)}, by_kind(right, told, blind)

    def baselines(self, train: Iterable[Row], refs: list[Any]) -> dict[str, dict[str, Score]]:
        """Methods that look at no picture."""
        known = list(train)
        rows = [known[index] for index in thin(len(known))]
        if self.mode == "truth":
            rows = [{**row, "answer": truth} for row in rows if (truth := truth_of(answer_of(row)))]
        answers = [answer_of(row) for row in rows]
        questions, asked = [row["question"] for row in rows], [ref["question"] for ref in refs]
        said = {
            "most frequent answer": most_frequent([""] * len(rows), answers, [""] * len(refs)),
            f"most frequent answer after the first {FIRST_WORDS} words": most_frequent(
                list(map(beginning, questions)), answers, list(map(beginning, asked))
            ),
        }
        if any(row.get("kind") for row in rows):
            kinds = [str(row.get("kind")) for row in rows]
            said["most frequent answer of the kind"] = most_frequent(kinds, answers, [str(ref["kind"]) for ref in refs])
        x_train, x = tfidf(questions, asked)
        classes, shares = logistic(x_train, answers, x)
        linear = capped(f"{tfidf_name(questions)} of the question + logistic regression", len(known))
        said[linear] = [classes[place] for place in shares.argmax(1)]
        return {name: self.answer_scores(texts, refs) for name, texts in said.items()}

    def report_items(self, predictions: list[Any], refs: list[Any]) -> list[ReportItem]:
        said, told, kept = answered(predictions, refs)
        if not said:
            return []
        right = hits(said, told)
        shown = [
            *by_kind(right, told),
            *composition_exhibit("accuracy", right, [ref["composition"] for ref in told]),
            *self.grid(said, told, right),
            *mistakes(said, told, right),
        ]
        if self.tree is not None:
            if len(self.answers) <= MATRIX and all(ref["known"] for ref in told):
                names = {normal(answer): answer for answer in self.answers}
                true = [names[normal(ref["answer"])] for ref in told]
                cells = confusion(said, true, self.answers)
                shown.append(
                    {
                        "kind": "matrix",
                        "title": "Answers given",
                        "values": cells,
                        "row_labels": self.answers,
                        "column_labels": self.answers,
                    }
                )
            shown += reliability(np.array([item["probability"] for item in kept]), np.array(right) == 1)
        return shown

    def grid(self, said: list[str], refs: list[Any], right: list[float]) -> list[ReportItem]:
        """Pictures at even distances, not chosen by how well they went."""
        if self.pictures is None:
            return []
        items = []
        for place in spread(np.arange(len(refs)), SHOWN):
            ref, good = refs[place], bool(right[place])
            lines = [ref["question"], said[place] if good else f"{said[place]} (right: {ref['answer']})"]
            about = [ref["kind"], f"{ref['composition']} pairs" if ref["composition"] else None]
            lines += [" · ".join(word for word in about if word)] if any(about) else []
            items.append({"src": self.pictures.thumbnail(ref["image"]), "lines": lines, "good": good})
        return [{"kind": "images", "title": "Pictures, questions and answers", "columns": 4, "items": items}]

    def records(self, prediction: Any, ref: Any) -> list[dict[str, Any]]:
        said = prediction.get("answer")
        return [
            {
                "prediction": said,
                "reference": ref["answer"],
                "correct": None if said is None else bool(hits([said], [ref])[0]),
                "question": ref["question"],
                **{word: ref[word] for word in ("kind", "composition") if ref[word]},
                **({"probability": prediction["probability"]} if "probability" in prediction else {}),
            }
        ]


def caption_of(row: Row) -> list[str]:
    """The first caption that is no empty text, alone in a list; an empty list where there is none."""
    texts = row.get("caption") or []
    return [text for text in ([texts] if isinstance(texts, str) else texts) if isinstance(text, str) and text.strip()][
        :1
    ]


def answer_of(row: Row) -> str:
    """The answer as text; JSON's true and false as these words, 3.0 as 3."""
    answer = row["answer"]
    if isinstance(answer, bool):
        return str(answer).lower()
    if isinstance(answer, float) and answer.is_integer():
        return str(int(answer))
    return str(answer).strip()


TASK = VisualReasoning
