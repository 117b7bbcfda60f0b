"""Probes for a model of two towers: the choice nearest to the image, as transformers computes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmstage.cli.command import main
from llmstage.data.encoding.collate import pad
from llmstage.data.image_store import ImageStore
from llmstage.explore.items import Item
from llmstage.explore.probed_model import ProbedModel, untrained
from llmstage.explore.probes import generate
from llmstage.explore.score import score_items
from llmstage.explore.score_cache import ScoreCache
from llmstage.explore.two_towers import candidate_texts
from llmstage.models.build import save_model

SCENE = "demo:48:circle.red.large.1.1.12"


@pytest.fixture(scope="module")
def towers(tiny_task: Callable[..., Any]) -> ProbedModel:
    task = tiny_task("contrastive", "clip", context=64)
    model = task.model()
    with torch.no_grad():
        model.logit_scale.fill_(3.0)
    return ProbedModel("towers", model.eval(), task.processor, "clip", 64, False)


def test_a_choice_follows_its_prompt_and_a_question_is_no_caption() -> None:
    statement = Item("a", "f", "It is a", choices=[" dog", " cat"], label=0, image=SCENE)
    assert candidate_texts(statement) == ["It is a dog", "It is a cat"]
    assert candidate_texts(Item("b", "f", "What is it?", choices=[" a dog"], label=0)) == ["a dog"]
    assert candidate_texts(Item("c", "f", "这是什么？", choices=["狗"], label=0)) == ["狗"]
    assert candidate_texts(Item("d", "f", "", choices=["a dog"], label=0)) == ["a dog"]


@torch.no_grad()
def test_probabilities_of_choices_are_those_of_the_forward_of_transformers(towers: ProbedModel) -> None:
    items = [item for item in generate("image_caption", 4, 0) if isinstance(item.image, str)]
    scores = score_items(towers, items, batch_tokens=200)
    image_store = ImageStore(towers.processor.images)
    for item, result in zip(items, scores, strict=True):
        image_store.read([str(item.image)])
        ids = pad(
            [towers.processor.marked_ids(text, None, 64)[0] for text in candidate_texts(item)], towers.processor.pad_id
        )
        pixels = image_store.normalized(image_store.pixels([0]))
        logits = towers.model(input_ids=ids, pixel_values=pixels).logits_per_image[0]
        shares = logits.softmax(-1).numpy()
        assert result["p"] == pytest.approx(shares, abs=2e-5)
        assert result["acc"] == float(shares.argmax() == item.label) and result["chosen"] == shares.argmax()
        assert result["logp_per_token"] == pytest.approx(np.log(shares[item.label or 0]), abs=1e-4)
        truth = np.eye(len(shares))[item.label or 0]
        assert result["brier"] == pytest.approx(((shares - truth) ** 2).sum(), abs=1e-4)
        assert result["em"] is None and result["pass"] is None and result["acc_bytes"] is None
    assert len({round(result["logp"], 5) for result in scores}) > len(items) // 2, "each image has another vector"


def test_items_that_two_towers_cannot_score_have_a_reason(towers: ProbedModel) -> None:
    items = [
        Item("a", "f", "It is", choices=[" red", " blue"], label=0, image=SCENE),
        Item("b", "f", "It is", choices=[" red", " blue"], label=0),
        Item("c", "f", "It is", answer=" red", image=SCENE),
        Item("d", "f", "It is", choices=[" red", " blue"], label=0, image="nowhere.png"),
        Item("e", "f", "It is", choices=[" red" * 80, " blue"], label=0, image=SCENE),
    ]
    reasons = [result["unscored"] for result in score_items(towers, items)]
    assert reasons[0] is None
    for reason, word in zip(reasons[1:], ("no picture", "no choices", "cannot be used", "64"), strict=True):
        assert word in str(reason)
    assert score_items(towers, items[1:2])[0]["unscored"], "no text and no image to encode"


def test_scores_are_cached_and_an_untrained_model_gives_others(towers: ProbedModel, tmp_path: Path) -> None:
    items = [Item("a", "f", "", choices=["a red circle", "a blue square"], label=0, image=SCENE)]
    first = score_items(towers, items, cache=ScoreCache(tmp_path))
    cache = ScoreCache(tmp_path)
    assert score_items(towers, items, cache=cache) == first and cache.hits == 1
    assert score_items(untrained(towers, 1), items)[0]["logp"] != first[0]["logp"]


def test_a_page_is_written_of_two_towers(towers: ProbedModel, workplace: Path) -> None:
    save_model(towers.model, towers.processor, Path("model"))
    words = ["stage=explore", "model.path=model", "stage.probes=[image_caption,negation]", "stage.items_per_cell=12"]
    assert main([*words, "trainer.threads=1", "hydra.run.dir=looked"]) == 3, (
        "weights that were never trained know nothing"
    )
    report = json.loads(Path("looked/report.json").read_text(encoding="utf-8"))
    cells = report["explore"]["probes"]["cells"]
    assert {cell["family"] for cell in cells} == {
        "image_caption", "image_caption.colour", "image_caption.shape", "image_caption.relation",
    }  # fmt: skip
    assert all(cell["metric"] == "acc" and cell["count"] > 0 for cell in cells)
    limits = " ".join(report["limits"])
    assert "softmax of scaled cosines" in limits and "no picture" in limits
