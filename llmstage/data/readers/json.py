"""Read a JSON document: an array of objects, an array of lists (columns 0, 1, 2, …), an object with one list of rows, or an
object of rows by their id."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from llmstage.data.files import DataFile
from llmstage.data.readers.jsonl import json_type
from llmstage.data.rows import Bad, FileHead, ReadOptions, Records
from llmstage.data.text_lines import decode, likely_encoding, open_text, too_large
from llmstage.errors import DataError

ENDINGS = (".json",)
SPACE = re.compile(r"[ \t\r\n]*")
DECODER = json.JSONDecoder()
ARRAY = re.compile(r'\s*\[\s*(\{\s*["}]|\[\s*["\d\-\[])')
"""The beginning of an array of objects or of lists."""
OBJECT = re.compile(r'\s*\{\s*"')


def read(file: DataFile, options: ReadOptions) -> Records:
    """Yield each record with its first line. The document is kept in memory; use JSON lines for very large sets."""
    text = load_text(file, options)
    if text.lstrip()[:1] == "{" and (keyed := rows_by_id(text, file)):
        yield from keyed
        return
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
            yield line, Bad(f"a JSON {json_type(value)}, where a row must be an object or a list", text[begin:after])


def load_text(file: DataFile, options: ReadOptions) -> str:
    """Return the document as text. Raise DataError `file:line` where it does not decode."""
    stream, encoding = open_text(file, options.encoding)
    with stream:
        raw = stream.read()
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        number = raw.count(b"\n", 0, error.start) + 1
        begin = raw.rfind(b"\n", 0, error.start) + 1
        decoded = decode(raw[begin : error.end + 3], encoding, file)
        reason = decoded.reason if isinstance(decoded, Bad) else f"not valid {encoding}"
        remedy = "" if likely_encoding(file, encoding) else " Repair the file, or set data.encoding."
        raise DataError(f"{file.display_name}:{number}: {reason}.{remedy}") from None


def array_start(text: str, file: DataFile) -> int:
    """Return the index at which the array of rows begins."""
    start = skip_space(text, 0)
    if text[start : start + 1] == "[":
        return start
    if text[start : start + 1] != "{":
        raise syntax_error(file, text, start, "not JSON: neither an array nor an object begins here")
    lists = {
        key: begin
        for key, begin, value in members(text, start, file)
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value)
    }
    if len(lists) != 1:
        content = f"it holds {len(lists)} ({', '.join(lists)})" if lists else "it holds none"
        raise DataError(
            f"{file.display_name}:1: a JSON object can be read as rows where it holds exactly one list of objects; {content}. "
            f"Write an array of objects, or one object a line with data.format=jsonl."
        )
    return next(iter(lists.values()))


def rows_by_id(text: str, file: DataFile) -> list[tuple[int, dict[str, Any]]]:
    """Return the rows of an object that has one row for each id, each with its line; [] for another object.

    A row is an object (MultiWOZ), or a list of messages.
    """
    rows: list[tuple[int, dict[str, Any]]] = []
    line, end = 1, 0
    for key, begin, value in members(text, skip_space(text, 0), file):
        if isinstance(value, dict) and value:
            row = {"id": key, **value}
        elif is_conversation(value):
            row = {"id": key, "messages": value}
        else:
            return []
        line += text.count("\n", end, begin)
        end = begin
        rows.append((line, row))
    return rows


def is_conversation(value: Any) -> bool:
    """Return whether a value is a list of messages with a role and a text each."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(item, dict)
            and any(key in item for key in ("role", "from", "speaker"))
            and any(key in item for key in ("content", "value", "text", "utterance"))
            for item in value
        )
    )


def items(text: str, start: int, file: DataFile) -> Iterator[tuple[int, Any, int]]:
    """Yield (begin, value, end) of each element of the array at `start`."""
    index = skip_space(text, start + 1)
    if text[index : index + 1] == "]":
        return
    while True:
        value, end = parse(text, index, file)
        yield index, value, end
        index = skip_space(text, end)
        if text[index : index + 1] == "]":
            return
        if text[index : index + 1] != ",":
            raise syntax_error(file, text, index, "not JSON: ',' or ']' must follow an element of the array")
        index = skip_space(text, index + 1)


def members(text: str, start: int, file: DataFile) -> Iterator[tuple[str, int, Any]]:
    """Yield (key, begin of the value, value) of each member of the object at `start`."""
    index = skip_space(text, start + 1)
    while text[index : index + 1] != "}":
        key, end = parse(text, index, file)
        index = skip_space(text, end)
        if not isinstance(key, str) or text[index : index + 1] != ":":
            raise syntax_error(file, text, index, 'not JSON: "key": value must stand here')
        begin = skip_space(text, index + 1)
        value, end = parse(text, begin, file)
        yield key, begin, value
        index = skip_space(text, end)
        if text[index : index + 1] == ",":
            index = skip_space(text, index + 1)
        elif text[index : index + 1] != "}":
            raise syntax_error(file, text, index, "not JSON: ',' or '}' must follow a value of the object")


def parse(text: str, index: int, file: DataFile) -> tuple[Any, int]:
    """Return (value, end) of the JSON value at `index`."""
    try:
        return DECODER.raw_decode(text, index)
    except (ValueError, RecursionError) as error:
        position = error.pos if isinstance(error, json.JSONDecodeError) else index
        raise syntax_error(file, text, position, f"not JSON ({error})") from None


def skip_space(text: str, index: int) -> int:
    space = SPACE.match(text, index)
    return space.end() if space else index


def syntax_error(file: DataFile, text: str, index: int, reason: str) -> DataError:
    """Return the error for broken JSON. It is never quarantined: the rows after it cannot be found."""
    tail = " The file ends here; it is perhaps cut off." if not text[index:].strip() else ""
    return DataError(f"{file.display_name}:{text.count(chr(10), 0, index) + 1}: {reason}.{tail} Repair the file.")


def detect(head: FileHead) -> str | None:
    """Return `jsonl` or `json` where the beginning of a file is one of them, else None."""
    start = head.text.lstrip()
    if start[:1] not in ("{", "["):
        return None
    first, _, rest = start.partition("\n")
    try:
        value = json.loads(first)
    except ValueError:
        return "json" if is_document(head.text) else None
    if rest.strip()[:1] in ("{", "["):
        return "jsonl"
    if isinstance(value, list):
        return "json" if is_document(head.text) else None
    # One object on one line: a document where its rows are in a list, else JSON lines with one row.
    lists = [item for item in value.values() if isinstance(item, list) and item and isinstance(item[0], dict)]
    if len(value) > 1 and all(isinstance(item, dict) and any(map(is_turns, item.values())) for item in value.values()):
        return "json" if head.is_complete else "jsonl"  # conversations by their id
    is_chat = any(key in value for key in ("messages", "conversations"))
    return "json" if head.is_complete and len(lists) == 1 and not is_chat else "jsonl"


def is_turns(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def is_document(text: str) -> bool:
    """Return whether a text begins with one JSON array or object of rows rather than with JSON lines."""
    start = text.lstrip()
    if start[:1] not in ("{", "["):
        return False
    first, _, rest = start.partition("\n")
    try:
        json.loads(first)
    except ValueError:
        return bool((ARRAY if start[0] == "[" else OBJECT).match(text))
    if rest.strip()[:1] in ("{", "["):
        return False
    return start[0] == "{" or bool(ARRAY.match(text))
