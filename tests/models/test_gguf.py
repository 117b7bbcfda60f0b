"""GGUF files: what transformers reads from them, and llmstage, is the model that was written.

llama.cpp itself (build b11549, not installed here) gave the same tokens for texts and log-probabilities within 0.01 for files of
every architecture and tokenizer below.
"""

from __future__ import annotations

import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from llmstage.errors import ModelError
from llmstage.models.export import comparison_prompts, difference, plain_outputs
from llmstage.models.gguf_tokenizer import PROBES, merge_scores, split_name, split_patterns
from llmstage.paths import locate_model
from llmstage.tokenization.tokenizer import Processor, load_processor, train_processor

gguf = pytest.importorskip("gguf")
from llmstage.models.gguf_export import compare_with_llama_cpp, export_gguf, interleave_halves  # noqa: E402
from llmstage.models.gguf_import import convert_gguf  # noqa: E402

TEXTS = [
    "The capital of France is Paris. " * 3,
    "def add(a, b): return a + b 12345",
    "In 2019 she moved 3051 km 退款要等多久？",
] * 20
TEMPLATE = "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|eos|>' }}{% endfor %}"
SIZES: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 256, "initializer_range": 0.3, "tie_word_embeddings": False,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 64}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {"attention_bias": True, "tie_word_embeddings": True, "rope_parameters": LLAMA3}),
    "mistral": ("MistralConfig", {"sliding_window": None, "head_dim": 32}),
    "qwen2": ("Qwen2Config", {"rope_parameters": YARN}),
    "qwen3": ("Qwen3Config", {"head_dim": 32}),
    "gemma2": (
        "Gemma2Config",
        {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16, "tie_word_embeddings": True},
    ),
    "gemma3": (
        "Gemma3TextConfig",
        {
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 16,
            "tie_word_embeddings": True,
            "num_hidden_layers": 6,
        },
    ),
}


def byte_level(split: str = "gpt-2") -> Any:
    """A byte-level tokenizer that splits by one of llama.cpp's names."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = split_patterns()[split], decoders.ByteLevel()
    special = ["<|pad|>", "<|bos|>", "<|eos|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    if split == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|bos|>",
        eos_token="<|eos|>",
        pad_token="<|pad|>",
        chat_template=TEMPLATE,
    )


def sentencepiece(*, prefix: bool = True) -> Any:
    """A BPE with byte fallback and spaces as ▁, as Llama 2, Mistral and (without a prefix) Gemma have it."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    start = [normalizers.Prepend("▁")] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*start, normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = (["<unk>", "<s>", "</s>"] if prefix else ["<pad>", "<eos>", "<bos>", "<unk>"]) + [
        f"<0x{byte:02X}>" for byte in range(256)
    ]
    trainer = trainers.BpeTrainer(vocab_size=460, special_tokens=special, show_progress=False, limit_alphabet=60)
    tokenizer.train_from_iterator(TEXTS, trainer)
    described = json.loads(tokenizer.to_str())
    described["added_tokens"] = [token for token in described["added_tokens"] if token["id"] < len(special) - 256]
    described["post_processor"] = processors.TemplateProcessing(
        single=f"{special[1 if prefix else 2]} $A", special_tokens=[(special[1 if prefix else 2], 1 if prefix else 2)]
    )
    described["post_processor"] = json.loads(described["post_processor"].__getstate__())
    named = {"bos_token": "<s>", "eos_token": "</s>"} if prefix else {"bos_token": "<bos>", "eos_token": "<eos>"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(described)), unk_token="<unk>", chat_template=TEMPLATE, **named
    )


def tiny(name: str, processor: Processor, **changes: Any) -> Any:
    """A random model of one architecture, whose norms and biases are not those of a new model."""
    config_class, keys = CONFIGS[name]
    config = getattr(transformers, config_class)(
        vocab_size=len(processor) + 3, bos_token_id=1, eos_token_id=2, pad_token_id=0, **{**SIZES, **keys, **changes}
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 0.5, 0.2)
    return model


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_survives_the_way_there_and_back(name: str, tmp_path: Path) -> None:
    kinds = {
        "llama": sentencepiece,
        "gemma2": lambda: sentencepiece(prefix=False),
        "gemma3": lambda: sentencepiece(prefix=False),
    }
    processor = Processor(kinds[name]() if name in kinds else byte_level("qwen2" if name == "qwen2" else "gpt-2"))
    model, path = tiny(name, processor), tmp_path / "model.gguf"
    predict = export_gguf(model, processor, path, outtype="f32")
    prompts = list(comparison_prompts(processor, 4))
    expected = plain_outputs(model, prompts)
    assert difference(expected, predict(prompts)) < 1e-5
    convert_gguf(str(path))
    folder = locate_model(str(path)).model_dir
    assert folder is not None
    again = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert difference(expected, plain_outputs(again, prompts)) < 1e-5
    read = load_processor(str(folder), local=True)
    assert read.plain_ids(list(PROBES)) == processor.plain_ids(list(PROBES))
    assert read.special_ids() == processor.special_ids()
    assert read.tokenizer.chat_template == TEMPLATE
    assert read.tokenizer.eos_token_id == processor.tokenizer.eos_token_id


@pytest.mark.parametrize(("outtype", "largest"), [("f16", 0.005), ("bf16", 0.05), ("q8_0", 0.05)])
def test_fewer_bits_are_close_and_the_file_smaller(outtype: str, largest: float, tmp_path: Path) -> None:
    processor = Processor(byte_level())
    model = tiny("qwen2", processor)
    prompts = list(comparison_prompts(processor, 2))
    sizes = {}
    for kind in ("f32", outtype):
        path = tmp_path / kind / "model.gguf"
        path.parent.mkdir()
        predict = export_gguf(model, processor, path, outtype=kind)
        sizes[kind] = path.stat().st_size
    assert 0 < difference(plain_outputs(model, prompts), predict(prompts)) < largest
    assert sizes[outtype] < 0.75 * sizes["f32"]


def test_the_order_of_rows_is_that_of_llama_cpp() -> None:
    """llama.cpp's converter (permute in conversion/llama.py) writes head [a0 a1 b0 b1] as [a0 b0 a1 b1]."""
    weight = torch.arange(8.0)[:, None]
    assert interleave_halves(weight, 2).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


@pytest.mark.parametrize("name", ["gpt-2", "smollm", "llama-bpe", "qwen2"])
def test_a_split_is_found_by_what_it_does(name: str, tmp_path: Path) -> None:
    processor = Processor(byte_level(name))
    assert split_name(processor.tokenizer.backend_tokenizer.pre_tokenizer) == name
    path = tmp_path / "model.gguf"
    export_gguf(tiny("qwen2" if name == "qwen2" else "llama", processor), processor, path, outtype="f16")
    convert_gguf(str(path))
    read = load_processor(str(locate_model(str(path)).model_dir), local=True)
    assert read.plain_ids(list(PROBES)) == processor.plain_ids(list(PROBES))


def test_sentencepiece_is_written_with_scores_and_bytes(tmp_path: Path) -> None:
    processor, path = Processor(sentencepiece()), tmp_path / "model.gguf"
    export_gguf(tiny("llama", processor), processor, path, outtype="f16")
    fields = {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}
    assert fields["tokenizer.ggml.model"] == "llama" and fields["tokenizer.ggml.add_space_prefix"] is True
    types = fields["tokenizer.ggml.token_type"]
    assert types[:3] == [2, 3, 3] and set(types[3:259]) == {6} and types[-3:] == [5, 5, 5]
    convert_gguf(str(path))
    read = load_processor(str(locate_model(str(path)).model_dir), local=True)
    texts = ["The capital of France is Paris.", "add(a, b)", "退款要 12345 é"]
    assert read.plain_ids(texts) == processor.plain_ids(texts)


def test_an_earlier_merge_has_the_higher_score() -> None:
    assert merge_scores(["a", "b", "ab", "abb"], [["a", "b"], ["ab", "b"]]) == [-2, -2, 0, -1]


def test_what_llama_cpp_cannot_do_is_refused(tmp_path: Path) -> None:
    processor, path = Processor(byte_level()), tmp_path / "model.gguf"
    refused = [
        (tiny("qwen2", processor, hidden_act="gelu"), "activation"),
        (tiny("gemma2", processor, query_pre_attn_scalar=64), "query_pre_attn_scalar"),
        (tiny("gemma3", processor, layer_types=["full_attention"] * 6), "full attention"),
    ]
    for model, reason in refused:
        with pytest.raises(ModelError, match=reason):
            export_gguf(model, processor, path, outtype="f16")
    from_scratch = train_processor(TEXTS, 320, "gpt", 64)
    with pytest.raises(ModelError, match="splits text into words"):
        export_gguf(tiny("llama", from_scratch), from_scratch, path, outtype="f16")
    assert not path.exists()


def test_a_damaged_or_unknown_file_is_named(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF" + bytes(20))
    with pytest.raises(ModelError, match=r"damaged\.gguf"):
        convert_gguf(str(damaged))
    unknown = tmp_path / "unknown.gguf"
    writer = gguf.GGUFWriter(unknown, "plamo")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ModelError, match="architecture plamo"):
        convert_gguf(str(unknown))
    processor, other = Processor(byte_level("gpt-2")), tmp_path / "other.gguf"
    export_gguf(tiny("qwen2", processor), processor, other, outtype="f16")
    with pytest.raises(ModelError, match="another tokenizer than the file has"):
        convert_gguf(str(other))
    assert not list(tmp_path.glob("cache/llmstage/gguf/*"))


def test_where_llama_cpp_is_installed_its_tokens_and_texts_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a stand-in with the interface of llama-cpp-python, which reads and writes as the model does, or not."""
    processor = Processor(byte_level())
    model = tiny("qwen2", processor)
    prompts = list(comparison_prompts(processor, 3))
    assert compare_with_llama_cpp(model, processor, tmp_path / "model.gguf", prompts) is None

    class Llama:
        shift, text_end = 0, ""

        def __init__(self, path: str, **options: Any) -> None:
            assert path.endswith("model.gguf") and options["n_ctx"] == 512

        def tokenize(self, text: bytes, *, add_bos: bool, special: bool) -> list[int]:
            assert not add_bos and not special
            return [token + self.shift for token in processor.plain_ids([text.decode()])[0]]

        def create_completion(self, ids: list[int], *, max_tokens: int, **options: Any) -> dict[str, Any]:
            written = model.generate(torch.tensor([ids]), max_new_tokens=max_tokens, do_sample=False)[0, len(ids) :]
            return {"choices": [{"text": processor.decode(written.tolist()) + self.text_end}]}

    module: Any = ModuleType("llama_cpp")
    module.Llama, module.__spec__ = Llama, ModuleSpec("llama_cpp", None)
    monkeypatch.setitem(sys.modules, "llama_cpp", module)
    path = tmp_path / "model.gguf"
    assert str(compare_with_llama_cpp(model, processor, path, prompts)).endswith(
        "the same greedy text on 3 of 3 prompts"
    )
    monkeypatch.setattr(Llama, "text_end", "!")
    assert "on 0 of 3 prompts" in str(compare_with_llama_cpp(model, processor, path, prompts))
    monkeypatch.setattr(Llama, "shift", 1)
    with pytest.raises(ModelError, match=r"llama\.cpp reads the text"):
        compare_with_llama_cpp(model, processor, path, prompts)
