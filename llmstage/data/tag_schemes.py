"""Tag schemes of named entities: legal sequences, conversion from tags to entities, and from entities to tags.

Ramshaw & Marcus 1995 (IOB1, IOB2), Sang & Veenstra 1999 (IOBES); BMES is IOBES with M (middle) for I. `O` is outside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

OUTSIDE = "O"
LETTERS = {"iob1": "BI", "iob2": "BI", "iobes": "BIES", "bmes": "BMES"}
"""Prefixes of each scheme, without O."""
PREFIXES = frozenset("BIMES")

Span = tuple[str, int, int]
"""(entity type, first token, token after the last)"""


def split_tag(tag: str) -> tuple[str, str]:
    """Return (prefix, entity type): `B-PER` -> ("B", "PER"); O -> ("O", ""). The prefix M becomes I."""
    if tag == OUTSIDE:
        return OUTSIDE, ""
    return ("I" if tag[0] == "M" else tag[0]), tag[2:]


def tag_complaint(tag: object) -> str | None:
    """Return why a value is no tag of any scheme, or None."""
    if not isinstance(tag, str):
        return f"tag {tag!r} is not text"
    if tag == OUTSIDE or (len(tag) > 2 and tag[0] in PREFIXES and tag[1] == "-"):
        return None
    return f"tag '{tag}' is neither O nor a prefix (B, I, M, E, S) with a type, e.g. B-PER"


def output_scheme(scheme: str) -> str:
    """Return the scheme of labels, predictions and references: iob2, or iobes for data that marks the ends of entities."""
    return "iobes" if scheme in ("iobes", "bmes") else "iob2"


def detect_scheme(sequences: Iterable[Sequence[str]]) -> str:
    """Return the scheme that fits these tags best.

    M, E and S are decisive. Of the two schemes with only B and I, IOB1 begins entities with I, IOB2 with B.
    """
    letters: Counter[str] = Counter()
    begun_by_i = begun_by_b = 0
    for tags in sequences:
        before, type_before = OUTSIDE, ""
        for tag in tags:
            prefix, entity_type = split_tag(tag)
            if prefix != OUTSIDE:
                letters[tag[0]] += 1
                begins = before == OUTSIDE or entity_type != type_before
                begun_by_i += prefix == "I" and begins
                begun_by_b += prefix == "B" and begins
            before, type_before = prefix, entity_type
    if letters["M"]:
        return "bmes"
    if letters["E"] or letters["S"]:
        # Without a middle tag, the schemes are equal: B, E and S are the same in both.
        return "iobes" if letters["I"] else "bmes"
    return "iob1" if begun_by_i > begun_by_b else "iob2"


def first_illegal(tags: Sequence[str], scheme: str) -> tuple[int, str] | None:
    """Return (index, reason) of the first illegal tag; None for a legal sequence."""
    before, type_before = OUTSIDE, ""
    for index, tag in enumerate([*tags, OUTSIDE]):
        if index < len(tags) and tag != OUTSIDE and tag[0] not in LETTERS[scheme]:
            return index, f"'{tag}' is no tag of {scheme} (prefixes {', '.join(LETTERS[scheme])})"
        prefix, entity_type = split_tag(tag)
        same = entity_type == type_before
        illegal = False
        if scheme == "iob1":
            illegal = prefix == "B" and not (same and before in ("B", "I"))
        elif scheme == "iob2":
            illegal = prefix == "I" and not (same and before in ("B", "I"))
        else:
            inside = before in ("B", "I")  # an entity is open and must continue
            illegal = not same or prefix not in ("I", "E") if inside else prefix in ("I", "E")
        if illegal:
            after = tags[index - 1] if index else "the beginning"
            subject = f"'{tag}'" if index < len(tags) else "the end"
            return min(index, len(tags) - 1), f"{subject} after {after} is illegal in {scheme}"
        before, type_before = prefix, entity_type
    return None


def spans_of(tags: Sequence[str], scheme: str) -> list[Span]:
    """Return the entities of a sequence as the strict mode of seqeval does: an ill-formed span is no entity."""
    spans: list[Span] = []
    start, open_type = -1, ""
    ends = output_scheme(scheme) == "iobes"
    before = OUTSIDE
    for index, tag in enumerate([*tags, OUTSIDE]):
        prefix, entity_type = split_tag(tag)
        continues = start >= 0 and entity_type == open_type and prefix in ("I", "E")
        if start >= 0 and not continues:
            if not ends:
                spans.append((open_type, start, index))
            start = -1
        begins = prefix == "B" or (
            scheme == "iob1" and prefix == "I" and not continues and (before == OUTSIDE or entity_type != open_type)
        )
        if prefix == "S":
            spans.append((entity_type, index, index + 1))
        elif begins:
            start, open_type = index, entity_type
        elif prefix == "E" and continues:
            spans.append((entity_type, start, index + 1))
            start = -1
        before = prefix
    return spans


def tags_of(spans: Iterable[Span], length: int, scheme: str) -> list[str]:
    """Return the tags of entities that do not overlap, in IOB2 or IOBES."""
    tags = [OUTSIDE] * length
    ends = output_scheme(scheme) == "iobes"
    for entity_type, start, stop in spans:
        for index in range(start, stop):
            tags[index] = f"{'B' if index == start else 'I'}-{entity_type}"
        if ends:
            tags[stop - 1] = f"{'S' if stop - start == 1 else 'E'}-{entity_type}"
    return tags


def lenient_spans(tags: Sequence[str], scheme: str) -> list[Span]:
    """Return the entities of a sequence that may be illegal: adjacent tags of one type are one entity unless a prefix divides them.

    A legal sequence gives the same as `spans_of`; an illegal one is read as by conlleval and the default mode of seqeval.
    """
    spans: list[Span] = []
    start, open_type = -1, ""
    closed = False
    for index, tag in enumerate([*tags, OUTSIDE]):
        prefix, entity_type = split_tag(tag)
        continues = start >= 0 and not closed and entity_type == open_type and prefix in ("I", "E")
        if start >= 0 and not continues:
            spans.append((open_type, start, index))
            start = -1
        if prefix != OUTSIDE and start < 0:
            start, open_type = index, entity_type
        closed = prefix in ("E", "S")
    return spans


def label_names(entity_types: Iterable[str], scheme: str) -> list[str]:
    """Return every label of these entity types: O first, then by type."""
    letters = "BIES" if output_scheme(scheme) == "iobes" else "BI"
    return [OUTSIDE, *(f"{letter}-{entity_type}" for entity_type in sorted(entity_types) for letter in letters)]


def may_follow(before: str | None, after: str | None, scheme: str) -> bool:
    """Return whether `after` may follow `before` in IOB2 or IOBES; None is the edge of the sequence."""
    first, first_type = split_tag(before or OUTSIDE)
    second, second_type = split_tag(after or OUTSIDE)
    same = first_type == second_type
    if output_scheme(scheme) == "iob2":
        return second != "I" or (same and first in ("B", "I"))
    if first in ("B", "I"):
        return same and second in ("I", "E")
    return second not in ("I", "E")
