"""Reduction: how much of a score or a state its parts explain, each with a number and a sentence."""

from __future__ import annotations

from llmstage.explore.reduce.of_model import reduce_model

__all__ = ["reduce_model"]
