"""Tag schemes of named entities: which sequences are legal, what entities they mean, and how they are written.

Ramshaw & Marcus 1995 (IOB1, IOB2), Sang & Veenstra 1999 (IOBES); BMES is IOBES with M (middle) for I. `O` is outside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

OUTSIDE = "O"
LETTERS = {"iob1": "BI", "iob2": "BI", "iobes": "BIES", "bmes": "BMES"}
"""Prefixes of each scheme, beside O."""
PREFIXES = frozenset("BIMES")

Span = tuple[str, int, int]
"""(type, first token, one behind the last)"""


def split_tag(tag: str) -> tuple[str, str]:
    """(prefix, type): `B-PER` -> ("B", "PER"); the prefix of O is "O", its type "". M becomes I."""
    if tag == OUTSIDE:
        return OUTSIDE, ""
    return ("I" if tag[0] == "M" else tag[0]), tag[2:]


def malformed(tag: object) -> str | None:
    """Why this is no tag of any scheme, or None."""
    if not isinstance(tag, str):
        return f"tag {tag!r} is not text"
    if tag == OUTSIDE or (len(tag) > 2 and tag[0] in PREFIXES and tag[1] == "-"):
        return None
    return f"tag '{tag}' is neither O nor a prefix (B, I, M, E, S) with a type, e.g. B-PER"


def family(scheme: str) -> str:
    """The scheme in which labels, predictions and references are written: iob2, or iobes for data that marks ends."""
    return "iobes" if scheme in ("iobes", "bmes") else "iob2"


def detect_scheme(sequences: Iterable[Sequence[str]]) -> str:
    """The scheme under which these tags make most sense.

    M, E and S decide at once. Of the two schemes with B and I alone, IOB1 begins entities with I, IOB2 with B.
    """
    letters: Counter[str] = Counter()
    begun_by_i = begun_by_b = 0
    for tags in sequences:
        before, kind_before = OUTSIDE, ""
        for tag in tags:
            prefix, kind = split_tag(tag)
            if prefix != OUTSIDE:
                letters[tag[0]] += 1
                begins = before == OUTSIDE or kind != kind_before
                begun_by_i += prefix == "I" and begins
                begun_by_b += prefix == "B" and begins
            before, kind_before = prefix, kind
    if letters["M"]:
        return "bmes"
    if letters["E"] or letters["S"]:
        # Without a middle the two look alike: B, E, S alone may be either, and mean the same.
        return "iobes" if letters["I"] else "bmes"
    return "iob1" if begun_by_i > begun_by_b else "iob2"


def first_illegal(tags: Sequence[str], scheme: str) -> tuple[int, str] | None:
    """(index, reason) of the first tag that may not stand where it stands; None for a legal sequence."""
    before, kind_before = OUTSIDE, ""
    for index, tag in enumerate([*tags, OUTSIDE]):
        if index < len(tags) and tag != OUTSIDE and tag[0] not in LETTERS[scheme]:
            return index, f"'{tag}' is no tag of {scheme} (prefixes {', '.join(LETTERS[scheme])})"
        prefix, kind = split_tag(tag)
        same = kind == kind_before
        wrong = False
        if scheme == "iob1":
            wrong = prefix == "B" and not (same and before in ("B", "I"))
        elif scheme == "iob2":
            wrong = prefix == "I" and not (same and before in ("B", "I"))
        else:
            inside = before in ("B", "I")  # an entity is open and must go on
            wrong = not same or prefix not in ("I", "E") if inside else prefix in ("I", "E")
        if wrong:
            after = tags[index - 1] if index else "the beginning"
            told = f"'{tag}'" if index < len(tags) else "the end"
            return min(index, len(tags) - 1), f"{told} after {after} is illegal in {scheme}"
        before, kind_before = prefix, kind
    return None


def spans_of(tags: Sequence[str], scheme: str) -> list[Span]:
    """The entities of a sequence, strictly read as seqeval's strict mode does: what is ill-formed is no entity."""
    spans: list[Span] = []
    start, open_kind = -1, ""
    ends = family(scheme) == "iobes"
    before = OUTSIDE
    for index, tag in enumerate([*tags, OUTSIDE]):
        prefix, kind = split_tag(tag)
        goes_on = start >= 0 and kind == open_kind and prefix in ("I", "E")
        if start >= 0 and not goes_on:
            if not ends:
                spans.append((open_kind, start, index))
            start = -1
        begins = prefix == "B" or (
            scheme == "iob1" and prefix == "I" and not goes_on and (before == OUTSIDE or kind != open_kind)
        )
        if prefix == "S":
            spans.append((kind, index, index + 1))
        elif begins:
            start, open_kind = index, kind
        elif prefix == "E" and goes_on:
            spans.append((kind, start, index + 1))
            start = -1
        before = prefix
    return spans


def tags_of(spans: Iterable[Span], length: int, scheme: str) -> list[str]:
    """Entities that do not overlap as tags in IOB2 or IOBES."""
    tags = [OUTSIDE] * length
    ends = family(scheme) == "iobes"
    for kind, start, stop in spans:
        for index in range(start, stop):
            tags[index] = f"{'B' if index == start else 'I'}-{kind}"
        if ends:
            tags[stop - 1] = f"{'S' if stop - start == 1 else 'E'}-{kind}"
    return tags


def mended_spans(tags: Sequence[str], scheme: str) -> list[Span]:
    """The entities of a sequence, kindly read: neighbours of one type belong together unless a prefix divides them.

    For a legal sequence the same as `spans_of`; for an illegal one as conlleval and seqeval's default mode read it.
    """
    spans: list[Span] = []
    start, open_kind = -1, ""
    closed = False
    for index, tag in enumerate([*tags, OUTSIDE]):
        prefix, kind = split_tag(tag)
        goes_on = start >= 0 and not closed and kind == open_kind and prefix in ("I", "E")
        if start >= 0 and not goes_on:
            spans.append((open_kind, start, index))
            start = -1
        if prefix != OUTSIDE and start < 0:
            start, open_kind = index, kind
        closed = prefix in ("E", "S")
    return spans


def label_names(kinds: Iterable[str], scheme: str) -> list[str]:
    """Every label that entities of these types need: O first, then by type."""
    letters = "BIES" if family(scheme) == "iobes" else "BI"
    return [OUTSIDE, *(f"{letter}-{kind}" for kind in sorted(kinds) for letter in letters)]


def may_follow(before: str | None, after: str | None, scheme: str) -> bool:
    """Whether `after` may stand right after `before`, in IOB2 or IOBES; None is the edge of the sequence."""
    first, kind_first = split_tag(before or OUTSIDE)
    second, kind_second = split_tag(after or OUTSIDE)
    same = kind_first == kind_second
    if family(scheme) == "iob2":
        return second != "I" or (same and first in ("B", "I"))
    if first in ("B", "I"):
        return same and second in ("I", "E")
    return second not in ("I", "E")
