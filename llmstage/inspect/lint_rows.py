"""Checks of rows by the columns they have: labels, tags, pairs of texts, answers, captions, times.

A check runs for every task whose rows have its columns, so that user-defined tasks are checked too.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from llmstage.config import RunConfig
from llmstage.data.question_rows import BadAnswer, answers_of
from llmstage.data.row_source import RowSource
from llmstage.data.tag_schemes import OUTSIDE, detect_scheme, first_illegal
from llmstage.data.tagged_rows import tags_in
from llmstage.evaluation.metrics.generation import references_of
from llmstage.inspect.findings import Finding, graded
from llmstage.inspect.lint import LintRow
from llmstage.tasks.base import Task

TEXT_PAIRS = (("source", "target", True), ("document", "summary", False))
"""(source column, target column, whether both have the same content, so that their lengths and scripts correspond)"""
SCRIPTS = (
    ("Han", "[\u3400-\u9fff]"), ("kana", "[\u3040-\u30ff]"), ("Hangul", "[\uac00-\ud7af]"), ("Cyrillic", "[\u0400-\u04ff]"),
    ("Arabic", "[\u0600-\u06ff]"), ("Greek", "[\u0370-\u03ff]"), ("Hebrew", "[\u0590-\u05ff]"), ("Thai", "[\u0e00-\u0e7f]"),
    ("Devanagari", "[\u0900-\u097f]"), ("Latin", "[A-Za-z\u00c0-\u024f]"),
)  # fmt: skip
MAJORITY = 0.9
"""Share of rows with a script from which on rows without it are reported."""
MIN_LOG_DISTANCE = math.log(3)
"""Smallest deviation that is reported: a length ratio of three times the median, or a third of it."""
MIN_DEVIATIONS = 4 * 1.4826
"""Median absolute deviations from the median that are reported: four standard deviations of a normal distribution."""


def check_columns(
    run: RunConfig, task: Task, sources: Mapping[str, RowSource], rows: Mapping[str, list[LintRow]]
) -> Iterator[Finding]:
    """Run every check whose columns the rows have."""
    columns = {column for split_rows in rows.values() for row in split_rows[:50] for column in row.row}
    # An optional label is a name, such as that of an image. Names need not be balanced.
    label_columns = dict.fromkeys(("label", *getattr(task.cfg, "targets", {})))
    for column in [column for column in label_columns if column in columns and column not in task.columns.optional]:
        target_type = getattr(task.cfg, "targets", {}).get(column, getattr(task.cfg, "target", "label"))
        if target_type != "number":
            yield from check_labels(
                rows, column, getattr(task.cfg, "separator", ",") if target_type == "multilabel" else None
            )
    if "tags" in columns:
        yield from check_tags(rows, task)
    for source, target, parallel in TEXT_PAIRS:
        if {source, target} <= columns:
            yield from check_pairs(rows, source, target, parallel=parallel)
    if "answers" in columns:
        for split, split_rows in rows.items():
            yield graded(
                "answers_twice",
                split,
                [row.location for row in split_rows if is_ambiguous(row.row)],
                len(split_rows),
                major=0.5,
                remedy="data.columns.answer_start=<column> names the right occurrence",
            )
    if "messages" in columns:
        for split, split_rows in rows.items():
            empty = [
                row.location
                for row in split_rows
                if any(turn["role"] == "assistant" and says_nothing(turn) for turn in row.row["messages"])
            ]
            yield graded(
                "empty_answer",
                split,
                empty,
                len(split_rows),
                major=0.05,
                remedy="remove these turns: the model would learn to say nothing",
            )
    if {"image", "caption"} <= columns:
        yield from check_captions(rows, task)
    yield from check_click_times(run, sources)


def says_nothing(answer: dict[str, Any]) -> bool:
    """Return whether a learned answer has neither text nor reasoning nor a tool call."""
    return answer.get("learn") is not False and not (
        answer["content"].strip() or answer.get("tool_calls") or answer.get("reasoning_content")
    )


def check_labels(rows: Mapping[str, list[LintRow]], column: str, separator: str | None) -> Iterator[Finding]:
    """Check the balance of the labels in train, and find labels of other splits that are not in train.

    Without a training split, the balance of every split is checked. `separator`: of several labels in one text.
    """
    counts = {
        split: Counter(label for row in split_rows for label in label_names(row.row.get(column), separator))
        for split, split_rows in rows.items()
    }
    reference_counts = counts.get("train") or next(iter(counts.values()))
    if not reference_counts:
        return
    for split, label_counts in counts.items():
        if split == "train" or "train" not in counts:
            yield label_balance(split, column, label_counts, len(rows[split]))
            continue
        new_labels = label_counts.keys() - reference_counts.keys()
        locations = [
            row.location for row in rows[split] if new_labels & set(label_names(row.row.get(column), separator))
        ]
        yield graded(
            "unseen_labels",
            split,
            locations,
            len(rows[split]),
            major=0.01,
            word=column,
            names=", ".join(sorted(new_labels)[:8]) or "none",
            remedy="add training rows that have them, or correct the spelling",
        )


def label_balance(split: str, column: str, counts: Counter[str], num_rows: int) -> Finding:
    """Compare the most frequent and the rarest label of a split; a single label is major."""
    (most, most_count), (least, least_count) = counts.most_common()[0], counts.most_common()[-1]
    if len(counts) == 1:
        values = {"word": column, "most": most}
        return Finding("one_label", "major", split, num_rows, num_rows, [], values, f"data.columns.{column}=<column>")
    ratio = most_count / least_count
    level = "ok" if ratio < 10 and least_count >= 5 else "major" if ratio >= 100 or least_count < 2 else "minor"
    message_values = {
        "word": column, "num": len(counts), "most": repr(most), "least": repr(least), "top": f"{most_count:,}",
        "low": least_count, "ratio": f"{ratio:.3g}",
    }  # fmt: skip
    remedy = "task.class_weights=balanced, more rows of the rare ones, and macro_f1 rather than accuracy"
    return Finding("imbalance", level, split, least_count, num_rows, [], message_values, remedy)


def label_names(value: Any, separator: str | None) -> list[str]:
    """Return the labels of a value as a list."""
    if value is None:
        return []
    if isinstance(value, (list, tuple)):
        return [str(item) for item in value]
    names = str(value).split(separator) if separator else [str(value)]
    return [part.strip() for part in names if part.strip()]


def check_tags(rows: Mapping[str, list[LintRow]], task: Task) -> Iterator[Finding]:
    """Find tag sequences that are illegal in the tag scheme of the task, or in the one that is detected on the training
    split."""
    names = getattr(task.cfg, "names", [])
    tagged = {split: [(row, tags_in(row.row, names) or []) for row in split_rows] for split, split_rows in rows.items()}
    reference_rows = tagged.get("train") or next(iter(tagged.values()))
    requested_scheme = str(getattr(task.cfg, "scheme", "auto"))
    scheme = (
        detect_scheme(row_tags for _, row_tags in reference_rows) if requested_scheme == "auto" else requested_scheme
    )
    is_repaired = bool(getattr(task.cfg, "repair", False))
    for split, split_rows in tagged.items():
        illegal = [(row, problem) for row, row_tags in split_rows if (problem := first_illegal(row_tags, scheme))]
        # The location names the token at which the first rule is broken.
        reason = illegal[0][1][1] if illegal else "none"
        locations = [
            f"{row.location} token {problem[0] + 1} ({row.row['tokens'][problem[0]]!r})" for row, problem in illegal
        ]
        finding = graded(
            "illegal_tags",
            split,
            locations,
            len(split_rows),
            major=2.0 if is_repaired else 0.0,
            scheme=scheme,
            reason=reason,
            remedy="task.repair=true repairs them, task.scheme=<scheme> if it is another scheme, or correct the tags",
        )
        yield finding
        untagged = [
            row.location for row, row_tags in split_rows if row_tags and all(tag == OUTSIDE for tag in row_tags)
        ]
        yield graded(
            "no_entities",
            split,
            untagged,
            len(split_rows),
            major=0.95,
            min_share=0.9,
            remedy="data.columns.tags=<column> if it is another column",
        )


def check_pairs(rows: Mapping[str, list[LintRow]], source: str, target: str, *, parallel: bool) -> Iterator[Finding]:
    """Check lengths, copies and scripts of source and target texts."""
    for split, split_rows in rows.items():
        texts = [
            (row.location, " ".join(references_of(row.row[source])), references_of(row.row[target])[0])
            for row in split_rows
        ]
        copied = [
            location for location, source_text, target_text in texts if normalize(source_text) == normalize(target_text)
        ]
        yield graded(
            "copies",
            split,
            copied,
            len(texts),
            major=0.05,
            source=source,
            target=target,
            remedy=f"remove them, or data.columns.{target}=<column> if it is another column",
        )
        # Lengths and scripts correspond only where both texts have the same content.
        if not parallel:
            continue
        outliers, median = odd_lengths([(source_text, target_text) for _, source_text, target_text in texts])
        yield graded(
            "length_ratio",
            split,
            [texts[index][0] for index in outliers],
            len(texts),
            major=0.05,
            median=f"{median:.3g}",
            remedy="check these rows: pairs may be shifted, cut or joined",
        )
        for column, index in ((source, 1), (target, 2)):
            script = main_script(item[index] for item in texts)
            if script is not None:
                name, letters = script
                other_script = [
                    item[0] for item in texts if has_letters(item[index]) and not re.search(letters, item[index])
                ]
                yield graded(
                    "wrong_script",
                    split,
                    other_script,
                    len(texts),
                    major=0.05,
                    word=column,
                    script=name,
                    remedy="remove or translate these rows",
                )


def normalize(text: str) -> str:
    """Return a text without case, width and repeated white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def odd_lengths(texts: Sequence[tuple[str, str]]) -> tuple[list[int], float]:
    """Return (indices of pairs with outlying lengths, the median ratio target / source in characters).

    The test is robust: it uses the median and the median absolute deviation of the log ratio, so outliers do not hide
    themselves. Ratios of very short texts scatter more, so 5 characters are added to both lengths.
    """
    if not texts:
        return [], 1.0
    ratios = np.log([(len(target_text) + 5) / (len(source_text) + 5) for source_text, target_text in texts])
    median = float(np.median(ratios))
    max_distance = max(MIN_LOG_DISTANCE, MIN_DEVIATIONS * float(np.median(np.abs(ratios - median))))
    return np.flatnonzero(np.abs(ratios - median) > max_distance).tolist(), math.exp(median)


def main_script(texts: Iterable[str]) -> tuple[str, str] | None:
    """Return the script that MAJORITY of the texts have. Rarer scripts are tested first, because Chinese texts often
    contain Latin letters too."""
    lettered = [text for text in texts if has_letters(text)]
    for name, letters in SCRIPTS:
        if lettered and sum(bool(re.search(letters, text)) for text in lettered) >= MAJORITY * len(lettered):
            return name, letters
    return None


def has_letters(text: str) -> bool:
    return any(letter.isalpha() for letter in text)


def is_ambiguous(row: dict[str, Any]) -> bool:
    """Whether an answer occurs several times in its context without a given position."""
    try:
        return any(answer.occurrences > 1 for answer in answers_of(row))
    except BadAnswer:
        return False


def check_captions(rows: Mapping[str, list[LintRow]], task: Task) -> Iterator[Finding]:
    """Find captions that several images share; where other captions are negatives, such a batch has wrong negatives."""
    remedy = (
        "task.repeats=mask, the default, leaves such pairs out of the negatives"
        if not task.additive_loss
        else "more specific captions, if captions must distinguish images"
    )
    for split, split_rows in rows.items():
        images_by_caption: dict[str, set[str]] = defaultdict(set)
        for row in split_rows:
            for text in references_of(row.row["caption"] or []):
                images_by_caption[normalize(text)].add(str(row.row["image"]))
        repeated = [
            row.location
            for row in split_rows
            if any(len(images_by_caption[normalize(text)]) > 1 for text in references_of(row.row["caption"] or []))
        ]
        yield graded("captions", split, repeated, len(split_rows), major=0.5, remedy=remedy)


def check_click_times(run: RunConfig, sources: Mapping[str, RowSource]) -> Iterator[Finding]:
    """Count the interactions to be scored that are older than the last one in training."""
    spans = {}
    for split, source in sources.items():
        log: Any = getattr(source, "log", None)
        if log is not None and log.has_time:
            spans[split] = log.time[source.positions]  # type: ignore[attr-defined]
    if "train" not in spans or not len(spans["train"]):
        return
    last = float(spans["train"].max())
    for split in [name for name in spans if name != "train" and len(spans[name])]:
        times = spans[split]
        older = np.flatnonzero(times < last)
        remedy = "task.split=time holds out everything after a point in time"
        yield graded(
            "time",
            split,
            [f"{split}:{at + 1}" for at in older[:100]],
            len(times),
            major=0.0 if getattr(run.data, split) else 2.0,
            count=len(older),
            first=format_time(float(times.min())),
            last=format_time(last),
            remedy=remedy,
        )


def format_time(seconds: float) -> str:
    from datetime import UTC, datetime

    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
    except (OverflowError, ValueError, OSError):
        return f"{seconds:g}"


def leak_findings(warnings: Sequence[str]) -> Iterator[Finding]:
    """Yield the leak warnings (data/quality/split_leakage.py) that no other check reports: groups and times."""
    for warning in warnings:
        if "stand in the training split too." not in warning and "have a caption that" not in warning:
            yield Finding(
                "same_picture",
                "major",
                values={"told": warning},
                remedy="data.split.by=time or data.split.group=<column>",
            )
