"""A prediction about a picture says which, and the report's samples show it."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from PIL import Image

from llmstage.config.run import VisionConfig
from llmstage.data.encoding.store import ExampleStore, ExampleWriter
from llmstage.data.image_store import ImageStore
from llmstage.evaluation.scoring import SAMPLES, Scored, image_indices, write_predictions
from llmstage.tasks.base import Example, Task
from llmstage.tasks.base_image import ImageTask
from llmstage.tokenization.vision import preset_image_processor
from llmstage.training.components import RunComponents


def uri(colour: str) -> str:
    """A picture of 64 x 64 pixels in a place far longer than a line of text."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


class Names:
    """The hooks that are read, without a model."""

    image_index = ImageTask.image_index
    image_store: ImageStore | None = None

    def records(self, prediction: Any, ref: Any) -> list[dict[str, Any]]:
        return [{"prediction": prediction, "reference": ref}]


def components_of(arrays: list[dict[str, list[int]]], rows: list[int], places: list[str]) -> RunComponents:
    writer = ExampleWriter(None, "int32")
    for values, row in zip(arrays, rows, strict=True):
        writer.add({"input_ids": [1, 2], **values}, row)
    task = Names()
    task.image_store = ImageStore(preset_image_processor(VisionConfig(size=32)))
    task.image_store.read(places)
    stores: dict[str, ExampleStore] = {"test": writer.finish()}
    return cast(RunComponents, SimpleNamespace(task=task, stores=stores))


def test_a_line_names_the_picture_and_a_sample_shows_it(tmp_path: Path) -> None:
    files = [str(tmp_path / f"图{number}.png") for number in range(2)]
    for file, colour in zip(files, ("red", "blue"), strict=True):
        Image.new("RGB", (8, 8), colour).save(file)
    long = uri("green")
    # Row 4 has two features of one picture; row 5 was not encoded; rows need not begin at 0.
    images = [{"image": [1]}, {"image": [0]}, {"image": [0]}, {"image": [2]}]
    components = components_of(images, [2, 4, 4, 7], [*files, long])
    scored = Scored({}, ["a", "b", "c"], ["A", "B", "C"], [2, 4, 7], [])
    samples = write_predictions(tmp_path / "predictions.jsonl", components, scored, "test")
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["image"] for line in lines[:2]] == [files[1], files[0]]
    assert lines[2]["image"].startswith("data:") and len(lines[2]["image"]) < 130
    assert all("picture" not in line for line in lines) and [line["row"] for line in lines] == [2, 4, 7]
    assert [{key: value for key, value in sample.items() if key != "picture"} for sample in samples] == lines
    seen = [Image.open(io.BytesIO(base64.b64decode(sample["picture"].partition(",")[2]))) for sample in samples]
    assert [image.getpixel((3, 3)) for image in seen[:2]] == [(0, 0, 255), (255, 0, 0)] and seen[0].size == (32, 32)


def test_where_the_picture_is_left_out_on_purpose_none_is_named(tmp_path: Path) -> None:
    components = components_of([{}, {}], [0, 1], [uri("red")])
    scored = Scored({}, ["a", "b"], ["A", "B"], [0, 1], [])
    samples = write_predictions(tmp_path / "p.jsonl", components, scored, "test")
    assert image_indices(components, "test", [0, 1]) == {} and not any("image" in line for line in samples)


def test_thumbnails_are_created_for_the_samples_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = SAMPLES + 20
    components = components_of([{"image": [0]}] * count, list(range(count)), [uri("red")])
    drawn: list[int] = []

    def thumbnail(number: int) -> str:
        drawn.append(number)
        return "data:"

    monkeypatch.setattr(components.task.image_store, "thumbnail", thumbnail)
    scored = Scored({}, ["a"] * count, ["A"] * count, list(range(count)), [])
    assert len(write_predictions(tmp_path / "p.jsonl", components, scored, "test")) == SAMPLES == len(drawn)


def test_tasks_that_read_text_name_no_picture() -> None:
    assert Task.image_index(cast(Any, None), Example({"input_ids": [1]})) is None


@pytest.mark.parametrize(("size", "shown"), [(32, 32), (192, 192), (336, 192)])
def test_a_thumbnail_is_what_the_model_sees_and_no_larger_than_a_page_can_hold(size: int, shown: int) -> None:
    images = ImageStore(preset_image_processor(VisionConfig(size=size)))
    images.read([uri("teal")])
    thumbnail = Image.open(io.BytesIO(base64.b64decode(images.thumbnail(0).partition(",")[2])))
    assert thumbnail.size == (shown, shown) and thumbnail.getpixel((5, 5)) == (0, 128, 128)
