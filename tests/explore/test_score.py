"""Scores of items against the forward and generate of transformers, and by laws."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmstage.config import ModelConfig
from llmstage.explore.items import Item
from llmstage.explore.probed_model import ProbedModel, untrained
from llmstage.explore.probes import generate
from llmstage.explore.score import NUMBERS, edit_similarity, score_items
from llmstage.explore.score_cache import ScoreCache
from llmstage.models.build import build_model
from llmstage.tokenization.tokenizer import train_processor

AUTO = {"gpt": "AutoModelForCausalLM", "t5": "AutoModelForSeq2SeqLM", "bert": "AutoModelForMaskedLM"}


def sharp(model: Any) -> Any:
    """Random weights made larger, so that the likeliest token depends on the text."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return model


def tiny_model(model_family: str = "gpt", *, chat: bool = False, texts: list[str] | None = None) -> ProbedModel:
    torch.manual_seed(0)
    items = [item for name in ("copying", "addition", "negation") for item in generate(name, 6, 0)]
    processor = train_processor(texts or [item.prompt + item.right for item in items], 400, model_family, 256)
    cfg = ModelConfig(
        family=model_family,  # type: ignore[arg-type]
        num_hidden_layers=2, hidden_size=32, num_attention_heads=2, intermediate_size=64,
    )  # fmt: skip
    model = sharp(build_model(cfg, AUTO[model_family], processor, 256, {}, None, offline=True))
    return ProbedModel("tiny", model, processor, model_family, 256, chat)


@pytest.fixture(scope="module")
def gpt() -> ProbedModel:
    return tiny_model()


def free(*answers: str, prompt: str = "copy: a b =") -> Item:
    return Item("a", "f", prompt, answer=answers[0], answers=list(answers[1:]))


def many() -> list[Item]:
    return [item for name in ("copying", "addition", "modular", "brackets") for item in generate(name, 12, 1)]


def split_ids(of: ProbedModel, prompt: str, answer: str) -> tuple[list[int], list[int]]:
    """As TemplateLM._encode_pair and HFLM(add_bos_token=True) of lm-evaluation-harness: tokenize prompt and answer together,
    and split after the length of the prompt."""
    tokenizer = of.processor.tokenizer
    together, before = tokenizer(prompt + answer)["input_ids"], tokenizer(prompt)["input_ids"]
    return before, together[len(before) :]


@torch.no_grad()
def plain_log_probs(of: ProbedModel, before: list[int], after: list[int]) -> torch.Tensor:
    logits = of.model(torch.tensor([before + after])).logits[0].double().log_softmax(-1)
    return logits[len(before) - 1 : -1].gather(1, torch.tensor(after)[:, None]).squeeze(1)


def test_log_likelihoods_are_those_of_the_harness(gpt: ProbedModel):
    """loglikelihood, its sum, is_greedy, acc, and acc by bytes, from a plain forward."""
    for item in [item for item in generate("negation", 6, 0) if item.choices] + generate("image_caption", 3, 0):
        [scores] = score_items(gpt, [item])
        from llmstage.explore.items import as_text

        sums = []
        for choice in item.choices:
            sums.append(float(plain_log_probs(gpt, *split_ids(gpt, as_text(item), choice)).sum()))
        assert scores["logp"] == pytest.approx(sums[item.label or 0], abs=1e-3)
        assert scores["acc"] == float(int(np.argmax(sums)) == item.label)
        by_byte = [value / len(choice.encode()) for value, choice in zip(sums, item.choices, strict=True)]
        assert scores["acc_bytes"] == float(int(np.argmax(by_byte)) == item.label)
        assert scores["p"] == pytest.approx(torch.tensor(sums).softmax(0).tolist(), abs=1e-4)
        start = gpt.processor.bos_id
        alone = [
            float(plain_log_probs(gpt, [start], split_ids(gpt, as_text(item), choice)[1]).sum())
            for choice in item.choices
        ]
        pmi = [with_prompt - without for with_prompt, without in zip(sums, alone, strict=True)]
        assert scores["acc_pmi"] == float(int(np.argmax(pmi)) == item.label)


@pytest.mark.parametrize(
    ("model_family", "number"), [("gpt", 24), ("t5", 12), pytest.param("gpt", 500, marks=pytest.mark.slow)]
)
def test_exact_match_by_teacher_forcing_is_that_of_greedy_text(model_family: str, number: int):
    """Also for right answers: those are the texts that greedy decoding wrote."""
    of = tiny_model(model_family)
    items = [item for item in generate("copying", number // 8, 1) if not item.choices][:number]
    written = score_items(of, items, generate="all", max_new_tokens=12, end="auto")
    right = [
        Item(f"r{n}", "f", item.prompt, answer=scores["text"])
        for n, (item, scores) in enumerate(zip(items, written, strict=True))
        if scores["text"]
    ]
    results = score_items(of, items + right, generate="all", max_new_tokens=12)
    for scores in results:
        if scores["em"]:
            assert scores["ted"] == 1 and scores["rank"] == 1 and scores["tok"] == 1
    by_greedy = [greedy(of, item) for item in items + right]
    assert [scores["em"] for scores in results] == by_greedy
    assert 0 < sum(by_greedy) < len(by_greedy) or model_family == "t5"


@torch.no_grad()
def greedy(of: ProbedModel, item: Item) -> float:
    """By transformers' generate, token by token."""
    from llmstage.explore.prompts import ItemEncoder

    [encoded] = ItemEncoder(of).encode([item])
    answer = encoded.answers[0]
    out = of.model.generate(
        torch.tensor([encoded.prompt]), max_new_tokens=len(answer), do_sample=False, eos_token_id=None, pad_token_id=0
    )[0].tolist()  # fmt: skip
    new = out[1:] if of.model_family == "t5" else out[len(encoded.prompt) :]
    return float(new[: len(answer)] == answer)


def test_pass_over_all_answers_sums_to_one_at_most(gpt: ProbedModel):
    """Followed by the end, answers exclude each other; these are all texts of up to two letters, some are prefixes of others."""
    texts = [a + b for a in "abcdefgh" for b in ["", *"abcdefgh"]]
    results = score_items(gpt, [free(text) for text in texts])
    total = sum(scores["pass"] for scores in results)
    assert 0 < total <= 1 + 1e-6
    [together] = score_items(gpt, [free(*texts)])
    assert together["pass"] == pytest.approx(total, rel=1e-4)
    assert together["logp"] == pytest.approx(math.log(total), abs=1e-4)
    assert together["em"] == max(scores["em"] for scores in results)


def test_the_brier_score_of_the_prior():
    """A model that gives the same shares q to every item scores 1 - sum of q squared, if answers are drawn by q."""
    from llmstage.explore.score import choice_numbers

    q = np.array([0.5, 0.3, 0.2])
    values = [choice_numbers(Item("a", "f", "", choices=["x", "y", "z"], label=k), np.log(q), None) for k in range(3)]
    brier = [scores["brier"] for scores in values]
    assert sum(share * value for share, value in zip(q, brier, strict=True)) == pytest.approx(1 - (q**2).sum())
    assert values[1]["p_choices"] == pytest.approx(0.3) and values[1]["rank"] == 2


def test_edit_similarity_on_known_pairs():
    assert edit_similarity([1, 2, 3], [1, 2, 3]) == 1 and edit_similarity([], []) == 1
    assert edit_similarity(list(b"kitten"), list(b"sitting")) == pytest.approx(1 - 3 / 7)  # Levenshtein's example


def test_per_token_and_byte_and_the_token_share(gpt: ProbedModel):
    [scores] = score_items(gpt, [free(" 中文")], end="none")
    before, after = split_ids(gpt, "copy: a b =", " 中文")
    values = plain_log_probs(gpt, before, after)
    assert scores["logp_per_token"] == pytest.approx(float(values.mean()), abs=1e-4)
    assert scores["logp_per_byte"] == pytest.approx(float(values.sum()) / len(" 中文".encode()), abs=1e-4)
    assert scores["num_tokens"] == len(after)


def test_the_end_is_what_is_asked_for(gpt: ProbedModel):
    sizes = {end: score_items(gpt, [free("a")], end=end)[0]["num_tokens"] for end in ("auto", "eos", "newline", "none")}
    assert sizes == {"auto": 2, "eos": 2, "newline": 2, "none": 1}
    logs = {end: score_items(gpt, [free("a")], end=end)[0]["logp"] for end in ("eos", "newline", "none")}
    assert len(set(logs.values())) == 3


def test_a_chat_model_reads_a_turn_and_must_end_its_reply(gpt: ProbedModel):
    talker = ProbedModel("chat", gpt.model, gpt.processor, "gpt", 256, True)
    [plain], [chat] = score_items(gpt, [free(" a")]), score_items(talker, [free(" a")])
    asked = "<|bos|><|user|>copy: a b =<|end|><|assistant|>"
    before, after = talker.processor.markup_ids(asked), talker.processor.markup_ids("a<|end|>")
    assert chat["logp"] == pytest.approx(float(plain_log_probs(talker, before, after).sum()), abs=1e-3)
    assert chat["logp"] != pytest.approx(plain["logp"], abs=1e-3)


def test_encoder_decoders_are_scored_as_by_their_forward():
    of = tiny_model("t5")
    item = Item("a", "f", "copy: a b =", choices=["a b", "b", "b a"], label=0)
    [scores] = score_items(of, [item])
    ids = of.processor
    with torch.no_grad():
        sums = []
        for choice in item.choices:
            target = ids.plain_ids([choice])[0]
            out = of.model(
                input_ids=torch.tensor([ids.plain_ids([item.prompt])[0] + [ids.eos_id]]),
                labels=torch.tensor([target]),
            )
            sums.append(-float(out.loss) * len(target))
    assert scores["p"] == pytest.approx(torch.tensor(sums).softmax(0).tolist(), abs=1e-4)
    assert scores["logp"] == pytest.approx(sums[0], abs=1e-3)


def test_masked_models_mask_each_token_in_turn_and_have_no_exact_match():
    of = tiny_model("bert")
    item = Item("a", "f", "copy: a b =", choices=[" a b", " b"], label=0)
    [scores] = score_items(of, [item])
    ids = of.processor
    before, after = ids.special_ids()
    answer = ids.plain_ids([item.prompt + " a b"])[0][len(ids.plain_ids([item.prompt])[0]) :]
    total = 0.0
    with torch.no_grad():
        for at, token in enumerate(answer):
            row = before + ids.plain_ids([item.prompt])[0] + answer + after
            position = len(before) + len(ids.plain_ids([item.prompt])[0]) + at
            row[position] = ids.tokenizer.mask_token_id
            total += float(of.model(torch.tensor([row])).logits[0, position].log_softmax(-1)[token])
    assert scores["logp"] == pytest.approx(total, abs=1e-3)
    assert scores["em"] is None and scores["pass"] is None and scores["acc"] in (0.0, 1.0)


def test_items_that_cannot_be_scored_have_a_reason(gpt: ProbedModel):
    long = free("x", prompt="copy: " + "a " * 400 + "=")
    with_image = Item("b", "f", "What?", answer="x", image="photo.png")
    results = score_items(gpt, [long, with_image, free("x")])
    assert "more than the model's 256" in results[0]["unscored"]
    assert "reads text alone" in results[1]["unscored"]
    assert results[2]["unscored"] is None and results[0].get("logp") is None


def test_an_answer_that_the_tokenizer_cannot_write_has_a_reason():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from llmstage.tokenization.tokenizer import Processor

    words = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "copy": 2, "a": 3, "b": 4}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    processor = Processor(PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>"))
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=5, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    )
    of = ProbedModel("words", model.eval(), processor, "gpt", 64, False)
    known, strange = score_items(of, [free(" b", prompt="copy a"), free(" 中", prompt="copy a")])
    assert known["unscored"] is None
    assert "cannot be written: the tokenizer has no token" in strange["unscored"]


def test_text_is_generated_for_free_answers_only(gpt: ProbedModel):
    items = [free("a"), Item("b", "f", "copy: c =", answer="c", free=True)]
    usual = score_items(gpt, items, max_new_tokens=4)
    assert usual[0].get("text") is None and usual[1]["text"] is not None and 0 <= usual[1]["ted"] <= 1
    assert usual[1]["chrf"] is not None
    every, none = (score_items(gpt, items, generate=how, max_new_tokens=4) for how in ("all", "none"))
    assert all(scores["text"] is not None for scores in every) and all(scores.get("text") is None for scores in none)
    assert every[1]["em"] == none[1]["em"]


def test_batches_and_neighbours_do_not_change_a_score(gpt: ProbedModel):
    items = many()[:40]
    together, small = score_items(gpt, items), score_items(gpt, items, batch_tokens=40)
    for scores, other_scores in zip(together, small, strict=True):
        assert scores["logp"] == pytest.approx(other_scores["logp"], abs=1e-3)
    assert all(set(NUMBERS) <= set(scores) for scores in together)


def test_scores_are_cached_for_the_same_model_and_options_only(
    gpt: ProbedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    items = many()[:10]
    first = score_items(gpt, items, cache=ScoreCache(tmp_path))
    again = ScoreCache(tmp_path)
    monkeypatch.setattr("llmstage.explore.score.fresh_scores", refuse)
    assert score_items(gpt, items, cache=again) == first and again.hits == 10
    with pytest.raises(AssertionError, match="scored again"):
        score_items(untrained(gpt, 1), items, cache=ScoreCache(tmp_path))  # other weights
    with pytest.raises(AssertionError, match="scored again"):
        score_items(gpt, items, end="none", cache=ScoreCache(tmp_path))  # another option
    with pytest.raises(AssertionError, match="scored again"):
        score_items(gpt, [free("another")], cache=ScoreCache(tmp_path))


def refuse(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("scored again")


def test_a_vision_model_reads_the_image(tiny_task: Callable[..., Any]):
    task = tiny_task("captioning", "vlm", context=256)
    seeing = ProbedModel("vlm", sharp(task.model()), task.processor, "vlm", 256, True)
    red, blue = (
        Item("a", "f", "Which colour?", choices=["red", "blue"], label=0, image=f"demo:48:circle.{colour}.large.1.1.12")
        for colour in ("red", "blue")
    )
    results = score_items(
        seeing, [red, blue, Item("c", "f", "Which colour?", choices=["red", "blue"], label=0)], pmi=False
    )
    assert all(scores["unscored"] is None for scores in results)
    assert len({round(scores["logp"], 4) for scores in results}) == 3  # two images, and none
