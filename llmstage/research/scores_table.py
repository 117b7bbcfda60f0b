"""A CSV of published scores: which column is what, and every complaint about a cell with its file:line."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from llmstage.data.files import DataFile, expand_one
from llmstage.data.readers import csv
from llmstage.data.records import Bad, ReadOptions
from llmstage.errors import DataError, UserError
from llmstage.explore.wording import say
from llmstage.naming import did_you_mean
from llmstage.research.curves import Numbers

ROLES: dict[str, tuple[str, ...]] = {
    "model": ("model", "model_name", "name", "run", "模型"),
    "family": ("family", "model_family", "系列"),
    "seed": ("seed", "random_seed", "种子", "随机种子"),
    "params": (
        "params_nonemb", "params_non_embedding", "params", "parameters", "num_parameters", "num_params", "n_params",
        "params_total", "params_nominal", "model_size", "model_size_b", "size", "参数量", "参数",
    ),
    "compute": ("flops", "flop", "compute", "training_flop", "training_flops", "flops_1e21", "计算量"),
    "examples": ("train_examples", "num_examples", "examples", "样本数"),
    "step": ("step", "steps", "epoch", "步数", "步"),
    "tokens": ("tokens", "training_tokens", "num_tokens", "pretraining_data_size_t", "词元数"),
    "loss": ("lm_loss", "loss", "val_loss", "validation_loss", "test_loss", "test_cross_entropy", "cross_entropy", "损失"),
    "metric": ("metric", "指标"),
    "score": ("score", "value", "得分"),
}  # fmt: skip
"""Role to the names by which a column is known for it, the first that is there; `stage.columns.<role>=<column>` says it
outright. `metric` and `score` are for tables with one score a row."""
ORDERS = ("params", "compute", "examples", "tokens")
"""What orders models, the first that is there."""
ERROR_ENDINGS = ("_stderr", "_se", " stderr", "_std_err")
MISSING = ("", "na", "n/a", "nan", "null", "none", "-", "–", "?")
MULTIPLES = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}


@dataclass(slots=True)
class ScoreTable:
    """Scores as columns [N]; NaN where nothing stands."""

    shown: str
    columns: dict[str, str]
    """Role to column."""
    words: dict[str, list[str]]
    """model, family and seed of each row, where they are columns."""
    axes: dict[str, Numbers]
    """params, compute, examples, step, tokens, loss."""
    metrics: dict[str, Numbers]
    errors: dict[str, Numbers]
    lines: list[int]
    notes: list[str] = field(default_factory=list)
    """What was left out or is missing, and what that means."""

    def __len__(self) -> int:
        return len(self.lines)


def normal(name: str) -> str:
    """`Model Size (B)` as `model_size_b`."""
    return re.sub(r"[^\w]+", "_", name.strip().casefold()).strip("_")


def load_scores(path: str, named: Mapping[str, str]) -> ScoreTable:
    """Read the CSV at `path`; `named` is stage.columns. Raises DataError, UserError."""
    file = expand_one(path, "stage.curves", {".csv", ".tsv"})[0]
    if file.path.suffix == ".json":
        raise DataError(f"stage.curves={path} must be a table of scores (CSV or TSV, one row a model or checkpoint).")
    lines, records = read_records(file)
    header = list(records[0])
    roles = find_roles(header, named, file.shown)
    if "metric" in roles and "score" in roles:
        lines, records = widened(records, lines, roles, file.shown)
        header = list(records[0])
        roles = find_roles(header, {role: name for role, name in named.items() if role not in ("metric", "score")}, file.shown)  # fmt: skip
    table = ScoreTable(file.shown, roles, {}, {}, {}, {}, lines)
    for role in ("model", "family", "seed"):
        if role in roles:
            table.words[role] = [str(record[roles[role]]).strip() for record in records]
    for role in ("params", "compute", "examples", "step", "tokens", "loss"):
        if role in roles:
            table.axes[role] = numbers(records, roles[role], file.shown, lines)
    read_metrics(table, records, header, named)
    return table


def read_records(file: DataFile) -> tuple[list[int], list[dict[str, str]]]:
    lines, records = [], []
    for number, record in csv.read(file, ReadOptions(header=True)):
        if isinstance(record, Bad):
            raise DataError(f"{file.shown}:{number}: {record.reason}. Each row needs a cell for every column.")
        lines.append(number)
        records.append(record)
    if not records:
        raise DataError(f"{file.shown}: a heading and no row of scores below it.")
    return lines, records


def find_roles(header: list[str], named: Mapping[str, str], shown: str) -> dict[str, str]:
    """Role to column: as the user says, else by well-known names."""
    wrong = [
        f"stage.columns.{role}={column}: {shown} has no such column.{did_you_mean(column, header)} It has: {', '.join(header[:30])}."
        for role, column in named.items() if column not in header
    ]  # fmt: skip
    if wrong:
        raise UserError("\n".join(wrong))
    known = {normal(name): name for name in reversed(header)}
    found = dict(named)
    for role, names in ROLES.items():
        if role not in found:
            column = next((known[name] for name in names if name in known and known[name] not in found.values()), None)
            if column is not None:
                found[role] = column
    if {"n", "d"} <= known.keys() and not {"params", "tokens"} & found.keys():
        found |= {"params": known["n"], "tokens": known["d"]}
    return found


def widened(
    records: list[dict[str, str]], lines: list[int], roles: Mapping[str, str], shown: str
) -> tuple[list[int], list[dict[str, str]]]:
    """One row a model and checkpoint from one row a score; a column of errors goes with its score."""
    metric, score = roles["metric"], roles["score"]
    error = next((name for name in records[0] if normal(name) in ("stderr", "se", "error", "standard_error")), None)
    keys = [name for name in records[0] if name not in (metric, score, error)]
    wide: dict[tuple[str, ...], dict[str, str]] = {}
    first: dict[tuple[str, ...], int] = {}
    for line, record in zip(lines, records, strict=True):
        key = tuple(record[name] for name in keys)
        row = wide.setdefault(key, {name: record[name] for name in keys})
        name = record[metric].strip()
        if name in row:
            told = ", ".join(f"{column}={record[column]}" for column in keys)
            raise DataError(f"{shown}:{line}: a second score of '{name}' for {told}. Name the column that tells them apart: stage.columns.seed=<column>.")  # fmt: skip
        first.setdefault(key, line)
        row[name] = record[score]
        if error is not None:
            row[f"{name}_stderr"] = record[error]
    names = list(dict.fromkeys(name for row in wide.values() for name in row))
    return list(first.values()), [{name: row.get(name, "") for name in names} for row in wide.values()]


def read_metrics(table: ScoreTable, records: list[dict[str, str]], header: list[str], named: Mapping[str, str]) -> None:
    """Every other column of numbers is a metric; what is left out is told."""
    taken = set(table.columns.values())
    loss = table.columns.get("loss")
    about = {name for names in ROLES.values() for name in names} | {"deduped"}
    for column in header:
        if column == "" or (column in taken and column != loss) or column.endswith(ERROR_ENDINGS):
            continue
        if normal(column) in about and column != loss:
            continue
        if not any(is_number(record[column]) for record in records):
            filled = [record[column] for record in records if record[column].strip().casefold() not in MISSING]
            key, word = ("words_column", filled[0][:30]) if filled else ("empty_column", "")
            table.notes.append(say(key, column=column, word=word))
            continue
        values = numbers(records, column, table.shown, table.lines)
        table.metrics[column] = values
        error = next((column + ending for ending in ERROR_ENDINGS if column + ending in header), None)
        given = numbers(records, error, table.shown, table.lines) if error else np.full(len(values), np.nan)
        if (given < 0).any():
            line = table.lines[int(np.flatnonzero(given < 0)[0])]
            raise DataError(f"{table.shown}:{line}: '{error}' is negative; a standard error is not.")
        table.errors[column] = given
        table.notes += missing_note(table, column, values)
    if not table.metrics:
        raise DataError(
            f"{table.shown} has no column of scores beside {', '.join(sorted(taken)) or 'its heading'}. "
            f"It needs one column of numbers a metric, or a column 'metric' with a column 'score'."
        )


def missing_note(table: ScoreTable, column: str, values: Numbers) -> list[str]:
    gone = np.flatnonzero(np.isnan(values))
    if not len(gone):
        return []
    models = table.words.get("model")
    whose = [key for key, _ in groupby(models[k] for k in gone)] if models else []
    names = f" ({', '.join(dict.fromkeys(whose[:4]))}{', …' if len(whose) > 4 else ''})" if whose else ""
    place = f"{table.shown}:{table.lines[gone[0]]}"
    return [say("scores_missing", column=column, gone=len(gone), num=len(values), names=names, place=place)]


def is_number(cell: str) -> bool:
    value = as_number(cell)
    return value is not None and not math.isnan(value)


def as_number(cell: str) -> float | None:
    """A cell as a number: `0.41`, `41%`, `1,204`, `70m`, `1.4b`; NaN where nothing stands, None where it is none."""
    word = cell.strip().casefold()
    if word in MISSING:
        return math.nan
    try:
        return float(word)
    except ValueError:
        pass
    found = re.fullmatch(r"([-+]?[\d,]*\.?\d+(?:e[-+]?\d+)?)\s*([kmbt%])?", word)
    if not found:
        return None
    value = float(found[1].replace(",", ""))
    return value / 100 if found[2] == "%" else value * MULTIPLES.get(found[2] or "", 1.0)


def numbers(records: list[dict[str, str]], column: str, shown: str, lines: list[int]) -> Numbers:
    """A column as numbers, NaN where nothing stands. Raises DataError at a cell that is no number."""
    values = []
    for line, record in zip(lines, records, strict=True):
        value = as_number(record[column])
        if value is None or math.isinf(value):
            raise DataError(
                f"{shown}:{line}: '{record[column][:40]}' in column '{column}' is no number. "
                f"Leave the cell empty where there is no score."
            )
        values.append(value)
    return np.array(values)
