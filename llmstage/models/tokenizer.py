"""The tokenizer: taken from a model's folder, or trained on the training split as a byte-level BPE."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llmstage.errors import ModelError

BOS, EOS, PAD, MASK = "<|bos|>", "<|eos|>", "<|pad|>", "<|mask|>"
SYSTEM, USER, ASSISTANT, END = "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"
SPECIAL = (PAD, BOS, EOS, MASK, SYSTEM, USER, ASSISTANT, END)

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""No white space between a marker and the content, so that content encoded by itself gives the same ids as the whole."""

SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""GPT-2's pattern (Radford 2019) with one change: each digit is a piece of its own, so numbers are read digit by digit."""

SPLIT_HAN = SPLIT.replace(r" ?\p{L}+", r"\p{Han}| ?[\p{L}&&[^\p{Han}]]+")
"""The same with each Chinese character a piece of its own, for encoder-decoders: they are trained on few sentences, in which
pieces of several words are too rare to be put together anew (a toy grammar stayed at perplexity 3.5 instead of 1)."""

SAMPLE_BYTES = 100_000_000
"""A tokenizer is trained on at most this much text."""


class Processor:
    """A tokenizer with the two things training needs: plain text stays plain, and ids come as lists."""

    def __init__(self, tokenizer: Any) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ModelError(
                f"{type(tokenizer).__name__} has no fast tokenizer. Save the model with its tokenizer.json."
            )
        self.tokenizer = tokenizer
        # A copy that reads special-token text inside users' content as plain text (RELIABILITY P16).
        self._plain: Tokenizer = copy.deepcopy(backend)
        self._plain.encode_special_tokens = True
        self._plain.no_truncation()
        self._plain.no_padding()

    def __len__(self) -> int:
        return len(self.tokenizer)

    def plain_ids(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text; nothing is added, and no text becomes a control token."""
        return [encoding.ids for encoding in self._plain.encode_batch_fast(texts, add_special_tokens=False)]

    def markup_ids(self, text: str) -> list[int]:
        """Ids of template text, in which special tokens are meant."""
        return list(self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)

    def marked_ids(self, text: str, pair: str | None, context: int) -> tuple[list[int], list[int], int]:
        """(ids, segment ids, tokens cut) of a text or a pair as the tokenizer marks them for an encoder.

        The longer of the two gives way where both do not fit.
        """
        first = self._plain.encode(text, add_special_tokens=False)
        second = self._plain.encode(pair, add_special_tokens=False) if pair else None
        room = context - self.tokenizer.num_special_tokens_to_add(pair=second is not None)
        a, b = len(first), len(second) if second is not None else 0
        cut = max(0, a + b - room)
        keep_a = min(a, max(room - b, -(-room // 2))) if cut else a
        first.truncate(keep_a)
        if second is not None:
            second.truncate(min(b, room - keep_a))
        whole = self._plain.post_process(first, second)
        return list(whole.ids), list(whole.type_ids), cut

    def decode(self, ids: Iterable[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def digest(self) -> str:
        """sha256 of everything that decides ids."""
        template = str(self.tokenizer.chat_template)
        return hashlib.sha256((self.tokenizer.backend_tokenizer.to_str() + template).encode()).hexdigest()

    @property
    def pad_id(self) -> int:
        """Padding is told by position, never by this id, so a model without a pad token lends its end token."""
        for candidate in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0):
            if candidate is not None:
                return int(candidate)
        return 0

    @property
    def bos_id(self) -> int | None:
        return None if self.tokenizer.bos_token_id is None else int(self.tokenizer.bos_token_id)

    @property
    def eos_id(self) -> int | None:
        return None if self.tokenizer.eos_token_id is None else int(self.tokenizer.eos_token_id)

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)


def train_processor(texts: Iterable[str], vocab_size: int, kind: str, context: int) -> Processor:
    """A byte-level BPE with `vocab_size` entries at most; the same texts give the same tokenizer."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_HAN if kind == "t5" else SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bos, eos = bpe.token_to_id(BOS), bpe.token_to_id(EOS)
    single, pair = {
        "gpt": (f"{BOS} $A", f"{BOS} $A $B"),
        "bert": (f"{BOS} $A {EOS}", f"{BOS} $A {EOS} $B {EOS}"),
        "t5": (f"$A {EOS}", f"$A {EOS} $B {EOS}"),
    }[kind]
    bpe.post_processor = processors.TemplateProcessing(single, pair, [(BOS, bos), (EOS, eos)])
    named: dict[str, Any] = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD, "mask_token": MASK}
    if kind == "bert":
        named |= {"cls_token": BOS, "sep_token": EOS}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        model_max_length=context,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT, END],
        **named,
    )
    if kind == "gpt":
        tokenizer.chat_template = CHAT_TEMPLATE
    return Processor(tokenizer)


def load_processor(path: str, *, local: bool) -> Processor:
    """The tokenizer of a model folder or hub id; never runs code that came with it."""
    try:
        return Processor(AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=local))
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"No tokenizer can be loaded from {path}: {str(error).splitlines()[0]}") from None
