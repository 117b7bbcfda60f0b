"""Masks that change in training and stay in scoring, scores by hand, packing in local layers, and what it is good for."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from llmstage.cli.command import main
from llmstage.models.lm_loss import masked_losses
from llmstage.models.packing import read_packed_rows
from llmstage.models.packing_proof import prove_packing
from llmstage.tasks.base import IGNORE_INDEX

SMALL = [
    "model.num_hidden_layers=1", "model.hidden_size=32", "model.num_attention_heads=2", "model.intermediate_size=48", "model.vocab_size=320", "data.demo_rows=40",
    "trainer.max_steps=4", "trainer.batch_size=4", "trainer.threads=1", "trainer.train_rows_scored=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def it(tiny_task):
    return tiny_task("masked_lm", "bert", context=64)


def test_windows_hold_every_token_once_between_the_tokenizers_own_marks(it):
    text = "一只狗 and a ladder in the attic. " * 20
    features = it.task.encode({"text": text})
    ids = it.processor.plain_ids([text])[0]
    assert [token for item in features for token in item.input_ids[1:-1]] == ids
    lengths = [len(item.input_ids) for item in features]
    assert max(lengths) <= it.context and max(lengths) - min(lengths) <= 1
    marked = it.processor.tokenizer("a")["input_ids"]
    assert all([item.input_ids[0], item.input_ids[-1]] == [marked[0], marked[-1]] for item in features)
    assert [item.arrays["window"][0] for item in features] == list(range(len(features)))


def test_scoring_hides_a_row_always_alike_and_training_each_time_anew(it):
    feature = max(it.features, key=lambda item: len(item.input_ids))

    def shown(**changes):
        return it.task.collate([[replace(feature, **changes)]]).inputs["input_ids"].tolist()

    assert shown(row=3) == shown(row=3) != shown(row=4)
    assert shown(draw=(0, 0, 5)) == shown(draw=(0, 0, 5))
    drawn = [shown(draw=(seed, epoch, index)) for seed in (0, 1) for epoch in (0, 1) for index in (0, 1)]
    assert all(one != two for at, one in enumerate(drawn) for two in drawn[:at])


def test_the_training_loop_draws_anew_each_epoch_and_the_same_again(it):
    from llmstage.data.encoding.store import ExampleWriter
    from llmstage.training.batches import StepDataset

    writer = ExampleWriter(None, "uint16")
    for row, item in enumerate(it.features):
        writer.add(item.arrays, row)
    store = writer.finish()

    def seen(seed: int, epoch: int) -> torch.Tensor:
        return StepDataset(it.task, store, 4, seed)[epoch, 0, [[0], [1]]].parts[0].inputs["input_ids"]

    assert torch.equal(seen(0, 0), seen(0, 0))
    assert not torch.equal(seen(0, 0), seen(0, 1)) and not torch.equal(seen(0, 0), seen(1, 0))


def test_options_change_what_is_hidden(it, tiny_task):
    plain = it.batch().labels

    def labels(*words: str) -> torch.Tensor:
        return tiny_task("masked_lm", "bert", context=64, words=words).batch().labels

    assert torch.equal(plain, labels())
    assert not torch.equal(plain, labels("task.mask_seed=1"))
    assert int((labels("task.mask_share=0.5") != IGNORE_INDEX).sum()) > 3 * int((plain != IGNORE_INDEX).sum())
    whole = tiny_task("masked_lm", "bert", context=64, words=("task.whole_word=true",))
    batch = whole.batch()
    for feature, row in zip(whole.features, batch.labels, strict=True):
        words = feature.arrays["word"]
        hidden = {words[at] for at in range(len(words)) if row[at] != IGNORE_INDEX}
        sizes = Counter(words)
        if sum(sizes[word] for word in hidden) <= round(0.15 * (len(words) - 2)):
            assert all((row[at] != IGNORE_INDEX) == (words[at] in hidden) for at in range(len(words)))
    assert not torch.equal(plain, batch.labels)


@torch.no_grad()
def test_scores_by_hand(it):
    model = it.model(seed=1)
    batch = it.batch()
    scores = it.task.score(it.task.predict(model, batch, generate=False), batch.refs)
    nll, right, count = 0.0, 0, 0
    for ids, labels, item in zip(batch.inputs["input_ids"], batch.labels, it.features, strict=True):
        log_p = torch.log_softmax(model(input_ids=ids[None, : len(item.input_ids)]).logits[0], -1)
        for position in (labels != IGNORE_INDEX).nonzero().flatten().tolist():
            assert int(labels[position]) == item.input_ids[position] not in it.processor.tokenizer.all_special_ids
            nll -= float(log_p[position, labels[position]])
            right += int(log_p[position].argmax() == labels[position])
            count += 1
    assert scores["pseudo_perplexity"].value == pytest.approx(math.exp(nll / count), rel=1e-4)
    assert scores["masked_accuracy"].value == pytest.approx(right / count)
    assert scores["loss"].count == count


@torch.no_grad()
def test_the_loss_is_the_one_transformers_computes(it):
    model = it.model(seed=1)
    batch = it.batch()
    loss = it.task.loss(model, batch)
    theirs = model(**batch.inputs, labels=batch.labels).loss
    assert float(loss.total) / loss.count == pytest.approx(float(theirs), rel=1e-5)


CONFIGS = {
    "modernbert": lambda vocab: transformers.ModernBertConfig(
        vocab_size=vocab, hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=48,
        local_attention=16, pad_token_id=0,
    ),
    "bert": lambda vocab: transformers.BertConfig(
        vocab_size=vocab, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
    ),
    "roberta": lambda vocab: transformers.RobertaConfig(
        vocab_size=vocab, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=150, pad_token_id=0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", CONFIGS)
@torch.no_grad()
def test_packed_rows_equal_single_ones_also_in_local_layers(kind, it):
    """Features longer than the local window: a block mask taken as it is would let local layers look too far."""
    torch.manual_seed(0)
    model = transformers.AutoModelForMaskedLM.from_config(CONFIGS[kind](len(it.processor))).eval()
    read_packed_rows(model)
    prove_packing(model, causal=False, context=it.task.context, pad_id=it.processor.pad_id)
    features = [item for item in it.features if len(item.input_ids) > 30][:4]
    packed = it.task.collate([features[:2], features[2:]])
    alone = it.task.collate([[item] for item in features])
    one, two = model(**packed.inputs).logits, model(**alone.inputs).logits
    torch.testing.assert_close(one[packed.segments >= 0], two[alone.segments >= 0], rtol=1e-4, atol=1e-5)
    for split in (True, False):
        model.split_head = split
        ours = masked_losses(model, packed.inputs, packed.labels, IGNORE_INDEX).nll
        theirs = masked_losses(model, alone.inputs, alone.labels, IGNORE_INDEX).nll
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_frequency_baseline_by_hand(it):
    train, refs = it.rows[:4], [item.ref for item in it.features]
    (scores,) = it.task.baselines(iter(train), refs).values()
    counts = Counter(token for row in train for token in it.processor.plain_ids([row["text"]])[0])
    total = sum(counts.values()) + len(it.processor)
    tokens = [token for ref in refs for token in ref["ids"]]
    nll = -sum(math.log((counts[token] + 1) / total) for token in tokens) / len(tokens)
    assert scores["pseudo_perplexity"].value == pytest.approx(math.exp(nll))
    best = max(counts, key=lambda token: (counts[token], -token))
    assert scores["masked_accuracy"].value == pytest.approx(np.mean([token == best for token in tokens]))


@pytest.mark.parametrize("text", ["", " \n", None, 3])
def test_bad_rows_are_told(it, text):
    assert it.task.check_row({"text": text})
    assert it.task.check_row({"text": "水"}) is None


def test_a_decoder_is_refused(workplace, capsys):
    assert main(["stage=pretrain", "task=masked_lm", "model=gpt_tiny"]) == 2
    assert (
        "task=masked_lm does not fit model=gpt_tiny (family gpt). It takes: model=bert_tiny" in capsys.readouterr().err
    )


def test_pretrain_evaluate_and_finetune_another_task_on_it(workplace, capsys):
    assert main(["stage=pretrain", "task=masked_lm", *SMALL, "hydra.run.dir=pre"]) == 0, capsys.readouterr().err
    report = json.loads(Path("pre/report.json").read_text())
    assert report["baselines"]["methods"].keys() == {"token frequencies"}
    assert main(["stage=evaluate", "model.path=pre", "hydra.run.dir=again"]) == 0, capsys.readouterr().err
    again = json.loads(Path("again/report.json").read_text())
    assert again["scores"]["test"] == report["scores"]["test"]
    small = [word for word in SMALL if not word.startswith("model.")]
    words = ["stage=finetune", "task=classification", "model.path=pre", *small, "hydra.run.dir=fine", "optim.lr=1e-6"]
    assert main(words) == 0, capsys.readouterr().err
    before = transformers.AutoModelForMaskedLM.from_pretrained("pre/model").model.state_dict()
    after = transformers.AutoModelForSequenceClassification.from_pretrained("fine/model").model.state_dict()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-4)
