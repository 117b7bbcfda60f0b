"""What is told before training: images on two sides, captions said twice, images that cannot be used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from llmstage.config.data import DataConfig, SplitConfig
from llmstage.config.run import VisionConfig
from llmstage.data.image_store import ImageStore
from llmstage.data.quality.image_duplicates import repeated_captions, shared_images, unusable_images
from llmstage.data.row_source import ListSource
from llmstage.data.splits import open_splits
from llmstage.tokenization.vision import preset_image_processor

Draw = Callable[..., Any]


def read(sources: Any, task: Any) -> ImageStore:
    pictures = ImageStore(preset_image_processor(VisionConfig(size=16)))
    pictures.read(place for source in sources.values() for row, _ in source for place in task.images(row))
    return pictures


def test_an_image_under_another_name_in_another_split_is_counted(tmp_path: Path, draw: Draw, glance: Any) -> None:
    for number in range(4):
        draw(number).save(tmp_path / f"{number}.png")
    Image.open(tmp_path / "1.png").save(tmp_path / "copy.bmp")
    (tmp_path / "bad1.png").write_bytes(b"")
    (tmp_path / "bad2.png").write_bytes(b"")

    def source(split: str, *names: str) -> ListSource:
        return ListSource(split, [{"image": str(tmp_path / name), "caption": name} for name in names], "test")

    sources = {
        "train": source("train", "0.png", "1.png", "bad1.png"),
        "validation": source("validation", "2.png", "bad2.png"),
        "test": source("test", "copy.bmp", "0.png", "3.png"),
    }
    pictures = read(sources, glance)
    told = shared_images(sources, pictures, glance.images)
    assert told == ["2 rows of test show an image that stands in the training split too (equal pixels)."]
    assert shared_images({"test": sources["test"]}, pictures, glance.images) == []
    assert str(unusable_images(pictures)).startswith("2 of 7 images cannot be used: ")


def test_a_cut_that_parts_rows_of_one_image_is_told_with_its_mend(tmp_path: Path, draw: Draw, glance: Any) -> None:
    rows = []
    for number in range(60):
        draw(number % 6).save(tmp_path / f"{number}.png")
        rows.append({"image": f"{number}.png", "caption": f"view {number}", "scene": f"scene {number % 6}"})
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    split = SplitConfig(validation=0.2, test=0.2)
    sources = open_splits(DataConfig(train=f"{tmp_path}/a.jsonl", split=split), glance.columns, lambda row: None, None)
    told = shared_images(sources, read(sources, glance), glance.images)
    assert len(told) == 2 and all("data.split.group=<column> keeps rows of one value" in line for line in told)
    split = SplitConfig(validation=0.2, test=0.2, group="scene")
    sources = open_splits(DataConfig(train=f"{tmp_path}/a.jsonl", split=split), glance.columns, lambda row: None, None)
    assert shared_images(sources, read(sources, glance), glance.images) == []


def test_captions_that_repeat_are_counted() -> None:
    def told(*captions: Any) -> str | None:
        return repeated_captions(ListSource("train", [{"image": "x", "caption": said} for said in captions], "test"))

    assert told("a", "b", ["c", "c"], ["d", "e"]) is None  # twice of one image is no false negative
    assert str(told("a  cat", "b", "a cat", ["c", "b"], "d")).startswith(
        "4 of 5 training rows have a caption that another row has too (4 are distinct). "
    )
    labels = ListSource("train", [{"image": "x", "label": said} for said in "aab"], "test")
    assert "2 of 3 training rows" in str(repeated_captions(labels))


def test_a_long_list_of_bad_images_is_cut(tmp_path: Path) -> None:
    pictures = ImageStore(preset_image_processor(VisionConfig(size=16)))
    pictures.read([str(tmp_path / f"{number}.png") for number in range(9)])
    assert str(unusable_images(pictures)).endswith("2.png; and 6 more")
    fine = ImageStore(preset_image_processor(VisionConfig(size=16)))
    fine.read([])
    assert unusable_images(fine) is None
