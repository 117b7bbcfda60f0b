"""Run the reductions of stage.reduce on one model: skills, information, layers, heads."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from llmstage.config import RunConfig
from llmstage.config.explore import Explore
from llmstage.explore.findings import Findings
from llmstage.explore.items import Item
from llmstage.explore.probed_model import ProbedModel, load_probed_model
from llmstage.explore.probing import gather
from llmstage.explore.prompts import ItemEncoder
from llmstage.explore.score import score_items
from llmstage.explore.score_cache import ScoreCache
from llmstage.models.build import count_parameters
from llmstage.paths import cache_dir
from llmstage.research.reduction.attention_heads import score_heads
from llmstage.research.reduction.information import joint_distribution, partial_information
from llmstage.research.reduction.layers import additive_shares_by_layer, answer_layer, hidden_states, logit_lens
from llmstage.research.reduction.skills import compose
from llmstage.research.wording import named, sentence
from llmstage.training.machine import Machine, scoring_precision

MAX_PARAMETERS = 50_000_000
"""Largest model whose heads are scored with stage.reduce.heads=auto."""
MIN_ITEMS = 30
"""Fewest items of a family for a result."""
PROMPTS = 200
HEAD_ROWS, HEAD_LENGTH, MIN_PERIOD, MAX_PERIOD = 16, 64, 10, 30
"""Rows, length and period of the repeated random tokens on which heads are scored."""
PROJECTIONS = ("o_proj", "c_proj", "dense", "out_proj")
ATTENTIONS = ("self_attn", "attn", "attention")
"""Names that transformers' decoders give to attention, and to the module that reads its concatenated heads."""


def reduce_model(cfg: RunConfig, machine: Machine, above_chance: Collection[str]) -> Findings:
    """Run every reduction of stage.reduce on the model of model.path and the items of its probes.

    Only families in `above_chance` are used: a score at chance has no parts to be explained by.
    """
    stage = cfg.stage
    assert isinstance(stage, Explore) and cfg.model.path
    requested = stage.reduce
    probed = load_probed_model(cfg.model.path, offline=cfg.offline, device=machine.device, form=stage.scoring.form)
    items = gather(stage.probes, stage.phenomena, stage.items_per_cell, cfg.seed)
    items = [
        item for item in items if item.probe_family.partition(".")[0] in above_chance
    ]  # copying.symbol is a part of copying
    findings = Findings("reduction", {"families": sorted(above_chance)})
    if not items:
        findings.limits.append(sentence("nothing_to_explain"))
    if requested.skills or requested.info:
        scores = score_items(
            probed, items, end=stage.scoring.end, generate="none", batch_tokens=cfg.trainer.eval_batch_tokens,
            precision=partial(machine.autocast, scoring_precision(cfg.trainer)), cache=ScoreCache(cache_dir(cfg.data.cache)),
        )  # fmt: skip
        correct = {
            item.id: score.get("acc" if item.choices else "em") for item, score in zip(items, scores, strict=True)
        }
        if requested.skills:
            add_skills(findings, items, correct, cfg.seed)
        if requested.info:
            add_information(findings, items, correct)
    if probed.model_family != "gpt":
        findings.limits.append(sentence("decoders_only", kind=probed.model_family))
        return findings
    if requested.lens or requested.additive:
        add_layers(findings, probed, items, cfg.seed, lens=requested.lens, additive=requested.additive)
    add_heads(findings, probed, requested.heads, cfg.seed)
    return findings


def by_family(items: Sequence[Item]) -> dict[str, list[Item]]:
    """Group items by their probe family."""
    grouped: dict[str, list[Item]] = {}
    for item in items:
        grouped.setdefault(item.probe_family, []).append(item)
    return grouped


def add_skills(findings: Findings, items: Sequence[Item], correct: dict[str, float | None], seed: int) -> None:
    """Compare composite items with the product of their parts, a family at a time."""
    block = {}
    for name, family_items in by_family(items).items():
        with_parts = [
            item
            for item in family_items
            if item.parts and all(correct.get(item_id) is not None for item_id in (item.id, *item.parts))
        ]
        if len(with_parts) < MIN_ITEMS:
            continue
        composition = compose(
            [correct[item.id] or 0.0 for item in with_parts],
            [[correct[item_id] or 0.0 for item_id in item.parts] for item in with_parts],
            seed=seed,
        )
        block[name] = composition.as_dict()
        findings.sentences.append(named(name, composition.text))
    findings.block["skills"] = block


def add_information(findings: Findings, items: Sequence[Item], correct: dict[str, float | None]) -> None:
    """Decompose the information that the first and the last part give about the composite item."""
    block = {}
    for name, family_items in by_family(items).items():
        rows = [
            (correct[item.parts[0]], correct[item.parts[-1]], correct[item.id])
            for item in family_items
            if len(item.parts) >= 2
            and all(correct.get(item_id) is not None for item_id in (item.id, item.parts[0], item.parts[-1]))
        ]
        if len(rows) < MIN_ITEMS:
            continue
        block[name] = partial_information(joint_distribution(rows))
        findings.sentences.append(sentence("information", family=name, num=len(rows), **block[name]))
    findings.block["information"] = block


def add_layers(
    findings: Findings, probed: ProbedModel, items: Sequence[Item], seed: int, *, lens: bool, additive: bool
) -> None:
    """Compute the logit lens and the additive share of each layer, a family at a time."""
    writer, block = ItemEncoder(probed, "none"), {}
    device = next(probed.model.parameters()).device
    for name, family_items in by_family(
        [item for item in items if not item.image and "." not in item.probe_family]
    ).items():
        encoded = [prompt for prompt in writer.encode(family_items[:PROMPTS]) if prompt.unscored is None]
        if len(encoded) < MIN_ITEMS:
            continue
        states = hidden_states(probed.model, [prompt.prompt for prompt in encoded], device)
        layers: dict[str, Any] = {}
        # The lens is read at the first token of the right answer.
        if lens:
            answers = [
                prompt.answers[item.label or 0]
                for item, prompt in zip(family_items, writer.encode(family_items[:PROMPTS]), strict=False)
                if prompt.unscored is None
            ]
            lines = logit_lens(probed.model, states, [answer[0] for answer in answers])
            if lines is None:
                findings.limits.append(sentence("no_lens_norm"))
            else:
                layers["lens"] = lines
                findings.sentences.append(
                    sentence(
                        "lens_of_answer", family=name, probability=lines[-1]["probability"], layer=answer_layer(lines),
                        layers=len(lines) - 1,
                    )
                )  # fmt: skip
        if additive:
            shares = additive_shares_by_layer(states, [prompt.prompt for prompt in encoded], seed)
            layers["additive"] = shares
            if shares:
                share, shuffled = max(0.0, shares[-1]["additive"]), shares[-1]["shuffled"]
                findings.sentences.append(sentence("words_explain", family=name, share=share, shuffled=shuffled))
        block[name] = layers
    findings.block["layers"] = block


def projections_of(model: Any) -> list[nn.Module] | None:
    """Return, for each layer, the module that reads the concatenated heads; None where it is not found by name."""
    layers = next((item for item in model.base_model.modules() if isinstance(item, nn.ModuleList)), None)
    projections = []
    for layer in layers or []:
        attention = next((module for name in ATTENTIONS if (module := getattr(layer, name, None)) is not None), None)
        out = next((module for name in PROJECTIONS if (module := getattr(attention, name, None)) is not None), None)
        if out is None:
            return None
        projections.append(out)
    return projections or None


def add_heads(findings: Findings, probed: ProbedModel, mode: str, seed: int) -> None:
    """Score previous-token and induction heads on repeated random tokens of the model's own vocabulary."""
    model = probed.model
    size = count_parameters(model)
    if mode == "off":
        return
    if mode == "auto" and size > MAX_PARAMETERS:
        findings.limits.append(sentence("heads_too_large", size=size))
        return
    projections = projections_of(model)
    if projections is None:
        findings.limits.append(sentence("heads_unnamed", model=type(model).__name__))
        return
    # Rows of random tokens that repeat with a period: copying is the only way to predict them.
    rng = np.random.default_rng(seed)
    special = set(probed.processor.tokenizer.all_special_ids)
    token_ids = np.array([token for token in range(len(probed.processor)) if token not in special])
    length = min(HEAD_LENGTH, probed.context)
    longest = min(MAX_PERIOD, length // 2, len(token_ids))
    period = torch.from_numpy(rng.integers(min(MIN_PERIOD, longest), longest + 1, HEAD_ROWS))
    ids = torch.stack(
        [
            torch.from_numpy(np.resize(rng.choice(token_ids, int(row_period), replace=False), length))
            for row_period in period
        ]
    )
    device = next(model.parameters()).device
    attention_implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")  # fused kernels return no attention patterns
    try:
        with torch.no_grad():
            out = model(input_ids=ids.to(device), output_attentions=True)
        patterns = [layer.float().cpu() for layer in out.attentions]
        heads = score_heads(
            lambda rows: model(input_ids=rows.to(device)).logits.float().cpu(), patterns, projections, ids, period
        )
    finally:
        model.set_attn_implementation(attention_implementation)
    # One sentence: the induction heads and what ablating them costs, or that there are none.
    findings.block["heads"] = heads.as_dict()
    group = heads.groups["induction"]
    chance = float(np.log(len(token_ids)))
    if group["heads"] and heads.groups["all"]["cost"] > 0:
        members = ", ".join(f"{layer}.{head}" for layer, head in group["heads"])
        layer, head = heads.previous_token_head
        findings.sentences.append(
            sentence(
                "induction_heads", loss=heads.loss, chance=chance, heads=members, share=group["share"],
                previous=f"{layer}.{head}", cost=heads.cost[layer, head],
            )
        )  # fmt: skip
    else:
        findings.sentences.append(
            sentence("no_induction_head", prefix=heads.prefix.max(), loss=heads.loss, chance=chance)
        )
