"""Chance is the score without knowledge on the given items."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmstage.config import ModelConfig
from llmstage.explore.capability_map import measure_cells
from llmstage.explore.chance import chance_of, constant, unigram_log_probs
from llmstage.explore.items import Item
from llmstage.explore.probed_model import ProbedModel, untrained
from llmstage.explore.score import score_items
from llmstage.explore.wording import sentence
from llmstage.models.build import build_model
from llmstage.tokenization.tokenizer import train_processor

SKEWED = (0.4, 0.2, 0.2, 0.2)


def choice(number: int, label: int, probe_family: str = "f") -> Item:
    return Item(f"{probe_family}-{number}", probe_family, f"{number} ?", choices=[" A", " B", " C", " D"], label=label)


def answered(picks: list[int], items: list[Item]) -> list[dict]:
    return [
        {"unscored": None, "chosen": pick, "acc": float(pick == item.label), "em": None, "logp_per_token": -1.0}
        for pick, item in zip(picks, items, strict=True)
    ]


def test_a_constant_answer_scores_what_its_letter_is_worth():
    items = [choice(n, label) for n, label in enumerate([0] * 40 + [1] * 20 + [2] * 20 + [3] * 20)]
    assert constant(items) == 0.4
    always = answered([0] * 100, items)
    chance = chance_of(items, always, None, permutations=50, seed=0)
    assert chance.value == pytest.approx(0.4)
    [cell] = measure_cells(items, always, None, [None] * 100, permutations=50, seed=0, fdr=0.1)
    assert cell.score.value == 0.4 and not cell.above and cell.normalised == pytest.approx(0)


def test_habits_that_fit_the_key_are_chance_too():
    """Picks with the shares of the key, drawn without the question: permuting them shows their score."""
    rng = np.random.default_rng(0)
    labels = rng.choice(4, 400, p=[0.5, 0.5, 0, 0])
    items = [choice(n, int(label)) for n, label in enumerate(labels)]
    picks = [int(pick) for pick in rng.choice(4, 400, p=[0.5, 0.5, 0, 0])]
    chance = chance_of(items, answered(picks, items), None, permutations=100, seed=0)
    assert chance.value == pytest.approx(0.5, abs=0.05)
    assert chance_of(items, answered(picks, items), None, permutations=0 + 1, seed=0).value >= constant(items)


def test_an_untrained_model_that_does_better_than_both_is_the_bar():
    items = [choice(n, n % 4) for n in range(80)]
    half = [item.label if n % 2 else 0 for n, item in enumerate(items)]
    fresh = answered([int(pick or 0) for pick in half], items)
    chance = chance_of(items, answered([0] * 80, items), fresh, permutations=20, seed=0)
    assert chance.how == "untrained model" and chance.value > 0.5
    assert set(chance.ways) == {"constant answer", "permuted answers", "untrained model"}
    assert chance.ways["constant answer"] == 0.25 and all(
        sentence(f"by_{way.replace(' ', '_')}") == way for way in chance.ways
    )


def test_free_answers_are_permuted_where_text_was_written():
    items = [Item(f"i{n}", "f", f"{n}", answer="yes" if n % 4 else "no") for n in range(80)]
    scores = [{"text": "yes", "em": 1.0} for _ in items]
    chance = chance_of(items, scores, None, permutations=20, seed=0)
    assert chance.value == pytest.approx(0.75)


def test_log_probs_of_an_answer_without_its_question():
    """By hand: of [1], the others have 1 once and 2 twice, three types with the unseen: (1 + 1) / (3 + 3)."""
    log_probs = unigram_log_probs([[1], [1, 2], [2]])
    assert log_probs[0] == pytest.approx(np.log(2 / 6))
    assert log_probs[1] == pytest.approx((np.log(2 / 5) + np.log(2 / 5)) / 2)


def random_model(seed: int) -> ProbedModel:
    processor = train_processor((f"{n} ? A B C D" for n in range(2000)), 320, "gpt", 64)
    torch.manual_seed(seed)
    cfg = ModelConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
    model = build_model(cfg, "AutoModelForCausalLM", processor, 64, {}, None, offline=True)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)  # favourite letters, as real models have
    return ProbedModel("random", model, processor, "gpt", 64, False)


@pytest.mark.parametrize("number", [40, pytest.param(100, marks=pytest.mark.slow)])
def test_a_random_model_discovers_nothing_on_a_skewed_key(number: int):
    """Families of 100 items whose key is 40/20/20/20; each tested alone, as the bar asks, and all together."""
    rng = np.random.default_rng(7)
    of = random_model(3)
    families = [
        [choice(n, int(label), f"f{k}") for n, label in enumerate(rng.choice(4, 100, p=SKEWED))] for k in range(number)
    ]
    items = [item for members in families for item in members]
    scores = score_items(of, items, pmi=False)
    assert {result["chosen"] for result in scores} != {0}
    fresh = score_items(untrained(of, 1), items, pmi=False)
    discovered = 0
    for k in range(number):
        part = slice(100 * k, 100 * k + 100)
        [cell] = measure_cells(items[part], scores[part], fresh[part], [None] * 100, permutations=200, seed=0, fdr=0.05)
        discovered += cell.above
    assert discovered <= number // 20
    together = measure_cells(items, scores, fresh, [None] * len(items), permutations=50, seed=0, fdr=0.10)
    assert not any(cell.above for cell in together)
