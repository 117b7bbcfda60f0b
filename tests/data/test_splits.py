"""Laws of the cut and of digests."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmstage.config.data import DataConfig, SplitConfig
from llmstage.data import split_keys
from llmstage.data.files import DataFile
from llmstage.data.quality.split_leakage import overlap
from llmstage.data.row_source import ListSource, RowSource
from llmstage.data.rows import Columns, Row
from llmstage.data.split_keys import row_hash
from llmstage.data.splits import open_splits
from llmstage.errors import DataError

PAIR = Columns(("text", "label"), content=("text",))


def write(path: Path, texts: list[str], labels: str = "xy") -> str:
    lines = [json.dumps({"text": text, "label": labels[i % len(labels)]}) for i, text in enumerate(texts)]
    path.write_text("\n".join(lines))
    return str(path)


def opened(**options: Any) -> dict[str, RowSource]:
    return open_splits(DataConfig(**options), PAIR, lambda row: None, None)


def texts(source: RowSource) -> list[str]:
    return [row["text"] for row, _ in source]


@pytest.mark.parametrize("num", [3, 4, 10, 100, 6000])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.45])
@pytest.mark.parametrize("max_rows", [1, 2000])
def test_sides_are_disjoint_cover_all_rows_and_are_never_empty(
    tmp_path: Path, num: int, share: float, max_rows: int
) -> None:
    train = write(tmp_path / "a.jsonl", [f"t {i}" for i in range(num)])
    sources = opened(train=train, split=SplitConfig(validation=share, test=share, max_rows=max_rows))
    sides = {split: texts(source) for split, source in sources.items()}
    assert list(sides) == ["train", "validation", "test"] and all(sides.values())
    assert sorted(text for side in sides.values() for text in side) == sorted(f"t {i}" for i in range(num))
    if num == 6000:
        wanted = min(share * num, max_rows)
        assert abs(len(sides["test"]) - wanted) < 5 * wanted**0.5 + 1
    assert not sources["train"].cut and sources["test"].cut


def test_equal_texts_stay_on_one_side_whatever_their_label_and_white_space(tmp_path: Path) -> None:
    train = write(tmp_path / "a.jsonl", [f"t{' ' * (1 + i % 3)}{i % 50}" for i in range(300)], labels="xyzw")
    sides = [{" ".join(text.split()) for text in texts(source)} for source in opened(train=train).values()]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 50


def test_the_cut_depends_on_content_and_split_seed_only(tmp_path: Path) -> None:
    names = [f"t {i}" for i in range(400)]
    one = opened(train=write(tmp_path / "a.jsonl", names))
    two = opened(train=write(tmp_path / "b.jsonl", names[::-1]))
    assert all(Counter(texts(one[split])) == Counter(texts(two[split])) for split in one)
    assert texts(one["test"]) == texts(one["test"])
    other = opened(train=str(tmp_path / "a.jsonl"), split=SplitConfig(seed=1))
    assert set(texts(other["test"])) != set(texts(one["test"]))
    assert row_hash({"text": "a \n b", "label": 1}, ("text",), 0) == row_hash({"text": "a b"}, ("text",), 0) < 1 << 64


@pytest.mark.parametrize("given", [(), ("validation",), ("test",), ("validation", "test")])
def test_only_missing_splits_are_cut_and_given_ones_are_untouched(tmp_path: Path, given: tuple[str, ...]) -> None:
    held = write(tmp_path / "held.jsonl", [f"t {i}" for i in range(20)])
    train = write(tmp_path / "a.jsonl", [f"t {i}" for i in range(200)])
    sources = opened(train=train, **dict.fromkeys(given, held))
    assert list(sources) == ["train", "validation", "test"]
    assert all(texts(sources[split]) == [f"t {i}" for i in range(20)] for split in given)
    assert [split for split in sources if sources[split].cut] == [s for s in ("validation", "test") if s not in given]
    assert all(set(texts(sources["train"])).isdisjoint(texts(source)) for source in sources.values() if source.cut)
    found = overlap(sources)
    inside = set(texts(sources["train"]))
    assert found == {split: sum(f"t {i}" in inside for i in range(20)) for split in given}


def test_shares_of_zero_cut_nothing_and_few_texts_are_told(tmp_path: Path) -> None:
    train = write(tmp_path / "a.jsonl", ["a", "b", "a", "b"])
    assert list(opened(train=train, split=SplitConfig(validation=0, test=0))) == ["train"]
    with pytest.raises(DataError, match=r"2 in 4 rows.*data\.split\.validation=0 data\.split\.test=0"):
        opened(train=train)
    assert list(opened(test=train)) == ["test"]


def test_limit_is_of_each_split_and_does_not_move_the_cut(tmp_path: Path) -> None:
    train = write(tmp_path / "a.jsonl", [f"t {i}" for i in range(300)])
    whole, some = opened(train=train), opened(train=train, limit=5)
    assert all(set(texts(some[split])) < set(texts(whole[split])) and len(texts(some[split])) == 5 for split in whole)
    assert all(some[split].digest() != whole[split].digest() for split in whole)


def test_behind_a_limit_the_whole_split_can_be_seen(tmp_path: Path) -> None:
    train = write(tmp_path / "a.jsonl", [f"t {i}" for i in range(300)])
    whole, some = opened(train=train), opened(train=train, limit=5)
    assert texts(some["train"].unlimited()) == texts(whole["train"]) and len(texts(some["train"])) == 5
    assert whole["train"].unlimited() is whole["train"]
    assert texts(opened(test=train, limit=5)["test"].unlimited()) == [f"t {i}" for i in range(300)]


def test_a_limit_draws_from_the_whole_of_a_sorted_file_whatever_its_order(tmp_path: Path) -> None:
    ordered = [f"t {i}" for i in range(300)]
    drawn = texts(opened(test=write(tmp_path / "a.jsonl", ordered), limit=30)["test"])
    places = [ordered.index(text) for text in drawn]
    assert places == sorted(places) and places[0] < 60 and places[-1] >= 240, "in the file's order, from all of it"
    other = texts(opened(test=write(tmp_path / "b.jsonl", ordered[::-1]), limit=30)["test"])
    assert set(other) == set(drawn)


def test_digest_follows_content_not_size_time_or_name(tmp_path: Path) -> None:
    names = [f"t {i}" for i in range(30)]
    path = Path(write(tmp_path / "a.jsonl", names))
    stat = path.stat()
    before = {split: source.digest() for split, source in opened(train=str(path)).items()}
    assert len(set(before.values())) == 3
    assert before == {s: v.digest() for s, v in opened(train=write(tmp_path / "b.jsonl", names)).items()}
    path.write_bytes(path.read_bytes().replace(b"t 7", b"t @"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = {split: source.digest() for split, source in opened(train=str(path)).items()}
    assert path.stat().st_size == stat.st_size and all(before[split] != after[split] for split in before)


def test_every_option_that_changes_rows_changes_the_digest(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "".join(f"text {i},{i}\n" for i in range(40)))
    base = DataConfig(train=str(path))
    changed = [
        base,
        replace(base, columns={"text": "label", "label": "text"}),
        replace(base, header=True),
        replace(base, delimiter=","),
        replace(base, encoding="latin-1"),
        replace(base, text_rows="line"),
        replace(base, format="tsv", delimiter="comma"),
        replace(base, on_bad_row="quarantine"),
        replace(base, max_row_mb=1.0),
        replace(base, limit=7),
        replace(base, split=SplitConfig(seed=3)),
        replace(base, split=SplitConfig(validation=0.2)),
        replace(base, split=SplitConfig(max_rows=4)),
        replace(base, split=SplitConfig(validation=0, test=0)),
    ]
    found = [open_splits(cfg, PAIR, lambda row: None, None)["train"].digest() for cfg in changed]
    assert len(set(found)) == len(found)


def test_a_digest_of_many_pieces_sees_each_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmstage.data.files.HASH_CHUNK", 1000)
    path = tmp_path / "a.bin"
    data = bytearray(os.urandom(3500))
    seen = set()
    for position in (None, 0, 1500, 3499):
        if position is not None:
            data[position] ^= 1
        path.write_bytes(data)
        seen.add(DataFile(path, "a").digest())
        assert DataFile(path, "a").digest() in seen
    assert len(seen) == 4


def test_list_source_is_a_source() -> None:
    rows: list[Row] = [{"text": "a", "label": 1}, {"text": "b", "label": 0}]
    source = ListSource("train", rows, "demo seed 0")
    assert list(source) == list(source) == [(rows[0], "train:1"), (rows[1], "train:2")]
    assert source.num_rows == 2 and source.mapping == {"text": "text", "label": "label"}
    assert source.digest() == ListSource("train", [dict(row) for row in rows], "demo seed 0").digest()
    assert source.digest() != ListSource("train", rows[:1], "demo seed 0").digest()
    sources: dict[str, RowSource] = {"train": source, "test": ListSource("test", [rows[1]], "")}
    assert overlap(sources) == {"test": 1}


def test_a_cut_is_counted_once_per_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmstage.data import splits as sources
    from llmstage.data.splits import Census

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "a.txt"
    file.write_text("".join(f"a line that says {number}\n" for number in range(300)))
    cfg = DataConfig(train=str(file), text_rows="line")

    def texts() -> dict[str, list[str]]:
        return {split: [row["text"] for row, _ in found] for split, found in opened().items()}

    def opened() -> dict[str, Any]:
        return sources.open_splits(cfg, Columns(required=("text",)), lambda row: None, None)

    first = texts()
    monkeypatch.setattr(Census, "add", lambda *_: pytest.fail("counted again"))
    assert texts() == first and opened()["train"].base.num_rows == 300
    file.write_text("".join(f"a line that says {number}\n" for number in range(300, 600)))
    with pytest.raises(pytest.fail.Exception, match="counted again"):
        opened()


def test_rows_are_hashed_once_for_all_sides_and_a_file_that_changes_is_told(tmp_path: Path, monkeypatch) -> None:
    train = write(tmp_path / "a.jsonl", [f"t {i}" for i in range(60)])
    sources = opened(train=train, split=SplitConfig(validation=0.3, test=0.3))
    calls = []
    real = split_keys.row_hash
    monkeypatch.setattr(split_keys, "row_hash", lambda *args: calls.append(1) or real(*args))
    first = {split: texts(source) for split, source in sources.items()}
    assert len(calls) == 60 and {split: texts(source) for split, source in sources.items()} == first
    assert len(calls) == 60
    write(tmp_path / "a.jsonl", [f"t {i}" for i in range(59)])
    with pytest.raises(DataError, match="changed while it was read: 60 rows, then 59"):
        texts(sources["test"])
    stopped = opened(train=write(tmp_path / "b.jsonl", [f"t {i}" for i in range(60)]))["train"]
    next(iter(stopped))  # not a whole pass: nothing is known yet
    assert len(texts(stopped)) == sum(1 for _ in stopped)
