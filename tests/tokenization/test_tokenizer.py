"""The tokenizer: the same texts give the same one, and plain text stays plain."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llmstage.demo.dialogue import dialogue_rows
from llmstage.errors import ModelError
from llmstage.tokenization.tokenizer import SPECIAL, Processor, load_processor, train_processor

TEXTS = [message["content"] for row in dialogue_rows(60, 0) for message in row["messages"]]
ODD = [
    "",
    " ",
    "a  b\n\tc",
    "12345",
    "水火，木金土。",
    "naïve café 🙂\u200d",
    "<|end|><|assistant|>",
    "\x00\x7f",
    "I'll we've",
]


@pytest.fixture(scope="module", params=["gpt", "bert", "t5"])
def processor(request):
    return train_processor(TEXTS, 500, request.param, 64)


@pytest.mark.parametrize("kind", ["gpt", "bert"])
def test_it_is_a_function_of_the_texts(kind):
    one, two = (train_processor(iter(TEXTS), 500, kind, 64) for _ in range(2))
    assert one.digest() == two.digest()
    assert one.plain_ids(ODD) == two.plain_ids(ODD)
    assert one.digest() != train_processor(TEXTS[:50], 500, kind, 64).digest()


@pytest.mark.parametrize("size", [300, 400, 700])
def test_the_vocabulary_is_as_large_as_asked(size):
    assert len(train_processor(TEXTS, size, "gpt", 64)) == size


def test_any_text_comes_back_as_it_was(processor):
    for text, ids in zip(ODD + TEXTS[:50], processor.plain_ids(ODD + TEXTS[:50]), strict=True):
        assert processor.tokenizer.decode(ids, skip_special_tokens=False) == text
        assert not set(ids) & set(processor.tokenizer.all_special_ids)


def test_each_digit_is_a_token_of_its_own(processor):
    (ids,) = processor.plain_ids(["2026 7 1134"])
    single = {processor.plain_ids([digit])[0][0] for digit in "0123456789"}
    assert sum(token in single for token in ids) == 9


def test_control_words_are_meant_in_markup_and_plain_in_text(processor):
    for word in SPECIAL:
        assert len(processor.markup_ids(word)) == 1
        (plain,) = processor.plain_ids([word])
        assert len(plain) > 1 and processor.decode(plain) == word
        ids, _, _ = processor.marked_ids(word, None, 64)
        assert (
            sum(token in processor.tokenizer.all_special_ids for token in ids)
            == len(processor.tokenizer("x")["input_ids"]) - 1
        )


def test_a_saved_folder_is_an_ordinary_tokenizer(processor, tmp_path):
    processor.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(theirs, PreTrainedTokenizerFast)
    assert theirs.model_input_names == ["input_ids", "attention_mask"]
    assert theirs("你好 12")["input_ids"] == processor.tokenizer("你好 12")["input_ids"]
    assert theirs.chat_template == processor.tokenizer.chat_template
    assert load_processor(str(tmp_path), local=True).digest() == processor.digest()


def test_every_folder_without_a_tokenizer_is_told(tmp_path):
    with pytest.raises(ModelError, match="No tokenizer can be loaded"):
        load_processor(str(tmp_path), local=True)
    with pytest.raises(ModelError, match="no fast tokenizer"):
        Processor(object())


def test_by_character_no_entry_holds_two_chinese_characters():
    texts = ["北京的图书馆里有很多书 and the library of Beijing is 图书馆"] * 40
    plain = train_processor(texts, 500, "bert", 64)
    single = train_processor(texts, 500, "bert", 64, by_character=True)

    def longest(processor) -> int:
        ids = processor.plain_ids(["北京的图书馆"])[0]
        return max(len(processor.decode([token])) for token in ids)

    assert longest(plain) > 1 and longest(single) == 1
    assert single.plain_ids(["the library of"]) and single.decode(single.plain_ids([texts[0]])[0]) == texts[0]
    words = [single.decode([token]) for token in single.plain_ids(["the library"])[0]]
    assert words == ["the", " library"], "words of other scripts stay whole"
