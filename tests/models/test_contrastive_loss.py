"""Losses of pairs against transformers, against the papers' formulas, and against hand-made cases."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from llmstage.models.contrastive_loss import chance_loss, gather_pairs, infonce, sigmoid_loss, unit


def vectors(num: int = 6, width: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    made = torch.randn(2, num, width, generator=torch.Generator().manual_seed(seed))
    return unit(made[0]), unit(made[1])


def pairs_of(images, texts, picture=None, words=None, *, mask=True):
    each = torch.arange(len(images))
    return gather_pairs(
        images, texts, each if picture is None else picture, each if words is None else words, mask=mask
    )


def test_infonce_is_the_mean_of_both_directions_of_open_clip():
    images, texts = vectors()
    log_scale = torch.tensor(2.0)
    logits = log_scale.exp() * images @ texts.T  # open_clip's ClipLoss, written from Radford (2021), figure 3
    truth = torch.arange(len(images))
    expected = (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 2
    torch.testing.assert_close(infonce(pairs_of(images, texts), log_scale) / len(images), expected)


def test_infonce_is_what_transformers_returns_for_the_whole_model(tiny_task):
    it = tiny_task("contrastive", "clip")
    model, batch = it.model(), it.batch()
    mask = (batch.inputs["input_ids"] != it.processor.pad_id).long()  # transformers' own way: with a padding mask
    inputs = {name: batch.inputs[name] for name in ("input_ids", "pixel_values")}
    theirs = model(**inputs, attention_mask=mask, return_loss=True)
    part = it.task.loss(model, batch)
    assert float(part.total.detach()) / part.count == pytest.approx(float(theirs.loss.detach()), rel=1e-5)
    images, texts = it.task.embed(model, batch)
    torch.testing.assert_close(images, theirs.image_embeds, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(texts, theirs.text_embeds, rtol=1e-5, atol=1e-6)


def test_the_sigmoid_loss_is_the_papers():
    """Zhai (2023), algorithm 1: labels 2 I - 1, minus the sum of log sigmoids over n."""
    images, texts = vectors()
    log_scale, bias = torch.tensor(math.log(10.0)), torch.tensor(-10.0)
    logits = images @ texts.T * log_scale.exp() + bias
    labels = 2 * torch.eye(len(images)) - torch.ones(len(images), len(images))
    expected = -torch.log(torch.sigmoid(labels * logits)).sum() / len(images)
    torch.testing.assert_close(sigmoid_loss(pairs_of(images, texts), log_scale, bias) / len(images), expected)


@pytest.mark.parametrize("words", [[0, 1, 0, 3], [0, 1, 2, 3]])
@pytest.mark.parametrize("picture", [[0, 1, 2, 1], [0, 1, 2, 3]])
def test_repeats_are_left_out_of_the_negatives_or_kept(picture, words):
    images, texts = vectors(4)
    told = torch.tensor(picture), torch.tensor(words)
    log_scale = torch.tensor(1.0)
    by_hand = 0.0
    for way in (images @ texts.T, texts @ images.T):
        for i in range(4):
            kept = [j for j in range(4) if j == i or (picture[i] != picture[j] and words[i] != words[j])]
            line = log_scale.exp() * way[i, kept]
            by_hand += float(torch.logsumexp(line, 0) - line[kept.index(i)]) / 2
    masked = infonce(pairs_of(images, texts, *told), log_scale)
    assert float(masked) == pytest.approx(by_hand, rel=1e-5)
    kept = infonce(pairs_of(images, texts, *told, mask=False), log_scale)
    assert float(kept) == pytest.approx(float(infonce(pairs_of(images, texts), log_scale)), rel=1e-6)
    repeats = len(set(picture)) < 4 or len(set(words)) < 4
    assert (float(masked) < float(kept)) is repeats
    bias = torch.tensor(-1.0)
    fewer = sigmoid_loss(pairs_of(images, texts, *told), log_scale, bias)
    assert (float(fewer) < float(sigmoid_loss(pairs_of(images, texts), log_scale, bias))) is repeats


def test_chance_is_what_a_model_loses_that_says_the_same_of_everything():
    same = unit(torch.ones(8, 3))
    log_scale = torch.tensor(2.0)
    assert float(infonce(pairs_of(same, same), log_scale)) / 8 == pytest.approx(math.log(8))
    assert chance_loss(8, "infonce") == pytest.approx(math.log(8))
    # Of the sigmoid the best that can be said of every pair alike is its true share, one in eight.
    best = torch.tensor(math.log(1 / 7)) - log_scale.exp()
    assert float(sigmoid_loss(pairs_of(same, same), log_scale, best)) / 8 == pytest.approx(
        chance_loss(8, "sigmoid"), rel=1e-5
    )
    assert chance_loss(1, "sigmoid") == 0
