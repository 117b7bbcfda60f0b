"""The classifiers of a monitor: which one says what is negative, which give topics, and what they say of items."""

from __future__ import annotations

import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from llmstage.config import RunConfig, TrainerConfig, build_run
from llmstage.config.stage import StageConfig
from llmstage.data.quarantine import BadRows
from llmstage.data.rows import Columns, Row
from llmstage.errors import ModelError, Refused, UserError
from llmstage.inference.inference_session import Ready, make_ready
from llmstage.inference.predict import digest_of_file
from llmstage.naming import did_you_mean
from llmstage.paths import conf_dir, locate_model, read_run_yaml
from llmstage.training.machine import Machine

TASK = "classification"
SENTIMENT = "sentiment"
KINDS = ("label", "ordinal", "multilabel")
NEGATIVE = {
    "negative", "neg", "negativ", "négatif", "negativo", "bearish", "bear", "down", "very negative", "负面", "负", "消极", "利空", "看跌",
    "看空", "差评", "負面", "消極",
}  # fmt: skip
"""Labels, in lower case, that are known to be negative."""
ALL, NONE = "all", "none"
"""The topic where no classifier gives topics; the topic of items that are of none."""
SCORING = ("eval_precision", "eval_batch_tokens", "packing")
"""Of the trainer, what is taken from a model's run where it is not set otherwise."""
KEPT = 50_000
"""Texts whose labels are remembered: the same news comes from many places."""


@dataclass(slots=True)
class Classifier:
    """One model and its labels."""

    name: str
    path: str
    ready: Ready
    labels: list[str]
    kind: str

    @property
    def columns(self) -> Columns:
        task = self.ready.task
        return task.columns.without(task.target_columns)

    def complaint(self, row: Row) -> str | None:
        return self.ready.task.check_row(self.ready.task.dummy_target(row))

    def own(self, row: Row) -> Row:
        words = {*self.columns.required, *self.columns.optional}
        return {word: value for word, value in row.items() if word in words}

    def digest(self) -> str:
        place = self.ready.pieces.place
        weights = sorted(place.model_dir.glob("*.safetensors")) if place and place.model_dir else []
        return hashlib.sha256("".join(map(digest_of_file, weights)).encode()).hexdigest()[:16]


def load_classifier(name: str, path: str, cfg: RunConfig, machine: Machine) -> Classifier:
    """The model of a run folder with its task's options, or a Hugging Face directory. Raises ModelError."""
    key = f"stage.models.{name}={path}"
    place = locate_model(path)
    if place.run_dir is not None:
        kept = {word: value for word, value in read_run_yaml(place.run_dir).items() if word != "resolved"}
        task = str((kept.get("task") or {}).get("name", ""))
        if "." in task:
            raise Refused(
                f"{key}: that run used a task of its own, '{task}', which is code that this command did not name."
            )
        if task != TASK:
            raise ModelError(f"{key} is a run of task={task}; the monitor takes classifiers: runs of task={TASK}.")
        context = (read_run_yaml(place.run_dir).get("resolved") or {}).get("context")
    else:
        loaded = yaml.safe_load((conf_dir() / "task" / f"{TASK}.yaml").read_text(encoding="utf-8"))
        kept, context = {"task": loaded["task"]}, None
    wrong: list[str] = []
    run = build_run(kept, wrong, trusted=False)
    if wrong:
        raise ModelError(
            f"{key}: the run.yaml there is of another version ({wrong[0]}). Train it anew, or give its model/."
        )
    usual = TrainerConfig()
    typed = {key: getattr(cfg.trainer, key) for key in SCORING if getattr(cfg.trainer, key) != getattr(usual, key)}
    trainer = replace(run.trainer, device=cfg.trainer.device, threads=cfg.trainer.threads, **typed)
    run = replace(
        run, stage=StageConfig(name=cfg.stage.name), model=replace(run.model, path=path), trainer=trainer,
        data=replace(run.data, context=context or run.data.context), offline=cfg.offline,
    )  # fmt: skip
    try:
        ready = make_ready(run, machine, BadRows("error", None))
    except ModelError as error:  # it speaks of model.path, which nobody typed
        raise ModelError(str(error).replace(f"model.path={path}", key)) from None
    heads = getattr(ready.task, "heads", [])
    if len(heads) != 1 or heads[0].kind not in KINDS:
        told = ", ".join(f"{head.word} ({head.kind})" for head in heads)
        raise ModelError(f"{key} predicts {told}; the monitor takes one target of labels, levels or several labels.")
    return Classifier(name, path, ready, list(map(str, heads[0].labels)), heads[0].kind)


@dataclass(slots=True)
class Roles:
    """Who says what."""

    sentiment: str
    negative: list[str]
    topics: list[str]
    """Every topic there can be, in the order of the counts."""
    prefixed: bool
    """Several classifiers give topics, so a topic is named <classifier>=<label>."""


def find_roles(found: Sequence[Classifier], negative: list[str] | str) -> Roles:
    """Raises UserError where it cannot be told what is negative."""
    wanted = [negative] if isinstance(negative, str) and negative != "auto" else negative
    known = {one.name: [label for label in one.labels if is_negative(label, wanted)] for one in found}
    able = [one for one in found if known[one.name] and one.kind != "multilabel"]
    named = [one for one in found if one.name == SENTIMENT]
    chosen = named or able
    if len(chosen) > 1:
        names = ", ".join(one.name for one in chosen)
        raise UserError(
            f"Several classifiers have a negative label ({names}). Name the one that decides: stage.models.{SENTIMENT}=…"
        )
    listed = "; ".join(f"{one.name}: {', '.join(one.labels[:12])}" for one in (named or found))
    if not chosen or chosen[0].kind == "multilabel" or not known[chosen[0].name]:
        raise UserError(
            f"No label says what is negative ({listed}). Say it: stage.negative=<label>, or stage.negative=[<label>,<label>]."
        )
    one = chosen[0]
    strange = [label for label in wanted if label not in one.labels] if wanted != "auto" else []
    if strange:
        near = did_you_mean(strange[0], one.labels)
        raise UserError(
            f"stage.negative={strange[0]} is no label of {one.name}.{near} It knows: {', '.join(one.labels[:20])}."
        )
    if len(known[one.name]) == len(one.labels):
        raise UserError(
            f"stage.negative names every label of {one.name}, so the share would always be 1. Leave some out."
        )
    others = [other for other in found if other is not one]
    topics = [
        f"{other.name}={label}" if len(others) > 1 else label
        for other in others
        for label in (*other.labels, *([NONE] if other.kind == "multilabel" else []))
    ]
    return Roles(one.name, known[one.name], topics or [ALL], len(others) > 1)


def is_negative(label: str, wanted: list[str] | str) -> bool:
    return label.casefold() in NEGATIVE if wanted == "auto" else label in wanted


class Answers:
    """What the classifiers say of items, each text asked once."""

    def __init__(self, found: Sequence[Classifier], roles: Roles) -> None:
        self.found, self.roles = found, roles
        self.place = {topic: number for number, topic in enumerate(roles.topics)}
        self.kept: OrderedDict[bytes, list[str]] = OrderedDict()
        self.seconds = 0.0
        """Spent in the models."""
        self.asked = 0

    @property
    def columns(self) -> Columns:
        required = dict.fromkeys(word for one in self.found for word in one.columns.required)
        optional = dict.fromkeys(word for one in self.found for word in (*one.columns.optional, *one.columns.present))
        return Columns((*required, "time"), tuple(word for word in optional if word not in required))

    def say(self, rows: Sequence[Row]) -> list[tuple[bool, list[int]] | str]:
        """(whether it is negative, the numbers of its topics) of each row, or why it cannot be read."""
        said = [self.labels(one, rows) for one in self.found]
        out: list[tuple[bool, list[int]] | str] = []
        for answers in zip(*said, strict=True):
            reason = next((answer for answer in answers if isinstance(answer, str)), None)
            out.append(reason if reason is not None else self.told(answers))
        return out

    def told(self, answers: Sequence[Any]) -> tuple[bool, list[int]]:
        negative, topics = False, []
        for one, labels in zip(self.found, answers, strict=True):
            if one.name == self.roles.sentiment:
                negative = labels[0] in self.roles.negative
            else:
                names = [f"{one.name}={label}" if self.roles.prefixed else label for label in labels or [NONE]]
                topics += [self.place[name] for name in names]
        return negative, topics or [0]

    def labels(self, one: Classifier, rows: Sequence[Row]) -> list[list[str] | str]:
        own = [one.own(row) for row in rows]
        keys = [key_of(one.name, row) for row in own]
        out: dict[bytes, list[str] | str] = {}
        fresh: dict[bytes, Row] = {}
        for key, row in zip(keys, own, strict=True):
            if key in self.kept:
                self.kept.move_to_end(key)
                out[key] = self.kept[key]
            elif key not in out and key not in fresh:
                reason = one.complaint(row)
                if reason:
                    out[key] = reason
                else:
                    fresh[key] = row
        clock = time.perf_counter()
        answers = one.ready.answer(list(fresh.values()), range(len(fresh))) if fresh else []
        self.seconds += time.perf_counter() - clock
        self.asked += len(fresh)
        for key, answer in zip(fresh, answers, strict=True):
            if isinstance(answer, str):
                out[key] = answer
            else:
                said = answer["prediction"]
                out[key] = self.kept[key] = [str(label) for label in said] if isinstance(said, list) else [str(said)]
        while len(self.kept) > KEPT:
            self.kept.popitem(last=False)
        return [out[key] for key in keys]


def key_of(name: str, row: Row) -> bytes:
    said = json.dumps([name, row], sort_keys=True, default=str)
    return hashlib.blake2b(said.encode("utf-8", "surrogatepass"), digest_size=16).digest()
