"""task=contrastive: what each option changes, several captions, class names, bad rows, and what transformers loads."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from llmstage.cli.command import main
from llmstage.data.encoding.order import BatchOrder
from llmstage.data.row_source import ListSource
from llmstage.demo.scenes import draw
from llmstage.errors import UserError
from llmstage.kernels.attention import use_matmul_attention
from llmstage.models.build import save_model
from llmstage.training.machine import Machine
from llmstage.training.plan import bytes_per_token, image_tokens, resolve_micro_batch_size

SMALL = [
    "stage=pretrain", "task=contrastive", "trainer=smoke", "trainer.threads=1", "model.num_hidden_layers=1", "model.hidden_size=32", "model.num_attention_heads=2",
    "model.intermediate_size=48", "model.vocab_size=320", "model.projection=16", "model.vision.size=32", "model.vision.num_hidden_layers=1",
    "model.vision.hidden_size=32", "model.vision.num_attention_heads=2", "model.vision.intermediate_size=48",
]  # fmt: skip
RED = "demo:48:circle.red.large.1.1.12"


@pytest.fixture(scope="module")
def it(tiny_task):
    return tiny_task("contrastive", "clip")


def changed(it, rows=None, **options):
    """The same with other options, and on other rows of the same pictures."""
    task = type(it.task)(replace(it.run.task, **options), it.run.generation)
    task.image_store = it.task.image_store
    task.attach_tokenizer(it.processor, it.context)
    rows = it.rows if rows is None else rows
    return replace(it, task=task, rows=rows, features=[item for row in rows for item in task.encode(row)])


def scores_of(it, model=None):
    with torch.no_grad():
        predictions = it.task.predict(model or it.model(), it.batch(), generate=False)
    return it.scores(predictions, it.batch().refs)


def report(run: str = "run") -> dict:
    return json.loads(Path(run, "report.json").read_text(encoding="utf-8"))


def losses(run: str) -> list[float]:
    lines = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "train"]


# options


def test_the_two_losses_start_from_their_own_temperature_and_only_one_has_a_bias(it, tiny_task):
    other = tiny_task("contrastive", "clip", words=("task.loss=sigmoid",))
    one, two = it.model(), other.model()
    assert float(one.logit_scale.detach()) == pytest.approx(-math.log(0.07)) and not hasattr(one, "extra")
    assert float(two.logit_scale.detach()) == pytest.approx(math.log(10)) and float(two.extra.bias.detach()) == -10
    with torch.no_grad():
        losses = [float(own.task.loss(model, own.batch()).total) for own, model in ((it, one), (other, two))]
    assert losses[0] != pytest.approx(losses[1])
    assert it.task.chance_loss(256) == pytest.approx(math.log(256))
    assert it.task.chance_loss(256) < other.task.chance_loss(256)


def test_repeats_in_a_batch_are_masked_or_kept(it):
    twice = [it.rows[0], {**it.rows[1], "caption": it.rows[0]["caption"]}, it.rows[2]]
    model = it.model()
    masked, kept = (changed(it, twice, repeats=word) for word in ("mask", "keep"))
    assert float(masked.task.loss(model, masked.batch()).total) < float(kept.task.loss(model, kept.batch()).total)
    again = [it.rows[0], {**it.rows[0], "caption": "other words of the same picture"}, it.rows[2]]
    masked, kept = (changed(it, again, repeats=word) for word in ("mask", "keep"))
    assert float(masked.task.loss(model, masked.batch()).total) < float(kept.task.loss(model, kept.batch()).total)


def test_temperature_starts_where_it_is_told_and_stays_above_its_floor(it, tiny_task):
    warm = tiny_task("contrastive", "clip", words=("task.temperature=0.5", "task.min_temperature=0.2"))
    model = warm.model()
    assert float(model.logit_scale.exp()) == pytest.approx(2)
    for given, kept in ((9.0, math.log(5)), (-3.0, 0.0), (1.0, 1.0)):
        with torch.no_grad():
            model.logit_scale.fill_(given)
        warm.task.after_step(model)
        assert float(model.logit_scale) == pytest.approx(kept)
    with torch.no_grad():
        model.logit_scale.fill_(9.0)
    it.task.after_step(model)
    assert float(model.logit_scale.exp()) == pytest.approx(100, rel=1e-4)


def test_pool_decides_among_how_many_one_is_looked_for(it):
    model = it.model()
    recalls = {pool: scores_of(changed(it, pool=pool), model)["image_to_text_recall@1"].value for pool in (2, 4, None)}
    assert recalls[2] >= recalls[4] >= recalls[None]
    tables = []
    for pool in (2, None):
        some = changed(it, pool=pool)
        with torch.no_grad():
            predictions = some.task.predict(model, some.batch(), generate=False)
        tables.append(some.task.report_items(*some.merged(predictions, some.batch().refs))[0]["title"])
    assert "among 2 images" in tables[0] and "(4 pools)" in tables[0] and "among 8 images" in tables[1]


def labelled(it):
    return [{"image": row["image"], "label": label} for row, label in zip(it.rows, "abcdabcd", strict=True)]


def test_a_label_alone_is_a_caption_by_the_first_template(it):
    some = changed(it, labelled(it), templates=["one {} here", "{}, seen from afar"])
    assert some.task.texts(some.rows[1]) == ["one b here"]
    assert some.features[1].ref["captions"] == ["one b here"]
    assert some.task.cache_key() != it.task.cache_key()
    batch = some.batch()
    assert batch.inputs["text_hash"][0] == batch.inputs["text_hash"][4] != batch.inputs["text_hash"][1]


def test_a_class_is_the_mean_of_its_templates_and_is_computed_once_for_the_same_weights(it, monkeypatch):
    some = changed(it, labelled(it), templates=["one {} here", "{}, seen from afar"])
    source = ListSource("train", some.rows, "a list", some.task.columns.identity)
    source.mapping = {"image": "image", "label": "label"}
    some.task.build_splits({"train": source}, {}, it.run.data)
    assert some.task.classes == list("abcd")
    assert some.task.model_options()["llmstage"]["classes"] == list("abcd")
    model = it.model()
    with torch.no_grad():
        vectors = some.task.class_vectors(model)
        assert some.task.class_vectors(model) is vectors
        # transformers' own way to the same: the model's text embeddings of both sentences, their mean, length 1
        tokens = it.processor.tokenizer(["one b here", "b, seen from afar"], padding=True, return_tensors="pt")
        by_hand = torch.nn.functional.normalize(model.get_text_features(**tokens).pooler_output, dim=-1).mean(0)
        torch.testing.assert_close(vectors[1], by_hand / by_hand.norm(), rtol=1e-4, atol=1e-5)
        model.text_projection.weight.mul_(1.5)
        assert some.task.class_vectors(model) is not vectors
    scores = scores_of(some, model)
    assert {"accuracy", "macro_f1"} <= scores.keys() and scores["accuracy"].count == 8
    single = changed(it, labelled(it), templates=["one {} here"])
    single.task.classes = list("abcd")
    with torch.no_grad():
        assert not torch.allclose(single.task.class_vectors(model), some.task.class_vectors(model), atol=1e-4)


@pytest.mark.parametrize("templates", [["no place"], []])
def test_a_template_without_a_place_for_the_name_is_told(it, templates):
    with pytest.raises(UserError, match=r"task\.templates"):
        changed(it, templates=templates)


# rows


def test_several_captions_are_several_pairs_and_any_of_them_counts(it):
    rows = [{**it.rows[0], "caption": ["first words", "second words", "first words"]}, *it.rows[1:]]
    some = changed(it, rows)
    assert [item.ref["captions"][item.ref["caption"]] for item in some.features[:2]] == ["first words", "second words"]
    assert len(some.features) == len(it.features) + 1
    model = it.model()
    with torch.no_grad():
        predictions = some.task.predict(model, some.batch(), generate=False)
    merged, refs = some.merged(predictions, some.batch().refs)
    assert len(merged) == len(rows) and refs[0]["captions"] == ["first words", "second words"]
    assert len(merged[0]["text_ranks"]) == 2
    batch = some.batch()
    assert batch.inputs["image_index"][0] == batch.inputs["image_index"][1]


def test_foils_are_compared_in_scoring_and_left_out_of_training(it):
    batch = it.batch()
    assert batch.inputs["num_foils"].tolist() == [len(row["foils"]) for row in it.rows]
    assert batch.inputs["foils"].shape[:2] == (len(it.rows), max(len(row["foils"]) for row in it.rows))
    model = it.model()
    with torch.no_grad():
        predictions = it.task.predict(model, batch, generate=False)
        images, texts = it.task.embed(model, batch)
        for index, row in enumerate(it.rows):
            tokens = it.processor.tokenizer(row["foils"], padding=True, return_tensors="pt")
            wrong = torch.nn.functional.normalize(model.get_text_features(**tokens).pooler_output, dim=-1)
            beaten = bool((wrong @ images[index] < texts[index] @ images[index]).all())
            assert predictions[index]["foils_beaten"] is beaten
    training = [[replace(item, draw=(0, 0, 0))] for item in it.features]
    assert "foils" not in it.task.collate(training).inputs


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"caption": "a"}, "image is empty"),
        ({"image": RED}, "neither a caption nor a label"),
        ({"image": RED, "caption": " "}, "caption is empty"),
        ({"image": RED, "caption": []}, "caption is an empty list"),
        ({"image": RED, "caption": ["a", 3]}, "caption is not text"),
        ({"image": RED, "caption": ["a", ""]}, "caption is empty"),
        ({"image": RED, "label": ["a"]}, "label is not a class name"),
        ({"image": RED, "caption": "a", "foils": "b"}, "foils is not a list"),
    ],
)
def test_rows_that_cannot_be_used_are_told_with_the_reason(it, row, reason):
    assert reason in it.task.check_row({"image": "", **row})


def test_a_long_caption_is_cut_before_its_end_mark_and_counted(it):
    (features,) = it.task.encode({**it.rows[0], "caption": "word " * 300, "foils": []})
    assert len(features.input_ids) == it.context and features.cut > 0
    assert features.input_ids[-1] == it.processor.eos_id


# model


def test_the_text_is_read_at_its_end_and_not_at_its_largest_id(it):
    """transformers reads at the largest id where the end token is 2, a trap for every vocabulary but OpenAI's."""
    model, eos = it.model(), it.processor.eos_id
    assert model.config.text_config.eos_token_id == eos != 2
    ids = torch.tensor([[it.processor.bos_id, len(it.processor) - 1, 20, 30, eos]])
    other = ids.clone()
    other[0, 3] = 31  # after the largest id: it must be seen all the same
    with torch.no_grad():
        one, two = (model.get_text_features(input_ids=each).pooler_output for each in (ids, other))
    assert not torch.allclose(one, two)


def test_transformers_alone_gives_the_same_logits_from_a_picture_and_texts(it, tmp_path):
    model = it.model()
    save_model(model, it.processor, tmp_path)
    theirs = transformers.AutoModel.from_pretrained(tmp_path).eval()
    assert type(theirs).__name__ == "CLIPModel"
    processor = transformers.AutoProcessor.from_pretrained(tmp_path)
    texts = [row["caption"] for row in it.rows]
    pixels = [draw(row["image"]) for row in it.rows]
    given = processor(text=texts, images=pixels, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = theirs(**given).logits_per_image
        images, mine = it.task.embed(model, it.batch())
    torch.testing.assert_close(logits, model.logit_scale.exp() * images @ mine.T, rtol=1e-4, atol=1e-4)


def test_products_attend_as_sdpa_does_in_both_towers(it):
    """The text tower is causal and the image tower is not; one function serves both (kernels/attention.py)."""
    found = []
    for faster in (False, True):
        model = it.model().train()
        if faster:
            use_matmul_attention(model)
            assert model.text_model.config._attn_implementation == "llmstage_matmul"
            assert model.vision_model.config._attn_implementation == "llmstage_matmul"
        with torch.autocast("cpu", torch.bfloat16):
            part = it.task.loss(model, it.batch())
        part.total.backward()
        found.append((float(part.total.detach()), model.text_model.encoder.layers[0].self_attn.v_proj.weight.grad))
    assert found[0][0] == pytest.approx(found[1][0], rel=2e-2)
    assert torch.nn.functional.cosine_similarity(*(grad.flatten() for _, grad in found), dim=0) > 0.98


# batches


def test_training_batches_are_even_draws_of_one_size():
    lengths = np.random.default_rng(0).integers(3, 40, 1000)
    drawn = BatchOrder(lengths, 0, 77, False, 64, by_length=False)
    batches = [[index for row in batch for index in row] for batch in drawn.epoch(0)]
    assert {len(batch) for batch in batches} == {64} and len(batches) == 15
    assert len({index for batch in batches for index in batch}) == 15 * 64
    assert batches == [[index for row in batch for index in row] for batch in drawn.epoch(0)]
    left = [set(range(1000)) - {i for batch in drawn.epoch(n) for row in batch for i in row} for n in (0, 1)]
    assert left[0] != left[1], "what fills no batch is another rest each time"
    bucketed = BatchOrder(lengths, 0, 77, False, 64)
    like = np.mean([np.std([lengths[row[0]] for row in batch]) for batch in bucketed.epoch(0)])
    assert like < 0.2 * np.mean([np.std(lengths[batch]) for batch in batches])
    assert [len(batch) for batch in BatchOrder(lengths[:9], 0, 77, False, 64, by_length=False).epoch(0)] == [9]


def test_auto_micro_batches_are_as_large_as_memory_allows_and_count_patches(it, compose_run):
    run, machine = compose_run(["stage=pretrain", "task=contrastive"]), Machine(torch.device("cpu"), 1, "fp32", "")
    model = it.model()
    assert image_tokens(model) == 17 and bytes_per_token(model.config) == 40 * 2 * 32
    assert resolve_micro_batch_size(run, machine, 256, 100.0) == 40  # where parts simply add up
    assert resolve_micro_batch_size(run, machine, 256, 100.0, token_bytes=bytes_per_token(model.config)) == 256
    assert resolve_micro_batch_size(run, machine, 256, 300.0, token_bytes=40.0 * 12 * 768) == 19
    typed = compose_run(["stage=pretrain", "task=contrastive", "trainer.micro_batch_size=8"])
    assert resolve_micro_batch_size(typed, machine, 256, 100.0, token_bytes=1.0) == 8


# from end to end


@pytest.mark.parametrize("loss", ["infonce", "sigmoid"])
def test_micro_batches_change_nothing_of_a_run(loss, workplace, capsys):
    for size in (16, 5):
        words = [
            f"task.loss={loss}", f"trainer.micro_batch_size={size}", "trainer.batch_size=16", "trainer.precision=fp32", f"hydra.run.dir=run{size}",
        ]  # fmt: skip
        assert main([*SMALL, *words]) == 0, capsys.readouterr().err
    assert losses("run16") == pytest.approx(losses("run5"), rel=1e-4)
    assert report("run5")["train"]["loss"]["chance"] == pytest.approx(math.log(16) + (loss == "sigmoid"), abs=0.05)
    assert "chance loss" in report("run5")["plan"] and "drawn evenly" in report("run5")["plan"]


def test_a_run_shows_composition_and_evaluate_repeats_it(workplace, capsys):
    assert main([*SMALL, "hydra.run.dir=run"]) == 0, capsys.readouterr().err
    trained = report()
    scores = trained["scores"]["test"]
    assert {
        f"{name}_{part}" for part in ("seen", "unseen", "gap") for name in ("foil_accuracy", "image_to_text_recall@1")
    } <= set(scores)
    assert {"chance", "words of training images with like colours"} == set(trained["baselines"]["methods"])
    kinds = [exhibit["kind"] for exhibit in trained["exhibits"]]
    assert kinds == ["table", "bars", "bars", "bars", "matrix", "images"]
    grid = trained["exhibits"][-1]
    assert len(grid["items"]) == 12 and {item["good"] for item in grid["items"]} <= {True, False}
    assert Path("run/report.html").read_text(encoding="utf-8").count("data:image/png;base64,") >= 12
    matrix = trained["exhibits"][-2]
    assert matrix["row_labels"] == matrix["column_labels"] and len(matrix["values"]) == len(matrix["row_labels"])
    assert all(sum(row) == pytest.approx(1, abs=0.02) for row in matrix["values"])
    lines = [json.loads(line) for line in Path("run/predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {"prediction", "reference", "rank", "text_ranks", "similarity", "composition"} <= lines[0].keys()
    assert not any(isinstance(line.get("image"), list) or "near" in line for line in lines)  # no vectors
    assert main(["stage=evaluate", "model.path=run", "hydra.run.dir=again", "trainer.threads=1"]) == 0, (
        capsys.readouterr().err
    )
    assert report("again")["scores"]["test"] == scores
    assert main(["stage=finetune", "task=contrastive", *SMALL[2:4], "model.path=run", "hydra.run.dir=more"]) == 0


def test_rows_of_labels_and_of_captions_in_files(workplace, capsys):
    Path("pictures").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for number in range(40):
        colour = ("red", "blue")[number % 2]
        shade = np.array([200, 30, 30] if colour == "red" else [30, 30, 200]) + rng.integers(-25, 25, 3)
        place = Path("pictures", f"{number}.png").resolve()
        Image.fromarray(np.broadcast_to(shade.astype(np.uint8), (20, 30, 3)).copy()).save(place)
        rows.append({"image": str(place), "label": colour})
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = [
        "data.train=rows.jsonl", "data.limit=null", "trainer.max_steps=30", "trainer.batch_size=8", "optim.lr=3e-3", "trainer.eval_every=10",
        "task.select=accuracy", "hydra.run.dir=run", "task.templates=['{} paper','a piece of {}']",
    ]  # fmt: skip
    assert main([*SMALL, *words]) == 0, capsys.readouterr().err
    scores = report()["scores"]["test"]
    assert scores["accuracy"]["value"] == 1.0 and scores["macro_f1"]["value"] == 1.0
    assert "chance, majority class" in report()["baselines"]["methods"]
    assert (
        main(["stage=evaluate", "model.path=run", "data.test=rows.jsonl", "hydra.run.dir=all", "trainer.threads=1"])
        == 0
    )
    assert report("all")["scores"]["test"]["accuracy"]["value"] == 1.0
    Path("bad.jsonl").write_text(json.dumps({"image": "nowhere.png", "caption": "a red square"}) + "\n")
    capsys.readouterr()
    whole = ["data.split.validation=0", "data.split.test=0", "hydra.run.dir=bad"]
    assert main([*SMALL, "data.train=bad.jsonl", *whole]) == 3
    assert "nowhere.png" in capsys.readouterr().err
    Path("bad.jsonl").write_text(json.dumps({"image": rows[0]["image"], "caption": "  "}) + "\n")
    assert main([*SMALL, "data.train=bad.jsonl", *whole]) == 3
    assert "bad.jsonl:1" in capsys.readouterr().err
