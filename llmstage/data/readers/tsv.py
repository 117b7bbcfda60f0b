"""Read tab-separated values with the CSV reader, which tries the tab first."""

from __future__ import annotations

from llmstage.data.files import DataFile
from llmstage.data.readers.csv import describe_layout, find_layout, read_layout
from llmstage.data.rows import ReadOptions, Records

ENDINGS = (".tsv", ".tab")


def read(file: DataFile, options: ReadOptions) -> Records:
    """Yield records by column name, or by column number (`"0"`) without a header."""
    return read_layout(file, options, find_layout(file, options, first_guess="\t"))


def describe(file: DataFile, options: ReadOptions) -> str:
    """Return what was detected, for the header line."""
    return describe_layout(find_layout(file, options, first_guess="\t"), "\t")
