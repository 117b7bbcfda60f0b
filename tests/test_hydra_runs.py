"""Hydra inside llmstage: composed once, with every default, and without a trace in a Hydra program around it."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobRuntime
from hydra.version import getbase
from omegaconf import OmegaConf

from llmstage.cli import hydra_runs
from llmstage.cli.command import main, run_words
from llmstage.cli.hydra_runs import compose_overrides
from llmstage.config import GROUPS, RunConfig, stage_config, task_config
from llmstage.errors import DataError, UserError
from llmstage.paths import options

SMALL = [
    "stage=pretrain", "task=causal_lm", "trainer=smoke", "trainer.max_steps=1", "trainer.threads=1", "data.limit=40",
    "model.num_hidden_layers=1", "model.hidden_size=32", "model.num_attention_heads=2", "model.vocab_size=320",
]  # fmt: skip

SET_BY_LIBRARIES = ("TORCHINDUCTOR_", "TOKENIZERS_")
"""Environment variables that torch and tokenizers set when they are used."""


@pytest.fixture
def around(tmp_path: Path):
    """A Hydra program of the user's own around the test, with a config, a store node and a resolver that clash with ours."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "config.yaml").write_text("a: 1\nwhen: ${now:%Y}\n", encoding="utf-8")
    store, before = ConfigStore.instance(), dict(ConfigStore.instance().repo)
    store.store(name="config", node={"trainer": {"theirs": 1}})
    with initialize_config_dir(str(folder), version_base="1.2", job_name="theirs"):
        OmegaConf.register_new_resolver("now", lambda pattern: "their now", replace=True)
        yield folder
    store.repo = before
    GlobalHydra.instance().clear()


def state() -> tuple[object, ...]:
    return (
        GlobalHydra.instance().hydra,
        HydraConfig.instance().cfg,
        JobRuntime.instance().get("name"),
        str(getbase()),
        {name: id(node) for name, node in ConfigStore.instance().repo.items()},
        list(sys.argv),
        {name: value for name, value in os.environ.items() if not name.startswith(SET_BY_LIBRARIES)},
        str(OmegaConf.create({"now": "${now:%Y}"}).now),
    )


def test_a_run_leaves_the_hydra_program_around_it_as_it_is(around, workplace):
    before = state()
    [result] = run_words([*SMALL, "hydra.run.dir=run"])
    assert result.status == 0 and result.error is None and result.out_dir == workplace / "run"
    assert isinstance(result.value, float)
    assert state() == before
    with pytest.raises(UserError, match="Unknown key"):
        run_words([*SMALL, "optim.l=1"])
    assert state() == before
    assert compose("config").when == "their now"


def test_importing_llmstage_changes_nothing_in_hydra():
    from hydra._internal.hydra import Hydra

    assert Hydra.get_mode.__module__ == "hydra._internal.hydra"


def test_the_jobs_of_a_sweep_have_a_result_each(workplace):
    results = run_words(["-m", *SMALL, "data.train=null,missing.txt", "hydra.sweep.dir=sweep"])
    assert [result.status for result in results] == [0, 3]
    assert isinstance(results[1].error, DataError) and "missing.txt" in results[1].message
    assert [result.out_dir.name for result in results] == ["0", "1"]


def test_the_error_of_a_job_is_in_its_result(workplace):
    [result] = run_words([*SMALL, "data.train=missing.txt", "hydra.run.dir=run"])
    assert result.status == 3 and isinstance(result.error, DataError)


@pytest.mark.parametrize("flag", ["--help", "--info=all", "--hydra-help", "--cfg=job", "--experimental-rerun=x.pickle"])
def test_from_python_only_runs_can_be_started(flag):
    with pytest.raises(UserError, match=flag.partition("=")[0]):
        run_words(["stage=finetune", "task=dialogue", flag])


def test_a_single_run_is_composed_once(workplace, monkeypatch):
    calls = []
    load = hydra_runs.Loader.load_configuration
    monkeypatch.setattr(hydra_runs.Loader, "load_configuration", lambda *args: calls.append(1) or load(*args))
    assert main([*SMALL, "data.train=missing.txt"]) == 3
    assert len(calls) == 1


def test_hydras_own_files_are_written(workplace):
    assert main([*SMALL, "hydra.run.dir=run"]) == 0
    folder = workplace / "run" / ".hydra"
    assert yaml.safe_load((folder / "overrides.yaml").read_text())[: len(SMALL)] == SMALL
    job = yaml.safe_load((folder / "config.yaml").read_text())
    assert job["optim"] == asdict(RunConfig())["optim"] and job["model"]["hidden_size"] == 32
    hydra = yaml.safe_load((folder / "hydra.yaml").read_text())["hydra"]
    assert hydra["runtime"]["output_dir"] == str(workplace / "run") and hydra["mode"] == "RUN"
    assert hydra["runtime"]["choices"]["task"] == "causal_lm" and hydra["job"]["name"] == "llmstage"


def test_hydras_mode_can_be_typed(workplace, capsys):
    words = [*SMALL, "data.train=missing.txt"]
    assert main([*words, "hydra.mode=MULTIRUN", "seed=1,2"]) == 1
    assert "2 jobs" in capsys.readouterr().out
    assert main([*words, "hydra.mode=RUN", "hydra.run.dir=run"]) == 3


STAGES, TASKS = options("stage"), options("task")
PAIRS = [(STAGES[number % len(STAGES)], TASKS[number % len(TASKS)]) for number in range(max(len(STAGES), len(TASKS)))]
"""Each stage and each task at least once: the keys of a stage do not depend on the task."""


@pytest.mark.parametrize(("stage", "task"), PAIRS)
def test_the_composed_config_has_every_key(stage, task):
    data = compose_overrides([f"stage={stage}", f"task={task}"])
    defaults = asdict(RunConfig()) | {"stage": asdict(stage_config(stage)()), "task": asdict(task_config(task)())}
    assert keys(data) == keys(defaults)
    assert set(data) == set(defaults) >= {*GROUPS}


def keys(data: dict, prefix: str = "") -> set[str]:
    result = set()
    for key, value in data.items():
        result |= keys(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}"}
    return result


def test_a_default_can_be_read_by_an_interpolation(workplace):
    folder = Path("mine/data")
    folder.mkdir(parents=True)
    (folder / "shop.yaml").write_text("name: shop\ndemo_rows: 77\nlimit: ${optim.beta2}\n")
    data = compose_overrides(["stage=finetune", "task=dialogue", "data=shop"], (Path("mine"),))
    assert data["data"]["limit"] == 0.95 and data["data"]["max_lost"] == 0.01


TASK = '''
from dataclasses import dataclass

from llmstage.config import TaskConfig


@dataclass(slots=True)
class Config(TaskConfig):
    """Options of this task."""

    shout: int = 3
    """How loud."""
'''


def test_a_task_outside_llmstage_shows_its_defaults(workplace, monkeypatch, capsys):
    Path("mine/task").mkdir(parents=True)
    Path("mine/task/loud.yaml").write_text("name: outside.loud_task\nstages: [pretrain]\nmodel_families: [gpt]\n")
    Path("outside").mkdir()
    Path("outside/loud_task.py").write_text(TASK)
    monkeypatch.syspath_prepend(str(workplace))
    words = ["--config-dir", "mine", "stage=pretrain", "task=loud", "--cfg", "job"]
    assert main(words) == 0
    assert yaml.safe_load(capsys.readouterr().out)["task"]["shout"] == 3
    assert main([*words, "task.shout=4"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["task"]["shout"] == 4
