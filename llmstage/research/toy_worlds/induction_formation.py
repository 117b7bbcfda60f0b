"""Report the formation of induction heads in a run (Olsson et al. 2022): when copying appears, which heads do it, and
whether abruptly."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

from llmstage import console
from llmstage.config.explore_ladder import ToyWorlds
from llmstage.explore.findings import Findings
from llmstage.research.curves import Curve
from llmstage.research.reduction.attention_heads import (
    HeadScores,
    in_context_score,
    prefix_matching_scores,
    previous_token_scores,
    repeated_token_loss,
    score_heads,
)
from llmstage.research.toy_worlds.charts import growth_charts, induction_charts
from llmstage.research.toy_worlds.induction import Attention, InductionRun, InductionWorld, draw_rows, train_induction
from llmstage.research.toy_worlds.second_layer import (
    DEPTH,
    grow,
    growth_sentence,
    plan_sentence,
    plan_structure,
)
from llmstage.research.verdicts import Rules, Verdict, judge
from llmstage.research.wording import sentence, verdict_name

HELD_OUT_ROWS = 128
HELD_OUT_SEED = 10_007


def measure(run: InductionRun) -> tuple[list[dict[str, float]], HeadScores]:
    """Return one line per snapshot on the same held-out rows, and the scores of the heads of the last one."""
    ids, period = draw_rows(run.world, HELD_OUT_ROWS, torch.Generator().manual_seed(HELD_OUT_SEED + run.seed))
    lines = []
    for number, step in enumerate(run.steps):
        with torch.no_grad():
            logits, patterns = run.model(number)(ids, patterns=True)
        loss, accuracy = repeated_token_loss(logits, ids, period)
        lines.append(
            {
                "step": step,
                "loss": loss,
                "accuracy": accuracy,
                "context_gain": in_context_score(logits, ids),
                "prefix_matching": float(prefix_matching_scores(patterns, period).max()),
                "previous_token": float(previous_token_scores(patterns).max()),
            }
        )
    last = run.model(len(run.steps) - 1)
    head_scores = score_heads(
        lambda rows: last(rows)[0],
        patterns,
        [layer.o_proj for layer in last.layers if isinstance(layer, Attention)],
        ids,
        period,
    )
    return lines, head_scores


def fastest_step(lines: list[dict[str, float]], name: str, sign: int) -> int:
    """Return the step in the middle of the interval in which a measure moves most in this direction."""
    moves = sign * np.diff([line[name] for line in lines])
    index = int(moves.argmax())
    return int(lines[index]["step"] + lines[index + 1]["step"]) // 2


def judge_steps(lines: list[dict[str, float]]) -> Verdict:
    """Return the verdict on minus the loss of repeated tokens, a continuous score, over the steps."""
    x, y = (np.array([line[name] for line in lines], dtype=np.float64) for name in ("step", "loss"))
    curve = Curve(sentence("repeated_logp"), x, -y, np.full(len(x), np.nan), "step", "training")
    return judge(curve, Rules())


def log_step(every: int, step: int, loss: float) -> None:
    if step % every == 0:
        console.note(f"step {step}  loss {loss:.3g}")


def sentences_of_run(run_seed: int, lines: list[dict[str, float]], heads: HeadScores, verdict: Verdict) -> list[str]:
    """Return the sentences of a run: its verdict, its heads and the steps of fastest change."""
    last = lines[-1]
    layer, head = heads.previous_token_head
    sentences = [sentence("along_steps", verdict=verdict_name(verdict.name), text=verdict.text)]
    if heads.groups["induction"]["heads"] and heads.cost[layer, head] > 0:
        group = heads.groups["induction"]
        sentences += [
            sentence(
                "heads_found", head=f"{layer}.{head}", cost=heads.cost[layer, head],
                heads=", ".join(f"{head_index[0]}.{head_index[1]}" for head_index in group["heads"]), together=group["cost"], share=group["share"],
                alone=heads.cost[1:].max(),
            ),
            sentence("fastest_steps", context=fastest_step(lines, "context_gain", -1), prefix=fastest_step(lines, "prefix_matching", 1)),
        ]  # fmt: skip
    else:
        key = "one_layer" if heads.cost.shape[0] == 1 else "no_head_yet"
        sentences.append(sentence(key, prefix=last["prefix_matching"], accuracy=last["accuracy"]))
    return [sentence("of_seed", seed=run_seed, text=text) for text in sentences]


def explore_induction(config: ToyWorlds, seed: int) -> Findings:
    """Train, measure and judge `config.seeds` runs; with `config.grow`, add a layer where the plan asks for depth, and
    continue training."""
    world = InductionWorld(layers=config.layers, steps=config.steps or InductionWorld().steps)
    sentences: list[str] = []
    blocks: list[dict[str, Any]] = []
    report_items: list[dict[str, Any]] = []
    for run_seed in range(seed, seed + config.seeds):
        layers = f"{world.layers} attention layer{'s' if world.layers > 1 else ''}"
        console.note(f"induction: {layers} on repeated random tokens, seed {run_seed}")
        run = train_induction(world, run_seed, partial(log_step, 100))
        lines, heads = measure(run)
        block, run_sentences = judge_run(run_seed, lines, heads)
        plan = plan_structure(lines, heads)
        charts = induction_charts(lines)
        if plan is not None:
            run_sentences.append(plan_sentence(run_seed, plan, config.grow))
            block["plan"] = plan
        if config.grow and plan is not None and plan["action"] == DEPTH:
            after, heads, growth = grow(run, measure, partial(log_step, 100))
            grown_block, grown_sentences = judge_run(run_seed, after, heads)
            block["grown"] = {**growth, **grown_block}
            run_sentences += [growth_sentence(run_seed, lines[-1], after[-1], growth), *grown_sentences]
            charts = [*growth_charts(lines, after), *induction_charts(after)]
        sentences += run_sentences
        blocks.append(block)
        report_items = report_items or charts
    return Findings(
        "gold", {"world": {"layers": world.layers, "steps": world.steps}, "runs": blocks}, sentences, [], report_items
    )


def judge_run(run_seed: int, lines: list[dict[str, float]], heads: HeadScores) -> tuple[dict[str, Any], list[str]]:
    """Return a run's block of report.json, and its sentences."""
    verdict = judge_steps(lines)
    block = {
        "seed": run_seed, "verdict": verdict.name, "verdict_text": verdict.text, "evidence": verdict.evidence,
        "heads": heads.as_dict(), "lines": lines,
    }  # fmt: skip
    return block, sentences_of_run(run_seed, lines, heads, verdict)
