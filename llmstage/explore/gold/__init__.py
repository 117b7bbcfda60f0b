"""Small worlds whose phase change is understood: what this stage says of them can be held against what is known."""

from __future__ import annotations

from llmstage.explore.findings import Findings
from llmstage.explore.gold.grokking import explore_grokking
from llmstage.explore.gold.heads_form import explore_induction
from llmstage.schema.explore_ladder import Gold


def explore_gold(gold: Gold, seed: int) -> Findings:
    """The world that `stage.gold.kind` names, on runs of the seeds from `seed` on."""
    return explore_grokking(gold, seed) if gold.kind == "grokking" else explore_induction(gold, seed)
