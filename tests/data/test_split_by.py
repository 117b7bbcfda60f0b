"""Splits by time and by group: laws, what each key changes, and what is said when it cannot be done."""

from __future__ import annotations

import csv
import random
from collections import Counter
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from llmstage.config.checks import check_run
from llmstage.config.data import DataConfig, SplitConfig
from llmstage.data.quality.split_leakage import find_leaks
from llmstage.data.row_source import RowSource
from llmstage.data.rows import Columns
from llmstage.data.splits import Ranking, open_splits
from llmstage.errors import DataError, UserError

PAIR = Columns(("text", "label"), content=("text",))
FIRST = date(2014, 1, 1)


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    with path.open("w", encoding="utf-8", newline="") as target:
        writer = csv.DictWriter(target, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def table(num: int, days: int = 100, seed: int = 0) -> list[dict[str, Any]]:
    """Rows in no order; about num / days rows a day, and 20 machines."""
    draw = random.Random(seed)
    return [
        {
            "text": f"text {number}",
            "label": draw.choice("xy"),
            "when": (FIRST + timedelta(draw.randrange(days))).isoformat(),
            "machine": f"机器 {draw.randrange(20)}",
        }
        for number in range(num)
    ]


def opened(words: Columns = PAIR, /, **options: Any) -> dict[str, RowSource]:
    return open_splits(DataConfig(**options), words, lambda row: None, None)


def sides(sources: dict[str, RowSource]) -> dict[str, list[str]]:
    return {split: [row["text"] for row, _ in source] for split, source in sources.items()}


def of(rows: list[dict[str, Any]], texts: list[str], word: str) -> list[Any]:
    found = {row["text"]: row[word] for row in rows}
    return [found[text] for text in texts]


@pytest.mark.parametrize("num", [3, 40, 3000])
@pytest.mark.parametrize("share", [0.05, 0.2])
@pytest.mark.parametrize("max_rows", [30, 2000])
def test_time_runs_from_train_over_validation_to_test(tmp_path: Path, num: int, share: float, max_rows: int) -> None:
    rows = table(num, days=max(3, num // 10))
    if num == 3:
        rows = [{**row, "when": f"2014-01-0{number + 1}"} for number, row in enumerate(rows)]
    split = SplitConfig(by="time", time="when", validation=share, test=share, max_rows=max_rows)
    found = sides(opened(train=write(tmp_path / "a.csv", rows), split=split))
    assert list(found) == ["train", "validation", "test"] and all(found.values())
    assert sorted(text for side in found.values() for text in side) == sorted(row["text"] for row in rows)
    times = {side: of(rows, texts, "when") for side, texts in found.items()}
    assert max(times["train"]) < min(times["validation"]) and max(times["validation"]) < min(times["test"])
    if num == 3000:  # as near to the share, or to the cap, as whole days allow
        day = max(Counter(row["when"] for row in rows).values())
        for side in ("validation", "test"):
            assert abs(len(found[side]) - min(share * num, max_rows)) <= day
    random.Random(1).shuffle(rows)
    again = sides(opened(train=write(tmp_path / "b.csv", rows), split=split))
    assert {side: set(texts) for side, texts in again.items()} == {side: set(texts) for side, texts in found.items()}


def test_the_time_column_is_not_handed_to_the_task(tmp_path: Path) -> None:
    rows = table(40)
    split = SplitConfig(by="time", time="when")
    for source in opened(train=write(tmp_path / "a.csv", rows), split=split).values():
        assert all(set(row) == {"text", "label"} for row, _ in source)


def test_given_splits_stay_and_only_the_missing_ones_are_cut_by_time(tmp_path: Path) -> None:
    rows = table(300)
    held = write(tmp_path / "held.csv", [{"text": "held", "label": "x"}])  # a given split may lack the column
    sources = opened(train=write(tmp_path / "a.csv", rows), validation=held, split=SplitConfig(by="time", time="when"))
    found = sides(sources)
    assert found["validation"] == ["held"]
    assert max(of(rows, found["train"], "when")) < min(of(rows, found["test"], "when"))
    assert [sources[split].cut_by for split in sources] == ["", "", "time"]


def test_a_date_form_and_unix_times_cut_the_same(tmp_path: Path) -> None:
    rows = table(300)
    sets = []
    for number, (make, form) in enumerate(
        (
            (lambda day: day, None),
            (lambda day: date.fromisoformat(day).strftime("%d/%m/%Y"), "%d/%m/%Y"),
            (lambda day: (date.fromisoformat(day) - date(1970, 1, 1)).days * 86400, None),
        )
    ):
        path = write(tmp_path / f"{number}.csv", [{**row, "when": make(row["when"])} for row in rows])
        sources = opened(train=path, split=SplitConfig(by="time", time="when", time_format=form))
        sets.append((sides(sources), find_leaks(sources, None, "when").time_ranges))
    assert sets[0] == sets[1] == sets[2]
    assert sets[0][1]["train"][0] == "2014-01-01"


@pytest.mark.parametrize("num_groups", [3, 5, 20, 2000])
def test_a_group_stands_on_one_side(tmp_path: Path, num_groups: int) -> None:
    rows = table(4000)
    draw = random.Random(5)
    for row in rows:
        row["machine"] = f"机器 {min(draw.randrange(num_groups), draw.randrange(num_groups))}"
    split = SplitConfig(group="machine")
    sources = opened(train=write(tmp_path / "a.csv", rows), split=split)
    found = sides(sources)
    groups = {side: set(of(rows, texts, "machine")) for side, texts in found.items()}
    assert all(groups.values()) and sum(map(len, groups.values())) == len(set.union(*groups.values()))
    assert sum(map(len, found.values())) == 4000
    assert [sources[split].cut_by for split in sources] == ["", "group", "group"]
    if num_groups == 2000:
        assert all(abs(len(found[side]) - 400) < 15 for side in ("validation", "test"))
    random.Random(1).shuffle(rows)
    again = sides(opened(train=write(tmp_path / "b.csv", rows), split=split))
    assert {side: set(texts) for side, texts in again.items()} == {side: set(texts) for side, texts in found.items()}
    other = sides(opened(train=str(tmp_path / "a.csv"), split=SplitConfig(group="machine", seed=1)))
    assert num_groups < 20 or set(other["test"]) != set(found["test"])


def test_a_group_may_be_a_word_of_the_task(tmp_path: Path) -> None:
    rows = [{"review": f"text {number}", "label": number % 30} for number in range(300)]
    found = opened(train=write(tmp_path / "a.csv", rows), split=SplitConfig(group="label"), columns={"text": "review"})
    labels = [{row["label"] for row, _ in source} for source in found.values()]
    assert sum(map(len, labels)) == 30 == len(set.union(*labels))


def test_the_cut_is_kept_by_content_and_by_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.csv", table(300))
    rules = [
        SplitConfig(),
        SplitConfig(time="when"),
        SplitConfig(by="time", time="when"),
        SplitConfig(group="machine"),
        SplitConfig(group="when"),
        SplitConfig(by="time", time="when", time_format="%Y-%m-%d"),
    ]
    digests = {opened(train=path, split=split)["test"].digest() for split in rules}
    assert len(digests) == len(rules)
    first = [sides(opened(train=path, split=split)) for split in rules[2:5]]
    monkeypatch.setattr(Ranking, "add", lambda *_: pytest.fail("counted again"))
    assert [sides(opened(train=path, split=split)) for split in rules[2:5]] == first


def test_leaks_are_counted_and_told(tmp_path: Path) -> None:
    rows = table(300)
    rows[1]["text"] = rows[0]["text"]
    rows[0]["when"], rows[1]["when"] = "2013-01-01", "2015-01-01"  # one text in train and in test
    path = write(tmp_path / "a.csv", rows)
    by_time = find_leaks(opened(train=path, split=SplitConfig(by="time", time="when")), None, "when")
    assert by_time.texts == {"validation": 0, "test": 1} and by_time.time_ranges["test"][1] == "2015-01-01"
    assert by_time.warnings == ["1 rows of test stand in the training split too."]
    by_hash = find_leaks(opened(train=path, split=SplitConfig(time="when")), None, "when")
    assert by_hash.texts == {} and any("test begins at 201" in line for line in by_hash.warnings)
    held = [{"text": "new", "label": "x", "when": "2013-05-05", "machine": rows[0]["machine"]}]
    held.append({"text": "newer", "label": "x", "when": "2020-05-05", "machine": "other"})
    given = opened(train=path, test=write(tmp_path / "held.csv", held), split=SplitConfig(group="machine", time="when"))
    leaks = find_leaks(given, "machine", "when")
    assert leaks.groups == {"test": 1} and leaks.texts["test"] == 0
    assert any("test begins at 2013-05-05, before train ends at" in line for line in leaks.warnings)
    assert any("1 rows of test have a value of data.split.group=machine" in line for line in leaks.warnings)


def test_limit_keeps_the_cut_and_the_spans_are_those_of_what_is_used(tmp_path: Path) -> None:
    rows = sorted(table(300), key=lambda row: str(row["when"]))
    path = write(tmp_path / "a.csv", rows)
    split = SplitConfig(by="time", time="when")
    whole, some = opened(train=path, split=split), opened(train=path, split=split, limit=5)
    assert all(len(sides(some)[side]) == 5 for side in whole)
    assert all(row in sides(whole)[side] for side in whole for row in sides(some)[side])
    part, all_of_it = (find_leaks(sources, None, "when").time_ranges["train"] for sources in (some, whole))
    assert all_of_it[0] <= part[0] <= part[1] <= all_of_it[1] and part != all_of_it


# What cannot be done.


@pytest.mark.parametrize(("value", "told"), [("soon", "'soon' is no time"), ("03/04/2014", "data.split.time_format")])
def test_a_time_that_does_not_parse_names_its_line(tmp_path: Path, value: str, told: str) -> None:
    rows = table(100)
    rows[70]["when"] = value
    path = write(tmp_path / "a.csv", rows)
    split = SplitConfig(by="time", time="when")
    with pytest.raises(DataError, match=rf"a\.csv:72: 'when' \(data\.split\.time\): .*{told}.*quarantine"):
        opened(train=path, split=split)
    kept = opened(train=path, split=split, on_bad_row="quarantine")
    assert sum(map(len, sides(kept).values())) == 99 and kept["train"].quarantined == 1


def test_a_row_without_a_group_names_its_line(tmp_path: Path) -> None:
    rows = table(100)
    rows[70]["machine"] = ""
    with pytest.raises(DataError, match=r"a\.csv:72: 'machine' \(data\.split\.group\) is empty"):
        opened(train=write(tmp_path / "a.csv", rows), split=SplitConfig(group="machine"))


@pytest.mark.parametrize("word", ["time", "group"])
def test_a_column_that_is_missing_lists_those_there_are(tmp_path: Path, word: str) -> None:
    split = SplitConfig(by="time", time="machin") if word == "time" else SplitConfig(group="machin")
    with pytest.raises(
        DataError, match=rf"'machin' \(data\.split\.{word}=machin\)\. Did you mean 'machine'(.|\n)*when:"
    ):
        opened(train=write(tmp_path / "a.csv", table(30)), split=split)


@pytest.mark.parametrize("word", ["time", "group"])
def test_too_few_values_cannot_be_cut(tmp_path: Path, word: str) -> None:
    rows = [{**row, "when": f"2014-01-0{1 + number % 2}", "machine": "one"} for number, row in enumerate(table(50))]
    split = SplitConfig(by="time", time="when") if word == "time" else SplitConfig(group="machine")
    path = write(tmp_path / "a.csv", rows)
    with pytest.raises(DataError, match=rf"data\.split\.{word}=.* too few distinct values .*and 3 are needed"):
        opened(train=path, split=split)
    if word == "time":  # two days are enough for train and test
        split.validation = 0
        assert list(sides(opened(train=path, split=split))) == ["train", "test"]
    with pytest.raises(UserError, match="leave no train rows"):
        opened(train=path, split=SplitConfig(group="machine", validation=0.5, test=0.5))


def test_numbers_where_text_is_due(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a", "label": 1}\n{"text": 7.5, "label": 1}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:2: 'text' holds the number 7\.5.*data\.columns\.text=<column>"):
        list(opened(test=str(tmp_path / "a.jsonl"))["test"])
    rows = [{"title": number * 1.5, "body_text": f"words {number}", "label": "x"} for number in range(20)]
    path = write(tmp_path / "a.csv", rows)
    with pytest.raises(
        DataError, match=r"'title' would be read as text, .*20 values.*data\.columns\.text=(.|\n)*words 0"
    ):
        opened(test=path)
    named = opened(test=path, columns={"text": "title"})["test"]
    assert len(list(named)) == 20 and "'title' is read as text, but all of its first 20 values" in named.notes[0]
    assert opened(test=path, columns={"text": "body_text"})["test"].notes == ()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["data.split.by=time"], "data.split.by=time needs the column"),
        (["data.split.by=time", "data.split.time=when", "data.split.group=machine"], "exclude each other"),
        (["data.split.by=time", "data.split.time=when", "data.split.seed=3"], "data.split.seed is not read here"),
        (["data.split.time_format=%Y"], "data.split.time_format is not read here"),
        (["data.split.by=time", "data.split.time=when", "data.split.time_format=%Y"], None),
        (["data.split.time=when", "data.split.group=machine", "data.split.seed=3"], None),
    ],
)
def test_keys_that_do_not_go_together(compose_run: Any, words: list[str], told: str | None) -> None:
    run = compose_run(["stage=finetune", "task=classification", "data.train=a.csv", *words])
    wrong = check_run(run, [word.partition("=")[0] for word in words])
    assert (wrong == []) if told is None else (len(wrong) == 1 and told in wrong[0])


def test_a_saved_table_with_true_dates_is_cut_by_time(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{**row, "when": datetime.fromisoformat(str(row["when"]))} for row in table(120)]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "d"))
    sources = opened(path=str(tmp_path / "d"), split=SplitConfig(by="time", time="when"))
    times = {side: of(rows, texts, "when") for side, texts in sides(sources).items()}
    assert max(times["train"]) < min(times["validation"]) and max(times["validation"]) < min(times["test"])


def test_one_pass_over_the_source_serves_all_sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = opened(train=write(tmp_path / "a.csv", table(200)), split=SplitConfig(by="time", time="when"))
    base = sources["test"].cut_from
    assert base is not None
    passes = []
    original = type(base[0]).with_keys
    monkeypatch.setattr(type(base[0]), "with_keys", lambda self: passes.append(1) or original(self))
    leaks = find_leaks(sources, None, "when")
    assert len(passes) == 2 and list(leaks.time_ranges) == ["train", "validation", "test"]
