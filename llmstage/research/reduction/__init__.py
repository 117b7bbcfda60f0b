"""Reduction: how much of a score or a state its parts explain, each with a number and a sentence."""

from __future__ import annotations

from llmstage.research.reduction.model_reduction import reduce_model

__all__ = ["reduce_model"]
