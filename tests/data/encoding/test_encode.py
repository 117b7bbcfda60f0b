"""Encoding once, caching by content, and the ledger of every token."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from llmstage.config.data import DataConfig
from llmstage.data.encoding import store as store_module
from llmstage.data.encoding.store import check_ledger, encode_split
from llmstage.data.row_source import ListSource
from llmstage.data.rows import BadRows, Columns
from llmstage.data.splits import open_splits
from llmstage.errors import DataError


@dataclass
class Made:
    arrays: dict[str, list[int]]
    ref: Any = None
    cut: int = 0
    cut_targets: int = 0
    lost_end: bool = False
    rewritten: bool = False


@dataclass
class Toy:
    """A toy encoder: code points, five a feature; a text over 10 characters loses its rest. It counts its calls."""

    calls: list[int] = field(default_factory=list)

    def encode_many(self, rows):
        self.calls.append(len(rows))
        if any("!" in row["text"] for row in rows):
            raise ValueError("an exclamation mark")
        return [self.one([ord(letter) for letter in row["text"]]) for row in rows]

    def one(self, ids: list[int]) -> list[Made]:
        lost = max(0, len(ids) - 10)
        made = [Made({"input_ids": ids[at : at + 5]}, ref=at) for at in range(0, min(len(ids), 10), 5)]
        made[-1].cut, made[-1].cut_targets, made[-1].lost_end = lost, lost, lost > 0
        return made


ROWS = [{"text": text} for text in ("abc", "你好你好你好", "a" * 13)]


def run(toy: Toy, cache: Path | None = None, rows=ROWS, split="train", vocab=70_000, refs=None, key=None):
    return encode_split(
        ListSource(split, rows, "a list"), toy.encode_many, lambda made: len(made.arrays["input_ids"]) - 1, vocab,
        refs_of_rows=refs, on_row_error=ValueError, cache=cache, key=key or {"context": 5},
    )  # fmt: skip


def everything(store) -> list:
    return [store.get(index) for index in range(len(store))]


def test_the_ledger_accounts_for_every_token():
    ledger = run(Toy()).ledger
    assert ledger.rows == 3 and ledger.features == 1 + 2 + 2
    assert ledger.tokens + ledger.cut_tokens == sum(len(row["text"]) for row in ROWS)
    assert ledger.target_tokens + ledger.masked_tokens == ledger.tokens
    assert (ledger.target_tokens, ledger.cut_tokens, ledger.lost_targets, ledger.lost_ends) == (14, 3, 3, 1)


def test_a_cached_store_is_opened_and_equal(tmp_path):
    first, second = Toy(), Toy()
    one, two = run(first, tmp_path), run(second, tmp_path)
    assert first.calls and not second.calls
    assert everything(one) == everything(two) == everything(run(Toy()))
    assert one.ledger == two.ledger


@pytest.mark.parametrize(
    "change",
    [
        {"rows": [*ROWS, {"text": "x"}]},
        {"rows": ROWS[::-1]},
        {"split": "test"},
        {"vocab": 60_000},
        {"refs": 1},
        {"key": {"context": 6}},
        {"key": {"context": 5, "system": "你"}},
    ],
    ids=str,
)
def test_any_change_misses_the_cache(tmp_path, change):
    run(Toy(), tmp_path)
    toy = Toy()
    run(toy, tmp_path, **change)
    assert toy.calls


def test_references_are_kept_for_the_first_rows_only():
    store = run(Toy(), refs=2)
    assert [store.get(index)[1] for index in range(len(store))] == [0, 0, 5, None, None]


def test_a_row_that_cannot_be_encoded_is_named_with_its_place():
    with pytest.raises(DataError, match=r"train:2: an exclamation mark"):
        run(Toy(), rows=[{"text": "a"}, {"text": "b!"}])


def test_a_failed_encoding_leaves_nothing_in_the_cache_that_counts(tmp_path):
    rows = [{"text": "a"}, {"text": "b!"}]
    for _ in range(2):
        with pytest.raises(DataError):
            run(Toy(), tmp_path, rows=rows)
    assert not list(tmp_path.rglob("meta.json"))


def test_a_split_without_targets_or_with_too_many_lost_ones_is_refused():
    with pytest.raises(DataError, match="no target token"):
        check_ledger("train", run(Toy(), rows=[{"text": "a"}]), 1.0, 5)
    store = run(Toy())  # loses 3 of 17
    check_ledger("train", store, 3 / 17, 5)
    with pytest.raises(DataError, match=r"3 of 17 target tokens .*data\.max_lost=0\.17"):
        check_ledger("train", store, 0.17, 5)
    with pytest.raises(DataError, match=r"data\.context=5"):
        check_ledger("train", store, 0.17, 5)


def test_batches_come_in_order_while_the_next_is_read(monkeypatch):
    monkeypatch.setattr(store_module, "BATCH_CHARACTERS", 8)
    rows = [{"text": f"{number:04d}"} for number in range(41)]
    toy, threads = Toy(), set()

    def encode_many(given):
        threads.add(threading.current_thread().name)
        return toy.encode_many(given)

    def stored(source):
        return encode_split(
            source, encode_many, lambda made: 1, 70_000, refs_of_rows=None, on_row_error=ValueError, cache=None, key={}
        )

    source = ListSource("train", rows, "a list")
    store = stored(source)
    said = ["".join(map(chr, store.get(index)[0]["input_ids"])) for index in range(len(store))]
    assert said == [row["text"] for row in rows] and store.rows.tolist() == list(range(41))
    assert len(toy.calls) == 21 and all("encode" in name for name in threads)
    threads.clear()
    source.bad_rows = BadRows("quarantine", None)
    assert stored(source).rows.tolist() == list(range(41))
    assert threads == {threading.current_thread().name}, "bad rows are noted by one thread"
    with pytest.raises(DataError, match=r"train:18.*exclamation"):
        stored(ListSource("train", [*rows[:17], {"text": "no!"}, *rows], "a list"))


def test_rows_from_the_cache_are_described_as_if_they_had_been_read(tmp_path):
    (tmp_path / "rows.csv").write_text("review\n" + "\n".join(f"text {number}" for number in range(7)) + "\n")
    cfg = DataConfig(train=str(tmp_path / "rows.csv"), columns={"text": "review"}, cache=str(tmp_path / "cache"))
    seen = []
    for _ in range(2):
        base = open_splits(cfg, Columns(("text",)), lambda row: None, tmp_path)
        toy = Toy()
        for source in base.values():
            encode_split(
                source, toy.encode_many, lambda example: 1, 100, refs_of_rows=0, on_row_error=ValueError,
                cache=tmp_path / "cache", key={},
            )  # fmt: skip
        seen.append({split: (source.mapping, source.description) for split, source in base.items()})
    assert not toy.calls and seen[0] == seen[1]
    assert seen[0]["train"][0] == {"text": "review"} and "7 rows" in seen[0]["train"][1]
