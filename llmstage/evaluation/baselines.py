"""Simple methods on the same rows, set beside the model: a model that loses to them must say so by itself."""

from __future__ import annotations

import math
from typing import Any

from llmstage import console
from llmstage.config import RunConfig
from llmstage.evaluation.eval_loop import Scored
from llmstage.evaluation.metrics.score import Score
from llmstage.training.setup import RunComponents


def baselines(
    run: RunConfig,
    pieces: RunComponents,
    scored: Scored,
    split: str,
    controls: dict[str, dict[str, Score]] | None = None,
) -> dict[str, Any] | None:
    """For report.json: `{split, metric, verdict, beaten, methods: {name: {metric: score}}}`; None where the task has
    none, they are switched off, there are no training rows to learn from, or those are what was scored. `controls`: what
    was trained beside the run, shown among the methods."""
    methods = dict(controls or {})
    if run.trainer.baselines and "train" in pieces.sources and split != "train":
        methods |= pieces.task.baselines((row for row, _ in pieces.sources["train"]), scored.refs)
    methods = {name: scores for name, scores in methods.items() if scores}
    if not methods:
        return None
    told = compare(pieces.task.select, scored.scores, methods)
    shown = {name: {key: score.as_dict() for key, score in scores.items()} for name, scores in methods.items()}
    return {"split": split, **told, "methods": shown}


def compare(select: str, ours: dict[str, Score], methods: dict[str, dict[str, Score]]) -> dict[str, Any]:
    """The metric compared by (the selecting one, or the first that all share), a sentence, and whether all are beaten."""
    shared = [name for name in ours if all(name in scores for scores in methods.values())]
    metric = select if select in shared else shared[0]
    model = ours[metric]
    sign = 1 if model.higher_is_better else -1

    def worth(name: str) -> float:
        value = methods[name][metric].value
        return -math.inf if math.isnan(value) else sign * value

    best = max(methods, key=worth)
    theirs = methods[best][metric]
    beaten = sign * model.value > worth(best)
    apart = clearly_apart(model, theirs)
    how = "beats" if beaten else "does not beat"
    sure = "" if apart or not beaten else "; the intervals overlap"
    sentence = (
        f"The model {how} the best simple method: {metric} {console.number(model.value)} "
        f"against {console.number(theirs.value)} ({best}){sure}."
    )
    return {"metric": metric, "best": best, "beaten": beaten, "clearly": beaten and apart, "verdict": sentence}


def clearly_apart(one: Score, two: Score) -> bool:
    """Whether the 95 % intervals do not touch: stricter than a test of the difference, and read at a glance."""
    if one.low is None or one.high is None or two.low is None or two.high is None:
        return False
    return one.low > two.high or two.low > one.high
