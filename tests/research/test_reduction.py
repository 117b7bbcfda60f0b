"""Reductions against what is known exactly."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from llmstage.research.reduction.attention_heads import prefix_matching_scores, previous_token_scores, without_heads
from llmstage.research.reduction.information import (
    causal_emergence,
    coarse_grain,
    effective_information,
    joint_distribution,
    partial_information,
    psi,
)
from llmstage.research.reduction.layers import additive_share, interaction_share
from llmstage.research.reduction.skills import compose


def test_a_sum_of_parts_has_no_interaction_and_a_sum_modulo_p_nothing_else():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(7, 1, 5)), rng.normal(size=(1, 9, 5))
    assert interaction_share(a + b) == pytest.approx(0, abs=1e-12)
    p = 13
    assert interaction_share(np.eye(p)[(np.arange(p)[:, None] + np.arange(p)) % p]) == pytest.approx(1, abs=1e-12)
    assert 0.2 < interaction_share(a + b + rng.normal(size=(7, 9, 5))) < 0.6
    assert interaction_share(np.full((3, 4, 2), 0.1)) == 0


def test_words_explain_a_sum_of_word_vectors_on_held_out_sentences_and_nothing_of_shuffled_ones():
    rng = np.random.default_rng(0)
    sentences = rng.integers(0, 12, (200, 4))
    states = rng.normal(size=(12, 6))[sentences].sum(1)
    assert additive_share(states, sentences.tolist()) > 0.999
    assert additive_share(rng.permutation(states), sentences.tolist()) < 0.1
    placed = (states * 0) + rng.normal(size=(4, 12, 6))[np.arange(4), sentences].sum(1)
    assert (
        additive_share(placed, sentences.tolist(), positions=4)
        > 0.99
        > additive_share(placed, sentences.tolist()) + 0.2
    )


def hoel() -> np.ndarray:
    """Eight states: seven go to each of the seven, the eighth stays (Hoel 2013)."""
    rows = np.zeros((8, 8))
    rows[:7, :7], rows[7, 7] = 1 / 7, 1
    return rows


def test_effective_information_of_the_published_example():
    groups = [list(range(7)), [7]]
    assert effective_information(hoel()) == pytest.approx(0.5435644431995964, abs=1e-9)
    assert effective_information(coarse_grain(hoel(), groups)) == pytest.approx(1.0, abs=1e-9)
    assert causal_emergence(hoel(), groups) == pytest.approx(1 - 0.5435644431995964, abs=1e-9)


@pytest.mark.parametrize(
    ("gate", "redundancy", "synergy"),
    [(lambda a, b: a ^ b, 0, 1), (lambda a, b: a & b, 0.31127812445913283, 0.5), (lambda a, b: a, 0, 0)],
)
def test_decomposition_of_gates(gate, redundancy, synergy):
    rows = [(a, b, gate(a, b)) for a in (0, 1) for b in (0, 1)]
    measures = partial_information(joint_distribution(rows))
    assert measures["redundancy"] == pytest.approx(redundancy, abs=1e-9)
    assert measures["synergy"] == pytest.approx(synergy, abs=1e-9)
    parts = sum(measures[name] for name in ("redundancy", "unique_1", "unique_2", "synergy"))
    assert parts == pytest.approx(measures["total"], abs=1e-9)


def test_psi_of_kept_parity():
    joint_table, states = 0.9, list(itertools.product((0, 1), repeat=3))
    joint = [[(joint_table if sum(a) % 2 == sum(b) % 2 else 1 - joint_table) / 32 for b in states] for a in states]
    entropy = -(joint_table * np.log2(joint_table) + (1 - joint_table) * np.log2(1 - joint_table))
    assert psi(joint, lambda state: sum(state) % 2, parts=3) == pytest.approx(1 - entropy, abs=1e-9)


def test_independent_parts_explain_their_composite_and_a_gap_is_seen():
    rng = np.random.default_rng(1)
    parts = (rng.random((600, 2)) < 0.8).astype(float)
    composite = parts.prod(1)
    fair, broken = (
        compose(composite.tolist(), parts.tolist()),
        compose((composite * (rng.random(600) < 0.5)).tolist(), parts.tolist()),
    )
    assert fair.low <= 0 <= fair.high and "explained by parts" in fair.text
    assert fair.gap == 0
    assert broken.high < 0 and "composition gap" in broken.text
    assert broken.gap == pytest.approx(0.5, abs=0.08)
    assert "below resolution: 0 of 600" in compose(np.zeros(600).tolist(), np.zeros((600, 2)).tolist()).text
    assert compose(np.ones(600).tolist(), parts.tolist()).text.startswith("more than its parts")
    perfect = compose(np.ones(40).tolist(), np.ones((40, 2)).tolist())  # nothing wrong anywhere is no shortcut
    assert perfect.residual == 0 and perfect.text.startswith("explained by parts: 1.000 against 1.000")


def test_scores_of_heads_that_look_exactly_where_they_should():
    period, length = 4, 12
    back, match = torch.zeros(1, 1, length, length), torch.zeros(1, 1, length, length)
    for position in range(1, length):
        back[0, 0, position, position - 1] = 1
        if position >= period:
            match[0, 0, position, position - period + 1] = 1
    patterns = [torch.cat([back, match], 1)]
    assert previous_token_scores(patterns)[0].tolist() == [1, 0]
    assert prefix_matching_scores(patterns, torch.tensor([period]))[0].tolist() == [0, 1]


def test_a_head_taken_out_leaves_its_mean_and_the_others_as_they_are():
    out = nn.Linear(6, 6, bias=False)
    nn.init.eye_(out.weight)
    x = torch.randn(2, 3, 6)
    with without_heads([out], [(0, 1)], 3):
        output = out(x)
    assert torch.equal(output[..., [0, 1, 4, 5]], x[..., [0, 1, 4, 5]])
    assert torch.allclose(output[..., 2:4], x[..., 2:4].mean((0, 1)).expand(2, 3, 2))
    assert torch.equal(out(x), x)
