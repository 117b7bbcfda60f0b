"""Parse the overrides of a command line and check them before anything is composed, so that all complaints are
reported at once."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException

from llmstage.cli.experiment import choices_of, preset_words
from llmstage.config import FACTS, GROUPS, RunConfig, stage_config, task_config
from llmstage.config.renamed_keys import key_of, present_override
from llmstage.config.typed import convert, walk_fields
from llmstage.errors import Refused, UserError
from llmstage.naming import did_you_mean, unknown
from llmstage.paths import name_in, options

HYDRA_KEYS = (
    "hydra.run.dir",
    "hydra.sweep.dir",
    "hydra.sweep.subdir",
    "hydra.job.name",
    "hydra.mode",
    "hydra.verbose",
    "hydra.launcher.",
    "hydra.sweeper.",
    "hydra/launcher",
    "hydra/sweeper",
)
"""The keys of Hydra's own config that a run may change. Other keys can name classes to call, and are refused."""

ONE_OF = (("trainer.max_steps", "trainer.epochs", "trainer.max_tokens"), ("trainer.batch_size", "trainer.batch_tokens"))
"""Keys of which exactly one is set; setting one on the command line removes the defaults of the others."""


@dataclass(slots=True)
class Words:
    """The overrides of a command line, parsed and checked."""

    typed: dict[str, list[Any]] = field(default_factory=dict)
    """Key to its values: one value, or several in a sweep. A value that is an interpolation, or an interval of floats,
    is absent."""
    for_hydra: list[str] = field(default_factory=list)
    """The overrides in the form that Hydra gets."""
    wrong: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    """Old keys that were typed, with their present names."""
    without_task: bool = False
    """Whether the stage needs no task and none was named."""
    inherited: dict[str, Path] = field(default_factory=dict)
    """Keys whose value comes from a run folder, with that folder."""

    def choice(self, group: str) -> str:
        """Return the chosen option of a group; empty where there is none."""
        values = self.typed.get(group) or [""]
        return str(values[0])


def values_of(override: Override) -> list[Any]:
    """Return the values of an override; none where only Hydra can resolve them."""
    value = override.value()
    if isinstance(value, ChoiceSweep):
        return list(override.sweep_iterator()) if not value.simple_form else [plain(item) for item in value.list]
    if isinstance(value, RangeSweep):
        return list(value.range())
    if isinstance(value, IntervalSweep):
        return []
    return [plain(value)]


def plain(value: Any) -> Any:
    """Return a parsed value as a plain Python value, without quotes and casts."""
    text = getattr(value, "text", None)
    if text is not None:
        return text
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    return value


def parse(argument: str) -> Override:
    """Parse one override. Hydra's grammar is ASCII: a value with other characters (`data.train=语料.txt`) is read as if
    it were quoted."""
    parser = OverridesParser.create()
    try:
        return parser.parse_override(argument)
    except HydraException:
        key, equals, value = argument.partition("=")
        if not equals:
            raise
        return parser.parse_override(f"{key}={re.sub(WORD, quote, value)}")


WORD = r"[^,:\[\]{}'\"\s](?:[^,:\[\]{}'\"]*[^,:\[\]{}'\"\s])?"
"""A part of a value between the separators of lists, mappings and sweeps."""


def quote(match: re.Match[str]) -> str:
    """Return a part of a value in quotes, where the grammar needs them."""
    word = match[0]
    return word if re.fullmatch(r"[\w\-/%+.$*@?|\\ ]+", word, re.ASCII) else f"'{word}'"


def read_words(arguments: list[str], config_dirs: tuple[Path, ...] = ()) -> Words:
    """Parse and check every override; complaints are gathered in `wrong`."""
    words = Words()
    overrides: list[Override] = []
    for argument in present_overrides(arguments, words):
        if "_target_" in argument:
            raise Refused(f"'{argument}': a config must not name code to run; components are chosen by name.")
        try:
            overrides.append(parse(argument))
        except HydraException:
            words.wrong.append(
                f"'{argument}' cannot be read. The form is key=value, e.g. optim.lr=3e-4 or data.train=a.txt."
            )
    for override in overrides:  # choices first: they decide which keys exist
        key = override.key_or_group
        if key in (*GROUPS, "experiment"):
            words.typed[key] = values_of(override)
            words.wrong += check_choice(key, words.typed[key], config_dirs)
    take_recipe(words, config_dirs)
    types = known_keys(words, config_dirs)
    for override in overrides:
        key = override.key_or_group
        if key in (*GROUPS, "experiment"):
            words.for_hydra.append(str(override.input_line))
        elif key.startswith("hydra"):
            if not key.startswith(HYDRA_KEYS):
                words.wrong.append(
                    f"'{key}' of Hydra's own config cannot be set here. Open are: {', '.join(HYDRA_KEYS)}."
                )
            words.for_hydra.append(str(override.input_line))
        else:
            check_leaf(override, key, types, words)
    for keys in ONE_OF:
        given = [key for key in keys if any(value is not None for value in words.typed.get(key, []))]
        if len(given) > 1:
            words.wrong.append(f"{' and '.join(given)} are given; exactly one of them can be set.")
        elif given:
            words.for_hydra += [f"{key}=null" for key in keys if key not in words.typed]
    return words


def present_overrides(arguments: list[str], words: Words) -> list[str]:
    """Return the overrides with every key under its present name; note the old names, and keys given under both."""
    typed = {key_of(argument) for argument in arguments}
    result = []
    for argument in arguments:
        present = present_override(argument)
        old, new = key_of(argument), key_of(present)
        if old != new:
            words.renamed[old] = new
            if new in typed:
                words.wrong.append(f"{old} and {new} are one key, by its old and its new name. Give {new} alone.")
        result.append(present)
    return result


def take_recipe(words: Words, config_dirs: tuple[Path, ...]) -> None:
    """Treat the stage and task of a recipe as typed, and let a trainer preset that is typed with it override its
    settings."""
    recipes = [str(value) for value in words.typed.get("experiment", []) if value is not None]
    for group in ("stage", "task"):
        chosen = [choices_of(name, config_dirs).get(group) for name in recipes]
        if group not in words.typed and any(chosen):
            words.typed[group] = list(dict.fromkeys(option for option in chosen if option))
    preset = words.choice("trainer")
    if not recipes or preset in ("", "default"):
        return
    settings = preset_words(preset, config_dirs)
    for keys in ONE_OF:
        if any(settings.get(key) is not None for key in keys):
            settings |= {key: None for key in keys if key not in settings}
    words.for_hydra += [f"{key}={'null' if value is None else value}" for key, value in settings.items()]


def check_choice(group: str, values: list[Any], config_dirs: tuple[Path, ...]) -> list[str]:
    """Return complaints about options that a group does not have."""
    known = options(group, config_dirs)
    return [unknown(group, str(value), known) for value in values if value is not None and str(value) not in known]


def known_keys(words: Words, config_dirs: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return every leaf key of the chosen stage and task, with its type."""
    types = dict(walk_fields(RunConfig))
    try:
        for stage in words.typed.get("stage", [""]):
            types.update(walk_fields(stage_config(str(stage)), "stage"))
        for task in words.typed.get("task", [""]):
            types.update(walk_fields(task_config(name_in("task", str(task), config_dirs)), "task"))
    except UserError:
        pass  # the module of a task outside llmstage is missing: composing the config raises this error again
    return {key: annotation for key, annotation in types.items() if key not in FACTS}


def check_leaf(override: Override, key: str, types: dict[str, Any], words: Words) -> None:
    """Check the key and values of one override, and add it to the overrides for Hydra."""
    parent = key.rpartition(".")[0]
    annotation = types.get(key)
    in_mapping = annotation is None and is_mapping(types.get(parent))
    if in_mapping:
        annotation = str
    if annotation is None:
        inner = [known for known in types if known.startswith(key + ".")]
        if inner:
            words.wrong.append(f"'{key}' is a group of keys. Set one of: {', '.join(inner[:8])}.")
        else:
            hint = "" if key in FACTS else did_you_mean(key, types)
            words.wrong.append(f"Unknown key '{key}'.{hint}{owners(key)}")
        return
    if override.is_delete():
        words.wrong.append(f"'{override.input_line}': keys cannot be deleted; set {key} to another value.")
        return
    values = values_of(override)
    words.typed[key] = values
    for value in values:
        if not (isinstance(value, str) and "${" in value):
            convert(annotation, value, key, words.wrong)
    line = str(override.input_line)
    words.for_hydra.append("++" + line.lstrip("+") if in_mapping else line.lstrip("+"))


def is_mapping(annotation: Any) -> bool:
    """Return whether a type is a mapping, whose keys are free."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return get_origin(annotation) is dict


def owners(key: str) -> str:
    """Return a sentence that names the tasks or stages that have a key, where the chosen one has not."""
    if key in FACTS:
        return f" It is set by choosing {key.partition('.')[0]}=."
    group, _, rest = key.partition(".")
    if group not in ("task", "stage") or not rest:
        return ""
    config = task_config if group == "task" else stage_config
    have = [name for name in options(group) if key in dict(walk_fields(config(name), group))]
    return f" It belongs to {group}={', '.join(have)}." if have else ""
