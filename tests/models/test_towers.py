"""The tower that sees: taken over, frozen, read at a chosen layer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, LlamaConfig, LlamaForCausalLM

from llmstage.cli.command import main
from llmstage.config.run import ModelConfig, VisionConfig
from llmstage.errors import ModelError
from llmstage.models.build import build_model, count_parameters, save_model
from llmstage.models.presets import count_vision, modules_of, take_tower
from llmstage.tokenization.tokenizer import train_processor
from llmstage.tokenization.vision import preset_image_processor

TOWER = VisionConfig(size=32, patch=8, num_hidden_layers=2, hidden_size=32, num_attention_heads=2, intermediate_size=48)
CLIP = ModelConfig(
    name="clip_tiny",
    family="clip",
    num_hidden_layers=1,
    hidden_size=32,
    num_attention_heads=2,
    intermediate_size=48,
    vocab_size=300,
    projection=16,
    vision=TOWER,
)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """(a folder with a CLIP model as task=contrastive saves one, the model)"""
    folder = tmp_path_factory.mktemp("clip") / "model"
    processor = train_processor(["a red circle"] * 5, 300, "clip", 77)
    processor.images = preset_image_processor(TOWER)
    torch.manual_seed(5)
    model = build_model(CLIP, "AutoModel", processor, 77, {}, None, offline=True)
    save_model(model, processor, folder)
    return folder, model


def sees(path, **changes) -> ModelConfig:
    vision = VisionConfig(path=None if path is None else str(path), **changes)
    return ModelConfig(
        name="vlm_tiny",
        family="vlm",
        num_hidden_layers=1,
        hidden_size=32,
        num_attention_heads=2,
        intermediate_size=48,
        vocab_size=400,
        vision=vision,
    )


def vlm(cfg: ModelConfig):
    processor = train_processor(["a red circle"] * 5, 400, "vlm", 128)
    torch.manual_seed(0)
    return build_model(cfg, "AutoModelForImageTextToText", processor, 128, {}, None, offline=True)


def tower_of(model):
    return next(modules_of(model, "vision"))


def test_the_tower_that_is_named_is_taken_weight_for_weight(clip):
    folder, source = clip
    model = vlm(sees(folder))
    theirs, mine = source.vision_model.state_dict(), tower_of(model).state_dict()
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert model.config.vision_config.image_size == 32 and model.config.image_seq_length == 16
    own = tower_of(vlm(replace(sees(None), vision=TOWER))).state_dict()
    assert not torch.equal(own["embeddings.patch_embedding.weight"], theirs["embeddings.patch_embedding.weight"])


def test_a_tower_is_also_taken_from_a_vlm_that_was_saved(clip, tmp_path):
    model = vlm(sees(clip[0]))
    processor = train_processor(["a red circle"] * 5, 400, "vlm", 128)
    for native_names in (False, True):
        save_model(model, processor, tmp_path / str(native_names), native_names=native_names)
        other = vlm(replace(sees(None), vision=TOWER))
        take_tower(other, VisionConfig(path=str(tmp_path / str(native_names))))
        mine, theirs = tower_of(other).state_dict(), tower_of(model).state_dict()
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_a_folder_without_such_a_tower_is_told(clip, tmp_path):
    with pytest.raises(ModelError, match="there is no such folder"):
        vlm(sees(tmp_path / "nowhere"))
    text = LlamaForCausalLM(
        LlamaConfig(vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24)
    )
    text.save_pretrained(tmp_path / "text")
    with pytest.raises(ModelError, match="has no CLIP vision tower"):
        vlm(sees(tmp_path / "text"))
    small = CLIPModel(CLIPConfig.from_pretrained(clip[0]))
    weights = {name: value for name, value in small.state_dict().items() if "layers.1" not in name}
    small.save_pretrained(tmp_path / "half", state_dict=weights)
    with pytest.raises(ModelError, match="lacks weights of a CLIP vision tower"):
        vlm(sees(tmp_path / "half"))


@pytest.mark.parametrize(("frozen", "still"), [(["vision"], "vision"), (["text"], "text"), ([], None)])
def test_a_frozen_tower_stays_as_it_is_and_is_counted(frozen, still, tiny_task):
    it = tiny_task("captioning", "vlm", words=(f"model.freeze=[{','.join(frozen)}]",))
    model = it.model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    part = it.task.loss(model, it.batch())
    part.total.backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    word = {"vision": "vision_tower", "text": "language_model"}
    for tower in ("vision", "text"):
        moved = any(word[tower] in name for name in changed)
        assert moved is (tower != still)
    assert any("projector" in name for name in changed)
    whole, trained = count_parameters(model), count_parameters(model, trained=True)
    assert (trained < whole) is bool(frozen)
    if frozen == ["vision"]:
        assert whole - trained == count_vision(model)


def test_the_layer_that_is_read(tiny_task):
    it, other = (tiny_task("captioning", "vlm", words=(f"model.vision.layer={layer}",)) for layer in (-1, -2))
    model, second = it.model(), other.model()
    assert second.config.vision_feature_layer == -2
    pixels = it.batch().inputs["pixel_values"][:2]
    with torch.no_grad():
        seen = [one.model.get_image_features(pixels, return_dict=True).pooler_output for one in (model, second)]
        states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        expected = model.model.multi_modal_projector(states[-2][:, 1:])
    assert not torch.equal(seen[0][0], seen[1][0])
    torch.testing.assert_close(torch.stack(list(seen[1])), expected)  # the same seed made the same weights


SMALL = (
    "model.num_hidden_layers=1", "model.hidden_size=32", "model.num_attention_heads=2", "model.intermediate_size=48", "model.vocab_size=400",
    "data.demo_rows=60", "trainer.threads=1", "trainer=smoke",
)  # fmt: skip


def test_pretrain_then_finetune_by_key(clip, workplace, capsys):
    """The tower, its image processor and its size come with model.vision.path; frozen, it is still that tower at the end."""
    folder, source = clip
    words = ["stage=finetune", "task=captioning", *SMALL, f"model.vision.path={folder}", "model.freeze=[vision]"]
    assert main([*words, "hydra.run.dir=run"]) == 0, capsys.readouterr().err
    assert "M of them trained" in capsys.readouterr().err
    told = json.loads(Path("run/model/processor_config.json").read_text(encoding="utf-8"))
    assert told["image_processor"]["size"] == {"height": 32, "width": 32}
    other = vlm(replace(sees(None), vision=TOWER))
    take_tower(other, VisionConfig(path="run"))
    assert all(
        torch.equal(value, source.vision_model.state_dict()[name])
        for name, value in tower_of(other).state_dict().items()
    )
    assert main([*words, "model.vision.path=nowhere", "hydra.run.dir=bad"]) == 4
    told = capsys.readouterr().err
    assert "model.vision.path=nowhere" in told and "Traceback" not in told
