"""The vision and text towers of CLIP and LLaVA: which modules they are, how they are frozen, and loading a vision tower."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file
from torch import Tensor, nn

from llmstage.errors import ModelError
from llmstage.tokenization.vision import tower_source

if TYPE_CHECKING:
    from llmstage.config.run import VisionConfig

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
