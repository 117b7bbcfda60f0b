"""Rows of questions about a text, in whatever form their answers come; and simple ways to guess an answer."""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from llmstage.data.rows import Row
from llmstage.evaluation.metrics.generation import WORD

SENTENCE = re.compile(r"[^.!?。！？；\n]*(?:\.(?=\d)[^.!?。！？；\n]*)*[.!?。！？；\n]?\s*")
BREAK = re.compile(r"[,;:()（），；：、。！？.!?\n\"“”《》]")
"""A guessed span does not reach across one of these."""
TRUE, FALSE = ("true", "1", "yes"), ("false", "0", "no", "none", "")


@dataclass(slots=True, frozen=True)
class Answer:
    """A span of the context."""

    text: str
    start: int
    """First character of it in the context."""
    places: int = 1
    """How often the text occurs, where no start was given: above 1, the first was taken."""


class BadAnswer(ValueError):
    """What is wrong with the answers of a row; the text names the question."""


def answers_of(row: Row) -> list[Answer]:
    """The answers of a row as spans; none for a question without an answer. Raises BadAnswer.

    Forms: SQuAD's list of {text, answer_start}; the columns of lists that `datasets` makes of it; a text or a list of
    texts, with `answer_start` beside it or not.
    """
    given: Any = row["answers"]
    starts: Any = row.get("answer_start")
    if isinstance(given, dict):
        given, starts = given.get("text"), given.get("answer_start")
    given = [given] if isinstance(given, (str, dict)) else given
    if not isinstance(given, (list, tuple)):
        raise BadAnswer(f"{asked(row)}the answer is {type(given).__name__}, not a text or a list")
    starts = starts if isinstance(starts, (list, tuple)) else [starts] * len(given)
    if len(starts) != len(given):
        raise BadAnswer(f"{asked(row)}{len(given)} answers but {len(starts)} in answer_start")
    impossible = truth(row)
    if impossible:
        return []
    found = [placed(row, one, start) for one, start in zip(given, starts, strict=True) if one != ""]
    if not found and impossible is False:
        raise BadAnswer(f"{asked(row)}no answer, though is_impossible is false")
    return found


def truth(row: Row) -> bool | None:
    """`is_impossible` as a truth value; None where the row has none."""
    value = row.get("is_impossible")
    word = str(value).strip().lower()
    if value is None or word == "":
        return None
    if word not in (*TRUE, *FALSE):
        raise BadAnswer(f"{asked(row)}is_impossible is {value!r}, not true or false")
    return word in TRUE


def placed(row: Row, one: Any, start: Any) -> Answer:
    """One answer as a span of the context, checked."""
    if isinstance(one, dict):
        one, start = one.get("text"), one.get("answer_start")
    context = row["context"]
    if not isinstance(one, str) or not one.strip():
        raise BadAnswer(f"{asked(row)}an answer without a text")
    shown = one if len(one) <= 60 else f"{one[:57]}..."
    if start is None or start == "":
        first = context.find(one)
        if first < 0:
            raise BadAnswer(f"{asked(row)}the answer {shown!r} does not stand in the context")
        return Answer(one, first, context.count(one))
    try:
        at = int(start)
    except (TypeError, ValueError):
        raise BadAnswer(f"{asked(row)}answer_start is {start!r}, not a whole number") from None
    if at < 0 or context[at : at + len(one)] != one:
        there = context[at : at + len(shown)] if 0 <= at < len(context) else ""
        known = context.find(one)
        hint = f"it stands at {known}" if known >= 0 else "it does not stand in the context at all"
        raise BadAnswer(f"{asked(row)}answer_start={at} points at {there!r}, not at the answer {shown!r}; {hint}")
    return Answer(one, at)


def asked(row: Row) -> str:
    name = row.get("id")
    return f"question {name}: " if name not in (None, "") else ""


def texts_of(ref: Row) -> list[str]:
    """The texts of a reference's answers; none for a question without an answer."""
    return [one["text"] for one in ref["answers"]]


def text_at(prediction: Row, ref: Row) -> str:
    """The best span of a prediction as text."""
    return str(ref["context"][slice(*prediction["spans"][0][:2])]) if prediction["spans"] else ""


def question_word(question: str) -> str:
    """What is asked for, by the first question word of either language."""
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
    """The context, of a long one the part around a span (or its beginning), with dots where something is left out."""
    if len(context) <= 3 * around:
        return context
    first, last = max(0, (start or 0) - around), min(len(context), (end or 0) + around)
    return f"{'…' if first else ''}{context[first:last]}{'…' if last < len(context) else ''}"


def likeliest_part(context: list[int], question: list[int], room: int) -> tuple[int, int]:
    """(first, stop): the `room` tokens of the context that hold most of the question's, each weighted by its rarity in
    the context and counted once for each time it occurs; the first such part."""
    if len(context) <= room:
        return 0, len(context)
    counts, wanted = Counter(context), set(question)
    weights = [1 / counts[token] if token in wanted else 0.0 for token in context]
    sums = [0.0, *itertools.accumulate(weights)]
    first = max(range(len(context) - room + 1), key=lambda at: (round(sums[at + room] - sums[at], 9), -at))
    return first, first + room


def sentences(text: str) -> list[tuple[int, int]]:
    """(start, end) of the sentences of a text, in both languages; a point between digits ends none."""
    spans = []
    for found in SENTENCE.finditer(text):
        start, end = found.start(), found.start() + len(found.group().rstrip())
        if end > start:
            spans.append((start, end))
    return spans


class Guesser:
    """Answers by the words that question and context share, without a model."""

    def __init__(self, rows: Iterable[Row]) -> None:
        """Learns from the training rows how long an answer is, in words (Chinese characters), and which words are
        common in questions and so say little."""
        lengths, self.seen, self.asked = [], Counter[str](), 0
        for row in rows:
            lengths += [len(words_at(answer.text)) for answer in answers_of(row)]
            self.seen.update({word for word, _, _ in words_at(row["question"])})
            self.asked += 1
        self.length = max(1, round(statistics.median(lengths))) if lengths else 1

    def weight(self, word: str) -> float:
        """log(questions / questions with the word): rare words tell more."""
        return math.log((1 + self.asked) / (1 + self.seen[word])) + 1e-3

    def methods(self) -> dict[str, Callable[[str, str], str]]:
        """By name, from (question, context) to a guess."""
        return {
            "sliding window span": self.best_span,
            "sentence with most question words": self.best_sentence,
            "first sentence": self.first_sentence,
        }

    def first_sentence(self, question: str, context: str) -> str:
        spans = sentences(context)
        return context[slice(*spans[0])] if spans else context

    def best_sentence(self, question: str, context: str) -> str:
        """The sentence that shares the words of most weight with the question."""
        wanted = {word for word, _, _ in words_at(question)}

        def shared(span: tuple[int, int]) -> float:
            return sum(self.weight(word) for word in wanted & {word for word, _, _ in words_at(context[slice(*span)])})

        spans = sentences(context)
        return context[slice(*max(spans, key=shared))] if spans else context

    def best_span(self, question: str, context: str, reach: int = 10) -> str:
        """The span of usual length, without words of the question, around which most of them stand.

        The sliding window of Richardson et al. (2013) in the form of Rajpurkar et al. (2016): candidates are scored by
        the question's words within `reach` words on either side, each weighted and counted once, near ones for more.
        """
        wanted = {word for word, _, _ in words_at(question)}
        words = words_at(context)
        inside = [word in wanted for word, _, _ in words]
        best, found = -1.0, (0, len(context))
        for first in range(len(words)):
            last = min(first + self.length, len(words)) - 1
            start, end = words[first][1], words[last][2]
            if any(inside[first : last + 1]) or BREAK.search(context, start, end):
                continue
            value: dict[str, float] = {}
            for place in range(max(0, first - reach), min(len(words), last + reach + 1)):
                if inside[place]:
                    gap = max(first - place, place - last)
                    word = words[place][0]
                    value[word] = max(value.get(word, 0.0), self.weight(word) / (1 + gap / reach))
            if sum(value.values()) > best:
                best, found = sum(value.values()), (start, end)
        return context[slice(*found)]


def words_at(text: str) -> list[tuple[str, int, int]]:
    """(word in lower case, start, end); a Chinese character is a word."""
    return [(found.group().lower(), found.start(), found.end()) for found in WORD.finditer(text)]
