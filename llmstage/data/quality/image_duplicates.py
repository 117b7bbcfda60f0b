"""What a scan of pictures and captions finds before training: bad images, pictures on two sides, captions said twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from hashlib import blake2b

from llmstage.data.image_store import ImageStore
from llmstage.data.row_checks import texts_of
from llmstage.data.row_source import RowSource
from llmstage.data.rows import Row

PlacesOf = Callable[[Row], list[str]]


def shared_pictures(sources: Mapping[str, RowSource], pictures: ImageStore, places_of: PlacesOf) -> list[str]:
    """A sentence for each split that shows what training shows: equal pixels, whatever the files are called."""
    train = sources.get("train")
    if train is None or len(sources) == 1:
        return []
    shown = looks_of(train, pictures, places_of)
    told = []
    for split, source in sources.items():
        if split == "train":
            continue
        count = sum(any(pictures.look(place) in shown for place in places_of(row)) for row, _ in source)
        mend = " data.split.group=<column> keeps rows of one value on one side." if source.cut_by == "content" else ""
        if count:
            told.append(
                f"{count} rows of {split} show an image that stands in the training split too (equal pixels).{mend}"
            )
    return told


def looks_of(source: RowSource, pictures: ImageStore, places_of: PlacesOf) -> set[int]:
    looks = (pictures.look(place) for row, _ in source for place in places_of(row))
    return {look for look in looks if look is not None}


def repeated_captions(train: RowSource) -> str | None:
    """A sentence where other rows have the same caption (or, without captions, the same label)."""
    said: Counter[int] = Counter()
    of_rows = []
    for row, _ in train:
        keys = {key_of(text) for text in texts_of(row.get("caption") or row.get("label"))}
        said.update(keys)
        of_rows.append(tuple(keys))
    again = sum(any(said[key] > 1 for key in keys) for keys in of_rows)
    if not again:
        return None
    return (
        f"{again:,} of {len(of_rows):,} training rows have a caption that another row has too ({len(said):,} are distinct). "
        f"Where two meet in a batch, each is a right caption of the other's image that the loss would take for a wrong one; "
        f"task.repeats=mask, the default, leaves such pairs out."
    )


def key_of(text: str) -> int:
    return int.from_bytes(blake2b(" ".join(text.split()).encode("utf-8", "replace"), digest_size=8).digest(), "big")


def bad_pictures(pictures: ImageStore) -> str | None:
    """How many cannot be used, with the first few reasons; the rows that show them are named when they are encoded."""
    if not pictures.bad:
        return None
    reasons = list(pictures.bad.values())
    rest = f"; and {len(reasons) - 3:,} more" if len(reasons) > 3 else ""
    return f"{len(reasons):,} of {len(pictures.places):,} images cannot be used: {'; '.join(reasons[:3])}{rest}"
