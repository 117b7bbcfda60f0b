"""What model.path and data.cache name."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmstage.errors import ModelError
from llmstage.paths import (
    ModelSource,
    cache_dir,
    conf_dir,
    explain_unloadable,
    locate_model,
    name_in,
    options,
    read_run_yaml,
)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    run = tmp_path / "outputs" / "run"
    for folder in (run / "model", run / "checkpoints" / "step_000010"):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    (run / "run.yaml").write_text("task: {name: dialogue}\n")
    return run


def test_a_run_its_model_its_checkpoint_and_a_link_are_one_run(run_dir, tmp_path):
    (tmp_path / "latest").symlink_to(run_dir)
    model = run_dir.resolve() / "model"
    for given in (run_dir, run_dir / "model", tmp_path / "latest"):
        place = locate_model(str(given))
        assert (place.model_dir, place.run_dir, place.hub_id) == (model, run_dir.resolve(), None)
    place = locate_model(str(run_dir / "checkpoints" / "step_000010"))
    assert place.run_dir == run_dir.resolve() and place.model_dir.name == "step_000010"


def test_a_plain_folder_a_hub_id_and_a_home(run_dir, tmp_path, monkeypatch):
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "config.json").write_text("{}")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate_model("~/plain").model_dir == plain.resolve() and locate_model("~/plain").run_dir is None
    assert locate_model("org/name").hub_id == "org/name" and locate_model("org/name").model_dir is None


def test_what_is_no_model_is_said(run_dir, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ModelError, match="it is empty"):
        locate_model(str(empty))
    (empty / "notes.txt").write_text("")
    with pytest.raises(ModelError, match=r"no config\.json in it \(notes\.txt\)"):
        locate_model(str(empty))
    with pytest.raises(ModelError, match="it is a file"):
        locate_model(str(empty / "notes.txt"))
    (run_dir / "model" / "config.json").unlink()
    with pytest.raises(ModelError, match="without a finished model"):
        locate_model(str(run_dir))


def test_run_yaml_is_data_and_no_code(run_dir):
    assert read_run_yaml(run_dir) == {"task": {"name": "dialogue"}}
    (run_dir / "run.yaml").write_text("task: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ModelError, match="python/object"):
        read_run_yaml(run_dir)
    (run_dir / "run.yaml").write_text("- a\n")
    with pytest.raises(ModelError, match="not a mapping"):
        read_run_yaml(run_dir)


def test_the_cache(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_dir("auto") == Path("/x/llmstage") and cache_dir("off") is None and cache_dir("/y") == Path("/y")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_dir("auto") == Path("/home/me/.cache/llmstage")


def test_options_are_files_the_users_own_included(tmp_path):
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "mine.yaml").write_text("# @package _global_\ntask:\n  name: a.b\n")
    assert "mine" in options("task", (tmp_path,)) and "mine" not in options("task")
    assert name_in("task", "mine", (tmp_path,)) == "a.b"
    assert name_in("task", "dialogue", (tmp_path,)) == "dialogue"
    assert (conf_dir() / "config.yaml").is_file()


def test_a_run_that_trained_nothing_names_the_model_it_used(tmp_path):
    (tmp_path / "run.yaml").write_text("stage: {name: explore}\nmodel: {path: /runs/first/model}\n")
    with pytest.raises(ModelError, match=r"stage=explore, which trains no model.*model\.path=/runs/first/model"):
        locate_model(str(tmp_path))


UNREACHABLE = "We couldn't connect to 'https://huggingface.co' to load the files.\nCheck your internet connection."


@pytest.mark.parametrize(
    ("name", "error", "offline", "parts"),
    [
        ("a/b/c", "Repo id must be in the form", False, ["no such folder", "no hub id either"]),
        ("outputs/rum", "Repo id", False, ["there is no such folder here"]),
        ("some/model", UNREACHABLE, True, ["offline=true forbids asking the hub", "hf download some/model"]),
        ("some/model", UNREACHABLE, False, ["the hub cannot be reached"]),
        ("some/model", "You are trying to access a gated repo.", False, ["the hub does not give it", "gated repo"]),
    ],
)
def test_a_hub_id_that_cannot_be_loaded_is_told_with_its_reason(monkeypatch, name, error, offline, parts):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    message = explain_unloadable(ModelSource(None, hub_id=name), error, offline=offline)
    assert all(part in message for part in parts) and "huggingface.co" not in message


def test_a_folder_that_cannot_be_loaded_is_told_as_it_was_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = f"It looks like the config file at '{tmp_path}/bad/config.json' is not a valid JSON file."
    message = explain_unloadable(ModelSource(tmp_path / "bad"), error, offline=False)
    assert str(tmp_path) not in message and message.startswith("model.path=bad cannot be loaded. It looks like")


def test_a_mistyped_folder_of_several_parts_is_told_its_neighbour(run_dir, monkeypatch):
    monkeypatch.chdir(run_dir.parent.parent)
    message = explain_unloadable(ModelSource(None, hub_id="outputs/run/modle"), "Repo id must be", offline=False)
    assert "Did you mean 'model'?" in message
