"""A window of a long conversation is a conversation: the template renders it anew, and every reply is learned in exactly one."""

from __future__ import annotations

from typing import Any

import pytest

from llmstage.tokenization.chat_template import Conversation, encode_conversations
from llmstage.tokenization.context_windows import fit
from llmstage.tokenization.tokenizer import Processor
from tests.tokenization.chat_templates import CASES, SYSTEM, Case, Message
from tests.tokenization.tokenizers_of_each_kind import tokenizer_of

NAMES = (
    "default_system", "trimmed", "space_before_content", "system_in_first_question", "strict_alternation", "thinking",
    "last_turn_closed_differently", "no_end_but_lines", "generation_marks",
)  # fmt: skip


def long_talk(num_turns: int) -> list[Message]:
    texts = [("How is pump {}?", "It is fine, {}."), ("And unit {}, 阀门？", "坏了 {}。 Broken, see the belt of it.")]
    talk: list[Message] = []
    for number in range(num_turns):
        question, answer = texts[number % 2]
        talk += [
            {"role": "user", "content": question.format(number)},
            {"role": "assistant", "content": answer.format(number)},
        ]
    return talk


@pytest.mark.parametrize("kind", ["byte_level", "prepend_normalizer"])
@pytest.mark.parametrize("case", [case for case in CASES if case.name in NAMES], ids=lambda case: case.name)
@pytest.mark.parametrize("with_system", [False, True])
def test_every_window_is_a_rendering_within_the_context(case: Case, kind: str, with_system: bool):
    if with_system and not case.takes_system:
        pytest.skip("the template takes no system message")
    tokenizer = tokenizer_of(kind, case.template)
    processor = Processor(tokenizer)
    messages = [*([SYSTEM] if with_system else []), *long_talk(12)]
    conversation = Conversation(messages)
    (encoded,) = encode_conversations(processor, [conversation])
    assert isinstance(encoded, list)
    windows, uncovered = fit(processor, conversation, encoded, 260)
    assert len(windows) > 2 and uncovered == 0
    learned = sorted(reply.message for window in windows for reply in window.replies)
    assert learned == [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    for window in windows:
        front = [SYSTEM] if with_system and window.first > 0 else []
        part = front + messages[window.first : window.last + 1]
        ids: list[int] = tokenizer.apply_chat_template(part, return_dict=False)
        end = [tokenizer.eos_token_id] if case.end_appended else []
        assert window.ids == ids + end and len(window.ids) <= 260 and not window.cut
        assert part[len(front) or int(with_system)]["role"] == "user"
        for reply in window.replies:
            index = reply.message - window.first + len(front)
            written = case.written(part, index, index == len(part) - 1)
            text = tokenizer.decode([t for t, on in zip(window.ids, window.target, strict=True) if on])
            assert squeezed(written) in squeezed(text)
        if not case.per_turn:
            assert sum(window.target) == sum(reply.stop - reply.start for reply in window.replies)


def squeezed(text: str) -> str:
    return "".join(text.split())


def test_an_answer_that_is_too_long_keeps_eight_tokens_before_it():
    processor = Processor(tokenizer_of("byte_level", CASES[0].template))
    talk: list[Any] = [{"role": "user", "content": "why " * 50}, {"role": "assistant", "content": "because " * 100}]
    conversation = Conversation(talk)
    (encoded,) = encode_conversations(processor, [conversation])
    assert isinstance(encoded, list)
    ((window,), uncovered) = fit(processor, conversation, encoded, 64)
    assert len(window.ids) == 64 and window.replies[0].start == 8 and sum(window.target) == 56 and uncovered == 0
    assert window.cut == len(encoded[0].ids) - 64 and window.cut_targets == sum(encoded[0].target) - 56
