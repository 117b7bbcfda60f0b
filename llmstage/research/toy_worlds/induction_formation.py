"""The formation of induction heads told from its run: when copying appears, by which heads, and whether abruptly."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

from llmstage import console
from llmstage.config.explore_ladder import ToyWorlds
from llmstage.explore.findings import Findings
from llmstage.explore.wording import say, verdict_name
from llmstage.research.curves import Curve
from llmstage.research.reduction.attention_heads import (
    HeadFindings,
    context_gain,
    examine_heads,
    prefix_scores,
    previous_token_scores,
    repeated_loss,
)
from llmstage.research.toy_worlds.charts import chart
from llmstage.research.toy_worlds.induction import Attention, InductionRun, InductionWorld, draw_rows, train_induction
from llmstage.research.toy_worlds.second_layer import DEPTH, charts_of, grow, plan_of, told_of_growth, told_of_plan
from llmstage.research.verdicts import Rules, Verdict, judge

HELD_OUT_ROWS = 128
HELD_OUT_SEED = 10_007


def measure(run: InductionRun) -> tuple[list[dict[str, float]], HeadFindings]:
    """One line a snapshot on the same held-out rows, and the heads of the last one."""
    ids, period = draw_rows(run.world, HELD_OUT_ROWS, torch.Generator().manual_seed(HELD_OUT_SEED + run.seed))
    lines = []
    for number, step in enumerate(run.steps):
        with torch.no_grad():
            logits, patterns = run.model(number)(ids, patterns=True)
        loss, accuracy = repeated_loss(logits, ids, period)
        lines.append(
            {
                "step": step,
                "loss": loss,
                "accuracy": accuracy,
                "context_gain": context_gain(logits, ids),
                "prefix_matching": float(prefix_scores(patterns, period).max()),
                "previous_token": float(previous_token_scores(patterns).max()),
            }
        )
    last = run.model(len(run.steps) - 1)
    found = examine_heads(
        lambda rows: last(rows)[0],
        patterns,
        [layer.o_proj for layer in last.layers if isinstance(layer, Attention)],
        ids,
        period,
    )
    return lines, found


def fastest(lines: list[dict[str, float]], name: str, sign: int) -> int:
    """Step in the middle of the interval in which a measure moves most in this direction."""
    moves = sign * np.diff([line[name] for line in lines])
    place = int(moves.argmax())
    return int(lines[place]["step"] + lines[place + 1]["step"]) // 2


def judge_steps(lines: list[dict[str, float]]) -> Verdict:
    """The verdict on minus the loss of repeated tokens, a continuous score, along the steps."""
    x, y = (np.array([line[name] for line in lines], dtype=np.float64) for name in ("step", "loss"))
    curve = Curve(say("repeated_logp"), x, -y, np.full(len(x), np.nan), "step", "training")
    return judge(curve, Rules())


def note(every: int, step: int, loss: float) -> None:
    if step % every == 0:
        console.note(f"step {step}  loss {loss:.3g}")


def told(at: int, lines: list[dict[str, float]], heads: HeadFindings, verdict: Verdict) -> list[str]:
    last = lines[-1]
    layer, head = heads.previous_token_head
    found = [say("along_steps", verdict=verdict_name(verdict.name), text=verdict.text)]
    if heads.groups["induction"]["heads"] and heads.cost[layer, head] > 0:
        group = heads.groups["induction"]
        found += [
            say(
                "heads_found", head=f"{layer}.{head}", cost=heads.cost[layer, head],
                heads=", ".join(f"{one[0]}.{one[1]}" for one in group["heads"]), together=group["cost"], share=group["share"],
                alone=heads.cost[1:].max(),
            ),
            say("fastest_steps", context=fastest(lines, "context_gain", -1), prefix=fastest(lines, "prefix_matching", 1)),
        ]  # fmt: skip
    else:
        key = "one_layer" if heads.cost.shape[0] == 1 else "no_head_yet"
        found.append(say(key, prefix=last["prefix_matching"], accuracy=last["accuracy"]))
    return [say("of_seed", seed=at, text=text) for text in found]


def explore_induction(gold: ToyWorlds, seed: int) -> Findings:
    """Train, measure and judge `gold.seeds` runs; with `gold.grow`, add a layer where the plan asks for one, and train on."""
    world = InductionWorld(layers=gold.layers, steps=gold.steps or InductionWorld().steps)
    sentences: list[str] = []
    blocks: list[dict[str, Any]] = []
    report_items: list[dict[str, Any]] = []
    for at in range(seed, seed + gold.seeds):
        layers = f"{world.layers} attention layer{'s' if world.layers > 1 else ''}"
        console.note(f"induction: {layers} on repeated random tokens, seed {at}")
        run = train_induction(world, at, partial(note, 100))
        lines, heads = measure(run)
        block, said = judged(at, lines, heads)
        plan = plan_of(lines, heads)
        shown = exhibits_of(lines)
        if plan is not None:
            said.append(told_of_plan(at, plan, gold.grow))
            block["plan"] = plan
        if gold.grow and plan is not None and plan["action"] == DEPTH:
            after, heads, growth = grow(run, measure, partial(note, 100))
            deeper, more = judged(at, after, heads)
            block["grown"] = {**growth, **deeper}
            said += [told_of_growth(at, lines[-1], after[-1], growth), *more]
            shown = [*charts_of(lines, after), *exhibits_of(after)]
        sentences += said
        blocks.append(block)
        report_items = report_items or shown
    return Findings(
        "gold", {"world": {"layers": world.layers, "steps": world.steps}, "runs": blocks}, sentences, [], report_items
    )


def judged(at: int, lines: list[dict[str, float]], heads: HeadFindings) -> tuple[dict[str, Any], list[str]]:
    """A run's block of report.json, and its sentences."""
    verdict = judge_steps(lines)
    block = {
        "seed": at, "verdict": verdict.name, "verdict_text": verdict.text, "evidence": verdict.evidence,
        "heads": heads.as_dict(), "lines": lines,
    }  # fmt: skip
    return block, told(at, lines, heads, verdict)


def exhibits_of(lines: list[dict[str, float]]) -> list[dict[str, Any]]:
    looks = {"prefix_matching": say("best_prefix"), "previous_token": say("best_previous"), "accuracy": say("accuracy")}
    losses = {"loss": say("loss"), "context_gain": say("late_minus_early")}
    return [
        chart(say("copying_appears"), lines, looks, say("share")),
        chart(say("repeated_loss"), lines, losses, say("nats")),
    ]
