"""Pictures on the page: thumbnails as data URIs, never a link to somewhere; and the report without their pixels."""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Mapping
from typing import Any

MOST = 60
"""Pictures of one exhibit; a page of more is read by nobody and slow to open."""
MOST_BYTES = 4_000_000
"""Characters of the pictures of one exhibit."""
COARSE = 160
"""Pixels of width below which a picture is shown enlarged, each pixel as a square."""
SAFE = re.compile(r"data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+={0,2}")
"""Nothing else is shown: an address would be fetched, and an SVG can hold links."""


def picture_grid(exhibit: Mapping[str, Any]) -> dict[str, Any]:
    """An exhibit `{title, columns?, items: [{src, lines, good?}], note?}` for the template: at most `MOST` pictures, and a
    note where that is not all of them."""
    given = exhibit.get("items") or []
    kept: list[dict[str, Any]] = []
    size = 0
    for item in given[:MOST]:
        shown = picture(item.get("src"))
        size += len(shown["src"]) if shown else 0
        if size > MOST_BYTES:
            break
        kept.append({"picture": shown, "lines": list(item.get("lines") or []), "good": item.get("good")})
    notes = [exhibit["note"]] if exhibit.get("note") else []
    judged = [item.get("good") for item in given if item.get("good") is not None]
    if judged:
        notes.append(f"{judged.count(True)} of these {len(judged)} are right.")
    if len(kept) < len(given):
        notes.append(f"The first {len(kept)} of {len(given)} are shown.")
    columns = min(12, max(1, int(exhibit.get("columns") or 6)))
    return {"pictures": kept, "columns": columns, "note": " ".join(notes)}


def picture(src: Any) -> dict[str, Any] | None:
    """`src`, its size where it is known, and whether it is coarse; None for what is no picture in a data URI."""
    if not isinstance(src, str) or not SAFE.fullmatch(src):
        return None
    width, height = png_size(src) or (None, None)
    return {"src": src, "width": width, "height": height, "coarse": width is not None and width < COARSE}


def png_size(src: str) -> tuple[int, int] | None:
    """(width, height) from the header of a PNG; None for other formats."""
    try:
        head = base64.b64decode(src.partition(",")[2][:32])
    except binascii.Error:
        return None
    if len(head) < 24 or head[:8] != b"\x89PNG\r\n\x1a\n":
        return None
    width, height = struct.unpack(">II", head[16:24])
    return int(width), int(height)


def without_pixels(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report as data, for report.json: what was said of each picture stays, the pixels are on the page alone."""
    report_items = [
        {**one, "items": [{key: value for key, value in item.items() if key != "src"} for item in one["items"]]}
        if one.get("kind") == "images"
        else one
        for one in report.get("exhibits") or []
    ]
    samples = [{key: value for key, value in one.items() if key != "picture"} for one in report.get("samples") or []]
    return {**report, "exhibits": report_items, "samples": samples}
