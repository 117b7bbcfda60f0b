"""Read a GGUF file: write it once as a Hugging Face directory into the cache, which every stage then uses as its model.

transformers reads the weights. What it reads wrongly or not at all is added here: the split of text into words that the file
names, the size of heads, and the scaling of rotary positions.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from tokenizers import normalizers

from llmstage import console
from llmstage.errors import ModelError
from llmstage.models.gguf_export import ARCHITECTURES, dequantized, gguf_package, rope_factors_of
from llmstage.models.gguf_tokenizer import PROBES, split_patterns
from llmstage.models.loading import quiet
from llmstage.paths import gguf_folder
from llmstage.tokenization.tokenizer import load_processor

DEFAULT_SPLITS = ("default", "gpt-2", "gpt2")
"""Names under which llama.cpp splits as GPT-2 does."""
LLAMA3_CONTEXTS = (8192, 4096, 16384, 32768, 131072)
"""Original contexts that are tried for a file that has Llama 3's factors; the file does not name it."""


def convert_gguf(path: str | None) -> None:
    """Write the model of a GGUF file into the cache, where it is not there yet; do nothing for other paths. Raise ModelError."""
    file = Path(path or "").expanduser()
    if file.suffix != ".gguf" or not file.is_file():
        return
    folder = gguf_folder(file)
    if (folder / "config.json").is_file():
        return
    gguf_package()
    draft = folder.with_name(f".{folder.name}.{os.getpid()}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        with quiet(), contextlib.redirect_stderr(io.StringIO()):  # transformers' progress bars
            write_model(file, draft)
        with contextlib.suppress(OSError):  # another process may have written the same folder meanwhile
            draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    console.note(f"{file.name} was written as a Hugging Face directory: {folder}")


def write_model(file: Path, folder: Path) -> None:
    """Write config, weights and tokenizer of a GGUF file to a folder. Raise ModelError."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    fields, tensors = read_header(file)
    try:
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
        add_missing(config, fields, set(tensors), file)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        model: Any = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, config=config, dtype=weight_type(tensors), **dequantized()
        )
    except (OSError, ValueError, KeyError, NotImplementedError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        architecture = fields.get("general.architecture", "unknown")
        raise ModelError(
            f"model.path={file} (GGUF, architecture {architecture}) cannot be read by transformers: {reason} "
            f"Take the original Hugging Face directory of the model."
        ) from None
    set_split(tokenizer, fields, file)
    stops = {fields[key] for key in ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id") if key in fields}
    model.generation_config.eos_token_id = sorted(int(stop) for stop in stops) or None
    # The weights are plain now; save_pretrained() refuses models that came from a quantizer.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    as_it_is(tokenizer).save_pretrained(folder)
    check_tokenizer(folder, tokenizer.backend_tokenizer, file)


def as_it_is(tokenizer: Any) -> Any:
    """Return the tokenizer in transformers' plain class: GPT2Tokenizer and its like bring their own split when they are loaded."""
    from transformers import PreTrainedTokenizerFast

    named = {
        name: getattr(tokenizer, name)
        for name in ("bos_token", "eos_token", "unk_token", "pad_token")
        if getattr(tokenizer, name)
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, chat_template=tokenizer.chat_template, **named
    )


def check_tensors(model: Any, tensors: dict[str, str], architecture: str, file: Path) -> None:
    """Raise ModelError where the file has another number of tensors than the model, so that some would be left out."""
    if architecture not in ARCHITECTURES.values():
        return
    tied = model.config.tie_word_embeddings
    expected = len([name for name in model.state_dict() if not (tied and name.startswith("lm_head."))])
    num_tensors = len(set(tensors) - {"rope_freqs.weight"})
    if num_tensors != expected:
        raise ModelError(
            f"model.path={file} has {num_tensors} tensors, and transformers' {type(model).__name__} has {expected}: some would be left "
            f"out. Take the original Hugging Face directory of the model."
        )


def read_header(file: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return (the keys of a GGUF file that are no lists, with the factors of rope_freqs where it has them; the type of each
    tensor). Raise ModelError."""
    gguf = gguf_package()
    try:
        reader = gguf.GGUFReader(file)
    except (ValueError, OSError, IndexError, KeyError, UnicodeDecodeError) as error:
        raise ModelError(f"model.path={file} is no GGUF file, or it is damaged: {error}") from None
    fields = {
        name: field.contents() for name, field in reader.fields.items() if field.types[:1] != [gguf.GGUFValueType.ARRAY]
    }
    for tensor in reader.tensors:
        if tensor.name == "rope_freqs.weight":
            fields["rope_freqs"] = torch.from_numpy(tensor.data.copy()).float().flatten()
    return fields, {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}


def weight_type(tensors: dict[str, str]) -> torch.dtype:
    """Return the type in which the weights are saved: that of the file; fp16 for weights of fewer bits."""
    types = set(tensors.values())  # vectors are F32 in every file
    if types <= {"F32"}:
        return torch.float32
    return torch.bfloat16 if types <= {"F32", "BF16"} else torch.float16


def add_missing(config: Any, fields: dict[str, Any], tensors: set[str], file: Path) -> None:
    """Add to the config what transformers does not read: biases, the size of heads, and the scaling of positions. Raise
    ModelError."""
    for tensor, key in (("blk.0.attn_q.bias", "attention_bias"), ("blk.0.ffn_up.bias", "mlp_bias")):
        if tensor in tensors and hasattr(config, key):
            setattr(config, key, True)
    architecture = str(fields.get("general.architecture"))
    head_dim = fields.get(f"{architecture}.attention.key_length")
    if head_dim and hasattr(config, "head_dim"):
        config.head_dim = int(head_dim)
    if "query_pre_attn_scalar" in config.to_dict():  # llama.cpp always scales Gemma's scores by the size of the head
        config.query_pre_attn_scalar = config.head_dim
    rope = dict(config.rope_parameters or {})
    sets = [rope["full_attention"]] if "full_attention" in rope else [rope]
    scaling = fields.get(f"{architecture}.rope.scaling.type", "none")
    factor = fields.get(f"{architecture}.rope.scaling.factor")
    if "rope_freqs" in fields:
        sets[0] |= llama3_scaling(config, sets[0], fields["rope_freqs"], file)
    elif scaling in ("linear", "yarn") and factor:
        sets[0] |= {"rope_type": scaling, "factor": float(factor)}
        original = fields.get(f"{architecture}.rope.scaling.original_context_length")
        if scaling == "yarn" and original:
            sets[0]["original_max_position_embeddings"] = int(original)
    elif scaling not in ("none", None):
        raise ModelError(
            f"model.path={file}: its rotary scaling is {scaling}. Take the Hugging Face directory of the model."
        )
    config.rope_parameters = rope


def llama3_scaling(config: Any, rope: dict[str, Any], factors: torch.Tensor, file: Path) -> dict[str, Any]:
    """Return the numbers of Llama 3's scaling that give the factors in the file. Raise ModelError where none do."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    for context in LLAMA3_CONTEXTS:
        scaling = {
            "rope_type": "llama3", "factor": float(factors.max()), "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": context,
        }  # fmt: skip
        if torch.allclose(rope_factors_of({**rope, **scaling}, head_dim), factors, rtol=1e-3):
            return scaling
    raise ModelError(
        f"model.path={file}: its rotary factors are those of no known model. Take the Hugging Face directory."
    )


def set_split(tokenizer: Any, fields: dict[str, Any], file: Path) -> None:
    """Let the tokenizer prepare text as llama.cpp does under the names in the file. Raise ModelError where one is not known here.

    No file says whether text is normalised first. Of these, the models of the Qwen family do it, which llama.cpp leaves out.
    """
    backend, name = tokenizer.backend_tokenizer, str(fields.get("tokenizer.ggml.pre", "default"))
    if fields.get("tokenizer.ggml.model") == "llama":
        prefix = [normalizers.Prepend("▁")] if fields.get("tokenizer.ggml.add_space_prefix", True) else []
        backend.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", "▁")])
        backend.pre_tokenizer = None
    elif fields.get("tokenizer.ggml.model") == "gpt2":
        splits = split_patterns()
        name = "gpt-2" if name in DEFAULT_SPLITS else name
        if name not in splits:
            raise ModelError(
                f"model.path={file}: its tokenizer splits text as '{name}', which is not known here, so that it would read "
                f"other tokens. Known: {', '.join(splits)}. Take the Hugging Face directory of the model."
            )
        backend.pre_tokenizer = splits[name]
        backend.normalizer = normalizers.NFC() if name in ("qwen2", "qwen35") else None


def check_tokenizer(folder: Path, backend: Any, file: Path) -> None:
    """Raise ModelError where AutoTokenizer reads another tokenizer from the folder than was written: for some types of models it
    takes its own class, whatever the files say."""
    read = load_processor(str(folder), local=True).tokenizer.backend_tokenizer
    for text in PROBES:
        if read.encode(text, add_special_tokens=False).ids != backend.encode(text, add_special_tokens=False).ids:
            raise ModelError(
                f"model.path={file}: transformers gives a model of this type another tokenizer than the file has "
                f"(they differ on {text!r}). Take the Hugging Face directory of the model."
            )
