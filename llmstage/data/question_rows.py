"""Rows of questions about a text: their answers in all published formats, overlap features, and baselines without a model."""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmstage.data.rows import Row
from llmstage.evaluation.metrics.generation import WORD

SENTENCE = re.compile(r"[^.!?。！？；\n]*(?:\.(?=\d)[^.!?。！？；\n]*)*[.!?。！？；\n]?\s*")
BREAK = re.compile(r"[,;:()（），；：、。！？.!?\n\"“”《》]")
"""Characters that end a guessed span."""
MATCHES = ("match", "near", "far")
"""Names of the overlap features, each from 0 to 1."""
REACH = {"near": 5, "far": 15}
"""Words (Chinese characters) that are searched on either side."""
TRUE, FALSE = ("true", "1", "yes"), ("false", "0", "no", "none", "")


@dataclass(slots=True, frozen=True)
class Answer:
    """A span of the context."""

    text: str
    start: int
    """Index of its first character in the context."""
    occurrences: int = 1
    """How often the text occurs, where no start was given; above 1, the first occurrence was used."""


class BadAnswer(ValueError):
    """The reason why the answers of a row are unusable; its text names the question."""


def answers_of(row: Row) -> list[Answer]:
    """Return the answers of a row as spans; none for a question without an answer. Raise BadAnswer.

    Formats: the list of {text, answer_start} of SQuAD; the columns of lists that `datasets` makes of it; a text or a list
    of texts, with or without a column `answer_start`.
    """
    given: Any = row["answers"]
    starts: Any = row.get("answer_start")
    if isinstance(given, dict):
        given, starts = given.get("text"), given.get("answer_start")
    given = [given] if isinstance(given, (str, dict)) else given
    if not isinstance(given, (list, tuple)):
        raise BadAnswer(f"{prefix(row)}the answer is {type(given).__name__}, not a text or a list")
    starts = starts if isinstance(starts, (list, tuple)) else [starts] * len(given)
    if len(starts) != len(given):
        raise BadAnswer(f"{prefix(row)}{len(given)} answers but {len(starts)} in answer_start")
    impossible = read_impossible(row)
    if impossible:
        return []
    answers = [to_span(row, answer, start) for answer, start in zip(given, starts, strict=True) if answer != ""]
    if not answers and impossible is False:
        raise BadAnswer(f"{prefix(row)}no answer, though is_impossible is false")
    return answers


def read_impossible(row: Row) -> bool | None:
    """Return `is_impossible` as a bool; None where the row has no value."""
    value = row.get("is_impossible")
    text = str(value).strip().lower()
    if value is None or text == "":
        return None
    if text not in (*TRUE, *FALSE):
        raise BadAnswer(f"{prefix(row)}is_impossible is {value!r}, not true or false")
    return text in TRUE


def to_span(row: Row, answer: Any, start: Any) -> Answer:
    """Return one answer as a span of the context. Raise BadAnswer where the span does not contain its text."""
    if isinstance(answer, dict):
        answer, start = answer.get("text"), answer.get("answer_start")
    context = row["context"]
    if not isinstance(answer, str) or not answer.strip():
        raise BadAnswer(f"{prefix(row)}an answer without a text")
    excerpt_of_answer = answer if len(answer) <= 60 else f"{answer[:57]}..."
    if start is None or start == "":
        first = context.find(answer)
        if first < 0:
            raise BadAnswer(f"{prefix(row)}the answer {excerpt_of_answer!r} does not stand in the context")
        return Answer(answer, first, context.count(answer))
    try:
        position = int(start)
    except (TypeError, ValueError):
        raise BadAnswer(f"{prefix(row)}answer_start is {start!r}, not a whole number") from None
    if position < 0 or context[position : position + len(answer)] != answer:
        actual = context[position : position + len(excerpt_of_answer)] if 0 <= position < len(context) else ""
        first = context.find(answer)
        hint = f"it stands at {first}" if first >= 0 else "it does not stand in the context at all"
        raise BadAnswer(
            f"{prefix(row)}answer_start={position} points at {actual!r}, not at the answer {excerpt_of_answer!r}; {hint}"
        )
    return Answer(answer, position)


def prefix(row: Row) -> str:
    """Return the beginning of a complaint, which names the question by its id."""
    name = row.get("id")
    return f"question {name}: " if name not in (None, "") else ""


def texts_of(ref: Row) -> list[str]:
    """Return the texts of the answers of a reference; none for a question without an answer."""
    return [answer["text"] for answer in ref["answers"]]


def text_at(prediction: Row, ref: Row) -> str:
    """Return the best span of a prediction as text."""
    return str(ref["context"][slice(*prediction["spans"][0][:2])]) if prediction["spans"] else ""


def question_word(question: str) -> str:
    """Return the type of a question by its first question word in English or Chinese."""
    low = f" {question.lower()} "
    for name, pattern in QUESTION_WORDS:
        if pattern.search(low):
            return name
    return "other"


QUESTION_WORDS = tuple(
    (name, re.compile(pattern))
    for name, pattern in (
        ("how many", r"\bhow (?:many|much|old|long|far|often|tall|large|big)\b|多少|几[个次年天只条名位岁]|多[长大高远久]"),
        ("when", r"\bwhen\b|\b(?:what|which) (?:year|day|date|month|century|decade)\b|什么时候|何时|哪一?[年天日月]|星期几|几月|几时|多久"),
        ("where", r"\bwhere\b|\b(?:what|which) (?:city|country|place|town|state)\b|哪里|哪儿|何处|什么地方|哪[个座]?城市|哪[个一]?国"),
        ("who", r"\bwho(?:m|se)?\b|谁|何人|哪位|什么人"),
        ("why", r"\bwhy\b|为什么|为何|什么原因"),
        ("how", r"\bhow\b|如何|怎么|怎样"),
        ("which", r"\bwhich\b|哪"),
        ("what", r"\bwhat\b|什么|何"),
    )
)  # fmt: skip


def excerpt(context: str, start: int | None, end: int | None, around: int = 160) -> str:
    """Return a short context, or the part of a long one around a span (or its beginning), with dots for omitted text."""
    if len(context) <= 3 * around:
        return context
    first, last = max(0, (start or 0) - around), min(len(context), (end or 0) + around)
    return f"{'…' if first else ''}{context[first:last]}{'…' if last < len(context) else ''}"


def likeliest_part(context: list[int], question: list[int], length: int) -> tuple[int, int]:
    """Return (first, stop) of the `length` tokens of the context with the highest weight of tokens of the question.

    The weight of a token is its rarity in the context. Of equal parts, the first is returned.
    """
    if len(context) <= length:
        return 0, len(context)
    counts, question_tokens = Counter(context), set(question)
    weights = [1 / counts[token] if token in question_tokens else 0.0 for token in context]
    sums = [0.0, *itertools.accumulate(weights)]
    first = max(
        range(len(context) - length + 1),
        key=lambda start: (round(sums[start + length] - sums[start], 9), -start),
    )
    return first, first + length


def sentences(text: str) -> list[tuple[int, int]]:
    """Return (start, end) of the sentences of an English or Chinese text; a point between digits ends no sentence."""
    spans = []
    for match in SENTENCE.finditer(text):
        start, end = match.start(), match.start() + len(match.group().rstrip())
        if end > start:
            spans.append((start, end))
    return spans


class OverlapBaselines:
    """Baselines without a model: they answer by the words that question and context share."""

    def __init__(self, rows: Iterable[Row]) -> None:
        """Count in the training rows the length of answers, in words (Chinese characters), and the words of questions."""
        lengths, self.question_counts, self.num_questions = [], Counter[str](), 0
        for row in rows:
            lengths += [len(words_at(answer.text)) for answer in answers_of(row)]
            self.question_counts.update({word for word, _, _ in words_at(row["question"])})
            self.num_questions += 1
        self.length = max(1, round(statistics.median(lengths))) if lengths else 1

    def weight(self, word: str) -> float:
        """Return log(questions / questions with the word): rare words weigh more."""
        return math.log((1 + self.num_questions) / (1 + self.question_counts[word])) + 1e-3

    def methods(self) -> dict[str, Callable[[str, str], str]]:
        """Return the baselines by name; each maps (question, context) to an answer."""
        return {
            "sliding window span": self.best_span,
            "sentence with most question words": self.best_sentence,
            "first sentence": self.first_sentence,
        }

    def first_sentence(self, question: str, context: str) -> str:
        spans = sentences(context)
        return context[slice(*spans[0])] if spans else context

    def best_sentence(self, question: str, context: str) -> str:
        """Return the sentence with the highest weight of words of the question."""
        question_words = {word for word, _, _ in words_at(question)}

        def shared(span: tuple[int, int]) -> float:
            return sum(
                self.weight(word) for word in question_words & {word for word, _, _ in words_at(context[slice(*span)])}
            )

        spans = sentences(context)
        return context[slice(*max(spans, key=shared))] if spans else context

    def best_span(self, question: str, context: str, reach: int = 10) -> str:
        """Return the span of usual length without words of the question that has most of them around it.

        The sliding window of Richardson et al. (2013) as in Rajpurkar et al. (2016): the score of a candidate is the weight
        of the words of the question within `reach` words on either side, each counted once, near ones for more.
        """
        question_words = {word for word, _, _ in words_at(question)}
        words = words_at(context)
        in_question = [word in question_words for word, _, _ in words]
        best_score, best_span = -1.0, (0, len(context))
        for first in range(len(words)):
            last = min(first + self.length, len(words)) - 1
            start, end = words[first][1], words[last][2]
            if any(in_question[first : last + 1]) or BREAK.search(context, start, end):
                continue
            weights: dict[str, float] = {}
            for position in range(max(0, first - reach), min(len(words), last + reach + 1)):
                if in_question[position]:
                    gap = max(first - position, position - last)
                    word = words[position][0]
                    weights[word] = max(weights.get(word, 0.0), self.weight(word) / (1 + gap / reach))
            if sum(weights.values()) > best_score:
                best_score, best_span = sum(weights.values()), (start, end)
        return context[slice(*best_span)]


def words_at(text: str) -> list[tuple[str, int, int]]:
    """Return (word in lower case, start, end) of each word; a Chinese character is a word."""
    return [(match.group().lower(), match.start(), match.end()) for match in WORD.finditer(text)]


def overlap_features(
    question: str, context: str, offsets: list[tuple[int, int]], first: int, length: int
) -> dict[str, list[float]]:
    """Return overlap features for each of `length` tokens; those of the context begin at `first`.

    `offsets`: the characters of each token of the context. `match` is how rare a word of the question the token is: 1 / its
    count in the context, the exact match of DrQA (Chen et al. 2017, section 3.2). `near` and `far` are the weighted share of
    the words of the question within 5 and 15 words, the sliding window of Richardson et al. (2013) as an input.
    """
    # The words of the question that the context contains, with their positions.
    words = words_at(context)
    counts = Counter(word for word, _, _ in words)
    shared = [word for word in dict.fromkeys(word for word, _, _ in words_at(question)) if word in counts]
    positions = {
        word: [index for index, (context_word, _, _) in enumerate(words) if context_word == word] for word in shared
    }

    # The features of each word of the context.
    values = {name: np.zeros(len(words) + 1) for name in MATCHES}  # the last element is for tokens without a word
    total_weight = sum(1 / counts[word] for word in shared)
    for word in shared:
        values["match"][positions[word]] = 1 / counts[word]
        for name, reach in REACH.items():
            is_near = np.zeros(len(words) + 1, dtype=bool)
            for position in positions[word]:
                is_near[max(0, position - reach) : min(len(words), position + reach + 1)] = True
            values[name] += is_near / counts[word] / total_weight

    # From words to tokens. A token that begins with white space belongs to the word in which it ends.
    word_of_character = np.full(len(context) + 1, len(words))
    for index, (_, start, end) in enumerate(words):
        word_of_character[start:end] = index
    word_of_token = [int(word_of_character[max(start, end - 1)]) for start, end in offsets]
    features = {name: [0.0] * length for name in MATCHES}
    for name in MATCHES:
        features[name][first : first + len(offsets)] = [float(value) for value in values[name][word_of_token]]
    return features
