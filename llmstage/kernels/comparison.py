"""Compare a replaced operation with the plain one on the model at hand, once, when the kernel is enabled.

A few random ids pass through the model forward and backward, 32 tokens in all: in fp32, in the arithmetic of the run with
the plain operations, and with the replaced one. Rounding alone explains an error against fp32 of the size that the plain
operations make; a larger one is a fault of the kernel on this model or this machine. No generator, gradient, buffer or mode of
the model is changed.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

ROWS, TOKENS = 2, 16
"""Size of the compared batch."""
GRADIENT_NUMBERS = 16 * 2**20
"""Gradients of at most this many weights are compared, those of the first layers; it bounds the memory of the comparison."""
NOISE_FACTOR = 6.0
"""An error of the kernel may be this many times that of the plain operations in the same arithmetic."""
TOLERANCE = {torch.float32: 1e-4, torch.float16: 0.005, torch.bfloat16: 0.02}
"""Relative error that is accepted beyond that, by the type of the products."""


@dataclass(slots=True)
class Values:
    """Outputs and gradients of one pass, by name."""

    tensors: dict[str, Tensor]


@dataclass(slots=True, frozen=True)
class Difference:
    """By how much a replaced operation differs from the plain one."""

    name: str
    """The output, or the weight whose gradient differs most."""
    error: float
    """Norm of the difference, as a share of the norm of the plain result."""
    allowed: float

    @property
    def accepted(self) -> bool:
        return self.error <= self.allowed  # False for NaN

    def __str__(self) -> str:
        return f"{self.error:.2g} in {self.name} where {self.allowed:.2g} is allowed"


@contextlib.contextmanager
def arithmetic(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Matrix products in `dtype`, whatever the caller's autocast is."""
    with torch.autocast(device.type, dtype if dtype != torch.float32 else None, enabled=dtype != torch.float32):
        yield


@contextlib.contextmanager
def untouched(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Run the block with the model in this mode, and restore modes, buffers and random generators afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()] if training else []
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)  # dropout, where the model is in training mode, is the same in every pass
        try:
            model.train(training)
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            for buffer, value in buffers:
                buffer.copy_(value)


def sample_ids(model: Any) -> Tensor:
    """[ROWS, TOKENS] ids that stand for text in any vocabulary, the same for the same vocabulary."""
    body = getattr(model, "text_model", model)
    vocab_size = int(body.get_input_embeddings().weight.shape[0])
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(min(3, vocab_size - 1), vocab_size, (ROWS, TOKENS), generator=generator)
    image_token = getattr(model.config, "image_token_id", None)
    if image_token is not None:  # it would ask for an image
        ids[ids == image_token] = (image_token + 1) % vocab_size
    return ids.to(next(model.parameters()).device)


def is_causal(model: nn.Module) -> bool:
    """Whether a token of this model sees earlier tokens only."""
    return any(bool(getattr(module, "is_causal", False)) for module in model.modules())


def sample_inputs(model: Any, *, packed: bool = False) -> dict[str, Tensor]:
    """Keyword arguments of the body's forward. `packed`: two documents in the first row, with the block mask of packing."""
    ids = sample_ids(model)
    inputs: dict[str, Tensor] = {"input_ids": ids}
    if packed:
        first = TOKENS // 2 + 1  # documents of unlike length, neither a multiple of the other
        starts = torch.zeros(ROWS, TOKENS, dtype=torch.long)
        starts[0, first:] = first
        index = torch.arange(TOKENS).expand(ROWS, -1)
        mask = starts[:, :, None] == starts[:, None, :]
        if is_causal(model):
            mask = mask & (index[0, :, None] >= index[0, None, :])
        inputs |= {"position_ids": (index - starts).to(ids.device), "attention_mask": mask[:, None].to(ids.device)}
    else:
        mask = torch.ones_like(ids)
        mask[-1, TOKENS - 5 :] = 0  # the last row is padded on the right
        inputs["attention_mask"] = mask
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids.flip(1)
    vision = getattr(model.config, "vision_config", None)
    if vision is not None and hasattr(model, "text_model"):  # two towers
        size = int(vision.image_size)
        generator = torch.Generator().manual_seed(0)
        inputs["pixel_values"] = torch.randn(ROWS, 3, size, size, generator=generator).to(ids.device)
    return inputs


def compared_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Trained weights whose gradients are compared: of the first layers, embeddings left out, up to GRADIENT_NUMBERS."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    chosen, count = {}, 0
    for name, weight in model.named_parameters():
        if weight.requires_grad and id(weight) not in embeddings and count + weight.numel() <= GRADIENT_NUMBERS:
            chosen[name] = weight
            count += weight.numel()
    return chosen


def model_pass(model: Any, inputs: dict[str, Tensor], dtype: torch.dtype, *, training: bool = False) -> Values:
    """Outputs of the body, and gradients of a random linear function of them."""
    body = getattr(model, "base_model", model)
    options = {"use_cache": False} if "use_cache" in inspect.signature(body.forward).parameters else {}
    device = inputs["input_ids"].device
    weights = compared_weights(model)
    with untouched(model, training=training), torch.enable_grad():
        with arithmetic(device, dtype):
            result = body(**inputs, **options)
        names = ("last_hidden_state", "logits", "text_embeds", "image_embeds")
        outputs = {name: result[name].float() for name in names if result.get(name) is not None}
        mask = inputs.get("attention_mask")
        if mask is not None and mask.ndim == 2 and not model.config.is_encoder_decoder:
            # What a padded position holds is never read, and kernels may leave it as they like.
            outputs = {
                name: value * mask[..., None] if value.shape[:2] == mask.shape else value
                for name, value in outputs.items()
            }
        generator = torch.Generator().manual_seed(1)
        total = torch.zeros((), device=device)
        for value in outputs.values():
            direction = torch.randn(value.shape, generator=generator).to(device)
            total = total + (value * direction).sum() / value.numel() ** 0.5
        derivatives = torch.autograd.grad(total, list(weights.values()), allow_unused=True) if weights else ()
    gradients = {
        name: gradient.float() for name, gradient in zip(weights, derivatives, strict=True) if gradient is not None
    }
    return Values({**{name: value.detach() for name, value in outputs.items()}, **gradients})


def largest_difference(
    exact: Values, plain: Values, replaced: Values, dtype: torch.dtype, tolerance: float | None = None
) -> Difference:
    """The tensor in which `replaced` exceeds its allowed error most; `exact`: the plain operations in fp32."""
    tolerance = TOLERANCE[dtype] if tolerance is None else tolerance
    if plain.tensors.keys() != replaced.tensors.keys():
        missing = sorted(plain.tensors.keys() ^ replaced.tensors.keys())
        return Difference(missing[0], float("inf"), tolerance)
    sizes = {name: float(value.norm()) for name, value in exact.tensors.items()}
    # Some gradients are zero but for rounding (of the bias of keys, say): they are measured against the usual size.
    smallest = 1e-2 * statistics.median(sizes.values()) + 1e-12
    differences = []
    for name, value in exact.tensors.items():
        scale = max(sizes[name], smallest)
        noise = float((plain.tensors[name] - value).norm()) / scale
        error = float((replaced.tensors[name] - value).norm()) / scale
        differences.append(Difference(name, error, NOISE_FACTOR * noise + tolerance))
    return max(differences, key=lambda item: math.inf if math.isnan(item.error) else item.error / item.allowed)


class ModelComparison:
    """The plain passes of one model, and the comparison of its state after a kernel was enabled with them.

    In training mode both passes have the arithmetic of the run: dropout draws other numbers in another arithmetic.
    """

    def __init__(self, model: Any, dtype: torch.dtype, *, packed: bool = False, training: bool = False) -> None:
        self.model, self.dtype, self.training = model, dtype, training
        exact_dtype = dtype if training else torch.float32
        try:
            self.inputs = sample_inputs(model, packed=packed)
            self.exact = model_pass(model, self.inputs, exact_dtype, training=training)
        except Exception:
            if not packed:
                raise
            self.inputs = sample_inputs(model)  # a model that takes no packed rows never gets them
            self.exact = model_pass(model, self.inputs, exact_dtype, training=training)
        self.plain = self.exact if dtype == exact_dtype else model_pass(model, self.inputs, dtype, training=training)

    def difference(
        self,
        convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda inputs: inputs,
        tolerance: float | None = None,
    ) -> Difference:
        """Of the model as it is now. `convert`: the inputs in the form that the kernel reads."""
        replaced = model_pass(self.model, convert(self.inputs), self.dtype, training=self.training)
        return largest_difference(self.exact, self.plain, replaced, self.dtype, tolerance)
