"""Find what is new in logs: texts that the training pool does not contain and that are hard for the model, in named groups."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from llmstage.config import RunConfig
from llmstage.config.explore import Explore
from llmstage.data.file_source import OTHER_COLUMNS, FileSource
from llmstage.data.files import expand
from llmstage.data.formats import known_endings
from llmstage.data.quality.near_duplicates import distinct_texts, in_pool
from llmstage.data.rows import BadRows, Columns, Row
from llmstage.errors import DataError
from llmstage.evaluation.metrics.generation import split_words
from llmstage.explore.findings import Findings
from llmstage.explore.hidden_states import group_rows, row_vectors
from llmstage.explore.slice_search import Numbers
from llmstage.explore.wording import headings, sentence
from llmstage.report.files import plain, write_text
from llmstage.tasks.base import UNSCORED, Example, RowError, Task
from llmstage.training.components import RunComponents
from llmstage.training.machine import Machine

POOL_TEXTS = 500
"""Number of pool texts that define the usual excess loss."""
TOP = 10
BATCH_SIZE = 16


@dataclass(slots=True)
class LogText:
    """One text of the logs."""

    text: str
    location: str
    row: Row
    """Its columns as the task names them, as far as the log has them."""


@dataclass(slots=True)
class Bigrams:
    """A byte bigram model with add-one smoothing, fitted on the pool: the reference for the loss of a language model."""

    log_p: Numbers
    """[256, 256]"""

    @classmethod
    def of(cls, texts: Sequence[str]) -> Bigrams:
        """Fit the model on texts."""
        counts = np.ones((256, 256))
        for text in texts:
            codes = np.frombuffer(b"\n" + text.encode("utf-8", "replace"), dtype=np.uint8)
            np.add.at(counts, (codes[:-1], codes[1:]), 1)
        return cls(np.log(counts / counts.sum(1, keepdims=True)))

    def nats(self, text: str) -> float:
        """Return -log p of a text, per byte."""
        codes = np.frombuffer(b"\n" + text.encode("utf-8", "replace"), dtype=np.uint8)
        return -float(self.log_p[codes[:-1], codes[1:]].mean()) if len(codes) > 1 else 0.0


def find_novel_texts(
    run: RunConfig, components: RunComponents, model: nn.Module, machine: Machine, out_dir: Path
) -> Findings:
    """Run the part `collect` of stage=explore; write collected.jsonl into the run folder, the highest priority first."""
    assert isinstance(run.stage, Explore)
    keys = run.stage.novelty
    # 1. Read the logs; leave out near duplicates and texts of the training pool.
    items = read_logs(run, components.task, out_dir)
    pool = [row for row, _ in components.sources["train"]] if "train" in components.sources else []
    pool_texts = ["\n".join(components.task.texts(row)) for row in pool]
    distinct = [items[at] for at in distinct_texts([item.text for item in items], keys.dedupe)]
    double = len(items) - len(distinct)
    known = in_pool([item.text for item in distinct], pool_texts, keys.contamination_ngram)
    fresh = [item for item, is_known in zip(distinct, known, strict=True) if not is_known]
    examined = fresh[: keys.max_items]
    counts = {
        "read": len(items), "double": double, "in_pool": sum(known), "new": len(fresh), "looked_at": len(examined),
    }  # fmt: skip
    limits = [] if pool else [sentence("all_new")]
    if len(fresh) > len(examined):
        limits.append(sentence("not_examined", num=len(fresh) - len(examined), most=keys.max_items))
    # 2. Rank them by novelty times hardness, in groups of hidden states.
    rows = [examples_of(components.task, item.row) for item in examined]
    ways, hard = hardness(components, model, machine, examined, rows, pool, pool_texts)
    new = novelty([item.text for item in examined], pool_texts)
    value = new * hard
    groups = grouped(run, components, model, machine, examined, rows, keys.clusters)
    order = sorted(range(len(examined)), key=lambda at: (-value[at], -new[at], at))
    lines = [
        {"text": examined[at].text, "place": examined[at].location, "novelty": round(float(new[at]), 6),
         "excess": round(float(hard[at]), 6), "priority": round(float(value[at]), 6), "group": groups[at]}
        for at in order
    ]  # fmt: skip
    write_text(
        out_dir / "collected.jsonl", "".join(json.dumps(plain(line), ensure_ascii=False) + "\n" for line in lines)
    )
    return findings_of(counts, ways, lines, limits)


def read_logs(run: RunConfig, task: Task, out_dir: Path) -> list[LogText]:
    """Read the texts of the log files, in any format of data.train; target columns may be missing."""
    assert isinstance(run.stage, Explore) and run.stage.novelty.logs is not None
    files = expand(run.stage.novelty.logs, "stage.novelty.logs", known_endings())
    talks = "messages" in task.columns.required
    columns = task.columns if talks else Columns((), (*task.columns.required, *task.columns.optional))
    known = {
        key: column for key, column in run.data.columns.items() if key in ("text", "messages", "prompt", "completion")
    }
    cfg = replace(run.data, columns=known, format="auto", on_bad_row="quarantine")
    check = task.check_row if talks else (lambda row: None)
    source = FileSource("collect", files, cfg, columns, check, BadRows("quarantine", out_dir))
    source.keep_columns = True
    items = [LogText(text, location, row) for row, location in source if (text := text_of(row))]
    if not items:
        raise DataError(
            f"stage.novelty.logs: there is no text in {source.description}. Name files of texts or conversations."
        )
    return items


def text_of(row: Row) -> str:
    """Return all text of a row; of a row without any column of the task, its longest text."""
    if isinstance(row.get("messages"), list):
        return "\n".join(str(message.get("content", "")) for message in row["messages"]).strip()
    texts = [value for key, value in row.items() if key != OTHER_COLUMNS and isinstance(value, str)]
    if not texts:
        other_values = row.get(OTHER_COLUMNS, {}).values()
        texts = sorted((str(value) for value in other_values if isinstance(value, str)), key=len)[-1:]
    return "\n".join(texts).strip()


def examples_of(task: Task, row: Row) -> list[Example]:
    """Encode a row whose target may be missing; return no example where the task cannot read it."""
    labels = getattr(task, "labels", None)
    filled = {column: labels[0] for column in task.columns.required if column not in row and labels}
    try:
        if task.check_row({**row, **filled}):
            return []
        return [item for item in task.encode({**row, **filled}) if item.ref != UNSCORED]
    except (RowError, KeyError):
        return []


@torch.no_grad()
def hardness(
    components: RunComponents, model: nn.Module, machine: Machine, items: list[LogText], rows: list[list[Example]],
    pool: list[Row], pool_texts: list[str],
) -> tuple[str, Numbers]:  # fmt: skip
    """Return (the measure in words, a number for each text, not negative).

    For language models: the loss per byte above that of the bigram model, minus the usual excess in the pool. For
    classifiers: 1 - confidence. For other tasks: 1 for all.
    """
    task = components.task
    metric, losses, confidence = losses_and_confidence(task, model, machine, rows)
    if metric == "loss":
        reference = Bigrams.of(pool_texts)
        excess = np.array([
            loss / max(1, len(item.text.encode())) - reference.nats(item.text) if loss is not None else math.nan
            for item, loss in zip(items, losses, strict=True)
        ])  # fmt: skip
        sample = range(0, len(pool), max(1, len(pool) // POOL_TEXTS))
        _, usual, _ = losses_and_confidence(task, model, machine, [examples_of(task, pool[at]) for at in sample])
        levels = [
            loss / max(1, len(pool_texts[at].encode())) - reference.nats(pool_texts[at])
            for at, loss in zip(sample, usual, strict=True)
            if loss is not None
        ]
        level = float(np.median(levels)) if levels else 0.0
        return sentence("hard_by_loss"), np.nan_to_num(np.maximum(excess - level, 0.0))
    if any(value is not None for value in confidence):
        return sentence("hard_by_confidence"), np.array([0.0 if value is None else 1 - value for value in confidence])
    return sentence("hard_by_nothing"), np.ones(len(items))


def losses_and_confidence(
    task: Task, model: nn.Module, machine: Machine, rows: list[list[Example]]
) -> tuple[str, list[float | None], list[float | None]]:
    """Return (metric, summed loss in nats of each row, confidence of each row); None where there is none."""
    flat = [(at, example) for at, examples in enumerate(rows) for example in examples]
    flat.sort(key=lambda pair: len(pair[1].input_ids))
    losses: list[float | None] = [None] * len(rows)
    confidence: list[float | None] = [None] * len(rows)
    metric = ""
    model.eval()
    if not task.additive_loss:
        return metric, losses, confidence
    for start in range(0, len(flat), BATCH_SIZE):
        part = flat[start : start + BATCH_SIZE]
        batch = task.collate([[example] for _, example in part]).to(machine.device)
        errors = task.errors(task.predict(model, batch, generate=False), [example.ref for _, example in part])
        metric = errors.metric
        for number, (at, _) in enumerate(part):
            value = errors.values[number]
            if metric == "loss" and value is not None:
                losses[at] = (losses[at] or 0.0) + value * errors.weights[number]
            if errors.confidence:
                confidence[at] = errors.confidence[number]
    return metric, losses, confidence


def novelty(texts: Sequence[str], pool: Sequence[str]) -> Numbers:
    """Return the share of a text's pairs of adjacent words (Chinese: characters) that no text of the pool has."""
    known = {pair for text in pool for pair in pairs_of(text)}
    return np.array([float(np.mean([pair not in known for pair in pairs])) if (pairs := pairs_of(text)) else 0.0 for text in texts])  # fmt: skip


def pairs_of(text: str) -> list[tuple[str, str]]:
    """Return the pairs of adjacent words of a text."""
    words = split_words(text)
    return list(zip(words, [*words[1:], ""], strict=True)) if words else []


def grouped(
    run: RunConfig, components: RunComponents, model: nn.Module, machine: Machine, items: list[LogText], rows: list[list[Example]],
    most: int,
) -> list[str]:  # fmt: skip
    """Return the name of each text's group; texts that the model cannot read are a group of their own."""
    readable = [at for at, examples in enumerate(rows) if examples]
    names = [sentence("not_readable")] * len(items)
    texts = [items[at].text for at in readable]
    num_groups = min(most, max(1, len(readable) // 5))
    vectors = row_vectors(components.task, model, [rows[at] for at in readable], machine.device)
    groups = group_rows(vectors, texts, run.seed, num_groups) if num_groups > 1 else None
    assigned = groups.assign(vectors) if groups else [sentence("all_texts")] * len(readable)
    for at, name in zip(readable, assigned, strict=True):
        names[at] = name
    return names


def findings_of(counts: dict[str, int], ways: str, lines: list[dict[str, Any]], limits: list[str]) -> Findings:
    """Return the findings of the part `collect`, with a table of groups and one of the first texts."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        groups.setdefault(line["group"], []).append(line)
    ranked = sorted(groups.items(), key=lambda pair: -float(np.mean([line["priority"] for line in pair[1]])))
    table = [
        [name, str(len(members)), f"{np.mean([line['novelty'] for line in members]):.2f}",
         f"{np.mean([line['excess'] for line in members]):.3f}", members[0]["text"][:160]]
        for name, members in ranked
    ]  # fmt: skip
    sentences = [sentence("texts_read", **counts)]
    if ranked and counts["new"]:
        sentences.append(sentence("most_valuable_group", num=len(ranked[0][1]), group=ranked[0][0], ways=ways))
    report_items: list[dict[str, Any]] = []
    if lines:
        first = [
            [line["text"][:240], f"{line['novelty']:.2f}", f"{line['excess']:.3f}", line["place"]]
            for line in lines[:TOP]
        ]
        report_items = [
            {"kind": "table", "title": sentence("groups_title"), "columns": headings("groups_columns"), "rows": table},
            {"kind": "table", "title": sentence("texts_title"), "columns": headings("texts_columns"), "rows": first},
        ]
    sizes = {name: len(members) for name, members in ranked}
    return Findings("collect", {**counts, "measured_by": ways, "groups": sizes}, sentences, limits, report_items)
