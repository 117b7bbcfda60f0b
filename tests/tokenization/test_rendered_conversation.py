"""Rendered texts give the ids of their text, and the same learned positions as the messages from which they were rendered.

The texts and ids are those of transformers' apply_chat_template; what is learned is written by hand in chat_templates.py.
"""

from __future__ import annotations

import pytest

from llmstage.tokenization.chat_template import Conversation, TemplateRefused, encode_conversations
from llmstage.tokenization.rendered_conversation import fit_rendered, parse_rendered, rendered_prompt, turn_marks
from llmstage.tokenization.tokenizer import Processor
from tests.tokenization.chat_templates import CASES, CHATML, PROMPT, SYSTEM, TALK, Case, conversations
from tests.tokenization.test_chat_template import expected
from tests.tokenization.tokenizers_of_each_kind import tokenizer_of

PLAIN = ("space_before_content", "prompt_ends_with_space", "no_end_but_lines")
"""Templates whose marks are plain text."""
KINDS = ("byte_level", "metaspace_always", "prepend_normalizer")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_rendered_text_is_learned_as_its_messages_are(case: Case) -> None:
    for kind in KINDS:
        tokenizer = tokenizer_of(kind, case.template)
        processor = Processor(tokenizer)
        if case.name in PLAIN:
            with pytest.raises(TemplateRefused, match="which is plain text"):
                turn_marks(processor)
            continue
        for messages, tools in conversations(case):
            ids, learned, text = expected(tokenizer, case, messages, tools)
            parsed = parse_rendered(processor, text)
            assert parsed.encoded.ids == ids, kind
            positions = [number for number, target in enumerate(parsed.encoded.target) if target]
            wanted = [position for reply in learned for position in reply]
            if case.per_turn:  # earlier replies are in the text as they are rewritten
                wanted = [position for position in wanted if position >= learned[-1][0]] if learned else []
                positions = positions[-len(wanted) :] if wanted else []
            assert positions == wanted, (kind, text)
            answers = [message for message in parsed.messages if message["role"] == "assistant"]
            assert len(answers) == sum(message["role"] == "assistant" for message in messages)


def test_the_messages_are_those_that_were_rendered() -> None:
    processor = Processor(tokenizer_of("byte_level", CHATML + PROMPT))
    messages = [SYSTEM, *TALK]
    parsed = parse_rendered(processor, str(processor.tokenizer.apply_chat_template(messages, tokenize=False)))
    assert parsed.messages == messages


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Where is order 12? On its way.", "the text has no '<|start|>assistant', with which the chat template opens"),
        ("<|start|>user\nhi<|stop|>\n<|start|>assistant\n", "nothing follows '<|start|>assistant'"),
        (
            "<|start|>user\na<|stop|>\n<|start|>assistant\nb\n<|start|>user\nc<|stop|>\n<|start|>assistant\nd<|stop|>",
            "reply 1 of the text is not ended by </s> or <|stop|>",
        ),
        ("<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>", "the text has no '<|start|>assistant'"),
    ],
)
def test_a_text_without_the_marks_is_refused_with_the_reason(text: str, reason: str) -> None:
    processor = Processor(tokenizer_of("byte_level", CHATML + PROMPT))
    with pytest.raises(TemplateRefused) as error:
        parse_rendered(processor, text)
    assert reason in str(error.value)


def test_the_prompt_of_a_rendered_text_is_that_of_inference() -> None:
    """Checked against apply_chat_template(add_generation_prompt=True)."""
    processor = Processor(tokenizer_of("byte_level", CHATML + PROMPT))
    tokenizer = processor.tokenizer
    for messages in (TALK, TALK[:3]):
        wanted = tokenizer.apply_chat_template(TALK[:3], add_generation_prompt=True, return_dict=False)
        for with_prompt in (False, True):
            text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=with_prompt))
            if messages is TALK and with_prompt:
                continue
            assert rendered_prompt(processor, text, 999) == wanted
    assert rendered_prompt(processor, text, 5) == wanted[-5:]


def test_a_long_rendered_text_becomes_windows_in_which_each_reply_is_learned_once() -> None:
    processor = Processor(tokenizer_of("byte_level", CHATML + PROMPT))
    messages = [SYSTEM, *TALK, *TALK, *TALK]
    text = str(processor.tokenizer.apply_chat_template(messages, tokenize=False))
    (from_messages,) = encode_conversations(processor, [Conversation(messages)])
    assert not isinstance(from_messages, TemplateRefused)
    for changed in (text, text.replace("On its way.<|stop|>\n", "On its way.<|stop|> ")):
        parsed = parse_rendered(processor, changed)
        windows, _ = fit_rendered(processor, parsed, 60)
        assert len(windows) > 1 and all(len(window.ids) <= 60 for window in windows)
        assert sum(sum(window.target) for window in windows) == sum(from_messages[0].target)
        assert [reply.message for window in windows for reply in window.replies] == [2, 4, 6, 8, 10, 12]
        for window in windows:
            for reply in window.replies:
                written = processor.tokenizer.decode(window.ids[reply.start : reply.stop])
                assert written == messages[reply.message]["content"] + "<|stop|>"
