"""Keys of stage=explore about ladders of models, worlds with a known mechanism, and reduction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from llmstage.config.key_conditions import ReadBy, RunFacts
from llmstage.config.typed import AT_LEAST_1, NOT_NEGATIVE, Range


def _where(holds: Callable[[Any], bool], reason: str) -> ReadBy:
    """Read only where `holds` of the stage's config."""
    return ReadBy(lambda run: None if holds(run.stage) else reason)


AUTO = _where(lambda stage: stage.ladder.kind == "auto", "only stage.ladder.kind=auto trains a ladder")
LADDER = _where(lambda stage: stage.ladder.given, "no ladder is given: stage.ladder.runs, models or kind=auto")
GOLD = _where(lambda stage: stage.toy_worlds.kind != "none", "stage.toy_worlds.kind=none")
GROKKING = _where(lambda stage: stage.toy_worlds.kind == "grokking", "stage.toy_worlds.kind is not grokking")
INDUCTION = _where(lambda stage: stage.toy_worlds.kind == "induction", "stage.toy_worlds.kind is not induction")


@dataclass(slots=True)
class Ladder:
    """Models or checkpoints ordered by scale or training."""

    kind: Literal["none", "auto"] = "none"
    """auto: train one on the spot on the items of stage.probes, sizes x seeds x checkpoints, under <run>/ladder; the same
    command with hydra.run.dir=<run> goes on where it stopped. none: only what runs and models name."""
    runs: str | list[str] | None = None
    """Run folders or checkpoints of llmstage, patterns allowed: 'runs/size-*/checkpoints/step_*'."""
    models: list[str] = field(default_factory=list)
    """Hugging Face directories or hub ids; their sizes are read off the weights."""
    sizes: Annotated[list[Literal["xs", "s", "m", "l"]], AUTO] = field(default_factory=lambda: ["xs", "s", "m"])
    """Of an auto ladder: xs 1 layer of width 32, s 2 of 64, m 4 of 128, l 6 of 256."""
    seeds: Annotated[int, AT_LEAST_1, AUTO] = 3
    """Runs of each size of an auto ladder."""
    checkpoints: Annotated[int, Range(2, 1000), AUTO] = 12
    """Rungs of each run of an auto ladder, at steps spaced evenly in their logarithm, from a twentieth of the run on: before it the
    rate still climbs."""
    steps: Annotated[int, AT_LEAST_1, AUTO] = 600
    """Optimizer steps of each run of an auto ladder."""
    x: Annotated[Literal["lm_loss", "params", "tokens", "flops", "steps"], LADDER] = "lm_loss"
    """Axis on which verdicts are given: held-out loss on one corpus, or a size."""

    @property
    def given(self) -> bool:
        return self.kind == "auto" or bool(self.runs) or bool(self.models)


@dataclass(slots=True)
class ToyWorlds:
    """Worlds whose phase change is understood: whether this stage sees what is there."""

    kind: Literal["none", "grokking", "induction"] = "none"
    """grokking: addition modulo a prime, generalised long after it was learned by heart; induction: repeated random tokens
    and the heads that copy them."""
    seeds: Annotated[int, AT_LEAST_1, GOLD] = 1
    """Runs, each with its own weights and data."""
    steps: Annotated[int, AT_LEAST_1, GOLD] | None = None
    """Optimizer steps; null: 3,000 for grokking (20,000 above modulus 60), 800 for induction."""
    modulus: Annotated[int, Range(5, 211), GROKKING] = 53
    """grokking: the prime p of a + b mod p; above 60 the sizes of the published model are taken (113 takes a quarter of an hour and more)."""
    train_share: Annotated[float, Range(0, 1, open_low=True, open_high=True), GROKKING] = 0.8
    """grokking: share of the pairs that is trained on. With 0.7 of the unordered ones it takes 1,000 to more than 5,000 steps, by seed."""
    ordered: Annotated[bool, GROKKING] = False
    """grokking: split ordered pairs, as the papers did (modulus=113 train_share=0.3). Part of the held-out pairs then have their mirror
    image in training, so that some are right before anything is understood."""
    weight_decay: Annotated[float, NOT_NEGATIVE, GROKKING] = 1.0
    """grokking: 0 is the control that never generalises."""
    layers: Annotated[int, Range(1, 8), INDUCTION] = 2
    """induction: attention layers; 1 is the control in which no induction head can form."""
    grow: Annotated[bool, INDUCTION] = False
    """induction: where the plan asks for depth, as it does for the control, add a layer below that changes nothing at first and
    train as many steps again."""


@dataclass(slots=True)
class Reduce:
    """Explaining a score by its parts."""

    skills: bool = True
    """Compare composite items with the product of their parts (items with `parts`)."""
    additive: bool = True
    """By layer, how much of a state is the sum of its words, and how much stands in their combination."""
    heads: Literal["auto", "on", "off"] = "auto"
    """Previous-token and induction heads, each taken out in turn; auto: decoders of up to 50 M parameters."""
    lens: bool = True
    """By layer, rank and probability of the answer if the model ended there (logit lens)."""
    info: bool = False
    """Partial information decomposition of answers over the sub-skills' outcomes, in bits (items with two parts)."""


def check_ladder(ladder: Ladder, gold: ToyWorlds, probes: list[str], run: RunFacts) -> list[str]:
    """Complaints about ladders and known worlds, before anything is imported."""
    wrong = []
    p = gold.modulus
    if any(p % factor == 0 for factor in range(2, int(p**0.5) + 1)):
        near = next(n for n in range(p + 1, 2 * p) if all(n % k for k in range(2, int(n**0.5) + 1)))
        wrong.append(f"stage.toy_worlds.modulus={p} is no prime, and its waves would not be apart. Next prime: {near}.")
    if gold.grow and gold.kind == "induction" and gold.layers > 1:
        wrong.append(
            "stage.toy_worlds.grow=true adds a layer to the control that has one: add stage.toy_worlds.layers=1."
        )
    if ladder.kind == "auto" and (ladder.runs or ladder.models):
        wrong.append("stage.ladder.kind=auto trains a ladder of its own; leave out stage.ladder.runs and models.")
    if ladder.kind == "auto" and len(set(ladder.sizes)) < len(ladder.sizes):
        wrong.append(f"stage.ladder.sizes={ladder.sizes} names a size twice.")
    if ladder.kind == "auto" and ladder.checkpoints > ladder.steps:
        wrong.append(
            f"stage.ladder.checkpoints={ladder.checkpoints} are more than stage.ladder.steps={ladder.steps} steps."
        )
    if ladder.kind == "auto" and not probes:
        wrong.append("stage.ladder.kind=auto trains on the items of probe families: stage.probes=[addition].")
    if ladder.kind == "auto" and run.model.path:
        wrong.append("stage.ladder.kind=auto trains models of its own; leave out model.path.")
    return wrong
