"""Items of files: BIG-bench, BIG-Bench-Hard, BLiMP, JSON lines, and the errors for files that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmstage.errors import DataError
from llmstage.explore.loaders import load_phenomena

BBH = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "bbh" / "bbh"


def task(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "name": "toy", "task_prefix": "Say it. ", "preferred_score": "multiple_choice_grade",
        "examples": [{"input": "1+1?", "target_scores": {"2": 1, "3": 0}}, {"input": "天？", "target_scores": {"地": 0, "蓝": 1}}],
    }  # fmt: skip
    (folder / "task.json").write_text(json.dumps({**content, **changes}, ensure_ascii=False), encoding="utf-8")
    return folder


def test_big_bench_choices_with_prefix_and_listed_choices(tmp_path: Path):
    first, second = load_phenomena([str(task(tmp_path / "toy"))])
    assert first.prompt == "Say it. \nQ: 1+1?\n  choice: 2\n  choice: 3\nA:"
    assert (first.choices, first.label, first.probe_family) == ([" 2", " 3"], 0, "toy")
    assert second.choices == [" 地", " 蓝"] and second.label == 1


def test_big_bench_free_targets_and_its_prefixes(tmp_path: Path):
    folder = task(
        tmp_path, preferred_score="exact_str_match", example_input_prefix="\nIn: ", example_output_prefix="\nOut: ",
        examples=[{"input": "a", "target": ["b", "B"]}, {"input": "c", "target": "d"}], task_prefix="",
    )  # fmt: skip
    first, second = load_phenomena([str(folder)])
    assert first.prompt == "In: a\nOut:" and first.accepted == [" b", " B"] and first.free
    assert second.accepted == [" d"]


def test_big_bench_without_listed_choices_and_with_ties(tmp_path: Path):
    folder = task(
        tmp_path, append_choices_to_input=False, examples=[{"input": "x", "target_scores": {"a": 1, "b": 1, "c": 0}}]
    )
    [item] = load_phenomena([str(folder)])
    assert "choice" not in item.prompt and item.accepted == [" a", " b"] and not item.choices


def test_programmatic_tasks_are_refused_with_what_to_do(tmp_path: Path):
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "task.py").write_text("class Task: pass", encoding="utf-8")
    for given in (folder, folder / "task.py"):
        with pytest.raises(DataError, match=r"programmatic task of BIG-bench.*JSON lines"):
            load_phenomena([str(given)])
    (tmp_path / "subtasks.json").write_text('{"name": "x", "metrics": ["y"]}', encoding="utf-8")
    with pytest.raises(DataError, match="programmatic"):
        load_phenomena([str(tmp_path / "subtasks.json")])


def test_subtasks_below_a_folder_are_loaded(tmp_path: Path):
    for name in ("one", "two"):
        task(tmp_path / name, name=name)
    assert {item.probe_family for item in load_phenomena([str(tmp_path)])} == {"one", "two"}


@pytest.mark.parametrize(
    ("examples", "reason"),
    [
        ([{"target": "b"}], r"examples\[0\] has no `input`"),
        ([{"input": "a"}], "neither `target` nor"),
        ([], "`examples` is empty"),
        ([{"input": "a", "target_scores": {"b": 1}}], "two different texts"),
    ],
)
def test_a_wrong_example_is_named(tmp_path: Path, examples: list[Any], reason: str):
    with pytest.raises(DataError, match=reason):
        load_phenomena([str(task(tmp_path, examples=examples))])


def test_blimp_pairs_whole_and_at_the_word_that_differs(tmp_path: Path):
    lines = [
        {"sentence_good": "The cat sleeps.", "sentence_bad": "The cat sleep.", "UID": "agreement", "field": "syntax"},
        {"sentence_good": "Who left?", "sentence_bad": "Left who?", "UID": "order"},
    ]
    file = tmp_path / "agreement.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    pair, critical, reordered = load_phenomena([str(file)])
    assert (pair.prompt, pair.choices, pair.label) == ("", ["The cat sleeps.", "The cat sleep."], 0)
    assert (critical.prompt, critical.choices) == ("The cat", [" sleeps", " sleep"])
    assert pair.meta == {"field": "syntax", "variant": "sentence"} and critical.probe_family == "agreement.critical"
    assert reordered.probe_family == "order"
    file.write_text('{"sentence_good": "a b"}', encoding="utf-8")
    with pytest.raises(
        DataError, match=r"agreement\.jsonl:1: no text|agreement\.jsonl:1: 'sentence_bad' is missing|unknown"
    ):
        load_phenomena([str(file)])


def test_equal_ids_of_two_files_do_not_collide(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(
            '{"id": "x", "prompt": "p", "answer": "q", "parts": ["y"]}\n{"id": "y", "prompt": "r", "answer": "s"}',
            encoding="utf-8",
        )
    items = load_phenomena([str(tmp_path / "*.jsonl")])
    assert len({item.id for item in items}) == 4
    assert all(part in {item.id for item in items} for item in items for part in item.parts)


def test_missing_and_broken_files_are_reported(tmp_path: Path):
    with pytest.raises(DataError, match="there is no such file"):
        load_phenomena([str(tmp_path / "nothing*.jsonl")])
    (tmp_path / "a.json").write_text('{"x":\n 1,}', encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.json:2: no JSON"):
        load_phenomena([str(tmp_path / "a.json")])
    (tmp_path / "b.json").write_text('{"x": 1}', encoding="utf-8")
    with pytest.raises(DataError, match="there is no list `examples`"):
        load_phenomena([str(tmp_path / "b.json")])


@pytest.mark.skipif(not BBH.is_dir(), reason="the real sets are not here")
def test_big_bench_hard_as_it_was_published():
    items = load_phenomena([str(BBH)])
    names = {item.probe_family for item in items}
    by_family = {name: [item for item in items if item.probe_family == name] for name in names}
    assert len(by_family) == 10 and all(len(members) == 250 for members in by_family.values())
    assert by_family["boolean_expressions"][0].choices == [" False", " True"]
    assert by_family["hyperbaton"][0].choices == [" (A)", " (B)"]
    assert len(by_family["logical_deduction_three_objects"][0].choices) == 3
    assert by_family["word_sorting"][0].free and not by_family["multistep_arithmetic_two"][0].choices
    assert not any("canary" in item.prompt.lower() for item in items)
