"""Keys of stage=explore for ladders of models, toy worlds with a known mechanism, and reduction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from llmstage.config.key_conditions import ReadBy, RunFacts
from llmstage.config.typed import AT_LEAST_1, NOT_NEGATIVE, Range


def _where(holds: Callable[[Any], bool], reason: str) -> ReadBy:
    """Return the condition that `holds` is true of the stage's config."""
    return ReadBy(lambda run: None if holds(run.stage) else reason)


AUTO = _where(lambda stage: stage.ladder.kind == "auto", "only stage.ladder.kind=auto trains a ladder")
LADDER = _where(lambda stage: stage.ladder.given, "no ladder is given: stage.ladder.runs, models or kind=auto")
GOLD = _where(lambda stage: stage.toy_worlds.kind != "none", "stage.toy_worlds.kind=none")
GROKKING = _where(lambda stage: stage.toy_worlds.kind == "grokking", "stage.toy_worlds.kind is not grokking")
INDUCTION = _where(lambda stage: stage.toy_worlds.kind == "induction", "stage.toy_worlds.kind is not induction")


@dataclass(slots=True)
class Ladder:
    """Models or checkpoints in order of scale or training."""

    kind: Literal["none", "auto"] = "none"
    """auto: train a ladder on the items of stage.probes, sizes x seeds x checkpoints, in <run>/ladder; the same
    command with hydra.run.dir=<run> resumes it. none: use only runs and models."""
    runs: str | list[str] | None = None
    """Run folders or checkpoints of llmstage; globs are allowed: 'runs/size-*/checkpoints/step_*'."""
    models: list[str] = field(default_factory=list)
    """Hugging Face directories or hub ids; their sizes are read from the weights."""
    sizes: Annotated[list[Literal["xs", "s", "m", "l"]], AUTO] = field(default_factory=lambda: ["xs", "s", "m"])
    """auto: xs has 1 layer of width 32, s 2 of 64, m 4 of 128, l 6 of 256."""
    seeds: Annotated[int, AT_LEAST_1, AUTO] = 3
    """auto: runs of each size."""
    checkpoints: Annotated[int, Range(2, 1000), AUTO] = 12
    """auto: checkpoints of each run, at steps evenly spaced in their logarithm, from a twentieth of the run on,
    because before it the learning rate still rises."""
    steps: Annotated[int, AT_LEAST_1, AUTO] = 600
    """auto: optimizer steps of each run."""
    x: Annotated[Literal["lm_loss", "params", "tokens", "flops", "steps"], LADDER] = "lm_loss"
    """Axis of the verdicts: held-out loss on one corpus, or a measure of size."""

    @property
    def given(self) -> bool:
        """Return whether there is a ladder."""
        return self.kind == "auto" or bool(self.runs) or bool(self.models)


@dataclass(slots=True)
class ToyWorlds:
    """Small training problems with a known phase change: whether this stage detects it."""

    kind: Literal["none", "grokking", "induction"] = "none"
    """grokking: addition modulo a prime, which generalises long after the training pairs are memorised; induction:
    repeated random tokens, and the heads that copy them."""
    seeds: Annotated[int, AT_LEAST_1, GOLD] = 1
    """Runs, each with its own weights and data."""
    steps: Annotated[int, AT_LEAST_1, GOLD] | None = None
    """Optimizer steps; null: 3,000 for grokking (20,000 above modulus 60), 800 for induction."""
    modulus: Annotated[int, Range(5, 211), GROKKING] = 53
    """grokking: the prime p of a + b mod p; above 60 the sizes of the published model are used (113 takes a quarter of
    an hour or more)."""
    train_share: Annotated[float, Range(0, 1, open_low=True, open_high=True), GROKKING] = 0.8
    """grokking: share of the pairs to train on. With 0.7 of the unordered pairs it takes 1,000 to more than 5,000
    steps, depending on the seed."""
    ordered: Annotated[bool, GROKKING] = False
    """grokking: split ordered pairs, as the papers did (modulus=113 train_share=0.3). Then part of the held-out pairs
    have their mirror image in training, and some are right before the model generalises."""
    weight_decay: Annotated[float, NOT_NEGATIVE, GROKKING] = 1.0
    """grokking: 0 is the control that never generalises."""
    layers: Annotated[int, Range(1, 8), INDUCTION] = 2
    """induction: attention layers; 1 is the control in which no induction head can form."""
    grow: Annotated[bool, INDUCTION] = False
    """induction: where the plan asks for depth, as it does for the control, add a layer below that is the identity at
    first, and train as many steps again."""


@dataclass(slots=True)
class Reduce:
    """Explanation of a score by its parts."""

    skills: bool = True
    """Compare composite items with the product of their parts (items with `parts`)."""
    additive: bool = True
    """By layer, the share of a hidden state that is a sum over its words, and the share that depends on their
    combination."""
    heads: Literal["auto", "on", "off"] = "auto"
    """Previous-token and induction heads, each ablated in turn; auto: decoders of up to 50 M parameters."""
    lens: bool = True
    """By layer, rank and probability of the answer if the model ended there (logit lens)."""
    info: bool = False
    """Partial information decomposition of answers over the outcomes of the sub-skills, in bits (items with two
    parts)."""


def check_ladder(ladder: Ladder, gold: ToyWorlds, probes: list[str], run: RunFacts) -> list[str]:
    """Return complaints about ladders and toy worlds."""
    complaints = []
    p = gold.modulus
    if any(p % factor == 0 for factor in range(2, int(p**0.5) + 1)):
        near = next(n for n in range(p + 1, 2 * p) if all(n % k for k in range(2, int(n**0.5) + 1)))
        complaints.append(
            f"stage.toy_worlds.modulus={p} is no prime, and its waves would not be apart. Next prime: {near}."
        )
    if gold.grow and gold.kind == "induction" and gold.layers > 1:
        complaints.append(
            "stage.toy_worlds.grow=true adds a layer to the control that has one: add stage.toy_worlds.layers=1."
        )
    if ladder.kind == "auto" and (ladder.runs or ladder.models):
        complaints.append("stage.ladder.kind=auto trains a ladder of its own; leave out stage.ladder.runs and models.")
    if ladder.kind == "auto" and len(set(ladder.sizes)) < len(ladder.sizes):
        complaints.append(f"stage.ladder.sizes={ladder.sizes} names a size twice.")
    if ladder.kind == "auto" and ladder.checkpoints > ladder.steps:
        complaints.append(
            f"stage.ladder.checkpoints={ladder.checkpoints} are more than stage.ladder.steps={ladder.steps} steps."
        )
    if ladder.kind == "auto" and not probes:
        complaints.append("stage.ladder.kind=auto trains on the items of probe families: stage.probes=[addition].")
    if ladder.kind == "auto" and run.model.path:
        complaints.append("stage.ladder.kind=auto trains models of its own; leave out model.path.")
    return complaints
