"""Write a decoder as a GGUF file, the format of llama.cpp, with its tokenizer and chat template.

Names of tensors and keys come from the `gguf` package; what llama.cpp's own converter changes in the weights (the order of
the rows of q and k, norms stored as w + 1, the factors of Llama 3's rotary scaling) is done here. llama.cpp has a fixed list
of ways to split text into words, so a tokenizer that splits in another way is refused.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmstage.errors import ModelError, UserError
from llmstage.models.gguf_tokenizer import tokenizer_fields
from llmstage.tokenization.tokenizer import Processor

ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",  # llama.cpp runs both by the same code
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
}
"""Names of llama.cpp's architectures by transformers' model types."""

GEMMA3_PERIOD = 6
"""llama.cpp gives every sixth layer of a Gemma 3 full attention."""


@dataclass(slots=True)
class Variant:
    """What llama.cpp needs to know of the model at hand, beside its sizes."""

    architecture: str
    head_dim: int
    rope: dict[str, Any]
    """`rope_type`, `rope_theta`, and the numbers of a scaling."""
    local_theta: float | None
    """The rotary base of layers with a window (Gemma 3)."""
    window: int | None


def gguf_package() -> Any:
    """Return the package gguf. Raise UserError where it, or accelerate, is missing."""
    try:
        import_module("accelerate")  # transformers reads GGUF files with it
        gguf = import_module("gguf")
    except ImportError as error:
        raise UserError(f"stage.format=gguf needs the package {error.name}: pip install 'llmstage[gguf]'") from None
    return gguf


def export_gguf(
    model: Any, processor: Processor, path: Path, *, outtype: str
) -> Callable[[list[tuple[Tensor, Tensor]]], list[list[Tensor]]]:
    """Write `path`; return a function that predicts from the file through transformers.

    `outtype`: f32, f16, bf16 or q8_0, the type of matrices; vectors are always fp32. Raise ModelError where llama.cpp would
    compute something else.
    """
    gguf = gguf_package()
    variant = model_variant(model)
    writer = gguf.GGUFWriter(path, variant.architecture)
    add_sizes(writer, model.config, variant)
    add_rope(gguf, writer, model.config, variant)
    for key, value in tokenizer_fields(gguf, model, processor).items():
        add_field(writer, gguf, key, value)
    writer.add_file_type(file_type(gguf, outtype))
    write_tensors(gguf, writer, model, variant, outtype)
    model_class, config = reader_of(model)

    @torch.no_grad()
    def predict(prompts: list[tuple[Tensor, Tensor]]) -> list[list[Tensor]]:
        with contextlib.redirect_stderr(io.StringIO()):  # transformers' progress bars
            check_fields(path, config)
            loaded = model_class.from_pretrained(
                path.parent, gguf_file=path.name, config=config, dtype=torch.float32, **dequantized()
            ).eval()
        return [[loaded(input_ids=ids, attention_mask=mask).logits] for ids, mask in prompts]

    return predict


def dequantized() -> dict[str, Any]:
    """Return the arguments of from_pretrained() for plain weights; older versions of transformers read no others."""
    import transformers

    config = getattr(transformers, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}


def reader_of(model: Any) -> tuple[Any, Any]:
    """Return (class, config) with which transformers reads the file: of a Mistral, the Llama that it is in llama.cpp."""
    from transformers import LlamaConfig, LlamaForCausalLM

    if model.config.model_type != "mistral":
        return type(model), model.config
    shared = {
        key: value for key, value in model.config.to_dict().items() if key not in ("model_type", "sliding_window")
    }
    return LlamaForCausalLM, LlamaConfig(**shared)


def model_variant(model: Any) -> Variant:
    """Return what is special about the model. Raise ModelError where llama.cpp has no such model."""
    config = model.config
    architecture = ARCHITECTURES.get(config.model_type)
    if architecture is None or getattr(model, "lm_head", None) is None:
        raise ModelError(
            f"stage.format=gguf writes decoders of the types {', '.join(ARCHITECTURES)}, and this model is a "
            f"{type(model).__name__} of type {config.model_type}. Use stage.format=hf, and llama.cpp's own converter."
        )
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = dict(config.rope_parameters or {})
    local_theta = None
    if "full_attention" in rope:  # Gemma 3 has one set for each type of layer
        local_theta = float(rope["sliding_attention"]["rope_theta"])
        rope = dict(rope["full_attention"])
    layers = getattr(config, "layer_types", None) or []
    window = getattr(config, "sliding_window", None) if "sliding_attention" in layers or not layers else None
    wrong = unsupported(config, architecture, head_dim, rope, layers)
    if wrong:
        raise ModelError(f"llama.cpp cannot compute this model: {wrong}. Use stage.format=hf.")
    return Variant(architecture, head_dim, rope, local_theta, window)


def unsupported(config: Any, architecture: str, head_dim: int, rope: dict[str, Any], layers: list[str]) -> str:
    """Return what llama.cpp computes in another way than this config says; empty where nothing."""
    activation = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", "silu")
    if activation not in (("gelu_pytorch_tanh",) if architecture.startswith("gemma") else ("silu", "swish")):
        return f"its activation is {activation}"
    if architecture.startswith("gemma"):
        if not config.tie_word_embeddings:
            return "its output layer is not tied to the embeddings"
        scale = float(getattr(config, "query_pre_attn_scalar", head_dim))
        if scale != head_dim:
            return f"query_pre_attn_scalar is {scale:g}, and not the head size {head_dim}"
    if architecture == "gemma2" and layers and layers != alternating(len(layers), 2):
        return "its layers with a window do not alternate with full ones"
    if architecture == "gemma3" and layers and layers != alternating(len(layers), GEMMA3_PERIOD):
        return f"not every {GEMMA3_PERIOD}th of its layers has full attention"
    if rope.get("rope_type", "default") not in ("default", "linear", "llama3", "yarn"):
        return f"its rotary scaling is {rope['rope_type']}"
    if float(rope.get("partial_rotary_factor", 1) or 1) != 1:
        return "it turns only a part of each head"
    return ""


def alternating(count: int, period: int) -> list[str]:
    """Return the types of `count` layers of which every `period`-th has full attention."""
    return ["full_attention" if (index + 1) % period == 0 else "sliding_attention" for index in range(count)]


def add_sizes(writer: Any, config: Any, variant: Variant) -> None:
    """Add the sizes of the model, and how many tokens it takes.

    llama.cpp knows no window in models of the Llama and Qwen families: their context ends where the window begins to count.
    """
    context = config.max_position_embeddings
    if variant.window and not variant.architecture.startswith("gemma"):
        context = min(context, variant.window)
    writer.add_name(Path(str(getattr(config, "_name_or_path", "") or variant.architecture)).name)
    writer.add_context_length(context)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(variant.head_dim)
    writer.add_value_length(variant.head_dim)
    writer.add_vocab_size(config.vocab_size)
    if variant.architecture.startswith("gemma") and variant.window:
        writer.add_sliding_window(variant.window)
    if getattr(config, "attn_logit_softcapping", None):
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    if getattr(config, "final_logit_softcapping", None):
        writer.add_final_logit_softcapping(config.final_logit_softcapping)


def add_rope(gguf: Any, writer: Any, config: Any, variant: Variant) -> None:
    """Add the rotary base and its scaling; the factors of Llama 3's scaling are a tensor (rope_factors_of())."""
    rope = variant.rope
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10_000.0)))
    if variant.architecture == "llama":
        writer.add_rope_dimension_count(variant.head_dim)
    if variant.local_theta is not None:
        writer.add_rope_freq_base_swa(variant.local_theta)
    rope_type = rope.get("rope_type", "default")
    if rope_type in ("linear", "yarn"):
        scaling = gguf.RopeScalingType.LINEAR if rope_type == "linear" else gguf.RopeScalingType.YARN
        writer.add_rope_scaling_type(scaling)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    if rope_type == "yarn":
        original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
        writer.add_rope_scaling_orig_ctx_len(int(original))


def rope_factors_of(rope: dict[str, Any], head_dim: int) -> Tensor:
    """Return Llama 3's factors, [head_dim / 2], by which llama.cpp divides the rotary frequencies.

    The formula of "llama3" in transformers' modeling_rope_utils: low frequencies are divided by `factor`, high ones stay, and
    those between are interpolated.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    frequencies = 1.0 / float(rope["rope_theta"]) ** exponents
    factor, low, high = (float(rope[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    context = float(rope["original_max_position_embeddings"])
    wavelengths = 2 * math.pi / frequencies
    smooth = ((context / wavelengths - low) / (high - low)).clamp(0, 1)
    return 1.0 / ((1 - smooth) / factor + smooth)


def add_field(writer: Any, gguf: Any, key: str, value: Any) -> None:
    """Add one key of the tokenizer, by its type."""
    if isinstance(value, list):
        writer.add_array(key, value)
    else:
        kinds = {bool: "BOOL", int: "UINT32", str: "STRING"}
        writer.add_key_value(key, value, getattr(gguf.GGUFValueType, kinds[type(value)]))


def file_type(gguf: Any, outtype: str) -> int:
    """Return llama.cpp's number of the type that most tensors have."""
    names = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
    return int(getattr(gguf.LlamaFileType, names[outtype]))


def tensors_of(gguf: Any, model: Any, variant: Variant) -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor of the file with its name, as llama.cpp's converter lays it out."""
    config = model.config
    architectures = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(architectures[variant.architecture], config.num_hidden_layers)
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    tied = bool(config.get_text_config().tie_word_embeddings)
    for name, tensor in model.state_dict().items():
        if name.startswith("lm_head.") and tied:
            continue
        base, _, suffix = name.rpartition(".")
        exported = names.get_name(base)
        if exported is None:
            raise ModelError(f"llama.cpp's {variant.architecture} has no tensor for {name}. Use stage.format=hf.")
        if variant.architecture == "llama" and name.endswith((f"q_proj.{suffix}", f"k_proj.{suffix}")):
            tensor = interleave_halves(tensor, heads if "q_proj" in name else kv_heads)
        if variant.architecture.startswith("gemma") and exported.endswith("norm"):
            tensor = tensor.float() + 1  # transformers stores w, and computes with w + 1
        yield f"{exported}.{suffix}", tensor
    if variant.rope.get("rope_type") == "llama3":
        yield "rope_freqs.weight", rope_factors_of(variant.rope, variant.head_dim)


def interleave_halves(weight: Tensor, heads: int) -> Tensor:
    """Reorder the rows of q or k [heads * D, …]: llama.cpp turns neighbouring pairs, transformers the two halves of a head."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.transpose(1, 2).reshape(weight.shape)


def write_tensors(gguf: Any, writer: Any, model: Any, variant: Variant, outtype: str) -> None:
    """Write the file: first the table of all tensors, then one tensor after the other, so that one at a time is in memory."""
    for name, tensor in tensors_of(gguf, model, variant):
        stored_type = tensor_type(gguf, tensor, outtype)
        block, block_bytes = gguf.GGML_QUANT_SIZES[stored_type]
        size = tensor.numel() // block * block_bytes
        writer.add_tensor_info(name, tuple(tensor.shape), np.dtype(np.float32), size, raw_dtype=stored_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, tensor in tensors_of(gguf, model, variant):
        array = tensor.detach().float().cpu().contiguous().numpy()
        writer.write_tensor_data(gguf.quants.quantize(array, tensor_type(gguf, tensor, outtype)))
    writer.close()


def tensor_type(gguf: Any, tensor: Tensor, outtype: str) -> Any:
    """Return the type in which a tensor is stored. Vectors stay fp32; rows that no block of 32 divides are stored as f16."""
    types = gguf.GGMLQuantizationType
    if tensor.ndim == 1:
        return types.F32
    if outtype == "q8_0" and tensor.shape[-1] % 32:
        return types.F16
    return {"f32": types.F32, "f16": types.F16, "bf16": types.BF16, "q8_0": types.Q8_0}[outtype]


READ_KEYS = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size",
    "tie_word_embeddings",
)  # fmt: skip
"""Keys of a config that transformers reads from every GGUF file."""


def check_fields(path: Path, config: Any) -> None:
    """Compare the config that transformers reads from the file with the model's. Raise ModelError where they differ."""
    from transformers import AutoConfig

    read = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    wrong = [key for key in READ_KEYS if getattr(read, key, None) != getattr(config, key, None)]
    if wrong:
        values = json.dumps({key: [getattr(config, key, None), getattr(read, key, None)] for key in wrong})
        raise ModelError(f"transformers reads other sizes from the GGUF file than the model has: {values}")


def compare_with_llama_cpp(
    model: Any, processor: Processor, path: Path, prompts: list[tuple[Tensor, Tensor]], new_tokens: int = 24
) -> str | None:
    """Return how far llama.cpp continues the prompts as the model does (greedy); None where llama-cpp-python is missing.

    llama.cpp is given the texts of the prompts, so that its tokenizer is compared too. Raise ModelError where it reads other
    tokens. Texts may part where two tokens are nearly as likely: the weights have fewer bits, and so has llama.cpp's cache.
    """
    if importlib.util.find_spec("llama_cpp") is None or not prompts:
        return None
    llama_cpp: Any = import_module("llama_cpp")
    runtime = llama_cpp.Llama(str(path), n_ctx=512, verbose=False, logits_all=False)
    same = 0
    for ids, mask in prompts:
        plain = processor.plain_ids([processor.decode(ids[0].tolist())])[0]
        read = runtime.tokenize(processor.decode(ids[0].tolist()).encode(), add_bos=False, special=False)
        if read != plain:
            raise ModelError(
                f"llama.cpp reads the text {processor.decode(plain)[:40]!r} as {read[:8]}…, and the model's tokenizer as "
                f"{plain[:8]}…, so the export was not written. Use stage.format=hf."
            )
        with torch.no_grad():
            written = model.generate(ids, attention_mask=mask, max_new_tokens=new_tokens, do_sample=False)
        expected = processor.decode(written[0, ids.shape[1] :].tolist())
        answer = runtime.create_completion(ids[0].tolist(), max_tokens=new_tokens, temperature=0.0, top_k=1)
        same += expected.strip() == str(answer["choices"][0]["text"]).strip()
    return f"same tokens, and the same greedy text on {same} of {len(prompts)} prompts"
