"""The tokenizer of a model as keys of a GGUF file.

llama.cpp knows two kinds of subword tokenizers that matter here: byte-level BPE ("gpt2"), whose split into words is one of a
fixed list of names, and SentencePiece's BPE with byte fallback ("llama"), which merges by the scores of tokens.
"""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Regex, pre_tokenizers

from llmstage.errors import ModelError
from llmstage.tokenization.tokenizer import Processor

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Types of tokens in a GGUF file (llama.cpp, llama_token_type)."""

PROBES = (
    "Hello World! I'm sure they'll say: it's 12,345.67 €…", "  two  spaces   three\t\ttabs \n\n newlines\r\n\r\n end ",
    "don't DON'T We've we'd ’tis", "x=1;y+=22;z-=333 //comment\n\tif(a==b){return 4444;}", "退款要等多久？订单号是8842。",
    "１２３ ①② ½ x² 3rd", "Привет, мир! Ελληνικά שלום مرحبا हिन्दी ไทย 日本語テスト 한국어", "é à ñ ü Ångström ÀÉ", "🙂🙂 👩‍👩‍👧 text🙂",
    "a.b.c...d", "http://www.example.com/a?b=c&d=1#e", "CamelCaseWordsAndSNAKE_case ALLCAPS lower", "   leading", "trailing   ", "\n",
    " \n x", "!!!???", "(a)[b]{c}<d>", "1 2  3   4", "5x 6 y7z 8", "\u00a0nbsp\u2003em", "e\u0301 combining",
)  # fmt: skip
"""Texts on which two ways of splitting are compared."""


def split_patterns() -> dict[str, Any]:
    """Return tokenizers' pre-tokenizer for each of llama.cpp's names of a split (its src/llama-vocab.cpp)."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    def isolated(pattern: str) -> Any:
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])

    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2])
    named = {
        name: isolated(GGUF_PRE_TOKENIZER_SPLITS[name]) for name in ("llama-bpe", "qwen2", "tekken", "gpt-4o", "qwen35")
    }
    return {"gpt-2": gpt2, "smollm": digits, **named}


def split_name(pre_tokenizer: Any) -> str:
    """Return llama.cpp's name of the split that gives the same words on PROBES. Raise ModelError where none does."""
    words = [[word for word, _ in pre_tokenizer.pre_tokenize_str(text)] for text in PROBES]
    for name, candidate in split_patterns().items():
        if [[word for word, _ in candidate.pre_tokenize_str(text)] for text in PROBES] == words:
            return name
    raise ModelError(
        "The tokenizer splits text into words in a way that llama.cpp does not have, so it would read other tokens. "
        "(The tokenizers that llmstage trains from scratch are among them.) Use stage.format=hf or onnx."
    )


def tokenizer_fields(gguf: Any, model: Any, processor: Processor) -> dict[str, Any]:
    """Return the keys of the file that describe the tokenizer, its special tokens and the chat template."""
    backend = processor.tokenizer.backend_tokenizer
    described = json.loads(backend.to_str())
    if described["model"]["type"] != "BPE":
        raise ModelError(
            f"stage.format=gguf writes BPE tokenizers; this one is a {described['model']['type']}. Use stage.format=hf."
        )
    is_sentencepiece = bool(described["model"].get("byte_fallback"))
    names = gguf.Keys.Tokenizer
    fields: dict[str, Any] = {names.MODEL: "llama" if is_sentencepiece else "gpt2"}
    tokens, types = token_table(processor, model.config.vocab_size, described)
    fields[names.LIST], fields[names.TOKEN_TYPE] = tokens, types
    merges = [pair if isinstance(pair, list) else pair.split(" ", 1) for pair in described["model"]["merges"]]
    if is_sentencepiece:
        fields[names.PRE] = "default"
        fields[names.SCORES] = merge_scores(tokens, merges)
        fields[names.ADD_PREFIX] = processor.plain_ids(["a"])[0] == processor.plain_ids([" a"])[0] or (
            backend.normalizer is not None and backend.normalizer.normalize_str("a").startswith("\u2581")
        )
    else:
        fields[names.PRE] = split_name(backend.pre_tokenizer)
        fields[names.MERGES] = [" ".join(pair) for pair in merges]
    return fields | special_fields(names, model, processor)


def token_table(processor: Processor, rows: int, described: dict[str, Any]) -> tuple[list[str], list[int]]:
    """Return the text and the type of each of the model's `rows` tokens; those without a text are named [PADn]."""
    texts = {number: text for text, number in processor.tokenizer.get_vocab().items()}
    added = {token["id"]: token["special"] for token in described["added_tokens"]}
    unknown = described["model"].get("unk_token")
    tokens, types = [], []
    for number in range(rows):
        text = texts.get(number)
        tokens.append(f"[PAD{number}]" if text is None else text)
        if text is None:
            types.append(UNUSED)
        elif text == unknown:
            types.append(UNKNOWN)
        elif number in added:
            types.append(CONTROL if added[number] else USER_DEFINED)
        elif described["model"].get("byte_fallback") and len(text) == 6 and text.startswith("<0x"):
            types.append(BYTE)
        else:
            types.append(NORMAL)
    return tokens, types


def merge_scores(tokens: list[str], merges: list[list[str]]) -> list[float]:
    """Return the score of each token: llama.cpp merges the pair with the highest one, so the first merge gets the highest.

    A character that no merge makes has the lowest score; it is never compared.
    """
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    return [-float(ranks.get(token, len(merges))) for token in tokens]


def special_fields(names: Any, model: Any, processor: Processor) -> dict[str, Any]:
    """Return the ids of special tokens, whether a text begins with one, and the chat template."""
    tokenizer = processor.tokenizer
    fields: dict[str, Any] = {}
    for key, number in (
        (names.BOS_ID, tokenizer.bos_token_id), (names.EOS_ID, tokenizer.eos_token_id), (names.UNK_ID, tokenizer.unk_token_id),
        (names.PAD_ID, tokenizer.pad_token_id),
    ):  # fmt: skip
        if number is not None:
            fields[key] = int(number)
    stops = model.generation_config.eos_token_id
    turn_ends = [
        stop for stop in (stops if isinstance(stops, list) else [stops]) if stop not in (None, tokenizer.eos_token_id)
    ]
    if turn_ends:
        fields[names.EOT_ID] = int(turn_ends[0])
    before, after = processor.special_ids()
    fields[names.ADD_BOS] = before[:1] == [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else False
    fields[names.ADD_EOS] = bool(after) and after[-1] == tokenizer.eos_token_id
    if isinstance(tokenizer.chat_template, str):
        fields[names.CHAT_TEMPLATE] = tokenizer.chat_template
    return fields
