"""Give a curve one verdict: break, metric artefact, smooth, below resolution, seed lottery, no change, or undecided.

Each verdict has a sentence and its evidence. `metric_artefact` follows Schaeffer et al. 2023 (arXiv 2304.15004): a
right-or-wrong score jumps while a continuous score of the same items does not. An undecided verdict says what a
decision would need.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats as distributions

from llmstage.config.explore_curves import Stats
from llmstage.explore.stats import below_resolution, benjamini_hochberg
from llmstage.research.curve_shapes import Comparison, compare
from llmstage.research.curves import Curve, Numbers, breakthroughness, improvement, json_number, p_of_breakthroughness
from llmstage.research.wording import figure, sentence, shape_name

MIN_FIT_POINTS = 4
"""Fewest points to which shapes are fitted."""
LOTTERY_SEEDS = 5
LOTTERY_SHARE = 0.8


@dataclass(slots=True, frozen=True)
class Rules:
    """The thresholds of a verdict; `stage.stats`."""

    delta_aicc: float = 6.0
    min_points: int = 10
    min_departure: float = 0.05
    alpha: float = 0.05
    fdr: float = 0.05
    trials: int = 1000
    seed: int = 0

    @classmethod
    def of(cls, stats: Stats, seed: int) -> Rules:
        """Return the rules of a run's config."""
        return cls(
            delta_aicc=stats.delta_aicc, min_points=stats.min_points, min_departure=stats.min_departure,
            alpha=stats.alpha, fdr=stats.fdr, trials=stats.bootstrap, seed=seed,
        )  # fmt: skip

    def prefer_break(self, comparison: Comparison) -> bool:
        """Whether the broken shape fits so much better, and differs so much from the smooth one, that the curve may be
        called broken."""
        return comparison.delta_aicc > self.delta_aicc and comparison.departure >= self.min_departure


@dataclass(slots=True)
class Verdict:
    """The outcome of one curve."""

    name: str
    text: str
    evidence: dict[str, Any] = field(default_factory=dict)


def judge(
    curve: Curve,
    rules: Rules,
    *,
    continuous: Curve | None = None,
    sharp: bool = False,
    chance: float | None = None,
    parts: tuple[float, float] | None = None,
    length: float | None = None,
    noise_of: Comparison | None = None,
) -> Verdict:
    """Return the verdict on one curve. The checks run in a fixed order, and the first that applies decides.

    `continuous`: a continuous score of the same items, on the axis where a break is tested (held-out loss where there
    is one). Without it, a `sharp` score (right or wrong) that jumps stays undecided. `chance`: the score of a uniform
    guess. `parts`: interval of the log residual over sub-skills. `length`: tokens of an answer, for the sentence.
    `noise_of`: the comparison of shapes for the curve itself, where it was computed already.
    """
    # Verdicts that need no shapes: nothing above chance, clusters of seeds, too few points.
    num = len(curve.y)
    resolution = below_chance(curve, chance, rules)
    judged = continuous if continuous is not None else curve
    if resolution is not None and (continuous is None or not improves(continuous, rules)):
        return resolution
    lottery = seed_lottery(curve)
    if num < MIN_FIT_POINTS or len(np.unique(judged.x)) < MIN_FIT_POINTS:
        if lottery is not None:
            return lottery
        more = rules.min_points - num
        return Verdict("undecided", sentence("too_few_points", num=num, least=rules.min_points, more=more), {"points": num})  # fmt: skip
    # Compare smooth and broken shapes, and measure the breakthroughness of the curve against its noise.
    comparison = compare(judged)
    noise_comparison = noise_of or (comparison if judged is curve else compare(curve))
    noise = np.sqrt(np.where(np.isfinite(curve.error), curve.error, 0.0) ** 2 + noise_comparison.smooth.scatter**2)
    b = breakthroughness(curve.y)
    b_p = p_of_breakthroughness(curve, noise, trials=rules.trials, seed=rules.seed)
    evidence = evidence_of(comparison, judged, b, b_p)
    values = {
        "axis": judged.axis, "at": figure(comparison.broken.at or 0.0), "delta": f"{comparison.delta_aicc:.1f}", "num": len(judged.y),
        "metric": curve.metric, "B": figure(b) if math.isfinite(b) else "∞", "p": f"{b_p:.3f}" if b_p >= 0.001 else "< 0.001",
    }  # fmt: skip
    has_break = rules.prefer_break(comparison)
    if comparison.smooth.name == "flat" and not has_break and is_constant(judged, rules):
        return Verdict("no_change", sentence("no_change", **values), evidence)
    if lottery is not None:
        return Verdict(lottery.name, lottery.text, {**evidence, **lottery.evidence})
    if num < rules.min_points:
        text = sentence("too_few_points", num=num, least=rules.min_points, more=rules.min_points - num)
        return Verdict("undecided", text, evidence)
    if has_break:
        return judge_break(parts, values, evidence, testable=not sharp or continuous is not None)
    # The curve is smooth. A right-or-wrong score that still jumps is an artefact of its metric.
    note = ""
    if comparison.delta_aicc > rules.delta_aicc:
        note = " " + sentence("slight_bend", share=f"{comparison.departure:.1%}", **values)
    if sharp and continuous is not None and b_p < rules.alpha:
        key = "metric_artefact" if length is None else "metric_artefact_length"
        return Verdict("metric_artefact", sentence(key, length=figure(length or 0), **values) + note, evidence)
    key = "smooth_continuous" if continuous is not None or not sharp else "smooth"
    return Verdict("smooth", sentence(key, shape=shape_name(comparison.smooth.name), **values) + note, evidence)


def judge_break(
    parts: tuple[float, float] | None, values: dict[str, Any], evidence: dict[str, Any], *, testable: bool
) -> Verdict:
    """Judge a curve that breaks: undecided without a continuous score, explained by its parts, or a break."""
    if not testable:
        return Verdict("undecided", sentence("no_continuous", **values), {**evidence, "open": "no_continuous"})
    if parts is not None and parts[0] <= 0 <= parts[1]:
        text = sentence("explained_by_parts", low=figure(parts[0]), high=figure(parts[1]), **values)
        return Verdict("explained_by_parts", text, {**evidence, "parts": list(parts)})
    return Verdict("break", sentence("break", **values), evidence)


def evidence_of(comparison: Comparison, judged: Curve, b: float, b_p: float) -> dict[str, Any]:
    """Return the numbers behind a verdict."""
    extra_parameters = max(1, comparison.broken.num_parameters - comparison.smooth.num_parameters)
    ratio = max(0.0, comparison.smooth.loss - comparison.broken.loss)
    return {
        "points": len(judged.y), "axis": judged.axis, "delta_aicc": json_number(comparison.delta_aicc), "smooth": comparison.smooth.name,
        "broken": comparison.broken.name, "break_at": comparison.broken.at, "departure": comparison.departure, "scatter": comparison.smooth.scatter,
        # The free position of the break counts as one more parameter.
        "p_break": float(distributions.chi2.sf(ratio, extra_parameters + 1)), "B": json_number(b), "B_p": b_p,
    }  # fmt: skip


def below_chance(curve: Curve, chance: float | None, rules: Rules) -> Verdict | None:
    """Return `below_resolution` where no point is clearly above chance; None where one is, or where chance or errors
    are unknown."""
    if chance is None or not np.isfinite(curve.error).all() or not len(curve.y):
        return None
    best = int(np.argmax(curve.y))
    if chance == 0:
        if curve.items is None or curve.y[best] >= 3 / curve.items:
            return None
        hits = round(float(curve.y[best]) * curve.items)
        seen = below_resolution(hits, curve.items)
        text = sentence("below_resolution", seen=seen, items=curve.items, chance=0)
        return Verdict("below_resolution", text, {"points": len(curve.y), "hits": hits, "items": curve.items, "chance": 0.0})  # fmt: skip
    z = (curve.y - chance) / np.maximum(curve.error, 1e-12)
    # The best of n points exceeds chance by luck more often than a single point: Bonferroni over the points.
    if z.max() >= distributions.norm.isf(rules.alpha / len(z)):
        return None
    text = sentence(
        "below_resolution_unknown", chance=figure(chance), best=figure(curve.y[best]), z=f"{z[best]:+.1f}"
    )  # fmt: skip
    return Verdict("below_resolution", text, {"points": len(curve.y), "best_z": float(z.max()), "chance": chance})


def is_constant(curve: Curve, rules: Rules) -> bool:
    """Whether the curve may be called constant. On few points AICc always prefers a constant, so there the errors
    decide; without errors the answer is no."""
    if len(curve.y) >= rules.min_points:
        return True
    if not np.isfinite(curve.error).all() or (curve.error <= 0).any():
        return False
    variance = curve.error**2 + (curve.seed_sd or 0.0) ** 2
    middle = np.average(curve.y, weights=1 / variance)
    return bool(distributions.chi2.sf(((curve.y - middle) ** 2 / variance).sum(), len(curve.y) - 1) >= rules.alpha)


def improves(curve: Curve, rules: Rules) -> bool:
    """Whether a continuous score changes at all."""
    if len(np.unique(curve.x)) < MIN_FIT_POINTS:
        return improvement(curve.y) != 0
    comparison = compare(curve)
    return comparison.smooth.name != "flat" or rules.prefer_break(comparison)


def seed_lottery(curve: Curve) -> Verdict | None:
    """Return `seed_lottery` where the final scores form two clusters of two seeds or more that explain over 80 % of the
    variance (arXiv 2502.17356)."""
    if len(curve.finals) < LOTTERY_SEEDS:
        return None
    ordered = np.sort(np.asarray(curve.finals, dtype=np.float64))
    total_squares = float(((ordered - ordered.mean()) ** 2).sum())
    if total_squares == 0:
        return None
    shares = {
        cut: 1 - within_squares(ordered[:cut], ordered[cut:]) / total_squares for cut in range(2, len(ordered) - 1)
    }
    cut = max(shares, key=lambda index: shares[index])
    # The best split of a normal distribution explains 64 % of the variance, and of a few draws often more. So the
    # clusters must also be separated by half of the range.
    gap, error = ordered[cut] - ordered[cut - 1], float(np.nan_to_num(curve.error[-1:]).sum())
    if shares[cut] <= LOTTERY_SHARE or gap <= 2 * error or gap <= 0.5 * float(np.ptp(ordered)):
        return None
    high = len(ordered) - cut
    evidence = {"seeds": len(ordered), "succeed": high, "share_between": shares[cut], "finals": ordered.tolist()}
    return Verdict("seed_lottery", sentence("seed_lottery", high=high, num=len(ordered)), evidence)


def within_squares(low: Numbers, high: Numbers) -> float:
    """Return the sum of squares within two clusters."""
    return float(((low - low.mean()) ** 2).sum() + ((high - high.mean()) ** 2).sum())


def correct(verdicts: Sequence[Verdict], rules: Rules) -> None:
    """Set breaks that do not survive Benjamini-Hochberg over all curves of a report to undecided, in place."""
    tested = [verdict for verdict in verdicts if "p_break" in verdict.evidence]
    for verdict, q in zip(tested, benjamini_hochberg([verdict.evidence["p_break"] for verdict in tested]), strict=True):
        verdict.evidence["q_break"] = float(q)
        if verdict.name == "break" and q >= rules.fdr:
            delta = verdict.evidence["delta_aicc"]
            verdict.name = "undecided"
            verdict.text = sentence(
                "not_replicated", axis=verdict.evidence["axis"], at=figure(verdict.evidence["break_at"]),
                delta=f"{float(delta):.1f}", families=len(tested), q=f"{q:.2f}",
            )  # fmt: skip


def agree(verdicts: Sequence[Verdict], directions: Sequence[float], rules: Rules) -> None:
    """Set a break to undecided, in place, where fewer than two thirds of the models or seeds of a score share it in the
    same direction."""
    broken = [sign for verdict, sign in zip(verdicts, directions, strict=True) if verdict.name == "break"]
    if len(verdicts) < 3 or not broken:
        return
    same = max(sum(sign > 0 for sign in broken), sum(sign < 0 for sign in broken))
    if 3 * same >= 2 * len(verdicts):
        return
    for verdict in verdicts:
        if verdict.name == "break":
            delta = verdict.evidence["delta_aicc"]
            verdict.name = "undecided"
            verdict.text = sentence(
                "not_agreed", axis=verdict.evidence["axis"], at=figure(verdict.evidence["break_at"]),
                delta=f"{float(delta):.1f}", same=same, models=len(verdicts),
            )  # fmt: skip
