"""Find problems of images and captions before training: bad images, images in two splits, repeated captions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from hashlib import blake2b

from llmstage.data.image_store import ImageStore
from llmstage.data.row_checks import texts_of
from llmstage.data.row_source import RowSource
from llmstage.data.rows import Row

LocationsOf = Callable[[Row], list[str]]
"""Returns the locations of the images of a row."""


def shared_images(sources: Mapping[str, RowSource], image_store: ImageStore, locations_of: LocationsOf) -> list[str]:
    """Return a sentence for each split with images that train has too: equal pixels, whatever the file names."""
    train = sources.get("train")
    if train is None or len(sources) == 1:
        return []
    train_hashes = pixel_hashes(train, image_store, locations_of)
    warnings = []
    for split, source in sources.items():
        if split == "train":
            continue
        count = sum(
            any(image_store.pixel_hash(location) in train_hashes for location in locations_of(row)) for row, _ in source
        )
        remedy = " data.split.group=<column> keeps rows of one value on one side." if source.cut_by == "content" else ""
        if count:
            warnings.append(
                f"{count} rows of {split} show an image that stands in the training split too (equal pixels).{remedy}"
            )
    return warnings


def pixel_hashes(source: RowSource, image_store: ImageStore, locations_of: LocationsOf) -> set[int]:
    hashes = (image_store.pixel_hash(location) for row, _ in source for location in locations_of(row))
    return {pixel_hash for pixel_hash in hashes if pixel_hash is not None}


def repeated_captions(train: RowSource) -> str | None:
    """Return a sentence where several rows have the same caption (or, without captions, the same label)."""
    counts: Counter[int] = Counter()
    keys_of_rows = []
    for row, _ in train:
        keys = {text_key(text) for text in texts_of(row.get("caption") or row.get("label"))}
        counts.update(keys)
        keys_of_rows.append(tuple(keys))
    num_repeated = sum(any(counts[key] > 1 for key in keys) for keys in keys_of_rows)
    if not num_repeated:
        return None
    return (
        f"{num_repeated:,} of {len(keys_of_rows):,} training rows have a caption that another row has too ({len(counts):,} are distinct). "
        f"Where two meet in a batch, each is a right caption of the other's image that the loss would take for a wrong one; "
        f"task.repeats=mask, the default, leaves such pairs out."
    )


def text_key(text: str) -> int:
    return int.from_bytes(blake2b(" ".join(text.split()).encode("utf-8", "replace"), digest_size=8).digest(), "big")


def unusable_images(image_store: ImageStore) -> str | None:
    """Return how many images cannot be used, with the first three reasons. Encoding reports the rows of each."""
    if not image_store.bad:
        return None
    reasons = list(image_store.bad.values())
    rest = f"; and {len(reasons) - 3:,} more" if len(reasons) > 3 else ""
    return f"{len(reasons):,} of {len(image_store.numbers):,} images cannot be used: {'; '.join(reasons[:3])}{rest}"
