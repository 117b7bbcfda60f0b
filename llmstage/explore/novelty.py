"""What is new in logs: texts that the training pool does not hold and that the model finds hard, in groups with names."""

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
from llmstage.data.quality.near_duplicates import in_pool, without_doubles
from llmstage.data.quarantine import BadRows
from llmstage.data.rows import Columns, Row
from llmstage.errors import DataError
from llmstage.evaluation.metrics.generation import split_words
from llmstage.explore.findings import Findings
from llmstage.explore.hidden_states import group_rows, row_vectors
from llmstage.explore.slice_search import Numbers
from llmstage.explore.wording import headings, say
from llmstage.report.files import plain, write_text
from llmstage.tasks.base import UNSCORED, Example, RowError, Task
from llmstage.training.machine import Machine
from llmstage.training.setup import RunComponents

POOL_TEXTS = 500
"""Texts of the pool whose excess loss says what is usual."""
TOP = 10
AT_ONCE = 16


@dataclass(slots=True)
class Item:
    """One text of the logs."""

    text: str
    place: str
    row: Row
    """In the task's words, as far as the log has them."""


@dataclass(slots=True)
class Bigrams:
    """The simplest reference model: each byte by the one before it, learned from the pool, with add-one smoothing."""

    log_p: Numbers
    """[256, 256]"""

    @classmethod
    def of(cls, texts: Sequence[str]) -> Bigrams:
        counts = np.ones((256, 256))
        for text in texts:
            codes = np.frombuffer(b"\n" + text.encode("utf-8", "replace"), dtype=np.uint8)
            np.add.at(counts, (codes[:-1], codes[1:]), 1)
        return cls(np.log(counts / counts.sum(1, keepdims=True)))

    def nats(self, text: str) -> float:
        """-log p of a text, per byte."""
        codes = np.frombuffer(b"\n" + text.encode("utf-8", "replace"), dtype=np.uint8)
        return -float(self.log_p[codes[:-1], codes[1:]].mean()) if len(codes) > 1 else 0.0


def collect(run: RunConfig, pieces: RunComponents, model: nn.Module, machine: Machine, out_dir: Path) -> Findings:
    """The part `collect` of stage=explore; writes collected.jsonl into the run folder, the most valuable first."""
    assert isinstance(run.stage, Explore)
    keys = run.stage.novelty
    items = read_logs(run, pieces.task, out_dir)
    pool = [row for row, _ in pieces.sources["train"]] if "train" in pieces.sources else []
    pool_texts = ["\n".join(pieces.task.texts(row)) for row in pool]
    kept = [items[at] for at in without_doubles([item.text for item in items], keys.dedupe)]
    double = len(items) - len(kept)
    known = in_pool([item.text for item in kept], pool_texts, keys.contamination_ngram)
    fresh = [item for item, old in zip(kept, known, strict=True) if not old]
    looked_at = fresh[: keys.max_items]
    counts = {
        "read": len(items), "double": double, "in_pool": sum(known), "new": len(fresh), "looked_at": len(looked_at),
    }  # fmt: skip
    limits = [] if pool else [say("all_new")]
    if len(fresh) > len(looked_at):
        limits.append(say("not_looked_at", num=len(fresh) - len(looked_at), most=keys.max_items))
    rows = [features_of(pieces.task, item.row) for item in looked_at]
    ways, hard = hardness(pieces, model, machine, looked_at, rows, pool, pool_texts)
    new = novelty([item.text for item in looked_at], pool_texts)
    value = new * hard
    groups = grouped(run, pieces, model, machine, looked_at, rows, keys.clusters)
    order = sorted(range(len(looked_at)), key=lambda at: (-value[at], -new[at], at))
    lines = [
        {"text": looked_at[at].text, "place": looked_at[at].place, "novelty": round(float(new[at]), 6),
         "excess": round(float(hard[at]), 6), "priority": round(float(value[at]), 6), "group": groups[at]}
        for at in order
    ]  # fmt: skip
    write_text(
        out_dir / "collected.jsonl", "".join(json.dumps(plain(line), ensure_ascii=False) + "\n" for line in lines)
    )
    return told(counts, ways, lines, limits)


def read_logs(run: RunConfig, task: Task, out_dir: Path) -> list[Item]:
    """Texts of the log files, in whatever form data.train would take them; targets may be missing."""
    assert isinstance(run.stage, Explore) and run.stage.novelty.logs is not None
    files = expand(run.stage.novelty.logs, "stage.novelty.logs", known_endings())
    talks = "messages" in task.columns.required
    columns = task.columns if talks else Columns((), (*task.columns.required, *task.columns.optional))
    known = {
        word: column
        for word, column in run.data.columns.items()
        if word in ("text", "messages", "prompt", "completion")
    }
    cfg = replace(run.data, columns=known, format="auto", on_bad_row="quarantine")
    check = task.check_row if talks else (lambda row: None)
    source = FileSource("collect", files, cfg, columns, check, BadRows("quarantine", out_dir))
    source.keep_columns = True
    items = [Item(text, place, row) for row, place in source if (text := text_of(row))]
    if not items:
        raise DataError(
            f"stage.novelty.logs: there is no text in {source.described}. Name files of texts or conversations."
        )
    return items


def text_of(row: Row) -> str:
    """All that a row says; of a row without any of the task's words, its longest text."""
    if isinstance(row.get("messages"), list):
        return "\n".join(str(message.get("content", "")) for message in row["messages"]).strip()
    own = [value for word, value in row.items() if word != OTHER_COLUMNS and isinstance(value, str)]
    if not own:
        own = sorted((str(one) for one in row.get(OTHER_COLUMNS, {}).values() if isinstance(one, str)), key=len)[-1:]
    return "\n".join(own).strip()


def features_of(task: Task, row: Row) -> list[Example]:
    """What the model sees of a row whose target may be missing; nothing where the task cannot read it."""
    labels = getattr(task, "labels", None)
    filled = {word: labels[0] for word in task.columns.required if word not in row and labels}
    try:
        if task.check_row({**row, **filled}):
            return []
        return [item for item in task.encode({**row, **filled}) if item.ref != UNSCORED]
    except (RowError, KeyError):
        return []


@torch.no_grad()
def hardness(
    pieces: RunComponents, model: nn.Module, machine: Machine, items: list[Item], rows: list[list[Example]],
    pool: list[Row], pool_texts: list[str],
) -> tuple[str, Numbers]:  # fmt: skip
    """(how it was measured, a number a text, not negative): for language models the loss per byte above that of the
    reference, beyond what is usual in the pool; for classifiers how unsure they are; else 1 for all."""
    task = pieces.task
    metric, losses, sure = measured(task, model, machine, rows)
    if metric == "loss":
        reference = Bigrams.of(pool_texts)
        excess = np.array([
            loss / max(1, len(item.text.encode())) - reference.nats(item.text) if loss is not None else math.nan
            for item, loss in zip(items, losses, strict=True)
        ])  # fmt: skip
        sample = range(0, len(pool), max(1, len(pool) // POOL_TEXTS))
        _, usual, _ = measured(task, model, machine, [features_of(task, pool[at]) for at in sample])
        levels = [
            loss / max(1, len(pool_texts[at].encode())) - reference.nats(pool_texts[at])
            for at, loss in zip(sample, usual, strict=True)
            if loss is not None
        ]
        level = float(np.median(levels)) if levels else 0.0
        return say("hard_by_loss"), np.nan_to_num(np.maximum(excess - level, 0.0))
    if any(one is not None for one in sure):
        return say("hard_by_confidence"), np.array([0.0 if one is None else 1 - one for one in sure])
    return say("hard_by_nothing"), np.ones(len(items))


def measured(
    task: Task, model: nn.Module, machine: Machine, rows: list[list[Example]]
) -> tuple[str, list[float | None], list[float | None]]:
    """(metric, summed loss in nats of each row, confidence of each row); None where there is none."""
    flat = [(at, item) for at, own in enumerate(rows) for item in own]
    flat.sort(key=lambda pair: len(pair[1].input_ids))
    losses: list[float | None] = [None] * len(rows)
    sure: list[float | None] = [None] * len(rows)
    metric = ""
    model.eval()
    if not task.additive_loss:
        return metric, losses, sure
    for start in range(0, len(flat), AT_ONCE):
        part = flat[start : start + AT_ONCE]
        batch = task.collate([[item] for _, item in part]).to(machine.device)
        errors = task.errors(task.predict(model, batch, generate=False), [item.ref for _, item in part])
        metric = errors.metric
        for number, (at, _) in enumerate(part):
            value = errors.values[number]
            if metric == "loss" and value is not None:
                losses[at] = (losses[at] or 0.0) + value * errors.weights[number]
            if errors.confidence:
                sure[at] = errors.confidence[number]
    return metric, losses, sure


def novelty(texts: Sequence[str], pool: Sequence[str]) -> Numbers:
    """Share of a text's pairs of neighbouring words (Chinese: characters) that no text of the pool has."""
    known = {pair for text in pool for pair in pairs_of(text)}
    return np.array([float(np.mean([pair not in known for pair in pairs])) if (pairs := pairs_of(text)) else 0.0 for text in texts])  # fmt: skip


def pairs_of(text: str) -> list[tuple[str, str]]:
    words = split_words(text)
    return list(zip(words, [*words[1:], ""], strict=True)) if words else []


def grouped(
    run: RunConfig, pieces: RunComponents, model: nn.Module, machine: Machine, items: list[Item], rows: list[list[Example]],
    most: int,
) -> list[str]:  # fmt: skip
    """The name of each text's group; texts that the model cannot read are a group of their own."""
    readable = [at for at, own in enumerate(rows) if own]
    names = [say("not_readable")] * len(items)
    texts = [items[at].text for at in readable]
    wanted = min(most, max(1, len(readable) // 5))
    vectors = row_vectors(pieces.task, model, [rows[at] for at in readable], machine.device)
    groups = group_rows(vectors, texts, run.seed, wanted) if wanted > 1 else None
    for at, name in zip(readable, groups.of(vectors) if groups else [say("all_texts")] * len(readable), strict=True):
        names[at] = name
    return names


def told(counts: dict[str, int], ways: str, lines: list[dict[str, Any]], limits: list[str]) -> Findings:
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        groups.setdefault(line["group"], []).append(line)
    ranked = sorted(groups.items(), key=lambda pair: -float(np.mean([line["priority"] for line in pair[1]])))
    table = [
        [name, str(len(own)), f"{np.mean([line['novelty'] for line in own]):.2f}",
         f"{np.mean([line['excess'] for line in own]):.3f}", own[0]["text"][:160]]
        for name, own in ranked
    ]  # fmt: skip
    sentences = [say("texts_read", **counts)]
    if ranked and counts["new"]:
        sentences.append(say("worth_a_look", num=len(ranked[0][1]), group=ranked[0][0], ways=ways))
    report_items: list[dict[str, Any]] = []
    if lines:
        first = [
            [line["text"][:240], f"{line['novelty']:.2f}", f"{line['excess']:.3f}", line["place"]]
            for line in lines[:TOP]
        ]
        report_items = [
            {"kind": "table", "title": say("groups_title"), "columns": headings("groups_columns"), "rows": table},
            {"kind": "table", "title": say("texts_title"), "columns": headings("texts_columns"), "rows": first},
        ]
    sizes = {name: len(own) for name, own in ranked}
    return Findings("collect", {**counts, "measured_by": ways, "groups": sizes}, sentences, limits, report_items)
