"""Financial PhraseBank (Malo et al. 2014, arXiv 1307.5336): one `sentence@label` a line, split at the last `@`."""

from __future__ import annotations

from llmstage.data.files import DataFile
from llmstage.data.records import Bad, ReadOptions, Records
from llmstage.data.text_lines import lines

ENDINGS = (".txt",)


def read(file: DataFile, options: ReadOptions) -> Records:
    """Records `{"text": ..., "label": ...}`. The published files are in ISO-8859-1: data.encoding=latin-1."""
    for number, line in lines(file, options.encoding, options.max_bytes):
        if isinstance(line, Bad):
            yield number, line
        elif line.strip():
            text, mark, label = line.strip().rpartition("@")
            if mark and text.strip() and label.strip():
                yield number, {"text": text.strip(), "label": label.strip()}
            else:
                yield number, Bad("no `sentence@label`: text, an @ and a label must stand on the line", line.strip())
