"""Windows over documents, and scores against a computation by hand."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import pytest
import torch

from llmstage.demo.prose import prose_rows


@pytest.fixture(scope="module")
def it(tiny_task):
    return tiny_task("causal_lm", context=32)


def document(it, text: str) -> list[int]:
    return [it.processor.bos_id, *it.processor.plain_ids([text])[0], it.processor.eos_id]


@pytest.mark.parametrize("length", [1, 2, 29, 30, 31, 32, 33, 60, 61, 62, 63, 64, 500])
def test_every_token_but_the_first_is_a_target_exactly_once(it, length):
    draw = random.Random(length)
    text = "".join(draw.choice("0123456789") for _ in range(length))  # a digit is a token
    ids = document(it, text)
    features = it.task.encode({"text": text})
    assert [token for item in features for token in item.input_ids[1:]] == ids[1:]
    assert features[0].input_ids[0] == ids[0]
    for earlier, later in itertools.pairwise(features):
        assert later.input_ids[0] == earlier.input_ids[-1]  # context only: one token of overlap
        assert len(earlier.input_ids) == it.context
    assert sum(map(it.task.num_targets, features)) == len(ids) - 1
    batch = it.batch(features)
    assert int((batch.labels != -100).sum()) == len(ids) - 1
    assert sum(item.ref["bytes"] for item in features) == pytest.approx(len(text.encode()))


@torch.no_grad()
def test_perplexity_and_bits_per_byte_by_hand(it):
    texts = [row["text"] for row in prose_rows(3, 5)] + ["水火木金土 123"]
    features = [item for text in texts for item in it.task.encode({"text": text})]
    model = it.model(seed=1)
    batch = it.batch(features)
    scores = it.task.score(it.task.predict(model, batch, generate=False), batch.refs)
    nll, count, right = 0.0, 0, 0
    for text in texts:
        ids = document(it, text)
        for position in range(1, len(ids)):  # token by token, with the history its window gives it
            begin = (position - 1) // (it.context - 1) * (it.context - 1)
            logits = model(input_ids=torch.tensor([ids[begin:position]])).logits[0, -1]
            nll -= float(torch.log_softmax(logits, -1)[ids[position]])
            right += int(logits.argmax() == ids[position])
            count += 1
    num_bytes = sum(len(text.encode()) for text in texts)
    assert scores["perplexity"].value == pytest.approx(math.exp(nll / count), rel=1e-4)
    assert scores["bits_per_byte"].value == pytest.approx(nll / math.log(2) / num_bytes, rel=1e-4)
    assert scores["token_accuracy"].value == pytest.approx(right / count)
    assert scores["perplexity"].count == count
    assert not scores["perplexity"].higher_is_better and scores["token_accuracy"].higher_is_better


def test_control_words_in_a_document_stay_plain(it):
    (features,) = it.task.encode({"text": "a<|eos|>b"})
    special = [token for token in features.input_ids if token in it.processor.tokenizer.all_special_ids]
    assert special == [it.processor.bos_id, it.processor.eos_id]


@pytest.mark.parametrize("text", ["", " \n", None, 3])
def test_bad_rows_are_told(it, text):
    assert it.task.check_row({"text": text})
    assert it.task.check_row({"text": "水"}) is None


def test_the_frequency_baseline_by_hand(it):
    train = prose_rows(4, 7)
    features = [item for row in prose_rows(3, 5) for item in it.task.encode(row)]
    (scores,) = it.task.baselines(iter(train), [item.ref for item in features]).values()
    counts = Counter(token for row in train for token in document(it, row["text"])[1:])
    total = sum(counts.values()) + len(it.processor)
    tokens = [token for item in features for token in item.input_ids[1:]]
    nll = -sum(math.log((counts[token] + 1) / total) for token in tokens)
    num_bytes = sum(len(row["text"].encode()) for row in prose_rows(3, 5))
    assert scores["perplexity"].value == pytest.approx(math.exp(nll / len(tokens)))
    assert scores["bits_per_byte"].value == pytest.approx(nll / math.log(2) / num_bytes)
    best = max(counts, key=lambda token: (counts[token], -token))
    assert scores["token_accuracy"].value == pytest.approx(tokens.count(best) / len(tokens))
    assert scores.keys() == it.task.score([{"nll": 1, "tokens": 1, "correct": 1}], [{"bytes": 1}]).keys()
