"""Reads files of answers and articles and splits them into passages that are short enough for a prompt."""

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
from llmstage.data.row_checks import lone_surrogate
from llmstage.data.rows import Bad, ReadOptions
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
"""Names of columns, in any case. The first name that a row has is used."""
HEADING = re.compile(r"(#{1,6})\s+(.*?)\s*#*\s*$")
FENCE = re.compile(r"\s*(```|~~~)")
SENTENCE = re.compile(r"(?<=[。！？；])|(?<=[.!?;])\s+|\n")
MAX_ROW_BYTES = 64 << 20


@dataclass(slots=True, frozen=True)
class Passage:
    """A part of an article, or an answer."""

    id: str
    """The row's id column, or file:line. The second and later parts of a row have the suffix #2, #3, …"""
    title: str
    """The question, or the headings above the text."""
    text: str
    path: str
    """The file, relative to the folder."""
    also: str = ""
    """Further wordings of the question. The search uses them; the prompt does not contain them."""

    def searchable_text(self) -> str:
        """Return the text that the index contains."""
        return "\n".join(part for part in (self.title, self.also, self.text) if part)

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def find_files(cfg: RetrievalConfig) -> list[tuple[DataFile, str]]:
    """Return the files of retrieval.path, each with its name relative to the folder. Raises DataError where there is none."""
    check_named_encoding(cfg.encoding)
    path = str(cfg.path)
    folder = Path(path).expanduser()
    if folder.is_dir():
        entries = list(walk(folder))
        files = [DataFile(entry, os.path.join(path, entry.relative_to(folder))) for entry in entries]
        files = [file for file in files if file.ending() in READERS]
        if not files:
            examples = ", ".join(entry.name for entry in entries[:5]) or "it is empty"
            raise DataError(
                f"retrieval.path={path}: this folder has no answers or articles ({examples}). File names must end in {', '.join(READERS)}."
            )
        return [(file, file.path.relative_to(folder).as_posix()) for file in files]
    files = expand(path, "retrieval.path", set(READERS))
    for file in files:
        if file.ending() not in READERS:
            raise DataError(
                f"retrieval.path={file.display_name}: file names must end in {', '.join(READERS)}. Rename it."
            )
    return [(file, file.path.name) for file in files]


def check_named_encoding(name: str) -> None:
    try:
        check_encoding(name)
    except UserError as error:
        raise UserError(str(error).replace("data.encoding", "retrieval.encoding")) from None


def read_passages(files: list[tuple[DataFile, str]], cfg: RetrievalConfig) -> Iterator[Passage]:
    """Yield all passages in the order of the files. Raises DataError with `file:line` for a bad row."""
    options = ReadOptions(
        encoding=cfg.encoding, text_rows="file", max_bytes=MAX_ROW_BYTES, named=(*QUESTION[:1], *TITLE[:1], *TEXT[:1])
    )
    for file, name in files:
        reader = READERS[file.ending()]
        with NamingFile(file.display_name) as guard:
            try:
                for guard.line, record in load_reader(reader).read(file, options):
                    if isinstance(record, Bad):
                        raise DataError(f"{file.display_name}:{guard.line}: {record.reason}.")
                    if reader == "text":
                        is_markdown = file.ending() in MARKDOWN
                        yield from article_passages(record["text"], name, is_markdown, cfg.passage_words)
                    else:
                        yield from row_passages(record, name, guard.line, file.display_name, cfg.passage_words)
            except DataError as error:
                message = str(error).replace("data.encoding", "retrieval.encoding")
                if "retrieval.path" not in message:
                    message += f" (retrieval.path={cfg.path})"
                raise DataError(message) from None


def row_passages(record: dict[str, Any], name: str, line: int, file_name: str, max_words: int) -> Iterator[Passage]:
    """Yield the passages of a row of JSON or CSV. A long text is split; every part keeps the title.

    `name`: the file relative to the folder, for ids; `file_name`: the file as the user named it, for errors.
    """
    values = {str(column).strip().lower(): value for column, value in record.items()}
    text_column = next((column for column in TEXT if column in values), None)
    if text_column is None:
        raise DataError(
            f"{file_name}:{line}: a row without a text. Its columns are {', '.join(map(str, record)) or 'none'}; the text is looked "
            f"for in {', '.join(TEXT[:6])}, …"
        )
    text = "\n".join(texts(values[text_column], text_column, file_name, line)).strip()
    if not text:
        raise DataError(
            f"{file_name}:{line}: its '{text_column}' is empty, so there is nothing to answer with. Fill or remove the row."
        )
    # The title is the title column and the first question; further questions are searched only.
    title, also = "", []
    for names in (TITLE, QUESTION):
        column = next((column for column in names if column in values and column != text_column), None)
        if column is not None:
            first, *rest = [*texts(values[column], column, file_name, line), ""]
            title = " – ".join(part for part in (title, first.strip()) if part)
            also += [wording for wording in rest if wording.strip()]
    row_id = record.get("id")
    if isinstance(row_id, str):
        texts(row_id, "id", file_name, line)  # replies contain the id, so it must be valid text
    passage_id = str(row_id) if isinstance(row_id, (str, int)) and str(row_id).strip() else f"{name}:{line}"
    passage = Passage(passage_id, title, text, name, "\n".join(also))
    for number, (_, part) in enumerate(split_text(text, max_words), start=1):
        yield replace(passage, id=passage_id if number == 1 else f"{passage_id}#{number}", text=part)


def texts(value: Any, column: str, file_name: str, line: int) -> list[str]:
    """Return the texts of a cell that contains a text or a list of texts. Raises DataError for anything else."""
    cell_texts = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in cell_texts):
        raise DataError(f"{file_name}:{line}: its '{column}' is neither a text nor a list of texts. Correct the row.")
    half = next(filter(None, map(lone_surrogate, cell_texts)), None)
    if half:
        raise DataError(f"{file_name}:{line}: {half} in '{column}'. Correct the row.")
    return cell_texts


def article_passages(text: str, name: str, is_markdown: bool, max_words: int) -> Iterator[Passage]:
    """Yield the passages of an article, section by section. The title is the headings above it, else the name of the file."""
    for first_line, title, body in sections(text) if is_markdown else [(1, "", text)]:
        for start, part in split_text(body, max_words):
            line = first_line + body.count("\n", 0, start)
            yield Passage(f"{name}:{line}", title or Path(name.removesuffix(".gz")).stem, part, name)


def sections(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield (number of the first line, headings above it, text) for each section of a Markdown text."""
    headings: list[tuple[int, str]] = []
    body: list[str] = []
    first_line, fenced = 1, False
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        fenced ^= FENCE.match(line) is not None
        match = None if fenced else HEADING.match(line)  # a # inside a code block is a comment
        if match is None:
            body.append(line)
            continue
        if any(map(str.strip, body)):
            yield first_line, " › ".join(heading for _, heading in headings), "\n".join(body)
        depth = len(match[1])
        headings = [(level, heading) for level, heading in headings if level < depth] + [(depth, match[2])]
        body, first_line = [], number + 1
    if any(map(str.strip, body)):
        yield first_line, " › ".join(heading for _, heading in headings), "\n".join(body)


def split_text(text: str, max_words: int) -> Iterator[tuple[int, str]]:
    """Yield (start, part) of parts with at most `max_words` words.

    Parts are complete paragraphs where these fit, else complete sentences, else words.
    """
    start, buffer, size = 0, "", 0
    for unit_start, unit in text_units(text, max_words):
        count = count_words(unit)
        if buffer.strip() and size + count > max_words:
            yield start + len(buffer) - len(buffer.lstrip()), buffer.strip()
            buffer, size = "", 0
        if not buffer:
            start = unit_start
        buffer += unit
        size += count
    if buffer.strip():
        yield start + len(buffer) - len(buffer.lstrip()), buffer.strip()


def text_units(text: str, max_words: int) -> Iterator[tuple[int, str]]:
    """Yield (start, unit): paragraphs, the sentences of longer paragraphs, the halves of longer sentences.

    The units joined together are the text.
    """
    for start, paragraph in split_after(text, re.compile(r"(?<=\n)\s*\n")):
        if count_words(paragraph) <= max_words:
            yield start, paragraph
            continue
        for offset, sentence in split_after(paragraph, SENTENCE):
            yield from halves(start + offset, sentence, max_words)


def split_after(text: str, separator: re.Pattern[str]) -> Iterator[tuple[int, str]]:
    """Yield (start, part), split after every separator; the separator belongs to the part before it."""
    start = 0
    for match in separator.finditer(text):
        if match.end() > start:
            yield start, text[start : match.end()]
            start = match.end()
    if start < len(text):
        yield start, text[start:]


def halves(start: int, text: str, max_words: int) -> Iterator[tuple[int, str]]:
    """Yield (start, part): the text split in two until each part has at most `max_words` words."""
    if count_words(text) <= max_words or len(text) < 2:
        yield start, text
        return
    middle = len(text) // 2
    space = text.rfind(" ", 1, middle) + 1
    cut = space if space > len(text) // 4 else middle
    yield from halves(start, text[:cut], max_words)
    yield from halves(start + cut, text[cut:], max_words)
