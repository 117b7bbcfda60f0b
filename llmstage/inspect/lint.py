"""Checks of rows that apply to every task: duplicates, contradictions, overlap with training, unusable rows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from llmstage.config import RunConfig
from llmstage.data.quality.near_duplicates import near_pairs
from llmstage.data.row_checks import texts_of
from llmstage.data.row_source import RowSource
from llmstage.data.split_keys import row_hash
from llmstage.inspect.findings import Finding, graded
from llmstage.tasks.base import Task

ANSWER_OUTSIDE = re.compile("(does not stand|is not|does not occur) in the context|points at .* not at the answer")
"""Reasons for which data/question_rows.py refuses an answer that is not at its position in the context."""
TARGET_COLUMNS = ("label", "labels", "tags", "answer")
"""Columns with one right value for a text, so that two different values contradict each other."""
TEMPLATE_COLUMNS = ("tools", "chat_template_kwargs")
"""Columns of a conversation that its chat template reads."""
MAX_CHARACTERS = 2_000_000
"""Characters of a split up to which near-duplicates are searched; later rows are not compared."""


@dataclass(slots=True)
class LintRow:
    """A row of a split, with its location."""

    row: dict[str, Any]
    location: str
    text: str
    """All its texts, as the tokenizer is trained on them."""


def read_rows(task: Task, sources: Mapping[str, RowSource], max_rows: int) -> dict[str, list[LintRow]]:
    """Read the first `max_rows` rows of each split."""
    return {
        split: [
            LintRow(without_further(task, row), location, "\n".join(task.texts(row)))
            for row, location in islice(source, max_rows)
        ]
        for split, source in sources.items()
    }


def without_further(task: Task, row: dict[str, Any]) -> dict[str, Any]:
    """Return a conversation without the columns that its task does not read.

    Such a column may have the name of another task's column, e.g. `context` or `label`, whose checks would misread it.
    """
    if "messages" not in task.columns.required:
        return row
    read = {*task.columns.required, *task.columns.optional, *TEMPLATE_COLUMNS}
    return {column: value for column, value in row.items() if column in read}


def check_rows(
    run: RunConfig, task: Task, sources: Mapping[str, RowSource], rows: Mapping[str, list[LintRow]], likeness: float
) -> Iterator[Finding]:
    """Run the checks that every task has."""
    for split, split_rows in rows.items():
        columns = tuple(dict.fromkeys(column for row in split_rows[:50] for column in row.row))
        yield repeated(split, split_rows, columns)
        target_columns = [
            column for column in (*TARGET_COLUMNS, *getattr(task.cfg, "targets", {})) if column in columns
        ]
        if target_columns:
            yield contradictions(split, split_rows, task.columns.identity, target_columns)
        broken = [row.location for row in split_rows if any("\ufffd" in text for text in texts_of(row.row))]
        yield graded(
            "replacement",
            split,
            broken,
            len(split_rows),
            major=0.01,
            remedy="data.encoding=gb18030 (or the encoding of the file)",
        )
    # The rows of one user share their history by design: only a click is held out.
    if "train" in rows and len(rows) > 1 and task.columns.identity != ("user", "item"):
        yield from training_overlap(run, task, sources, rows)
    if "train" in rows and any({"question", "context"} <= row.row.keys() for row in rows["train"][:1]):
        yield from shared_contexts(rows)
    # Captions and questions about images are similar by design; data/quality/image_duplicates.py compares the images.
    if task.columns.identity != ("user", "item") and not task.columns.images:
        yield from near_duplicates(run, task, rows, likeness)


def repeated(split: str, split_rows: Sequence[LintRow], columns: Sequence[str]) -> Finding:
    """Find rows that equal an earlier row in all columns."""
    first_location: dict[int, str] = {}
    locations = []
    for row in split_rows:
        key = row_hash(without_location(row.row), columns, 0)
        if key in first_location:
            locations.append(f"{row.location} = {first_location[key]}")
        first_location.setdefault(key, row.location)
    return graded(
        "duplicates",
        split,
        locations,
        len(split_rows),
        major=0.1,
        remedy="remove them from the file; a repeated row has a repeated weight",
    )


def without_location(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row without the columns that only say where it comes from."""
    return {column: value for column, value in row.items() if column not in ("first_line", "id")}


def contradictions(
    split: str, split_rows: Sequence[LintRow], identity: Sequence[str], target_columns: Sequence[str]
) -> Finding:
    """Find rows with the identity columns of an earlier row and different target columns."""
    first_rows_by_key: dict[int, tuple[int, str]] = {}
    locations = []
    identity_columns = [column for column in identity if column not in target_columns]
    for row in split_rows:
        key, target_hash = row_hash(row.row, identity_columns, 0), row_hash(row.row, target_columns, 0)
        known = first_rows_by_key.setdefault(key, (target_hash, row.location))
        if known[0] != target_hash:
            locations.append(f"{row.location} ≠ {known[1]}")
    return graded(
        "conflicts",
        split,
        locations,
        len(split_rows),
        major=0.02,
        word=" or ".join(target_columns),
        remedy="keep one of each: no model can predict both",
    )


def training_overlap(
    run: RunConfig, task: Task, sources: Mapping[str, RowSource], rows: Mapping[str, list[LintRow]]
) -> Iterator[Finding]:
    """Find rows of the other splits whose text is in train. All of train is read, but only hashes of the searched rows
    are kept in memory."""
    identity = task.columns.identity
    scored_rows = {split: split_rows for split, split_rows in rows.items() if split != "train"}
    keys = {split: [row_hash(row.row, identity, 0) for row in split_rows] for split, split_rows in scored_rows.items()}
    searched = {key for split_keys in keys.values() for key in split_keys}
    train_locations: dict[int, str] = {}
    for raw_row, location in sources["train"]:
        key = row_hash(raw_row, identity, 0)
        if key in searched:
            train_locations.setdefault(key, location)
    for split, split_keys in keys.items():
        locations = [
            f"{row.location} = {train_locations[key]}"
            for row, key in zip(scored_rows[split], split_keys, strict=True)
            if key in train_locations
        ]
        yield graded("seen", split, locations, len(split_keys), major=0.01, remedy=overlap_remedy(run, split))


def overlap_remedy(run: RunConfig, split: str) -> str:
    """Return how the rows of a split are kept out of training."""
    if getattr(run.data, split):
        return f"remove these rows from data.train, or leave data.{split} out, so that it is cut from data.train without overlap"
    return "data.split.group=<column> keeps rows of one value on one side"


def shared_contexts(rows: Mapping[str, list[LintRow]]) -> Iterator[Finding]:
    """Find scored questions about a text that training has questions about too: their score partly measures
    memorization."""
    known = {row_hash(row.row, ("context",), 0) for row in rows["train"]}
    for split in [split for split in rows if split != "train"]:
        locations = [row.location for row in rows[split] if row_hash(row.row, ("context",), 0) in known]
        yield graded(
            "contexts",
            split,
            locations,
            len(rows[split]),
            major=2.0,
            remedy="data.split.group=context keeps questions about one text on one side",
        )


def near_duplicates(
    run: RunConfig, task: Task, rows: Mapping[str, list[LintRow]], likeness: float
) -> Iterator[Finding]:
    """Find texts that nearly equal an earlier row. Exact duplicates are reported by the checks above."""
    several = len(rows) > 1 and "train" in rows
    order = ["train", *(split for split in rows if split != "train")] if "train" in rows else list(rows)
    candidates = [(split, row) for split in order for row in first_rows(rows[split])]
    if not any(row.text.strip() for _, row in candidates):
        return
    pairs = near_pairs([compared_text(row) for _, row in candidates], likeness)
    counts = {split: sum(within_split == split for within_split, _ in candidates) for split in order}
    within_split: dict[str, list[str]] = {split: [] for split in order}
    in_train: dict[str, list[str]] = {split: [] for split in order}
    # Exact duplicates are left out; the others are counted within their split, or against train.
    for number, first_index in pairs.items():
        (split, row), (first_split, first_row) = candidates[number], candidates[first_index]
        if row_hash(row.row, task.columns.identity, 0) == row_hash(first_row.row, task.columns.identity, 0):
            continue
        if first_split == split:
            within_split[split].append(f"{row.location} ~ {first_row.location}")
        elif first_split == "train":
            in_train[split].append(f"{row.location} ~ {first_row.location}")
    for split in order:
        yield graded(
            "near",
            split,
            within_split[split],
            counts[split],
            major=0.3,
            min_share=0.005,
            likeness=likeness,
            remedy="keep one of each, or data.split.group=<column> if they belong together",
        )
        if several and split != "train":
            yield graded(
                "near_seen",
                split,
                in_train[split],
                counts[split],
                major=0.1,
                min_share=0.005,
                likeness=likeness,
                remedy=overlap_remedy(run, split),
            )


def compared_text(row: LintRow) -> str:
    """Return the text that is compared: the question where a row has a context, else all texts."""
    return str(row.row["question"]) if {"question", "context"} <= row.row.keys() else row.text


def first_rows(split_rows: Sequence[LintRow]) -> Iterator[LintRow]:
    """Yield the first rows, up to MAX_CHARACTERS."""
    characters_left = MAX_CHARACTERS
    for row in split_rows:
        characters_left -= len(row.text)
        if characters_left < 0:
            return
        yield row


def bad_rows(path: Path | None, split: str, *, stops: bool) -> Iterator[Finding]:
    """Read quarantine.jsonl and yield one finding for each reason."""
    if path is None or not path.is_file():
        return
    groups: dict[str, list[tuple[str, str]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        location = f"{record['file']}:{record['line']}" if record["line"] else str(record["file"])
        pattern = re.sub(r"'[^']*'|\"[^\"]*\"|\d+", "…", str(record["reason"]))
        groups.setdefault(pattern, []).append((location, str(record["reason"])))
    for rows in groups.values():
        reason = rows[0][1]
        check = "answers_outside" if ANSWER_OUTSIDE.search(reason) else "bad_rows"
        yield Finding(
            check, "major", split, len(rows), 0, [location for location, _ in rows][:100], {"reason": reason},
            "correct these rows, or data.on_bad_row=quarantine leaves them out", stops=stops,
        )  # fmt: skip
