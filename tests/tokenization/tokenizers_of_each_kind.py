"""Small tokenizers of each kind, trained on a few lines: what they do to the space at the edge of a text differs."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tests.tokenization.chat_templates import SPECIAL

LINES = [
    "Where is order 12? On its way. Thanks, anything else? No.", "谢谢，还有别的吗？没有了。", "Be brief. Be kind. user assistant system model",
    "Two and two? I count. Four. And three? I add one. Five. User: Assistant: ASSISTANT: [INST] [/INST] <think> </think>",
    'Weather in Rome? {"name": "weather", "arguments": {"city": "Rome", "days": 2}} Twelve degrees. Thanks. Bye. <tool_call>',
]  # fmt: skip
KINDS = (
    "byte_level", "byte_level_trimmed", "byte_level_prefix", "metaspace_always", "metaspace_first", "metaspace_never",
    "prepend_normalizer", "unigram", "word_piece",
)  # fmt: skip


@cache
def backend(kind: str) -> Tokenizer:
    special = ["<unk>", "<s>", "</s>", *SPECIAL]
    vocabulary: dict[str, Any] = {"vocab_size": 420, "special_tokens": special, "show_progress": False}
    if kind.startswith("byte_level"):
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=kind == "byte_level_prefix")
        tokenizer.decoder = decoders.ByteLevel()
        if kind == "byte_level_trimmed":  # as GPT-2 and Llama 3 have it: offsets leave out white space
            tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
        trainer: Any = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **vocabulary)
    elif kind == "word_piece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(**vocabulary)
    elif kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(unk_token="<unk>", **vocabulary)
    else:
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
        scheme: Any = kind.removeprefix("metaspace_") if kind.startswith("metaspace") else "always"
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        bytes_ = [f"<0x{value:02X}>" for value in range(256)]
        trainer = trainers.BpeTrainer(**{**vocabulary, "vocab_size": 700, "special_tokens": special + bytes_})
    tokenizer.train_from_iterator(LINES * 4, trainer)
    if kind.startswith(("metaspace", "prepend")):
        state = json.loads(tokenizer.to_str())  # the bytes are no special tokens
        state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in special]
        tokenizer = Tokenizer.from_str(json.dumps(state))
    if kind == "prepend_normalizer":  # Llama 2 and Mistral, as converted from SentencePiece
        tokenizer.pre_tokenizer = None
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return tokenizer


def tokenizer_of(kind: str, template: str) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend(kind),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = template
    return tokenizer
