"""Ids by parts are the tokenizer's own, whatever the white space, the script or the order in which parts come back."""

from __future__ import annotations

import random

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from llmstage.tokenization import cached_encoding
from llmstage.tokenization.cached_encoding import GPT2, MIN_TEXTS, CachedEncoder, splits_at_spaces
from llmstage.tokenization.tokenizer import SPLIT, SPLIT_CHARACTERS, Processor, train_processor

ATOMS = [
    " ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", " \n", "\u3000", "\u00a0", "\x0b", "\x85", "\x00", "the", "cat", "Don't", "'s", "'", "1", "23", "4.5",
    ",", ".", "...", "!?", "-", "_", "é", "ß", "中", "文字", "。", "かな", "🙂", "👩‍👩‍👧", "\u0301", "<|bos|>", "<|end|>", "x" * 60,
]  # fmt: skip


def texts(number: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices(ATOMS, k=rng.randrange(30))) for _ in range(number)]


@pytest.fixture(autouse=True)
def few_are_much(monkeypatch) -> None:
    monkeypatch.setattr(cached_encoding, "MIN_CHARACTERS", 0)


@pytest.fixture(scope="module", params=["gpt", "t5"])
def processor(request) -> Processor:
    """Of either pattern: Chinese characters joined or one by one."""
    return train_processor(texts(2000, 7), 600, request.param, 64)


def own(processor: Processor, given: list[str]) -> list[list[int]]:
    return [coded.ids for coded in processor._plain.encode_batch(given, add_special_tokens=False)]


def lists(arrays) -> list[list[int]]:
    return [ids.tolist() for ids in arrays]


def test_ids_are_the_tokenizers_own(processor: Processor) -> None:
    assert splits_at_spaces(processor._plain, (SPLIT, SPLIT_CHARACTERS, GPT2))
    for seed in range(20):  # parts that are known come back among new ones
        given = texts(500, seed)
        assert processor.plain_ids(given) == own(processor, given)
    assert processor._cached_encoder is not None and len(processor._cached_encoder.part_numbers) > 100
    odd = [text for text in texts(500) if "\u3000" in text]
    assert processor.plain_ids(odd) == own(processor, odd), "only texts that cannot be cut"
    assert processor.plain_ids([""] * MIN_TEXTS) == [[]] * MIN_TEXTS
    assert processor.plain_ids(["", *["the cat"] * MIN_TEXTS])[0] == []


def test_each_part_is_encoded_once_and_few_are_kept(processor: Processor, monkeypatch) -> None:
    asked: list[str] = []
    ids = CachedEncoder(processor._plain)
    monkeypatch.setattr(ids, "uncached", lambda given: asked.extend(given) or CachedEncoder.uncached(ids, given))
    given = ["the cat sat. the cat sat", " the cat"] * MIN_TEXTS
    want = own(processor, given)
    assert lists(ids(given)) == want
    assert asked == [" cat sat. the sat", "the", ""], "each part once, those that a text may be cut before in one"
    asked.clear()
    assert lists(ids(given)) == want and not asked
    long = ["x" * 60 + " the"] * MIN_TEXTS
    assert lists(ids(long)) == own(processor, long) and "x" * 60 not in ids.part_numbers
    monkeypatch.setattr(cached_encoding, "MAX_CACHED_PARTS", len(ids.part_numbers) + 1)
    for _ in range(2):
        more = ["a b c d the"] * MIN_TEXTS
        assert lists(ids(more)) == own(processor, more)
        assert len(ids.part_numbers) == cached_encoding.MAX_CACHED_PARTS


@pytest.mark.parametrize("most", [1, 40, 4_000])
def test_new_parts_are_encoded_in_texts_of_any_length(processor: Processor, monkeypatch, most: int) -> None:
    monkeypatch.setattr(cached_encoding, "JOINED_BYTES", most)
    given = texts(300, 11)
    assert lists(CachedEncoder(processor._plain)(given)) == own(processor, given)


def test_a_vocabulary_without_some_byte_is_asked_for_each_part_alone() -> None:
    """Then ids stand for fewer bytes than the text has, and whose they are cannot be told."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.train_from_iterator(["the cat sat"], trainers.BpeTrainer(show_progress=False))
    lacking = Processor(PreTrainedTokenizerFast(tokenizer_object=made))
    given = ["the cat sat on the mat", "a cat", "the\nzoo sat"] * MIN_TEXTS
    assert lacking.plain_ids(given) == own(lacking, given) and lacking._cached_encoder is not None
    assert sum(map(len, own(lacking, given[:1]))) < len(given[0])


def test_few_texts_do_not_load_arrow(processor: Processor, monkeypatch) -> None:
    given = texts(200, 5)
    monkeypatch.setattr(cached_encoding, "MIN_CHARACTERS", sum(map(len, given)) + 1)
    fresh = Processor(processor.tokenizer)
    assert fresh.plain_ids(given) == own(processor, given) and fresh._cached_encoder is None
    monkeypatch.setattr(cached_encoding, "MIN_CHARACTERS", sum(map(len, given)))
    assert fresh.plain_ids(given) == own(processor, given) and fresh._cached_encoder is not None


def byte_level(before: pre_tokenizers.PreTokenizer) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = before, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts(2000), trainer)
    return made


def test_tokenizers_that_are_known_to_cut_at_spaces() -> None:
    level = pre_tokenizers.ByteLevel
    gpt2 = byte_level(level(add_prefix_space=False))
    assert splits_at_spaces(gpt2, ())
    given = texts(2000, 3)
    processor = Processor(PreTrainedTokenizerFast(tokenizer_object=gpt2))
    assert processor.plain_ids(given) == own(processor, given) and processor._cached_encoder is not None
    assert not splits_at_spaces(byte_level(level(add_prefix_space=True)), ())
    split = pre_tokenizers.Split(Regex(r"\S+ \S+|\s+"), "isolated")
    over = byte_level(pre_tokenizers.Sequence([split, level(add_prefix_space=False, use_regex=False)]))
    assert not splits_at_spaces(over, (SPLIT, GPT2)), "a pattern that reaches over spaces"
    lower = byte_level(level(add_prefix_space=False))
    lower.normalizer = normalizers.Lowercase()
    assert not splits_at_spaces(lower, ())
    gpt2.add_tokens([AddedToken("the cat", special=False)])
    assert not splits_at_spaces(gpt2, ()), "looked for in the whole text"
    other = Processor(PreTrainedTokenizerFast(tokenizer_object=gpt2))
    assert other.plain_ids(["the cat"] * MIN_TEXTS) == own(other, ["the cat"] * MIN_TEXTS)
