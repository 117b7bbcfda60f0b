"""Write an improvement as before_after.json, sentences, and tables of the report."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from llmstage.config.explore_improve import ImproveConfig
from llmstage.explore.candidates import Candidate, ImprovementResult
from llmstage.explore.findings import Findings
from llmstage.explore.guard import Guard, Mask, RowGroup, Scores, gain
from llmstage.explore.matching import words_of
from llmstage.explore.stats import Difference, mcnemar
from llmstage.explore.wording import headings, named, sentence
from llmstage.report.files import write_json


def findings_of(keys: ImproveConfig, out_dir: Path, result: ImprovementResult) -> Findings:
    """Write before_after.json, and return the findings of the part `improvement`."""
    best = result.chosen or result.candidates[0]
    block = {
        "schema": 1,
        "promoted": result.chosen is not None,
        "candidate": best.name,
        "model": str(out_dir / "improved") if result.chosen else None,
        "reason": reason(result),
        "metric": result.metric.name,
        "higher_is_better": result.metric.share,
        "steps": result.steps,
        "weak": before_after(result, best, result.weak),
        "slices": [
            {"slice": weakness["slice"], **before_after(result, best, mask)}
            for weakness, mask in zip(result.slices, result.masks, strict=True)
        ],
        "guard": best.guard.as_dict(),
        "pilots": result.pilots,
        "candidates": [candidate_block(result, candidate) for candidate in result.candidates],
        "structure": result.structure or None,
    }
    write_json(out_dir / "before_after.json", block)
    return Findings(
        "improvement", block, sentences(result, best), limits(result), list(report_items(result, best)),
        None if result.chosen else sentence("old_stays_see", reason=reason(result), path=out_dir / "report.html"),
    )  # fmt: skip


def reason(result: ImprovementResult) -> str:
    """Return why a model was promoted, or why none was."""
    if result.chosen is not None:
        return sentence("improved", name=result.chosen.name)
    why = sentence("semicolon").join(named(candidate.name, candidate.why_not) for candidate in result.candidates)
    refused = all(not candidate.guard.passed for candidate in result.candidates)
    return sentence("guard_refused" if refused else "none_passed", why=why)


def value_of(result: ImprovementResult, scores: Scores | None, mask: Mask) -> float | None:
    """Return the score of a mask of rows, in the metric of the reader."""
    return result.metric.score(float(np.mean(scores.errors[mask]))) if scores is not None and mask.any() else None


def before_after(result: ImprovementResult, candidate: Candidate, mask: Mask) -> dict[str, Any]:
    """Return the scores before, after and of the control on a mask of rows, with the gains."""
    won = gain(result.before.errors, candidate.scores.errors, mask)
    over = gain(result.control.errors, candidate.scores.errors, mask) if result.control is not None else None
    drift = gain(result.before.errors, result.control.errors, mask) if result.control is not None else None
    return {
        "n": int(mask.sum()),
        "before": value_of(result, result.before, mask),
        "after": value_of(result, candidate.scores, mask),
        "more_of_same": value_of(result, result.control, mask),
        "gain": interval(won),
        "mcnemar_p": mcnemar_p(result.before, candidate.scores, mask),
        "more_of_same_gain": interval(drift) if drift is not None else None,
        "gain_over_more_of_same": interval(over) if over is not None else None,
    }


def mcnemar_p(before: Scores, after: Scores, mask: Mask) -> float | None:
    """Return McNemar's exact p-value of the rows that changed; None where errors are not 0 or 1."""
    old, new = before.errors[mask], after.errors[mask]
    if not len(old) or not np.isin(np.concatenate([old, new]), (0, 1)).all():
        return None
    return mcnemar(old == 0, new == 0)


def interval(difference: Difference) -> dict[str, float]:
    """Return the JSON object of a difference."""
    return {"value": difference.value, "low": difference.low, "high": difference.high}


def candidate_block(result: ImprovementResult, candidate: Candidate) -> dict[str, Any]:
    """Return the JSON object of a candidate."""
    rest = np.logical_or.reduce(list(result.families.values()))
    guard = candidate.guard
    return {
        "name": candidate.name, "share": candidate.share, "weak": value_of(result, candidate.scores, result.weak),
        "rest": value_of(result, candidate.scores, rest), "gain": interval(candidate.gain), "guard_passed": guard.passed,
        "why_not": candidate.why_not or None, "chosen": candidate is result.chosen,
        "families": [asdict(group) for group in guard.families], "lm_loss": guard.lm_loss,
    }  # fmt: skip


def sentences(result: ImprovementResult, best: Candidate) -> list[str]:
    """Return the main results, the most important first."""
    lines = []
    if result.chosen is None:
        lines.append(sentence("old_stays", reason=capital(reason(result))))
    # The gain of each slice, then what nothing else lost.
    for weakness, mask in zip(result.slices, result.masks, strict=True):
        row = before_after(result, best, mask)
        if row["before"] is None:
            continue
        same, p = row["more_of_same"], row["mcnemar_p"]
        lines.append(
            sentence(
                "slice_gained", slice=words_of(weakness["slice"]), metric=result.metric.name, before=row["before"],
                after=row["after"],
                name=best.name, gain=with_ends(row["gain"]), n=row["n"], mcnemar="" if p is None else sentence("mcnemar", p=p),
                beside="" if same is None else sentence("control_note", same=same),
            )
        )  # fmt: skip
    if best.guard.passed:
        lost = [
            sentence("group_unchanged", name=group.name, change=change_of(group), n=group.n, margin=group.margin)
            for group in best.guard.families
        ]
        if lost:
            lines.append(sentence("nothing_lost", families=sentence("semicolon").join(lost)))
        loss = best.guard.lm_loss
        if loss is not None:
            lines.append(sentence("loss_changed", rise=loss["rise"], limit=loss["limit"]))
    if result.structure:
        lines.append(result.structure)
    return lines


def with_ends(values: dict[str, float]) -> str:
    """Return `+0.812 [+0.774, +0.850]`."""
    return f"{values['value']:+.3f} [{values['low']:+.3f}, {values['high']:+.3f}]"


def change_of(group: RowGroup) -> str:
    """Return the change of a row group with its interval."""
    return f"{group.change:+.4f} [{group.low:+.4f}, {group.high:+.4f}]"


def capital(text: str) -> str:
    """Return a text with a capital first letter."""
    return text[:1].upper() + text[1:]


def limits(result: ImprovementResult) -> list[str]:
    """Return the notes, and the row groups that have too few rows."""
    lines = list(result.notes)
    undecided = [group for candidate in result.candidates for group in candidate.guard.families if group.undecided]
    lines += dict.fromkeys(sentence("more_rows_decide", name=group.name, why=group.why) for group in undecided)
    return lines


def report_items(result: ImprovementResult, best: Candidate) -> Any:
    """Yield the tables of report.html: before and after with the control, the guard, and all that was tried."""
    rest = np.logical_or.reduce(list(result.families.values()))
    yield before_after_table(result, best, rest)
    yield guard_table(best.guard)
    yield tried_table(result, rest)


def number(value: float | None) -> str:
    """Return a score with three digits; a dash for None."""
    return "–" if value is None else f"{value:.3f}"


def before_after_table(result: ImprovementResult, best: Candidate, rest: Mask) -> dict[str, Any]:
    """Return the table of each slice and of all other rows, before and after."""

    def cells(name: str, mask: Mask) -> list[str]:
        row = before_after(result, best, mask)
        p, over = row["mcnemar_p"], row["gain_over_more_of_same"]
        return [
            name, str(row["n"]), number(row["before"]), number(row["after"]), number(row["more_of_same"]),
            with_ends(row["gain"]), "–" if p is None else f"{p:.2g}", "–" if over is None else with_ends(over),
        ]  # fmt: skip

    rows = [
        cells(words_of(weakness["slice"]), mask) for weakness, mask in zip(result.slices, result.masks, strict=True)
    ]
    rows.append(cells(sentence("all_other_rows"), rest))
    return {
        "kind": "table", "title": sentence("before_after_title", metric=result.metric.name),
        "columns": headings("before_after_columns", name=best.name),
        "rows": rows,
    }  # fmt: skip


def guard_table(guard: Guard) -> dict[str, Any]:
    """Return the table of the guard: one line for each row group, and one for the loss."""
    rows = [
        [group.name, str(group.n), change_of(group), f"{group.margin:.3f}", f"{group.p_holm:.3g}",
         sentence("passed") if group.passed else group.why]
        for group in guard.families
    ]  # fmt: skip
    loss = guard.lm_loss
    if loss:
        verdict = sentence("passed" if loss["passed"] else "refused")
        rows.append([sentence("guard_loss"), "", f"{loss['rise']:+.4f}", f"{loss['limit']:g}", "", verdict])
    return {"kind": "table", "title": sentence("guard_title"), "columns": headings("guard_columns"), "rows": rows}


def tried_table(result: ImprovementResult, rest: Mask) -> dict[str, Any]:
    """Return the table of the pilots and candidates."""
    rows = [
        [sentence("pilot", share=pilot["share"]), f"{pilot['share']:g}", f"{pilot['gain']:+.3f}", f"{-pilot['lost']:+.3f}",
         sentence("pilot_taken" if pilot["chosen"] else "pilot_admissible" if pilot["admissible"] else "pilot_loses")]
        for pilot in result.pilots
    ] + [
        [candidate.name, f"{candidate.share:g}", number(value_of(result, candidate.scores, result.weak)),
         number(value_of(result, candidate.scores, rest)),
         sentence("promoted") if candidate is result.chosen else candidate.why_not or sentence("passed")]
        for candidate in result.candidates
    ]  # fmt: skip
    return {"kind": "table", "title": sentence("tried_title"), "columns": headings("tried_columns"), "rows": rows}
