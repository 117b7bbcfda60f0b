"""Every reader gives the rows that stand in its file, whatever the ending, compression, line ends or byte order."""

from __future__ import annotations

import csv
import gzip
import inspect
import json
import random
from pathlib import Path
from typing import Any

import pytest

from llmstage.config.data import DataConfig
from llmstage.data.formats import DETECTED_BY_CONTENT, load_reader, reader_names
from llmstage.data.readers import conll
from llmstage.data.readers.text import BLOCK
from llmstage.data.row_source import RowSource
from llmstage.data.rows import Columns, FileHead
from llmstage.data.splits import open_splits
from llmstage.errors import DataError, Refused, UserError

PAIR = Columns(("text", "label"), content=("text",))
TEXT = Columns(("text",))
CHAT = Columns(("messages",), ("recalls",))
ROWS = [{"text": f'第{i}行, "said" row {i}\nsecond line', "label": "正" if i % 2 else "neg"} for i in range(7)]


def opened(words: Columns, /, **options: Any) -> RowSource:
    return open_splits(DataConfig(**options), words, lambda row: None, None)["test"]


def rows(words: Columns, /, **options: Any) -> list[dict[str, Any]]:
    return [row for row, _ in opened(words, **options)]


def write_csv(path: Path, delimiter: str = ",", ends: str = "\n", header: bool = True) -> None:
    with path.open("w", encoding="utf-8", newline="") as target:
        writer = csv.writer(target, delimiter=delimiter, lineterminator=ends)
        writer.writerows([["text", "label"]] * header + [[row["text"], row["label"]] for row in ROWS])


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt"])
@pytest.mark.parametrize("layout", ["lines", "array", "indented", "wrapped"])
def test_json_is_read_by_content_not_by_ending(tmp_path: Path, name: str, layout: str) -> None:
    path = tmp_path / name
    path.write_text(
        {
            "lines": "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS),
            "array": json.dumps(ROWS),
            "indented": json.dumps(ROWS, indent=1),
            "wrapped": json.dumps({"version": 1, "data": ROWS}),
        }[layout],
        encoding="utf-8",
    )
    assert rows(PAIR, test=str(path)) == ROWS


def test_an_array_of_lists_has_numbered_columns_and_true_line_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[\n["a", 1],\n\n["b", 2]]', encoding="utf-8")
    source = opened(PAIR, test=str(path), columns={"text": "0", "label": "1"})
    assert list(source) == [({"text": "a", "label": 1}, f"{path}:2"), ({"text": "b", "label": 2}, f"{path}:4")]


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_csv_of_any_delimiter_equals_what_the_csv_module_wrote(tmp_path: Path, delimiter: str, ends: str) -> None:
    path = tmp_path / "a.csv"
    write_csv(path, delimiter, ends)
    assert rows(PAIR, test=str(path)) == ROWS


@pytest.mark.parametrize("mark", ["utf-8-sig", "utf-16", "utf-16-be-bom"])
def test_a_byte_order_mark_wins_over_the_encoding(tmp_path: Path, mark: str) -> None:
    write_csv(tmp_path / "a.csv", ends="\r\n")
    text = (tmp_path / "a.csv").read_bytes().decode()
    data = ("\ufeff" + text).encode("utf-16-be") if mark == "utf-16-be-bom" else text.encode(mark)
    (tmp_path / "b.csv").write_bytes(data)
    assert rows(PAIR, test=str(tmp_path / "b.csv")) == ROWS


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16-le"])
def test_other_encodings(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "中文.txt"
    path.write_bytes("甲乙\n丙丁\n".encode(encoding))
    found = list(opened(TEXT, test=str(path), text_rows="line", encoding=encoding))
    assert found == [({"text": "甲乙"}, f"{path}:1"), ({"text": "丙丁"}, f"{path}:2")]


@pytest.mark.parametrize(
    ("first", "columns", "header"),
    [
        ("review,stars", {}, True),
        ("foo,bar", {"text": "foo", "label": "bar"}, True),
        ("good film,1", {"text": "0", "label": "1"}, False),
        ("good film,fine", {"text": "0", "label": "1"}, False),
        ("what,number", {"text": "what", "label": "number"}, True),
    ],
)
def test_header_auto(tmp_path: Path, first: str, columns: dict[str, str], header: bool) -> None:
    path = tmp_path / "a.csv"
    path.write_text(first + "\nbad film,0\nlong film,1\n")
    assert len(rows(PAIR, test=str(path), columns=columns)) == (2 if header else 3)


def test_header_and_delimiter_can_be_forced(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("Profit, it rose@positive\nIt fell@negative\n")
    columns = {"text": "0", "label": "1"}
    options: dict[str, Any] = {"test": str(path), "format": "csv", "delimiter": "@", "columns": columns}
    assert rows(PAIR, header=False, **options)[0] == {"text": "Profit, it rose", "label": "positive"}
    with pytest.raises(DataError, match="no column '0'"):
        rows(PAIR, header=True, **options)


def test_quotes_are_characters_in_a_tab_separated_file_that_does_not_quote(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('"Hi," he said.\t1\n5" disk\t0\nplain\t1\n')
    found = rows(PAIR, test=str(path), columns={"text": "0", "label": "1"})
    assert [row["text"] for row in found] == ['"Hi," he said.', '5" disk', "plain"]


def test_parquet_and_gzip(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet", row_group_size=2)
    assert rows(PAIR, test=str(tmp_path / "a.parquet")) == ROWS
    write_csv(tmp_path / "a.csv")
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    assert rows(PAIR, test=str(tmp_path / "b.csv.gz")) == ROWS
    lines = "\n".join(json.dumps(row) for row in ROWS).encode()
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(lines))
    assert rows(PAIR, test=str(tmp_path / "c.jsonl.gz")) == ROWS


def corpus(seed: int, paragraph: int) -> str:
    """Seeded text with paragraphs of about `paragraph` characters."""
    rng = random.Random(seed)
    parts: list[str] = []
    while sum(len(part) for part in parts) < 60_000:
        words = "".join(rng.choice(["word ", "字", "x\n", "長い", "y "]) for _ in range(rng.randint(1, paragraph)))
        parts.append(words)
    return "\n\n".join(parts)


@pytest.mark.parametrize("paragraph", [30, 400, 5000, 60_000])
@pytest.mark.parametrize("piece", [1 << 20, 5003])
def test_blocks_cover_the_text_and_hold_at_most_4096_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paragraph: int, piece: int
) -> None:
    monkeypatch.setattr("llmstage.data.text_lines.CHUNK_SIZE", piece)
    text = corpus(paragraph, paragraph)
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8")
    found = list(opened(TEXT, test=str(path)))
    assert "".join(row["text"] for row, _ in found).replace("\n", "") == text.replace("\n", "")
    assert all(0 < len(row["text"]) <= BLOCK for row, _ in found)
    lines = text.split("\n")
    for row, place in found:
        number = int(place.rsplit(":", 1)[1])
        assert lines[number - 1].endswith(row["text"].split("\n")[0]) or row["text"].split("\n")[0] in lines[number - 1]


def test_blocks_close_at_blank_lines_where_there_are_any(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n\n".join("line one\nline two of paragraph" for _ in range(600)))
    assert all(row["text"].startswith("line one") for row in rows(TEXT, test=str(path)))
    path.write_text("\n".join(f"line {i}" for i in range(3000)))
    assert all(row["text"].startswith("line") for row in rows(TEXT, test=str(path)))


def test_a_single_line_longer_than_any_limit_is_still_a_corpus(tmp_path: Path) -> None:
    path = tmp_path / "text8.txt"
    path.write_text("anarchism originated " * 150_000)
    assert sum(len(row["text"]) for row in rows(TEXT, test=str(path), max_row_mb=1.0)) == 21 * 150_000


def test_text_rows(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(f"{name}1\r\n\r\n{name}2\n")
    assert rows(TEXT, test=str(tmp_path), text_rows="file") == [{"text": "a1\n\na2\n"}, {"text": "b1\n\nb2\n"}]
    assert [row["text"] for row in rows(TEXT, test=str(tmp_path), text_rows="line")] == ["a1", "a2", "b1", "b2"]


ASK = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "hi"}]


@pytest.mark.parametrize(
    "record",
    [
        {"messages": ASK},
        {"conversations": [{"from": "human", "value": "你好"}, {"from": "gpt", "value": "hi"}]},
        {"instruction": "你好", "input": "", "output": "hi"},
        {"prompt": "你好", "completion": "hi"},
        {"prompt": "你好", "response": "hi"},
        {"question": "你好", "answer": "hi"},
        {"prompt": ASK[:1], "completion": ASK[1:]},
        {"messages": [{"role": "usr", "content": "你好", "name": None}, {"role": "sys", "content": "hi"}]},
    ],
)
@pytest.mark.parametrize("reader", ["auto", "chat"])
def test_chat_forms_become_messages(tmp_path: Path, record: dict[str, Any], reader: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({**record, "recalls": ["x"]}) + "\n")
    assert rows(CHAT, test=str(path), format=reader) == [{"messages": ASK, "recalls": ["x"]}]


def test_chat_details(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"instruction": "add", "input": "1 2", "output": "3", "system": "be brief"}))
    made = rows(CHAT, test=str(path))[0]["messages"]
    assert [turn["role"] for turn in made] == ["system", "user", "assistant"] and made[1]["content"] == "add\n\n1 2"
    path.write_text(json.dumps({"frage": "q", "antwort": "a"}))
    named = {"prompt": "frage", "completion": "antwort"}
    assert rows(CHAT, test=str(path), columns=named)[0]["messages"][1] == {"role": "assistant", "content": "a"}
    path.write_text(json.dumps({"messages": [{"role": "wizard", "content": "x"}]}))
    with pytest.raises(DataError, match=r"a\.jsonl:1: message 1: unknown role 'wizard'"):
        rows(CHAT, test=str(path))


def test_standard_input_is_read_more_than_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import io
    from types import SimpleNamespace

    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b'{"text": "a"}\n{"text": "b"}\n')))
    source = opened(TEXT, test="-")
    assert [place for _, place in source] == [place for _, place in source] == ["-:1", "-:2"]


def test_an_unknown_reader_answers_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError, match="Did you mean 'jsonl'") as told:
        opened(TEXT, test=str(tmp_path / "a.txt"), format="jsnl")
    assert all(name in str(told.value) for name in reader_names())


def test_a_folder_saved_by_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"train": table, "dev": table.select([0, 1]), "test": table}).save_to_disk(str(tmp_path / "d"))
    cfg = DataConfig(path=str(tmp_path / "d"))
    found = open_splits(cfg, PAIR, lambda row: None, None)
    assert {split: [row for row, _ in source] for split, source in found.items()} == {
        "train": ROWS, "validation": ROWS[:2], "test": ROWS,
    }  # fmt: skip
    assert found["train"].digest() != found["validation"].digest()
    table.save_to_disk(str(tmp_path / "e"))
    assert list(open_splits(DataConfig(path=str(tmp_path / "e")), PAIR, lambda row: None, None)) == [
        "train", "validation", "test",
    ]  # fmt: skip

    # data.train, validation and test name a saved table too; a folder of several splits is named once.
    found = open_splits(DataConfig(train=str(tmp_path / "e"), test=[str(tmp_path / "e")]), PAIR, lambda row: None, None)
    assert [row for row, _ in found["test"]] == ROWS and list(found) == ["train", "validation", "test"]
    with pytest.raises(DataError, match=r"has the splits train, dev, test.*data\.path=.*/d"):
        open_splits(DataConfig(train=str(tmp_path / "d")), PAIR, lambda row: None, None)
    with pytest.raises(DataError, match="together with other files"):
        open_splits(DataConfig(train=[str(tmp_path / "e"), "more.csv"]), PAIR, lambda row: None, None)

    def offline(path: str) -> None:
        raise ConnectionError("no route")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load_dataset", offline)
        with pytest.raises(DataError, match=r"data\.path=someone/set.*no route.*save_to_disk"):
            open_splits(DataConfig(path="someone/set"), PAIR, lambda row: None, None)
    with pytest.raises(DataError, match=r"data\.train="):
        open_splits(DataConfig(path=str(tmp_path)), PAIR, lambda row: None, None)


def test_a_reader_outside_the_package_is_named_by_its_dotted_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader of docs/extend.md, from the page itself."""
    page = (Path(__file__).parents[2] / "docs" / "extend.md").read_text("utf-8")
    code = page.partition('title="my_readers/pipes.py"\n')[2].partition("```")[0]
    (tmp_path / "my_readers").mkdir()
    (tmp_path / "my_readers" / "pipes.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "reviews.pipe"
    path.write_text("good | pos\nbad | neg\n", encoding="utf-8")
    expected = [{"text": "good", "label": "pos"}, {"text": "bad", "label": "neg"}]
    assert rows(PAIR, test=str(path), format="my_readers.pipes") == expected
    with pytest.raises(Refused, match="names code outside llmstage"):
        open_splits(DataConfig(test=str(path), format="my_readers.pipes"), PAIR, lambda row: None, None, trusted=False)
    path.write_text("good | pos\nno bar\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"pipe:2: there is no ' \| ' in the line"):
        rows(PAIR, test=str(path), format="my_readers.pipes")


def test_readers_that_are_detected_share_one_signature() -> None:
    modules = [load_reader(name) for name in reader_names()]
    detected = {module for module in modules if hasattr(module, "matches")}
    assert detected == {*DETECTED_BY_CONTENT, conll}
    assert {str(inspect.signature(module.matches)) for module in detected} == {"(head: 'FileHead') -> 'bool'"}
    assert not any(module.matches(FileHead(Path("/nowhere"), "plain text\n" * 9, True)) for module in detected)
