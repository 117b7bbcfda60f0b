"""Images of a user through the whole program: what is told before training, in the report, and when a row is bad."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from llmstage.cli.command import main

COLOURS = ("red", "green", "blue", "yellow")
SMALL = (
    "model.num_hidden_layers=1",
    "model.hidden_size=32",
    "model.num_attention_heads=2",
    "model.intermediate_size=64",
    "model.vocab_size=300",
)
TOWER = ("size=16", "patch=8", "layers=1", "width=32", "heads=2", "mlp_width=64")
WORDS = (
    *("stage=pretrain", "task=contrastive", "trainer=smoke", "trainer.max_steps=2", "data.train=train"),
    *("data.validation=held", *SMALL, *(f"model.vision.{word}" for word in TOWER)),
)


@pytest.fixture
def folders(workplace: Path) -> Path:
    """`train` and `held` with metadata; one image of `held` is a copy of one of `train` under another name and format."""
    for folder, count in (("train", 24), ("held", 8)):
        Path(folder).mkdir()
        rows = []
        for number in range(count):
            image = Image.new("RGB", (40, 40), "white")
            side = 4 + number + (30 if folder == "held" else 0)
            ImageDraw.Draw(image).rectangle((0, 0, side % 40, side // 2), fill=COLOURS[number % 4])
            image.save(f"{folder}/{number}.png")
            rows.append({"file_name": f"{number}.png", "text": f"a {COLOURS[number % 4]} box, {number // 8} 号"})
        Path(folder, "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Image.open("train/3.png").save("held/copy.bmp")
    with Path("held/metadata.jsonl").open("a") as file:
        file.write(json.dumps({"file_name": "copy.bmp", "text": "a copy"}) + "\n")
    return workplace


def run(*words: str) -> int:
    shutil.rmtree("run", ignore_errors=True)
    return main([*WORDS, "hydra.run.dir=run", "data.split.test=0", "data.cache=cache", *words])


def report() -> dict[str, Any]:
    return dict(json.loads(Path("run/report.json").read_text(encoding="utf-8")))


def test_look_alikes_are_told_before_training_and_in_the_report(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run() == 0
    err = capsys.readouterr().err
    leak = "1 rows of validation show an image that stands in the training split too (equal pixels)."
    repeats = "24 of 24 training rows have a caption that another row has too (12 are distinct)."
    told = Path("run/report.json").read_text("utf-8")
    for line in (leak, repeats):
        assert f"warning: {line}" in err and line in told
        assert err.index(line) < err.index("step ")
    assert "stand in the training split too." not in told, "the same name in another folder is another image"
    assert "reading 33 images" in err
    assert run() == 0
    assert "reading 33 images" not in capsys.readouterr().err, "a second run finds the pixels of the first"


def test_a_bad_image_stops_the_run_with_its_row_or_is_counted(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = Path("train/5.png").read_bytes()
    Path("train/5.png").write_bytes(whole[: len(whole) // 2])
    Path("held/2.png").unlink()
    assert run() == 3
    err = capsys.readouterr().err
    assert "warning: 2 of 33 images cannot be used: " in err and "Traceback" not in err
    assert "train/metadata.jsonl:6: " in err and "train/5.png cannot be decoded" in err
    assert run("data.on_bad_row=quarantine") == 0
    found = [json.loads(line) for line in Path("run/quarantine.jsonl").read_text("utf-8").splitlines()]
    assert [(entry["file"], entry["line"]) for entry in found] == [
        ("train/metadata.jsonl", 6),
        ("held/metadata.jsonl", 3),
    ]
    data = report()["data"]["splits"]
    assert [(data[split]["rows"], data[split]["quarantined"]) for split in ("train", "validation")] == [(23, 1), (8, 1)]
