"""What is added to the logits: nothing at first, then what columns and n-grams say."""

from __future__ import annotations

import torch

from llmstage.models.fusion import BUCKETS, Fusion, NgramPath, ngrams


def test_both_paths_start_at_zero_and_learn():
    torch.manual_seed(0)
    fusion, grams = Fusion(8, 2, [4], 3, 0.0), NgramPath(3, 0.0)
    numbers, categories = torch.randn(32, 4), torch.randint(0, 4, (32, 1))
    ids, mask = torch.randint(0, 50, (32, 6)), torch.ones(32, 6)
    pooled = torch.randn(32, 8)
    assert not fusion(pooled, numbers, categories).any() and not grams(ids, mask).any()
    target = (numbers[:, 0] * numbers[:, 1] > 0).long()  # no linear model finds this
    optimizer = torch.optim.AdamW(fusion.parameters(), lr=1e-2)
    for _ in range(150):
        loss = torch.nn.functional.cross_entropy(fusion(pooled, numbers, categories), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.05


def test_unseen_and_missing_categories_say_nothing_before_they_were_met():
    fusion = Fusion(4, 0, [5, 3], 2, 0.0)
    assert not fusion.embeddings[0].weight[:2].any() and fusion.embeddings[0].weight[2:].all()


def test_ngrams_are_those_of_the_real_tokens_whatever_the_padding():
    ids = torch.tensor([[5, 6, 7, 8]])
    grams, weights = ngrams(ids, torch.ones_like(ids))
    assert int(weights.sum()) == 4 + 3 + 2 and int(grams.max()) < BUCKETS and int(grams.min()) >= 0
    padded, mask = torch.tensor([[5, 6, 7, 8, 9, 9]]), torch.tensor([[1, 1, 1, 1, 0, 0]])
    more, counted = ngrams(padded, mask)
    assert sorted(grams[weights > 0].tolist()) == sorted(more[counted > 0].tolist())
    path = NgramPath(2, 0.0)
    torch.nn.init.normal_(path.head.weight)
    assert torch.allclose(path(ids, torch.ones_like(ids)), path(padded, mask), atol=1e-6)
    other, _ = ngrams(torch.tensor([[6, 5, 7, 8]]), torch.ones_like(ids))
    assert set(other[0, 4:7].tolist()) != set(grams[0, 4:7].tolist())  # order matters to pairs
