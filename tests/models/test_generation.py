"""The greedy loop writes what transformers' generate() writes, and losses of encoder-decoders are transformers' own."""

from __future__ import annotations

import pytest
import torch
import transformers

from llmstage.config import GenerationConfig, ModelConfig
from llmstage.kernels.llama_decode import LlamaStepper, stepper_body
from llmstage.models import generation
from llmstage.models.build import build_model, head_is_plain, set_generation
from llmstage.models.generation import (
    Stepper,
    cut_at_end,
    end_ids,
    generate_replies,
    padded,
    prompt_batches,
    searched_ids,
)
from llmstage.models.lm_loss import start_id, token_losses
from llmstage.tasks.base import IGNORE_INDEX
from llmstage.tokenization.tokenizer import train_processor

pytestmark = pytest.mark.lowest

HEAD = {"gpt": "AutoModelForCausalLM", "t5": "AutoModelForSeq2SeqLM"}
SMALL = {"d_model": 32, "vocab_size": 300, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


@pytest.fixture(scope="module")
def made():
    """Models whose text varies with the prompt, made by untrained weights pulled apart."""

    def make(kind):
        processor = train_processor(["water and fire 水火 123"] * 5, 300, kind, 64)
        torch.manual_seed(3)
        cfg = ModelConfig(family=kind, num_hidden_layers=2, hidden_size=32, num_attention_heads=2, intermediate_size=64)
        model = build_model(cfg, HEAD[kind], processor, 64, {}, None, offline=True)
        return model, processor

    return {kind: make(kind) for kind in HEAD}


def bart():
    torch.manual_seed(0)
    config = transformers.BartConfig(
        encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=48,
        decoder_ffn_dim=48, max_position_embeddings=64, decoder_start_token_id=2, **SMALL,
    )  # fmt: skip
    return transformers.BartForConditionalGeneration(config).eval()


def t5(**changes):
    torch.manual_seed(0)
    config = transformers.T5Config(
        d_kv=16, d_ff=48, num_layers=1, num_heads=2, decoder_start_token_id=0, **SMALL, **changes
    )
    return transformers.T5ForConditionalGeneration(config).eval()


def prompts(count=20):
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(8, 270, (3 + number % 7,), generator=generator).tolist() for number in range(count)]


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("kind", HEAD)
def test_greedy_text_is_that_of_generate_one_by_one(kind, split, made):
    model, processor = made[kind]
    model.split_head = split
    told = prompts()
    cfg = GenerationConfig(max_new_tokens=24)
    with torch.no_grad():
        own = end_ids(model)
        free = [searched_ids(model, processor, *padded([ids], 0, left=True), own, cfg)[0] for ids in told]
    # Tokens that come up in the middle of texts become end tokens, so that rows leave at different times.
    ends = own | set(sorted({ids[(3 + number % 12) % len(ids)] for number, ids in enumerate(free[::3])})[:4])
    model.generation_config.eos_token_id = sorted(ends)
    ended = [cut_at_end(ids, ends) for ids in free]
    assert len({len(ids) for ids, _ in ended}) > 2, "rows must end at different places for this test to say something"
    assert generate_replies(model, processor, told, cfg) == [(processor.decode(ids), done) for ids, done in ended]
    model.generation_config.eos_token_id = sorted(own)
    model.split_head = True


def test_greedy_by_a_model_of_another_family(made):
    model, processor = bart(), made["t5"][1]
    cfg = GenerationConfig(max_new_tokens=8)
    with torch.no_grad():
        wanted = [searched_ids(model, processor, *padded([ids], 0, left=False), {2}, cfg)[0] for ids in prompts(6)]
    model.generation_config.eos_token_id = 2
    replies = generate_replies(model, processor, prompts(6), cfg)
    assert [text for text, _ in replies] == [processor.decode(cut_at_end(ids, {2})[0]) for ids in wanted]


def test_beams_search_and_the_length_penalty_counts(made):
    model, processor = made["t5"]
    model.generation_config.eos_token_id = list(range(8, 60))

    def lengths(**options):
        cfg = GenerationConfig(max_new_tokens=20, **options)
        return sum(len(text) for text, _ in generate_replies(model, processor, prompts(), cfg))

    assert lengths(num_beams=4, length_penalty=-2.0) < lengths(num_beams=4, length_penalty=6.0)
    set_generation(model, processor)


def test_batches_are_sorted_and_within_the_budget(monkeypatch):
    monkeypatch.setattr(generation, "MAX_BATCH_TOKENS", 100)
    batches = prompt_batches([30, 5, 90, 10, 6, 7], 10)
    assert sorted(index for batch in batches for index in batch) == list(range(6))
    assert batches == [[1, 4, 5, 3], [0], [2]]


@pytest.mark.parametrize(
    ("model", "plain"),
    [(t5(), False), (t5(tie_word_embeddings=False, feed_forward_proj="gated-gelu"), True), (bart(), True)],
    ids=["t5 of 2020, whose logits are scaled", "t5 v1.1", "bart"],
)
def test_losses_of_an_encoder_decoder_are_those_of_transformers(model, plain):
    assert head_is_plain(model) is plain
    model.split_head = plain
    torch.manual_seed(1)
    source, target = torch.randint(3, 300, (3, 7)), torch.randint(3, 300, (3, 5))
    mask = torch.ones_like(source)
    mask[1, 4:] = 0
    target[2, 3:] = IGNORE_INDEX
    ours = torch.cat([torch.full((3, 1), IGNORE_INDEX), target], 1)
    inputs = {"input_ids": source, "attention_mask": mask}
    with torch.no_grad():
        losses = token_losses(model, inputs, ours, IGNORE_INDEX)
        theirs = model(**inputs, labels=target).loss
    assert float(losses.nll.mean()) == pytest.approx(float(theirs), rel=1e-5)
    assert ours.reshape(-1)[losses.where].tolist() == target[target != IGNORE_INDEX].tolist()
    smooth = token_losses(model, inputs, ours, IGNORE_INDEX, 0.1).nll
    logits = model(**inputs, labels=target).logits[target != IGNORE_INDEX]
    spread = -logits.log_softmax(-1).mean(-1)
    torch.testing.assert_close(smooth, 0.9 * losses.nll + 0.1 * spread, rtol=1e-4, atol=1e-5)


def test_the_start_token_is_the_models_own():
    assert (start_id(t5()), start_id(bart())) == (0, 2)
    assert end_ids(bart()) == {2}


@pytest.mark.parametrize("lean", [True, False])
def test_a_plain_llama_is_stepped_by_the_lean_way_and_writes_the_same(lean, made, monkeypatch):
    """Also with rows that leave early; and under bf16 autocast it rounds where the plain way rounds."""
    model, processor = made["gpt"]
    model.split_head = True
    cfg = GenerationConfig(max_new_tokens=12)
    assert stepper_body(model) is model.base_model
    wanted = generate_replies(model, processor, prompts(), cfg)
    if not lean:
        monkeypatch.setattr(generation, "stepper_body", lambda model: None)
    stepped = []
    monkeypatch.setattr(
        LlamaStepper, "take", lambda self, tokens, take=LlamaStepper.take: stepped.append(1) or take(self, tokens)
    )
    assert generate_replies(model, processor, prompts(), cfg) == wanted
    assert bool(stepped) is lean
    model.split_head = False
    assert stepper_body(model) is None
    model.split_head = True


def test_the_lean_way_in_bf16_is_as_near_to_fp32_as_autocast(made):
    model, _ = made["gpt"]
    model.split_head = True
    ids, mask = padded(prompts(6), 0, left=True)
    found = []
    for bf16, make in ((False, Stepper), (True, Stepper), (True, LlamaStepper)):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            stepper = make(model, ids, mask, {}) if make is Stepper else make(model, model.base_model, ids, mask, {}, 4)
            stepper.logits()
            for token in (9, 17, 33):
                stepper.take(torch.full((6,), token))
                logits = stepper.logits()
            found.append(logits.float())
    plain, lean = ((part - found[0]).norm() / found[0].norm() for part in found[1:])
    assert lean < 1.5 * plain + 1e-3, f"{lean:.4f} against {plain:.4f}"
