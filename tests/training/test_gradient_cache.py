"""The gradient of a batch whose rows are compared with each other does not depend on micro-batches, nor on processes."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from llmstage.training.batches import backward_parts, cached_backward

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
ROWS = 8


def same(loss: torch.Tensor) -> torch.Tensor:
    return loss


def gradients(model: Any, count: float) -> dict[str, torch.Tensor]:
    return {name: parameter.grad / count for name, parameter in model.named_parameters() if parameter.grad is not None}


def whole_gradient(it: Any, model: Any, parts: list[Any], seed: int) -> tuple[dict[str, torch.Tensor], float]:
    """One graph over all micro-batches, and the loss over all of it: what the memory of a large machine would do."""
    model.zero_grad()
    torch.manual_seed(seed)
    embeddings = [it.task.embed(model, part) for part in parts]
    loss = it.task.pair_loss(model, tuple(map(torch.cat, zip(*embeddings, strict=True))), parts)
    loss.total.backward()
    return gradients(model, loss.count), float(loss.total.detach())


def cut(features: list[Any], size: int) -> list[list[Any]]:
    return [features[at : at + size] for at in range(0, len(features), size)]


@pytest.fixture(scope="module", params=["infonce", "sigmoid"])
def it(request, tiny_task):
    return tiny_task("contrastive", "clip", num_rows=ROWS, words=(f"task.loss={request.param}", "model.dropout=0.2"))


@pytest.mark.parametrize("dropout", [False, True], ids=["plain", "dropout"])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_cached_gradients_are_those_of_the_whole_batch(it, size, dropout):
    model = it.model().train(dropout)
    parts = [it.batch(part) for part in cut(it.features, size)]
    expected, total = whole_gradient(it, model, parts, seed=3)
    if not dropout:  # without it, nothing hangs on how the batch is cut
        undivided, _ = whole_gradient(it, model, [it.batch()], seed=3)
        for name, gradient in undivided.items():
            torch.testing.assert_close(expected[name], gradient, **CLOSE)
    model.zero_grad()
    torch.manual_seed(3)
    loss = cached_backward(it.task, model, parts, nullcontext, same)
    computed = gradients(model, loss.count)
    assert loss.count == ROWS and float(loss.total) == pytest.approx(total, rel=1e-5)
    assert computed.keys() == expected.keys()
    assert {"logit_scale", "visual_projection.weight", "text_projection.weight"} <= computed.keys()
    for name, gradient in expected.items():
        assert float((computed[name] - gradient).abs().max()) < 1e-5, name
    assert max(float(gradient.abs().max()) for gradient in expected.values()) > 1e-3


def test_dropout_draws_anew_in_each_part_and_ends_where_one_pass_would_end(it):
    model = it.model().train()
    parts = [it.batch(part) for part in cut(it.features, 3)]
    torch.manual_seed(5)
    cached_backward(it.task, model, parts, nullcontext, same)
    after = torch.rand(3)
    torch.manual_seed(5)
    for part in parts:
        it.task.embed(model, part)
    assert torch.equal(after, torch.rand(3))


def test_one_part_is_the_plain_loss_computed_once(it, monkeypatch):
    model = it.model().eval()
    calls = []
    inner = it.task.embed
    monkeypatch.setattr(it.task, "embed", lambda *args: (calls.append(1), inner(*args))[1])
    [loss] = backward_parts(it.task, model, [it.batch()], nullcontext, same)
    assert len(calls) == 1
    computed = gradients(model, loss.count)
    model.zero_grad()
    plain = it.task.loss(model, it.batch())
    plain.total.backward()
    for name, gradient in gradients(model, plain.count).items():
        assert torch.equal(computed[name], gradient)


def test_a_scaled_loss_scales_the_gradient(it):
    """fp16's loss scaling goes through the cached gradients too."""
    model = it.model().eval()
    parts = [it.batch(part) for part in cut(it.features, 3)]
    loss = cached_backward(it.task, model, parts, nullcontext, same)
    once = gradients(model, loss.count)
    model.zero_grad()
    cached_backward(it.task, model, parts, nullcontext, lambda total: total * 64)
    for name, gradient in gradients(model, loss.count).items():
        torch.testing.assert_close(gradient, 64 * once[name])


@pytest.mark.parametrize("frozen", [["vision"], ["vision", "text"]])
def test_frozen_towers_take_no_gradient(it, frozen):
    model = it.model(freeze=frozen).train()
    cached_backward(it.task, model, [it.batch(part) for part in cut(it.features, 3)], nullcontext, same)
    assert model.logit_scale.grad is not None
    assert all(parameter.grad is None for parameter in model.vision_model.parameters())
    assert (model.text_projection.weight.grad is None) is ("text" in frozen)


CASES = {
    "infonce": ("infonce", [5, 3], 8),
    "infonce in parts": ("infonce", [4, 4], 2),
    "sigmoid": ("sigmoid", [3, 5], 2),
}
"""Loss, rows of each process, size of its micro-batches."""


def rank(number: int, port: int, folder: str) -> None:
    """One of two processes with its share of the rows; writes the sum of both processes' gradients, case by case."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "HF_HUB_OFFLINE": "1"}
    from tests.conftest import tiny

    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=number, world_size=2)
    for name, (loss, share, micro) in CASES.items():
        it = tiny("contrastive", "clip", num_rows=ROWS, words=(f"task.loss={loss}",))
        model = it.model().eval()
        start = sum(share[:number])
        parts = [it.batch(part) for part in cut(it.features[start : start + share[number]], micro)]
        [embeddings] = backward_parts(it.task, model, parts, nullcontext, same)
        totals = torch.tensor([float(embeddings.total), embeddings.count])
        dist.all_reduce(totals)
        computed = {}
        for key, parameter in model.named_parameters():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            dist.all_reduce(gradient)  # what data parallelism does: sums over ranks, divided by the count of all
            computed[key] = gradient / totals[1]
        if number == 0:
            torch.save({"told": totals, "gradients": computed}, Path(folder) / f"{name}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def both(shared_folder, fork_server):
    """The folder with what two processes found, a file a case: they are started once, as importing torch takes long."""
    import socket

    def make():
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with pytest.MonkeyPatch.context() as patch:
            # A new process takes over sys.path, not PYTHONPATH; where the package is installed, the root is in neither.
            patch.syspath_prepend(str(Path(__file__).resolve().parents[2]))
            mp.start_processes(rank, (port, str(Path.cwd())), nprocs=2, start_method="forkserver")

    return shared_folder("ranks", make)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_have_the_gradient_of_one(name, both, tiny_task):
    computed = torch.load(both / f"{name}.pt")
    it = tiny_task("contrastive", "clip", num_rows=ROWS, words=(f"task.loss={CASES[name][0]}",))
    model = it.model().eval()
    expected, total = whole_gradient(it, model, [it.batch()], seed=0)
    assert computed["told"].tolist() == [pytest.approx(total, rel=1e-5), ROWS]
    for key, gradient in expected.items():
        assert float((computed["gradients"][key] - gradient).abs().max()) < 1e-5, key
