"""What stage=evaluate takes over from a run folder, and what it leaves to the words that were typed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from llmstage.cli.inherit import explain_inherited, inherit
from llmstage.cli.overrides import read_words
from llmstage.config import RunConfig
from llmstage.training.run_folder import config_dict


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A run folder as far as the door looks at it."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    run = {
        "task": {"name": "classification", "features": {"numbers": ["price"], "ngrams": True}, "targets": {}},
        "data": {
            "train": "/old/train.csv",
            "test": "/old/test.csv",
            "columns": {"text": "comment", "label": "stars"},
            "context": "auto",
            "split": {"seed": 3, "group": "user"},
        },
        "seed": 7,
        "resolved": {"context": 64},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    return tmp_path


def composed(trained: Path, **data: Any) -> dict[str, Any]:
    """A config of stage=evaluate, composed by hand."""
    columns = data.pop("columns", {})
    split = {"seed": 0, "group": None, **data.pop("split", {})}
    rows = {"train": None, "validation": None, "test": None, **data}
    return {
        "stage": {"name": "evaluate"},
        "task": {"name": "classification", "features": {"numbers": [], "ngrams": False}, "targets": {}},
        "data": {**rows, "columns": columns, "context": "auto", "split": split},
        "model": {"path": str(trained)},
        "trainer": {},
        "seed": 0,
        "generation": {},
    }


def inherited(trained: Path, *typed: str, **data: Any) -> dict[str, Any]:
    """The config after inheriting."""
    words = read_words(["stage=evaluate", "task=classification", f"model.path={trained}", *typed])
    assert not words.wrong
    return inherit(composed(trained, **data), words)


def test_a_run_hands_down_rows_columns_split_and_options(trained: Path) -> None:
    got = inherited(trained)
    assert got["data"]["test"] == "/old/test.csv" and got["data"]["columns"] == {"text": "comment", "label": "stars"}
    assert got["data"]["split"] == {"seed": 3, "group": "user"} and got["data"]["context"] == 64
    assert got["task"]["features"] == {"numbers": ["price"], "ngrams": True} and got["seed"] == 7


def test_a_typed_key_inside_a_group_wins_and_its_neighbours_are_handed_down(trained: Path) -> None:
    typed = ("data.test=new.csv", "data.columns.text=review", "data.split.seed=9")
    got = inherited(trained, *typed, test="new.csv", columns={"text": "review"}, split={"seed": 9})
    assert got["data"]["columns"] == {"text": "review", "label": "stars"}
    assert got["data"]["split"] == {"seed": 9, "group": "user"}
    assert got["data"]["test"] == "new.csv" and got["data"]["train"] is None


def test_a_recipe_typed_beside_the_model_brings_its_own_rows(trained: Path) -> None:
    got = inherited(trained, "experiment=banking77", train="/new/train.csv", columns={"label": "category"})
    assert got["data"]["train"] == "/new/train.csv" and got["data"]["test"] is None
    assert got["data"]["columns"] == {"label": "category"}
    assert got["data"]["context"] == 64 and got["task"]["features"]["ngrams"], "of the model, not of the rows"


def test_a_saved_folder_of_data_is_found_from_another_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "saved").mkdir()
    run = RunConfig()
    run.data.path = "saved"
    assert config_dict(run)["data"]["path"] == str(tmp_path / "saved")
    run.data.path = "someone/of_the_hub"
    assert config_dict(run)["data"]["path"] == "someone/of_the_hub"


def test_a_value_of_the_run_folder_is_told_as_such(trained: Path) -> None:
    words = read_words(["stage=evaluate", "task=classification", f"model.path={trained}", "data.columns.label=stars"])
    inherit(composed(trained), words)
    message = explain_inherited("there is no column 'comment' (data.columns.text=comment)", words)
    assert message == (
        f"\ndata.columns.text comes from {trained}/run.yaml, the run of model.path. Type the key to replace it."
    )
    assert explain_inherited("there is no column 'stars' (data.columns.label=stars)", words) == ""
