"""One picture from where a row says it is: a file, a member of a tar or Parquet file, a data URI, or the demo world.

A row's `image` is that place as a string, so rows stay plain data that can be hashed, cut and cached. What comes out is RGB,
upright and whole, or a BadImage with the reason. Only Pillow decodes.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
import stat
import warnings
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from llmstage.data.image_containers import INSIDE, member

DEMO = "demo:"
DATA_URI = "data:"
MOST_PIXELS = 89_478_485
"""Pillow's own limit against decompression bombs; here it is an error and not a warning."""
MOST_BYTES = 1 << 30
BASE64 = re.compile(r"(iVBORw0KGgo|/9j/|R0lGOD|UklGR)[A-Za-z0-9+/\s]{80,}={0,2}\s*")
"""The beginnings of PNG, JPEG, GIF and WebP in base64; no name of a file is so long without a dot."""
WEB = ("http://", "https://", "ftp://", "s3://", "gs://")


class BadImage(ValueError):
    """A picture that cannot be used, and why."""


def open_image(place: str) -> Image.Image:
    """The picture at a place, RGB [H, W, 3], turned as its EXIF data says, transparent parts on white."""
    if place.startswith(DEMO):
        return drawn(place)
    data = read_bytes(place)
    if not data:
        raise BadImage(f"{shown(place)} is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is damaged is told below, as an error
            picture = Image.open(io.BytesIO(data))
            width, height = picture.size
            if width * height > MOST_PIXELS:  # before anything is unpacked
                raise Image.DecompressionBombError(f"{width:,} x {height:,}")
            picture.load()
            return on_white(upright(picture))
    except Image.DecompressionBombError as error:
        size = re.search(r"[\d,]+ x [\d,]+", str(error))
        told = f"has {size[0]} pixels" if size else "is too large"
        raise BadImage(
            f"{shown(place)} {told}: more than {MOST_PIXELS:,} are a decompression bomb or a mistake, and are not decoded"
        ) from None
    except UnidentifiedImageError:
        raise BadImage(f"{shown(place)} is no image: it begins with {data[:8]!r}") from None
    except Exception as error:  # Pillow's decoders have dozens of ways to say that a file is damaged
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadImage(f"{shown(place)} cannot be decoded: {told}") from None


def drawn(place: str) -> Image.Image:
    from llmstage.demo.scenes import draw

    try:
        return draw(place)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise BadImage(f"{shown(place)} is no scene of the demo world ({error})") from None


def upright(picture: Image.Image) -> Image.Image:
    """Turned as a camera has noted in the EXIF data; where these are damaged, as it is."""
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # e.g. SyntaxError, struct.error, ZeroDivisionError: the pixels themselves are sound
        return picture


def on_white(picture: Image.Image) -> Image.Image:
    """RGB of a picture of any mode. convert("RGB") alone would show whatever lies under transparent parts, often black."""
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        clear = picture.convert("RGBA")
        white = Image.new("RGBA", clear.size, "white")
        return Image.alpha_composite(white, clear).convert("RGB")
    if picture.mode.startswith("I"):  # 16-bit grey: Pillow clips it to 255 by itself
        return picture.point(lambda value: value / 257).convert("L").convert("RGB")
    return picture.convert("RGB")


def read_bytes(place: str) -> bytes:
    if place.startswith(DATA_URI):
        try:
            return base64.b64decode("".join(place.partition(",")[2].split()), validate=True)
        except binascii.Error:
            raise BadImage(f"{shown(place)} is no base64") from None
    try:
        found = os.stat(place.partition(INSIDE)[0])
        if not stat.S_ISREG(found.st_mode):  # a pipe would wait for ever, a device never end
            raise BadImage(f"{shown(place)} is no file")
        if INSIDE in place:
            return member(place)
        if found.st_size > MOST_BYTES:
            raise BadImage(f"{shown(place)} has {found.st_size / 1e9:.1f} GB, which no image has")
        return Path(place).read_bytes()
    except FileNotFoundError:
        raise BadImage(f"there is no file {shown(place)}") from None
    except KeyError:
        raise BadImage(f"there is no {shown(place)}") from None
    except (OSError, ValueError) as error:
        if isinstance(error, BadImage):
            raise
        told = (error.strerror if isinstance(error, OSError) else None) or error
        raise BadImage(f"{shown(place)} cannot be read ({told})") from None


def place_in(folder: Path, name: str) -> str:
    """The place of a picture that a row names, seen from a folder. A name must not lead out of that folder, unless it is a
    whole path; links inside the folder are followed, as whoever made them could have put the files there."""
    if not name.strip():
        raise BadImage("the name of the image is empty")
    if name.startswith((DATA_URI, DEMO)):
        return name
    if BASE64.fullmatch(name):
        return f"{DATA_URI};base64,{name}"
    if name.startswith(WEB):
        raise BadImage(f"{shown(name)} is an address of the web; images are read from files, so fetch it first")
    file, between, inside = name.partition(INSIDE)
    if os.path.isabs(file):
        return name
    whole = os.path.normpath(os.path.join(folder, file))
    if not Path(whole).is_relative_to(os.path.normpath(folder)):
        raise BadImage(
            f"{shown(name)} leaves the folder of its file; data.images=<folder> names another one, and a whole path is taken as it is"
        )
    return whole + between + inside


def shown(place: str) -> str:
    return place if len(place) <= 120 or not place.startswith(DATA_URI) else f"{place[:60]}…"
