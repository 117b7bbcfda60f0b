"""Files of answers and articles as passages, each short enough to stand in a prompt."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llmstage.config.retrieval import RetrievalConfig
from llmstage.data.files import DataFile, NamingFile, expand, walk
from llmstage.data.formats import load_reader
from llmstage.data.records import Bad, ReadOptions
from llmstage.data.row_checks import half_character
from llmstage.data.text_lines import check_encoding
from llmstage.errors import DataError, UserError
from llmstage.inference.retrieval.bm25_terms import count_words

READERS = {
    **dict.fromkeys((".md", ".markdown", ".txt", ".text"), "text"), **dict.fromkeys((".jsonl", ".ndjson"), "jsonl"),
    ".json": "json", ".csv": "csv", ".tsv": "tsv",
}  # fmt: skip
MARKDOWN = (".md", ".markdown")
QUESTION = ("question", "questions", "ask", "query", "问题", "问", "提问")
TITLE = ("title", "name", "heading", "headline", "subject", "标题")
TEXT = (
    "answer", "answers", "text", "content", "body", "article", "passage", "context", "document", "reply", "response", "回答",
    "答案", "答", "正文", "内容", "文本",
)  # fmt: skip
"""Names of columns, the first that is there counts; upper and lower case are one."""
HEADING = re.compile(r"(#{1,6})\s+(.*?)\s*#*\s*$")
FENCE = re.compile(r"\s*(```|~~~)")
SENTENCE = re.compile(r"(?<=[。！？；])|(?<=[.!?;])\s+|\n")
MOST_BYTES = 64 << 20


@dataclass(slots=True, frozen=True)
class Passage:
    """A piece of an article, or an answer."""

    id: str
    """The row's own id, or file:line; of the second and later pieces of a row with #2, #3, …"""
    title: str
    """The question, or the headings above."""
    text: str
    path: str
    """The file, seen from the folder."""
    also: str = ""
    """Other ways to ask; they are searched and not shown."""

    def searched(self) -> str:
        return "\n".join(part for part in (self.title, self.also, self.text) if part)

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def find_files(cfg: RetrievalConfig) -> list[tuple[DataFile, str]]:
    """Every file that is read, with its name seen from the folder. Raises DataError where there is none."""
    check_named_encoding(cfg.encoding)
    path = str(cfg.path)
    folder = Path(path).expanduser()
    if folder.is_dir():
        inside = list(walk(folder))
        files = [DataFile(item, os.path.join(path, item.relative_to(folder))) for item in inside]
        files = [file for file in files if file.ending() in READERS]
        if not files:
            held = ", ".join(item.name for item in inside[:5]) or "it is empty"
            raise DataError(
                f"retrieval.path={path}: this folder holds no answers or articles ({held}). Files that are read end in {', '.join(READERS)}."
            )
        return [(file, file.path.relative_to(folder).as_posix()) for file in files]
    files = expand(path, "retrieval.path", set(READERS))
    for file in files:
        if file.ending() not in READERS:
            raise DataError(f"retrieval.path={file.shown}: files that are read end in {', '.join(READERS)}. Rename it.")
    return [(file, file.path.name) for file in files]


def check_named_encoding(name: str) -> None:
    try:
        check_encoding(name)
    except UserError as error:
        raise UserError(str(error).replace("data.encoding", "retrieval.encoding")) from None


def read_passages(files: list[tuple[DataFile, str]], cfg: RetrievalConfig) -> Iterator[Passage]:
    """All passages in the order of the files. Raises DataError `file:line` for a row that is none."""
    options = ReadOptions(
        encoding=cfg.encoding, text_rows="file", max_bytes=MOST_BYTES, named=(*QUESTION[:1], *TITLE[:1], *TEXT[:1])
    )
    for file, name in files:
        kind = READERS[file.ending()]
        with NamingFile(file.shown) as guard:
            try:
                for guard.line, record in load_reader(kind).read(file, options):
                    if isinstance(record, Bad):
                        raise DataError(f"{file.shown}:{guard.line}: {record.reason}.")
                    if kind == "text":
                        yield from of_article(record["text"], name, file.ending() in MARKDOWN, cfg.passage_words)
                    else:
                        yield from of_row(record, name, guard.line, file.shown, cfg.passage_words)
            except DataError as error:
                told = str(error).replace("data.encoding", "retrieval.encoding")
                raise DataError(told if "retrieval.path" in told else f"{told} (retrieval.path={cfg.path})") from None


def of_row(record: dict[str, Any], name: str, line: int, shown: str, most: int) -> Iterator[Passage]:
    """A row of JSON or CSV: its text, cut where it is long; every piece keeps the title."""
    lower = {str(key).strip().lower(): value for key, value in record.items()}
    column = next((word for word in TEXT if word in lower), None)
    if column is None:
        raise DataError(
            f"{shown}:{line}: a row without a text. Its columns are {', '.join(map(str, record)) or 'none'}; the text is looked for in {', '.join(TEXT[:6])}, …"
        )
    text = "\n".join(texts(lower[column], column, shown, line)).strip()
    if not text:
        raise DataError(
            f"{shown}:{line}: its '{column}' is empty, so there is nothing to answer with. Fill or remove the row."
        )
    title, also = "", []
    for words in (TITLE, QUESTION):
        key = next((word for word in words if word in lower and word != column), None)
        if key is not None:
            first, *others = [*texts(lower[key], key, shown, line), ""]
            title = " – ".join(part for part in (title, first.strip()) if part)
            also += [other for other in others if other.strip()]
    given = record.get("id")
    if isinstance(given, str):
        texts(given, "id", shown, line)  # it is told with the passage
    own = str(given) if isinstance(given, (str, int)) and str(given).strip() else f"{name}:{line}"
    whole = Passage(own, title, text, name, "\n".join(also))
    for number, (_, piece) in enumerate(cut(text, most), start=1):
        yield replace(whole, id=own if number == 1 else f"{own}#{number}", text=piece)


def texts(value: Any, column: str, shown: str, line: int) -> list[str]:
    """A text, or a list of texts."""
    found = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(item, str) for item in found):
        raise DataError(f"{shown}:{line}: its '{column}' is neither a text nor a list of texts. Mend the row.")
    half = next(filter(None, map(half_character, found)), None)
    if half:
        raise DataError(f"{shown}:{line}: {half} in '{column}'. Mend the row.")
    return found


def of_article(text: str, name: str, markdown: bool, most: int) -> Iterator[Passage]:
    """The sections of an article, cut where they are long; a title is the headings above, else the name of the file."""
    for first, title, body in sections(text) if markdown else [(1, "", text)]:
        for before, piece in cut(body, most):
            line = first + body.count("\n", 0, before)
            yield Passage(f"{name}:{line}", title or Path(name.removesuffix(".gz")).stem, piece, name)


def sections(text: str) -> Iterator[tuple[int, str, str]]:
    """(line of its first line, headings above it, text) of each section of a Markdown text."""
    above: list[tuple[int, str]] = []
    body: list[str] = []
    first, fenced = 1, False
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        fenced ^= FENCE.match(line) is not None
        found = None if fenced else HEADING.match(line)
        if found is None:
            body.append(line)
            continue
        if any(map(str.strip, body)):
            yield first, " › ".join(heading for _, heading in above), "\n".join(body)
        depth = len(found[1])
        above = [(level, heading) for level, heading in above if level < depth] + [(depth, found[2])]
        body, first = [], number + 1
    if any(map(str.strip, body)):
        yield first, " › ".join(heading for _, heading in above), "\n".join(body)


def cut(text: str, most: int) -> Iterator[tuple[int, str]]:
    """(where it begins, piece) of pieces of `most` words: whole paragraphs while they fit, else whole sentences, else words."""
    start, held, size = 0, "", 0
    for begin, part in parts(text, most):
        count = count_words(part)
        if held.strip() and size + count > most:
            yield start + len(held) - len(held.lstrip()), held.strip()
            held, size = "", 0
        if not held:
            start = begin
        held += part
        size += count
    if held.strip():
        yield start + len(held) - len(held.lstrip()), held.strip()


def parts(text: str, most: int) -> Iterator[tuple[int, str]]:
    """(where it begins, part) of paragraphs, of the sentences of longer ones, of halves of longer sentences; end to end they
    are the text."""
    for begin, paragraph in split(text, re.compile(r"(?<=\n)\s*\n")):
        if count_words(paragraph) <= most:
            yield begin, paragraph
            continue
        for inner, sentence in split(paragraph, SENTENCE):
            yield from halves(begin + inner, sentence, most)


def split(text: str, border: re.Pattern[str]) -> Iterator[tuple[int, str]]:
    """Cut behind every border; the border stays with what is before it."""
    start = 0
    for found in border.finditer(text):
        if found.end() > start:
            yield start, text[start : found.end()]
            start = found.end()
    if start < len(text):
        yield start, text[start:]


def halves(begin: int, text: str, most: int) -> Iterator[tuple[int, str]]:
    if count_words(text) <= most or len(text) < 2:
        yield begin, text
        return
    middle = len(text) // 2
    space = text.rfind(" ", 1, middle) + 1
    at = space if space > len(text) // 4 else middle
    yield from halves(begin, text[:at], most)
    yield from halves(begin + at, text[at:], most)
