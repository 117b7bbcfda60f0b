"""Prove on the model at hand that documents in one row, or in one padded batch, get what each gets alone.

Four short documents pass through the model three ways: each alone, two in a row (packed as in training), and one in a row (padded).
A packed form is exact where hidden states and log-probabilities of every document are those of the document alone, up to rounding, and
where nothing of a document changes when the tokens of its neighbour do. The second test sees leaks that are small because the
attention of a new model is nearly flat: a masked key contributes exactly zero. Windows that are shorter than the rows of the run
are narrowed to a few tokens for the proof, so that short documents exceed them; where a model has its window in a buffer, the
documents are made longer than the window instead. No generator, buffer, mode or config of the model is changed.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llmstage.data.encoding.collate import pack
from llmstage.kernels.comparison import is_causal, untouched
from llmstage.models.packing import Masks, PackedForm, default_form, packed_form, position_offsets

LENGTHS = ((13, 9), (5, 12))
"""Tokens of the documents in each row of the proof: rows have their boundaries at different positions, and one is padded."""
NATS = 1e-4
"""Difference of the log-probability of a token that is accepted, as a mean over the tokens of a document (fp32)."""
STATES = {torch.float32: 1e-4, torch.float16: 0.01, torch.bfloat16: 0.05}
"""Norm of the difference of hidden states, as a share of their norm, that rounding explains, by the type of the weights."""
LEAK = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 0.01}
"""The same between two passes of equal shape in which only another document differs. It is 0 but for experts, whose products
have other shapes when other tokens are routed to them."""
NARROW = 3
"""Tokens of a window during the proof."""
SPARSE = ("index_topk", "indexer_budget", "index_topk_blocks")
"""Names under which configs keep how many keys sparse attention reads. Which keys those are depends on rounding, where scores are equal
(they are where a ReLU gives 0), so no form of a row that is longer can be exact."""
WINDOWS = ("sliding_window", "attention_chunk_size", "window_size", "local_attention", "attention_window")
"""Names under which configs and modules keep the length of a window or a chunk of attention."""


@dataclass(slots=True, frozen=True)
class Difference:
    """By how much documents in company differ from the same documents alone."""

    states: float
    """Largest norm of the difference of the output of a document, as a share of its norm."""
    nats: float
    """Largest mean difference of the log-probability of a document's tokens."""
    leak: float = 0.0
    """Largest change of a document's output when another document is replaced."""
    dtype: torch.dtype = torch.float32

    @property
    def accepted(self) -> bool:
        low = self.dtype != torch.float32  # in fewer bits, rounding alone exceeds NATS
        return self.states <= STATES[self.dtype] and self.leak <= LEAK[self.dtype] and (low or self.nats <= NATS)

    def __str__(self) -> str:
        return f"{self.nats:.2g} nats a token, {self.states:.2g} of the norm of hidden states"


@dataclass(slots=True, frozen=True)
class PackingProof:
    """What the proof found for one model."""

    form: PackedForm | None
    """The form of packed rows that is exact; None: rows must not be packed."""
    difference: Difference | None
    """Of the exact form, else of the form that differs least; None where every form raised an error."""
    reason: str
    """Why rows are not packed."""
    padded: Difference | None
    """Of documents in a padded batch, one a row; None where the model takes no batches."""
    sees_later: bool
    """Whether the output of a token depends on later tokens, of which a causal task must not know."""
    seconds: float = 0.0


MASKS: tuple[Masks, ...] = ("block", "layers")
PROOFS: dict[str, PackingProof] = {}
"""Proofs of this process, by what they depend on."""


def prove_packing(model: Any, *, causal: bool, context: int, pad_id: int, packs: bool = True) -> PackingProof:
    """Find the exact packed form of a model, let its body read packed rows in it, and return the proof.

    `causal`: whether the task gives causal masks. `context`: tokens of a row, at most. `packs`: False where the task never packs; then
    only padded batches are checked. The model must have gone through
    read_packed_rows(). The proof of a model with the same config is taken from this process's memory.
    """
    body = getattr(model, "base_model", model)
    config = json.dumps(model.config.to_dict(), sort_keys=True, default=str)
    key = f"{type(model).__name__}|{weight_dtype(model)}|{causal}|{packs}|{context}|{config}"
    if key not in PROOFS:
        PROOFS[key] = Prover(model, causal=causal, context=context, pad_id=pad_id, packs=packs).prove()
    body.packed_form = PROOFS[key].form or default_form(model)
    return PROOFS[key]


def weight_dtype(model: nn.Module) -> torch.dtype:
    """The coarsest type of the weights; quantized weights count as bf16."""
    dtypes = {weight.dtype for weight in model.parameters()}
    if getattr(model, "is_quantized", False) or torch.bfloat16 in dtypes:
        return torch.bfloat16
    return torch.float16 if torch.float16 in dtypes else torch.float32


class Prover:
    """The passes of one proof."""

    def __init__(self, model: Any, *, causal: bool, context: int, pad_id: int, packs: bool) -> None:
        self.model, self.causal, self.context, self.pad_id, self.packs = model, causal, context, pad_id, packs
        self.body = getattr(model, "base_model", model)
        self.device = next(model.parameters()).device
        self.dtype = weight_dtype(model)

    def prove(self) -> PackingProof:
        start, before = time.perf_counter(), packed_form(self.model)
        try:
            with torch.no_grad(), untouched_state(self.model):
                proof = self._prove()
        except Exception as error:  # the model does not take ids alone
            proof = PackingProof(None, None, describe(error), None, sees_later=False)
        finally:
            self.body.packed_form = before
        return replace(proof, seconds=time.perf_counter() - start)

    def _prove(self) -> PackingProof:
        config = self.model.config.get_text_config()
        sparse = [value for name in SPARSE if isinstance(value := getattr(config, name, None), int)]
        if self.packs and any(value < self.context for value in sparse):
            self.packs, reason = False, f"sparse attention reads {min(sparse)} keys of longer rows"
            return replace(self._prove(), reason=reason)
        windows = short_windows(self.model, self.context)
        documents = self.documents(LENGTHS)
        with narrowed(windows):
            alone = self.alone(documents)
            if windows and not self.narrowing_matters(documents, alone, windows):
                windows = [window for window in windows if window.may_be_elsewhere(self.model)]
                if windows:
                    return self.long_proof(max(window.value for window in windows))
            return self.compare(documents, alone)

    def long_proof(self, window: int) -> PackingProof:
        """Make the proof for a model whose window cannot be narrowed: its documents are longer than the window."""
        documents = self.documents(((window + 13, window // 2 + 9), (5, window + 12)))
        return self.compare(documents, self.alone(documents))

    def compare(self, documents: list[list[list[int]]], alone: list[list[Outputs]]) -> PackingProof:
        """Compare padded rows and every packed form with the documents alone; `alone` as `documents`, by row."""
        padded, sees_later = self.padded(documents, alone), self.causal and self.sees_later(documents, alone)
        closest: Difference | None = None
        if not self.packs:
            return PackingProof(None, None, "the task does not pack", padded, sees_later)
        reasons: dict[str, str] = {}
        for form in self.forms():
            self.body.packed_form = form
            try:
                difference = self.packed(documents, alone)
            except Exception as error:  # this model cannot read this form
                reasons.setdefault(describe(error), str(form))
                continue
            if difference.accepted:
                return PackingProof(form, difference, "", padded, sees_later)
            if closest is None or not difference.nats >= closest.nats:
                closest = difference
        reason = f"{closest} differ from the same documents alone" if closest else next(iter(reasons), "")
        return PackingProof(None, closest, reason, padded, sees_later)

    def forms(self) -> list[PackedForm]:
        """The forms to try, the default one first."""
        config, default = self.model.config.get_text_config(), default_form(self.model)
        masks: list[tuple[Masks, bool]] = [
            (name, added) for name in MASKS for added in (default.additive, not default.additive)
        ]
        if not getattr(config, "layer_types", None):
            masks = masks[:2]
        decoder = is_causal(self.model)
        masks += [("positions", False)] if self.causal or decoder else []
        masks += [("pairs", False)]
        causal = decoder and not self.causal
        candidates = [
            PackedForm(name, added, causal, offset) for offset in position_offsets(self.model) for name, added in masks
        ]
        return list(dict.fromkeys([replace(default, causal=causal), *candidates]))

    def documents(self, lengths: tuple[tuple[int, ...], ...], seed: int = 0) -> list[list[list[int]]]:
        """Random ids that stand for text, without the ids that have a meaning of their own in the config."""
        vocab_size = vocabulary_size(self.model)
        config = self.model.config
        marks = {value for name, value in vars(config).items() if name.endswith("token_id") and isinstance(value, int)}
        plain = np.setdiff1d(np.arange(min(3, vocab_size - 1), vocab_size), [*marks, self.pad_id])
        generator = np.random.default_rng((seed, vocab_size))
        end = getattr(config, "eos_token_id", None)
        ends = (
            [end] if getattr(config, "is_encoder_decoder", False) and isinstance(end, int) else []
        )  # T5 and BART classify a text at its end
        return [[[*generator.choice(plain, length - len(ends)).tolist(), *ends] for length in row] for row in lengths]

    # passes

    def outputs(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(states, logits) of a batch, computed as losses compute them (models/lm_loss.py): states are hidden states or logits."""
        inputs = {name: value.to(self.device) for name, value in inputs.items()}
        if not self.packs and not self.causal:
            out = self.model(**inputs)
            logits = torch.stack([out.start_logits, out.end_logits], -1) if hasattr(out, "start_logits") else out.logits
            if logits.ndim == 2:  # of a whole text: the same at each position
                logits = logits[:, None].expand(-1, inputs["input_ids"].shape[1], -1)
            return logits, logits
        if getattr(self.model, "split_head", False) and self.causal:
            hidden = self.body(**inputs, use_cache=False).last_hidden_state
            return hidden, self.model.get_output_embeddings()(hidden)
        logits = self.model(**inputs).logits
        return logits, logits

    def alone(self, documents: list[list[list[int]]]) -> list[list[Outputs]]:
        return [[self.output_alone(ids) for ids in row] for row in documents]

    def output_alone(self, ids: list[int]) -> Outputs:
        inputs = {"input_ids": torch.tensor([ids])}
        if not self.causal:  # as encoders are given them, also one by one
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        states, logits = self.outputs(inputs)
        return Outputs.of(states[0], logits[0], ids)

    def packed(self, documents: list[list[list[int]]], alone: list[list[Outputs]]) -> Difference:
        """Compare packed rows with `alone`, and with packed rows in which every other document is replaced."""
        result = self.packed_outputs(documents)
        pairs = [pair for rows in zip(result, alone, strict=True) for pair in zip(*rows, strict=True)]
        difference = largest([outputs.difference(exact, self.dtype) for outputs, exact in pairs])
        others = self.documents(tuple(tuple(len(ids) for ids in row) for row in documents), seed=1)
        leak = 0.0
        for retained in (1,) if self.causal else (0, 1):  # under causal masks, no document sees the next one
            changed = [
                [
                    ids if index == retained else substitute
                    for index, (ids, substitute) in enumerate(zip(row, new, strict=True))
                ]
                for row, new in zip(documents, others, strict=True)
            ]
            for before, after in zip(result, self.packed_outputs(changed), strict=True):
                leak = max(leak, after[retained].difference(before[retained], self.dtype).states)
        return replace(difference, leak=leak)

    def packed_outputs(self, documents: list[list[list[int]]]) -> list[list[Outputs]]:
        states, logits = self.outputs(pack(documents, self.pad_id, causal=self.causal).inputs)
        results = []
        for number, row in enumerate(documents):
            starts = np.cumsum([0, *(len(ids) for ids in row)])
            results.append(
                [
                    Outputs.of(states[number, at : at + len(ids)], logits[number, at : at + len(ids)], ids)
                    for at, ids in zip(starts[:-1].tolist(), row, strict=True)
                ]
            )
        return results

    def padded(self, documents: list[list[list[int]]], alone: list[list[Outputs]]) -> Difference | None:
        """Compare the documents, one a row and padded on the right, with `alone`; None where the model takes no batches."""
        flat = [ids for row in documents for ids in row]
        exact = [outputs for row in alone for outputs in row]
        packed = pack([[ids] for ids in flat], self.pad_id, causal=True)
        inputs = dict(packed.inputs)
        if not self.causal:
            inputs["attention_mask"] = (packed.segments >= 0).long()
        try:
            states, logits = self.outputs(inputs)
        except Exception:  # such a model cannot train on batches either, and says so in the first step
            return None
        results = [
            Outputs.of(states[index, : len(ids)], logits[index, : len(ids)], ids) for index, ids in enumerate(flat)
        ]
        return largest(
            [outputs.difference(expected, self.dtype) for outputs, expected in zip(results, exact, strict=True)]
        )

    def sees_later(self, documents: list[list[list[int]]], alone: list[list[Outputs]]) -> bool:
        """Whether the first tokens of a document change when the document goes on in another way."""
        ids, substitute = documents[0][0], self.documents(LENGTHS, seed=1)[0][0]
        half = len(ids) // 2
        continued = self.output_alone([*ids[:half], *substitute[: len(ids) - half]])
        return continued.first(half).difference(alone[0][0].first(half), self.dtype).states > LEAK[self.dtype]

    def narrowing_matters(
        self, documents: list[list[list[int]]], alone: list[list[Outputs]], windows: list[Window]
    ) -> bool:
        """Whether the output of a document depends on the narrowed windows."""
        with restored(windows):
            wide = self.output_alone(documents[0][0])
        return alone[0][0].difference(wide, self.dtype).states > LEAK[self.dtype]


@dataclass(slots=True, frozen=True)
class Outputs:
    """What a model says of one document."""

    states: Tensor
    """[T, D] or [T, V], fp32."""
    log_p: Tensor
    """[T] log-probability of a class that the document's own ids choose: of a language model, of the next token."""

    @classmethod
    def of(cls, states: Tensor, logits: Tensor, ids: list[int]) -> Outputs:
        log_p = torch.log_softmax(logits.float(), -1)  # [T, V]
        classes = torch.tensor([*ids[1:], ids[0]], device=logits.device) % log_p.shape[-1]
        return cls(states.float(), log_p.gather(-1, classes[:, None])[:, 0])

    def first(self, count: int) -> Outputs:
        """The outputs of the first `count` tokens."""
        return Outputs(self.states[:count], self.log_p[:count])

    def difference(self, exact: Outputs, dtype: torch.dtype) -> Difference:
        # The worst token counts, not the mean: what leaks at a document's start fades behind it.
        change = (self.states - exact.states).norm(dim=-1) / exact.states.norm(dim=-1).clamp(min=1e-12)
        nats = float((self.log_p - exact.log_p).abs().mean())
        return Difference(float(change.max()), nats, 0.0, dtype)


def largest(differences: list[Difference]) -> Difference:
    """The largest of each number. A NaN stays: it is accepted nowhere."""
    states, nats = (
        max((getattr(item, name) for item in differences), key=lambda value: np.inf if np.isnan(value) else value)
        for name in ("states", "nats")
    )
    return replace(differences[0], states=states, nats=nats)


def describe(error: Exception) -> str:
    """An error as one short line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:160]}"


def vocabulary_size(model: Any) -> int:
    """Entries of the input embedding."""
    try:
        return int(model.get_input_embeddings().weight.shape[0])
    except (AttributeError, NotImplementedError):
        return int(model.config.get_text_config().vocab_size)


@dataclass(slots=True, frozen=True)
class Window:
    """A window or chunk of attention that is shorter than the rows of the run."""

    owner: Any
    """The config or module that has it."""
    name: str
    value: int

    def may_be_elsewhere(self, model: Any) -> bool:
        """Whether layers may have this window though changing it here changes nothing. Layer types tell where there are some."""
        types = getattr(model.config.get_text_config(), "layer_types", None)
        return types is None or any(
            any(word in name for word in ("sliding", "chunked", "local", "indexed", "sparse")) for name in types
        )


def short_windows(model: Any, context: int) -> list[Window]:
    """The windows of a model that are shorter than `context`, in its configs and in its modules."""
    text_config = model.config.get_text_config()
    owners = {id(owner): owner for owner in (model.config, text_config, *model.modules())}
    windows = []
    for owner in owners.values():
        for name in WINDOWS:
            value = vars(owner).get(name)
            if isinstance(value, int) and not isinstance(value, bool) and NARROW < value < context:
                windows.append(Window(owner, name, value))
    return windows


@contextlib.contextmanager
def narrowed(windows: list[Window]) -> Iterator[None]:
    """Narrow windows to a few tokens."""
    try:
        for window in windows:
            setattr(window.owner, window.name, NARROW)
        yield
    finally:
        for window in windows:
            setattr(window.owner, window.name, window.value)


@contextlib.contextmanager
def restored(windows: list[Window]) -> Iterator[None]:
    """Give windows their own length for a while."""
    try:
        for window in windows:
            setattr(window.owner, window.name, window.value)
        yield
    finally:
        for window in windows:
            setattr(window.owner, window.name, NARROW)


@contextlib.contextmanager
def untouched_state(model: nn.Module) -> Iterator[None]:
    """Run the block in evaluation mode; restore modes, buffers and random generators, numpy's included, afterwards."""
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    numpy_state = np.random.get_state()
    try:
        with untouched(model, training=False):
            yield
    finally:
        np.random.set_state(numpy_state)
        for buffer, value in buffers:
            if buffer.shape == value.shape:
                buffer.copy_(value)
