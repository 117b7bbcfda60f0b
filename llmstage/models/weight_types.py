"""The number types of weights: what a checkpoint has, what is held in memory, what is computed, and what is saved.

Trained weights are fp32. Weights that are not trained stay in the type of the checkpoint, which halves their memory: those of linear
layers and embeddings, which are nearly all. They are cast to fp32 where they are used, one layer at a time, so results are those of
a model that is fp32 as a whole, bit for bit: every bf16 and fp16 number is an fp32 number. A model is saved in the type in which it
was loaded, and scored as it is saved.
"""

from __future__ import annotations

import contextlib
import json
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmstage.errors import ModelError
from llmstage.kernels.transformers_internals import Conv1D, fp32_modules

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Types of weights by the names that transformers and `model.dtype` have for them."""
FILE_TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}
"""The same by the names in the header of a safetensors file."""
HALF = (torch.bfloat16, torch.float16)
MEMORY_SHARE = 0.25
"""Share of the machine's memory that a model which is only used may take as fp32; a larger one is held in its own type."""


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a type, e.g. bfloat16."""
    return str(dtype).removeprefix("torch.")


def file_types(folder: Path) -> Counter[torch.dtype]:
    """Return the bytes of each floating type in the safetensors files of a folder; empty where no header can be read."""
    sizes: Counter[torch.dtype] = Counter()
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with file.open("rb") as stream:
                header = json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))
        except (OSError, ValueError, struct.error, MemoryError):
            continue  # from_pretrained() says what is wrong with it
        for name, entry in header.items():
            if name != "__metadata__" and not name.startswith("extra.") and entry["dtype"] in FILE_TYPES:
                start, stop = entry["data_offsets"]
                sizes[FILE_TYPES[entry["dtype"]]] += stop - start
    return sizes


def loaded_dtype(folder: Path | None, config: Any, requested: str, *, is_adapter: bool) -> torch.dtype:
    """Return the type of a checkpoint's weights, or the one that `model.dtype` requests instead.

    Raise ModelError where the files and config.json name different types, because other libraries would then load other numbers
    than we do. `requested`: model.dtype. `is_adapter`: the config is that of an adapter, which says nothing about its base.
    """
    stated = None if is_adapter else getattr(config, "dtype", None)
    stated = DTYPES.get(stated) if isinstance(stated, str) else stated
    sizes = file_types(folder) if folder is not None else Counter()
    # By the number of weights, not of bytes. A few weights may have another type, such as the router of a mixture.
    file_dtype = max(sizes, key=lambda dtype: sizes[dtype] / dtype.itemsize) if sizes else None
    if requested != "auto":
        return DTYPES[requested]
    if getattr(config, "quantization_config", None) is not None:
        return stated if stated in HALF else torch.float32
    is_checkpoint = (
        folder is not None and (folder / "MANIFEST.json").is_file()
    )  # of a run: trained weights are fp32 in it
    if stated is not None and file_dtype is not None and stated != file_dtype and not is_checkpoint:
        raise ModelError(
            f"{folder}: config.json says that the weights are {dtype_name(stated)}, and most of them are {dtype_name(file_dtype)} in the "
            f"files. Say which type the model is to have: model.dtype={dtype_name(file_dtype)} keeps the weights as they are, "
            f"model.dtype={dtype_name(stated)} rounds them."
        )
    dtype = file_dtype or stated or torch.float32
    return dtype if dtype in HALF else torch.float32


def exceeds_memory(folder: Path | None) -> bool:
    """Return whether a model as fp32 would take more than MEMORY_SHARE of the memory of this machine."""
    import os

    weights = sum(size / dtype.itemsize for dtype, size in file_types(folder).items()) if folder is not None else 0.0
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8").strip()
        memory = min(memory, int(limit)) if limit.isdigit() else memory
    except OSError:
        pass
    return 4 * weights > MEMORY_SHARE * memory


class HeldProduct(torch.autograd.Function):
    """x @ weight.T in fp32, with a weight in half precision that is cast once in each direction and never kept as fp32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, transposed: bool) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.transposed = transposed
        matrix = weight.to(x.dtype)
        return x @ matrix if transposed else F.linear(x, matrix)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        matrix = ctx.saved_tensors[0].to(gradient.dtype)
        return F.linear(gradient, matrix) if ctx.transposed else gradient @ matrix, None, None


def product(x: Tensor, weight: Tensor, bias: Tensor | None, *, transposed: bool) -> Tensor:
    """Return x times a held weight, plus bias; under autocast in its type, else in fp32."""
    if torch.is_autocast_enabled(x.device.type):
        return F.linear(x, weight.T if transposed else weight, bias)
    x = x.float()
    if weight.requires_grad and torch.is_grad_enabled():
        result = x @ weight.float() if transposed else F.linear(x, weight.float())
    else:
        result = HeldProduct.apply(x, weight, transposed)
    return result if bias is None else result + bias


class HeldLinear(nn.Linear):
    """A linear layer that is not trained, with its weight in half precision."""

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.weight, self.bias, transposed=False)


class HeldConv1D(Conv1D):
    """GPT-2's linear layer likewise; its weight is transposed."""

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.weight, self.bias, transposed=True)


class HeldEmbedding(nn.Embedding):
    """An embedding that is not trained, with its weight in half precision and its output in fp32."""

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids).float()


HELD: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: HeldLinear,
    Conv1D: HeldConv1D,
    nn.Embedding: HeldEmbedding,
}
"""Layers whose weight may be held in half precision, and what they become. Subclasses may read their weight in their own way."""
PLAIN = {held: plain for plain, held in HELD.items()}


def held_weights(model: Any, is_frozen: Callable[[str], bool]) -> set[str]:
    """Return the names of the weights that may be held in half precision. `is_frozen`: whether a weight is not trained.

    Where transformers casts to the type of a weight, or reads it without calling its layer (Mamba), it must be fp32.
    """
    fp32, called = fp32_modules(model), called_layers(model)
    return {
        f"{name}.weight"
        for name, module in model.named_modules()
        if type(module) in (*HELD, *PLAIN)
        and not set(name.split(".")) & fp32
        and without_numbers(name) in called
        and is_frozen(f"{name}.weight")
    }


def without_numbers(name: str) -> str:
    """Return the name of a module with each number as #: the same for all layers and all experts."""
    return re.sub(r"\d+", "#", name)


def called_layers(model: Any) -> set[str]:
    """Return the names, without numbers, of the layers that a forward pass calls; on the meta device it computes nothing."""
    names: set[str] = set()

    def note(name: str, x: Tensor) -> None:
        names.add(without_numbers(name))

    watch_layers(model, note)
    return names


def watch_layers(model: Any, note: Callable[[str, Tensor], None]) -> bool:
    """Run a forward pass of some ids, and of an image in each vision tower; return whether that of the ids ended.

    `note(name, input)` is called for each linear layer and each embedding.
    """
    handles = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: note(name, inputs[0]) if inputs else None)
        for name, module in model.named_modules()
        if type(module) in (*HELD, *PLAIN)
    ]
    device = next(model.parameters()).device
    ids = torch.ones(1, 8, dtype=torch.long, device=device)
    texts = {"input_ids": ids, **({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})}
    towers = [part for part in model.modules() if getattr(part, "main_input_name", "") == "pixel_values"]
    sizes = [getattr(getattr(part, "config", None), "image_size", None) for part in towers]
    images = [
        (part, {"pixel_values": torch.zeros(1, 3, size, size, device=device)})
        for part, size in zip(towers, sizes, strict=True)
        if isinstance(size, int)
    ]
    was_training, ended = model.training, False
    model.eval()
    # Some models look for padding among the ids, which tensors on the meta device do not have.
    padded = [
        (config, config.pad_token_id)
        for config in model_configs(model)
        if getattr(config, "pad_token_id", None) is not None
    ]
    try:
        for config, _ in padded:
            config.pad_token_id = None
        for part, inputs in [*images, (model, texts)]:
            ended = False
            # A part that needs other inputs stops where it misses them.
            with torch.no_grad(), contextlib.suppress(Exception):
                part(**inputs)
                ended = True
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
        for config, pad_id in padded:
            config.pad_token_id = pad_id
    return ended


def model_configs(model: Any) -> list[Any]:
    """Return the config of a model and those of its parts."""
    config = model.config
    parts = [config, *(getattr(config, name, None) for name in getattr(config, "sub_configs", {}))]
    return [part for part in parts if part is not None]


def hold(model: nn.Module, dtype: torch.dtype, names: set[str]) -> None:
    """Hold the weights `names` in `dtype`, and all others in fp32, in place."""
    # A weight that a layer of another kind shares (a scaled embedding) stays fp32.
    shared = {
        id(weight)
        for name, module in model.named_modules()
        for key, weight in module.named_parameters(prefix=name, recurse=False)
        if key not in names
    }
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if f"{name}.weight" in names and id(weight) not in shared:
            module.weight.data = module.weight.data.to(dtype)
            module.__class__ = HELD[type(module)]
    for name, parameter in model.named_parameters():
        if parameter.dtype in HALF and (name not in names or id(parameter) in shared):
            parameter.data = parameter.data.float()
    for module in model.modules():
        for key, buffer in module.named_buffers(recurse=False):
            if buffer.dtype in HALF:
                module.register_buffer(key, buffer.float(), persistent=key not in module._non_persistent_buffers_set)
    release_cast_layers(model)


def release_cast_layers(model: Any) -> None:
    """Make those held weights fp32 to whose type the model casts the layer's input, which would lose precision (Mamba's head).

    Where a forward pass does not end, nothing is known of the model, and all are.
    """
    cast: set[str] = set()

    def note(name: str, x: Tensor) -> None:
        if x.dtype in HALF:
            cast.add(without_numbers(name))

    ended = watch_layers(model, note)
    wrong = {module for name, module in model.named_modules() if without_numbers(name) in cast or not ended}
    release(model, lambda module: module in wrong)


def is_held(model: nn.Module) -> bool:
    """Return whether some layers hold their weight in half precision."""
    return any(type(module) in PLAIN for module in model.modules())


def release(model: nn.Module, chosen: Callable[[nn.Module], bool] = lambda module: True) -> None:
    """Make the weights of held layers fp32 and the layers plain, in place; no number changes."""
    for module in model.modules():
        if type(module) in PLAIN and chosen(module):
            module.weight.data = module.weight.data.float()
            module.__class__ = PLAIN[type(module)]


def release_trained(model: nn.Module) -> None:
    """Make all weights that are trained fp32."""
    release(model, lambda module: bool(module.weight.requires_grad))
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype in HALF:
            parameter.data = parameter.data.float()


def round_weights(model: nn.Module) -> None:
    """Round the weights to the type in which the model is saved, so that it is scored as it is saved."""
    for parameter in saved_parameters(model):
        parameter.data = parameter.data.to(model.saved_dtype).to(parameter.dtype)  # type: ignore[arg-type]


def saved_parameters(model: Any) -> list[nn.Parameter]:
    """Return the fp32 weights that are saved in half precision: transformers' own, and not those of the task's own module."""
    if getattr(model, "saved_dtype", torch.float32) not in HALF:
        return []
    fp32 = fp32_modules(model)
    return [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.dtype == torch.float32 and not name.startswith("extra.") and not set(name.split(".")) & fp32
    ]


@contextmanager
def saved_types(model: Any) -> Iterator[None]:
    """Give the weights the type in which they are saved, and theirs back at the end; after round_weights() no number changes."""
    changed = saved_parameters(model)
    for parameter in changed:
        parameter.data = parameter.data.to(model.saved_dtype)
    try:
        with config_types(model):
            yield
    finally:
        for parameter in changed:
            parameter.data = parameter.data.float()


@contextmanager
def config_types(model: Any) -> Iterator[None]:
    """Let the config of a model and its parts name the type in which it is saved."""
    before = [(part, part.dtype) for part in model_configs(model) if getattr(part, "dtype", None) is not None]
    for part, _ in before:
        part.dtype = getattr(model, "saved_dtype", torch.float32)
    try:
        yield
    finally:
        for part, dtype in before:
            part.dtype = dtype
