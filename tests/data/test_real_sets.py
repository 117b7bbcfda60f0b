"""Published sets as they are: counts from the data's own README or from an independent reader."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from llmstage.data.rows import Columns
from llmstage.data.source import open_splits
from llmstage.errors import DataError
from llmstage.schema.data import DataConfig

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
PAIR = Columns(("text", "label"), ("text_pair",), content=("text", "text_pair"))
CHAT = Columns(("messages",), ("recalls",))


def rows(name: str, words: Columns, /, **options: Any) -> list[dict[str, Any]]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    source = open_splits(DataConfig(test=str(path), **options), words, lambda row: None, None)["test"]
    return [row for row, _ in source]


def test_banking77() -> None:
    found = rows("banking77/train.csv", PAIR)
    with (DATA / "banking77/train.csv").open(encoding="utf-8", newline="") as source:
        assert found == [{"text": row["text"], "label": row["category"]} for row in csv.DictReader(source)]
    assert len(found) == 10_003 and any("\n" in row["text"] for row in found)


@pytest.mark.parametrize(("split", "count"), [("train", 3000), ("dev", 1000), ("test", 1000)])
def test_csl_category_has_three_columns_and_no_header(split: str, count: int) -> None:
    found = rows(f"csl_category_zh/{split}.tsv", PAIR, columns={"text": "1", "label": "2"})
    assert len(found) == count and len({row["label"] for row in found}) == 13


def test_csl_category_without_named_columns_lists_them() -> None:
    with pytest.raises(DataError, match="1: '太平天国"):
        rows("csl_category_zh/train.tsv", PAIR)


def test_ai4i_is_tab_separated_in_spite_of_its_name() -> None:
    found = rows("ai4i2020/ai4i2020.csv", PAIR, columns={"text": "Product ID", "label": "Machine failure"})
    assert len(found) == 10_000 and sum(row["label"] == "1" for row in found) == 339


def test_sst2() -> None:
    found = rows("sst2/train.tsv", PAIR, columns={"text": "0", "label": "1"})
    lines = (DATA / "sst2/train.tsv").read_text("utf-8").splitlines()
    assert [f"{row['text']}\t{row['label']}" for row in found] == lines


@pytest.mark.parametrize(("split", "count"), [("train", 54), ("dev", 22), ("test", 22)])
@pytest.mark.parametrize("reader", ["auto", "sgd"])
def test_sgd_folder(split: str, count: int, reader: str) -> None:
    found = rows(f"sgd/{split}", CHAT, format=reader)
    assert len(found) == count
    assert all([turn["role"] for turn in row["messages"][:2]] == ["user", "assistant"] for row in found)


@pytest.mark.parametrize("reader", ["auto", "crosswoz"])
def test_crosswoz(reader: str) -> None:
    found = rows("crosswoz/val.json", CHAT, format=reader)
    raw = json.loads((DATA / "crosswoz/val.json").read_text("utf-8"))
    assert [row["id"] for row in found] == list(raw)
    turns = raw[found[0]["id"]]["messages"]
    assert [turn["content"] for turn in found[0]["messages"]] == [turn["content"] for turn in turns]
    assert {turn["role"] for row in found for turn in row["messages"]} == {"user", "assistant"}


def test_medical_sample_says_its_encoding() -> None:
    with pytest.raises(DataError, match=r"sample_gb18030\.csv:2: .*data\.encoding=gb18030"):
        rows("medical_dialogue_zh/sample_gb18030.csv", CHAT)
    found = rows("medical_dialogue_zh/sample_gb18030.csv", CHAT, encoding="gb18030")
    assert len(found) == 100 and "高血压" in found[0]["messages"][0]["content"]
