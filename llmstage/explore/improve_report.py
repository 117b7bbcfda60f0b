"""An improvement as before_after.json, sentences, and tables of the report."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from llmstage.explore.candidates import Candidate, Outcome
from llmstage.explore.findings import Findings
from llmstage.explore.guard import Mask, Scores, gain
from llmstage.explore.matching import words_of
from llmstage.explore.stats import Difference
from llmstage.report.files import write_json
from llmstage.schema.explore_improve import ImproveConfig


def findings_of(keys: ImproveConfig, out_dir: Path, outcome: Outcome) -> Findings:
    """Everything in the forms that the report takes; writes before_after.json."""
    best = outcome.chosen or outcome.candidates[0]
    block = {
        "schema": 1,
        "promoted": outcome.chosen is not None,
        "candidate": best.name,
        "model": str(out_dir / "improved") if outcome.chosen else None,
        "reason": reason(outcome),
        "metric": outcome.metric.name,
        "higher_is_better": outcome.metric.share,
        "steps": outcome.steps,
        "weak": compared(outcome, best, outcome.weak),
        "slices": [
            {"slice": one["slice"], **compared(outcome, best, mask)}
            for one, mask in zip(outcome.slices, outcome.masks, strict=True)
        ],
        "guard": best.guard.as_dict(),
        "pilots": outcome.pilots,
        "candidates": [told(outcome, one) for one in outcome.candidates],
        "structure": outcome.structure or None,
    }
    write_json(out_dir / "before_after.json", block)
    return Findings(
        "improvement", block, sentences(outcome, best), limits(outcome), list(exhibits(outcome, best)),
        None if outcome.chosen else f"{reason(outcome)} The old model stays. See {out_dir / 'report.html'}.",
    )  # fmt: skip


def reason(outcome: Outcome) -> str:
    """Why a model was promoted, or why none was."""
    if outcome.chosen is not None:
        return f"improved: {outcome.chosen.name} gains on the weak slices and nothing else is lost."
    why = [f"{one.name}: {one.why_not}" for one in outcome.candidates]
    refused = all(not one.guard.passed for one in outcome.candidates)
    return f"not improved: {'guard refused' if refused else 'no candidate passed'} ({'; '.join(why)})."


def value_of(outcome: Outcome, scores: Scores | None, mask: Mask) -> float | None:
    """The score of some rows, as a reader knows the metric."""
    return outcome.metric.score(float(np.mean(scores.errors[mask]))) if scores is not None and mask.any() else None


def compared(outcome: Outcome, one: Candidate, mask: Mask) -> dict[str, Any]:
    """Before, after and control of some rows, with what was gained."""
    won = gain(outcome.before.errors, one.scores.errors, mask)
    over = gain(outcome.control.errors, one.scores.errors, mask) if outcome.control is not None else None
    drift = gain(outcome.before.errors, outcome.control.errors, mask) if outcome.control is not None else None
    return {
        "n": int(mask.sum()),
        "before": value_of(outcome, outcome.before, mask),
        "after": value_of(outcome, one.scores, mask),
        "more_of_same": value_of(outcome, outcome.control, mask),
        "gain": interval(won),
        "more_of_same_gain": interval(drift) if drift is not None else None,
        "gain_over_more_of_same": interval(over) if over is not None else None,
    }


def interval(one: Difference) -> dict[str, float]:
    return {"value": one.value, "low": one.low, "high": one.high}


def told(outcome: Outcome, one: Candidate) -> dict[str, Any]:
    rest = np.logical_or.reduce(list(outcome.families.values()))
    return {
        "name": one.name, "share": one.share, "weak": value_of(outcome, one.scores, outcome.weak),
        "rest": value_of(outcome, one.scores, rest), "gain": interval(one.gain), "guard_passed": one.guard.passed,
        "why_not": one.why_not or None, "chosen": one is outcome.chosen, "families": [asdict(item) for item in one.guard.families],
        "lm_loss": one.guard.lm_loss,
    }  # fmt: skip


def sentences(outcome: Outcome, best: Candidate) -> list[str]:
    made = []
    if outcome.chosen is None:
        made.append(f"{capital(reason(outcome))} The old model stays.")
    for one, mask in zip(outcome.slices, outcome.masks, strict=True):
        row = compared(outcome, best, mask)
        if row["before"] is None:
            continue
        won = row["gain"]
        same = row["more_of_same"]
        beside = "" if same is None else f"; as many steps on the old mix gave {same:.3f}"
        made.append(
            f"{words_of(one['slice'])}: {outcome.metric.name} {row['before']:.3f} → {row['after']:.3f} with {best.name} "
            f"({won['value']:+.3f} [{won['low']:+.3f}, {won['high']:+.3f}], n = {row['n']}){beside}."
        )
    if best.guard.passed:
        lost = [
            f"{one.name} {one.change:+.4f} [{one.low:+.4f}, {one.high:+.4f}] (n = {one.n}, a loss of {one.margin:.3f} is excluded)"
            for one in best.guard.families
        ]
        if lost:
            made.append(f"Nothing else was lost: {'; '.join(lost)}.")
        loss = best.guard.lm_loss
        if loss is not None:
            made.append(
                f"The loss of all other rows changed by {loss['rise']:+.4f} nats a token; {loss['limit']:g} may be lost."
            )
    if outcome.structure:
        made.append(outcome.structure)
    return made


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def limits(outcome: Outcome) -> list[str]:
    made = list(outcome.notes)
    undecided = [item for one in outcome.candidates for item in one.guard.families if "cannot decide" in item.why]
    made += dict.fromkeys(f"{item.name}: {item.why}. More rows in data.test would decide it." for item in undecided)
    return made


def exhibits(outcome: Outcome, best: Candidate) -> Any:
    """Before and after with control, the guard, and all that was tried."""
    number = lambda value: "–" if value is None else f"{value:.3f}"  # noqa: E731
    spread = lambda one: "–" if one is None else f"{one['value']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]"  # noqa: E731
    rows = []
    for one, mask in zip(outcome.slices, outcome.masks, strict=True):
        row = compared(outcome, best, mask)
        rows.append(
            [words_of(one["slice"]), str(row["n"]), number(row["before"]), number(row["after"]), number(row["more_of_same"]),
             spread(row["gain"]), spread(row["gain_over_more_of_same"])]
        )  # fmt: skip
    rest = np.logical_or.reduce(list(outcome.families.values()))
    row = compared(outcome, best, rest)
    rows.append(
        ["all other rows", str(row["n"]), number(row["before"]), number(row["after"]), number(row["more_of_same"]),
         spread(row["gain"]), spread(row["gain_over_more_of_same"])]
    )  # fmt: skip
    yield {
        "kind": "table", "title": f"Before and after ({outcome.metric.name})",
        "columns": ["rows", "n", "before", f"after: {best.name}", "more of the same", "gain", "gain above more of the same"],
        "rows": rows,
    }  # fmt: skip
    yield {
        "kind": "table", "title": "Guard",
        "columns": ["family", "n", "change", "loss excluded", "p (Holm)", "verdict"],
        "rows": [
            [one.name, str(one.n), f"{one.change:+.4f} [{one.low:+.4f}, {one.high:+.4f}]", f"{one.margin:.3f}", f"{one.p_holm:.3g}",
             "passed" if one.passed else one.why]
            for one in best.guard.families
        ] + ([["loss, nats a token", "", f"{best.guard.lm_loss['rise']:+.4f}", f"{best.guard.lm_loss['limit']:g}", "",
               "passed" if best.guard.lm_loss["passed"] else "refused"]] if best.guard.lm_loss else []),
    }  # fmt: skip
    yield {
        "kind": "table", "title": "What was tried",
        "columns": ["model", "share of weak rows", "weak rows", "other rows", "verdict"],
        "rows": [
            [f"pilot {one['share']:g}", f"{one['share']:g}", f"{one['gain']:+.3f}", f"{-one['lost']:+.3f}",
             "taken" if one["chosen"] else "admissible" if one["admissible"] else "loses elsewhere"]
            for one in outcome.pilots
        ] + [
            [one.name, f"{one.share:g}", number(value_of(outcome, one.scores, outcome.weak)),
             number(value_of(outcome, one.scores, rest)), "promoted" if one is outcome.chosen else one.why_not or "passed"]
            for one in outcome.candidates
        ],
    }  # fmt: skip
