"""The contract of every task (tasks/base.py). The tasks are read from conf/task, so a new task is tested without a change here."""

from __future__ import annotations

import copy
import json
import math
import re
import sys
import textwrap
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from llmstage.cli.command import main
from llmstage.config import GenerationConfig
from llmstage.config.checks import TWO_TOWERS
from llmstage.config.task import Classification as ClassificationConfig
from llmstage.data.image_store import ImageStore
from llmstage.data.split_keys import row_hash
from llmstage.evaluation.metrics.score import Score
from llmstage.paths import conf_dir, locate_model, options
from llmstage.tasks.base import IGNORE_INDEX, UNSCORED
from llmstage.tasks.classification import Classification
from llmstage.tokenization.vision import vision_spec_of
from llmstage.training.batches import backward_parts
from llmstage.training.packing import decide_packing


def keys_of(name: str) -> Any:
    loaded = OmegaConf.load(conf_dir() / "task" / f"{name}.yaml")
    return loaded.get("task") or loaded


CASES = [(name, kind) for name in options("task") for kind in keys_of(name).model_families]
each_task = pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(case))
STEPS, CONTEXT = 100, 224
TEXT_WORDS = (
    "tokens", "text", "text_pair", "content", "question", "context", "source", "target", "document", "summary",
    "caption", "prompt",
)  # fmt: skip
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")
CHINESE = "退款要等多久？订单 3051，谢谢！"


@pytest.fixture(scope="module")
def tiny(tiny_task):
    return cache(lambda name, kind: tiny_task(name, kind, context=CONTEXT, num_rows=8))


@pytest.fixture(scope="module")
def learned(tiny, shared_folder):
    """(tiny task, a model that knows its eight rows by heart)."""

    def train(it: Any) -> None:
        model = it.model(hidden_size=64, intermediate_size=128).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
        batch = it.batch()
        for step in range(STEPS):
            for group in optimizer.param_groups:
                group["lr"] = 6e-3 * min(1.0, (step + 1) / 10) * (1 - step / STEPS)
            part = it.task.loss(model, batch)
            (part.total / part.count).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            it.task.after_step(model)
            optimizer.zero_grad()
        torch.save(model.state_dict(), "weights.pt")

    @cache
    def learn(name: str, kind: str) -> tuple[Any, Any]:
        it = tiny(name, kind)
        folder = shared_folder(f"contract/{name}-{kind}", lambda: train(it))
        model = it.model(hidden_size=64, intermediate_size=128)
        model.load_state_dict(torch.load(folder / "weights.pt"))
        return it, model.eval()

    return learn


@torch.no_grad()
def predict(it: Any, model: Any, features: list[Any] | None = None, *, generate: bool = True) -> tuple[list[Any], Any]:
    batch = it.batch(features)
    return it.task.predict(model, batch, generate=generate), batch


@each_task
def test_demo_rows_have_the_columns_and_pass_the_tasks_own_check(case, tiny):
    task = tiny(*case).task
    rows = task.demo_rows(40, 3)
    known = {*task.columns.required, *task.columns.optional}
    for row in rows:
        assert set(task.columns.required) <= set(row) <= known
        assert task.check_row(row) is None
        assert task.texts(row) and all(isinstance(text, str) for text in task.texts(row))
    assert rows == task.demo_rows(40, 3)
    assert rows != task.demo_rows(40, 4)
    assert len({row_hash(row, task.columns.identity, 0) for row in rows}) == 40


@each_task
def test_encode_is_pure_within_the_context_and_the_same_by_the_batch(case, tiny):
    it = tiny(*case)
    before = copy.deepcopy(it.rows)
    one_by_one = [it.task.encode(row) for row in it.rows]
    assert it.rows == before
    assert one_by_one == [it.task.encode(row) for row in it.rows] == it.task.encode_many(it.rows)
    for features in (item for row in one_by_one for item in row):
        assert 0 < len(features.input_ids) <= it.context
        assert all(0 <= token < len(it.processor) for token in features.input_ids)
        assert json.loads(json.dumps(features.ref)) == features.ref


@each_task
def test_padding_adds_no_target_and_no_token(case, tiny):
    it = tiny(*case)
    short, long = sorted(it.features, key=lambda item: len(item.input_ids))[:: len(it.features) - 1]
    alone, beside = it.batch([short]), it.batch([short, long])
    length = len(short.input_ids)
    width = alone.inputs["input_ids"].shape[1]  # less than `length` where the target goes to a decoder of its own
    assert torch.equal(beside.inputs["input_ids"][0, :width], alone.inputs["input_ids"][0])
    assert beside.num_tokens == length + len(long.input_ids)
    assert beside.refs == [short.ref, long.ref]
    if beside.labels is None:  # rows are compared with each other: a batch has no targets of its own
        assert not it.task.additive_loss
    elif beside.labels.ndim == 2:
        width = alone.labels.shape[1]
        assert torch.equal(beside.labels[0, :width], alone.labels[0])
        assert bool((beside.labels[0, width:] == IGNORE_INDEX).all())
        # A position that predicts the next token has no target at the start; a tag has.
        first = 0 if it.task.auto_model == "AutoModelForTokenClassification" else 1
        assert int((beside.labels[:, first:] != IGNORE_INDEX).sum()) == sum(map(it.task.num_targets, (short, long)))
    else:
        assert torch.equal(beside.labels[0], alone.labels[0])


@each_task
def test_inputs_have_one_entry_for_each_row_of_the_batch(case, tiny):
    it = tiny(*case)
    for examples in (it.features, it.features[:1], it.features[1:4]):
        batch = it.batch(examples)
        assert {name: len(value) for name, value in batch.inputs.items()} == dict.fromkeys(batch.inputs, len(examples))
        assert batch.labels is None or len(batch.labels) == len(examples)
        assert len(batch.refs) == len(examples)
    if it.task.packs:
        packed = it.task.collate([it.features[:3], it.features[3:]])
        of_examples = {"pixel_values"} & packed.inputs.keys()  # an image for each example, in reading order
        expected = {name: len(it.features) if name in of_examples else 2 for name in packed.inputs}
        assert {name: len(value) for name, value in packed.inputs.items()} == expected
        assert len(packed.segments) == 2 and len(packed.refs) == len(it.features)


@each_task
def test_rows_of_a_batch_are_selected_by_the_first_axis(case, tiny):
    """The prediction of a row is the same in a batch of which the other rows were removed."""
    it = tiny(*case)
    model, full = it.model(), it.batch()
    with torch.no_grad():
        expected = it.task.predict(model, full, generate=False)[2:5]
        part = it.batch()
        part.inputs = {name: value[2:5] for name, value in part.inputs.items()}
        part.labels = None if part.labels is None else part.labels[2:5]
        part.segments = (
            None if part.segments is None else torch.where(part.segments[2:5] < 0, -1, part.segments[2:5] - 2)
        )
        part.refs = part.refs[2:5]
        predictions = it.task.predict(model, part, generate=False)
    flat = [json.dumps(item, sort_keys=True) for item in (predictions, expected)]
    numbers = [[float(number) for number in NUMBER.findall(text)] for text in flat]
    assert NUMBER.sub("", flat[0]) == NUMBER.sub("", flat[1])
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-4, abs=1e-5)


@each_task
def test_the_loss_of_a_row_does_not_depend_on_its_neighbours(case, tiny):
    it = tiny(*case)
    if not it.task.additive_loss:
        pytest.skip("the rows of a batch are each other's negatives; what each row gives to it is tested below")
    model = it.model()
    together = it.task.loss(model, it.batch())
    apart = [it.task.loss(model, it.batch([item])) for item in it.features]
    assert together.count == sum(part.count for part in apart)
    assert together.count == sum(map(it.task.num_targets, it.features))
    assert float(together.total.detach()) == pytest.approx(sum(float(part.total.detach()) for part in apart), rel=1e-5)


@each_task
def test_where_rows_are_compared_each_brings_what_does_not_depend_on_its_neighbours(case, tiny):
    it = tiny(*case)
    if it.task.additive_loss:
        pytest.skip("the loss of each row stands by itself; tested above")
    model = it.model()
    with torch.no_grad():
        together = it.task.embed(model, it.batch())
        apart = [it.task.embed(model, it.batch([item])) for item in it.features]
        for whole, *parts in zip(together, *apart, strict=True):
            torch.testing.assert_close(whole, torch.cat(parts), rtol=1e-5, atol=1e-5)
        part = it.task.loss(model, it.batch())
    assert part.count == sum(map(it.task.num_targets, it.features))
    assert float(part.total) / part.count == pytest.approx(it.task.chance_loss(len(it.features)), rel=0.5)


@each_task
def test_two_micro_batches_add_up_to_one(case, tiny):
    it = tiny(*case)
    model = it.model()

    def gradients(parts: list[list[Any]]) -> tuple[list[torch.Tensor], float]:
        model.zero_grad()
        batches = [it.batch(features) for features in parts]
        count = sum(part.count for part in backward_parts(it.task, model, batches, nullcontext, lambda loss: loss))
        grads = [parameter.grad / count for parameter in model.parameters() if parameter.grad is not None]
        return [grad.clone() for grad in grads], count

    full, count = gradients([it.features])
    split, same = gradients([it.features[:3], it.features[3:]])
    assert count == same
    assert max(float(grad.abs().max()) for grad in full) > 0
    for full_grad, split_grad in zip(full, split, strict=True):
        torch.testing.assert_close(full_grad, split_grad, rtol=1e-4, atol=1e-6)


@each_task
def test_packed_rows_equal_rows_of_their_own(case, tiny):
    it = tiny(*case)
    if not it.task.packs:
        pytest.skip("this task does not pack")
    model = it.model()
    assert decide_packing(it.run, it.task, model, it.context, packs=True), "as a run decides"
    packed = it.task.collate([it.features[:3], it.features[3:4], it.features[4:]])
    alone = it.batch()
    assert packed.num_tokens == alone.num_tokens and packed.refs == alone.refs
    one, two = it.task.loss(model, packed), it.task.loss(model, alone)
    assert one.count == two.count
    assert float(one.total.detach()) == pytest.approx(float(two.total.detach()), rel=1e-5)
    with torch.no_grad():
        logits = model(**packed.inputs).logits[packed.segments >= 0]  # [tokens, V] in reading order
        pixels = alone.inputs.get("pixel_values", [None] * len(it.features))  # [N, 3, H, W], one picture a feature
        # Ids of the batch, not of the features: a task may hide some of a feature's tokens.
        seen = zip(alone.inputs["input_ids"], pixels, it.features, strict=True)
        singly = [
            model(input_ids=ids[None, : len(item.input_ids)], **({} if own is None else {"pixel_values": own[None]}))
            for ids, own, item in seen
        ]
        left = it.task.predict(model, packed, generate=False)
        right = it.task.predict(model, alone, generate=False)
    torch.testing.assert_close(logits, torch.cat([out.logits[0] for out in singly]), rtol=1e-4, atol=1e-5)
    for a, b in zip(left, right, strict=True):
        assert a == {
            key: value if isinstance(value, str) else pytest.approx(value, rel=1e-4) for key, value in b.items()
        }


@each_task
def test_it_learns_eight_rows_and_a_perfect_model_scores_one(case, learned):
    it, model = learned(*case)
    predictions, batch = predict(it, model)
    scores = it.scores(predictions, batch.refs)
    main_score = scores[it.task.select]
    assert main_score.value == pytest.approx(1.0, abs=0.1)
    untrained = it.scores(predict(it, it.model(), generate=False)[0], batch.refs)
    if it.task.select not in untrained:  # as the engine does where the selecting metric needs text
        untrained = it.scores(predict(it, it.model())[0], batch.refs)
    untrained = untrained[it.task.select]
    better = main_score.value > untrained.value
    known_before = main_score.value == untrained.value == 1.0  # weights that begin from counts of these very rows
    assert better is main_score.higher_is_better or known_before, "the metric knows its own direction"
    for name in ("exact_match", "recall_closed", "recall_numbers", "accuracy"):
        if name in scores:
            assert scores[name].value == 1.0
    assert all(math.isfinite(score.value) for score in scores.values())


@each_task
def test_errors_are_one_a_prediction_and_next_to_nothing_where_the_model_is_right(case, learned):
    it, model = learned(*case)

    def mean_error(model: Any) -> float:
        predictions, refs = it.merged(*((said := predict(it, model))[0], said[1].refs))
        errors = it.task.errors(predictions, refs)
        assert len(errors.values) == len(predictions) and errors.metric
        assert all(
            part == [] or len(part) == len(predictions) for part in (errors.weights, errors.confidence, errors.nats)
        )
        known_errors = [value for value in errors.values if value is not None]
        assert known_errors and all(math.isfinite(value) and value >= 0 for value in known_errors)
        assert not errors.share or max(known_errors) <= 1
        assert all(0 <= sure <= 1 + 1e-6 for sure in errors.confidence if sure is not None)
        assert json.loads(json.dumps(errors.values, allow_nan=False)) == errors.values
        return sum(known_errors) / len(known_errors)

    knows, untrained = mean_error(model), mean_error(it.model())
    assert knows <= 0.1
    assert knows < untrained or untrained == 0


@each_task
def test_predictions_records_and_exhibits_are_plain_data(case, learned):
    it, model = learned(*case)
    predictions, batch = predict(it, model)
    assert len(predictions) == len(it.features)
    assert json.loads(json.dumps(predictions)) == predictions
    predictions, refs = it.merged(predictions, batch.refs)
    for prediction, ref in zip(predictions, refs, strict=True):
        lines = it.task.records(prediction, ref)
        assert lines and all({"prediction", "reference"} <= line.keys() for line in lines)
        json.dumps(lines, ensure_ascii=False, allow_nan=False)
    for exhibit in it.task.report_items(predictions, refs):
        assert exhibit["kind"] in ("text", "table", "matrix", "lines", "bars", "images") and exhibit["title"]
        json.dumps(exhibit, allow_nan=False)


def assert_same_scores(scores: dict[str, Score], expected: dict[str, Score], model: Any) -> None:
    """Equal to the last bit; with a single logit (a user's regression task), a matrix product of one column may be computed
    in another order after the weights have moved in memory, so equal to 1e-6."""
    if model.config.num_labels != 1:
        assert scores == expected
        return
    assert scores.keys() == expected.keys()
    for name, score in scores.items():
        other = expected[name]
        assert (score.count, score.method, score.higher_is_better) == (
            other.count,
            other.method,
            other.higher_is_better,
        )
        values = [(item.value, item.low, item.high) for item in (score, other)]
        assert [number is None for number in values[0]] == [number is None for number in values[1]]
        numbers = [[number for number in item if number is not None] for item in values]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-6, abs=1e-6, nan_ok=True)


@each_task
def test_saved_and_loaded_by_transformers_alone_it_scores_the_same(case, learned, tmp_path):
    import transformers

    from llmstage.models.build import build_model, save_model
    from llmstage.tokenization.tokenizer import load_processor

    it, model = learned(*case)
    save_model(model, it.processor, tmp_path)
    theirs = getattr(transformers, it.task.auto_model).from_pretrained(tmp_path).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    inputs = tokenizer("Hello, 你好！", return_tensors="pt")
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = inputs["input_ids"]
    if model.config.model_type in TWO_TOWERS:
        inputs["pixel_values"] = it.batch().inputs["pixel_values"][:1]
    with torch.no_grad():
        torch.testing.assert_close(
            theirs(**inputs)[0], model(**inputs)[0], rtol=1e-5, atol=1e-5
        )  # logits, or hidden states where the head is the task's
    mine, batch = predict(it, model)
    if hasattr(model, "extra"):
        theirs.extra = model.extra  # transformers loads its own part; the task's lies beside it
    again, _ = predict(it, theirs)
    assert_same_scores(it.scores(mine, batch.refs), it.scores(again, batch.refs), model)
    adopted = type(it.task)(it.run.task, it.run.generation)
    adopted.set_model_family(it.task.model_family)
    adopted.load_config(theirs.config)  # what stage=evaluate does: no training rows are seen
    processor = load_processor(str(tmp_path), local=True, sees=it.run.task.reads_images)
    if it.run.task.reads_images:
        processor.vision = vision_spec_of(theirs.config)
        adopted.image_store = ImageStore(processor.images)
        adopted.image_store.read(it.task.image_store.numbers)
        assert (
            adopted.image_store.digest == it.task.image_store.digest
        )  # the saved image processor gives the same pixels
    adopted.attach_tokenizer(processor, it.context)
    assert [item for row in it.rows for item in adopted.encode(row) if item.ref != UNSCORED] == it.features
    loaded = build_model(
        it.run.model,
        it.task.auto_model,
        adopted.processor,
        it.context,
        adopted.model_options(),
        locate_model(str(tmp_path)),
        offline=True,
        extra=adopted.extra_module,
    )
    once_more, _ = predict(it, loaded)
    assert_same_scores(it.scores(once_more, batch.refs), it.scores(mine, batch.refs), model)


def in_chinese(value: Any, key: str = "") -> Any:
    """The row with every text replaced, but not what is a name: roles, labels. A place in a text is its beginning."""
    if isinstance(value, dict):
        return {word: in_chinese(item, word) for word, item in value.items() if word not in ("recalls", "language")}
    if isinstance(value, list):
        return [in_chinese(item, key) for item in value]
    if key == "answer_start":
        return 0
    return CHINESE if isinstance(value, str) and key in TEXT_WORDS else value


@each_task
def test_chinese_text_survives(case, tiny):
    it = tiny(*case)
    row = in_chinese(it.rows[0])
    assert it.task.check_row(row) is None
    assert CHINESE in it.task.texts(row)
    features = [item for item in it.task.encode(row) if item.ref != UNSCORED]
    shown = "".join(it.processor.decode(item.input_ids) for item in features)
    assert CHINESE in shown
    predictions, batch = predict(it, it.model(), features)
    predictions, refs = it.merged(predictions, batch.refs)
    lines = json.dumps([it.task.records(*pair) for pair in zip(predictions, refs, strict=True)], ensure_ascii=False)
    if "text" not in it.task.columns.required or "label" in it.task.columns.required:
        assert CHINESE in lines
    it.task.score(predictions, refs)


OUTSIDE = '''
"""A task that lives outside the package: is the text about water or fire?"""

from dataclasses import dataclass
from typing import Annotated

from llmstage.config.task import TaskConfig
from llmstage.config.typed import AT_LEAST_1
from llmstage.tasks.classification import Classification


@dataclass(slots=True)
class Config(TaskConfig):
    class_weights: str = "none"
    """Kept from the task it builds on."""
    words: Annotated[int, AT_LEAST_1] = 6
    """Words of a demo text."""


class WaterOrFire(Classification):
    @staticmethod
    def demo_rows(num_rows, seed):
        import random

        rng = random.Random(seed)
        out = []
        for _ in range(num_rows):
            label = rng.choice(["water", "fire"])
            own = ["wave", "rain", "sea", "水"] if label == "water" else ["flame", "ash", "heat", "火"]
            out.append({"text": " ".join(rng.choice(own) + str(rng.randrange(100)) for _ in range(6)), "label": label})
        return out


TASK = WaterOrFire
'''


@pytest.fixture
def outside(workplace, monkeypatch):
    """A module and a YAML of the user's own, and the folder to name with --config-dir."""
    (workplace / "elements_outside").mkdir()
    (workplace / "elements_outside" / "__init__.py").write_text("")
    (workplace / "elements_outside" / "water_or_fire.py").write_text(OUTSIDE, encoding="utf-8")
    (workplace / "mine" / "task").mkdir(parents=True)
    (workplace / "mine" / "task" / "water_or_fire.yaml").write_text(
        textwrap.dedent("""
        # Water or fire.
        name: elements_outside.water_or_fire
        stages: [finetune]
        model_families: [gpt, bert]
        generates: false
        select: macro_f1
        class_weights: none
        words: 6
        """).lstrip()
    )
    monkeypatch.syspath_prepend(str(workplace))
    yield workplace / "mine"
    for name in [name for name in sys.modules if name.startswith("elements_outside")]:
        del sys.modules[name]


def test_a_task_of_the_users_own_needs_one_module_and_one_yaml(outside, capsys):
    words = ["--config-dir", str(outside), "task=water_or_fire"]
    status = main([*words, "stage=finetune", "trainer=smoke", "hydra.run.dir=run", "task.words=5"])
    assert status == 0, capsys.readouterr().err
    trained = json.loads(Path("run/report.json").read_text(encoding="utf-8"))
    assert trained["status"] == "completed"
    assert main([*words, "stage=evaluate", "model.path=run", "hydra.run.dir=again"]) == 0, capsys.readouterr().err
    again = json.loads(Path("again/report.json").read_text(encoding="utf-8"))
    assert again["scores"]["test"] == trained["scores"]["test"]
    capsys.readouterr()
    assert main([*words, "stage=finetune", "task.wordz=5"]) == 2
    assert "Did you mean 'task.words'?" in capsys.readouterr().err
    assert main([*words, "stage=finetune", "task.words=0"]) == 2


METHODS = (
    "set_model_family", "check_row", "build_splits", "prepare_inference", "fit_labels", "load_config", "texts",
    "attach_tokenizer", "cache_key", "encode_many", "encode_unlabeled", "num_targets", "model_options", "extra_module",
    "collate", "loss", "after_step", "predict", "merge", "tune", "score", "report_items", "baselines", "warnings",
    "records", "dummy_target", "to_response",
)  # fmt: skip


@pytest.fixture
def calls(monkeypatch):
    """The names of the methods of a classification task, in the order in which a stage calls them."""
    names: list[str] = []

    def record(name: str, method: Any) -> Any:
        def recorded(*args: Any, **kwargs: Any) -> Any:
            names.append(name)
            return method(*args, **kwargs)

        return recorded

    for name in METHODS:
        monkeypatch.setattr(Classification, name, record(name, getattr(Classification, name)))
    return names


def in_order(calls: list[str], *names: str) -> bool:
    """Whether the first calls of the methods are in this order, and all of them are called."""
    return all(name in calls for name in names) and names == tuple(sorted(names, key=calls.index))


def test_stages_call_the_methods_in_the_documented_order(workplace, calls, capsys):
    rows = Path("rows.jsonl")
    task = Classification(ClassificationConfig(name="classification"), GenerationConfig())
    rows.write_text("".join(json.dumps(row) + "\n" for row in task.demo_rows(120, 0)), encoding="utf-8")
    unlabeled = Path("unlabeled.jsonl")
    unlabeled.write_text(
        "".join(json.dumps({"text": row["text"]}) + "\n" for row in task.demo_rows(12, 1)), encoding="utf-8"
    )
    calls.clear()

    keys = [
        "task=classification",
        "task.temperature=scaled",
        f"data.train={rows}",
        "trainer=smoke",
        "hydra.run.dir=run",
    ]
    assert main(["stage=finetune", *keys]) == 0, capsys.readouterr().err
    setup = ("set_model_family", "check_row", "build_splits", "fit_labels", "texts", "attach_tokenizer", "cache_key", "encode_many",
             "num_targets", "model_options", "extra_module")  # fmt: skip
    # Before the first step, the validation split is scored.
    assert in_order(calls, *setup, "collate", "predict", "merge", "score", "loss", "after_step", "tune", "report_items")
    assert in_order(calls, "report_items", "records", "baselines", "warnings")
    for name in (
        "set_model_family",
        "build_splits",
        "fit_labels",
        "attach_tokenizer",
        "extra_module",
        "tune",
        "baselines",
    ):
        assert calls.count(name) == 1, name
    assert "model_options" in calls[calls.index("tune") :]  # the saved model has what tune() fitted
    assert not {"load_config", "prepare_inference", "encode_unlabeled", "to_response"} & set(calls)

    calls.clear()
    evaluate = [
        "stage=evaluate",
        "task=classification",
        "model.path=run",
        f"data.test={rows}",
        "hydra.run.dir=evaluated",
    ]
    assert main(evaluate) == 0, capsys.readouterr().err
    assert in_order(
        calls, "set_model_family", "check_row", "build_splits", "load_config", "attach_tokenizer", "encode_many"
    )
    assert in_order(
        calls, "encode_many", "model_options", "collate", "predict", "merge", "report_items", "score", "records"
    )
    assert calls.count("load_config") == 1
    assert not {"fit_labels", "texts", "loss", "tune", "after_step"} & set(calls)

    calls.clear()
    predict_rows = [
        "stage=predict",
        "task=classification",
        "model.path=run",
        f"data.test={unlabeled}",
        "hydra.run.dir=predicted",
    ]
    assert main(predict_rows) == 0, capsys.readouterr().err
    assert in_order(
        calls, "set_model_family", "prepare_inference", "load_config", "attach_tokenizer", "model_options", "dummy_target",
        "check_row", "encode_unlabeled", "encode_many", "collate", "predict", "to_response", "merge", "records",
    )  # fmt: skip
    assert calls.count("to_response") == 12
    assert not {"build_splits", "fit_labels", "texts", "loss", "score", "tune"} & set(calls)


@pytest.mark.parametrize("key", ["name", "stages", "model_families"])
def test_a_task_yaml_that_lacks_a_key_is_named(key, outside, capsys):
    path = outside / "task" / "water_or_fire.yaml"
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith(f"{key}:")]
    path.write_text("\n".join(lines), encoding="utf-8")
    assert main(["--config-dir", str(outside), "task=water_or_fire", "stage=finetune"]) == 2
    assert f"task=water_or_fire: its YAML has no `{key}:`" in capsys.readouterr().err


def test_code_that_a_run_folder_names_is_not_run(outside, capsys):
    words = ["--config-dir", str(outside), "task=water_or_fire", "stage=finetune", "trainer=smoke"]
    assert main([*words, "trainer.max_steps=1", "hydra.run.dir=run"]) == 0, capsys.readouterr().err
    for name in [name for name in sys.modules if name.startswith("elements_outside")]:
        del sys.modules[name]
    assert main(["stage=evaluate", "model.path=run"]) == 8
    assert "elements_outside.water_or_fire" in capsys.readouterr().err
    assert not [name for name in sys.modules if name.startswith("elements_outside")]
