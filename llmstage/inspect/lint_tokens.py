"""Checks of encoded examples: doubled start tokens, answers without an end token, unknown tokens, texts that decoding
changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from llmstage.config import RunConfig
from llmstage.data.encoding.store import ExampleStore
from llmstage.errors import DataError
from llmstage.inspect.findings import Finding, graded
from llmstage.inspect.lint import LintRow
from llmstage.tokenization.chat_template import Conversation, TemplateRefused, chat_template, stop_ids, text_of
from llmstage.tokenization.rendered_conversation import is_rendered
from llmstage.tokenization.tokenizer import Processor
from llmstage.training.components import RunComponents
from llmstage.training.reading_notes import left_out_rows, unread_keys

MAX_TOKENS_AFTER_END = 3
"""Tokens that may follow the end token in a learned answer, e.g. the line break of a chat template."""
MAX_ROUND_TRIPS = 2000
"""Texts of a split that are encoded and decoded again."""


def check_examples(run: RunConfig, components: RunComponents, rows: Mapping[str, list[LintRow]]) -> Iterator[Finding]:
    """Check the example stores of all splits, as training and scoring read them."""
    processor = components.processor
    for split, store in components.stores.items():
        yield from check_ledger(run, components, split, store)
        yield check_doubled_start(components, split, store)
        if "target" in store.arrays:
            yield from check_targets(components, split, store)
        unknown = processor.tokenizer.unk_token_id
        if unknown is not None:
            input_ids = store.arrays["input_ids"]
            count = int((np.asarray(input_ids) == unknown).sum())
            yield graded(
                "unknown",
                split,
                [],
                len(input_ids),
                major=0.05,
                min_share=0.001,
                count=count,
                remedy="a tokenizer that covers the language: another model.path, or a preset from scratch",
            )
        if split in rows:
            yield check_round_trips(processor, split, rows[split])
            if rows[split] and "messages" in rows[split][0].row:
                yield check_templates(run, processor, split, rows[split])


def check_reading(components: RunComponents) -> Iterator[Finding]:
    """Report the keys of conversations that nothing reads, and the rows that are left out."""
    if "messages" not in components.task.columns.required:
        return
    unread = unread_keys(components)
    keys = ", ".join(f"{key} ({count:,})" for key, count in sorted(unread.items()))
    yield Finding(
        "unread", "minor" if unread else "ok", "", len(unread), 0, [], {"keys": keys or "–"},
        "nothing, if they say nothing about what is learned; data.columns.<name>=<column> names a column of the task",
    )  # fmt: skip
    for reason, count in left_out_rows(components).items():
        yield Finding("left_out", "minor", "", count, 0, [], {"reason": reason}, "nothing, if this is as meant")


def check_ledger(run: RunConfig, components: RunComponents, split: str, store: ExampleStore) -> Iterator[Finding]:
    """Report cut tokens from the ledger. Training stops where more targets than data.max_lost are lost."""
    ledger = store.ledger
    stops = ledger.lost_target_share > run.data.max_lost
    level = "major" if stops else "minor" if ledger.lost_targets else "ok"
    yield Finding(
        "lost_targets", level, split, ledger.lost_targets, ledger.lost_targets + ledger.target_tokens, [],
        {"ends": f"{ledger.lost_ends:,}"},
        f"data.context={2 * components.context}, or accept it with data.max_lost={min(1.0, ledger.lost_target_share * 1.05):.3f}", stops=stops,
    )  # fmt: skip
    other_cut_tokens = max(0, ledger.cut_tokens - ledger.lost_targets)
    yield graded(
        "cut",
        split,
        [],
        ledger.tokens + other_cut_tokens,
        major=0.5,
        min_share=0.01,
        count=other_cut_tokens,
        context=components.context,
        remedy=f"data.context={2 * components.context}",
    )


def check_doubled_start(components: RunComponents, split: str, store: ExampleStore) -> Finding:
    """Find examples that begin with two start tokens: the template writes one and the tokenizer adds another."""
    bos_id, input_ids, offsets = (
        components.processor.bos_id,
        store.arrays["input_ids"],
        np.asarray(store.offsets["input_ids"]),
    )
    first_positions = offsets[:-1][store.lengths > 1]
    doubled = (
        np.flatnonzero(
            (np.asarray(input_ids)[first_positions] == bos_id) & (np.asarray(input_ids)[first_positions + 1] == bos_id)
        )
        if bos_id is not None and len(first_positions)
        else np.zeros(0, dtype=np.int64)
    )
    examples = np.flatnonzero(store.lengths > 1)[doubled]
    return graded(
        "double_bos",
        split,
        row_locations(split, store, examples),
        len(store),
        major=0.0,
        remedy="save the tokenizer without add_bos_token, or its chat_template without bos_token",
    )


def check_targets(components: RunComponents, split: str, store: ExampleStore) -> Iterator[Finding]:
    """Check that every learned span of an example has an end token near its end."""
    ends = sorted(end_tokens(components))
    unended, without_targets, num_answers = [], [], 0
    for number in range(len(store)):
        span = slice(*(int(edge) for edge in store.offsets["input_ids"][number : number + 2]))
        ids, learned = np.asarray(store.arrays["input_ids"][span]), np.asarray(store.arrays["target"][span]) > 0
        if not learned.any():
            without_targets.append(number)
            continue
        # Edges of the learned spans: 1 at a start, -1 after an end.
        edges = np.flatnonzero(np.diff(np.r_[0, learned.astype(np.int8), 0]))
        for start, stop in zip(edges[::2], edges[1::2], strict=True):
            num_answers += 1
            if not np.isin(ids[max(start, stop - 1 - MAX_TOKENS_AFTER_END) : stop], ends).any():
                unended.append(number)
    locations = row_locations(split, store, np.array(unended, dtype=np.int64))
    yield graded(
        "no_end",
        split,
        locations,
        num_answers,
        major=0.01,
        count=len(unended),
        remedy=f"data.context={2 * components.context} where answers are cut; else a chat template that closes the assistant's turn, or a tokenizer with an end token",
    )
    yield graded(
        "no_targets",
        split,
        row_locations(split, store, np.array(without_targets, dtype=np.int64)),
        len(store),
        major=0.2,
        remedy=f"data.context={2 * components.context}, or leave these rows out",
    )


def end_tokens(components: RunComponents) -> set[int]:
    """Return the tokens at which generation stops (models/build.py: set_generation)."""
    return set(stop_ids(components.processor))


def row_locations(split: str, store: ExampleStore, examples: np.ndarray) -> list[str]:
    """Return the rows of the first examples as locations."""
    return [f"{split} row {int(store.rows[number]) + 1}" for number in dict.fromkeys(examples[:500].tolist())][:100]


def check_round_trips(processor: Processor, split: str, split_rows: Sequence[LintRow]) -> Finding:
    """Find texts that decoding changes: the tokenizer lowercases, drops accents, or does not know characters."""
    tested = [row for row in split_rows[:MAX_ROUND_TRIPS] if row.text]
    encoded = processor.plain_ids([row.text for row in tested])
    changed = [
        (row, decoded_text)
        for row, ids in zip(tested, encoded, strict=True)
        if (decoded_text := decoded(processor, ids)) != row.text and decoded_text.strip() != row.text.strip()
    ]
    text_before, text_after = first_difference(changed[0][0].text, changed[0][1]) if changed else ("…", "…")
    finding = graded(
        "round_trip",
        split,
        [row.location for row, _ in changed],
        len(tested),
        major=2.0,
        before=repr(text_before),
        after=repr(text_after),
        remedy="nothing, if the model reads lower case only; else a tokenizer that keeps the text",
    )
    return finding


def decoded(processor: Processor, ids: Sequence[int]) -> str:
    """Decode with special tokens, so that template tokens and unknown tokens are visible."""
    return str(processor.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def first_difference(first: str, second: str) -> tuple[str, str]:
    """Return the surroundings of the first difference of two texts."""
    index = next(
        (index for index, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )
    return first[max(0, index - 8) : index + 8], second[max(0, index - 8) : index + 8]


def check_templates(run: RunConfig, processor: Processor, split: str, split_rows: Sequence[LintRow]) -> Finding:
    """Find conversations with a text that the chat template does not write as it is, e.g. because it trims white space."""
    locations = []
    tested = [row for row in split_rows[: MAX_ROUND_TRIPS // 4] if not is_rendered(row.row["messages"])]
    for row in tested:
        conversation = conversation_of(run, row.row)
        text = rendered(processor, conversation)
        if not all(text_of(message.get("content") or "") in text for message in conversation.messages):
            locations.append(row.location)
    return graded(
        "template",
        split,
        locations,
        len(tested),
        major=2.0,
        remedy="nothing, if the model was made this way; else a chat template that writes contents unchanged",
    )


def conversation_of(run: RunConfig, row: dict[str, Any]) -> Conversation:
    """Return the conversation of a row, with the configured system message where it has none."""
    system, messages = getattr(run.task, "system", None), row["messages"]
    if system and messages[0]["role"] != "system" and not is_rendered(messages):
        messages = [{"role": "system", "content": system}, *messages]
    return Conversation(messages, row.get("tools") or None, row.get("chat_template_kwargs") or None)


def rendered(processor: Processor, conversation: Conversation) -> str:
    """Return the rendered chat template, without white space at the ends."""
    if is_rendered(conversation.messages):
        return str(conversation.messages[0]["content"]).strip()
    try:
        return chat_template(processor).text(conversation).strip()
    except TemplateRefused as error:
        raise DataError(str(error)) from None
