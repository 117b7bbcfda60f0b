"""Grokking told from its run: when it was learned by heart, when it was understood, and what moved in between."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from llmstage import console
from llmstage.config.explore_ladder import ToyWorlds
from llmstage.explore.findings import Findings
from llmstage.explore.wording import say
from llmstage.research.reduction.layers import interaction_share
from llmstage.research.toy_worlds import fourier
from llmstage.research.toy_worlds.charts import chart
from llmstage.research.toy_worlds.modular_addition import ModularWorld, Snapshots, norm_of, states_of, train_modular

LEARNED, UNDERSTOOD, HIDDEN = 0.999, 0.99, 0.15
"""Accuracy on training pairs; on held-out pairs; below which what happens is hidden from the score."""
PUBLISHED_ABOVE = 60
"""Modulus above which the published sizes are taken."""
COLUMNS = {"train_accuracy": "training_pairs", "held_out_accuracy": "held_out_pairs"}
"""Measures whose curve has another name than they."""


def world_of(gold: ToyWorlds) -> ModularWorld:
    large = gold.modulus > PUBLISHED_ABOVE
    steps = gold.steps or (20_000 if large else 3000)
    return ModularWorld(
        modulus=gold.modulus,
        train_share=gold.train_share,
        ordered=gold.ordered,
        weight_decay=gold.weight_decay,
        steps=steps,
        every=200 if large else 50,
        width=128 if large else 64,
        mlp_width=512 if large else 256,
    )


def measure(kept: Snapshots) -> list[dict[str, float]]:
    """One line a snapshot: accuracies, losses, progress measures against the frequencies of the last one."""
    p = kept.world.modulus
    answers = (np.arange(p)[:, None] + np.arange(p)) % p
    keys = fourier.key_frequencies(states_of(kept, len(kept.steps) - 1)["logits"])
    lines = []
    for number, step in enumerate(kept.steps):
        states = states_of(kept, number)
        logits = states["logits"]
        right, loss = logits.argmax(-1) == answers, fourier.losses(logits)
        lines.append(
            {
                "step": step,
                "modulus": p,
                "train_accuracy": float(right[kept.train].mean()),
                "held_out_accuracy": float(right[~kept.train].mean()),
                "train_loss": float(loss[kept.train].mean()),
                "held_out_loss": float(loss[~kept.train].mean()),
                "restricted_loss": fourier.restricted_loss(logits, keys),
                "excluded_loss": fourier.excluded_loss(logits, keys, kept.train),
                "key_share": fourier.share_of_variance(logits, keys),
                "num_keys": len(keys),
                "gini": fourier.gini_of_embeddings(kept.weights[number]["embed"][:-1].double().numpy()),
                "norm": norm_of(kept, number),
            }
        )
    return lines


@dataclass(slots=True)
class Delay:
    """What the curves of one run say; steps are None where they never came."""

    learned: int | None
    understood: int | None
    hidden_from: int | None
    """First step at which the excluded loss has made a tenth of its rise while the held-out score shows nothing."""
    verdict: str
    text: str


def judge_delay(lines: list[dict[str, float]]) -> Delay:
    """Delayed generalisation: known by heart, no better than a guess on held-out pairs, and right on them much later."""
    modulus = round(float(lines[0]["modulus"]))

    def first(name: str, border: float) -> int | None:
        return next((int(line["step"]) for line in lines if line[name] >= border), None)

    learned, understood = first("train_accuracy", LEARNED), first("held_out_accuracy", UNDERSTOOD)
    hidden = hidden_progress(lines)
    last = lines[-1]
    if learned is None:
        text = say("not_learned", steps=int(last["step"]), accuracy=last["train_accuracy"])
        return Delay(None, understood, hidden, "undecided", text)
    if understood is None:
        text = say(
            "no_generalisation", learned=learned, accuracy=last["held_out_accuracy"], steps=int(last["step"]),
            chance=1 / modulus, moved=say("still_moving") if still_moving(lines) else "",
        )  # fmt: skip
        return Delay(learned, None, hidden, "no_generalisation", text)
    if understood < 2 * learned:
        text = say("prompt_generalisation", learned=learned, understood=understood)
        return Delay(learned, understood, hidden, "prompt_generalisation", text)
    key = "delayed_generalisation" if hidden is not None else "delayed_unseen"
    text = say(key, hidden=hidden, learned=learned, understood=understood)
    return Delay(learned, understood, hidden, "delayed_generalisation", text)


def hidden_progress(lines: list[dict[str, float]]) -> int | None:
    """First step by which the excluded loss has made a tenth of its whole rise with the held-out score still near a guess.

    The greatest rise from a point to a later one counts: while pairs are learned by heart the loss may fall first.
    """
    losses = np.array([line["excluded_loss"] for line in lines])
    rises = losses - np.minimum.accumulate(losses)
    rise, peak = float(rises.max()), int(rises.argmax())
    lowest = int(losses[: peak + 1].argmin())
    start = losses[lowest]
    if rise <= 1.0:  # nats: less is what noise between snapshots does
        return None
    for line in lines[lowest:]:
        if line["excluded_loss"] - start >= 0.1 * rise:
            return int(line["step"]) if line["held_out_accuracy"] < HIDDEN else None
    return None


def still_moving(lines: list[dict[str, float]]) -> bool:
    """Whether the key frequencies gained weight in the last third. Excluded loss cannot say it: as long as logits grow it
    rises without weight decay as well (measured: to 11.9 at p = 53, with held-out accuracy at chance)."""
    return lines[-1]["key_share"] - lines[2 * len(lines) // 3]["key_share"] > 0.02


def shares_by_layer(kept: Snapshots, number: int) -> dict[str, float]:
    """Interaction share of each layer's states over the whole grid a x b."""
    return {name: interaction_share(state) for name, state in states_of(kept, number).items()}


def note(every: int, step: int, loss: float) -> None:
    if step % every == 0:
        console.note(f"step {step}  loss {loss:.3g}")


def explore_grokking(gold: ToyWorlds, seed: int) -> Findings:
    """Train, measure and judge `gold.seeds` runs."""
    world, runs = world_of(gold), []
    for at in range(seed, seed + gold.seeds):
        console.note(
            f"grokking: a + b mod {world.modulus}, {world.train_share:.0%} of the {'ordered' if world.ordered else 'unordered'} pairs, weight decay {world.weight_decay:g}, seed {at}"
        )
        kept = train_modular(world, at, partial(note, 500))
        lines = measure(kept)
        delay = judge_delay(lines)
        runs.append((at, lines, delay, shares_by_layer(kept, len(kept.steps) - 1)))
    sentences, limits = [], []
    for at, _, delay, shares in runs:
        where = ", ".join(f"{name} {share:.3f}" for name, share in shares.items())
        for text in (delay.text, say("interaction_by_layer", where=where)):
            sentences.append(say("of_seed", seed=at, text=text))
    if gold.seeds == 1:
        limits.append(say("one_seed"))
    block = {
        "world": {"modulus": world.modulus, "train_share": world.train_share, "ordered": world.ordered, "weight_decay": world.weight_decay, "steps": world.steps},
        "runs": [
            {
                "seed": at, "verdict": delay.verdict, "verdict_text": delay.text, "learned": delay.learned,
                "understood": delay.understood, "hidden_from": delay.hidden_from, "interaction_share": shares, "lines": lines,
            }
            for at, lines, delay, shares in runs
        ],
    }  # fmt: skip
    return Findings("gold", block, sentences, limits, exhibits_of(runs[0][1]))


def exhibits_of(lines: list[dict[str, float]]) -> list[dict[str, Any]]:
    def drawn(title: str, unit: str, *names: str) -> dict[str, Any]:
        return chart(say(title), lines, {name: say(COLUMNS.get(name, name)) for name in names}, say(unit))

    return [
        drawn("right_answers", "share", "train_accuracy", "held_out_accuracy"),
        drawn("hidden_progress", "nats", "excluded_loss", "restricted_loss"),
        drawn("key_frequencies", "share", "key_share", "gini"),
    ]
