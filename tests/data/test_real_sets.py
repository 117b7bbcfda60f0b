"""Published sets as they are: counts from the data's own README or from an independent reader."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from llmstage.config.data import DataConfig
from llmstage.data.rows import Columns
from llmstage.data.splits import open_splits
from llmstage.errors import DataError

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


@pytest.mark.parametrize(
    ("name", "columns", "count", "options"),
    [
        ("fincuge_finnl_zh/train_list.json", "0 1", 2400, {}),
        ("fincuge_finnl_zh/eval_list.json", "0 1", 884, {}),
        ("fincuge_finfe_zh/train_list.json", "0 1", 4000, {}),
        ("fincuge_finfe_zh/eval_list.json", "0 1", 2020, {}),
        ("csl_title_zh/dev.tsv", "1 2", 500, {}),
        ("csl_title_zh/test.tsv", "1 2", 200, {}),
        ("tatoeba_en_zh/cmn.txt", "0 1", 20_133, {}),
        ("medical_dialogue_zh/内科5000-6000.csv", "title department", 1529, {}),
        ("medical_dialogue_zh/sample_gb18030.csv", "title department", 100, {"encoding": "gb18030"}),
        ("excavators_mwo/excavators.csv", "OriginalShorttext PMType", 5485, {}),
        ("excavators_mwo/excavators-cleaned.csv", "OriginalShorttext MajorSystem", 5485, {}),
        ("eprstmt_zh/test_public.json", "sentence label", 610, {}),
        ("scitldr/train.jsonl", "title paper_id", 500, {}),
        ("movielens_latest_small/movies.csv", "title genres", 9742, {}),
    ],
)
def test_rows_of_plain_layouts_are_as_many_as_their_readme_says(
    name: str, columns: str, count: int, options: dict[str, Any]
) -> None:
    found = rows(name, PAIR, columns=dict(zip(("text", "label"), columns.split(), strict=True)), **options)
    assert len(found) == count and all(str(row["text"]).strip() for row in found)


@pytest.mark.parametrize("name", ["excavators.csv", "excavators-cleaned.csv"])
def test_work_orders_keep_their_backslashes_and_their_missing_values(name: str) -> None:
    found = rows(f"excavators_mwo/{name}", PAIR, columns={"text": "OriginalShorttext", "label": "Cost"})
    with (DATA / "excavators_mwo" / name).open(encoding="utf-8", newline="") as source:
        assert [row["text"] for row in found] == [row["OriginalShorttext"] for row in csv.DictReader(source)]
    assert any('\\A\\" line' in row["text"] for row in found)


@pytest.mark.parametrize(("name", "count"), [("AllAgree", 2264), ("50Agree", 4846)])
@pytest.mark.parametrize("reader", ["auto", "phrasebank"])
def test_financial_phrasebank(name: str, count: int, reader: str) -> None:
    found = rows(f"financial_phrasebank/Sentences_{name}.txt", PAIR, format=reader)
    assert len(found) == count and {row["label"] for row in found} == {"negative", "neutral", "positive"}
    lines = (DATA / f"financial_phrasebank/Sentences_{name}.txt").read_text("utf-8").split("\n")
    assert f"{found[7]['text']}@{found[7]['label']}" == lines[7].rstrip()


def test_medquad() -> None:
    import xml.etree.ElementTree as ET

    words = Columns(("question", "answer", "qtype", "focus", "source"))
    found = rows("medquad", words, format="medquad")
    trees = [ET.parse(path).getroot() for path in sorted((DATA / "medquad").rglob("*.xml"))]
    pairs = [(tree, pair) for tree in trees for pair in tree.iter("QAPair")]
    assert len(found) == len(pairs) == 368 and len(trees) == 64
    for row, (tree, pair) in zip(found, pairs, strict=True):
        question, answer = pair.find("Question"), pair.find("Answer")
        assert question is not None and answer is not None
        assert row["question"].split() == (question.text or "").split() and row["qtype"] == question.get("qtype")
        assert row["answer"].split() == "".join(answer.itertext()).split() and row["source"] == tree.get("source")
    assert rows("medquad/9_CDC_QA", words) == found[172:]


def test_stocknet_movements_are_those_of_the_publishers() -> None:
    words = Columns(("text", "label", "date", "symbol", "movement"))
    found = rows("stocknet", words, format="stocknet")
    moved = {}
    for path in (DATA / "stocknet/price/preprocessed").glob("*.txt"):
        for line in path.read_text("utf-8").splitlines():
            day, movement, *_ = line.split("\t")
            moved[path.stem, day] = float(movement)
    assert len(found) == 96 and {row["symbol"] for row in found} == {"BAC", "GOOG"}
    for row in found:
        assert row["movement"] == pytest.approx(moved[row["symbol"], row["date"]], abs=2e-6)
        assert "2015-07-01" < row["date"] <= "2015-10-15"


@pytest.mark.parametrize(("split", "count", "true"), [("dev", 330, 187), ("test", 143, None)])
@pytest.mark.parametrize("reader", ["auto", "nlvr"])
def test_nlvr(split: str, count: int, true: int | None, reader: str) -> None:
    from llmstage.data.images import open_image

    asked = Columns(("image", "question", "answer"), ("kind",), images=("image",))
    found = rows(f"nlvr/{split}", asked, format=reader)
    lines = (DATA / f"nlvr/{split}/{split}.json").read_text("utf-8").splitlines()
    raw = [json.loads(line) for line in lines]
    assert [(row["question"], row["answer"]) for row in found] == [(row["sentence"], row["label"]) for row in raw]
    assert len(found) == count and {open_image(row["image"]).size for row in found} == {(400, 100)}
    assert {row["kind"] for row in found} == {"tower", "scatter"}
    said = rows(f"nlvr/{split}", Columns(("image", "caption"), images=("image",)), format=reader)
    assert [row["caption"] for row in said] == [row["sentence"] for row in raw if row["label"] == "true"]
    assert true is None or len(said) == true


@pytest.mark.parametrize("reader", ["auto", "github_topics"])
def test_github_topics(reader: str) -> None:
    from llmstage.data.images import open_image

    found = rows("github_topics", Columns(("image", "caption"), ("label",), images=("image",)), format=reader)
    assert len(found) == 100 and len({row["label"] for row in found}) == 100
    assert all(open_image(row["image"]).mode == "RGB" for row in found)  # a JPEG named .png, and modes L to RGBA
    assert next(row for row in found if row["label"] == ".NET")["caption"] == (
        ".NET is a free, cross-platform, open source developer platform."
    )
