"""Pictures: decoded once, kept as the image processor of the model makes them, found again after a restart."""

from __future__ import annotations

import base64
import errno
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from llmstage.config.run import VisionConfig
from llmstage.data import image_store as module
from llmstage.data.image_store import ImageStore
from llmstage.data.images import BadImage, open_image
from llmstage.demo.scenes import contrastive_rows
from llmstage.errors import DiskError
from llmstage.tokenization.vision import preset_image_processor

Draw = Callable[..., Any]


@pytest.fixture
def places(tmp_path: Path, draw: Draw) -> list[str]:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(5):
        draw(number, (40, 20 + number)).save(folder / f"{number}.png")
    return [str(folder / f"{number}.png") for number in range(5)]


def made(places: list[str], cache: Path | None = None, **options: Any) -> ImageStore:
    pictures = ImageStore(preset_image_processor(VisionConfig(size=16, **options)), cache, threads=2)
    pictures.read(places)
    return pictures


@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_what_the_model_sees_is_what_its_image_processor_gives(places: list[str], fit: str) -> None:
    found = made(places, fit=fit)
    whole = found.image_processor([open_image(place) for place in places], return_tensors="pt")["pixel_values"]
    own = found.normalized(found.pixels([found.index(place) for place in places]))
    assert own.shape == (5, 3, 16, 16) and torch.allclose(own, whole, atol=1e-6)


def test_each_picture_is_decoded_once_however_often_rows_show_it(
    places: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(module, "open_image", lambda place: opened.append(place) or open_image(place))
    first = made(places * 3, tmp_path / "cache")
    assert sorted(opened) == places and len(first.array) == 5
    again = made(places * 2, tmp_path / "cache")
    assert len(opened) == 5, "a second run decodes nothing"
    assert isinstance(again.array, np.memmap) and again.array.mode == "r"
    assert np.array_equal(again.array, first.array) and again.digest == first.digest
    assert [again.pixel_hash(place) for place in places] == [first.pixel_hash(place) for place in places]


def test_a_changed_file_a_new_size_or_another_order_is_read_anew(places: list[str], tmp_path: Path, draw: Draw) -> None:
    cache = tmp_path / "cache"
    digests = [made(places, cache).digest]
    draw(77, (40, 20)).save(places[0])
    digests.append(made(places, cache).digest)
    told = os.stat(places[1])
    os.utime(places[1], ns=(told.st_atime_ns, told.st_mtime_ns + 10**9))
    assert made(places, cache).digest == digests[-1], "touched only: the same pixels, the same digest"
    digests.append(made(places[::-1], cache).digest)
    digests.append(made(places, cache, fit="crop").digest)
    assert len(set(digests)) == 4
    assert len(list(cache.glob("pictures/*/*/meta.json"))) == 5


def test_bad_pictures_are_remembered_and_known_after_a_restart(places: list[str], tmp_path: Path, draw: Draw) -> None:
    Path(places[2]).write_bytes(b"damage")
    for _ in range(2):
        found = made([*places, "/nowhere.png"], tmp_path / "cache")
        assert set(found.bad) == {places[2], "/nowhere.png"} and found.pixel_hash(places[2]) is None
        with pytest.raises(BadImage, match=r"2\.png is no image: it begins with b'damage'"):
            found.index(places[2])
    draw(2).save(places[2])  # mended
    assert set(made([*places, "/nowhere.png"], tmp_path / "cache").bad) == {"/nowhere.png"}
    with pytest.raises(BadImage, match="was not read"):
        found.index("/another.png")


def test_equal_pixels_look_alike_whatever_the_files_are_called(places: list[str], tmp_path: Path) -> None:
    Image.open(places[0]).save(tmp_path / "copy.bmp")
    found = made([*places, str(tmp_path / "copy.bmp")])
    looks = [found.pixel_hash(place) for place in [*places, str(tmp_path / "copy.bmp")]]
    assert looks[0] == looks[5] and len(set(looks)) == 5


def test_pictures_in_rows_are_not_kept_as_texts(places: list[str], tmp_path: Path) -> None:
    inline = ["data:image/png;base64," + base64.b64encode(Path(place).read_bytes()).decode() for place in places]
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        found = made([inline[0], places[1], *inline, inline[4]], cache)
        assert [found.index(place) for place in inline] == [0, 2, 3, 4, 5]
        assert np.array_equal(found.array[[0, 2, 3, 4, 5]], made(places).array)
        assert max(len(name) for name in found.numbers) < 200


def test_pictures_of_the_demo_world_stay_in_memory(tmp_path: Path) -> None:
    rows = contrastive_rows(6, 0)
    found = made([row["image"] for row in rows], tmp_path / "cache")
    assert not (tmp_path / "cache").exists() and not isinstance(found.array, np.memmap)
    assert not found.bad and len({found.pixel_hash(row["image"]) for row in rows}) == len(
        {row["image"] for row in rows}
    )


def test_long_readings_say_how_far_they_are(
    places: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "NOTE_SECONDS", 0.0)
    monkeypatch.setattr(module, "BATCH_SIZE", 2)
    made(places, tmp_path / "cache")
    told = capsys.readouterr().err
    assert "reading 5 images, 16 x 16 pixels each as the model sees them" in told and "read 4 of 5 images, " in told


def test_a_reading_that_was_cut_short_leaves_nothing_that_counts(
    places: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "resized_pixels", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            made(places, tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert made(places, tmp_path / "cache").bad == {}


def test_a_full_disk_is_told_before_anything_is_decoded(
    places: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DiskError, match=r"cannot take 0 MB of images \(No space left.*data\.cache=off") as told:
        made(places, tmp_path / "cache")
    assert told.value.status == 7


def test_the_thumbnail_is_what_the_model_sees(places: list[str]) -> None:
    found = made(places)
    head, _, data = found.thumbnail(3).partition(",")
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert head == "data:image/png;base64" and np.array_equal(np.moveaxis(image, -1, 0), found.array[3])


def test_the_manifest_names_the_digest(places: list[str], tmp_path: Path) -> None:
    found = made(places, tmp_path / "cache")
    (meta,) = (tmp_path / "cache").glob("pictures/*/*/meta.json")
    assert json.loads(meta.read_text())["digest"] == found.digest
    assert not list((tmp_path / "cache").glob("pictures/*/.tmp-*"))
