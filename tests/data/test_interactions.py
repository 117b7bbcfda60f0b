"""Interactions to examples: order, held-out splits, duplicates, tables that do not fit, times that do not parse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from llmstage.cli.command import main
from llmstage.data.catalog import count_items
from llmstage.data.column_vectors import ColumnFeatures
from llmstage.data.interaction_columns import parse_click, parse_number, parse_time
from llmstage.data.interactions import InteractionRows, assign, read_interactions
from llmstage.data.row_source import ListSource
from llmstage.errors import DataError
from llmstage.tasks.recommendation import TASK
from llmstage.training.setup import open_sources

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "movielens_latest_small"
EVENTS = [
    ("u", "c", 3, 5), ("u", "a", 1, 4), ("u", "b", 2, 2), ("u", "d", 4, 3), ("u", "a", 9, 1),
    ("v", "a", 5, 5), ("v", "b", 6, 5), ("w", "d", 7, 1),
]  # fmt: skip


def log_of(events=EVENTS, **changes):
    rows = [dict(zip(("user", "item", "time", "rating"), event, strict=True)) for event in events]
    options = {"positive_rating": None, "extra": (), "unique_pairs": True} | changes
    return read_interactions({"train": ListSource("train", rows, "x")}, **options)


def rows_of(log, split, how="leave_last_out", history=20, limit=None, **shares):
    part = assign(log, how, shares or {"validation": 0.1, "test": 0.1}, 2000, 0)
    source = InteractionRows(split, log, part, {}, history, [ListSource(split, [], "x")], limit, None)
    return [(row["user"], *row["item"]) for row, _ in source]


def test_the_last_is_test_the_one_before_validation_and_the_rest_training():
    log = log_of()
    assert log.facts["duplicates dropped"] == 1 and log.facts["users with one interaction (only in training)"] == 1
    assert rows_of(log, "test") == [("u", "a", "b", "c", "d"), ("v", "a", "b")]
    assert rows_of(log, "validation") == [("u", "a", "b", "c")]  # v has only one before its last
    assert rows_of(log, "train") == [("u", "a"), ("u", "a", "b"), ("v", "a"), ("w", "d")]
    assert rows_of(log, "test", history=2) == [("u", "b", "c", "d"), ("v", "a", "b")]
    assert rows_of(log, "train", limit=2) == [("u", "a"), ("u", "a", "b")]
    assert rows_of(log, "train", validation=0.0, test=0.1) == [("u", "a"), ("u", "a", "b"), ("u", "a", "b", "c"), ("v", "a"), ("w", "d")]  # fmt: skip


def test_a_repeated_pair_counts_where_repeats_are_ranked():
    assert rows_of(log_of(unique_pairs=False), "test")[0] == ("u", "a", "b", "c", "d", "a")


def test_by_time_nothing_in_training_is_later_than_what_is_held_out():
    events = [(f"u{number % 7}", f"i{number}", 100 - number, 3) for number in range(60)]
    log = log_of(events)
    part = assign(log, "time", {"validation": 0.2, "test": 0.2}, 2000, 0)
    times = [log.time[part == number] for number in range(3)]
    assert times[0].max() < times[1].min() and times[1].max() < times[2].min()
    assert len(times[1]) == len(times[2]) == 12
    with pytest.raises(DataError, match=r"data\.columns\.time"):
        assign(read_interactions({"train": ListSource("train", [{"user": "u", "item": "a"}], "x")}, positive_rating=None, extra=(), unique_pairs=True), "time", {"test": 0.1}, 9, 0)  # fmt: skip


def test_ratings_below_the_bar_are_no_clicks_and_never_the_held_out_one():
    log = log_of(positive_rating=4)
    assert dict(zip([log.items[at] for at in log.item], log.click, strict=True))["b"]
    part = assign(log, "leave_last_out", {"validation": 0.0, "test": 0.1}, 2000, 0)
    held = [(log.items[log.item[at]], bool(log.click[at])) for at in np.flatnonzero(part == 2)]
    assert held == [("c", True), ("d", False), ("b", True)]  # what follows the last click is scored for its chance only


def test_a_held_out_split_is_capped():
    events = [(f"u{user}", f"i{item}", item, 3) for user in range(30) for item in range(4)]
    part = assign(log_of(events), "leave_last_out", {"validation": 0.1, "test": 0.1}, 10, 0)
    assert (part == 2).sum() == (part == 1).sum() == 10 and (part == 0).sum() == 60


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(5, 5.0), ("964982703", 964982703.0), ("1970-01-02", 86400.0), ("1970-01-01T01:00:00+01:00", 0.0), ("soon", None), ("nan", None)],
)  # fmt: skip
def test_times(value, seconds):
    assert parse_time(value) == seconds


def test_numbers_and_clicks():
    assert [parse_number(value) for value in ("4.5", 3, "x", "inf", True, None)] == [4.5, 3.0, None, None, None, None]
    assert [parse_click(value) for value in ("1", "0", "true", False, 1.0, "maybe")] == [
        True,
        False,
        True,
        False,
        True,
        None,
    ]


def test_columns_are_standardised_on_what_was_learned_and_missing_is_told():
    columns = ColumnFeatures(["price"], ["genre"])
    columns.fit([{"price": "1", "genre": "a|b"}, {"price": 3, "genre": "a"}, {"price": None, "genre": None}])
    assert columns.vector({"price": 4, "genre": "b"}) == [2.0, 0.0, 0.0, 1.0]
    assert columns.vector({"genre": ["a", "new"]}) == [0.0, 1.0, 1.0, 0.0]
    again = ColumnFeatures(["price"], ["genre"])
    again.restore(json.loads(json.dumps(columns.state())))
    assert again.vector({"price": 4, "genre": "b"}) == [2.0, 0.0, 0.0, 1.0]


def write(folder: Path, ratings: list[str], items: list[str]) -> list[str]:
    (folder / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n" + "\n".join(ratings) + "\n", encoding="utf-8"
    )
    (folder / "movies.csv").write_text("movieId,title,genres\n" + "\n".join(items) + "\n", encoding="utf-8")
    return [f"data.train={folder}/ratings.csv", f"data.items={folder}/movies.csv"]


RATINGS = [
    f"{user},{1 + (user + item) % 6},{1 + (user * item) % 5},{100 + item}" for user in range(6) for item in range(5)
]
MOVIES = ['1,"Matrix, The (1999)",Action|Sci-Fi', "2,黄土地,剧情", "3,,", "4,Four,Drama", "5,Five,(no genres listed)", "7,Cold,Drama"]  # fmt: skip
RUN = ["stage=finetune", "task=recommendation", "trainer=smoke", "trainer.max_steps=2", "data.context=24", "model.num_hidden_layers=1", "model.hidden_size=32", "model.num_attention_heads=2", "model.intermediate_size=32", "model.vocab_size=320"]  # fmt: skip


def task_of(compose_run, words):
    run = compose_run(["stage=finetune", "task=recommendation", *words])
    task = TASK(run.task, run.generation)
    return task, open_sources(run, task, None)


def test_the_item_table_is_joined_and_what_does_not_fit_is_counted(compose_run, workplace):
    task, sources = task_of(compose_run, write(workplace, RATINGS, MOVIES))
    assert task.texts_of["1"] == "Matrix, The (1999) | Action, Sci-Fi"
    assert task.texts_of["2"] == "黄土地 | 剧情" and task.texts_of["5"] == "Five" and task.texts_of["3"] == ""
    assert task.facts["items missing from data.items (known by id only)"] == 1  # 6
    assert task.facts["items without text"] == 2  # 3 and 6
    task.fit_labels(row for row, _ in sources["train"])
    assert set(task.catalog.ids) == {"1", "2", "3", "4", "5", "6", "7"} and task.catalog.ids[-1] == "7"


def test_the_digest_changes_with_the_table_and_the_options(compose_run, workplace):
    def digest(items: list[str], *more: str) -> str:
        return task_of(compose_run, [*write(workplace, RATINGS, items), *more])[1]["train"].digest()

    told = {digest(MOVIES), digest([*MOVIES[:-1], "7,Warm,Drama"]), digest(MOVIES, "task.positive_rating=3"), digest(MOVIES, "task.split=time")}  # fmt: skip
    assert len(told) == 4 and digest(MOVIES) in told


def test_a_table_of_other_items_is_refused(compose_run, workplace):
    with pytest.raises(DataError, match="do not belong together"):
        task_of(compose_run, write(workplace, RATINGS, ["100,Else,Drama"]))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("1,2,4,yesterday", "time 'yesterday' is not a time"),
        ("1,2,good,5", "rating 'good' is not a number"),
        (",2,3,5", "user '' is not a name"),
    ],
)
def test_a_bad_interaction_is_named_with_its_line(workplace, capsys, line, told):
    words = write(workplace, [*RATINGS, line], MOVIES)
    assert main([*RUN, *words]) == 3
    error = capsys.readouterr().err
    assert f"ratings.csv:{len(RATINGS) + 2}" in error and told in error
    assert main([*RUN, *words, "data.on_bad_row=quarantine", "hydra.run.dir=q"]) == 0
    assert json.loads(Path("q/quarantine.jsonl").read_text())["line"] == len(RATINGS) + 2


def test_items_without_interactions_of_the_task_are_refused(workplace, capsys):
    write(workplace, RATINGS, MOVIES)
    assert main(["stage=finetune", "task=classification", "data.train=ratings.csv", "data.items=movies.csv"]) == 2
    assert "joins no item table" in capsys.readouterr().err


def test_movielens_as_it_is_published(compose_run):
    if not DATA.exists():
        pytest.skip(f"{DATA} is not on this machine")
    task, sources = task_of(compose_run, [f"data.train={DATA}", "data.format=movielens"])
    assert task.facts["interactions"] == 29_268 and task.facts["users"] == 200
    assert (
        task.facts["items in data.items"] == 9_742
        and task.facts["items missing from data.items (known by id only)"] == 0
    )
    assert {split: source.num_rows for split, source in sources.items()} == {
        "train": 28_868,
        "validation": 200,
        "test": 200,
    }
    plain, _ = task_of(compose_run, [f"data.train={DATA}/ratings.csv", f"data.items={DATA}/movies.csv"])
    assert plain.texts_of == task.texts_of and "Toy Story (1995) | Adventure, Animation" in task.texts_of["1"]


def test_rows_without_any_click_are_an_error_that_names_the_key():
    with pytest.raises(DataError, match=r"task\.positive_rating"):
        count_items([{"item": ["a", "b"], "click": False}, {"item": ["b"], "click": False}])
