"""Compositional generalisation: scores on combinations of attributes that training contained (seen) or not (unseen).

Each function takes one number for each row (1 correct, 0 wrong, or a share) and the group of the row. Rows without a group
are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmstage.evaluation.metrics.score import Score, mean, proportion, resampled_sums, wilson
from llmstage.report.formatting import label

SEEN, UNSEEN = "seen", "unseen"
"""Values of a row's `composition` column."""


def newcombe(first: float, num_first: int, second: float, num_second: int) -> tuple[float, float]:
    """Return the 95 % interval of `first - second`, two shares of `num_first` and `num_second` independent rows.

    Newcombe (1998), Statistics in Medicine 17:873-890, method 10: the Wilson intervals of both shares, combined as
    `d - sqrt((p1-l1)² + (u2-p2)²)` and `d + sqrt((u1-p1)² + (p2-l2)²)`. It is valid at 0 and 1 and for few rows.
    """
    low_first, high_first = wilson(first, num_first)
    low_second, high_second = wilson(second, num_second)
    gap = first - second
    return (
        gap - math.hypot(first - low_first, high_second - second),
        gap + math.hypot(high_first - first, second - low_second),
    )


def gap_score(first: Sequence[float], second: Sequence[float]) -> Score:
    """Return the mean of `first` minus the mean of `second`.

    The interval is Newcombe's for rows of 0 and 1, and the bootstrap over both groups for shares. There is none if a group
    has fewer than two rows or if all resamples agree.
    """
    count = len(first) + len(second)
    if not first or not second:
        return Score(math.nan)
    first_rows, second_rows = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    gap = float(first_rows.mean() - second_rows.mean())
    if is_binary(first_rows) and is_binary(second_rows):
        low, high = newcombe(float(first_rows.mean()), len(first_rows), float(second_rows.mean()), len(second_rows))
        return Score(gap, low, high, count, "newcombe", higher_is_better=False)
    if len(first_rows) < 2 or len(second_rows) < 2:
        return Score(gap, None, None, count, higher_is_better=False)
    # Different seeds: the two groups are resampled independently.
    resampled = [
        resampled_sums(rows[:, None], seed=seed)[:, 0] / len(rows)
        for seed, rows in enumerate((first_rows, second_rows))
    ]
    bounds = np.percentile(resampled[0] - resampled[1], [2.5, 97.5])
    if math.isclose(bounds[0], bounds[1], abs_tol=1e-12):
        return Score(gap, None, None, count, higher_is_better=False)
    return Score(gap, float(bounds[0]), float(bounds[1]), count, "bootstrap", higher_is_better=False)


def group_scores(name: str, correct: Sequence[float], groups: Sequence[str | None]) -> dict[str, Score]:
    """Return `<name>_seen`, `<name>_unseen` and `<name>_gap` (seen minus unseen); empty if a group is missing."""
    parts = split_rows(correct, groups)
    if SEEN not in parts or UNSEEN not in parts:
        return {}
    return {
        f"{name}_{SEEN}": group_score(parts[SEEN]),
        f"{name}_{UNSEEN}": group_score(parts[UNSEEN]),
        f"{name}_gap": gap_score(parts[SEEN], parts[UNSEEN]),
    }


def composition_item(
    name: str, correct: Sequence[float], groups: Sequence[str | None], chance: float | None = None
) -> list[dict[str, Any]]:
    """Return a bar chart of `name` over seen and unseen pairs, with a sentence about compositional generalisation.

    `chance`: the score of guessing; the sentence then also compares unseen pairs with it. Empty if no row has a seen pair
    or no row has an unseen pair.
    """
    parts = split_rows(correct, groups)
    if SEEN not in parts or UNSEEN not in parts:
        return []
    note = verdict(parts[SEEN], parts[UNSEEN], chance)
    chart = bars(f"{label(name)}: seen against unseen pairs", {group: parts[group] for group in (SEEN, UNSEEN)})
    if chance is not None:
        chart |= {"marks": [chance, chance], "mark_name": "guessing"}
    return [{**chart, "note": note}]


def question_type_items(
    name: str,
    correct: Sequence[float],
    question_types: Sequence[str | None],
    baseline: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Return a bar chart and a table of `name` by question type, the hardest last.

    `baseline`: the value by question type of a simpler method, such as the same model without the image. The chart marks it on
    the bar; the table shows the gain over it.
    """
    parts = split_rows(correct, question_types)
    if not parts:
        return []
    scores = {question_type: group_score(rows) for question_type, rows in parts.items()}
    order = sorted(parts, key=lambda question_type: (-scores[question_type].value, question_type))
    baselines = (
        {question_type: baseline[question_type] for question_type in order if question_type in baseline}
        if baseline
        else {}
    )
    chart = bars(f"{label(name)} by question type", {question_type: parts[question_type] for question_type in order})
    columns, rows = ["question type", name, "95 % interval", "rows"], []
    for question_type in order:
        score = scores[question_type]
        cells: list[Any] = [question_type, f"{score.value:.3f}", interval_text(score), f"{len(parts[question_type]):,}"]
        if baselines:
            has_baseline = question_type in baselines
            cells += (
                [f"{baselines[question_type]:.3f}", f"{score.value - baselines[question_type]:+.3f}"]
                if has_baseline
                else ["–", "–"]
            )
        rows.append(cells)
    if baselines:
        columns += ["blind", "gain"]
        chart |= {
            "marks": [baselines.get(question_type) for question_type in order],
            "mark_name": "blind (without the image)",
        }
    table = {"kind": "table", "title": f"{label(name)} by question type, in numbers", "columns": columns, "rows": rows}
    return [chart, table]


def verdict(seen: Sequence[float], unseen: Sequence[float], chance: float | None = None) -> str:
    """Return a sentence that compares unseen with seen pairs.

    Example: `Unseen pairs 0.610 [0.523, 0.690] against seen 0.930 [0.880, 0.960]: the gap of 0.320 is larger than chance explains.`
    """
    seen_score, unseen_score, gap = group_score(seen), group_score(unseen), gap_score(seen, unseen)
    sentence = f"Unseen pairs {score_text(unseen_score)} against seen {score_text(seen_score)}: "
    if seen_score.value == unseen_score.value == 0:  # no gap, but no evidence of compositional generalisation either
        return f"{sentence}never correct on either, so there is nothing to compare."
    if gap.low is None or gap.high is None:
        return f"{sentence}too few rows, or rows too similar, to measure a gap."
    interval = f"95 % interval {gap.low:.3f} to {gap.high:.3f}"
    if gap.low > 0:
        sentence += f"the gap of {gap.value:.3f} ({interval}) is larger than chance explains."
        conclusion = "The model generalises to new combinations only in part: it is better on combinations of the training split."
    elif gap.high < 0:
        sentence += (
            f"unseen pairs are better by {-gap.value:.3f} (seen minus unseen: {interval}), more than chance explains: "
        )
        sentence += "the two groups differ in something other than presence in training."
        conclusion = ""
    else:
        sentence += f"no gap that this number of rows can show (seen minus unseen {gap.value:.3f}, {interval})."
        conclusion = "The scores give no evidence against compositional generalisation."
    if chance is None:
        return sentence
    if unseen_score.low is None or unseen_score.low <= chance:
        conclusion = (
            f"Unseen pairs are not above guessing ({chance:.3f}): there is no evidence of compositional generalisation."
        )
    return f"{sentence} {conclusion}".strip()


def split_rows(correct: Sequence[float], groups: Sequence[str | None]) -> dict[str, list[float]]:
    """Return the numbers of each group, with the groups in order of first occurrence; rows without a group are left out."""
    parts: dict[str, list[float]] = {}
    for value, group in zip(correct, groups, strict=True):
        if group:
            parts.setdefault(group, []).append(float(value))
    return parts


def group_score(values: Sequence[float]) -> Score:
    """Return the mean: with the Wilson interval if every row is 0 or 1, else with the bootstrap over rows."""
    rows = np.asarray(values, dtype=np.float64)
    return proportion(rows == 1) if is_binary(rows) else mean(rows)


def is_binary(rows: NDArray[np.float64]) -> bool:
    return bool(np.all((rows == 0) | (rows == 1)))


def bars(title: str, parts: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return a bar chart with one bar for each group: its interval as whiskers, its number of rows in the label."""
    scores = [group_score(rows) for rows in parts.values()]
    return {
        "kind": "bars",
        "title": title,
        "labels": [f"{group} ({len(rows):,} row{'s' if len(rows) > 1 else ''})" for group, rows in parts.items()],
        "values": [score.value for score in scores],
        "lows": [score.low for score in scores],
        "highs": [score.high for score in scores],
        "top": 1.0,
    }


def score_text(score: Score) -> str:
    """Return the score as text: `0.610 [0.523, 0.690]`."""
    ends = "" if score.low is None else f" [{score.low:.3f}, {score.high:.3f}]"
    return f"{score.value:.3f}{ends}"


def interval_text(score: Score) -> str:
    """Return the interval as text: `0.523 to 0.690`."""
    return "–" if score.low is None else f"{score.low:.3f} to {score.high:.3f}"
