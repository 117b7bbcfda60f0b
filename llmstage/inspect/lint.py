"""What is wrong with rows, whatever the task: what stands there twice, what was seen in training, what cannot be used."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from llmstage.config import RunConfig
from llmstage.data.row_checks import texts_of
from llmstage.data.row_source import RowSource
from llmstage.data.splits import row_hash
from llmstage.inspect.findings import Finding, graded
from llmstage.inspect.near_duplicates import near_pairs
from llmstage.tasks.base import Task

OUTSIDE = re.compile("does not stand in the context|points at .* not at the answer")
ANSWERS = ("label", "labels", "tags", "answer")
"""Words of which a text has one right value, so that two of them contradict each other."""
MANY_TEXTS = 2_000_000
"""Characters of a split beyond which near-duplicates are looked for among the first rows alone."""


@dataclass(slots=True)
class Seen:
    """A row of a split as lint sees it."""

    row: dict[str, Any]
    place: str
    text: str
    """All texts of it, as the tokenizer is trained on them."""


def read_rows(task: Task, sources: Mapping[str, RowSource], most: int) -> dict[str, list[Seen]]:
    """The first `most` rows of each split. Questions about one text are told apart by what they ask."""
    return {
        split: [Seen(row, place, "\n".join(task.texts(row))) for row, place in islice(source, most)]
        for split, source in sources.items()
    }


def check_rows(
    run: RunConfig, task: Task, sources: Mapping[str, RowSource], rows: Mapping[str, list[Seen]], likeness: float
) -> Iterator[Finding]:
    """The checks that every task has."""
    for split, seen in rows.items():
        words = tuple(dict.fromkeys(word for one in seen[:50] for word in one.row))
        yield repeated(split, seen, words)
        own = [word for word in (*ANSWERS, *getattr(task.cfg, "targets", {})) if word in words]
        if own:
            yield contradictions(split, seen, task.columns.identity, own)
        broken = [one.place for one in seen if any("\ufffd" in text for text in texts_of(one.row))]
        yield graded(
            "replacement", split, broken, len(seen), major=0.01, mend="data.encoding=gb18030 (or what the file is in)"
        )
    # The rows of one user share their history by design: what is held out there is a click.
    if "train" in rows and len(rows) > 1 and task.columns.identity != ("user", "item"):
        yield from seen_in_training(run, task, sources, rows)
    if "train" in rows and any("context" in one.row for one in rows["train"][:1]):
        yield from shared_contexts(rows)
    # Captions and questions about pictures are alike by design; what counts there is the picture (data/lookalikes.py).
    if task.columns.identity != ("user", "item") and not task.columns.images:
        yield from near_duplicates(run, task, rows, likeness)


def repeated(split: str, seen: Sequence[Seen], words: Sequence[str]) -> Finding:
    first: dict[int, str] = {}
    places = []
    for one in seen:
        key = row_hash(without_place(one.row), words, 0)
        if key in first:
            places.append(f"{one.place} = {first[key]}")
        first.setdefault(key, one.place)
    return graded(
        "duplicates",
        split,
        places,
        len(seen),
        major=0.1,
        mend="remove them from the file; each counts as often as it stands there",
    )


def without_place(row: dict[str, Any]) -> dict[str, Any]:
    """What a row says; where its file says it is no part of that."""
    return {word: value for word, value in row.items() if word not in ("first_line", "id")}


def contradictions(split: str, seen: Sequence[Seen], identity: Sequence[str], words: Sequence[str]) -> Finding:
    first: dict[int, tuple[int, str]] = {}
    places = []
    asked = [word for word in identity if word not in words]
    for one in seen:
        key, said = row_hash(one.row, asked, 0), row_hash(one.row, words, 0)
        known = first.setdefault(key, (said, one.place))
        if known[0] != said:
            places.append(f"{one.place} ≠ {known[1]}")
    return graded(
        "conflicts",
        split,
        places,
        len(seen),
        major=0.02,
        word=" or ".join(words),
        mend="keep one of each: no model can be right on both",
    )


def seen_in_training(
    run: RunConfig, task: Task, sources: Mapping[str, RowSource], rows: Mapping[str, list[Seen]]
) -> Iterator[Finding]:
    """Rows to be scored on whose text stands in train, all of it read, in the memory of the rows that are looked for."""
    identity = task.columns.identity
    held = {split: seen for split, seen in rows.items() if split != "train"}
    keys = {split: [row_hash(one.row, identity, 0) for one in seen] for split, seen in held.items()}
    wanted = {key for own in keys.values() for key in own}
    stands: dict[int, str] = {}
    for row, place in sources["train"]:
        key = row_hash(row, identity, 0)
        if key in wanted:
            stands.setdefault(key, place)
    for split, own in keys.items():
        places = [f"{one.place} = {stands[key]}" for one, key in zip(held[split], own, strict=True) if key in stands]
        yield graded("seen", split, places, len(own), major=0.01, mend=cut_anew(run, split))


def cut_anew(run: RunConfig, split: str) -> str:
    """How the rows of a split are kept out of training."""
    if getattr(run.data, split):
        return f"remove these rows from data.train, or leave data.{split} out, so that it is cut from data.train without overlap"
    return "data.split.group=<column> keeps rows of one value on one side"


def shared_contexts(rows: Mapping[str, list[Seen]]) -> Iterator[Finding]:
    """Questions to be scored about a text that training asks of too: what is scored is then partly what it remembers."""
    known = {row_hash(one.row, ("context",), 0) for one in rows["train"]}
    for split in [split for split in rows if split != "train"]:
        places = [one.place for one in rows[split] if row_hash(one.row, ("context",), 0) in known]
        yield graded(
            "contexts",
            split,
            places,
            len(rows[split]),
            major=2.0,
            mend="data.split.group=context keeps questions about one text on one side",
        )


def near_duplicates(run: RunConfig, task: Task, rows: Mapping[str, list[Seen]], likeness: float) -> Iterator[Finding]:
    """Texts that are nearly those of an earlier row, but not just the same (those are told by the checks above)."""
    several = len(rows) > 1 and "train" in rows
    order = ["train", *(split for split in rows if split != "train")] if "train" in rows else list(rows)
    chosen = [(split, one) for split in order for one in within(rows[split])]
    if not any(one.text.strip() for _, one in chosen):
        return
    found = near_pairs([asked_of(one) for _, one in chosen], likeness)
    counts = {split: sum(own == split for own, _ in chosen) for split in order}
    own: dict[str, list[str]] = {split: [] for split in order}
    train: dict[str, list[str]] = {split: [] for split in order}
    for number, other in found.items():
        (split, one), (before, first) = chosen[number], chosen[other]
        if row_hash(one.row, task.columns.identity, 0) == row_hash(first.row, task.columns.identity, 0):
            continue
        if before == split:
            own[split].append(f"{one.place} ~ {first.place}")
        elif before == "train":
            train[split].append(f"{one.place} ~ {first.place}")
    for split in order:
        yield graded(
            "near",
            split,
            own[split],
            counts[split],
            major=0.3,
            least=0.005,
            likeness=likeness,
            mend="keep one of each, or data.split.group=<column> if they belong together",
        )
        if several and split != "train":
            yield graded(
                "near_seen",
                split,
                train[split],
                counts[split],
                major=0.1,
                least=0.005,
                likeness=likeness,
                mend=cut_anew(run, split),
            )


def asked_of(one: Seen) -> str:
    """What is compared: of a question about a text, the question."""
    return str(one.row["question"]) if "context" in one.row else one.text


def within(seen: Sequence[Seen]) -> Iterator[Seen]:
    left = MANY_TEXTS
    for one in seen:
        left -= len(one.text)
        if left < 0:
            return
        yield one


def bad_rows(path: Path | None, split: str, *, stops: bool) -> Iterator[Finding]:
    """What stood in quarantine.jsonl, brought together by its reason."""
    if path is None or not path.is_file():
        return
    groups: dict[str, list[tuple[str, str]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        told = json.loads(line)
        place = f"{told['file']}:{told['line']}" if told["line"] else str(told["file"])
        shape = re.sub(r"'[^']*'|\"[^\"]*\"|\d+", "…", str(told["reason"]))
        groups.setdefault(shape, []).append((place, str(told["reason"])))
    for found in groups.values():
        reason = found[0][1]
        check = "answers_outside" if OUTSIDE.search(reason) else "bad_rows"
        yield Finding(
            check, "major", split, len(found), 0, [place for place, _ in found][:100], {"reason": reason},
            "correct these rows, or data.on_bad_row=quarantine leaves them out", stops=stops,
        )  # fmt: skip
