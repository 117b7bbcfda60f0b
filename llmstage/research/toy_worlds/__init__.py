"""Small worlds whose phase change is understood (stage.toy_worlds): the verdicts of this stage can be checked against
them.

grokking: addition modulo a prime (Nanda et al. 2023). induction: induction heads on repeated random tokens (Olsson et
al. 2022).
"""

from __future__ import annotations

from llmstage.config.explore_ladder import ToyWorlds
from llmstage.explore.findings import Findings
from llmstage.research.toy_worlds.grokking import explore_grokking
from llmstage.research.toy_worlds.induction_formation import explore_induction


def explore_toy_worlds(config: ToyWorlds, seed: int) -> Findings:
    """Train the world that `stage.toy_worlds.kind` names on consecutive seeds from `seed` on, and report its phase
    change."""
    return explore_grokking(config, seed) if config.kind == "grokking" else explore_induction(config, seed)
