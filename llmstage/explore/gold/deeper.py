"""From diagnosis to structure: one attention layer that cannot copy is given a second one, and is trained on.

The plan is read off what was measured of the heads; the layer that it asks for changes no logit at first; and the same number
of steps without it is run beside it, so that more training does not pass for more depth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from llmstage import console
from llmstage.explore.gold.induction import InductionRun, draw_rows, grown, train_induction
from llmstage.explore.gold.snapshots import chart
from llmstage.explore.reduce.heads import INDUCTION, PREVIOUS, HeadFindings

DEPTH = "structure: depth"
STILL_FALLING = 0.05
"""Nats by which the loss of repeated tokens fell in the last quarter of a run that is still learning."""
ROWS = 64

Lines = list[dict[str, float]]


def plan_of(lines: Lines, heads: HeadFindings) -> dict[str, Any] | None:
    """{action, why} for a model that does not copy by matching; None for one that does.

    A head that matches reads what a lower layer wrote of the token before (Olsson et al. 2022), so one layer has nothing to
    match with, however long it is trained. With more layers it may be a matter of time.
    """
    if heads.groups["induction"]["heads"]:
        return None
    layers, fell = len(heads.prefix), lines[3 * len(lines) // 4]["loss"] - lines[-1]["loss"]
    why = [
        f"repeated tokens are right in {heads.accuracy:.0%}, {heads.loss:.2f} nats a token",
        f"no head matches: best prefix matching {heads.prefix.max():.2f}, from {INDUCTION} on it is one",
    ]
    if heads.previous.max() < PREVIOUS:
        why.append(f"no head looks at the token before: best {heads.previous.max():.2f}, from {PREVIOUS} on it is one")
    if layers == 1:
        why.append("one layer: a head that matches would read what a layer below wrote of the token before")
        return {"action": DEPTH, "why": why}
    why.append(f"the loss fell by {fell:.2f} nats in the last quarter")
    return {"action": "train" if fell > STILL_FALLING else "undecided", "why": why}


def grow(
    run: InductionRun, measure: Callable[[InductionRun], tuple[Lines, HeadFindings]], log: Any
) -> tuple[Lines, HeadFindings, dict[str, Any]]:
    """What was measured along the run continued for as many steps with one more layer, its heads, and the comparison: how far the
    layer moved the logits at step 0, and where as many steps without it lead."""
    world, seed = run.world, run.seed
    old, model = run.model(len(run.steps) - 1), grown(run)
    ids, _ = draw_rows(world, ROWS, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        moved = float((model(ids)[0] - old(ids)[0]).abs().max())
    console.note(f"induction: {world.layers + 1} layers, logits moved by {moved:.1e}, seed {seed}")
    longer = train_induction(replace(world, layers=world.layers + 1), seed, log, start=model)
    console.note(f"induction: {world.layers} layer as before, for as many steps, seed {seed}")
    control = train_induction(world, seed, log, start=old)
    lines, heads = measure(longer)
    same, _ = measure(control)
    found = {"layers": world.layers + 1, "steps": world.steps, "logits_moved": moved, "more_of_same": same[-1]}
    return lines, heads, found


def told_of_plan(at: int, plan: dict[str, Any], growing: bool) -> str:
    hint = "" if growing or plan["action"] != DEPTH else " stage.gold.grow=true adds a layer and trains on."
    return f"seed {at}: plan: {plan['action']}. {'; '.join(plan['why'])}.{hint}"


def told_of_growth(at: int, before: dict[str, float], after: dict[str, float], growth: dict[str, Any]) -> str:
    same = growth["more_of_same"]
    return (
        f"seed {at}: with {growth['layers']} layers (logits moved by {growth['logits_moved']:.1e} when the layer was added) and "
        f"{growth['steps']} steps more: repeated tokens right in {before['accuracy']:.1%} before, {after['accuracy']:.1%} after; "
        f"as many steps without the layer: {same['accuracy']:.1%}."
    )


def charts_of(before: Lines, after: Lines) -> list[dict[str, Any]]:
    """Accuracy and prefix matching through both trainings, on one axis of steps."""
    last = before[-1]["step"]
    both = [*before, *({**line, "step": last + line["step"]} for line in after[1:])]
    looks = {"accuracy": "accuracy", "prefix_matching": "best prefix matching", "previous_token": "best look one back"}
    return [chart(f"A layer is added at step {last:g}", both, looks, "share")]
