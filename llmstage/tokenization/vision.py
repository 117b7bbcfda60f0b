"""Image input of a model: the transformers image processor that is saved with it, and the tokens of an image in a prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmstage.errors import ModelError
from llmstage.paths import ModelSource, locate_model

if TYPE_CHECKING:
    from llmstage.config.run import VisionConfig


@dataclass(slots=True, frozen=True)
class VisionSpec:
    """How a vision-language model turns an image into tokens."""

    patch: int
    """Pixels of a side of one patch."""
    tokens: int
    """Tokens of the prompt that the patches of one image take."""
    strategy: str
    """LLaVA's vision_feature_select_strategy: `default` leaves the class token out, `full` includes it."""


def preset_image_processor(cfg: VisionConfig) -> Any:
    """The image processor of a preset: CLIP's, with the preset's size. Pillow does the resizing."""
    from transformers import CLIPImageProcessorPil  # here and below: models of text do not wait for this import

    square = {"height": cfg.size, "width": cfg.size}
    if cfg.fit == "squash":
        return CLIPImageProcessorPil(size=square, crop_size=square, do_center_crop=False)
    return CLIPImageProcessorPil(size={"shortest_edge": cfg.size}, crop_size=square, do_center_crop=True)


def load_image_processor(path: str, *, local: bool) -> Any:
    """The image processor in a model folder. Raises OSError, ValueError."""
    from transformers import AutoImageProcessor

    return AutoImageProcessor.from_pretrained(path, backend="pil", trust_remote_code=False, local_files_only=local)


def tower_source(cfg: VisionConfig) -> ModelSource:
    """The folder that `model.vision.path` names."""
    model_source = locate_model(str(cfg.path))
    if model_source.model_dir is None:
        raise ModelError(
            f"model.vision.path={cfg.path}: there is no such folder here. Name a run of task=contrastive, or a CLIP model's folder."
        )
    return model_source


def tower_image_processor(cfg: VisionConfig) -> Any:
    """The image processor of a tower that is trained from scratch, or of the one that is taken over."""
    if cfg.path is None:
        return preset_image_processor(cfg)
    model_source = tower_source(cfg)
    try:
        return load_image_processor(str(model_source.model_dir), local=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"model.vision.path={cfg.path} has no image processor: {str(error).splitlines()[0]}") from None


def vision_spec_of(config: Any) -> VisionSpec | None:
    """The VisionSpec of a LLaVA config; None for a model that takes no image in its prompt."""
    if config.model_type != "llava":
        return None
    vision, strategy = config.vision_config, config.vision_feature_select_strategy
    class_token = 1 if vision.model_type == "clip_vision_model" else 0  # SigLIP's tower has none
    tokens = (vision.image_size // vision.patch_size) ** 2 + class_token - (strategy == "default")
    return VisionSpec(vision.patch_size, tokens, strategy)


def combined_processor(tokenizer: Any, images: Any, vision: VisionSpec | None) -> Any:
    """Tokenizer and image processor as the one object that transformers loads by AutoProcessor."""
    from transformers import CLIPProcessor, LlavaProcessor

    from llmstage.data.images import output_size

    if vision is None:
        return CLIPProcessor(images, tokenizer)
    side, _ = output_size(images)
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=vision.patch,
        vision_feature_select_strategy=vision.strategy,
        # What the processor adds to the patches it counts itself, before it takes one off under `default`.
        num_additional_image_tokens=vision.tokens - (side // vision.patch) ** 2 + (vision.strategy == "default"),
        chat_template=tokenizer.chat_template,
    )
