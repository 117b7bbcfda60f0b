"""A JSON document: an array of objects, an array of lists (columns 0, 1, 2, …), or an object with one list of rows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from llmstage.data.files import DataFile
from llmstage.data.readers.jsonl import kind
from llmstage.data.records import Bad, ReadOptions, Records
from llmstage.data.text_lines import decode, likely_encoding, open_text, too_large
from llmstage.errors import DataError

ENDINGS = (".json",)
SPACE = re.compile(r"[ \t\r\n]*")
DECODER = json.JSONDecoder()


def read(file: DataFile, options: ReadOptions) -> Records:
    """Records with the line each begins at. The document is held in memory; use JSON lines for very large sets."""
    text = load_text(file, options)
    start = array_start(text, file)
    end = start
    line = 1 + text.count("\n", 0, start)
    for begin, value, after in items(text, start, file):
        line += text.count("\n", end, begin)
        end = begin
        if after - begin > options.max_bytes:
            yield line, too_large(after - begin, options.max_bytes, text[begin : begin + 500])
        elif isinstance(value, dict):
            yield line, value
        elif isinstance(value, list):
            yield line, {str(index): item for index, item in enumerate(value)}
        else:
            yield line, Bad(f"a JSON {kind(value)}, where a row must be an object or a list", text[begin:after])


def load_text(file: DataFile, options: ReadOptions) -> str:
    """The whole document as text. Raises DataError `file:line` where it does not decode."""
    stream, encoding = open_text(file, options.encoding)
    with stream:
        raw = stream.read()
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        number = raw.count(b"\n", 0, error.start) + 1
        begin = raw.rfind(b"\n", 0, error.start) + 1
        reason = decode(raw[begin : error.end + 3], encoding, file)
        told = reason.reason if isinstance(reason, Bad) else f"not valid {encoding}"
        mend = "" if likely_encoding(file, encoding) else " Mend the file, or set data.encoding."
        raise DataError(f"{file.shown}:{number}: {told}.{mend}") from None


def array_start(text: str, file: DataFile) -> int:
    """Where the array of rows begins."""
    start = skip(text, 0)
    if text[start : start + 1] == "[":
        return start
    if text[start : start + 1] != "{":
        raise broken(file, text, start, "not JSON: neither an array nor an object begins here")
    lists = {
        key: begin
        for key, begin, value in members(text, start, file)
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value)
    }
    if len(lists) != 1:
        found = f"it holds {len(lists)} ({', '.join(lists)})" if lists else "it holds none"
        raise DataError(
            f"{file.shown}:1: a JSON object can be read as rows where it holds exactly one list of objects; {found}. "
            f"Write an array of objects, or one object a line with data.format=jsonl."
        )
    return next(iter(lists.values()))


def items(text: str, start: int, file: DataFile) -> Iterator[tuple[int, Any, int]]:
    """(begin, value, end) of each element of the array at `start`."""
    at = skip(text, start + 1)
    if text[at : at + 1] == "]":
        return
    while True:
        value, end = parse(text, at, file)
        yield at, value, end
        at = skip(text, end)
        if text[at : at + 1] == "]":
            return
        if text[at : at + 1] != ",":
            raise broken(file, text, at, "not JSON: ',' or ']' must follow an element of the array")
        at = skip(text, at + 1)


def members(text: str, start: int, file: DataFile) -> Iterator[tuple[str, int, Any]]:
    """(key, begin of the value, value) of the object at `start`."""
    at = skip(text, start + 1)
    while text[at : at + 1] != "}":
        key, end = parse(text, at, file)
        at = skip(text, end)
        if not isinstance(key, str) or text[at : at + 1] != ":":
            raise broken(file, text, at, 'not JSON: "key": value must stand here')
        begin = skip(text, at + 1)
        value, end = parse(text, begin, file)
        yield key, begin, value
        at = skip(text, end)
        if text[at : at + 1] == ",":
            at = skip(text, at + 1)
        elif text[at : at + 1] != "}":
            raise broken(file, text, at, "not JSON: ',' or '}' must follow a value of the object")


def parse(text: str, at: int, file: DataFile) -> tuple[Any, int]:
    try:
        return DECODER.raw_decode(text, at)
    except (ValueError, RecursionError) as error:
        where = error.pos if isinstance(error, json.JSONDecodeError) else at
        raise broken(file, text, where, f"not JSON ({error})") from None


def skip(text: str, at: int) -> int:
    found = SPACE.match(text, at)
    return found.end() if found else at


def broken(file: DataFile, text: str, at: int, reason: str) -> DataError:
    """After a syntax error the rest of a document has no rows to go on with, so it is never quarantined."""
    tail = " The file ends here; it is perhaps cut off." if not text[at:].strip() else ""
    return DataError(f"{file.shown}:{text.count(chr(10), 0, at) + 1}: {reason}.{tail} Mend the file.")
