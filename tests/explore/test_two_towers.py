"""Probes for a model of two towers: which choice lies nearest to the picture, as transformers itself says."""

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
from llmstage.explore.probed_model import Subject, untrained
from llmstage.explore.probes import generate
from llmstage.explore.score import score_items
from llmstage.explore.score_cache import Kept
from llmstage.explore.two_towers import compared
from llmstage.models.build import save_model

SCENE = "demo:48:circle.red.large.1.1.12"


@pytest.fixture(scope="module")
def towers(tiny_task: Callable[..., Any]) -> Subject:
    task = tiny_task("contrastive", "clip", context=64)
    model = task.model()
    with torch.no_grad():
        model.logit_scale.fill_(3.0)
    return Subject("towers", model.eval(), task.processor, "clip", 64, False)


def test_a_choice_stands_behind_its_prompt_and_a_question_is_no_caption() -> None:
    asked = Item("a", "f", "It is a", choices=[" dog", " cat"], label=0, image=SCENE)
    assert compared(asked) == ["It is a dog", "It is a cat"]
    assert compared(Item("b", "f", "What is it?", choices=[" a dog"], label=0)) == ["a dog"]
    assert compared(Item("c", "f", "这是什么？", choices=["狗"], label=0)) == ["狗"]
    assert compared(Item("d", "f", "", choices=["a dog"], label=0)) == ["a dog"]


@torch.no_grad()
def test_shares_of_choices_are_those_of_transformers_own_forward(towers: Subject) -> None:
    items = [item for item in generate("image_caption", 4, 0) if isinstance(item.image, str)]
    scores = score_items(towers, items, batch_tokens=200)
    pictures = ImageStore(towers.processor.images)
    for item, one in zip(items, scores, strict=True):
        pictures.read([str(item.image)])
        ids = pad([towers.processor.marked_ids(text, None, 64)[0] for text in compared(item)], towers.processor.pad_id)
        pixels = pictures.normalised(pictures.pixels([0]))
        logits = towers.model(input_ids=ids, pixel_values=pixels).logits_per_image[0]
        shares = logits.softmax(-1).numpy()
        assert one["p"] == pytest.approx(shares, abs=2e-5)
        assert one["acc"] == float(shares.argmax() == item.label) and one["chosen"] == shares.argmax()
        assert one["logp_per_token"] == pytest.approx(np.log(shares[item.label or 0]), abs=1e-4)
        truth = np.eye(len(shares))[item.label or 0]
        assert one["brier"] == pytest.approx(((shares - truth) ** 2).sum(), abs=1e-4)
        assert one["em"] is None and one["pass"] is None and one["acc_bytes"] is None
    assert len({round(one["logp"], 5) for one in scores}) > len(items) // 2, "each picture lies elsewhere"


def test_what_two_towers_cannot_be_asked_is_said_of_each_item(towers: Subject) -> None:
    items = [
        Item("a", "f", "It is", choices=[" red", " blue"], label=0, image=SCENE),
        Item("b", "f", "It is", choices=[" red", " blue"], label=0),
        Item("c", "f", "It is", answer=" red", image=SCENE),
        Item("d", "f", "It is", choices=[" red", " blue"], label=0, image="nowhere.png"),
        Item("e", "f", "It is", choices=[" red" * 80, " blue"], label=0, image=SCENE),
    ]
    reasons = [one["unscored"] for one in score_items(towers, items)]
    assert reasons[0] is None
    for reason, word in zip(reasons[1:], ("no picture", "no choices", "cannot be used", "64"), strict=True):
        assert word in str(reason)
    assert score_items(towers, items[1:2])[0]["unscored"], "nothing to be read at all"


def test_scores_are_kept_and_an_untrained_model_gives_others(towers: Subject, tmp_path: Path) -> None:
    items = [Item("a", "f", "", choices=["a red circle", "a blue square"], label=0, image=SCENE)]
    first = score_items(towers, items, kept=Kept(tmp_path))
    kept = Kept(tmp_path)
    assert score_items(towers, items, kept=kept) == first and kept.hits == 1
    assert score_items(untrained(towers, 1), items)[0]["logp"] != first[0]["logp"]


def test_a_page_is_written_of_two_towers(towers: Subject, workplace: Path) -> None:
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
    told = " ".join(report["limits"])
    assert "softmax of scaled cosines" in told and "no picture" in told
