"""MedQuAD (Ben Abacha and Demner-Fushman 2019, arXiv 1901.08079): XML documents, or folders of them, with question-answer
pairs. A document that declares entities or a document type is refused, so none can grow or reach out while it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.parsers import expat

from llmstage.data.files import DataFile
from llmstage.data.records import Bad, ReadOptions, Record, Records
from llmstage.data.text_lines import too_large
from llmstage.errors import DataError

ENDINGS = (".xml",)


def find(folder: Path) -> list[Path]:
    """The documents of a folder and of the folders in it, which are the collections (`5_NIDDK_QA`)."""
    return sorted(path for path in folder.rglob("*.xml") if path.is_file())


def read(file: DataFile, options: ReadOptions) -> Records:
    """Records `{question, answer, qtype, focus, source, document}`, white space made single. `answer` is None where the
    collection was published without answers; `document` names what a pair comes from, where `focus` may be empty."""
    with file.open() as stream:
        raw = stream.read(options.max_bytes + 1)
    if len(raw) > options.max_bytes:
        yield 1, too_large(file.path.stat().st_size, options.max_bytes, raw[:500].decode("utf-8", "replace"))
        return
    document = Document(file.shown)
    try:
        document.parser.Parse(raw, True)
    except expat.ExpatError as error:
        raise DataError(
            f"{file.shown}:{error.lineno}: not XML ({expat.ErrorString(error.code)}). Mend the file."
        ) from None
    except (ValueError, LookupError) as error:  # an encoding that the parser does not have
        raise DataError(f"{file.shown}:1: {error}. Write the file as UTF-8.") from None
    if not document.seen:
        raise DataError(f"{file.shown}: no <QAPair> in this XML, so it is no MedQuAD document. Check data.format.")
    yield from document.records


class Document:
    """Gathers the pairs of one document while it is parsed."""

    def __init__(self, shown: str) -> None:
        self.shown = shown
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self.refuse
        self.parser.StartElementHandler = self.start
        self.parser.EndElementHandler = self.end
        self.parser.CharacterDataHandler = self.text
        self.records: list[Record] = []
        self.seen = False
        self.source, self.focus, self.document, self.line = "", "", shown, 0
        self.pair: dict[str, Any] = {}
        self.pieces: list[str] | None = None

    def refuse(self, *_: Any) -> None:
        raise DataError(
            f"{self.shown}:{self.parser.CurrentLineNumber}: a document type (DOCTYPE) is declared; it could define entities "
            f"that grow without bound, so the file is refused. Remove the declaration."
        )

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "Document":
            self.source = attributes.get("source", "")
            self.document = " ".join(word for word in (self.source, attributes.get("id")) if word) or self.shown
        elif name == "QAPair":
            self.seen, self.line, self.pair = True, self.parser.CurrentLineNumber, {}
        if name == "Question":
            self.pair["qtype"] = attributes.get("qtype", "")
        if name in ("Question", "Answer", "Focus"):
            self.pieces = []

    def text(self, data: str) -> None:
        if self.pieces is not None:
            self.pieces.append(data)

    def end(self, name: str) -> None:
        if name in ("Question", "Answer", "Focus") and self.pieces is not None:
            told = " ".join("".join(self.pieces).split())
            self.pieces = None
            if name == "Focus":
                self.focus = told
            else:
                self.pair[name.lower()] = told
        elif name == "QAPair":
            question, answer = self.pair.get("question"), self.pair.get("answer")
            if not question:
                self.records.append((self.line, Bad("a <QAPair> without a <Question>", str(self.pair)[:500])))
                return
            made = {"question": question, "answer": answer or None, "qtype": self.pair.get("qtype") or None}
            self.records.append(
                (self.line, {**made, "focus": self.focus, "source": self.source, "document": self.document})
            )
