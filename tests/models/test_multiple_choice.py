"""Answers chosen over one reading of the prompt have the log-probability that they have one by one."""

from __future__ import annotations

import pytest
import torch

from llmstage.models.multiple_choice import AnswerTree, answer_log_probs

ANSWERS = [[45, 2], [45, 46, 2], [45, 46, 47, 2], [48, 2], [49, 49, 49, 2], [46, 2, 43], [2]]
"""Beginnings shared, one token and several, an end of two tokens, and nothing but the end."""


def test_a_tree_shares_beginnings_and_reads_no_last_token():
    tree = AnswerTree.of(ANSWERS)
    paths = {tuple(answer[:stop]) for answer in ANSWERS for stop in range(1, len(answer))}
    assert len(tree.tokens) == len(paths)
    assert tree.steps.shape == (3, sum(map(len, ANSWERS)))
    for node in range(len(tree.tokens)):
        seen = tree.sees[node].nonzero()[:, 0].tolist()
        assert seen[-1] == node and tree.tokens[seen].tolist() in [list(path) for path in paths]
        assert len(seen) == int(tree.depth[node]) + 1


def brute_force(model, prompt, answer, pixels):
    ids = torch.tensor([[*prompt, *answer]])
    seen = {} if pixels is None else {"pixel_values": pixels[None]}
    log_probs = model(input_ids=ids, **seen).logits[0].float().log_softmax(-1)
    return sum(float(log_probs[len(prompt) - 1 + place, token]) for place, token in enumerate(answer))


@pytest.mark.parametrize("blind", [False, True])
@pytest.mark.parametrize("split_head", [True, False])
@pytest.mark.parametrize("at_once", [8_192, 1])
@torch.no_grad()
def test_it_equals_brute_force(blind, split_head, at_once, tiny_task, monkeypatch):
    monkeypatch.setattr("llmstage.models.multiple_choice.AT_ONCE", at_once)
    monkeypatch.setattr("llmstage.models.multiple_choice.LOGITS", 8_192 if at_once > 1 else 1)
    it = tiny_task("visual_reasoning", "vlm", words=("task.blind=true",) if blind else ())
    model = it.model()
    assert model.split_head
    model.split_head = split_head
    prompts = [item.input_ids[: -sum(item.arrays["target"])] for item in it.features]
    assert len(set(map(len, prompts))) > 1, "they are padded"
    pixels = None if blind else it.task.pixel_values(it.features)
    beside = {} if blind else {"pixel_values": pixels}
    found = answer_log_probs(model, it.processor.pad_id, prompts, AnswerTree.of(ANSWERS), beside)
    for row, prompt in enumerate(prompts):
        alone = [brute_force(model, prompt, answer, None if blind else pixels[row]) for answer in ANSWERS]
        assert found[row].tolist() == pytest.approx(alone, rel=1e-4, abs=1e-4)


@torch.no_grad()
def test_no_answer_depends_on_the_others(tiny_task):
    it = tiny_task("visual_reasoning", "vlm", words=("task.blind=true",))
    model, prompts = it.model(), [item.input_ids[:-2] for item in it.features[:3]]
    whole = answer_log_probs(model, it.processor.pad_id, prompts, AnswerTree.of(ANSWERS))
    turned = answer_log_probs(model, it.processor.pad_id, prompts, AnswerTree.of(ANSWERS[::-1]))
    torch.testing.assert_close(whole, turned.flip(1), rtol=1e-4, atol=1e-4)
    two = answer_log_probs(model, it.processor.pad_id, prompts, AnswerTree.of(ANSWERS[1:3]))
    torch.testing.assert_close(whole[:, 1:3], two, rtol=1e-4, atol=1e-4)
