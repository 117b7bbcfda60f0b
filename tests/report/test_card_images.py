"""The card of a model that sees: what it tells to do works as it stands, and gives the numbers of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from llmstage.config import ModelConfig
from llmstage.config.run import VisionConfig
from llmstage.data.image_store import ImageStore
from llmstage.models.build import build_model, save_model
from llmstage.models.presets import preset_vision_spec
from llmstage.paths import conf_dir
from llmstage.report.model_card import write_card
from llmstage.tokenization.tokenizer import Processor, train_processor
from llmstage.tokenization.vision import tower_image_processor

SMALL = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}


def saved(kind: str, auto_class: str, folder: Path) -> tuple[Any, Processor]:
    """A small model with its processor in a folder, and a picture beside them."""
    keys: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / "model" / f"{kind}_tiny.yaml"))
    vision = VisionConfig(**(keys.pop("vision") | SMALL | {"size": 32}))
    cfg = ModelConfig(**(keys | SMALL | {"vision": vision}))
    processor = train_processor(["a red square and a blue circle", "红色 方块"] * 20, 600, kind, 128)
    processor.images = tower_image_processor(cfg.vision)
    processor.vision = preset_vision_spec(cfg) if kind == "vlm" else None
    torch.manual_seed(0)
    model = build_model(cfg, auto_class, processor, 128, {}, None, offline=True)
    save_model(model, processor, folder)
    pixels = np.random.default_rng(0).integers(0, 255, (48, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "picture.png")
    return model, processor


def run_card(folder: Path, model: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that the card's own code leaves behind, run where it says: in the model's folder."""
    card = write_card(folder, {"task": "contrastive", "model": model}).read_text(encoding="utf-8")
    assert "images and texts like those" in card
    code = card.partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(code, names)
    return names


@pytest.mark.parametrize(
    ("kind", "tag", "auto_class"),
    [
        ("clip", "zero-shot-image-classification", "AutoModel"),
        ("vlm", "image-text-to-text", "AutoModelForImageTextToText"),
    ],
)
def test_the_card_runs_as_it_stands_and_sees_what_training_saw(
    tmp_path: Path, kind: str, tag: str, auto_class: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    model, processor = saved(kind, auto_class, tmp_path)
    names = run_card(tmp_path, {"name": f"{kind}_tiny", "pipeline_tag": tag}, monkeypatch)
    assert capsys.readouterr().out.strip()
    pictures = ImageStore(processor.images)
    pictures.read([str(tmp_path / "picture.png")])
    ours = pictures.normalized(pictures.pixels([0]))
    assert torch.allclose(names["inputs"]["pixel_values"], ours, atol=1e-6)
    with torch.no_grad():
        theirs, made = names["model"](**names["inputs"]), model(**{**names["inputs"], "pixel_values": ours})
    key = "logits_per_image" if kind == "clip" else "logits"
    assert torch.allclose(theirs[key], made[key], atol=1e-5)
    assert type(names["model"]).__name__ == {"clip": "CLIPModel", "vlm": "LlavaForConditionalGeneration"}[kind]


def test_a_class_that_sees_gets_a_processor_whatever_its_tag(tmp_path: Path) -> None:
    card = write_card(tmp_path, {"model": {"pipeline_tag": "x", "auto_class": "AutoModelForImageTextToText"}})
    body = card.read_text(encoding="utf-8")
    assert "AutoProcessor" in body and "AutoTokenizer" not in body
