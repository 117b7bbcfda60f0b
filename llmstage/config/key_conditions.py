"""Conditions under which a run uses a key. A condition is part of the `Annotated` type of a field. A key that the user
sets and the run does not use is an error, not a silent option."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


class StageFacts(Protocol):
    """The facts of a stage that conditions read; keys of one stage are read with getattr."""

    @property
    def name(self) -> str: ...
    @property
    def writes(self) -> bool: ...
    @property
    def retrieves(self) -> bool: ...
    @property
    def reads_stream(self) -> bool: ...


class TaskFacts(Protocol):
    """The facts of a task that conditions read."""

    @property
    def name(self) -> str: ...
    @property
    def reads_images(self) -> bool: ...
    @property
    def reads_items(self) -> bool: ...
    @property
    def reads_conversations(self) -> bool: ...
    def writes(self) -> bool: ...


class RunFacts(Protocol):
    """A composed run as conditions and stage checks read it. RunConfig has this shape.

    The key groups are above this module (their fields carry its conditions), so they are not imported here.
    """

    @property
    def stage(self) -> StageFacts: ...
    @property
    def task(self) -> TaskFacts: ...
    @property
    def model(self) -> Any: ...
    @property
    def data(self) -> Any: ...
    @property
    def adapter(self) -> Any: ...
    @property
    def retrieval(self) -> Any: ...
    @property
    def offline(self) -> bool: ...
    @property
    def data_root(self) -> str: ...


@dataclass(slots=True, frozen=True)
class ReadBy:
    """`unread(run)` returns the reason why a run does not use the key, or None where it does."""

    unread: Callable[[RunFacts], str | None]


TRAINING_STAGES = ("pretrain", "finetune", "prove_resume", "inspect")


def _training(run: RunFacts) -> str | None:
    return None if run.stage.name in TRAINING_STAGES else f"stage={run.stage.name} does not train"


def _files(run: RunFacts) -> str | None:
    if not run.data.is_demo or run.stage.reads_stream:
        return None
    return "data=demo is generated in memory; give data.train, data.test or data.path"


def _demo(run: RunFacts) -> str | None:
    return None if run.data.is_demo else "data files are given, so the demo world is off"


def _scratch(run: RunFacts) -> str | None:
    return "model.path is given, so no preset is built" if run.model.path else None


def _pretrained(run: RunFacts) -> str | None:
    return None if run.model.path else "it changes a pretrained model; give model.path"


def _generates(run: RunFacts) -> str | None:
    if run.stage.writes and not run.task.name:
        return "there is no model to write"
    return None if run.task.writes() or run.stage.writes else f"task={run.task.name} generates no text as it is set"


def _serves(run: RunFacts) -> str | None:
    return None if run.model.path else "no model is served"


def _timed(run: RunFacts) -> str | None:
    return None if run.data.split.time else "data.split.time names no column"


def _shuffled(run: RunFacts) -> str | None:
    return "data.split.by=time cuts by time, not by a seeded hash" if run.data.split.by == "time" else None


def _rooted(run: RunFacts) -> str | None:
    return None if run.data.below(run.data_root) else "no path of this run starts there; experiment= sets such paths"


ROOTED = ReadBy(_rooted)


def _adapter(run: RunFacts) -> str | None:
    return None if run.adapter.name != "none" else "adapter=none trains all weights; give adapter=lora"


def _items(run: RunFacts) -> str | None:
    return None if run.task.reads_items else f"task={run.task.name} joins no item table"


def _converses(run: RunFacts) -> str | None:
    return None if run.task.reads_conversations else f"task={run.task.name} reads no conversations"


def _sees(run: RunFacts) -> str | None:
    return None if run.task.reads_images else f"task={run.task.name} reads no images"


def _new_tower(run: RunFacts) -> str | None:
    return "model.vision.path brings its own" if run.model.vision.path else None


def for_family(*kinds: str) -> ReadBy:
    """Return the condition that the preset is of one of these model families."""

    def unread(run: RunFacts) -> str | None:
        return None if run.model.family in kinds else f"model={run.model.name} is of family {run.model.family}"

    return ReadBy(unread)


TRAINING = ReadBy(_training)
FILES = ReadBy(_files)
DEMO = ReadBy(_demo)
SCRATCH = ReadBy(_scratch)
PRETRAINED = ReadBy(_pretrained)
GENERATES = ReadBy(_generates)
TIMED = ReadBy(_timed)
SHUFFLED = ReadBy(_shuffled)
SERVES = ReadBy(_serves)
ADAPTER = ReadBy(_adapter)
ITEMS = ReadBy(_items)
CONVERSES = ReadBy(_converses)
SEES = ReadBy(_sees)
NEW_TOWER = ReadBy(_new_tower)
