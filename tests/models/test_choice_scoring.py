"""Choices scored over one reading of their prompt have the log-probability that each has alone."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from llmstage.models import choice_scoring
from llmstage.models import loglikelihood as told_module
from llmstage.models.choice_scoring import Item, batches, tell_choices


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


def items(shared: int = 0) -> list[Item]:
    draw = torch.Generator().manual_seed(1)

    def some(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high, (), generator=draw))
        return torch.randint(3, 90, (length,), generator=draw).tolist()

    front = torch.randint(3, 90, (shared,), generator=draw).tolist()
    made = [Item(front + some(1, 12), [some(1, 6) for _ in range(int(number % 4) + 1)]) for number in range(13)]
    made[4].choices = [[7], [8], [7]]  # nothing of them is read
    made[5].choices = [[7, 8, 9], [7, 8, 9, 10], [7, 8, 9]]  # one begins as another
    return made


@torch.no_grad()
def alone(model, item: Item) -> list[float]:
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
    monkeypatch.setattr(told_module, "CHUNK_BYTES", 4 * 90 * 3)
    model, told = make(), items(shared)
    found = [[one.total for one in item] for item in tell_choices(model, 0, told, at_once=budget)]
    for item, scores in zip(told, found, strict=True):
        assert scores == pytest.approx(alone(model, item), abs=1e-4)


def test_a_shared_beginning_is_read_once_and_each_prompt_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, told, seen = llama(), items(40), []
    original = choice_scoring.read
    monkeypatch.setattr(
        choice_scoring, "read", lambda model, ids, *a, **k: seen.append(ids.numel()) or original(model, ids, *a, **k)
    )
    tell_choices(model, 0, told)
    assert len(seen) == 3 and seen[0] == 40
    brute = sum(len(item.prompt) + len(choice) for item in told for choice in item.choices)
    assert sum(seen) < brute / 4


def test_batches_are_sorted_and_within_the_budget() -> None:
    told = items()
    found = batches(told, 40)
    assert sorted(index for batch in found for index in batch) == list(range(len(told)))
    for batch in found:
        width = max(len(told[index].prompt) for index in batch) + max(told[index].read for index in batch)
        assert len(batch) == 1 or len(batch) * width <= 40


def test_nothing_asked_nothing_said() -> None:
    assert tell_choices(llama(), 0, []) == []


@pytest.mark.parametrize("make", [llama, gpt2])
@pytest.mark.parametrize("shared", [0, 40])
def test_tokens_are_told_as_plain_logits_say(make, shared: int) -> None:
    """Likeliest or not, and the rank, token by token, against logits of the whole text."""
    model, asked = make(), items(shared)
    for item, found in zip(asked, tell_choices(model, 0, asked), strict=True):
        for choice, told in zip(item.choices, found, strict=True):
            with torch.no_grad():
                logits = model(torch.tensor([item.prompt + choice])).logits[0]
            for at, token in enumerate(choice):
                row = logits[len(item.prompt) + at - 1]
                assert told.best[at] == (int(row.argmax()) == token)
                assert told.ranks[at] == 1 + int((row > row[token] + 1e-6).sum())
