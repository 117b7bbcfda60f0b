"""Keys of version 0.1.0: each gives the run that its present name gives, wherever keys are read, with a hint."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmstage.cli.command import compose_run, main
from llmstage.cli.hydra_runs import HydraRuns, compose_overrides, plain_config, separate_hydra
from llmstage.cli.inherit import with_plan
from llmstage.cli.overrides import read_words
from llmstage.config import RunConfig, build_run, stage_config, task_config
from llmstage.config.renamed_keys import RENAMED_KEYS, hint, present_key, present_override, rename_keys
from llmstage.config.typed import walk_fields
from llmstage.errors import UserError
from llmstage.paths import read_run_yaml

BASE = ["stage=pretrain", "task=causal_lm"]
GROUPS_OF_EXPLORE = {"stage.gold": "seeds=2", "stage.why": "elicit_steps=7", "stage.collect": "clusters=5"}
FACTS_OF_OPTIONS = ("model.kind", "task.kinds")
"""Keys that an option's YAML sets and nobody types."""
TYPED = {
    "generation.beams": "3",
    "trainer.checkpointing": "on",
    "trainer.keep": "7",
    "trainer.lean": "off",
    "retrieval.kind": "dense",
    "retrieval.top": "5",
    "retrieval.tokens": "99",
}
ROWS = [old for old in RENAMED_KEYS if old not in FACTS_OF_OPTIONS]


def words_of(old: str) -> list[str]:
    """A command line that sets an old key to something else than its default."""
    if old in GROUPS_OF_EXPLORE:
        return ["stage=explore", "model.path=x", f"{old}.{GROUPS_OF_EXPLORE[old]}"]
    return [*BASE, f"{old}={TYPED.get(old, '48')}"]


def composed(words: list[str]) -> RunConfig:
    read = read_words(words)
    wrong: list[str] = []
    if not any(word.startswith("task=") for word in words):
        read.for_hydra.append("~task")
    run = build_run(compose_overrides(read.for_hydra), wrong)
    assert not read.wrong and not wrong
    return run


@cache
def without_the_key(*words: str) -> RunConfig:
    return composed([*words])


def test_old_keys_are_gone_and_new_ones_exist():
    keys = {key for cls, group in ((RunConfig, ""), (stage_config("explore"), "stage"), (task_config(""), "task"))
            for key, _ in walk_fields(cls, group)}  # fmt: skip
    for old, new in RENAMED_KEYS.items():
        assert not any(key == old or key.startswith(f"{old}.") for key in keys)
        assert any(key == new or key.startswith(f"{new}.") for key in keys)


@pytest.mark.parametrize("old", ROWS)
def test_a_typed_old_key_gives_the_same_run(old):
    words = words_of(old)
    run = composed(words)
    assert run == composed([present_override(word) for word in words])
    assert run != without_the_key(*words[:-1]), "the value must differ from the default"


@pytest.mark.parametrize("old", ROWS)
def test_a_typed_old_key_is_hinted_at_once(old, capsys, workplace):
    words = words_of(old)
    key = words[-1].partition("=")[0]
    assert main([*words, *([] if old not in GROUPS_OF_EXPLORE else ["task=causal_lm"]), "--cfg", "job"]) == 0
    out, err = capsys.readouterr()
    assert err == f"note: {hint(key, present_key(key))}\n"
    assert present_key(key).rpartition(".")[2] in out


@pytest.mark.parametrize("old", ROWS)
def test_an_old_and_its_new_key_together_are_refused(old, capsys, workplace):
    words = words_of(old)
    assert main([*words, "task=causal_lm", present_override(words[-1])][len(words) > 3 :]) == 2
    err = capsys.readouterr().err
    key = words[-1].partition("=")[0]
    assert f"{key} and {present_key(key)} are one key" in err


@pytest.mark.parametrize("mark", ["+", "++"])
def test_marks_of_hydra_stay(mark):
    assert present_override(f"{mark}model.width=64") == f"{mark}model.hidden_size=64"
    assert composed([*BASE, f"{mark}model.width=64"]) == composed([*BASE, "model.hidden_size=64"])


def test_a_deletion_and_a_whole_group_name_the_new_key(capsys, workplace):
    assert main([*BASE, "~trainer.keep"]) == 2
    assert "keys cannot be deleted; set trainer.save_total_limit to another value" in capsys.readouterr().err
    assert main(["stage=explore", "model.path=x", "stage.gold={kind: grokking}"]) == 2
    assert "'stage.toy_worlds' is a group of keys" in capsys.readouterr().err


def test_a_sweep_takes_old_keys():
    read = read_words([*BASE, "model.width=32,64"])
    assert read.typed["model.hidden_size"] == [32, 64] and "model.hidden_size=32,64" in read.for_hydra


def write(path: Path, data: dict[str, Any], head: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(head + yaml.safe_dump(data), encoding="utf-8")
    return path


def run_with(folder: Path, words: list[str]) -> tuple[RunConfig, dict[str, str]]:
    with separate_hydra():
        runs = HydraRuns((folder,))
        wrong: list[str] = []
        run = build_run(plain_config(runs.compose(read_words(words, (folder,)).for_hydra)), wrong)
    assert not wrong
    return run, runs.renamed


def test_a_model_of_the_users_own_yaml_takes_old_keys(tmp_path):
    tower = {"layers": 2, "width": 32, "heads": 2, "mlp_width": 48}
    data = {"name": "mine", "kind": "clip", "layers": 3, "width": 64, "heads": 2, "mlp_width": 96, "vision": tower}
    write(tmp_path / "model" / "mine.yaml", data)
    run, renamed = run_with(tmp_path, ["stage=pretrain", "task=contrastive", "model=mine"])
    assert (run.model.family, run.model.num_hidden_layers, run.model.hidden_size) == ("clip", 3, 64)
    assert (run.model.vision.intermediate_size, run.model.vision.num_attention_heads) == (48, 2)
    assert renamed["model.vision.mlp_width"] == "model.vision.intermediate_size" and len(renamed) == 9


def test_a_recipe_of_the_users_own_yaml_takes_old_keys_and_typed_ones_win(tmp_path):
    lines = "# @package _global_\n"
    defaults = ["override /stage: pretrain", "override /task: causal_lm"]
    data = {
        "defaults": [{line.rpartition(": ")[0]: line.rpartition(": ")[2]} for line in defaults],
        "model": {"width": 64, "layers": 2},
        "trainer": {"keep": 9},
        "generation": {"beams": 2},
    }
    write(tmp_path / "experiment" / "mine.yaml", data, lines)
    run, renamed = run_with(tmp_path, ["experiment=mine", "model.hidden_size=32"])
    assert (run.model.hidden_size, run.model.num_hidden_layers) == (32, 2)
    assert run.trainer.save_total_limit == 9 and run.generation.num_beams == 2
    assert set(renamed) == {"model.width", "model.layers", "trainer.keep", "generation.beams"}


def test_a_task_of_the_users_own_yaml_takes_old_keys(tmp_path):
    write(tmp_path / "task" / "mine.yaml", {"name": "causal_lm", "stages": ["pretrain"], "kinds": ["gpt"]})
    run, _ = run_with(tmp_path, ["stage=pretrain", "task=mine"])
    assert run.task.model_families == ["gpt"]


def test_a_trainer_preset_of_the_users_own_yaml_takes_old_keys_beside_a_recipe(tmp_path):
    write(tmp_path / "trainer" / "mine.yaml", {"defaults": ["default"], "keep": 5, "epochs": 2, "max_steps": None})
    read = read_words(["experiment=banking77", "trainer=mine"], (tmp_path,))
    assert "trainer.save_total_limit=5" in read.for_hydra and "trainer.epochs=2" in read.for_hydra


def test_a_plan_takes_old_keys(tmp_path):
    plan = write(tmp_path / "plan.yaml", {"overrides": {"model": {"width": 64}, "trainer.keep": 5}})
    read = read_words(with_plan([*BASE, f"plan={plan}", "model.hidden_size=32"]))
    assert not read.wrong
    assert read.typed["model.hidden_size"] == [32] and read.typed["trainer.save_total_limit"] == [5]


@pytest.mark.parametrize("old", RENAMED_KEYS)
def test_an_old_run_yaml_is_read_under_new_keys(old, tmp_path):
    data: Any = {"a": 3} if old in GROUPS_OF_EXPLORE else 3
    for name in reversed(old.split(".")):
        data = {name: data}
    write(tmp_path / "run.yaml", data)
    loaded = read_run_yaml(tmp_path)
    for name in RENAMED_KEYS[old].split("."):
        loaded = loaded[name]
    assert loaded == ({"a": 3} if old in GROUPS_OF_EXPLORE else 3)


def test_data_under_both_names_keeps_the_new_one():
    renamed: dict[str, str] = {}
    data = rename_keys({"model": {"width": 1, "hidden_size": 2, "path": None}}, renamed=renamed)
    assert data == {"model": {"hidden_size": 2, "path": None}} and renamed == {"model.width": "model.hidden_size"}


def test_names_in_free_mappings_stay():
    data = {"data": {"columns": {"width": "breite", "kind": "art"}}, "stage": {"columns": {"top": "x"}}}
    assert rename_keys(data) == data


def test_the_saved_config_of_a_run_of_this_version_is_unchanged():
    from llmstage.training.run_folder import config_dict

    data = config_dict(replace(RunConfig(), stage=stage_config("explore")()))
    assert rename_keys(data) == data


def test_the_keys_of_a_renamed_group_are_used_by_the_run():
    words = ["stage=explore", "task=causal_lm", "model.path=x", "stage.collect.logs=a.txt", "stage.collect.clusters=5"]
    assert compose_run(words).stage.novelty.clusters == 5
    with pytest.raises(UserError, match=r"stage\.novelty\.clusters is not read here"):
        compose_run([*words[:3], words[4]])
