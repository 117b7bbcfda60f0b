"""stage=pretrain."""

from __future__ import annotations

from pathlib import Path

from llmstage.config import RunConfig
from llmstage.training.fit import fit


def run(cfg: RunConfig, out_dir: Path, metadata: dict[str, str]) -> float | None:
    """Train a model from end to end; return the selecting metric on validation."""
    return fit(cfg, out_dir, metadata).selected
