"""conf/ and the dataclasses of llmstage/config fit together, and no key is unused. Options are discovered, never listed."""

from __future__ import annotations

import ast
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from llmstage import config
from llmstage.cli.help import about, field_docs
from llmstage.config import GROUPS, RunConfig, stage_config, task_config
from llmstage.config.checks import check_run
from llmstage.config.typed import hints
from llmstage.paths import PACKAGE, conf_dir, options

CONF = conf_dir()
CONFIGS = sorted(path for path in CONF.rglob("*.yaml") if path.parent != CONF and "hydra" not in path.parts)


def shown(path: Path) -> str:
    return path.relative_to(CONF).as_posix()


def keys_of_task(name: str) -> dict:
    loaded = OmegaConf.to_container(OmegaConf.load(CONF / "task" / f"{name}.yaml"))
    return loaded.get("task") or loaded


def words_for(group: str, option: str) -> list[str]:
    """A command line that can start and takes this option."""
    if group == "experiment":
        return [f"experiment={option}", f"data_root={CONF}"]
    task = option if group == "task" else "causal_lm"
    if group == "model":
        kind = OmegaConf.load(CONF / "model" / f"{option}.yaml").family
        task = next(name for name in options("task") if kind in task_config(name)(**keys_of_task(name)).takes())
    words = {"stage": keys_of_task(task)["stages"][0], "task": task, group: option}
    if group == "adapter" and option != "none":
        words["model.path"] = "a_trained_model"
    return [f"{key}={value}" for key, value in words.items()]


@pytest.mark.parametrize("path", CONFIGS, ids=shown)
def test_every_shipped_option_becomes_a_typed_run(path, compose_run):
    group, option = path.parent.relative_to(CONF).as_posix(), path.stem
    run = compose_run(words_for(group, option))
    assert isinstance(run, RunConfig)
    if group in GROUPS and group not in ("trainer", "generation", "retrieval"):
        assert getattr(run, group).name == option
    if not run.stage.inherits and not run.stage.reads_stream:  # such stages need a trained model
        assert check_run(run, []) == []


@pytest.mark.parametrize("path", CONFIGS, ids=shown)
def test_every_group_of_conf_is_a_group_of_the_schema(path):
    assert path.parent.relative_to(CONF).as_posix() in (*GROUPS, "experiment")


def test_the_root_sets_no_key():
    """Defaults of root keys are in RunConfig, like all others."""
    assert set(OmegaConf.load(CONF / "config.yaml")) == {"defaults", "hydra"}


def flat(data: dict, prefix: str = "") -> dict:
    result = {}
    for key, value in data.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return result


def own_keys(path: Path) -> dict:
    """The keys of a file under its group, wherever its package puts them; without those it sets in other groups."""
    loaded = OmegaConf.to_container(OmegaConf.load(path)) or {}
    keys = loaded.get(path.parent.name) if "@package _global_" in path.read_text(encoding="utf-8") else loaded
    return {key: value for key, value in keys.items() if key != "defaults"}


GROUP_FILES = [path for path in CONFIGS if path.parent.name != "experiment"]
DEFINED_BY_THE_OPTION = {
    "task": {"stages", "model_families", "generates", "select"},
    "model": {"family", "vocab_size", "num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size"}
    | {"projection", "vision.size", "vision.patch", "vision.num_hidden_layers", "vision.hidden_size"}
    | {"vision.num_attention_heads", "vision.intermediate_size"},
}
"""Keys that an option's YAML must say even where they equal the dataclass: they are what the option is."""


@pytest.mark.parametrize("path", GROUP_FILES, ids=shown)
def test_a_default_is_written_once(path):
    """A group's YAML holds what differs from the dataclass; the composed config has the rest (test_hydra_runs.py)."""
    group = path.parent.name
    cls = {"stage": stage_config, "task": task_config}.get(group, lambda _: hints(RunConfig)[group])(path.stem)
    data, defaults = flat(own_keys(path)), flat(asdict(cls()))
    assert data.keys() <= defaults.keys()
    inherits = "defaults:" in path.read_text(encoding="utf-8") and group == "trainer"
    free = DEFINED_BY_THE_OPTION.get(group, set()) | {"name"}
    repeated = {key for key, value in data.items() if key not in free and value == defaults[key] and not inherits}
    assert not repeated


@pytest.mark.parametrize("task", options("task"))
def test_a_task_yaml_says_what_every_task_must_say(task):
    keys, cls = keys_of_task(task), task_config(task)
    assert keys["name"] == task
    assert (PACKAGE / "tasks" / f"{task}.py").is_file()
    assert set(keys) == {item.name for item in fields(config.TaskConfig)} <= {item.name for item in fields(cls)}
    assert keys["stages"] and set(keys["stages"]) <= set(options("stage"))
    kinds = {OmegaConf.load(CONF / "model" / f"{name}.yaml").family for name in options("model")}
    assert keys["model_families"] and set(keys["model_families"]) <= kinds


@pytest.mark.parametrize("stage", options("stage"))
def test_a_stage_yaml_names_a_file(stage):
    keys = OmegaConf.to_container(OmegaConf.load(CONF / "stage" / f"{stage}.yaml"))
    assert (PACKAGE / "stages" / f"{stage}.py").is_file()
    assert keys == {"name": stage}


def test_every_stage_and_task_file_has_its_yaml():
    for group, folder in (("stage", "stages"), ("task", "tasks")):
        files = {
            path.stem for path in (PACKAGE / folder).glob("*.py") if not path.stem.startswith(("__init__", "base"))
        }
        assert files == set(options(group))


@pytest.mark.parametrize("path", CONFIGS, ids=shown)
def test_an_option_says_what_it_is(path):
    assert about(path.parent.name, path.stem)


def config_classes() -> list[type]:
    found: list[type] = []

    def add(cls: type) -> None:
        if cls not in found:
            found.append(cls)
            for kind in hints(cls).values():
                if isinstance(kind, type) and is_dataclass(kind):
                    add(kind)

    add(RunConfig)
    for name in options("stage"):
        add(stage_config(name))
    for name in options("task"):
        add(task_config(name))
    return found


@pytest.mark.parametrize("cls", config_classes(), ids=lambda cls: cls.__name__)
def test_every_key_has_a_doc_string_and_no_unknown_attribute_fits(cls):
    undocumented = {item.name for item in fields(cls)} - field_docs(cls).keys()
    assert not undocumented
    with pytest.raises(AttributeError):
        cls().a_key_that_does_not_exist = 1  # slots: a typo in code cannot create a field


def attributes_read() -> set[str]:
    """Names read as `something.name` (in the schema: `self.name`), through getattr, or as a typed key `group.name`."""
    found: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        inside = path.parent.name == "config" and path.stem not in ("checks", "key_conditions")
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        reads = [node for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)]
        found |= {node.attr for node in reads if not inside or ast.unparse(node.value) == "self"}
        if inside:
            continue
        texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        found |= {text.partition(".")[2] for text in texts if text.partition(".")[0] in GROUPS}
        if any(isinstance(node, ast.Name) and node.id == "getattr" for node in nodes):
            found |= texts
    return found


READ = attributes_read()
LEAVES = sorted({(cls.__name__, item.name) for cls in config_classes() for item in fields(cls)})


@pytest.mark.parametrize(("cls", "name"), LEAVES, ids=lambda value: value)
def test_no_option_changes_nothing(cls, name):
    assert name in READ, f"{cls}.{name} is read nowhere"
