"""Read SQuAD v1.1 and v2.0 (Rajpurkar et al. 2016 and 2018): articles with paragraphs with questions.

One record is one question. Many question answering data sets are published in this format.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from llmstage.data.files import DataFile
from llmstage.data.readers.json import array_start, is_document, items, load_text
from llmstage.data.rows import Bad, FileHead, ReadOptions, Record, Records

ENDINGS = (".json",)
PARAGRAPHS = re.compile(r'"paragraphs"\s*:\s*\[')


def matches(head: FileHead) -> bool:
    """Return whether the beginning of a file is a JSON object with the keys of SQuAD."""
    if not head.text.lstrip().startswith("{") or not is_document(head.text):
        return False
    return bool(PARAGRAPHS.search(head.text)) and '"data"' in head.text and '"context"' in head.text


def read(file: DataFile, options: ReadOptions) -> Records:
    """Yield records `{id, title, question, context, answers, is_impossible}` with the line of each question."""
    text = load_text(file, options)
    start = array_start(text, file)
    for begin, article, end in items(text, start, file):
        yield from questions(article, Lines(text, begin, end))


class Lines:
    """Find the line of each question of an article by its id. An id that is not found gets the line of the one before."""

    def __init__(self, text: str, begin: int, end: int) -> None:
        self.text, self.position, self.end = text, begin, end
        self.line = 1 + text.count("\n", 0, begin)

    def of(self, name: Any) -> int:
        """Return the line of a question id. Ids must be passed in the order of the file."""
        position = self.text.find(json.dumps(name), self.position, self.end)
        if position >= 0:
            self.line += self.text.count("\n", self.position, position)
            self.position = position
        return self.line


def questions(article: Any, lines: Lines) -> Iterator[Record]:
    """Yield the questions of one article. A part that lacks a required key is one bad row."""
    paragraphs = article.get("paragraphs") if isinstance(article, dict) else None
    if not isinstance(paragraphs, list):
        yield lines.line, Bad("an article without a list 'paragraphs', as SQuAD has", str(article)[:500])
        return
    for paragraph in paragraphs:
        qas = paragraph.get("qas") if isinstance(paragraph, dict) else None
        if not isinstance(qas, list):
            yield lines.line, Bad("a paragraph without a list 'qas', as SQuAD has", str(paragraph)[:500])
            continue
        for question in qas:
            if not isinstance(question, dict):
                yield lines.line, Bad("a question that is no object", str(question)[:500])
                continue
            record = {
                "id": question.get("id"),
                "title": article.get("title"),
                "question": question.get("question"),
                "context": paragraph.get("context"),
                "answers": question.get("answers") or [],
            }
            if "is_impossible" in question:
                record["is_impossible"] = question["is_impossible"]
            yield lines.of(question.get("id")), record
