"""What is wrong with rows by what they hold: labels, tags, pairs of texts, answers, captions, times.

A check is asked of every task whose rows have its words, so that a task from outside has them as well.
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
from llmstage.inspect.lint import Seen
from llmstage.tasks.base import Task

PAIRS = (("source", "target", True), ("document", "summary", False))
"""(what is read, what is written, whether the two say the same, so that their lengths and scripts go together)"""
SCRIPTS = (
    ("Han", "[\u3400-\u9fff]"), ("kana", "[\u3040-\u30ff]"), ("Hangul", "[\uac00-\ud7af]"), ("Cyrillic", "[\u0400-\u04ff]"),
    ("Arabic", "[\u0600-\u06ff]"), ("Greek", "[\u0370-\u03ff]"), ("Hebrew", "[\u0590-\u05ff]"), ("Thai", "[\u0e00-\u0e7f]"),
    ("Devanagari", "[\u0900-\u097f]"), ("Latin", "[A-Za-z\u00c0-\u024f]"),
)  # fmt: skip
MAJORITY = 0.9
"""Share of rows that have a script from which on the others are strange."""
FAR = math.log(3)
"""A pair whose lengths' ratio is three times the median, or a third of it, is looked at at the least."""
SPREAD = 4 * 1.4826
"""And it must lie so many median deviations away: four standard deviations where ratios are normal."""


def check_words(
    run: RunConfig, task: Task, sources: Mapping[str, RowSource], rows: Mapping[str, list[Seen]]
) -> Iterator[Finding]:
    held = {word for seen in rows.values() for one in seen[:50] for word in one.row}
    # A label that a task can do without is a name, as a picture may have one: such names need not be even.
    named = dict.fromkeys(("label", *getattr(task.cfg, "targets", {})))
    for word in [word for word in named if word in held and word not in task.columns.optional]:
        kind = getattr(task.cfg, "targets", {}).get(word, getattr(task.cfg, "target", "label"))
        if kind != "number":
            yield from labels(rows, word, getattr(task.cfg, "separator", ",") if kind == "multilabel" else None)
    if "tags" in held:
        yield from tags(rows, task)
    for source, target, same in PAIRS:
        if {source, target} <= held:
            yield from pairs(rows, source, target, same=same)
    if "answers" in held:
        for split, seen in rows.items():
            yield graded(
                "answers_twice",
                split,
                [one.place for one in seen if ambiguous(one.row)],
                len(seen),
                major=0.5,
                mend="data.columns.answer_start=<column> says which is meant",
            )
    if "messages" in held:
        for split, seen in rows.items():
            empty = [
                one.place
                for one in seen
                if any(turn["role"] == "assistant" and not turn["content"].strip() for turn in one.row["messages"])
            ]
            yield graded(
                "empty_answer",
                split,
                empty,
                len(seen),
                major=0.05,
                mend="remove these turns: the model would learn to say nothing",
            )
    if {"image", "caption"} <= held:
        yield from captions(rows, task)
    yield from click_times(run, sources)


def labels(rows: Mapping[str, list[Seen]], word: str, separator: str | None) -> Iterator[Finding]:
    """How even the labels are, and those that training never shows. `separator`: of several labels in one text."""
    counts: dict[str, Counter[str]] = {}
    for split, seen in rows.items():
        values = [label for one in seen for label in names_in(one.row.get(word), separator)]
        counts[split] = Counter(values)
    whole = counts.get("train") or next(iter(counts.values()))
    if not whole:
        return
    for split, counted in counts.items():
        if split == "train" or "train" not in counts:
            if len(counted) == 1:
                yield Finding(
                    "one_label",
                    "major",
                    split,
                    len(rows[split]),
                    len(rows[split]),
                    [],
                    {"word": word, "most": next(iter(counted))},
                    f"data.columns.{word}=<column>",
                )
                continue
            (most, top), (least, low) = counted.most_common()[0], counted.most_common()[-1]
            ratio, total = top / low, len(rows[split])
            level = "ok" if ratio < 10 and low >= 5 else "major" if ratio >= 100 or low < 2 else "minor"
            told = {
                "word": word,
                "num": len(counted),
                "most": repr(most),
                "least": repr(least),
                "top": f"{top:,}",
                "low": low,
                "ratio": f"{ratio:.3g}",
            }
            yield Finding(
                "imbalance",
                level,
                split,
                low,
                total,
                [],
                told,
                "task.class_weights=balanced, more rows of the rare ones, and macro_f1 rather than accuracy",
            )
        else:
            new = {name for name in counted if name not in whole}
            places = [one.place for one in rows[split] if new & set(names_in(one.row.get(word), separator))]
            yield graded(
                "unseen_labels",
                split,
                places,
                len(rows[split]),
                major=0.01,
                word=word,
                names=", ".join(sorted(new)[:8]) or "none",
                mend="give training rows that have them, or correct the spelling",
            )


def names_in(value: Any, separator: str | None) -> list[str]:
    if value is None:
        return []
    if isinstance(value, (list, tuple)):
        return [str(item) for item in value]
    parts = str(value).split(separator) if separator else [str(value)]
    return [part.strip() for part in parts if part.strip()]


def tags(rows: Mapping[str, list[Seen]], task: Task) -> Iterator[Finding]:
    """Sequences that are illegal in the scheme under which the training split makes most sense (data/tags.py)."""
    names = getattr(task.cfg, "names", [])
    known = {split: [(one, tags_in(one.row, names) or []) for one in seen] for split, seen in rows.items()}
    first = known.get("train") or next(iter(known.values()))
    asked = str(getattr(task.cfg, "scheme", "auto"))
    scheme = detect_scheme(own for _, own in first) if asked == "auto" else asked
    mended = bool(getattr(task.cfg, "repair", False))
    for split, seen in known.items():
        wrong = [(one, found) for one, own in seen if (found := first_illegal(own, scheme))]
        reason = wrong[0][1][1] if wrong else "none"
        places = [f"{one.place} token {found[0] + 1} ({one.row['tokens'][found[0]]!r})" for one, found in wrong]
        finding = graded(
            "illegal_tags",
            split,
            places,
            len(seen),
            major=2.0 if mended else 0.0,
            scheme=scheme,
            reason=reason,
            mend="task.repair=true reads them kindly, task.scheme=<scheme> if it is another scheme, or correct the tags",
        )
        yield finding
        bare = [one.place for one, own in seen if own and all(tag == OUTSIDE for tag in own)]
        yield graded(
            "no_entities",
            split,
            bare,
            len(seen),
            major=0.95,
            least=0.9,
            mend="data.columns.tags=<column> if it is another column",
        )


def pairs(rows: Mapping[str, list[Seen]], source: str, target: str, *, same: bool) -> Iterator[Finding]:
    """Lengths, copies and scripts of what is read and what is written."""
    for split, seen in rows.items():
        texts = [
            (one.place, " ".join(references_of(one.row[source])), references_of(one.row[target])[0]) for one in seen
        ]
        copied = [place for place, read, written in texts if folded(read) == folded(written)]
        yield graded(
            "copies",
            split,
            copied,
            len(texts),
            major=0.05,
            source=source,
            target=target,
            mend=f"remove them, or data.columns.{target}=<column> if it is another column",
        )
        if not same:
            continue
        far, median = odd_lengths([(read, written) for _, read, written in texts])
        yield graded(
            "length_ratio",
            split,
            [texts[at][0] for at in far],
            len(texts),
            major=0.05,
            median=f"{median:.3g}",
            mend="look at these rows: pairs may be shifted, cut or joined",
        )
        for word, at in ((source, 1), (target, 2)):
            script = main_script(item[at] for item in texts)
            if script is not None:
                name, letters = script
                strange = [item[0] for item in texts if has_letters(item[at]) and not re.search(letters, item[at])]
                yield graded(
                    "wrong_script",
                    split,
                    strange,
                    len(texts),
                    major=0.05,
                    word=word,
                    script=name,
                    mend="remove or translate these rows",
                )


def folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def odd_lengths(texts: Sequence[tuple[str, str]]) -> tuple[list[int], float]:
    """(numbers of pairs whose lengths do not go together, the median ratio target / source, in characters).

    Robust: by the median and the median absolute deviation of the log ratio, so that the odd ones do not hide themselves.
    Ratios of very short texts scatter more, so 5 characters are added to both."""
    if not texts:
        return [], 1.0
    ratios = np.log([(len(written) + 5) / (len(read) + 5) for read, written in texts])
    middle = float(np.median(ratios))
    width = max(FAR, SPREAD * float(np.median(np.abs(ratios - middle))))
    return np.flatnonzero(np.abs(ratios - middle) > width).tolist(), math.exp(middle)


def main_script(texts: Iterable[str]) -> tuple[str, str] | None:
    """The script that MAJORITY of the texts have, the rarer scripts of the world first: Chinese texts often hold Latin too."""
    held = [text for text in texts if has_letters(text)]
    for name, letters in SCRIPTS:
        if held and sum(bool(re.search(letters, text)) for text in held) >= MAJORITY * len(held):
            return name, letters
    return None


def has_letters(text: str) -> bool:
    return any(letter.isalpha() for letter in text)


def ambiguous(row: dict[str, Any]) -> bool:
    try:
        return any(answer.places > 1 for answer in answers_of(row))
    except BadAnswer:
        return False


def captions(rows: Mapping[str, list[Seen]], task: Task) -> Iterator[Finding]:
    """Captions of several pictures; where pairs are told apart, such a batch holds wrong negatives."""
    mend = (
        "task.repeats=mask, the default, leaves such pairs out of the negatives"
        if not task.additive_loss
        else "more telling captions, if they are to tell pictures apart"
    )
    for split, seen in rows.items():
        pictures: dict[str, set[str]] = defaultdict(set)
        for one in seen:
            for text in references_of(one.row["caption"] or []):
                pictures[folded(text)].add(str(one.row["image"]))
        again = [
            one.place
            for one in seen
            if any(len(pictures[folded(text)]) > 1 for text in references_of(one.row["caption"] or []))
        ]
        yield graded("captions", split, again, len(seen), major=0.5, mend=mend)


def click_times(run: RunConfig, sources: Mapping[str, RowSource]) -> Iterator[Finding]:
    """Of interactions: how many of those to be scored are older than the last that training saw."""
    spans = {}
    for split, source in sources.items():
        log: Any = getattr(source, "log", None)
        if log is not None and log.has_time:
            spans[split] = log.time[source.chosen]  # type: ignore[attr-defined]
    if "train" not in spans or not len(spans["train"]):
        return
    last = float(spans["train"].max())
    for split in [name for name in spans if name != "train" and len(spans[name])]:
        times = spans[split]
        older = np.flatnonzero(times < last)
        mend = "task.split=time holds out everything from a point in time on"
        yield graded(
            "time",
            split,
            [f"{split}:{at + 1}" for at in older[:100]],
            len(times),
            major=0.0 if getattr(run.data, split) else 2.0,
            count=len(older),
            first=clock(float(times.min())),
            last=clock(last),
            mend=mend,
        )


def clock(seconds: float) -> str:
    from datetime import UTC, datetime

    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
    except (OverflowError, ValueError, OSError):
        return f"{seconds:g}"


def told_leaks(told: Sequence[str]) -> Iterator[Finding]:
    """Sentences of data/leaks.py that lint has none of its own for: groups, times, pictures."""
    for line in told:
        if "stand in the training split too." not in line and "have a caption that" not in line:
            yield Finding(
                "same_picture", "major", values={"told": line}, mend="data.split.by=time or data.split.group=<column>"
            )
