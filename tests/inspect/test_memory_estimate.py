"""What is foreseen on meta tensors, against torch's profiler, which watches a real step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from llmstage.inspect.memory_estimate import estimate_memory
from llmstage.kernels.enable import enable
from llmstage.training.batches import backward_parts
from llmstage.training.machine import resolve_machine


def ready(tiny_task: Any, name: str, model_family: str, precision: str, **knobs: Any) -> tuple[Any, Any, Any, Any]:
    """(task, model with the kernels of training, parts of a batch, machine)"""
    components = tiny_task(name, model_family, num_rows=12)
    run = replace(
        components.run, trainer=replace(components.run.trainer, precision=precision, threads=1, device="cpu", **knobs)
    )
    machine = resolve_machine(run.trainer)
    model = components.model()
    enable(model, run.trainer, machine, {})
    half = len(components.features) // 2
    return (
        components.task,
        model.train(),
        [components.batch(components.features[:half]), components.batch(components.features[half:])],
        machine,
    )


def watched(task: Any, model: Any, parts: Any, machine: Any) -> int:
    """The most that torch's CPU allocator had given out at once, by its profiler."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        for loss in backward_parts(
            task, model, parts, lambda: machine.autocast(machine.precision), lambda total: total
        ):
            del loss
    now = most = 0
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.parametrize(
    ("name", "model_family", "precision"),
    [
        ("causal_lm", "gpt", "fp32"),
        ("dialogue", "gpt", "bf16"),
        ("classification", "bert", "fp32"),
        ("translation", "t5", "fp32"),
    ],
)
def test_the_peak_is_what_the_profiler_sees(tiny_task, name, model_family, precision):
    task, model, parts, machine = ready(tiny_task, name, model_family, precision)
    estimate = estimate_memory(task, model, parts, machine)
    assert all(weight.grad is None for weight in model.parameters())
    real = watched(task, model, parts, machine)
    model.zero_grad(set_to_none=True)
    real = watched(task, model, parts, machine)  # the first time, kernels are made as well
    assert estimate.activations + estimate.logits_at_peak + estimate.gradients_at_peak == pytest.approx(real, rel=0.05)


def test_weights_gradients_and_moments_are_counted_by_hand(tiny_task):
    task, model, parts, machine = ready(tiny_task, "causal_lm", "gpt", "fp32")
    for weight in list(model.parameters())[1:3]:
        weight.requires_grad_(False)
    estimate = estimate_memory(task, model, parts, machine)
    count = sum(weight.numel() for weight in model.parameters())
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    buffers = sum(item.numel() * item.element_size() for item in model.buffers())
    assert (estimate.weights, estimate.gradients, estimate.optimizer) == (4 * count + buffers, 4 * trained, 8 * trained)
    assert trained < count
    assert estimate.peak >= estimate.weights + estimate.optimizer + estimate.gradients


def test_logits_in_chunks_stand_in_less_memory(tiny_task):
    full_logits = estimate_memory(*ready(tiny_task, "causal_lm", "gpt", "fp32", head_chunk="off"))
    chunks = estimate_memory(*ready(tiny_task, "causal_lm", "gpt", "fp32", head_chunk=16))
    assert chunks.logits < full_logits.logits / 4
    assert chunks.peak < full_logits.peak


def test_recomputed_layers_keep_less_and_compute_more(tiny_task):
    plain = estimate_memory(*ready(tiny_task, "causal_lm", "gpt", "fp32"))
    again = estimate_memory(*ready(tiny_task, "causal_lm", "gpt", "fp32", activation_checkpointing="on"))
    assert again.peak < plain.peak
    assert again.flops > plain.flops


def test_the_arithmetic_is_that_of_the_counter_on_a_real_step(tiny_task):
    from torch.utils.flop_counter import FlopCounterMode

    task, model, parts, machine = ready(tiny_task, "causal_lm", "gpt", "fp32")
    estimate = estimate_memory(task, model, parts, machine)
    with FlopCounterMode(display=False) as counter:
        for _ in backward_parts(task, model, parts, lambda: machine.autocast(machine.precision), lambda total: total):
            pass
    assert estimate.flops == pytest.approx(counter.get_total_flops(), rel=0.01)
    assert torch.isfinite(next(model.parameters())).all()
