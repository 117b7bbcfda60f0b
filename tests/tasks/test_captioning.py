"""captioning: references, prompts, simple methods, what the report shows, and the same text as transformers' generate."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image

from llmstage.cli.command import main
from llmstage.data.image_store import ImageStore
from llmstage.data.images import open_image
from llmstage.demo.scene_sentences import CHINESE, ENGLISH
from llmstage.errors import ModelError
from llmstage.evaluation.metrics.cider import cider
from llmstage.evaluation.metrics.sklearn_baselines import most_frequent
from llmstage.kernels.attention import use_matmul_attention
from llmstage.models.build import save_model
from llmstage.tasks.base import UNSCORED
from llmstage.tasks.base_generation import split
from llmstage.tasks.captioning import coarse_pixels, exact_hits
from llmstage.training.checkpoint import Checkpoints, TrainState
from llmstage.training.fit import load_best
from llmstage.training.loop_setup import save_weights


@pytest.fixture(scope="module")
def it(tiny_task):
    return tiny_task("captioning", "vlm", num_rows=6)


def said(texts):
    return [{"nll": 1.0, "correct": 1, "tokens": 2, "text": text, "ended": True} for text in texts]


def ref(*targets, image=0, source="p", composition=None):
    return {"source": source, "targets": list(targets), "bytes": 4, "image": image, "composition": composition}


def test_the_first_reference_is_learned_and_all_are_scored_against(it):
    row = it.rows[0]
    (features,) = it.task.encode(row)
    asked, written = split(features)
    assert it.processor.decode(written) == row["caption"][0] and row["prompt"] in it.processor.decode(asked)
    assert asked.count(it.processor.image_id) == it.processor.vision.tokens == 16
    assert it.processor.image_id not in written
    scores = it.task.score(said([row["caption"][-1]]), [features.ref])
    assert scores["exact_match"].value == scores["rouge_l"].value == 1.0
    assert it.task.records(said(["x"])[0], features.ref)[0]["reference"] == row["caption"]


def test_learn_all_makes_a_feature_of_each_reference_and_changes_no_score(it, tiny_task):
    every = tiny_task("captioning", "vlm", num_rows=6, words=("task.learn=all",))
    examples = [item for row in every.rows for item in every.task.encode(row)]
    assert len(examples) == sum(len(row["caption"]) for row in every.rows) > len(it.features) == 6
    assert sum(item.ref == UNSCORED for item in examples) == len(examples) - 6
    target_texts = [every.processor.decode(split(features)[1]) for features in examples]
    assert target_texts == [text for row in every.rows for text in row["caption"]]
    assert every.task.cache_key() != it.task.cache_key()
    model = it.model()
    scores = []
    with torch.no_grad():
        for one in (it, every):
            batch = one.batch()
            predictions = one.task.predict(model, batch, generate=True)
            assert all("text" in item for item in predictions)
            scores.append(one.scores(predictions, batch.refs))
    assert scores[0].keys() == scores[1].keys()
    assert all(scores[0][name].value == pytest.approx(scores[1][name].value, rel=1e-4) for name in scores[0])


def test_the_prompt_is_that_of_the_row_or_that_of_the_option(tiny_task):
    other = tiny_task("captioning", "vlm", num_rows=6, words=("task.prompt='What is this?'",))
    row = {key: value for key, value in other.rows[0].items() if key != "prompt"}
    assert "What is this?" in other.processor.decode(split(other.task.encode(row)[0])[0])
    assert "What is this?" not in other.processor.decode(split(other.task.encode(other.rows[0])[0])[0])
    assert other.task.cache_key()["prompt"] == "What is this?"
    assert other.task.texts(row)[0] == "What is this?"


def test_generate_rows(it, tiny_task):
    assert it.task.generate_rows > 10**9
    assert tiny_task("captioning", "vlm", words=("task.generate_rows=3",)).task.generate_rows == 3


def test_rows_that_cannot_be_used_are_told(it):
    check = it.task.check_row
    assert check({"image": "a.png", "caption": "x", "prompt": None}) is None
    assert "neither a text" in str(check({"image": "a.png", "caption": 3}))
    assert check({"image": "a.png", "caption": " "}) == "caption is empty"
    assert "the first caption" in str(check({"image": "a.png", "caption": ["", "x"]}))
    assert "not the path of an image" in str(check({"image": 3, "caption": "x"}))
    assert check({"image": "a.png", "caption": "x", "prompt": 3}) == "prompt is not text"


def test_the_demo_world_shows_unseen_pairs_in_the_test_split_alone(it):
    train, test = it.task.demo_rows(40, 0), it.task.demo_test_rows(40, 0)
    assert {row["composition"] for row in train} == {"seen"}
    assert {row["composition"] for row in test} == {"seen", "unseen"}
    assert {row["prompt"] for row in train} == {ENGLISH.describe, CHINESE.describe}


def test_seen_and_unseen_pairs_are_scored_apart(it):
    refs = [ref("a", composition="seen"), ref("b", composition="seen"), ref("c", composition="unseen")]
    scores = it.task.score(said(["a", "b", "x"]), refs)
    assert (scores["exact_match_seen"].value, scores["exact_match_unseen"].value) == (1.0, 0.0)
    assert scores["exact_match_gap"].value == 1.0 and scores["exact_match"].value == pytest.approx(2 / 3)
    assert scores["cider"].value == cider(["a", "b", "x"], [["a"], ["b"], ["c"]]).value
    assert "exact_match_seen" not in it.task.score(said(["a"]), [ref("a")])  # real data has no such word


def test_bleu_and_cider_go_by_character_in_chinese(it):
    refs = [ref("红色的圆形在左侧"), ref("蓝色的方形在右侧")]
    scores = it.task.score(said(["红色的圆形在右侧", "蓝色的方形在右侧"]), refs)
    assert "tok:zh" in scores["bleu4"].method and scores["bleu4"].value > 50 and 0 < scores["cider"].value < 10


def test_exhibits_show_pictures_with_right_and_wrong_marked(it):
    refs = [item.ref for item in it.features]
    texts = [refs[0]["targets"][0], *["nonsense"] * 5]
    for number, one in enumerate(refs):
        one["composition"] = "unseen" if number % 2 else "seen"
    shown = {item["kind"]: item for item in reversed(it.task.report_items(said(texts), refs))}
    grid = shown["images"]["items"]
    assert [item["good"] for item in grid] == [True, *[False] * 5]
    assert all(item["src"].startswith("data:image/png;base64,") for item in grid)
    assert grid[0]["lines"][0] == texts[0] and grid[1]["lines"][:1] == ["generated: nonsense"]
    assert "seen against unseen" in shown["bars"]["title"] and shown["bars"]["values"][1] == 0
    assert it.task.report_items([{"nll": 1.0, "correct": 1, "tokens": 2}], refs[:1]) == []
    for one in refs:
        one["composition"] = "seen"


def test_the_most_frequent_caption_is_that_of_the_prompt():
    prompts, captions = ["en", "en", "zh", "zh", "zh"], ["a", "a", "红", "红", "红"]
    assert most_frequent(prompts, captions, ["en", "zh", "fr"]) == ["a", "红", "红"]


def test_the_most_similar_training_picture_lends_its_caption(it, tmp_path):
    """Also where only evaluation runs and the training pictures were not read; a picture with another prompt comes last."""
    for name, colour in (("red", (250, 0, 0)), ("blue", (0, 0, 250)), ("pink", (250, 60, 60))):
        Image.new("RGB", (20, 20), colour).save(tmp_path / f"{name}.png")
    task = it.task
    train = [
        {"image": str(tmp_path / "red.png"), "caption": "红", "prompt": "zh"},
        {"image": str(tmp_path / "red.png"), "caption": ["a red one", "red"], "prompt": "en"},
        {"image": str(tmp_path / "blue.png"), "caption": "a blue one", "prompt": "en"},
        {"image": str(tmp_path / "none.png"), "caption": "lost", "prompt": "en"},
    ]
    before, task.image_store = task.image_store, ImageStore(it.processor.images)
    try:
        task.image_store.read([str(tmp_path / "pink.png"), str(tmp_path / "blue.png")])
        refs = [
            ref("x", image=0, source="en"),
            ref("a blue one", image=1, source="en"),
            ref("红", image=0, source="zh"),
        ]
        refs.append(ref("?", image=1, source="fr"))
        texts = task.simple_texts(train, refs)
        assert texts["caption of the most similar training picture"] == ["a red one", "a blue one", "红", "a blue one"]
        scores = task.baselines(train, refs)["caption of the most similar training picture"]
        assert scores["exact_match"].value == 0.5 and {"cider", "bleu4", "rouge_l", "chrf"} <= scores.keys()
    finally:
        task.image_store = before


def test_coarse_pixels_and_hits(it):
    cells = coarse_pixels(it.task.image_store, [0, 1])
    assert cells.shape == (2, 192) and float(cells.min()) >= 0 and float(cells.max()) <= 1
    assert exact_hits([" a ", "b"], [ref("x", "a"), ref("x")]) == [1.0, 0.0]


def test_transformers_alone_writes_the_same_text(it, tmp_path):
    """The saved folder, AutoProcessor, the chat template and generate(), as anybody else would use the model."""
    torch.manual_seed(0)
    model = it.model(seed=3)
    with torch.no_grad():
        for parameter in model.lm_head.parameters():  # an untrained model repeats one token; this one says several
            parameter.add_(torch.randn_like(parameter) * 0.3)
    it.run.generation.max_new_tokens, before = 8, it.run.generation.max_new_tokens
    save_model(model, it.processor, tmp_path)
    theirs = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    processor = transformers.AutoProcessor.from_pretrained(tmp_path)
    with torch.no_grad():
        mine = it.task.predict(model, it.batch(), generate=True)
    it.run.generation.max_new_tokens = before
    for row, prediction in zip(it.rows, mine, strict=True):
        content = [{"type": "image"}, {"type": "text", "text": row["prompt"]}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = processor(images=open_image(row["image"]), text=prompt, return_tensors="pt", add_special_tokens=False)
        with torch.no_grad():
            out = theirs.generate(**inputs, max_new_tokens=8, do_sample=False)
        text = processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert text == prediction["text"]
    assert len({item["text"] for item in mine}) > 1


def test_attention_by_products_reaches_both_towers_and_gives_the_same_loss(it):
    model, other = it.model(), it.model()
    use_matmul_attention(other)
    parts = (other, other.model.vision_tower, other.model.language_model)
    assert len({part.config._attn_implementation for part in parts}) == 1
    batch = it.task.collate([it.features[:3], it.features[3:]])
    losses = []
    for one in (model, other):
        with torch.autocast("cpu", torch.bfloat16):
            part = it.task.loss(one, batch)
        losses.append(float(part.total.detach()) / part.count)
    assert losses[0] == pytest.approx(losses[1], rel=5e-3)


@pytest.mark.parametrize(("crop", "flip"), [(1.0, False), (0.3, False), (1.0, True)])
def test_augmentation_reaches_the_pixels_in_training_alone(it, tiny_task, crop, flip):
    task, features = it.task, it.features[0]
    before = task.augment
    plain = it.batch([features]).inputs["pixel_values"]
    words = (f"data.augment.crop={crop}", f"data.augment.flip={str(flip).lower()}")
    try:
        task.augment = tiny_task("captioning", "vlm", words=words).run.data.augment
        sides = [0, 1]  # what the captions of a real row would say: left or right, or neither
        seen = {}
        for mirror in sides:
            features.arrays["mirror"] = [mirror]
            made = []
            for epoch in range(8):
                features.draw = (0, epoch, 0)
                made.append(it.batch([features]).inputs["pixel_values"])
            again = it.batch([features]).inputs["pixel_values"]
            assert torch.equal(made[-1], again)  # the same draw is the same picture: a resumed run sees it again
            seen[mirror] = sum(not torch.equal(part, plain) for part in made)
            if flip and mirror:
                assert all(torch.equal(part, plain) or torch.equal(part, plain.flip(-1)) for part in made)
        changed = crop < 1
        assert seen[0] == (8 if changed else 0) and (seen[1] == 8 if changed else (0 < seen[1] < 8) is flip)
        features.draw = None
        assert torch.equal(it.batch([features]).inputs["pixel_values"], plain)  # scoring
    finally:
        task.augment, features.draw = before, None
        features.arrays["mirror"] = [0]


SMALL = (
    "model.num_hidden_layers=1", "model.hidden_size=32", "model.num_attention_heads=2", "model.intermediate_size=48", "model.vocab_size=400",
    "model.vision.num_hidden_layers=1", "model.vision.hidden_size=32", "model.vision.num_attention_heads=2", "model.vision.intermediate_size=48",
    "model.vision.size=32", "data.demo_rows=60", "trainer.threads=1",
)  # fmt: skip


def report(folder):
    return json.loads(Path(folder, "report.json").read_text(encoding="utf-8"))


def test_evaluate_repeats_finetune(workplace, capsys):
    words = ["stage=finetune", "task=captioning", "trainer=smoke", *SMALL]
    assert main([*words, "hydra.run.dir=run"]) == 0, capsys.readouterr().err
    trained = report("run")
    names = {"cider", "bleu4", "rouge_l", "chrf", "exact_match", "exact_match_seen", "exact_match_unseen", "perplexity"}
    assert names <= trained["scores"]["test"].keys() and len(trained["baselines"]["methods"]) == 2
    assert main(["stage=evaluate", "model.path=run", "hydra.run.dir=again"]) == 0, capsys.readouterr().err
    again = report("again")
    assert again["scores"]["test"] == trained["scores"]["test"]
    assert again["baselines"]["methods"] == trained["baselines"]["methods"]
    lines = [json.loads(line) for line in Path("run/predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(line["image"].startswith("demo:48:") and isinstance(line["reference"], list) for line in lines)
    assert all(math.isfinite(line["log_probability"]) for line in lines)
    assert "data:image/png" in Path("run/report.html").read_text(encoding="utf-8")


def test_resume_is_exact(workplace, capsys, children_here):
    children_here(killed=True)
    words = ["stage=prove_resume", "task=captioning", "trainer=smoke", "data.augment.crop=0.5", *SMALL]
    assert main([*words, "hydra.run.dir=proof"]) == 0, capsys.readouterr().err
    assert report("proof")["exact"]


def test_a_checkpoint_goes_back_into_the_model_and_loads_elsewhere(it, tmp_path):
    """LLaVA's weights have other names in model/ than in the model; a checkpoint must hold those of the model, or a resumed
    run, and the best weights at the end, would silently be others."""
    model, other = it.model(seed=1), it.model(seed=2)
    folder = tmp_path / "step_000001"
    save_weights(model, it.processor, folder)
    checkpoints = Checkpoints(tmp_path, 1, lambda place: None, {})
    checkpoints.folder = tmp_path
    assert load_best(other, TrainState(step=2, best_step=1), checkpoints) == 1
    saved = transformers.AutoModelForImageTextToText.from_pretrained(folder).state_dict()
    mine, theirs = model.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys() == saved.keys()
    assert all(torch.equal(mine[name], theirs[name]) and torch.equal(mine[name], saved[name]) for name in mine)
    save_model(model, it.processor, folder)
    with pytest.raises(ModelError, match="does not fit the model"):
        load_best(other, TrainState(step=2, best_step=1), checkpoints)


def test_packing_changes_no_loss(workplace, capsys):
    """One batch of all rows: the first validation scores, before any step, are those of the same weights either way."""
    found = []
    for packing in ("on", "off"):
        folder = f"run_{packing}"
        words = ["stage=finetune", "task=captioning", "trainer=smoke", *SMALL, f"trainer.packing={packing}"]
        assert main([*words, f"hydra.run.dir={folder}", "trainer.max_steps=1"]) == 0, capsys.readouterr().err
        lines = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        found.append(next(line for line in lines if any("perplexity" in key for key in line)))
    first, second = ({key: value for key, value in line.items() if "perplexity" in key} for line in found)
    assert first.keys() == second.keys() and first
    assert all(first[key] == pytest.approx(second[key], rel=1e-4) for key in first)


def test_pictures_from_files_with_chinese_captions_and_bad_ones_by_name(workplace, capsys):
    rows = []
    for number in range(40):
        colour = ((250, 0, 0), (0, 0, 250))[number % 2]
        Image.new("RGB", (30 + number, 20), colour).save(f"图{number}.png")
        rows.append({"image": f"图{number}.png", "caption": ["一张红色的图", "一张蓝色的图"][number % 2]})
    Path("rows.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    words = ["stage=finetune", "task=captioning", "trainer=smoke", *(word for word in SMALL if "demo" not in word)]
    assert main([*words, "data.train=rows.jsonl", "hydra.run.dir=run"]) == 0, capsys.readouterr().err
    assert "exact_match_seen" not in report("run")["scores"]["test"]
    Path("图7.png").write_bytes(b"no picture")
    capsys.readouterr()
    assert main([*words, "data.train=rows.jsonl", "hydra.run.dir=bad"]) == 3
    error = capsys.readouterr().err
    assert "rows.jsonl:8" in error and "is no image" in error
