"""What a run does with the proof: pack, go on unpacked and say so, refuse, or take rows of one length."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import llmstage.training.packing as packing
from llmstage.data.encoding.order import of_one_length
from llmstage.errors import ModelError
from llmstage.models.packing import PackedForm
from llmstage.models.packing_proof import Difference, PackingProof

EXACT = Difference(1e-7, 1e-8)
APART = Difference(0.3, 0.12, leak=0.2)
PROVEN = PackingProof(PackedForm(), EXACT, "", EXACT, sees_later=False)


def decide(
    monkeypatch: pytest.MonkeyPatch, proof: PackingProof, setting: str = "auto", packs: bool = True
) -> tuple[bool, Any, list[str]]:
    """(whether rows are packed, the task, what was said)."""
    said: list[str] = []
    monkeypatch.setattr(packing, "prove_packing", lambda *_, **__: proof)
    monkeypatch.setattr(packing.console, "warn", said.append)
    packing.ANNOUNCED.clear()
    run: Any = SimpleNamespace(
        trainer=SimpleNamespace(packing=setting),
        model=SimpleNamespace(path="my-model", name=""),
        task=SimpleNamespace(name="causal_lm"),
    )
    task: Any = SimpleNamespace(
        auto_model="AutoModelForCausalLM", packs=packs, processor=SimpleNamespace(pad_id=0), reads_padding=False
    )
    model = torch.nn.Linear(1, 1)
    model.config = SimpleNamespace(model_type="some_type")
    return packing.decide_packing(run, task, model, 128, packs=packs and setting != "off"), task, said


def test_a_proven_model_is_packed_without_a_word(monkeypatch):
    packed, task, said = decide(monkeypatch, PROVEN)
    assert packed and not task.reads_padding and not said


def test_a_model_whose_documents_differ_goes_on_unpacked_and_says_by_how_much(monkeypatch):
    packed, _, said = decide(monkeypatch, replace(PROVEN, form=None, difference=APART))
    assert not packed
    assert (
        len(said) == 1
        and "my-model (some_type)" in said[0]
        and "0.12 nats a token" in said[0]
        and "not packed" in said[0]
    )


def test_packing_on_refuses_with_the_figure(monkeypatch):
    with pytest.raises(ModelError, match=r"trainer\.packing=on.*0\.12 nats a token"):
        decide(monkeypatch, replace(PROVEN, form=None, difference=APART), "on")


def test_a_model_that_raises_on_packed_rows_names_the_error(monkeypatch):
    proof = replace(PROVEN, form=None, difference=None, reason="ValueError: wrong mask")
    packed, _, said = decide(monkeypatch, proof)
    assert not packed and "ValueError: wrong mask" in said[0]


def test_padding_that_changes_the_outputs_gives_rows_of_one_length(monkeypatch):
    _, task, said = decide(monkeypatch, replace(PROVEN, form=None, difference=None, padded=APART), packs=False)
    assert task.reads_padding and "one length" in said[0]


def test_a_packed_model_needs_no_rows_of_one_length(monkeypatch):
    packed, task, said = decide(monkeypatch, replace(PROVEN, padded=APART))
    assert packed and not task.reads_padding and not said


def test_a_causal_task_refuses_a_model_that_sees_later_tokens(monkeypatch):
    with pytest.raises(ModelError, match="sees later tokens"):
        decide(monkeypatch, replace(PROVEN, sees_later=True))


def test_parts_of_one_length_hold_every_row_once():
    lengths = torch.tensor([4, 7, 4, 9, 7, 4]).numpy()
    batch = [[0], [1], [2], [3], [4], [5]]
    parts = of_one_length(batch, lengths)
    assert sorted(row for part in parts for row in part) == batch
    assert all(len({int(lengths[row[0]]) for row in part}) == 1 for part in parts) and len(parts) == 3
