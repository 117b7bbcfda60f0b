"""Items: what a line may contain, how a wrong one is reported, and the split of its parameters."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest

from llmstage.errors import DataError
from llmstage.explore.items import Item, as_text, read_items, split_of


def test_items_survive_their_json_lines(tmp_path: Path):
    items = [
        Item("a", "加法", "3+4=", answer="7", answers=["七"], meta={"digits": 1, "lang": "zh"}, parts=["b"], key="3,4"),
        Item("b", "pairs", "", choices=["The cat sat.", "The cat sits sat."], label=0, split="test"),
        Item("c", "grid", "What is red?", answer="circle", image=["r. ..", ".. b."], free=True),
    ]
    given = lambda name, value: value or (name in ("prompt", "label") and value is not None)  # noqa: E731
    keys = {"probe_family": "family"}
    lines = [
        {keys.get(name, name): value for name, value in asdict(item).items() if given(name, value)} for item in items
    ]
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    (tmp_path / "items.jsonl").write_text(text, encoding="utf-8")
    assert read_items(tmp_path / "items.jsonl") == items


def test_a_line_without_id_and_family_takes_those_of_its_file(tmp_path: Path):
    file = tmp_path / "turns.jsonl"
    file.write_text('\n{"prompt": "Q", "answer": "A", "image": "a.png"}\n', encoding="utf-8")
    [item] = read_items(file)
    assert (item.id, item.probe_family) == ("turns-2", "turns")
    assert item.image == str(tmp_path / "a.png")  # in the folder of the file that names it


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "no JSON"),
        ("[1]", "one JSON object a line"),
        ('{"answer": "x"}', "`prompt` is missing"),
        ('{"prompt": "x"}', "there is no right answer"),
        ('{"prompt": "x", "answr": "y"}', "unknown key 'answr'. Did you mean 'answer'?"),
        ('{"prompt": "x", "choices": ["a", "b"], "label": 2}', "from 0 to 1, not 2"),
        ('{"prompt": "x", "choices": ["a", "a"], "label": 0}', "two different texts"),
        ('{"prompt": "x", "choices": ["a", "b"], "label": 0, "answer": "a"}', "exclude each other"),
        ('{"prompt": "x", "answer": ""}', "an empty text"),
        ('{"prompt": "x", "answer": 5}', "`answer` must be a text"),
        ('{"prompt": "x", "answer": "y", "meta": {"len": [1]}}', "`meta` must map"),
        ('{"prompt": "x", "answer": "y", "split": "dev"}', "`split` must be one of"),
        ('{"prompt": "x", "answer": "y", "image": "demo:48:blob"}', "is no scene"),
        ('{"prompt": "x", "answer": "y", "parts": ["nowhere"]}', "names items that are not in the file: nowhere"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, reason: str):
    file = tmp_path / "items.jsonl"
    file.write_text(f'{{"prompt": "x", "answer": "y"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(DataError) as error:
        read_items(file)
    assert reason in str(error.value)
    assert f"{file}:2:" in str(error.value) or "parts" in reason or "names items" in reason


def test_many_wrong_lines_are_gathered(tmp_path: Path):
    file = tmp_path / "items.jsonl"
    file.write_text("\n".join(['{"prompt": 1}'] * 12), encoding="utf-8")
    with pytest.raises(DataError, match="and 2 more"):
        read_items(file)


def test_ids_are_not_given_twice(tmp_path: Path):
    file = tmp_path / "items.jsonl"
    file.write_text(
        '{"id": "a", "prompt": "x", "answer": "y"}\n{"id": "a", "prompt": "z", "answer": "y"}', encoding="utf-8"
    )
    with pytest.raises(DataError, match=r"items\.jsonl:2: its id 'a' is that of line 1"):
        read_items(file)


def test_a_file_in_another_encoding_is_reported_with_its_line(tmp_path: Path):
    file = tmp_path / "items.jsonl"
    file.write_bytes(
        b'{"prompt": "x", "answer": "y"}\n' + json.dumps({"prompt": "中"}, ensure_ascii=False).encode("gbk")
    )
    with pytest.raises(DataError, match=":2: not UTF-8"):
        read_items(file)


def test_parameters_not_rows_decide_the_split():
    splits = [split_of("addition", str(number)) for number in range(4000)]
    share = {name: count / 4000 for name, count in Counter(splits).items()}
    assert share == pytest.approx({"discover": 0.32, "confirm": 0.24, "train": 0.24, "test": 0.20}, abs=0.03)


def test_shares_move_the_bounds_and_leave_the_test_split_alone():
    keys = [str(number) for number in range(2000)]
    usual, changed = (
        [split_of("f", key, shares) for key in keys] for shares in (None, {"discover": 0.9, "confirm": 0.1})
    )
    assert [name == "test" for name in usual] == [name == "test" for name in changed]
    assert "train" not in changed and changed.count("discover") > 2 * usual.count("discover")


def test_a_scene_is_a_grid_for_text_models():
    item = Item("a", "grid", "What is it?", answer="circle", image="demo:48:circle.red.large.0.2.12")
    assert as_text(item) == ". | . | large red circle\n. | . | .\n. | . | .\nWhat is it?"
    assert as_text(Item("a", "grid", "What?", answer="x", image="photo.png")) == "What?"
