"""Recall, ranks and pools against scikit-learn, against torchmetrics' numbers, and as laws."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, top_k_accuracy_score

from llmstage.evaluation.metrics.pair_ranks import merge_pairs, pair_scores
from llmstage.evaluation.metrics.retrieval import CUTS, chance_scores, make_pools, median, ranks, retrieval_scores


def examples():
    """(scores of 12 images and 12 captions; of 6 images and 18 captions, whose own are three each)."""
    rng = np.random.default_rng(7)
    one = 10 + rng.standard_normal((12, 12)).round(4) + 0.8 * np.eye(12)
    own = np.repeat(np.eye(6, dtype=bool), 3, axis=1)
    two = 10 + rng.standard_normal((6, 18)).round(4) + 0.7 * own
    return one, np.eye(12, dtype=bool), two, own


def test_recall_is_that_of_torchmetrics():
    """torchmetrics 1.9.0: RetrievalRecall(top_k=k); where an image has three captions, RetrievalHitRate for the image."""
    one, eye, two, own = examples()
    scores = retrieval_scores(ranks(one, eye).tolist(), [[rank] for rank in ranks(one.T, eye).tolist()])
    for cut, value in zip(CUTS, (0.0833333358, 0.6666666867, 0.9166666867), strict=True):
        assert scores[f"image_to_text_recall@{cut}"].value == pytest.approx(value, abs=1e-6)
        assert scores[f"text_to_image_recall@{cut}"].value == pytest.approx(value, abs=1e-6)
    of_texts = ranks(two.T, own.T).reshape(6, 3).tolist()
    scores = retrieval_scores(ranks(two, own).tolist(), of_texts)
    expected = ((0.6666666865, 0.2222222239), (1.0, 0.8333333135), (1.0, 1.0))
    for cut, (image, text) in zip(CUTS, expected, strict=True):
        assert scores[f"image_to_text_recall@{cut}"].value == pytest.approx(image, abs=1e-6)
        assert scores[f"text_to_image_recall@{cut}"].value == pytest.approx(text, abs=1e-6)
    assert scores["mean_recall"].value == pytest.approx(np.mean(expected), abs=1e-6)


@pytest.mark.parametrize("cut", [cut for cut in CUTS if cut < 12])
def test_recall_is_scikit_learns_top_k_accuracy(cut):
    one, eye, _, _ = examples()
    expected = top_k_accuracy_score(np.arange(12), one, k=cut)
    assert np.mean(ranks(one, eye) <= cut) == pytest.approx(expected)


def test_a_model_that_says_the_same_of_everything_finds_nothing():
    assert ranks(np.ones((5, 5)), np.eye(5, dtype=bool)).tolist() == [5] * 5


@pytest.mark.parametrize("size", [2, 7, 64])
def test_every_image_is_looked_for_once_among_images_with_other_captions(size):
    rng = np.random.default_rng(size)
    captions = [[f"caption {rng.integers(60)}" for _ in range(rng.integers(1, 3))] for _ in range(150)]
    pools = make_pools(captions, size)
    asked = [index for pool in pools for index in pool.members[: pool.queries]]
    assert sorted(asked) == list(range(150))
    for pool in pools:
        assert 1 <= pool.queries <= len(pool.members) <= size
        said = [set(captions[index]) for index in pool.members]
        assert sum(map(len, said)) == len(set().union(*said))
    assert pools == make_pools(captions, size) != make_pools(captions, size, seed=1)


def test_the_last_pool_is_filled_and_null_is_the_whole_split():
    captions = [[f"caption {index}"] for index in range(100)]
    assert sorted((len(pool.members), pool.queries) for pool in make_pools(captions, 64)) == [(64, 36), (64, 64)]
    assert [(len(pool.members), pool.queries) for pool in make_pools(captions[:9], 64)] == [(9, 9)]
    assert [pool.members for pool in make_pools([["a"], ["a"], ["b"]], None)] == [[0, 1, 2]]
    assert make_pools([], 64) == make_pools([], None) == []


def test_the_medians_interval_holds_the_median_and_covers_it():
    score = median([1] * 50 + [3] * 50)
    assert (score.value, score.low, score.high, score.higher_is_better) == (2, 1, 3, False)
    assert median([1, 2, 3]).low is None
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        score = median(rng.integers(1, 1000, 80).tolist())
        held += score.low <= 500 <= score.high
    assert 0.92 < held / 300 < 0.995


def test_chance_is_what_random_vectors_reach():
    rng = np.random.default_rng(0)
    for own in (1, 3):
        right = np.repeat(np.eye(16, dtype=bool), own, axis=1)
        image, text = [], []
        for _ in range(400):
            scores = rng.random(right.shape)
            image += ranks(scores, right).tolist()
            text += ranks(scores.T, right.T).reshape(16, own).tolist()
        told, expected = retrieval_scores(image, text), chance_scores([16] * 16, [own] * 16)
        for name, score in expected.items():
            assert told[name].value == pytest.approx(score.value, abs=0.02), (name, own)


def pair(picture, image, text, caption, place=0, captions=None, **more):
    ref = {"picture": picture, "captions": captions or [caption], "caption": place, **more.pop("ref", {})}
    return {"image": image, "text": text, "scale": 10.0, **more}, ref


def test_captions_of_one_picture_are_brought_together_from_rows_of_its_own_or_of_several():
    left, up = [1.0, 0.0], [0.0, 1.0]
    both = ["to the left", "westward"]
    several = [
        pair(5, left, left, "", 0, both), pair(5, left, [0.6, 0.8], "", 1, both), pair(9, up, up, "above"),
    ]  # fmt: skip
    apart = [pair(5, left, left, both[0]), pair(5, left, [0.6, 0.8], both[1]), pair(9, up, up, "above")]
    for given, rows in ((several, [0, 0, 1]), (apart, [0, 1, 2])):
        predictions, refs, of = merge_pairs([one for one, _ in given], [two for _, two in given], rows, 64)
        assert [ref["captions"] for ref in refs] == [both, ["above"]]
        assert of == [rows[0], rows[2]]
        assert predictions[0]["rank"] == 1 and predictions[0]["text_ranks"] == [1, 2]
        assert predictions[0]["found"] == "to the left" and predictions[0]["similarity"] == 1.0
        assert predictions[1]["rank"] == 1 and "image" not in predictions[1]


def test_a_caption_that_two_images_share_is_right_for_both_in_one_pool_of_all():
    left, near, up = [1.0, 0.0], [0.8, 0.6], [0.0, 1.0]
    given = [pair(0, left, left, "a"), pair(1, near, left, "a"), pair(2, up, up, "b")]
    predictions, _, _ = merge_pairs([one for one, _ in given], [two for _, two in given], [0, 1, 2], None)
    assert [item["rank"] for item in predictions] == [1, 1, 1]
    assert [item["text_ranks"] for item in predictions] == [[1], [1], [1]]


def test_seen_and_unseen_pairs_and_wrong_captions_are_told_apart():
    rng = np.random.default_rng(1)
    given = []
    for index in range(40):
        unseen = index % 4 == 0
        image, other = (vector / np.linalg.norm(vector) for vector in rng.standard_normal((2, 8)))
        text = other if unseen else image
        ref = {"composition": "unseen" if unseen else "seen"}
        given.append(
            pair(index, image.tolist(), text.tolist(), f"caption {index}", ref=ref, foils_beaten=bool(index % 2))
        )
    predictions, refs, _ = merge_pairs([one for one, _ in given], [two for _, two in given], list(range(40)), 20)
    scores = pair_scores(predictions, refs, [])
    assert scores["image_to_text_recall@1_seen"].value > 0.8 > 0.4 > scores["image_to_text_recall@1_unseen"].value
    assert scores["image_to_text_recall@1_seen"].count == 30 and scores["text_to_image_recall@1_unseen"].count == 10
    assert scores["foil_accuracy"].value == 0.5
    assert scores["foil_accuracy_seen"].value == pytest.approx(20 / 30) and scores["foil_accuracy_unseen"].value == 0
    assert all(score.low <= score.value <= score.high for score in scores.values() if score.low is not None)


def test_classes_are_scored_as_scikit_learn_does():
    said, told = list("abbca"), list("abcca")
    given = [
        pair(index, [1.0, index], [1.0, index], f"caption {index}", ref={"label": true}, label=guess)
        for index, (guess, true) in enumerate(zip(said, told, strict=True))
    ]
    predictions, refs, _ = merge_pairs([one for one, _ in given], [two for _, two in given], list(range(5)), 64)
    scores = pair_scores(predictions, refs, ["a", "b", "c", "d"])
    assert scores["accuracy"].value == 0.8
    assert scores["macro_f1"].value == pytest.approx(f1_score(told, said, average="macro"))
