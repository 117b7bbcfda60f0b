"""Composing a config and running jobs with Hydra, without changing Hydra for the rest of the process.

Every private name of Hydra and OmegaConf that llmstage uses is in this file. Hydra's own `main` is not used: it reads
sys.argv, ends the process on an error, and composes the config once more to learn the mode of the run.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.default_element import ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobRuntime, run_job
from hydra.plugins.config_source import ConfigResult
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.basecontainer import BaseContainer

from llmstage.config import GROUPS, RunConfig, stage_config, task_config
from llmstage.config.renamed_keys import rename_keys
from llmstage.errors import DiskError, UserError
from llmstage.paths import conf_dir

JobFunction = Callable[[DictConfig], Any]

VERSION_BASE = "1.3"
CONFIG_NAME = "config"
HYDRA_NODES = ("hydra", "_dummy_empty_config_.yaml")
"""Entries of Hydra's ConfigStore that Hydra itself makes; a program around llmstage may have added others."""
STATE = (GlobalHydra, HydraConfig, JobRuntime, version.VersionBase)
"""Singletons with the state of one Hydra program."""
RESOLVERS = ("now", "hydra", "python_version")
"""OmegaConf resolvers that Hydra registers anew each time it starts."""


class Loader(ConfigLoaderImpl):
    """Hydra's loader of YAML files, with two additions.

    Keys of earlier versions get their present names. Keys that no YAML file sets get the default of their dataclass, so
    that a default is written once and `--cfg job` still shows every key.
    """

    def __init__(self, config_search_path: Any) -> None:
        super().__init__(config_search_path=config_search_path)
        self.renamed: dict[str, str] = {}

    def _load_single_config(self, default: ResultDefault, repo: Any) -> ConfigResult:
        result = super()._load_single_config(default, repo)
        if (default.config_path or "").startswith("hydra/") or not isinstance(result.config, DictConfig):
            return result
        renamed: dict[str, str] = {}
        data = rename_keys(OmegaConf.to_container(result.config, resolve=False), renamed=renamed)  # type: ignore[arg-type]
        if renamed:
            self.renamed |= renamed
            result.config = OmegaConf.create(data)
        return result

    def _compose_config_from_defaults_list(self, *args: Any, **kwargs: Any) -> DictConfig:
        config = super()._compose_config_from_defaults_list(*args, **kwargs)
        add_defaults(config)
        return config


def add_defaults(config: DictConfig) -> None:
    """Add to a composed config every key that no YAML file set, with the default of its dataclass."""
    for key, value in asdict(RunConfig()).items():
        if key not in GROUPS:
            if key not in config:
                config[key] = value
        elif key in config:
            if key in ("stage", "task"):
                name = str(config[key].get("name") or "")
                value = asdict(stage_config(name)() if key == "stage" else task_config(name)())
            config[key] = OmegaConf.merge(value, config[key])


@contextmanager
def separate_hydra() -> Iterator[None]:
    """Give the body a Hydra of its own; afterwards Hydra's global state is as it was.

    llmstage may be called inside a program that uses Hydra itself: its GlobalHydra, its HydraConfig, its ConfigStore
    nodes and its resolvers must neither be seen here nor be lost.
    """
    instances = Singleton._instances
    saved: dict[Any, Any] = {cls: instances.pop(cls) for cls in STATE if cls in instances}
    resolvers = {name: BaseContainer._resolvers[name] for name in RESOLVERS if name in BaseContainer._resolvers}
    store = ConfigStore.instance()
    nodes = store.repo
    store.repo = {name: node for name, node in nodes.items() if name in HYDRA_NODES}
    try:
        version.setbase(VERSION_BASE)
        yield
    finally:
        store.repo = nodes
        BaseContainer._resolvers.update(resolvers)
        for cls in STATE:
            instances.pop(cls, None)
        instances.update(saved)


def parse_flags(arguments: list[str]) -> argparse.Namespace:
    """Parse Hydra's flags (-m, --cfg, --config-dir, …); what is left are the overrides."""
    return get_args_parser().parse_intermixed_args(arguments)


class HydraRuns:
    """The config of one command line, composed and run. Use it inside separate_hydra()."""

    def __init__(self, config_dirs: tuple[Path, ...] = ()) -> None:
        search_path = create_config_search_path(str(conf_dir()))
        for folder in config_dirs:
            if not folder.is_dir():
                raise UserError(f"--config-dir {folder}: there is no such folder (seen from {Path.cwd()}).")
            anchor = SearchPathQuery(provider="schema")
            search_path.prepend(provider="command-line", path=f"file://{folder.resolve()}", anchor=anchor)
        self.loader = Loader(search_path)
        self.hydra = Hydra(task_name="llmstage", config_loader=self.loader)
        GlobalHydra.instance().initialize(self.hydra)

    @property
    def renamed(self) -> dict[str, str]:
        """Old keys that YAML files use, with their present names."""
        return self.loader.renamed

    def compose(self, overrides: list[str]) -> DictConfig:
        """Compose the config of a single run, its `hydra` node included."""
        return self.loader.load_configuration(CONFIG_NAME, overrides, RunMode.RUN)

    def run(self, config: DictConfig, job: JobFunction) -> None:
        """Run a composed config as one job: make its folder, write .hydra/, call `job`."""
        OmegaConf.set_readonly(config.hydra, False)  # plain_config() has made it read-only
        config.hydra.mode = RunMode.RUN
        if not any(line.startswith("hydra.mode=") for line in config.hydra.overrides.hydra):
            config.hydra.overrides.hydra.append("hydra.mode=RUN")
        check_folder(Path(config.hydra.run.dir), "hydra.run.dir")
        callbacks = Callbacks(config)
        callbacks.on_run_start(config=config, config_name=CONFIG_NAME)
        returned = run_job(
            hydra_context=HydraContext(config_loader=self.loader, callbacks=callbacks),
            task_function=job,
            config=config,
            job_dir_key="hydra.run.dir",
            job_subdir_key=None,
        )
        callbacks.on_run_end(config=config, config_name=CONFIG_NAME, job_return=returned)

    def sweep(self, overrides: list[str], job: JobFunction) -> None:
        """Let Hydra's sweeper and launcher run a job for each combination of values."""
        try:
            self.hydra.multirun(CONFIG_NAME, job, [*overrides, "hydra.mode=MULTIRUN"])
        except (NotADirectoryError, FileExistsError) as error:
            if error.filename:
                check_folder(Path(error.filename), "hydra.sweep.dir")
            raise

    def show(self, flags: argparse.Namespace, overrides: list[str]) -> None:
        """Print what --cfg, --info, --hydra-help or --shell-completion ask for."""
        if flags.hydra_help:
            flags.overrides = overrides
            self.hydra.hydra_help(CONFIG_NAME, get_args_parser(), flags)
        elif flags.shell_completion:
            self.hydra.shell_completion(CONFIG_NAME, overrides)
        elif flags.cfg:
            self.hydra.show_cfg(CONFIG_NAME, overrides, flags.cfg, flags.package, flags.resolve)
        else:
            with full_errors():
                self.hydra.show_info(flags.info, CONFIG_NAME, overrides)


def check_folder(folder: Path, key: str) -> None:
    """Raise DiskError where a folder cannot be made because it, or a folder above it, is a file. `key` names the folder."""
    existing = next((path for path in (folder, *folder.parents) if path.exists()), None)
    if existing is not None and not existing.is_dir():
        raise DiskError(f"{key}={folder}: {existing} is a file. Name a folder: {key}=<folder>")


@contextmanager
def full_errors() -> Iterator[None]:
    """Make Hydra raise its errors for the body, instead of printing them and ending the process with status 1."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before


def compose_overrides(overrides: list[str], config_dirs: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return the composed config of a command line as plain data, without the `hydra` node."""
    with separate_hydra():
        return plain_config(HydraRuns(config_dirs).compose(overrides))


def plain_config(config: DictConfig) -> dict[str, Any]:
    """Return a composed config as plain data: interpolations resolved, without the `hydra` node."""
    # HydraConfig must know the config, because `${hydra:…}` reads from it.
    HydraConfig.instance().set_config(config)
    return {
        str(key): OmegaConf.to_container(config[key], resolve=True) if OmegaConf.is_config(config[key]) else config[key]
        for key in config
        if key != "hydra"
    }
