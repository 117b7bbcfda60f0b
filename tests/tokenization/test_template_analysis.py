"""Which chat templates provably write every content as it is."""

from __future__ import annotations

import pytest

from llmstage.tokenization.template_analysis import writes_contents_verbatim
from llmstage.tokenization.template_rendering import PLAIN_TEMPLATE
from llmstage.tokenization.tokenizer import CHAT_TEMPLATE
from tests.tokenization.chat_templates import CASES, CHATML, PROMPT

PROVEN = {
    "default_system", "space_before_content", "prompt_ends_with_space", "end_and_end_of_text", "last_turn_closed_differently",
    "only_earlier_turns_closed", "no_end", "no_end_but_lines", "no_generation_prompt", "prompt_opens_thinking", "date",
}  # fmt: skip
LOOP = "{% for m in messages %}{{ m['role'] + m['content'] }}%s{% endfor %}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_template_that_uses_contents_otherwise_is_not_proven(case):
    assert writes_contents_verbatim(case.template) is (case.name in PROVEN)


def test_our_templates_are_proven():
    assert writes_contents_verbatim(CHAT_TEMPLATE) and writes_contents_verbatim(PLAIN_TEMPLATE)


@pytest.mark.parametrize(
    "code",
    [
        "{% if 'x' in m['content'] %}y{% endif %}",
        "{{ m.content | length }}",
        "{{ (m['role'] + m['content']) | trim }}",
        "{{ m.content[0] }}",
        "{% set text = m['content'] %}{{ text }}",
        "{% set m = messages[0] %}",
        "{{ m | tojson }}",
        "{{ messages | tojson }}",
        "{{ messages[-1].content.strip() }}",
        "{% if loop.nextitem is defined %}{% if loop.nextitem.content == 'a' %}b{% endif %}{% endif %}",
        "{% for k, v in m.items() %}{{ v }}{% endfor %}",
        "{% for m in [1] %}{{ m }}{% endfor %}",
        "{% set x %}{{ m.content }}{% endset %}{{ x | upper }}",
        "{{ m['con' + 'tent'] | upper }}",
        "{{ 'a' if m['content'] else 'b' }}",
        "{% macro f(x) %}{{ x }}{% endmacro %}{{ f(m.content) }}",
        "{% filter upper %}{{ m.content }}{% endfilter %}",
        "{{ m['content'] * 2 }}",
        "{{ raise_exception(m['content']) }}",
    ],
)
def test_code_that_uses_a_content_is_seen(code):
    assert writes_contents_verbatim(LOOP.replace("%s", ""))
    assert not writes_contents_verbatim(LOOP.replace("%s", code))


def test_what_does_not_depend_on_contents_is_no_obstacle():
    code = "{% if m.role == 'user' and not loop.last and messages | length > 2 and messages[0]['role'] != 'x' %}y{% endif %}"
    assert writes_contents_verbatim(LOOP.replace("%s", code)) and writes_contents_verbatim(CHATML + PROMPT)
