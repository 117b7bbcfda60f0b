"""SQuAD v1.1 and v2.0 (Rajpurkar et al. 2016 and 2018): articles with paragraphs with questions; one record a question."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from llmstage.data.files import DataFile
from llmstage.data.readers.json import array_start, items, load_text
from llmstage.data.records import Bad, ReadOptions, Record, Records

ENDINGS = (".json",)


def read(file: DataFile, options: ReadOptions) -> Records:
    """Records `{id, title, question, context, answers, is_impossible}` with the line at which each question stands."""
    text = load_text(file, options)
    start = array_start(text, file)
    for begin, article, end in items(text, start, file):
        yield from questions(article, Lines(text, begin, end))


class Lines:
    """The line of each question of an article, found by its id; where that fails, the last line found."""

    def __init__(self, text: str, begin: int, end: int) -> None:
        self.text, self.at, self.end = text, begin, end
        self.line = 1 + text.count("\n", 0, begin)

    def of(self, name: Any) -> int:
        """Questions are asked for in the order of the file."""
        found = self.text.find(json.dumps(name), self.at, self.end)
        if found >= 0:
            self.line += self.text.count("\n", self.at, found)
            self.at = found
        return self.line


def questions(article: Any, lines: Lines) -> Iterator[Record]:
    """The questions of one article; a part without what it must hold is one bad row."""
    paragraphs = article.get("paragraphs") if isinstance(article, dict) else None
    if not isinstance(paragraphs, list):
        yield lines.line, Bad("an article without a list 'paragraphs', as SQuAD has", str(article)[:500])
        return
    for paragraph in paragraphs:
        asked = paragraph.get("qas") if isinstance(paragraph, dict) else None
        if not isinstance(asked, list):
            yield lines.line, Bad("a paragraph without a list 'qas', as SQuAD has", str(paragraph)[:500])
            continue
        for question in asked:
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
