"""Weak slices as files and as findings: weaknesses.jsonl, plan.yaml with its rows, cards/, sentences, tables."""

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
from llmstage.explore.diagnosis import Reason, advice, sentences_of
from llmstage.explore.findings import Findings
from llmstage.explore.scored_rows import FEW, HALF, ScoredRows
from llmstage.explore.slices import Search, Slice
from llmstage.explore.wording import headings, say
from llmstage.explore.wording.weak import SENTENCES
from llmstage.report.files import plain, write_text
from llmstage.report.formatting import text as shown
from llmstage.report.html import is_messages
from llmstage.training.run_folder import absolute

PLAN_STEPS = 300
TRAINED = ("data", "train")
"""Actions that a plan can carry out; the others need a person, a larger model, or another tokenizer."""
MOST_TIMES = 20
"""How often a training row is repeated at most."""
LONGEST = 240
"""Characters of a value that are shown."""


@dataclass(slots=True)
class Weakness:
    """A confirmed slice, why it is weak, and what would help."""

    slice: Slice
    reason: Reason
    action: str
    like: list[Row] = field(default_factory=list)
    """Rows of the training pool that are like it."""


def too_few(out_dir: Path, rows: ScoredRows) -> Findings:
    """What is told where nothing can be claimed."""
    write_text(out_dir / "weaknesses.jsonl", "")
    num = len(rows.rows)
    told = say("too_few_rows", num=num, split=rows.split, half=HALF, few=FEW)
    return Findings("slices", {"split": rows.split, "rows": num, "weaknesses": []}, limits=[told, *left_out(rows)])


def left_out(rows: ScoredRows) -> list[str]:
    told = []
    if rows.dropped:
        told.append(say("rows_in_pool", num=rows.dropped, split=rows.split))
    if rows.silent:
        told.append(say("rows_silent", num=rows.silent, split=rows.split))
    return told


def findings_of(
    run: RunConfig, out_dir: Path, rows: ScoredRows, search: Search, weaknesses: list[Weakness], columns: list[str],
    *, examples: int,
) -> Findings:  # fmt: skip
    lines = [line_of(rows, search, weakness, examples) for weakness in weaknesses]
    write_text(
        out_dir / "weaknesses.jsonl", "".join(json.dumps(plain(line), ensure_ascii=False) + "\n" for line in lines)
    )
    write_cards(out_dir / "cards", rows, weaknesses, lines)
    planned = any(one.action in TRAINED for one in weaknesses)
    if planned:
        write_plan(run, out_dir, rows, weaknesses)
    mean = rows.score(float(rows.errors[search.confirm].mean()))
    told_columns = ", ".join(columns)
    sentences = [sentence(rows, weakness) for weakness in weaknesses] or [
        say(
            "none_confirmed",
            metric=name_of(rows),
            mean=mean,
            num=len(search.confirm),
            split=rows.split,
            columns=told_columns,
        )
    ]
    if planned:
        sentences.append(say("plan_written"))
    limits = left_out(rows)
    small = [one for one in weaknesses if one.slice.n < HALF]
    limits += [say("exact_only", slice=one.slice.words, n=one.slice.n) for one in small]
    limits += [
        say("not_confirmed", slice=one.words, split=rows.split, n=one.n, gap=one.gap.value, p=one.p_holm)
        for one in search.not_confirmed
    ]
    if not rows.pool:
        limits.append(say("no_pool"))
    undecided = [one.slice.words for one in weaknesses if one.action == "undecided"]
    limits += [say("no_reason", slice=words) for words in undecided]
    limits.append(say("not_found", least=search.min_support, columns=told_columns))
    block = {
        "split": rows.split, "rows": len(rows.rows), "metric": rows.kind.metric, "score": mean,
        "discover": len(search.discover), "confirm": len(search.confirm), "looked_at": search.looked_at,
        "min_support": search.min_support, "columns": columns, "dropped": rows.dropped, "weaknesses": lines,
    }  # fmt: skip
    return Findings("slices", block, sentences, limits, exhibits_of(rows, weaknesses, lines))


def name_of(rows: ScoredRows) -> str:
    """The metric as a reader knows it."""
    key = f"metric_{rows.kind.metric}"
    return say(key) if key in SENTENCES else rows.kind.metric


def line_of(rows: ScoredRows, search: Search, weakness: Weakness, examples: int) -> dict[str, Any]:
    """A line of weaknesses.jsonl."""
    one = weakness.slice
    return {
        "slice": one.conditions, "words": in_words(one), "n": one.n, "metric": rows.kind.metric,
        "score": rows.score(one.error), "rest": rows.score(one.rest), "gap": one.gap.value,
        "ci": [one.gap.low, one.gap.high], "p_holm": one.p_holm, "test": one.test,
        "discovered_on": f"{rows.split}: discover", "confirmed_on": f"{rows.split}: confirm",
        "why": sentences_of(weakness.reason, rows.score), "action": weakness.action,
        "advice": advice(weakness.reason, weakness.action), "coverage_ratio": weakness.reason.ratio,
        "priority": one.priority, "examples": worst(rows, search, one, examples),
    }  # fmt: skip


def worst(rows: ScoredRows, search: Search, one: Slice, most: int) -> list[dict[str, Any]]:
    """Rows of the slice that confirmed it, the most wrong first."""
    places = [int(at) for at in search.confirm if one.rows[at]]
    places.sort(key=lambda at: -rows.errors[at])
    kept = []
    for at in places[:most]:
        row = {word: value for word, value in rows.rows[at].items() if word != OTHER_COLUMNS}
        record = {word: rows.records[at].get(word) for word in ("prediction", "reference")}
        kept.append({**{word: clip(value) for word, value in row.items()}, **record, "error": float(rows.errors[at])})
    return kept


def legible(value: Any) -> str | None:
    """A value of a row for a reader: a conversation turn by turn; None for what only a program reads."""
    if is_messages(value):
        return " / ".join(f"{turn['role']}: {shown(turn['content'])}" for turn in value)
    if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(one, (dict, list)) for one in value)):
        return None
    return shown(value)


def clip(value: Any) -> Any:
    return value if not isinstance(value, str) or len(value) <= LONGEST else value[: LONGEST - 1] + "…"


def conditions_of(one: Slice) -> str:
    """`label "card_arrival" and length >= 22 tokens`"""
    told = [
        f"{column} {value}" if value.startswith((">=", "<")) else say("condition", column=column, value=value)
        for column, value in one.conditions.items()
    ]
    return say("both_conditions").join(told)


def in_words(one: Slice) -> str:
    """`rows with label "card_arrival" and length >= 22 tokens`"""
    return say("rows_with", conditions=conditions_of(one))


def sentence(rows: ScoredRows, weakness: Weakness) -> str:
    """One weakness for somebody who reads nothing else."""
    one, score = weakness.slice, rows.score
    low, high = one.gap.low, one.gap.high
    span = "" if low is None or high is None else say("gap_span", low=low, high=high)
    return say(
        "is_weak", conditions=conditions_of(one), metric=name_of(rows), score=score(one.error), n=one.n, rest=score(one.rest),
        gap=one.gap.value, span=span, advice=advice(weakness.reason, weakness.action), action=weakness.action,
        coverage=coverage_words(weakness.reason),
    )  # fmt: skip


def coverage_words(reason: Reason) -> str:
    if reason.coverage is None or reason.expected is None:
        return ""
    return say("coverage_beside", coverage=reason.coverage, expected=reason.expected)


def exhibits_of(rows: ScoredRows, weaknesses: list[Weakness], lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not weaknesses:
        return []
    table = []
    for line in lines:
        low, high = line["ci"]
        gap = f"{line['gap']:.3f}" + ("" if low is None else say("gap_cell", low=low, high=high))
        table.append(
            [line["words"], str(line["n"]), f"{line['score']:.3f}", f"{line['rest']:.3f}", gap, f"{line['p_holm']:.1e}",
             say("semicolon").join(line["why"]) or "–", say(f"action_{line['action']}")]
        )  # fmt: skip
    shown_tables: list[dict[str, Any]] = [
        {
            "kind": "table",
            "title": say("weak_title"),
            "columns": headings("weak_columns", metric=name_of(rows)),
            "rows": table,
        }
    ]
    for line in lines:
        if line["examples"]:
            words = [
                word for word, value in line["examples"][0].items() if word != "error" and legible(value) is not None
            ]
            cells = [[clip(legible(row.get(word)) or "–") for word in words] for row in line["examples"]]
            shown_tables.append(
                {"kind": "table", "title": say("examples_of", slice=line["words"]), "columns": words, "rows": cells}
            )
    return shown_tables


def write_cards(folder: Path, rows: ScoredRows, weaknesses: list[Weakness], lines: list[dict[str, Any]]) -> None:
    """One page a weakness, for somebody who is to gather or write rows."""
    for number, (weakness, line) in enumerate(zip(weaknesses, lines, strict=True), 1):
        name = re.sub(r"[^\w]+", "-", weakness.slice.words).strip("-")[:60]
        text = [say("card_title", conditions=conditions_of(weakness.slice)), "", sentence(rows, weakness), ""]
        text += [say("card_why"), "", *[f"- {reason}" for reason in line["why"]], ""]
        text += [say("card_action", action=line["action"], advice=line["advice"].capitalize())]
        text += ["", say("card_examples"), ""]
        for row in line["examples"]:
            told = {word: legible(value) for word, value in row.items() if word != "error"}
            text += [f"- {word}: {value}" for word, value in told.items() if value is not None] + [""]
        write_text(folder / f"{number:02d}-{name}.md", "\n".join(text))


def write_plan(run: RunConfig, out_dir: Path, rows: ScoredRows, weaknesses: list[Weakness]) -> None:
    """plan.yaml: keys for stage=finetune that do what the diagnosis says, and the weaknesses it is for."""
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
        keys |= {f"data.columns.{word}": column for word, column in data.columns.items()}
    told = [
        {"slice": one.slice.conditions, "action": one.action, "advice": advice(one.reason, one.action),
         "priority": one.slice.priority}
        for one in weaknesses
    ]  # fmt: skip
    body = yaml.safe_dump(plain({"overrides": keys, "weaknesses": told}), sort_keys=False, allow_unicode=True)
    write_text(out_dir / "plan.yaml", say("plan_head") + body)


def targeted(out_dir: Path, rows: ScoredRows, weaknesses: list[Weakness]) -> Path | None:
    """A file of the pool's rows that are like a slice that lacks data, half of the mix; None where there are none."""
    lacking = [one for one in weaknesses if one.action == "data" and one.like]
    if not lacking or rows.has_pictures:
        return None
    share = len(rows.pool) // len(lacking)
    lines: list[str] = []
    for one in lacking:
        times = max(1, min(MOST_TIMES, share // len(one.like)))
        lines += [json.dumps(as_in_file(row, rows.mapping), ensure_ascii=False) for row in one.like[:share]] * times
    path = out_dir / "targeted.jsonl"
    write_text(path, "\n".join(lines) + "\n")
    return path


def as_in_file(row: dict[str, Any], mapping: dict[str, str]) -> dict[str, Any]:
    """The row under the names that its file has, so that it can be read beside it."""
    named = {word: column for word, column in mapping.items() if " + " not in column}
    return {named.get(word, word): value for word, value in row.items() if word != OTHER_COLUMNS}
