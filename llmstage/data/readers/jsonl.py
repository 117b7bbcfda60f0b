"""Read JSON lines: one object a line."""

from __future__ import annotations

import json

from llmstage.data.files import DataFile
from llmstage.data.rows import Bad, ReadOptions, Records
from llmstage.data.text_lines import lines

ENDINGS = (".jsonl", ".ndjson")


def read(file: DataFile, options: ReadOptions) -> Records:
    """Yield one record for each line that is not blank."""
    for number, line in lines(file, options.encoding, options.max_bytes):
        if isinstance(line, Bad):
            yield number, line
            continue
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            is_terminated = line.endswith("\n")
            reason = f"not JSON ({error})" if is_terminated else f"not JSON ({error}); the last line, perhaps cut off"
            yield number, Bad(reason, line)
            continue
        if isinstance(value, dict):
            yield number, value
        else:
            yield number, Bad(f"a JSON {json_type(value)}, where a row must be an object {{...}}", line)


def json_type(value: object) -> str:
    """Return the JSON name of the type of a value."""
    if value is None:
        return "null"
    return {list: "array", str: "string", bool: "boolean", dict: "object"}.get(type(value), "number")
