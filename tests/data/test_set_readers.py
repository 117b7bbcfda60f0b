"""Readers of published sets on small copies of their layout: what they give, and what they say of damage."""

from __future__ import annotations

import json
import random
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from llmstage.cli.help import field_docs
from llmstage.config.data import DataConfig, SplitConfig
from llmstage.data.formats import reader_names
from llmstage.data.rows import Columns
from llmstage.data.splits import open_splits
from llmstage.errors import DataError

PAIR = Columns(("text", "label"), content=("text",))
NUMBERS = (
    "movement",
    "num_tweets",
    "return_1",
    "return_2",
    "return_3",
    "return_4",
    "return_5",
    "spread",
    "volume_change",
)
STOCK = Columns(("text", "label", "date", "symbol", *NUMBERS), content=("text",))
QA = Columns(("question", "answer"), ("qtype", "focus", "source"), content=("question",))


def rows(words: Columns, /, **options: Any) -> list[dict[str, Any]]:
    return [row for row, _ in open_splits(DataConfig(**options), words, lambda row: None, None)["test"]]


def test_every_reader_is_named_in_the_help() -> None:
    named = field_docs(DataConfig)["format"].replace(",", " ").replace(".", " ").split()
    assert [name for name in reader_names() if name not in named] == []


# Financial PhraseBank


@pytest.mark.parametrize("reader", ["auto", "phrasebank"])
def test_a_phrase_is_split_at_the_last_at_sign(tmp_path: Path, reader: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text("Write to info@firm.fi , it said .@neutral\n\n利润 上升@positive\nSales fell .@negative\n", "utf-8")
    found = rows(PAIR, test=str(path), format=reader)
    assert [row["label"] for row in found] == ["neutral", "positive", "negative"]
    assert found[0]["text"] == "Write to info@firm.fi , it said ." and found[1]["text"] == "利润 上升"


def test_phrases_in_the_encoding_of_the_publisher_and_with_other_labels(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("Myynti l\xe4hti nousuun@hyv\xe4\nToinen@paha\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"a\.txt:1: .*data\.encoding"):
        rows(PAIR, test=str(path), format="phrasebank")
    assert rows(PAIR, test=str(path), format="phrasebank", encoding="latin-1")[0]["label"] == "hyvä"


@pytest.mark.parametrize("line", ["no label here", "@neutral", "text@"])
def test_a_line_without_text_or_label_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(f"fine@neutral\n{line}\nfine@neutral\n")
    with pytest.raises(DataError, match=r"a\.txt:2: no `sentence@label`"):
        rows(PAIR, test=str(path), format="phrasebank")
    kept = open_splits(
        DataConfig(test=str(path), format="phrasebank", on_bad_row="quarantine"), PAIR, lambda row: None, None
    )
    assert len(list(kept["test"])) == 2 and kept["test"].quarantined == 1


def test_mail_addresses_alone_make_no_phrasebank(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a@neutral\nan ordinary line\nb@positive\n")
    assert "@neutral" in rows(Columns(("text",)), test=str(path))[0]["text"]


# Tab-separated lines in a .txt


def test_a_text_file_whose_every_line_has_the_same_tabs_is_a_table(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("".join(f"word {i}\t词 {i}\n" for i in range(9)), "utf-8")
    assert rows(PAIR, test=str(path), columns={"text": "0", "label": "1"})[8] == {"text": "word 8", "label": "词 8"}
    path.write_text("".join(f"word {i}\t词 {i}\n" for i in range(9)) + "no tab\nthe end\n", "utf-8")
    assert list(rows(Columns(("text",)), test=str(path))[0]) == ["text"]


# MedQuAD

DOCUMENT = """<?xml version="1.0" encoding="UTF-8"?>
<Document id="1" source="NIDDK" url="http://example.org">
<Focus>Gout &amp; 痛风</Focus>
<QAPairs>
  <QAPair pid="1">
    <Question qid="1-1" qtype="information">What is
        (are) Gout ?</Question>
    <Answer>  A kind of arthritis.

      It   hurts &quot;a lot&quot;. </Answer>
  </QAPair>
  <QAPair pid="2"><Question qid="1-2" qtype="treatment">How ?</Question><Answer></Answer></QAPair>
</QAPairs>
</Document>
"""


def test_medquad_pairs_with_single_spaces(tmp_path: Path) -> None:
    for name in ("1_A_QA", "2_B_QA"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0001.xml").write_text(DOCUMENT, "utf-8")
    asked = Columns(("question",), ("answer", "qtype", "focus", "source", "document"), content=("question",))
    found = rows(asked, test=str(tmp_path), format="medquad")
    assert len(found) == 4 and found[:2] == found[2:]
    assert found[0] == {
        "question": "What is (are) Gout ?",
        "answer": 'A kind of arthritis. It hurts "a lot".',
        "qtype": "information",
        "focus": "Gout & 痛风",
        "source": "NIDDK",
        "document": "NIDDK 1",
    }
    assert found[1]["answer"] is None  # some collections were published without answers
    assert rows(asked, test=str(tmp_path / "1_A_QA")) == found[:2]  # by content, without naming the reader
    with pytest.raises(DataError, match=r"0001\.xml:12: 'answer' is null"):
        rows(QA, test=str(tmp_path), format="medquad")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (DOCUMENT.replace("<Document id", '<!DOCTYPE d [<!ENTITY a "aaaa">]>\n<Document id'), r":2: a document type"),
        (DOCUMENT.replace("<Document id", '<!DOCTYPE d SYSTEM "file:///etc/passwd">\n<Document id'), r":2: a document"),
        (DOCUMENT.replace("</QAPairs>", ""), r":\d+: not XML \(mismatched tag\)"),
        (DOCUMENT[:300], r"not XML"),
        ("<QAPairs/>", r"no <QAPair> in this XML"),
        (DOCUMENT.replace("UTF-8", "klingon"), r":1: .*encoding"),
        (DOCUMENT.replace("How ?", " "), r":12: a <QAPair> without a <Question>"),
    ],
)
def test_medquad_refuses_what_is_damaged_or_unsafe(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "a.xml").write_text(text, "utf-8")
    with pytest.raises(DataError, match=rf"a\.xml.*{told}"):
        rows(Columns(("question",)), test=str(tmp_path / "a.xml"), format="medquad")


# StockNet


def stocknet(root: Path, seed: int = 0, changed_from: str = "9999") -> str:
    """Two stocks over 60 weekdays with tweets on most days; from `changed_from` on, other prices and tweets."""
    (root / "price" / "raw").mkdir(parents=True, exist_ok=True)
    for symbol in ("AA", "BB"):
        draw, other = random.Random(f"{seed}{symbol}"), random.Random("another")
        days = [day for day in (date(2015, 1, 1) + timedelta(number) for number in range(84)) if day.weekday() < 5]
        lines, price = ["Date,Open,High,Low,Close,Adj Close,Volume"], 100.0
        for day in days:
            step, volume = draw.gauss(0, 0.01), draw.randrange(1000, 2000)
            if day.isoformat() >= changed_from:
                step, volume = other.gauss(0, 0.02), other.randrange(1000, 2000)
            price *= 1 + step
            lines.append(f"{day},{price},{price * 1.01},{price * 0.99},{price},{price * 0.9},{volume}")
        (root / "price" / "raw" / f"{symbol}.csv").write_text("\n".join(lines) + "\n")
        folder = root / "tweet" / "preprocessed" / symbol
        folder.mkdir(parents=True, exist_ok=True)
        for day in (date(2015, 1, 1) + timedelta(number) for number in range(84)):
            if draw.random() < 0.3:
                continue
            mark = "new " if day.isoformat() >= changed_from else ""
            tweets = [
                {"text": [f"{mark}late", symbol, str(day)], "created_at": day.strftime("%a %b %d 20:00:00 +0000 %Y")},
                {"text": [f"{mark}early", symbol, str(day)], "created_at": day.strftime("%a %b %d 08:00:00 +0000 %Y")},
                {"text": [f"{mark}late", symbol, str(day)], "created_at": day.strftime("%a %b %d 21:00:00 +0000 %Y")},
            ]
            (folder / str(day)).write_text("\n".join(json.dumps(tweet) for tweet in tweets))
    return str(root)


def test_stocknet_rows_hold_what_was_known_before_the_day(tmp_path: Path) -> None:
    found = rows(STOCK, test=stocknet(tmp_path), format="stocknet")
    by_day = {(row["symbol"], row["date"]): row for row in found}
    assert {row["symbol"] for row in found} == {"AA", "BB"} and {row["label"] for row in found} == {"up", "down"}
    assert all(row["movement"] > 0.0055 if row["label"] == "up" else row["movement"] <= -0.005 for row in found)
    assert len(found) == len(by_day) > 40
    closes = {}
    for line in (tmp_path / "price/raw/AA.csv").read_text().splitlines()[1:]:
        day, *_, adjusted, volume = line.split(",")
        closes[day] = (float(adjusted), float(volume))
    order = sorted(closes)
    for (symbol, day), row in by_day.items():
        if symbol != "AA":
            continue
        at = order.index(day)
        back = [closes[order[at - lag]][0] / closes[order[at - lag - 1]][0] - 1 for lag in range(6)]
        assert row["movement"] == pytest.approx(back[0])
        assert [row[f"return_{lag}"] for lag in range(1, 6)] == pytest.approx(back[1:])
        assert row["volume_change"] == pytest.approx(closes[order[at - 1]][1] / closes[order[at - 2]][1] - 1)
        spoken = [line.split()[-1] for line in row["text"].splitlines()]
        assert spoken == sorted(spoken, reverse=True)  # newest first
        assert all(order[at - 1] <= said < day for said in spoken)  # since the trading day before: weekends too
        assert row["num_tweets"] == 3 * len(set(spoken)) and len(spoken) == 2 * len(set(spoken))


def test_nothing_that_happens_from_a_day_on_changes_its_row(tmp_path: Path) -> None:
    turn = "2015-02-18"
    before = rows(STOCK, test=stocknet(tmp_path / "a"), format="stocknet")
    after = rows(STOCK, test=stocknet(tmp_path / "b", changed_from=turn), format="stocknet")
    known = [word for word in (*STOCK.required,) if word not in ("label", "movement")]

    def told(found: list[dict[str, Any]]) -> dict[Any, Any]:
        return {(row["symbol"], row["date"]): [row[word] for word in known] for row in found if row["date"] <= turn}

    one, two = told(before), told(after)
    assert len(one) > 20 and all(one[key] == two[key] for key in one.keys() & two.keys())
    assert {key for key in one if key[1] < turn} == {key for key in two if key[1] < turn}
    assert [row for row in before if row["date"] > turn] != [row for row in after if row["date"] > turn]


def test_stocknet_is_cut_by_time_over_all_stocks_and_its_tweets_count_in_the_digest(tmp_path: Path) -> None:
    path = stocknet(tmp_path)
    split = SplitConfig(by="time", time="date")
    cfg = DataConfig(train=path, format="stocknet", split=split)
    sources = open_splits(cfg, PAIR, lambda row: None, None)  # `date` is no word of the task
    spans = []
    for source in sources.values():
        assert {place.rpartition("/")[2].partition(":")[0] for _, place in source} == {"AA.csv", "BB.csv"}
        assert source.times is not None
        spans.append(source.times)
    assert spans[0][1] < spans[1][0] and spans[1][1] < spans[2][0]
    before = sources["train"].digest()
    tweets = sorted((tmp_path / "tweet/preprocessed/AA").iterdir())[0]
    tweets.write_text(tweets.read_text().replace("late", "soon"))
    assert open_splits(cfg, PAIR, lambda row: None, None)["train"].digest() != before


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (
            lambda root: (root / "tweet/preprocessed/AA/2015-02-02").write_text("{"),
            r"tweets of 2015-02-02, line 1: no tweet",
        ),
        (
            lambda root: (root / "tweet/preprocessed/AA/2015-02-02").write_text('{"text": ["a"]}'),
            r"AA\.csv:\d+: tweets of 2015-02-02, line 1: .*created_at",
        ),
        (lambda root: (root / "price/raw/AA.csv").write_text("Day,Price\n1,2\n"), r"AA\.csv:1: no column Date"),
        (
            lambda root: (root / "price/raw/AA.csv").write_text(
                (root / "price/raw/AA.csv").read_text().replace("2015-01-08", "2015-01-02")
            ),
            r"AA\.csv:7: not after the day before it, 2015-01-07",
        ),
    ],
)
def test_stocknet_damage_is_named(tmp_path: Path, damage: Any, told: str) -> None:
    path = stocknet(tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError, match=told):
        rows(STOCK, test=path, format="stocknet")


def test_stocknet_wants_the_whole_set(tmp_path: Path) -> None:
    stocknet(tmp_path)
    lone = tmp_path / "elsewhere"
    lone.mkdir()
    (lone / "AA.csv").write_text((tmp_path / "price/raw/AA.csv").read_text())
    with pytest.raises(DataError, match=r"no folder .*with this stock's tweets. Name the folder of the data set"):
        rows(STOCK, test=str(lone), format="stocknet")
    one = rows(STOCK, test=str(tmp_path / "price/raw/AA.csv"), format="stocknet")
    assert {row["symbol"] for row in one} == {"AA"}
