"""What is wrong with features: marks said twice, answers that never end, tokens that are not known, texts that come back
changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from llmstage.config import RunConfig
from llmstage.data.encoding.store import ExampleStore
from llmstage.errors import DataError
from llmstage.inspect.findings import Finding, graded
from llmstage.inspect.lint import Seen
from llmstage.tokenization.chat_template import TemplateRefused, conversation, text_of
from llmstage.tokenization.tokenizer import END, Processor
from llmstage.training.setup import RunComponents

AFTER_END = 3
"""Tokens that may follow the end token in a learned answer, e.g. the line break of a template."""
ROUND_TRIPS = 2000
"""Texts of a split that are decoded again."""


def check_features(run: RunConfig, pieces: RunComponents, rows: Mapping[str, list[Seen]]) -> Iterator[Finding]:
    """The stores of all splits, as training and scoring read them."""
    processor = pieces.processor
    for split, store in pieces.stores.items():
        yield from counted(run, pieces, split, store)
        yield doubled_start(pieces, split, store)
        if "target" in store.arrays:
            yield from targets(pieces, split, store)
        unknown = processor.tokenizer.unk_token_id
        if unknown is not None:
            flat = store.arrays["input_ids"]
            count = int((np.asarray(flat) == unknown).sum())
            yield graded(
                "unknown",
                split,
                [],
                len(flat),
                major=0.05,
                least=0.001,
                count=count,
                mend="a tokenizer that knows the language: another model.path, or a preset from scratch",
            )
        if split in rows:
            yield round_trips(processor, split, rows[split])
            if rows[split] and "messages" in rows[split][0].row:
                yield templates(run, processor, split, rows[split])


def counted(run: RunConfig, pieces: RunComponents, split: str, store: ExampleStore) -> Iterator[Finding]:
    """What the ledger says of cut tokens; more lost targets than data.max_lost stop a training."""
    ledger = store.ledger
    stops = ledger.lost_target_share > run.data.max_lost
    level = "major" if stops else "minor" if ledger.lost_targets else "ok"
    yield Finding(
        "lost_targets", level, split, ledger.lost_targets, ledger.lost_targets + ledger.target_tokens, [],
        {"ends": f"{ledger.lost_ends:,}"},
        f"data.context={2 * pieces.context}, or accept it with data.max_lost={min(1.0, ledger.lost_target_share * 1.05):.3f}", stops=stops,
    )  # fmt: skip
    others = max(0, ledger.cut_tokens - ledger.lost_targets)
    yield graded(
        "cut",
        split,
        [],
        ledger.tokens + others,
        major=0.5,
        least=0.01,
        count=others,
        context=pieces.context,
        mend=f"data.context={2 * pieces.context}",
    )


def doubled_start(pieces: RunComponents, split: str, store: ExampleStore) -> Finding:
    """Two start tokens in a row at the beginning: a template that writes one and a tokenizer that adds another."""
    start, flat, at = pieces.processor.bos_id, store.arrays["input_ids"], np.asarray(store.offsets["input_ids"])
    first = at[:-1][store.lengths > 1]
    wrong = (
        np.flatnonzero((np.asarray(flat)[first] == start) & (np.asarray(flat)[first + 1] == start))
        if start is not None and len(first)
        else np.zeros(0, dtype=np.int64)
    )
    features = np.flatnonzero(store.lengths > 1)[wrong]
    return graded(
        "double_bos",
        split,
        row_names(split, store, features),
        len(store),
        major=0.0,
        mend="save the tokenizer without add_bos_token, or its chat_template without bos_token",
    )


def targets(pieces: RunComponents, split: str, store: ExampleStore) -> Iterator[Finding]:
    """Learned stretches of a feature, each of which must hold an end token near its own end."""
    ends = sorted(end_tokens(pieces))
    wrong, bare, answers = [], [], 0
    for number in range(len(store)):
        where = slice(*(int(edge) for edge in store.offsets["input_ids"][number : number + 2]))
        ids, learned = np.asarray(store.arrays["input_ids"][where]), np.asarray(store.arrays["target"][where]) > 0
        if not learned.any():
            bare.append(number)
            continue
        edges = np.flatnonzero(np.diff(np.r_[0, learned.astype(np.int8), 0]))
        for start, stop in zip(edges[::2], edges[1::2], strict=True):
            answers += 1
            if not np.isin(ids[max(start, stop - 1 - AFTER_END) : stop], ends).any():
                wrong.append(number)
    places = row_names(split, store, np.array(wrong, dtype=np.int64))
    yield graded(
        "no_end",
        split,
        places,
        answers,
        major=0.01,
        count=len(wrong),
        mend=f"data.context={2 * pieces.context} where answers are cut; else a chat template that closes the assistant's turn, or a tokenizer with an end token",
    )
    yield graded(
        "no_targets",
        split,
        row_names(split, store, np.array(bare, dtype=np.int64)),
        len(store),
        major=0.2,
        mend=f"data.context={2 * pieces.context}, or leave these rows out",
    )


def end_tokens(pieces: RunComponents) -> set[int]:
    """Tokens at which generation stops (models/build.py: set_generation)."""
    processor = pieces.processor
    known: set[Any] = {processor.eos_id}
    if END in processor.tokenizer.get_added_vocab():
        known.add(processor.tokenizer.convert_tokens_to_ids(END))
    folder = pieces.place.model_dir if pieces.place is not None else None
    if folder is not None and (folder / "generation_config.json").is_file():
        from transformers import GenerationConfig

        told = GenerationConfig.from_pretrained(folder).eos_token_id
        known |= set(told if isinstance(told, list) else [told])
    return {int(end) for end in known if end is not None}


def row_names(split: str, store: ExampleStore, features: np.ndarray) -> list[str]:
    return [f"{split} row {int(store.rows[number]) + 1}" for number in dict.fromkeys(features[:500].tolist())][:100]


def round_trips(processor: Processor, split: str, seen: Sequence[Seen]) -> Finding:
    """Whether the tokenizer gives a text back: not where it lower-cases, drops accents, or does not know characters."""
    chosen = [one for one in seen[:ROUND_TRIPS] if one.text]
    coded = processor.plain_ids([one.text for one in chosen])
    changed = [
        (one, back)
        for one, ids in zip(chosen, coded, strict=True)
        if (back := decoded(processor, ids)) != one.text and back.strip() != one.text.strip()
    ]
    before, after = first_difference(changed[0][0].text, changed[0][1]) if changed else ("…", "…")
    found = graded(
        "round_trip",
        split,
        [one.place for one, _ in changed],
        len(chosen),
        major=2.0,
        before=repr(before),
        after=repr(after),
        mend="nothing, if the model reads lower case only; else a tokenizer that keeps the text",
    )
    return found


def decoded(processor: Processor, ids: Sequence[int]) -> str:
    """With special tokens, in which a template's marks and unknown tokens show."""
    return str(processor.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def first_difference(one: str, two: str) -> tuple[str, str]:
    at = next((at for at, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
    return one[max(0, at - 8) : at + 8], two[max(0, at - 8) : at + 8]


def templates(run: RunConfig, processor: Processor, split: str, seen: Sequence[Seen]) -> Finding:
    """Conversations laid out turn by turn, as training lays them, against the template as a whole."""
    places, chosen = [], seen[: ROUND_TRIPS // 4]
    for one in chosen:
        laid, whole = rendered(processor, with_system(run, one.row["messages"]))
        if laid != whole:
            places.append(one.place)
    return graded(
        "template",
        split,
        places,
        len(chosen),
        major=0.01,
        mend="a chat template that writes contents as they are, without trimming them",
    )


def with_system(run: RunConfig, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    system = getattr(run.task, "system", None)
    return (
        [{"role": "system", "content": system}, *messages] if system and messages[0]["role"] != "system" else messages
    )


def rendered(processor: Processor, messages: list[dict[str, Any]]) -> tuple[str, str]:
    """(what is learned from, decoded; what the chat template renders), without white space at the ends."""
    try:
        turns = conversation(processor, messages)
    except TemplateRefused as error:
        raise DataError(str(error)) from None
    laid = decoded(processor, [token for turn in turns for token in (*turn.before, *turn.content, *turn.after)])
    plain = [{"role": turn["role"], "content": text_of(turn["content"])} for turn in messages]
    return laid.strip(), str(processor.tokenizer.apply_chat_template(plain, tokenize=False)).strip()
