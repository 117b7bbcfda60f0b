"""One picture from where a row says it is: a file, a member of a tar or Parquet file, a data URI, or the demo world.

A row's `image` is that place as a string, so rows stay plain data that can be hashed, cut and cached. What comes out is RGB,
upright and whole, or a BadImage with the reason. Only Pillow decodes.
"""

from __future__ import annotations

import base64
import binascii
import io
import warnings
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from llmstage.data.containers import member
from llmstage.data.demo.scenes import draw

DEMO = "demo:"
DATA_URI = "data:"
INSIDE = "::"
"""Between a container and what stands in it: `shard.tar::000001.jpg`, `rows.parquet::12::image`."""
MOST_PIXELS = 89_478_485
"""Pillow's own limit against decompression bombs; here it is an error and not a warning."""


class BadImage(ValueError):
    """A picture that cannot be used, and why."""


def open_image(place: str) -> Image.Image:
    """The picture at a place, RGB [H, W, 3], turned as its EXIF data says, transparent parts on white."""
    if place.startswith(DEMO):
        return draw(place)
    data = read_bytes(place)
    if not data:
        raise BadImage(f"{shown(place)} is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data))
        width, height = picture.size
        if width * height > MOST_PIXELS:
            raise BadImage(
                f"{shown(place)} has {width} x {height} pixels, more than {MOST_PIXELS:,}: a decompression bomb or a mistake"
            )
        picture.load()
        return on_white(ImageOps.exif_transpose(picture))
    except Image.DecompressionBombError:
        raise BadImage(
            f"{shown(place)} has far more than {MOST_PIXELS:,} pixels: a decompression bomb or a mistake"
        ) from None
    except UnidentifiedImageError:
        raise BadImage(f"{shown(place)} is no image: it begins with {data[:8]!r}") from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:  # Pillow's ways of saying that a file is damaged
        if isinstance(error, BadImage):
            raise
        raise BadImage(
            f"{shown(place)} cannot be decoded: {str(error).splitlines()[0] if str(error) else error!r}"
        ) from None


def on_white(picture: Image.Image) -> Image.Image:
    """RGB of a picture of any mode. convert("RGB") alone would show whatever lies under transparent parts, often black."""
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        clear = picture.convert("RGBA")
        white = Image.new("RGBA", clear.size, "white")
        return Image.alpha_composite(white, clear).convert("RGB")
    if picture.mode.startswith("I"):  # 16-bit grey: Pillow clips it to 255 by itself
        return picture.point(lambda value: value / 257).convert("L").convert("RGB")
    return picture.convert("RGB")


def read_bytes(place: str) -> bytes:
    if place.startswith(DATA_URI):
        try:
            return base64.b64decode(place.partition(",")[2], validate=True)
        except binascii.Error:
            raise BadImage(f"{shown(place)} is no base64") from None
    try:
        if INSIDE in place:
            return member(place)
        return Path(place).read_bytes()
    except FileNotFoundError:
        raise BadImage(f"there is no file {shown(place)}") from None
    except KeyError:
        raise BadImage(f"there is no {shown(place)}") from None
    except OSError as error:
        raise BadImage(f"{shown(place)} cannot be read ({error.strerror or error})") from None


def place_in(folder: Path, name: str) -> str:
    """The place of a picture that a row names, relative to the folder of the row's file. It must not leave that folder,
    unless it is given as a whole path: a data set must not be able to make us read files elsewhere by itself."""
    if name.startswith((DATA_URI, DEMO)) or INSIDE in name:
        return name
    if not name.strip():
        raise BadImage("the name of the image is empty")
    path = Path(name)
    if path.is_absolute():
        return str(path)
    whole = (folder / path).resolve()
    if not whole.is_relative_to(folder.resolve()):
        raise BadImage(f"{name} leaves the folder of its file; give the whole path if it is meant")
    return str(whole)


def shown(place: str) -> str:
    return place if len(place) <= 120 else f"{place[:60]}…"
