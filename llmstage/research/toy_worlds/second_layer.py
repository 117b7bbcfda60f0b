"""Plan a structural change from the measured heads: a one-layer attention model that cannot copy gets a second layer
and is trained further.

The new layer changes no logit at first. A control run trains for as many steps without the layer, so that the effect of
training is not mistaken for the effect of depth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from llmstage import console
from llmstage.research.reduction.attention_heads import INDUCTION, PREVIOUS, HeadScores
from llmstage.research.toy_worlds.induction import InductionRun, draw_rows, train_induction, with_new_layer
from llmstage.research.wording import sentence

DEPTH = "structure: depth"
STILL_FALLING = 0.05
"""Fall of the repeated-token loss in nats over the last quarter of a run, above which the run is still learning."""
ROWS = 64

Lines = list[dict[str, float]]


def plan_structure(lines: Lines, heads: HeadScores) -> dict[str, Any] | None:
    """Return {action, why} for a model without induction heads; None for one with such heads.

    An induction head reads what a lower layer wrote about the previous token (Olsson et al. 2022). One layer therefore
    cannot match, however long it is trained; with more layers, more training may be enough.
    """
    if heads.groups["induction"]["heads"]:
        return None
    layers, loss_drop = len(heads.prefix), lines[3 * len(lines) // 4]["loss"] - lines[-1]["loss"]
    reasons = [
        sentence("plan_repeated", accuracy=heads.accuracy, loss=heads.loss),
        sentence("plan_no_match", best=heads.prefix.max(), border=INDUCTION),
    ]
    if heads.previous.max() < PREVIOUS:
        reasons.append(sentence("plan_no_previous", best=heads.previous.max(), border=PREVIOUS))
    if layers == 1:
        reasons.append(sentence("plan_one_layer"))
        return {"action": DEPTH, "why": reasons}
    reasons.append(sentence("plan_loss_fell", fell=loss_drop))
    return {"action": "train" if loss_drop > STILL_FALLING else "undecided", "why": reasons}


def grow(
    run: InductionRun, measure: Callable[[InductionRun], tuple[Lines, HeadScores]], log: Any
) -> tuple[Lines, HeadScores, dict[str, Any]]:
    """Train the run for as many steps again with one more layer below, and a control without it.

    Returns the measures of the grown model, its heads, and the comparison: how far the layer moved the logits at step
    0, and the result of the control.
    """
    world, seed = run.world, run.seed
    before, model = run.model(len(run.steps) - 1), with_new_layer(run)
    ids, _ = draw_rows(world, ROWS, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        logit_change = float((model(ids)[0] - before(ids)[0]).abs().max())
    console.note(f"induction: {world.layers + 1} layers, logits moved by {logit_change:.1e}, seed {seed}")
    longer = train_induction(replace(world, layers=world.layers + 1), seed, log, start=model)
    console.note(f"induction: {world.layers} layer as before, for as many steps, seed {seed}")
    control = train_induction(world, seed, log, start=before)
    lines, heads = measure(longer)
    control_lines, _ = measure(control)
    comparison = {
        "layers": world.layers + 1,
        "steps": world.steps,
        "logits_moved": logit_change,
        "more_of_same": control_lines[-1],
    }
    return lines, heads, comparison


def plan_sentence(run_seed: int, plan: dict[str, Any], growing: bool) -> str:
    hint = "" if growing or plan["action"] != DEPTH else sentence("plan_hint")
    text = sentence("plan", action=plan["action"], why=sentence("semicolon").join(plan["why"]), hint=hint)
    return sentence("of_seed", seed=run_seed, text=text)


def growth_sentence(run_seed: int, before: dict[str, float], after: dict[str, float], growth: dict[str, Any]) -> str:
    text = sentence(
        "growth", layers=growth["layers"], moved=growth["logits_moved"], steps=growth["steps"], before=before["accuracy"],
        after=after["accuracy"], same=growth["more_of_same"]["accuracy"],
    )  # fmt: skip
    return sentence("of_seed", seed=run_seed, text=text)
