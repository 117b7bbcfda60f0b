"""Every key of the command line as typed dataclasses; no torch here."""

from llmstage.config.data import DataConfig
from llmstage.config.run import (
    FACTS,
    GROUPS,
    AdapterConfig,
    GenerationConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TrackerConfig,
    TrainerConfig,
    build_run,
    stage_config,
    task_config,
)
from llmstage.config.stage import ProveResume, StageConfig
from llmstage.config.task import TaskConfig

__all__ = [
    "FACTS",
    "GROUPS",
    "AdapterConfig",
    "DataConfig",
    "GenerationConfig",
    "ModelConfig",
    "OptimConfig",
    "ProveResume",
    "RunConfig",
    "StageConfig",
    "TaskConfig",
    "TrackerConfig",
    "TrainerConfig",
    "build_run",
    "stage_config",
    "task_config",
]
