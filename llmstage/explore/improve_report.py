"""An improvement as before_after.json, sentences, and tables of the report."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from llmstage.config.explore_improve import ImproveConfig
from llmstage.explore.candidates import Candidate, Outcome
from llmstage.explore.findings import Findings
from llmstage.explore.guard import Family, Mask, Scores, gain
from llmstage.explore.matching import words_of
from llmstage.explore.stats import Difference, mcnemar
from llmstage.explore.wording import headings, named, say
from llmstage.report.files import write_json


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
        "improvement", block, sentences(outcome, best), limits(outcome), list(report_items(outcome, best)),
        None if outcome.chosen else say("old_stays_see", reason=reason(outcome), path=out_dir / "report.html"),
    )  # fmt: skip


def reason(outcome: Outcome) -> str:
    """Why a model was promoted, or why none was."""
    if outcome.chosen is not None:
        return say("improved", name=outcome.chosen.name)
    why = say("semicolon").join(named(one.name, one.why_not) for one in outcome.candidates)
    refused = all(not one.guard.passed for one in outcome.candidates)
    return say("guard_refused" if refused else "none_passed", why=why)


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
        "mcnemar_p": changed_by_luck(outcome.before, one.scores, mask),
        "more_of_same_gain": interval(drift) if drift is not None else None,
        "gain_over_more_of_same": interval(over) if over is not None else None,
    }


def changed_by_luck(before: Scores, after: Scores, mask: Mask) -> float | None:
    """McNemar's exact p-value of as many rows becoming right as wrong; None where rows are not just right or wrong."""
    old, new = before.errors[mask], after.errors[mask]
    if not len(old) or not np.isin(np.concatenate([old, new]), (0, 1)).all():
        return None
    return mcnemar(old == 0, new == 0)


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
        made.append(say("old_stays", reason=capital(reason(outcome))))
    for one, mask in zip(outcome.slices, outcome.masks, strict=True):
        row = compared(outcome, best, mask)
        if row["before"] is None:
            continue
        same, p = row["more_of_same"], row["mcnemar_p"]
        made.append(
            say(
                "slice_gained", slice=words_of(one["slice"]), metric=outcome.metric.name, before=row["before"], after=row["after"],
                name=best.name, gain=ends(row["gain"]), n=row["n"], mcnemar="" if p is None else say("mcnemar", p=p),
                beside="" if same is None else say("control_beside", same=same),
            )
        )  # fmt: skip
    if best.guard.passed:
        lost = [
            say("family_kept", name=one.name, change=change_of(one), n=one.n, margin=one.margin)
            for one in best.guard.families
        ]
        if lost:
            made.append(say("nothing_lost", families=say("semicolon").join(lost)))
        loss = best.guard.lm_loss
        if loss is not None:
            made.append(say("loss_changed", rise=loss["rise"], limit=loss["limit"]))
    if outcome.structure:
        made.append(outcome.structure)
    return made


def ends(one: dict[str, float]) -> str:
    """`+0.812 [+0.774, +0.850]`"""
    return f"{one['value']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]"


def change_of(one: Family) -> str:
    return f"{one.change:+.4f} [{one.low:+.4f}, {one.high:+.4f}]"


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def limits(outcome: Outcome) -> list[str]:
    made = list(outcome.notes)
    undecided = [item for one in outcome.candidates for item in one.guard.families if item.undecided]
    made += dict.fromkeys(say("more_rows_decide", name=item.name, why=item.why) for item in undecided)
    return made


def report_items(outcome: Outcome, best: Candidate) -> Any:
    """Before and after with control, the guard, and all that was tried."""
    number = lambda value: "–" if value is None else f"{value:.3f}"  # noqa: E731
    spread = lambda one: "–" if one is None else ends(one)  # noqa: E731
    luck = lambda p: "–" if p is None else f"{p:.2g}"  # noqa: E731
    rows = []
    for one, mask in zip(outcome.slices, outcome.masks, strict=True):
        row = compared(outcome, best, mask)
        rows.append(
            [words_of(one["slice"]), str(row["n"]), number(row["before"]), number(row["after"]), number(row["more_of_same"]),
             spread(row["gain"]), luck(row["mcnemar_p"]), spread(row["gain_over_more_of_same"])]
        )  # fmt: skip
    rest = np.logical_or.reduce(list(outcome.families.values()))
    row = compared(outcome, best, rest)
    rows.append(
        [say("all_other_rows"), str(row["n"]), number(row["before"]), number(row["after"]), number(row["more_of_same"]),
         spread(row["gain"]), luck(row["mcnemar_p"]), spread(row["gain_over_more_of_same"])]
    )  # fmt: skip
    yield {
        "kind": "table", "title": say("before_after_title", metric=outcome.metric.name),
        "columns": headings("before_after_columns", name=best.name),
        "rows": rows,
    }  # fmt: skip
    yield {
        "kind": "table", "title": say("guard_title"), "columns": headings("guard_columns"),
        "rows": [
            [one.name, str(one.n), change_of(one), f"{one.margin:.3f}", f"{one.p_holm:.3g}",
             say("passed") if one.passed else one.why]
            for one in best.guard.families
        ] + ([[say("guard_loss"), "", f"{best.guard.lm_loss['rise']:+.4f}", f"{best.guard.lm_loss['limit']:g}", "",
               say("passed" if best.guard.lm_loss["passed"] else "refused")]] if best.guard.lm_loss else []),
    }  # fmt: skip
    yield {
        "kind": "table", "title": say("tried_title"), "columns": headings("tried_columns"),
        "rows": [
            [say("pilot", share=one["share"]), f"{one['share']:g}", f"{one['gain']:+.3f}", f"{-one['lost']:+.3f}",
             say("pilot_taken" if one["chosen"] else "pilot_admissible" if one["admissible"] else "pilot_loses")]
            for one in outcome.pilots
        ] + [
            [one.name, f"{one.share:g}", number(value_of(outcome, one.scores, outcome.weak)),
             number(value_of(outcome, one.scores, rest)), say("promoted") if one is outcome.chosen else one.why_not or say("passed")]
            for one in outcome.candidates
        ],
    }  # fmt: skip
