"""What is said of a model beside simple methods."""

from __future__ import annotations

from llmstage.evaluation.baselines import compare
from llmstage.evaluation.metrics.score import Score


def test_the_selecting_metric_decides_where_all_have_it_and_the_best_method_is_named():
    ours = {"loss": Score(0.5, higher_is_better=False), "accuracy": Score(0.9, 0.88, 0.92), "macro_f1": Score(0.7)}
    methods = {
        "majority": {"accuracy": Score(0.5), "macro_f1": Score(0.1)},
        "tf-idf": {"accuracy": Score(0.8, 0.78, 0.82), "macro_f1": Score(0.72)},
    }
    comparison = compare("macro_f1", ours, methods)
    assert (comparison["metric"], comparison["best"], comparison["beaten"]) == ("macro_f1", "tf-idf", False)
    assert "does not beat" in comparison["verdict"] and "0.72" in comparison["verdict"]
    comparison = compare("loss", ours, methods)  # no method has a loss: the first metric that all share
    assert (comparison["metric"], comparison["beaten"], comparison["clearly"]) == ("accuracy", True, True)


def test_lower_is_better_counts_and_overlapping_intervals_are_named():
    ours = {"perplexity": Score(10.0, 9.0, 11.0, higher_is_better=False)}
    methods = {"unigram": {"perplexity": Score(10.5, 9.5, 11.5, higher_is_better=False)}}
    comparison = compare("perplexity", ours, methods)
    assert comparison["beaten"] and not comparison["clearly"] and "overlap" in comparison["verdict"]
    worse = {"unigram": {"perplexity": Score(9.0, higher_is_better=False)}}
    assert not compare("perplexity", ours, worse)["beaten"]
