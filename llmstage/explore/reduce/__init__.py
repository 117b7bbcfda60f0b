"""Reduction: how much of a score or a state its parts explain, each with a number and a sentence (EMERGENCE 1.3, 1.6, 1.7)."""
