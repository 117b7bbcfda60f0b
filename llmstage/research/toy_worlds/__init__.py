"""Small worlds whose phase change is understood: what this stage says of them can be held against what is known."""

from __future__ import annotations

from llmstage.config.explore_ladder import ToyWorlds
from llmstage.explore.findings import Findings
from llmstage.research.toy_worlds.grokking import explore_grokking
from llmstage.research.toy_worlds.induction_formation import explore_induction


def explore_gold(gold: ToyWorlds, seed: int) -> Findings:
    """The world that `stage.toy_worlds.kind` names, on runs of the seeds from `seed` on."""
    return explore_grokking(gold, seed) if gold.kind == "grokking" else explore_induction(gold, seed)
