"""CoNLL columns: separators, documents, numbered columns, and lines that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmstage.data.files import DataFile
from llmstage.data.formats import detect
from llmstage.data.readers import conll
from llmstage.data.rows import Bad, ReadOptions


def write(folder: Path, text: str, name: str = "a.conll") -> DataFile:
    path = folder / name
    path.write_bytes(text.encode("utf-8"))
    return DataFile(path, name)


def read(folder: Path, text: str, **options: Any) -> list[Any]:
    return list(conll.read(write(folder, text), ReadOptions(**options)))


def test_columns_by_space_documents_and_line_numbers(tmp_path: Path) -> None:
    text = "-DOCSTART- -X- O O\n\nAnna NNP - I-PER\nleft VBD - O\n\n\n中 NN - I-LOC\n"
    assert read(tmp_path, text) == [
        (3, {"tokens": ["Anna", "left"], "tags": ["I-PER", "O"], "first_line": 3}),
        (7, {"tokens": ["中"], "tags": ["I-LOC"], "first_line": 7}),
    ]


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_with_tabs_a_token_may_hold_a_space(tmp_path: Path, ends: str) -> None:
    text = ends.join(["New York\tB-LOC", "\u3000\tO", " \t", "x\tO"])  # a line of white space parts sentences
    found = [record for _, record in read(tmp_path, text)]
    assert [record["tokens"] for record in found] == [["New York", "\u3000"], ["x"]]


def test_columns_are_there_by_number_where_a_number_is_named(tmp_path: Path) -> None:
    ((_, record),) = read(tmp_path, "Anna NNP B-PER x\nleft VBD O y\n", named=("2",))
    assert record["2"] == ["B-PER", "O"] and record["0"] == record["tokens"] == ["Anna", "left"]
    assert record["tags"] == ["x", "y"]


@pytest.mark.parametrize(
    ("line", "told"),
    [("left", "one column"), ("left VBD O", "3 columns, where the file's first line has 2"), ("left\t", "one column")],
)
def test_a_line_that_does_not_fit_spoils_its_sentence_and_is_named(tmp_path: Path, line: str, told: str) -> None:
    found = read(tmp_path, f"a O\n\nAnna B-PER\n{line}\nx O\n\nb O\n")
    assert [number for number, _ in found] == [1, 4, 7]
    assert isinstance(found[1][1], Bad) and told in found[1][1].reason


def test_a_tab_separated_line_without_its_tag(tmp_path: Path) -> None:
    ((number, bad),) = read(tmp_path, "a\tO\nb\t\n")
    assert number == 2 and bad.reason == "the tag is empty"


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("a.conll", "a O\n", "conll"),
        ("a.annotated", "a\tO\n", "conll"),
        ("a.char.bmes", "a O\n", "conll"),
        ("a.txt", "Anna N - I-PER\nleft V - O\n. . - O\n\nx N - O\n", "conll"),
        ("a.tsv", "Anna\tB-PER\nleft\tO\n.\tO\n\nx\tO\n", "conll"),
        ("data", "吴 B-NAME\n重 M-NAME\n阳 E-NAME\n， O\n", "conll"),
        ("a.txt", "To be or\nnot to be\nthat is O\nthe question O\n", "text"),
        ("a.txt", "left O\nright O\nhere O\nthere O\n", "text"),  # no entity: data.format=conll must say so
        ("a.tsv", "text\tlabel\ngood\tpositive\nbad\tnegative\nfine\tpositive\n", "tsv"),
    ],
)
def test_found_by_ending_or_by_content(tmp_path: Path, name: str, text: str, kind: str) -> None:
    assert detect(write(tmp_path, text, name)) == kind
