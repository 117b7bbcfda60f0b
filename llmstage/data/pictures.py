"""All pictures of a run: each decoded and resized once, kept as uint8 in a memory map, looked up by number.

What the tower sees is decided by the transformers image processor that is saved with the model; it makes the uint8 pixels
here, so that whoever loads the model elsewhere feeds it the same numbers.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from llmstage import console
from llmstage.data.images import DATA_URI, DEMO, INSIDE, BadImage, open_image, shown

FORMAT = 1
AT_ONCE = 256
THUMBNAIL = 192
"""Pixels of a side; dozens of them stand in one page."""


class Pictures:
    """`read()` once, then `index()` while encoding and `pixels()` while training."""

    def __init__(self, shape: Any, cache: Path | None = None, threads: int | None = None) -> None:
        self.shape, self.cache = shape, cache
        self.threads = threads or os.cpu_count() or 1
        self.places: dict[str, int] = {}
        self.bad: dict[str, str] = {}
        """Place to the reason why its picture cannot be used."""
        self.array: np.ndarray = np.zeros((0, 3, 1, 1), np.uint8)
        self.digest = ""
        """sha256 of all pixels: what was trained on, whatever the files are called."""
        self.mean = torch.tensor(shape.image_mean).view(1, 3, 1, 1) if shape is not None else torch.zeros(1)
        self.std = torch.tensor(shape.image_std).view(1, 3, 1, 1) if shape is not None else torch.ones(1)

    def read(self, places: Iterable[str]) -> None:
        """Decode and resize every distinct picture, or open what an earlier run has kept. Bad ones are remembered, not raised."""
        ordered = list(dict.fromkeys(places))
        self.places = {place: number for number, place in enumerate(ordered)}
        folder = self._folder(ordered)
        if folder is not None and (folder / "meta.json").is_file():
            self._open(folder)
            return
        height, width = output_size(self.shape)
        draft = None
        whole = (len(ordered), 3, height, width)
        if folder is None or not ordered:
            self.array = np.zeros(whole, np.uint8)
        else:
            draft = folder.with_name(f".tmp-{folder.name}-{os.getpid()}")
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            console.note(f"reading {len(ordered)} images, {width} x {height} pixels each as the model sees them")
            self.array = np.memmap(draft / "pixels.bin", np.uint8, "w+", shape=whole)
        sha = hashlib.sha256()
        with ThreadPoolExecutor(self.threads) as pool:
            for start in range(0, len(ordered), AT_ONCE):
                for number, made in enumerate(pool.map(self._make, ordered[start : start + AT_ONCE]), start):
                    if isinstance(made, str):
                        self.bad[ordered[number]] = made
                    else:
                        self.array[number] = made
                sha.update(self.array[start : start + AT_ONCE].tobytes())
        self.digest = sha.hexdigest()
        if draft is not None and folder is not None:
            self._publish(draft, folder, whole)

    def _make(self, place: str) -> np.ndarray | str:
        try:
            return shaped(self.shape, open_image(place))
        except BadImage as error:
            return str(error)

    def _folder(self, ordered: list[str]) -> Path | None:
        """Keyed by names, sizes and times of the files: reading all of them to know whether they changed would cost as much
        as decoding them. The digest is of the pixels themselves."""
        if self.cache is None or not ordered or all(place.startswith(DEMO) for place in ordered):
            return None
        stamps: dict[str, Any] = {}
        for place in ordered:
            file = place.partition(INSIDE)[0]
            if file not in stamps and not place.startswith((DATA_URI, DEMO)):
                try:
                    told = os.stat(file)
                    stamps[file] = (told.st_size, told.st_mtime_ns)
                except OSError:
                    stamps[file] = None
        key = json.dumps([FORMAT, ordered, sorted(stamps.items()), self.shape.to_dict()], default=str, sort_keys=True)
        name = hashlib.sha256(key.encode()).hexdigest()
        return self.cache / "pictures" / name[:2] / name

    def _publish(self, draft: Path, folder: Path, whole: tuple[int, ...]) -> None:
        self.array.flush()  # type: ignore[attr-defined]
        meta = {"shape": whole, "bad": self.bad, "digest": self.digest}
        (draft / "meta.json").write_text(json.dumps(meta, ensure_ascii=False), encoding="utf-8")
        try:
            draft.rename(folder)
        except OSError:  # another run published the same pictures first
            shutil.rmtree(draft)
        self._open(folder)

    def _open(self, folder: Path) -> None:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        self.bad, self.digest = meta["bad"], meta["digest"]
        self.array = np.memmap(folder / "pixels.bin", np.uint8, "r", shape=tuple(meta["shape"]))

    def index(self, place: str) -> int:
        """The number of a picture. Raises BadImage with the reason where it cannot be used."""
        if place in self.bad:
            raise BadImage(self.bad[place])
        if place not in self.places:
            raise BadImage(f"{place} was not read")
        return self.places[place]

    def pixels(self, numbers: Sequence[int]) -> Tensor:
        """uint8 [B, 3, H, W]"""
        return torch.from_numpy(self.array[np.asarray(numbers, dtype=np.int64)])

    def normalised(self, pixels: Tensor) -> Tensor:
        """float32, as the image processor rescales and normalises."""
        return (pixels.float() / 255 - self.mean) / self.std

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


def shaped(shape: Any, picture: Image.Image) -> np.ndarray:
    """uint8 [3, H, W]: resized and cropped by the image processor, neither rescaled nor normalised yet."""
    made = shape(picture, do_rescale=False, do_normalize=False)["pixel_values"][0]
    return np.asarray(made, dtype=np.uint8)


def output_size(shape: Any) -> tuple[int, int]:
    """(height, width) that the image processor gives."""
    size = shape.crop_size if shape.do_center_crop else shape.size
    return int(size["height"]), int(size["width"])
