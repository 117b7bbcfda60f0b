"""Read a CSV of published scores: find the role of each column, and report every bad cell with its file:line."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from llmstage.data.files import DataFile, expand_path
from llmstage.data.readers import csv
from llmstage.data.rows import Bad, ReadOptions
from llmstage.errors import DataError, UserError
from llmstage.naming import did_you_mean
from llmstage.research.curves import Numbers
from llmstage.research.wording import sentence

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
"""Role to the column names that have it, in order of preference. `stage.columns.<role>=<column>` names a column
explicitly. `metric` and `score` are for tables with one score per row."""
ORDERS = ("params", "compute", "examples", "tokens")
"""Roles that order the models, in order of preference."""
ERROR_ENDINGS = ("_stderr", "_se", " stderr", "_std_err")
MISSING = ("", "na", "n/a", "nan", "null", "none", "-", "–", "?")
MULTIPLES = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}


@dataclass(slots=True)
class ScoreTable:
    """Scores as columns [N]; NaN where a cell is empty."""

    path: str
    columns: dict[str, str]
    """Role to column name."""
    labels: dict[str, list[str]]
    """model, family and seed of each row, where the table has them."""
    axes: dict[str, Numbers]
    """params, compute, examples, step, tokens, loss."""
    metrics: dict[str, Numbers]
    errors: dict[str, Numbers]
    lines: list[int]
    notes: list[str] = field(default_factory=list)
    """Sentences about what was left out or is missing."""

    def __len__(self) -> int:
        return len(self.lines)


def normalized_name(name: str) -> str:
    """Return `Model Size (B)` as `model_size_b`."""
    return re.sub(r"[^\w]+", "_", name.strip().casefold()).strip("_")


def load_scores(path: str, user_roles: Mapping[str, str]) -> ScoreTable:
    """Read the CSV at `path`; `user_roles` is stage.columns. Raises DataError, UserError."""
    file = expand_path(path, "stage.curves", {".csv", ".tsv"})[0]
    if file.path.suffix == ".json":
        raise DataError(f"stage.curves={path} must be a table of scores (CSV or TSV, one row per model or checkpoint).")
    lines, records = read_records(file)
    header = list(records[0])
    roles = find_roles(header, user_roles, file.display_name)
    if "metric" in roles and "score" in roles:
        lines, records = to_wide_table(records, lines, roles, file.display_name)
        header = list(records[0])
        roles = find_roles(header, {role: name for role, name in user_roles.items() if role not in ("metric", "score")}, file.display_name)  # fmt: skip
    table = ScoreTable(file.display_name, roles, {}, {}, {}, {}, lines)
    for role in ("model", "family", "seed"):
        if role in roles:
            table.labels[role] = [str(record[roles[role]]).strip() for record in records]
    for role in ("params", "compute", "examples", "step", "tokens", "loss"):
        if role in roles:
            table.axes[role] = numbers(records, roles[role], file.display_name, lines)
    read_metrics(table, records, header, user_roles)
    return table


def read_records(file: DataFile) -> tuple[list[int], list[dict[str, str]]]:
    lines, records = [], []
    for number, record in csv.read(file, ReadOptions(header=True)):
        if isinstance(record, Bad):
            raise DataError(f"{file.display_name}:{number}: {record.reason}. Each row needs a cell for every column.")
        lines.append(number)
        records.append(record)
    if not records:
        raise DataError(f"{file.display_name}: the file has a header and no row of scores.")
    return lines, records


def find_roles(header: list[str], user_roles: Mapping[str, str], shown: str) -> dict[str, str]:
    """Return role to column: from the user's config, else by well-known names."""
    complaints = [
        f"stage.columns.{role}={column}: {shown} has no such column.{did_you_mean(column, header)} It has: {', '.join(header[:30])}."
        for role, column in user_roles.items() if column not in header
    ]  # fmt: skip
    if complaints:
        raise UserError("\n".join(complaints))
    known = {normalized_name(name): name for name in reversed(header)}
    roles = dict(user_roles)
    for role, names in ROLES.items():
        if role not in roles:
            column = next((known[name] for name in names if name in known and known[name] not in roles.values()), None)
            if column is not None:
                roles[role] = column
    if {"n", "d"} <= known.keys() and not {"params", "tokens"} & roles.keys():
        roles |= {"params": known["n"], "tokens": known["d"]}
    return roles


def to_wide_table(
    records: list[dict[str, str]], lines: list[int], roles: Mapping[str, str], shown: str
) -> tuple[list[int], list[dict[str, str]]]:
    """Turn one row per score into one row per model and checkpoint. A column of errors moves with its score."""
    metric, score = roles["metric"], roles["score"]
    error = next(
        (name for name in records[0] if normalized_name(name) in ("stderr", "se", "error", "standard_error")), None
    )
    keys = [name for name in records[0] if name not in (metric, score, error)]
    rows_by_key: dict[tuple[str, ...], dict[str, str]] = {}
    first_line_by_key: dict[tuple[str, ...], int] = {}
    for line, record in zip(lines, records, strict=True):
        key = tuple(record[name] for name in keys)
        row = rows_by_key.setdefault(key, {name: record[name] for name in keys})
        name = record[metric].strip()
        if name in row:
            described = ", ".join(f"{column}={record[column]}" for column in keys)
            raise DataError(f"{shown}:{line}: a second score of '{name}' for {described}. Name the column that distinguishes them: stage.columns.seed=<column>.")  # fmt: skip
        first_line_by_key.setdefault(key, line)
        row[name] = record[score]
        if error is not None:
            row[f"{name}_stderr"] = record[error]
    names = list(dict.fromkeys(name for row in rows_by_key.values() for name in row))
    return list(first_line_by_key.values()), [
        {name: row.get(name, "") for name in names} for row in rows_by_key.values()
    ]


def read_metrics(
    table: ScoreTable, records: list[dict[str, str]], header: list[str], user_roles: Mapping[str, str]
) -> None:
    """Read every other numeric column as a metric, and note the columns that are left out."""
    used_columns = set(table.columns.values())
    loss = table.columns.get("loss")
    descriptive_names = {name for names in ROLES.values() for name in names} | {"deduped"}
    for column in header:
        if column == "" or (column in used_columns and column != loss) or column.endswith(ERROR_ENDINGS):
            continue
        if normalized_name(column) in descriptive_names and column != loss:
            continue
        if not any(is_number(record[column]) for record in records):
            filled = [record[column] for record in records if record[column].strip().casefold() not in MISSING]
            key, example = ("words_column", filled[0][:30]) if filled else ("empty_column", "")
            table.notes.append(sentence(key, column=column, word=example))
            continue
        # A numeric column is a metric; a column of standard errors belongs to it by its ending.
        values = numbers(records, column, table.path, table.lines)
        table.metrics[column] = values
        error = next((column + ending for ending in ERROR_ENDINGS if column + ending in header), None)
        column_errors = numbers(records, error, table.path, table.lines) if error else np.full(len(values), np.nan)
        if (column_errors < 0).any():
            line = table.lines[int(np.flatnonzero(column_errors < 0)[0])]
            raise DataError(f"{table.path}:{line}: '{error}' is negative; a standard error cannot be.")
        table.errors[column] = column_errors
        table.notes += missing_note(table, column, values)
    if not table.metrics:
        raise DataError(
            f"{table.path} has no column of scores besides {', '.join(sorted(used_columns)) or 'its header'}. "
            f"It needs one numeric column per metric, or a column 'metric' with a column 'score'."
        )


def missing_note(table: ScoreTable, column: str, values: Numbers) -> list[str]:
    missing = np.flatnonzero(np.isnan(values))
    if not len(missing):
        return []
    models = table.labels.get("model")
    missing_models = [key for key, _ in groupby(models[k] for k in missing)] if models else []
    names = (
        f" ({', '.join(dict.fromkeys(missing_models[:4]))}{', …' if len(missing_models) > 4 else ''})"
        if missing_models
        else ""
    )
    location = f"{table.path}:{table.lines[missing[0]]}"
    return [sentence("scores_missing", column=column, gone=len(missing), num=len(values), names=names, place=location)]


def is_number(cell: str) -> bool:
    value = as_number(cell)
    return value is not None and not math.isnan(value)


def as_number(cell: str) -> float | None:
    """Parse a cell: `0.41`, `41%`, `1,204`, `70m`, `1.4b`. NaN where it is empty, None where it is not a number."""
    folded = cell.strip().casefold()
    if folded in MISSING:
        return math.nan
    try:
        return float(folded)
    except ValueError:
        pass
    match = re.fullmatch(r"([-+]?[\d,]*\.?\d+(?:e[-+]?\d+)?)\s*([kmbt%])?", folded)
    if not match:
        return None
    value = float(match[1].replace(",", ""))
    return value / 100 if match[2] == "%" else value * MULTIPLES.get(match[2] or "", 1.0)


def numbers(records: list[dict[str, str]], column: str, shown: str, lines: list[int]) -> Numbers:
    """Return a column as numbers, NaN where a cell is empty. Raises DataError at a cell that is not a number."""
    values = []
    for line, record in zip(lines, records, strict=True):
        value = as_number(record[column])
        if value is None or math.isinf(value):
            raise DataError(
                f"{shown}:{line}: '{record[column][:40]}' in column '{column}' is not a number. "
                f"Leave the cell empty where there is no score."
            )
        values.append(value)
    return np.array(values)
