"""Read Financial PhraseBank (Malo et al. 2014, arXiv 1307.5336): one `sentence@label` a line, split at the last `@`."""

from __future__ import annotations

import re

from llmstage.data.files import DataFile
from llmstage.data.readers import json
from llmstage.data.rows import Bad, FileHead, ReadOptions, Records
from llmstage.data.text_lines import lines

ENDINGS = (".txt",)
PHRASE = re.compile(r".+@(negative|neutral|positive)\s*")


def matches(head: FileHead) -> bool:
    """Return whether every complete line at the beginning of a text file ends in `@` and a sentiment."""
    is_binary = head.ending_format is None and "\0" in head.text
    if head.ending_format not in (None, "text") or is_binary or json.detect(head):
        return False
    rows = head.text.splitlines()[:-1] or [head.text]
    return len(rows) > 1 and all(PHRASE.fullmatch(row) for row in rows if row.strip())


def read(file: DataFile, options: ReadOptions) -> Records:
    """Yield records `{"text": ..., "label": ...}`. The published files are in ISO-8859-1: data.encoding=latin-1."""
    for number, line in lines(file, options.encoding, options.max_bytes):
        if isinstance(line, Bad):
            yield number, line
        elif line.strip():
            text, mark, label = line.strip().rpartition("@")
            if mark and text.strip() and label.strip():
                yield number, {"text": text.strip(), "label": label.strip()}
            else:
                yield number, Bad("no `sentence@label`: text, an @ and a label must stand on the line", line.strip())
