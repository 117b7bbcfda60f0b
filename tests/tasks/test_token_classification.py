"""Rows in all their forms, alignment, windows, decoding, bad input, and published sets."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmstage.cli.command import main
from llmstage.data.tag_schemes import tags_of
from llmstage.demo.token_classification import entity_rows
from llmstage.errors import DataError
from llmstage.evaluation.metrics.entity_tags import tag_scores
from llmstage.models.token_head import best_path, token_logits
from llmstage.tasks.base import IGNORE_INDEX, RowError

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
ANNA = {"tokens": ["Anna", "Bell", "left", "中", "国", "."], "tags": ["B-PER", "I-PER", "O", "B-PLACE", "I-PLACE", "O"]}
RUN = ["stage=finetune", "task=token_classification", "trainer=smoke", "trainer.threads=1", "hydra.run.dir=run"]


@pytest.fixture(scope="module")
def it(tiny_task):
    return tiny_task("token_classification", "bert", context=64)


def made(it: Any, rows: list[Any], context: int = 64, **words: Any) -> Any:
    """The task of `it` with other rows to learn from and other options."""
    from dataclasses import replace

    task = type(it.task)(replace(it.run.task, **words), it.run.generation)
    task.fit_labels(rows)
    task.attach_tokenizer(it.processor, context)
    return task


def test_labels_stand_on_the_first_piece_and_words_are_encoded_one_by_one(it) -> None:
    (features,) = it.task.encode(ANNA)
    words = ["Anna", " Bell", " left", "中", "国", "."]
    subwords = it.processor.plain_ids(words)
    bos, eos = it.processor.bos_id, it.processor.eos_id
    assert features.input_ids == [bos, *(token for ids in subwords for token in ids), eos]
    expected = [IGNORE_INDEX]
    for ids, tag in zip(subwords, ANNA["tags"], strict=True):
        expected += [it.task.labels.index(tag), *[IGNORE_INDEX] * (len(ids) - 1)]
    assert features.arrays["labels"] == [*expected, IGNORE_INDEX]
    assert it.processor.decode(features.input_ids) == features.ref["text"] == "Anna Bell left中国."


def test_plain_text_never_becomes_a_control_token(it) -> None:
    (features,) = it.task.encode({"tokens": ["<|eos|>", "<|mask|>"], "tags": ["O", "O"]})
    assert features.input_ids.count(it.processor.eos_id) == 1
    assert it.processor.tokenizer.mask_token_id not in features.input_ids


def test_spans_tokens_and_numbers_say_the_same(it) -> None:
    spans = {
        "text": "Anna Bell left 中国 .",
        "spans": [{"start": 0, "end": 9, "label": "PER"}, {"start": 15, "end": 17, "label": "PLACE"}],
    }
    names = ["O", "B-PER", "I-PER", "B-PLACE", "I-PLACE"]
    numbers = {**ANNA, "tags": [names.index(tag) for tag in ANNA["tags"]]}
    task = made(it, [numbers], names=names)
    refs = [task.encode(row)[0].ref for row in (ANNA, spans, numbers)]
    assert [ref["tags"] for ref in refs] == [ANNA["tags"]] * 3
    for row in (ANNA, spans, numbers):
        assert task.check_row(row) is None
    (record,) = task.records({"labels": [1, 2, 0, 0, 0, 0], "confidence": [0.5, 0.5, 1, 1, 1, 1], "nll": 0.0}, refs[1])
    assert record["spans"] == [{"start": 0, "end": 9, "label": "PER", "text": "Anna Bell", "confidence": 0.5}]
    assert [span["text"] for span in record["reference_spans"]] == ["Anna Bell", "中国"]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "2 tokens but 1 tags"),
        ({"tokens": "a b", "tags": ["O"]}, "must both be lists"),
        ({"tokens": [], "tags": []}, "no token"),
        ({"tokens": ["a", ""], "tags": ["O", "O"]}, "token 2 is empty"),
        ({"tokens": ["a", None], "tags": ["O", "O"]}, "token 2 is None"),
        ({"tokens": ["a"], "tags": ["PER"]}, "neither O nor a prefix"),
        ({"tokens": ["a"], "tags": [3]}, "task.names="),
        ({"tokens": ["a"], "tags": None}, "neither tokens with tags nor text with spans"),
        ({"text": " ", "spans": []}, "text is empty"),
        ({"text": "Annabell", "spans": [{"start": 0, "end": 4, "label": "PER"}]}, "border of a token"),
    ],
)
def test_rows_that_cannot_be_used(it, row: Any, told: str) -> None:
    assert told in it.task.check_row(row)


def test_bmes_and_iob1_are_written_in_the_schemes_of_the_contract(it) -> None:
    bmes = {"tokens": list("吴重阳中"), "tags": ["B-PER", "M-PER", "E-PER", "S-LOC"]}
    task = made(it, [bmes])
    assert (task.data_scheme, task.scheme) == ("bmes", "iobes")
    assert task.encode(bmes)[0].ref["tags"] == ["B-PER", "I-PER", "E-PER", "S-LOC"]
    iob1 = {"tokens": ["A", "B", "C", "D"], "tags": ["I-PER", "I-PER", "B-PER", "I-LOC"]}
    task = made(it, [iob1])
    assert (task.data_scheme, task.scheme) == ("iob1", "iob2")
    assert task.encode(iob1)[0].ref["tags"] == ["B-PER", "I-PER", "B-PER", "B-LOC"]


def test_the_scheme_can_be_set(it) -> None:
    row = {"tokens": ["A", "B"], "tags": ["B-PER", "B-PER"]}
    assert made(it, [row]).data_scheme == "iob2"
    with pytest.raises(RowError, match=r"illegal in iob1; set task\.scheme"):
        made(it, [row], scheme="iob1").encode(row)


def test_illegal_tags_are_refused_or_repaired_and_counted(it) -> None:
    good = {"tokens": ["A", "B"], "tags": ["B-PER", "I-PER"]}
    bad = {"tokens": ["x", "A"], "tags": ["O", "I-PER"], "first_line": 7}
    with pytest.raises(RowError, match=r"line 8 \('A'\): 'I-PER' after O is illegal in iob2"):
        made(it, [good, good, bad]).encode(bad)
    task = made(it, [good, good, bad], repair=True)
    (features,) = task.encode(bad)
    assert features.ref["tags"] == ["O", "B-PER"] and task.repaired == (1, 3)
    text = task.report_items([{"labels": [0, 1]}], [features.ref])[-1]["text"]
    assert "in 1 of 1 sentences of this split" in text and "in 1 of 3 sentences" in text


def test_a_type_seen_only_in_test_is_named(it) -> None:
    with pytest.raises(RowError, match="unknown entity type 'GENE'; the model knows: DATE, ORG"):
        it.task.encode({"tokens": ["x"], "tags": ["B-GENE"]})


def test_a_training_split_without_entities_is_refused(it) -> None:
    with pytest.raises(DataError, match="every tag is O"):
        made(it, [{"tokens": ["x"], "tags": ["O"]}])


def long_row(num: int = 300) -> dict[str, Any]:
    rows = entity_rows(60, 5)
    tokens = [token for row in rows for token in row["tokens"]][:num]
    tags = [tag for row in rows for tag in row["tags"]][:num]
    return {"tokens": tokens, "tags": tags}


def test_a_long_sentence_is_windowed_and_comes_back_whole(it) -> None:
    row = long_row()
    features = it.task.encode(row)
    assert len(features) > 5 and max(len(item.input_ids) for item in features) <= 64
    assert sum(map(it.task.num_targets, features)) == 300 and sum(item.cut for item in features) == 0
    model = it.model()
    with torch.no_grad():
        predictions = it.task.predict(model, it.batch(features), generate=False)
    merged, refs, rows = it.task.merge(predictions, [item.ref for item in features], [4] * len(features))
    assert rows == [4] and len(merged) == 1
    assert refs[0]["tags"] == row["tags"] and len(merged[0]["labels"]) == len(merged[0]["confidence"]) == 300
    (record,) = it.task.records(merged[0], refs[0])
    assert record["tokens"] == row["tokens"] and len(record["prediction"]) == len(record["reference"]) == 300
    for span in record["reference_spans"]:
        assert record["text"][span["start"] : span["end"]] == span["text"]


def test_a_word_longer_than_the_window_keeps_its_beginning(it) -> None:
    row = {"tokens": ["x", "7" * 200, "y"], "tags": ["O", "B-PER", "O"]}
    features = it.task.encode(row)
    assert sum(map(it.task.num_targets, features)) == 3
    assert max(len(item.input_ids) for item in features) <= 64
    assert features[0].cut == len(it.processor.plain_ids([" " + "7" * 200])[0]) - 62


def test_long_features_in_one_row_do_not_see_each_other(tiny_task) -> None:
    """Longer than the window of ModernBERT's local layers, which a mask of four dimensions alone would switch off."""
    it = tiny_task("token_classification", "bert", context=256)
    features = [it.task.encode(long_row(num))[0] for num in (150, 20, 200)]
    assert max(len(item.input_ids) for item in features) > 150
    model = it.model(num_hidden_layers=4)
    packed = it.task.collate([[features[0], features[1]], [features[2]]])
    one, two = it.task.loss(model, packed), it.task.loss(model, it.batch(features))
    assert float(one.total.detach()) == pytest.approx(float(two.total.detach()), rel=1e-5)


def test_the_head_alone_gives_the_models_logits(it) -> None:
    model, batch = it.model(), it.batch()
    where = (batch.labels.reshape(-1) != IGNORE_INDEX).nonzero().squeeze(1)
    with torch.no_grad():
        mine = token_logits(model, batch.inputs, where)
        theirs = model(**batch.inputs).logits.flatten(0, 1)[where]
    assert model.plain_token_head
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_a_model_that_sees_no_right_context_tags_with_a_warning(tiny_task, capsys) -> None:
    it = tiny_task("token_classification", "gpt")
    batch, model = it.batch(), it.model()
    where = (batch.labels.reshape(-1) != IGNORE_INDEX).nonzero().squeeze(1)
    with torch.no_grad():
        logits = token_logits(model, batch.inputs, where)
        theirs = model(**batch.inputs).logits.flatten(0, 1)[where]
    assert model.plain_token_head and capsys.readouterr().err.count("reads from left to right") == 1
    torch.testing.assert_close(logits, theirs, rtol=1e-5, atol=1e-6)


def test_viterbi_finds_the_best_of_all_legal_sequences(it) -> None:
    from itertools import product

    from llmstage.data.tag_schemes import first_illegal

    task = made(it, [{"tokens": ["x"], "tags": ["S-A"]}, {"tokens": ["x", "y"], "tags": ["B-A", "E-A"]}])
    rng = np.random.default_rng(0)
    for _ in range(20):
        log_p = np.log(rng.dirichlet(np.ones(len(task.labels)), size=5))
        legal = [
            path
            for path in product(range(len(task.labels)), repeat=5)
            if first_illegal([task.labels[index] for index in path], "iobes") is None
        ]
        best = max(legal, key=lambda path: sum(log_p[place, index] for place, index in enumerate(path)))
        assert best_path(log_p, task._transitions, task._edges) == list(best)


def test_decode_chooses_legal_tags_or_each_by_itself(it) -> None:
    likely = np.full((2, len(it.task.labels)), 0.01)
    inside, begin = it.task.labels.index("I-PER"), it.task.labels.index("B-PER")
    likely[0, begin], likely[0, 0] = 0.4, 0.5
    likely[1, inside] = 0.9
    log_p = np.log(likely)
    assert it.task._decoded(log_p)["labels"] == [begin, inside]
    free = made(it, it.rows, decode="argmax")
    assert free._decoded(log_p)["labels"] == [0, inside]


def test_baselines_learn_from_train_alone(it) -> None:
    train = [ANNA, {"tokens": ["left", "Bell"], "tags": ["O", "B-ORG"]}]
    refs = [it.task.encode({"tokens": ["Anna", "Bell", "x", "Bell"], "tags": ["B-PER", "I-PER", "O", "B-ORG"]})[0].ref]
    scores = it.task.baselines(iter(train), refs)
    assert scores["entities of train looked up"]["f1"].value == 1.0  # the longest match first
    assert scores["most frequent tag of the word"]["token_accuracy"].value == 0.75


# the whole program


def write(name: str, text: str) -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


SENTENCE = "Anna B-PER\nBell I-PER\nleft O\n{} B-LOC\n. O\n\n"


def fails(capsys: Any, *words: str) -> str:
    assert main([*RUN, *words]) == 3
    err: str = capsys.readouterr().err
    assert "Traceback" not in err
    return err


def test_bad_files_are_named_with_their_line(workplace, capsys) -> None:
    good = "".join(SENTENCE.format(f"Town{n}") for n in range(12))
    train = f"data.train={write('train.conll', good)}"
    illegal = write("test.conll", good + "x O\ny I-PER\n")
    err = fails(capsys, train, f"data.test={illegal}", "data.limit=null")
    assert "test.conll:73: line 74 ('y'): 'I-PER' after O is illegal in iob2" in err and "task.repair=true" in err
    assert main([*RUN, train, f"data.test={illegal}", "data.limit=null", "task.repair=true"]) == 0
    report = json.loads(Path("run/report.json").read_text(encoding="utf-8"))
    assert any("repaired in 1 of 13" in exhibit.get("text", "") for exhibit in report["exhibits"])
    assert set(report["types"]["test"]) >= {"LOC", "PER", "micro", "macro", "weighted"}
    capsys.readouterr()
    assert "the file is empty" in fails(capsys, f"data.train={write('empty.conll', '')}", "hydra.run.dir=b")
    only_o = write("o.conll", "a O\nb O\n\nc O\nd O\n\ne O\n\nf O\n\n")
    assert "every tag is O" in fails(capsys, f"data.train={only_o}", "hydra.run.dir=c")
    new = write("new.conll", "x B-GENE\n")
    assert "new.conll:1: unknown entity type 'GENE'" in fails(capsys, train, f"data.test={new}", "hydra.run.dir=d")
    rows = write("rows.jsonl", '{"tokens": ["a", "b"], "tags": ["O"]}\n')
    assert "rows.jsonl:1: 2 tokens but 1 tags" in fails(capsys, f"data.train={rows}", "hydra.run.dir=e")
    other = write("other.jsonl", '{"sentence": "a", "sense": 1}\n')
    assert "no columns fit 'tokens' and 'tags', or 'text' and 'spans'" in fails(
        capsys, f"data.train={other}", "hydra.run.dir=f"
    )


def test_an_all_o_test_split_is_scored_and_told(workplace, capsys) -> None:
    train = write("train.conll", "".join(SENTENCE.format(f"Town{n}") for n in range(12)))
    test = write("test.conll", "a O\n\nb O\n")
    assert main([*RUN, f"data.train={train}", f"data.test={test}", "data.split.validation=0"]) == 0
    report = json.loads(Path("run/report.json").read_text(encoding="utf-8"))
    assert report["scores"]["test"]["f1"]["value"] == 0 and report["scores"]["test"]["f1"]["count"] == 0
    assert any("by convention" in exhibit.get("text", "") for exhibit in report["exhibits"])


def test_predictions_come_as_tags_and_spans(workplace) -> None:
    assert main([*RUN]) == 0
    for line in Path("run/predictions.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        assert len(record["prediction"]) == len(record["reference"]) == len(record["tokens"])
        for span in record["spans"]:
            assert record["text"][span["start"] : span["end"]] == span["text"] and 0 <= span["confidence"] <= 1


# published sets


@pytest.mark.parametrize(
    ("path", "sentences", "scheme", "entities"),
    [
        ("wnut17/wnut17train.conll", 2400, "iob2", None),
        ("wnut17/emerging.dev.conll", 1009, "iob2", 836),
        ("wnut17/emerging.test.annotated", 1287, "iob2", 1079),
        ("sec_filings_ner/train/FIN5.txt", None, "iob1", None),
        ("sec_filings_ner/test/FIN3.txt", None, "iob1", None),
        ("resume_ner_zh/train.char.bmes", 1600, "bmes", None),
        ("resume_ner_zh/dev.char.bmes", 463, "bmes", 1497),
        ("resume_ner_zh/test.char.bmes", 477, "bmes", 1630),
    ],
)
def test_published_sets_hold_the_entities_that_seqeval_sees(it, path, sentences, scheme, entities) -> None:
    from seqeval.metrics.v1 import precision_recall_fscore_support
    from seqeval.scheme import IOB1, IOB2, IOBES, Entities

    from llmstage.config.data import DataConfig
    from llmstage.data.splits import open_splits

    if not (DATA / path).exists():
        pytest.skip(f"{DATA / path} is not on this machine")
    source = open_splits(DataConfig(test=str(DATA / path)), it.task.columns, it.task.check_row, None)["test"]
    rows = [row for row, _ in source]
    raw = (DATA / path).read_text(encoding="utf-8").replace("\r\n", "\n")
    blocks = [
        [line for line in block.split("\n") if line.strip() and not line.startswith("-DOCSTART-")]
        for block in raw.replace("\n \n", "\n\n").split("\n\n")
    ]
    tags = [[line.split()[-1].replace("M-", "I-", 1) for line in block] for block in blocks if block]
    theirs = Entities(tags, {"iob1": IOB1, "iob2": IOB2, "bmes": IOBES}[scheme]).entities
    task = made(it, rows, context=512)
    assert task.data_scheme == scheme and len(rows) == len(tags)
    assert sentences is None or len(rows) == sentences
    mine = [task._spans(row, task_offsets(row))[0] for row in rows]
    assert mine == [[(scores.tag, scores.start, scores.end) for scores in row] for row in theirs]
    assert entities is None or sum(map(len, mine)) == entities
    expected = [tags_of(spans, len(row["tokens"]), scheme) for spans, row in zip(mine, rows, strict=True)]
    rng = random.Random(path)
    predicted = [[tag if rng.random() < 0.95 else rng.choice(task.labels) for tag in tags] for tags in expected]
    scores = tag_scores(predicted, expected, task.scheme)
    expected_values = precision_recall_fscore_support(
        expected, predicted, average="micro", scheme=IOBES if scheme == "bmes" else IOB2, zero_division=0
    )
    assert [scores[name].value for name in ("precision", "recall", "f1")] == pytest.approx(expected_values[:3])


def task_offsets(row: dict[str, Any]) -> Any:
    from llmstage.data.tagged_rows import text_of

    text, offsets = text_of(row)
    assert [text[start:end] for start, end in offsets] == row["tokens"]
    return offsets
