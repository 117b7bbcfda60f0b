"""The greedy loop writes what transformers' generate() writes, and losses of encoder-decoders are transformers' own."""

from __future__ import annotations

import pytest
import torch
import transformers

from llmstage.config import GenerationConfig, ModelConfig
from llmstage.kernels.llama_decode import LlamaStepper, stepper_body
from llmstage.kernels.prompt_batch import PromptBatch, prefixes_agree, prompt_hosts
from llmstage.models import continuous_batching, generation
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
    batches = prompt_batches([30, 5, 90, 10, 6, 7], range(6), 10)
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
    assert stepper_body(model, 64) is model.base_model
    wanted = generate_replies(model, processor, prompts(), cfg)
    if not lean:
        monkeypatch.setattr(generation, "stepper_body", lambda model, longest: None)
    stepped = []
    monkeypatch.setattr(
        LlamaStepper, "take", lambda self, tokens, take=LlamaStepper.take: stepped.append(1) or take(self, tokens)
    )
    assert generate_replies(model, processor, prompts(), cfg) == wanted
    assert bool(stepped) is lean
    model.split_head = False
    assert stepper_body(model, 64) is None
    model.split_head = True


def test_the_lean_way_in_bf16_is_as_near_to_fp32_as_autocast(made):
    model, _ = made["gpt"]
    model.split_head = True
    ids, mask = padded(prompts(6), 0, left=True)
    found = []
    for bf16, make in ((False, Stepper), (True, Stepper), (True, LlamaStepper)):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            batch = PromptBatch.of(ids, mask)
            stepper = make(model, batch) if make is Stepper else make(model, model.base_model, batch, 4)
            stepper.logits()
            for token in (9, 17, 33):
                stepper.take(torch.full((6,), token))
                logits = stepper.logits()
            found.append(logits.float())
    plain, lean = ((part - found[0]).norm() / found[0].norm() for part in found[1:])
    assert lean < 1.5 * plain + 1e-3, f"{lean:.4f} against {plain:.4f}"


DECODERS = {
    "grouped": ("LlamaConfig", {"num_key_value_heads": 2, "attention_bias": True}),
    "mistral": ("MistralConfig", {"num_key_value_heads": 1, "sliding_window": 40, "head_dim": 16}),
    "qwen2": ("Qwen2Config", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {"num_key_value_heads": 2, "head_dim": 16}),
    "gpt_neox": ("GPTNeoXConfig", {}),
    "gemma2": ("Gemma2Config", {"num_key_value_heads": 2, "head_dim": 16, "sliding_window": 8}),
}


def decoder(name, **changes):
    """A random model of a family that people bring, with biases and norms unlike those of a new model."""
    config_class, keys = DECODERS[name]
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = getattr(transformers, config_class)(
        vocab_size=300,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.3,
        **sizes,
        **{**keys, **changes},
    )
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 0.5, 0.2)
    model.split_head = head_is_plain(model)
    return model


def conversation_prompts():
    """Prompts of three conversations, of which each begins with the one before, in no order."""
    torch.manual_seed(1)
    ids = [torch.randint(3, 300, (length,)).tolist() for length in (21, 17, 9)]
    return [ids[0][:5], ids[1], ids[0], ids[1][:11], ids[0][:13], ids[2], ids[1][:11]]


def generated_by_transformers(model, told, new_tokens):
    """generate() of each prompt alone."""
    texts = []
    for ids in told:
        out = model.generate(torch.tensor([ids]), max_new_tokens=new_tokens, do_sample=False)
        texts.append(cut_at_end(out[0, len(ids) :].tolist(), end_ids(model))[0])
    return texts


@pytest.mark.parametrize("name", DECODERS)
def test_families_write_what_generate_writes_from_prompts_that_are_read_once(name, made, monkeypatch):
    """Against transformers' own generate(), one prompt at a time."""
    model, (_, processor) = decoder(name), made["gpt"]
    stepped = stepper_body(model, 33) is not None
    assert stepped is (name not in ("gpt_neox", "gemma2"))
    read = []
    monkeypatch.setattr(
        PromptBatch,
        "last_hidden",
        lambda self, *args, last=PromptBatch.last_hidden: read.append(len(self.ids)) or last(self, *args),
    )
    wanted = [processor.decode(ids) for ids in generated_by_transformers(model, conversation_prompts(), 12)]
    replies = generate_replies(model, processor, conversation_prompts(), GenerationConfig(max_new_tokens=12))
    assert [text for text, _ in replies] == wanted
    if name == "gemma2":
        assert read == [], "its logits are capped, and its cache has windows"
    elif name != "mistral":
        assert read[-1] == 3, "seven prompts begin three conversations"


@pytest.mark.parametrize("name", ["grouped", "mistral", "qwen2", "qwen3"])
def test_a_batch_that_rows_join_writes_what_generate_writes(name, made):
    model = decoder(name)
    told = conversation_prompts()[:3]
    batch = continuous_batching.start_batch(model, 0, slots=4, longest=40)
    assert isinstance(batch, continuous_batching.SlotBatch)
    written = [[], [], []]
    with torch.no_grad():
        batch.join(told[:1])
        for step in range(10):
            if step == 2:
                batch.join(told[1:])
            tokens = batch.logits().argmax(-1)
            for row, token in enumerate(tokens.tolist()):
                written[row].append(token)
            batch.take(tokens)
    wanted = generated_by_transformers(model, told, 8)
    assert [
        cut_at_end(ids, end_ids(model))[0][: len(reply)] for ids, reply in zip(written, wanted, strict=True)
    ] == wanted


def test_a_text_longer_than_a_window_goes_through_the_plain_forward():
    model = decoder("mistral")
    assert stepper_body(model, 40) is not None and stepper_body(model, 41) is None
    assert stepper_body(decoder("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=0), 41) is None


def test_hosts_are_the_longest_prompts_that_begin_alike():
    assert prompt_hosts([[1, 2], [1, 2, 3], [2], [1, 2, 3, 4], [1, 3], [1, 2]]) == [3, 3, 2, 3, 4, 3]
    assert prompt_hosts([[5], [5]]) in ([0, 0], [1, 1]) and prompt_hosts([]) == []


def test_models_that_see_what_follows_read_each_prompt_alone():
    assert prefixes_agree(decoder("grouped")) and not prefixes_agree(decoder("gemma2"))
    both_ways = transformers.BertLMHeadModel(
        transformers.BertConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=2,
            vocab_size=300,
            is_decoder=False,
        )
    )
    assert not prefixes_agree(both_ways.eval())
