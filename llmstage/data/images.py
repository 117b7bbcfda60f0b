"""Open one image at a location: a file, a member of a tar or Parquet file, a data URI, or a scene of the demo world.

The `image` of a row is its location as a string, so that rows are plain data, which can be hashed, cut and cached. The result
is an upright RGB image, or a BadImage with the reason. Only Pillow decodes.
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
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from llmstage.data.image_containers import INSIDE, read_member

DEMO = "demo:"
DATA_URI = "data:"
MAX_PIXELS = 89_478_485
"""Pillow's limit against decompression bombs; here it is an error and not a warning."""
MAX_BYTES = 1 << 30
BASE64 = re.compile(r"(iVBORw0KGgo|/9j/|R0lGOD|UklGR)[A-Za-z0-9+/\s]{80,}={0,2}\s*")
"""PNG, JPEG, GIF or WebP in base64. A file name of that length has a dot."""
WEB = ("http://", "https://", "ftp://", "s3://", "gs://")


class BadImage(ValueError):
    """The reason why an image cannot be used."""


def open_image(location: str) -> Image.Image:
    """Return the image at a location: RGB [H, W, 3], rotated by its EXIF data, transparent parts on white."""
    if location.startswith(DEMO):
        return draw_demo(location)
    data = read_bytes(location)
    if not data:
        raise BadImage(f"{short_name(location)} is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damage is reported below, as an error
            image = Image.open(io.BytesIO(data))
            width, height = image.size
            if width * height > MAX_PIXELS:  # before anything is decompressed
                raise Image.DecompressionBombError(f"{width:,} x {height:,}")
            image.load()
            return on_white(upright(image))
    except Image.DecompressionBombError as error:
        size = re.search(r"[\d,]+ x [\d,]+", str(error))
        problem = f"has {size[0]} pixels" if size else "is too large"
        raise BadImage(
            f"{short_name(location)} {problem}: more than {MAX_PIXELS:,} are a decompression bomb or a mistake, and are not decoded"
        ) from None
    except UnidentifiedImageError:
        raise BadImage(f"{short_name(location)} is no image: it begins with {data[:8]!r}") from None
    except Exception as error:  # Pillow's decoders raise dozens of types for a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadImage(f"{short_name(location)} cannot be decoded: {reason}") from None


def draw_demo(location: str) -> Image.Image:
    """Return the image of a scene of the demo world."""
    from llmstage.demo.scenes import draw

    try:
        return draw(location)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise BadImage(f"{short_name(location)} is no scene of the demo world ({error})") from None


def upright(image: Image.Image) -> Image.Image:
    """Rotate an image by the EXIF data of the camera. With damaged EXIF data it stays as it is."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # e.g. SyntaxError, struct.error, ZeroDivisionError: the pixels are not affected
        return image


def on_white(image: Image.Image) -> Image.Image:
    """Return an image of any mode in RGB. convert("RGB") alone shows the color under transparent parts, often black."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        clear = image.convert("RGBA")
        white = Image.new("RGBA", clear.size, "white")
        return Image.alpha_composite(white, clear).convert("RGB")
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip to 255
        return image.point(lambda value: value / 257).convert("L").convert("RGB")
    return image.convert("RGB")


def read_bytes(location: str) -> bytes:
    """Return the bytes of an image file. Raise BadImage."""
    if location.startswith(DATA_URI):
        try:
            return base64.b64decode("".join(location.partition(",")[2].split()), validate=True)
        except binascii.Error:
            raise BadImage(f"{short_name(location)} is no base64") from None
    try:
        status = os.stat(location.partition(INSIDE)[0])
        if not stat.S_ISREG(status.st_mode):  # a pipe may block, a device may never end
            raise BadImage(f"{short_name(location)} is no file")
        if INSIDE in location:
            return read_member(location)
        if status.st_size > MAX_BYTES:
            raise BadImage(f"{short_name(location)} has {status.st_size / 1e9:.1f} GB, which no image has")
        return Path(location).read_bytes()
    except FileNotFoundError:
        raise BadImage(f"there is no file {short_name(location)}") from None
    except KeyError:
        raise BadImage(f"there is no {short_name(location)}") from None
    except (OSError, ValueError) as error:
        if isinstance(error, BadImage):
            raise
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise BadImage(f"{short_name(location)} cannot be read ({reason})") from None


def locate_image(folder: Path, name: str) -> str:
    """Return the location of an image that a row names relative to a folder.

    A relative name must not leave that folder; an absolute path is allowed. Links inside the folder are followed: whoever
    created them could have copied the files.
    """
    if not name.strip():
        raise BadImage("the name of the image is empty")
    if name.startswith((DATA_URI, DEMO)):
        return name
    if BASE64.fullmatch(name):
        return f"{DATA_URI};base64,{name}"
    if name.startswith(WEB):
        raise BadImage(f"{short_name(name)} is a web address; images are read from files, so fetch it first")
    file, separator, member = name.partition(INSIDE)
    if os.path.isabs(file):
        return name
    path = os.path.normpath(os.path.join(folder, file))
    if not Path(path).is_relative_to(os.path.normpath(folder)):
        raise BadImage(
            f"{short_name(name)} leaves the folder of its file; data.images=<folder> names another one, and an absolute path is taken as it is"
        )
    return path + separator + member


def output_size(image_processor: Any) -> tuple[int, int]:
    """Return (height, width) of the images that an image processor returns."""
    size = image_processor.crop_size if image_processor.do_center_crop else image_processor.size
    return int(size["height"]), int(size["width"])


def short_name(location: str) -> str:
    """Return a location, shortened where it is a data URI."""
    return location if len(location) <= 120 or not location.startswith(DATA_URI) else f"{location[:60]}…"
