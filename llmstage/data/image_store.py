"""All pictures of a run: each decoded and resized once, kept as uint8 in a memory map, looked up by number.

What the tower sees is decided by the transformers image processor that is saved with the model; it makes the uint8 pixels
here, so that whoever loads the model elsewhere feeds it the same numbers.
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
from llmstage.data.images import DATA_URI, DEMO, BadImage, open_image, shown
from llmstage.errors import DiskError
from llmstage.tokenization.vision import output_size

FORMAT = 2
AT_ONCE = 256
THUMBNAIL = 192
"""Pixels of a side; dozens of them stand in one page."""
TELL_EVERY = 20.0
"""Seconds between two lines about how far the reading is."""


class ImageStore:
    """`read()` once, then `index()` while encoding and `pixels()` while training."""

    def __init__(self, shape: Any, cache: Path | None = None, threads: int | None = None) -> None:
        self.shape, self.cache = shape, cache
        self.threads = threads or os.cpu_count() or 1
        self.places: dict[str, int] = {}
        self.bad: dict[str, str] = {}
        """Place to the reason why its picture cannot be used."""
        self.array: np.ndarray = np.zeros((0, 3, 1, 1), np.uint8)
        self.looks: np.ndarray = np.zeros(0, np.uint64)
        """[N] a hash of each picture's pixels; 0 for a bad one."""
        self.digest = ""
        """sha256 of all pixels: what was trained on, whatever the files are called."""
        self.mean = torch.tensor(shape.image_mean).view(1, 3, 1, 1) if shape is not None else torch.zeros(1)
        self.std = torch.tensor(shape.image_std).view(1, 3, 1, 1) if shape is not None else torch.ones(1)

    def read(self, places: Iterable[str]) -> None:
        """Decode and resize every distinct picture, or open what an earlier run has kept. Bad ones are remembered, not raised."""
        with Spool() as spool:
            self.places = {}
            for place in places:
                name = name_of(place)
                if name in self.places:
                    continue
                self.places[name] = len(self.places)
                if name != place:
                    spool.keep(name, place)
            folder = self._folder()
            if folder is not None and (folder / "meta.json").is_file():
                self._open(folder)
                return
            height, width = output_size(self.shape)
            whole = (len(self.places), 3, height, width)
            self.looks = np.zeros(whole[0], np.uint64)
            if folder is None:
                self.array = np.zeros(whole, np.uint8)
                self._fill(spool)
                return
            draft = folder.with_name(f".tmp-{folder.name}-{os.getpid()}")
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            console.note(f"reading {whole[0]:,} images, {width} x {height} pixels each as the model sees them")
            try:
                reserve(draft / "pixels.bin", math.prod(whole))
                self.array = np.memmap(draft / "pixels.bin", np.uint8, "r+", shape=whole)
                self._fill(spool)
                self._publish(draft, folder, whole)
            finally:
                shutil.rmtree(draft, ignore_errors=True)  # what was cut short would lie there for ever

    def _fill(self, spool: Spool) -> None:
        names, sha, begun = list(self.places), hashlib.sha256(), time.monotonic()
        told = begun
        with ThreadPoolExecutor(self.threads) as pool:
            for start in range(0, len(names), AT_ONCE):
                part = names[start : start + AT_ONCE]
                for number, made in enumerate(pool.map(self._make, spool.given_back(part)), start):
                    if isinstance(made, str):
                        self.bad[names[number]] = made
                        continue
                    self.array[number] = made
                    self.looks[number] = int.from_bytes(hashlib.blake2b(made.tobytes(), digest_size=8).digest(), "big")
                sha.update(self.array[start : start + AT_ONCE].tobytes())
                now, done = time.monotonic(), start + len(part)
                if now - told > TELL_EVERY:
                    told = now
                    console.note(f"read {done:,} of {len(names):,} images, {done / (now - begun):.0f} a second")
        self.digest = sha.hexdigest()

    def _make(self, place: str) -> np.ndarray | str:
        try:
            return shaped(self.shape, open_image(place))
        except BadImage as error:
            return str(error)

    def _folder(self) -> Path | None:
        """Keyed by names, sizes and times of the files: reading all of them to know whether they changed would cost as much
        as decoding them. The digest is of the pixels themselves."""
        if self.cache is None or all(place.startswith(DEMO) for place in self.places):
            return None
        sha, seen = hashlib.sha256(), set[str]()
        sha.update(json.dumps([FORMAT, self.shape.to_dict()], default=str, sort_keys=True).encode())
        for place in self.places:
            sha.update(place.encode("utf-8", "surrogateescape") + b"\0")
            file = place.partition(INSIDE)[0]
            if file in seen or place.startswith((DATA_URI, DEMO)):
                continue
            seen.add(file)
            try:
                told = os.stat(file)
                sha.update(f"{told.st_size} {told.st_mtime_ns}\0".encode())
            except (OSError, ValueError):
                sha.update(b"none\0")
        name = sha.hexdigest()
        return self.cache / "pictures" / name[:2] / name

    def _publish(self, draft: Path, folder: Path, whole: tuple[int, ...]) -> None:
        self.array.flush()  # type: ignore[attr-defined]
        np.save(draft / "looks.npy", self.looks)
        meta = {"shape": whole, "bad": self.bad, "digest": self.digest}
        (draft / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
        with contextlib.suppress(OSError):  # another run published the same pictures first
            draft.rename(folder)
        self._open(folder)

    def _open(self, folder: Path) -> None:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        self.bad, self.digest = meta["bad"], meta["digest"]
        self.looks = np.load(folder / "looks.npy")
        self.array = np.memmap(folder / "pixels.bin", np.uint8, "r", shape=tuple(meta["shape"]))

    def index(self, place: str) -> int:
        """The number of a picture. Raises BadImage with the reason where it cannot be used."""
        name = name_of(place)
        if name in self.bad:
            raise BadImage(self.bad[name])
        if name not in self.places:
            raise BadImage(f"{shown(place)} was not read")
        return self.places[name]

    def look(self, place: str) -> int | None:
        """A hash of what a picture shows, as the model sees it; None for a bad one."""
        number = self.places.get(name_of(place))
        return None if number is None or not self.looks[number] else int(self.looks[number])

    def pixels(self, numbers: Sequence[int]) -> Tensor:
        """uint8 [B, 3, H, W]"""
        return torch.from_numpy(self.array[np.asarray(numbers, dtype=np.int64)])

    def normalised(self, pixels: Tensor) -> Tensor:
        """float32, as the image processor rescales and normalises."""
        return pixels.float().div_(255).sub_(self.mean).div_(self.std)

    def names(self) -> list[str]:
        """Where each picture is, by number, short enough for a line of text."""
        return [shown(place) for place in self.places]

    def thumbnail(self, number: int) -> str:
        """The picture as the model sees it, at most `THUMBNAIL` pixels wide and high, as a PNG data URI for the report."""
        file = io.BytesIO()
        picture = Image.fromarray(np.ascontiguousarray(np.moveaxis(self.array[number], 0, -1)))
        picture.thumbnail((THUMBNAIL, THUMBNAIL))  # only ever smaller
        picture.save(file, "PNG")
        return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def name_of(place: str) -> str:
    """Under which a picture is remembered: its place, or a hash of it where the place is the picture itself."""
    if not place.startswith(DATA_URI):
        return place
    return DATA_URI + hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()


def reserve(path: Path, size: int) -> None:
    """A file of that many bytes. On a full disk, writing to a memory map would end the process without a word."""
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
    """Pictures that stand in the rows themselves, kept in a file until they are decoded: all of them at once may be more
    than memory holds."""

    def __init__(self) -> None:
        self.spans: dict[str, tuple[int, int]] = {}

    def __enter__(self) -> Spool:
        self.file = tempfile.TemporaryFile()
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def keep(self, name: str, place: str) -> None:
        self.spans[name] = self.file.tell(), self.file.write(place.encode("utf-8", "surrogateescape"))

    def given_back(self, names: list[str]) -> Iterator[str]:
        for name in names:
            if name not in self.spans:
                yield name
                continue
            start, size = self.spans[name]
            self.file.seek(start)
            yield self.file.read(size).decode("utf-8", "surrogateescape")


def shaped(shape: Any, picture: Image.Image) -> np.ndarray:
    """uint8 [3, H, W]: resized and cropped by the image processor, neither rescaled nor normalised yet."""
    made = shape(picture, do_rescale=False, do_normalize=False)["pixel_values"][0]
    return np.asarray(made, dtype=np.uint8)
