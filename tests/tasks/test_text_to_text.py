"""translation and summarization: what each option changes, several references, simple methods, bad rows, other models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

from llmstage.cli.command import main
from llmstage.data.quality.split_leakage import overlap
from llmstage.data.row_source import ListSource
from llmstage.data.split_keys import Cut
from llmstage.evaluation.metrics.generation import chrf, rouge
from llmstage.evaluation.metrics.translation import bleu
from llmstage.models.build import save_model
from llmstage.tasks.base_generation import split
from llmstage.tasks.base_scored_text import by_length
from llmstage.tasks.summarization import first_sentence, first_words
from llmstage.tasks.translation import translation_memory
from llmstage.tokenization.tokenizer import train_processor

PAIRS = [(name, kind) for name in ("translation", "summarization") for kind in ("t5", "gpt")]
ROW = {
    "translation": {"source": "the quick cat", "target": "快猫"},
    "summarization": {"document": "the quick cat", "summary": "cat"},
}


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_prefix_stands_before_the_source(name, kind, tiny_task):
    it = tiny_task(name, kind, words=("task.prefix='say: '",))
    source, target = split(it.task.encode(ROW[name])[0])
    assert "say: the quick cat" in it.processor.decode(source)
    assert it.processor.decode(target) == ROW[name][it.task.target]
    assert it.task.cache_key()["prefix"] == "say: "


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_the_source_is_cut_and_counted_and_a_target_never_in_silence(name, kind, tiny_task):
    it = tiny_task(name, kind, context=40, words=("task.target_share=0.25",))
    long = {it.task.source: "cat " * 200, it.task.target: "dog"}
    (features,) = it.task.encode(long)
    assert len(features.input_ids) <= 40 and features.cut > 100 and features.cut_targets == 0
    (features,) = it.task.encode({it.task.source: "cat", it.task.target: "dog " * 50})
    assert it.task.num_targets(features) == 10 and features.cut_targets > 20 and features.lost_end
    wide = tiny_task(name, kind, context=40, words=("task.target_share=0.9",))
    assert wide.task.num_targets(wide.task.encode({it.task.source: "cat", it.task.target: "dog " * 50})[0]) == 36


@pytest.mark.parametrize("kind", ["t5", "gpt"])
def test_label_smoothing_changes_the_loss_and_not_the_scores(kind, tiny_task):
    plain, smooth = (tiny_task("translation", kind, words=(f"task.label_smoothing={value}",)) for value in (0.0, 0.3))
    model = plain.model()
    losses = [float(it.task.loss(model, it.batch()).total.detach()) for it in (plain, smooth)]
    assert losses[0] != pytest.approx(losses[1], rel=1e-4)
    with torch.no_grad():
        assert plain.task.predict(model, plain.batch(), generate=False) == smooth.task.predict(
            model, smooth.batch(), generate=False
        )


def test_generate_rows_null_is_all(tiny_task):
    assert tiny_task("translation", "t5").task.generate_rows > 10**9
    assert tiny_task("translation", "t5", words=("task.generate_rows=7",)).task.generate_rows == 7


def said(texts):
    return [{"nll": 1.0, "correct": 1, "tokens": 2, "text": text, "ended": True} for text in texts]


def refs_of(*targets):
    return [{"source": "s", "targets": list(known), "bytes": 4} for known in targets]


def test_tokenize_decides_what_a_word_of_bleu_is(tiny_task):
    hyps, refs = ["今天天气很好。", "他在睡觉。"], refs_of(["今天天气不好。"], ["他在睡觉呢。"])
    for words, expected in ((), "zh"), (("task.tokenize=13a",), "13a"):
        scores = tiny_task("translation", "t5", words=words).task.score(said(hyps), refs)
        assert scores["bleu"].value == bleu(hyps, [ref["targets"] for ref in refs], expected).value
        assert f"tok:{expected}" in scores["bleu"].method


def test_all_references_of_a_row_are_scored_against_and_the_first_is_learned(tiny_task):
    it = tiny_task("summarization", "t5")
    row = {"document": ["A cat sat.", "It slept."], "summary": ["cat slept", "a cat"]}
    assert it.task.check_row(row) is None and it.task.texts(row) == ["A cat sat. It slept.", "cat slept", "a cat"]
    (features,) = it.task.encode(row)
    assert it.processor.decode(split(features)[1]) == "cat slept"
    scores = it.task.score(said(["a cat"]), [features.ref])
    assert scores["rouge_1"].value == scores["exact_match"].value == 1.0
    assert scores["rouge_l"].value == rouge(["a cat"], [row["summary"]])["rouge_l"].value
    assert it.task.records(said(["a cat"])[0], features.ref)[0]["reference"] == row["summary"]


def test_rows_without_text_are_told(tiny_task):
    check = tiny_task("summarization", "t5").task.check_row
    assert check({"document": " ", "summary": "x"}) == "document is empty"
    assert check({"document": "x", "summary": [" "]}) == "summary is empty"
    assert "the first summary" in str(check({"document": "x", "summary": ["", "y"]}))
    assert "neither a text" in str(check({"document": "x", "summary": 3}))
    assert "neither a text" in str(check({"document": ["x", 3], "summary": "y"}))


def test_translations_of_one_source_stay_on_one_side_and_are_counted_across_given_splits(tiny_task):
    words = tiny_task("translation", "t5").task.columns.identity
    one, two = {"source": "Hi.", "target": "嗨。"}, {"source": "Hi. ", "target": "你好。"}
    for seed in range(20):
        cut = Cut(1 << 62, 3 << 62, seed)
        assert cut.side(one, words) == cut.side(two, words)
    other = {"source": "Run.", "target": "跑。"}
    sources = {"train": ListSource("train", [one], "", words), "test": ListSource("test", [two, other], "", words)}
    assert overlap(dict(sources)) == {"test": 1}


def test_simple_methods_of_translation(tiny_task):
    train = [("a red cat", "红猫"), ("a red dog", "红狗"), ("I see", "好"), ("yes", "好")]
    assert translation_memory(train, ["red dogs", "the cat"]) == ["红狗", "红猫"]
    task = tiny_task("translation", "t5").task
    rows = [{"source": source, "target": target} for source, target in train]
    refs = [{"source": "a red cat!", "targets": ["红猫"], "bytes": 6}, {"source": "ok", "targets": ["好"], "bytes": 3}]
    scores = task.baselines(rows, refs)
    assert scores["copy of the source"]["chrf"].value == chrf(["a red cat!", "ok"], ["红猫", "好"]).value
    assert scores["most frequent target"]["exact_match"].value == 0.5
    assert set(scores["translation of the most similar training source"]) <= set(task.score(said(["x", "y"]), refs))


def test_simple_methods_of_summarization(tiny_task):
    assert first_sentence("It cost 3.5 euros. Then") == "It cost 3.5 euros." and first_sentence("好。然后") == "好。"
    assert first_words("One, two three", 2) == "One, two" and first_words("今天天气", 2) == "今天"
    assert first_words("one", 5) == "one"
    task = tiny_task("summarization", "gpt").task
    scores = task.baselines(
        [{"document": "d", "summary": "one two"}], [{"source": "A b. C", "targets": ["A b."], "bytes": 4}]
    )
    assert scores["first sentence"]["exact_match"].value == 1.0 and scores["first 2 words"]["rouge_l"].value == 1.0


def test_scores_by_length_of_the_source():
    exhibit = by_length("chrf", "source", ["a", "b", "a b c", "a b c d"], [1.0, 3.0, 5.0, 7.0])
    assert exhibit["series"][0]["x"] == sorted(exhibit["series"][0]["x"])
    assert by_length("chrf", "source", ["a"], [1.0])["series"][0]["y"] == [1.0]


def run(*words):
    return main(["stage=finetune", "trainer=smoke", "trainer.threads=1", *words])


def report(folder):
    return json.loads(Path(folder, "report.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("name", "kind"), [("translation", "t5"), ("summarization", "gpt")])
def test_evaluate_repeats_finetune(name, kind, workplace, capsys):
    words = [f"task={name}", f"model={kind}_tiny", "model.vocab_size=400", "data.demo_rows=40"]
    assert run(*words, "hydra.run.dir=run") == 0, capsys.readouterr().err
    trained = report("run")
    assert {"exact_match", "length_ratio", "perplexity", "token_accuracy", "chrf"} <= trained["scores"]["test"].keys()
    assert trained["baselines"]["metric"] in ("chrf", "rouge_l") and trained["baselines"]["methods"]
    assert main(["stage=evaluate", "model.path=run", "hydra.run.dir=again"]) == 0, capsys.readouterr().err
    assert report("again")["scores"]["test"] == trained["scores"]["test"]


def test_a_bart_by_path_is_trained_and_a_classifier_is_refused(workplace, capsys):
    processor = train_processor(["water 水"] * 5, 300, "t5", 64)
    config = transformers.BartConfig(
        vocab_size=len(processor), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=128, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=None,
    )  # fmt: skip
    save_model(transformers.BartForConditionalGeneration(config), processor, Path("bart"))
    assert run("task=translation", "model.path=bart", "hydra.run.dir=run") == 0, capsys.readouterr().err
    assert report("run")["status"] == "completed"
    transformers.AutoModelForSeq2SeqLM.from_pretrained("run/model")
    assert main(["stage=evaluate", "task=token_classification", "model.path=bart", "data.test=x.csv"]) == 4
    err = capsys.readouterr().err
    assert "token_classification" in err and "bart" in err and "translation" in err, err
