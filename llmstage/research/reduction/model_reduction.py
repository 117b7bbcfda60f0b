"""The reductions of one model: skills, words, layers, heads."""

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
from llmstage.explore.probed_model import Subject, load_subject
from llmstage.explore.probing import gather
from llmstage.explore.prompts import Writer
from llmstage.explore.score import score_items
from llmstage.explore.score_cache import Kept
from llmstage.explore.wording import named, say
from llmstage.models.build import count_parameters
from llmstage.paths import cache_dir
from llmstage.research.reduction.attention_heads import examine_heads
from llmstage.research.reduction.information import decomposition, joint_of
from llmstage.research.reduction.layers import answer_layer, hidden_states, logit_lens, shares_of_words
from llmstage.research.reduction.skills import compose
from llmstage.training.machine import Machine, scoring_precision

LARGEST = 50_000_000
"""Parameters up to which heads are looked at without being asked for."""
FEWEST = 30
"""Items of a family below which nothing is said of it."""
PROMPTS = 200
HEAD_ROWS, HEAD_LENGTH, SHORTEST, LONGEST = 16, 64, 10, 30
"""Repeated random tokens that heads are shown."""
PROJECTIONS = ("o_proj", "c_proj", "dense", "out_proj")
ATTENTIONS = ("self_attn", "attn", "attention")
"""Names that transformers' decoders give to attention and to the module that reads its heads side by side."""


def reduce_model(cfg: RunConfig, machine: Machine, able: Collection[str]) -> Findings:
    """Every reduction that stage.reduce asks for, on the model of model.path and the items of its probes; of the families in
    `able`, where it is above chance: a score that is chance has no parts to be explained by."""
    stage = cfg.stage
    assert isinstance(stage, Explore) and cfg.model.path
    wanted = stage.reduce
    subject = load_subject(cfg.model.path, offline=cfg.offline, device=machine.device, form=stage.scoring.form)
    items = gather(stage.probes, stage.phenomena, stage.items_per_cell, cfg.seed)
    items = [item for item in items if item.family.partition(".")[0] in able]  # copying.symbol: a part of copying
    found = Findings("reduction", {"families": sorted(able)})
    if not items:
        found.limits.append(say("nothing_to_explain"))
    if wanted.skills or wanted.info:
        scores = score_items(
            subject, items, end=stage.scoring.end, generate="none", batch_tokens=cfg.trainer.eval_batch_tokens,
            precision=partial(machine.autocast, scoring_precision(cfg.trainer)), kept=Kept(cache_dir(cfg.data.cache)),
        )  # fmt: skip
        right = {item.id: one.get("acc" if item.choices else "em") for item, one in zip(items, scores, strict=True)}
        if wanted.skills:
            add_skills(found, items, right, cfg.seed)
        if wanted.info:
            add_information(found, items, right)
    if subject.kind != "gpt":
        found.limits.append(say("decoders_only", kind=subject.kind))
        return found
    if wanted.lens or wanted.additive:
        add_layers(found, subject, items, cfg.seed, lens=wanted.lens, additive=wanted.additive)
    add_heads(found, subject, wanted.heads, cfg.seed)
    return found


def families(items: Sequence[Item]) -> dict[str, list[Item]]:
    out: dict[str, list[Item]] = {}
    for item in items:
        out.setdefault(item.family, []).append(item)
    return out


def add_skills(found: Findings, items: Sequence[Item], right: dict[str, float | None], seed: int) -> None:
    block = {}
    for name, own in families(items).items():
        known = [item for item in own if item.parts and all(right.get(at) is not None for at in (item.id, *item.parts))]
        if len(known) < FEWEST:
            continue
        made = compose(
            [right[item.id] or 0.0 for item in known],
            [[right[at] or 0.0 for at in item.parts] for item in known],
            seed=seed,
        )
        block[name] = made.as_dict()
        found.sentences.append(named(name, made.text))
    found.block["skills"] = block


def add_information(found: Findings, items: Sequence[Item], right: dict[str, float | None]) -> None:
    """What the outcomes of the first and the last part tell about the whole's."""
    block = {}
    for name, own in families(items).items():
        rows = [
            (right[item.parts[0]], right[item.parts[-1]], right[item.id])
            for item in own
            if len(item.parts) >= 2
            and all(right.get(at) is not None for at in (item.id, item.parts[0], item.parts[-1]))
        ]
        if len(rows) < FEWEST:
            continue
        block[name] = decomposition(joint_of(rows))
        found.sentences.append(say("information", family=name, num=len(rows), **block[name]))
    found.block["information"] = block


def add_layers(
    found: Findings, subject: Subject, items: Sequence[Item], seed: int, *, lens: bool, additive: bool
) -> None:
    """Logit lens and share of words, a family at a time."""
    writer, block = Writer(subject, "none"), {}
    device = next(subject.model.parameters()).device
    for name, own in families([item for item in items if not item.image and "." not in item.family]).items():
        encoded = [one for one in writer.write(own[:PROMPTS]) if one.unscored is None]
        if len(encoded) < FEWEST:
            continue
        states = hidden_states(subject.model, [one.prompt for one in encoded], device)
        told: dict[str, Any] = {}
        if lens:
            rights = [
                one.answers[item.label or 0]
                for item, one in zip(own, writer.write(own[:PROMPTS]), strict=False)
                if one.unscored is None
            ]
            lines = logit_lens(subject.model, states, [answer[0] for answer in rights])
            if lines is None:
                found.limits.append(say("no_lens_norm"))
            else:
                told["lens"] = lines
                found.sentences.append(
                    say(
                        "lens_of_answer", family=name, probability=lines[-1]["probability"], layer=answer_layer(lines),
                        layers=len(lines) - 1,
                    )
                )  # fmt: skip
        if additive:
            shares = shares_of_words(states, [one.prompt for one in encoded], seed)
            told["additive"] = shares
            if shares:
                share, shuffled = max(0.0, shares[-1]["additive"]), shares[-1]["shuffled"]
                found.sentences.append(say("words_explain", family=name, share=share, shuffled=shuffled))
        block[name] = told
    found.block["layers"] = block


def projections_of(model: Any) -> list[nn.Module] | None:
    """Of each layer, the module that reads the heads side by side; None where it is not found by name."""
    layers = next((item for item in model.base_model.modules() if isinstance(item, nn.ModuleList)), None)
    found = []
    for layer in layers or []:
        attention = next((module for name in ATTENTIONS if (module := getattr(layer, name, None)) is not None), None)
        out = next((module for name in PROJECTIONS if (module := getattr(attention, name, None)) is not None), None)
        if out is None:
            return None
        found.append(out)
    return found or None


def add_heads(found: Findings, subject: Subject, wanted: str, seed: int) -> None:
    """Previous-token and induction heads on repeated random tokens of the model's own vocabulary."""
    model = subject.model
    size = count_parameters(model)
    if wanted == "off":
        return
    if wanted == "auto" and size > LARGEST:
        found.limits.append(say("heads_too_large", size=size))
        return
    projections = projections_of(model)
    if projections is None:
        found.limits.append(say("heads_unnamed", model=type(model).__name__))
        return
    rng = np.random.default_rng(seed)
    special = set(subject.processor.tokenizer.all_special_ids)
    words = np.array([token for token in range(len(subject.processor)) if token not in special])
    length = min(HEAD_LENGTH, subject.context)
    longest = min(LONGEST, length // 2, len(words))
    period = torch.from_numpy(rng.integers(min(SHORTEST, longest), longest + 1, HEAD_ROWS))
    ids = torch.stack(
        [torch.from_numpy(np.resize(rng.choice(words, int(one), replace=False), length)) for one in period]
    )
    device = next(model.parameters()).device
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")  # the fused kernels do not tell where a head looks
    try:
        with torch.no_grad():
            out = model(input_ids=ids.to(device), output_attentions=True)
        patterns = [layer.float().cpu() for layer in out.attentions]
        heads = examine_heads(
            lambda rows: model(input_ids=rows.to(device)).logits.float().cpu(), patterns, projections, ids, period
        )
    finally:
        model.set_attn_implementation(before)
    found.block["heads"] = heads.as_dict()
    group = heads.groups["induction"]
    chance = float(np.log(len(words)))
    if group["heads"] and heads.groups["all"]["cost"] > 0:
        members = ", ".join(f"{layer}.{head}" for layer, head in group["heads"])
        layer, head = heads.previous_token_head
        found.sentences.append(
            say(
                "induction_heads", loss=heads.loss, chance=chance, heads=members, share=group["share"],
                previous=f"{layer}.{head}", cost=heads.cost[layer, head],
            )
        )  # fmt: skip
    else:
        found.sentences.append(say("no_induction_head", prefix=heads.prefix.max(), loss=heads.loss, chance=chance))
