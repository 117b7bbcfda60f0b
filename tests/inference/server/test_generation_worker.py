"""Rows that join and leave while others are written say what they would have said alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from llmstage.inference.server.generation_worker import GenerationWorker, Job, TextDelta
from llmstage.models.continuous_batching import PaddedBatch, SlotBatch, sample_tokens, start_batch

pytestmark = pytest.mark.lowest


def alone(model: Any, prompt: list[int], count: int) -> list[int]:
    """By transformers' own generate()."""
    ids = torch.tensor([prompt])
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, eos_token_id=-1
    )
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("kind", ["slots", "padded"])
@torch.no_grad()
def test_texts_written_together_are_those_written_alone(kind: str, tiny_task: Callable[..., Any]) -> None:
    it = tiny_task("causal_lm", "gpt")
    model = it.model().eval()
    for weight in model.parameters():
        weight.mul_(3)  # far from a tie at every token
    draw = torch.Generator().manual_seed(0)
    prompts = [torch.randint(8, 300, (length,), generator=draw).tolist() for length in (3, 17, 9, 30, 5)]
    lengths = [20, 4, 11, 8, 15]
    shared = start_batch(model, 0, 4, 64) if kind == "slots" else PaddedBatch(model, 0)
    assert isinstance(shared, SlotBatch if kind == "slots" else PaddedBatch)
    new: list[list[int]] = [[] for _ in prompts]
    rows: list[int] = []
    waiting = list(range(len(prompts)))
    for step in range(60):
        join = [waiting.pop(0) for _ in range(min(len(waiting), 4 - len(rows), 2 if step % 3 == 0 else 0))]
        if join:
            shared.join([prompts[row] for row in join])
            rows += join
        if not rows:
            continue
        tokens = shared.logits().argmax(-1).tolist()
        for row, token in zip(rows, tokens, strict=True):
            new[row].append(token)
        gone = [place for place, row in enumerate(rows) if len(new[row]) == lengths[row]]
        if gone:
            shared.leave(gone)
            tokens = [token for place, token in enumerate(tokens) if place not in gone]
            rows = [row for place, row in enumerate(rows) if place not in gone]
        if tokens:
            shared.take(torch.tensor(tokens))
    assert new == [alone(model, prompt, length) for prompt, length in zip(prompts, lengths, strict=True)]


def test_choosing_follows_temperature_and_top_p() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))

    def drawn(count: int, temperature: float, top_p: float) -> list[int]:
        draw = torch.Generator().manual_seed(0)
        return sample_tokens(logits.expand(count, 4), [temperature] * count, [top_p] * count, [draw] * count)

    assert drawn(5, 0, 1) == [0] * 5
    shares = torch.bincount(torch.tensor(drawn(4000, 1, 1)), minlength=4) / 4000
    assert torch.allclose(shares, logits.exp(), atol=0.03)
    assert set(drawn(300, 1, 0.7)) == {0, 1}, "the token that crosses the border stays, those behind it do not"
    assert drawn(300, 0.2, 1).count(0) > 250
    both = sample_tokens(logits.expand(2, 4), [0, 5], [1, 1], [None, torch.Generator().manual_seed(3)])
    assert both[0] == 0, "a row that draws nothing is not touched by one that does"


def test_what_is_not_streamed_is_deltas_once_and_says_the_same(tiny_task: Callable[..., Any]) -> None:
    it = tiny_task("causal_lm", "gpt")
    worker = GenerationWorker(it.model().eval(), it.processor, slots=2, queue_size=4, max_length=64)
    deltas: dict[bool, list[TextDelta]] = {True: [], False: []}
    ended = {streamed: threading.Event() for streamed in deltas}

    def keep(streamed: bool, delta: TextDelta) -> None:
        deltas[streamed].append(delta)
        if delta.finish_reason or delta.error:
            ended[streamed].set()

    try:
        prompt = it.processor.plain_ids(["The"])[0]
        for streamed in deltas:
            worker.submit(Job(prompt, 20, partial(keep, streamed), streamed=streamed))
        assert all(event.wait(60) for event in ended.values())
    finally:
        worker.close()
    assert [len(deltas[False]), len(deltas[True]) > 3] == [1, True]
    assert deltas[False][0].text == "".join(delta.text for delta in deltas[True]) and deltas[False][0].text
