"""Write weak slices as files and findings: weaknesses.jsonl, plan.yaml with its rows, cards/, sentences, tables."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from llmstage.config import RunConfig
from llmstage.data.file_source import OTHER_COLUMNS
from llmstage.data.rows import Row
from llmstage.explore.diagnosis import Evidence, advice, sentences_of
from llmstage.explore.findings import Findings
from llmstage.explore.scored_rows import FEW, HALF, ScoredRows
from llmstage.explore.slices import Search, Slice
from llmstage.explore.wording import headings, sentence
from llmstage.explore.wording.weak import SENTENCES
from llmstage.report.files import plain, write_text
from llmstage.report.formatting import text as format_value
from llmstage.report.html import is_messages
from llmstage.training.run_folder import absolute

PLAN_STEPS = 300
TRAINED = ("data", "train")
"""Actions that a plan can carry out; the others need a person, a larger model, or another tokenizer."""
MOST_REPEATS = 20
"""Largest number of times that a training row is repeated."""
LONGEST = 240
"""Largest number of characters of a value in the report."""


@dataclass(slots=True)
class Weakness:
    """A confirmed slice, the evidence on its cause, and the action that would help."""

    slice: Slice
    evidence: Evidence
    action: str
    like: list[Row] = field(default_factory=list)
    """Rows of the training pool that are like it."""


def too_few(out_dir: Path, rows: ScoredRows) -> Findings:
    """Return the findings where there are too few rows for any claim."""
    write_text(out_dir / "weaknesses.jsonl", "")
    num = len(rows.rows)
    limit = sentence("too_few_rows", num=num, split=rows.split, half=HALF, few=FEW)
    return Findings("slices", {"split": rows.split, "rows": num, "weaknesses": []}, limits=[limit, *left_out(rows)])


def left_out(rows: ScoredRows) -> list[str]:
    """Return sentences on the rows that do not count."""
    lines = []
    if rows.dropped:
        lines.append(sentence("rows_in_pool", num=rows.dropped, split=rows.split))
    if rows.silent:
        lines.append(sentence("rows_unpredicted", num=rows.silent, split=rows.split))
    return lines


def findings_of(
    run: RunConfig, out_dir: Path, rows: ScoredRows, search: Search, weaknesses: list[Weakness], columns: list[str],
    *, examples: int,
) -> Findings:  # fmt: skip
    """Write the files, and return the findings of the part `slices`."""
    lines = [line_of(rows, search, weakness, examples) for weakness in weaknesses]
    write_text(
        out_dir / "weaknesses.jsonl", "".join(json.dumps(plain(line), ensure_ascii=False) + "\n" for line in lines)
    )
    write_cards(out_dir / "cards", rows, weaknesses, lines)
    planned = any(weakness.action in TRAINED for weakness in weaknesses)
    if planned:
        write_plan(run, out_dir, rows, weaknesses)
    mean = rows.score(float(rows.errors[search.confirm].mean()))
    column_names = ", ".join(columns)
    sentences = [weakness_sentence(rows, weakness) for weakness in weaknesses] or [
        sentence(
            "none_confirmed",
            metric=name_of(rows),
            mean=mean,
            num=len(search.confirm),
            split=rows.split,
            columns=column_names,
        )
    ]
    if planned:
        sentences.append(sentence("plan_written"))
    # What limits the conclusion.
    limits = left_out(rows)
    small = [weakness.slice for weakness in weaknesses if weakness.slice.n < HALF]
    limits += [sentence("exact_only", slice=weak_slice.words, n=weak_slice.n) for weak_slice in small]
    limits += [
        sentence(
            "not_confirmed",
            slice=weak_slice.words,
            split=rows.split,
            n=weak_slice.n,
            gap=weak_slice.gap.value,
            p=weak_slice.p_holm,
        )
        for weak_slice in search.not_confirmed
    ]
    if not rows.pool:
        limits.append(sentence("no_pool"))
    undecided = [weakness.slice.words for weakness in weaknesses if weakness.action == "undecided"]
    limits += [sentence("no_reason", slice=words) for words in undecided]
    limits.append(sentence("not_found", least=search.min_support, columns=column_names))
    block = {
        "split": rows.split, "rows": len(rows.rows), "metric": rows.example_errors.metric, "score": mean,
        "discover": len(search.discover), "confirm": len(search.confirm), "looked_at": search.num_evaluated,
        "min_support": search.min_support, "columns": columns, "dropped": rows.dropped, "weaknesses": lines,
    }  # fmt: skip
    return Findings("slices", block, sentences, limits, report_items(rows, weaknesses, lines))


def name_of(rows: ScoredRows) -> str:
    """Return the name of the metric for a reader."""
    key = f"metric_{rows.example_errors.metric}"
    return sentence(key) if key in SENTENCES else rows.example_errors.metric


def line_of(rows: ScoredRows, search: Search, weakness: Weakness, examples: int) -> dict[str, Any]:
    """Return a line of weaknesses.jsonl."""
    weak_slice = weakness.slice
    return {
        "slice": weak_slice.conditions, "words": in_words(weak_slice), "n": weak_slice.n, "metric": rows.example_errors.metric,
        "score": rows.score(weak_slice.error), "rest": rows.score(weak_slice.rest), "gap": weak_slice.gap.value,
        "ci": [weak_slice.gap.low, weak_slice.gap.high], "p_holm": weak_slice.p_holm, "test": weak_slice.test,
        "discovered_on": f"{rows.split}: discover", "confirmed_on": f"{rows.split}: confirm",
        "why": sentences_of(weakness.evidence, rows.score), "action": weakness.action,
        "advice": advice(weakness.evidence, weakness.action), "coverage_ratio": weakness.evidence.ratio,
        "priority": weak_slice.priority, "examples": worst(rows, search, weak_slice, examples),
    }  # fmt: skip


def worst(rows: ScoredRows, search: Search, weak_slice: Slice, most: int) -> list[dict[str, Any]]:
    """Return confirming rows of the slice with their predictions, the largest error first."""
    indices = [int(at) for at in search.confirm if weak_slice.rows[at]]
    indices.sort(key=lambda at: -rows.errors[at])
    records = []
    for at in indices[:most]:
        row = {key: clip(value) for key, value in rows.rows[at].items() if key != OTHER_COLUMNS}
        prediction = {key: rows.records[at].get(key) for key in ("prediction", "reference")}
        records.append({**row, **prediction, "error": float(rows.errors[at])})
    return records


def legible(value: Any) -> str | None:
    """Return a value of a row as text: a conversation turn by turn; None for values that only a program reads."""
    if is_messages(value):
        return " / ".join(f"{turn['role']}: {format_value(turn['content'])}" for turn in value)
    if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(part, (dict, list)) for part in value)):
        return None
    return format_value(value)


def clip(value: Any) -> Any:
    """Cut a text after LONGEST characters."""
    return value if not isinstance(value, str) or len(value) <= LONGEST else value[: LONGEST - 1] + "…"


def marks(weak_slice: Slice) -> str:
    """Return `label "card_arrival" and length >= 22 tokens`."""
    parts = [
        f"{column} {value}" if value.startswith((">=", "<")) else sentence("condition", column=column, value=value)
        for column, value in weak_slice.conditions.items()
    ]
    return sentence("both_conditions").join(parts)


def in_words(weak_slice: Slice) -> str:
    """Return `rows with label "card_arrival" and length >= 22 tokens`."""
    return sentence("rows_with", conditions=marks(weak_slice))


def weakness_sentence(rows: ScoredRows, weakness: Weakness) -> str:
    """Return one weakness as a sentence that can be understood alone."""
    weak_slice, score = weakness.slice, rows.score
    low, high = weak_slice.gap.low, weak_slice.gap.high
    span = "" if low is None or high is None else sentence("gap_span", low=low, high=high)
    return sentence(
        "is_weak", conditions=marks(weak_slice), metric=name_of(rows), score=score(weak_slice.error), n=weak_slice.n,
        rest=score(weak_slice.rest), gap=weak_slice.gap.value, span=span,
        advice=advice(weakness.evidence, weakness.action), action=weakness.action,
        coverage=coverage_words(weakness.evidence),
    )  # fmt: skip


def coverage_words(evidence: Evidence) -> str:
    """Return the coverage as part of a sentence; empty where it is unknown."""
    if evidence.coverage is None or evidence.expected is None:
        return ""
    return sentence("coverage_note", coverage=evidence.coverage, expected=evidence.expected)


def report_items(rows: ScoredRows, weaknesses: list[Weakness], lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the tables of report.html: all weaknesses, then the examples of each."""
    if not weaknesses:
        return []
    table = []
    for line in lines:
        low, high = line["ci"]
        gap = f"{line['gap']:.3f}" + ("" if low is None else sentence("gap_cell", low=low, high=high))
        table.append(
            [line["words"], str(line["n"]), f"{line['score']:.3f}", f"{line['rest']:.3f}", gap, f"{line['p_holm']:.1e}",
             sentence("semicolon").join(line["why"]) or "–", sentence(f"action_{line['action']}")]
        )  # fmt: skip
    tables: list[dict[str, Any]] = [
        {
            "kind": "table",
            "title": sentence("weak_title"),
            "columns": headings("weak_columns", metric=name_of(rows)),
            "rows": table,
        }
    ]
    for line in lines:
        if line["examples"]:
            columns = [
                key for key, value in line["examples"][0].items() if key != "error" and legible(value) is not None
            ]
            cells = [[clip(legible(row.get(key)) or "–") for key in columns] for row in line["examples"]]
            title = sentence("examples_of", slice=line["words"])
            tables.append({"kind": "table", "title": title, "columns": columns, "rows": cells})
    return tables


def write_cards(folder: Path, rows: ScoredRows, weaknesses: list[Weakness], lines: list[dict[str, Any]]) -> None:
    """Write one page for each weakness, for a person who collects or writes rows."""
    for number, (weakness, line) in enumerate(zip(weaknesses, lines, strict=True), 1):
        name = re.sub(r"[^\w]+", "-", weakness.slice.words).strip("-")[:60]
        text = [
            sentence("card_title", conditions=marks(weakness.slice)),
            "",
            weakness_sentence(rows, weakness),
            "",
        ]
        text += [sentence("card_why"), "", *[f"- {reason}" for reason in line["why"]], ""]
        text += [sentence("card_action", action=line["action"], advice=line["advice"].capitalize())]
        text += ["", sentence("card_examples"), ""]
        for row in line["examples"]:
            values = {key: legible(value) for key, value in row.items() if key != "error"}
            text += [f"- {key}: {value}" for key, value in values.items() if value is not None] + [""]
        write_text(folder / f"{number:02d}-{name}.md", "\n".join(text))


def write_plan(run: RunConfig, out_dir: Path, rows: ScoredRows, weaknesses: list[Weakness]) -> None:
    """Write plan.yaml: keys of stage=finetune that carry out the actions, and the weaknesses that they are for."""
    data = run.data
    keys: dict[str, Any] = {
        "stage": "finetune", "task": run.task.name, "model.path": run.model.path, "trainer.max_steps": PLAN_STEPS,
        "seed": run.seed,
    }  # fmt: skip
    more = targeted(out_dir, rows, weaknesses) if data.train is not None else None
    if data.train is not None:
        trained = [data.train] if isinstance(data.train, str) else data.train
        keys["data.train"] = [*absolute(trained), *([str(more.resolve())] if more else [])]
        keys |= {
            f"data.{split}": absolute(getattr(data, split)) for split in ("validation", "test") if getattr(data, split)
        }
        keys |= {f"data.columns.{key}": column for key, column in data.columns.items()}
    entries = [
        {"slice": weakness.slice.conditions, "action": weakness.action,
         "advice": advice(weakness.evidence, weakness.action), "priority": weakness.slice.priority}
        for weakness in weaknesses
    ]  # fmt: skip
    body = yaml.safe_dump(plain({"overrides": keys, "weaknesses": entries}), sort_keys=False, allow_unicode=True)
    write_text(out_dir / "plan.yaml", sentence("plan_head") + body)


def targeted(out_dir: Path, rows: ScoredRows, weaknesses: list[Weakness]) -> Path | None:
    """Write the pool rows of slices that lack data, repeated to about half of the mix; return None without such rows."""
    lacking = [weakness for weakness in weaknesses if weakness.action == "data" and weakness.like]
    if not lacking or rows.has_images:
        return None
    share = len(rows.pool) // len(lacking)
    lines: list[str] = []
    for weakness in lacking:
        like = weakness.like
        repeats = max(1, min(MOST_REPEATS, share // len(like)))
        lines += [json.dumps(as_in_file(row, rows.mapping), ensure_ascii=False) for row in like[:share]] * repeats
    path = out_dir / "targeted.jsonl"
    write_text(path, "\n".join(lines) + "\n")
    return path


def as_in_file(row: dict[str, Any], mapping: dict[str, str]) -> dict[str, Any]:
    """Return the row under the column names of its file, so that both files can be read together."""
    columns = {key: column for key, column in mapping.items() if " + " not in column}
    return {columns.get(key, key): value for key, value in row.items() if key != OTHER_COLUMNS}
