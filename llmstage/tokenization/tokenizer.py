"""The tokenizer of a run: loaded from a model's folder, or trained on the training split as a byte-level BPE."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from llmstage.errors import ModelError, UserError
from llmstage.tokenization.cached_encoding import GPT2, CachedEncoder, is_large, splits_at_spaces
from llmstage.tokenization.vision import VisionSpec, combined_processor, load_image_processor

BOS, EOS, PAD, MASK = "<|bos|>", "<|eos|>", "<|pad|>", "<|mask|>"
SYSTEM, USER, ASSISTANT, END = "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"
IMAGE = "<image>"
"""The token in whose place the patches of an image go, as LLaVA spells it."""
SPECIAL = (PAD, BOS, EOS, MASK, SYSTEM, USER, ASSISTANT, END)

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""No white space between a marker and the content, so that content encoded by itself gives the same ids as the whole."""

CONTENT = (
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endif %}"
)
IMAGE_TEMPLATE = CHAT_TEMPLATE.replace(
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}",
    "{{ '<|' + message['role'] + '|>' }}" + CONTENT + "{{ '<|end|>' }}",
)
"""The same with content that may be a list of texts and images, as transformers' processors take it."""

SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""GPT-2's pattern (Radford 2019) with one change: each digit is a token of its own, so that numbers are read digit by digit."""

CHARACTERS = r"\p{Han}\p{Hiragana}\p{Katakana}"
SPLIT_CHARACTERS = rf"[{CHARACTERS}]|" + SPLIT.replace(r"\p{L}+", rf"[\p{{L}}&&[^{CHARACTERS}]]+")
"""The same, with each Chinese character and kana a token of its own. A span can then begin and end at any of them, and an
encoder-decoder that trains on few sentences can combine words in new ways (with tokens of several words, a toy grammar stayed at
perplexity 3.5 instead of 1)."""

SAMPLE_BYTES = 100_000_000
"""A tokenizer is trained on at most this much text."""


class Processor:
    """A tokenizer for training: text of users never becomes a control token, and ids come as lists.

    For models that read images, `images` is the transformers image processor that is saved with the model.
    """

    def __init__(self, tokenizer: Any, images: Any = None) -> None:
        self.images = images
        self.vision: VisionSpec | None = None
        self.new_tokens: dict[int, list[int]] = {}
        """Ids of tokens that this run adds, each with the ids of its subwords before."""
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ModelError(
                f"{type(tokenizer).__name__} has no fast tokenizer. Save the model with its tokenizer.json."
            )
        self.tokenizer = tokenizer
        # A copy that reads the text of a special token inside a user's content as plain text.
        self._plain: Tokenizer = copy.deepcopy(backend)
        self._plain.encode_special_tokens = True
        self._plain.no_truncation()
        self._plain.no_padding()
        self._text_encoder: Tokenizer | None = None
        self.generation_end_ids: tuple[int, ...] = ()
        """The tokens at which generation stops, as generation_config.json of the model has them."""
        self.chat_templates: dict[str, Any] = {}
        """What tokenization/chat_template.py knows of a chat template, by template."""
        self._cached_encoder: CachedEncoder | None = None
        self._is_cacheable: bool | None = None

    def __len__(self) -> int:
        return len(self.tokenizer)

    def plain_ids(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text; nothing is added, and no text becomes a control token."""
        arrays = self.cached_ids(texts)
        return self.uncached_ids(texts) if arrays is None else [ids.tolist() for ids in arrays]

    def batch_plain_ids(self, texts: list[str]) -> Sequence[Sequence[int]]:
        """plain_ids(), as arrays where texts are many: lists would take a third of the time."""
        arrays: Any = self.cached_ids(texts)
        return self.uncached_ids(texts) if arrays is None else arrays

    def uncached_ids(self, texts: list[str]) -> list[list[int]]:
        """plain_ids() by one call of the tokenizer."""
        return [encoding.ids for encoding in self._plain.encode_batch_fast(texts, add_special_tokens=False)]

    def cached_ids(self, texts: list[str]) -> list[np.ndarray] | None:
        """plain_ids() by CachedEncoder; None where texts are few, or the ids of a text are not those of its parts."""
        if not is_large(texts):
            return None
        if self._is_cacheable is None:
            self._is_cacheable = splits_at_spaces(self._plain, (SPLIT, SPLIT_CHARACTERS, GPT2))
            self._cached_encoder = CachedEncoder(self._plain) if self._is_cacheable else None
        return self._cached_encoder(texts) if self._cached_encoder is not None else None

    def plain_offsets(self, texts: list[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """(ids, characters [start, end) of each id) of every text, with the ids of plain_ids()."""
        coded = self._plain.encode_batch(texts, add_special_tokens=False)
        return [(encoding.ids, encoding.offsets) for encoding in coded]

    def special_ids(self) -> tuple[list[int], list[int]]:
        """(ids before, ids after) a single text: the special tokens that the tokenizer adds for an encoder."""
        marked = self._plain.post_process(self._plain.encode("a", add_special_tokens=False))
        inner = [index for index, special in enumerate(marked.special_tokens_mask) if not special]
        return list(marked.ids[: inner[0]]), list(marked.ids[inner[-1] + 1 :])

    def markup_ids(self, text: str) -> list[int]:
        """Ids of template text, in which special tokens are control tokens."""
        return list(self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)

    @property
    def text_encoder(self) -> Tokenizer:
        """A copy that encodes rendered text. Special tokens in it are control tokens, and offsets include white space."""
        if self._text_encoder is None:
            tokenizer = copy.deepcopy(self.tokenizer.backend_tokenizer)
            tokenizer.no_truncation()
            tokenizer.no_padding()
            tokenizer.post_processor = None  # it adds nothing here, but the one of byte-level BPE moves offsets
            self._text_encoder = tokenizer
        return self._text_encoder

    def marked_ids(self, text: str, pair: str | None, context: int) -> tuple[list[int], list[int], int]:
        """(ids, segment ids, tokens cut) of a text or a pair, with the special tokens of an encoder.

        Where both do not fit, the longer of the two is cut.
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
        encoding = self._plain.post_process(first, second)
        return list(encoding.ids), list(encoding.type_ids), cut

    def pair_windows(self, first: str, second: str, context: int, stride: int) -> tuple[list[Any], int]:
        """(encodings, tokens cut) of a pair whose second text is cut into windows that share `stride` tokens.

        Each encoding has `ids`, `type_ids`, `offsets` (characters of the text a token comes from) and `sequence_ids`
        (0 first text, 1 second, None a special token). Windows share at most half of their length. The first text is cut only
        where it would take more than half of the context.
        """
        head = self._plain.encode(first, add_special_tokens=False)
        room = context - self.tokenizer.num_special_tokens_to_add(pair=True)
        cut = max(0, len(head) - room // 2)
        head.truncate(len(head) - cut)
        room -= len(head)
        body = self._plain.encode(second, add_special_tokens=False)
        body.truncate(room, stride=min(stride, room // 2))
        parts = [body, *body.overflowing]
        return [self._plain.post_process(head, part) for part in parts], cut

    def decode(self, ids: Iterable[int], *, marks: Collection[int] = ()) -> str:
        """Return the text of ids without special tokens, except for those in `marks`."""
        dropped = self.special_token_ids.difference(marks)
        texts = [index for index in ids if index not in dropped]
        return str(self.tokenizer.decode(texts, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    @cached_property
    def special_token_ids(self) -> frozenset[int]:
        """The ids of all special tokens, named or not."""
        return frozenset(index for index, token in self.tokenizer.added_tokens_decoder.items() if token.special)

    def digest(self) -> str:
        """sha256 of everything that determines ids."""
        content = self.tokenizer.backend_tokenizer.to_str() + str(self.tokenizer.chat_template)
        if self.images is not None:
            content += json.dumps(self.images.to_dict(), sort_keys=True, default=str)
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def pad_id(self) -> int:
        """The id that fills padding. Masks mark padding by position, so a model without a pad token uses its end token."""
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

    @property
    def cls_id(self) -> int | None:
        return None if self.tokenizer.cls_token_id is None else int(self.tokenizer.cls_token_id)

    @property
    def image_id(self) -> int:
        """The token in whose place the patches of an image go."""
        return int(self.tokenizer.convert_tokens_to_ids(IMAGE))

    def save(self, folder: Path) -> None:
        """Write the tokenizer; for a model that reads images, the full transformers processor."""
        if self.images is None:
            self.tokenizer.save_pretrained(folder)
        else:
            combined_processor(self.tokenizer, self.images, self.vision).save_pretrained(folder)


def train_processor(
    texts: Iterable[str], vocab_size: int, model_family: str, context: int, *, by_character: bool = False
) -> Processor:
    """A byte-level BPE with at most `vocab_size` entries; the same texts give the same tokenizer.

    `by_character`: no entry has more than one Chinese character.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(
                Regex(SPLIT_CHARACTERS if by_character or model_family == "t5" else SPLIT), "isolated"
            ),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special_tokens(model_family),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bos, eos = bpe.token_to_id(BOS), bpe.token_to_id(EOS)
    single, pair = {
        "gpt": (f"{BOS} $A", f"{BOS} $A $B"),
        "bert": (f"{BOS} $A {EOS}", f"{BOS} $A {EOS} $B {EOS}"),
        "t5": (f"$A {EOS}", f"$A {EOS} $B {EOS}"),
        "clip": (f"{BOS} $A {EOS}", f"{BOS} $A {EOS} $B {EOS}"),
        "vlm": (f"{BOS} $A", f"{BOS} $A $B"),
    }[model_family]
    bpe.post_processor = processors.TemplateProcessing(single, pair, [(BOS, bos), (EOS, eos)])
    named: dict[str, Any] = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD, "mask_token": MASK}
    if model_family == "bert":
        named |= {"cls_token": BOS, "sep_token": EOS}
    if model_family == "vlm":
        named["extra_special_tokens"] = {"image_token": IMAGE}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        model_max_length=context,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT, END],
        **named,
    )
    if model_family in ("gpt", "vlm"):
        tokenizer.chat_template = IMAGE_TEMPLATE if model_family == "vlm" else CHAT_TEMPLATE
    return Processor(tokenizer)


def special_tokens(model_family: str) -> list[str]:
    """The first entries of a vocabulary."""
    if model_family == "vlm":
        return [*SPECIAL, IMAGE]
    if model_family == "clip":
        # transformers' CLIP takes an end token of id 2 for a sign of old checkpoints, and then reads a text at its
        # largest id instead, which only in OpenAI's vocabulary is the end. Here it would be some rare word.
        return [PAD, BOS, MASK, EOS, SYSTEM, USER, ASSISTANT, END]
    return list(SPECIAL)


def add_tokens(tokenizer: Any, tokens: Sequence[str]) -> dict[int, list[int]]:
    """Add tokens to a tokenizer; return the id of each new one with the ids of its present subwords."""
    known = tokenizer.get_vocab()
    new = [token for token in dict.fromkeys(tokens) if token not in known]
    subwords = [list(tokenizer(token, add_special_tokens=False)["input_ids"]) for token in new]
    tokenizer.add_tokens(new)
    return dict(zip(tokenizer.convert_tokens_to_ids(new), subwords, strict=True)) if new else {}


def read_tokens(path: str) -> list[str]:
    """Return the tokens of a file, one on each line. Raise UserError where it cannot be read or has none."""
    try:
        tokens = [line.strip() for line in Path(path).expanduser().read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"model.add_tokens={path} cannot be read: {error}. Give a UTF-8 text file with a token on each line."
        ) from None
    tokens = [token for token in tokens if token]
    if not tokens:
        raise UserError(f"model.add_tokens={path} has no token. Give a text file with a token on each line.")
    return tokens


def load_processor(path: str, *, local: bool, sees: bool = False, new_tokens: Sequence[str] = ()) -> Processor:
    """The tokenizer of a model folder or hub id, with its image processor where the model reads images (`sees`).

    `new_tokens`: tokens that are added to its vocabulary. Code that comes with a model never runs. Raise ModelError.
    """
    options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": local}
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **options)
        subwords = add_tokens(tokenizer, new_tokens)
        processor = Processor(tokenizer, load_image_processor(path, local=local) if sees else None)
        processor.new_tokens = subwords
        processor.generation_end_ids = load_generation_end_ids(path, local=local)
        return processor
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"No tokenizer can be loaded from {path}: {str(error).splitlines()[0]}") from None


def load_generation_end_ids(path: str, *, local: bool) -> tuple[int, ...]:
    """The tokens at which generation stops, from generation_config.json; none where there is no such file."""
    try:
        ends = GenerationConfig.from_pretrained(path, local_files_only=local).eos_token_id
    except (OSError, ValueError):
        return ()
    return tuple(ends) if isinstance(ends, (list, tuple)) else () if ends is None else (int(ends),)
