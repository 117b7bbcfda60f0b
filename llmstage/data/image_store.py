"""Store all images of a run: each is decoded and resized once, kept as uint8 in a memory map, and read by its index.

The transformers image processor that is saved with the model makes the pixels. A model that is loaded by other tools
therefore gets the same input.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from llmstage import console
from llmstage.data.image_containers import INSIDE
from llmstage.data.images import DATA_URI, DEMO, BadImage, open_image, output_size, short_name
from llmstage.errors import DiskError

FORMAT = 2
BATCH_SIZE = 256
THUMBNAIL = 192
"""Pixels of a side; a page has dozens of thumbnails."""
NOTE_SECONDS = 20.0
"""Seconds between two lines about the progress of reading."""


class ImageStore:
    """The images of a run. Call `read()` once, then `index()` while encoding and `pixels()` while training."""

    def __init__(self, image_processor: Any, cache: Path | None = None, threads: int | None = None) -> None:
        self.image_processor, self.cache = image_processor, cache
        self.threads = threads or os.cpu_count() or 1
        self.numbers: dict[str, int] = {}
        """Key of an image to its index in `array`."""
        self.bad: dict[str, str] = {}
        """Key of an image to the reason why it cannot be used."""
        self.array: np.ndarray = np.zeros((0, 3, 1, 1), np.uint8)
        self.pixel_hashes: np.ndarray = np.zeros(0, np.uint64)
        """[N] a hash of the pixels of each image; 0 for a bad one."""
        self.digest = ""
        """sha256 of all pixels: it identifies the training images, whatever their file names."""
        self.mean = (
            torch.tensor(image_processor.image_mean).view(1, 3, 1, 1) if image_processor is not None else torch.zeros(1)
        )
        self.std = (
            torch.tensor(image_processor.image_std).view(1, 3, 1, 1) if image_processor is not None else torch.ones(1)
        )

    def read(self, locations: Iterable[str]) -> None:
        """Decode and resize every distinct image, or open the cache of an earlier run.

        A bad image is recorded with its reason and raises no error.
        """
        with Spool() as spool:
            # Number the distinct images. Images inside rows go to the spool, so that memory stays bounded.
            self.numbers = {}
            for location in locations:
                key = image_key(location)
                if key in self.numbers:
                    continue
                self.numbers[key] = len(self.numbers)
                if key != location:
                    spool.add(key, location)

            folder = self._folder()
            if folder is not None and (folder / "meta.json").is_file():
                self._open(folder)
                return
            height, width = output_size(self.image_processor)
            shape = (len(self.numbers), 3, height, width)
            self.pixel_hashes = np.zeros(shape[0], np.uint64)
            if folder is None:
                self.array = np.zeros(shape, np.uint8)
                self._fill(spool)
                return

            # Write to a draft folder, and rename it when it is complete.
            draft = folder.with_name(f".tmp-{folder.name}-{os.getpid()}")
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            console.note(f"reading {shape[0]:,} images, {width} x {height} pixels each as the model sees them")
            try:
                reserve(draft / "pixels.bin", math.prod(shape))
                self.array = np.memmap(draft / "pixels.bin", np.uint8, "r+", shape=shape)
                self._fill(spool)
                self._publish(draft, folder, shape)
            finally:
                shutil.rmtree(draft, ignore_errors=True)  # an interrupted run leaves no draft behind

    def _fill(self, spool: Spool) -> None:
        """Decode the images with several threads, in batches, and hash the pixels."""
        keys, sha, start_time = list(self.numbers), hashlib.sha256(), time.monotonic()
        last_note = start_time
        with ThreadPoolExecutor(self.threads) as pool:
            for start in range(0, len(keys), BATCH_SIZE):
                batch = keys[start : start + BATCH_SIZE]
                for number, pixels in enumerate(pool.map(self._decode, spool.locations(batch)), start):
                    if isinstance(pixels, str):
                        self.bad[keys[number]] = pixels
                        continue
                    self.array[number] = pixels
                    pixel_hash = hashlib.blake2b(pixels.tobytes(), digest_size=8).digest()
                    self.pixel_hashes[number] = int.from_bytes(pixel_hash, "big")
                sha.update(self.array[start : start + BATCH_SIZE].tobytes())
                now, done = time.monotonic(), start + len(batch)
                if now - last_note > NOTE_SECONDS:
                    last_note = now
                    console.note(f"read {done:,} of {len(keys):,} images, {done / (now - start_time):.0f} a second")
        self.digest = sha.hexdigest()

    def _decode(self, location: str) -> np.ndarray | str:
        """Return the pixels of an image, or the reason why it cannot be used."""
        try:
            return resized_pixels(self.image_processor, open_image(location))
        except BadImage as error:
            return str(error)

    def _folder(self) -> Path | None:
        """Return the cache folder; its name is a hash of the names, sizes and times of the files.

        A hash of their content would cost as much as decoding them. `digest` is the hash of the pixels.
        """
        if self.cache is None or all(location.startswith(DEMO) for location in self.numbers):
            return None
        sha, seen = hashlib.sha256(), set[str]()
        sha.update(json.dumps([FORMAT, self.image_processor.to_dict()], default=str, sort_keys=True).encode())
        for location in self.numbers:
            sha.update(location.encode("utf-8", "surrogateescape") + b"\0")
            file = location.partition(INSIDE)[0]
            if file in seen or location.startswith((DATA_URI, DEMO)):
                continue
            seen.add(file)
            try:
                status = os.stat(file)
                sha.update(f"{status.st_size} {status.st_mtime_ns}\0".encode())
            except (OSError, ValueError):
                sha.update(b"none\0")
        name = sha.hexdigest()
        return self.cache / "pictures" / name[:2] / name

    def _publish(self, draft: Path, folder: Path, shape: tuple[int, ...]) -> None:
        """Complete the draft, rename it to the cache folder, and open it."""
        self.array.flush()  # type: ignore[attr-defined]
        np.save(draft / "looks.npy", self.pixel_hashes)
        meta = {"shape": shape, "bad": self.bad, "digest": self.digest}
        (draft / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
        with contextlib.suppress(OSError):  # another run published the same images first
            draft.rename(folder)
        self._open(folder)

    def _open(self, folder: Path) -> None:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        self.bad, self.digest = meta["bad"], meta["digest"]
        self.pixel_hashes = np.load(folder / "looks.npy")
        self.array = np.memmap(folder / "pixels.bin", np.uint8, "r", shape=tuple(meta["shape"]))

    def index(self, location: str) -> int:
        """Return the index of an image. Raise BadImage with the reason where it cannot be used."""
        key = image_key(location)
        if key in self.bad:
            raise BadImage(self.bad[key])
        if key not in self.numbers:
            raise BadImage(f"{short_name(location)} was not read")
        return self.numbers[key]

    def pixel_hash(self, location: str) -> int | None:
        """Return a hash of the pixels that the model gets of an image; None for a bad one."""
        number = self.numbers.get(image_key(location))
        return None if number is None or not self.pixel_hashes[number] else int(self.pixel_hashes[number])

    def pixels(self, numbers: Sequence[int]) -> Tensor:
        """Return the pixels of images by their index, uint8 [B, 3, H, W]."""
        return torch.from_numpy(self.array[np.asarray(numbers, dtype=np.int64)])

    def normalized(self, pixels: Tensor) -> Tensor:
        """Return float32 pixels, rescaled and normalized as by the image processor."""
        return pixels.float().div_(255).sub_(self.mean).div_(self.std)

    def names(self) -> list[str]:
        """Return the location of each image by index, short enough for a line of text."""
        return [short_name(location) for location in self.numbers]

    def thumbnail(self, number: int) -> str:
        """Return the pixels of an image as a PNG data URI of at most `THUMBNAIL` pixels a side, for the report."""
        file = io.BytesIO()
        image = Image.fromarray(np.ascontiguousarray(np.moveaxis(self.array[number], 0, -1)))
        image.thumbnail((THUMBNAIL, THUMBNAIL))  # never enlarges
        image.save(file, "PNG")
        return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def image_key(location: str) -> str:
    """Return the key of an image: its location, or a hash of it where the location is a data URI."""
    if not location.startswith(DATA_URI):
        return location
    return DATA_URI + hashlib.sha256(location.encode("utf-8", "surrogateescape")).hexdigest()


def reserve(path: Path, size: int) -> None:
    """Create a file of that many bytes. Without it, a memory map on a full disk kills the process without a message."""
    try:
        with path.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
    except OSError as error:
        raise DiskError(
            f"{path.parent.parent} cannot take {size / 1e6:,.0f} MB of images ({error.strerror or error}). Free space, name "
            f"another folder (data.cache=<folder>), or keep them in memory (data.cache=off)."
        ) from None


class Spool:
    """A temporary file for images that are data URIs in the rows, until they are decoded. Together they may exceed memory."""

    def __init__(self) -> None:
        self.spans: dict[str, tuple[int, int]] = {}

    def __enter__(self) -> Spool:
        self.file = tempfile.TemporaryFile()
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def add(self, key: str, location: str) -> None:
        self.spans[key] = self.file.tell(), self.file.write(location.encode("utf-8", "surrogateescape"))

    def locations(self, keys: list[str]) -> Iterator[str]:
        """Yield the location of each image, from the temporary file where it was added."""
        for key in keys:
            if key not in self.spans:
                yield key
                continue
            start, size = self.spans[key]
            self.file.seek(start)
            yield self.file.read(size).decode("utf-8", "surrogateescape")


def resized_pixels(image_processor: Any, image: Image.Image) -> np.ndarray:
    """Return uint8 [3, H, W]: resized and cropped by the image processor, not yet rescaled or normalized."""
    pixels = image_processor(image, do_rescale=False, do_normalize=False)["pixel_values"][0]
    return np.asarray(pixels, dtype=np.uint8)
