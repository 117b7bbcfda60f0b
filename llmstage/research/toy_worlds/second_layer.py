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
from llmstage.explore.wording import say
from llmstage.research.reduction.attention_heads import INDUCTION, PREVIOUS, HeadFindings
from llmstage.research.toy_worlds.charts import chart
from llmstage.research.toy_worlds.induction import InductionRun, draw_rows, grown, train_induction

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
        say("plan_repeated", accuracy=heads.accuracy, loss=heads.loss),
        say("plan_no_match", best=heads.prefix.max(), border=INDUCTION),
    ]
    if heads.previous.max() < PREVIOUS:
        why.append(say("plan_no_previous", best=heads.previous.max(), border=PREVIOUS))
    if layers == 1:
        why.append(say("plan_one_layer"))
        return {"action": DEPTH, "why": why}
    why.append(say("plan_loss_fell", fell=fell))
    return {"action": "train" if fell > STILL_FALLING else "undecided", "why": why}


def grow(
    run: InductionRun, measure: Callable[[InductionRun], tuple[Lines, HeadFindings]], log: Any
) -> tuple[Lines, HeadFindings, dict[str, Any]]:
    """What was measured along the run continued for as many steps with one more layer below, its heads, and the comparison: how far the
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
    hint = "" if growing or plan["action"] != DEPTH else say("plan_hint")
    text = say("plan", action=plan["action"], why=say("semicolon").join(plan["why"]), hint=hint)
    return say("of_seed", seed=at, text=text)


def told_of_growth(at: int, before: dict[str, float], after: dict[str, float], growth: dict[str, Any]) -> str:
    text = say(
        "growth", layers=growth["layers"], moved=growth["logits_moved"], steps=growth["steps"], before=before["accuracy"],
        after=after["accuracy"], same=growth["more_of_same"]["accuracy"],
    )  # fmt: skip
    return say("of_seed", seed=at, text=text)


def charts_of(before: Lines, after: Lines) -> list[dict[str, Any]]:
    """Accuracy and prefix matching through both trainings, on one axis of steps."""
    last = before[-1]["step"]
    both = [*before, *({**line, "step": last + line["step"]} for line in after[1:])]
    looks = {"accuracy": say("accuracy"), "prefix_matching": say("best_prefix"), "previous_token": say("best_previous")}
    return [chart(say("layer_added", step=last), both, looks, say("share"))]
