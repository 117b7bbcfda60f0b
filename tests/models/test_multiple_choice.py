"""Answers that share one reading of their prompt have the log-probability that each has alone."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from llmstage.models import loglikelihood, multiple_choice
from llmstage.models.multiple_choice import AnswerTree, ChoicePrompt, answer_log_probs, batches, score_choices

pytestmark = pytest.mark.lowest

ANSWERS = [[45, 2], [45, 46, 2], [45, 46, 47, 2], [48, 2], [49, 49, 49, 2], [46, 2, 43], [2]]
"""Beginnings shared, one token and several, an end of two tokens, and nothing but the end."""


def test_a_tree_shares_beginnings_and_reads_no_last_token():
    tree = AnswerTree.of(ANSWERS)
    paths = {tuple(answer[:stop]) for answer in ANSWERS for stop in range(1, len(answer))}
    assert len(tree.tokens) == len(paths)
    assert tree.steps.shape == (3, sum(map(len, ANSWERS)))
    for node in range(len(tree.tokens)):
        seen = tree.visible[node].nonzero()[:, 0].tolist()
        assert seen[-1] == node and tree.tokens[seen].tolist() in [list(path) for path in paths]
        assert len(seen) == int(tree.depth[node]) + 1


def brute_force(model, prompt, answer, pixels):
    ids = torch.tensor([[*prompt, *answer]])
    seen = {} if pixels is None else {"pixel_values": pixels[None]}
    log_probs = model(input_ids=ids, **seen).logits[0].float().log_softmax(-1)
    return sum(float(log_probs[len(prompt) - 1 + at, token]) for at, token in enumerate(answer))


@pytest.mark.parametrize("blind", [False, True])
@pytest.mark.parametrize("split_head", [True, False])
@pytest.mark.parametrize("max_batch_tokens", [8_192, 1])
@torch.no_grad()
def test_it_equals_brute_force(blind, split_head, max_batch_tokens, tiny_task, monkeypatch):
    monkeypatch.setattr("llmstage.models.multiple_choice.MAX_BATCH_TOKENS", max_batch_tokens)
    monkeypatch.setattr("llmstage.models.multiple_choice.LOGITS", 8_192 if max_batch_tokens > 1 else 1)
    it = tiny_task("visual_reasoning", "vlm", words=("task.blind=true",) if blind else ())
    model = it.model()
    assert model.split_head
    model.split_head = split_head
    prompts = [item.input_ids[: -sum(item.arrays["target"])] for item in it.features]
    assert len(set(map(len, prompts))) > 1, "they are padded"
    pixels = None if blind else it.task.pixel_values(it.features)
    model_inputs = {} if blind else {"pixel_values": pixels}
    result = answer_log_probs(model, it.processor.pad_id, prompts, AnswerTree.of(ANSWERS), model_inputs)
    for row, prompt in enumerate(prompts):
        alone = [brute_force(model, prompt, answer, None if blind else pixels[row]) for answer in ANSWERS]
        assert result[row].tolist() == pytest.approx(alone, rel=1e-4, abs=1e-4)


@torch.no_grad()
def test_no_answer_depends_on_the_others(tiny_task):
    it = tiny_task("visual_reasoning", "vlm", words=("task.blind=true",))
    model, prompts = it.model(), [item.input_ids[:-2] for item in it.features[:3]]
    full_tree = answer_log_probs(model, it.processor.pad_id, prompts, AnswerTree.of(ANSWERS))
    reversed_tree = answer_log_probs(model, it.processor.pad_id, prompts, AnswerTree.of(ANSWERS[::-1]))
    torch.testing.assert_close(full_tree, reversed_tree.flip(1), rtol=1e-4, atol=1e-4)
    two = answer_log_probs(model, it.processor.pad_id, prompts, AnswerTree.of(ANSWERS[1:3]))
    torch.testing.assert_close(full_tree[:, 1:3], two, rtol=1e-4, atol=1e-4)


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=90, num_key_value_heads=2, initializer_range=0.3, **sizes)).eval()
    model.split_head = True
    return model


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=90, n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.3)
    return GPT2LMHeadModel(config).eval()


def items(shared: int = 0) -> list[ChoicePrompt]:
    draw = torch.Generator().manual_seed(1)

    def some(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high, (), generator=draw))
        return torch.randint(3, 90, (length,), generator=draw).tolist()

    front = torch.randint(3, 90, (shared,), generator=draw).tolist()
    result = [
        ChoicePrompt(front + some(1, 12), [some(1, 6) for _ in range(int(number % 4) + 1)]) for number in range(13)
    ]
    result[4].choices = [[7], [8], [7]]  # nothing of them is read
    result[5].choices = [[7, 8, 9], [7, 8, 9, 10], [7, 8, 9]]  # one begins as another
    return result


@torch.no_grad()
def alone(model, item: ChoicePrompt) -> list[float]:
    out = []
    for choice in item.choices:
        logits = model(torch.tensor([item.prompt + choice])).logits[0].double().log_softmax(-1)
        out.append(sum(float(logits[len(item.prompt) + at - 1, token]) for at, token in enumerate(choice)))
    return out


@pytest.mark.parametrize("make", [llama, gpt2])
@pytest.mark.parametrize("shared", [0, 40])
@pytest.mark.parametrize("budget", [30, 8192])
def test_each_choice_as_alone(make, shared: int, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By brute force, in fp32, to 1e-4 nats; also in small batches, and where the logits are made a few at a time."""
    monkeypatch.setattr(loglikelihood, "CHUNK_BYTES", 4 * 90 * 3)
    model, prompts = make(), items(shared)
    totals = [[scores.total for scores in item] for item in score_choices(model, 0, prompts, max_batch_tokens=budget)]
    for item, scores in zip(prompts, totals, strict=True):
        assert scores == pytest.approx(alone(model, item), abs=1e-4)


def test_a_shared_beginning_is_read_once_and_each_prompt_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts, seen = llama(), items(40), []
    original = multiple_choice.forward_cached
    monkeypatch.setattr(
        multiple_choice,
        "forward_cached",
        lambda model, ids, *a, **k: seen.append(ids.numel()) or original(model, ids, *a, **k),
    )
    score_choices(model, 0, prompts)
    assert len(seen) == 3 and seen[0] == 40
    brute = sum(len(item.prompt) + len(choice) for item in prompts for choice in item.choices)
    assert sum(seen) < brute / 4


def test_batches_are_sorted_and_within_the_budget() -> None:
    prompts = items()
    result = batches(prompts, 40)
    assert sorted(index for batch in result for index in batch) == list(range(len(prompts)))
    for batch in result:
        width = max(len(prompts[index].prompt) for index in batch) + max(prompts[index].num_read for index in batch)
        assert len(batch) == 1 or len(batch) * width <= 40


def test_no_items_give_no_scores() -> None:
    assert score_choices(llama(), 0, []) == []


@pytest.mark.parametrize("make", [llama, gpt2])
@pytest.mark.parametrize("shared", [0, 40])
def test_token_scores_are_those_of_plain_logits(make, shared: int) -> None:
    """Likeliest or not, and the rank, token by token, against logits of the whole text."""
    model, prompts = make(), items(shared)
    for item, item_scores in zip(prompts, score_choices(model, 0, prompts), strict=True):
        for choice, scores in zip(item.choices, item_scores, strict=True):
            with torch.no_grad():
                logits = model(torch.tensor([item.prompt + choice])).logits[0]
            for at, token in enumerate(choice):
                row = logits[len(item.prompt) + at - 1]
                assert scores.best[at] == (int(row.argmax()) == token)
                assert scores.ranks[at] == 1 + int((row > row[token] + 1e-6).sum())
