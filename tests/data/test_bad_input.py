"""Every bad input is told with its place and its mend, or quarantined once."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from llmstage.config.data import DataConfig, SplitConfig
from llmstage.data.row_source import RowSource
from llmstage.data.rows import Columns
from llmstage.data.splits import open_splits
from llmstage.errors import DataError, UserError

PAIR = Columns(("text", "label"), ("text_pair",), content=("text",))
TEXT = Columns(("text",))
GOOD = [json.dumps({"text": f"row {i}", "label": "x"}).encode() for i in range(5)]


def opened(out_dir: Path | None = None, words: Columns = PAIR, /, **options: Any) -> dict[str, RowSource]:
    return open_splits(DataConfig(**options), words, lambda row: None, out_dir)


def read(words: Columns = PAIR, /, **options: Any) -> list[Any]:
    return list(opened(None, words, **options)["test"])


BAD_LINES = {
    b'{"text": "caf\xe9", "label": "x"}': "not valid utf-8",
    b'{"text": "row", "la': "not JSON",
    b'["a", "b"]': "a JSON array",
    b'"just text"': "a JSON string",
    b"null": "a JSON null",
    b'{"text": "a\\u0000b", "label": "x"}': "a NUL character in 'text'",
    b'{"text": "a\x00b", "label": "x"}': "a NUL byte",
    b'{"text": "a\\ud800b", "label": "x"}': r"a lone surrogate \(U\+D800\) in 'text'",
    b'{"text": "a"}': "'label' is missing",
    b'{"text": null, "label": "x"}': "'text' is null",
    b'{"text": NaN, "label": "x"}': "'text' is null",
    b'{"label": "x", "text": "' + b"a" * 200_000 + b'"}': r"0\.2 MB in one record, more than data\.max_row_mb=0\.1",
}


@pytest.mark.parametrize("bad", BAD_LINES, ids=list(BAD_LINES.values()))
@pytest.mark.parametrize("last", [False, True])
def test_a_bad_json_line_is_named_and_can_be_quarantined(tmp_path: Path, bad: bytes, last: bool) -> None:
    path = tmp_path / "数据.jsonl"
    path.write_bytes(b"\n".join([*GOOD[:2], bad, *([] if last else GOOD[2:])]))
    options: dict[str, Any] = {"test": str(path), "max_row_mb": 0.1}
    with pytest.raises(DataError, match=BAD_LINES[bad]) as told:
        read(**options)
    assert f"{path}:3: " in str(told.value) and "data.on_bad_row=quarantine" in str(told.value)
    assert str(told.value).endswith("fine before it: 2.")
    source = opened(tmp_path / "run", **options, on_bad_row="quarantine")["test"]
    for _ in range(3):
        assert [row["text"] for row, _ in source] == [f"row {i}" for i in range(2 if last else 5)]
    (entry,) = [json.loads(line) for line in (tmp_path / "run" / "quarantine.jsonl").read_text("utf-8").splitlines()]
    assert (entry["file"], entry["line"], source.quarantined) == (str(path), 3, 1) and len(entry["row"]) <= 500


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"a,b,c", "3 fields, where the header names 2"),
        (b"alone", "1 fields, where the header names 2"),
        (b'"opens,x', r"a quote \(\"\) opens here and never closes"),
        (b"caf\xe9,x", "not valid utf-8"),
        (b'"two\nl\xe9nes",x', "not valid utf-8"),
        (b"nul\x00,x", "NUL"),
    ],
)
def test_a_bad_csv_row_spoils_only_itself(tmp_path: Path, bad: bytes, reason: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,label\n" + b'"one\nline",x\n' + bad + b"\n" + b"two,y\nthree,z\n")
    with pytest.raises(DataError, match=reason) as told:
        read(test=str(path))
    assert f"{path}:{5 if b'two' in bad else 4}: " in str(told.value)
    source = opened(tmp_path, test=str(path), on_bad_row="quarantine")["test"]
    assert [row["text"] for row, _ in source] == ["one\nline", "two", "three"] and source.quarantined == 1


def test_bad_text_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"good one\n\ncaf\xe9\nnul \x00\ngood two\n")
    for mode in ("block", "line"):
        with pytest.raises(DataError, match=r"a\.txt:3: byte 0xe9.*data\.encoding=cp1252"):
            read(TEXT, test=str(path), text_rows=mode)
        source = opened(tmp_path, TEXT, test=str(path), text_rows=mode, on_bad_row="quarantine")["test"]
        assert [(row["text"], place) for row, place in source] == [("good one", f"{path}:1"), ("good two", f"{path}:5")]
        assert source.quarantined == 2
    with pytest.raises(DataError, match=r"more than data\.max_row_mb"):
        read(TEXT, test=str(path), text_rows="file", max_row_mb=0.00001)


@pytest.mark.parametrize("encoding", ["gb18030", "big5", "shift_jis"])
def test_the_encoding_that_would_do_is_named(tmp_path: Path, encoding: str) -> None:
    text = {
        "gb18030": "今天的天气很好，我们去公园玩。",
        "big5": "今天的天氣很好，我們去公園玩。",
        "shift_jis": "今日はとてもいい天気ですね。",
    }
    (tmp_path / "a.txt").write_bytes((text[encoding] + "\n").encode(encoding) * 5)
    with pytest.raises(DataError, match=f"data.encoding={encoding}"):
        read(TEXT, test=str(tmp_path / "a.txt"))


def test_the_tasks_own_check_counts_like_any_other(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(GOOD))
    cfg = DataConfig(test=str(path))
    with pytest.raises(DataError, match=r"a\.jsonl:4: too odd\. Fix the row"):
        list(open_splits(cfg, PAIR, lambda row: "too odd." if row["text"] == "row 3" else None, None)["test"])


def test_all_rows_bad_is_an_error_even_under_quarantine(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"{\n[]\n")
    with pytest.raises(DataError, match="every one of its 2 rows is bad"):
        opened(tmp_path, test=str(path), on_bad_row="quarantine")


def test_quarantine_counts_once_over_cut_splits_and_begins_anew_in_a_new_process(tmp_path: Path) -> None:
    path = tmp_path / "a.json"  # compact: many records on one line, three of them bad
    rows = [{"text": f"row {i}", "label": "x"} for i in range(40)]
    path.write_text(json.dumps([*rows, {"text": None, "label": "x"}, {"label": "x"}, 7]))
    for _ in range(2):
        sources = opened(tmp_path, train=str(path), on_bad_row="quarantine")
        assert sum(len(list(source)) for source in sources.values()) == 40
        assert [sources[split].quarantined for split in ("train", "validation", "test")] == [3, 0, 0]
        assert len((tmp_path / "quarantine.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("content", [b"", b"\n\n  \n", b"text,label\n"])
@pytest.mark.parametrize("ending", ["txt", "jsonl", "json", "csv", "tsv", "parquet"])
def test_nothing_to_read_is_an_error(tmp_path: Path, content: bytes, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    path.write_bytes(content)
    if content.startswith(b"text") and ending == "txt":
        content = b" \r\n\t\n"  # a line of words would be a row here
        path.write_bytes(content)
    with pytest.raises(DataError, match=f"a.{ending}"):
        read(TEXT, test=str(path))


@pytest.mark.parametrize(
    ("path", "told"),
    [("trian.csv", "Did you mean 'train.csv'"), ("*.jsonl", "matches no file"), ("nowhere/a", "there is no folder"),
     ("empty", "It is empty"), ("nested", "It has folders: sub"), ("odd", "It has: a.exe")],
)  # fmt: skip
def test_a_path_that_leads_nowhere(tmp_path: Path, path: str, told: str) -> None:
    (tmp_path / "train.csv").write_text("text\na\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "nested" / "sub").mkdir(parents=True)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "a.exe").write_bytes(b"\0")
    with pytest.raises(DataError, match=told) as error:
        read(test=str(tmp_path / path))
    assert f"data.test={tmp_path / path}" in str(error.value)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.txt.gz", "a.csv.gz", "a.json.gz"])
def test_a_truncated_gzip_names_the_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    lines = b"\n".join(json.dumps({"text": f"{i * 7919}", "label": "x"}).encode() for i in range(30_000))
    content = b"text,label\n" + b"\n".join(b"%d,x" % (i * 7919) for i in range(30_000)) if "csv" in name else lines
    packed = gzip.compress(content)
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match=f"{name}: the gzip file is cut off"):
        read(TEXT, test=str(path))


def test_a_broken_document_or_table_names_the_place(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[\n{"text": "a"},\n{"text": "b"')
    with pytest.raises(DataError, match=r"a\.json:3: not JSON.*cut off"):
        read(TEXT, test=str(tmp_path / "a.json"), on_bad_row="quarantine")
    (tmp_path / "b.json").write_text('{"x": [{"text": "a"}], "y": [{"text": "b"}],\n "z": 1}')
    with pytest.raises(DataError, match=r"it holds 2 \(x, y\)"):
        read(TEXT, test=str(tmp_path / "b.json"))
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + b"\0" * 100)
    with pytest.raises(DataError, match=r"a\.parquet:1: unreadable"):
        read(TEXT, test=str(tmp_path / "a.parquet"))
    (tmp_path / "b.parquet").write_bytes(b"text\nabc\n")
    with pytest.raises(DataError, match="the content is not"):
        read(TEXT, test=str(tmp_path / "b.parquet"))


def test_words_of_the_user(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"reviews_body": "x", "points": 3}')
    with pytest.raises(UserError, match=r"Unknown key 'data.columns.txt'. Did you mean 'text'") as unknown:
        read(test=str(path), columns={"txt": "reviews_body"})
    assert unknown.value.status == 2
    with pytest.raises(DataError, match="Did you mean 'reviews_body'"):
        read(test=str(path), columns={"text": "review_body"})
    with pytest.raises(
        DataError, match=r"data\.columns\.text=<one of: reviews_body, points>(.|\n)*reviews_body: 'x'\n  points: 3"
    ):
        read(test=str(path))
    with pytest.raises(UserError, match=r"data.encoding=utf-88.*Did you mean 'utf-8'") as codec:
        read(test=str(path), encoding="utf-88")
    assert codec.value.status == 2
    with pytest.raises(UserError, match=r"data\.encoding=base64"):
        read(test=str(path), encoding="base64")


def test_twice_the_same_header_and_a_split_that_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label,text\na,b,c\n")
    with pytest.raises(DataError, match="names 'text' 2 times"):
        read(test=str(tmp_path / "a.csv"))
    (tmp_path / "b.csv").write_text("text,label\n" + "\n".join(f"{i},b" for i in range(9)))
    with pytest.raises(UserError, match="leave no train rows"):
        opened(train=str(tmp_path / "b.csv"), split=SplitConfig(validation=0.5, test=0.5))
