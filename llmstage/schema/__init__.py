"""Every key of the command line as typed dataclasses; no torch here."""

from llmstage.schema.data import DataConfig
from llmstage.schema.run import (
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
from llmstage.schema.stage import ProveResume, StageConfig
from llmstage.schema.task import TaskConfig

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
