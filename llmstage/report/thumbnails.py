"""Images on the report page, as data URIs and never as links, and the report without their pixels."""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Mapping
from typing import Any

MAX_IMAGES = 60
"""Images of one report item; with more a page opens slowly and nobody reads it."""
MAX_CHARACTERS = 4_000_000
"""Characters of the data URIs of one report item."""
COARSE_WIDTH = 160
"""Images with fewer pixels of width are enlarged, with each pixel as a square."""
SAFE = re.compile(r"data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+={0,2}")
"""Nothing else is displayed: the browser would fetch an address, and an SVG can contain links."""


def image_grid(report_item: Mapping[str, Any]) -> dict[str, Any]:
    """Prepare a report item `{title, columns?, items: [{src, lines, good?}], note?}` for the template.

    The grid has at most `MAX_IMAGES` images, and a note where these are not all.
    """
    items = report_item.get("items") or []
    displayed: list[dict[str, Any]] = []
    num_characters = 0
    for item in items[:MAX_IMAGES]:
        image = safe_image(item.get("src"))
        num_characters += len(image["src"]) if image else 0
        if num_characters > MAX_CHARACTERS:
            break
        displayed.append({"image": image, "lines": list(item.get("lines") or []), "good": item.get("good")})
    notes = [report_item["note"]] if report_item.get("note") else []
    judged = [item.get("good") for item in items if item.get("good") is not None]
    if judged:
        notes.append(f"{judged.count(True)} of these {len(judged)} are right.")
    if len(displayed) < len(items):
        notes.append(f"The first {len(displayed)} of {len(items)} are shown.")
    columns = min(12, max(1, int(report_item.get("columns") or 6)))
    return {"images": displayed, "columns": columns, "note": " ".join(notes)}


def safe_image(src: Any) -> dict[str, Any] | None:
    """Return `src`, its size where it is known, and whether it is coarse; None for anything but an image in a data URI."""
    if not isinstance(src, str) or not SAFE.fullmatch(src):
        return None
    width, height = png_size(src) or (None, None)
    return {"src": src, "width": width, "height": height, "coarse": width is not None and width < COARSE_WIDTH}


def png_size(src: str) -> tuple[int, int] | None:
    """Return (width, height) from the header of a PNG; None for other formats."""
    try:
        head = base64.b64decode(src.partition(",")[2][:32])
    except binascii.Error:
        return None
    if len(head) < 24 or head[:8] != b"\x89PNG\r\n\x1a\n":
        return None
    width, height = struct.unpack(">II", head[16:24])
    return int(width), int(height)


def without_pixels(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the report for report.json. The lines of text about each image stay; only report.html has the pixels."""
    report_items = [
        {**item, "items": [{key: value for key, value in image.items() if key != "src"} for image in item["items"]]}
        if item.get("kind") == "images"
        else item
        for item in report.get("exhibits") or []
    ]
    samples = [
        {key: value for key, value in sample.items() if key != "picture"} for sample in report.get("samples") or []
    ]
    return {**report, "exhibits": report_items, "samples": samples}
