"""Report a grokking run (Power et al. 2022; Nanda et al. 2023): when the training pairs are memorized, when the model
generalizes, and which measures move in between."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from llmstage import console
from llmstage.config.explore_ladder import ToyWorlds
from llmstage.explore.findings import Findings
from llmstage.research.reduction.layers import interaction_share
from llmstage.research.toy_worlds import fourier
from llmstage.research.toy_worlds.charts import grokking_charts
from llmstage.research.toy_worlds.modular_addition import (
    ModularWorld,
    Snapshots,
    snapshot_states,
    train_modular,
    weight_norm,
)
from llmstage.research.wording import sentence

MEMORIZED, GENERALIZED, HIDDEN = 0.999, 0.99, 0.15
"""Accuracy on training pairs that counts as memorized; on held-out pairs that counts as generalized; on held-out pairs
below which progress is hidden from the score."""
PUBLISHED_ABOVE = 60
"""Modulus above which the published model sizes are used."""


def build_world(config: ToyWorlds) -> ModularWorld:
    """Return the sizes and training settings of the configured world."""
    large = config.modulus > PUBLISHED_ABOVE
    steps = config.steps or (20_000 if large else 3000)
    return ModularWorld(
        modulus=config.modulus,
        train_share=config.train_share,
        ordered=config.ordered,
        weight_decay=config.weight_decay,
        steps=steps,
        every=200 if large else 50,
        width=128 if large else 64,
        mlp_width=512 if large else 256,
    )


def measure(snapshots: Snapshots) -> list[dict[str, float]]:
    """Return one line per snapshot: accuracies, losses, and progress measures at the key frequencies of the last
    snapshot."""
    p = snapshots.world.modulus
    answers = (np.arange(p)[:, None] + np.arange(p)) % p
    keys = fourier.key_frequencies(snapshot_states(snapshots, len(snapshots.steps) - 1)["logits"])
    lines = []
    for number, step in enumerate(snapshots.steps):
        states = snapshot_states(snapshots, number)
        logits = states["logits"]
        correct, loss = logits.argmax(-1) == answers, fourier.losses(logits)
        lines.append(
            {
                "step": step,
                "modulus": p,
                "train_accuracy": float(correct[snapshots.train].mean()),
                "held_out_accuracy": float(correct[~snapshots.train].mean()),
                "train_loss": float(loss[snapshots.train].mean()),
                "held_out_loss": float(loss[~snapshots.train].mean()),
                "restricted_loss": fourier.restricted_loss(logits, keys),
                "excluded_loss": fourier.excluded_loss(logits, keys, snapshots.train),
                "key_share": fourier.share_of_variance(logits, keys),
                "num_keys": len(keys),
                "gini": fourier.gini_of_embeddings(snapshots.weights[number]["embed"][:-1].double().numpy()),
                "norm": weight_norm(snapshots, number),
            }
        )
    return lines


@dataclass(slots=True)
class Delay:
    """The verdict on the curves of one run. A step is None where it was not reached."""

    memorized: int | None
    generalized: int | None
    hidden_from: int | None
    """First step at which the excluded loss has made a tenth of its rise while the held-out accuracy is still low."""
    verdict: str
    text: str


def judge_delay(lines: list[dict[str, float]]) -> Delay:
    """Judge delayed generalization: the training pairs are memorized while held-out pairs are at chance, and
    generalization follows much later."""
    modulus = round(float(lines[0]["modulus"]))

    def first(name: str, threshold: float) -> int | None:
        return next((int(line["step"]) for line in lines if line[name] >= threshold), None)

    memorized, generalized = first("train_accuracy", MEMORIZED), first("held_out_accuracy", GENERALIZED)
    hidden_from = hidden_progress(lines)
    last = lines[-1]
    if memorized is None:
        text = sentence("not_learned", steps=int(last["step"]), accuracy=last["train_accuracy"])
        return Delay(None, generalized, hidden_from, "undecided", text)
    if generalized is None:
        text = sentence(
            "no_generalisation", learned=memorized, accuracy=last["held_out_accuracy"], steps=int(last["step"]),
            chance=1 / modulus, moved=sentence("still_moving") if is_still_moving(lines) else "",
        )  # fmt: skip
        return Delay(memorized, None, hidden_from, "no_generalisation", text)
    if generalized < 2 * memorized:
        text = sentence("prompt_generalisation", learned=memorized, understood=generalized)
        return Delay(memorized, generalized, hidden_from, "prompt_generalisation", text)
    key = "delayed_generalisation" if hidden_from is not None else "delayed_unseen"
    text = sentence(key, hidden=hidden_from, learned=memorized, understood=generalized)
    return Delay(memorized, generalized, hidden_from, "delayed_generalisation", text)


def hidden_progress(lines: list[dict[str, float]]) -> int | None:
    """Return the first step at which the excluded loss has made a tenth of its rise with held-out accuracy still near
    chance.

    The largest rise from a point to a later one counts, because the loss may fall first, while pairs are memorized.
    """
    losses = np.array([line["excluded_loss"] for line in lines])
    rises = losses - np.minimum.accumulate(losses)
    rise, peak = float(rises.max()), int(rises.argmax())
    lowest = int(losses[: peak + 1].argmin())
    start = losses[lowest]
    if rise <= 1.0:  # nats; smaller rises are noise between snapshots
        return None
    for line in lines[lowest:]:
        if line["excluded_loss"] - start >= 0.1 * rise:
            return int(line["step"]) if line["held_out_accuracy"] < HIDDEN else None
    return None


def is_still_moving(lines: list[dict[str, float]]) -> bool:
    """Whether the key frequencies gained weight in the last third.

    The excluded loss cannot show this: without weight decay it rises as long as logits grow (measured: to 11.9 at p =
    53, with held-out accuracy at chance).
    """
    return lines[-1]["key_share"] - lines[2 * len(lines) // 3]["key_share"] > 0.02


def shares_by_layer(snapshots: Snapshots, number: int) -> dict[str, float]:
    """Return the interaction share of each layer's states over the whole grid a x b."""
    return {name: interaction_share(state) for name, state in snapshot_states(snapshots, number).items()}


def log_step(every: int, step: int, loss: float) -> None:
    if step % every == 0:
        console.note(f"step {step}  loss {loss:.3g}")


def explore_grokking(config: ToyWorlds, seed: int) -> Findings:
    """Train, measure and judge `config.seeds` runs."""
    world, runs = build_world(config), []
    for run_seed in range(seed, seed + config.seeds):
        console.note(
            f"grokking: a + b mod {world.modulus}, {world.train_share:.0%} of the {'ordered' if world.ordered else 'unordered'} pairs, weight decay {world.weight_decay:g}, seed {run_seed}"
        )
        snapshots = train_modular(world, run_seed, partial(log_step, 500))
        lines = measure(snapshots)
        delay = judge_delay(lines)
        runs.append((run_seed, lines, delay, shares_by_layer(snapshots, len(snapshots.steps) - 1)))
    sentences, limits = [], []
    for run_seed, _, delay, shares in runs:
        where = ", ".join(f"{name} {share:.3f}" for name, share in shares.items())
        for text in (delay.text, sentence("interaction_by_layer", where=where)):
            sentences.append(sentence("of_seed", seed=run_seed, text=text))
    if config.seeds == 1:
        limits.append(sentence("one_seed"))
    block = {
        "world": {"modulus": world.modulus, "train_share": world.train_share, "ordered": world.ordered, "weight_decay": world.weight_decay, "steps": world.steps},
        "runs": [
            {
                "seed": run_seed, "verdict": delay.verdict, "verdict_text": delay.text, "learned": delay.memorized,
                "understood": delay.generalized, "hidden_from": delay.hidden_from, "interaction_share": shares, "lines": lines,
            }
            for run_seed, lines, delay, shares in runs
        ],
    }  # fmt: skip
    return Findings("gold", block, sentences, limits, grokking_charts(runs[0][1]))
