"""Compare a model with simple methods on the same rows; the report says so where the model is not better."""

from __future__ import annotations

import math
from typing import Any

from llmstage import console
from llmstage.config import RunConfig
from llmstage.evaluation.metrics.score import Score
from llmstage.evaluation.scoring import Scored
from llmstage.training.components import RunComponents


def baselines(
    run: RunConfig,
    components: RunComponents,
    scored: Scored,
    split: str,
    controls: dict[str, dict[str, Score]] | None = None,
) -> dict[str, Any] | None:
    """Return the `baselines` entry of report.json: `{split, metric, verdict, beaten, methods: {name: {metric: score}}}`.

    None where there is no method: the task has none, trainer.baselines is off, or there are no training rows other than those
    that were scored. `controls`: the scores of control runs, which the report lists among the methods.
    """
    methods = dict(controls or {})
    if run.trainer.baselines and "train" in components.sources and split != "train":
        if "validation" in components.sources and split != "validation":
            components.task.validation_rows = [row for row, _ in components.sources["validation"]]
        methods |= components.task.baselines((row for row, _ in components.sources["train"]), scored.refs)
    methods = {name: scores for name, scores in methods.items() if scores}
    if not methods:
        return None
    comparison = compare(components.task.select, scored.scores, methods)
    scores_by_method = {
        name: {metric: score.as_dict() for metric, score in scores.items()} for name, scores in methods.items()
    }
    return {"split": split, **comparison, "methods": scores_by_method}


def compare(select: str, model_scores: dict[str, Score], methods: dict[str, dict[str, Score]]) -> dict[str, Any]:
    """Compare by the metric `select`, or by the first one that all methods have; return the result and a sentence about it."""
    shared = [name for name in model_scores if all(name in scores for scores in methods.values())]
    metric = select if select in shared else shared[0]
    model = model_scores[metric]
    sign = 1 if model.higher_is_better else -1

    def goodness(name: str) -> float:
        value = methods[name][metric].value
        return -math.inf if math.isnan(value) else sign * value

    best = max(methods, key=goodness)
    baseline = methods[best][metric]
    beaten = sign * model.value > goodness(best)
    apart = intervals_are_apart(model, baseline)
    verb = "beats" if beaten else "does not beat"
    caveat = "" if apart or not beaten else "; the intervals overlap"
    sentence = (
        f"The model {verb} the best simple method: {metric} {console.number(model.value)} "
        f"against {console.number(baseline.value)} ({best}){caveat}."
    )
    return {"metric": metric, "best": best, "beaten": beaten, "clearly": beaten and apart, "verdict": sentence}


def intervals_are_apart(a: Score, b: Score) -> bool:
    """Return whether the 95 % intervals do not overlap: stricter than a test of the difference, and easy to see."""
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return False
    return a.low > b.high or b.low > a.high
