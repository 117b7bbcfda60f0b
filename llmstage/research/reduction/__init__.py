"""Reduce a score or a state to its parts: each analysis returns how much the parts explain, and a sentence."""

from __future__ import annotations

from llmstage.research.reduction.model_reduction import reduce_model

__all__ = ["reduce_model"]
