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
    told = compare("macro_f1", ours, methods)
    assert (told["metric"], told["best"], told["beaten"]) == ("macro_f1", "tf-idf", False)
    assert "does not beat" in told["verdict"] and "0.72" in told["verdict"]
    told = compare("loss", ours, methods)  # no method has a loss: the first metric that all share
    assert (told["metric"], told["beaten"], told["clearly"]) == ("accuracy", True, True)


def test_lower_is_better_is_heeded_and_overlapping_intervals_are_told():
    ours = {"perplexity": Score(10.0, 9.0, 11.0, higher_is_better=False)}
    methods = {"unigram": {"perplexity": Score(10.5, 9.5, 11.5, higher_is_better=False)}}
    told = compare("perplexity", ours, methods)
    assert told["beaten"] and not told["clearly"] and "overlap" in told["verdict"]
    worse = {"unigram": {"perplexity": Score(9.0, higher_is_better=False)}}
    assert not compare("perplexity", ours, worse)["beaten"]
