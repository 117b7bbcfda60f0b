"""A checkpoint of another architecture is finetuned, its model is moved away, and evaluate repeats the scores there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from llmstage.cli.command import main
from llmstage.errors import ModelError
from llmstage.models.build import save_model
from llmstage.models.loading import set_dropout

SaveCheckpoint = Callable[..., Any]

SMOKE = [
    "trainer=smoke", "trainer.max_steps=2", "trainer.eval_every=0", "data.context=96", "data.max_lost=1", "trainer.threads=1",
    "trainer.baselines=false",
]  # fmt: skip


def finetune(*words: str, folder: str = "run") -> int:
    return main(["stage=finetune", "model.path=checkpoint", *SMOKE, *words, f"hydra.run.dir={folder}"])


def scores_of(folder: str) -> dict[str, dict[str, float]]:
    report = json.loads(Path(folder, "report.json").read_text(encoding="utf-8"))
    return {
        split: {name: score["value"] for name, score in scores.items()} for split, scores in report["scores"].items()
    }


def check_scores_elsewhere(*words: str, data: tuple[str, ...] = ("data.demo_rows=40",)) -> None:
    """Finetune ./checkpoint, move the model out of the run's folder, and compare the scores of stage=evaluate."""
    assert finetune(*words, *data) == 0
    shutil.move("run/model", "elsewhere")
    kept = [word for word in SMOKE if not word.startswith(("trainer.max_steps", "trainer.eval_every"))]
    only_test = [word for word in data if not word.startswith("data.train")]
    assert main(["stage=evaluate", "model.path=elsewhere", *kept, *words, *only_test, "hydra.run.dir=again"]) == 0
    before, after = scores_of("run"), scores_of("again")
    shared = set(before) & set(after)
    assert shared
    for split in shared:
        known = {
            name: value for name, value in after[split].items() if name in before[split]
        }  # not those of control runs
        assert known == pytest.approx({name: before[split][name] for name in known}, rel=1e-6, abs=1e-6) and known, (
            split
        )


CASES = [
    ("bert", "bert", "AutoModel", ["task=classification"]),
    ("distilbert", "bert", "AutoModel", ["task=classification", "task.target=multilabel"]),
    ("deberta-v2", "bert", "AutoModelForMaskedLM", ["task=classification", "task.target=ordinal"]),
    ("llama", "gpt", "AutoModelForCausalLM", ["task=classification", "task.target=number"]),
    ("electra", "bert", "AutoModel", ["task=classification", "task.targets.topic=label", "task.targets.hours=number"]),
    ("roberta", "bert", "AutoModelForMaskedLM", ["task=question_answering"]),
    ("qwen2", "gpt", "AutoModelForCausalLM", ["task=question_answering", "task.style=generate"]),
    ("albert", "bert", "AutoModelForMaskedLM", ["task=masked_lm"]),
    ("gpt2", "gpt", "AutoModelForCausalLM", ["task=causal_lm"]),
    ("qwen2", "gpt", "AutoModelForCausalLM", ["task=dialogue"]),
    ("t5", "t5", "AutoModelForSeq2SeqLM", ["task=translation"]),
    ("bart", "t5", "AutoModelForSeq2SeqLM", ["task=summarization"]),
    ("bert", "bert", "AutoModel", ["task=recommendation"]),
]


@pytest.mark.parametrize(("model_type", "family", "auto_class", "words"), CASES, ids=lambda value: str(value)[:40])
def test_evaluate_repeats_the_scores_of_a_finetuned_checkpoint(
    model_type: str, family: str, auto_class: str, words: list[str], save_checkpoint: SaveCheckpoint, workplace: Path
) -> None:
    save_checkpoint(Path("checkpoint"), model_type, family, auto_class)
    check_scores_elsewhere(*words)


@pytest.mark.parametrize("scheme", ["iob1", "bmes"])
def test_a_tagger_on_a_scheme_of_its_own_is_evaluated_elsewhere(
    scheme: str, save_checkpoint: SaveCheckpoint, workplace: Path
) -> None:
    save_checkpoint(Path("checkpoint"), "bert", "bert")
    sentences = {
        "iob1": ["John\tI-PER\nSmith\tI-PER\nsaw\tO\nRome\tI-LOC\nParis\tB-LOC\n", "we\tO\nleft\tO\nRome\tI-LOC\n"],
        "bmes": ["John\tB-PER\nSmith\tE-PER\nsaw\tO\nRome\tS-LOC\n", "New\tB-LOC\nYork\tM-LOC\nCity\tE-LOC\nbest\tO\n"],
    }[scheme]
    for split in ("train", "validation", "test"):
        Path(f"{split}.conll").write_text("\n".join(sentences * 12), encoding="utf-8")
    files = tuple(f"data.{split}={split}.conll" for split in ("train", "validation", "test"))
    check_scores_elsewhere("task=token_classification", data=files)
    assert json.loads(Path("elsewhere/config.json").read_text())["llmstage"]["scheme"] in (scheme, "iobes")


@pytest.mark.parametrize(
    ("task", "family"), [("contrastive", "clip"), ("captioning", "vlm"), ("visual_reasoning", "vlm")]
)
def test_models_with_images_are_evaluated_elsewhere(task: str, family: str, tiny_task: Any, workplace: Path) -> None:
    tiny = tiny_task(task, family)
    model = tiny.model()
    vars(model.config).pop("llmstage", None)  # as another library saves CLIP and LLaVA
    save_model(model, tiny.processor, Path("checkpoint"))
    check_scores_elsewhere(f"task={task}")


# What may start untrained, and what is damage


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


@pytest.mark.parametrize(
    "model_type", ["distilbert", "deberta", "deberta-v2", "albert", "ernie", "mobilebert", "xlnet", "eurobert"]
)
def test_a_classifier_starts_from_a_checkpoint_without_its_head(
    model_type: str, save_checkpoint: SaveCheckpoint, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(Path("checkpoint"), model_type, "bert")
    assert finetune("task=classification", "trainer.max_steps=1", "data.demo_rows=20") == 0
    assert "starts untrained: " in capsys.readouterr().err


def test_a_pooler_may_be_missing_and_a_layer_may_not(
    save_checkpoint: SaveCheckpoint, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(Path("checkpoint"), "bert", "bert")
    change_weights(Path("checkpoint"), lambda weights: {k: v for k, v in weights.items() if not k.startswith("pooler")})
    assert finetune("task=classification", "trainer.max_steps=1", "data.demo_rows=20") == 0
    assert "starts untrained: bert.pooler.dense, classifier" in capsys.readouterr().err
    gone = "encoder.layer.1.output.dense.weight"
    change_weights(Path("checkpoint"), lambda weights: {k: v for k, v in weights.items() if k != gone})
    assert finetune("task=classification", "data.demo_rows=20", folder="damaged") == 4
    error = capsys.readouterr().err
    assert f"lacks weights of its base model (BertModel): bert.{gone}." in error and "Traceback" not in error


def test_an_output_layer_of_another_size_is_damage_where_the_task_does_not_set_its_size(
    save_checkpoint: SaveCheckpoint, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(Path("checkpoint"), "qwen2", "gpt", "AutoModelForCausalLM", tie_word_embeddings=False)
    change_weights(Path("checkpoint"), lambda weights: {**weights, "lm_head.weight": weights["lm_head.weight"][:-8]})
    assert finetune("task=question_answering", "task.style=generate", "data.demo_rows=20") == 4
    assert "lm_head" in capsys.readouterr().err


REFUSED_BEFORE = [
    ("bloom", "gpt", "AutoModelForCausalLM", "causal_lm", {}),
    ("falcon", "gpt", "AutoModelForCausalLM", "dialogue", {"alibi": True}),
    ("mamba", "gpt", "AutoModelForCausalLM", "dialogue", {}),
    ("deberta-v2", "bert", "AutoModel", "token_classification", {}),
    ("llama", "gpt", "AutoModel", "token_classification", {}),
    ("t5", "t5", "AutoModel", "classification", {}),
    ("albert", "bert", "AutoModelForMaskedLM", "masked_lm", {"embedding_size": 24}),
    ("funnel", "bert", "AutoModelForMaskedLM", "masked_lm", {"block_sizes": [1, 1, 1], "n_head": 2, "d_head": 16}),
    ("longformer", "bert", "AutoModelForMaskedLM", "masked_lm", {"attention_window": [16, 16]}),
    ("esm", "bert", "AutoModelForMaskedLM", "masked_lm", {}),
]


@pytest.mark.parametrize(
    ("model_type", "family", "auto_class", "task", "keys"), REFUSED_BEFORE, ids=lambda value: str(value)[:24]
)
def test_a_training_step_of_an_unusual_architecture(
    model_type: str,
    family: str,
    auto_class: str,
    task: str,
    keys: dict[str, Any],
    save_checkpoint: SaveCheckpoint,
    workplace: Path,
) -> None:
    save_checkpoint(Path("checkpoint"), model_type, family, auto_class, **keys)
    assert finetune(f"task={task}", "trainer.max_steps=1", "data.demo_rows=20") == 0


# Special tokens and dropout, which every architecture names in its own way


@pytest.mark.parametrize("model_type", ["t5", "mt5"])
def test_a_model_whose_config_has_no_bos_token_is_finetuned(
    model_type: str, save_checkpoint: SaveCheckpoint, workplace: Path
) -> None:
    save_checkpoint(Path("checkpoint"), model_type, "t5", "AutoModelForSeq2SeqLM")
    config = json.loads(Path("checkpoint/config.json").read_text())
    for name in ("bos_token_id", "decoder_start_token_id"):
        config.pop(name, None)
    Path("checkpoint/config.json").write_text(json.dumps(config))
    assert finetune("task=summarization", "trainer.max_steps=1", "data.demo_rows=20") == 0


def test_dropout_is_set_by_the_names_of_each_architecture(save_checkpoint: SaveCheckpoint, tmp_path: Path) -> None:
    names = {
        "bert": "hidden_dropout_prob",
        "gpt2": "resid_pdrop",
        "distilbert": "seq_classif_dropout",
        "llama": "attention_dropout",
    }
    for model_type, name in names.items():
        config = transformers.AutoConfig.for_model(model_type)
        set_dropout(config, 0.25)
        assert getattr(config, name) == 0.25, model_type
        before = transformers.AutoConfig.for_model(model_type)
        kept = transformers.AutoConfig.for_model(model_type)
        set_dropout(kept, 0.0)
        assert kept.to_dict() == before.to_dict()
    with pytest.raises(ModelError, match="has no dropout"):
        set_dropout(transformers.AutoConfig.for_model("mamba"), 0.25)


# New tokens, missing rows, and stretched positions


def run_words(*words: str) -> list[str]:
    return ["stage=finetune", "model.path=checkpoint", *SMOKE, "data.demo_rows=20", *words]


@pytest.mark.parametrize("adapter", [[], ["adapter=lora", "adapter.rank=2"]], ids=["full", "lora"])
def test_added_tokens_start_as_the_mean_of_their_pieces_and_are_saved(
    adapter: list[str], save_checkpoint: SaveCheckpoint, workplace: Path
) -> None:
    processor = save_checkpoint(Path("checkpoint"), "llama", "gpt", "AutoModelForCausalLM", dtype=torch.bfloat16)
    tokens = [f"<tool{number}>" for number in range(20)]
    Path("tokens.txt").write_text("\n".join([*tokens, tokens[0], ""]), encoding="utf-8")
    pieces = processor.tokenizer(tokens[3], add_special_tokens=False)["input_ids"]
    before = load_file("checkpoint/model.safetensors")["model.embed_tokens.weight"].float()
    words = run_words(
        "task=causal_lm", "model.add_tokens=tokens.txt", *adapter, "optim.lr=1e-12", "optim.weight_decay=0"
    )
    assert main([*words, "hydra.run.dir=run"]) == 0
    tokenizer = transformers.AutoTokenizer.from_pretrained("run/model")
    (index,) = tokenizer(tokens[3], add_special_tokens=False)["input_ids"]
    model = transformers.AutoModelForCausalLM.from_pretrained("run/model", dtype=torch.float32)
    rows = model.get_input_embeddings().weight
    assert index < len(rows) == model.config.vocab_size and len(pieces) > 1
    torch.testing.assert_close(rows[index], before[pieces].mean(0), rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(rows[5], before[5], rtol=1e-2, atol=1e-3)
    again = ["stage=evaluate", "task=causal_lm", "model.path=run/model", "trainer=smoke", "data.demo_rows=20", "data.context=96", "data.max_lost=1"]  # fmt: skip
    assert main([*again, "trainer.threads=1", "trainer.baselines=false", "hydra.run.dir=again"]) == 0
    assert scores_of("again")["test"] == pytest.approx(scores_of("run")["test"], rel=1e-6)


def test_a_tokenizer_that_is_larger_than_the_embeddings_is_refused_or_given_rows(
    save_checkpoint: SaveCheckpoint, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    processor = save_checkpoint(Path("checkpoint"), "bert", "bert")
    processor.tokenizer.add_tokens([f"<new{number}>" for number in range(40)])
    processor.save(Path("checkpoint"))
    words = run_words("task=classification", "trainer.max_steps=1")
    assert main([*words, "hydra.run.dir=refused"]) == 4
    assert "model.resize_embeddings=true adds the missing rows" in capsys.readouterr().err
    assert main([*words, "model.resize_embeddings=true", "hydra.run.dir=run"]) == 0
    assert len(load_file("run/model/model.safetensors")["bert.embeddings.word_embeddings.weight"]) >= len(processor)


def test_rope_scaling_stretches_the_context_as_transformers_does(
    save_checkpoint: SaveCheckpoint, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(Path("checkpoint"), "llama", "gpt", "AutoModelForCausalLM")
    words = run_words("task=causal_lm", "data.context=256", "trainer.max_steps=1")
    assert main([*words, "hydra.run.dir=short"]) == 4  # 160 positions
    assert main([*words, "model.rope_scaling=yarn", "model.rope_factor=2", "hydra.run.dir=run"]) == 0
    config = json.loads(Path("run/model/config.json").read_text())
    assert config["max_position_embeddings"] == 320
    assert config["rope_parameters"] | {"rope_theta": 0} == {
        "rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 160, "rope_theta": 0,
    }  # fmt: skip
    save_checkpoint(Path("checkpoint"), "gpt2", "gpt", "AutoModelForCausalLM")
    capsys.readouterr()
    assert main([*words, "data.context=96", "model.rope_scaling=linear", "hydra.run.dir=none"]) == 4
    assert "a model of type gpt2 has no rotary positions" in capsys.readouterr().err


def test_an_adapter_from_elsewhere_is_loaded_with_its_base_and_refused_without(
    save_checkpoint: SaveCheckpoint, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peft = pytest.importorskip("peft")
    save_checkpoint(Path("base"), "llama", "gpt", "AutoModelForCausalLM")
    model = transformers.AutoModelForCausalLM.from_pretrained("base")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", base_model_name_or_path="base")
    peft.get_peft_model(model, config).save_pretrained("adapter")
    assert not Path("adapter/config.json").exists()
    words = [
        "stage=evaluate",
        "task=causal_lm",
        "trainer=smoke",
        "data.demo_rows=20",
        "data.context=96",
        "data.max_lost=1",
    ]
    words += ["trainer.threads=1", "trainer.baselines=false"]
    assert main([*words, "model.path=adapter", "hydra.run.dir=one"]) == 0
    assert main([*words, "model.path=base", "hydra.run.dir=two"]) == 0
    assert scores_of("one")["test"] == pytest.approx(scores_of("two")["test"], rel=1e-6)  # it starts as zero
    capsys.readouterr()
    shutil.move("base", "moved")
    assert main([*words, "model.path=adapter", "hydra.run.dir=three"]) == 4
    error = capsys.readouterr().err
    assert "is an adapter for the model base, which is not here" in error and "base_model_name_or_path" in error
