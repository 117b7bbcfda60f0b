"""Rows whose image or caption cannot be used: named with file and row, or quarantined and counted, as data.on_bad_row says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llmstage.config.data import DataConfig, SplitConfig
from llmstage.config.run import VisionConfig
from llmstage.data.encoding.store import ExampleStore, encode_split
from llmstage.data.image_store import ImageStore
from llmstage.data.row_source import RowSource
from llmstage.data.splits import open_splits
from llmstage.errors import DataError
from llmstage.tasks.base import RowError
from llmstage.tokenization.vision import preset_image_processor

Draw = Callable[..., Any]


def encoded(task: Any, out_dir: Path | None, **options: Any) -> tuple[dict[str, RowSource], dict[str, ExampleStore]]:
    """As the engine does it: rows of all splits, their pictures, then the features."""
    sources = open_splits(DataConfig(**options), task.columns, task.check_row, out_dir)
    task.image_store = ImageStore(preset_image_processor(VisionConfig(size=16)))
    task.image_store.read(place for source in sources.values() for row, _ in source for place in task.images(row))
    stores = {
        split: encode_split(
            source,
            task.encode_many,
            task.num_targets,
            100,
            refs_of_rows=None,
            on_row_error=RowError,
            cache=None,
            key={},
        )
        for split, source in sources.items()
    }
    return sources, stores


def quarantined(out_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out_dir / "quarantine.jsonl").read_text("utf-8").splitlines()]


def spoil(root: Path, kind: str, draw: Draw) -> dict[str, Any]:
    """A row that is bad in one way, its file written."""
    path = root / "bad.png"
    row: dict[str, Any] = {"file_name": "bad.png", "caption": "bad"}
    if kind == "half a PNG":
        draw(7, (64, 64)).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "text called .jpg":
        (root / "bad.jpg").write_text("hello")
        row["file_name"] = "bad.jpg"
    elif kind == "zero bytes":
        path.write_bytes(b"")
    elif kind == "bomb":
        Image.new("1", (20_000, 20_000)).save(path)  # 50 kB
    elif kind == "leaves the folder":
        draw(1).save(root.parent / "x.png")
        row["file_name"] = "../x.png"
    elif kind == "no name":
        row["file_name"] = " "
    elif kind == "no text":
        row["file_name"] = 7
    elif kind == "null":
        row["file_name"] = None
    elif kind.startswith("empty caption"):
        draw(1).save(path)
        row["caption"] = {"empty caption": " ", "empty caption list": [], "empty caption in a list": ["a", ""]}[kind]
    return row


KINDS = {
    "half a PNG": r"bad\.png cannot be decoded: .*truncated",
    "text called .jpg": r"bad\.jpg is no image: it begins with b'hello'",
    "zero bytes": r"bad\.png is empty \(0 bytes\)",
    "bomb": r"bad\.png has 20,000 x 20,000 pixels: more than 89,478,485|bad\.png is too large: more than 89,478,485",
    "missing": r"there is no file .*bad\.png",
    "leaves the folder": r"\.\./x\.png leaves the folder of its file",
    "no name": "the name of the image is empty",
    "no text": "'image' holds int, where an image is named by a text",
    "null": r"'file_name' \(image\) is null",
    "empty caption": "'caption' is empty",
    "empty caption list": "'caption' is empty",
    "empty caption in a list": "'caption' is empty",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_row_is_named_or_quarantined(tmp_path: Path, glance: Any, draw: Draw, kind: str) -> None:
    root = tmp_path / "图片"
    root.mkdir()
    rows = [{"file_name": f"{number}.png", "caption": f"图 {number}"} for number in range(5)]
    for number, row in enumerate(rows):
        draw(number).save(root / row["file_name"])
    rows.insert(3, spoil(root, kind, draw))
    path = root / "metadata.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    with pytest.raises(DataError, match=KINDS[kind]) as told:
        encoded(glance, None, test=str(root))
    assert f"{path}:4: " in str(told.value) and told.value.status == 3
    assert str(told.value).endswith("or set data.on_bad_row=quarantine. Rows checked and fine before it: 3.")
    sources, stores = encoded(glance, tmp_path / "run", test=str(root), on_bad_row="quarantine")
    (entry,) = quarantined(tmp_path / "run")
    assert (entry["file"], entry["line"]) == (str(path), 4) and re.search(KINDS[kind], entry["reason"])
    assert len(stores["test"]) == 5 and sources["test"].quarantined + stores["test"].ledger.refused == 1


def test_the_file_itself_is_named_where_it_is_the_row(tmp_path: Path, glance: Any, classes: Path) -> None:
    bad = classes / "狗" / "1.png"
    bad.write_bytes(b"no")
    with pytest.raises(DataError, match=r"^(.*)/狗/1\.png: \1/狗/1\.png is no image"):
        encoded(glance, None, test=str(classes))
    _, stores = encoded(glance, tmp_path / "run", test=str(classes), on_bad_row="quarantine")
    (entry,) = quarantined(tmp_path / "run")
    assert entry["file"] == str(bad) and entry["line"] == 0 and stores["test"].ledger.refused == 1


def test_a_bad_picture_that_two_splits_show_is_told_of_each_row(tmp_path: Path, glance: Any, draw: Draw) -> None:
    (tmp_path / "bad.png").write_bytes(b"")
    for name in ("train", "test"):
        rows = [{"image": "bad.png", "caption": f"{name} 1"}, {"image": f"{name}.png", "caption": f"{name} 2"}]
        rows.append({"image": "bad.png", "caption": f"{name} 3"})
        draw(len(name)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options: dict[str, Any] = {"train": f"{tmp_path}/train.jsonl", "test": f"{tmp_path}/test.jsonl"}
    options |= {"on_bad_row": "quarantine", "split": SplitConfig(validation=0)}
    _, stores = encoded(glance, tmp_path / "run", **options)
    found = [(Path(entry["file"]).name, entry["line"]) for entry in quarantined(tmp_path / "run")]
    assert found == [("train.jsonl", 1), ("train.jsonl", 3), ("test.jsonl", 1), ("test.jsonl", 3)]
    assert [len(store) for store in stores.values()] == [1, 1]


def test_splits_cut_from_one_file_tell_all_of_its_bad_pictures(tmp_path: Path, glance: Any, draw: Draw) -> None:
    rows = [{"image": f"{number}.png", "caption": str(number)} for number in range(60)]
    for number in range(60):
        if number % 3:
            draw(number).save(tmp_path / f"{number}.png")
    rows[5] = {"image": "5.png", "caption": ""}  # found by another check
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    split = SplitConfig(validation=0.2, test=0.2)
    sources, stores = encoded(
        glance, tmp_path / "run", train=f"{tmp_path}/a.jsonl", on_bad_row="quarantine", split=split
    )
    lines = sorted(entry["line"] for entry in quarantined(tmp_path / "run"))
    assert lines == sorted([6, *range(1, 61, 3)])
    counted = sum(sources[split].quarantined + store.ledger.refused for split, store in stores.items())
    assert counted == 21 and sum(len(store) for store in stores.values()) == 39


def test_all_pictures_bad_is_an_error_even_under_quarantine(tmp_path: Path, glance: Any) -> None:
    (tmp_path / "a.csv").write_text("image,caption\n1.png,a\n2.png,b\n")
    with pytest.raises(
        DataError, match=r"no row of .*a\.csv.* could be encoded\. See .*quarantine\.jsonl for the reasons"
    ):
        encoded(glance, tmp_path / "run", test=f"{tmp_path}/a.csv", on_bad_row="quarantine")
