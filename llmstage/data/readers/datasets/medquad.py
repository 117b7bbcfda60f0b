"""Read MedQuAD (Ben Abacha and Demner-Fushman 2019, arXiv 1901.08079): XML documents with question-answer pairs.

A document that declares a document type or entities is refused: an entity could expand without bound or load other files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.parsers import expat

from llmstage.data.files import DataFile
from llmstage.data.rows import Bad, FileHead, ReadOptions, Record, Records
from llmstage.data.text_lines import too_large
from llmstage.errors import DataError

ENDINGS = (".xml",)


def matches(head: FileHead) -> bool:
    """Return whether the beginning of a file is XML with a question-answer pair."""
    return head.text.lstrip().startswith("<") and "<QAPair" in head.text


def find(folder: Path) -> list[Path]:
    """Return the documents of a folder and of its subfolders, which are the collections (`5_NIDDK_QA`)."""
    return sorted(path for path in folder.rglob("*.xml") if path.is_file())


def read(file: DataFile, options: ReadOptions) -> Records:
    """Yield records `{question, answer, qtype, focus, source, document}` with single spaces.

    `answer` is None where the collection was published without answers. `document` is the source and id of the
    document; `focus` may be empty.
    """
    with file.open() as stream:
        raw = stream.read(options.max_bytes + 1)
    if len(raw) > options.max_bytes:
        yield 1, too_large(file.path.stat().st_size, options.max_bytes, raw[:500].decode("utf-8", "replace"))
        return
    document = Document(file.display_name)
    try:
        document.parser.Parse(raw, True)
    except expat.ExpatError as error:
        raise DataError(
            f"{file.display_name}:{error.lineno}: not XML ({expat.ErrorString(error.code)}). Repair the file."
        ) from None
    except (ValueError, LookupError) as error:  # the parser lacks the encoding
        raise DataError(f"{file.display_name}:1: {error}. Write the file as UTF-8.") from None
    if not document.seen:
        raise DataError(
            f"{file.display_name}: no <QAPair> in this XML, so it is no MedQuAD document. Check data.format."
        )
    yield from document.records


class Document:
    """Collects the pairs of one document while it is parsed."""

    def __init__(self, file_name: str) -> None:
        self.file_name = file_name
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self.refuse
        self.parser.StartElementHandler = self.start
        self.parser.EndElementHandler = self.end
        self.parser.CharacterDataHandler = self.text
        self.records: list[Record] = []
        self.seen = False
        self.source, self.focus, self.document, self.line = "", "", file_name, 0
        self.pair: dict[str, Any] = {}
        self.text_parts: list[str] | None = None

    def refuse(self, *_: Any) -> None:
        raise DataError(
            f"{self.file_name}:{self.parser.CurrentLineNumber}: a document type (DOCTYPE) is declared; it could define entities "
            f"that grow without bound, so the file is refused. Remove the declaration."
        )

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "Document":
            self.source = attributes.get("source", "")
            self.document = " ".join(part for part in (self.source, attributes.get("id")) if part) or self.file_name
        elif name == "QAPair":
            self.seen, self.line, self.pair = True, self.parser.CurrentLineNumber, {}
        if name == "Question":
            self.pair["qtype"] = attributes.get("qtype", "")
        if name in ("Question", "Answer", "Focus"):
            self.text_parts = []

    def text(self, data: str) -> None:
        if self.text_parts is not None:
            self.text_parts.append(data)

    def end(self, name: str) -> None:
        if name in ("Question", "Answer", "Focus") and self.text_parts is not None:
            text = " ".join("".join(self.text_parts).split())
            self.text_parts = None
            if name == "Focus":
                self.focus = text
            else:
                self.pair[name.lower()] = text
        elif name == "QAPair":
            question, answer = self.pair.get("question"), self.pair.get("answer")
            if not question:
                self.records.append((self.line, Bad("a <QAPair> without a <Question>", str(self.pair)[:500])))
                return
            record = {"question": question, "answer": answer or None, "qtype": self.pair.get("qtype") or None}
            self.records.append(
                (self.line, {**record, "focus": self.focus, "source": self.source, "document": self.document})
            )
