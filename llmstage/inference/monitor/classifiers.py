"""The classifiers of a monitor: loads them, finds out which one labels the sentiment and which ones the topic, and labels rows."""

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
from llmstage.data.rows import BadRows, Columns, Row
from llmstage.errors import ModelError, Refused, UserError
from llmstage.inference.failures import log_failure
from llmstage.inference.inference_session import InferenceSession, load_session
from llmstage.inference.predict import file_digest
from llmstage.naming import did_you_mean
from llmstage.paths import conf_dir, locate_model, read_run_yaml
from llmstage.training.machine import Machine

TASK = "classification"
SENTIMENT = "sentiment"
TARGET_TYPES = ("label", "ordinal", "multilabel")
NEGATIVE = {
    "negative", "neg", "negativ", "négatif", "negativo", "bearish", "bear", "down", "very negative", "负面", "负", "消极", "利空", "看跌",
    "看空", "差评", "負面", "消極",
}  # fmt: skip
"""Labels, in lower case, that stage.negative=auto counts as negative."""
ALL, NONE = "all", "none"
"""The topic where no classifier gives topics; the topic of items without any label of a multilabel classifier."""
SCORING_KEYS = ("eval_precision", "eval_batch_tokens", "packing")
"""Keys of the trainer group that come from the run of each model, unless the command line changes them."""
CACHE_SIZE = 50_000
"""Texts whose labels are cached: many sources publish the same news."""


@dataclass(slots=True)
class Classifier:
    """One model and its labels."""

    name: str
    path: str
    session: InferenceSession
    labels: list[str]
    target_type: str

    @property
    def columns(self) -> Columns:
        task = self.session.task
        return task.columns.without(task.target_columns)

    def complaint(self, row: Row) -> str | None:
        """Return why the task cannot read a row; None where it can."""
        return self.session.task.check_row(self.session.task.dummy_target(row))

    def input_row(self, row: Row) -> Row:
        """Return the columns that this classifier reads."""
        columns = {*self.columns.required, *self.columns.optional}
        return {column: value for column, value in row.items() if column in columns}

    def digest(self) -> str:
        """Return a digest of the weights."""
        source = self.session.components.model_source
        weights = sorted(source.model_dir.glob("*.safetensors")) if source and source.model_dir else []
        return hashlib.sha256("".join(map(file_digest, weights)).encode()).hexdigest()[:16]


def load_classifier(name: str, path: str, cfg: RunConfig, machine: Machine) -> Classifier:
    """Load a run folder with the options of its task, or a Hugging Face directory. Raises ModelError and Refused."""
    key = f"stage.models.{name}={path}"
    source = locate_model(path)
    # The options of the task: from the run, else the defaults.
    if source.run_dir is not None:
        options = {group: value for group, value in read_run_yaml(source.run_dir).items() if group != "resolved"}
        task = str((options.get("task") or {}).get("name", ""))
        if "." in task:
            raise Refused(
                f"{key}: that run used a task from a Python module, '{task}', which is code that this command did not name."
            )
        if task != TASK:
            raise ModelError(f"{key} is a run of task={task}; the monitor takes classifiers: runs of task={TASK}.")
        context = (read_run_yaml(source.run_dir).get("resolved") or {}).get("context")
    else:
        defaults = yaml.safe_load((conf_dir() / "task" / f"{TASK}.yaml").read_text(encoding="utf-8"))
        options, context = {"task": defaults["task"]}, None
    wrong: list[str] = []
    run = build_run(options, wrong, trusted=False)
    if wrong:
        raise ModelError(
            f"{key}: its run.yaml was written by another version ({wrong[0]}). Train the model again, or give its model/."
        )
    # Replace what belongs to this command: stage, device, and the trainer keys that the user changed.
    default_trainer = TrainerConfig()
    changed = {
        key: getattr(cfg.trainer, key)
        for key in SCORING_KEYS
        if getattr(cfg.trainer, key) != getattr(default_trainer, key)
    }
    trainer = replace(run.trainer, device=cfg.trainer.device, threads=cfg.trainer.threads, **changed)
    run = replace(
        run, stage=StageConfig(name=cfg.stage.name), model=replace(run.model, path=path), trainer=trainer,
        data=replace(run.data, context=context or run.data.context), offline=cfg.offline,
    )  # fmt: skip
    try:
        session = load_session(run, machine, BadRows("error", None))
    except ModelError as error:  # its message names model.path, a key that the user did not set
        raise ModelError(str(error).replace(f"model.path={path}", key)) from None
    heads = getattr(session.task, "heads", [])
    if len(heads) != 1 or heads[0].target_type not in TARGET_TYPES:
        targets = ", ".join(f"{head.column} ({head.target_type})" for head in heads)
        raise ModelError(f"{key} predicts {targets}; the monitor takes one target of labels, levels or several labels.")
    return Classifier(name, path, session, list(map(str, heads[0].labels)), heads[0].target_type)


@dataclass(slots=True)
class Roles:
    """Which classifier labels the sentiment, and the topics that the others give."""

    sentiment: str
    """The name of the classifier."""
    negative: list[str]
    topics: list[str]
    """Every possible topic, in the order of the counts."""
    prefixed: bool
    """Several classifiers give topics, so a topic has the name <classifier>=<label>."""


def assign_roles(classifiers: Sequence[Classifier], negative: list[str] | str) -> Roles:
    """Return the roles of the classifiers. `negative`: stage.negative.

    Raises UserError where it is not clear which classifier or which label is negative.
    """
    # The sentiment classifier is the one of that name, else the only one with a negative label.
    requested = [negative] if isinstance(negative, str) and negative != "auto" else negative
    negative_labels = {
        classifier.name: [label for label in classifier.labels if is_negative(label, requested)]
        for classifier in classifiers
    }
    candidates = [item for item in classifiers if negative_labels[item.name] and item.target_type != "multilabel"]
    named = [classifier for classifier in classifiers if classifier.name == SENTIMENT]
    chosen = named or candidates
    if len(chosen) > 1:
        names = ", ".join(classifier.name for classifier in chosen)
        raise UserError(
            f"Several classifiers have a negative label ({names}). Name the one that decides: stage.models.{SENTIMENT}=…"
        )
    listed = "; ".join(f"{item.name}: {', '.join(item.labels[:12])}" for item in (named or classifiers))
    if not chosen or chosen[0].target_type == "multilabel" or not negative_labels[chosen[0].name]:
        raise UserError(
            f"No label is known to be negative ({listed}). Name it: stage.negative=<label>, or stage.negative=[<label>,<label>]."
        )
    # Check the negative labels.
    sentiment = chosen[0]
    unknown = [label for label in requested if label not in sentiment.labels] if requested != "auto" else []
    if unknown:
        near = did_you_mean(unknown[0], sentiment.labels)
        raise UserError(
            f"stage.negative={unknown[0]} is no label of {sentiment.name}.{near} It knows: {', '.join(sentiment.labels[:20])}."
        )
    if len(negative_labels[sentiment.name]) == len(sentiment.labels):
        raise UserError(
            f"stage.negative names every label of {sentiment.name}, so the share would always be 1. Leave some out."
        )
    # All others give topics.
    topic_classifiers = [classifier for classifier in classifiers if classifier is not sentiment]
    prefixed = len(topic_classifiers) > 1
    topics = [
        f"{classifier.name}={label}" if prefixed else label
        for classifier in topic_classifiers
        for label in (*classifier.labels, *([NONE] if classifier.target_type == "multilabel" else []))
    ]
    return Roles(sentiment.name, negative_labels[sentiment.name], topics or [ALL], prefixed)


def is_negative(label: str, requested: list[str] | str) -> bool:
    """Return whether a label counts as negative. `requested`: the labels of stage.negative, or `auto`."""
    return label.casefold() in NEGATIVE if requested == "auto" else label in requested


class ItemLabeler:
    """Labels rows with all classifiers. The labels of recent texts are cached."""

    def __init__(self, classifiers: Sequence[Classifier], roles: Roles) -> None:
        self.classifiers, self.roles = classifiers, roles
        self.topic_index = {topic: number for number, topic in enumerate(roles.topics)}
        self.cache: OrderedDict[bytes, list[str]] = OrderedDict()
        self.seconds = 0.0
        """Time spent in the models."""
        self.num_predicted = 0
        """Texts that the models read."""

    @property
    def columns(self) -> Columns:
        """The columns of an item: those of all classifiers, and its time."""
        required = dict.fromkeys(column for classifier in self.classifiers for column in classifier.columns.required)
        optional = dict.fromkeys(
            column
            for classifier in self.classifiers
            for column in (*classifier.columns.optional, *classifier.columns.present)
        )
        return Columns((*required, "time"), tuple(column for column in optional if column not in required))

    def label_rows(self, rows: Sequence[Row]) -> list[tuple[bool, list[int]] | str]:
        """Return (whether negative, numbers of the topics) of each row, or the reason why it cannot be read.

        Raises ModelError where a model fails.
        """
        labels = [self.labels(classifier, rows) for classifier in self.classifiers]
        out: list[tuple[bool, list[int]] | str] = []
        for row_labels in zip(*labels, strict=True):
            reason = next((label for label in row_labels if isinstance(label, str)), None)
            out.append(reason if reason is not None else self.combine(row_labels))
        return out

    def combine(self, row_labels: Sequence[Any]) -> tuple[bool, list[int]]:
        """Return sentiment and topics from the labels that each classifier gave to a row."""
        negative, topics = False, []
        for classifier, labels in zip(self.classifiers, row_labels, strict=True):
            if classifier.name == self.roles.sentiment:
                negative = labels[0] in self.roles.negative
            else:
                names = [f"{classifier.name}={name}" if self.roles.prefixed else name for name in labels or [NONE]]
                topics += [self.topic_index[name] for name in names]
        return negative, topics or [0]

    def labels(self, classifier: Classifier, rows: Sequence[Row]) -> list[list[str] | str]:
        """Return the labels that one classifier gives to each row, or the reason why it cannot read the row."""
        input_rows = [classifier.input_row(row) for row in rows]
        keys = [cache_key(classifier.name, row) for row in input_rows]
        # Each text once: from the cache, or with the others that are new.
        out: dict[bytes, list[str] | str] = {}
        new_rows: dict[bytes, Row] = {}
        for key, row in zip(keys, input_rows, strict=True):
            if key in self.cache:
                self.cache.move_to_end(key)
                out[key] = self.cache[key]
            elif key not in out and key not in new_rows:
                reason = classifier.complaint(row)
                if reason:
                    out[key] = reason
                else:
                    new_rows[key] = row
        for key, prediction in zip(new_rows, self.predict(classifier, list(new_rows.values())), strict=True):
            if isinstance(prediction, str):
                out[key] = prediction
            else:
                label = prediction["prediction"]
                out[key] = self.cache[key] = list(map(str, label)) if isinstance(label, list) else [str(label)]
        while len(self.cache) > CACHE_SIZE:
            self.cache.popitem(last=False)
        return [out[key] for key in keys]

    def predict(self, classifier: Classifier, rows: list[Row]) -> list[dict[str, Any] | str]:
        """Run a classifier. Raises ModelError where it fails; the log then has the traceback without the text of the rows."""
        if not rows:
            return []
        clock = time.perf_counter()
        try:
            predictions = classifier.session.predict(rows, range(len(rows)))
        except UserError:
            raise
        except Exception as error:
            log_failure(f"predicting with stage.models.{classifier.name}", error)
            raise ModelError(
                f"stage.models.{classifier.name}={classifier.path} failed on {len(rows)} items ({type(error).__name__}). The "
                f"traceback is in run.log. The items are not counted; the same command continues with them."
            ) from None
        self.seconds += time.perf_counter() - clock
        self.num_predicted += len(rows)
        return predictions


def cache_key(name: str, row: Row) -> bytes:
    text = json.dumps([name, row], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
