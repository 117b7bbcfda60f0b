"""Presets from scratch as transformers configs, classes that other tools load as well; and the towers of CLIP and LLaVA:
which modules they are, how they are frozen, and loading a vision tower."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    CLIPConfig,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    ModernBertConfig,
    PreTrainedConfig,
    T5Config,
)

from llmstage.config import ModelConfig
from llmstage.errors import ModelError
from llmstage.tokenization.tokenizer import Processor
from llmstage.tokenization.vision import VisionSpec, tower_source

if TYPE_CHECKING:
    from llmstage.config.run import VisionConfig


def preset_config(cfg: ModelConfig, processor: Processor, context: int, options: dict[str, Any]) -> PreTrainedConfig:
    """A preset as a transformers config.

    gpt is Llama (Touvron 2023: RMSNorm, SwiGLU, rotary positions): the architecture that most other tools load.
    bert is ModernBERT (Warner 2024: rotary positions, GeGLU, no token types): the current encoder of transformers.
    t5 is T5 v1.1 (Raffel 2020; gated GELU, relative positions): encoder and decoder of `layers` blocks each.
    clip is CLIP (Radford 2021): a ViT and a causal text tower. vlm is LLaVA (Liu 2023): CLIP's ViT, a projector of two
    layers and Llama; vLLM, llama.cpp and transformers load it.
    gpt, bert and t5 have no learned positions of their own, so a longer context needs no new weights.
    """
    ids = processor.tokenizer
    if cfg.family == "t5":
        return t5(cfg, processor, options)
    common: dict[str, Any] = {
        "vocab_size": max(len(processor), 8),
        "hidden_size": cfg.hidden_size,
        "num_hidden_layers": cfg.num_hidden_layers,
        "num_attention_heads": cfg.num_attention_heads,
        "intermediate_size": cfg.intermediate_size,
        "pad_token_id": ids.pad_token_id,
        "bos_token_id": ids.bos_token_id,
        "eos_token_id": ids.eos_token_id,
    }
    if cfg.family == "clip":
        text = {**common, "max_position_embeddings": max(context, 77), "attention_dropout": cfg.dropout}
        vision = tower_config(cfg).to_dict()
        shape = {"projection_dim": cfg.projection, **options}
        return CLIPConfig(text_config=text, vision_config=vision, **shape)
    if cfg.family == "vlm":
        seen: dict[str, Any] = {
            "image_token_index": processor.image_id,
            "image_seq_length": preset_vision_spec(cfg).tokens,
            "vision_feature_layer": cfg.vision.layer,
            "vision_feature_select_strategy": "default",
            "tie_word_embeddings": True,
            "pad_token_id": ids.pad_token_id,
            **options,
        }
        return LlavaConfig(vision_config=tower_config(cfg), text_config=llama(cfg, common, context), **seen)
    if cfg.family == "gpt":
        return llama(cfg, {**common, **options}, context)
    return ModernBertConfig(
        max_position_embeddings=max(context, 1024),
        cls_token_id=ids.cls_token_id,
        sep_token_id=ids.sep_token_id,
        attention_dropout=cfg.dropout,
        mlp_dropout=cfg.dropout,
        embedding_dropout=cfg.dropout,
        classifier_dropout=cfg.dropout,
        classifier_pooling="mean",
        initializer_range=cfg.hidden_size**-0.5,  # as below; eight rows are learned in a fifth of the steps
        tie_word_embeddings=True,
        **common,
        **options,
    )


def llama(cfg: ModelConfig, common: dict[str, Any], context: int) -> LlamaConfig:
    return LlamaConfig(
        max_position_embeddings=max(context, 1024),
        num_key_value_heads=cfg.num_attention_heads,
        attention_dropout=cfg.dropout,
        # Logits of size 1 at the start whatever the width; the usual 0.02 is made for widths near 2,000 and left a
        # model of width 128 untrained for three times as long on the demo world.
        initializer_range=cfg.hidden_size**-0.5,
        tie_word_embeddings=True,
        **common,
    )


def t5(cfg: ModelConfig, processor: Processor, options: dict[str, Any]) -> T5Config:
    ids = processor.tokenizer
    shape: dict[str, Any] = {
        "vocab_size": max(len(processor), 8),
        "d_model": cfg.hidden_size,
        "d_kv": cfg.hidden_size // cfg.num_attention_heads,
        "d_ff": cfg.intermediate_size,
        "num_layers": cfg.num_hidden_layers,
        "num_heads": cfg.num_attention_heads,
        "dropout_rate": cfg.dropout,
        "feed_forward_proj": "gated-gelu",
        # To transformers this means v1.1: embedding and head are tied all the same, but logits are not scaled.
        "tie_word_embeddings": False,
        "pad_token_id": ids.pad_token_id,
        "bos_token_id": ids.bos_token_id,
        "eos_token_id": ids.eos_token_id,
        "decoder_start_token_id": ids.pad_token_id,
        **options,
    }
    return T5Config(**shape)


def tower_config(cfg: ModelConfig) -> CLIPVisionConfig:
    """The tower's own shape, or that of the one that is taken over."""
    vision = cfg.vision
    if vision.path is not None:
        folder = tower_source(vision).model_dir
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
        config = getattr(config, "vision_config", config)
        if config.model_type != "clip_vision_model":
            raise ModelError(f"model.vision.path={vision.path} has no CLIP vision tower (found {config.model_type}).")
        return config  # type: ignore[no-any-return]
    return CLIPVisionConfig(
        image_size=vision.size,
        patch_size=vision.patch,
        hidden_act="gelu",  # one operation; CLIP's own quick_gelu is three
        # As for the other families. With CLIP's 0.02, of eight captions 4 were known by heart after 100 steps instead of 8;
        # on the demo world no difference was seen.
        initializer_range=vision.hidden_size**-0.5,
        hidden_size=vision.hidden_size,
        num_hidden_layers=vision.num_hidden_layers,
        num_attention_heads=vision.num_attention_heads,
        intermediate_size=vision.intermediate_size,
        projection_dim=cfg.projection,
        attention_dropout=cfg.dropout,
    )


def preset_vision_spec(cfg: ModelConfig) -> VisionSpec:
    """How a vlm preset reads an image: each patch is a token, the class token is left out."""
    tower: Any = tower_config(cfg)
    return VisionSpec(tower.patch_size, (tower.image_size // tower.patch_size) ** 2, "default")


TOWERS = {
    "vision": ("vision_model", "vision_tower", "visual_projection"),
    "text": ("text_model", "language_model", "text_projection", "lm_head"),
}
"""Names of modules of CLIP and LLaVA by tower; LLaVA's projector and CLIP's temperature belong to neither."""


def modules_of(model: nn.Module, tower: str) -> Iterator[nn.Module]:
    """The outermost modules of a tower."""
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in TOWERS[tower] and not any(part in TOWERS[tower] for part in name.split(".")[:-1]):
            yield module


def freeze_towers(model: nn.Module, towers: Iterable[str]) -> None:
    """Exclude these towers from training."""
    for tower in towers:
        for module in modules_of(model, tower):
            module.requires_grad_(False)


def count_vision(model: nn.Module) -> int:
    """The number of parameters of the vision tower."""
    return sum(parameter.numel() for module in modules_of(model, "vision") for parameter in module.parameters())


def take_tower(model: nn.Module, cfg: VisionConfig) -> None:
    """Load the weights of the tower at `model.vision.path` into a model built with that tower's config. Raise ModelError."""
    tower = next(modules_of(model, "vision"))
    folder = tower_source(cfg).model_dir
    assert folder is not None
    weights = tower_weights(folder)
    expected = tower.state_dict()
    wrong = [name for name, value in expected.items() if name not in weights or weights[name].shape != value.shape]
    if wrong:
        raise ModelError(
            f"model.vision.path={cfg.path} lacks weights of a CLIP vision tower, or has them in another size: {', '.join(wrong[:3])}."
        )
    tower.load_state_dict({name: weights[name] for name in expected})


def tower_weights(folder: Path) -> dict[str, Tensor]:
    """Weights of the vision tower in a model folder, by their names within it."""
    out: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        for name, value in load_file(file).items():
            for tower in ("vision_model.", "vision_tower."):
                if tower in name:
                    out[name.rpartition(tower)[2]] = value
    return out
